"""UTKFace and ImageFolder on small folders, and on the real faces where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_loader.joint import split_joint
from data_loader.readers import ImageFolder, UTKFace
from data_loader.split import make_split
from tests.test_mask_faces import SHARED, refused

UTK = SHARED / "data" / "utkface"
WORN = SHARED / "data" / "mask_worn_state" / "training"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


# --- UTKFace -----------------------------------------------------------------------------------------------------

NAMES = ("29_0_0_20170110183726390.jpg.chip.jpg", "part2/30_1_2_20170105174847679.jpg", "100_1_4_1.JPG.chip.jpg")


def test_utkface_labels_are_in_the_names(tmp_path: Path):
    frame = UTKFace(str(touch(tmp_path, *NAMES, "._29_0_0_2.jpg", "part2/notes.txt")))
    assert list(frame.rows["path"]) == sorted(NAMES) and list(frame.classes) == ["gender", "age"]
    rows = frame.rows.set_index("path")
    assert list(rows.loc[list(NAMES), "gender"]) == [0, 1, 1] and list(rows.loc[list(NAMES), "age"]) == [0, 1, 2]
    assert list(rows.loc[list(NAMES), "years"]) == [29, 30, 100]
    assert list(rows.loc[list(NAMES), "race"]) == ["white", "asian", "other"]
    assert (frame.rows["group"] == frame.rows["path"]).all() and "no labels.csv" in "\n".join(frame.history)
    assert UTKFace(str(tmp_path), age_boundaries=[18]).classes["age"] == ("<18", ">=18")
    joint = UTKFace(str(tmp_path), joint=True)
    assert joint.classes == {"joint": tuple(f"{g}/{a}" for g in ("male", "female") for a in ("<30", "30-59", ">=60"))}
    assert list(joint.rows.set_index("path").loc[list(NAMES), "joint"]) == [0, 4, 5]
    assert split_joint(joint).rows[["gender", "age"]].equals(frame.rows[["gender", "age"]])


def test_utkface_broken_names_are_skipped_and_counted(tmp_path: Path):
    broken = ("61_1_20170109142408075.jpg.chip.jpg", "61_3_20170109150557335.jpg", "44_2_0_2017.jpg", "8_0_5_2017.jpg")
    sloppy = ("24_0_1_20170116220224657 .jpg.chip.jpg", "55_0_0_20170116232725357jpg.chip.jpg")
    frame = UTKFace(str(touch(tmp_path, *NAMES, *broken, *sloppy)))
    assert len(frame) == 5 and any(line.startswith("4 images (") and "skipped" in line for line in frame.history)
    assert "age_gender_race_date" in refused(UTKFace, str(touch(tmp_path / "other", "x.jpg")))
    (tmp_path / "empty").mkdir()
    assert "there are no images" in refused(UTKFace, str(tmp_path / "empty"))


def test_utkface_groups_of_a_table(tmp_path: Path):
    root = touch(tmp_path, *NAMES)
    (root / "labels.csv").write_text(f"path,group,person\n{NAMES[0]},7,a\n{NAMES[1]},7,\n")
    groups = dict(zip(*(UTKFace(str(root)).rows[name] for name in ("path", "group"))))
    assert groups == {NAMES[0]: "7", NAMES[1]: "7", NAMES[2]: NAMES[2]}
    assert set(UTKFace(str(root), group="person").rows["group"]) == {"a", NAMES[1], NAMES[2]}
    assert UTKFace(str(root), group=None).rows["group"].is_unique
    assert "did you mean 'group'" in refused(UTKFace, str(root), group="grup")
    (root / "labels.csv").write_text("path,group\npart1/1.jpg,7\n")
    assert "no row is about an image" in refused(UTKFace, str(root))


@pytest.mark.skipif(not UTK.is_dir(), reason=f"{UTK} is not there")
def test_utkface_real_faces():
    frame = UTKFace(str(UTK))
    assert len(frame) == 9778 and frame.rows["group"].nunique() == 9492
    assert frame.counts("gender") == {"male": 2356 + 1360 + 656, "female": 3325 + 1287 + 794}
    assert frame.counts("age") == {"<30": 3325 + 2356, "30-59": 1287 + 1360, ">=60": 794 + 656}
    split = make_split(frame, 0.2, 0.1)
    assert frame.rows["group"].groupby(split).nunique().sum() == 9492
    assert abs((split == "valid").mean() - 0.2) < 0.005


# --- ImageFolder -------------------------------------------------------------------------------------------------


def test_image_folder_classes_are_the_sorted_folders(tmp_path: Path):
    root = touch(tmp_path, "b/1.jpg", "b/deep/er/2.PNG", "a/3.webp", "a/._3.jpg", "a/readme.txt", ".git/x.jpg")
    touch(root, "unlabeled/4.jpeg", "unlabeled/5.jpg", "loose.jpg")
    frame = ImageFolder(str(root), attribute="hair")
    assert list(frame.rows["path"]) == ["a/3.webp", "b/1.jpg", "b/deep/er/2.PNG", "unlabeled/4.jpeg", "unlabeled/5.jpg"]
    assert frame.classes == {"hair": ("a", "b")} and list(frame.rows["hair"]) == [0, 1, 1, -1, -1]
    assert (frame.rows["group"] == frame.rows["path"]).all() and "loose.jpg" in "\n".join(frame.history)
    assert "1 file (readme.txt) with another ending than .jpg" in "\n".join(frame.history)


def test_image_folder_may_keep_its_classes_in_a_folder_labeled(tmp_path: Path):
    root = touch(tmp_path / "root", "labeled/1/b.jpg", "labeled/0/a.jpg", "labeled/2/c.jpg", "unlabeled/d.jpg")
    frame = ImageFolder(str(root), attribute="hair")
    assert list(frame.rows["path"]) == ["labeled/0/a.jpg", "labeled/1/b.jpg", "labeled/2/c.jpg", "unlabeled/d.jpg"]
    assert frame.classes == {"hair": ("0", "1", "2")} and list(frame.rows["hair"]) == [0, 1, 2, -1]
    touch(root, "labeled/loose.jpg")
    assert "1 image (loose.jpg) outside of the class folders" in "\n".join(ImageFolder(str(root)).history)
    split = touch(tmp_path / "split", "labeled/train/1.jpg", "labeled/valid/2.jpg", "unlabeled/3.jpg")
    assert "splits, not classes" in refused(ImageFolder, str(split))
    flat = touch(tmp_path / "flat", "labeled/1.jpg", "unlabeled/2.jpg")
    assert "expected a folder for each of two or more classes" in refused(ImageFolder, str(flat))
    touch(root, "other/e.jpg")  # then `labeled` is a class like it
    assert ImageFolder(str(root)).classes == {"label": ("labeled", "other")}


def test_image_folder_mistakes(tmp_path: Path):
    assert "no folder" in refused(ImageFolder, str(tmp_path / "nowhere"))
    assert "found a" in refused(ImageFolder, str(touch(tmp_path / "one", "a/1.jpg", "unlabeled/2.jpg")))
    assert "splits, not classes" in refused(ImageFolder, str(touch(tmp_path / "two", "train/a/1.jpg", "val/a/2.jpg")))
    root = touch(tmp_path / "three", "a/1.jpg", "b/2.txt", "c/3.jpg")
    assert "1 class folder (b)" in refused(ImageFolder, str(root))
    os.remove(root / "b" / "2.txt")
    os.rmdir(root / "b")
    assert len(ImageFolder(str(root))) == 2 and "'group'" in refused(ImageFolder, str(root), attribute="group")


@pytest.mark.skipif(not WORN.is_dir(), reason=f"{WORN} is not there")
def test_image_folder_real_faces():
    frame = ImageFolder(str(WORN), attribute="mask")
    assert frame.classes == {"mask": ("correct", "incorrect")} and frame.counts("mask")["correct"] == 275
    assert "splits, not classes" in refused(ImageFolder, str(WORN.parent))
