"""Who is shown how often: one photo of a person in each pass, and samplers that balance the classes of one head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_loader.face_data import FaceData
from data_loader.hidden_labels import hide_labels
from data_loader.one_of import OneOf, units_of
from data_loader.prepare_labels import Labels, prepare_labels
from data_loader.readers import MaskFaces
from tests.test_mask_faces import competition, refused
from trainer.build import build_trainer
from trainer.components import check_components
from utils.config import apply_overrides, config_from_dict, load_config
from utils.distributed import World
from utils.errors import ConfigError, UserError

PEOPLE = [(f"{n:06d}", ("male", "female")[n % 2], (25, 45, 60)[n % 3]) for n in range(60)]


def config_of(root: Path, joint: bool = False, trainer: str = "SupervisedTrainer", **sections: Any):
    return config_from_dict(
        {
            "name": "sampling",
            "dataset": {"type": "MaskFaces", "args": {"root": str(root), "joint": joint}},
            "split": {"valid": 0.2},
            "arch": {"type": "FaceClassifier"},
            "optimizer": {"type": "AdamW"},
            "trainer": {"type": trainer, "epochs": 1},
            **sections,
        },
        "test",
    )


LABELED = {"labeled": {"image": "train"}}
BOTH = {**LABELED, "unlabeled": {"weak": "weak", "strong": "strong"}}


def data_of(config, streams=LABELED) -> FaceData:
    labels = prepare_labels(config)
    return FaceData(config, labels, np.zeros((len(labels.frame), 8, 8, 3), np.uint8), streams, torch.device("cpu"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return competition(tmp_path_factory.mktemp("people"), PEOPLE)


def states_of_pass(data: FaceData, number: int, stream: str = "labeled") -> dict[tuple[str, str], str]:
    """{(person, mask): state} of one pass, in which every one of them is there once."""
    rows = data.labels.frame.rows.iloc[data.streams[stream][0].take(number * len(data.streams[stream][0].rows), 144)]
    worn = np.where(rows["state"].str.startswith("mask"), "wear", rows["state"])
    found = dict(zip(zip(rows["person"], worn), rows["state"]))
    assert len(found) == len(rows) == 48 * 3
    return found


@pytest.mark.parametrize("joint", [False, True])
def test_each_pass_shows_one_masked_photo_of_each_person_and_every_pass_another(root: Path, joint: bool):
    data = data_of(config_of(root, joint, data_loader={"one_per_group": {"mask": "wear"}, "batch_size": 16}))
    passes = [states_of_pass(data, number) for number in range(40)]
    assert data.steps_per_pass() == 9 and "a pass shows 144 of 336 training images" in data.notes[0]
    for key in passes[0]:
        seen = [states[key] for states in passes]
        assert len(set(seen)) == (5 if key[1] == "wear" else 1)
    drawn = np.array([[int(states[k][-1]) for k in states if k[1] == "wear"] for states in passes]).ravel()
    assert np.abs(np.bincount(drawn, minlength=6)[1:] / len(drawn) - 0.2).max() < 0.03
    head = "joint" if joint else "mask"
    assert data.class_counts[head].sum() == 144 and (joint or data.class_counts["mask"].tolist() == [48, 48, 48])
    # Where a run continues does not matter, and the rows of valid are all there.
    again = data_of(config_of(root, joint, data_loader={"one_per_group": {"mask": "wear"}, "batch_size": 16}))
    whole = data.streams["labeled"][0].take(0, 1000)
    assert (again.streams["labeled"][0].take(333, 200) == whole[333:533]).all()
    assert data.size("valid") == 12 * 7


@pytest.mark.parametrize("kind", ["balanced", "weighted", "square_root"])
def test_balancing_samplers_count_a_person_once(root: Path, kind: str):
    sampler = {"type": kind, "args": {"by": "mask"}}
    data = data_of(config_of(root, data_loader={"sampler": sampler, "one_per_group": {"mask": "wear"}}))
    stream = data.streams["labeled"][0]
    rows = data.labels.frame.rows.iloc[stream.take(0, 3 * 48 * 20)]
    assert np.abs(rows["mask"].value_counts(normalize=True) - 1 / 3).max() < 0.03  # 5 : 1 : 1 without the rule
    worn = rows[rows["mask"] == 0].groupby("person")["state"]
    assert worn.nunique().min() >= 4
    if kind == "balanced":
        assert worn.size().nunique() == 1
        first = rows[rows["mask"] == 0].iloc[:48]
        assert first["person"].nunique() == 48


def test_unlabeled_streams_follow_labels_that_may_be_seen_and_no_others(root: Path):
    config = config_of(
        root,
        trainer="FixMatchTrainer",
        data_loader={"one_per_group": {"mask": "wear"}},
        labels={"labeled": {"count": 40}},
    )
    data = data_of(config, BOTH)
    frame, split = data.labels.frame, data.labels.split
    visible = (frame.rows["mask"] == 0) & (split == "train")
    persons = frame.rows["person"][visible].nunique()
    assert len(data.streams["unlabeled"][0].rows) == 336 - (visible.sum() - persons) and persons < visible.sum()
    joint = hide_labels(MaskFaces(str(root), joint=True), split, {"count": 40})
    units = units_of(joint, {"mask": "wear"}, "x")  # the column of names still tells what is hidden
    assert len(np.unique(units[~joint.labeled])) == (~joint.labeled).sum()


@pytest.mark.parametrize("kind", ["FixMatchTrainer", "PseudoLabelTrainer"])
def test_flexmatch_remembers_every_photo_that_a_pass_may_show(root: Path, tmp_path: Path, kind: str):
    """One pass has one photo of a person, the next another; what was predicted for one is not taken for the other's."""
    config = config_of(
        root,
        trainer=kind,
        data_loader={"one_per_group": {"mask": "wear"}, "batch_size": 36, "unlabeled_ratio": 2, "num_workers": 0},
        views={"size": 32},
        arch={"type": "FaceClassifier", "args": {"backbone": "test_efficientnet", "pretrained": False}},
    )
    changes = ["trainer.args.threshold=flexmatch", "trainer.ema=null", f"trainer.save_dir={tmp_path}"]
    config = apply_overrides(config, changes)
    trainer = build_trainer(config, torch.device("cpu"), World(), {}, tell=lambda _: None).trainer
    stream, expected = trainer.data.streams["unlabeled"][0], {}
    trainer.classes = {"mask": trainer.classes["mask"]}
    rng = torch.Generator().manual_seed(0)
    for number in range(12):
        shown = torch.from_numpy(stream.take(72 * number, 72))
        labels = torch.randint(0, 3, (72,), generator=rng)
        logits = {"mask": 9.0 * F.one_hot(labels, 3).float()}
        batch = {"labeled": {"target": {"mask": labels}}, "unlabeled": {"row": shown}}
        list(trainer.pseudo_labels(batch, logits, logits))
        expected |= dict(zip(shown.tolist(), labels.tolist()))
    stored = trainer.labeler("mask").threshold.labels
    found = {int(row): int(label) for row, label in zip(trainer.unlabeled_rows, stored) if label >= 0}
    assert found == expected and len(found) > len(stream.rows), "members of a group share a place"
    assert len(stored) == (trainer.data.labels.split == "train").sum() == 336


def test_labels_that_differ_within_a_group_are_units_of_their_own():
    units = np.array([3, 1, 3, 0, 1, 3])
    one_of = OneOf(np.array([10, 11, 12, 13, 14, 15]), units)
    assert sorted(one_of.first) == [10, 11, 13]
    picked = np.stack([one_of.pick(one_of.first, 0, 1, number) for number in range(60)])
    assert [sorted(set(column)) for column in picked.T] == [[13], [11, 14], [10, 12, 15]]


def test_a_sampler_balances_the_classes_that_by_names(root: Path):
    def shares(by) -> tuple[np.ndarray, np.ndarray]:
        data = data_of(config_of(root, data_loader={"sampler": {"type": "balanced", "args": {"by": by}}}))
        rows = data.labels.frame.rows.iloc[data.streams["labeled"][0].take(0, 3600)]
        return (rows[name].value_counts(normalize=True).sort_index().to_numpy() for name in ("mask", "age"))

    mask, age = shares("mask")
    assert np.abs(mask - 1 / 3).max() < 1e-3 and np.abs(age - 1 / 3).max() < 0.1
    mask, age = shares(["age"])
    assert np.abs(age - 1 / 3).max() < 1e-3 and mask[0] > 0.65
    mask, age = shares(["mask", "age"])
    assert max(np.abs(mask - 1 / 3).max(), np.abs(age - 1 / 3).max()) < 1e-3
    # Without `by`, and by all heads, it is what the bare name says.
    bare = data_of(config_of(root, data_loader={"sampler": "balanced"})).streams["labeled"][0].take(0, 500)
    every = {"type": "balanced", "args": {"by": ["mask", "gender", "age"]}}
    assert (data_of(config_of(root, data_loader={"sampler": every})).streams["labeled"][0].take(0, 500) == bare).all()


def test_mistakes_are_named(root: Path, tmp_path: Path):
    def said(**loader) -> str:
        return refused(lambda: data_of(config_of(root, data_loader=loader)))

    assert "data_loader.one_per_group: no column 'mosk'; did you mean 'mask'" in said(one_per_group={"mosk": "wear"})
    assert "one_per_group.mask: no image has the value 'were'; did you mean 'wear'" in said(
        one_per_group={"mask": "were"}
    )
    assert "sampler.args.by: no head 'agee'; did you mean 'age'" in said(
        sampler={"type": "balanced", "args": {"by": "agee"}}
    )
    base = str(Path(__file__).resolve().parents[1] / "configs" / "mask_multihead.json")
    for override, message in (
        ('{"type": "random", "args": {"by": "age"}}', "data_loader.sampler.args: the sampler random takes no 'by'"),
        ('{"type": "balanced", "args": {"bye": "age"}}', "sampler.args.bye: unknown key; did you mean 'by'"),
        ('{"type": "balancd"}', 'sampler.type: expected "random", "balanced"'),
        ("balancd", 'data_loader.sampler: expected "random", "balanced", "weighted", "square_root" or an object'),
    ):
        with pytest.raises(ConfigError) as error:
            load_config(base, [f"data_loader.sampler={override}"])
        assert message in str(error.value)
    with pytest.raises(ConfigError, match=r"data_loader.one_per_group: expected an object \{COLUMN: VALUE\}"):
        load_config(base, ["data_loader.one_per_group=mask"])


def test_scoring_other_data_asks_for_no_column_that_only_training_needs(root: Path):
    config = config_of(root, data_loader={"one_per_group": {"mosk": "wear"}})
    labels = Labels(*(lambda found: (found.frame, found.split))(prepare_labels(config)))
    images = np.zeros((len(labels.frame), 8, 8, 3), np.uint8)
    assert FaceData(config, labels, images, {}, torch.device("cpu")).size("valid") == 84


# A view of its own for a class ----------------------------------------------------------------------------------------


def test_rows_of_a_class_get_their_view_in_labeled_batches_and_no_others(root: Path):
    invert = [{"type": "InvertImg", "args": {"p": 1.0}}]
    of = {
        "age": {">=60": invert},
        "state": {"normal": [{"type": "Solarize", "args": {"threshold_range": [0, 0], "p": 1}}]},
    }
    config = config_of(root, views={"size": 8, "train": "none", "weak": "none", "strong": "none", "train_of": of})
    labels = prepare_labels(config)
    pixels = np.broadcast_to(
        (np.arange(len(labels.frame)) // 2)[:, None, None, None], (len(labels.frame), 8, 8, 3)
    ).astype(np.uint8)
    data = FaceData(config, labels, pixels, BOTH, torch.device("cpu"))
    batch = next(iter(data.train_batches(0, 1, {})))
    rows = batch["labeled"]["row"].numpy()
    seen = labels.frame.rows.iloc[rows]
    inverted = (seen["age"] == 2) | (seen["state"] == "normal")
    assert 0 < inverted.sum() < len(rows)
    expected = np.where(inverted, 255 - rows // 2, rows // 2)
    assert batch["labeled"]["image"][:, 0, 0, 0].tolist() == expected.tolist()
    for name in ("weak", "strong"):
        assert batch["unlabeled"][name][:, 0, 0, 0].tolist() == (batch["unlabeled"]["row"] // 2).tolist()
    scored = next(iter(data.evaluation_batches("valid")))["eval"]
    assert scored["image"][:, 0, 0, 0].tolist() == (scored["row"] // 2).tolist()


def test_views_of_classes_are_checked_with_the_config_and_the_data(root: Path):
    def said(**of) -> str:
        with pytest.raises(UserError) as error:
            arch = {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet"}}
            config = config_of(root, views={"size": 8, "train_of": of}, arch=arch)
            check_components(config)
            data_of(config)
        return str(error.value)

    assert "views.train_of.age.>=60: no preset 'lihgt'; did you mean 'light'" in said(age={">=60": "lihgt"})
    assert "views.train_of.age.<30[0]" in said(age={"<30": [{"type": "Blurr"}]})
    crop = [{"type": "CenterCrop", "args": {"height": 50, "width": 50}}]
    assert "views.train_of.age.<30[0]: CenterCrop fails on an image of 8 x 8" in said(age={"<30": crop})
    assert "views.train_of: no column 'aeg'; did you mean 'age'" in said(aeg={"<30": "light"})
    assert "views.train_of.age: no image has the value '60+'; choose from" in said(age={"60+": "light"})
