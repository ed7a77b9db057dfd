"""configs/schema.json: completion for editors, and the catalogue of known components and their arguments.

It is generated from the classes themselves; read back, it finds a wrong argument without importing any of them.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.components import PLACES, Kind, tree_problems
from utils.config.json_schema import Schema, resolve
from utils.config.layers import Problem
from utils.config.origin import is_current, is_named_in_sources, origin
from utils.config.schema import Config
from utils.config.signature import Parameter, Signature

SCHEMA_FILE = Path(__file__).resolve().parents[2] / "configs" / "schema.json"


@dataclass(frozen=True)
class Catalogue:
    """The types that configs/schema.json knows: {kind: {type: entry}}; there may be others in the user's own code."""

    types: Mapping[str, Mapping[str, Schema]]

    @property
    def kinds(self) -> Collection[str]:
        return self.types.keys()

    def names(self, kind: str) -> Collection[str]:
        return self.types.get(kind, {}).keys()

    def lacks(self, kind: str, name: str) -> bool:
        """A type is new where our sources name it, or a library has another version than when the file was made."""
        entries = self.types.get(kind, {})
        libraries = {entry["x-origin"] for entry in entries.values() if "==" in entry["x-origin"]}
        return name not in entries and all(map(is_current, libraries)) and not is_named_in_sources(name)

    def signature(self, kind: str, name: str) -> Signature | None:
        entry = self.types.get(kind, {}).get(name)
        if entry is None or not is_current(entry["x-origin"]):
            return None
        required = entry["x-required"]
        parameters = {arg: _read_parameter(schema, arg in required) for arg, schema in entry["properties"].items()}
        return Signature(parameters, entry["additionalProperties"])


def load_catalogue(path: Path = SCHEMA_FILE) -> Catalogue | None:
    """The catalogue of a generated schema; None if the file is not there or not one of ours."""
    try:
        return Catalogue(json.loads(path.read_text(encoding="utf-8"))["x-components"])
    except (OSError, ValueError, KeyError):
        return None


def catalogue_problems(tree: Mapping[str, Any], catalogue: Catalogue) -> list[Problem]:
    """Unknown types and wrong arguments; a type that is new, or has changed since, is left to the live check."""
    return list(tree_problems(tree, catalogue))


def build_schema(kinds: Mapping[str, Kind]) -> Schema:
    """The JSON Schema of config files, with the arguments of everything that `kinds` name."""
    schema = Config.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Training config"}
    link = {"type": "string", "description": "This schema, for editors: schema.json, relative to this file."}
    schema["properties"] = {"$schema": link, **schema["properties"]}
    schema["x-components"] = {
        name: {member: _entry(kind, member, kinds) for member in kind.names()} for name, kind in sorted(kinds.items())
    }
    schema["$defs"] |= {f"kind:{name}": _kind_schema(name, types) for name, types in schema["x-components"].items()}
    for place, kind in PLACES.items():
        if kind in kinds:
            for holder, key in list(_holders(schema, place.split("."), schema)):
                preset = {"allOf": [{"type": "string"}, _ref("preset")]}
                reference = {"anyOf": [_ref(kind), preset]} if kind == "transform" and "preset" in kinds else _ref(kind)
                holder[key] = {"allOf": [holder[key], reference]}
    _allow_partial_files(schema)
    return schema


def schema_text(kinds: Mapping[str, Kind]) -> str:
    """configs/schema.json as it is written: the same text for the same code."""
    return json.dumps(build_schema(kinds), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _entry(kind: Kind, name: str, kinds: Mapping[str, Kind]) -> Schema:
    signature = kind.signature(name, kinds)
    target = kind.members[name]
    texts = _argument_texts(target, signature.parameters)
    return {
        "type": "object",
        "description": _first_sentence(inspect.getdoc(target) or ""),
        "properties": {
            arg: _write_parameter(parameter, texts.get(arg)) for arg, parameter in signature.parameters.items()
        },
        "x-origin": origin(target),
        "x-required": [arg for arg, parameter in signature.parameters.items() if parameter.required],
        "additionalProperties": signature.open,
    }


def _write_parameter(parameter: Parameter, text: str | None) -> Schema:
    described = {"description": text} if text else {}
    if parameter.kind is None:
        return parameter.schema | described
    reference = _ref(parameter.kind)
    parts = [parameter.schema, reference, {"items": reference}]
    if not parameter.per_head:
        return {"x-kind": parameter.kind, "allOf": parts} | described
    each = {"if": {"required": ["type"]}, "else": {"properties": {"args": {}}, "additionalProperties": reference}}
    return {"x-kind": parameter.kind, "x-per-head": True, "allOf": [*parts, each]} | described


def _read_parameter(schema: Schema, required: bool) -> Parameter:
    kind = schema.get("x-kind")
    return Parameter(schema if kind is None else schema["allOf"][0], required, kind, False, "x-per-head" in schema)


def _ref(kind: str) -> Schema:
    return {"$ref": f"#/$defs/kind:{kind}"}


def _kind_schema(kind: str, types: Mapping[str, Schema]) -> Schema:
    """A component of this kind: a known `type` (or a bare name), and for each type its args."""
    names = list(types)
    args_of_type = [
        {
            "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
            "then": {"properties": {"args": {"$ref": f"#/x-components/{kind}/{name}"}}},
        }
        for name in names
    ]
    return {
        "if": {"type": "string"},
        "then": {"enum": names},
        "else": {"if": {"type": "object"}, "then": {"properties": {"type": {"enum": names}}, "allOf": args_of_type}},
    }


def _holders(schema: Schema, place: list[str], root: Schema) -> Iterator[tuple[dict[str, Any], str]]:
    """(object, key) of the sub-schemas that describe a place such as `views.train.*`."""
    schema = resolve(schema, root)
    for word in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(word, ()):
            yield from _holders(part, place, root)
    name, *rest = place
    keys = ("items", "additionalProperties") if name == "*" else (name,)
    holder = schema if name == "*" else schema.get("properties", {})
    for key in keys:
        if isinstance(holder.get(key), dict):
            if rest:
                yield from _holders(holder[key], rest, root)
            else:
                yield holder, key


def _allow_partial_files(schema: Schema) -> None:
    """A file that extends another may leave out anything: required keys bind files that extend none."""
    trainer = schema["$defs"]["Trainer"]
    needs = {name: {"required": ["type"]} for name in ("dataset", "arch", "optimizer")}
    schema["if"] = {"properties": {"extends": {"type": "string"}}, "required": ["extends"]}
    schema["else"] = {
        "required": schema.pop("required"),
        "properties": {**needs, "trainer": {"required": trainer.pop("required")}},
    }
    for name in ("Component", "DataSet", "Optimizer", "Scheduler", "HeadLoss"):
        schema["$defs"][name].pop("required")


def _argument_texts(target: Callable[..., Any], arguments: Collection[str]) -> dict[str, str]:
    """First sentences about arguments in a docstring: `name (type): text` or `name: text`."""
    texts: dict[str, str] = {}
    owners = inspect.getmro(target) if inspect.isclass(target) else (target,)
    documented = (part for owner in owners for part in (owner, getattr(owner, "__init__", None)))
    doc = "\n\n".join(filter(None, map(inspect.getdoc, documented)))
    lines = doc.splitlines()
    for i, line in enumerate(lines):
        found = _ARGUMENT.match(line)
        if found and found[1] in arguments and found[1] not in texts:
            further = itertools.takewhile(lambda line: line.strip() and not _ARGUMENT.match(line), lines[i + 1 :])
            texts[found[1]] = _first_sentence(" ".join([found[2], *further]))
    return texts


_ARGUMENT = re.compile(r"\W*(\w+)\W{0,2}\s*(?:\([^)]*\))?:\s+(\S.*)")


def _first_sentence(text: str, most: int = 200) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.)\s(?=[A-Z])", paragraph, maxsplit=1)[0]
    return sentence if len(sentence) <= most else sentence[: most - 1] + "…"
