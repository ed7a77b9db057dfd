"""From a file to the pixels that all views of an image start from."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_loader.decode import DECODING, Size, fit, read_image
from data_loader.views import Spec, View, in_words
from utils.config.data_sections import Views


class ImageReader:
    """reader(file): uint8 [h, w, 3] RGB, decoded, cropped and resized as `read_image` does, then preprocessed.

    preprocess: transforms that do the same every time (`views.preprocess`); they need a size.
    Raises UserError as `read_image` does.
    """

    def __init__(self, size: Size | None, crop: Size | None = None, preprocess: Spec = ()):
        self.size, self.crop, self.preprocess = size, crop, preprocess
        self._of_thread = threading.local()

    @classmethod
    def of(cls, views: Views) -> ImageReader:
        return cls(views.shape, views.crop_shape, views.model_dump()["preprocess"])

    def __call__(self, file: Path) -> np.ndarray:
        return self._preprocessed(read_image(file, self.size, self.crop))

    def of_pixels(self, image: np.ndarray) -> np.ndarray:
        """The same from an image that is decoded already, uint8 [h, w, 3] RGB."""
        return self._preprocessed(fit(image, self.size, self.crop))

    def _preprocessed(self, image: np.ndarray) -> np.ndarray:
        view = self._view()
        return image if view is None else view(image, 0)

    @property
    def settings(self) -> str:
        """All that decides about the pixels of a file, in words."""
        settings = f"{DECODING} {cv2.__version__}" + ("" if self.crop is None else f" {self.crop[0]}x{self.crop[1]}")
        if self.size is None or self._view() is None:
            return settings
        return f"{settings} {in_words(self.preprocess, self.size)}"

    def _view(self) -> View | None:
        """Of this thread: a view has generators that threads may not share."""
        if self.size is None or not self.preprocess:
            return None
        if not hasattr(self._of_thread, "view"):
            self._of_thread.view = View(self.preprocess, self.size, "views.preprocess")
        view: View = self._of_thread.view
        return view if view.steps else None

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, "crop": self.crop, "preprocess": self.preprocess}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
