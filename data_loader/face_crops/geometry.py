"""From five landmarks to an upright face at a fixed place in the crop. Points are complex numbers x + iy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data_loader.face_crops.detector import Face

# Where YuNet puts eyes, nose and corners of the mouth in its box: means over 400 frontal faces with and without masks,
# made symmetric. Unit: the height of the box; origin: its centre.
TEMPLATE = np.array([-0.170 - 0.105j, 0.170 - 0.105j, 0.093j, -0.144 + 0.249j, 0.144 + 0.249j])
# Faces that were right had at most 0.15 and 11 degrees; patterns on cloth fit worse.
MOST_RESIDUAL = 0.2
MOST_TILT = 45.0


@dataclass(frozen=True)
class Pose:
    """A face's frame: centre and height in pixels, tilt in degrees (clockwise), and how badly the landmarks fit a face
    (root mean square distance, as a share of the height)."""

    center: complex
    height: float
    tilt: float
    residual: float


def pose_of(landmarks: Sequence[float]) -> Pose:
    """The similarity transform that carries the template onto the landmarks with least squares (Umeyama 1991).

    A face that is turned aside is narrower, but not lower: where the distance from eyes to mouth says that the face is
    larger, that counts.
    """
    points = np.array(landmarks, dtype=np.float64).view(np.complex128)
    spread, wanted = points - points.mean(), TEMPLATE - TEMPLATE.mean()
    turn = np.vdot(wanted, spread) / np.vdot(wanted, wanted).real
    size = max(abs(turn), 1e-6)
    residual = float(np.sqrt(np.mean(abs(spread - turn * wanted) ** 2)) / size)
    height = max(size, abs(_drop(points)) / abs(_drop(TEMPLATE)))
    center = points.mean() - turn / size * height * TEMPLATE.mean()
    return Pose(complex(center), float(height), float(np.degrees(np.angle(turn))), residual)


def _drop(points: np.ndarray) -> complex:
    """From between the eyes to the middle of the mouth."""
    return complex(points[3:].mean() - points[:2].mean())


def is_plausible(face: Face, shape: tuple[int, ...]) -> bool:
    """Whether the landmarks lie like those of a face, and its centre in the picture [height, width, …]."""
    pose = pose_of(face.landmarks)
    inside = 0 <= pose.center.real <= shape[1] and 0 <= pose.center.imag <= shape[0]
    return inside and pose.residual <= MOST_RESIDUAL and abs(pose.tilt) <= MOST_TILT


def choose_face(faces: Sequence[Face], shape: tuple[int, ...]) -> Face | None:
    """The largest plausible face, where one in a corner counts half of one in the centre; None if there is none."""
    middle = complex(shape[1], shape[0]) / 2

    def weight(face: Face) -> float:
        pose = pose_of(face.landmarks)
        return pose.height * (1 - abs(pose.center - middle) / abs(middle) / 2)

    return max((face for face in faces if is_plausible(face, shape)), key=weight, default=None)


def relative_height(face: Face, shape: tuple[int, ...]) -> float:
    """Height of the face as a share of the picture's shorter side."""
    return pose_of(face.landmarks).height / min(shape[:2])


def cut_face(image: np.ndarray, face: Face, size: tuple[int, int], margin: float) -> np.ndarray:
    """The upright face in the middle of [height, width, 3]; it takes 1 / (1 + 2 margin) of the height.

    Beyond the edges the last pixels are repeated: a mirrored picture would show a second face.
    """
    pose, (height, width) = pose_of(face.landmarks), size
    step = pose.height * (1 + 2 * margin) / height  # pixels of the picture per pixel of the crop
    shrunk, share = image, np.ones(2)
    if step > 1:  # warping alone would skip pixels
        goal = (max(1, round(image.shape[1] / step)), max(1, round(image.shape[0] / step)))
        shrunk = cv2.resize(image, goal, interpolation=cv2.INTER_AREA)
        share = np.array(goal) / (image.shape[1], image.shape[0])
    turn = step * np.exp(1j * np.radians(pose.tilt))
    corner = pose.center - turn * complex(width - 1, height - 1) / 2
    matrix = np.array([[turn.real, -turn.imag, corner.real], [turn.imag, turn.real, corner.imag]])
    matrix[:, 2] += 0.5  # pixel centres
    matrix *= share[:, None]
    matrix[:, 2] -= 0.5
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(shrunk, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)


def beyond(face: Face, shape: tuple[int, ...], size: tuple[int, int], margin: float) -> float:
    """Share of the crop that lies outside of the picture (tilt aside)."""
    pose = pose_of(face.landmarks)
    height = pose.height * (1 + 2 * margin)
    inside = 1.0
    for center, side, end in (
        (pose.center.imag, height, shape[0]),
        (pose.center.real, height * size[1] / size[0], shape[1]),
    ):
        inside *= max(0.0, min(center + side / 2, end) - max(center - side / 2, 0)) / side
    return 1 - inside


def cut_center(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest centred part of the picture with the crop's proportions, at its size [height, width, 3]."""
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    part = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (height - part[0]) // 2, (width - part[1]) // 2
    how = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return cv2.resize(image[top : top + part[0], left : left + part[1]], size[::-1], interpolation=how)
