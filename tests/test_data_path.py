"""What a batch holds depends on (seed, position, row) only: not on workers, epochs before, or where a run resumed."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data_loader.cache import open_images
from data_loader.image_reader import ImageReader
from data_loader.sampler import StepSampler, Stream, make_stream
from data_loader.views import PRESETS, View
from trainer.fixmatch import FixMatchTrainer
from utils.errors import UserError


def image(side: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)


def test_stream_is_every_row_once_a_pass_and_a_function_of_the_position():
    rows = np.arange(10, 17)
    stream = Stream(rows, seed=1, stream=1)
    whole = stream.take(0, 70)
    for start in range(0, 70, 7):
        assert sorted(whole[start : start + 7]) == list(rows)
    assert len({tuple(whole[s : s + 7]) for s in range(0, 70, 7)}) > 5
    for start in (0, 3, 20, 55):
        assert list(Stream(rows, 1, 1).take(start, 9)) == list(whole[start : start + 9])
    assert list(Stream(rows, 2, 1).take(0, 70)) != list(whole)


@pytest.mark.parametrize("kind", ["balanced", "weighted"])
def test_imbalance_samplers_show_every_class_equally(kind: str):
    rows, classes = np.arange(200), np.array([0] * 180 + [1] * 17 + [2] * 3)
    drawn = make_stream(kind, rows, classes, seed=3, stream=1).take(0, 3000)
    shares = np.bincount(classes[drawn]) / 3000
    assert np.abs(shares - 1 / 3).max() < (1e-9 if kind == "balanced" else 0.05)
    again = make_stream(kind, rows, classes, seed=3, stream=1)
    assert list(again.take(1234, 50)) == list(drawn[1234:1284])
    if kind == "balanced":
        # A rare class repeats, but its images take turns.
        assert set(np.bincount(drawn[classes[drawn] == 2])[-3:]) <= {333, 334}


def test_resumed_sampler_starts_at_its_batch_and_ranks_share_it():
    def streams():
        return {"labeled": (Stream(np.arange(9), 0, 1), 4), "unlabeled": (Stream(np.arange(30), 0, 2), 12)}

    def drawn(start: int, rank: int = 0, world: int = 1) -> list[dict[str, list[tuple[int, int]]]]:
        sampler = StepSampler(streams(), start, 8, {"unlabeled": 2}, rank, world)
        return [{name: list(zip(*map(list, keys))) for name, keys in batch.items()} for batch in sampler]

    whole = drawn(0)
    assert drawn(5) == whole[5:]
    assert [sum(map(len, batch.values())) for batch in whole[:3]] == [4, 4, 16]
    for batch, first, second in zip(whole, drawn(0, 0, 2), drawn(0, 1, 2)):
        for name in batch:
            assert sorted(first[name] + second[name]) == sorted(batch[name]) and len(first[name]) == len(second[name])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_view_is_a_function_of_image_and_seed(preset: str):
    view, source = View(preset, (48, 48)), image()
    results = [view(source, seed) for seed in range(12)]
    other = View(preset, (48, 48))
    for seed in reversed(range(12)):
        assert np.array_equal(other(source, seed), results[seed])
    different = len({r.tobytes() for r in results})
    assert different == 1 if preset == "none" else different > (1 if preset == "flip" else 6)
    assert all(r.shape == (48, 48, 3) and r.dtype == np.uint8 for r in results)
    assert np.array_equal(pickle.loads(pickle.dumps(other))(source, 3), results[3])
    assert np.array_equal(source, image())


def test_transforms_of_a_view_draw_independently_of_one_another():
    """albumentations' own seeding gives every transform the same draws: all p = 0.5 or none."""
    view, source = (
        View(
            [
                "HorizontalFlip",
                "VerticalFlip",
                {"type": "SomeOf", "args": {"transforms": ["InvertImg"], "n": 1, "p": 1.0}},
            ],
            (48, 48),
        ),
        image(),
    )
    seen = np.zeros((2, 2, 2))
    for seed in range(400):
        made = view(source, seed)
        versions = [(h, v, i) for h in (0, 1) for v in (0, 1) for i in (0, 1)]
        seen[next(x for x in versions if np.array_equal(made, variant(source, *x)))] += 1
    assert seen.min() > 25, "independent would be 50 of each"


def variant(source: np.ndarray, horizontal: int, vertical: int, inverted: int) -> np.ndarray:
    flipped = source[:: -1 if vertical else 1, :: -1 if horizontal else 1]
    return 255 - flipped if inverted else flipped


def batches(run_data, workers: int, start: int = 0, stop: int = 6) -> list[bytes]:
    data = run_data(workers)
    found = []
    for batch in data.train_batches(start, stop, {}):
        parts = [batch["labeled"]["image"], batch["unlabeled"]["weak"], batch["unlabeled"]["strong"]]
        found.append(b"".join(part.numpy().tobytes() for part in parts))
    return found


@pytest.fixture
def run_data(tiny_faces: Path, tmp_path: Path):
    from data_loader.face_data import FaceData
    from data_loader.prepare_labels import prepare_labels
    from utils.config import config_from_dict

    def make(workers: int, cache: str = "disk", eval_view: str = "none") -> FaceData:
        config = config_from_dict(
            {
                "name": "data",
                "dataset": {
                    "type": "LabelCSV",
                    "args": {"root": str(tiny_faces), "frame": "labels.csv", "attributes": ["hue"]},
                },
                "arch": {"type": "FaceClassifier"},
                "optimizer": {"type": "AdamW"},
                "trainer": {"type": "FixMatchTrainer", "epochs": 1},
                "views": {"size": 32, "eval": eval_view},
                "data_loader": {"batch_size": 4, "unlabeled_ratio": 2, "num_workers": workers},
            },
            "test",
        )
        labels = prepare_labels(config)
        files = [labels.frame.root / path for path in labels.frame.rows["path"]]
        images = open_images(files, ImageReader((32, 32)), cache, tmp_path / "cache")
        return FaceData(config, labels, images, FixMatchTrainer.streams, torch.device("cpu"))

    return make


def test_batches_do_not_depend_on_workers_or_on_where_a_run_resumed(run_data):
    alone = batches(run_data, 0, stop=24)
    assert batches(run_data, 2, stop=24) == alone
    assert batches(run_data, 2, start=17, stop=24) == alone[17:]
    assert len(set(alone)) == 24, "an augmentation repeated itself"


def test_evaluation_starts_workers_once_and_only_where_there_is_work_for_them(run_data):
    data, found = run_data(2, "off"), []
    for _ in range(3):
        images = [batch["eval"]["image"].numpy().tobytes() for batch in data.evaluation_batches("valid")]
        pids = {child.pid for child in multiprocessing.active_children()}
        found.append((b"".join(images), frozenset(pids)))
    assert len(set(found)) == 1 and len(pids) == 2
    cached = run_data(2)
    batches = list(cached.evaluation_batches("valid"))
    assert b"".join(batch["eval"]["image"].numpy().tobytes() for batch in batches) == found[0][0]
    assert {child.pid for child in multiprocessing.active_children()} == pids


def test_validation_is_of_few_rows_at_a_time_and_of_images_as_they_are(run_data):
    """A forward pass takes no more memory than a training step; a random view is warned of."""
    data = run_data(0)
    sizes = [len(batch["eval"]["row"]) for batch in data.evaluation_batches("valid")]
    assert max(sizes) == 4 * 4 and sum(sizes) == data.size("valid") and not data.notes
    (warning,) = run_data(0, eval_view="light").notes
    assert warning.startswith("warning: views.eval changes images at random")


def test_cache_gives_the_decoded_pixels_and_notices_a_changed_file(tiny_faces: Path, tmp_path: Path):
    files = sorted((tiny_faces / "images").glob("*.png"))[:6]
    told: list[str] = []

    def pixels(mode: str) -> list[bytes]:
        images = open_images(files, ImageReader((20, 24)), mode, tmp_path / "cache", told.append)
        return [np.asarray(images[i]).tobytes() for i in range(len(files))]

    expected = pixels("off")
    assert [pixels(mode) for mode in ("ram", "disk", "disk", "auto")] == [expected] * 4
    assert len(told) == 1, "the cache was built more than once"
    cv2.imwrite(str(files[2]), np.zeros((40, 40, 3), np.uint8))
    changed = pixels("disk")
    assert [a == b for a, b in zip(changed, expected)] == [True, True, False, True, True, True]


def test_the_centre_is_cropped_in_the_images_own_pixels_before_resizing(tmp_path: Path):
    rng = np.random.default_rng(0)
    files = [tmp_path / name for name in ("tall.png", "small.png", "large.jpg")]
    for file, shape in zip(files, ((90, 61, 3), (20, 70, 3), (512, 384, 3))):
        cv2.imwrite(str(file), cv2.GaussianBlur(rng.integers(0, 256, shape).astype(np.uint8), (0, 0), 3))
    whole = open_images(files, ImageReader((24, 24)), "off", tmp_path)
    for mode in ("off", "ram", "disk", "disk"):
        images = open_images(files, ImageReader((24, 24), crop=(40, 48)), mode, tmp_path / "cache")
        for row, (file, part) in enumerate(
            zip(files, (np.s_[25:65, 6:54], np.s_[0:20, 11:59], np.s_[236:276, 168:216]))
        ):
            source = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)[part]
            how = cv2.INTER_AREA if min(source.shape[:2]) >= 24 else cv2.INTER_LINEAR
            assert np.array_equal(images[row], cv2.resize(source, (24, 24), interpolation=how)), (mode, file.name)
            assert not np.array_equal(images[row], whole[row])
    assert not np.array_equal(open_images(files, ImageReader((24, 24)), "disk", tmp_path / "cache")[0], images[0])


def test_every_image_is_preprocessed_once_after_resizing_and_each_way_of_it_has_its_cache(tmp_path: Path):
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{i}.png" for i in range(40)]
    for file in files:
        cv2.imwrite(str(file), cv2.GaussianBlur(rng.integers(0, 256, (40, 30, 3)).astype(np.uint8), (0, 0), 2))
    clahe = {"type": "CLAHE", "args": {"clip_limit": [2, 2], "tile_grid_size": [4, 4], "p": 1}}
    mirrored = {"type": "HorizontalFlip", "args": {"p": 1}}
    for steps in ([clahe], [clahe, mirrored]):
        reader = ImageReader((24, 24), preprocess=steps)
        stored = [open_images(files, reader, mode, tmp_path / "cache") for mode in ("off", "ram", "disk", "disk")]
        for row, file in enumerate(files):
            plain = cv2.resize(cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB), (24, 24), interpolation=3)
            light = cv2.cvtColor(plain, cv2.COLOR_RGB2LAB)
            light[..., 0] = cv2.createCLAHE(clipLimit=2, tileGridSize=(4, 4)).apply(light[..., 0])
            expected = cv2.cvtColor(light, cv2.COLOR_LAB2RGB)[:, :: -1 if len(steps) == 2 else 1]
            for images in stored:
                assert np.array_equal(images[row], expected)
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 2


def test_a_preset_that_has_changed_is_not_taken_from_the_cache(tmp_path: Path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3))
    found = []
    for threshold in (50, 200):
        step = {"type": "Solarize", "args": {"threshold_range": [threshold / 255] * 2, "p": 1}}
        monkeypatch.setitem(PRESETS, "mine", lambda height, width, step=step: [step])
        reader = ImageReader((24, 24), preprocess=["mine"])
        images = [open_images([tmp_path / "a.png"], reader, mode, tmp_path / "cache")[0] for mode in ("disk", "ram")]
        assert np.array_equal(*images)
        found.append(images[0])
    assert not np.array_equal(*found)


@pytest.mark.parametrize("mode", ["disk", "ram", "off"])
def test_damaged_images_are_all_named_before_training(tiny_faces: Path, tmp_path: Path, mode: str):
    files = sorted((tiny_faces / "images").glob("*.png"))[:6]
    files[1].write_bytes(b"not an image")
    files[4].write_bytes(files[4].read_bytes()[:40])
    with pytest.raises(UserError) as error:
        open_images(files, ImageReader((20, 20)), mode, tmp_path / "cache")
    assert files[1].name in str(error.value) and files[4].name in str(error.value)
    assert "cannot be decoded" in str(error.value)
