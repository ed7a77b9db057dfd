"""TensorBoard as a sink of RunLogger. Any method may raise; RunLogger then switches the sink off."""

from __future__ import annotations

import functools
import re
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


class TensorBoardSink:
    """Scalars, images and the final summary under RUN/tensorboard.

    purge_step: hides what an interrupted run logged at this step or later, so that a resumed run draws one line.
    """

    title = "TensorBoard"

    def __init__(self, run_dir: Path, purge_step: int | None):
        # TensorBoard imports an installed TensorFlow (seconds, and pages of messages) unless this module exists.
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
        from torch.utils.tensorboard import SummaryWriter

        _quiet_worker()
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, float(value), step)

    def image(self, tag: str, step: int, image: np.ndarray) -> None:
        self.writer.add_image(tag, image, step, dataformats="HWC")

    def text(self, tag: str, step: int, text: str) -> None:
        self.writer.add_text(tag, text, step)

    def panels(self, panels: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Charts of the tab CUSTOM SCALARS."""
        charts = {
            group: {chart: ["Multiline", [f"^{re.escape(name)}$" for name in names]] for chart, names in of.items()}
            for group, of in panels.items()
        }
        self.writer.add_custom_scalars(charts)

    def summary(self, values: Mapping[str, float | str]) -> None:
        rows = "".join(f"| {key} | {value} |\n" for key, value in values.items())
        self.writer.add_text("summary", f"| name | value |\n|---|---|\n{rows}")

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


@functools.cache
def _quiet_worker() -> None:
    """TensorBoard's writing thread gives its exception to the next call and prints a traceback too; spare that."""
    previous = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if type(failure.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            previous(failure)

    threading.excepthook = hook
