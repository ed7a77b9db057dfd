"""The mask competition's data: the traps of its files, and the stand-in with exactly its 18,900 names and classes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from data_loader.age import age_names, boundaries_of
from data_loader.decode import read_image
from data_loader.joint import joint_label, joint_parts, split_joint
from data_loader.label_frame import LabelFrame
from data_loader.readers import MaskFaces
from data_loader.readers.mask_faces import STATES, eval_files
from data_loader.split import check_leakage, make_split
from utils.errors import UserError

SHARED = Path(os.environ.get("FACES_SHARED", Path(__file__).resolve().parents[2] / "shared"))
TABLES = SHARED / "data" / "mask_competition_tables"
CLASS_COUNTS = [2745, 2050, 415, 3660, 4085, 545, *[549, 410, 83, 732, 817, 109] * 2]

PEOPLE = [
    ("000020", "female", 45),
    ("000003-1", "male", 60),
    ("003397", "female", 20),
    ("003397", "female", 19),
    ("000005", "male", 29),
    ("000006", "male", 59),
]


def jpeg() -> bytes:
    return cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1].tobytes()


def competition(root: Path, people=PEOPLE, extension=lambda number, state: ".jpg", bom: bool = True) -> Path:
    """A small competition folder with AppleDouble files everywhere and a table with BOM and CRLF."""
    lines = ["id,gender,race,age,path"]
    for number, (person, gender, age) in enumerate(people):
        folder = root / "images" / f"{person}_{gender}_Asian_{age}"
        folder.mkdir(parents=True)
        for state in STATES:
            (folder / f"{state}{extension(number, state)}").write_bytes(jpeg())
            (folder / f"._{state}.jpg").write_bytes(b"\0\5\26\7")
        lines.append(f"{person},{gender},Asian,{age},{folder.name}")
    (root / "images" / "._images").write_bytes(b"\0\5\26\7")
    (root / "._train.csv").write_bytes(b"\0\5\26\7")
    (root / "train.csv").write_bytes((b"\xef\xbb\xbf" if bom else b"") + "\r\n".join([*lines, ""]).encode())
    return root


def refused(call, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def same(a: LabelFrame, b: LabelFrame) -> bool:
    return a.rows.equals(b.rows) and a.classes == b.classes


# --- labels ------------------------------------------------------------------------------------------------------


def test_the_joint_label_is_the_competitions():
    assert joint_label(2, 1, 2) == 17 and joint_label(0, 1, 0) == 3 and joint_label(1, -1, 0) == -1
    labels = np.arange(18)
    mask, gender, age = joint_parts(labels)
    assert mask[11] == 1 and gender[11] == 1 and age[11] == 2
    assert (joint_label(mask, gender, age) == labels).all() and len(set(zip(mask, gender, age))) == 18


@pytest.mark.parametrize("boundaries", [[30, 60], [30], [20, 30, 58]])
def test_age_class_names_tell_their_boundaries(boundaries: list[int]):
    assert boundaries_of(age_names(boundaries)) == boundaries
    assert boundaries_of(("young", "old")) is None and boundaries_of(("<30", ">=29")) is None


def test_labels_groups_and_raw_columns(tmp_path: Path):
    frame = MaskFaces(str(competition(tmp_path)))
    assert frame.classes == {
        "mask": ("wear", "incorrect", "normal"),
        "gender": ("male", "female"),
        "age": ("<30", "30-59", ">=60"),
    }
    assert len(frame) == 42 and list(frame.rows["state"][:7]) == list(STATES)
    first = frame.rows.iloc[:7]
    assert set(first["path"].str.rpartition("/")[0]) == {"images/000020_female_Asian_45"}
    assert list(first["mask"]) == [0, 0, 0, 0, 0, 1, 2] and set(first["gender"]) == {1} and set(first["age"]) == {1}
    per_person = frame.rows.groupby("group", sort=False).first()
    assert list(per_person["years"]) == [45, 60, 20, 19, 29, 59] and list(per_person["age"]) == [1, 2, 0, 0, 0, 1]
    assert list(per_person["id"])[:2] == ["000020", "000003-1"] and frame.rows["years"].dtype == np.int64
    assert (frame.rows["group"] == frame.rows["person"]).all() and set(frame.rows["race"]) == {"Asian"}


def test_ids_that_two_persons_share_keep_them_apart(tmp_path: Path):
    frame = MaskFaces(str(competition(tmp_path)))
    assert frame.rows["group"].nunique() == 6 and frame.rows["id"].nunique() == 5
    assert any("003397" in line and "shared" in line for line in frame.history)


def test_a_class_without_an_image_is_warned_of(tmp_path: Path):
    history = MaskFaces(str(competition(tmp_path)), age_boundaries=[30, 200]).history
    assert "warning: no image is '>=200', so it cannot be learned" in next(n for n in history if n.startswith("age:"))
    assert not any("warning" in note for note in MaskFaces(str(tmp_path)).history)


def test_age_boundaries_are_configurable(tmp_path: Path):
    root = str(competition(tmp_path))
    frame = MaskFaces(root, age_boundaries=[20, 58])
    assert frame.classes["age"] == ("<20", "20-57", ">=58")
    assert list(frame.rows.groupby("group", sort=False)["age"].first()) == [1, 2, 1, 0, 1, 2]
    assert "age_boundaries" in refused(MaskFaces, root, age_boundaries=[60, 30])
    assert "age_boundaries" in refused(MaskFaces, root, age_boundaries=[])


def test_joint_is_one_attribute_that_can_be_taken_apart_again(tmp_path: Path):
    root = str(competition(tmp_path))
    three, one = MaskFaces(root), MaskFaces(root, joint=True)
    assert list(one.classes) == ["joint"] and len(one.classes["joint"]) == 18
    assert one.classes["joint"][0] == "wear/male/<30" and one.classes["joint"][17] == "normal/female/>=60"
    wanted = three.rows["mask"] * 6 + three.rows["gender"] * 3 + three.rows["age"]
    assert (one.rows["joint"] == wanted).all() and set(one.rows["gender"]) == {"male", "female"}
    apart = split_joint(one)
    assert apart.classes == three.classes
    assert (apart.rows[["mask", "gender", "age"]] == three.rows[["mask", "gender", "age"]]).all().all()


def test_blank_labels_are_unlabeled(tmp_path: Path):
    root = competition(tmp_path)
    text = (root / "train.csv").read_text(encoding="utf-8-sig").replace("000020,female,Asian,45,", "000020,,Asian,,")
    (root / "train.csv").write_text(text)
    frame = MaskFaces(str(root))
    assert set(frame.rows["gender"][:7]) == {-1} and set(frame.rows["age"][:7]) == {-1}
    assert list(frame.rows["mask"][:7]) == [0] * 5 + [1, 2] and frame.rows["years"][:7].isna().all()
    assert set(MaskFaces(str(root), joint=True).rows["joint"][:7]) == {-1}
    assert any("another gender or age" in line and "000020" in line for line in frame.history)


# --- files -------------------------------------------------------------------------------------------------------


def test_extensions_are_mixed_and_apple_double_files_are_none(tmp_path: Path):
    endings = [".jpg", ".JPG", ".jpeg", ".png", ".PNG", ".Jpeg"]
    frame = MaskFaces(str(competition(tmp_path, extension=lambda number, _: endings[number])))
    assert len(frame) == 42 and not frame.rows["path"].str.contains(r"/\._").any()
    assert {os.path.splitext(path)[1] for path in frame.rows["path"]} == set(endings)
    assert all((frame.root / path).is_file() for path in frame.rows["path"])


def test_png_with_four_channels_is_read_as_rgb(tmp_path: Path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 2], pixels[..., 3] = 200, 128  # OpenCV writes BGRA: red, half transparent
    cv2.imwrite(str(tmp_path / "normal.png"), pixels)
    image = read_image(tmp_path / "normal.png", (8, 8))
    assert image.shape == (8, 8, 3) and list(image[4, 4]) == [200, 0, 0]


def test_both_roots_give_the_same_frame(tmp_path: Path):
    competition(tmp_path / "data" / "train")
    inner, outer = MaskFaces(str(tmp_path / "data" / "train")), MaskFaces(str(tmp_path / "data"))
    assert same(inner, outer) and inner.root == outer.root == tmp_path / "data" / "train"
    (tmp_path / "data" / "eval" / "images").mkdir(parents=True)
    assert f"did you mean '{tmp_path / 'data' / 'train'}'" in refused(MaskFaces, str(tmp_path))
    (tmp_path / "data" / "images").mkdir()
    assert "name one" in refused(MaskFaces, str(tmp_path / "data"))


def test_what_is_wrong_with_files_and_table_is_named(tmp_path: Path):
    root = competition(tmp_path)
    table = (root / "train.csv").read_text(encoding="utf-8-sig")
    folder = root / "images" / "000020_female_Asian_45"

    def with_table(text: str) -> str:
        (root / "train.csv").write_text(text)
        return refused(MaskFaces, str(root))

    assert "femal" in with_table(table.replace("000020,female", "000020,femal"))
    assert "4O of 000020_female_Asian_45" in with_table(table.replace("Asian,45", "Asian,4O"))
    assert "1 person (000099_male_Asian_20)" in with_table(table + "000099,male,Asian,20,000099_male_Asian_20\n")
    assert "different labels" in with_table(table + "000020,male,Asian,45,000020_female_Asian_45\n")
    assert "column 'gender'" in with_table(table.replace("gender", "sex"))

    (root / "train.csv").write_text(table)
    (folder / "mask1.png").write_bytes(jpeg())
    assert "mask1.png" in refused(MaskFaces, str(root))
    (folder / "mask1.png").rename(folder / "mask6.png")
    (folder / "normal.jpg").unlink()
    (root / "images" / "000098_male_Asian_30").mkdir()
    frame = MaskFaces(str(root))
    said = "\n".join(frame.history)
    assert len(frame) == 41 and "1 file (000020_female_Asian_45/mask6.png) not used" in said
    assert "1 photo (000020_female_Asian_45/normal) missing" in said and "1 folder (000098_male_Asian_30)" in said
    for photo in folder.glob("*.jpg"):
        photo.unlink()
    assert "without any of the photos" in refused(MaskFaces, str(root))


def test_evaluation_images_come_in_the_order_of_info_csv(tmp_path: Path):
    competition(tmp_path / "train")
    names = ["c0.jpg", "a1.jpg", "b2.jpg"]
    (tmp_path / "eval" / "images").mkdir(parents=True)
    for name in [*names, "._c0.jpg"]:
        (tmp_path / "eval" / "images" / name).write_bytes(jpeg())
    (tmp_path / "eval" / "info.csv").write_text("\ufeffImageID,ans\r\n" + "".join(f"{n},0\r\n" for n in names))
    for root in (tmp_path, tmp_path / "eval", tmp_path / "train"):
        info, files = eval_files(root)
        assert [file.name for file in files] == names and info == tmp_path / "eval" / "info.csv"
    info.write_text("ImageID, ans\n\nc0.jpg ,0\n ,0\n,0\n")
    assert f"{info}: line 4: the cell of 'ImageID' is blank (2 such rows)" in refused(eval_files, tmp_path)
    info.write_text("ImageID,ans\na1.jpg,0\n")
    (tmp_path / "eval" / "images" / "a1.jpg").unlink()
    assert "a1.jpg" in refused(eval_files, tmp_path)


# --- defects of the official baseline ------------------------------------------------------------------------------


def test_defect_02_split_without_replacement(tmp_path: Path):
    people = [(f"{n:06d}", ("male", "female")[n % 2], (25, 45, 60)[n % 3]) for n in range(120)]
    frame = MaskFaces(str(competition(tmp_path, people)))
    split = make_split(frame, 0.2, 0.0)
    persons = frame.rows["group"].groupby(split).nunique()
    assert persons["valid"] == 24 and persons["train"] == 96
    assert split.equals(make_split(frame, 0.2, 0.0)) and not split.equals(make_split(frame, 0.2, 0.0, seed=1))


def test_defect_03_a_second_instance_starts_empty(tmp_path: Path):
    root = str(competition(tmp_path))
    first = MaskFaces(root, age_boundaries=[20])
    second, third = MaskFaces(root), MaskFaces(root)
    assert len(first) == len(second) == 42 and same(second, third)
    assert second.classes["age"] == ("<30", "30-59", ">=60")


def test_defect_08_the_table_not_listdir_says_who_is_who(tmp_path: Path, monkeypatch):
    root = str(competition(tmp_path))
    frame = MaskFaces(root)
    listed, scanned = os.listdir, os.scandir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listed(path), reverse=True))
    monkeypatch.setattr(os, "scandir", lambda path: iter(sorted(scanned(path), key=lambda e: e.name, reverse=True)))
    assert same(frame, MaskFaces(root))
    assert frame.rows["path"].str.contains(frame.rows["person"].iloc[0], regex=False).sum() == 7
    told = frame.rows["person"].str.extract(r"_(\w+)_Asian_(\d+)")
    assert (told[0] == np.array(["male", "female"])[frame.rows["gender"]]).all()
    assert (told[1].astype(int) == frame.rows["years"]).all()


# --- the real names ------------------------------------------------------------------------------------------------


def stand_in(root: Path) -> Path:
    """The competition's 18,900 file names, each with its AppleDouble file, as links to one picture."""
    table = pd.read_csv(TABLES / "new_train.csv", dtype=str, encoding="utf-8-sig")
    (root / "picture").write_bytes(jpeg())
    images = root / "train" / "images"
    images.mkdir(parents=True)
    for directory, names in table.groupby(table["directory"].str.rpartition("/")[2], sort=False)["file"]:
        folder = images / str(directory)
        folder.mkdir()
        for name in names:
            os.link(root / "picture", folder / name)
            os.link(root / "picture", folder / f"._{name}")
    (root / "train" / "train.csv").write_bytes((TABLES / "train.csv").read_bytes())
    return root


@pytest.fixture(scope="module")
def real_names(tmp_path_factory) -> Path:
    if not TABLES.is_dir():
        pytest.skip(f"{TABLES} is not there")
    return stand_in(tmp_path_factory.mktemp("mask"))


def test_real_names_give_the_competitions_classes(real_names: Path):
    start = time.process_time()
    joint = MaskFaces(str(real_names), joint=True)
    assert time.process_time() - start < 3
    assert list(joint.counts("joint").values()) == CLASS_COUNTS and sum(CLASS_COUNTS) == len(joint) == 18900
    frame = MaskFaces(str(real_names))
    assert frame.counts("mask") == {"wear": 13500, "incorrect": 2700, "normal": 2700}
    assert frame.counts("gender") == {"male": 1042 * 7, "female": 1658 * 7}
    assert frame.counts("age") == {"<30": 1281 * 7, "30-59": 1227 * 7, ">=60": 192 * 7}
    table = pd.read_csv(TABLES / "new_train.csv", dtype=str, encoding="utf-8-sig")
    path = "images/" + table["directory"].str.rpartition("/")[2] + "/" + table["file"]
    published = dict(zip(path, table["label"].astype(int)))
    assert published == dict(zip(joint.rows["path"], joint.rows["joint"]))
    assert "1 id (003397)" in "\n".join(frame.history)


def test_real_names_split_by_person_without_a_leak(real_names: Path):
    frame = MaskFaces(str(real_names))
    split = make_split(frame, 0.2, 0.0)
    check_leakage(frame, split)
    persons = {side: set(frame.rows["group"][split == side]) for side in ("train", "valid")}
    assert not persons["train"] & persons["valid"] and len(persons["valid"]) == 540 and len(persons["train"]) == 2160
    assert (split == "valid").sum() == 3780
    joint = MaskFaces(str(real_names), joint=True)
    valid = np.bincount(joint.rows["joint"][make_split(joint, 0.2, 0.0) == "valid"], minlength=18)
    assert np.abs(valid / CLASS_COUNTS - 0.2).max() < 0.01
