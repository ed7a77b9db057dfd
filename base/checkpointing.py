"""The checkpoint files of a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from utils.checkpoint import save_checkpoint
from utils.config import Config
from utils.files import atomic_path


class RunFiles:
    """run_dir: saved/NAME/RUN_ID."""

    def __init__(self, run_dir: Path, config: Config):
        self.run_dir, self.config = run_dir, config
        self.last = run_dir / "checkpoints" / "last.pth"
        self.best = run_dir / "checkpoints" / "best.pth"

    def save_last(self, state: dict[str, Any]) -> None:
        save_checkpoint(self.last, state, keep=self.config.trainer.keep_last)

    def keep_as_best(self) -> None:
        """last.pth as it is now becomes best.pth too, without writing it twice."""
        self._copy(self.last, self.best, link=True)

    def publish(self) -> Path:
        """The best (or, without one, the last) checkpoint becomes saved/model.pth."""
        source = self.best if self.best.exists() else self.last
        self._copy(source, Path(self.config.trainer.save_dir) / "model.pth", link=False)
        return source

    def resume_command(self) -> str:
        return f"python train.py -r {self.last}"

    @staticmethod
    def _copy(source: Path, target: Path, link: bool) -> None:
        with atomic_path(target) as temporary:
            Path(temporary).unlink(missing_ok=True)
            try:
                if not link:
                    raise OSError
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
