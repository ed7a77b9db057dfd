"""The part of a config about data: data sets, labels, split, views and batches."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from utils.config.layers import is_labeled_per_data_set
from utils.config.section import Age, Component, FileName, Name, Section, Seed, Share, Side, Text, says


class DataSet(Component):
    """A reader, and which of its attributes are learned."""

    attributes: Annotated[list[Text], Field(min_length=1)] | Annotated[dict[str, Text], Field(min_length=1)] | None = (
        Field(
            default=None,
            json_schema_extra=says("a list of attributes, an object {ATTRIBUTE: name of its head} or null"),
        )
    )
    """Attributes of the reader to be learned, or their names in this run; null: all as they are called."""


class NamedDataSet(DataSet):
    """One of several data sets."""

    name: FileName | None = None
    """What the data set is called; its images are NAME/…; null: the type."""
    split: Literal["train"] | None = None
    """"train": all its images are for training, such as synthetic ones; null: as `split` says."""

    @property
    def title(self) -> str:
        """Its name, or its type."""
        return self.name or self.type


def _data_form(value: Any) -> str:
    return "<several>" if isinstance(value, list) else "<one>"


Data = Annotated[
    Annotated[DataSet, Tag("<one>")] | Annotated[list[NamedDataSet], Field(min_length=1), Tag("<several>")],
    Discriminator(_data_form),
    Field(json_schema_extra=says('an object {"type": NAME, "args": {…}} or a list of them, each with a "name"')),
]


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
    Field(json_schema_extra=says('an object {"per_class": N, "seed": N} or {"count": N, "seed": N}')),
]


def _labeled_forms(value: Any) -> str:
    several = isinstance(value, dict) and any(isinstance(part, PerClass | Count) for part in value.values())
    return "<per data set>" if several or (isinstance(value, dict) and is_labeled_per_data_set(value)) else "<one>"


Labeled = Annotated[
    Annotated[OneLabeled, Tag("<one>")] | Annotated[dict[str, OneLabeled], Field(min_length=1), Tag("<per data set>")],
    Discriminator(_labeled_forms),
    Field(
        json_schema_extra=says(
            'an object {"per_class": N, "seed": N} or {"count": N, "seed": N}, or one of these for each data set'
        )
    ),
]


class TrainLabels(Section):
    """What happens to the labels of the training rows only; validation and test keep theirs."""

    age_boundaries: list[Age] | None = Field(
        default=None, json_schema_extra=says("a list of rising ages, such as [30, 58], or null")
    )
    """First ages of the second, third, … age class in training; null: those of the reader."""
    drop_ages: list[Annotated[list[Age], Field(min_length=2, max_length=2)]] = Field(
        default=[], json_schema_extra=says("a list of ranges [first, last] of ages, such as [[28, 30], [57, 59]]")
    )
    """Ages whose label is hidden in training, such as [[28, 30], [57, 59]]; both ends belong to the range."""


class Labels(Section):
    """What happens to the labels before the split, and to those of the training rows after it."""

    corrections: Text | None = None
    """A CSV (path or id, field, from, to) applied first; relative to the data set's root or the working folder."""
    merge: dict[str, dict[str, Annotated[list[Text], Field(min_length=1)]]] | None = None
    """New classes of an attribute: {attribute: {class: [raw labels]}}; null: the labels as they are."""
    filters: list[Text] = []  # noqa: RUF012 (pydantic copies it)
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


def _view(default: str | list[Any]) -> Any:
    return Field(default=default, json_schema_extra=says("a preset's name or a list of presets and transforms"))


Transforms = Name | list[Name | Component]


class Views(Section):
    """The augmentation pipelines of an image: a preset's name, or a list of presets and albumentations transforms."""

    size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] = Field(
        default=224, json_schema_extra=says("a whole number ≥ 8 or a list [height, width] of them")
    )
    """Side of the square images in pixels, or [height, width]."""
    crop: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = Field(
        default=None, json_schema_extra=says("a whole number ≥ 8, a list [height, width] of them or null")
    )
    """Central part of an image, in its own pixels, that is resized to `size`; null: all of it."""
    preprocess: Transforms = _view([])
    """What is done to every image once, at `size` and before the cache, in training, scoring and prediction."""
    train: Transforms = _view("light")
    """View of labeled images."""
    train_of: dict[str, dict[str, Transforms]] | None = Field(
        default=None,
        json_schema_extra=says('an object {COLUMN: {VALUE: view}}, such as {"age": {">=60": "light"}}, or null'),
    )
    """Views of labeled images of certain classes, or values of a column, in place of `train`."""
    weak: Transforms = _view("flip_translate")
    """View that pseudo-labels are read from."""
    strong: Transforms = _view("randaugment")
    """View that learns from pseudo-labels."""
    eval: Transforms = _view("none")
    """View of validation, test and prediction."""
    normalize: Literal["auto", "imagenet", "half"] | Normalization = Field(
        default="auto",
        json_schema_extra=says('"auto", "imagenet", "half" or an object {"mean": [3 numbers], "std": [3 numbers]}'),
    )
    """Normalisation on the device; "auto": that of the weights, "half": mean and std 0.5."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return _shape(self.size)

    @property
    def crop_shape(self) -> tuple[int, int] | None:
        """(height, width)."""
        return None if self.crop is None else _shape(self.crop)


def _shape(side: int | list[int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


class SamplerArgs(Section):
    by: Text | Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None, json_schema_extra=says('an attribute, a list of them, such as ["gender", "age"], or null')
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
        json_schema_extra=says(
            '"random", "balanced", "weighted", "square_root" or an object {"type": NAME, "args": {"by": ATTRIBUTE}}'
        ),
    )
    """Labeled images: as they come, equally many of each class, by inverse class frequency, or by its square root."""
    one_per_group: Annotated[dict[str, Text], Field(min_length=1)] | None = Field(
        default=None,
        json_schema_extra=says('an object {COLUMN: VALUE}, such as {"mask": "wear"}, or null'),
    )
    """Training images of which each group shows only one in each pass, another one every time; null: all are shown."""
    cache: Literal["auto", "ram", "disk", "off"] = "auto"
    """Where decoded images are kept."""
    feature_views: int | None = Field(default=None, ge=1)
    """With a frozen backbone: compute its features once, of so many views of each image; null: at every step."""
