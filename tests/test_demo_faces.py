"""Demo faces: the same bytes from the same seed, and the two layouts to the letter."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import prepare
from data_loader.demo_faces import celeba, hair, mask_faces
from data_loader.demo_faces.person import Person, Scene, sample_person, sample_scene
from data_loader.demo_faces.photo import Photo, place_head, take_photo
from data_loader.demo_faces.writing import DemoSettings, write_demo
from utils.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
SETTINGS = DemoSettings(count=100, size=64, seed=5, persons=6)
SMALL = DemoSettings(count=5, size=32, seed=5, persons=6)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "demo"
    assert write_demo(out, SETTINGS, processes=1)
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "small"
    write_demo(out, SMALL, processes=1)
    return out


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def annotation(root: Path) -> tuple[list[str], dict[str, dict[str, int]]]:
    lines = (root / "CelebAMask-HQ-attribute-anno.txt").read_text().splitlines()
    names = lines[1].split(" ")
    return lines, {line.split()[0]: dict(zip(names, map(int, line.split()[1:]))) for line in lines[2:]}


def test_same_seed_same_bytes_on_any_number_of_processes(small: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "again", SMALL, processes=2)
    assert digests(tmp_path / "again") == digests(small)
    other = DemoSettings(**{**vars(SMALL), "seed": 6})
    write_demo(tmp_path / "other", other, processes=1)
    mine, theirs = digests(small), digests(tmp_path / "other")
    images = [f"CelebAMask-HQ/CelebA-HQ-img/{index}.jpg" for index in range(SMALL.count)]
    assert all(mine[name] != theirs[name] for name in images)


def test_an_image_does_not_depend_on_how_many_there_are(demo: Path, tmp_path: Path) -> None:
    celeba.make_folders(tmp_path, 8)
    celeba.draw_face(celeba.FaceTask(tmp_path, 7, SETTINGS.seed, SETTINGS.size))
    alone = celeba.image_path(tmp_path, 7).read_bytes()
    assert alone == celeba.image_path(demo / "CelebAMask-HQ", 7).read_bytes()


def test_celeba_images_and_annotation(demo: Path) -> None:
    root = demo / "CelebAMask-HQ"
    names = {f"{index}.jpg" for index in range(SETTINGS.count)}
    assert {path.name for path in (root / "CelebA-HQ-img").iterdir()} == names
    image = cv2.imread(str(root / "CelebA-HQ-img" / "0.jpg"))
    assert image is not None and image.shape == (64, 64, 3)

    lines, rows = annotation(root)
    assert lines[0] == str(SETTINGS.count)
    assert lines[1].startswith("5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips")
    assert len(lines[1].split(" ")) == 40 and lines[1].endswith("Wearing_Necktie Young")
    assert all(line.startswith(f"{index}.jpg  ") for index, line in enumerate(lines[2:]))
    assert set(rows) == names
    assert all(len(row) == 40 and set(row.values()) <= {-1, 1} for row in rows.values())

    mapping = (root / "CelebA-HQ-to-CelebA-mapping.txt").read_text().splitlines()
    assert mapping[0].split() == ["idx", "orig_idx", "orig_file"] and len(mapping) == SETTINGS.count + 1
    index, original, file = mapping[3].split()
    assert index == "2" and file == f"{int(original) + 1:06d}.jpg"
    assert len({line.split()[1] for line in mapping[1:]}) == SETTINGS.count


def test_masks_agree_with_attributes(demo: Path) -> None:
    root = demo / "CelebAMask-HQ"
    _, rows = annotation(root)
    masks = {path.name: path for path in (root / "CelebAMask-HQ-mask-anno" / "0").iterdir()}
    assert {name.split("_", 1)[1] for name in masks} <= {
        f"{part}.png" for part in ("skin", "hair", "l_brow", "r_brow", "eye_g", "hat")
    }
    for index in range(SETTINGS.count):
        row = rows[f"{index}.jpg"]
        assert f"{index:05d}_skin.png" in masks
        assert (f"{index:05d}_eye_g.png" in masks) == (row["Eyeglasses"] == 1)
        assert (f"{index:05d}_hat.png" in masks) == (row["Wearing_Hat"] == 1)
        if row["Bald"] == -1:
            assert f"{index:05d}_hair.png" in masks
    assert sum(row["Wearing_Hat"] == 1 for row in rows.values()) > 0
    hair = cv2.imread(str(masks["00003_hair.png"]), cv2.IMREAD_UNCHANGED)
    assert hair is not None and hair.shape == (32, 32) and set(np.unique(hair)) == {0, 255}


def test_subjects_left_brow_is_on_the_right(demo: Path) -> None:
    folder = demo / "CelebAMask-HQ" / "CelebAMask-HQ-mask-anno" / "0"
    both = [path for path in folder.glob("*_l_brow.png") if path.with_name(path.name.replace("l_b", "r_b")).exists()]
    assert len(both) > 50
    for path in both:
        left, right = (cv2.imread(str(path.with_name(path.name[:6] + part))) for part in ("l_brow.png", "r_brow.png"))
        assert left is not None and right is not None
        assert np.nonzero(left)[1].mean() > np.nonzero(right)[1].mean()


def test_masks_go_to_folders_of_two_thousand() -> None:
    root = Path("CelebAMask-HQ")
    assert celeba.mask_path(root, 1999, "hair") == root / "CelebAMask-HQ-mask-anno" / "0" / "01999_hair.png"
    assert celeba.mask_path(root, 2000, "l_brow") == root / "CelebAMask-HQ-mask-anno" / "1" / "02000_l_brow.png"


def test_label_frame_follows_gender_and_hats(demo: Path) -> None:
    rows = read_rows(demo / "CelebAMask-HQ" / "label_frame.csv")
    assert list(rows[0]) == ["file", "forehead", "hair length"]
    assert [row["file"] for row in rows] == [f"{index}.jpg" for index in range(SETTINGS.count)]
    _, attributes = annotation(demo / "CelebAMask-HQ")
    for row in rows:
        signs = attributes[row["file"]]
        expected = {"-1"} if signs["Wearing_Hat"] == 1 else {"0", "1", "2"} if signs["Male"] == 1 else {""}
        assert row["forehead"] in expected


def man(index: int) -> tuple[Person, Scene, np.random.Generator]:
    rng = np.random.default_rng([0, 99, index])
    person = sample_person(rng, male=True)
    return person, sample_scene(rng, person, hats=False), rng


def test_men_are_imbalanced_and_the_forehead_is_a_continuum() -> None:
    coverages = []
    for index in range(1200):
        person, scene, _ = man(index)
        locks = hair.fringe_locks(person, scene.fringe)
        coverages.append(hair.coverage(person, scene.fringe, locks, place_head(person, scene, 256, 256)))
    covered = np.array(coverages)
    assert 0.07 < np.mean(covered > celeba.COVERED) < 0.12
    assert 0.07 < np.mean((covered > celeba.PARTLY_COVERED) & (covered <= celeba.COVERED)) < 0.14
    assert 0.005 < np.mean(np.abs(covered - celeba.COVERED) < 0.05) < 0.035
    filled, _ = np.histogram(covered, bins=9, range=(0, 0.9))
    assert (filled > 0).all()


def test_labels_do_not_depend_on_the_size_of_the_pictures() -> None:
    for index in range(12):
        person, scene, _ = man(index)
        small, large = (take_photo(person, scene, (size, size), np.random.default_rng(0)) for size in (32, 160))
        assert small.coverage == large.coverage


@pytest.mark.parametrize(
    ("coverage", "male", "parts", "label"),
    [
        (0.0, True, (), "0"),
        (0.39, True, (), "1"),
        (0.9, True, (), "2"),
        (0.9, False, (), ""),
        (0.9, True, ("hat",), "-1"),
    ],
)
def test_label_of_a_forehead(coverage: float, male: bool, parts: tuple[str, ...], label: str) -> None:
    rng = np.random.default_rng(0)
    photo = Photo(np.zeros((2, 2, 3), np.uint8), {part: np.ones((1, 1), np.uint8) for part in parts}, coverage)
    assert celeba.forehead_label(sample_person(rng, male=male), photo, rng) == label


def test_mask_competition_layout(demo: Path) -> None:
    train = demo / "mask_faces" / "train"
    rows = read_rows(train / "train.csv")
    assert list(rows[0]) == ["id", "gender", "race", "age", "path"] and len(rows) == SETTINGS.persons
    assert {row["path"] for row in rows} == {path.name for path in (train / "images").iterdir()}
    for row in rows:
        assert row["path"] == f"{row['id']}_{row['gender']}_{row['race']}_{row['age']}"
        assert len(row["id"]) >= 6 and row["race"] == "Asian" and 18 <= int(row["age"]) <= 60
        photos = {path.stem for path in (train / "images" / row["path"]).iterdir()}
        assert photos == {"mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal"}
    groups = {(row["gender"], (int(row["age"]) >= 30) + (int(row["age"]) >= 60)) for row in rows}
    assert groups == {(gender, band) for gender in ("male", "female") for band in range(3)}  # so all 18 classes occur
    image = cv2.imread(str(train / "images" / rows[0]["path"] / "normal.jpg"))
    assert image is not None and image.shape == (64, 48, 3)

    evaluation = demo / "mask_faces" / "eval"
    info = read_rows(evaluation / "info.csv")
    assert list(info[0]) == ["ImageID", "ans"] and {row["ans"] for row in info} == {"0"}
    assert len(info) == 7 * SETTINGS.eval_persons
    assert {row["ImageID"] for row in info} == {path.name for path in (evaluation / "images").iterdir()}
    assert all(len(row["ImageID"]) == 44 for row in info)


def test_persons_keep_the_originals_proportions() -> None:
    people = mask_faces.profiles(200, 0, 1, mask_faces.TRAIN_AGES)
    assert len({person.path for person in people}) == 200
    assert 70 <= sum(person.gender == "male" for person in people) <= 84
    assert 10 <= sum(person.age >= 60 for person in people) <= 18
    assert max(person.age for person in people) == 60
    assert [person.id for person in people if "-" in person.id] == [f"{n:06d}-1" for n in (20, 60, 100, 140, 180)]


def test_folder_says_that_it_is_generated(demo: Path) -> None:
    for folder in (demo, demo / "CelebAMask-HQ", demo / "mask_faces"):
        text = (folder / "README.txt").read_text()
        assert "GENERATED" in text and "python prepare.py demo --count 100 --size 64 --seed 5 --persons 6" in text
    assert json.loads((demo / "demo.json").read_text())["files"] == len(digests(demo))


def test_a_finished_folder_is_kept_and_other_settings_are_refused(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(small)
    same = ["demo", "--out", str(small), "--count", "5", "--size", "32", "--persons", "6", "--processes", "1"]
    assert prepare.main([*same, "--seed", "5"]) == 0
    assert "already there" in capsys.readouterr().out
    assert prepare.main([*same, "--seed", "4"]) == 2
    message = capsys.readouterr().err
    assert str(small) in message and "seed 5, not 4" in message and "--force" in message
    assert digests(small) == before


def test_force_replaces_demo_faces_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    write_demo(out, SMALL, processes=1)
    celeba.image_path(out / "CelebAMask-HQ", 3).unlink()
    with pytest.raises(UserError, match="no longer complete"):
        write_demo(out, SMALL, processes=1)
    assert write_demo(out, SMALL, processes=1, force=True)
    assert celeba.image_path(out / "CelebAMask-HQ", 3).exists()

    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "me.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="not a folder of demo faces"):
        write_demo(precious, SMALL, processes=1, force=True)
    assert (precious / "me.jpg").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "photos"]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "demo", SMALL, processes=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"), [({"count": 0}, "--count 0"), ({"size": 100}, "--size 100"), ({"persons": 3}, "--persons 3")]
)
def test_impossible_settings_are_named(tmp_path: Path, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_demo(tmp_path / "demo", DemoSettings(**wrong))
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, prepare\n"
        "try: prepare.main(['demo', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'numpy', 'cv2', 'torch', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--persons" in done.stdout
