"""The submission file: exactly info.csv's rows in its order, or nothing at all; and its answers from heads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from data_loader.joint import GENDER, MASK, joint_label, joint_names
from report.calibration_file import Calibration, FittedHead, FittedOn, write_calibration
from report.evaluation import HeadPrediction
from report.submission import joint_answers, write_submission
from report.submissions import read_ledger
from report.vote import combine
from tests.test_mask_faces import TABLES, refused
from trainer.ensemble import Ensemble
from trainer.evaluate import Loaded
from utils.config import config_from_dict

AGE = ("<30", "30-59", ">=60")
NAMES = [f"{name}.jpg" for name in ("c3", "a1", "b2", "d4")]


@pytest.fixture
def info(tmp_path: Path) -> Path:
    path = tmp_path / "info.csv"
    path.write_bytes(b"\xef\xbb\xbfImageID,ans\r\n" + b"".join(f"{name},0\r\n".encode() for name in NAMES))
    return path


def test_rows_and_order_are_those_of_info_csv(tmp_path: Path, info: Path):
    answers = {"a1.jpg": 0, "b2.jpg": np.int64(17), "c3.jpg": 4.0, "d4.jpg": 17}
    counts = write_submission(info, answers, tmp_path / "new" / "submission.csv")
    wanted = b"ImageID,ans\nc3.jpg,4\na1.jpg,0\nb2.jpg,17\nd4.jpg,17\n"
    assert (tmp_path / "new" / "submission.csv").read_bytes() == wanted
    assert counts[17] == 2 and sum(counts) == 4 and len(counts) == 18
    table = pd.DataFrame({"ans": list(answers.values()), "ImageID": list(answers), "p": 0.5})
    write_submission(info, table, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a1.jpg": None}, "1 answers that are not whole numbers from 0 to 17 (such as None for a1.jpg)"),
        ({"a1.jpg": 18}, "such as 18"),
        ({"a1.jpg": -1}, "such as -1"),
        ({"a1.jpg": 2.5}, "such as 2.5"),
        ({"a1.jpg": float("nan")}, "such as nan"),
        ({"a1.jpg": "3"}, "such as 3"),
        ({"e5.jpg": 3}, "1 answers for images that are not in it (such as e5.jpg)"),
        ({"a1.jpg": ...}, "1 images without an answer (such as a1.jpg)"),
    ],
)
def test_anything_else_is_refused_and_nothing_is_written(tmp_path: Path, info: Path, change: dict, message: str):
    answers = dict.fromkeys(NAMES, 1) | change
    answers = {name: answer for name, answer in answers.items() if answer is not ...}
    assert message in refused(write_submission, info, answers, tmp_path / "submission.csv")
    assert not (tmp_path / "submission.csv").exists()


def test_images_that_are_answered_or_listed_twice(tmp_path: Path, info: Path):
    table = pd.DataFrame({"ImageID": [*NAMES, NAMES[0]], "ans": 1})
    assert "two answers (such as c3.jpg)" in refused(write_submission, info, table, tmp_path / "out.csv")
    assert "ImageID" in refused(write_submission, info, table.rename(columns={"ans": "label"}), tmp_path / "out.csv")
    info.write_text("ImageID, ans\n\nb2.jpg ,0\n a1.jpg,0\n")
    write_submission(info, {"a1.jpg": 1, "b2.jpg": 2}, tmp_path / "blanks.csv")
    assert (tmp_path / "blanks.csv").read_text() == "ImageID,ans\nb2.jpg,2\na1.jpg,1\n"
    info.write_text("ImageID,ans\na1.jpg,0\n ,0\n")
    assert "1 rows have no ImageID" in refused(write_submission, info, {"a1.jpg": 1}, tmp_path / "out.csv")
    info.write_text("ImageID,ans\na1.jpg,0\na1.jpg,0\n")
    assert "listed twice" in refused(write_submission, info, {"a1.jpg": 1}, tmp_path / "out.csv")
    assert "no such file" in refused(write_submission, tmp_path / "nix.csv", {}, tmp_path / "out.csv")


@pytest.mark.skipif(not TABLES.is_dir(), reason=f"{TABLES} is not there")
def test_the_real_info_csv(tmp_path: Path):
    info = TABLES / "eval_info.csv"
    names = pd.read_csv(info)["ImageID"]
    answers = dict(zip(sorted(names), np.arange(12600) % 18))
    counts = write_submission(info, answers, tmp_path / "submission.csv")
    written = pd.read_csv(tmp_path / "submission.csv")
    assert list(written.columns) == ["ImageID", "ans"] and list(written["ImageID"]) == list(names)
    assert (written["ans"] == written["ImageID"].map(answers)).all() and counts == [700] * 18


# --- answers from heads --------------------------------------------------------------------------------------------


def head(name: str, classes: tuple[str, ...], predictions: list[int], sure: float = 0.9) -> HeadPrediction:
    probs = np.full((len(predictions), len(classes)), (1 - sure) / (len(classes) - 1))
    probs[np.arange(len(predictions)), predictions] = sure
    return HeadPrediction(name, classes, np.full(len(predictions), -1), probs)


def test_three_models_and_one_model_with_three_heads_give_one_answer():
    mask, gender, age = [0, 1, 2, 2], [1, 0, 1, 0], [2, 0, 2, 1]
    heads = [head("mask", MASK, mask), head("gender", GENDER, gender), head("age", AGE, age)]
    wanted = [5, 6, 17, 13]
    assert joint_answers(heads).tolist() == joint_answers(combine([[one] for one in heads])).tolist() == wanted
    assert joint_label(np.array(mask), np.array(gender), np.array(age)).tolist() == wanted
    other = head("gender", ("female", "male"), [1 - g for g in gender])
    assert joint_answers([heads[0], other, heads[2]]).tolist() == wanted
    # Read from a CSV, the names of ages are sorted as text.
    sorted_ages = head("age", ("30-59", "<30", ">=60"), [2, 1, 2, 0])
    assert joint_answers([heads[0], heads[1], sorted_ages]).tolist() == wanted
    # A head that several checkpoints have is voted on: the surer one wins a soft vote.
    unsure = head("gender", GENDER, [0, 0, 0, 0], 0.6)
    assert joint_answers(combine([heads, [unsure]])).tolist() == wanted


def test_a_joint_model_answers_directly():
    names = joint_names((MASK, GENDER, AGE))
    assert joint_answers([head("joint", names, [0, 17, 5])]).tolist() == [0, 17, 5]
    numbers = tuple(map(str, range(18)))
    assert joint_answers(combine([[head("joint", numbers, [3])], [head("joint", numbers, [3])]], "hard")).tolist() == [
        3
    ]


def test_a_joint_model_votes_with_one_of_three_heads_by_their_product():
    rng = np.random.default_rng(0)
    parts = [HeadPrediction(name, names, np.array([1, -1]), rng.dirichlet(np.ones(len(names)), 2)) for name, names in
             (("gender", GENDER), ("age", AGE), ("mask", MASK))]  # fmt: skip
    names = joint_names((MASK, GENDER, AGE))
    joint = HeadPrediction("joint", names, np.array([joint_label(1, 1, 1), -1]), rng.dirichlet(np.ones(18), 2))
    (found,) = combine([[joint], parts], "soft", [1, 3])
    gender, age, mask = (part.probs for part in parts)
    product = np.einsum("nm,ng,na->nmga", mask, gender, age).reshape(2, 18)
    np.testing.assert_allclose(found.probs, (joint.probs + 3 * product) / 4)
    assert found.labels.tolist() == joint.labels.tolist() and found.classes == names
    for rest in (parts[:2], [*parts[:2], head("mask", ("a", "b", "c"), [0, 1])]):
        assert "must have all of its parts" in refused(combine, [[joint], rest])


def test_heads_that_make_no_answer():
    names = joint_names((MASK, GENDER, AGE))
    assert "joint" in refused(joint_answers, [head("mask", MASK, [0])])
    assert "in this order" in refused(joint_answers, [head("joint", tuple(sorted(names)), [0])])
    falling = joint_names((MASK, GENDER, (">=60", "30-59", "<30")))
    assert "in this order" in refused(joint_answers, [head("joint", falling, [0])])
    parts = [head("mask", ("a", "b", "c"), [0]), head("gender", GENDER, [0]), head("age", AGE, [0])]
    assert "head 'mask'" in refused(joint_answers, parts)
    parts = [head("mask", MASK, [0]), head("gender", GENDER, [0]), head("age", AGE[:2], [0])]
    assert "three classes" in refused(joint_answers, parts)


# --- test.py --submission ------------------------------------------------------------------------------------------


class ColourReader(torch.nn.Module):
    """Reads the labels off the colour: blue says the mask, green the gender, red the age."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        red, green, blue = (images.mean(dim=(2, 3)) * 255).unbind(1)
        steps = {"mask": (blue, 3, 100), "gender": (green, 2, 200), "age": (red, 3, 100)}
        return {
            name: -((colour[:, None] - torch.arange(count) * step) ** 2) / 100
            for name, (colour, count, step) in steps.items()
        }


def evaluation_images(root: Path) -> dict[str, int]:
    """Eighteen pictures whose names are not in the order of info.csv; {name: its label}."""
    (root / "eval" / "images").mkdir(parents=True)
    labels = {f"{(7 * label) % 18:02d}{'a' * 38}.jpg": label for label in range(18)}
    for name, label in labels.items():
        colour = (label // 6 * 100, label // 3 % 2 * 200, label % 3 * 100)  # OpenCV writes BGR
        cv2.imwrite(str(root / "eval" / "images" / name), np.full((16, 12, 3), colour, np.uint8))
    (root / "eval" / "info.csv").write_text("ImageID,ans\r\n" + "".join(f"{name},0\r\n" for name in labels))
    return labels


@pytest.mark.parametrize("cache", ["ram", "off"])
def test_command_predicts_the_evaluation_images_in_order(tmp_path: Path, in_process, monkeypatch, cache: str):
    labels = evaluation_images(tmp_path / "data")
    config = config_from_dict(
        {
            "name": "three",
            "dataset": {"type": "MaskFaces", "args": {"root": str(tmp_path / "data" / "train")}},
            "views": {"size": [16, 12]},
            "data_loader": {"cache": cache},
            "arch": {"type": "FaceClassifier"},
            "optimizer": {"type": "AdamW"},
            "trainer": {"type": "SupervisedTrainer", "epochs": 1, "save_dir": str(tmp_path / "saved")},
        },
        "test",
    )
    classes = {"mask": MASK, "gender": GENDER, "age": AGE}
    run_dir = tmp_path / "saved" / "three" / "1"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "metrics.csv").write_text("epoch,step,valid/joint/macro_f1\n1,9,0.5\n2,18,0.75\n")

    def load(path: Path, *_: object) -> Loaded:
        offsets = {head: torch.zeros(len(names)) for head, names in classes.items()}
        return Loaded(
            path, config, ColourReader(), classes, [[0.0] * 3, [1.0] * 3], offsets, {}, run_dir, "three/1", 18
        )

    monkeypatch.setattr("trainer.evaluate.load_for_evaluation", load)
    out = tmp_path / "submission.csv"
    done = in_process("test.py", "--resume", "a.pth", "b.pth", "-d", "cpu", "--tta", "hflip", "--submission", str(out))
    assert done.code == 0 and "18 images" in done.out and "18 of 18 answers" in done.out, done.err
    assert out.read_text() == "ImageID,ans\n" + "".join(f"{name},{label}\n" for name, label in labels.items())
    assert f"submissions {out} --saved {tmp_path / 'saved'} --public SCORE" in done.out
    (entry,) = read_ledger(tmp_path / "saved")
    known = {name: entry[name] for name in ("runs", "how", "metric", "checkpoints", "file", "valid")}
    assert known == {
        "runs": "three/1", "how": "soft vote, tta hflip", "metric": "valid/joint/macro_f1",
        "checkpoints": "a.pth;b.pth", "file": str(out), "valid": "0.750000",
    }  # fmt: skip
    # A calibration that calls everybody's mask 'normal' shows that the submission goes by it.
    files = [tmp_path / name for name in ("a.pth", "b.pth")]
    for file in files:
        file.write_text(file.name)
    calibration = Calibration(
        predictor=Ensemble(files).predictor(),
        fitted_on=FittedOn(split="valid", images=9, groups=9),
        methods=["thresholds"],
        heads={"mask": FittedHead(classes=list(MASK), temperature=1.0, offsets=[0.0, 0.0, 999.0])},
        scores={},
    )
    write_calibration(tmp_path / "calibration.json", calibration)
    given = ("--submission", str(out), "--calibration", str(tmp_path / "calibration.json"), "-d", "cpu")
    (tmp_path / "saved" / "submissions.csv").write_text("damaged\n")
    done = in_process("test.py", "--resume", *map(str, files), *given)
    assert done.code == 0 and "submissions.csv: has no column 'time'" in done.out, done.err
    assert (tmp_path / "saved" / "submissions.csv").read_text() == "damaged\n"
    assert out.read_text() == "ImageID,ans\n" + "".join(f"{name},{12 + label % 6}\n" for name, label in labels.items())
    done = in_process("test.py", "--resume", str(files[0]), *given)
    assert done.code == 2 and "fitted for other checkpoints" in done.err
    (tmp_path / "data" / "eval" / "info.csv").unlink()
    done = in_process("test.py", "--resume", "a.pth", "--submission", str(out))
    assert done.code == 2 and "no info.csv" in done.err and "Traceback" not in done.err


def test_options_of_a_scoring_are_refused(tmp_path: Path, in_process):
    given = ("test.py", "-d", "cpu", "--resume", str(tmp_path / "none.pth"), "--submission", str(tmp_path / "s.csv"))
    for option, value in (
        ("--split", "valid"),
        ("--out", str(tmp_path)),
        ("--near-years", "0"),
        ("--fit", "thresholds"),
    ):
        done = in_process(*given, option, value)
        assert done.code == 2 and f"{option}: a submission is not scored" in done.err, done.err
