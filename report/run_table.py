"""The table that `prepare.py runs` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t

from report.run_files import Run, read_runs
from report.runs import Comparison, Entry, Experiment, compare, experiments, table_of
from report.submissions import LEDGER, leaderboard, read_ledger
from report.table import align
from utils.config import Change
from utils.errors import UserError
from utils.files import atomic_write
from utils.run_folder import best_checkpoint, save_dir_of

MOST_CHANGES, LONGEST = 4, 32
Boards = Mapping[Path, tuple[str, str]]  # public and private score by a run's folder


def check_table(out: Path | None) -> None:
    """Raises UserError for a table that would be taken for another one."""
    if out is not None and out.name == LEDGER:
        raise UserError(f"--out {out}: is how the list of submissions is called; choose another name")


def compare_runs(places: Sequence[Path], metric: str | None, against: Path | None, out: Path | None) -> str:
    """The runs in these folders as text, and as a CSV where `out` names one; what cannot be read is said at the end.

    Raises UserError as `read_runs` and `compare` do.
    """
    check_table(out)
    runs, problems = read_runs(places)
    compared = compare(runs, metric, against)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, table_of(compared).to_csv(index=False, lineterminator="\n"))
    boards, wrong = _boards(compared)
    lines = [f"! left out: {problem}" for problem in [*problems, *wrong]]
    return "\n\n".join([format_runs(compared, boards), *(["\n".join(lines)] if lines else [])])


def format_runs(compared: Comparison, boards: Boards) -> str:
    """Text for the terminal: a line per run, then the means of those that were run with several seeds."""
    reference, entries = compared.reference, compared.entries
    rows = [("run", "state", "epochs", "best", "at epoch", "last", *(("public", "private") if boards else ()))]
    rows += [_cells(entry, boards) for entry in entries]
    told = ["(this one)" if entry.run is reference else describe(entry.changes) for entry in entries]
    told = ["; ".join([*compared.caveats(entry.run), text]) for entry, text in zip(entries, told)]
    lines = _with_text(rows, [f"changed from {reference.name}", *told])
    first = [f"the first one's best checkpoint: {found}" for found in _checkpoint(entries[0].run)] if entries else []
    blocks = ["\n".join([f"{compared.metric}, {len(entries)} run{'s' * (len(entries) > 1)}", *lines, *first])]
    groups = experiments(compared)
    if groups:
        control = next((group for group in groups if not group.changes and not group.caveats), None)
        rows = [("seeds", "best", "last", "difference", "± 95 %", "pairs")]
        rows += [_means(group, control) for group in groups]
        texts = ["; ".join([*group.caveats, describe(group.changes)]) for group in groups]
        lines = _with_text(rows, [f"changed from {reference.name}", *texts])
        blocks.append("\n".join(["finished runs that differ in their seed only: mean ± deviation", *lines]))
    return "\n\n".join(blocks)


def _checkpoint(run: Run) -> list[str]:
    """What to give test.py: the best checkpoint, or the folds' (as a pattern)."""
    if run.folds is not None:
        return [f"{run.folder}-fold*/checkpoints/best.pth"]
    best = best_checkpoint(run.folder)
    return [str(best)] if best.is_file() else []


def describe(changes: Sequence[Change]) -> str:
    """The first few of the changes in one line."""
    more = len(changes) - MOST_CHANGES
    shown = "; ".join(f"{c.key}: {_short(c.before)} -> {_short(c.after)}" for c in changes[:MOST_CHANGES])
    return (shown or "nothing") + (f"; {more} more" if more > 0 else "")


def _boards(compared: Comparison) -> tuple[Boards, list[str]]:
    """What the leaderboard said of each run's best checkpoint alone, and which lists of submissions are damaged."""
    boards: dict[Path, tuple[str, str]] = {}
    problems: list[str] = []
    for save_dir in dict.fromkeys(save_dir_of(entry.run.folder) for entry in compared.entries):
        try:
            ledger = read_ledger(save_dir)
        except UserError as error:
            problems.append(str(error))
            continue
        for entry in compared.entries:
            run = entry.run
            if save_dir_of(run.folder) == save_dir and entry.best_epoch is not None:
                found = leaderboard(ledger, run.name, run.at(entry.best_epoch))
                if found != ("", ""):
                    boards[run.folder] = found
    return boards, problems


def _with_text(rows: Sequence[tuple[str, ...]], texts: Sequence[str]) -> list[str]:
    return [f"{line}  {text}" for line, text in zip(align(rows), texts)]


def _short(value: str) -> str:
    """Beginning and end of a long one: of paths the end tells them apart."""
    return value if len(value) <= LONGEST else f"{value[:10]}…{value[11 - LONGEST :]}"


def _cells(entry: Entry, boards: Boards) -> tuple[str, ...]:
    run = entry.run
    best = _number(entry.best) + (f" ± {entry.spread:.4f}" if entry.spread is not None else "")
    if run.folds is not None:
        epochs = f"{run.folds.get('folds')} folds"
    else:
        epochs = f"{run.last_epoch}/{run.config['trainer']['epochs']}"
    at = "" if entry.best_epoch is None else str(entry.best_epoch)
    known = boards.get(run.folder, ("", "")) if boards else ()
    return (run.name, run.state, epochs, best, at, _number(entry.last), *known)


def _means(group: Experiment, control: Experiment | None) -> tuple[str, ...]:
    """Of one experiment and, over the seeds that it has in common with the control's, the mean difference and half of
    its 95 % interval by Student's t: with two pairs 12.7 standard errors."""
    entries = group.entries
    cells = (str(len(entries)), _mean([entry.best for entry in entries]), _mean([entry.last for entry in entries]))
    if control is None or control is group or group.caveats:
        return (*cells, "", "", "")
    of_control = {entry.run.seed: entry.best for entry in control.entries}
    known = np.array([e.best - of_control[e.run.seed] for e in entries if e.run.seed in of_control])
    if not len(known):
        return (*cells, "", "", "")
    interval = "–"
    if len(known) > 1:
        interval = f"{t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)):.4f}"
    return (*cells, f"{known.mean():+.4f}", interval, str(len(known)))


def _mean(scores: Sequence[float]) -> str:
    known = np.array([value for value in scores if not math.isnan(value)])
    if not len(known):
        return "–"
    return f"{known.mean():.4f}" + (f" ± {known.std(ddof=1):.4f}" if len(known) > 1 else "")


def _number(score: float) -> str:
    return "–" if math.isnan(score) else f"{score:.4f}"
