"""What a config is made of: JSON files that extend one another and -s overrides, and who brought which value.

One rule for all: objects merge, everything else replaces; `-s` also reaches into a list by number. The exception that
makes components usable is an object that takes another form: with another `type` its `args` replace the base's, and
something given per head or per data set replaces a single one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from utils.config.json_schema import shown as shown_value
from utils.errors import ConfigError, did_you_mean

Key = tuple[str | int, ...]
Tree = dict[str, Any]


class Problem(NamedTuple):
    """Something wrong at a place of the config."""

    key: Key
    text: str


def dotted(key: Key) -> str:
    """("views", "strong", 2, "args") -> "views.strong[2].args"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


@dataclass
class Layer:
    """Part of a config, and for its values the file or `-s KEY=VALUE` that brought them."""

    tree: Tree = field(default_factory=dict)
    sources: dict[Key, str] = field(default_factory=dict)

    def source(self, key: Key) -> str | None:
        """Who brought the value at `key`, or the nearest object around it."""
        return next((self.sources[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.sources), None)

    def line(self, problem: Problem) -> str:
        """The problem as one line of a message."""
        return ": ".join(part for part in (self.source(problem.key), dotted(problem.key), problem.text) if part)

    def replace(self, key: Key, source: str | None) -> None:
        """Record that `source` brought the value at `key` as a whole."""
        self.sources = {known: value for known, value in self.sources.items() if known[: len(key)] != key}
        if source is not None:
            self.sources[key] = source

    def replace_from(self, other: Layer, key: Key) -> None:
        """Record that the value at `key` is now the one of `other`."""
        below = {known: source for known, source in other.sources.items() if known[: len(key)] == key}
        self.replace(key, other.source(key) or next(iter(below.values()), None))
        self.sources |= below


def merge(base: Layer, over: Layer) -> Layer:
    """`over` merged over `base`."""
    merged = Layer({}, dict(base.sources))
    merged.tree = _merge_objects(base.tree, over.tree, merged, over, ())
    return merged


def _merge_objects(base: Tree, over: Tree, merged: Layer, layer: Layer, at: Key) -> Tree:
    source, base_source = layer.source(at), merged.source(at)
    if source is not None:
        if base_source is not None:
            merged.sources = {(*at, name): base_source for name in base} | merged.sources
        merged.sources[at] = source
    result = dict(base)
    if "type" in over and "type" in base and over["type"] != base["type"]:
        result.pop("args", None)
        merged.replace((*at, "args"), layer.source((*at, "type")))
    for name, value in over.items():
        key = (*at, name)
        old = result.get(name)
        if isinstance(old, list) and _is_patch(value):
            elements: dict[Any, Any] = dict(enumerate(old))
            result[name] = list(_merge_objects(elements, value, merged, layer, key).values())
        elif isinstance(old, dict) and isinstance(value, dict) and not _is_another_form(key, old, value):
            result[name] = _merge_objects(old, value, merged, layer, key)
        else:
            result[name] = value
            merged.replace_from(layer, key)
    return result


def _is_patch(value: Any) -> bool:
    """{number: value} of an override, for elements of a list; the keys of JSON objects are strings."""
    return isinstance(value, dict) and bool(value) and all(isinstance(name, int) for name in value)


def is_per_head(value: Tree) -> bool:
    """{head or "default": component} rather than {"type", "args"}, one of these misspelled included."""
    return bool(value) and not any(get_close_matches(name, ("type", "args"), cutoff=0.8) for name in value)


def is_loss_per_head(loss: Tree) -> bool:
    """{head or "default": loss} rather than {"type", "args"}."""
    return is_per_head(loss) and all(isinstance(part, dict) for part in loss.values())


def is_labeled_per_data_set(labeled: Tree) -> bool:
    """{data set: {"count" or "per_class"}} rather than one of these."""
    return bool(labeled) and all(isinstance(part, dict) for part in labeled.values())


def _is_another_form(key: Key, base: Tree, over: Tree) -> bool:
    if key == ("loss",):
        return is_loss_per_head(base) != is_loss_per_head(over)
    if key[:2] == ("trainer", "args") and len(key) == 3:
        return is_per_head(base) != is_per_head(over)
    if key[:2] == ("labels", "labeled"):
        if is_labeled_per_data_set(base) != is_labeled_per_data_set(over):
            return True
        here, there = ({"count", "per_class"} & form.keys() for form in (base, over))
        return bool(here and there) and here != there
    return False


def read_layer(path: str | Path, chain: tuple[str, ...] = ()) -> Layer:
    """A config file merged over those that it extends. Raises ConfigError if a file is missing or not JSON."""
    shown = os.path.normpath(path)
    tree = _parse(_read(shown), shown)
    tree.pop("$schema", None)
    layer = Layer(tree, {(): shown})
    extends = tree.pop("extends", None)
    if extends is None:
        return layer
    if not isinstance(extends, str) or not extends:
        raise ConfigError(f"{shown}: extends: expected a file name or null, got {shown_value(extends)}")
    base = os.path.normpath(os.path.join(os.path.dirname(shown), extends))
    circle = [*chain, shown, base]
    if os.path.realpath(base) in map(os.path.realpath, circle[:-1]):
        raise ConfigError(f"{shown}: extends: goes round in a circle: {' -> '.join(circle)}")
    if not os.path.isfile(base):
        raise ConfigError(f"{shown}: extends: {_no_file(base)}")
    return merge(read_layer(base, (*chain, shown)), layer)


def override(base: Layer, overrides: Sequence[str]) -> tuple[Layer, list[str]]:
    """`-s KEY=VALUE` arguments merged over a config, the last one winning, and what is wrong with malformed ones."""
    over = Layer()
    problems: list[str] = []
    for text in overrides:
        try:
            one = _parse_override(text, merge(base, over).tree)
        except ConfigError as error:
            problems += error.problems
        else:
            # Among themselves first, so that `type` and its new args may come in any order.
            over = merge(over, one)
    return merge(base, over), problems


def _parse_override(text: str, tree: Tree) -> Layer:
    source = f"-s {text}"
    name, equals, value = text.partition("=")
    key: Key = tuple(name.strip().split("."))
    if not equals or "" in key:
        raise ConfigError(f"{source}: expected KEY=VALUE, for example trainer.epochs=3")
    if key[0] in ("extends", "$schema"):
        raise ConfigError(f"{source}: {key[0]} works in a config file only")
    key = _with_numbers(key, tree, source)
    made = _value(value, source)
    for part in reversed(key):
        made = {part: made}
    return Layer(made, {key: source})


def _with_numbers(key: Key, tree: Tree, source: str) -> Key:
    """The key with whole numbers where the config has lists. Raises ConfigError where it leads into neither."""
    node: Any = tree
    found: Key = ()
    for part in key:
        if isinstance(node, list):
            number = _element(str(part), node, found, source)
            found, node = (*found, number), node[number]
        elif node is None or isinstance(node, dict):
            found, node = (*found, part), (node or {}).get(part)
        else:
            raise ConfigError(f"{source}: {dotted(found)} is {shown_value(node)}, not an object")
    return found


def _element(part: str, elements: list, at: Key, source: str) -> int:
    if part.isdecimal() and int(part) < len(elements):
        return int(part)
    names = [item.get("name") or item.get("type") if isinstance(item, dict) else item for item in elements]
    known = [f"{number} ({name})" if isinstance(name, str) else f"{number}" for number, name in enumerate(names)]
    choice = f"name an element by its number: {', '.join(known)}" if known else "it is empty"
    raise ConfigError(f"{source}: {dotted(at)} is a list without '{part}'; give the whole list or {choice}")


def _value(text: str, source: str) -> Any:
    """JSON, or else the bare string; what begins like a list, object or quoted string must be JSON."""
    try:
        return _load(text, source)
    except json.JSONDecodeError as error:
        if text.lstrip()[:1] in ("{", "[", '"'):
            raise ConfigError(f"{source}: the value is not JSON: {error.msg} at character {error.pos + 1}") from None
        return text


def _read(shown: str) -> str:
    try:
        return Path(shown).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(_no_file(shown)) from None
    except IsADirectoryError:
        raise ConfigError(f"{shown}: is a folder; expected a JSON file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: is not text in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror}") from None


def _no_file(path: str) -> str:
    folder, name = os.path.split(path)
    if folder and not os.path.isdir(folder):
        return f"{path}: no folder '{folder}'"
    there = {p.name: str(p) for p in Path(folder).glob("*.json") if p.name != "schema.json"}
    return f"{path}: no such file{did_you_mean(name, there)}"


def _parse(text: str, shown: str) -> Tree:
    try:
        tree = _load(text, shown)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{shown}: {where}: not JSON: {error.msg}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{shown}: expected an object {{…}}, got {shown_value(tree)}")
    return tree


class _Object(dict):
    """A JSON object that remembers which keys it was given twice."""

    twice: tuple[str, ...] = ()


def _load(text: str, source: str) -> Any:
    """json.loads without NaN and Infinity; a key that an object has twice is an error."""

    def make(pairs: list[tuple[str, Any]]) -> _Object:
        made = _Object(pairs)
        names = [name for name, _ in pairs]
        made.twice = tuple(dict.fromkeys(name for name in names if names.count(name) > 1))
        return made

    def refuse(constant: str) -> Any:
        raise json.JSONDecodeError(f"{constant} is not a JSON number", text, max(text.find(constant), 0))

    value = json.loads(text, object_pairs_hook=make, parse_constant=refuse)
    twice = [Problem(key, "this key is given twice") for key in _repeated(value)]
    if twice:
        raise ConfigError(Layer(sources={(): source}).line(problem) for problem in twice)
    return value


def _repeated(value: Any, at: Key = ()) -> Iterator[Key]:
    if isinstance(value, _Object):
        yield from ((*at, name) for name in value.twice)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in items:
        yield from _repeated(child, (*at, name))
