"""The part of JSON Schema that describes a config: does a value fit, and what was expected, in plain words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

Schema = dict[str, Any]


def fits(value: Any, schema: Schema | bool, root: Schema | None = None) -> bool:
    """Whether a JSON value fits; `root` is the document that `$ref` points into. Words we do not use are ignored."""
    if isinstance(schema, bool):
        return schema
    return all(check(value, schema, root or schema) for word, check in _WORDS.items() if word in schema)


def resolve(schema: Schema, root: Schema) -> Schema:
    """The schema itself, or what its `$ref` (`#/a/b`) points to."""
    while "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def branches(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The alternatives of a schema without `$ref`, `anyOf` and the like: what an editor would look into."""
    schema = resolve(schema, root)
    inner = [part for word in ("anyOf", "oneOf", "allOf") for part in schema.get(word, ())]
    if not inner or "properties" in schema:
        yield schema
    for part in inner:
        yield from branches(part, root)


def child(schema: Schema, key: str | int, root: Schema) -> Schema | None:
    """The schema of one key or list element, None if there can be none."""
    for branch in branches(schema, root):
        if isinstance(key, int):
            prefix = branch.get("prefixItems", ())
            found = prefix[key] if key < len(prefix) else branch.get("items")
        else:
            found = branch.get("properties", {}).get(key, branch.get("additionalProperties"))
        if isinstance(found, dict):
            return found
    return None


def keys(schema: Schema, root: Schema) -> list[str]:
    """The keys that an object of this schema may have."""
    return [key for branch in branches(schema, root) for key in branch.get("properties", {})]


def expected(schema: Schema, root: Schema | None = None) -> str:
    """Plain words for what fits: "a whole number ≥ 1 or null". A schema's own `x-expected` comes first."""
    root = root or schema
    if "x-expected" in schema:
        return schema["x-expected"]
    schema = resolve(schema, root) if "$ref" in schema else schema
    if "x-expected" in schema:
        return schema["x-expected"]
    if "enum" in schema or "const" in schema:
        return _either(shown(choice) for choice in schema.get("enum", [schema.get("const")]))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _either(expected(part, root) for part in schema[word])
    if "allOf" in schema:
        return expected(schema["allOf"][0], root)
    return _of_type(schema, root)


def shown(value: Any, most: int = 60) -> str:
    """A value as the user wrote it, cut to one readable line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 1] + "…"


def _of_type(schema: Schema, root: Schema) -> str:
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return f"a list [{', '.join(expected(part, root) for part in schema['prefixItems'])}]"
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        plural = _PLURALS.get(schema.get("items", {}).get("type", ""), "values")
        if least and least == most:
            return f"a list of {least} {plural}"
        return f"a {'non-empty ' if least else ''}list{'' if plural == 'values' else f' of {plural}'}"
    name = _NAMES.get(kind or "", "any value")
    limits = [f"{sign} {schema[word]}" for word, sign in _LIMITS.items() if word in schema]
    return " ".join([name, " and ".join(limits)]) if limits else name


def _either(parts: Any) -> str:
    *first, last = dict.fromkeys(parts)
    return f"{', '.join(first)} or {last}" if first else last


_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "object": "an object",
    "null": "null",
}
_PLURALS = {"integer": "whole numbers", "number": "numbers", "string": "strings", "object": "objects", "array": "lists"}
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": is_number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _elements(value: Any, schema: Schema, root: Schema) -> bool:
    if not isinstance(value, list):
        return True
    prefix, rest = schema.get("prefixItems", []), schema.get("items", True)
    return all(fits(v, prefix[i] if i < len(prefix) else rest, root) for i, v in enumerate(value))


def _members(value: Any, schema: Schema, root: Schema) -> bool:
    if not isinstance(value, dict):
        return True
    known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    return all(fits(v, known.get(key, other), root) for key, v in value.items())


def _if_then(value: Any, schema: Schema, root: Schema) -> bool:
    return fits(value, schema.get("then" if fits(value, schema["if"], root) else "else", True), root)


_WORDS: dict[str, Callable[[Any, Schema, Schema], bool]] = {
    "$ref": lambda v, s, root: fits(v, resolve(s, root), root),
    "type": lambda v, s, root: any(_TYPES[t](v) for t in ([s["type"]] if isinstance(s["type"], str) else s["type"])),
    "enum": lambda v, s, root: any(_same(v, choice) for choice in s["enum"]),
    "const": lambda v, s, root: _same(v, s["const"]),
    "anyOf": lambda v, s, root: any(fits(v, part, root) for part in s["anyOf"]),
    "oneOf": lambda v, s, root: sum(fits(v, part, root) for part in s["oneOf"]) == 1,
    "allOf": lambda v, s, root: all(fits(v, part, root) for part in s["allOf"]),
    "if": _if_then,
    "minimum": lambda v, s, root: not is_number(v) or v >= s["minimum"],
    "exclusiveMinimum": lambda v, s, root: not is_number(v) or v > s["exclusiveMinimum"],
    "maximum": lambda v, s, root: not is_number(v) or v <= s["maximum"],
    "exclusiveMaximum": lambda v, s, root: not is_number(v) or v < s["exclusiveMaximum"],
    "minLength": lambda v, s, root: not isinstance(v, str) or len(v) >= s["minLength"],
    "pattern": lambda v, s, root: not isinstance(v, str) or re.search(s["pattern"], v) is not None,
    "minItems": lambda v, s, root: not isinstance(v, list) or len(v) >= s["minItems"],
    "maxItems": lambda v, s, root: not isinstance(v, list) or len(v) <= s["maxItems"],
    "prefixItems": _elements,
    "items": _elements,
    "required": lambda v, s, root: not isinstance(v, dict) or all(key in v for key in s["required"]),
    "properties": _members,
    "additionalProperties": _members,
}
