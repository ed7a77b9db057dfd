"""How long a run waits for its data, and how many workers it starts for that."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import pytest

import base.waiting
from base.waiting import Waiting
from tests.test_training import write_config
from trainer.workers import workers_for


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def loader(cache: str = "disk", num_workers: int = 0) -> SimpleNamespace:
    return SimpleNamespace(data_loader=SimpleNamespace(cache=cache, num_workers=num_workers))


def test_the_share_counts_batches_that_were_waited_for_and_neither_start_nor_evaluation(monkeypatch):
    clock, waiting = Clock(), Waiting()
    monkeypatch.setattr(base.waiting, "perf_counter", clock)
    monkeypatch.setattr(base.waiting.os, "cpu_count", lambda: 8)

    def batches():
        for seconds in (50.0, 1.0, 1.0, 3.0, 0.0):  # the first with the start of the workers
            clock.now += seconds
            yield {}

    steps = waiting.timed(batches())
    for _ in range(3):
        next(steps)
        clock.now += 4.0
    assert waiting.share() == pytest.approx(2 / 14) and waiting.notes(loader()) == []
    clock.now += 1000.0  # validation
    for _ in range(2):
        next(steps)
        clock.now += 4.0
    assert waiting.share() == pytest.approx(3 / 11)
    [said] = waiting.notes(loader("off", 1))
    assert said.startswith("warning: 27 % of")
    assert "data_loader.cache=disk" in said and "num_workers above 1" in said
    assert waiting.notes(loader("off", 1)) == [], "said twice"
    assert next(steps, None) is None and waiting.share() == 0


@pytest.mark.parametrize(
    ("make", "step", "cores", "on_cpu", "workers"),
    [
        (0.03, 1.0, 2, True, 1),
        (0.004, 1.0, 8, True, 0),
        (3.0, 1.0, 1, True, 0),
        (3.0, 1.0, 2, True, 1),
        (2.5, 1.0, 8, True, 3),
        (2.5, 1.0, 2, False, 1),
        (0.5, 0.05, 12, False, 8),
        (0.5, 0.05, 6, False, 5),
        (3.0, 1.0, 1, False, 1),
    ],
)
def test_as_many_workers_as_the_views_cost_beside_the_network(make, step, cores, on_cpu, workers):
    assert workers_for(make, step, cores, on_cpu) == workers


def test_auto_is_said_and_recorded_and_the_wait_is_logged(tmp_path, tiny_faces, run):
    small = {"epochs": 1, "steps_per_epoch": 4}
    config = write_config(tmp_path, tiny_faces, data_loader={"num_workers": "auto"}, trainer=small)
    done = run("train.py", "-c", config, "--run-id", "x")
    assert done.code == 0, done.err
    [said] = [line for line in done.out.splitlines() if line.startswith("num_workers: auto chose ")]
    run_dir = tmp_path / "saved" / "tiny" / "x"
    resolved = json.loads((run_dir / "config.json").read_text())
    assert resolved["data_loader"]["num_workers"] == int(said.split()[3])
    with (run_dir / "metrics.csv").open() as file:
        [row] = csv.DictReader(file)
    assert 0 <= float(row["train/data_wait"]) < 1
    more = run("train.py", "-r", "auto", "-c", config, "-s", "trainer.epochs=2")
    assert more.code == 0 and "num_workers: auto chose" in more.out, more.err
