"""`prepare.py agreement`: two people's labels compared, as text and as a corrections file to fill in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_loader.agreement import compare_tables, corrections_of, describe
from report.table import align
from utils.files import atomic_write


def compare_labels(first: Path, second: Path, columns: Sequence[str], key: str | None, out: Path) -> str:
    """Write `out` and return what to print. Raises UserError as `compare_tables` does."""
    key, found = compare_tables(first, second, columns, key)
    lines = []
    for of_column in found:
        header = (f"{first.name} \\ {second.name}", *map(str, of_column.confusion.columns))
        rows = [(str(name), *map(str, counts)) for name, counts in of_column.confusion.iterrows()]
        lines += [*describe(of_column), *align([header, *rows])]
    table = corrections_of(found, key)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, table.to_csv(index=False, lineterminator="\n"))
    return "\n".join([*lines, f"{out}: {len(table):,} labels that differ"])
