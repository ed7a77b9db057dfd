"""The same training with other values, one after the other or side by side, and a table of what they scored."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from report.run_table import check_table, compare_runs
from trainer.sweep_plan import Training
from utils.children import Children
from utils.device import choose_device
from utils.errors import UserError
from utils.run_folder import is_being_trained

MOST_SHOWN = 20


class TrainingsFailed(Exception):
    """Some trainings of a sweep have ended with an error; the others are done."""

    def __init__(self, text: str, codes: Sequence[int]):
        super().__init__(f"error: {text}")
        self.exit_code = 2 if set(codes) == {2} else 1


def sweep(
    trainings: Sequence[Training], folds: int | None, devices: Sequence[str], check: bool, out: Path | None
) -> str:
    """Train them, one at a time on each device, and return a table of those that did not fail; what is finished is left
    alone, what was stopped goes on. check: only `train.py --check` of each.

    Raises TrainingsFailed if some fail, after the others are done, and UserError before the first for a device that is
    not there and a name of the table that is taken.
    """
    check_table(out)
    for device in devices:
        choose_device(device)
    print(f"{len(trainings)} training{'s' * (len(trainings) > 1)}:")
    for training in trainings[:MOST_SHOWN]:
        print(f"  {training}")
    if len(trainings) > MOST_SHOWN:
        print(f"  and {len(trainings) - MOST_SHOWN} more")
    failed = _run_all(trainings, folds, devices, check)
    done = [training for training in trainings if training not in failed]
    table = "all of them can be trained" if check else _table(done, out)
    if failed:
        if not check:
            print(table)
        named = ", ".join(f"{training} (exit code {code})" for training, code in failed.items())
        again = "" if check else "; the same command tries them again and leaves the others alone"
        raise TrainingsFailed(f"{len(failed)} of {len(trainings)} trainings failed: {named}{again}", [*failed.values()])
    return table


def _run_all(
    trainings: Sequence[Training], folds: int | None, devices: Sequence[str], check: bool
) -> dict[Training, int]:
    """The exit codes of those that failed."""
    children = Children()
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def run(numbered: tuple[int, Training]) -> int:
        number, training = numbered
        label = f"[{number}/{len(trainings)}] {training}"
        if not check and is_being_trained(training.folder):
            _say(f"{label}: is being trained by another process, which it is left to")
            return 0
        device, start = free.get(), time.monotonic()
        command = ["train.py", "-c", str(training.config), "-d", device]
        command += [part for text in training.overrides for part in ("-s", text)]
        command += ["--folds", str(folds)] if folds is not None else []
        command += ["--check"] if check else ["--run-id", training.run_id, "-r", "auto"]
        _say(f"{label}: begins" + (f" on {device}" if len(devices) > 1 else ""))
        try:
            # Side by side, each line says whose it is.
            tell = None if len(devices) == 1 else lambda line: _say(f"{training}: {line}")
            code = children.run(command, tell=tell)
        finally:
            free.put(device)
        minutes = (time.monotonic() - start) / 60
        ended = "stopped" if children.stopping else f"failed with exit code {code}" if code else "done"
        _say(f"{label}: {ended} ({minutes:.1f} min)")
        return code

    with closing(children.each(run, enumerate(trainings, start=1), len(devices))) as ended:
        codes = dict(ended)
    return {training: code for (_, training), code in sorted(codes.items(), key=lambda item: item[0][0]) if code}


_SPEAKING = threading.Lock()


def _say(line: str) -> None:
    """A whole line, however many trainings speak at once."""
    with _SPEAKING:
        print(line, flush=True)


def _table(trainings: Sequence[Training], out: Path | None) -> str:
    there = [training.folder for training in trainings if training.folder.is_dir()]
    if not there:
        return "there is nothing to compare"
    try:
        return compare_runs(there, None, there[0], out)
    except UserError as error:
        first = str(error)
    try:  # the first one may be damaged
        return compare_runs(there, None, None, out)
    except UserError:
        return f"no table: {first}"
