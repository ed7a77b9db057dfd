"""Which trainings a sweep has: all combinations of values, and what their runs are called."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import ConfigError, UserError
from utils.folds import load_fold_config

AS_IS = "as-is"
LONGEST_VALUE, LONGEST_ID, MOST = 32, 90, 10_000
# Says too little of what is varied without the key before it.
GENERIC = {"args", "name", "type", "value"}


@dataclass(frozen=True)
class Factor:
    """keys: config keys that have the same value. values: as after `-s KEY=`."""

    keys: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    config: Path
    overrides: tuple[str, ...]
    run_id: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.folder.parent.name}/{self.run_id}"


def parse_factor(text: str) -> Factor:
    """`KEY=V1,V2,…`, or `KEY1+KEY2=V1,V2,…` for keys that change together; a comma in brackets or quotes is a value's.

    Raises UserError if it is not of this form, or has a value twice.
    """
    names, equals, listed = text.partition("=")
    keys = tuple(name.strip() for name in names.split("+"))
    values = _split(listed)
    if not equals or "" in keys or "" in values:
        raise UserError(f"--vary {text}: expected KEY=VALUE,VALUE, for example optimizer.args.lr=1e-3,3e-4")
    if len(set(map(_canonical, values))) < len(values):
        raise UserError(f"--vary {text}: has a value twice")
    return Factor(keys, values)


def plan(
    configs: Sequence[Path], factors: Sequence[Factor], overrides: Sequence[str], folds: int | None, sample: int | None
) -> list[Training]:
    """All combinations for each config, the last factor changing fastest, or `sample` of them drawn at random (the
    same ones every time).

    Raises ConfigError with everything that is wrong with any of them, UserError for a key that is set twice, too many
    combinations, and configs that would train in the same folder.
    """
    _check_keys(factors, overrides)
    for number, config in enumerate(configs):
        if config.resolve() in [other.resolve() for other in configs[:number]]:
            raise UserError(f"-c {config}: is given twice")
    names = _short_names([key for factor in factors for key in factor.keys])
    titles = ["+".join(names[key] for key in factor.keys) for factor in factors]
    chosen = _combinations(factors, sample)
    trainings: dict[Path, Training] = {}
    problems: list[str] = []
    for config, values in itertools.product(configs, chosen):
        said = [f"{key}={value}" for factor, value in zip(factors, values) for key in factor.keys]
        try:
            loaded = load_fold_config(config, [*overrides, *said], folds)
        except ConfigError as error:
            problems += error.problems
            continue
        run_id = _run_id(dict(zip(titles, values)), folds)
        folder = Path(loaded.trainer.save_dir) / loaded.name / run_id
        if folder in trainings:
            other = trainings[folder].config
            raise UserError(
                f"{config}: {other} has the same name '{loaded.name}', so both would train in {folder}; give one of "
                "them another name"
            )
        trainings[folder] = Training(config, (*overrides, *said), run_id, folder)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return list(trainings.values())


def _check_keys(factors: Sequence[Factor], overrides: Sequence[str]) -> None:
    seen = {text.partition("=")[0].strip(): "-s" for text in overrides}
    for factor in factors:
        for key in factor.keys:
            inside = [other for other, by in seen.items() if by != "-s" and _is_part_of(key, other)]
            if inside:
                raise UserError(
                    f"--vary {'+'.join(factor.keys)}: '{key}' and '{inside[0]}' set the same; leave out one of the two"
                )
            if key in seen:
                raise UserError(
                    f"--vary {'+'.join(factor.keys)}: '{key}' is set by {seen[key]} too; leave out one of the two"
                )
            seen[key] = "--vary"


def _is_part_of(key: str, other: str) -> bool:
    return key != other and (key.startswith(f"{other}.") or other.startswith(f"{key}."))


def _combinations(factors: Sequence[Factor], sample: int | None) -> list[tuple[str, ...]]:
    counts = [len(factor.values) for factor in factors]
    total = math.prod(counts)
    numbers: Sequence[int] = range(total)
    if sample is not None and sample < total:
        numbers = sorted(random.Random(0).sample(numbers, sample))
    elif total > MOST:
        raise UserError(f"--vary: {total:,} combinations, more than {MOST:,}; draw some of them with --sample")
    found = []
    for number in numbers:
        places = []
        for count in reversed(counts):
            number, place = divmod(number, count)
            places.append(place)
        found.append(tuple(factor.values[place] for factor, place in zip(factors, reversed(places))))
    return found


# Names of runs --------------------------------------------------------------------------------------------------------


def _run_id(values: Mapping[str, str], folds: int | None) -> str:
    """`lr=0.001,seed=0`: the same for the same values, whatever else is tried beside them."""
    parts = [f"{name}={_short_value(value)}" for name, value in values.items()] or [AS_IS]
    text = ",".join([*parts, *([f"folds={folds}"] if folds is not None else [])])
    exact = ",".join(f"{name}={_canonical(value)}" for name, value in values.items())
    return text if len(text) <= LONGEST_ID else f"{text[: LONGEST_ID - 9]}-{_digest(f'{exact} {folds}')}"


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """As much of each key's end as tells it from the others."""
    names = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            alike = [other for other in keys if other == name or other.endswith(f".{name}")]
            if len(alike) == 1 and parts[-count] not in GENERIC:
                break
        names[key] = re.sub(r"[^\w.]", "_", name)
    return names


def _short_value(value: str) -> str:
    text = _canonical(value).strip('"')
    reads_as_json = _canonical(value) != _canonical(text)  # "1" and 1, "null" and null
    plain = re.sub(r"[^\w.+@-]+", "_", text).strip("_")
    if plain == text and len(plain) <= LONGEST_VALUE and not reads_as_json:
        return plain
    return f"{plain[:LONGEST_VALUE]}-{_digest(_canonical(value))}"


def _split(listed: str) -> tuple[str, ...]:
    """At the commas outside of brackets and quotes."""
    parts, depth, quoted = [""], 0, False
    for before, character in zip(f" {listed}", listed):
        if character == '"' and before != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(part.strip() for part in parts)


def _canonical(value: str) -> str:
    """`1e-3` and `0.001` are the same value, and so are `1` and `1.0`."""
    try:
        known = json.loads(value)
    except ValueError:
        known = value
    known = int(known) if isinstance(known, float) and known.is_integer() else known
    return json.dumps(known, sort_keys=True, ensure_ascii=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
