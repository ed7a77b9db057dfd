"""A backbone that does not train: its features once, and then a run like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.classifier import FaceClassifier
from tests.test_training import equal, rows, weights, write_config
from trainer.build import build_trainer
from trainer.check_resume import check_resume
from trainer.evaluate import load_for_evaluation
from trainer.session import train
from utils.config import load_config
from utils.distributed import World

CPU = torch.device("cpu")
FROZEN = [
    "arch.args.freeze=backbone",
    "arch.args.dropout=0.0",
    "data_loader.num_workers=0",
    "optimizer.backbone_lr=null",
]
SHORT = ["trainer.type=SupervisedTrainer", "trainer.epochs=3", "trainer.steps_per_epoch=8", "logger.console=false"]


@pytest.fixture
def file(tmp_path, tiny_faces):
    return write_config(tmp_path, tiny_faces)


def run(file, name, *changes):
    trainer = train(load_config(file, [*FROZEN, *SHORT, *changes]), file, [], None, "cpu", name)
    trainer.train()
    trainer.logger.close()
    return trainer, file.parent / "saved" / "tiny" / name


def test_training_on_features_is_training_on_the_images(file, capsys, monkeypatch):
    """The same losses and weights as with the backbone run at every step, and a checkpoint that needs no features."""
    _, images = run(file, "images", "views.train=none")
    assert "data_loader.feature_views=1" in (images / "train.log").read_text()
    trainer, features = run(file, "features", "data_loader.feature_views=1")
    for one, two in zip(rows(images), rows(features), strict=True):
        assert one.keys() == two.keys()
        assert [float(one[name]) for name in one] == pytest.approx([float(two[name]) for name in one], abs=1e-4)
    a, b = (weights(folder / "checkpoints" / "last.pth") for folder in (images, features))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a) and a.keys() == b.keys()

    best = load_for_evaluation(features / "checkpoints" / "best.pth", CPU)
    logits = best.model(trainer.normalize(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)))
    assert logits["hue"].shape == (2, 2)

    # The next start reads them, whatever it trains: the backbone is not asked again.
    monkeypatch.setattr(FaceClassifier, "features", lambda self, images: 1 / 0)
    _, again = run(file, "again", "data_loader.feature_views=1")
    assert rows(again) == rows(features)
    assert equal(b, weights(again / "checkpoints" / "last.pth"))
    capsys.readouterr()


def test_several_views_are_drawn_by_position_and_do_not_depend_on_what_was_cached(file):
    changes = [*FROZEN, *SHORT, "data_loader.feature_views=3"]
    data = build_trainer(load_config(file, changes), CPU, World(), {}, tell=lambda _: None).trainer.data
    table = data.tables["labeled"]["image"].features
    assert table.shape == (24, 3, table.shape[2]) and data.tables["eval"]["image"].features.shape[1] == 1
    assert np.abs(table[:, 0] - table[:, 1]).max() > 1e-3, "views of an image must differ"
    in_memory = load_config(file, [*changes, "data_loader.cache=ram", "data_loader.batch_size=8"])
    other = build_trainer(in_memory, CPU, World(), {}, tell=lambda _: None).trainer.data
    assert np.array_equal(other.tables["labeled"]["image"].features, table)
    small = [batch["labeled"] for batch in data.train_batches(0, 4, {})]
    large = [batch["labeled"] for batch in other.train_batches(0, 2, {})]
    assert torch.equal(torch.cat([b["image"] for b in small]), torch.cat([b["image"] for b in large]))
    assert not torch.equal(next(iter(data.train_batches(6, 7, {})))["labeled"]["image"], small[0]["image"])


def test_features_of_a_class_with_a_view_of_its_own_are_not_taken_from_before_its_labels_changed(file):
    """The same images and the same config, and other labels: each row has the features of its own class's view."""
    of = """views.train_of={"hue": {"blue": [{"type": "InvertImg", "args": {"p": 1.0}}]}}"""
    config = load_config(file, [*FROZEN, *SHORT, "data_loader.feature_views=2", "views.train=none", of])

    def found() -> tuple[np.ndarray, np.ndarray]:
        data = build_trainer(config, CPU, World(), {}, tell=lambda _: None).trainer.data
        rows = np.flatnonzero(data.tables["labeled"]["image"].place >= 0)
        return rows, data.tables["labeled"]["image"].take(rows, 0).numpy()

    rows, before = found()
    table = Path(str(config.dataset.args["root"])) / "labels.csv"
    table.write_text(table.read_text().replace("red", "x").replace("blue", "red").replace(",x", ",blue"))
    again, after = found()
    shared = np.intersect1d(rows, again)
    assert len(shared) > 5
    for row in shared:
        assert not np.allclose(before[rows == row], after[again == row], atol=1e-4)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("sampler", ["random", "balanced"])
def test_every_image_that_a_pass_may_show_has_features_of_its_own(file, views, sampler):
    changes = [f"data_loader.feature_views={views}", 'data_loader.one_per_group={"hue": "red"}', "labels.labeled=null"]
    config = load_config(file, [*FROZEN, *SHORT, *changes, f"data_loader.sampler={sampler}"])
    data = build_trainer(config, CPU, World(), {}, tell=lambda _: None).trainer.data
    table = data.tables["labeled"]["image"]
    seen = np.concatenate([batch["labeled"]["row"].numpy() for batch in data.train_batches(0, 40, {})])
    assert (table.place[seen] >= 0).all() and len(set(seen)) > len(data.data.streams["labeled"][0].rows)
    valid = np.flatnonzero(data.data.labels.split == "valid")
    with pytest.raises(IndexError, match="no features of row"):
        table.take(valid[:1], 0)


def test_stop_and_resume_is_exact_and_fixmatch_takes_several_views(file):
    """FixMatch with weak and strong views from memory: what is resumed loads the backbone before its features."""
    config = load_config(file, [*FROZEN, "data_loader.feature_views=2", "trainer.speed=null"])
    same, lines = check_resume(config, "cpu")
    assert same, lines


def test_flexmatch_knows_the_rows_behind_the_features(file):
    changes = [*FROZEN, "data_loader.feature_views=2", "trainer.speed=null", "trainer.args.threshold=flexmatch"]
    trainer = build_trainer(load_config(file, changes), CPU, World(), {}, tell=lambda _: None).trainer
    train_rows = np.flatnonzero(trainer.data.data.labels.split == "train")
    assert trainer.unlabeled_rows.tolist() == train_rows.tolist() and len(train_rows) == 72
    threshold = trainer.labeler("hue").threshold
    assert len(threshold.labels) == 72
    trainer.step = trainer.warm_up_steps
    threshold.value = 0.3  # every prediction is confident
    batch = next(iter(trainer.data.train_batches(0, 1, {})))
    trainer.train_on(batch)
    seen = trainer.unlabeled_rows[threshold.labels >= 0]
    assert seen.tolist() == sorted(set(batch["unlabeled"]["row"].tolist()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["arch.args.freeze=null"], 'set arch.args.freeze to "backbone"'),
        (["trainer.type=FixMatchTrainer"], "weak and strong view are the same; give at least 2"),
        (["trainer.args.mix=mixup"], "set trainer.args.mix to null"),
        (["data_loader.feature_views=0"], "data_loader.feature_views: expected a whole number ≥ 1 or null, got 0"),
    ],
)
def test_mistakes(file, tmp_path, in_process, changes, said):
    given = [*FROZEN, *SHORT, "data_loader.feature_views=1", *changes]
    done = in_process("train.py", "-c", str(file), "-d", "cpu", *(part for text in given for part in ("-s", text)))
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "saved" / "tiny").exists()


def features_of(file, tell=lambda _: None):
    config = load_config(file, [*FROZEN, *SHORT, "data_loader.feature_views=1"])
    table = build_trainer(config, CPU, World(), {}, tell=tell).trainer.data.tables["eval"]["image"]
    return table.features, sorted((file.parent / "saved" / ".cache").glob("features-*.npy"))


def test_a_damaged_file_of_features_is_said_and_computed_anew(file):
    _, stored = features_of(file)
    whole = [path.read_bytes() for path in stored]
    assert len(whole) == 2
    for damage, count in ((whole[0][:-100], 1), (b"", 1), (whole[0][:60], 1), (None, 0)):
        stored[0].write_bytes(damage) if damage is not None else stored[0].unlink()
        told: list[str] = []
        _, again = features_of(file, told.append)
        assert again == stored and [path.read_bytes() for path in stored] == whole
        said = "\n".join(told)
        assert said.count(f"{stored[0]} is damaged") == count and said.count("features: computing") == 1


@pytest.mark.parametrize("name", ["VERSION", "VIEWS", "DECODING", "cv2.__version__", "albumentations.__version__"])
def test_features_are_computed_anew_after_what_makes_the_images_has_changed(file, monkeypatch, name):
    _, before = features_of(file)
    monkeypatch.setattr(f"data_loader.features.{name}", "another")
    _, after = features_of(file)
    assert len(after) == 2 * len(before) and set(before) < set(after)
