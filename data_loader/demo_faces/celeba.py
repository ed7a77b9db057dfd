"""Demo faces in the CelebAMask-HQ layout: images, part masks, forty attributes, mapping, poses, label frame."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_loader.demo_faces.person import Person, Scene, sample_person, sample_scene
from data_loader.demo_faces.photo import Photo, take_photo

ATTRIBUTES = [
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
]
STREAM = 1  # keeps these random numbers apart from those of the other layout
MAPPING_STREAM = 2
CELEBA_IMAGES = 202599
IMAGES_PER_MASK_FOLDER = 2000
PARTLY_COVERED, COVERED = 0.28, 0.50  # of the forehead's area
ANNOTATOR_NOISE = 0.02


@dataclass(frozen=True)
class FaceTask:
    """Image `index` of a set; `root` is the CelebAMask-HQ folder."""

    root: Path
    index: int
    seed: int
    size: int


@dataclass(frozen=True)
class FaceRecord:
    """What the tables say about one image; angles in degrees."""

    index: int
    attributes: frozenset[str]
    forehead: str
    hair_length: str
    pose: tuple[float, float, float]


def image_path(root: Path, index: int) -> Path:
    return root / "CelebA-HQ-img" / f"{index}.jpg"


def mask_path(root: Path, index: int, part: str) -> Path:
    return root / "CelebAMask-HQ-mask-anno" / str(index // IMAGES_PER_MASK_FOLDER) / f"{index:05d}_{part}.png"


def make_folders(root: Path, count: int) -> None:
    """Every folder that `draw_face` writes into."""
    image_path(root, 0).parent.mkdir(parents=True)
    for index in range(0, count, IMAGES_PER_MASK_FOLDER):
        mask_path(root, index, "skin").parent.mkdir(parents=True)


def draw_face(task: FaceTask) -> FaceRecord:
    """Draw and write one image and its masks: a function of (seed, index) and size alone."""
    rng = np.random.default_rng([task.seed, STREAM, task.index])
    person = sample_person(rng)
    scene = sample_scene(rng, person)
    photo = take_photo(person, scene, (task.size, task.size), rng)
    image_path(task.root, task.index).write_bytes(encode_jpeg(photo.image, scene.jpeg_quality))
    for part, mask in photo.parts.items():
        mask_path(task.root, task.index, part).write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    return FaceRecord(
        index=task.index,
        attributes=frozenset(name for name, present in annotate(person, scene, photo, rng).items() if present),
        forehead=forehead_label(person, photo, rng),
        hair_length=_hair_length(person, photo),
        pose=(np.degrees(scene.yaw), np.degrees(scene.pitch), np.degrees(scene.roll)),
    )


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def forehead_label(person: Person, photo: Photo, rng: np.random.Generator) -> str:
    """'0' shown, '1' partly covered, '2' covered, '' unlabeled (women), '-1' unusable (hats)."""
    judged = photo.coverage + rng.normal(0, ANNOTATOR_NOISE)
    if "hat" in photo.parts:
        return "-1"
    if not person.male:
        return ""
    return "2" if judged > COVERED else "1" if judged > PARTLY_COVERED else "0"


def _hair_length(person: Person, photo: Photo) -> str:
    if not person.male or "hat" in photo.parts:
        return ""
    return "0" if person.hair_length < 0.25 else "1" if person.hair_length < 0.6 else "2"


def annotate(person: Person, scene: Scene, photo: Photo, rng: np.random.Generator) -> dict[str, bool]:
    """The forty CelebA attributes; `Bangs` is a noisy yes or no about the forehead's coverage."""
    hat = "hat" in photo.parts
    hairless = person.bald or person.receding > 0.6
    bangs = 0.01 + 0.97 / (1 + np.exp(-(photo.coverage - 0.47) / 0.06))
    coloured = not person.bald and person.grey < 0.5
    return {
        "5_o_Clock_Shadow": person.beard == "stubble",
        "Arched_Eyebrows": person.brow_arch > 0.05,
        "Attractive": bool(rng.random() < 0.75 - 0.6 * person.wrinkles),
        "Bags_Under_Eyes": bool(rng.random() < 0.05 + 0.6 * person.wrinkles),
        "Bald": person.bald and not hat,
        "Bangs": bool(rng.random() < bangs * (0.1 if hat else 1.0)) and not hairless,
        "Big_Lips": person.lips > 0.07,
        "Big_Nose": person.nose_width > 0.17,
        "Black_Hair": coloured and person.hair_name == "black",
        "Blond_Hair": coloured and person.hair_name == "blond",
        "Blurry": scene.blur > 0.9,
        "Brown_Hair": coloured and "brown" in person.hair_name,
        "Bushy_Eyebrows": person.brow_width > 0.065,
        "Chubby": person.half_width > 0.78,
        "Double_Chin": person.half_width > 0.79 and person.age > 40,
        "Eyeglasses": "eye_g" in photo.parts,
        "Goatee": person.beard == "goatee",
        "Gray_Hair": person.grey >= 0.5,
        "Heavy_Makeup": person.lipstick > 0.6 and person.blush > 0.1,
        "High_Cheekbones": person.taper > 0.15,
        "Male": person.male,
        "Mouth_Slightly_Open": scene.mouth_open > 0.2,
        "Mustache": person.beard in ("moustache", "full"),
        "Narrow_Eyes": person.eye_open < 0.4,
        "No_Beard": person.beard == "none",
        "Oval_Face": person.jaw < 2.5,
        "Pale_Skin": min(person.skin) > 185,
        "Pointy_Nose": person.nose_width < 0.13,
        "Receding_Hairline": person.receding > 0.6 and not person.bald and not hat,
        "Rosy_Cheeks": person.blush > 0.25,
        "Sideburns": person.male and person.sideburns > 0.2,
        "Smiling": scene.smile > 0.4,
        "Straight_Hair": not person.bald and person.curl < 0.1,
        "Wavy_Hair": not person.bald and person.curl > 0.4,
        "Wearing_Earrings": person.earrings,
        "Wearing_Hat": hat,
        "Wearing_Lipstick": person.lipstick > 0.2,
        "Wearing_Necklace": scene.necklace,
        "Wearing_Necktie": scene.necktie,
        "Young": person.age < 45,
    }


def write_tables(root: Path, records: Iterable[FaceRecord], seed: int) -> None:
    """The annotation, pose and mapping files and `label_frame.csv`."""
    rows = sorted(records, key=lambda record: record.index)
    annotation = [str(len(rows)), " ".join(ATTRIBUTES)]
    pose = [str(len(rows)), "Yaw Pitch Raw"]
    for row in rows:
        signs = " ".join("1" if name in row.attributes else "-1" for name in ATTRIBUTES)
        annotation.append(f"{row.index}.jpg  {signs}")  # two spaces, as in the original
        pose.append(f"{row.index}.jpg " + " ".join(f"{angle:.4f}" for angle in row.pose))
    _write_lines(root / "CelebAMask-HQ-attribute-anno.txt", annotation)
    _write_lines(root / "CelebAMask-HQ-pose-anno.txt", pose)

    rng = np.random.default_rng([seed, MAPPING_STREAM])
    originals = rng.choice(max(CELEBA_IMAGES, len(rows)), len(rows), replace=False)
    mapping = ["idx     orig_idx    orig_file"]
    mapping += [f"{row.index:<8d}{original:<12d}{original + 1:06d}.jpg" for row, original in zip(rows, originals)]
    _write_lines(root / "CelebA-HQ-to-CelebA-mapping.txt", mapping)

    with (root / "label_frame.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "forehead", "hair length"])
        writer.writerows([f"{row.index}.jpg", row.forehead, row.hair_length] for row in rows)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
