"""Make the demo folder: draw on all cores into a temporary folder, rename it when everything is there."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import cv2

from data_loader.demo_faces import celeba, mask_faces
from utils.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]

DRAWING = 2  # raised whenever the same settings would draw other pictures
SETTINGS_FILE = "demo.json"
CHUNK = 16

README = """These pictures are GENERATED. They show nobody: every face was drawn by a program, and every label was
computed from the drawing. Use them to try things out; figures measured on them say nothing about real faces.

Made by: {command}
Seed: {seed}

CelebAMask-HQ/  {count} images of {size} x {size} pixels in the layout of CelebAMask-HQ
mask_faces/     {persons} persons with 7 photos each, and {eval_persons} more without answers, in the layout of the
                mask competition
{settings_file}       the settings; a later run with the same ones leaves this folder as it is

label_frame.csv, column forehead: 0 shown, 1 partly covered by hair, 2 covered, blank = not labeled (women),
-1 = unusable (hats). Column hair length: 0 short, 1 medium, 2 long.
"""


@dataclass(frozen=True)
class DemoSettings:
    """What decides every byte of the folder."""

    count: int = 4000
    size: int = 128
    seed: int = 0
    persons: int = 60
    drawing: int = DRAWING

    @property
    def eval_persons(self) -> int:
        """The original tests on two thirds as many persons as it trains on."""
        return self.persons * 2 // 3

    def check(self) -> None:
        """Raises UserError for numbers nothing can be drawn with."""
        if self.count < 1:
            raise UserError(f"--count {self.count}: expected at least 1 image")
        if self.size % 8 or not 32 <= self.size <= 1024:
            raise UserError(f"--size {self.size}: expected a multiple of 8 from 32 to 1024 pixels")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: expected a number from 0")
        if self.persons < 6:
            raise UserError(f"--persons {self.persons}: expected at least 6, so that every gender and age group occurs")


def write_demo(
    out: Path,
    settings: DemoSettings,
    processes: int | None = None,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> bool:
    """Make `out`; False if it is already there with the same settings. `processes` changes the time only.

    Raises UserError if `out` holds anything else (`force` replaces another demo folder, never other data) or if it
    cannot be written.
    """
    settings.check()
    out = Path(out).absolute()
    if _is_current(out, settings, force):
        return False
    temporary = out.with_name(f".{out.name}.unfinished-{uuid.uuid4().hex[:12]}")
    try:
        temporary.mkdir(parents=True)
        _fill(temporary, settings, processes, progress)
        _put_in_place(temporary, out)
    except OSError as error:
        raise UserError(f"{out}: cannot write the demo faces: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _is_current(out: Path, settings: DemoSettings, force: bool) -> bool:
    """Whether nothing is to be done; raises UserError if `out` is in the way."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        about = json.loads((out / SETTINGS_FILE).read_text(encoding="utf-8"))
        found, files = dict(about["settings"]), int(about["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{out}: exists and is not a folder of demo faces; choose another --out") from None
    if force:
        return False
    wanted = asdict(settings)
    differs = [f"{key} {found.get(key)}, not {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if not differs and _count_files(out) >= files:
        return True
    reason = f"made with {', '.join(differs)}" if differs else "that are no longer complete"
    raise UserError(f"{out}: holds demo faces {reason}; add --force to replace them, or choose another --out")


def _count_files(root: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(root))


def _fill(root: Path, settings: DemoSettings, processes: int | None, progress: Progress) -> None:
    celeba_root, mask_root = root / "CelebAMask-HQ", root / "mask_faces"
    seed, size = settings.seed, settings.size
    train = mask_faces.profiles(settings.persons, seed, 1, mask_faces.TRAIN_AGES)
    hidden = mask_faces.profiles(settings.eval_persons, seed, 1 + settings.persons, mask_faces.EVAL_AGES)
    celeba.make_folders(celeba_root, settings.count)
    faces = [celeba.FaceTask(celeba_root, index, seed, size) for index in range(settings.count)]
    photos = mask_faces.train_tasks(mask_root, train, seed, size)
    evaluation = mask_faces.eval_tasks(mask_root, hidden, seed, size)

    total = len(faces) + len(photos) + len(evaluation)
    with _workers(processes or _cores()) as run:
        records = []
        for record in run(celeba.draw_face, faces):
            records.append(record)
            progress(len(records), total)
        for done, _ in enumerate(run(mask_faces.draw_photo, photos + evaluation), start=len(records) + 1):
            progress(done, total)

    celeba.write_tables(celeba_root, records, seed)
    mask_faces.write_tables(mask_root, train, evaluation)
    text = README.format(
        **asdict(settings), command=_command(settings), eval_persons=settings.eval_persons, settings_file=SETTINGS_FILE
    )
    for folder in (root, celeba_root, mask_root):
        (folder / "README.txt").write_text(text, encoding="utf-8", newline="\n")
    about = {"settings": asdict(settings), "files": _count_files(root) + 1}
    (root / SETTINGS_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8", newline="\n")


def _command(settings: DemoSettings) -> str:
    given = f"--count {settings.count} --size {settings.size} --seed {settings.seed} --persons {settings.persons}"
    return f"python prepare.py demo {given}"


def _put_in_place(temporary: Path, out: Path) -> None:
    """Rename; a folder that is replaced disappears only after the new one is there."""
    old = out.with_name(f".{out.name}.replaced-{uuid.uuid4().hex[:12]}")
    if out.exists():
        out.rename(old)
    try:
        temporary.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _workers(processes: int) -> Iterator[Callable[..., Iterator]]:
    """A `map` over tasks, in order; in this process if one is enough."""
    if processes == 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(0)
        try:
            yield map
        finally:
            cv2.setNumThreads(threads)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker)
    try:

        def run(function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
            return pool.map(function, tasks, chunksize=CHUNK)

        yield run
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot close its pool, and its workers would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
