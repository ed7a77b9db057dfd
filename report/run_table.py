"""The table that `prepare.py runs` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from report.runs import SEEDS, Comparison, Entry, Run, compare, experiments, read_runs, table_of
from report.submissions import boards_of, read_ledger
from report.table import align
from utils.config import Change
from utils.files import atomic_write

MOST_CHANGES, LONGEST = 4, 32
Boards = Mapping[str, tuple[str, str]]


def compare_runs(places: Sequence[Path], metric: str | None, against: Path | None, out: Path | None) -> str:
    """The runs in these folders as text, and as a CSV where `out` names one. Raises UserError as `read_runs` does."""
    runs = read_runs(places)
    compared = compare(runs, metric, against)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, table_of(compared).to_csv(index=False, lineterminator="\n"))
    boards: dict[str, tuple[str, str]] = {}
    for save_dir in dict.fromkeys(run.folder.resolve().parents[1] for run in runs):
        boards.update(boards_of(read_ledger(save_dir)))
    return format_runs(compared, {run.name: boards[run.name] for run in runs if run.name in boards})


def format_runs(compared: Comparison, boards: Boards) -> str:
    """Text for the terminal: a line per run, then the means of those that were run with several seeds.

    boards: public and private score by a run's name.
    """
    metric, reference, entries = compared.metric, compared.reference, compared.entries
    rows = [("run", "state", "epochs", "best", "at epoch", "last", *(("public", "private") if boards else ()))]
    rows += [_cells(entry, boards) for entry in entries]
    told = ["(this one)" if entry.run is reference else describe(entry.changes) for entry in entries]
    told = ["; ".join([*_caveats(entry.run, reference, metric), text]) for entry, text in zip(entries, told)]
    lines = _with_text(rows, [f"changed from {reference.name}", *told])
    blocks = ["\n".join([f"{metric}, {len(entries)} run{'s' * (len(entries) > 1)}", *lines])]
    groups = experiments(entries)
    if groups:
        control = next((group for group in groups if any(entry.run is reference for entry in group)), [])
        rows = [("seeds", "best", "last", "difference", "standard error", "pairs")]
        rows += [_means(group, control) for group in groups]
        changes = [[change for change in group[0].changes if change.key not in SEEDS] for group in groups]
        lines = _with_text(rows, ["changed", *map(describe, changes)])
        blocks.append("\n".join(["finished runs that differ in their seed only: mean ± deviation", *lines]))
    return "\n\n".join(blocks)


def describe(changes: Sequence[Change]) -> str:
    """The first few of the changes in one line."""
    more = len(changes) - MOST_CHANGES
    shown = "; ".join(f"{c.key}: {_short(c.before)} -> {_short(c.after)}" for c in changes[:MOST_CHANGES])
    return (shown or "nothing") + (f"; {more} more" if more > 0 else "")


def _caveats(run: Run, reference: Run, metric: str) -> list[str]:
    """Why a score cannot be compared with the reference's."""
    found = ["! validated on other images"] if run.validated_on != reference.validated_on else []
    split, *rest = metric.split("/")
    if split == "valid" and len(rest) == 1:
        heads, other = run.heads(rest[0]), reference.heads(rest[0])
        if heads and other and heads != other:
            found.append(f"! the mean of other heads ({', '.join(sorted(heads))}); see --metric")
    return found


def _with_text(rows: Sequence[tuple[str, ...]], texts: Sequence[str]) -> list[str]:
    return [f"{line}  {text}" for line, text in zip(align(rows), texts)]


def _short(value: str) -> str:
    """Beginning and end of a long one: of paths the end tells them apart."""
    return value if len(value) <= LONGEST else f"{value[:10]}…{value[11 - LONGEST :]}"


def _cells(entry: Entry, boards: Boards) -> tuple[str, ...]:
    run = entry.run
    best = _number(entry.best) + (f" ± {entry.spread:.4f}" if entry.spread is not None else "")
    if run.folds is not None:
        epochs = f"{run.folds['folds']} folds"
    else:
        epochs = f"{run.last_epoch}/{run.config['trainer']['epochs']}"
    at = "" if entry.best_epoch is None else str(entry.best_epoch)
    known = boards.get(run.name, ("", "")) if boards else ()
    return (run.name, run.state, epochs, best, at, _number(entry.last), *known)


def _means(group: Sequence[Entry], control: Sequence[Entry]) -> tuple[str, ...]:
    """Of one experiment and, over the seeds that it has in common with the control's, the mean difference."""
    cells = (str(len(group)), _mean([entry.best for entry in group]), _mean([entry.last for entry in group]))
    of_control = {entry.run.seed: entry.best for entry in control if control is not group}
    pairs = [entry.best - of_control[entry.run.seed] for entry in group if entry.run.seed in of_control]
    known = np.array([pair for pair in pairs if not math.isnan(pair)])
    if not len(known):
        return (*cells, "", "", "")
    error = f"{known.std(ddof=1) / math.sqrt(len(known)):.4f}" if len(known) > 1 else "–"
    return (*cells, f"{known.mean():+.4f}", error, str(len(known)))


def _mean(scores: Sequence[float]) -> str:
    known = np.array([value for value in scores if not math.isnan(value)])
    if not len(known):
        return "–"
    return f"{known.mean():.4f}" + (f" ± {known.std(ddof=1):.4f}" if len(known) > 1 else "")


def _number(score: float) -> str:
    return "–" if math.isnan(score) else f"{score:.4f}"
