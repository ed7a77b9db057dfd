"""What unlabeled faces are worth: supervised on few labels, FixMatch on few labels, supervised on all, same validation.

    python benchmarks/semi_supervised_faces.py --root DIR --weights FILE.pth --seeds 0 1 --out saved/bench

DIR: real CelebA-HQ faces in the CelebAMask-HQ layout; FILE: local ImageNet weights of --backbone. The default budget
(400 steps of 16 labeled and 64 unlabeled images at 96 pixels) suits a CPU. Finished runs are read, not repeated.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
BANGS = PROJECT / "configs" / "fixmatch_bangs.json"
SUPERVISED = ["trainer.type=SupervisedTrainer"]
# The config warms up for epochs that a run of four does not have.
SHORT = ["trainer.args.warm_up_epochs=0", "trainer.args.ramp_up=0.25"]
METHODS: dict[str, list[str]] = {
    "supervised, few labels, cross entropy": [*SUPERVISED, "loss.type=cross_entropy"],
    "supervised, few labels, logit adjustment": SUPERVISED,
    "FixMatch as published": [
        *SHORT,
        "loss.type=cross_entropy",
        "trainer.args.align=null",
        "trainer.args.debias=null",
        "views.train=flip_translate",
        "views.strong=randaugment",
    ],
    "FixMatch, the config's default": SHORT,
    "supervised, all labels, logit adjustment": [*SUPERVISED, "labels.labeled=null", "data_loader.batch_size=32"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="CelebAMask-HQ folder")
    parser.add_argument("--weights", type=Path, help="local weights of the backbone (default: from the hub)")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", type=int, default=list(range(len(METHODS))), help="numbers of methods")
    parser.add_argument("--epochs", type=int, default=4, help="of 100 steps")
    parser.add_argument("--out", type=Path, default=Path("saved/bench"))
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    arguments = parser.parse_args()
    table = []
    for seed in arguments.seeds:
        for number in arguments.methods:
            name = list(METHODS)[number]
            table.append({"method": name, "seed": seed, **score(arguments, number, name, seed)})
            print(pd.DataFrame(table).round(4).to_string(index=False), flush=True)
    summary = (
        pd.DataFrame(table).groupby("method", sort=False)[["macro_f1", "last_macro_f1"]].agg(["mean", "std", "count"])
    )
    print(summary.round(4).to_string())


def score(arguments: argparse.Namespace, number: int, name: str, seed: int) -> dict[str, float]:
    """Train one run, unless it is there, and read its validation macro F1: best epoch and last epoch."""
    run_id = f"method{number}-labels{arguments.labels}-seed{seed}"
    metrics = arguments.out / "fixmatch_bangs" / run_id / "metrics.csv"
    if not (metrics.parent / "checkpoints" / "last.pth").exists() or len(pd.read_csv(metrics)) < arguments.epochs:
        settings = [
            f"dataset.args.root={arguments.root}",
            f'labels.labeled={{"count": {arguments.labels}, "seed": {seed}}}',
            f"seed={seed}",
            f"arch.args.backbone={arguments.backbone}",
            *([f"arch.args.weights={arguments.weights}"] if arguments.weights else []),
            "views.size=96",
            "data_loader.unlabeled_ratio=4",
            "lr_scheduler.args.warm_up=20",
            f"trainer.save_dir={arguments.out}",
            "trainer.steps_per_epoch=100",
            f"trainer.epochs={arguments.epochs}",
            "trainer.early_stop=null",
            "trainer.ema=0.99",
            *METHODS[name],
            *arguments.set,
        ]
        command = [sys.executable, str(PROJECT / "train.py"), "-c", str(BANGS), "--run-id", run_id]
        command += [part for setting in settings for part in ("-s", setting)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    values = pd.read_csv(metrics)
    return {"macro_f1": values["valid/macro_f1"].max(), "last_macro_f1": values["valid/macro_f1"].iloc[-1]}


if __name__ == "__main__":
    main()
