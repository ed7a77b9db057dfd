"""prepare.py crops: where the face ends up, which face is taken, what is done again, what a kill leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from data_loader.face_crops.detector import Face
from data_loader.face_crops.folder import CropSettings, crop_folder
from data_loader.face_crops.geometry import TEMPLATE, beyond, choose_face, cut_face, pose_of
from data_loader.face_crops.table import COLUMNS, IMPLAUSIBLE, NO_FACE, SIZE, UNREADABLE
from data_loader.readers import ImageFolder
from tests.test_mask_faces import SHARED
from utils.errors import UserError

YUNET = SHARED / "weights" / "face_detection_yunet_2026may.onnx"
COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]  # BGR of the five landmarks
SETTINGS = CropSettings(size=(64, 64), detector="fake")


def landmarks(center: complex, height: float, tilt: float = 0.0) -> np.ndarray:
    return center + TEMPLATE * height * np.exp(1j * np.radians(tilt))


def face_at(points: np.ndarray, score: float = 0.9) -> Face:
    return Face(score, (0.0, 0.0, 1.0, 1.0), tuple(np.round(points, 2).view(np.float64).tolist()))


def picture(center: complex, height: float, tilt: float = 0.0, shape: tuple[int, int] = (200, 160)) -> np.ndarray:
    """A gray picture with a colored dot on each landmark; lossless, so that a detector can find the dots."""
    image = np.full((*shape, 3), 90, np.uint8)
    for point, color in zip(landmarks(center, height, tilt), COLORS):
        cv2.circle(image, (round(point.real), round(point.imag)), max(2, round(height / 25)), color, -1)
    return image


class DotDetector:
    """A face where the five colors are; a blank picture shows none."""

    searched = 0

    def __call__(self, image: np.ndarray) -> list[Face]:
        DotDetector.searched += 1
        where = [np.argwhere((image == color).all(axis=2)) for color in COLORS]
        if any(len(found) == 0 for found in where):
            return []
        return [face_at(np.array([complex(*found.mean(axis=0)[::-1]) for found in where]))]


def people(root: Path, count: int = 24) -> Path:
    """A folder per class; faces a little apart in place, size and tilt."""
    for number in range(count):
        file = root / ("a" if number % 2 else "b") / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), picture(complex(70 + number, 100 - number), 80 + number, 3 * (number - 12)))
    return root


def crop(root: Path, out: Path, settings: CropSettings = SETTINGS, **options):
    return crop_folder(root, out, settings, DotDetector, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "crops.csv", keep_default_na=False).set_index("path")


@pytest.mark.parametrize(("height", "tilt"), [(60, 0), (60, 30), (150, -40), (900, 20), (30, 0)])
def test_the_landmarks_are_at_one_place_whatever_the_size_and_tilt(height: float, tilt: float):
    shape = (round(3 * height), round(2.5 * height))
    center = complex(shape[1] / 2 + 5, shape[0] / 2 - 3)
    face = face_at(landmarks(center, height, tilt))
    out = cut_face(picture(center, height, tilt, shape), face, (96, 80), margin=0.25)
    assert out.shape == (96, 80, 3)
    expected = complex(79, 95) / 2 + TEMPLATE * 96 / 1.5
    for point, color in zip(expected, COLORS):
        near = np.argwhere(np.abs(out.astype(int) - color).sum(axis=2) < 250)
        assert abs(complex(*near.mean(axis=0)[::-1]) - point) < 1 + 30 / height
    pose = pose_of(face.landmarks)
    assert pose.tilt == pytest.approx(tilt, abs=0.1) and pose.height == pytest.approx(height, rel=0.01)
    assert pose.residual < 0.01


def test_a_face_turned_aside_is_not_cut_closer():
    front = landmarks(100 + 100j, 80)
    aside = front.real * 0.4 + 60 + 1j * front.imag  # eyes and mouth corners close together
    assert pose_of(face_at(aside).landmarks).height == pytest.approx(80, rel=0.01)


def test_what_lies_beyond_the_picture():
    face = face_at(landmarks(100 + 100j, 100))
    shares = [beyond(face, (200, 200, 3), (64, 64), margin) for margin in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0, 0, 1 - (200 / 300) ** 2], abs=1e-3)


def test_the_largest_central_plausible_face_is_chosen():
    shape = (200, 200, 3)
    middle, corner = face_at(landmarks(100 + 100j, 60)), face_at(landmarks(15 + 15j, 80), score=0.99)
    assert choose_face([corner, middle], shape) is middle
    larger = face_at(landmarks(120 + 100j, 90))
    assert choose_face([middle, larger], shape) is larger
    upside_down = face_at(landmarks(100 + 100j, 90, 180))
    cloth = face_at(np.array([60 + 60j, 70 + 140j, 150 + 70j, 90 + 90j, 60 + 130j]))
    assert (
        choose_face([upside_down, cloth], shape) is None and choose_face([upside_down, cloth, middle], shape) is middle
    )


def test_crops_keep_the_layout_and_say_what_was_found(tmp_path: Path):
    root, out = people(tmp_path / "in"), tmp_path / "out"
    cv2.imwrite(str(root / "a" / "blank.JPG"), np.full((50, 90, 3), 70, np.uint8))
    cv2.imwrite(str(root / "b" / "tiny.png"), picture(80 + 80j, 25))  # as on a poster in the background
    cv2.imwrite(str(root / "b" / "wrong.png"), picture(80 + 80j, 60, 120))
    (root / "b" / "torn.png").write_bytes(b"\x89PNG")
    (root / "a" / "._blank.JPG").write_bytes(b"\0\5\26\7")
    (root / "labels.csv").write_text("path,x\n")
    (root / "CelebAMask-HQ-mask-anno").mkdir()
    cv2.imwrite(str(root / "CelebAMask-HQ-mask-anno" / "0_hair.png"), np.zeros((9, 9, 3), np.uint8))
    done = crop(root, out, workers=2)
    rows = table(out)
    assert list(rows.reset_index()) == list(COLUMNS) and (done.done, len(rows)) == (27, 28)
    fallbacks = rows["fallback"][rows["found"] == 0].to_dict()
    assert fallbacks == {
        "a/blank.JPG": NO_FACE, "b/tiny.png": SIZE, "b/wrong.png": IMPLAUSIBLE, "b/torn.png": UNREADABLE
    }  # fmt: skip
    assert done.unreadable() == ["b/torn.png"] and "24 faces (85.7%)" in str(done)
    assert set(content(out)) == {*rows.index, "labels.csv", "crops.csv", ".label_tables.json"} - {"b/torn.png"}
    assert cv2.imread(str(out / "b" / "tiny.png")).shape == (64, 64, 3)
    assert (rows["crop_bytes"] == [len(content(out).get(path, b"")) for path in rows.index]).all()
    assert ImageFolder(str(out)).counts("label") == {"a": 13, "b": 14}
    everything = crop(root, out, CropSettings(size=(64, 64), detector="fake", outlier=0))
    assert everything.done == 1 and table(out).loc["b/tiny.png", "found"] == 1  # cut anew, not searched anew


def test_only_what_changed_is_done_again(tmp_path: Path):
    root, out = people(tmp_path / "in"), tmp_path / "out"
    crop(root, out)
    before, searched = content(out), DotDetector.searched
    os.utime(root / "a" / "01.png")
    assert crop(root, out).done == 0 and DotDetector.searched == searched
    (root / "a" / "03.png").write_bytes((root / "a" / "05.png").read_bytes())
    (out / "b" / "04.png").write_bytes(b"torn")
    (root / "b" / "06.png").unlink()
    done = crop(root, out)
    assert (done.done, done.removed) == (2, 1) and not (out / "b" / "06.png").exists()
    after = content(out)
    assert after["b/04.png"] == before["b/04.png"] and after["a/03.png"] == before["a/05.png"]
    assert crop(root, out, CropSettings(size=(64, 64), detector="fake", margin=0.5)).done == 23
    crop(root, tmp_path / "fresh", CropSettings(size=(64, 64), detector="fake", margin=0.5), workers=3)
    fresh = content(tmp_path / "fresh")
    assert fresh.keys() == after.keys()
    assert all(data == (out / name).read_bytes() for name, data in fresh.items())  # the order of threads too


def test_label_tables_that_are_edited_beside_the_crops_are_kept(tmp_path: Path):
    root, out = people(tmp_path / "in", 2), tmp_path / "out"
    (root / "labels.csv").write_text("path,glasses\n01.png,\n")
    crop(root, out)
    edited = "path,glasses\n01.png,1\n"
    (out / "labels.csv").write_text(edited)
    (root / "more.csv").write_text("a\n1\n")
    for text, copied in ((None, 1), ("path\n02.png\n", 0)):  # whether the original has changed since or not
        if text is not None:
            (root / "labels.csv").write_text(text)
        again = crop(root, out)
        assert (again.tables, again.kept) == (copied, ["labels.csv"]) and (out / "labels.csv").read_text() == edited
        assert "1 table (labels.csv) edited here and kept" in str(again)
    (root / "more.csv").write_text("a\n2\n")
    assert crop(root, out).tables == 1 and (out / "more.csv").read_text() == "a\n2\n"


KILLED = """
import os, signal, sys
from pathlib import Path
from data_loader.face_crops import folder
from tests.test_face_crops import SETTINGS, DotDetector

folder.SAVE_SECONDS = 0.0
def stop(done, total):
    if done == 9:
        (Path(sys.argv[2]) / "a" / ".tmp-000000000000").write_bytes(b"half a crop")
        os.kill(os.getpid(), signal.SIGKILL)
folder.crop_folder(Path(sys.argv[1]), Path(sys.argv[2]), SETTINGS, DotDetector, progress=stop)
"""


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path):
    root, out = people(tmp_path / "in"), tmp_path / "out"
    project = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), str(out)], cwd=project, timeout=120)
    assert done.returncode == -9 and 8 <= len(table(out)) < 24
    assert crop(root, out).done <= 16
    crop(root, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_mistakes_are_named(tmp_path: Path, in_process):
    root = people(tmp_path / "in", 2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("precious")
    (tmp_path / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    for out, message in ((root / "crops", "must not be, hold or lie in"), (tmp_path / "other", "choose another")):
        with pytest.raises(UserError, match=message):
            crop(root, out)
    for wrong, message in (
        ({"margin": -1.0}, "--margin -1"),
        ({"score": 1.5}, "--score 1.5"),
        ({"size": (0, 9)}, "--size"),
    ):
        with pytest.raises(UserError, match=message):
            crop(root, tmp_path / "out", CropSettings(**wrong))
    command = ("prepare.py", "crops", "--root", str(root), "--out", str(tmp_path / "out"))
    said = in_process(*command, "--detector", str(tmp_path / "yunet.onnx"))
    assert said.code == 2 and "opencv_zoo" in said.err
    said = in_process(*command, "--detector", str(tmp_path / "pointer.onnx"))
    assert said.code == 2 and "not a YuNet model" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not YUNET.is_file(), reason=f"{YUNET} is not there")
def test_yunet_finds_real_faces(tmp_path: Path, in_process):
    """With masks and without, and not in a picture of nothing; the eyes end up where the template has them."""
    for number, name in enumerate(["mask_worn_state", "utkface"]):
        for file in sorted((SHARED / "data" / name).rglob("*.jpg"))[:: 50 if number == 0 else 1200][:8]:
            target = tmp_path / "in" / name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    cv2.imwrite(str(tmp_path / "in" / "gray.png"), np.full((128, 128, 3), 128, np.uint8))
    command = ("prepare.py", "crops", "--root", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    said = in_process(*command, "--detector", str(YUNET), "--size", "128", "96")
    assert said.code == 0, said.err
    rows = table(tmp_path / "out")
    assert rows.loc["gray.png", "fallback"] == NO_FACE and rows.drop("gray.png")["found"].sum() >= len(rows) - 2
    assert cv2.imread(str(tmp_path / "out" / "gray.png")).shape == (128, 96, 3)
