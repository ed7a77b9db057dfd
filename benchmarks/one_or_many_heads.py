"""One label of all combinations, a head for each attribute, or a network for each: same split, same steps per network.

    python benchmarks/one_or_many_heads.py -c configs/utkface_cpu.json -s dataset.args.root=DIR
        -s arch.args.weights=FILE                                                          (one line)

The config has several heads. A network of one attribute is trained on the data sets that know it, with the same labels;
a single label of all combinations is tried where the config has one data set. Finished runs are read, not repeated. All
figures are of the last epoch on the validation images, so that nothing was chosen on them. Writes OUT/table.csv and
OUT/table.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.metrics import f1_score

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from data_loader.age import AGE, YEARS  # noqa: E402
from data_loader.joint import JOINT  # noqa: E402
from data_loader.label_frame import DATA_SET, LabelFrame  # noqa: E402
from data_loader.prepare_labels import prepare_labels  # noqa: E402
from utils.config import Config, load_config  # noqa: E402

SUPERVISED = ["trainer.type=SupervisedTrainer", "trainer.args={}"]
ADULT = 18


def main() -> None:
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.set)
    frame = prepare_labels(config, tell=lambda _: None).frame
    rows = []
    for seed in arguments.seeds:
        settings = [*arguments.set, f"seed={seed}", f"split.seed={seed}"]
        heads = train(arguments, f"heads_seed{seed}", settings)
        split = heads / "split.csv"
        settings.append(f"split.from={json.dumps(str(split))}")
        found = {"a head each": dict.fromkeys(frame.classes, predictions(heads))}
        if not isinstance(config.dataset, list):
            one_label = [*SUPERVISED, "dataset.args.joint=true", 'loss={"type": "logit_adjustment"}']
            run = train(arguments, f"joint_seed{seed}", [*settings, *one_label])
            found["one joint label"] = dict.fromkeys(frame.classes, taken_apart(predictions(run), list(frame.classes)))
        found["a network each"] = {
            name: predictions(train(arguments, f"{name}_seed{seed}", [*settings, *alone(config, frame, name, split)]))
            for name in frame.classes
        }
        for method, tables in found.items():
            rows.append({"method": method, "seed": seed, **score(tables, frame)})
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "table.csv", index=False)
    (arguments.out / "table.md").write_text(summary(table))
    print(summary(table))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the split and of the training")
    parser.add_argument("--out", type=Path, default=Path("saved/heads"))
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    return parser.parse_args()


def alone(config: Config, frame: LabelFrame, attribute: str, split: Path) -> list[str]:
    """Settings for a network of one attribute: the data sets that know it, their labels and their part of the split,
    and a trainer of one head."""
    settings = SUPERVISED if config.trainer.type == "MultiHeadTrainer" else []
    if not isinstance(config.dataset, list):
        return [*settings, f"dataset.attributes={json.dumps([attribute])}"]
    known = frame.rows.groupby(DATA_SET, sort=False)[attribute].max()
    kept = [item for item in config.dataset if known[item.name or item.type] >= 0]
    items = [{**item.model_dump(), "attributes": [attribute]} for item in kept]
    sides = pd.read_csv(split, dtype=str, keep_default_na=False)
    part = split.with_name(f"split_{attribute}.csv")
    names = tuple(f"{item.name or item.type}/" for item in kept)
    sides[sides["path"].str.startswith(names)].to_csv(part, index=False)
    settings = [*settings, f"dataset={json.dumps(items)}", f"split.from={json.dumps(str(part))}"]
    if isinstance(config.labels.labeled, dict):
        labeled = {item.name: config.labels.labeled[item.name].model_dump() for item in kept if item.name}
        settings += ["labels.labeled=null", f"labels.labeled={json.dumps(labeled)}"]
    return settings


def train(arguments: argparse.Namespace, name: str, settings: list[str]) -> Path:
    """The run's folder, after training what is missing of it."""
    folder = arguments.out / name / "run"
    settings = [*settings, f"name={name}", f"trainer.save_dir={json.dumps(str(arguments.out))}"]
    last = folder / "checkpoints" / "last.pth"
    command = ["train.py", "-c", str(arguments.config), *(["-r", str(last)] if last.exists() else ["--run-id", "run"])]
    epochs = load_config(arguments.config, settings).trainer.epochs
    if not last.exists() or len(pd.read_csv(folder / "metrics.csv")) < epochs:
        call([*command, *(part for setting in settings for part in ("-s", setting))])
    return folder


def predictions(run: Path) -> pd.DataFrame:
    """test.py's table of the validation images, by path."""
    call(["test.py", "--resume", str(run / "checkpoints" / "last.pth"), "--out", str(run / "report")])
    return pd.read_csv(run / "report" / "predictions.csv", keep_default_na=False).set_index("path")


def call(command: list[str]) -> None:
    subprocess.run([sys.executable, str(PROJECT / command[0]), *command[1:]], check=True, stdout=sys.stderr)


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
            grown_up = true.index.map(years) >= ADULT
            found[f"{name} accuracy, {ADULT} and older"] = float((true == said)[grown_up].mean())
        both |= {f"label {name}": true, f"prediction {name}": said}
    every = pd.DataFrame(both).dropna()
    if len(every):
        true, said = (every.filter(like=kind).agg("/".join, axis=1) for kind in ("label ", "prediction "))
        found["all labels, macro F1"] = float(f1_score(true, said, average="macro"))
    return found


def summary(table: pd.DataFrame) -> str:
    """Markdown: mean over the seeds, and each seed's value where there are several."""
    names = [name for name in table if name not in ("method", "seed")]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for method, rows in table.groupby("method", sort=False):
        cells = [" ".join([f"{rows[name].mean():.3f}", *_each(rows[name])]) for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _each(values: pd.Series) -> list[str]:
    return [f"({', '.join(f'{value:.3f}' for value in values)})"] if len(values) > 1 else []


if __name__ == "__main__":
    main()
