"""`trainer.speed: auto`: the trainer's own step, timed in every way of computing it; the fastest is chosen.

Candidates take turns, so that a machine that is busy now and then is so for all of them, and each is compared with the
first of its group in the same round. What is within the noise of the first does not replace it.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

import torch

from base.base_dataset import Batch, to_device
from base.base_trainer import BaseTrainer
from base.speed import Settings, use
from base.training_state import restore, training_state
from utils.config import Config, apply_overrides
from utils.config.schema import Speed
from utils.distributed import any_process, from_main
from utils.errors import ConfigError, UserError
from utils.random_state import seed_step

SECONDS = 60.0  # for each group of candidates, though never less than a round
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
TIMED_SECONDS = 0.1  # of steps in a round: short steps are timed in several
LONG_STEP = 2.0  # seconds; such a step is timed at once, shorter ones after one that is not
SAME = 0.98  # of the first candidate's time is no gain
SAME_IN_FEW = 0.8  # nor is this in fewer than LEAST_ROUNDS, which one busy moment may decide
HOPELESS = 1.3  # times the fastest after LEAST_ROUNDS: not timed again
MOST_THREADS = 4  # times the machine's cores
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05}
COMPILE_SECONDS, WORTH_COMPILING = 180.0, 900.0


@dataclass
class Candidate:
    """times: seconds a step, one of each round. losses: of the first steps. refused: why it is out. slower: it was
    timed in fewer rounds, for being hopeless."""

    settings: Settings
    times: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    refused: str = ""
    slower: bool = False


def choose_speed(trainer: BaseTrainer, precision: str) -> list[str]:
    """Measure, leave the trainer in the fastest settings and otherwise as it was, and write them into its config.

    precision: `trainer.precision`; anything but "auto" is kept. Returns the table. All processes take part; the main
    one decides.
    """
    probe = Probe(trainer)
    start = Settings.of(trainer.config.trainer, trainer.parts.dtype)
    formats, refused = _precisions(trainer.device, precision)
    dtypes = sorted(formats, key=lambda dtype: dtype != start.dtype)
    # Threads first: on a busy machine too many of them wait for one another, which says nothing about a layout.
    counts = _thread_counts(trainer.device)
    at_first = probe.fastest([replace(start, threads=n) for n in counts])
    layouts = [replace(at_first, dtype=d, memory_format=m) for d in dtypes for m in ("channels_last", "contiguous")]
    best = probe.fastest(layouts)
    if best != at_first and len(counts) > 1:
        best = probe.fastest([best, *(replace(best, threads=n) for n in counts if n != best.threads)])
    reason = _no_compiler(trainer, probe.seconds(best))
    if reason:
        refused.append(f"compiled: {reason}")
    else:
        best = probe.fastest([best, replace(best, compile=True)])
    probe.restore(best)
    chosen = _with(trainer.config, precision=best.precision, speed=json.dumps(best.for_config()))
    trainer.config = trainer.parts.config = chosen
    return [*probe.table(), *(f"  not tried: {line}" for line in refused), f"speed: auto chose {best}"]


class Probe:
    """Trial steps on one real batch; the trainer's state is put back before every trial."""

    def __init__(self, trainer: BaseTrainer):
        self.trainer = trainer
        self.batch: Batch = to_device(trainer.data.first_batch(), trainer.device)
        self.state = copy.deepcopy(training_state(trainer))
        self.lr = trainer.lr
        self.groups: list[list[Candidate]] = []

    def fastest(self, settings: list[Settings]) -> Settings:
        """The first, or another that is faster by more than noise."""
        group = first, *others = [Candidate(s) for s in settings]
        self.groups.append(group)
        started = time.perf_counter()
        for number in range(1, MOST_ROUNDS + 1):
            running = [c for c in others if not c.refused and not c.slower]
            if number > 1 and not running:
                break
            for candidate in (first, *running):
                self._trial(candidate)
                self._check(candidate, first)
            least = min(_ratio(c, first) for c in group if not c.refused)
            for candidate in running if number >= LEAST_ROUNDS else ():
                candidate.slower = _ratio(candidate, first) > HOPELESS * least
            if from_main(time.perf_counter() - started > SECONDS):
                break
        best = min((c for c in group if not c.refused), key=lambda c: _ratio(c, first))
        gain = SAME if len(best.times) >= LEAST_ROUNDS else SAME_IN_FEW
        return best.settings if _ratio(best, first) < gain else settings[0]

    def seconds(self, settings: Settings) -> float:
        """Median time of a step."""
        found = [c for group in self.groups for c in group if c.settings == settings and c.times]
        return statistics.median(found[-1].times)

    def restore(self, settings: Settings) -> None:
        """The state as it was, with `settings`."""
        trainer = self.trainer
        trainer.parts.optimizer.zero_grad(set_to_none=True)
        restore(trainer, copy.deepcopy(self.state))
        trainer.lr = self.lr
        use(trainer, settings)

    def table(self) -> list[str]:
        """Lines: each candidate's time as a multiple of the first of its group."""
        lines = []
        for first, *others in self.groups:
            if others:
                lines.append(
                    f"speed: {statistics.median(first.times):.3g} s a step with {first.settings} ({_rounds(first)})"
                )
            for other in others:
                why = other.refused or ("slower, dropped after " if other.slower else "") + _rounds(other)
                ratio = f"{_ratio(other, first):.2f} of that" if other.times else "not"
                lines.append(f"  {ratio} with {other.settings} ({why})")
        return lines

    def _trial(self, candidate: Candidate) -> None:
        """A step that is not timed, then steps for about TIMED_SECONDS; a long step is timed itself."""
        trainer = self.trainer
        try:
            self.restore(candidate.settings)
            trainer.step = getattr(trainer, "warm_up_steps", 0)
            trainer.network.train()
            with _within(COMPILE_SECONDS if candidate.settings.compile and not candidate.times else None):
                first = [self._step()]
                if candidate.settings.compile or from_main(first[0][0] < LONG_STEP):
                    first.append(self._step())
            candidate.losses = candidate.losses or [loss for _, loss in first]
            steps = from_main(max(1, min(20, math.ceil(TIMED_SECONDS / first[-1][0]))))
            times = [first[-1][0]] if steps == 1 else [self._step()[0] for _ in range(steps)]
            candidate.times.append(from_main(statistics.median(times)))
        except UserError as error:  # the loss is not a number
            if trainer.world.size > 1 or candidate is self.groups[-1][0]:
                raise
            candidate.refused = str(error).partition(";")[0]
        except _TooSlow:
            candidate.refused = f"compiling took more than {COMPILE_SECONDS:.0f} s"
        except Exception as error:
            if not candidate.settings.compile:
                raise
            candidate.refused = f"compiling failed: {str(error).strip().partition(chr(10))[0]}"

    def _step(self) -> tuple[float, float]:
        trainer = self.trainer
        seed_step(trainer.config.seed, trainer.step, trainer.world.rank)
        started = time.perf_counter()
        batches = (self.batch,) * trainer.config.trainer.accumulate
        loss = float(trainer.train_on(*batches))  # waits for the device
        return time.perf_counter() - started, loss

    def _check(self, candidate: Candidate, first: Candidate) -> None:
        """The losses of the first steps must be the first candidate's up to rounding."""
        tolerance = max(TOLERANCE[candidate.settings.dtype], TOLERANCE[first.settings.dtype])
        pairs = list(zip(candidate.losses, first.losses))
        far = any(abs(a - b) > tolerance * max(abs(b), 0.1) for a, b in pairs)
        if candidate is not first and any_process(far, self.trainer.device) and not candidate.refused:
            losses = ", ".join(f"{a:.4g} instead of {b:.4g}" for a, b in pairs)
            candidate.refused = f"the loss is another: {losses}"


def _ratio(candidate: Candidate, first: Candidate) -> float:
    """Median over the rounds of its time to the first candidate's."""
    return statistics.median(a / b for a, b in zip(candidate.times, first.times)) if candidate.times else math.inf


def _rounds(candidate: Candidate) -> str:
    return f"{len(candidate.times)} round{'s' if len(candidate.times) != 1 else ''}"


def _thread_counts(device: torch.device) -> list[int | None]:
    """torch's own number and the powers of two below it; nothing to choose where the CPU does not compute."""
    if device.type != "cpu":
        return [None]
    most = torch.get_num_threads()
    return [most, *(2**n for n in range(most.bit_length()) if 2**n < most)]


def check_speed(config: Config, device: torch.device, is_new: bool) -> None:
    """Raises ConfigError where torch.compile cannot work and, for a new run, for more threads than help anywhere: the
    system refuses them, or comes to a halt."""
    speed, most = config.trainer.speed, MOST_THREADS * (os.cpu_count() or 1)
    if not isinstance(speed, Speed):
        return
    if is_new and speed.threads is not None and speed.threads > most:
        raise ConfigError(
            f"{config.where('trainer.speed.threads')}: expected at most {most} ({MOST_THREADS} for each core of this "
            f"machine), got {speed.threads}"
        )
    if speed.compile and (problem := compiler_problem(device)):
        raise ConfigError(f"{config.where('trainer.speed.compile')}: torch.compile cannot work here: {problem}")


def _precisions(device: torch.device, precision: str) -> tuple[list[torch.dtype], list[str]]:
    """What `trainer.precision` allows and the device computes natively, and why others are out."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        return [named[precision]], []
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return [torch.float32, *([torch.bfloat16] if bf16 else []), torch.float16], []
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return [torch.float32, torch.bfloat16], []
    return [torch.float32], ["bf16: this device does not compute in it"]


def _no_compiler(trainer: BaseTrainer, step_seconds: float) -> str:
    """Why torch.compile is not tried; nothing if it is."""
    left = step_seconds * trainer.epochs * trainer.steps_per_epoch
    if trainer.world.size > 1:
        return "measured in one process only"
    if from_main(left < WORTH_COMPILING):
        return f"the whole run takes about {left / 60:.0f} min, compiling takes minutes"
    return compiler_problem(trainer.device)


def compiler_problem(device: torch.device) -> str:
    """What torch.compile lacks on this machine; nothing if it can work."""
    if device.type == "cuda":
        return "" if find_spec("triton") else "triton is not installed"
    found = any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "cl") if name)
    return "" if found else "there is no C++ compiler"


def record_precision(trainer: BaseTrainer) -> None:
    """A precision of "auto" becomes what it means on this device, so that a run continues in it on any other."""
    if trainer.config.trainer.precision == "auto":
        precision = Settings(trainer.parts.dtype).precision
        trainer.config = trainer.parts.config = _with(trainer.config, precision=precision)


def adopt(config: Config, of_run: Config) -> Config:
    """`config` with what is "auto" answered by what the run chose when it began."""
    chosen, measured = of_run.trainer, of_run.trainer.speed
    if config.trainer.speed == "auto" and measured is not None and not isinstance(measured, str):
        config = _with(config, speed=json.dumps(measured.model_dump()))
    if config.trainer.precision == "auto" and chosen.precision != "auto":
        config = _with(config, precision=chosen.precision)
    return config


def _with(config: Config, **trainer: str) -> Config:
    return apply_overrides(config, [f"trainer.{key}={value}" for key, value in trainer.items()], catalogue=None)


class _TooSlow(BaseException):
    """Not an Exception, which the compiler would take for its own."""


@contextmanager
def _within(seconds: float | None) -> Iterator[None]:
    """Raises _TooSlow after so many seconds, where the system can."""
    if seconds is None or not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
