"""What unlabeled images are worth: few labels, few labels and FixMatch, all labels; one split, one number of steps.

    python benchmarks/semi_supervised.py -c configs/demo/fixmatch_hair.json --seeds 0 1 2
    python benchmarks/semi_supervised.py -c configs/fixmatch_bangs_cpu.json -s arch.args.weights=FILE

A seed draws other labels, another initialisation and other batches; the split stays. Finished runs are read, not
repeated, and unfinished ones continue. With all labels a step has as many images as FixMatch reads in one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from utils.config import load_config  # noqa: E402

SUPERVISED = ["trainer.type=SupervisedTrainer"]
METHODS: dict[str, tuple[str, list[str]]] = {
    "supervised": ("supervised, few labels, cross entropy", [*SUPERVISED, "loss.type=cross_entropy"]),
    "adjusted": ("supervised, few labels, logit adjustment", SUPERVISED),
    "published": (
        "FixMatch as published",
        [
            "loss.type=cross_entropy",
            "trainer.args.align=null",
            "trainer.args.debias=null",
            "views.train=flip_translate",
            "views.strong=randaugment",
        ],
    ),
    "fixmatch": ("FixMatch as the config has it", []),
    "all": ("supervised, all labels, cross entropy", [*SUPERVISED, "loss.type=cross_entropy"]),
    "all-adjusted": ("supervised, all labels, logit adjustment", SUPERVISED),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True, help="a FixMatch config with labels.labeled.count")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("saved/bench"))
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    arguments = parser.parse_args()
    table: list[dict[str, object]] = []
    for seed in arguments.seeds:
        for method in arguments.methods:
            table.append({"method": METHODS[method][0], "seed": seed, **score(arguments, method, seed)})
            print(pd.DataFrame(table).round(4).to_string(index=False), flush=True)
    frame = pd.DataFrame(table)
    print(frame.groupby("method", sort=False)[["best", "last", "minutes"]].agg(["mean", "std"]).round(3).to_string())


def score(arguments: argparse.Namespace, method: str, seed: int) -> dict[str, float]:
    """Train one run to its end and read its validation macro F1: best epoch and last epoch."""
    run_dir = arguments.out / method / f"seed{seed}"
    last = run_dir / "checkpoints" / "last.pth"
    if not finished(run_dir):
        settings = [f"seed={seed}", f"name={method}", f"trainer.save_dir={arguments.out}", *METHODS[method][1]]
        if method.startswith("all"):
            loader = load_config(arguments.config, arguments.set).data_loader
            images = loader.batch_size * (1 + loader.unlabeled_ratio)
            settings += ["labels.labeled=null", f"data_loader.batch_size={images}"]
        else:
            settings.append(f"labels.labeled.seed={seed}")
        command = [sys.executable, str(PROJECT / "train.py"), "-c", str(arguments.config), "--run-id", run_dir.name]
        command += [part for setting in [*settings, *arguments.set] for part in ("-s", setting)]
        command += ["-r", str(last)] if last.exists() else []
        subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    values = pd.read_csv(run_dir / "metrics.csv")
    scores = values["valid/macro_f1"]
    return {"best": scores.max(), "last": scores.iloc[-1], "minutes": values["seconds"].sum() / 60}


def finished(run_dir: Path) -> bool:
    if not (run_dir / "metrics.csv").exists():
        return False
    epochs = json.loads((run_dir / "config.json").read_text())["trainer"]["epochs"]
    return len(pd.read_csv(run_dir / "metrics.csv")) >= epochs


if __name__ == "__main__":
    main()
