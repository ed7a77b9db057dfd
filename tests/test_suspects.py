"""Labels that predictions contradict: the confident joint, persons, and the way back through a corrections file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from report.evaluation import HeadPrediction
from report.suspects import apart, by_group, find_suspects, read_predictions
from tests.test_mask_faces import competition
from utils.errors import UserError

CLASSES = ("a", "b")


def test_the_confident_joint_is_that_of_the_definition():
    """A rare class that is never very probable has a low bar; a label that is merely unsure is not suspect."""
    rng = np.random.default_rng(0)
    labels = (np.arange(400) % 10 == 0).astype(np.int64)
    rare = np.where(labels == 1, rng.uniform(0.3, 0.6, 400), rng.uniform(0.0, 0.25, 400))
    labels[[1, 10]] = [1, 0]  # two wrong labels: row 1 looks like 'a', row 10 like 'b'
    rare[1], rare[10] = 0.02, 0.58
    rare[0] = 0.5  # of class b, as it is labeled
    rare[2] = 0.28  # of class a, and a little like b
    head = HeadPrediction("x", CLASSES, labels, np.stack([1 - rare, rare], axis=1))
    found = find_suspects(head, [(row,) for row in range(400)])
    usual = [(1 - rare)[labels == 0].mean(), rare[labels == 1].mean()]
    wanted = []
    for row in range(400):
        reached = [c for c in (0, 1) if head.probs[row, c] >= usual[c]]
        best = max(reached, key=lambda c: head.probs[row, c], default=labels[row])
        if best != labels[row]:
            wanted.append(row)
    assert sorted(s.rows[0] for s in found) == wanted and {1, 10} <= set(wanted) and 2 not in wanted
    margins = [s.p_label - s.p_predicted for s in found]
    assert margins == sorted(margins)
    first = found[0]
    assert (first.label, first.predicted) == ("b", "a") and first.rows == (1,)


def test_images_of_a_person_are_judged_together_only_where_their_labels_never_differ():
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]])
    head = HeadPrediction("x", CLASSES, np.array([0, 0, 1, -1]), probs)
    judged, rows = by_group(head, ["p", "p", "q", "q"])
    assert rows == [(0, 1), (2, 3)] and judged.labels.tolist() == [0, 1]
    np.testing.assert_allclose(judged.probs, [[0.55, 0.45], [0.2, 0.8]])
    differing = HeadPrediction("x", CLASSES, np.array([0, 1, 1, -1]), probs)
    assert by_group(differing, ["p", "p", "q", "q"])[1] == [(0,), (1,), (2,), (3,)]


def test_a_joint_head_is_taken_apart_by_sums_of_its_classes():
    classes = tuple(f"{m}/{g}" for m in "wn" for g in "mf")
    head = HeadPrediction("joint", classes, np.array([3, -1]), np.array([[0.1, 0.2, 0.3, 0.4], [1, 0, 0, 0]]))
    one, two = apart(head, ("mask", "gender"))
    assert (one.name, one.classes, one.labels.tolist()) == ("mask", ("w", "n"), [1, -1])
    np.testing.assert_allclose(one.probs, [[0.3, 0.7], [1, 0]])
    np.testing.assert_allclose(two.probs, [[0.4, 0.6], [1, 0]])
    assert apart(HeadPrediction("x", CLASSES, np.array([0]), np.array([[1.0, 0.0]])), ("mask",))[0].name == "x"


def test_a_table_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "t.csv").write_text("path,label\nx,1\n")
    for name in ("t.csv", "none.csv"):
        with pytest.raises(UserError, match=name):
            read_predictions(tmp_path / name)


@pytest.mark.parametrize("joint", [False, True])
def test_what_is_found_goes_back_through_a_corrections_file(joint: bool, tmp_path: Path, in_process):
    """One person's gender and one photo's mask, contradicted by predictions that agree with all other labels."""
    root = competition(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "name": "mask",
                "dataset": {"type": "MaskFaces", "args": {"root": str(root), "joint": joint}},
                "arch": {"type": "FaceClassifier", "args": {"backbone": "test_resnet"}},
                "optimizer": {"type": "AdamW"},
                "trainer": {"type": "MultiHeadTrainer" if not joint else "SupervisedTrainer", "epochs": 1},
            }
        )
    )
    from data_loader.prepare_labels import read_labels
    from utils.config import load_config

    frame = read_labels(load_config(config))
    paths = list(frame.rows["path"])
    person = str(Path(paths[0]).parent)
    photo = next(path for path in paths if not path.startswith(person) and "normal" in path)
    table = pd.DataFrame({"path": paths})
    for head, names in frame.classes.items():
        labels = frame.rows[head].to_numpy()
        table[f"{head}/label"] = [names[label] for label in labels]
        told = np.eye(len(names))[labels] * 0.9 + 0.1 / len(names)
        for row, path in enumerate(paths):
            label = names[labels[row]]
            if path.startswith(person) and head in ("gender", "joint"):
                other = {"male": "female", "female": "male"}
                said = "/".join(other.get(part, part) for part in label.split("/"))
                told[row] = np.roll(told[row], names.index(said) - labels[row])
            if path == photo and head in ("mask", "joint"):
                said = label.replace("normal", "wear")
                told[row] = np.roll(told[row], names.index(said) - labels[row])
        for index, name in enumerate(names):
            table[f"{head}/p/{name}"] = told[:, index]
    table.to_csv(tmp_path / "oof.csv", index=False)
    out = tmp_path / "suspects"
    given = ("prepare.py", "suspects", "-c", str(config), str(tmp_path / "oof.csv"), "--out", str(out))
    done = in_process(*given)
    assert done.code == 0 and ": 2 of " in done.out, done.out + done.err
    found = pd.read_csv(out / "suspects.csv", keep_default_na=False)
    assert found[["path", "field"]].to_numpy().tolist() in (
        [[person, "gender"], [photo, "mask"]],
        [[photo, "mask"], [person, "gender"]],
    )
    page = (out / "index.html").read_text()
    assert page.count('class="suspect"') == 2 and page.count("data:image/jpeg") >= 4
    refused = in_process("prepare.py", "corrections", "-c", str(config), str(out / "suspects.csv"))
    assert refused.code == 2, "nothing is relabeled that nobody has looked at"
    found["to"] = found["predicted"]
    found.to_csv(tmp_path / "mine.csv", index=False)
    applied = in_process("prepare.py", "corrections", "-c", str(config), str(tmp_path / "mine.csv"))
    assert applied.code == 0 and applied.out.count("applied  ") == 2, applied.out + applied.err
    few = in_process(*given, "--most", "1")
    assert few.code == 0 and "the first 1 of them" in few.out and len(pd.read_csv(out / "suspects.csv")) == 1
    table.assign(path="x/" + table["path"]).to_csv(tmp_path / "oof.csv", index=False)
    refused = in_process(*given)
    assert refused.code == 2 and "images are not in the data of the config (such as x/" in refused.err
