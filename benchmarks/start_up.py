"""How long it takes until something happens: `--help`, a wrong config, and the first training step, cold and warm.

    python benchmarks/start_up.py

Each line is the median of some processes; the processor's seconds say more on a machine that others use too. Cold:
nothing is cached; warm: the images are decoded already, as at every further start. What importing torch takes is shown
beside it, since no program that trains is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

PROJECT = Path(__file__).resolve().parents[1]


def seconds(*command: str, until: str | None = None) -> tuple[float, float]:
    """(by the clock, of the processor) until the process ends, or until its output holds `until`, when it is killed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    said = []
    with subprocess.Popen([sys.executable, *command], cwd=PROJECT, env=environment, **pipes) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if until is not None and until in line:
                process.kill()
                break
        taken = time.perf_counter() - started
        process.wait()
    if until is not None and until not in said[-1]:
        raise SystemExit("".join(said))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_faces(folder: Path, count: int, side: int) -> None:
    """Noisy pictures in two classes, one folder each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "faces" / ("dark", "light")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 120, (side, side, 3)).astype(np.uint8) + 100 * (number % 2))


def write_config(folder: Path) -> Path:
    path = folder / "config.json"
    config = {
        "name": "start_up",
        "dataset": {"type": "ImageFolder", "args": {"root": str(folder / "faces")}},
        "views": {"size": 96},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "resnet18", "pretrained": False}},
        "optimizer": {"type": "AdamW"},
        # The line of the first epoch, of one step, says that a step is done.
        "trainer": {
            "type": "SupervisedTrainer",
            "epochs": 100,
            "steps_per_epoch": 1,
            "validate_every": 100,
            "monitor": "min train/loss",
            "save_dir": str(folder / "saved"),
        },
        "logger": {"tensorboard": False},
    }
    path.write_text(json.dumps(config))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256, help="of the generated pictures, in pixels")
    arguments = parser.parse_args()

    def median(*command: str, until: str | None = None, repetitions: int = arguments.repetitions) -> tuple[float, ...]:
        found = [seconds(*command, until=until) for _ in range(repetitions)]
        return tuple(statistics.median(values) for values in zip(*found))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_faces(folder, arguments.images, arguments.side)
        train = ("train.py", "-d", "cpu", "-c", str(write_config(folder)))
        torch = median("-c", "import torch")
        print(f"{'seconds':36} {'clock':>7} {'processor':>10} {'beyond importing torch, clock':>30} {'processor':>10}")

        def show(label: str, *command: str, until: str | None = None, repetitions: int = arguments.repetitions) -> None:
            clock, processor = median(*command, until=until, repetitions=repetitions)
            beyond = f" {clock - torch[0]:30.2f} {processor - torch[1]:10.2f}" if until else ""
            print(f"{label:36} {clock:7.2f} {processor:10.2f}{beyond}", flush=True)

        print(f"{'import torch':36} {torch[0]:7.2f} {torch[1]:10.2f}")
        show("train.py --help", "train.py", "--help")
        show("a mistake in the config", *train, "-s", "trainer.epoks=1")
        show(f"first step, cold, {arguments.images} images", *train, until="epoch   1/", repetitions=1)
        show("first step, warm", *train, until="epoch   1/")


if __name__ == "__main__":
    main()
