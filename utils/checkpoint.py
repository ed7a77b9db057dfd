"""Checkpoints: one .pth that torch.load(weights_only=True) reads, written so that a kill leaves a whole file."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.files import atomic_path, cannot_write

FORMAT = 1


class DamagedCheckpoint(UserError):
    """The file is torn or altered; the message names it."""


class ForeignCheckpoint(UserError):
    """A whole file, but of another program."""


def save_checkpoint(path: Path, content: dict[str, Any], keep: int = 1) -> None:
    """Write `content` to `path` atomically; the `keep` - 1 files before it stay as NAME-1.pth, NAME-2.pth, …"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # torch's writer says so of a full disk
            raise cannot_write(path, error) from error
        _rotate(path, keep)


def link_checkpoint(source: Path, path: Path, keep: int = 1) -> None:
    """As `save_checkpoint` with the content of `source`, which is not written twice."""
    with atomic_path(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        _rotate(path, keep)


def _rotate(path: Path, keep: int) -> None:
    # Hard links, so that PATH itself exists at every moment.
    previous = previous_checkpoints(path)
    for file in previous[max(keep - 2, 0) :]:
        file.unlink()
    for number in range(len(previous[: max(keep - 2, 0)]), 0, -1):
        os.replace(_numbered(path, number), _numbered(path, number + 1))
    if keep > 1 and path.exists():
        try:
            os.link(path, _numbered(path, 1))
        except OSError:
            shutil.copyfile(path, _numbered(path, 1))


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def previous_checkpoints(path: Path) -> list[Path]:
    """The older files kept beside `path`, newest first."""
    found: list[Path] = []
    while _numbered(path, len(found) + 1).exists():
        found.append(_numbered(path, len(found) + 1))
    return found


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read and verify a checkpoint onto the CPU.

    Raises UserError if it is missing, ForeignCheckpoint if it is not one of ours, DamagedCheckpoint if a checksum
    of the file fails.
    """
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("[!.]*.pth")) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such checkpoint" + (f"; there are {', '.join(near)}" if near else ""))
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DamagedCheckpoint(f"{path}: damaged or not a checkpoint ({error})") from error
    if bad is not None:
        raise DamagedCheckpoint(f"{path}: damaged (checksum of '{bad}' does not match)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise DamagedCheckpoint(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or "format" not in content or "config" not in content:
        raise ForeignCheckpoint(
            f"{path}: not a checkpoint of this project (no 'format' and 'config' in it); "
            "weights of other programs go into the config as arch.args.weights"
        )
    if content["format"] > FORMAT:
        raise UserError(f"{path}: written by a newer version (format {content['format']}, this one reads ≤ {FORMAT})")
    return content


def load_newest(path: Path) -> tuple[dict[str, Any], Path, list[str]]:
    """`load_checkpoint`, falling back to the older files kept beside it; returns content, file and what was wrong."""
    problems: list[str] = []
    for candidate in [path, *previous_checkpoints(path)]:
        try:
            return load_checkpoint(candidate), candidate, problems
        except DamagedCheckpoint as error:
            problems.append(str(error))
    best = path.with_name("best.pth")
    if best != path and best.exists():
        with contextlib.suppress(UserError):
            load_checkpoint(best)
            problems.append(f"there is still {best}")
    raise DamagedCheckpoint("\n".join(problems))
