"""What a person reads during a run: plain lines on stdout, the same lines with the time in train.log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from tqdm import tqdm


class Console:
    """Lines to stdout (if `shown`) and, always, to the log file. A full disk or a closed pipe never stops a run."""

    def __init__(self, log_path: Path, *, shown: bool):
        self.log_path = log_path
        self.shown = shown

    def info(self, text: str) -> None:
        self._to_log(text)
        if self.shown:
            self._to_stdout(text)

    def warn(self, text: str) -> None:
        self.info(f"warning: {text}")

    def _to_log(self, text: str) -> None:
        now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError), self.log_path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{now}  {line}\n" for line in text.splitlines() or [""]))

    def _to_stdout(self, text: str) -> None:
        try:
            encoding = sys.stdout.encoding or "utf-8"
            printable = text.encode(encoding, errors="replace").decode(encoding)
            # tqdm lifts a progress bar that is on the screen, writes, and draws the bar again.
            tqdm.write(printable, file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError, AttributeError) as error:
            self.shown = False
            self._to_log(f"warning: stdout cannot be written ({error}); lines go on in this file only")


def reason(error: BaseException) -> str:
    """An exception in one line, for a warning."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def epoch_line(
    epoch: int, epochs: int, step: int, values: Mapping[str, float], *, best: bool = False, more: str = ""
) -> str:
    """One line for an epoch: `epoch  3/20  step 768  train loss 0.4312  valid loss 0.3921  macro_f1 0.8123  …`.

    values: an epoch's row, shown in its order; of `train/` the losses only, of the per-head values only
    `valid/HEAD/METRIC`, and only with several heads. `valid/` is left out of a metric's name but not of `valid/loss`;
    `lr` is written as 9.8e-04, `seconds` as 12.3 s. more: further lines (pseudo-label diagnostics), indented below.
    """
    heads = {key.split("/")[1] for key in values if key.startswith("valid/") and key.count("/") == 2}
    parts = [f"epoch {epoch:>{len(str(epochs))}}/{epochs}", f"step {step}"]
    for key, value in values.items():
        if key.startswith("train/") and not key.startswith("train/loss"):
            continue
        if key.count("/") < 2 or (key.startswith("valid/") and key.count("/") == 2 and len(heads) > 1):
            parts.append(_shown(key, value))
    if best:
        parts.append("*best*")
    return "\n".join(["  ".join(parts), *(f"    {line}" for line in more.splitlines())])


def _shown(key: str, value: float) -> str:
    if key == "seconds":
        return f"{value:.1f} s"
    name = key if key == "valid/loss" else key.removeprefix("valid/")
    name = name.replace("/", " ").replace("loss_", "")
    if key.split("/")[0] == "lr":
        return f"{name} {value:.1e}"
    return f"{name} {value}" if isinstance(value, int) else f"{name} {value:.4f}"
