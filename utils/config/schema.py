"""The config file as pydantic models: every key, its type, range, default and description (for configs/schema.json)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, field_validator

from utils.config.data_sections import Data, DataLoader, DataSet, Labels, Split, Views
from utils.config.layers import Key, Layer, Problem, is_loss_per_head
from utils.config.section import Component, FileName, Name, Section, Seed, Text, says


class HeadLoss(Component):
    """The loss of one head."""

    weight: float = Field(default=1.0, ge=0)
    """Factor of this head's loss in the sum over heads."""


class Optimizer(Component):
    """The optimizer: a name of torch.optim."""

    backbone_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the backbone; null: that of the heads."""


class Scheduler(Component):
    """The learning-rate schedule: a name of torch.optim.lr_scheduler or of trainer/lr_scheduler.py."""

    interval: Literal["step", "epoch"] = "epoch"
    """Whether it moves after every optimizer step or after every epoch."""


def _loss_form(value: Any) -> str:
    if isinstance(value, Component):
        return "<one>"
    made = isinstance(value, dict) and any(isinstance(part, HeadLoss) for part in value.values())
    return "<per head>" if made or (isinstance(value, dict) and is_loss_per_head(value)) else "<one>"


Loss = Annotated[
    Annotated[Component, Tag("<one>")] | Annotated[dict[str, HeadLoss], Field(min_length=1), Tag("<per head>")],
    Discriminator(_loss_form),
    Field(
        json_schema_extra=says(
            'an object {"type": NAME, "args": {…}} or {HEAD or "default": {"type", "args", "weight"}}'
        )
    ),
]


class Speed(Section):
    """How a step is computed on this machine."""

    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """Order of the values of images and convolutions in memory."""
    compile: bool = False
    """Whether torch.compile makes the network's code; the first steps then take a minute or more."""
    threads: int | None = Field(default=None, ge=1)
    """torch's threads on the CPU; null: as many as torch takes."""


_MetricNames = Annotated[list[Name], Field(min_length=1)]
Metrics = Annotated[
    _MetricNames | Annotated[dict[str, _MetricNames], Field(min_length=1)],
    Field(json_schema_extra=says('a non-empty list of names or {HEAD or "default": [names]}')),
]


class Trainer(Component):
    """The trainer and everything about the course of the training."""

    epochs: int = Field(ge=1)
    """Epochs to train."""
    steps_per_epoch: int | None = Field(default=None, ge=1)
    """Optimizer steps in an epoch; null: one pass over the images, in semi-supervised training the unlabeled ones."""
    monitor: str = Field(
        default="max valid/macro_f1",
        pattern=r"^(min|max) \S+$",
        json_schema_extra=says('"max NAME" or "min NAME", for example "max valid/macro_f1"'),
    )
    """What chooses the best checkpoint and stops early: "max NAME" or "min NAME"."""
    early_stop: int | None = Field(default=None, ge=1)
    """Stop after exactly so many epochs without improvement; null: never."""
    ema: float | None = Field(default=None, ge=0, lt=1)
    """Decay of the averaged weights that are evaluated; null: none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the forward pass; "auto": bf16 or fp16 on CUDA, fp32 elsewhere."""
    speed: Literal["auto"] | Speed | None = Field(
        default=None,
        json_schema_extra=says('"auto", null or an object {"memory_format", "compile", "threads"}'),
    )
    """How a step is computed; "auto": measured at the start, together with a `precision` of "auto"."""
    validate_every: int = Field(default=1, ge=1)
    """Validate after every so many epochs, and after the last."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients make one optimizer step."""
    evaluation_prior: float = Field(default=0.0, ge=0, le=1)
    """Share of the labels' class distribution that scores and predictions put back into the logits (post-hoc logit
    adjustment, Menon et al. 2021): 1 after training for balanced classes gives the odds of data like the labels'."""
    clip_grad: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; null: not clipped."""
    save_dir: str = Field("saved", min_length=1)
    """Folder of the runs."""
    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints to keep; an older one is the fall-back if a file is damaged."""


class Wandb(Section):
    """Weights & Biases."""

    mode: Literal["disabled", "offline", "online"] = "disabled"
    """Whether to log there, and how."""
    project: str = Field(default="face-training", min_length=1)
    """Project that the run appears in."""
    entity: str | None = None
    """User or team; null: the account's own."""
    tags: list[Text] = []  # noqa: RUF012 (pydantic copies it)
    """Tags of the run."""


class Logger(Section):
    """Where the figures of a run go; metrics.csv is always written."""

    console: bool = True
    """Progress and epochs on the terminal."""
    tensorboard: bool = True
    """TensorBoard files in the run's folder."""
    wandb: Wandb = Wandb()
    """Weights & Biases."""


class Config(Section):
    """A whole run. `type`/`args` choose components; unknown keys are errors."""

    extends: str | None = None
    """Another config, relative to this file, that this one merges over."""
    about: str = ""
    """One line: what it trains, the command, how long it takes on what, the metric to expect."""
    name: FileName
    """Name of the experiment; its runs are in saved/NAME."""
    seed: Seed = 42
    """Seed of everything random but the split."""
    dataset: Data
    """The reader of the data, a name of data_loader/readers, or a list of several data sets."""
    labels: Labels = Labels()
    split: Split = Split()
    views: Views = Views()
    data_loader: DataLoader = DataLoader()
    arch: Component
    """The model: a name of model/classifier.py."""
    loss: Loss = Component(type="cross_entropy")
    """The loss of the labeled images, or one for each head with its weight."""
    metrics: Metrics = ["accuracy", "macro_f1"]  # noqa: RUF012 (pydantic copies it)
    """What is measured after every epoch: names of model/metric.py, or such a list for each head."""
    optimizer: Optimizer
    lr_scheduler: Scheduler | None = None
    """The learning-rate schedule; null: a constant learning rate."""
    trainer: Trainer
    logger: Logger = Logger()

    _layer: Layer = PrivateAttr(default_factory=Layer)

    @field_validator("extends")
    @classmethod
    def _resolved(cls, extends: str | None) -> None:
        """The loader merges the other config and sets null, so whoever sees a name here could not."""
        if extends is not None:
            raise ValueError("works in a config file only")

    @field_validator("dataset")
    @classmethod
    def _different_names(cls, dataset: Any) -> Any:
        names = [part.title for part in dataset] if isinstance(dataset, list) else []
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{names.count(twice)} data sets are called '{twice}'; give each a name of its own")
        return dataset

    @property
    def data_sets(self) -> list[tuple[str, DataSet]]:
        """The place in this config and the reader of each data set."""
        if isinstance(self.dataset, DataSet):
            return [("dataset", self.dataset)]
        return [(f"dataset[{number}]", part) for number, part in enumerate(self.dataset)]

    def loss_of(self, head: str) -> Component | None:
        """A head's loss; None where losses are per head and there is neither one for it nor a `default`."""
        return self.loss.get(head, self.loss.get("default")) if isinstance(self.loss, dict) else self.loss

    def where(self, path: str) -> str:
        """`path` for messages, with the file or the -s that its value comes from: `configs/x.json: optimizer`."""
        parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", path)
        key: Key = tuple(int(number) if number else name for number, name in parts)
        return f"{self._layer.source(key) or 'config'}: {path}"

    def line(self, problem: Problem) -> str:
        """A problem as one line of a message: `configs/x.json: optimizer.args.lr: …`."""
        return self._layer.line(problem)

    def to_dict(self) -> dict[str, Any]:
        """The resolved config as JSON values; `config_from_dict` makes an equal one of it."""
        return self.model_dump(mode="json", by_alias=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
