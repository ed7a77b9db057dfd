"""Label tables beside the crops: copied from the folder of the pictures, and kept where somebody has edited them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from data_loader.face_crops.table import TABLE
from utils.files import atomic_write, sha256_of

ENDINGS = (".csv", ".tsv", ".txt", ".json")
_COPIED = ".label_tables.json"  # the SHA-256 of each table as it was copied


def copy_tables(root: Path, out: Path) -> tuple[int, list[str]]:
    """Tables of `root` as they are, where they lie; returns how many were copied now, and which are kept in `out`
    although they differ, since they have been edited there."""
    record = out / _COPIED
    known: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    copied, kept, now = 0, [], dict[str, str]()
    for name in _tables(root, out):
        source, target = root / name, out / name
        digest = sha256_of(source)
        there = sha256_of(target) if target.is_file() else None
        if there not in (None, digest, known.get(name)):
            kept.append(name)
            now[name] = known.get(name, "")
            continue
        if there != digest:
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, source.read_bytes())
            copied += 1
        now[name] = digest
    if now != known:
        atomic_write(record, json.dumps(now, indent=1) + "\n")
    return copied, kept


def _tables(root: Path, out: Path) -> Iterator[str]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name).relative_to(root)
            if not name.startswith(".") and path.suffix.lower() in ENDINGS and out / path != out / TABLE:
                yield path.as_posix()
