"""`test.py --explain`: the images of the report as the network sees them, tinted by what speaks for its prediction."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from base.base_dataset import to_device
from base.scoring import Normalize
from data_loader.face_data import FaceData
from model.grad_cam import grad_cam

STRENGTH = 0.5  # of the tint where most speaks for the class


class Explainer:
    """For `report.write_report`: explains any of the scored rows of one model.

    data: through the model's evaluation view. rows: int64, in the label frame, of the scored images in their order.
    """

    def __init__(self, model: nn.Module, normalize: Normalize, data: FaceData, rows: np.ndarray):
        self.model, self.normalize, self.data, self.rows = model, normalize, data, rows
        self.at_once = data.config.data_loader.batch_size  # as in training, for this has gradients too

    def __call__(self, head: str, rows: np.ndarray, classes: np.ndarray) -> list[np.ndarray]:
        """RGB uint8 [H, W, 3] for each of `rows`, of the scored images, and its class int64. Raises UserError for
        networks that cannot be explained."""
        pictures: list[np.ndarray] = []
        for batch in self.data.batches_of(self.rows[rows]):
            images: Tensor = to_device(batch, self.data.device)["eval"]["image"]
            for part in images.split(self.at_once):
                wanted = torch.as_tensor(classes[len(pictures) : len(pictures) + len(part)], device=part.device)
                maps = grad_cam(self.model, self.normalize(part), head, wanted).cpu().numpy()
                pictures += [tinted(image, found) for image, found in zip(part.cpu().numpy(), maps, strict=True)]
        return pictures


def tinted(image: np.ndarray, found: np.ndarray) -> np.ndarray:
    """image: uint8 [H, W, 3]; found: float [h, w]; red where it is 1, with no more than a blue touch where it is 0."""
    size = (image.shape[1], image.shape[0])
    smooth = cv2.resize(found.astype(np.float32), size, interpolation=cv2.INTER_LINEAR).clip(0, 1)
    colour = cv2.cvtColor(cv2.applyColorMap((smooth * 255).astype(np.uint8), cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    share = STRENGTH * (0.3 + 0.7 * smooth[..., None])
    return (image * (1 - share) + colour * share).round().astype(np.uint8)
