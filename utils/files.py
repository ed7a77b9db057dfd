"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError


class CannotWrite(UserError, OSError):
    """The system refuses to write a file: who can do without it catches OSError, for the others it is a message."""


def check_output(path: Path, option: str, folder: bool = False) -> None:
    """Raises UserError, beginning with the option, if what is to be written to `path` (a file, or a `folder` of them)
    cannot be: for before the work, since a mistake there must not cost its result."""
    path = Path(path)
    if path.exists() and path.is_dir() != folder:
        raise UserError(f"{option} {path}: is a {'file; name a folder' if folder else 'folder; name a file'}")
    there = next(place for place in (path, *path.absolute().parents) if place.exists() and (folder or place != path))
    if not there.is_dir():
        raise UserError(f"{option} {path}: {there} is a file, not a folder")
    try:  # as the permissions of a folder do not tell on every file system, nor to every user
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{option} {path}: nothing can be written in {there} ({error.strerror})") from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; when the block ends, what was written there becomes `path`.

    The content is on disk before the name is: fsync, rename, fsync of the folder. If the block raises, the temporary
    file is removed and an existing `path` stays as it was. The suffix is kept, because numpy, OpenCV and PIL go by it.
    Raises UserError if `path` is a folder, CannotWrite if it cannot be written, such as on a full disk.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a file is to be written there")
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield temporary
        _fsync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError) or isinstance(error, CannotWrite):
            raise
        if error.filename is not None and Path(error.filename) != temporary:  # of what the block reads
            raise
        raise cannot_write(path, error) from error
    # Windows and some network file systems cannot open or sync a folder; the rename itself is done by then.
    with contextlib.suppress(OSError):
        _fsync(path.parent, os.O_RDONLY)


def cannot_write(path: Path, error: Exception) -> CannotWrite:
    """The message for a file that the system refuses to write, with the space that is left."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    try:
        left = f"; {shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB are free there"
    except OSError:
        left = ""
    return CannotWrite(f"{path}: cannot be written ({reason}){left}")


def encoded(text: str) -> bytes:
    """UTF-8; names of files that are not, as Python reads them from a folder, become the bytes they are."""
    return text.encode("utf-8", "surrogateescape")


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write the whole file at once; text is `encoded`, line ends are kept as given."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded(data) if isinstance(data, str) else data)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
