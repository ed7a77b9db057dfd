"""Faces in a picture: what a detector returns, and YuNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError

SIDES = (320, 640)  # pictures are searched at this size; the larger one only if the smaller shows nothing
_OVERLAP = 0.3  # of two boxes that overlap more, the surer one stays (OpenCV's default)
_CANDIDATES = 5000
WHERE = "face_detection_yunet_*.onnx (230 KB) from github.com/opencv/opencv_zoo, models/face_detection_yunet"


@dataclass(frozen=True)
class Face:
    """In pixels of the picture. box: x, y, width, height. landmarks: x and y of the right eye (on the picture's left),
    left eye, nose tip, right and left corner of the mouth."""

    score: float
    box: tuple[float, ...]
    landmarks: tuple[float, ...]


Detector = Callable[[np.ndarray], list[Face]]  # uint8 [H, W, 3] BGR → the faces in it


class YuNet:
    """YuNet (Wu et al. 2023) from a local ONNX file. score: the least confidence of a face.

    Raises UserError if the file is missing or is no such model.
    """

    def __init__(self, file: Path, score: float):
        if not file.is_file():
            raise UserError(f"--detector {file}: no such file; get {WHERE}, and name it here")
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self.nets = {
                side: cv2.FaceDetectorYN.create(str(file), "", (side, side), score, _OVERLAP, _CANDIDATES)
                for side in SIDES
            }
            self(np.zeros((8, 8, 3), np.uint8))
        except cv2.error as error:
            size = file.stat().st_size
            raise UserError(f"--detector {file}: not a YuNet model ({size:,} bytes); get {WHERE}") from error
        finally:
            cv2.utils.logging.setLogLevel(level)

    def __call__(self, image: np.ndarray) -> list[Face]:
        return next((faces for side in SIDES if (faces := self._search(image, side))), [])

    def _search(self, image: np.ndarray, side: int) -> list[Face]:
        # Always the same input size: the network is prepared anew for another.
        height, width = image.shape[:2]
        scale = side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        square = np.zeros((side, side, 3), np.uint8)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        square[: size[1], : size[0]] = cv2.resize(image, size, interpolation=how)
        found = self.nets[side].detect(square)[1]
        if found is None:
            return []
        # Rounded as in the table, from which a crop can be cut again.
        pixels = np.round(np.asarray(found, np.float64)[:, :14] / scale, 2).tolist()
        return [Face(round(float(row[14]), 4), tuple(p[:4]), tuple(p[4:])) for row, p in zip(found, pixels)]
