"""From files and overrides to a checked Config; everything that is wrong is said at once."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from utils.config.catalogue import SCHEMA_FILE, catalogue_problems, load_catalogue
from utils.config.json_schema import Schema, child, expected, keys, shown
from utils.config.layers import Key, Layer, Problem, Tree, dotted, merge, override, read_layer
from utils.config.schema import Config, Trainer
from utils.errors import ConfigError, did_you_mean


def load_config(path: str | Path, overrides: Sequence[str] = (), *, catalogue: Path | None = SCHEMA_FILE) -> Config:
    """A config file with what it extends and the -s overrides, checked without importing any component.

    catalogue: the generated schema that knows the components' arguments; None leaves them to `config_problems`.
    Raises ConfigError with every problem, each line naming the file or -s that brought it.
    """
    return _checked(read_layer(path), overrides, catalogue)


def config_from_dict(tree: Mapping[str, Any], source: str, *, catalogue: Path | None = None) -> Config:
    """A config from JSON values, such as those of a checkpoint; `source` names them in messages."""
    given = {name: value for name, value in tree.items() if name != "$schema"}
    return _checked(Layer(given, {(): source}), (), catalogue)


def read_run_config(run_dir: Path) -> Config:
    """The resolved config that a run keeps in its folder. Raises OSError, ValueError or ConfigError where it cannot be
    read, is no JSON, or is of a version with other keys."""
    file = run_dir / "config.json"
    return config_from_dict(json.loads(file.read_text(encoding="utf-8")), str(file))


def apply_overrides(
    config: Config,
    overrides: Sequence[str],
    file: str | Path | None = None,
    *,
    catalogue: Path | None = SCHEMA_FILE,
) -> Config:
    """A config, say a checkpoint's, with a config file (which may be partial) and then -s overrides merged over it."""
    layer = Layer(config.to_dict(), config._layer.sources)
    return _checked(layer if file is None else merge(layer, read_layer(file)), overrides, catalogue)


def differences(a: Config, b: Config) -> list[str]:
    """What changes from a to b: `optimizer.args.lr: 0.001 -> 0.05`."""
    return [str(change) for change in tree_changes(a.to_dict(), b.to_dict())]


def is_about(change: str, of: Iterable[str]) -> bool:
    """Whether a line of `differences` is about one of these keys or what is in it; `dataset` means each data set."""
    changed = re.sub(r"\[\d+\]", "", change.split(":")[0])
    return any(changed == key or changed.startswith(f"{key}.") for key in of)


@dataclass(frozen=True)
class Change:
    """key: as after -s; before, after: JSON, or `(absent)`."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


def tree_changes(a: Any, b: Any, key: Key = ()) -> Iterator[Change]:
    """What changes from one config to another, both as plain values, which may be of other versions."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in a | b:
            yield from tree_changes(a.get(name, _ABSENT), b.get(name, _ABSENT), (*key, name))
    elif _are_objects(a) and _are_objects(b) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b)):
            yield from tree_changes(one, other, (*key, number))
    elif a is _ABSENT or b is _ABSENT or json.dumps(a) != json.dumps(b):
        before, after = (ABSENT if x is _ABSENT else json.dumps(x, ensure_ascii=False) for x in (a, b))
        yield Change(dotted(key), before, after)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


ABSENT, _ABSENT = "(absent)", object()


def _checked(base: Layer, overrides: Sequence[str], catalogue: Path | None) -> Config:
    layer, malformed = override(base, overrides)
    problems, config = _structure(layer.tree)
    known = None if catalogue is None else load_catalogue(catalogue)
    if known is not None:
        problems += catalogue_problems(layer.tree, known)
    problems += _monitor_problems(layer.tree, None if known is None else known.names("metric"))
    if config is None or problems or malformed:
        raise ConfigError([*malformed, *map(layer.line, problems)])
    config._layer = layer
    return config


def _structure(tree: Tree) -> tuple[list[Problem], Config | None]:
    try:
        return [], Config.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        return _in_plain_words(error.errors(include_url=False), tree), None


def _in_plain_words(errors: Sequence[ErrorDetails], tree: Tree) -> list[Problem]:
    """One problem for each place; pydantic reports every branch of a union, of which the deepest says what is wrong."""
    root = Config.model_json_schema()
    by_key: dict[Key, ErrorDetails] = {}
    for error in errors:
        by_key.setdefault(_real_key(error, tree), error)
    inner = {key[:n] for key in by_key for n in range(len(key))}
    return [Problem(key, _text(key, error, root)) for key, error in by_key.items() if key not in inner]


def _real_key(error: ErrorDetails, tree: Tree) -> Key:
    """pydantic's location without the names of union branches, which are not keys of the config."""
    node: Any = tree
    key: list[str | int] = []
    for i, part in enumerate(error["loc"]):
        is_child = (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int))
        if is_child:
            node = node[part]
        if is_child or (error["type"] == "missing" and i == len(error["loc"]) - 1):
            key.append(part)
    return tuple(key)


def _text(key: Key, error: ErrorDetails, root: Schema) -> str:
    *outer, last = key or ("",)
    if error["type"] == "extra_forbidden":
        return _unknown_key(str(last), keys(_schema_at(outer, root), root), root)
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    wanted = expected(_schema_at(key, root), root)
    if error["type"] == "missing":
        return f"missing; expected {wanted}"
    return f"expected {wanted}, got {shown(error['input'])}"


def _unknown_key(name: str, allowed: list[str], root: Schema) -> str:
    if name in allowed:
        return "cannot be given together with the other keys of this object"
    elsewhere = [f"{section}.{name}" for section, part in root["properties"].items() if name in keys(part, root)]
    moved = f"; did you mean '{elsewhere[0]}'?" if len(elsewhere) == 1 else ""
    return f"unknown key{did_you_mean(name, allowed, most=0) or moved or did_you_mean(name, allowed)}"


def _schema_at(key: Sequence[str | int], root: Schema) -> Schema:
    schema: Schema = root
    for part in key:
        schema = child(schema, part, root) or {}
    return schema


def _monitor_problems(tree: Tree, known: Collection[str] | None) -> list[Problem]:
    """The monitored value must be one that is measured; which heads there are is not known yet.

    A metric that is not `known` may be misspelled. Then that is what is wrong, and is said when the classes are there.
    """
    trainer, metrics = tree.get("trainer"), tree.get("metrics", Config.model_fields["metrics"].default)
    default = Trainer.model_fields["monitor"].default
    monitor = trainer.get("monitor", default) if isinstance(trainer, dict) else default
    if not isinstance(monitor, str) or not re.fullmatch(r"(min|max) \S+", monitor):
        return []
    name = monitor.split()[1]
    split, *head, value = name.split("/") if "/" in name else ("", name)
    if known is not None and not _names(metrics) <= set(known):
        return []
    if isinstance(metrics, dict):
        of_head = metrics.get(head[0], metrics.get("default")) if len(head) == 1 else None
        metrics = of_head or [m for names in metrics.values() if isinstance(names, list) for m in names]
    if not isinstance(metrics, list):
        return []
    measured = [*dict.fromkeys(m for m in metrics if isinstance(m, str)), "loss"]
    if split in ("train", "valid") and len(head) <= 1 and (value in measured or split == "train"):
        return []
    choices = [f"{part}/{m}" for part in ("train", "valid") for m in measured]
    return [Problem(("trainer", "monitor"), f"nothing is measured as '{name}'{did_you_mean(name, choices)}")]


def _names(metrics: Any) -> set[str]:
    """Every metric that is named for any head."""
    lists = metrics.values() if isinstance(metrics, dict) else [metrics]
    return {name for names in lists if isinstance(names, list) for name in names if isinstance(name, str)}
