"""The corrections overlay and the rules for training ages: what they change, what they report, what they refuse."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_loader.age import drop_near_boundary, shift_age_boundary
from data_loader.corrections import apply_corrections
from data_loader.joint import joint_label
from data_loader.label_frame import LabelFrame
from data_loader.prepare_labels import prepare_labels, read_labels
from data_loader.readers import LabelCSV, MaskFaces
from tests.test_mask_faces import TABLES, competition, jpeg, refused, same, stand_in
from utils.config import config_from_dict
from utils.errors import ConfigError

FEMALE = "000020_female_Asian_45"
OLD = "000003-1_male_Asian_60"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return competition(tmp_path / "train")


@pytest.fixture
def frame(root: Path) -> LabelFrame:
    return MaskFaces(str(root))


def correct(frame: LabelFrame, *rows: str, header: str = "id,field,from,to") -> LabelFrame:
    (frame.root / "fix.csv").write_text("\n".join([header, *rows]) + "\n")
    return apply_corrections(frame, "fix.csv")


def labels(frame: LabelFrame, person: str, attribute: str) -> dict[str, object]:
    """{state: class name, or None if not labeled} of one person's photos."""
    rows = frame.rows[frame.rows["person"] == person]
    names = np.array([*frame.classes[attribute], None], dtype=object)
    return dict(zip(rows["state"], names[rows[attribute]]))


def changed(before: LabelFrame, after: LabelFrame) -> set[tuple[str, str]]:
    """(person, column) of everything that differs."""
    found = set()
    for column in before.rows.columns:
        differ = before.rows[column].astype(str) != after.rows[column].astype(str)
        found |= {(person, column) for person in before.rows["person"][differ]}
    return found


# --- what corrections do -------------------------------------------------------------------------------------------


def test_gender_by_id_and_by_path(frame: LabelFrame):
    fixed = correct(frame, "000020,gender,female,male", "000003-1,gender,male,female")
    assert set(labels(fixed, FEMALE, "gender").values()) == {"male"}
    assert set(labels(fixed, OLD, "gender").values()) == {"female"}
    assert changed(frame, fixed) == {(FEMALE, "gender"), (OLD, "gender")}
    assert "2 applied, 0 already right, 0 unmatched, 0 conflicting; 14 images changed" in fixed.history[-1]
    for path in (FEMALE, f"images/{FEMALE}", f"images/{FEMALE}/"):
        by_path = correct(frame, f"{path},gender,female,male", header="path,field,from,to")
        assert changed(frame, by_path) == {(FEMALE, "gender")}
    one = correct(frame, f"images/{FEMALE}/mask2.jpg,gender,,male", header="path,field,from,to")
    assert [name for name, value in labels(one, FEMALE, "gender").items() if value == "male"] == ["mask2"]


def test_years_and_age_classes(frame: LabelFrame):
    fixed = correct(frame, "000006,age,59,60", "000005,years,29,31", "000020,age,30-59,<30", "000003-1,age,>=60,>=60")
    people = fixed.rows.groupby("person")[["age", "years"]].first()
    assert list(people.loc["000006_male_Asian_59"]) == [2, 60] and list(people.loc["000005_male_Asian_29"]) == [1, 31]
    # 45 years do not fit '<30': the years are unknown now, so that no later rule derives a class from them.
    assert people.loc[FEMALE, "age"] == 0 and np.isnan(people.loc[FEMALE, "years"])
    assert people.loc[OLD, "years"] == 60 and "3 applied, 1 already right" in fixed.history[-1]
    assert correct(frame, "000006,age,59,60").rows["years"].dtype == np.int64
    mixed = correct(frame, "000006,age,59,>=60")
    assert set(labels(mixed, "000006_male_Asian_59", "age").values()) == {">=60"}
    assert "1 already right" in correct(mixed, "000006,age,59,>=60").history[-1]


def test_single_photos_of_a_person(frame: LabelFrame):
    fixed = correct(frame, "000020,mask,incorrect_mask,wear", "000003-1,mask,mask3,incorrect")
    assert labels(fixed, FEMALE, "mask")["incorrect_mask"] == "wear"
    assert [s for s, c in labels(fixed, OLD, "mask").items() if c == "incorrect"] == ["mask3", "incorrect_mask"]
    assert "2 images changed" in fixed.history[-1]


def test_unsure_is_unlabeled_and_drop_leaves_the_images_out(frame: LabelFrame):
    rows = ["000020,gender,?,?", "000003-1,mask,normal,unsure", "000005,person,-,drop", "000006,mask,normal,drop"]
    fixed = correct(frame, *rows)
    assert set(labels(fixed, FEMALE, "gender").values()) == {None}
    assert [s for s, c in labels(fixed, OLD, "mask").items() if c is None] == ["normal"]
    assert labels(fixed, "000005_male_Asian_29", "mask") == {}
    assert "normal" not in labels(fixed, "000006_male_Asian_59", "mask") and len(fixed) == 42 - 8
    assert "0 images changed, 8 made unsure, 8 dropped" in fixed.history[-1]


def test_joint_labels_are_derived_anew(root: Path):
    rows = ["000020,gender,female,male", "000003-1,mask,incorrect_mask<->normal,swap files", "000005,age,?,unsure"]
    three, one = (correct(MaskFaces(str(root), joint=joint), *rows) for joint in (False, True))
    assert list(one.classes) == ["joint"] and len(one.classes["joint"]) == 18
    assert (one.rows["joint"] == joint_label(*(three.rows[part] for part in ("mask", "gender", "age")))).all()
    assert (one.rows["joint"] == -1).sum() == 7 and set(one.rows["gender"][:7]) == {"male"}
    assert same(one.with_rows(one.rows), correct(one, *rows)) and "1 already right" not in one.history[-1]


def test_any_reader(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg())
    (tmp_path / "t.csv").write_text("path,hair,camera\na.jpg,long,x\nb.jpg,short,\n")
    frame = LabelCSV(str(tmp_path), "t.csv", ["hair"])
    fixed = correct(frame, "a.jpg,hair,long,short", "b.jpg,camera,,y", header="path,field,from,to")
    assert list(fixed.rows["hair"]) == [1, 1] and list(fixed.rows["camera"]) == ["x", "y"]
    assert "no image has this id" in refused(correct, frame, "1,hair,long,short")


# --- what they refuse ----------------------------------------------------------------------------------------------


def test_problems_are_counted_and_listed(frame: LabelFrame):
    rows = [f"{number},gender,female,male" for number in range(9000, 9012)]
    text = refused(correct, frame, "000020,gender,female,male", "000005,gender,female,male", *rows)
    assert "14 corrections: 1 applied, 1 already right, 12 unmatched, 0 conflicting" in text
    assert len(text.splitlines()) == 12 and "row 3 (9000, gender: female → male)" in text and "and 2 more" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["003397,gender,female,male"], "2 persons share this id: 003397_female_Asian_20, 003397_female_Asian_19"),
        (["000006,age,58,60"], "years is 59, not 58"),
        (["000020,age,<30,30-59", "000020,age,30-59,<30"], "contradicts row 1"),
        (["000020,gender,female,male", "000020,gender,female,drop"], "contradicts row 1"),
        (["000020,years,45,61", "000020,age,30-59,<30"], "contradicts row 1"),
        (["000020,gender,female,femle"], "did you mean 'female'"),
        (["000020,gendr,female,male"], "no field 'gendr'; did you mean 'gender'"),
        (["000020,gender,female,"], "'to' is blank"),
        (["000020,years,45,old"], "'old' is not an age in whole years"),
        (["000020,mask,,normal"], "which of the person's photos"),
        (["000020,mask,mask9,normal"], "no class 'mask9'"),
        (["000020,mask,incorrect_mask,swap"], "a swap needs"),
        ([",gender,female,male"], "neither path nor id"),
        (["000020,gender,female,male", "000020,person,,drop"], "contradicts row 1"),
        (["000020,person,,drop", "000020,gender,female,male"], "contradicts row 1"),
        (["000020,mask,normal,unsure", "000020,mask,mask3,drop", "000020,person,,drop"], "contradicts row 1"),
    ],
)
def test_refused(frame: LabelFrame, rows: list[str], message: str):
    assert message in refused(correct, frame, *rows)


def test_a_shared_id_is_settled_by_the_path(frame: LabelFrame):
    row = "003397,003397_female_Asian_19,gender,female,male"
    fixed = correct(frame, row, header="id,path,field,from,to")
    assert changed(frame, fixed) == {("003397_female_Asian_19", "gender")}
    wrong = row.replace("003397,", "000020,", 1)
    assert "not of one image" in refused(correct, frame, wrong, header="id,path,field,from,to")


def test_the_file_itself(frame: LabelFrame):
    assert "no file 'nix.csv'" in refused(apply_corrections, frame, "nix.csv")
    assert "column 'to'" in refused(correct, frame, "000020,gender,female", header="id,field,from")
    assert "0 corrections: 0 applied" in correct(frame).history[-1] and same(correct(frame), frame)
    assert "column 'to'" in refused(correct, frame, header="id,field,from")
    rows = ["000020,gender,female,male,clear", "", "000005,age,29,31,seen twice, and asked"]
    text = refused(correct, frame, *rows, header="id,field,from,to,why")
    assert "fix.csv, line 4: 6 cells, but 5 columns (id, field, from, to, why)" in text and "double quotes" in text


def test_a_person_is_relabeled_and_one_photo_dropped(frame: LabelFrame):
    rows = ["000020,gender,female,male", "000020,mask,normal,drop", "000005,gender,male,male", "000005,person,,drop"]
    fixed = correct(frame, *rows)
    assert len(fixed) == len(frame) - 8 and set(labels(fixed, FEMALE, "gender").values()) == {"male"}
    assert "3 applied, 1 already right" in fixed.history[-1] and "6 images changed" in fixed.history[-1]


# --- ages of training rows -----------------------------------------------------------------------------------------


def ages(root: Path, joint: bool = False) -> tuple[LabelFrame, pd.Series]:
    """Persons of 20 … 60 years, odd years in train."""
    people = [(f"{year:06d}", "female", year) for year in range(20, 61)]
    frame = MaskFaces(str(competition(root, people)), joint=joint)
    return frame, pd.Series(np.where(frame.rows["years"] % 2, "train", "valid"), name="split")


def test_age_boundaries_move_on_training_rows_only(tmp_path: Path):
    frame, split = ages(tmp_path)
    # 60 is the only '>=60' and even, so one class more than train has: boundaries of 58 give it 59.
    shifted = shift_age_boundary(frame, split, [32, 58])
    years, train = frame.rows["years"].to_numpy(), (split == "train").to_numpy()
    wanted = np.where(train, np.digitize(years, [32, 58]), np.digitize(years, [30, 60]))
    assert (shifted.rows["age"] == wanted).all() and shifted.classes == frame.classes
    assert "14 of 140 age labels changed: 30-59 → <30 (7), 30-59 → >=60 (7)" in shifted.history[-1]
    assert "3 boundaries make 4 classes" in refused(shift_age_boundary, frame, split, [30, 40, 50])


def test_defect_11_age_bands_are_dropped_from_training_only_and_only_when_asked(tmp_path: Path):
    frame, split = ages(tmp_path)
    dropped = drop_near_boundary(frame, split, [[57, 59]])
    gone = frame.rows["age"] != dropped.rows["age"]
    assert set(frame.rows["years"][gone]) == {57, 59} and set(dropped.rows["age"][gone]) == {-1}
    assert (frame.rows[["mask", "gender"]] == dropped.rows[["mask", "gender"]]).all().all()
    assert drop_near_boundary(frame, split, []) is frame
    assert "ends before it starts" in refused(drop_near_boundary, frame, split, [[59, 57]])
    assert "no training row is left in 30-59" in refused(drop_near_boundary, frame, split, [[30, 59]])


def test_age_rules_keep_what_is_unsure_or_corrected(tmp_path: Path):
    frame, split = ages(tmp_path)
    fixed = correct(frame, "000059,age,59,<30", "000057,age,57,unsure")
    shifted = shift_age_boundary(fixed, split, [30, 55])
    by_person = shifted.rows.groupby("id")["age"].first()
    assert by_person["000059"] == 0 and by_person["000057"] == -1 and by_person["000055"] == 2


def test_age_rules_on_joint_labels(tmp_path: Path):
    frame, split = ages(tmp_path, joint=True)
    changed = drop_near_boundary(shift_age_boundary(frame, split, [30, 58]), split, [[29, 31]])
    by_id = changed.rows[changed.rows["state"] == "normal"].set_index("id")["joint"]
    assert by_id["000059"] == joint_label(2, 1, 2) and by_id["000058"] == joint_label(2, 1, 1)
    assert by_id["000029"] == by_id["000031"] == -1 and by_id["000030"] == joint_label(2, 1, 1)


# --- through the config --------------------------------------------------------------------------------------------


def config_of(root: Path, **labels):
    return config_from_dict(
        {
            "name": "ages",
            "dataset": {"type": "MaskFaces", "args": {"root": str(root)}},
            "labels": labels,
            "split": {"valid": 0.3},
            "arch": {"type": "FaceClassifier"},
            "optimizer": {"type": "AdamW"},
            "trainer": {"type": "SupervisedTrainer", "epochs": 1},
        },
        "test",
    )


def test_config_applies_corrections_first_and_age_rules_to_train_last(tmp_path: Path):
    people = [(f"{n:06d}", ("male", "female")[n % 2], (29, 45, 58, 60, 40)[n // 2 % 5]) for n in range(60)]
    root = competition(tmp_path, people)
    (root / "fix.csv").write_text("id,field,from,to\n000002,age,45,58\n")
    train = {"age_boundaries": [30, 58], "drop_ages": [[28, 29]]}
    config = config_of(root, corrections="fix.csv", train={**train, "drop_ages": []}, filters=["years != 45"])
    found = prepare_labels(config)
    assert len(found.frame) == 60 * 7 - 11 * 7
    of_58 = found.frame.rows["years"] == 58
    assert set(found.frame.rows["age"][of_58 & (found.split == "train")]) == {2}
    assert set(found.frame.rows["age"][of_58 & (found.split == "valid")]) == {1}
    plain = prepare_labels(config, hide=False)
    assert set(plain.frame.rows["age"][of_58]) == {1} and plain.split.equals(found.split)
    text = refused(prepare_labels, config_of(root, train=train))
    assert "no training row is left in <30" in text
    with pytest.raises(ConfigError, match=r"labels\.train\.drop_ages"):
        config_of(root, train={"drop_ages": [57, 59]})


@pytest.mark.parametrize("heads", [["gender"], ["age"], ["mask"], ["age", "mask"]])
def test_a_corrections_file_means_the_same_whatever_is_learned(tmp_path: Path, heads: list[str]):
    """Attributes not in use, and the joint label, are corrected as heads are; a typo in them is as wrong."""
    root = competition(tmp_path)
    rows = ["000020,mask,incorrect_mask<->normal,swap", "000006,age,59,60", "000005,gender,male,female"]
    fix = root / "fix.csv"
    fix.write_text("\n".join(["id,field,from,to", *rows, "000003-1,age,>=60,unsure"]) + "\n")
    full = read_labels(config_of(root, corrections="fix.csv"))
    tree = config_of(root, corrections="fix.csv").to_dict()
    chosen = config_from_dict({**tree, "dataset": {**tree["dataset"], "attributes": heads}}, "x")
    some = read_labels(chosen)
    args = {**tree["dataset"]["args"], "joint": True}
    joint = read_labels(config_from_dict({**tree, "dataset": {"type": "MaskFaces", "args": args}}, "x"))
    assert list(some.classes) == heads and list(joint.classes) == ["joint"]
    for attribute, names in full.classes.items():
        wanted = [[*names, "unlabeled"][label] for label in full.rows[attribute]]
        held = some.rows[attribute]
        found = (
            [[*names, "unlabeled"][label] for label in held] if attribute in heads else list(held.fillna("unlabeled"))
        )
        assert found == wanted == list(joint.rows[attribute].fillna("unlabeled"))
    assert some.rows["years"].equals(full.rows["years"]) and some.history[-1] == full.history[-1]
    fix.write_text("id,field,from,to\n000006,gender,male,femal\n")
    message = refused(read_labels, chosen)
    assert "gender has no class 'femal'; did you mean 'female'?" in message


# --- defects of the official baseline ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("20,gender,female,male", "did you mean 000020?"),
        ("20.0,gender,female,male", "no image has this id"),
        ("000003,gender,male,female", "did you mean 000003-1?"),
        ("000020,gender,Female,male", "did you mean 'female'"),
        ("000020,gender,male,female", None),
        (" 000020 ,gender,female,male", None),
    ],
)
def test_defect_12_relabel_by_id_never_matches_nothing_silently(frame: LabelFrame, row: str, message: str | None):
    if message:
        assert message in refused(correct, frame, row)
    else:
        assert ("0 applied, 1 already right" in correct(frame, row).history[-1]) == ("gender,male" in row)


def test_defect_12_the_class_is_always_derived(frame: LabelFrame):
    fixed = correct(frame, "000020,years,45,61")
    assert set(labels(fixed, FEMALE, "age").values()) == {">=60"}


@pytest.mark.parametrize(
    "row", ["incorrect_mask,normal", "normal,incorrect_mask", "incorrect_mask<->normal,swap files"]
)
def test_defect_13_a_swap_of_two_photos_is_idempotent(frame: LabelFrame, row: str):
    once = correct(frame, f"000020,mask,{row}")
    swapped = labels(once, FEMALE, "mask")
    assert swapped["incorrect_mask"] == "normal" and swapped["normal"] == "incorrect" and swapped["mask1"] == "wear"
    assert changed(frame, once) == {(FEMALE, "mask")} and "2 images changed" in once.history[-1]
    twice = correct(once, f"000020,mask,{row}", "000020,mask,normal,incorrect_mask")
    assert same(once, twice) and "0 applied, 2 already right" in twice.history[-1]


# --- the published corrections -------------------------------------------------------------------------------------


@pytest.mark.skipif(not TABLES.is_dir(), reason=f"{TABLES} is not there")
def test_published_corrections_on_the_real_names(tmp_path: Path):
    frame = MaskFaces(str(stand_in(tmp_path)))
    table = pd.read_csv(TABLES / "published_label_corrections.csv", dtype=str)
    start = time.process_time()
    fixed = apply_corrections(frame, str(TABLES / "published_label_corrections.csv"))
    assert time.process_time() - start < 2
    assert "57 corrections: 56 applied, 1 already right, 0 unmatched, 0 conflicting" in fixed.history[-1]
    gender = table[table["field"] == "gender"]
    to_male, to_female = (int((gender["to"] == name).sum()) for name in ("male", "female"))
    suspect = frame.rows[frame.rows["id"].isin(gender["id"][gender["to"] == "?"])].groupby("id")["gender"].first()
    before, after = frame.counts("gender"), fixed.counts("gender")
    moved = to_male - 1 - to_female  # 001200 is male in the table already
    dropped = frame.rows[frame.rows["id"] == "003399"]["gender"].to_numpy()
    assert len(dropped) == 7 and len(fixed) == 18900 - 7
    assert after["male"] - before["male"] == 7 * (moved - int((suspect == 0).sum())) - int((dropped == 0).sum())
    assert fixed.rows[fixed.rows["id"] == "001498-1"]["gender"].eq(1).all()
    assert fixed.rows[fixed.rows["id"] == "000020"].set_index("state")["mask"][
        ["incorrect_mask", "normal"]
    ].tolist() == [2, 1]
    assert apply_corrections(fixed.with_rows(fixed.rows), str(_without(table, tmp_path, "003399"))).rows.equals(
        fixed.rows
    )


def _without(table: pd.DataFrame, folder: Path, person: str) -> Path:
    """The table without a person that it drops: once dropped, nobody is left to match."""
    table[table["id"] != person].to_csv(folder / "rest.csv", index=False)
    return folder / "rest.csv"


def test_the_audit_names_every_row_and_writes_nothing(root: Path, tmp_path: Path, in_process):
    """As a user runs it, on the joint label too; exit code 2 as training would refuse the file."""
    data = {"type": "MaskFaces", "args": {"root": str(root), "joint": True}}
    config = {"extends": str(Path(__file__).parents[1] / "configs" / "mask_joint.json"), "dataset": data}
    (tmp_path / "c.json").write_text(json.dumps(config))
    rows = [
        "000020,gender,female,male",
        "000020,gender,,male",
        "003397,gender,,male",
        "4418,age,,60",
        "000006,age,58,60",
    ]
    (root / "fix.csv").write_text("\n".join(["id,field,from,to", *rows, "000005,age,29,29"]) + "\n")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    command = ("prepare.py", "corrections", "-c", str(tmp_path / "c.json"))
    done = in_process(*command, "fix.csv")
    assert done.code == 2 and "2 applied, 1 already right, 2 unmatched, 1 conflicting" in done.err
    lines = [line.split(" row ") for line in done.out.splitlines()]
    statuses = ["applied", "applied", "unmatched", "unmatched", "conflicting", "already right"]
    assert [line[0].strip() for line in lines] == statuses and lines[0][1].endswith("7 images")
    assert "share this id" in lines[2][1] and "is 59, not 58" in lines[4][1]

    (root / "fix.csv").write_text("\n".join(["id,field,from,to", rows[0]]) + "\n")
    done = in_process(*command, "-s", "labels.corrections=fix.csv")
    assert done.code == 0 and "1 applied" in done.out.splitlines()[-1]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} | {
        root / "fix.csv": before[root / "fix.csv"]
    }
    assert "labels.corrections is null" in in_process(*command).err
