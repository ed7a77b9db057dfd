"""One label of all combinations, a head for each attribute, or a network for each: same split, same steps per network.

    python benchmarks/one_or_many_heads.py -c configs/utkface_cpu.json -s dataset.args.root=DIR
        -s arch.args.weights=FILE                                                          (one line)

The config has several heads. A network of one attribute is trained on the data sets that know it, with the same labels;
a single label of all combinations is tried where the config has one data set. Finished runs in OUT are read, not
repeated, unfinished ones continue, and a run of another config is refused. All figures are of the last epoch on the
validation images, so that nothing was chosen on them. Writes OUT/table.csv, OUT/table.md and what each run says to
OUT/log/NAME.log.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sklearn.metrics import f1_score

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from base.base_dataset import to_device  # noqa: E402
from benchmarks.runs import RunFailed, Runs  # noqa: E402
from data_loader.age import AGE, YEARS  # noqa: E402
from data_loader.label_frame import LabelFrame  # noqa: E402
from data_loader.prepare_labels import prepare_labels  # noqa: E402
from data_loader.split_file import write_split  # noqa: E402
from trainer.build import build_trainer  # noqa: E402
from utils.children import stop_signals_exit  # noqa: E402
from utils.command import exit_codes  # noqa: E402
from utils.config import Config, apply_overrides, load_config  # noqa: E402
from utils.device import choose_device  # noqa: E402
from utils.distributed import World  # noqa: E402
from utils.errors import UserError  # noqa: E402
from utils.files import atomic_write  # noqa: E402
from utils.joint import JOINT  # noqa: E402
from utils.run_folder import lock  # noqa: E402

HEADS = "heads"
TITLES = {HEADS: "a head each", JOINT: "one joint label", "alone": "a network each"}
SUPERVISED = ["trainer.type=SupervisedTrainer", "trainer.args={}"]
ADULT = 18


@dataclass(frozen=True)
class Network:
    """name: what is trained: `heads`, `joint` or an attribute."""

    name: str
    seed: int

    def folder(self, out: Path) -> Path:
        return out / f"{self.name}_seed{self.seed}" / "run"

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


class Networks(Runs[Network]):
    """The networks of a seed and what each is trained with."""

    def __init__(self, base: Config, out: Path, together: Sequence[str] = ()):
        super().__init__(out)
        self.base, self.together = base, together
        self.frame = prepare_labels(base, tell=lambda _: None).frame

    def config(self, run: Network) -> Config:
        seeded = apply_overrides(self.base, [f"seed={run.seed}", f"split.seed={run.seed}"])
        settings = [f"name={run.name}_seed{run.seed}", f"trainer.save_dir={json.dumps(str(self.out))}"]
        if run.name in (HEADS, JOINT):
            settings += self.together
            settings.append(f"split.from={json.dumps(str(self._split(seeded, None)))}")
        else:
            settings += alone(seeded, self.frame, run.name)
            settings.append(f"split.from={json.dumps(str(self._split(seeded, run.name)))}")
            if isinstance(seeded.labels.labeled, dict):  # else all data sets would stay in it
                seeded = apply_overrides(seeded, ["labels.labeled=null"])
        if run.name != HEADS and self.base.arch.args.get("share") is not None:
            settings.append("arch.args.share=null")
        if run.name != HEADS:
            settings.append(f"trainer.monitor={self.base.trainer.monitor.replace(f'valid/{JOINT}/', 'valid/')}")
        if run.name == JOINT:
            settings += [*SUPERVISED, "dataset.args.joint=true", 'loss={"type": "logit_adjustment"}']
        return apply_overrides(seeded, settings)

    def _split(self, config: Config, attribute: str | None) -> Path:
        """The split of all images, or of those of the data sets that know `attribute`, as every network has it."""
        path = self.out / f"split_seed{config.seed}{f'_{attribute}' if attribute else ''}.csv"
        if path.exists():
            return path
        if attribute is None:
            labels = prepare_labels(config, tell=lambda _: None)
            self.out.mkdir(parents=True, exist_ok=True)
            write_split(path, labels.frame, labels.split)
            return path
        sides = pd.read_csv(self._split(config, None), dtype=str, keep_default_na=False)
        if isinstance(config.dataset, list):
            names = tuple(f"{item.title}/" for item in knowing(config.dataset, self.frame, attribute))
            sides = sides[sides["path"].str.startswith(names)]
        atomic_write(path, sides.to_csv(index=False))
        return path

    def predictions(self, run: Network) -> pd.DataFrame:
        """test.py's table of the validation images, by path, after training what is missing.

        Raises UserError if OUT has such a run of another config, RunFailed if a command fails.
        """
        if stale := self.stale(run):
            raise UserError(f"{run.folder(self.out)} is of another config: {stale[0]}; give another --out")
        self.train(run)
        last = run.folder(self.out) / "checkpoints" / "last.pth"
        report = run.folder(self.out) / "report"
        self.call(run, ["test.py", "--resume", str(last), "--out", str(report)])
        return pd.read_csv(report / "predictions.csv", keep_default_na=False).set_index("path")


def main() -> None:
    arguments = parse_arguments()
    with exit_codes(), stop_signals_exit():
        config = load_config(arguments.config, arguments.set)
        networks = Networks(config, arguments.out, arguments.together)
        names = list(networks.frame.classes)
        arguments.out.mkdir(parents=True, exist_ok=True)
        lock(arguments.out, "this table is being made")
        if arguments.cost:
            print(f"a step of {TITLES[HEADS]} / one of each network alone: {cost(networks, names, arguments):.2f}")
            return
        rows = []
        try:
            for seed in arguments.seeds:
                found = {HEADS: dict.fromkeys(names, networks.predictions(Network(HEADS, seed)))}
                if not isinstance(config.dataset, list):
                    joint = taken_apart(networks.predictions(Network(JOINT, seed)), names)
                    found[JOINT] = dict.fromkeys(names, joint)
                found["alone"] = {name: networks.predictions(Network(name, seed)) for name in names}
                for method, tables in found.items():
                    rows.append({"method": TITLES[method], "seed": seed, **score(tables, networks.frame)})
        except RunFailed as error:
            sys.exit(f"error: {error}")
        finally:
            networks.stop()
        table = pd.DataFrame(rows)
        atomic_write(arguments.out / "table.csv", table.to_csv(index=False))
        atomic_write(arguments.out / "table.md", summary(table))
        print(summary(table), end="")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the split and of the training")
    parser.add_argument(
        "--together", action="append", default=[], metavar="KEY=VALUE",
        help="for the network that learns all attributes, for example a larger data_loader.batch_size, since a head "
        "learns only from the images that have a label for it",
    )  # fmt: skip
    parser.add_argument(
        "--cost",
        type=int,
        metavar="ROUNDS",
        help="instead train nothing: what a step costs, in processor time on the CPU",
    )
    parser.add_argument("--out", type=Path, default=Path("saved/heads"))
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    return parser.parse_args()


def cost(networks: Networks, names: Sequence[str], arguments: argparse.Namespace) -> float:
    """Time of a step after the warm-up of the network of all heads, over that of one step of each of the others: the
    median of rounds in which each takes a step on its first batch."""
    device, seed = choose_device("auto"), arguments.seeds[0]
    on_cpu = device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    trainers = [
        build_trainer(networks.config(Network(name, seed)), device, World(), {}, tell=lambda _: None).trainer
        for name in (HEADS, *names)
    ]
    steps = [(trainer, to_device(trainer.data.first_batch(), device)) for trainer in trainers]
    ratios = []
    for number in range(arguments.cost + 1):
        seconds = []
        for trainer, batch in steps:
            trainer.step = getattr(trainer, "warm_up_steps", 0)
            trainer.network.train()
            started = clock()
            trainer.train_on(batch)
            if not on_cpu:
                torch.cuda.synchronize(device)
            seconds.append(clock() - started)
        if number:  # the first step of each is slower
            ratios.append(seconds[0] / sum(seconds[1:]))
    return statistics.median(ratios)


def knowing(data_sets: Sequence[Any], frame: LabelFrame, attribute: str) -> list[Any]:
    """The data sets that have labels of the attribute."""
    parts = zip(data_sets, frame.parts(), strict=True)
    return [data_set for data_set, part in parts if frame.knows([attribute], part)]


def alone(config: Config, frame: LabelFrame, attribute: str) -> list[str]:
    """Settings for a network of one attribute: the data sets that know it, their labels, and a trainer of one head."""
    settings = SUPERVISED if config.trainer.type == "MultiHeadTrainer" else []
    if not isinstance(config.dataset, list):
        return [*settings, f"dataset.attributes={json.dumps([attribute])}"]
    kept = knowing(config.dataset, frame, attribute)
    items = [{**item.model_dump(), "attributes": [attribute]} for item in kept]
    settings = [*settings, f"dataset={json.dumps(items)}"]
    if isinstance(config.labels.labeled, dict):
        labeled = {item.name: config.labels.labeled[item.name].model_dump() for item in kept if item.name}
        settings.append(f"labels.labeled={json.dumps(labeled)}")
    return settings


def taken_apart(table: pd.DataFrame, attributes: list[str]) -> pd.DataFrame:
    """Columns of each attribute from those of the joint label."""
    found = {
        f"{name}/{kind}": table[f"{JOINT}/{kind}"].str.split("/").str[position]
        for kind in ("label", "prediction")
        for position, name in enumerate(attributes)
    }
    return table.assign(**found)


def score(tables: dict[str, pd.DataFrame], frame: LabelFrame) -> dict[str, float]:
    """tables: attribute -> predictions. Macro F1 and accuracy of each attribute over the images labeled for it,
    accuracy of grown-ups too where ages are known, and macro F1 of all labels together where images have them."""
    years = frame.rows.set_index("path")[YEARS] if YEARS in frame.rows else None
    found: dict[str, float] = {}
    both: dict[str, Any] = {}
    for name, table in tables.items():
        table = table[table[f"{name}/label"] != ""]
        true, said = table[f"{name}/label"], table[f"{name}/prediction"]
        found[f"{name} macro F1"] = float(f1_score(true, said, average="macro"))
        found[f"{name} accuracy"] = float((true == said).mean())
        if years is not None and name != AGE:
            grown_up = years.reindex(true.index).to_numpy() >= ADULT
            found[f"{name} accuracy, {ADULT} and older"] = float((true == said)[grown_up].mean())
        both |= {f"label {name}": true, f"prediction {name}": said}
    every = pd.DataFrame(both).dropna()
    if len(every):
        true, said = (every.filter(like=kind).agg("/".join, axis=1) for kind in ("label ", "prediction "))
        found["all labels, macro F1"] = float(f1_score(true, said, average="macro"))
    return found


def summary(table: pd.DataFrame) -> str:
    """Markdown: mean over the seeds, and each seed's value where there are several."""
    names = [str(name) for name in table if name not in ("method", "seed")]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for method, rows in table.groupby("method", sort=False):
        cells = [" ".join([f"{rows[name].mean():.3f}", *_each(rows[name])]) for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _each(values: pd.Series) -> list[str]:
    return [f"({', '.join(f'{value:.3f}' for value in values)})"] if len(values) > 1 else []


if __name__ == "__main__":
    main()
