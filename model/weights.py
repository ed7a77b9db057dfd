"""Backbone weights from a local file.

Whatever a file calls its tensors, they are renamed to timm's keys, loaded where name and shape agree, and reported. The
share of the backbone that was filled is checked: a file that does not fit is an error, never a silently random network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator
from torch import Tensor, nn

from model.weight_file import read_tensors
from model.weight_keys import CLASSIFIER, Pattern, backbone_keys, branches_of, network_of
from utils.errors import ConfigError, UserError, did_you_mean
from utils.files import sha256_of

ENOUGH = 0.9  # share of the backbone, by number of values, that a file must fill


class Channels(BaseModel):
    """Mean and standard deviation per channel of images in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class WeightSpec(BaseModel):
    """`arch.args.weights`. The descriptions are what error messages say was expected."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    path: Annotated[str, Field(min_length=1)]
    """the name of a .pth or .safetensors file"""
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{8,64}$")] | None = None
    """the file's digest, or at least its first 8 digits"""
    key_in_file: str = "auto"
    """"auto" or the key that holds the tensors in the file ("state_dict", "ema.model", …)"""
    strip_prefix: Literal["auto"] | list[Annotated[str, Field(min_length=1)]] = "auto"
    """"auto" or a list of prefixes to take off the names"""
    rename: list[tuple[Pattern, str]] = []
    """a list of [regular expression, replacement]"""
    strict: Literal["backbone", "all", "off"] = "backbone"
    """"off", "backbone" (90 % of it must be filled) or "all" (all of it, and nothing left over)"""
    normalize: Literal["imagenet", "half"] | Channels | None = None
    """"imagenet", "half" or an object {"mean": [3 numbers], "std": [3 numbers]}"""

    @field_validator("rename")
    @classmethod
    def _replacements_fit(cls, rename: list[tuple[Pattern, str]]) -> list[tuple[Pattern, str]]:
        for pattern, replacement in rename:
            try:
                pattern.sub(replacement, "")
            except re.error as error:
                raise ValueError(str(error)) from error
        return rename

    @classmethod
    def from_config(cls, value: str | Mapping[str, Any]) -> WeightSpec:
        """Raises UserError, all problems in one, if an option is unknown or has the wrong form."""
        options = {"path": value} if isinstance(value, str) else dict(value)
        try:
            return cls(**options)
        except ValidationError as error:
            wrong = {str(problem["loc"][0]) for problem in error.errors()}
        raise ConfigError(_problem(option, options) for option in sorted(wrong))

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std), if given."""
        wanted = NORMALIZATIONS[self.normalize] if isinstance(self.normalize, str) else self.normalize
        return (wanted.mean, wanted.std) if wanted else None


def _problem(option: str, options: Mapping[str, Any]) -> str:
    if option not in WeightSpec.model_fields:
        return f"arch.args.weights: no option '{option}'{did_you_mean(option, WeightSpec.model_fields)}"
    given = f"not {json.dumps(options[option], default=str)}" if option in options else "it is missing"
    return f"arch.args.weights.{option}: expected {WeightSpec.model_fields[option].description}, {given}"


NORMALIZATIONS = {
    "imagenet": Channels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "half": Channels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}


@dataclass(frozen=True)
class WeightReport:
    """What a file filled of a backbone. The lists hold the backbone's keys, but `unexpected` the file's."""

    path: str
    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    shape_mismatch: list[str]
    share: float
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """One line for the log."""
        total = len(self.matched) + len(self.missing) + len(self.shape_mismatch)
        parts = [f"{len(self.matched)} of {total} backbone tensors ({_percent(self.share)} of the values)"]
        for title, keys in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("other shape", self.shape_mismatch),
        ):
            if keys:
                parts.append(f"{title}: {_first(keys)}")
        left = "; the file's classifiers are left out" if any(map(CLASSIFIER.search, self.unexpected)) else ""
        return f"weights {self.path}: " + "; ".join([*parts, *self.notes]) + f"; the heads start at random{left}"


class WeightFile:
    """The tensors of a file. branches: the heads that have branches of their own in it (see `model.branches`).

    Raises UserError if the file cannot be read or has another digest.
    """

    def __init__(self, spec: WeightSpec):
        self.spec, self.path = spec, _existing(spec)
        tensors, self.where = read_tensors(self.path, spec.key_in_file)
        self.tensors = _without_counters(tensors)
        self.branches = branches_of(tensors)

    def load_into(self, backbone: nn.Module, architecture: str) -> WeightReport:
        """Fills `backbone` (the timm model `architecture`, or branches of it).

        Raises UserError if the file fits worse than `spec.strict` allows.
        """
        source, wanted = self.tensors, _without_counters(backbone.state_dict())
        keys, how = backbone_keys(source, wanted, self.spec.strip_prefix, self.spec.rename, architecture)
        fitting = {key: name for key, name in keys.items() if key in wanted and source[name].shape == wanted[key].shape}
        other = [
            f"{key} {list(source[keys[key]].shape)} instead of {list(wanted[key].shape)}"
            for key in wanted
            if key in keys and key not in fitting
        ]
        notes = [*([f"read from '{self.where}'"] if self.where else []), *how]
        report = WeightReport(
            path=str(self.path),
            matched=[key for key in wanted if key in fitting],
            missing=[key for key in wanted if key not in keys],
            unexpected=[name for key, name in keys.items() if key not in wanted],
            shape_mismatch=other,
            share=_values(wanted[key] for key in fitting) / _values(wanted.values()),
            notes=(*notes, *_other_architecture(self.path, architecture)),
        )
        _check_fit(report, self.spec, keys, architecture)
        backbone.load_state_dict({key: source[name] for key, name in fitting.items()}, strict=False)
        return report


def _existing(spec: WeightSpec) -> Path:
    path = Path(spec.path).expanduser()
    if not path.is_file():
        there = [file.name for file in path.parent.glob("*") if file.suffix in (".pth", ".pt", ".safetensors", ".bin")]
        raise UserError(f"arch.args.weights: no such file '{path}'{did_you_mean(path.name, there)}")
    if spec.sha256 and not (digest := sha256_of(path)).startswith(spec.sha256.lower()):
        raise UserError(f"arch.args.weights: {path} has sha256 {digest}, the config asks for {spec.sha256}")
    return path


def _check_fit(report: WeightReport, spec: WeightSpec, keys: Iterable[str], architecture: str) -> None:
    needless = [name for name in report.unexpected if not CLASSIFIER.search(name)]
    if spec.strict == "all":
        fits, asked = report.share == 1 and not needless, "all of it and nothing else"
    elif spec.strict == "off":
        fits, asked = bool(report.matched), "at least one tensor"
    else:
        fits, asked = report.share >= ENOUGH, f"at least {ENOUGH:.0%}"
    if fits:
        return
    filled = {key.partition(".")[0] for key in report.matched}
    absent = sorted({key.partition(".")[0] for key in report.missing} - filled)
    hint = ""
    if filled and absent:
        hint = f'\nNothing in the file for {", ".join(absent)}; "strict": "off" leaves that at random'
    elif branches := branches_of(keys):
        first = json.dumps(["backbone.trunk.", f"backbone.branches.{branches[0]}."])
        hint = f'\nThe file\'s network has branches for {", ".join(branches)}: take one with "strip_prefix": {first}'
    elif network := network_of(keys):
        hint = f"\nThe file's keys look like those of a {network}"
    raise UserError(
        f"arch.args.weights: the file does not fit the backbone '{architecture}' (asked for: {asked})\n"
        f"{report.line()}{hint}"
    )


def _other_architecture(path: Path, architecture: str) -> list[str]:
    """A note if the file's name holds the name of another timm model, as files of like nets load without complaint."""
    import timm

    stem = f"_{path.stem.lower()}_"
    named = [name for name in timm.list_models() if re.search(rf"(?<=[^a-z0-9]){re.escape(name)}(?=[^a-z0-9])", stem)]
    longest = max(named, key=len, default=architecture)
    ours = architecture.partition(".")[0]
    if longest == ours:
        return []
    return [f"the file is named after '{longest}', the backbone is '{ours}': they may pad or normalise differently"]


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Files of before 2018 have no such counters, and nothing is computed from them.
    return {key: tensor for key, tensor in tensors.items() if not key.endswith("num_batches_tracked")}


def _values(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _first(keys: list[str], most: int = 3) -> str:
    more = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {more} more" if more > 0 else "")


def _percent(share: float) -> str:
    # 99.96 % must not read as 100 %.
    return "100 %" if share == 1 else f"{int(share * 1000) / 10} %"
