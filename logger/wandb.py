"""Weights & Biases as a sink of RunLogger. Any method may raise; RunLogger then switches the sink off."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from logger.console import reason

INIT_SECONDS = 20
FINISH_SECONDS = 60


class WandbSink:
    """One wandb run; `id` stays the same when a run is resumed.

    options: {"mode": "offline" | "online", "project", "entity", "tags"}. Online without credentials or network becomes
    offline after one warning, within INIT_SECONDS. wandb's own step counter is not used: every payload carries `step`,
    and `step` is the axis of every metric, so that a resumed run may log a step again.
    """

    title = "wandb"

    def __init__(
        self,
        options: Mapping[str, Any],
        run_dir: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        resumed_id: str | None,
        info: Callable[[str], None],
        warn: Callable[[str], None],
    ):
        import wandb

        self.wandb = wandb
        # Not wandb's own generator: an id must exist before wandb.init can fail.
        self.id = resumed_id or uuid.uuid4().hex[:8]
        self._arguments: dict[str, Any] = {
            "project": options.get("project"),
            "entity": options.get("entity"),
            "tags": list(options.get("tags") or []),
            "name": name,
            "config": dict(config),
            "dir": str(run_dir),
            "id": self.id,
            "reinit": "create_new",
        }
        self.run: Any = None
        failure = self._go_online() if options["mode"] == "online" else None
        if self.run is not None:
            info(f"wandb: {self.run.url}")
        else:
            self.run = self._init(mode="offline")
            if failure:
                warn(f"wandb cannot go online, continuing offline ({failure})")
            if resumed_id:
                warn(f"wandb cannot resume a run offline; a new offline segment of run {self.id} begins")
            info(f"wandb is offline; upload the run with: wandb sync {run_dir / 'wandb' / f'offline-run-*-{self.id}'}")
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step} | {key: float(value) for key, value in values.items()})

    def image(self, tag: str, step: int, image: np.ndarray) -> None:
        self.run.log({"step": step, tag: self.wandb.Image(image)})

    def text(self, tag: str, step: int, text: str) -> None:
        self.run.log({"step": step, tag: text})

    def panels(self, panels: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Nothing to do: wandb groups charts by the first part of a name, and people arrange them there."""

    def summary(self, values: Mapping[str, float | str]) -> None:
        self.run.summary.update(dict(values))

    def flush(self) -> None:
        """Nothing to do: a process of wandb's own writes what `log` hands over."""

    def close(self) -> None:
        self.run.finish()

    def _go_online(self) -> str | None:
        """Set `run`, or return why not."""
        try:
            self._be_silent()
            # wandb.init would ask for an account on the terminal, and wait for an answer.
            if not self.wandb.login(prompt=False, verify=False):
                return "no API key; run `wandb login`"
            self.run = self._init(mode="online", resume="allow")
            return None
        except Exception as error:
            # The process that serves wandb holds on to the id of the run that failed to start.
            self.wandb.teardown(exit_code=1)
            return reason(error)

    def _init(self, **arguments: Any) -> Any:
        self._be_silent()
        settings = self.wandb.Settings(
            silent=True, console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS
        )
        return self.wandb.init(**self._arguments, **arguments, settings=settings)

    def _be_silent(self) -> None:
        self.wandb.setup(settings=self.wandb.Settings(silent=True, console="off"))
