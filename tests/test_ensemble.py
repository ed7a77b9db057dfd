"""Several checkpoints at once, from real runs: what they answer together, and what must not be scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from data_loader.joint import joint_names
from data_loader.label_frame import LabelFrame
from data_loader.prepare_labels import Labels
from data_loader.split_file import split_digest
from tests.face_runs import CLASSES
from trainer.scored_rows import common_rows, known_ages
from trainer.test_time_views import VIEWS, choose_views
from utils.errors import UserError


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing diagrams is most of a test's time and tested elsewhere."""
    monkeypatch.setattr("report.plots.figure_png", lambda figure: b"png")


def scored(in_process, out: Path, *arguments) -> tuple[dict, pd.DataFrame]:
    done = in_process("test.py", "--resume", *map(str, arguments), "-d", "cpu", "--out", str(out))
    assert done.code == 0, done.err
    return json.loads((out / "metrics.json").read_text()), pd.read_csv(out / "predictions.csv")


def test_three_models_score_every_head_and_the_joint_label(face_models, tmp_path, in_process):
    alone = {name: scored(in_process, tmp_path / name, face_models[name]) for name in ("mask", "gender", "age")}
    # In another order than the joint label counts in.
    scores, table = scored(in_process, tmp_path / "all", face_models["age"], face_models["mask"], face_models["gender"])
    assert list(scores["heads"]) == ["mask", "gender", "age"]
    for name, (own, predictions) in alone.items():
        found, expected = scores["heads"][name], own["heads"][name]
        # The last bits of a probability depend on how many images are computed at once.
        assert found.pop("ece") == pytest.approx(expected.pop("ece"), abs=1e-6)
        assert found == expected
        columns = [column for column in predictions if column.startswith(f"{name}/")]
        merged = predictions.set_index("path")[columns]
        pd.testing.assert_frame_equal(table.set_index("path").loc[merged.index, columns], merged)
    assert scores["images"] == len(table) == len(alone["gender"][1]) > len(alone["age"][1])

    known = table[table["age/label"].notna()]
    right = np.logical_and.reduce([known[f"{name}/label"] == known[f"{name}/prediction"] for name in alone])
    assert scores["joint"]["images"] == len(known) == scores["heads"]["age"]["images"]
    assert scores["joint"]["accuracy"] == pytest.approx((known["joint/label"] == known["joint/prediction"]).mean())
    assert scores["joint"]["accuracy"] == pytest.approx(right.mean()) and not any("joint/p/" in name for name in table)
    assert list(scores["joint"]["per_class"])[:4] == [
        "wear/male/<30",
        "wear/male/30-59",
        "wear/male/>=60",
        "wear/female/<30",
    ]
    errors = scores["errors"]
    assert errors["images"] == len(known) and errors["wrong_at_once"]["0"] == right.sum()
    years = pd.read_csv(face_models["faces"] / "labels.csv").set_index("path")["years"][known["path"]]
    wrong = (known["age/label"] != known["age/prediction"]).to_numpy()
    near = years.isin([28, 29, 30, 59, 60]).to_numpy()
    assert (errors["age"]["images_near"], errors["age"]["wrong_near"]) == (near.sum(), (near & wrong).sum())
    page = (tmp_path / "all" / "index.html").read_text()
    assert "age + mask + gender" in page and 'id="joint"' in page


def test_models_of_one_head_vote_and_other_heads_complement(face_models, tmp_path, in_process):
    both = [scored(in_process, tmp_path / name, face_models[name])[1].set_index("path") for name in ("mask", "mask2")]
    given = (face_models["mask"], face_models["mask2"], face_models["gender"], "--weights", 3, 1, 1)
    scores, table = scored(in_process, tmp_path / "all", *given)
    column = "mask/p/normal"
    expected = 0.75 * both[0][column] + 0.25 * both[1][column]
    assert list(scores["heads"]) == ["mask", "gender"] and scores["joint"]["images"] == len(table)
    assert np.allclose(table.set_index("path")[column], expected[table["path"]], rtol=0, atol=1e-12)


def test_images_that_one_of_the_models_was_trained_on_are_not_scored(face_models, tmp_path, in_process):
    for pair in (("mask", "other"), ("other", "gender")):
        done = in_process("test.py", "--resume", *(str(face_models[name]) for name in pair), "-d", "cpu")
        assert done.code == 2 and "was trained on" in done.err and "Traceback" not in done.err
        assert "-s split.from=" in done.err and "split.csv" in done.err
    scores, _ = scored(in_process, tmp_path / "all", face_models["mask"], face_models["other"], "--split", "all")
    assert scores["images"] == 72


def test_data_that_no_split_can_be_drawn_from_is_scored_by_the_stored_one(face_models, tmp_path, in_process):
    """Another, smaller data set as a whole; and what is left of the validation images after most were removed."""
    faces, gender = face_models["faces"], face_models["gender"]
    table = pd.read_csv(faces / "labels.csv", keep_default_na=False)
    sides = pd.read_csv(gender.parents[1] / "split.csv").set_index("path")["split"][table["path"]].to_numpy()
    held = sides == "valid"
    males, females = (table[(table["gender"] == gender) & held] for gender in ("male", "female"))
    few = pd.concat([table[~held & (table["gender"] == "male")].head(2), males.head(6), females.head(1)])
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    for path in few["path"]:
        shutil.copy(faces / path, other / path)
    few.to_csv(other / "labels.csv", index=False)
    moved = [gender, "-s", f"dataset.args.root={other}", "--split"]
    scores, rows = scored(in_process, tmp_path / "all", *moved, "all")
    assert scores["images"] == len(few) and list(rows["path"]) == list(few["path"])
    scores, rows = scored(in_process, tmp_path / "valid", *moved, "valid")
    assert list(rows["path"]) == list(few["path"])[2:]

    # The same images, but one person is left of a class.
    others = (table["gender"] == "male") & (table["person"] != males["person"].iloc[0])
    relabeled = table.assign(gender=table["gender"].mask(others, ""))
    for path in table["path"]:
        shutil.copy(faces / path, other / path)
    relabeled.to_csv(other / "labels.csv", index=False)
    arguments = ["-d", "cpu", "-s", f"dataset.args.root={other}", "--out", str(tmp_path / "o")]
    done = in_process("test.py", "--resume", str(gender), *arguments)
    assert done.code == 0 and "best.pth: split.valid 0.4: class 'male' of gender (2 rows" in done.out, done.err
    assert set(pd.read_csv(tmp_path / "o" / "predictions.csv")["path"]) == {*males["path"][:2], *females["path"]}


def test_mistakes_in_the_options(face_models, tmp_path, in_process):
    for arguments, message in (
        (["--weights", "1", "2"], "--weights 1 2: 2 for 1 checkpoint; give one number for each"),
        (["--weights", "1"], "there is nothing to weigh"),
        (["--tta", "hflop"], "--tta hflop: no such view; did you mean 'hflip'?"),
        (["--near-years", "-1"], "--near-years -1: expected a number of years"),
        (["--near-years", "3"], "--near-years 3: there are no ages to go by"),
        (["--tta", "crop", "crop"], "--tta crop: named twice"),
    ):
        done = in_process("test.py", "--resume", str(face_models["mask"]), "-d", "cpu", *arguments)
        assert done.code == 2 and message in done.err and "Traceback" not in done.err, done.err


def model_of(
    head: str, paths: str, sides: list[str], labels: list[int], root: Path, groups: str = ""
) -> tuple[SimpleNamespace, Labels]:
    """A checkpoint that knows these rows, and its labels; a path is a letter, and its own group without `groups`."""
    rows = pd.DataFrame({"path": list(paths), "group": list(groups or paths), head: np.array(labels, dtype=np.int64)})
    frame, split = LabelFrame(rows, {head: ("x", "y")}, root), pd.Series(sides)
    known = {"path": list(paths), "group": list(groups or paths), "split": sides, "digest": split_digest(frame, split)}
    return SimpleNamespace(path=Path(f"{head}.pth"), run_dir=root, classes=frame.classes, data=known), Labels(
        frame, split
    )


def test_only_images_that_all_models_hold_back_are_scored(tmp_path):
    sides = ["train", "valid", "valid", "valid", "valid"]
    mask = model_of("mask", "abcde", sides, [0, 1, -1, -1, 1], tmp_path)
    # The second model's table has another order, lacks e, and has labels for b and c.
    age = model_of("age", "dcba", [*sides[1:4], "train"], [-1, 0, 1, 0], tmp_path)
    rows, notes = common_rows([mask, age], "valid")
    assert [row.tolist() for row in rows] == [[1, 2], [2, 1]]
    assert notes == ["the checkpoints have different images in 'valid'; scored are the 3 of all"]
    with pytest.raises(UserError, match=r"age.pth: its images are in .*elsewhere"):
        common_rows([mask, model_of("age", "abcde", sides, [0] * 5, tmp_path / "elsewhere")], "valid")
    # f was trained on and shows the person of b; the first model does not know that they are one.
    person = model_of("age", "abcdef", [*sides, "train"], [0] * 6, tmp_path, groups="abcdeb")
    with pytest.raises(UserError, match=r"age.pth was trained on 1 of the 4 'valid' images of mask.pth \(such as b\)"):
        common_rows([mask, person], "valid")
    nothing = model_of("age", "abcde", sides, [0, -1, -1, -1, -1], tmp_path)
    with pytest.raises(UserError, match=r"age.pth: there is no labeled image in the split 'valid'$"):
        common_rows([nothing], "valid")


def test_ages_of_parts_and_of_the_joint_label():
    names = joint_names((CLASSES["mask"], CLASSES["gender"], CLASSES["age"]))
    rows = pd.DataFrame({"path": list("abc"), "group": list("abc"), "joint": 0, "years": ["29", "", "61"]})
    labels = Labels(LabelFrame(rows, {"joint": names}, Path()), pd.Series("valid", index=rows.index))
    model = SimpleNamespace(path=Path("x"), run_dir=Path(), classes={"joint": names}, data={})
    ages = known_ages([(model, labels)], [np.array([2, 1, 0])], 1)
    assert ages is not None and (list(ages.boundaries), ages.near) == ([30, 60], 1)
    assert ages.years.tolist() == pytest.approx([61, np.nan, 29], nan_ok=True)
    assert ages.is_near.tolist() == [True, False, True]
    model.classes = {"joint": tuple("abc")}
    assert known_ages([(model, labels)], [np.arange(3)], None) is None


def test_views_by_hand():
    picture = torch.arange(32.0).repeat(32, 1)[None, None]  # every row 0 … 31
    done = {name: view(picture)[0, 0] for name, view in VIEWS.items()}
    assert done["hflip"][5].tolist() == list(range(31, -1, -1))
    assert done["shift_left"][0].tolist() == [*range(2, 32), 31, 31]
    assert done["shift_right"][0].tolist() == [0, 0, *range(30)]
    upright = picture.transpose(2, 3)
    assert VIEWS["shift_up"](upright)[0, 0, :, 0].tolist() == done["shift_left"][0].tolist()
    assert VIEWS["shift_down"](upright)[0, 0, :, 0].tolist() == done["shift_right"][0].tolist()
    # Columns 2 … 29 over 32 pixels: pixel x shows column 2 + (x + 1/2) 28/32 - 1/2.
    assert done["crop"][0, 5:8].tolist() == pytest.approx([2 + (x + 0.5) * 28 / 32 - 0.5 for x in (5, 6, 7)])
    with pytest.raises(UserError, match="did you mean 'shift_left'"):
        choose_views(["shift_lft"])


def test_views_are_averaged(face_models, tmp_path, in_process):
    """One class of colour per picture: the mean over the views is that of models that see each view alone."""
    plain = scored(in_process, tmp_path / "plain", face_models["gender"])[1]
    both = scored(in_process, tmp_path / "both", face_models["gender"], "--tta", "hflip", "crop")[1]
    from data_loader.face_data import FaceData
    from trainer.build import open_run_images
    from trainer.evaluate import labels_for_scoring, load_for_evaluation, predict

    loaded = load_for_evaluation(face_models["gender"], torch.device("cpu"))
    labels = labels_for_scoring(loaded)
    data = FaceData(loaded.config, labels, open_run_images(loaded.config, labels, print), {}, torch.device("cpu"))
    rows = np.asarray(labels.rows("valid"))
    one = {name: predict(loaded, data, rows, choose_views([name]))["gender"] for name in ("hflip", "crop")}
    straight = plain[["gender/p/male", "gender/p/female"]].to_numpy()
    # predict() averages with the image itself, so twice its result less the image is the view alone.
    expected = (straight + sum(2 * probs - straight for probs in one.values())) / 3
    assert np.allclose(both[["gender/p/male", "gender/p/female"]], expected, rtol=0, atol=1e-12)
    out = tmp_path / "predictions.csv"
    pictures = str(labels.frame.root / "images")
    done = in_process(
        "predict.py",
        "--resume",
        str(face_models["gender"]),
        "--tta",
        "hflip",
        "--tta",
        "crop",
        "--out",
        str(out),
        pictures,
    )
    assert done.code == 0, done.err
    found = pd.read_csv(out)
    found.index = [Path(path).name for path in found["path"]]
    paths = [Path(path).name for path in both["path"]]
    assert np.allclose(found.loc[paths, "gender/p/male"], both["gender/p/male"], rtol=0, atol=1e-6)
