"""What a callable takes from a config: its signature as JSON Schema, and a component's args held against it.

The live classes (`components.py`) and the catalogue in configs/schema.json (`catalogue.py`) are both asked through
`Lookup`, so both give the same messages.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import itertools
import json
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, Union, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from utils.config.json_schema import Schema, branches, child, expected, fits, shown
from utils.config.layers import Key, Problem, is_per_head
from utils.errors import did_you_mean


@dataclass(frozen=True)
class Nested:
    """Marks a parameter that holds a component (or a list of them) of a kind: `Annotated[dict | str, Nested("align")]`.

    It is checked with the rest of the config and handed over as it is; the callee builds it. A bare string means no
    args; where the parameter may be null, "none" says so by name. per_head: it may also be {HEAD or "default": one}.
    """

    kind: str
    per_head: bool = False


@dataclass(frozen=True)
class Parameter:
    """An argument that a config may give. kind: of the components in it; built: they are built before the call;
    per_head: there may be one for each head."""

    schema: Schema
    required: bool = False
    kind: str | None = None
    built: bool = False
    per_head: bool = False


@dataclass(frozen=True)
class Signature:
    """What a callable takes from a config. open: other arguments too (**kwargs)."""

    parameters: Mapping[str, Parameter]
    open: bool = False


class Lookup(Protocol):
    """Component types by kind."""

    @property
    def kinds(self) -> Collection[str]: ...

    def names(self, kind: str) -> Collection[str]: ...

    def lacks(self, kind: str, name: str) -> bool:
        """Whether there surely is no such type."""

    def signature(self, kind: str, name: str) -> Signature | None: ...


# A component's args against a signature ------------------------------------------------------------------------------


def component_problems(component: Any, key: Key, kind: str, lookup: Lookup) -> Iterator[Problem]:
    """What is wrong with {"type", "args"}, or a bare type name, at `key` of the config."""
    shorthand = isinstance(component, str)
    name = component if shorthand else component.get("type")
    if not isinstance(name, str):
        text = f"expected {_name_of(kind)}"
        yield Problem((*key, "type"), f"missing; {text}" if name is None else f"{text}, got {shown(name)}")
        return
    args = {} if shorthand else component.get("args", {})
    signature = lookup.signature(kind, name)
    if signature is None:
        if lookup.lacks(kind, name):
            place = key if shorthand else (*key, "type")
            yield Problem(place, f"no {kind} '{name}'{did_you_mean(name, lookup.names(kind))}")
    elif isinstance(args, dict):
        yield from _args_problems(name, args, (*key, "args"), signature, lookup)


def _args_problems(name: str, args: dict, key: Key, signature: Signature, lookup: Lookup) -> Iterator[Problem]:
    parameters = signature.parameters
    for arg, value in args.items():
        if arg in parameters:
            yield from _value_problems(value, (*key, arg), parameters[arg], lookup)
        elif not signature.open:
            hint = did_you_mean(arg, parameters) if parameters else "; it has none"
            yield Problem((*key, arg), f"{name} has no argument '{arg}'{hint}")
    for arg, parameter in parameters.items():
        if parameter.required and arg not in args:
            yield Problem((*key, arg), f"missing; {name} needs {expected(parameter.schema)}")


def _value_problems(value: Any, key: Key, parameter: Parameter, lookup: Lookup) -> Iterator[Problem]:
    if not fits(value, parameter.schema):
        yield Problem(key, f"expected {expected(parameter.schema)}, got {shown(value)}")
    elif parameter.per_head and isinstance(value, dict) and is_per_head(value):
        one = dataclasses.replace(parameter, per_head=False)
        for head, component in value.items():
            yield from _value_problems(component, (*key, head), one, lookup)
    elif parameter.kind is not None and not (value == "none" and fits(None, parameter.schema)):
        several = isinstance(value, list)
        for i, component in enumerate(value if several else [value]):
            if component is not None:
                yield from _nested_problems(component, (*key, i) if several else key, parameter.kind, lookup)


def _nested_problems(component: Any, key: Key, kind: str, lookup: Lookup) -> Iterator[Problem]:
    if not isinstance(component, str | dict):
        yield Problem(key, f'expected {_name_of(kind)} or {{"type": NAME, "args": {{…}}}}, got {shown(component)}')
        return
    if isinstance(component, dict):
        allowed = ("type", "args")
        for extra in component:
            if extra not in allowed:
                yield Problem((*key, extra), f"unknown key{did_you_mean(extra, allowed)}")
        if not isinstance(component.get("args", {}), dict):
            yield Problem((*key, "args"), f"expected an object, got {shown(component['args'])}")
    yield from component_problems(component, key, kind, lookup)


def _name_of(kind: str) -> str:
    return f"the name of a{'n' if kind[0] in 'aeiou' else ''} {kind}"


# A callable's signature as JSON Schema -------------------------------------------------------------------------------


def describe(
    target: Callable[..., Any],
    provided: Collection[str] = (),
    keyword_only: bool = False,
    bases: Mapping[str, Any] = {},
) -> Signature:
    """The arguments that a config gives `target`: all but the `provided`, or the keyword-only ones.

    keyword_only: also that `**kwargs` of a class are the keyword-only arguments of the class it extends, if it has any.
    bases: kind -> base class; a parameter that takes such objects takes components of that kind.
    """
    parameters: dict[str, Parameter] = {}
    inherited, is_open = Signature({}), False
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            extended = _extended(target) if keyword_only else None
            inherited = describe(extended, provided, keyword_only, bases) if extended else inherited
            is_open = inherited.open or not inherited.parameters
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) or name in provided:
            continue
        elif parameter.kind is parameter.KEYWORD_ONLY or not keyword_only:
            parameters[name] = _describe_parameter(parameter, target, bases)
    return Signature({**inherited.parameters, **parameters}, is_open)


def _extended(target: Callable[..., Any]) -> type | None:
    """The class whose constructor comes after that of the class `target`."""
    if not inspect.isclass(target):
        return None
    constructors = (owner for owner in inspect.getmro(target) if "__init__" in vars(owner) and owner is not object)
    return next(itertools.islice(constructors, 1, None), None)


def _describe_parameter(
    parameter: inspect.Parameter, target: Callable[..., Any], bases: Mapping[str, Any]
) -> Parameter:
    annotation = evaluate(parameter.annotation, target)
    required = parameter.default is parameter.empty
    marks = [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Nested)]
    kind = marks[0].kind if marks else None
    per_head = bool(marks) and marks[0].per_head
    schema = type_schema(annotation)
    built = False
    if kind is None and (found := _kind_of_objects(annotation, bases)) is not None:
        kind, several = found
        built = True
        schema = {"type": "array"} if several else {"type": ["object", "string"]}
    return Parameter(_with_default(schema or {}, parameter.default), required, kind, built, per_head)


def _with_default(schema: Schema, default: Any) -> Schema:
    try:
        value = json.loads(json.dumps(default, allow_nan=False))
    except (TypeError, ValueError):
        return schema
    if not fits(value, schema):
        schema = {"anyOf": [schema, {"type": "null"} if value is None else {"const": value}]}
    return {**schema, "default": value}


def _kind_of_objects(annotation: Any, bases: Mapping[str, Any]) -> tuple[str, bool] | None:
    """(kind, whether a list) for `Base`, `list[Base]`, `Sequence[Base | Other]`, where the classes are of one kind."""
    several = get_origin(annotation) in _SEQUENCES
    member = get_args(annotation)[0] if several and get_args(annotation) else annotation
    classes = [c for c in (get_args(member) if _is_union(member) else (member,)) if c is not type(None)]
    if not classes or not all(inspect.isclass(c) for c in classes):
        return None
    return next(((kind, several) for kind, base in bases.items() if all(issubclass(c, base) for c in classes)), None)


def evaluate(annotation: Any, target: Callable[..., Any]) -> Any:
    """A postponed annotation in the name space of the function or class (or base class) that wrote it, else Any."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    holder = types.FunctionType((lambda: None).__code__, {})
    holder.__annotations__ = {"it": annotation}
    for owner in inspect.getmro(target) if inspect.isclass(target) else (target,):
        function = inspect.unwrap(owner.__init__ if inspect.isclass(owner) else owner)
        module = sys.modules.get(owner.__module__)
        for names in (getattr(function, "__globals__", {}), vars(module) if module else {}):
            try:
                return typing.get_type_hints(holder, _TYPING_NAMES | names, include_extras=True)["it"]
            except Exception:  # a name imported for type checkers only, or written in another name space
                continue
    return Any


_TYPING_NAMES = vars(typing) | vars(collections.abc)  # often imported for type checkers only
_TUPLE = {"x-tuple": True}
_SEQUENCES = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def type_schema(annotation: Any) -> Schema | None:
    """The JSON values that fit a type; None if no JSON value does (a Tensor, a function)."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in (Any, object):
        return {}
    if origin is Annotated:
        marks = [mark for mark in annotation.__metadata__ if not isinstance(mark, Nested)]
        inner = args[0]
        return type_schema(inner) if not marks or _is_union(inner) else _leaf(annotation)
    if _is_union(annotation):
        return _any_of([part for part in map(type_schema, args) if part is not None])
    if origin is tuple and Ellipsis not in args:
        parts = [type_schema(arg) for arg in args]
        schemas = [part for part in parts if part is not None]
        whole = {"type": "array", "prefixItems": schemas, "minItems": len(args), "maxItems": len(args), **_TUPLE}
        return whole if len(schemas) == len(parts) else None
    if origin in (tuple, *_SEQUENCES):
        element = type_schema(args[0])
        return None if element is None else {"type": "array", "items": element, **(_TUPLE if origin is tuple else {})}
    if origin in (dict, collections.abc.Mapping):
        element = type_schema(args[1])
        return None if element is None else {"type": "object", "additionalProperties": element}
    return _leaf(annotation)


def _any_of(parts: list[Schema]) -> Schema | None:
    unique = [part for i, part in enumerate(parts) if part not in parts[:i]]
    if {} in unique:
        return {}
    return {"anyOf": unique} if len(unique) > 1 else unique[0] if unique else None


def _leaf(annotation: Any) -> Schema | None:
    try:
        schema = TypeAdapter(annotation).json_schema()
    except (PydanticUserError, NameError, TypeError):
        return None
    schema.pop("title", None)
    return {} if "$ref" in json.dumps(schema) else schema


def with_tuples(value: Any, schema: Schema) -> Any:
    """A JSON value that fits, its lists made tuples where the type says so."""
    branch = next((part for part in branches(schema, schema) if fits(value, part, schema)), None)
    if branch is None or not isinstance(value, list | dict):
        return value
    items = value.items() if isinstance(value, dict) else enumerate(value)
    made = {key: with_tuples(part, child(branch, key, schema) or {}) for key, part in items}
    if isinstance(value, dict):
        return made
    return tuple(made.values()) if branch.get("x-tuple") else list(made.values())
