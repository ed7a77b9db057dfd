"""The image cache: the pixels of the files, whatever happens to files and processes meanwhile."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_loader.cache import open_images
from data_loader.decode import jpeg_size, read_image
from data_loader.image_reader import ImageReader
from data_loader.pixel_store import clear
from utils.errors import UserError
from utils.memory import available_memory

PROJECT = Path(__file__).resolve().parents[1]
SIZE = (20, 24)


def write_images(folder: Path, count: int, ending: str = "png", side: int = 32) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:04d}.{ending}" for i in range(count)]
    for i, file in enumerate(files):
        picture = np.random.default_rng(i).integers(0, 255, (32, 32, 3)).astype(np.uint8)
        cv2.imwrite(str(file), cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC))
    return files


def pixels(images: object, count: int) -> list[bytes]:
    return [np.asarray(images[i]).tobytes() for i in range(count)]  # type: ignore[index]


def decoded(files: list[Path]) -> list[bytes]:
    return [read_image(file, SIZE).tobytes() for file in files]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_images(tmp_path / "images", 12)


def test_every_mode_gives_the_pixels_of_the_files_and_only_new_ones_are_decoded(files, tmp_path):
    told: list[str] = []

    def check(chosen: list[Path], mode: str, news: int | None) -> None:
        told.clear()
        assert pixels(
            open_images(chosen, ImageReader(SIZE), mode, tmp_path / "cache", told.append), len(chosen)
        ) == decoded(chosen)
        assert [line.split()[2] for line in told] == ([] if news is None else [str(news)])

    check(files[:8], "disk", 8)
    for mode in ("off", "ram", "disk", "auto"):
        check(files[:8], mode, None)
    check([files[0], *files[3:]], "disk", 4)  # images added and removed
    check(files[::-1], "disk", None)  # in another order
    cv2.imwrite(str(files[2]), np.zeros((40, 40, 3), np.uint8))
    check(files, "disk", 1)
    check([*files, files[2], files[2]], "disk", None)
    other = open_images(files, ImageReader((24, 20)), "disk", tmp_path / "cache")
    assert np.array_equal(other[5], read_image(files[5], (24, 20)))


def test_stored_images_survive_pickling_without_their_content(files, tmp_path):
    images = open_images(files, ImageReader(SIZE), "disk", tmp_path / "cache")
    packed = pickle.dumps(images)
    assert len(packed) < 2000 and pixels(pickle.loads(packed), 12) == decoded(files)
    assert not images[0].flags.writeable


@pytest.mark.parametrize(("side", "scale"), [(1024, 4), (760, 2), (384, 2), (380, 1)])
def test_large_jpegs_are_decoded_at_a_reduced_scale_that_is_at_least_twice_the_size(tmp_path, monkeypatch, side, scale):
    [file] = write_images(tmp_path, 1, "jpg", side)
    seen = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: seen.append(decode(*a)) or seen[-1])
    image = read_image(file, (96, 96))
    assert [found.shape[0] for found in seen] == [side // scale]
    full = cv2.resize(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB), (96, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - full).mean() < 1.5
    assert jpeg_size(np.fromfile(file, np.uint8)) == (side, side)


def test_a_photo_that_its_exif_tag_turns_is_still_large_enough(tmp_path):
    [file] = write_images(tmp_path, 1, "jpg", 64)
    tall = cv2.resize(cv2.imread(str(file)), (400, 1600))
    body = cv2.imencode(".jpg", tall)[1].tobytes()
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    file.write_bytes(body[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + body[2:])
    turned = cv2.rotate(cv2.cvtColor(cv2.imdecode(np.frombuffer(body, np.uint8), 1), cv2.COLOR_BGR2RGB), 0)
    expected = cv2.resize(turned, (50, 200), interpolation=cv2.INTER_AREA)
    assert np.abs(read_image(file, (200, 50)).astype(int) - expected).mean() < 3


@pytest.mark.parametrize("mode", ["disk", "ram", "off"])
def test_files_that_break_off_are_all_named_and_the_others_kept(tmp_path, mode):
    files = write_images(tmp_path / "images", 12, "jpg", 64)
    for file, content in ((files[1], b""), (files[4], files[4].read_bytes()[:-40]), (files[7], b"GIF89a, it says")):
        file.write_bytes(content)
    with pytest.raises(UserError) as error:
        open_images(files, ImageReader(SIZE), mode, tmp_path / "cache")
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [str(files[i]) for i in (1, 4, 7)]
    assert all("cannot be decoded as an image" in line for line in lines)
    told: list[str] = []
    kept = [file for i, file in enumerate(files) if i not in (1, 4, 7)]
    assert pixels(open_images(kept, ImageReader(SIZE), mode, tmp_path / "cache", told.append), 9) == decoded(kept)
    assert told == [], "what could be decoded was decoded twice"
    files[0].unlink()
    with pytest.raises(UserError, match=r"0000\.jpg: no such file"):
        open_images(files, ImageReader(SIZE), mode, tmp_path / "cache")


def test_a_full_disk_is_said_and_leaves_nothing(files, tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"data_loader\.cache: .*No space left on device; set it to ram or off"):
        open_images(files, ImageReader(SIZE), "disk", tmp_path / "cache")
    assert [path.stat().st_size for path in (tmp_path / "cache").glob("*.pixels")] == [0]


def test_auto_without_a_folder_to_write_decodes_for_every_batch(files, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    told: list[str] = []
    images = open_images(files, ImageReader(SIZE), "auto", tmp_path / "cache", told.append)
    assert pixels(images, 12) == decoded(files) and told[0].startswith("cache: off")


BUILD = """
import sys, time
from pathlib import Path
import data_loader.cache as cache, data_loader.image_reader as image_reader, data_loader.pixel_store as store
store._COMMIT_BYTES = 40 * 20 * 24 * 3
read = image_reader.read_image
image_reader.read_image = lambda *a: (time.sleep(float(sys.argv[3])), read(*a))[1]
files = sorted(Path(sys.argv[1]).iterdir())
print("start", flush=True)
reader = image_reader.ImageReader((20, 24))
images = cache.open_images(files, reader, "disk", Path(sys.argv[2]), lambda line: print(line, flush=True))
print("sum", sum(int(images[i].astype(int).sum()) for i in range(len(files))), flush=True)
"""


def build(images: Path, cache: Path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-c", BUILD, str(images), str(cache), str(pause)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_and_concurrent_builds_end_in_one_whole_cache(tmp_path):
    files = write_images(tmp_path / "images", 400)
    expected = f"sum {sum(int(read_image(file, SIZE).astype(int).sum()) for file in files)}"
    cache = tmp_path / "cache"
    killed = build(tmp_path / "images", cache, 0.02)
    deadline = time.time() + 60
    while not any(path.stat().st_size for path in cache.glob("*.keys")):
        assert killed.poll() is None and time.time() < deadline, killed.communicate()
        time.sleep(0.005)
    waiting = build(tmp_path / "images", cache, 0.0)
    for line in waiting.stdout:
        if "waiting for another process" in line:
            break
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    both = [waiting, build(tmp_path / "images", cache, 0.0)]
    ends = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    said = [line for out, _ in ends for line in out.splitlines()]
    assert [line for line in said if line.startswith("sum")] == [expected, expected]
    [again] = [line for line in said if "decoding" in line]
    assert 0 < int(again.split()[2]) < 400, "the killed process's work was lost"
    [stored] = cache.glob("*.pixels")
    assert stored.stat().st_size == 400 * 20 * 24 * 3


def test_what_a_crash_left_behind_the_last_key_is_written_over(files, tmp_path):
    open_images(files[:4], ImageReader(SIZE), "disk", tmp_path / "cache")
    [stored], [keys] = (list((tmp_path / "cache").glob(f"*.{end}")) for end in ("pixels", "keys"))
    with stored.open("ab") as file:
        file.write(b"\xaa" * 5000)
    with keys.open("ab") as file:
        file.write(b"torn")
    assert pixels(open_images(files, ImageReader(SIZE), "disk", tmp_path / "cache"), 12) == decoded(files)
    os.truncate(stored, 5 * 20 * 24 * 3)  # pixels that never reached the disk
    assert pixels(open_images(files, ImageReader(SIZE), "disk", tmp_path / "cache"), 12) == decoded(files)


def test_clear_removes_what_no_process_uses(files, tmp_path):
    images = open_images(files, ImageReader(SIZE), "disk", tmp_path / "cache")
    open_images(files[:3], ImageReader((8, 8)), "disk", tmp_path / "cache")
    size = 12 * 20 * 24 * 3
    command = "import sys, pathlib, data_loader.pixel_store as s; print(*s.clear(pathlib.Path(sys.argv[1])))"
    arguments = [sys.executable, "-c", command, str(tmp_path / "cache")]
    done = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"{3 * (8 * 8 * 3 + 16)} [") and "20x24" in done.stdout
    assert pixels(images, 12) == decoded(files)
    del images
    assert clear(tmp_path / "cache") == (size + 12 * 16, [])
    assert pixels(open_images(files, ImageReader(SIZE), "disk", tmp_path / "cache"), 12) == decoded(files)


def test_prepare_cache_fills_what_the_training_reads_and_clears_it(tmp_path, tiny_faces, in_process):
    from tests.test_training import write_config

    config = str(write_config(tmp_path, tiny_faces))
    first = in_process("prepare.py", "cache", "-c", config, "-s", "data_loader.cache=off")
    assert first.code == 0 and "decoding 96 of 96 images once to 32x32" in first.out, first.err
    assert "96 images at 32x32 are in the cache" in first.out
    checked = in_process("train.py", "--check", "-c", config)
    assert checked.code == 0 and "cache:" not in checked.out
    assert "were there already" in in_process("prepare.py", "cache", "-c", config).out
    assert "0 MiB freed" in in_process("prepare.py", "cache", "-c", config, "--clear").out
    assert not list((tmp_path / "saved" / ".cache").glob("*.pixels"))
    (tiny_faces / "images" / "007.png").write_bytes(b"none")
    wrong = in_process("prepare.py", "cache", "-c", config)
    assert wrong.code == 2 and "007.png: cannot be decoded" in wrong.err
    assert in_process("prepare.py", "cache", "-c", config, "-s", "view.size=3").code == 2


@pytest.mark.parametrize("free", [None, 2**20, "as it is"])
def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_decoded(files, tmp_path, monkeypatch, free):
    if free != "as it is":
        monkeypatch.setattr("data_loader.cache.available_memory", lambda: free)
    size = (512, 512) if free == 2**20 else (2_000_000, 2_000_000)
    needed = "0.0" if free == 2**20 else "134,110.5"
    with pytest.raises(UserError) as error:
        open_images(files, ImageReader(size), "ram", tmp_path / "cache")
    text = str(error.value)
    assert text.startswith(f"data_loader.cache: ram: 12 images of {size[0]}x{size[1]} pixels need {needed} GiB")
    assert ("are free" in text) == (free is not None) and text.endswith(
        "; set it to disk or off, or make views.size smaller"
    )


def test_free_memory_is_read_from_the_system():
    if not Path("/proc/meminfo").exists():
        pytest.skip("no /proc/meminfo")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = available_memory()
    assert found is not None and 0 < found < total
