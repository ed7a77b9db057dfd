"""The one place that is told what happens in a run; it tells the console, metrics.csv, TensorBoard and wandb."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from logger.console import Console, reason
from logger.metrics_csv import MetricsCsv

Panels = Mapping[str, Mapping[str, Sequence[str]]]
"""Group -> {chart: the values that it draws together}."""


class Sink(Protocol):
    """Where numbers go besides metrics.csv. Its methods may raise: the sink is then switched off, the run goes on."""

    title: str

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def image(self, tag: str, step: int, image: np.ndarray) -> None: ...
    def text(self, tag: str, step: int, text: str) -> None: ...
    def panels(self, panels: Panels) -> None: ...
    def summary(self, values: Mapping[str, float | str]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class RunLogger:
    """One call feeds all sinks, always with an explicit step.

    wandb: {"mode": "disabled" | "offline" | "online", "project": str, "entity": str | None, "tags": [str]} or None.
    resume: {"epoch": int, "step": int, "wandb_id": str | None} of the checkpoint a run continues from; what was logged
    after it is dropped from metrics.csv and hidden in TensorBoard, the wandb run is continued. None begins new files.
    Only metrics.csv may stop a run (OSError): TensorBoard or wandb failing, for whatever reason, costs one warning.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        console: bool,
        tensorboard: bool,
        wandb: Mapping[str, Any] | None,
        name: str,
        config: Mapping[str, Any],
        resume: Mapping[str, Any] | None = None,
    ):
        self.console = Console(run_dir / "train.log", shown=console)
        self.metrics = MetricsCsv(run_dir / "metrics.csv", keep_epoch=resume["epoch"] if resume else None)
        if resume and resume["epoch"] != (self.metrics.last_epoch or 0):
            self.warn(f"metrics.csv has no row for epoch {resume['epoch']}, after which this run continues")
        self.wandb_id: str | None = resume.get("wandb_id") if resume else None
        self.sinks: list[Sink] = []
        if tensorboard:
            self._open("TensorBoard", lambda: _tensorboard(run_dir, resume["step"] + 1 if resume else None))
        if wandb and wandb["mode"] != "disabled":
            self._open("wandb", lambda: self._wandb(run_dir, wandb, name, config))

    def info(self, text: str) -> None:
        """A line for the person: stdout (if `console`) and train.log. Leaves a progress bar intact."""
        self.console.info(text)

    def warn(self, text: str, step: int | None = None) -> None:
        """As `info`; the line begins with `warning: `. With a step TensorBoard and wandb have it too, as text."""
        self.console.warn(text)
        if step is not None:
            self._each(lambda sink: sink.text("warnings", step, text))

    def log(self, *, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """The numbers of an epoch: a row of metrics.csv, on disk when this returns, then the sinks."""
        self.metrics.append(epoch, step, values)
        self._each(lambda sink: sink.log(step, {"epoch": epoch, **values}))
        self._each(lambda sink: sink.flush())

    def image(self, tag: str, step: int, draw: Callable[[], np.ndarray]) -> None:
        """draw: makes the picture, uint8 [H, W, 3]; it is called only if there is a place that shows pictures."""
        if self.sinks:
            image = draw()
            self._each(lambda sink: sink.image(tag, step, image))

    def panels(self, make: Callable[[], Panels]) -> None:
        """Which values belong into one chart, for places that can be told so; `make` is called only if there is one."""
        if self.sinks:
            panels = make()
            self._each(lambda sink: sink.panels(panels))

    def summary(self, values: Mapping[str, float | str]) -> None:
        """The run's final values: wandb's summary, a table in TensorBoard's text tab."""
        self._each(lambda sink: sink.summary(values))

    def state_dict(self) -> dict[str, str | None]:
        return {"wandb_id": self.wandb_id}

    def close(self) -> None:
        self._each(lambda sink: sink.close())
        self.sinks = []

    def _wandb(self, run_dir: Path, options: Mapping[str, Any], name: str, config: Mapping[str, Any]) -> Sink:
        from logger.wandb import WandbSink

        sink = WandbSink(
            options, run_dir, name=name, config=config, resumed_id=self.wandb_id, info=self.info, warn=self.warn
        )
        self.wandb_id = sink.id
        return sink

    def _open(self, title: str, build: Callable[[], Sink]) -> None:
        try:
            self.sinks.append(build())
        except Exception as error:
            self._switched_off(title, error)

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self.sinks):
            try:
                call(sink)
            except Exception as error:
                self.sinks.remove(sink)
                self._switched_off(sink.title, error)
                with contextlib.suppress(Exception):
                    sink.close()

    def _switched_off(self, title: str, error: Exception) -> None:
        self.warn(f"{title} is switched off for this run, the run goes on: {reason(error)}")


def _tensorboard(run_dir: Path, purge_step: int | None) -> Sink:
    from logger.tensorboard import TensorBoardSink

    return TensorBoardSink(run_dir, purge_step)
