"""What unlabeled images are worth: methods × label counts × seeds on one split, with paired differences.

    python benchmarks/semi_supervised.py -c configs/demo/fixmatch_hair.json --labels 100 --seeds 0 1 2
    python benchmarks/semi_supervised.py -c configs/fixmatch_bangs_cpu.json --labels 100 200 400 --methods core
        -s arch.args.weights=FILE                                                          (one line)

A seed draws other labels, another initialisation and other batches; the split stays, so that methods are compared seed
by seed. Finished runs are read, not repeated, and unfinished ones continue. With all labels a step has as many images
as FixMatch reads in one. Writes OUT/table.csv (a row per run) and OUT/table.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, f1_score

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.frozen_features import logistic_regression  # noqa: E402
from utils.config import load_config  # noqa: E402

SUPERVISED = ["trainer.type=SupervisedTrainer"]
PUBLISHED = [
    "loss.type=cross_entropy",
    "trainer.evaluation_prior=0",
    "trainer.args.align=null",
    "trainer.args.debias=null",
    "views.train=flip_translate",
    "views.strong=randaugment",
]
BASELINE = "adjusted"
METHODS: dict[str, tuple[str, list[str]]] = {
    "frozen": ("logistic regression on frozen features, balanced class weights", []),
    "supervised": (
        "supervised, cross entropy",
        [*SUPERVISED, "loss.type=cross_entropy", "trainer.evaluation_prior=0"],
    ),
    "adjusted": ("supervised, logit adjustment", SUPERVISED),
    "published": ("FixMatch as published", PUBLISHED),
    "published-align": ("FixMatch as published + align prior", [*PUBLISHED, "trainer.args.align=prior"]),
    "fixmatch": ("FixMatch as the config has it", []),
    **{
        f"{name}": (f"as the config, {key} {name}", [f"trainer.args.{key}={name}"])
        for key, names in (
            ("threshold", ("flexmatch", "freematch", "softmatch", "adamatch")),
            ("align", ("uniform", "estimated", "crest_plus")),
            ("debias", ("debiaspl", "simpro")),
        )
        for name in names
    },
    "no-align": ("as the config, align null", ["trainer.args.align=null"]),
    "no-debias": ("as the config, debias null", ["trainer.args.debias=null"]),
    "abc": ("as the config, head abc", ["arch.args.head=abc", "trainer.evaluation_prior=0"]),
    "balanced-odds": ("as the config, evaluation_prior 0", ["trainer.evaluation_prior=0"]),
    "all": (
        "supervised, all labels, cross entropy",
        [*SUPERVISED, "loss.type=cross_entropy", "trainer.evaluation_prior=0"],
    ),
    "all-adjusted": ("supervised, all labels, logit adjustment", SUPERVISED),
}
CORE = ["frozen", "supervised", "adjusted", "published", "fixmatch", "all", "all-adjusted"]
# simpro adjusts the labeled logits itself.
METHODS["simpro"][1].append("loss.type=cross_entropy")


def main() -> None:
    arguments = parse_arguments()
    runs = [
        (method, labels, seed)
        for seed in arguments.seeds
        for labels in arguments.labels
        for method in arguments.methods
        if not (method.startswith("all") and labels != arguments.labels[0])
    ]
    table: list[dict[str, Any]] = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for run, values in zip(runs, pool.map(lambda run: score(arguments, *run), runs)):
            method, labels, seed = run
            count: int | str = "all" if method.startswith("all") else labels
            table.append({"method": method, "labels": count, "seed": seed, **values})
            print(pd.DataFrame(table[-1:]).round(4).to_string(index=False, header=len(table) == 1), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(table)
    frame.to_csv(arguments.out / "table.csv", index=False)
    text = summary(frame)
    (arguments.out / "table.md").write_text(text)
    print(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True, help="a FixMatch config with labels.labeled.count")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labels", type=int, nargs="+", help="label counts (default: the config's)")
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS, "core", "switches"], default=["core"], metavar="METHOD",
        help=f"core ({', '.join(CORE)}), switches (all others), or any of both",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("saved/bench"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; set OMP_NUM_THREADS to share the cores")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    arguments = parser.parse_args()
    named = {"core": CORE, "switches": [name for name in METHODS if name not in CORE]}
    chosen = [method for name in arguments.methods for method in named.get(name, [name])]
    config = load_config(arguments.config, arguments.set)
    if not (config.arch.args.get("pretrained") or config.arch.args.get("weights")):
        chosen = [name for name in chosen if name != "frozen"]
    arguments.methods = list(dict.fromkeys(chosen))
    if arguments.labels is None:
        labeled = config.labels.labeled
        if labeled is None or labeled.count is None:
            parser.error("--labels is needed: the config has no labels.labeled.count")
        arguments.labels = [labeled.count]
    return arguments


def score(arguments: argparse.Namespace, method: str, labels: int, seed: int) -> dict[str, float]:
    """macro F1 and average precision of the best epoch, macro F1 of the last, on the validation images."""
    settings = [f"seed={seed}", *METHODS[method][1], *arguments.set]
    if method.startswith("all"):
        loader = load_config(arguments.config, arguments.set).data_loader
        images = loader.batch_size * (1 + loader.unlabeled_ratio)
        settings += ["labels.labeled=null", f"data_loader.batch_size={images}"]
        run_dir = arguments.out / method / f"seed{seed}"
    else:
        settings += [f"labels.labeled.seed={seed}", f"labels.labeled.count={labels}"]
        run_dir = arguments.out / method / f"labels{labels}_seed{seed}"
    if method == "frozen":
        true, probs = logistic_regression(load_config(arguments.config, settings), arguments.out / "features.npz")
        predicted = probs.argmax(axis=1)
        scores = [float(f1_score(true, predicted, average="macro"))] * 2
        return {"best": scores[0], "last": scores[1], "ap": average_precision(true, probs), "minutes": 0.0}
    train(arguments, run_dir, settings, method)
    values = pd.read_csv(run_dir / "metrics.csv")
    history = values["valid/macro_f1"]
    ap = average_precision(*predictions(run_dir))
    return {"best": history.max(), "last": history.iloc[-1], "ap": ap, "minutes": values["seconds"].sum() / 60}


def train(arguments: argparse.Namespace, run_dir: Path, settings: list[str], method: str) -> None:
    """One run to its end, and the predictions of its best checkpoint."""
    last = run_dir / "checkpoints" / "last.pth"
    settings = [*settings, f"name={method}", f"trainer.save_dir={arguments.out}"]
    command = ["train.py", "-c", str(arguments.config), "--run-id", run_dir.name]
    command += [part for setting in settings for part in ("-s", setting)]
    if not finished(run_dir):
        call([*command, *(["-r", str(last)] if last.exists() else [])])
    if not (run_dir / "report" / "predictions.csv").exists():
        call(["test.py", "--resume", str(run_dir / "checkpoints" / "best.pth"), "--out", str(run_dir / "report")])


def call(command: list[str]) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    subprocess.run(
        [sys.executable, str(PROJECT / command[0]), *command[1:]], check=True, stdout=sys.stderr, env=environment
    )


def finished(run_dir: Path) -> bool:
    if not (run_dir / "metrics.csv").exists():
        return False
    epochs = json.loads((run_dir / "config.json").read_text())["trainer"]["epochs"]
    return len(pd.read_csv(run_dir / "metrics.csv")) >= epochs


def predictions(run_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """labels int [N] and probabilities [N, C] of the only head."""
    table = pd.read_csv(run_dir / "report" / "predictions.csv", keep_default_na=False)
    columns = [name for name in table if "/p/" in name]
    names = [name.split("/p/", 1)[1] for name in columns]
    labels = table[columns[0].split("/p/", 1)[0] + "/label"].map(names.index).to_numpy()
    return labels, table[columns].to_numpy()


def average_precision(true: np.ndarray, probs: np.ndarray) -> float:
    """Of the rarest class among the validation images."""
    rare = int(np.bincount(true, minlength=probs.shape[1]).argmin())
    return float(average_precision_score(true == rare, probs[:, rare]))


def summary(table: pd.DataFrame) -> str:
    """Markdown: mean ± standard deviation over seeds, and the paired difference against the adjusted baseline."""
    lines = ["| method | labels | seeds | macro F1, best epoch | last epoch | average precision | against baseline |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (method, labels), rows in table.groupby(["method", "labels"], sort=False):
        cells = [METHODS[str(method)][0], str(labels), str(len(rows))]
        cells += [mean_and_deviation(rows[name]) for name in ("best", "last", "ap")]
        baseline = table[(table["method"] == BASELINE) & (table["labels"] == labels)].set_index("seed")["best"]
        paired = (rows.set_index("seed")["best"] - baseline).dropna()
        cells.append("baseline" if method == BASELINE else mean_and_deviation(paired, "+") if len(paired) else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def mean_and_deviation(values: Iterable[float], sign: str = "") -> str:
    array = np.asarray(list(values), dtype=float)
    text = f"{array.mean():{sign}.3f}"
    return f"{text} ± {array.std(ddof=1):.3f}" if len(array) > 1 else text


if __name__ == "__main__":
    main()
