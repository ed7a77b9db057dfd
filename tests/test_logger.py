from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logger.console import epoch_line
from logger.environment import environment, git_state
from logger.metrics_csv import MetricsCsv
from logger.progress import Progress
from logger.run_logger import RunLogger
from utils.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]


def run_logger(run_dir: Path, **options: Any) -> RunLogger:
    defaults: dict[str, Any] = {
        "console": True,
        "tensorboard": False,
        "wandb": None,
        "name": "n",
        "config": {"seed": 1},
    }
    return RunLogger(run_dir, **{**defaults, **options})


def wandb_options(mode: str) -> dict[str, Any]:
    return {"mode": mode, "project": "p", "entity": None, "tags": ["t"]}


# metrics.csv ---------------------------------------------------------------------------------------------------------


def test_metrics_csv_exact_bytes(tmp_path: Path) -> None:
    values = {"train/loss": 0.1 + 0.2, "valid/macro_f1": np.float64(1) / 3, "count": 7, "lr": np.float32(0.1)}
    log = run_logger(tmp_path)
    log.log(epoch=1, step=10, values=values)  # type: ignore[arg-type]
    log.log(epoch=2, step=20, values={"train/loss": math.nan, "lr": 5e-324, "count": np.int64(8)})  # type: ignore[dict-item]
    assert (tmp_path / "metrics.csv").read_bytes() == (
        b"epoch,step,train/loss,valid/macro_f1,count,lr\n"
        b"1,10,0.30000000000000004,0.3333333333333333,7,0.10000000149011612\n"
        b"2,20,nan,,8,5e-324\n"
    )
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_floats_come_back_bit_identical(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    floats = [float(x) for x in rng.standard_normal(200) * 10.0 ** rng.integers(-300, 300, 200)]
    metrics = MetricsCsv(tmp_path / "metrics.csv")
    for epoch, value in enumerate(floats, start=1):
        metrics.append(epoch, epoch, {"x": value})
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[2]) for row in rows] == floats


def test_new_column_later_and_quoted_names(tmp_path: Path) -> None:
    log = run_logger(tmp_path)
    log.log(epoch=1, step=1, values={"b": 1.0})
    log.log(epoch=2, step=2, values={'recall/"a", b': 0.5, "b": 2.0})
    log.log(epoch=3, step=3, values={"b": 3.0})
    assert (tmp_path / "metrics.csv").read_text() == (
        'epoch,step,b,"recall/""a"", b"\n1,1,1.0,\n2,2,2.0,0.5\n3,3,3.0,\n'
    )
    assert os.listdir(tmp_path) == ["metrics.csv"]


def write_epochs(log: RunLogger, first: int, last: int) -> None:
    for epoch in range(first, last + 1):
        extra = {"valid/f1": 0.5, "train/rate": 1 / epoch} if epoch >= 4 else {}
        log.log(epoch=epoch, step=10 * epoch, values={"train/loss": math.exp(-epoch), **extra, "lr": 1e-3})


@pytest.mark.parametrize("kept", [0, 2, 3, 4, 6])
@pytest.mark.parametrize("tail", ["", "7,70,0.0009", '7,"70\n'])
def test_resume_gives_the_bytes_of_an_undisturbed_run(tmp_path: Path, kept: int, tail: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_epochs(run_logger(tmp_path / name), 1, 6)
    undisturbed = (tmp_path / "a" / "metrics.csv").read_bytes()
    assert undisturbed.startswith(b"epoch,step,train/loss,train/rate,valid/f1,lr\n"), "also for what comes later"
    with (tmp_path / "b" / "metrics.csv").open("a") as file:
        file.write(tail)

    log = run_logger(tmp_path / "b", resume={"epoch": kept, "step": 10 * kept, "wandb_id": None})
    write_epochs(run_logger(tmp_path / "a"), 1, kept)
    short = tmp_path / "a" / "metrics.csv"
    assert not kept or (tmp_path / "b" / "metrics.csv").read_bytes() == short.read_bytes()
    write_epochs(log, kept + 1, 6)
    assert (tmp_path / "b" / "metrics.csv").read_bytes() == undisturbed
    assert not (tmp_path / "b" / "train.log").exists(), "no warning was due"


def test_resume_tells_what_is_wrong_with_the_old_file(tmp_path: Path) -> None:
    write_epochs(run_logger(tmp_path), 1, 2)
    run_logger(tmp_path, resume={"epoch": 5, "step": 50, "wandb_id": None})
    assert "warning: metrics.csv has no row for epoch 5" in (tmp_path / "train.log").read_text()
    (tmp_path / "metrics.csv").write_text("epoch;step;x\n1;1;1\n")
    with pytest.raises(UserError, match=r"metrics.csv: the first line must begin with epoch,step but is 'epoch;step"):
        run_logger(tmp_path, resume={"epoch": 1, "step": 10, "wandb_id": None})


# console -------------------------------------------------------------------------------------------------------------


def test_console_and_train_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.log").write_text("earlier\n")
    log = run_logger(tmp_path)
    log.info("two\nlines")
    log.warn("careful")
    assert capsys.readouterr() == ("two\nlines\nwarning: careful\n", "")
    run_logger(tmp_path, console=False).info("only in the file")
    assert capsys.readouterr() == ("", "")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines[0] == "earlier"
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in lines[1:]] == [
        "two",
        "lines",
        "warning: careful",
        "only in the file",
    ]
    assert all(re.match(r"\d{4}-", line) for line in lines[1:])


def test_a_closed_stdout_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w") as closed:
        pass
    monkeypatch.setattr(sys, "stdout", closed)
    log = run_logger(tmp_path)
    log.info("one")
    log.info("two")
    text = (tmp_path / "train.log").read_text()
    assert "one" in text and "two" in text and text.count("stdout cannot be written") == 1


def test_epoch_line() -> None:
    values = {"train/loss": 0.43119, "train/hair/pass_rate": 0.5, "valid/loss": 0.39214, "valid/macro_f1": 0.81234}
    one_head = {**values, "valid/hair/macro_f1": 0.81234, "lr": 9.8e-4, "seconds": 12.34}
    assert epoch_line(3, 20, 768, one_head, best=True, more="pass rate 0.5\nKL 0.1") == (
        "epoch  3/20  step 768  train loss 0.4312  valid loss 0.3921  macro_f1 0.8123  lr 9.8e-04  12.3 s  *best*\n"
        "    pass rate 0.5\n    KL 0.1"
    )
    two_heads = {"valid/macro_f1": 0.75, "valid/age/macro_f1": 0.5, "valid/mask/macro_f1": 1.0, "train/rows": 12}
    assert epoch_line(20, 20, 9, two_heads) == (
        "epoch 20/20  step 9  macro_f1 0.7500  age macro_f1 0.5000  mask macro_f1 1.0000"
    )


# sinks that fail -----------------------------------------------------------------------------------------------------


class Broken(types.ModuleType):
    """A library of which nothing works."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(f"wandb.{name} is broken\nand more")


class FakeRun:
    url = "https://example.org/run"

    def __init__(self, fail: tuple[str, ...] = ()):
        self.calls: list[tuple[str, Any]] = []
        self.fail = fail
        self.summary = self

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> None:
            self.calls.append((name, args or kwargs))
            if name in self.fail:
                raise OSError(f"{name}: no space left on device")

        return call

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append(("define_metric", (args, kwargs)))


def fake_wandb(run: FakeRun, credentials: bool = True) -> types.ModuleType:
    module = types.ModuleType("wandb")
    module.init_calls = []  # type: ignore[attr-defined]

    def init(**arguments: Any) -> FakeRun:
        module.init_calls.append(arguments)  # type: ignore[attr-defined]
        return run

    vars(module).update(
        init=init,
        login=lambda **_: credentials,
        setup=lambda **_: None,
        teardown=lambda **_: None,
        Settings=dict,
        Image=lambda image: ("image", image.shape),
    )
    return module


def use_everything(log: RunLogger) -> None:
    log.panels(lambda: {"group": {"chart": ["train/loss"]}})
    log.log(epoch=1, step=10, values={"train/loss": 0.5})
    log.image("views", 10, lambda: np.zeros((4, 4, 3), np.uint8))
    log.summary({"best": 0.5})
    log.close()


@pytest.mark.parametrize("fail", [("log",), ("update",), ("finish",), ("log", "finish")])
def test_wandb_that_fails_later_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(FakeRun(fail)))
    use_everything(run_logger(tmp_path, wandb=wandb_options("offline")))
    assert (tmp_path / "train.log").read_text().count("warning") == 1
    assert (
        f"wandb is switched off for this run, the run goes on: OSError: {fail[0]}"
        in (tmp_path / "train.log").read_text()
    )
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,train/loss\n1,10,0.5\n"


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_libraries_that_are_broken_or_missing_do_not_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Broken("wandb"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    resume = {"epoch": 0, "step": 0, "wandb_id": "kept"}
    log = run_logger(tmp_path, tensorboard=True, wandb=wandb_options(mode), resume=resume)
    use_everything(log)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and out[0].startswith("warning: TensorBoard is switched off") and "wandb." in out[1]
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,train/loss\n1,10,0.5\n"
    assert log.state_dict() == {"wandb_id": "kept"}


# wandb ---------------------------------------------------------------------------------------------------------------


def test_wandb_gets_an_explicit_step_and_resumes_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    module = fake_wandb(run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    log = run_logger(
        tmp_path, wandb=wandb_options("online"), resume={"epoch": 0, "step": 7, "wandb_id": "abc"}, name="hair"
    )
    use_everything(log)
    (arguments,) = module.init_calls
    assert {key: arguments[key] for key in ("mode", "id", "resume", "name", "tags", "dir")} == {
        "mode": "online",
        "id": "abc",
        "resume": "allow",
        "name": "hair",
        "tags": ["t"],
        "dir": str(tmp_path),
    }
    assert 0 < arguments["settings"]["init_timeout"] <= 30 and arguments["settings"]["silent"]
    assert run.calls == [
        ("define_metric", (("*",), {"step_metric": "step"})),
        ("log", ({"step": 10, "epoch": 1.0, "train/loss": 0.5},)),
        ("log", ({"step": 10, "views": ("image", (4, 4, 3))},)),
        ("update", ({"best": 0.5},)),
        ("finish", {}),
    ]
    assert log.state_dict() == {"wandb_id": "abc"}


def test_wandb_without_credentials_goes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_wandb(FakeRun(), credentials=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    run_logger(tmp_path, wandb=wandb_options("online"))
    assert [(call["mode"], "resume" in call) for call in module.init_calls] == [("offline", False)]
    text = (tmp_path / "train.log").read_text()
    assert text.count("warning") == 1 and "continuing offline (no API key; run `wandb login`)" in text


OFFLINE_TWICE = """
import random, sys, numpy as np
from pathlib import Path
from logger.run_logger import RunLogger
import logger.wandb
logger.wandb.INIT_SECONDS = 1
states = random.getstate(), np.random.get_state()[1].tobytes()
mode, run_dir, resume = sys.argv[1], Path(sys.argv[2]), None
for part in range(2):
    log = RunLogger(run_dir, console=False, tensorboard=False, name="n", config={"a": {"b": 1}}, resume=resume,
                    wandb={"mode": mode, "project": "p", "entity": None, "tags": []})
    log.log(epoch=1 + part, step=10 + part, values={"valid/macro_f1": 0.25})
    log.image("views", 10, lambda: np.zeros((4, 4, 3), np.uint8))
    log.warn("the pseudo-labels go wrong", 10)
    log.summary({"best": 0.5})
    log.close()
    resume = {"epoch": 1, "step": 10, **log.state_dict()}
    mode = "offline"
assert states == (random.getstate(), np.random.get_state()[1].tobytes()), "wandb drew from the run's random state"
print(resume["wandb_id"])
"""


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_real_wandb_offline_run_and_no_network(tmp_path: Path, mode: str) -> None:
    """The second part resumes; online, against a port that nobody serves, must end up offline with the same id."""
    pytest.importorskip("wandb")
    unreachable = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40, "HOME": str(tmp_path)}
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE_TWICE, mode, str(tmp_path)],
        env={**os.environ, **unreachable, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "" and time.monotonic() - started < 40
    run_id = result.stdout.strip()
    folders = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))
    assert len(folders) in (1, 2)  # two segments that begin in the same second share a folder name
    recorded = b"".join(file.read_bytes() for folder in folders for file in folder.glob(f"run-{run_id}.wandb"))
    assert recorded.count(b"the pseudo-labels go wrong") >= 1
    assert b"valid/macro_f1" in recorded and b"0.25" in recorded and b"step" in recorded
    lines = (tmp_path / "train.log").read_text().splitlines()
    warnings = [line[21:] for line in lines if "warning" in line and "go wrong" not in line]
    assert len(warnings) == (2 if mode == "online" else 1)
    assert warnings[-1] == f"warning: wandb cannot resume a run offline; a new offline segment of run {run_id} begins"
    assert mode == "offline" or warnings[0].startswith("warning: wandb cannot go online, continuing offline (")


def test_disabled_wandb_and_tensorboard_are_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from logger.run_logger import RunLogger\n"
        "log = RunLogger(Path(sys.argv[1]), console=True, tensorboard=False, wandb={'mode': 'disabled'}, name='', "
        "config={})\nlog.log(epoch=1, step=1, values={'a': 1.0})\n"
        "assert log.state_dict() == {'wandb_id': None}\n"
        "print([name for name in ('wandb', 'torch', 'tensorboard', 'tensorflow') if name in sys.modules])"
    )
    environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environ, capture_output=True, text=True)
    assert (out.stdout, out.stderr) == ("[]\n", "")


# TensorBoard ---------------------------------------------------------------------------------------------------------


def read_events(run_dir: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_is_read_back_and_purged_on_resume(tmp_path: Path) -> None:
    log = run_logger(tmp_path, tensorboard=True)
    for epoch in (1, 2, 3):
        log.log(epoch=epoch, step=10 * epoch, values={"valid/loss": 1 / epoch})
    log.close()
    log = run_logger(tmp_path, tensorboard=True, resume={"epoch": 2, "step": 20, "wandb_id": None})
    log.log(epoch=3, step=30, values={"valid/loss": 0.5})
    log.image("views", 30, lambda: np.full((4, 6, 3), 128, np.uint8))
    log.panels(lambda: {"hair": {"shares": ["valid/loss", "a.b"]}})
    log.warn("careful", 30)
    log.summary({"best": 0.5})
    log.close()

    events = read_events(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("valid/loss")] == [(10, 1), (20, 0.5), (30, 0.5)]
    (image,) = events.Images("views")
    assert (image.step, image.height, image.width) == (30, 4, 6)
    (text,) = events.Tensors("summary/text_summary")
    assert b"| best | 0.5 |" in text.tensor_proto.string_val[0]
    (warning,) = events.Tensors("warnings/text_summary")
    assert warning.step == 30 and warning.tensor_proto.string_val == [b"careful"]
    (layout,) = events.Tensors("custom_scalars__config__")
    assert rb"^valid/loss$" in layout.tensor_proto.string_val[0] and rb"^a\.b$" in layout.tensor_proto.string_val[0]
    assert "warning: careful" in (tmp_path / "train.log").read_text()


def test_a_picture_is_drawn_only_where_it_is_shown(tmp_path: Path) -> None:
    run_logger(tmp_path).image("views", 1, lambda: pytest.fail("nobody shows it"))


def test_a_full_disk_under_tensorboard_costs_one_warning_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(self: RecordWriter, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    log = run_logger(tmp_path, tensorboard=True)
    monkeypatch.setattr(RecordWriter, "write", full)  # runs in TensorBoard's own thread
    write_epochs(log, 1, 6)
    log.close()
    out, err = capfd.readouterr()
    assert out == (
        "warning: TensorBoard is switched off for this run, the run goes on: OSError: "
        "[Errno 28] No space left on device\n"
    )
    assert err == ""
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 7


# progress ------------------------------------------------------------------------------------------------------------


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    asked = []

    def loss() -> float:
        asked.append(now[0])
        return 0.5

    monkeypatch.setattr("logger.progress.perf_counter", lambda: now[0])
    with Progress(100, 10, "epoch 3/20", images_per_step=32) as progress:
        for _ in range(90):
            now[0] += 0.5
            progress.update(loss)
    out, err = capsys.readouterr()
    assert out == "" and "\r" not in err
    assert err == "epoch 3/20  70 %  70/100  loss 0.5000  64 images/s  00:15 left\n"
    assert asked == [30.0]


def test_progress_is_silent_in_short_epochs_and_when_switched_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress(1000, 0, "epoch 1/1", 32) as progress:
        for _ in range(1000):
            progress.update(lambda: math.nan)
    now = [0.0]
    monkeypatch.setattr("logger.progress.perf_counter", lambda: now[0])
    with Progress(10, 0, "epoch 1/1", 32, enabled=False) as progress:
        for _ in range(10):
            now[0] += 100
            progress.update(lambda: pytest.fail("the loss was asked for"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_on_a_terminal(tmp_path: Path) -> None:
    import pty

    code = (
        "import time; from pathlib import Path\n"
        "from logger.console import Console; from logger.progress import Progress\n"
        "asked = []\n"
        "console = Console(Path('train.log'), shown=True)\n"
        "with Progress(140, 20, 'epoch 3/20', 32) as progress:\n"
        "    for i in range(120):\n"
        "        time.sleep(0.01); progress.update(lambda: asked.append(i) or 0.4312)\n"
        "        if i == 80: console.info('in the middle')\n"
        "print('asked', len(asked))"
    )
    ours, theirs = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environ, cwd=tmp_path)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0
    text = shown.decode()
    assert re.search(r"epoch 3/20 +\d+%\|.*\| \d+/140  loss 0.4312  \d+ images/s  00:0\d left", text)
    assert re.search(r"\r +\rin the middle\r\n", text), "the bar is lifted before a line is written"
    assert re.search(r"asked [12]\r\n$", text)


def test_progress_update_costs_microseconds() -> None:
    with Progress(20_000, 0, "e", 32) as progress:
        best = math.inf
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(4000):
                progress.update(None)
            best = min(best, (time.perf_counter() - started) / 4000)
    assert best < 5e-6


# environment ---------------------------------------------------------------------------------------------------------


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(sys, "argv", ["train.py", "-c", "configs/x.json"])
    random_state = random.getstate()
    found = json.loads(json.dumps(environment("cpu", seed=3)))
    assert random_state == random.getstate()
    assert found["seed"] == 3 and found["device"] == "cpu" and found["device_name"]
    assert found["command"] == ["train.py", "-c", "configs/x.json"]
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["packages"]["numpy"] == np.__version__ and found["packages"]["opencv"]
    assert found["torch_threads"] == torch.get_num_threads()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", found["started"])


def test_git_state(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert git_state(tmp_path) is None
    git("init")
    (tmp_path / "a.py").write_text("1")
    assert git_state(tmp_path) is None, "no commit yet"
    git("add", "a.py")
    git("commit", "-m", "first")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a.py").write_text("2")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    (tmp_path / "copied_here").mkdir()
    (tmp_path / "copied_here" / "b.py").write_text("not under git")
    assert git_state(tmp_path / "copied_here") is None
