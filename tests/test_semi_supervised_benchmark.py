"""benchmarks/semi_supervised.py: what is reused, refused and continued, several heads, paired differences, failures."""

from __future__ import annotations

import json
import math
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.frozen_features import logistic_regression
from benchmarks.methods import METHODS
from benchmarks.one_or_many_heads import Network, Networks, score
from benchmarks.runs import RunFailed
from benchmarks.semi_supervised import plan
from benchmarks.semi_supervised_runs import Bench, Run
from benchmarks.semi_supervised_scores import MEAN, Scoring, scores_of_heads, with_mean
from benchmarks.semi_supervised_table import in_order, paired, summary
from report.evaluation import HeadPrediction, evaluate_head
from tests.face_runs import CLASSES, draw_faces
from trainer import session
from utils.config import apply_overrides, load_config
from utils.errors import UserError
from utils.stop_signal import Stopped

PROJECT = Path(__file__).resolve().parents[1]
RUN = Run("adjusted", 24, 0)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """FixMatch on two heads; no validation image has an age of 60 or more."""
    draw_faces(tmp_path / "faces")
    table = pd.read_csv(tmp_path / "faces" / "labels.csv", keep_default_na=False)
    table["split"] = np.select([table.index < 12, table.index < 24], ["valid", "test"], "train")
    table.to_csv(tmp_path / "faces" / "labels.csv", index=False)
    attributes = ["gender", "age"]
    data = {"root": str(tmp_path / "faces"), "frame": "labels.csv", "group": "person", "split": "split"}
    args = {**data, "attributes": attributes, "classes": {name: CLASSES[name] for name in attributes}}
    config = {
        "name": "tiny",
        "dataset": {"type": "LabelCSV", "args": args},
        "labels": {"labeled": {"count": 24}},
        "views": {"size": 24},
        "data_loader": {"batch_size": 4, "unlabeled_ratio": 2, "num_workers": 0},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet", "pretrained": False}},
        "loss": {"type": "cross_entropy"},
        "optimizer": {"type": "AdamW", "args": {"lr": 5e-3}},
        "trainer": {"type": "FixMatchTrainer", "args": {"align": "prior"}, "epochs": 2, "steps_per_epoch": 3},
        "logger": {"console": False, "tensorboard": False},
    }
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    return tmp_path / "tiny.json"


@pytest.fixture
def bench(config_file: Path, tmp_path: Path, in_process):
    """Runs in this process, which saves the seconds of new ones."""

    class Here(Bench):
        def call(self, run: Run, command: list[str]) -> None:
            done = in_process(*command)
            if done.code:
                raise RunFailed(done.err)

    def make(out: str = "out", *settings: str) -> Bench:
        return Here(load_config(config_file, settings), tmp_path / out)

    return make


# Reused, refused, continued ------------------------------------------------------------------------------------------


def test_a_run_of_another_config_is_refused_and_one_that_only_moved_is_not(bench, config_file, tmp_path, in_process):
    Scoring("test").rows(bench(), RUN)
    moved = bench("out", "data_loader.num_workers=1", "logger.tensorboard=true", "about=x", "dataset.args.root=.")
    assert bench().stale(RUN) == moved.stale(RUN) == []
    assert bench("out", "optimizer.args.lr=0.1").stale(RUN) == ["optimizer.args.lr: 0.005 -> 0.1"]
    assert bench("out", "trainer.epochs=1").stale(RUN) == ["trainer.epochs: 2 -> 1"]
    command = ["-c", str(config_file), "--out", str(tmp_path / "out"), "--seeds", "0", "--methods", "adjusted"]
    refused = in_process("benchmarks/semi_supervised.py", *command, "-s", "optimizer.args.lr=0.1")
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "adjusted/labels24_seed0 is of another config: optimizer.args.lr: 0.005 -> 0.1; give" in refused.err
    done = in_process("benchmarks/semi_supervised.py", *command)
    assert done.code == 0 and "| supervised, logit adjustment | 24 | gender | 1 |" in done.out, done.err


def test_an_unfinished_run_continues_and_a_finished_one_is_read(bench, tmp_path):
    undisturbed, stopped = bench("undisturbed"), bench("stopped")
    expected = Scoring("test").rows(undisturbed, RUN)
    trainer = session.train(stopped.config(RUN), None, [], None, "cpu", RUN.folder(stopped.out).name)
    step = trainer.train_on

    def train_on(*batches):
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*batches)

    trainer.train_on = train_on  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        trainer.train()
    trainer.logger.close()
    folder = RUN.folder(stopped.out)
    assert len(pd.read_csv(folder / "metrics.csv")) == 1
    found = Scoring("test").rows(stopped, RUN)
    assert "continuing after step 4" in (folder / "train.log").read_text()
    measured = ["train/loss", "valid/macro_f1", "valid/loss"]
    tables = [pd.read_csv(RUN.folder(part.out) / "metrics.csv") for part in (undisturbed, stopped)]
    assert tables[0][measured].equals(tables[1][measured])
    assert [{**row, "minutes": 0} for row in found] == [{**row, "minutes": 0} for row in expected]

    def fail(*_):
        raise AssertionError("nothing is left to do")

    stopped.call = fail
    assert Scoring("test").rows(stopped, RUN) == found
    log = pd.read_csv(folder / "metrics.csv")
    first = log["valid/gender/macro_f1"].iloc[0]
    of_heads = Scoring("test", reach=first).rows(stopped, RUN)
    assert of_heads[1]["head"] == "gender" and of_heads[1]["minutes_to"] == log["seconds"].iloc[0] / 60
    assert all(math.isnan(row["minutes_to"]) for row in Scoring("test", reach=1.1).rows(stopped, RUN))
    twice = pd.DataFrame([of_heads[1], {**of_heads[1], "seed": 1, "minutes_to": math.nan}])
    assert "(1 of 2 seeds)" in summary(twice) and "| minutes to the given macro F1 |" in summary(twice)


def test_reach_needs_the_metric_that_it_is_about(config_file, in_process):
    options = ["--methods", "adjusted", "--reach", "0.9", "-s", 'metrics=["accuracy"]']
    options += ["-s", "trainer.monitor=min valid/loss"]
    refused = in_process("benchmarks/semi_supervised.py", "-c", str(config_file), *options)
    assert refused.code == 2 and "error: --reach: needs macro_f1 in the config's metrics" in refused.err


def test_a_run_that_has_no_checkpoint_yet_starts_again(bench):
    folder = RUN.folder(bench().out)
    folder.mkdir(parents=True)
    (folder / "train.log").write_text("killed")
    assert len(Scoring("test", last=True).rows(bench(), RUN)) == 3
    assert "killed" not in (folder / "train.log").read_text()


# Scores --------------------------------------------------------------------------------------------------------------


def test_a_row_per_head_also_where_a_class_has_no_validation_image(bench):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rows = Scoring("valid", tta=["hflip"], fit=["thresholds"]).rows(bench(), RUN)
    assert [row["head"] for row in rows] == [MEAN, "gender", "age"]
    for measure in ("macro_f1", "ap", "last_macro_f1", "last_ap", "tta_macro_f1", "fitted_macro_f1"):
        mean, gender, age = (row[measure] for row in rows)
        assert 0 <= age <= 1 and mean == pytest.approx((gender + age) / 2), measure
    metrics = json.loads((RUN.folder(bench().out) / "scores" / "valid_best" / "metrics.json").read_text())
    assert metrics["heads"]["age"]["per_class"][">=60"]["support"] == 0
    assert rows[2]["ap"] == metrics["heads"]["age"]["mean_average_precision"]
    assert [rows[1]["ap"]] == list(metrics["heads"]["gender"]["average_precision"].values())
    history = pd.read_csv(RUN.folder(bench().out) / "metrics.csv")["valid/gender/macro_f1"]
    assert rows[1]["last_macro_f1"] == pytest.approx(history.iloc[-1])
    said = summary(pd.DataFrame(rows))
    assert "chosen on the images that it is scored on" in said and "| Δ macro F1, last epoch |" in said

    # The same run on test: thresholds are those of valid.
    rows = Scoring("test", fit=["thresholds"]).rows(bench(), RUN)
    scores = RUN.folder(bench().out) / "scores"
    fit, applied = (
        json.loads((scores / name / "metrics.json").read_text())
        for name in ("valid_best_fit_thresholds", "test_valid_best_fit_thresholds")
    )
    assert (fit["split"], applied["split"], applied["calibration"]["fitted_on"]["split"]) == ("valid", "test", "valid")
    assert rows[1]["fitted_macro_f1"] == applied["heads"]["gender"]["macro_f1"]
    assert "last_macro_f1" not in rows[0] and "chosen on the validation images" in summary(pd.DataFrame(rows))


def test_a_head_whose_rare_class_has_no_image_has_no_average_precision():
    heads = {"a": [0, 0, 0], "b": [0, 1, 0]}
    answers = [
        HeadPrediction(name, ("x", "y"), np.array(labels), np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]))
        for name, labels in heads.items()
    ]
    found = scores_of_heads({"": {head.name: evaluate_head(head, [0, 1, 2], 0) for head in answers}})
    assert math.isnan(found["a"]["ap"]) and found["b"] == {"macro_f1": 1.0, "ap": 1.0}
    assert with_mean(found)[MEAN] == {"macro_f1": pytest.approx((0.4 + 1) / 2), "ap": 1.0}


def test_frozen_features_are_kept_for_the_same_images_and_view_only(bench, tmp_path):
    run, folder = Run("frozen", 24, 0), tmp_path / "features"
    for settings, files in (([], 1), ([], 1), (["trainer.epochs=9"], 1), (["views.size=16"], 2)):
        heads = logistic_regression(bench("out", *settings).config(run), "valid", folder)
        assert [head.name for head in heads] == ["gender", "age"] and len(list(folder.iterdir())) == files
    image = tmp_path / "faces" / "images" / "00.png"
    image.write_bytes((tmp_path / "faces" / "images" / "01.png").read_bytes())
    logistic_regression(bench().config(run), "valid", folder)
    assert len(list(folder.iterdir())) == 3
    rows = Scoring("valid").rows(bench(), Run("all-frozen", "all", 0))
    assert rows[0]["macro_f1"] == rows[0]["last_macro_f1"] > 0 and rows[0]["checkpoint"] == "none"


def test_differences_are_paired_seed_by_seed_on_the_same_labels():
    scores = {
        ("fixmatch", "200"): {0: 0.9, 1: 0.7, 2: 0.8},
        ("adjusted", "200"): {0: 0.8, 1: 0.65},
        ("adjusted", "100"): {0: 0.1, 1: 0.1, 2: 0.1},
        ("all", "all"): {0: 0.95},
        ("all-adjusted", "all"): {0: 0.96},
    }
    about = {"head": "bangs", "split": "test", "checkpoint": "best"}
    table = in_order(
        pd.DataFrame(
            {"method": method, "labels": labels, "seed": seed, "macro_f1": score, "ap": score / 2, **about}
            for (method, labels), of_seed in scores.items()
            for seed, score in of_seed.items()
        )
    )
    order = list(dict.fromkeys(zip(table["method"], table["labels"])))
    assert order == [*list(scores)[2:0:-1], *list(scores)[:1], *list(scores)[3:]]
    assert paired(table, "fixmatch", "200", "bangs", "macro_f1").to_dict() == pytest.approx({0: 0.1, 1: 0.05})
    lines = summary(table).splitlines()
    assert "| method | labels | seeds | macro F1 | average precision | Δ macro F1 | Δ average precision |" in lines
    fixmatch = "| FixMatch as the config has it | 200 | 3 | 0.800 ± 0.100 | 0.400 ± 0.050 "
    assert fixmatch + "| +0.075 ± 0.035 (2 seeds) | +0.037 ± 0.018 (2 seeds) |" in lines
    assert "| supervised, all labels, cross entropy | all | 1 | 0.950 | 0.475 | -0.010 | -0.005 |" in lines
    assert "| supervised, all labels, logit adjustment | all | 1 | 0.960 | 0.480 | baseline | baseline |" in lines


# Methods -------------------------------------------------------------------------------------------------------------


def test_every_method_goes_with_any_config(tmp_path):
    """Here one of several heads for supervised training, without hidden labels."""
    base = load_config(PROJECT / "configs" / "mask_multihead.json")
    bench = Bench(base, tmp_path)
    runs = plan(base, ["core", "switches", "levers"], [100], [0])
    assert [run.method for run in runs] == list(METHODS)
    for run in runs:
        assert bench.config(run).labels.labeled is None or METHODS[run.method].all_labels is False
    runs = plan(base, ["core"], None, [3])
    assert "adjusted" in [run.method for run in runs] and "all" not in [run.method for run in runs]
    assert bench.config(runs[1]).seed == 3 and bench.config(runs[1]).labels.labeled is None


def test_methods_are_what_their_rows_say_whatever_the_config_has(bench):
    base = bench("out", "loss.args.class_weight=inverse", "trainer.evaluation_prior=1.0", "views.train=none")
    more = ("class_weight=saw", "selective=true", "unlabeled_from=own", "abc_weight=2", "debias=debiaspl")
    settings = ['trainer.args.threshold={"type": "freematch", "args": {}}', *(f"trainer.args.{text}" for text in more)]
    base.base = apply_overrides(base.base, settings)

    def trained(method: str):
        return base.config(Run(method, 24, 7))

    assert trained("adjusted").loss.type == trained("all-adjusted").loss.type == "logit_adjustment"
    same = base.base.trainer.args
    pseudo_label, teacher = trained("pseudo_label").trainer, trained("mean_teacher").trainer
    assert pseudo_label.type == "PseudoLabelTrainer" and teacher.type == "MeanTeacherTrainer"
    assert pseudo_label.args == {name: same[name] for name in same if name != "selective"}
    assert teacher.args == {name: same[name] for name in ("warm_up_epochs", "ramp_up") if name in same}
    published = trained("published")
    assert published.loss.args["class_weight"] is None and published.trainer.evaluation_prior == 0
    fixed = {"threshold": {"type": "fixed", "args": {"value": 0.95}}}  # and what FixMatchTrainer's arguments default to
    assert published.trainer.args == fixed
    assert trained("published+align").trainer.args == fixed | {"align": "prior"}
    assert (published.views.train, published.views.strong) == ("flip_translate", "randaugment")
    assert trained("fixmatch").trainer.args["threshold"]["type"] == "freematch"
    assert trained("saw").loss.args["class_weight"] == "saw"
    assert trained("mean_teacher").trainer.ema == 0.99
    assert published.labels.labeled.seed == published.seed == 7  # type: ignore[union-attr]
    per_head = bench("out", 'loss={"age": {"type": "focal", "weight": 0.5}, "default": {"type": "ordinal"}}')
    loss = per_head.config(RUN).loss
    assert isinstance(loss, dict) and {part.type for part in loss.values()} == {"logit_adjustment"}
    assert loss["age"].weight == 0.5


def test_a_run_that_fails_is_reported_and_the_others_are_in_the_table(config_file, tmp_path, run):
    out = tmp_path / "bench"
    command = ["-c", config_file, "--out", out, "--methods", "adjusted", "--seeds", "0", "--labels", "24", "1000"]
    done = run("benchmarks/semi_supervised.py", *command, "--jobs", "2", "--last", "-s", "trainer.epochs=1")
    assert done.code == 1, done.err
    assert "1 of 2 runs failed" in done.err and "labels.labeled.count: 1,000 asked for" in done.err
    assert "train.py ended with exit code 2; the end of " in done.err and "epoch" not in done.err
    table = pd.read_csv(out / "table.csv")
    assert table["labels"].tolist() == [24] * 3 and set(table["checkpoint"]) == {"last"}
    assert (out / "table.md").read_text() == done.out and done.out.startswith("**Incomplete: 1 runs")
    assert (out / "log" / "adjusted_labels24_seed0.log").stat().st_size > 100


# A head each, or a network each ---------------------------------------------------------------------------------------


def test_networks_of_one_attribute_share_the_split_of_all(config_file, tmp_path, in_process):
    joint = "trainer.monitor=max valid/joint/macro_f1"  # which a network of one attribute has not
    config = load_config(config_file, ["split.valid=0.25", "dataset.args.split=null", joint])
    networks = Networks(config, tmp_path / "out", ["trainer.epochs=4"])

    def call(run: Network, command: list[str]) -> None:
        done = in_process(*command)
        assert done.code == 0, done.err

    networks.call = call  # type: ignore[method-assign]
    together, age = (networks.config(Network(name, 1)) for name in ("heads", "age"))
    assert (together.trainer.epochs, age.trainer.epochs) == (4, 2)
    assert (together.trainer.monitor, age.trainer.monitor) == ("max valid/joint/macro_f1", "max valid/macro_f1")
    assert age.dataset.attributes == ["age"]
    table = networks.predictions(Network("age", 1))
    of_all, sides = (
        pd.read_csv(tmp_path / "out" / f"split_seed1{of}.csv").set_index("path")["split"] for of in ("", "_age")
    )
    assert of_all.equals(sides)
    labels = pd.read_csv(tmp_path / "faces" / "labels.csv", keep_default_na=False).set_index("path")["age"]
    assert set(table.index) == set(sides[(sides == "valid") & (labels != "")].index)
    true, said = table["age/label"], table["age/prediction"]
    scores = score({"age": table}, networks.frame)
    assert scores["age accuracy"] == (true == said)[true != ""].mean()
    networks.base = apply_overrides(networks.base, ["optimizer.args.lr=0.1"])
    with pytest.raises(UserError, match=r"age_seed1.run is of another config: optimizer\.args\.lr: 0\.005 -> 0\.1"):
        networks.predictions(Network("age", 1))


def test_a_network_of_one_attribute_has_the_data_sets_labels_and_split_that_know_it(config_file, tmp_path):
    source = json.loads(config_file.read_text())["dataset"]
    args = {**source["args"], "split": None}
    sets = [
        {**source, "name": name, "args": {**args, "attributes": [name], "classes": {name: CLASSES[name]}}}
        for name in ("gender", "age")
    ]
    several = [f"dataset={json.dumps(sets)}", 'labels.labeled={"gender": {"count": 8}, "age": {"count": 9}}']
    networks = Networks(load_config(config_file, [*several, "split.valid=0.25"]), tmp_path / "out")
    age = networks.config(Network("age", 0))
    assert [item.name for item in age.dataset] == ["age"]
    assert {name: part.count for name, part in age.labels.labeled.items()} == {"age": 9}
    images = pd.read_csv(age.split.from_file)["path"]
    assert len(images) and images.str.startswith("age/").all()
    assert networks.config(Network("heads", 0)).labels.labeled.keys() == {"gender", "age"}
