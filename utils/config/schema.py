"""The config file as pydantic models: every key, its type, range, default and description (for configs/schema.json)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag, ValidationInfo, field_validator

from utils.config.layers import Key, Layer, Problem, is_labeled_per_data_set, is_loss_per_head

Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=8)]
Age = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


def _says(expected: str) -> dict[str, Any]:
    """What error messages say was expected, where the type alone would not tell."""
    return {"x-expected": expected}


Name = Annotated[str, Field(min_length=1, json_schema_extra=_says("a name"))]
FileName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$",
        json_schema_extra=_says("a folder name of letters, digits, '.', '_' and '-'"),
    ),
]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Component(Section):
    """Something chosen by name, and its arguments."""

    model_config = ConfigDict(json_schema_extra=_says('an object {"type": NAME, "args": {…}}'))

    type: Name
    """Name of the class or function."""
    args: dict[str, Any] = {}
    """Its arguments, checked against its signature."""


class DataSet(Component):
    """A reader, and which of its attributes are learned."""

    attributes: Annotated[list[Text], Field(min_length=1)] | Annotated[dict[str, Text], Field(min_length=1)] | None = (
        Field(
            default=None,
            json_schema_extra=_says("a list of attributes, an object {ATTRIBUTE: name of its head} or null"),
        )
    )
    """Attributes of the reader to be learned, or their names in this run; null: all as they are called."""


class NamedDataSet(DataSet):
    """One of several data sets."""

    name: FileName | None = None
    """What the data set is called; its images are NAME/…; null: the type."""

    @property
    def title(self) -> str:
        """Its name, or its type."""
        return self.name or self.type


def _data_form(value: Any) -> str:
    return "<several>" if isinstance(value, list) else "<one>"


Data = Annotated[
    Annotated[DataSet, Tag("<one>")] | Annotated[list[NamedDataSet], Field(min_length=1), Tag("<several>")],
    Discriminator(_data_form),
    Field(json_schema_extra=_says('an object {"type": NAME, "args": {…}} or a list of them, each with a "name"')),
]


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


class PerClass(Section):
    """Keep the labels of so many training images of each class."""

    per_class: int = Field(ge=1)
    """Labeled training images of each class."""
    seed: Seed = 0
    """Seed of the draw."""


class Count(Section):
    """Keep the labels of so many training images, in proportion to the classes."""

    count: int = Field(ge=1)
    """Labeled training images in all."""
    seed: Seed = 0
    """Seed of the draw."""


def _labeled_form(value: Any) -> str:
    return "<count>" if isinstance(value, Count) or (isinstance(value, dict) and "count" in value) else "<per class>"


OneLabeled = Annotated[
    Annotated[PerClass, Tag("<per class>")] | Annotated[Count, Tag("<count>")],
    Discriminator(_labeled_form),
    Field(json_schema_extra=_says('an object {"per_class": N, "seed": N} or {"count": N, "seed": N}')),
]


def _labeled_forms(value: Any) -> str:
    several = isinstance(value, dict) and any(isinstance(part, PerClass | Count) for part in value.values())
    return "<per data set>" if several or (isinstance(value, dict) and is_labeled_per_data_set(value)) else "<one>"


Labeled = Annotated[
    Annotated[OneLabeled, Tag("<one>")] | Annotated[dict[str, OneLabeled], Field(min_length=1), Tag("<per data set>")],
    Discriminator(_labeled_forms),
    Field(
        json_schema_extra=_says(
            'an object {"per_class": N, "seed": N} or {"count": N, "seed": N}, or one of these for each data set'
        )
    ),
]


class TrainLabels(Section):
    """What happens to the labels of the training rows only; validation and test keep theirs."""

    age_boundaries: list[Age] | None = Field(
        default=None, json_schema_extra=_says("a list of rising ages, such as [30, 58], or null")
    )
    """First ages of the second, third, … age class in training; null: those of the reader."""
    drop_ages: list[Annotated[list[Age], Field(min_length=2, max_length=2)]] = Field(
        default=[], json_schema_extra=_says("a list of ranges [first, last] of ages, such as [[28, 30], [57, 59]]")
    )
    """Ages whose label is hidden in training, such as [[28, 30], [57, 59]]; both ends belong to the range."""


class Labels(Section):
    """What happens to the labels before the split, and to those of the training rows after it."""

    corrections: Text | None = None
    """A CSV (path or id, field, from, to) applied first; relative to the data set's root or the working folder."""
    merge: dict[str, dict[str, Annotated[list[Text], Field(min_length=1)]]] | None = None
    """New classes of an attribute: {attribute: {class: [raw labels]}}; null: the labels as they are."""
    filters: list[Text] = []
    """pandas query expressions; only rows that fit all of them stay."""
    duplicates: Literal["exact", "near"] | None = None
    """Merge the groups of images that are the same file, or also of those that look the same; null: do not look."""
    train: TrainLabels | None = None
    """Ages in training only: other boundaries, and ages that are left out."""
    labeled: Labeled | None = None
    """Hide all other training labels, to measure semi-supervised learning on a fully labeled set."""


class Split(Section):
    """How rows are shared out to train, valid and test."""

    valid: Share = 0.2
    """Share of the validation images; not used with `folds`."""
    test: Share = 0.0
    """Share of the test images."""
    stratify: list[Text] | None = None
    """Attributes whose class shares are kept in every split; null: all."""
    seed: Seed = 0
    """Seed of the split."""
    folds: int | None = Field(default=None, ge=2)
    """Deal the images into so many folds, one of which (`fold`) is for validation, the others for training."""
    fold: int | None = Field(default=None, ge=1, validate_default=True)
    """Number of the fold for validation, 1 … `folds`; `train.py --folds K` trains all of them."""
    from_file: Text | None = Field(default=None, alias="from")
    """split.csv of another run, taken as it is in place of a drawn split."""

    @field_validator("test")
    @classmethod
    def _something_left_to_train_on(cls, test: float, info: ValidationInfo) -> float:
        valid = info.data.get("valid", 0)
        if valid + test >= 1:
            raise ValueError(f"valid + test is {valid + test:g}, which leaves no training images")
        return test

    @field_validator("fold")
    @classmethod
    def _one_of_the_folds(cls, fold: int | None, info: ValidationInfo) -> int | None:
        folds = info.data.get("folds", fold)  # a wrong `folds` has its own message
        if folds is None and fold is not None:
            raise ValueError("needs split.folds, the number of folds")
        if folds is not None and fold is None:
            raise ValueError(
                f"folds is {folds}, but fold does not say which one is for validation; "
                f"train.py --folds {folds} trains them all"
            )
        if folds is not None and fold is not None and fold > folds:
            raise ValueError(f"expected 1 … {folds} (split.folds), got {fold}")
        return fold

    @field_validator("from_file")
    @classmethod
    def _the_only_split(cls, from_file: str | None, info: ValidationInfo) -> str | None:
        if from_file is not None and info.data.get("folds") is not None:
            raise ValueError("cannot be given together with split.folds: the file says who is for validation")
        return from_file


class Normalization(Section):
    """Mean and standard deviation of the channels of images in [0, 1]."""

    mean: list[float] = Field(min_length=3, max_length=3)
    """Mean of red, green and blue."""
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=3, max_length=3)
    """Standard deviation of red, green and blue."""


def _view(default: str) -> Any:
    return Field(default=default, json_schema_extra=_says("a preset's name or a list of transforms"))


Transforms = Name | list[Name | Component]


class Views(Section):
    """The augmentation pipelines of an image: a preset's name or a list of albumentations transforms."""

    size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] = Field(
        default=224, json_schema_extra=_says("a whole number ≥ 8 or a list [height, width] of them")
    )
    """Side of the square images in pixels, or [height, width]."""
    train: Transforms = _view("light")
    """View of labeled images."""
    weak: Transforms = _view("flip_translate")
    """View that pseudo-labels are read from."""
    strong: Transforms = _view("randaugment")
    """View that learns from pseudo-labels."""
    eval: Transforms = _view("none")
    """View of validation, test and prediction."""
    normalize: Literal["auto", "imagenet", "half"] | Normalization = Field(
        default="auto",
        json_schema_extra=_says('"auto", "imagenet", "half" or an object {"mean": [3 numbers], "std": [3 numbers]}'),
    )
    """Normalisation on the device; "auto": that of the weights, "half": mean and std 0.5."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])


class SamplerArgs(Section):
    by: Text | Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None, json_schema_extra=_says('an attribute, a list of them, such as ["gender", "age"], or null')
    )
    """Attributes whose classes, or combinations of classes, are balanced; null: all heads."""


class Sampler(Section):
    """How labeled images are drawn, and by whose classes."""

    type: Literal["random", "balanced", "weighted", "square_root"]
    """As the bare name in `data_loader.sampler`."""
    args: SamplerArgs = SamplerArgs()
    """By whose classes."""

    @field_validator("args")
    @classmethod
    def _random_balances_nothing(cls, args: SamplerArgs, info: ValidationInfo) -> SamplerArgs:
        if args.by is not None and info.data.get("type") == "random":
            raise ValueError(
                "the sampler random takes no 'by': it balances nothing; choose balanced, weighted or square_root"
            )
        return args


class DataLoader(Section):
    """Batches."""

    batch_size: int = Field(default=32, ge=1)
    """Labeled images in a batch."""
    unlabeled_ratio: int = Field(default=7, ge=1)
    """Unlabeled images for each labeled one (FixMatch's mu)."""
    num_workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Worker processes; "auto": measured at the start. Results do not depend on it."""
    sampler: Literal["random", "balanced", "weighted", "square_root"] | Sampler = Field(
        default="random",
        json_schema_extra=_says(
            '"random", "balanced", "weighted", "square_root" or an object {"type": NAME, "args": {"by": ATTRIBUTE}}'
        ),
    )
    """Labeled images: as they come, equally many of each class, by inverse class frequency, or by its square root."""
    one_per_group: Annotated[dict[str, Text], Field(min_length=1)] | None = Field(
        default=None,
        json_schema_extra=_says('an object {COLUMN: VALUE}, such as {"mask": "wear"}, or null'),
    )
    """Training images of which each group shows only one in each pass, another one every time; null: all are shown."""
    cache: Literal["auto", "ram", "disk", "off"] = "auto"
    """Where decoded images are kept."""
    feature_views: int | None = Field(default=None, ge=1)
    """With a frozen backbone: compute its features once, of so many views of each image; null: at every step."""


def _loss_form(value: Any) -> str:
    if isinstance(value, Component):
        return "<one>"
    made = isinstance(value, dict) and any(isinstance(part, HeadLoss) for part in value.values())
    return "<per head>" if made or (isinstance(value, dict) and is_loss_per_head(value)) else "<one>"


Loss = Annotated[
    Annotated[Component, Tag("<one>")] | Annotated[dict[str, HeadLoss], Field(min_length=1), Tag("<per head>")],
    Discriminator(_loss_form),
    Field(
        json_schema_extra=_says(
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
    Field(json_schema_extra=_says('a non-empty list of names or {HEAD or "default": [names]}')),
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
        json_schema_extra=_says('"max NAME" or "min NAME", for example "max valid/macro_f1"'),
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
        json_schema_extra=_says('"auto", null or an object {"memory_format", "compile", "threads"}'),
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
    tags: list[Text] = []
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
    metrics: Metrics = ["accuracy", "macro_f1"]
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
