"""The commands as a user runs them: real processes, real files, real signals."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from base.base_trainer import BaseTrainer
from base.waiting import TIMINGS

PROJECT = Path(__file__).resolve().parents[1]


def write_config(folder: Path, faces: Path, **changes) -> Path:
    """A FixMatch run of seconds with everything that has state: EMA, alignment, dropout, schedule, two workers."""
    config = {
        "name": "tiny",
        "seed": 3,
        "dataset": {
            "type": "LabelCSV",
            "args": {"root": str(faces), "frame": "labels.csv", "attributes": ["hue"], "group": "group"},
        },
        "labels": {"labeled": {"count": 24}},
        "split": {"valid": 0.25},
        "views": {"size": 32, "train": "flip_translate"},
        "data_loader": {"batch_size": 4, "unlabeled_ratio": 2, "num_workers": 2},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet", "pretrained": False}},
        "loss": {"type": "logit_adjustment"},
        "optimizer": {"type": "AdamW", "args": {"lr": 5e-3}, "backbone_lr": 2e-3},
        "lr_scheduler": {"type": "cosine_716", "args": {"warm_up": 3}, "interval": "step"},
        "trainer": {
            "type": "FixMatchTrainer",
            "args": {
                "threshold": {"type": "fixed", "args": {"value": 0.7}},
                "align": "prior",
                "warm_up_epochs": 1,
                "ramp_up": 0.5,
            },
            "epochs": 4,
            "steps_per_epoch": 12,
            "ema": 0.9,
            "save_dir": str(folder / "saved"),
        },
        "logger": {"tensorboard": False},
    }
    for key, value in changes.items():
        both = isinstance(config.get(key), dict) and isinstance(value, dict)
        config[key] = {**config[key], **value} if both else value
    path = folder / "tiny.json"
    path.write_text(json.dumps(config))
    return path


def rows(run_dir: Path) -> list[dict[str, str]]:
    """metrics.csv without the columns that measure time."""
    with (run_dir / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def undisturbed(tmp_path: Path, tiny_faces: Path, run):
    config = write_config(tmp_path, tiny_faces)
    done = run("train.py", "-c", config, "--run-id", "undisturbed")
    assert done.code == 0, done.err
    return config, tmp_path / "saved" / "tiny" / "undisturbed", done


def test_a_run_leaves_what_the_contract_says_and_test_py_needs_only_the_checkpoint(undisturbed, tmp_path, run):
    config, run_dir, _ = undisturbed
    names = {str(p.relative_to(run_dir)) for p in run_dir.rglob("*") if p.is_file()}
    assert {"config.json", "environment.json", "split.csv", "train.log", "metrics.csv"} <= names
    assert {"checkpoints/last.pth", "checkpoints/best.pth"} <= names
    table = pd.read_csv(run_dir / "metrics.csv")
    assert list(table.columns[:2]) == ["epoch", "step"] and list(table["step"]) == [12, 24, 36, 48]
    for column in ("train/loss", "valid/loss", "valid/macro_f1", "valid/hue/macro_f1", "lr", "seconds"):
        assert column in table
    # Warm-up has no pseudo-labels; then the ramp grows and accuracy against the hidden labels is known.
    assert np.isnan(table["train/lambda_u"][0]) and table["train/lambda_u"].diff().iloc[2] > 0
    assert table["train/hue/pseudo_accuracy"].iloc[1:].notna().all()
    split = pd.read_csv(run_dir / "split.csv")
    assert list(split.columns) == ["path", "group", "split", "labeled"]
    assert split.groupby("group")["split"].nunique().max() == 1
    assert split[split["split"] == "train"]["labeled"].sum() == 24
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["seed"] == 3 and "torch" in json.dumps(environment)

    model = tmp_path / "elsewhere.pth"
    os.replace(tmp_path / "saved" / "model.pth", model)
    config.unlink()
    tested = run("test.py", "--resume", model, cwd=tmp_path)
    assert tested.code == 0, tested.err
    metrics = json.loads((run_dir / "report" / "metrics.json").read_text())
    valid = split[split["split"] == "valid"]
    assert metrics["split"] == "valid" and metrics["images"] == len(valid)
    best = table["valid/macro_f1"].max()
    assert metrics["heads"]["hue"]["macro_f1"] == pytest.approx(best, abs=1e-12)
    assert best > 0.9, "the demo task was not learned"
    predictions = pd.read_csv(run_dir / "report" / "predictions.csv")
    assert set(predictions["path"]) == set(valid["path"])
    assert (run_dir / "report" / "index.html").stat().st_size > 1000
    everything = run(
        "test.py", "--resume", model, "--split", "all", "--tta", "hflip", "--out", tmp_path / "all", cwd=tmp_path
    )
    assert everything.code == 0 and json.loads((tmp_path / "all" / "metrics.json").read_text())["images"] == 96


def test_stopped_and_killed_runs_continue_bit_for_bit(undisturbed, tmp_path, run):
    """SIGTERM in the middle of an epoch, then kill -9, then on to the end with another number of workers."""
    config, reference, _ = undisturbed
    run_dir = tmp_path / "saved" / "tiny" / "stopped"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, str(PROJECT / "train.py"), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)

    def wait_for_epoch(epoch: int, process: subprocess.Popen) -> None:
        deadline, table = time.time() + 120, run_dir / "metrics.csv"
        while not table.exists() or table.read_text().count("\n") <= epoch:
            assert process.poll() is None and time.time() < deadline, process.communicate()
            time.sleep(0.005)

    process = start("-c", str(config), "--run-id", "stopped")
    wait_for_epoch(1, process)
    os.killpg(process.pid, signal.SIGTERM)  # workers get it too, as from a job scheduler
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "train.py -r" in err and "Traceback" not in err
    step = torch.load(run_dir / "checkpoints" / "last.pth", weights_only=True)["step"]
    assert 12 <= step < 48

    process = start("-r", str(run_dir / "checkpoints" / "last.pth"))
    wait_for_epoch(2 if step < 24 else 3, process)
    process.kill()
    process.communicate(timeout=60)

    done = run("train.py", "-r", "auto", "-c", config, "-s", "data_loader.num_workers=0")
    assert done.code == 0, done.err
    assert "continuing after step" in done.out or rows(run_dir)[-1]["epoch"] == "4"
    assert rows(run_dir) == rows(reference)
    assert equal(weights(run_dir / "checkpoints" / "last.pth"), weights(reference / "checkpoints" / "last.pth"))
    assert (run_dir / "split.csv").read_bytes() == (reference / "split.csv").read_bytes()


def test_damaged_last_checkpoint_falls_back_to_the_one_before(undisturbed, tmp_path, run):
    _, run_dir, _ = undisturbed
    last = run_dir / "checkpoints" / "last.pth"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0xFF
    last.write_bytes(bytes(content))
    done = run("train.py", "-r", last, "-s", "trainer.epochs=5")
    assert done.code == 0, done.err
    assert f"{last}: damaged" in done.out and "falling back" in done.out
    assert [row["epoch"] for row in rows(run_dir)] == ["1", "2", "3", "4", "5"]


def test_resume_honours_or_refuses_an_override(undisturbed, run):
    _, run_dir, _ = undisturbed
    last = run_dir / "checkpoints" / "last.pth"
    finished = run("train.py", "-r", last)
    assert finished.code == 2 and "trainer.epochs" in finished.err
    refused = run("train.py", "-r", last, "-s", "optimizer.args.lr=0.5", "-s", "trainer.epochs=6")
    assert refused.code == 2 and "optimizer.args.lr: 0.005 -> 0.5" in refused.err
    assert run("train.py", "-r", last, "-s", "trainer.epoks=6").err.count("did you mean 'epochs'") == 1


def test_evaluation_prior_moves_log_odds_by_the_log_prior_in_training_and_testing(
    tmp_path, tiny_faces, run, in_process
):
    config = write_config(tmp_path, tiny_faces, labels={"labeled": None})
    first = ("-s", "trainer.epochs=1", "-s", "trainer.type=SupervisedTrainer", "-s", "trainer.args={}")
    first += ("-s", "trainer.steps_per_epoch=4", "-s", "data_loader.num_workers=0")
    done = run("train.py", "-c", config, "--run-id", "prior", *first, "-s", "trainer.evaluation_prior=1")
    assert done.code == 0, done.err
    run_dir = tmp_path / "saved" / "tiny" / "prior"
    tables = {}
    for strength in (0, 1):
        out = tmp_path / str(strength)
        override = () if strength else ("-s", "trainer.evaluation_prior=0")
        checkpoint = str(run_dir / "checkpoints" / "best.pth")
        tested = in_process("test.py", "--resume", checkpoint, "--out", str(out), *override)
        assert tested.code == 0, tested.err
        tables[strength] = pd.read_csv(out / "predictions.csv")
    train = pd.read_csv(run_dir / "split.csv").query("split == 'train'")["path"]
    labels = pd.read_csv(tiny_faces / "labels.csv").set_index("path").loc[train, "hue"].value_counts()
    a, b = sorted(labels.index)[:2]
    odds = [np.log(table[f"hue/p/{a}"] / table[f"hue/p/{b}"]) for table in tables.values()]
    assert labels[a] != labels[b]
    np.testing.assert_allclose(odds[1] - odds[0], np.log(labels[a] / labels[b]), atol=1e-5)
    scored = json.loads((tmp_path / "1" / "metrics.json").read_text())["heads"]["hue"]["macro_f1"]
    logged = pd.read_csv(run_dir / "metrics.csv")["valid/macro_f1"].iloc[0]
    assert scored == pytest.approx(logged, abs=1e-9)


def test_early_stop_after_exactly_n_epochs_and_the_last_is_saved(tmp_path, tiny_faces, run):
    config = write_config(
        tmp_path,
        tiny_faces,
        optimizer={"args": {"lr": 1e-12}, "backbone_lr": 1e-12},
        trainer={
            "type": "SupervisedTrainer",
            "args": {},
            "epochs": 30,
            "steps_per_epoch": 1,
            "early_stop": 3,
            "ema": None,
            "save_dir": str(tmp_path / "saved"),
        },
    )
    done = run("train.py", "-c", config, "--run-id", "x")
    assert done.code == 0 and "early stop" in done.out
    run_dir = tmp_path / "saved" / "tiny" / "x"
    table = pd.read_csv(run_dir / "metrics.csv")
    best = int(table["valid/macro_f1"].idxmax())
    assert len(table) == best + 1 + 3
    assert torch.load(run_dir / "checkpoints" / "last.pth", weights_only=True)["epoch"] == len(table)


def test_non_finite_loss_stops_before_the_weights_change_and_names_the_images(tmp_path, tiny_faces, run):
    config = write_config(tmp_path, tiny_faces, optimizer={"args": {"lr": 1e30}}, lr_scheduler=None)
    done = run("train.py", "-c", config, "--run-id", "nan")
    assert done.code == 2 and "Traceback" not in done.err
    assert "no weights were changed by this step" in done.err and ".png" in done.err


def test_an_epoch_whose_last_step_ruins_the_weights_is_neither_chosen_nor_saved(tmp_path, tiny_faces, in_process):
    """The loss of that step is a number; of NaN, argmax makes the first class, which is the common one here."""
    config = write_config(
        tmp_path,
        tiny_faces,
        optimizer={"type": "SGD", "args": {"lr": 1e-3}, "backbone_lr": None},
        lr_scheduler={"type": "StepLR", "args": {"step_size": 3, "gamma": 1e39}, "interval": "step"},
        trainer={"type": "SupervisedTrainer", "args": {}, "epochs": 3, "steps_per_epoch": 2, "ema": None},
    )
    done = in_process("train.py", "-c", str(config), "--run-id", "x", "-d", "cpu")
    assert done.code == 2 and "is not finite after step 4 (learning rate 1e+36)" in done.err, done.err
    run_dir = tmp_path / "saved" / "tiny" / "x"
    assert not (tmp_path / "saved" / "model.pth").exists() and len(pd.read_csv(run_dir / "metrics.csv")) == 1
    for name in ("last", "best"):
        state = torch.load(run_dir / "checkpoints" / f"{name}.pth", weights_only=True)
        assert state["epoch"] == 1 and all(value.isfinite().all() for value in state["model"].values())


def test_accumulation_equals_the_large_batch(tmp_path, tiny_faces, run):
    """2 x 4 images a step give the weights of 8 images a step (a network without batch norm, no dropout)."""
    found = []
    for size, accumulate in ((8, 1), (4, 2)):
        config = write_config(
            tmp_path,
            tiny_faces,
            name=f"batch{size}",
            arch={"args": {"backbone": "test_vit", "dropout": 0.0}},
            views={"train": "flip", "size": 160},
            optimizer={"type": "SGD", "args": {"lr": 0.01, "momentum": 0.9}},
            data_loader={"batch_size": size, "num_workers": 0},
            trainer={
                "type": "SupervisedTrainer",
                "args": {},
                "epochs": 1,
                "steps_per_epoch": 5,
                "accumulate": accumulate,
                "ema": None,
            },
        )
        done = run("train.py", "-c", config, "--run-id", "x", "-d", "cpu")
        assert done.code == 0, done.err
        found.append(weights(tmp_path / "saved" / f"batch{size}" / "x" / "checkpoints" / "last.pth"))
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-4, atol=1e-6)


def in_processes(number: int, config: Path) -> None:
    """`train.py` as torchrun starts it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
    done = subprocess.run(
        [*command, str(PROJECT / "train.py"), "-c", str(config), "--run-id", "x", "-d", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_score_the_network_that_is_saved(tmp_path, tiny_faces, run):
    """After a step each process has running statistics of batch norm of its own."""
    config = write_config(
        tmp_path,
        tiny_faces,
        data_loader={"num_workers": 0},
        optimizer={"args": {"lr": 0.01}},
        loss={"type": "cross_entropy"},
        trainer={"type": "SupervisedTrainer", "args": {}, "epochs": 1, "steps_per_epoch": 6, "ema": None},
    )
    in_processes(2, config)
    run_dir = tmp_path / "saved" / "tiny" / "x"
    done = run("test.py", "--resume", run_dir, "-d", "cpu", "--out", tmp_path / "report")
    assert done.code == 0, done.err
    scored = pd.read_csv(tmp_path / "report" / "predictions.csv")
    assert len(scored) == 24
    loss = -np.log([row[f"hue/p/{row['hue/label']}"] for _, row in scored.iterrows()]).mean()
    assert float(rows(run_dir)[-1]["valid/loss"]) == pytest.approx(loss, rel=1e-4)


def test_two_processes_train_the_same_run(tmp_path, tiny_faces):
    """torchrun with gloo: the same samples, so without batch norm and dropout the same weights up to rounding."""
    found = []
    for processes in (1, 2):
        config = write_config(
            tmp_path,
            tiny_faces,
            name=f"world{processes}",
            arch={"args": {"backbone": "test_vit", "dropout": 0.0}},
            views={"size": 160},
            data_loader={"num_workers": 0},
            optimizer={"type": "SGD", "args": {"lr": 0.01, "momentum": 0.9}, "backbone_lr": None},
            trainer={"args": {"warm_up_epochs": 1}, "epochs": 2, "steps_per_epoch": 3},
        )
        in_processes(processes, config)
        run_dir = tmp_path / "saved" / f"world{processes}" / "x"
        found.append((rows(run_dir), weights(run_dir / "checkpoints" / "last.pth")))
    for key in ("train/loss", "valid/loss", "train/hue/pass_rate"):
        for one, two in zip(found[0][0], found[1][0]):
            assert (one[key] == two[key] == "") or float(one[key]) == pytest.approx(float(two[key]), rel=1e-3)
    for key in found[0][1]:
        torch.testing.assert_close(found[0][1][key], found[1][1][key], rtol=1e-3, atol=1e-4)


def test_fp16_skips_a_step_that_overflows_clips_what_is_unscaled_and_resumes(tmp_path, tiny_faces, in_process):
    """GradScaler works on the CPU too: it begins at 2^16, which overflows in half precision and is halved then."""
    config = write_config(
        tmp_path,
        tiny_faces,
        data_loader={"num_workers": 0},
        optimizer={"type": "SGD", "args": {"lr": 0.1}, "backbone_lr": None},
        lr_scheduler=None,
        trainer={"precision": "fp16", "clip_grad": 1e-3, "epochs": 1, "steps_per_epoch": 12, "ema": None},
    )
    before = torch.load(_untrained(config, tmp_path, in_process), weights_only=True)["model"]
    assert in_process("train.py", "-c", str(config), "--run-id", "x", "-d", "cpu").code == 0
    state = torch.load(tmp_path / "saved" / "tiny" / "x" / "checkpoints" / "last.pth", weights_only=True)
    trained = {name for name, value in state["model"].items() if value.is_floating_point() and "running" not in name}
    moved = sum(float((state["model"][name] - before[name]).square().sum()) for name in trained) ** 0.5
    # Twelve steps of a gradient whose norm is clipped to 1e-3: had it been clipped while scaled, it would be 1e-8.
    assert 1e-5 < moved <= 12 * 0.1 * 1e-3 * 1.001
    assert state["scaler"]["scale"] <= 65536.0
    checked = in_process("train.py", "-c", str(config), "--check-resume")
    assert checked.code == 0 and "equal bit for bit" in checked.out, checked.out + checked.err


def _untrained(config: Path, folder: Path, in_process) -> Path:
    """A checkpoint whose weights are those of the start."""
    none = ("-s", "optimizer.args.lr=0.0", "-s", "trainer.steps_per_epoch=1", "-s", "trainer.precision=fp32")
    done = in_process("train.py", "-c", str(config), "--run-id", "start", "-d", "cpu", *none)
    assert done.code == 0, done.err
    return folder / "saved" / "tiny" / "start" / "checkpoints" / "last.pth"


def test_bf16_on_the_cpu_learns(tmp_path, tiny_faces, run):
    config = write_config(tmp_path, tiny_faces, trainer={"precision": "bf16"})
    done = run("train.py", "-c", config, "--run-id", "bf16")
    assert done.code == 0, done.err
    assert pd.read_csv(tmp_path / "saved" / "tiny" / "bf16" / "metrics.csv")["valid/macro_f1"].max() > 0.9


@pytest.mark.parametrize(
    "scheduler",
    [
        {"type": "ReduceLROnPlateau", "args": {"patience": 0, "factor": 0.1, "eps": 0.0}, "interval": "epoch"},
        {"type": "StepLR", "args": {"step_size": 1, "gamma": 0.1}, "interval": "epoch"},
        {"type": "OneCycleLR", "args": {"max_lr": 0.01}, "interval": "step"},
    ],
)
def test_schedulers_of_torch_work_by_name(tmp_path, tiny_faces, run, scheduler):
    config = write_config(
        tmp_path,
        tiny_faces,
        lr_scheduler=scheduler,
        optimizer={"args": {"lr": 1e-9}, "backbone_lr": 1e-10 if scheduler["type"] == "OneCycleLR" else None},
        trainer={"type": "SupervisedTrainer", "args": {}, "epochs": 4, "steps_per_epoch": 1, "ema": None},
    )
    done = run("train.py", "-c", config, "--run-id", "x")
    assert done.code == 0, done.err
    lr = pd.read_csv(tmp_path / "saved" / "tiny" / "x" / "metrics.csv")["lr"]
    if scheduler["type"] == "OneCycleLR":
        assert lr.max() == pytest.approx(0.01, rel=0.3) and lr.iloc[-1] < 1e-6
        state = torch.load(tmp_path / "saved" / "tiny" / "x" / "checkpoints" / "last.pth", weights_only=True)
        highest = {group["name"]: group["max_lr"] for group in state["optimizer"]["param_groups"]}
        assert highest["head"] == 0.01 and highest["backbone"] == pytest.approx(0.001), "as backbone_lr is to lr"
    elif scheduler["type"] == "StepLR":
        assert lr.to_list() == pytest.approx([1e-9, 1e-10, 1e-11, 1e-12])
    else:
        assert lr.is_monotonic_decreasing and lr.iloc[-1] < 1e-9


def test_check_writes_nothing(tmp_path, tiny_faces, run, in_process, monkeypatch):
    config = write_config(tmp_path, tiny_faces)
    done = run("train.py", "--check", "-c", config)
    assert done.code == 0, done.err
    for text in ("parameters", "train hue: blue", "one step takes", "memory", "everything is in order"):
        assert text in done.out
    assert not (tmp_path / "saved" / "tiny").exists()
    # A step of several batches is tried and timed as one of each of them.
    batches = []
    monkeypatch.setattr(BaseTrainer, "train_on", lambda self, *of_step: batches.append(len(of_step)))
    done = in_process("train.py", "--check", "-c", str(config), "-d", "cpu", "-s", "trainer.accumulate=3")
    assert done.code == 0 and set(batches) == {3}, done.err
    monkeypatch.undo()
    short = ("-s", "trainer.epochs=2", "-s", "trainer.steps_per_epoch=1", "-s", "trainer.args.warm_up_epochs=0")
    schedule = 'lr_scheduler={"type": "OneCycleLR", "args": {"max_lr": 0.01}, "interval": "step"}'
    done = run("train.py", "--check", "-c", config, *short, "-s", schedule)
    assert done.code == 0 and "everything is in order" in done.out, done.err


def test_check_resume_proves_it_on_the_users_config(tmp_path, tiny_faces, run):
    config = write_config(tmp_path, tiny_faces)
    done = run("train.py", "--check-resume", "-c", config)
    assert done.code == 0, done.out + done.err
    assert "equal bit for bit" in done.out
    assert not (tmp_path / "saved" / "tiny").exists()


def test_predict_reads_any_pictures_with_the_checkpoint_alone(undisturbed, tmp_path, tiny_faces, run):
    _, run_dir, _ = undisturbed
    out = tmp_path / "predictions.csv"
    best = run_dir / "checkpoints" / "best.pth"
    done = run("predict.py", "--resume", best, "--out", out, tiny_faces / "images", cwd=tmp_path)
    assert done.code == 0, done.err
    table = pd.read_csv(out)
    truth = pd.read_csv(tiny_faces / "labels.csv").set_index("path")["hue"]
    found = table.set_index("path")["hue/prediction"]
    assert len(table) == 96 and np.mean([found[str(tiny_faces / p)] == truth[p] for p in truth.index]) > 0.9
    assert np.allclose(table[["hue/p/blue", "hue/p/red"]].sum(axis=1), 1)
    wrong = run("predict.py", "--resume", best, tmp_path / "nowhere")
    assert wrong.code == 2 and "no such file" in wrong.err
