"""BaseTrainer: the loop that every trainer shares. A subclass writes `training_step`."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from base.base_dataset import Batch, to_device
from base.checkpointing import RunFiles
from base.finite import AGAINST_OVERFLOW, FiniteCheck, check_finite
from base.monitor import Monitor
from base.parts import Parts
from base.scoring import Normalize, Scoring
from base.speed import Settings, use
from base.training_state import restore, training_state
from base.waiting import DATA_WAIT, Waiting
from logger.console import epoch_line
from logger.progress import Progress
from logger.run_logger import RunLogger
from utils.distributed import any_process, same_buffers
from utils.ema import EMA
from utils.errors import ConfigError, UserError, did_you_mean
from utils.random_state import seed_step
from utils.stop_signal import Stopped, StopSignal
from utils.sums import Sums


class BaseTrainer(ABC):
    """Trains `parts.model` for `trainer.epochs` epochs of `steps_per_epoch` optimizer steps.

    A step is a pure function of the state and its number, so a run may stop after any step and continue bit for bit.
    Subclasses: `training_step` gives the loss of a batch; `epoch_values` what to log about an epoch;
    `streams` the samples they train on: {stream: {image: key of the config's views}}. Keyword arguments of __init__ are
    the config's trainer.args.
    """

    streams: ClassVar[Mapping[str, Mapping[str, str]]] = {"labeled": {"image": "train"}}
    trains_heads: ClassVar[tuple[str, ...]] = ("plain",)

    def __init__(self, parts: Parts):
        self.parts = parts
        self.config, self.model, self.data = parts.config, parts.model, parts.data
        if self.model.head_kind not in self.trains_heads:
            raise ConfigError(
                f"{self.config.where('arch.args.head')}: {type(self).__name__} does not train a model with the head "
                f"'{self.model.head_kind}'; set it to {' or '.join(self.trains_heads)}"
            )
        self.device, self.world = parts.device, parts.world
        self.classes = dict(parts.data.classes)
        self.epochs, self.steps_per_epoch = self.config.trainer.epochs, parts.steps_per_epoch
        self.step = 0
        self.seconds = self.lr = 0.0
        self.sums, self.waiting = Sums(self.device), Waiting()
        self.first_batch: dict[str, int] = {}
        self.normalize = Normalize(*parts.normalization, self.device)
        self.scoring = Scoring(parts, self.normalize)
        self.monitor = Monitor(self.config.trainer.monitor, self.config.trainer.early_stop)
        self._check_monitor()
        self.ema = EMA(self.model, self.config.trainer.ema) if self.config.trainer.ema else None
        self.scaler: torch.amp.GradScaler
        self.network: nn.Module
        self.leaves_out_rows: bool
        use(self, Settings.of(self.config.trainer, parts.dtype))

    def start_in(self, run_dir: Path, logger: RunLogger) -> None:
        """The main process's folder and log; without them a trainer computes but writes nothing."""
        self.files, self.logger = RunFiles(run_dir, self.config), logger

    # What a subclass writes ------------------------------------------------------------------------------------------

    @abstractmethod
    def training_step(self, batch: Batch) -> Tensor:
        """The scalar loss of a batch; what is to be logged is added to `self.sums`."""

    def start_step(self, batches: Sequence[Batch]) -> None:
        """Before an optimizer step on several batches, of which `training_step` gets one after the other."""
        return None

    def epoch_values(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Values of the epoch's log row from the sums of its steps; the same names at every epoch."""
        values = {f"train/{k[5:]}": float(v / sums["steps"]) for k, v in sums.items() if k.startswith("mean/")}
        confusions = {k.split("/")[1]: v for k, v in sums.items() if k.startswith("confusion/")}
        return {**values, **self.scoring.metrics("train", confusions)}

    def value_names(self) -> set[str]:
        """What `trainer.monitor` may name."""
        return self.scoring.names()

    def epoch_notes(self, sums: dict[str, Tensor]) -> list[str]:
        """Lines for people under the epoch's line."""
        return []

    def epoch_warnings(self, values: dict[str, float]) -> list[str]:
        """What goes wrong, a line each; once an epoch, with its log row, to which it may add."""
        return []

    def about_best(self, epoch: int) -> str:
        """What must be known of the best epoch, after its number."""
        return ""

    def trainer_state(self) -> nn.Module | None:
        """A module whose buffers are this trainer's running statistics, kept in the checkpoint."""
        return None

    # The loop --------------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch

    def train(self) -> None:
        """Run to the last epoch or early stop. Raises Stopped after SIGTERM/SIGINT, UserError on a non-finite loss."""
        accumulate = self.config.trainer.accumulate
        with StopSignal() as stop:
            self._stop = stop
            last = self.epochs * self.steps_per_epoch
            batches = self.data.train_batches(self.step * accumulate, last * accumulate, self.first_batch)
            batches = self.waiting.timed(batches)
            while self.step < last and not self.monitor.exhausted:
                self._train_epoch(batches, accumulate)
                self._finish_epoch()
                if self._must_stop() and self.step < last and not self.monitor.exhausted:
                    self._save_and_stop()
        self._finish_run()

    def _train_epoch(self, batches: Iterator[Batch], accumulate: int) -> None:
        self.network.train()
        started, before = time.perf_counter(), self.seconds
        done = self.step % self.steps_per_epoch
        shown = self.world.is_main and self.config.logger.console
        name, images = f"epoch {self.epoch + 1}/{self.epochs}", self.data.images_per_batch * accumulate
        with Progress(self.steps_per_epoch, done, name, images, shown) as progress:
            for _ in range(self.steps_per_epoch - done):
                seed_step(self.config.seed, self.step, self.world.rank)
                loss = self.train_on(*(to_device(next(batches), self.device) for _ in range(accumulate)))
                self.seconds = before + time.perf_counter() - started
                progress.update(loss.item)
                if self._must_stop() and self.step % self.steps_per_epoch:
                    self._save_and_stop()

    def train_on(self, *batches: Batch) -> Tensor:
        """One optimizer step on the mean loss of `batches`; returns the last one's loss."""
        self.parts.progress.fill_(self.step / (self.epochs * self.steps_per_epoch))
        self.start_step(batches)
        for number, batch in enumerate(batches, start=1):
            loss = self._backward(batch, len(batches), number == len(batches))
        self._update_weights()
        self.sums.add({"steps": 1.0})
        self.step += 1
        return loss

    def _backward(self, batch: Batch, accumulate: int, last: bool) -> Tensor:
        wait = nullcontext() if last or self.world.size == 1 else self.network.no_sync()  # type: ignore[operator]
        with wait:
            with self.scoring.autocast():
                loss = self.training_step(batch)
            finite = FiniteCheck(loss)
            mean = loss if accumulate == 1 else loss / accumulate
            self.scaler.scale(mean).backward()
        if not finite.result():
            self._stop_non_finite(batch, loss.item())
        self.sums.add({"mean/loss": mean})
        return loss.detach()

    def _update_weights(self) -> None:
        if self.config.trainer.clip_grad is not None:
            self.scaler.unscale_(self.parts.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.trainer.clip_grad)
        self.lr = max(group["lr"] for group in self.parts.optimizer.param_groups)
        self.scaler.step(self.parts.optimizer)
        self.scaler.update()
        self.parts.optimizer.zero_grad(set_to_none=True)
        scheduler, steps = self.parts.scheduler, self.epochs * self.steps_per_epoch
        # A trial may take more steps than a short run has, for which a schedule of fixed length has no learning rate.
        if scheduler is not None and scheduler.interval == "step" and scheduler.scheduler.last_epoch < steps:
            scheduler.scheduler.step()
        if self.ema is not None:
            self.ema.update()

    def _finish_epoch(self) -> None:
        sums = self.sums.read()
        values = {**self.epoch_values(sums), DATA_WAIT: self.waiting.share()}
        if self.epoch % self.config.trainer.validate_every == 0 or self.epoch == self.epochs:
            same_buffers(self.model, self.evaluated_model)
            batches = self.data.evaluation_batches("valid")
            values.update(self.scoring.evaluate(self.evaluated_model, batches, "valid"))
        self._check_finite(values)
        values["lr"] = self.lr
        scheduler = self.parts.scheduler
        if scheduler is not None and scheduler.is_plateau:
            if self.monitor.name in values:
                scheduler.scheduler.step(values[self.monitor.name])
        elif scheduler is not None and scheduler.interval == "epoch":
            scheduler.scheduler.step()
        best = self.monitor.update(self.epoch, values)
        values["seconds"], self.seconds = self.seconds, 0.0
        notes = [*self.epoch_notes(sums), *self.waiting.notes(self.config)]
        warnings = self.epoch_warnings(values)
        self.sums.clear()
        if not self.world.is_main:
            return
        self.logger.log(epoch=self.epoch, step=self.step, values=values)
        self.logger.info(epoch_line(epoch=self.epoch, epochs=self.epochs, step=self.step, values=values, best=best))
        for note in notes:
            self.logger.info("  " + note)
        for warning in warnings:
            self.logger.warn(warning, self.step)
        self.files.save_last(self.state_dict(), best)

    @property
    def evaluated_model(self) -> nn.Module:
        """The averaged model where there is one, as in FixMatch."""
        return self.ema.model if self.ema is not None else self.model

    def _check_monitor(self) -> None:
        names = self.value_names()
        if self.monitor.name not in names:
            raise ConfigError(
                f"trainer.monitor: nothing is called '{self.monitor.name}'{did_you_mean(self.monitor.name, names)}"
            )
        if self.monitor.name.startswith("valid/") and not self.data.size("valid"):
            raise ConfigError(
                "trainer.monitor: there are no validation images; set split.valid or monitor a train/ value"
            )

    # Stopping, saving, resuming --------------------------------------------------------------------------------------

    def _must_stop(self) -> bool:
        stopped = self._stop.received is not None
        return stopped if self.world.size == 1 else any_process(stopped, self.device)

    def _save_and_stop(self) -> None:
        self._check_finite({})
        number = self._stop.received or 15
        self.sums.load_state_dict(self.sums.read())
        if not self.world.is_main:
            raise Stopped(number, "")
        self.files.save_last(self.state_dict())
        raise Stopped(number, f"stopped after step {self.step}; continue with:  {self.files.resume_command()}")

    def _stop_non_finite(self, batch: Batch, loss: float) -> None:
        rows = [int(row) for stream in batch.values() for row in stream["row"]]
        lrs = sorted({f"{group['lr']:.3g}" for group in self.parts.optimizer.param_groups})
        raise UserError(
            f"the loss is {loss} at step {self.step + 1} (epoch {self.epoch + 1}, learning rate {', '.join(lrs)}); "
            f"no weights were changed by this step. {AGAINST_OVERFLOW}; the images of the batch:\n  "
            + "\n  ".join(self.data.paths(rows))
        )

    def _check_finite(self, values: Mapping[str, float]) -> None:
        check_finite((self.evaluated_model, self.model), values, f"step {self.step} (learning rate {self.lr:.3g})")

    def _finish_run(self) -> None:
        if not self.world.is_main:
            return
        monitor, value = self.monitor, ""
        if monitor.best is not None:
            value = (
                f" ({monitor.name} {monitor.best:.4f}, epoch {monitor.best_epoch}{self.about_best(monitor.best_epoch)})"
            )
        if monitor.exhausted and self.step < self.epochs * self.steps_per_epoch:
            self.logger.info(f"early stop: no better {monitor.name} for {monitor.bad_epochs} epochs{value}")
        self.files.save_last({**self.state_dict(), "finished": True})
        best = self.files.publish()
        score = math.nan if monitor.best is None else monitor.best
        self.logger.summary({f"best/{monitor.name}": score, "best/epoch": monitor.best_epoch})
        self.logger.info(f"best checkpoint{value}: {best}")

    def state_dict(self) -> dict[str, Any]:
        """Everything that continuing, testing and predicting need, as plain values and tensors."""
        return {
            "config": json.dumps(self.config.to_dict()),
            "classes": {head: list(names) for head, names in self.classes.items()},
            "normalization": [list(v) for v in self.parts.normalization],
            "log_prior": self.scoring.log_prior,
            "data": self.data.state_dict(),
            **training_state(self),
            "epoch": self.epoch,
            "finished": False,
            "logger": self.logger.state_dict(),
            "run": f"{self.config.name}/{self.files.run_dir.name}",
            "environment": json.dumps(self.parts.environment),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`'s content."""
        restore(self, state)
