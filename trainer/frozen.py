"""Training on the features of a backbone that does not train (`data_loader.feature_views`)."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from base.base_model import BaseModel
from base.scoring import Normalize
from base.speed import lay_out
from data_loader.face_data import FaceData
from data_loader.features import FeatureData
from utils.config import Config
from utils.distributed import World, wait_for_all
from utils.errors import ConfigError


def is_frozen(model: BaseModel) -> bool:
    """Whether the model has a backbone that no gradient reaches."""
    backbone = getattr(model, "backbone", None)
    return backbone is not None and not any(parameter.requires_grad for parameter in backbone.parameters())


def feature_data(
    config: Config,
    data: FaceData,
    model: BaseModel,
    normalize: Normalize,
    dtype: torch.dtype,
    world: World,
    tell: Callable[[str], None],
) -> FeatureData:
    """`data` with features in place of images. Raises ConfigError where they could not stand for the images."""
    views = config.data_loader.feature_views or 1
    where = config.where("data_loader.feature_views")
    if not is_frozen(model) or "images" not in inspect.signature(getattr(model, "features", lambda: 0)).parameters:
        raise ConfigError(
            f'{where}: needs a backbone that does not train: set arch.args.freeze to "backbone", or this to null'
        )
    if config.trainer.args.get("mix") not in (None, "none"):
        raise ConfigError(
            f"{where}: images cannot be mixed where only their features are there; set trainer.args.mix to null"
        )
    if views == 1 and len(data.dataset.views.get("unlabeled", ())) > 1:
        raise ConfigError(
            f"{where}: with 1 an image's weak and strong view are the same; give at least 2, or null to draw new views "
            "at every step"
        )
    device = data.device
    lay_out(model.to(device), torch.channels_last)

    def extract(images: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return model.features(normalize(images.to(device)))  # type: ignore[operator, no-any-return]

    folder = Path(config.trainer.save_dir) / ".cache" if config.data_loader.cache in ("auto", "disk") else None
    was_training = model.training
    model.eval()
    key = f"{_digest(model)} {normalize.mean.tolist()} {normalize.scale.tolist()} {dtype} {device.type}"
    if not world.is_main:
        wait_for_all()  # the main process computes, the others read what it wrote
    found = FeatureData(data, extract, views, key, folder, tell)
    if world.is_main:
        wait_for_all()
    model.train(was_training)
    return found


def _digest(model: BaseModel) -> str:
    """Of everything that the features depend on in the model."""
    digest = hashlib.sha256(str(model.backbone).encode())
    for name, tensor in model.backbone.state_dict().items():  # type: ignore[union-attr]
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
