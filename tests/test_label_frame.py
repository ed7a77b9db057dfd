"""Readers and the pure functions on label frames, on small data sets written to disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_loader.hidden_labels import hide_labels
from data_loader.label_frame import LabelFrame, filter_rows, merge_classes
from data_loader.readers import CelebAHair, LabelCSV
from data_loader.readers.celeba_hair import _groups
from utils.errors import UserError

SHARED = Path(os.environ.get("FACES_SHARED", Path(__file__).resolve().parents[2] / "shared"))
REAL = SHARED / "data" / "celebahq_128"


def frame_of(**columns: list) -> LabelFrame:
    """A frame with one image per value; lists of strings become attributes ('' = unlabeled), others raw columns."""
    count = len(next(iter(columns.values())))
    rows = pd.DataFrame({"path": [f"img/{i:05d}.jpg" for i in range(count)]})
    rows["group"] = rows["path"]
    classes = {}
    for name, values in columns.items():
        if isinstance(values[0], str):
            classes[name] = tuple(sorted(set(values) - {""}))
            values = np.array([classes[name].index(v) if v else -1 for v in values], dtype=np.int64)
        rows[name] = values
    return LabelFrame(rows, classes, Path("data"))


def celeba(root: Path, numbers: range, annotated: range | None = None, count: int | None = None) -> Path:
    """A CelebAMask-HQ folder: even numbers are men; multiples of 3 have bangs, of 5 glasses, of 7 a hat."""
    (root / "CelebA-HQ-img").mkdir(parents=True)
    for number in numbers:
        (root / "CelebA-HQ-img" / f"{number}.jpg").touch()
    (root / "CelebA-HQ-img" / "._1.jpg").touch()
    annotated = numbers if annotated is None else annotated
    lines = [str(len(annotated) if count is None else count), "Bangs Eyeglasses Male Wearing_Hat "]
    for n in annotated:
        cells = " ".join("1" if n % step == 0 else "-1" for step in (3, 5, 2, 7))
        lines.append(f"{n}.jpg  {cells}")
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines) + "\n")
    return root


def table(root: Path, text: str, name: str = "label_frame.csv") -> str:
    (root / name).write_bytes(text.encode())
    return name


def refused(call, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    return str(caught.value)


# --- the frame ---------------------------------------------------------------------------------------------------


def test_label_frame_refuses_a_table_that_breaks_its_rules():
    good = frame_of(forehead=["a", "b", ""]).rows
    bad = {
        "own": good.assign(path="same.jpg"),
        "missing": good.drop(columns="group"),
        "int64": good.assign(forehead=good["forehead"].astype("float64")),
        "lie in": good.assign(forehead=good["forehead"] + 1),
        "numbered": good.iloc[1:],
    }
    for text, rows in bad.items():
        with pytest.raises(ValueError, match=text):
            LabelFrame(rows, {"forehead": ("a", "b")}, Path())
    assert frame_of(forehead=["b", "a", "b", ""]).counts("forehead") == {"a": 1, "b": 2}


# --- labels.merge ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ({"shown": ["0", "1"], "covered": ["2"]}, [0, 0, 1, -1, 0]),
        ({"shown": ["0"], "covered": ["1", "2"]}, [0, 1, 1, -1, 0]),
        ({"covered": ["2", "1"], "shown": ["0"]}, [1, 0, 0, -1, 1]),
    ],
)
def test_merge_gives_the_classes_of_the_mapping_in_its_order(merge, expected):
    frame = frame_of(forehead=["0", "1", "2", "", "0"])
    merged = merge_classes(frame, {"forehead": merge})
    assert merged.classes == {"forehead": tuple(merge)}
    assert merged.rows["forehead"].tolist() == expected
    assert frame.rows["forehead"].tolist() == [0, 1, 2, -1, 0] and not frame.history
    assert "(2)" in merged.history[-1]


def test_merge_drops_ignored_rows_and_keeps_unlabeled_ones():
    merged = merge_classes(frame_of(x=["0", "1", "2", "", "1"]), {"x": {"a": ["0"], "ignore": ["1"], "b": ["2"]}})
    assert merged.rows["path"].tolist() == ["img/00000.jpg", "img/00002.jpg", "img/00003.jpg"]
    assert merged.rows["x"].tolist() == [0, 1, -1] and merged.classes["x"] == ("a", "b")


def test_merge_names_labels_that_match_nothing_are_left_over_or_named_twice():
    frame = frame_of(forehead=["0", "1", "2", "1"])

    def error(target: dict, attribute: str = "forehead") -> str:
        return refused(merge_classes, frame, {attribute: target})

    nothing = "labels.merge.forehead.covered: no row has the label '3'; labels are 0, 1, 2"
    assert error({"shown": ["0", "1"], "covered": ["3"]}) == nothing
    assert "'1' (2 rows)" in error({"shown": ["0"], "covered": ["2"]})
    assert "'1' is in 'shown' and in 'covered'" in error({"shown": ["0", "1"], "covered": ["1", "2"]})
    assert "did you mean 'forehead'?" in error({"shown": ["0"]}, "forhead")
    assert "at least two classes" in error({"all": ["0", "1", "2"]})


# --- labels.filters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("age >= 20", [1, 2, 3]),
        ("forehead == 'covered'", [1]),
        ("'covered' != forehead & age < 40", [0, 2]),
        ("forehead in ['covered', 'shown'] and not age == 20", [0, 3]),
        ("forehead == -1", [2]),
        ("forehead >= 1", [0, 3]),
        ("many in [1, 2]", [0, 2]),
        ("grade == 2 | `hair length` == 'a & b'", [1, 3]),
        ("10 < age <= 30", [1, 2]),
        ("path.str.endswith('3.jpg')", [3]),
    ],
)
def test_filters_compare_columns_and_class_names(expression, kept):
    frame = frame_of(
        forehead=["shown", "covered", "", "shown"],
        grade=["0", "2", "0", ""],
        many=["1", "3+", "2", "3+"],
        age=[10, 20, 30, 40],
    )
    frame = frame.with_rows(frame.rows.assign(**{"hair length": [None, "b", "a", "a & b"]}))
    result = filter_rows(frame, [expression])
    assert result.rows["path"].tolist() == [f"img/{i:05d}.jpg" for i in kept]
    assert f"{len(kept)} of 4" in result.history[-1]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("agee > 3", "no column 'agee'; did you mean 'age'?"),
        ("forehead == 'coverd'", "no class 'coverd'; did you mean 'covered'?"),
        ("forehead == 5", "no class '5'"),
        ("forehead != 1", "no class '1'; choose from covered, shown"),
        ("grade == 1", "no class '1'"),
        ("age >", "is not an expression"),
        ("age > 99", "keeps none of 2 rows"),
        ("age + 1", "not a condition"),
        ("age > 'x'", "cannot be evaluated"),
        ("@frame", "is not an expression"),
    ],
)
def test_filters_refuse_with_the_expression_and_the_nearest_name(expression, message):
    frame = frame_of(forehead=["shown", "covered"], grade=["0", "2"], age=[10, 20])
    text = refused(filter_rows, frame, ["age >= 0", expression])
    assert text.startswith("labels.filters[1]") and expression in text and message in text


def test_a_filter_that_keeps_everything_says_so():
    assert "filters nothing" in filter_rows(frame_of(x=["a", "b"]), ["x >= 0"]).history[-1]


# --- labels.labeled ----------------------------------------------------------------------------------------------


def random_frame(seed: int, rows: int = 600) -> tuple[LabelFrame, pd.Series]:
    rng = np.random.default_rng(seed)
    mask = rng.choice(["wear", "wrong", "none", ""], rows, p=[0.6, 0.25, 0.1, 0.05])
    frame = frame_of(mask=mask.tolist(), age=rng.choice(["old", "young", ""], rows, p=[0.1, 0.8, 0.1]).tolist())
    return frame, pd.Series(rng.choice(["train", "valid"], rows, p=[0.8, 0.2]))


def shown(frame: LabelFrame, split: pd.Series) -> set[str]:
    return set(frame.rows["path"][frame.labeled & (split == "train")])


@pytest.mark.parametrize("seed", range(6))
def test_hidden_labels_are_nested_proportional_and_kept_aside(seed):
    frame, split = random_frame(seed)
    train = (split == "train").to_numpy()
    joint = frame.rows[["mask", "age"]].astype(str).agg(" ".join, axis=1)[train & frame.labeled.to_numpy()]
    sizes = joint.value_counts()
    before: set[str] = set()
    for count in (len(sizes), 30, 31, 100, 200, int(sizes.sum())):
        hidden = hide_labels(frame, split, {"count": count}, seed)
        now = shown(hidden, split)
        assert len(now) == count and before < now
        before = now
        kept = joint[hidden.labeled].value_counts().reindex(sizes.index, fill_value=0)
        share = sizes * count / sizes.sum()
        if share.min() > 1:
            assert (kept - share).abs().max() < 1
        assert kept.min() >= 1
        for name in frame.attributes:
            old, new, aside = frame.rows[name], hidden.rows[name], hidden.rows[f"hidden/{name}"]
            assert aside.dtype == np.int64 and ((new >= 0) & (aside >= 0)).sum() == 0
            assert (np.maximum(new, aside) == old).all() and (new[~train] == old[~train]).all()
        assert (hidden.rows["mask"][hidden.labeled] == frame.rows["mask"][hidden.labeled]).all()


def test_count_is_the_rounded_share_for_two_classes():
    frame = frame_of(bangs=["no"] * 765 + ["yes"] * 89)
    split = pd.Series(["train"] * len(frame))
    for count in (2, 10, 100, 200, 500):
        kept = hide_labels(frame, split, {"count": count}, 0).counts("bangs")
        assert kept["yes"] == max(1, round(count * 89 / 854)) and sum(kept.values()) == count


def test_the_draw_depends_on_the_seed_and_not_on_the_row_order():
    frame, split = random_frame(0)
    order = np.random.default_rng(1).permutation(len(frame))
    turned = hide_labels(frame.with_rows(frame.rows.iloc[order]), split[order].reset_index(drop=True), {"count": 50}, 3)
    assert shown(turned, split[order].reset_index(drop=True)) == shown(
        hide_labels(frame, split, {"count": 50}, 3), split
    )
    assert shown(turned, split) != shown(hide_labels(frame, split, {"count": 50}, 4), split)
    assert shown(hide_labels(frame, split, {"count": 50, "seed": 3}, 9), split) == shown(
        hide_labels(frame, split, {"count": 50}, 3), split
    )


def test_per_class_takes_what_there_is_and_says_so():
    frame = frame_of(x=["a"] * 20 + ["b"] * 3)
    hidden = hide_labels(frame, pd.Series(["train"] * 23), {"per_class": 5}, 0)
    assert hidden.counts("x") == {"a": 5, "b": 3} and "b (3, all there are)" in hidden.history[-1]


@pytest.mark.parametrize(
    ("labeled", "message"),
    [
        ({"count": 24}, "24 asked for, but training has 23 labels"),
        ({"count": 1}, "too few for 2 classes"),
        ({"per_class": 21}, "the largest class has 20"),
        ({}, "either"),
        ({"count": 3, "per_class": 1}, "either"),
    ],
)
def test_hiding_refuses_what_cannot_be_drawn(labeled, message):
    frame = frame_of(x=["a"] * 20 + ["b"] * 3)
    assert message in refused(hide_labels, frame, pd.Series(["train"] * 23), labeled, 0)


# --- CelebAHair --------------------------------------------------------------------------------------------------


def test_celeba_attribute_and_gender(tmp_path):
    frame = CelebAHair(str(celeba(tmp_path, range(30))), attribute="Bangs", gender="male")
    assert frame.classes == {"bangs": ("no_bangs", "bangs")}
    assert frame.rows["path"].tolist() == [f"CelebA-HQ-img/{n}.jpg" for n in range(0, 30, 2)]
    assert frame.rows["bangs"].tolist() == [int(n % 3 == 0) for n in range(0, 30, 2)]
    assert set(frame.rows["gender"]) == {"male"} and list(frame.rows) == ["path", "group", "bangs", "gender"]
    assert "gender male: 15 of 30 images kept" in frame.history


def test_celeba_label_frame_reads_labels_as_text(tmp_path):
    root = celeba(tmp_path, range(12))
    rows = ["0.jpg,0,1", "1,1.0,", "2.jpg, 2 ,3", "3.jpg,,", "4.jpg,nan,2", "5.jpg,-1.0,", "6.jpg,10,"]
    cells = "\r\n".join(["\ufefffile,forehead,hair length", *rows, ""])
    frame = CelebAHair(str(root), label_frame=table(root, cells))
    assert frame.classes == {"forehead": ("0", "1", "2", "10")}
    assert frame.rows["path"].tolist() == [f"CelebA-HQ-img/{n}.jpg" for n in range(12) if n != 5]
    assert frame.rows["forehead"].tolist() == [0, 1, 2, -1, -1, 3, -1, -1, -1, -1, -1]
    assert frame.rows["hair length"].dropna().tolist() == [1, 3, 2]
    history = "\n".join(frame.history)
    assert "5 images without a row are unlabeled" in history and "left out (label -1): 1 images" in history
    assert "forehead: 0 (1), 1 (1), 2 (1), 10 (1), unlabeled (7)" in history

    men = CelebAHair(str(root), label_frame=str(root / "label_frame.csv"), gender="male")
    assert men.counts("forehead") == {"0": 1, "2": 1, "10": 1}


def test_celeba_learns_several_columns_of_hand_labels(tmp_path):
    root = celeba(tmp_path, range(8))
    rows = ["0.jpg,0,1", "1,1,", "2,-1,3", "3,-1,-1", "4,,-1.0", "5,1,2"]
    given = {"label_frame": table(root, "\n".join(["file,forehead,hair length", *rows, ""]))}
    both = ["hair length", "forehead"]
    frame = CelebAHair(str(root), **given, hand_labels=both)
    assert frame.classes == {"hair length": ("1", "2", "3"), "forehead": ("0", "1")}
    assert frame.rows["path"].tolist() == [f"CelebA-HQ-img/{n}.jpg" for n in (0, 1, 2, 4, 5, 6, 7)]
    assert frame.rows["hair length"].tolist() == [0, -1, 2, -1, 1, -1, -1]
    assert frame.rows["forehead"].tolist() == [0, 1, -1, -1, 1, -1, -1]
    assert "left out (label -1): 1 images" in frame.history
    for wrong in ([], ["forehead", "forehead"], ["forehead", "gender"]):
        assert "dataset.args.hand_labels: expected different" in refused(
            CelebAHair, str(root), **given, hand_labels=wrong
        )
    assert "hand_labels" in refused(CelebAHair, str(root), attribute="Bangs", hand_labels=both)
    assert "did you mean 'hair length'?" in refused(CelebAHair, str(root), **given, hand_labels=["hair lenght"])


def test_two_readers_share_nothing(tmp_path):
    root = str(celeba(tmp_path, range(20)))
    first, second = (CelebAHair(root, attribute="Bangs") for _ in range(2))
    assert len(first) == len(second) == 20 and first.rows.equals(second.rows)
    first.rows.loc[0, "bangs"] = -1
    first.classes["bangs"] = ("x", "y")
    assert second.rows.loc[0, "bangs"] == 1 and second.classes["bangs"] == ("no_bangs", "bangs")


@pytest.mark.parametrize(("images", "annotated"), [(range(1, 31), range(30)), (range(30), range(1, 31))])
def test_celeba_names_the_copies_that_are_off_by_one(tmp_path, images, annotated):
    text = refused(CelebAHair, str(celeba(tmp_path, images, annotated)), attribute="Bangs")
    assert "shifted by one" in text and "0..29999" in text and "1..30000" in text


def test_celeba_counts_what_does_not_agree(tmp_path):
    text = refused(CelebAHair, str(celeba(tmp_path / "a", range(30), range(4, 31))), attribute="Bangs")
    assert "4 images (0.jpg, 1.jpg, 2.jpg, …) without a row; 1 row (30.jpg) without an image" in text
    text = refused(CelebAHair, str(celeba(tmp_path / "b", range(30), count=29)), attribute="Bangs")
    assert "line 1 says 29 images, but 30 rows follow" in text


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_celeba_probes_the_alignment_of_the_masks(tmp_path, shift):
    root = celeba(tmp_path, range(10, 100))
    (root / "CelebAMask-HQ-mask-anno" / "0").mkdir(parents=True)
    for n in range(10, 100):
        parts = [part for step, part in ((5, "eye_g"), (7, "hat"), (1, "hair")) if n % step == 0]
        for part in parts:
            (root / "CelebAMask-HQ-mask-anno" / "0" / f"{n + shift:05d}_{part}.png").touch()
    if shift:
        assert f"row N{-shift:+d}" in refused(CelebAHair, str(root), attribute="Bangs")
    else:
        notes = CelebAHair(str(root), attribute="Bangs").history
        assert any("glasses and hats agree with the annotation to 100%" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,forehed\n1.jpg,0\n", "no column 'forehead'; did you mean 'forehed'?"),
        ("file,forehead\n1.jpg,0\n77.jpg,1\n78,1\n", "2 rows (77.jpg, 78.jpg) without an image"),
        ("file,forehead\n1.jpg,0\n1,2\n", "1 image (1.jpg) listed more than once with different labels"),
        ("file,forehead\n1.jpg,\n", "none of the 20 images that are kept has a label"),
        ("file,forehead\n1.jpg,0,5\n", "not a table"),
        ("file,forehead\n", "no rows"),
        ("", "not a table"),
    ],
)
def test_celeba_refuses_a_label_frame_that_does_not_fit(tmp_path, text, message):
    root = celeba(tmp_path, range(20))
    assert message in refused(CelebAHair, str(root), label_frame=table(root, text))


def test_celeba_refuses_wrong_arguments(tmp_path):
    root = celeba(tmp_path / "CelebAMask-HQ", range(20))
    both = {"label_frame": table(root, "file,forehead\n1.jpg,0\n1,0\n"), "attribute": "Bangs"}
    assert "exactly one" in refused(CelebAHair, str(root)) and "exactly one" in refused(CelebAHair, str(root), **both)
    assert "did you mean 'Bangs'?" in refused(CelebAHair, str(root), attribute="bang")
    assert "no folder" in refused(CelebAHair, str(tmp_path / "x"), attribute="Bangs")
    assert "CelebAMask-HQ'?" in refused(CelebAHair, str(tmp_path), attribute="Bangs")
    assert "did you mean 'label_frame.csv'?" in refused(CelebAHair, str(root), label_frame="labelframe.csv")
    (root / "CelebAMask-HQ-attribute-anno.txt").unlink()
    assert "need CelebAMask-HQ-attribute-anno.txt" in refused(CelebAHair, str(root), attribute="Bangs")
    without = CelebAHair(str(root), label_frame="label_frame.csv")
    assert list(without.rows) == ["path", "group", "forehead"] and len(without) == 20
    assert any("1 repeated rows dropped" in note for note in without.history)


def test_celeba_groups_people_by_identity(tmp_path):
    root = celeba(tmp_path, range(6))
    (root / "identity_CelebA.txt").write_text("\n".join(f"{n:06d}.jpg {n // 2 + 100}" for n in range(1, 20)))
    lines = [f"{n}\t   {n + 1}    {n + 2:06d}.jpg" for n in range(6)]
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["idx orig_idx  orig_file", *lines]))
    frame = CelebAHair(str(root), attribute="Bangs")
    assert frame.rows["group"].nunique() == 3 and frame.rows["group"][0] == frame.rows["group"][1]
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(lines[1:]))
    assert "1 image (0.jpg) without a person" in refused(CelebAHair, str(root), attribute="Bangs")


def test_celeba_keeps_known_duplicates_together_in_the_official_numbering_only(tmp_path):
    official = [f"{n}.jpg" for n in range(30_000)]
    groups, notes = _groups(tmp_path, official)
    assert len(set(groups)) == 30_000 - 13 and groups[234] == groups[235] and groups[24646] == groups[24647]
    assert "13 known pairs" in notes[0]
    assert len(set(_groups(tmp_path, [f"{n}.jpg" for n in range(1, 30_001)])[0])) == 30_000


@pytest.mark.skipif(not REAL.is_dir(), reason="real faces (celebahq_128) are not here")
def test_real_faces_read_fast_and_in_the_known_numbers():
    started = time.process_time()
    bangs = CelebAHair(str(REAL), attribute="Bangs", gender="male")
    hand = CelebAHair(str(REAL), label_frame="label_frame.csv", gender="male")
    assert time.process_time() - started < 3
    assert len(bangs) == 8517 and bangs.counts("bangs") == {"no_bangs": 7627, "bangs": 890}
    assert hand.counts("forehead") == {"0": 1525, "2": 879} and len(hand) == 8517 - 585


# --- LabelCSV ----------------------------------------------------------------------------------------------------


def csv_set(root: Path, text: str, images: int = 6) -> dict:
    (root / "faces").mkdir(exist_ok=True)
    for n in range(images):
        (root / "faces" / f"{n}.png").touch()
    return {"root": str(root), "frame": table(root, text, "labels.csv")}


def test_label_csv_reads_several_attributes(tmp_path):
    given = csv_set(
        tmp_path,
        "file,gender,age,who,part,years,path\n"
        "faces/0.png,male,10,003397,train,7,x\n./faces/1.png,,9,003397,Validation,8.5,y\nfaces\\2.png,female,,,test,,z\n"
        "faces/3.png,male,-1,5,train,3,w\n",
    )
    frame = LabelCSV(**given, attributes=["gender", "age"], path="file", group="who", split="part")
    assert frame.classes == {"gender": ("female", "male"), "age": ("9", "10")}
    assert frame.rows["path"].tolist() == ["faces/0.png", "faces/1.png", "faces/2.png"]
    assert frame.rows["gender"].tolist() == [1, -1, 0] and frame.rows["age"].tolist() == [1, 0, -1]
    assert frame.rows["group"].tolist() == ["003397", "003397", "faces/2.png"]
    assert frame.rows["split"].tolist() == ["train", "Validation", "test"]
    assert frame.rows["years"].tolist()[:2] == [7, 8.5] and frame.rows["raw_path"].tolist() == ["x", "y", "z"]
    assert frame.rows["who"].tolist()[0] == "003397"
    ordered = LabelCSV(**given, attributes=["gender"], path="file", classes={"gender": ["male", "female"]})
    assert ordered.classes == {"gender": ("male", "female")} and ordered.rows["gender"].tolist() == [0, -1, 1, 0]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("path,x\nfaces/0.png,a\n", {"attributes": ["y"]}, "no column 'y'"),
        ("path,x\nfaces/9.png,a\n", {"attributes": ["x"]}, "1 file (faces/9.png) in column 'path' not found"),
        ("path,x\n../0.png,a\n", {"attributes": ["x"]}, "outside the data set's root"),
        ("path,x\nfaces/0.png,\n", {"attributes": ["x"]}, "no row has a label"),
        ("path,x\nfaces/0.png,a\n", {"attributes": []}, "at least one"),
        ("path,x\nfaces/0.png,a\n", {"attributes": ["x"], "classes": {"x": ["b"]}}, "'a' (1 rows) not among"),
        ("path,x\nfaces/0.png,a\n", {"attributes": ["x"], "classes": {"z": ["b"]}}, "no attribute 'z'"),
        ("path,x\nfaces/0.png,a\nfaces/0.png,b\n", {"attributes": ["x"]}, "different labels"),
        (
            "path,x,who\nfaces/0.png,a,anna\nfaces/0.png,a,ben\n",
            {"attributes": ["x"], "group": "who"},
            "1 image (faces/0.png) listed more than once with different labels (faces/0.png: who 'anna' and 'ben')",
        ),
        ("path|x,y|z\nfaces/0.png|a,b|c\n", {"attributes": ["x"]}, "the cells are separated by '|'"),
        ("sep=,\npath,x\nfaces/0.png,a\n", {"attributes": ["x"]}, "the first line only names the separator"),
        ("path,x\nfaces/0.png,\N{MINUS SIGN}1\n", {"attributes": ["x"]}, "no row has a label"),
    ],
)
def test_label_csv_refuses_what_does_not_fit(tmp_path, text, arguments, message):
    assert message in refused(LabelCSV, **csv_set(tmp_path, text), **arguments)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path;hair\na.png;red\n", "t.csv: the cells are separated by ';'; save the table with commas"),
        ("path\thair\na.png\tred\n", r"t.csv: the cells are separated by '\\t'; save the table with commas"),
        ("path,hair, hair\na.png,red,blue\n", "t.csv: two columns are called 'hair'"),
    ],
)
def test_tables_that_would_be_misread(tmp_path: Path, text: str, says: str):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        LabelCSV(str(tmp_path), "t.csv", ["hair"])


def test_classes_that_capital_letters_tell_apart_are_warned_of(tmp_path: Path):
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "t.csv").write_text("path,glasses\na.png,yes\nb.png,YES\nc.png,no\n")
    frame = LabelCSV(str(tmp_path), "t.csv", ["glasses"])
    assert any(line.startswith("warning: column 'glasses': the classes 'YES' and 'yes'") for line in frame.history)
