"""Images that are there more than once: found by content or likeness, read once, and never on two sides of a split."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from data_loader.duplicates import duplicates, near_pairs
from data_loader.prepare_labels import prepare_labels, read_labels
from data_loader.readers import LabelCSV, UTKFace
from tests.test_mask_faces import SHARED, refused
from utils.config import Config, config_from_dict
from utils.errors import ConfigError

UTKFACE = SHARED / "data" / "utkface"
EXACT = {"b/copy.jpg": "a/00.jpg", "b/again.jpg": "a/00.jpg"}
NEAR = {"b/coarse.jpg": "a/01.jpg", "b/larger.png": "a/02.jpg", "b/lighter.jpg": "a/03.jpg"}
OTHERS = ["b/bright.jpg", "b/mirror.jpg", "b/crop.jpg"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 soft pictures of 24 persons in a/; in b/, of other persons, copies of some and pictures that are none."""
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    rng = np.random.default_rng(0)
    pictures = [
        cv2.resize(rng.integers(30, 190, (6, 6, 3)).astype(np.uint8), (80, 80), interpolation=cv2.INTER_CUBIC)
        for _ in range(24)
    ]
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / "a" / f"{number:02d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    for name in EXACT:
        shutil.copy(folder / "a" / "00.jpg", folder / name)
    coarse = [cv2.IMWRITE_JPEG_QUALITY, 60]
    cv2.imwrite(str(folder / "b" / "coarse.jpg"), pictures[1], coarse)
    cv2.imwrite(str(folder / "b" / "larger.png"), cv2.resize(pictures[2], (120, 120)))
    cv2.imwrite(str(folder / "b" / "lighter.jpg"), pictures[3] + 4)
    cv2.imwrite(str(folder / "b" / "bright.jpg"), pictures[4] + 50)
    cv2.imwrite(str(folder / "b" / "mirror.jpg"), pictures[5][:, ::-1])
    cv2.imwrite(str(folder / "b" / "crop.jpg"), pictures[6][16:, 16:])
    # b/coarse and b/lighter are of one person: that person, 01 and 03 are one group.
    lines = ["path,who,hair"]
    lines += [f"a/{number:02d}.jpg,p{number:02d},{'long' if number % 2 else 'short'}" for number in range(24)]
    who = {"b/coarse.jpg": "q", "b/lighter.jpg": "q"}
    for name in (*EXACT, *NEAR, *OTHERS):
        lines.append(f"{name},{who.get(name, name)},{'' if name == 'b/again.jpg' else 'short'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def read(root: Path, table: str = "labels.csv"):
    return LabelCSV(str(root), table, ["hair"], group="who")


def test_copies_are_found_and_pictures_that_differ_are_not(root: Path, tmp_path: Path):
    frame = read(root)
    for kind, wanted in (("exact", EXACT), ("near", EXACT | NEAR)):
        table = duplicates(frame, kind, tmp_path / "cache").set_index("path")
        found = table[table["kind"] != ""]
        assert found["duplicate_of"].to_dict() == wanted
        assert {path for path, of in found["kind"].items() if of == "exact"} == set(EXACT)
    # 00 is short as its copy is; the other copy has no label; 01 and 03 are long where their doubles are short.
    assert set(table.index[~table["labels_agree"]]) == {"b/coarse.jpg", "b/lighter.jpg"}
    groups = table.groupby("group").groups
    assert {group: list(paths) for group, paths in groups.items() if len(paths) > 1} == {
        "b/again.jpg": ["a/00.jpg", "b/copy.jpg", "b/again.jpg"],
        "b/larger.png": ["a/02.jpg", "b/larger.png"],
        "p01": ["a/01.jpg", "a/03.jpg", "b/coarse.jpg", "b/lighter.jpg"],
    }
    # The order of the rows changes nothing.
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "turned.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    turned = duplicates(read(root, "turned.csv"), "near", tmp_path / "cache").set_index("path")
    assert turned.loc[table.index].equals(table)


def test_images_are_read_once_and_again_when_they_change(root: Path, tmp_path: Path, monkeypatch):
    told: list[str] = []
    first = duplicates(read(root), "near", tmp_path / "cache", told.append)
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("an image was read again"))
    assert duplicates(read(root), "near", tmp_path / "cache", told.append).equals(first)
    assert told == ["duplicates: reading 32 images once"]
    monkeypatch.setattr(cv2, "imdecode", decode)
    shutil.copy(root / "a" / "09.jpg", root / "b" / "crop.jpg")
    changed = duplicates(read(root), "near", tmp_path / "cache", told.append).set_index("path")
    assert changed.loc["b/crop.jpg", "duplicate_of"] == "a/09.jpg" and told[1:] == ["duplicates: reading 1 images once"]
    (tmp_path / "cache" / "fingerprints.npz").write_bytes(b"PK damaged")
    assert duplicates(read(root), "near", tmp_path / "cache", told.append).set_index("path").equals(changed)
    (root / "a" / "03.jpg").write_bytes(b"no image")
    assert "03.jpg: cannot be decoded" in refused(duplicates, read(root), "exact", tmp_path / "cache")


def test_thirty_thousand_images_take_seconds_and_miss_no_pair():
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**63, 15_000).astype(np.uint64)
    # A face is like every other: brightness and difference hashes are crowded.
    small = np.clip(rng.normal(120, 20, (15_000, 1)) + rng.normal(0, 30, (15_000, 576)), 0, 255).astype(np.uint8)
    flipped = np.uint64(1) << rng.integers(0, 64, (15_000, 6)).astype(np.uint64)
    count = rng.integers(0, 7, 15_000)
    moved = base ^ np.bitwise_xor.reduce(np.where(np.arange(6) < count[:, None], flipped, np.uint64(0)), axis=1)
    noisy = np.clip(small + rng.choice([-2.0, 5.0, 7.0], (15_000, 1)), 0, 255).astype(np.uint8)
    dhash, both = np.concatenate([base, moved]), np.concatenate([small, noisy])
    start = time.process_time()
    pairs = near_pairs(dhash, both)
    assert time.process_time() - start < 8
    bits = np.bitwise_count(base ^ moved)
    alike = np.abs(small.astype(int) - noisy).mean(axis=1) < 6
    wanted = {(row, row + 15_000) for row in np.flatnonzero((bits <= 4) & alike)}
    assert {(min(pair), max(pair)) for pair in pairs.tolist()} == wanted and 4000 < len(wanted) < 12_000


def config_of(root: Path, save: Path, **labels) -> Config:
    args = {"root": str(root), "frame": "labels.csv", "attributes": ["hair"], "group": "who"}
    tree = {
        "name": "x",
        "dataset": {"type": "LabelCSV", "args": args},
        "labels": labels,
        "split": {"valid": 0.4},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "resnet18"}},
        "optimizer": {"type": "AdamW"},
        "trainer": {"type": "SupervisedTrainer", "epochs": 1, "save_dir": str(save)},
    }
    return config_from_dict(tree, "x.json")


def test_duplicates_are_on_one_side_of_every_split(root: Path, tmp_path: Path):
    def torn(**labels) -> int:
        count = 0
        for seed in range(8):
            config = config_of(root, tmp_path / "saved", **labels)
            config = config_from_dict({**config.to_dict(), "split": {"valid": 0.4, "seed": seed}}, "x")
            found = prepare_labels(config)
            side = dict(zip(found.frame.rows["path"], found.split))
            count += sum(side[path] != side[first] for path, first in (EXACT | NEAR).items())
        return count

    assert torn() > 5 and torn(duplicates="near") == 0
    config = config_of(root, tmp_path / "saved", duplicates="near", filters=["path != 'b/coarse.jpg'"])
    frame = read_labels(config)
    assert frame.history[-1].startswith(
        "duplicates near: 2 exact and 2 near duplicates among 31 images; 31 groups became 27; 1 have another label"
    )
    with pytest.raises(ConfigError, match=r'labels\.duplicates: expected "exact" or "near" or null, got "nere"'):
        config_of(root, tmp_path, duplicates="nere")


def test_the_command_lists_them(root: Path, tmp_path: Path, in_process: Callable):
    path = tmp_path / "x.json"
    path.write_text(config_of(root, tmp_path / "saved", duplicates="near").model_dump_json(by_alias=True))
    out = tmp_path / "made" / "duplicates.csv"
    done = in_process("prepare.py", "duplicates", "-c", str(path), "--out", str(out))
    assert done.code == 0 and f"{out}: duplicates near: 2 exact and 3 near duplicates" in done.out, done.err
    lines = out.read_text().splitlines()
    assert lines[0] == "path,group,kind,duplicate_of,labels_agree" and len(lines) == 6
    assert "b/coarse.jpg,p01,near,a/01.jpg,False" in lines and "b/copy.jpg,b/again.jpg,exact,a/00.jpg,True" in lines
    done = in_process("prepare.py", "duplicates", "-c", str(path), "--kind", "exact", "--out", str(out))
    assert done.code == 0 and len(out.read_text().splitlines()) == 3


def together(groups: pd.Series) -> set[tuple[int, int]]:
    """Pairs of rows of one group."""
    found = groups.reset_index(drop=True).groupby(groups.to_numpy()).indices.values()
    return {pair for rows in found for pair in itertools.combinations(sorted(rows.tolist()), 2)}


@pytest.mark.skipif(not UTKFACE.is_dir(), reason=f"{UTKFACE} is not there")
def test_the_known_duplicates_of_real_faces_are_found(tmp_path: Path):
    known = pd.read_csv(UTKFACE / "labels.csv", dtype=str, keep_default_na=False)
    frame = UTKFace(str(UTKFACE), group=None)
    sizes = known.groupby("group")["path"].transform("size")
    some = known[(sizes > 1) | (known.index % 12 == 0)].set_index("path")
    frame = frame.with_rows(frame.rows[frame.rows["path"].isin(some.index)])
    table = duplicates(frame, "near", tmp_path)
    some = some.loc[table["path"]]
    assert set(table["path"][table["kind"] == "exact"]) == set(some.index[some["exact_duplicate_of"] != ""])
    ours, theirs = together(table["group"]), together(some["group"])
    assert len(theirs) > 300 and len(ours & theirs) > 0.97 * len(ours | theirs)
