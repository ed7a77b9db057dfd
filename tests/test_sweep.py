"""Many trainings from one command: which, under which names, stopped and begun again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.test_training import PROJECT, write_config
from trainer.sweep_plan import Factor, parse_factor, plan
from utils.errors import ConfigError, UserError
from utils.file_lock import try_lock


@pytest.fixture
def config(tmp_path: Path, tiny_faces: Path) -> Path:
    return write_config(
        tmp_path,
        tiny_faces,
        trainer={"type": "SupervisedTrainer", "args": {}, "epochs": 3, "steps_per_epoch": 2},
    )


def ids(config: Path, *vary: str, **options) -> list[str]:
    trainings = plan([config], [parse_factor(text) for text in vary], [], options.get("folds"), options.get("sample"))
    return [training.run_id for training in trainings]


def test_values_are_parted_at_commas_outside_of_brackets_and_quotes():
    text = 'trainer.args.align=null,"a,b",{"type": "estimated", "args": {"x": [1, 2]}},uniform'
    values = ("null", '"a,b"', '{"type": "estimated", "args": {"x": [1, 2]}}', "uniform")
    assert parse_factor(text) == Factor(("trainer.args.align",), values)
    assert parse_factor("optimizer.args.lr+optimizer.backbone_lr=1e-3,3e-4").keys == (
        "optimizer.args.lr",
        "optimizer.backbone_lr",
    )
    for wrong in ("seed", "=1", "a+=1", "seed=", "seed=0,,1"):
        with pytest.raises(UserError, match="expected KEY=VALUE,VALUE"):
            parse_factor(wrong)
    with pytest.raises(UserError, match="has a value twice"):
        parse_factor("optimizer.args.lr=1e-3,0.001")
    with pytest.raises(UserError, match="has a value twice"):
        parse_factor("optimizer.args.lr=1,1.0")


def test_runs_are_called_by_their_values_whatever_else_is_tried(config: Path):
    assert ids(config, "optimizer.args.lr=1e-3,3e-4", "seed=0,1") == [
        "lr=0.001,seed=0",
        "lr=0.001,seed=1",
        "lr=0.0003,seed=0",
        "lr=0.0003,seed=1",
    ]
    assert ids(config, "seed=0", "split.seed=1,2") == ["seed=0,split.seed=1", "seed=0,split.seed=2"]
    assert ids(config, "arch.type=FaceClassifier") == ["arch.type=FaceClassifier"]
    assert ids(config) == ["as-is"]
    linked = "optimizer.args.lr+optimizer.backbone_lr=1e-3"
    assert ids(config, linked, folds=2) == ["lr+backbone_lr=0.001,folds=2"] and ids(config, folds=3) == [
        "as-is,folds=3"
    ]
    assert ids(config, "about=日本") == ["about=日本"]
    long = [f"{key}={json.dumps(['flip', 'light', 'none'])}" for key in ("views.train", "views.weak", "views.strong")]
    assert ids(config, *long, "optimizer.args.lr=1e-3") == ids(config, *long, "optimizer.args.lr=0.001")
    views = ids(config, 'views.train=none,["flip", "light"]', "views.size=[24, 32],[32, 24]")
    assert len(set(views)) == 4 and all(len(name) < 91 and "[" not in name for name in views)
    assert views[0] == ids(config, "views.train=none", "views.size=[24, 32]")[0]

    every = ids(config, "seed=0,1,2,3,4,5", "split.seed=0,1,2,3")
    some = ids(config, "seed=0,1,2,3,4,5", "split.seed=0,1,2,3", sample=5)
    assert len(some) == 5 and set(some) < set(every) and some == sorted(some, key=every.index)
    assert some == ids(config, "seed=0,1,2,3,4,5", "split.seed=0,1,2,3", sample=5)
    many = [f"optimizer.args.{key}=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8" for key in ("lr", "eps", "weight_decay")]
    many += [f"{key}=1,2,3,4,5,6,7,8" for key in ("seed", "split.seed", "trainer.epochs", "trainer.accumulate")]
    assert len(set(ids(config, *many, sample=4))) == 4
    with pytest.raises(UserError, match=r"2,097,152 combinations, more than 10,000; draw some of them with --sample"):
        ids(config, *many)


def test_what_is_wrong_with_any_of_them_is_told_before_the_first_begins(config: Path, in_process):
    said = in_process(
        "prepare.py", "sweep", "-c", str(config), "--vary", "optimizer.args.lrr=1,2", "--vary", "trainer.epochs=1,x"
    )
    assert said.code == 2 and "no argument 'lrr'; did you mean 'lr'?" in said.err and "trainer.epochs" in said.err
    assert said.err.count("-s trainer.epochs=x") == 1 and "begins" not in said.out
    with pytest.raises(ConfigError, match=r"split\.fold"):
        plan([config], [parse_factor("split.fold=1,2")], [], 2, None)
    for vary, said in (
        (["seed=0", "seed=1"], "--vary seed: 'seed' is set by --vary too"),
        (["optimizer.args.lr+optimizer.backbone_lr=1e-3", "optimizer.backbone_lr=1"], "'optimizer.backbone_lr' is set"),
        (["seed+seed=0"], "'seed' is set by --vary too"),
        (["name=a"], "'name' is set by -s too"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            plan([config], [parse_factor(text) for text in vary], ["name=x"], None, None)
    for options, said in (
        (["-d", "cpu", "-d", "cpuu"], "-d cpuu: no such device"),
        (["--check", "--out", "t.csv"], "--out t.csv: --check trains nothing"),
        (["--out", "submissions.csv"], "--out submissions.csv: is how the list of submissions is called"),
        (["-c", str(config)], "is given twice"),
    ):
        refused = in_process("prepare.py", "sweep", "-c", str(config), *options)
        assert refused.code == 2 and said in refused.err and "begins" not in refused.out
    other = config.with_name("other.json")
    other.write_text(config.read_text())
    with pytest.raises(UserError, match=r"other.json: .*tiny.json has the same name 'tiny'.*another name"):
        plan([config, other], [], [], None, None)
    other.write_text(json.dumps({**json.loads(config.read_text()), "name": "other"}))
    assert [str(one) for one in plan([config, other], [], [], None, None)] == ["tiny/as-is", "other/as-is"]


def test_a_sweep_that_was_stopped_goes_on_and_one_training_that_fails_does_not_stop_the_others(tmp_path, config, run):
    command = ["prepare.py", "sweep", "-c", str(config), "--vary", "arch.args.weights=no.pth,null", "--out", "t.csv"]
    slow = ["-s", "trainer.epochs=200", "--vary", "seed=0"]
    sweep = subprocess.Popen(
        [sys.executable, str(PROJECT / "prepare.py"), *command[1:], *slow],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    folder = tmp_path / "saved" / "tiny" / "weights=null,seed=0"
    deadline = time.time() + 120
    while time.time() < deadline and not (folder / "metrics.csv").exists():
        time.sleep(0.05)
    sweep.send_signal(signal.SIGTERM)
    said = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == 143 and "stopped; the same command continues" in said, said
    assert "[1/2] tiny/weights=no.pth,seed=0: failed with exit code 2" in said and "no.pth" in said
    assert "[2/2] tiny/weights=null,seed=0: stopped" in said
    before = pd.read_csv(folder / "metrics.csv")
    assert 1 <= len(before) < 200 and (folder / "checkpoints" / "last.pth").exists()

    again = ["-s", f"trainer.epochs={len(before) + 1}", "--vary", "seed=0"]
    with (folder / ".lock").open("a+") as lock:
        assert try_lock(lock.fileno())
        left = run(*command, *again, cwd=tmp_path)
    assert left.code == 2 and "weights=null,seed=0: is being trained by another process" in left.out, (
        left.out + left.err
    )
    assert "1 of 2 trainings failed: tiny/weights=no.pth,seed=0 (exit code 2); the same command tries" in left.err
    finish = ["prepare.py", "sweep", "-c", config, "--vary", "arch.args.weights=null", "--out", "t.csv"]
    done = run(*finish, *again, cwd=tmp_path)
    assert done.code == 0, done.out + done.err
    after = pd.read_csv(folder / "metrics.csv")
    assert len(after) == len(before) + 1 and after.iloc[: len(before)].equals(before)
    assert re.search(rf"tiny/weights=null,seed=0 +finished +{len(after)}/{len(after)} ", done.out)
    assert list(pd.read_csv(tmp_path / "t.csv")["run"]) == ["tiny/weights=null,seed=0"]


def test_folds_are_trained_side_by_side_and_a_check_makes_no_run(tmp_path, config, run):
    command = ["prepare.py", "sweep", "-c", config, "--folds", "2", "-s", "trainer.epochs=1", "--vary"]
    checked = run(*command, "seed=0", "--check", cwd=tmp_path)
    assert checked.code == 0 and checked.out.endswith("all of them can be trained\n"), checked.out + checked.err
    assert not list((tmp_path / "saved").glob("tiny/*"))
    done = run(*command, "seed=0,1", "-d", "cpu", "cpu", cwd=tmp_path)
    assert done.code == 0, done.out + done.err
    table = done.out[done.out.index("valid/macro_f1, 2 runs") :]
    assert table.count("2 folds") == 2 and "seed: 0 -> 1" in table
    assert "\ntiny/seed=1,folds=2: epoch 1/1" in done.out and "[2/2] tiny/seed=1,folds=2: begins on cpu" in done.out
    for seed in (0, 1):
        known = json.loads((tmp_path / "saved" / "tiny" / f"seed={seed},folds=2" / "folds.json").read_text())
        assert known["finished"] and known["folds"] == 2 and known["config"]["seed"] == seed
