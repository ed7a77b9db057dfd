"""The same training with other values: all their combinations, one after the other, and a table of what they scored."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import queue
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from report.run_table import check_table, compare_runs
from utils.children import Children
from utils.device import choose_device
from utils.errors import ConfigError, UserError
from utils.folds import load_fold_config
from utils.run_folder import is_being_trained

AS_IS = "as-is"
LONGEST_VALUE, LONGEST_ID, MOST_SHOWN, MOST = 32, 90, 20, 10_000
# Says too little of what is varied without the key before it.
GENERIC = {"args", "name", "type", "value"}


class TrainingsFailed(Exception):
    """Some trainings of a sweep have ended with an error; the others are done."""

    def __init__(self, text: str, codes: Sequence[int]):
        super().__init__(f"error: {text}")
        self.exit_code = 2 if set(codes) == {2} else 1


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


def sweep(
    trainings: Sequence[Training], folds: int | None, devices: Sequence[str], check: bool, out: Path | None
) -> str:
    """Train them, one at a time on each device, and return a table of those that did not fail; what is finished is left
    alone, what was stopped goes on. check: only `train.py --check` of each.

    Raises TrainingsFailed if some fail, after the others are done, and UserError before the first for a device that is
    not there and a name of the table that is taken.
    """
    check_table(out)
    for device in devices:
        choose_device(device)
    print(f"{len(trainings)} training{'s' * (len(trainings) > 1)}:")
    for training in trainings[:MOST_SHOWN]:
        print(f"  {training}")
    if len(trainings) > MOST_SHOWN:
        print(f"  and {len(trainings) - MOST_SHOWN} more")
    failed = _run_all(trainings, folds, devices, check)
    done = [training for training in trainings if training not in failed]
    table = "all of them can be trained" if check else _table(done, out)
    if failed:
        if not check:
            print(table)
        named = ", ".join(f"{training} (exit code {code})" for training, code in failed.items())
        again = "" if check else "; the same command tries them again and leaves the others alone"
        raise TrainingsFailed(f"{len(failed)} of {len(trainings)} trainings failed: {named}{again}", [*failed.values()])
    return table


def _run_all(
    trainings: Sequence[Training], folds: int | None, devices: Sequence[str], check: bool
) -> dict[Training, int]:
    """The exit codes of those that failed."""
    children = Children()
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def run(number: int, training: Training) -> int:
        label = f"[{number}/{len(trainings)}] {training}"
        if not check and is_being_trained(training.folder):
            _say(f"{label}: is being trained by another process, which it is left to")
            return 0
        device, start = free.get(), time.monotonic()
        command = ["train.py", "-c", str(training.config), "-d", device]
        command += [part for text in training.overrides for part in ("-s", text)]
        command += ["--folds", str(folds)] if folds is not None else []
        command += ["--check"] if check else ["--run-id", training.run_id, "-r", "auto"]
        _say(f"{label}: begins" + (f" on {device}" if len(devices) > 1 else ""))
        try:
            # Side by side, each line says whose it is.
            tell = None if len(devices) == 1 else lambda line: _say(f"{training}: {line}")
            code = children.run(command, tell=tell)
        finally:
            free.put(device)
        minutes = (time.monotonic() - start) / 60
        ended = "stopped" if children.stopping else f"failed with exit code {code}" if code else "done"
        _say(f"{label}: {ended} ({minutes:.1f} min)")
        return code

    pool = ThreadPoolExecutor(len(devices))
    failed: dict[Training, int] = {}
    try:
        futures = {pool.submit(run, number, one): one for number, one in enumerate(trainings, start=1)}
        for future in as_completed(futures):
            if code := future.result():
                failed[futures[future]] = code
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        children.stop()
        pool.shutdown(wait=True)
    return {training: failed[training] for training in trainings if training in failed}


_SPEAKING = threading.Lock()


def _say(line: str) -> None:
    """A whole line, however many trainings speak at once."""
    with _SPEAKING:
        print(line, flush=True)


def _table(trainings: Sequence[Training], out: Path | None) -> str:
    there = [training.folder for training in trainings if training.folder.is_dir()]
    if not there:
        return "there is nothing to compare"
    try:
        return compare_runs(there, None, there[0], out)
    except UserError as error:
        first = str(error)
    try:  # the first one may be damaged
        return compare_runs(there, None, None, out)
    except UserError:
        return f"no table: {first}"


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
