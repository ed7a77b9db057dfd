"""Small runs on the same faces, for tests of several checkpoints at once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from trainer import session
from utils.config import config_from_dict

AGES = ("<30", "30-59", ">=60")
CLASSES = {"mask": ["wear", "incorrect", "normal"], "gender": ["male", "female"], "age": list(AGES)}
YEARS = (20, 28, 29, 30, 45, 59, 60, 70)


def draw_faces(root: Path) -> None:
    """72 pictures of 36 persons; the colour hints at the labels (age by years, blank for every twelfth picture)."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["path,person,mask,gender,age,years"]
    for i in range(72):
        mask, gender, years = i % 3, i // 2 % 2, YEARS[i // 2 % len(YEARS)]
        age = (years >= 30) + (years >= 60)
        colour = np.array([mask * 60, gender * 120, age * 60])
        picture = np.clip(rng.normal(colour + 40, 60, (24, 24, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "images" / f"{i:02d}.png"), picture)
        shown = AGES[age] if i % 12 else ""
        lines.append(
            f"images/{i:02d}.png,p{i // 2:02d},{CLASSES['mask'][mask]},{CLASSES['gender'][gender]},{shown},{years}"
        )
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def train(folder: Path, name: str, attributes: list[str], **sections) -> Path:
    """A run of a few steps; its best checkpoint."""
    classes = {attribute: CLASSES[attribute] for attribute in attributes}
    data = {"root": str(folder / "faces"), "frame": "labels.csv", "group": "person"}
    config = {
        "name": name,
        "dataset": {"type": "LabelCSV", "args": {**data, "attributes": attributes, "classes": classes}},
        "split": {"valid": 0.4, "stratify": ["gender"] if "gender" in attributes else None},
        "views": {"size": 24},
        "data_loader": {"batch_size": 16, "num_workers": 0, "cache": "ram"},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet", "pretrained": False}},
        "optimizer": {"type": "AdamW", "args": {"lr": 0.01}},
        "trainer": {"type": "SupervisedTrainer", "epochs": 1, "steps_per_epoch": 3, "save_dir": str(folder / "saved")},
        "logger": {"console": False, "tensorboard": False},
        **sections,
    }
    trainer = session.train(config_from_dict(config, name), None, [], None, "cpu", "x")
    trainer.train()
    trainer.logger.close()
    return folder / "saved" / name / "x" / "checkpoints" / "best.pth"


def train_all(folder: Path) -> dict[str, Path]:
    """Four runs on one split (two of them for the mask), a gender model on another, and the folder of the faces."""
    draw_faces(folder / "faces")
    found = {"faces": folder / "faces"}
    found["gender"] = train(folder, "gender", ["gender"])
    same = {"split": {"from": str(folder / "saved" / "gender" / "x" / "split.csv")}}
    found["mask"] = train(folder, "mask", ["mask"], **same, views={"size": 32})
    found["mask2"] = train(folder, "mask2", ["mask"], **same, seed=5)
    found["age"] = train(folder, "age", ["age"], **same)
    found["other"] = train(folder, "other", ["gender"], split={"valid": 0.4, "seed": 1})
    return found
