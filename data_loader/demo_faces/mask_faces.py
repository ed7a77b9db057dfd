"""Demo faces in the mask competition's layout: seven photos per person, five of them with a mask worn right."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_loader.demo_faces.celeba import encode_jpeg
from data_loader.demo_faces.person import sample_person, sample_scene
from data_loader.demo_faces.photo import take_photo

STREAM = 3
PEOPLE_STREAM = 4
PHOTOS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
# Persons per (gender, age band) among the 2,700 of the original.
CELLS = {
    ("male", "young"): 549,
    ("male", "middle"): 410,
    ("male", "old"): 83,
    ("female", "young"): 732,
    ("female", "middle"): 817,
    ("female", "old"): 109,
}
TRAIN_AGES = {"young": (18, 29), "middle": (30, 59), "old": (60, 60)}
EVAL_AGES = {"young": (18, 29), "middle": (30, 59), "old": (60, 75)}
SUFFIXED_IDS = 40  # one id in so many carries '-1', as dozens of the originals do


@dataclass(frozen=True)
class Profile:
    """One person of the set; `number` also keys the random numbers of face and photos."""

    number: int
    id: str
    gender: str
    age: int

    @property
    def path(self) -> str:
        return f"{self.id}_{self.gender}_Asian_{self.age}"


@dataclass(frozen=True)
class PhotoTask:
    """One photo of one person, to be written to `file`."""

    file: Path
    profile: Profile
    photo: str
    seed: int
    size: int


def profiles(count: int, seed: int, first: int, ages: dict[str, tuple[int, int]]) -> list[Profile]:
    """`count` persons in the original's proportions, every (gender, age band) at least once if there is room."""
    rng = np.random.default_rng([seed, PEOPLE_STREAM, first])
    shares = np.array(list(CELLS.values())) / sum(CELLS.values())
    wanted = np.maximum(shares * count, 1.0)
    cells = [cell for cell, number in zip(CELLS, np.ceil(wanted).astype(int)) for _ in range(number)]
    surplus = sorted(range(len(cells)), key=lambda at: (cells.index(cells[at]) == at, rng.random()))
    kept = [cells[at] for at in surplus[len(cells) - count :]]
    people = []
    for at, pick in enumerate(rng.permutation(len(kept))):
        gender, band = kept[pick]
        low, high = ages[band]
        number = first + at
        suffix = "-1" if number % SUFFIXED_IDS == SUFFIXED_IDS // 2 else ""
        people.append(Profile(number, f"{number:06d}{suffix}", gender, int(rng.integers(low, high + 1))))
    return people


def train_tasks(root: Path, people: list[Profile], seed: int, size: int) -> list[PhotoTask]:
    """Every photo of train/images; makes the folders."""
    images = root / "train" / "images"
    for person in people:
        (images / person.path).mkdir(parents=True)
    return [
        PhotoTask(images / person.path / f"{photo}.jpg", person, photo, seed, size)
        for person in people
        for photo in PHOTOS
    ]


def eval_tasks(root: Path, people: list[Profile], seed: int, size: int) -> list[PhotoTask]:
    """Every photo of eval/images, under names that tell nothing; makes the folder."""
    images = root / "eval" / "images"
    images.mkdir(parents=True)
    tasks = []
    for person in people:
        for photo in PHOTOS:
            name = hashlib.sha1(f"{seed} {person.number} {photo}".encode(), usedforsecurity=False).hexdigest()
            tasks.append(PhotoTask(images / f"{name}.jpg", person, photo, seed, size))
    return sorted(tasks, key=lambda task: task.file.name)


def draw_photo(task: PhotoTask) -> None:
    """Draw and write one photo: the face depends on (seed, person), the rest on (seed, person, photo)."""
    profile = task.profile
    face = np.random.default_rng([task.seed, STREAM, profile.number])
    person = sample_person(face, male=profile.gender == "male", age=profile.age)
    rng = np.random.default_rng([task.seed, STREAM, profile.number, 1 + PHOTOS.index(task.photo)])
    wear = "worn" if task.photo.startswith("mask") else "none"
    if task.photo == "incorrect_mask":
        wear = str(rng.choice(["below nose", "chin"]))
    scene = replace(sample_scene(rng, person, hats=False), mask=wear)
    photo = take_photo(person, scene, (task.size, task.size * 3 // 4), rng)
    task.file.write_bytes(encode_jpeg(photo.image, scene.jpeg_quality))


def write_tables(root: Path, train: list[Profile], evaluation: list[PhotoTask]) -> None:
    """train/train.csv and eval/info.csv (its `ans` is a placeholder, as in the original)."""
    _write_csv(
        root / "train" / "train.csv",
        ["id", "gender", "race", "age", "path"],
        [[person.id, person.gender, "Asian", str(person.age), person.path] for person in train],
    )
    _write_csv(root / "eval" / "info.csv", ["ImageID", "ans"], [[task.file.name, "0"] for task in evaluation])


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
