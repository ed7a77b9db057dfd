"""Splits: exact shares, no group on two sides, the same for any row order, and split.csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_loader.hidden_labels import hide_labels
from data_loader.label_frame import LabelFrame
from data_loader.split import check_leakage, make_split
from data_loader.split_file import read_split, split_digest, write_split
from utils.errors import UserError


def frame_of(
    labels: dict[str, np.ndarray], groups: list[str] | None = None, split: list[str] | None = None
) -> LabelFrame:
    """A frame with the given class indices (-1 = unlabeled); each image its own group unless given."""
    count = len(next(iter(labels.values())))
    rows = pd.DataFrame({"path": [f"img/{i}.jpg" for i in range(count)]})
    rows["group"] = rows["path"] if groups is None else groups
    for name, values in labels.items():
        rows[name] = np.asarray(values, dtype=np.int64)
    if split is not None:
        rows["split"] = split
    names = {name: tuple(f"{name}{i}" for i in range(max(values) + 1)) for name, values in labels.items()}
    return LabelFrame(rows, names, Path("data"))


def turned(frame: LabelFrame, seed: int) -> LabelFrame:
    return frame.with_rows(frame.rows.sample(frac=1, random_state=seed))


def by_path(frame: LabelFrame, split: pd.Series) -> dict[str, str]:
    return dict(zip(frame.rows["path"], split))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("valid", "test"), [(0.2, 0.0), (0.15, 0.1), (0.4, 0.4)])
def test_shares_are_exact_within_one_image_per_class(seed, valid, test):
    rng = np.random.default_rng(seed)
    x = rng.choice(5, rng.integers(200, 900), p=[0.02, 0.08, 0.2, 0.3, 0.4])
    frame = frame_of({"x": np.concatenate([x, np.full(50, -1), np.repeat(np.arange(5), 6)])})
    split = make_split(frame, valid, test, None, seed)
    labeled = frame.rows["x"] >= 0
    assert (split[~labeled] == "train").all()
    for side, share in (("train", 1 - valid - test), ("valid", valid), ("test", test)):
        for index in range(5):
            of_class = frame.rows["x"] == index
            assert abs((of_class & (split == side)).sum() - share * of_class.sum()) < 1
        assert abs((labeled & (split == side)).sum() - share * labeled.sum()) <= 2


def test_small_joint_classes_do_not_shift_the_totals():
    pairs = np.repeat(np.array([(a, b) for a in range(6) for b in range(3)]), 2, axis=0)
    split = make_split(frame_of({"a": pairs[:, 0], "b": pairs[:, 1]}), 0.4, 0.0, ["b"], 0)
    assert (split == "valid").sum() in (14, 15)
    split = make_split(frame_of({"b": pairs[:, 1], "c": pairs[:, 1]}), 0.4, 0.0, None, 0)
    assert (split == "valid").sum() in (14, 15)


@pytest.mark.parametrize("seed", range(5))
def test_split_depends_on_seed_and_paths_and_not_on_row_order(seed):
    rng = np.random.default_rng(seed)
    groups = [f"person {n}" for n in rng.integers(0, 150, 400)]
    for given in (None, groups):
        frame = frame_of({"x": rng.integers(-1, 3, 400)}, given)
        once = by_path(frame, make_split(frame, 0.2, 0.1, None, seed))
        other = turned(frame, seed)
        assert by_path(other, make_split(other, 0.2, 0.1, None, seed)) == once
        assert by_path(frame, make_split(frame, 0.2, 0.1, None, seed + 1)) != once


@pytest.mark.parametrize("seed", range(5))
def test_people_stay_on_one_side_and_shares_hold(seed):
    rng = np.random.default_rng(seed)
    people = [(f"p{n}", n % 10 == 0, int(size)) for n, size in enumerate(rng.integers(1, 12, 500))]
    groups = [name for name, _, size in people for _ in range(size)]
    x = np.array([int(rare) for _, rare, size in people for _ in range(size)])
    x[rng.random(len(x)) < 0.2] = -1
    frame = frame_of({"x": x}, groups)
    split = make_split(frame, 0.2, 0.1, ["x"], seed)
    check_leakage(frame, split)
    for index in (0, 1):
        of_class = (frame.rows["x"] == index).to_numpy()
        for side, share in (("valid", 0.2), ("test", 0.1)):
            assert abs((of_class & (split == side)).sum() - share * of_class.sum()) <= 3
    sizes = pd.Series(groups).value_counts()
    largest = set(sizes.index[sizes == sizes.max()])
    assert {"train", "valid"} <= set(split[[g in largest for g in groups]]), "large groups must not all go to one side"


def test_unlabeled_rows_follow_their_group():
    x = np.array([0, -1, 1, -1] * 50)
    frame = frame_of({"x": x}, [f"g{i // 2}" for i in range(200)])
    split = make_split(frame, 0.3, 0.2, None, 0)
    assert (split[0::2].to_numpy() == split[1::2].to_numpy()).all() and (split == "valid").sum() == 60


def test_stratify_by_one_of_two_attributes_and_its_misspelling():
    rng = np.random.default_rng(0)
    frame = frame_of({"mask": rng.integers(0, 2, 300), "age": rng.integers(0, 2, 300)})
    split = make_split(frame, 0.2, 0.0, ["mask"], 0)
    assert abs(((frame.rows["mask"] == 1) & (split == "valid")).sum() - 0.2 * (frame.rows["mask"] == 1).sum()) < 1
    with pytest.raises(UserError, match=r"split.stratify: no attribute 'masc'; did you mean 'mask'\?"):
        make_split(frame, 0.2, 0.0, ["masc"], 0)


def test_shares_that_cannot_be_met_are_refused():
    frame = frame_of({"x": np.array([0] * 40 + [1])})
    with pytest.raises(UserError, match=r"class 'x1' of x \(1 rows, 1 groups\) has none in valid"):
        make_split(frame, 0.2, 0.0, None, 0)
    for valid, test in ((0.6, 0.4), (-0.1, 0.0), (1.0, 0.0)):
        with pytest.raises(UserError, match="together less than 1"):
            make_split(frame, valid, test, None, 0)
    assert (make_split(frame, 0.0, 0.0, None, 0) == "train").all()


def test_a_split_column_is_kept_and_missing_sides_are_dealt_from_training():
    words = ["training"] * 100 + ["Val"] * 20 + ["testing"] * 20
    x = np.tile([0, 1], 70)
    assert make_split(frame_of({"x": x}, split=words), 0.5, 0.1, None, 0).value_counts().to_dict() == {
        "train": 100,
        "valid": 20,
        "test": 20,
    }
    split = make_split(frame_of({"x": x}, split=["train"] * 120 + ["test"] * 20), 0.2, 0.0, None, 0)
    assert (split[120:] == "test").all() and (split[:120] == "valid").sum() == 24

    with pytest.raises(UserError, match="unknown value 'tran'; did you mean 'train'"):
        make_split(frame_of({"x": x}, split=["tran"] * 140), 0.2, 0.0, None, 0)
    with pytest.raises(UserError, match="1 labeled rows are blank"):
        make_split(frame_of({"x": x}, split=["train"] * 139 + [""]), 0.2, 0.0, None, 0)


def test_a_split_column_that_tears_a_group_is_refused():
    frame = frame_of({"x": np.array([0, 1] * 4)}, ["ann", "bob"] * 4, ["train"] * 6 + ["valid", "train"])
    with pytest.raises(UserError, match=r"dataset.args.split.*1 of 2 groups are on two sides: ann"):
        make_split(frame, 0.2, 0.0, None, 0)
    with pytest.raises(UserError, match="2 of 2 groups"):
        check_leakage(frame, pd.Series(["train"] * 4 + ["test"] * 4))


def test_split_csv_round_trip_and_digest(tmp_path):
    rng = np.random.default_rng(0)
    frame = frame_of({"x": rng.integers(-1, 2, 200)}, [f"p, {n // 2}" for n in range(200)])
    split = make_split(frame, 0.2, 0.1, None, 0)
    trained = hide_labels(frame, split, {"count": 20}, 0)
    path = tmp_path / "split.csv"
    write_split(path, trained, split)
    assert path.read_bytes().splitlines()[0] == b"path,group,split,labeled"

    other = turned(frame, 5)
    again, labeled = read_split(path, other)
    assert by_path(other, again) == by_path(frame, split) and labeled.dtype == bool
    assert by_path(other, labeled) == by_path(trained, trained.labeled)
    assert split_digest(other, again) == split_digest(frame, split) and len(split_digest(frame, split)) == 64
    moved = again.copy()
    moved[0] = "train" if moved[0] != "train" else "valid"
    assert split_digest(other, moved) != split_digest(frame, split)

    fewer = frame.with_rows(
        frame.rows.iloc[3:].assign(path=lambda rows: rows["path"].replace("img/9.jpg", "img/x.jpg"))
    )
    with pytest.raises(UserError, match="1 rows were added and 4 removed"):
        read_split(path, fewer)
    path.write_text("path,split\nimg/0.jpg,train\n")
    with pytest.raises(UserError, match="not a split"):
        read_split(path, frame)
    with pytest.raises(UserError, match="no such file"):
        read_split(tmp_path / "none.csv", frame)
