"""Peak memory of the data path against the number of images.

    python benchmarks/memory.py --images 1000 10000 100000

For each number a new process reads every image once, in random order and with one worker, from the cache on disk and
from memory. Figures are of the main process and the worker together: their own memory, and pages of the cache's file
that the system lends them and takes back when others need them. Images are links to a few generated ones.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

DISTINCT, BATCH = 200, 256


def write_data(root: Path, count: int, size: int) -> None:
    import cv2
    import numpy as np

    (root / "images").mkdir(parents=True)
    sources = [root / f"source{i}.jpg" for i in range(min(DISTINCT, count))]
    for i, file in enumerate(sources):
        picture = np.random.default_rng(i).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(file), cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC))
    rows = ["path,label"]
    for i in range(count):
        os.link(sources[i % len(sources)], root / "images" / f"{i:07d}.jpg")
        rows.append(f"images/{i:07d}.jpg,{'ab'[i % 2]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def read_all(root: Path, size: int, cache: str) -> dict[str, float]:
    """MiB of this process and its worker, at their largest: `own` and `file`."""
    import torch

    from data_loader.cache import open_images
    from data_loader.face_data import FaceData
    from data_loader.image_reader import ImageReader
    from data_loader.prepare_labels import prepare_labels
    from utils.config import config_from_dict

    config = config_from_dict(
        {
            "name": "memory",
            "dataset": {
                "type": "LabelCSV",
                "args": {"root": str(root), "frame": "labels.csv", "attributes": ["label"]},
            },
            "arch": {"type": "FaceClassifier"},
            "optimizer": {"type": "AdamW"},
            "trainer": {"type": "SupervisedTrainer", "epochs": 1},
            "split": {"valid": 0.0},
            "views": {"size": size, "train": "flip"},
            "data_loader": {"batch_size": BATCH, "num_workers": 1},
        },
        "benchmark",
    )
    labels = prepare_labels(config)
    files = [labels.frame.file(path) for path in labels.frame.rows["path"]]
    images = open_images(files, ImageReader((size, size)), cache, root / "cache")
    data = FaceData(config, labels, images, {"labeled": {"image": "train"}}, torch.device("cpu"))
    most = {"own": 0.0, "file": 0.0}
    steps = data.steps_per_pass()
    for number, _ in enumerate(data.train_batches(0, steps, {})):
        if number % max(1, steps // 10) == 0 or number == steps - 1:
            now = usage([os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)])
            most = {kind: max(most[kind], now[kind]) for kind in most}
    return most


def usage(pids: list[int]) -> dict[str, float]:
    """Proportional set sizes in MiB: a page that processes share is counted once."""
    found = {"Pss_Anon": 0.0, "Pss_Shmem": 0.0, "Pss_File": 0.0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name = line.split(":")[0]
            if name in found:
                found[name] += int(line.split()[1]) / 1024
    return {"own": found["Pss_Anon"] + found["Pss_Shmem"], "file": found["Pss_File"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000, 100000], help="data-set sizes")
    parser.add_argument("--size", type=int, default=64, help="working size in pixels (default 64)")
    parser.add_argument("--read", nargs=2, metavar=("ROOT", "CACHE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read_all(Path(arguments.read[0]), arguments.size, arguments.read[1])))
        return
    print("| images | pixels | own memory, cache on disk | pages of the file | own memory, cache in memory |")
    print("|---|---|---|---|---|")
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "data"
            write_data(root, count, arguments.size)
            found = {}
            for cache in ("disk", "ram"):
                command = [sys.executable, __file__, "--size", str(arguments.size), "--read", str(root), cache]
                out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                found[cache] = json.loads(out.splitlines()[-1])
        pixels = count * arguments.size**2 * 3 / 2**20
        cells = (found["disk"]["own"], found["disk"]["file"], found["ram"]["own"])
        print(f"| {count:,} | {pixels:,.0f} MiB | {' | '.join(f'{value:,.0f} MiB' for value in cells)} |", flush=True)


if __name__ == "__main__":
    main()
