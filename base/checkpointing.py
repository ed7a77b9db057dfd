"""The checkpoint files of a run."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

from utils.checkpoint import link_checkpoint, save_checkpoint
from utils.config import Config
from utils.files import atomic_path


class RunFiles:
    """run_dir: saved/NAME/RUN_ID, locked by this process."""

    def __init__(self, run_dir: Path, config: Config):
        self.run_dir, self.config = run_dir, config
        self.last = run_dir / "checkpoints" / "last.pth"
        self.best = run_dir / "checkpoints" / "best.pth"
        for unfinished in run_dir.glob("checkpoints/.tmp-*"):  # of a process that was killed
            unfinished.unlink(missing_ok=True)

    def save_last(self, state: dict[str, Any], best: bool = False) -> None:
        """Write last.pth, and before it best.pth where these are one: a run that is killed between the two repeats the
        epoch and comes to the same best.pth, while the other order would leave a last.pth that believes it has one."""
        keep = self.config.trainer.keep_last
        if best:
            save_checkpoint(self.best, state)
            link_checkpoint(self.best, self.last, keep)
        else:
            save_checkpoint(self.last, state, keep)

    def publish(self) -> Path:
        """The best (or, without one, the last) checkpoint becomes saved/model.pth."""
        source = self.best if self.best.exists() else self.last
        with atomic_path(Path(self.config.trainer.save_dir) / "model.pth") as temporary:
            shutil.copyfile(source, temporary)
        return source

    def resume_command(self) -> str:
        return shlex.join(["python", "train.py", "-r", str(self.last)])
