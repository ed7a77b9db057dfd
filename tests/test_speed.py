"""`trainer.speed`, and what is done at no cost in results: averaged weights, thinned validation."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from base.monitor import Monitor
from base.speed import Settings
from base.training_state import training_state
from tests.test_training import equal, rows, weights, write_config
from trainer import speed
from trainer.build import build_trainer
from trainer.check_resume import check_resume
from trainer.session import train
from utils.config import config_from_dict, load_config
from utils.distributed import World
from utils.ema import EMA

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_trials(monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    monkeypatch.setattr(speed, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(speed, "TIMED_SECONDS", 0.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def contiguous_wins(monkeypatch):
    """The machine on which the second candidate of each group takes half of the time."""

    def ratio(candidate, first):
        return 1.0 if candidate is first else 0.5 if candidate.settings.memory_format == "contiguous" else 2.0

    monkeypatch.setattr(speed, "_ratio", ratio)


def flat(value, at=""):
    """Every tensor and number of nested dictionaries and lists, by its place."""
    if isinstance(value, dict):
        return {k: v for name in value for k, v in flat(value[name], f"{at}.{name}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, part in enumerate(value) for k, v in flat(part, f"{at}.{i}").items()}
    return {at: value}


def test_probing_leaves_no_trace_but_the_choice(tmp_path, tiny_faces, contiguous_wins):
    config = load_config(write_config(tmp_path, tiny_faces), ["data_loader.num_workers=0"])
    trainer = build_trainer(config, CPU, World(), {}, tell=lambda _: None).trainer
    before = flat(copy.deepcopy(training_state(trainer)))
    lines = speed.choose_speed(trainer, "auto")
    after = flat(training_state(trainer))
    assert before.keys() == after.keys()
    differ = [k for k, v in before.items() if not (torch.equal(v, after[k]) if torch.is_tensor(v) else v == after[k])]
    assert not differ
    assert trainer.lr == 0.0 and all(p.grad is None for p in trainer.model.parameters())
    chosen = trainer.config.trainer
    assert chosen.precision == "fp32" and chosen.speed.memory_format == "contiguous" and not chosen.speed.compile
    assert "0.50 of that with fp32, contiguous" in "\n".join(lines) and "minutes" in "\n".join(lines)


def test_a_measured_run_is_the_run_with_these_settings_given_and_continues_without_measuring(
    tmp_path, tiny_faces, contiguous_wins, monkeypatch, capsys
):
    def run(folder: str, *changes: str, resume: str | None = None):
        trainer = train(load_config(file, [*common, *changes]), file, [], resume, "cpu", folder)
        trainer.train()
        trainer.logger.close()
        return tmp_path / "saved" / "tiny" / folder

    file = write_config(tmp_path, tiny_faces)
    common = ["data_loader.num_workers=0", "trainer.epochs=2", "trainer.steps_per_epoch=4", "logger.console=false"]
    auto = run("auto", 'trainer.speed="auto"')
    chosen = json.loads((auto / "config.json").read_text())["trainer"]
    assert chosen["precision"] == "fp32" and chosen["speed"]["memory_format"] == "contiguous"
    given = run("given", "trainer.precision=fp32", f"trainer.speed={json.dumps(chosen['speed'])}")
    assert rows(auto) == rows(given)
    assert equal(weights(auto / "checkpoints" / "last.pth"), weights(given / "checkpoints" / "last.pth"))

    monkeypatch.setattr(speed, "Probe", None)  # measuring again would fail
    longer = load_config(file, [*common, "trainer.epochs=3", 'trainer.speed="auto"'])
    trainer = train(longer, file, [], str(auto), "cpu", None)
    assert trainer.config.trainer.speed.memory_format == "contiguous" and trainer.step == 8
    capsys.readouterr()


def test_a_candidate_with_another_loss_is_refused(tmp_path, tiny_faces, monkeypatch):
    config = load_config(write_config(tmp_path, tiny_faces), ["data_loader.num_workers=0"])
    trainer = build_trainer(config, CPU, World(), {}, tell=lambda _: None).trainer
    step = trainer.training_step

    def wrong_where_contiguous(batch):
        return step(batch) * (1.01 if trainer.normalize.memory_format == torch.contiguous_format else 1)

    monkeypatch.setattr(trainer, "training_step", wrong_where_contiguous)
    best = speed.Probe(trainer)
    assert best.fastest([Settings(torch.float32), Settings(torch.float32, "contiguous")]).memory_format != "contiguous"
    assert "the loss is another" in "\n".join(best.table())


FIRST, SECOND = Settings(torch.float32), Settings(torch.float32, "contiguous")


@pytest.fixture
def probe(tmp_path, tiny_faces):
    config = load_config(write_config(tmp_path, tiny_faces), ["data_loader.num_workers=0"])
    return speed.Probe(build_trainer(config, CPU, World(), {}, tell=lambda _: None).trainer)


@pytest.fixture
def timed_as(probe, monkeypatch):
    """`timed_as(seconds)`: trials last as seconds(settings, round) says, on a clock that only they move."""
    now = [0.0]
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(speed, "SECONDS", 60.0)
    monkeypatch.setattr(speed, "LEAST_ROUNDS", 3)

    def use_times(seconds):
        def trial(candidate):
            candidate.times.append(seconds(candidate.settings, len(candidate.times) + 1))
            now[0] += candidate.times[-1]

        monkeypatch.setattr(probe, "_trial", trial)
        return now

    return use_times


@pytest.mark.parametrize(("factor", "wins"), [(0.99, FIRST), (0.9, SECOND), (1.2, FIRST)])
def test_the_default_stays_unless_something_is_faster_by_more_than_noise(probe, timed_as, factor, wins):
    """Times as on a machine that slows down: what counts is the ratio within a round."""
    timed_as(lambda settings, number: 0.1 * number * (factor if settings == SECOND else 1.0))
    assert probe.fastest([FIRST, SECOND]) == wins


@pytest.mark.parametrize("noisy", [1, 2, 3])
def test_one_busy_round_neither_rejects_the_best_nor_chooses_the_worst(probe, timed_as, noisy):
    slow = Settings(torch.bfloat16)

    def seconds(settings, number):
        usual = {FIRST: 1.0, SECOND: 0.5, slow: 2.0}[settings]
        return usual * (30 if number == noisy and settings == SECOND else 0.01 if number == noisy else 1)

    timed_as(seconds)
    assert probe.fastest([FIRST, SECOND, slow]) == SECOND
    table = "\n".join(probe.table())
    assert "0.50 of that with fp32, contiguous (" in table
    assert "with bf16, channels_last (slower, dropped after 3 rounds)" in table


def test_long_steps_end_the_measuring_after_a_round_that_only_a_large_gain_decides(probe, timed_as):
    for factor, wins in ((0.85, FIRST), (0.7, SECOND)):
        now = timed_as(lambda settings, number, factor=factor: 40.0 * (factor if settings == SECOND else 1.0))
        before = now[0]
        assert probe.fastest([FIRST, SECOND]) == wins
        assert now[0] - before == pytest.approx(40 * (1 + factor)) and "(1 round)" in probe.table()[-1]


def test_threads_are_chosen_before_layouts_and_looked_at_again_after_them(probe, monkeypatch):
    groups = []

    def fastest(settings):
        groups.append(settings)
        return min(settings, key=lambda s: (s.memory_format != "contiguous", s.threads != 1))

    made = SimpleNamespace(fastest=fastest, seconds=lambda _: 0.0, restore=lambda _: None, table=list)
    monkeypatch.setattr(speed, "Probe", lambda _: made)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    trainer = probe.trainer
    speed.choose_speed(trainer, "fp32")
    threads, layouts, again = ([(s.memory_format, s.threads) for s in group] for group in groups)
    assert threads == [("channels_last", 2), ("channels_last", 1)]
    assert layouts == [("channels_last", 1), ("contiguous", 1)]
    assert again == [("contiguous", 1), ("contiguous", 2)]
    assert (trainer.config.trainer.speed.memory_format, trainer.config.trainer.speed.threads) == ("contiguous", 1)


@pytest.mark.parametrize("command", [[], ["--check"]])
def test_more_threads_than_any_machine_needs_are_refused(tmp_path, tiny_faces, in_process, monkeypatch, command):
    monkeypatch.setattr(speed.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: pytest.fail("not all would start") if n > 8 else None)
    file = write_config(tmp_path, tiny_faces)
    done = in_process("train.py", "-c", str(file), "-d", "cpu", "-s", "trainer.speed.threads=100000", *command)
    assert done.code == 2 and "trainer.speed.threads: expected at most 8 (4 for each core" in done.err
    assert not (tmp_path / "saved" / "tiny").exists()


def test_resuming_is_exact_in_measured_settings(tmp_path, tiny_faces):
    config = load_config(write_config(tmp_path, tiny_faces), ["data_loader.num_workers=0", 'trainer.speed="auto"'])
    same, lines = check_resume(config, "cpu")
    assert same, lines


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("trainer.speed=fast", 'trainer.speed: expected "auto", null or an object {"memory_format"'),
        ('trainer.speed={"memory_format": "nchw"}', 'expected "channels_last" or "contiguous", got "nchw"'),
        ("trainer.validate_every=0", "trainer.validate_every: expected a whole number ≥ 1, got 0"),
    ],
)
def test_mistakes(tmp_path, tiny_faces, in_process, change, said):
    done = in_process("train.py", "-c", str(write_config(tmp_path, tiny_faces)), "-s", change)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1


def test_compile_without_a_compiler_is_refused_before_a_folder_is_made(tmp_path, tiny_faces, in_process, monkeypatch):
    monkeypatch.setattr(speed.shutil, "which", lambda _: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    file = write_config(tmp_path, tiny_faces)
    done = in_process(
        "train.py", "-c", str(file), "-d", "cpu", "-s", "trainer.speed.compile=true", "-s", "trainer.speed.threads=1"
    )
    assert done.code == 2 and "trainer.speed.compile" in done.err and "no C++ compiler" in done.err
    assert not (tmp_path / "saved" / "tiny").exists()


# At no cost in results -----------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(144, 2)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def test_averaged_weights_leave_out_only_what_does_not_change():
    model = network()
    model[0].requires_grad_(False)
    model.frozen_batch_norms = ()
    ema = EMA(model, 0.5, warm_up=False)
    start = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += parameter.requires_grad
        model[1].running_mean = torch.full((8,), 3.0)  # bound anew, not written in place
    ema.update()
    for name, value in ema.model.state_dict().items():
        step = 0.5 if dict(model.named_parameters()).get(name, torch.zeros(())).requires_grad else 0.0
        expected = torch.full((8,), 3.0) if name.endswith("running_mean") else start[name] + step
        assert torch.allclose(value.float(), expected.float()), name


def test_early_stop_counts_epochs_though_validation_is_thinned():
    monitor, said = Monitor("max valid/f1", 4), []
    for epoch in range(1, 9):
        values = {2: 0.5, 4: 0.6, 6: 0.6, 8: 0.1}
        said.append(monitor.update(epoch, {"valid/f1": values[epoch]} if epoch in values else {}))
        if epoch < 8:
            assert not monitor.exhausted
    assert [epoch for epoch, best in enumerate(said, start=1) if best] == [2, 4]
    assert monitor.exhausted and monitor.bad_epochs == 4


def test_thinned_validation_leaves_blank_cells_and_validates_the_last_epoch(tmp_path, tiny_faces, capsys):
    file = write_config(tmp_path, tiny_faces)
    short = ["data_loader.num_workers=0", "trainer.epochs=5", "trainer.steps_per_epoch=2", "logger.console=false"]
    plateau = ["lr_scheduler.type=ReduceLROnPlateau", "lr_scheduler.interval=epoch"]
    trainer = train(load_config(file, [*short, *plateau, "trainer.validate_every=2"]), file, [], None, "cpu", "thin")
    trainer.train()
    trainer.logger.close()
    table = pd.read_csv(tmp_path / "saved" / "tiny" / "thin" / "metrics.csv")
    assert list(table["valid/macro_f1"].notna()) == [False, True, False, True, True]
    assert table["train/loss"].notna().all()
    best = torch.load(tmp_path / "saved" / "tiny" / "thin" / "checkpoints" / "best.pth", weights_only=True)
    assert best["epoch"] == int(table["epoch"][table["valid/macro_f1"].idxmax()])
    capsys.readouterr()


def test_a_stored_config_without_speed_is_read():
    tree = {"name": "t", "dataset": {"type": "x"}, "arch": {"type": "x"}, "optimizer": {"type": "x"}}
    assert config_from_dict({**tree, "trainer": {"type": "x", "epochs": 1}}, "old").trainer.validate_every == 1
