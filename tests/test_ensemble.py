"""Several checkpoints at once, from real runs: what they answer together, and what must not be scored."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from trainer import session
from trainer.test_time_views import VIEWS, choose_views
from utils.config import config_from_dict
from utils.errors import UserError

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


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Four runs on one split (two of them for the mask), a gender model on another, and the folder of the faces."""
    folder = tmp_path_factory.mktemp("ensemble")
    draw_faces(folder / "faces")
    found = {"faces": folder / "faces"}
    found["gender"] = train(folder, "gender", ["gender"])
    same = {"split": {"from": str(folder / "saved" / "gender" / "x" / "split.csv")}}
    found["mask"] = train(folder, "mask", ["mask"], **same, views={"size": 32})
    found["mask2"] = train(folder, "mask2", ["mask"], **same, seed=5)
    found["age"] = train(folder, "age", ["age"], **same)
    found["other"] = train(folder, "other", ["gender"], split={"valid": 0.4, "seed": 1})
    return found


def scored(in_process, out: Path, *arguments) -> tuple[dict, pd.DataFrame]:
    done = in_process("test.py", "--resume", *map(str, arguments), "-d", "cpu", "--out", str(out))
    assert done.code == 0, done.err
    return json.loads((out / "metrics.json").read_text()), pd.read_csv(out / "predictions.csv")


def test_three_models_score_every_head_and_the_joint_label(models, tmp_path, in_process):
    alone = {name: scored(in_process, tmp_path / name, models[name]) for name in ("mask", "gender", "age")}
    # In another order than the joint label counts in.
    scores, table = scored(in_process, tmp_path / "all", models["age"], models["mask"], models["gender"])
    assert list(scores["heads"]) == ["mask", "gender", "age"]
    for name, (own, predictions) in alone.items():
        assert scores["heads"][name] == own["heads"][name]
        columns = [column for column in predictions if column.startswith(f"{name}/")]
        merged = predictions.set_index("path")[columns]
        pd.testing.assert_frame_equal(table.set_index("path").loc[merged.index, columns], merged)
    assert scores["images"] == len(table) == len(alone["gender"][1]) > len(alone["age"][1])

    known = table[table["age/label"].notna()]
    right = np.logical_and.reduce([known[f"{name}/label"] == known[f"{name}/prediction"] for name in alone])
    assert scores["joint"]["images"] == len(known) == scores["heads"]["age"]["images"]
    assert scores["joint"]["accuracy"] == pytest.approx(right.mean())
    assert list(scores["joint"]["per_class"])[:4] == [
        "wear/male/<30",
        "wear/male/30-59",
        "wear/male/>=60",
        "wear/female/<30",
    ]
    errors = scores["errors"]
    assert errors["images"] == len(known) and errors["wrong_at_once"]["0"] == right.sum()
    years = pd.read_csv(models["faces"] / "labels.csv").set_index("path")["years"][known["path"]]
    wrong = (known["age/label"] != known["age/prediction"]).to_numpy()
    near = years.isin([28, 29, 30, 59, 60]).to_numpy()
    assert (errors["age"]["images_near"], errors["age"]["wrong_near"]) == (near.sum(), (near & wrong).sum())
    page = (tmp_path / "all" / "index.html").read_text()
    assert "age + mask + gender" in page and 'id="joint"' in page


def test_models_of_one_head_vote_and_other_heads_complement(models, tmp_path, in_process):
    both = [scored(in_process, tmp_path / name, models[name])[1].set_index("path") for name in ("mask", "mask2")]
    given = (models["mask"], models["mask2"], models["gender"], "--weights", 3, 1, 1)
    scores, table = scored(in_process, tmp_path / "all", *given)
    column = "mask/p/normal"
    expected = 0.75 * both[0][column] + 0.25 * both[1][column]
    assert list(scores["heads"]) == ["mask", "gender"] and scores["joint"]["images"] == len(table)
    assert np.allclose(table.set_index("path")[column], expected[table["path"]], rtol=0, atol=1e-12)


def test_images_that_one_of_the_models_was_trained_on_are_not_scored(models, tmp_path, in_process):
    for pair in (("mask", "other"), ("other", "gender")):
        done = in_process("test.py", "--resume", *(str(models[name]) for name in pair), "-d", "cpu")
        assert done.code == 2 and "was trained on" in done.err and "Traceback" not in done.err
        assert "-s split.from=" in done.err and "split.csv" in done.err
    scores, _ = scored(in_process, tmp_path / "all", models["mask"], models["other"], "--split", "all")
    assert scores["images"] == 72


def test_mistakes_in_the_options(models, tmp_path, in_process):
    for arguments, message in (
        (["--weights", "1", "2"], "--weights 1 2: 2 for 1 checkpoint; give one number for each"),
        (["--weights", "1"], "there is nothing to weigh"),
        (["--tta", "hflop"], "--tta hflop: no such view; did you mean 'hflip'?"),
        (["--near-years", "-1"], "--near-years -1: expected a number of years"),
        (["--near-years", "3"], "--near-years 3: there are no ages to go by"),
        (["--tta", "crop", "crop"], "--tta crop: named twice"),
    ):
        done = in_process("test.py", "--resume", str(models["mask"]), "-d", "cpu", *arguments)
        assert done.code == 2 and message in done.err and "Traceback" not in done.err, done.err


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


def test_views_are_averaged(models, tmp_path, in_process):
    """One class of colour per picture: the mean over the views is that of models that see each view alone."""
    plain = scored(in_process, tmp_path / "plain", models["gender"])[1]
    both = scored(in_process, tmp_path / "both", models["gender"], "--tta", "hflip", "crop")[1]
    from data_loader.face_data import FaceData
    from trainer.build import open_run_images
    from trainer.evaluate import labels_for_scoring, load_for_evaluation, predict

    loaded = load_for_evaluation(models["gender"], torch.device("cpu"))
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
        "predict.py", "--resume", str(models["gender"]), "--tta", "hflip", "--tta", "crop", "--out", str(out), pictures
    )
    assert done.code == 0, done.err
    found = pd.read_csv(out)
    found.index = [Path(path).name for path in found["path"]]
    paths = [Path(path).name for path in both["path"]]
    assert np.allclose(found.loc[paths, "gender/p/male"], both["gender/p/male"], rtol=0, atol=1e-6)
