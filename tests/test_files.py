from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from pathlib import Path

import pytest

from base.checkpointing import RunFiles
from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.files import atomic_path, atomic_write, check_output, sha256_of


def test_atomic_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    atomic_write(path, "é\r\n\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n\n"
    atomic_write(path, b"\0short")
    assert path.read_bytes() == b"\0short"
    assert os.listdir(tmp_path) == ["a.csv"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_atomic_path_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".npy"
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.npy"]


def test_content_is_synced_before_the_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        order.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split("-")[-1])
        fsync(descriptor)

    def seen_replace(source: Path, target: Path) -> None:
        order.append("replace")
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name an open file")
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    atomic_write(folder / "last.pth", b"x")
    assert order == ["fsync last.pth", "replace", "fsync folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_a_message_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"config": "{}"})
    before = path.read_bytes()
    for write in (lambda: _fill(path), lambda: save_checkpoint(path, {"config": _Full()})):
        with pytest.raises(UserError, match=r"last.pth: cannot be written \(.*MiB are free there"):
            write()
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.pth"]
    with contextlib.suppress(OSError):  # as who can do without the file
        _fill(path)


def _fill(path: Path) -> None:
    with atomic_path(path), open("/dev/full", "wb") as full:
        full.write(b"x")


class _Full:
    """As torch's writer says it."""

    def __reduce__(self) -> str:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 161536 vs 161424")


def test_the_command_that_continues_a_run_can_be_pasted(tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "läufe 1" / "it's", config=None)  # type: ignore[arg-type]
    assert shlex.split(files.resume_command()) == ["python", "train.py", "-r", str(files.last)]


def test_sha256_of(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"), atomic_path(tmp_path):
        pytest.fail("the work must not start")
    assert tmp_path.is_dir()
    check_output(tmp_path / "a" / "b.csv", "--out")
    check_output(tmp_path / "a", "--out", folder=True)
