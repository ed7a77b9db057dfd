"""Components: classes and functions that a config chooses by `type` and calls with `args`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType, UnionType
from typing import Any, get_args

from pydantic import ValidationError

from utils.config.layers import Key, Problem, dotted
from utils.config.schema import Component, Config
from utils.config.signature import Lookup, Nested, Signature, component_problems, describe, evaluate, with_tuples
from utils.errors import ConfigError, did_you_mean

__all__ = ["PLACES", "Kind", "Nested", "components_of", "config_problems", "tree_problems"]

# Where a config chooses components, and of which kind; `*` is every element of a list or object.
PLACES = {
    "dataset": "dataset",
    "dataset.*": "dataset",
    "views.preprocess": "preset",
    "views.preprocess.*": "transform",
    "views.train": "preset",
    "views.train.*": "transform",
    "views.train_of.*.*": "preset",
    "views.train_of.*.*.*": "transform",
    "views.weak": "preset",
    "views.weak.*": "transform",
    "views.strong": "preset",
    "views.strong.*": "transform",
    "views.eval": "preset",
    "views.eval.*": "transform",
    "arch": "arch",
    "loss": "loss",
    "loss.*": "loss",
    "metrics.*": "metric",
    "metrics.*.*": "metric",
    "optimizer": "optimizer",
    "lr_scheduler": "lr_scheduler",
    "trainer": "trainer",
}

Spec = Component | Mapping[str, Any] | str


@dataclass(frozen=True)
class Kind:
    """What a config may choose for one purpose, and how it is called.

    modules: searched in this order; a name counts if it is public and defined in the module or its package, or in its
    `__all__`. base: only subclasses count, and functions annotated to return one. only: the names that count, if not
    all. provided: parameters that the framework passes, so a config may not. keyword_only: a config gives the
    keyword-only parameters, the framework the others; `build` binds a function of such a kind instead of calling it.
    """

    name: str
    modules: tuple[ModuleType, ...]
    base: type | UnionType | None = None
    provided: frozenset[str] = frozenset()
    keyword_only: bool = False
    only: frozenset[str] | None = None

    @functools.cached_property
    def members(self) -> dict[str, Callable[..., Any]]:
        """Name -> class or function."""
        found: dict[str, Callable[..., Any]] = {}
        for module in self.modules:
            for name in getattr(module, "__all__", dir(module)):
                member = getattr(module, name, None)
                if member is not None and name not in found and self._counts(name, member, module):
                    found[name] = member
        return found

    def names(self) -> list[str]:
        return sorted(self.members)

    def find(self, name: str, where: str) -> Callable[..., Any]:
        """The class or function. Raises ConfigError naming the nearest one."""
        if name not in self.members:
            raise ConfigError(f"{where}.type: no {self.name} '{name}'{did_you_mean(name, self.members)}")
        return self.members[name]

    def signature(self, name: str, kinds: Mapping[str, Kind] | None = None) -> Signature:
        """What a config may give to this member. kinds: those that its own arguments may hold."""
        bases = {kind.name: kind.base for kind in self._all(kinds).values() if kind.base is not None}
        return describe(self.members[name], self.provided, self.keyword_only, bases)

    def problems(self, component: Spec, where: str, kinds: Mapping[str, Kind] | None = None) -> list[str]:
        """What is wrong with a component, each line starting with `where`."""
        found = component_problems(_plain(component), (), self.name, _Live(self._all(kinds)))
        return [_line(where, problem) for problem in found]

    def build(self, component: Spec, where: str, kinds: Mapping[str, Kind] | None = None, /, **provided: Any) -> Any:
        """The object. Of `provided`, the names in `self.provided` are passed to those that take them, others always.

        Raises ConfigError for a wrong type or argument, also if the constructor itself refuses it; TypeError if
        something that the framework must provide is missing.
        """
        problems = self.problems(component, where, kinds)
        if problems:
            raise ConfigError(problems)
        spec = _plain(component)
        name, args = (spec, {}) if isinstance(spec, str) else (spec["type"], dict(spec.get("args", {})))
        target = self.members[name]
        for arg, parameter in self.signature(name, kinds).parameters.items():
            if parameter.built and args.get(arg) is not None:
                kind = self._all(kinds)[str(parameter.kind)]
                shared = {key: value for key, value in provided.items() if key in kind.provided}
                args[arg] = _build_nested(args[arg], f"{where}.args.{arg}", kind, kinds, shared)
            elif arg in args:
                args[arg] = with_tuples(args[arg], parameter.schema)
        takes = inspect.signature(target).parameters
        args |= {key: value for key, value in provided.items() if key in takes or key not in self.provided}
        if self.keyword_only and not inspect.isclass(target):
            return functools.partial(target, **args)
        inspect.signature(target).bind(**args)  # what is missing here is our fault, not the config's
        try:
            return target(**args)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"{where}.args{text}" for text in _refusals(name, error)) from error

    def _all(self, kinds: Mapping[str, Kind] | None) -> Mapping[str, Kind]:
        return {self.name: self} if kinds is None else kinds

    def _counts(self, name: str, member: Any, module: ModuleType) -> bool:
        if not (inspect.isclass(member) or inspect.isfunction(member)) or name.startswith("_"):
            return False
        home = member.__module__
        is_own = f"{home}.".startswith(f"{module.__name__}.") or name in getattr(module, "__all__", ())
        if not is_own or (self.only is not None and name not in self.only) or inspect.isabstract(member):
            return False
        if self.base is None:
            return True
        if inspect.isclass(member):
            return issubclass(member, self.base) and member not in (self.base, *get_args(self.base))
        returned = evaluate(inspect.signature(member).return_annotation, member)
        return inspect.isclass(returned) and issubclass(returned, self.base)


def config_problems(config: Config, kinds: Mapping[str, Kind]) -> list[str]:
    """What is wrong with the components of a whole config: unknown types, unknown, missing and ill-typed arguments."""
    return [config.line(problem) for problem in tree_problems(config.to_dict(), _Live(kinds))]


def tree_problems(tree: Mapping[str, Any], lookup: Lookup) -> Iterator[Problem]:
    """What is wrong with the components of a config as JSON values, which need not be valid otherwise."""
    for key, kind, component in components_of(tree):
        if kind == "transform" and isinstance(component, str) and "preset" in lookup.kinds:
            if component in lookup.names("preset"):
                continue
            if lookup.lacks(kind, component):
                near = did_you_mean(component, [*lookup.names("preset"), *lookup.names(kind)])
                yield Problem(key, f"no preset or transform '{component}'{near}")
                continue
        if kind in lookup.kinds:
            yield from component_problems(component, key, kind, lookup)


def components_of(tree: Mapping[str, Any]) -> Iterator[tuple[Key, str, Any]]:
    """(key, kind, component) for every place of a config, which need not be valid, that names a component."""
    for place, kind in PLACES.items():
        if place == "dataset.*" and not isinstance(tree.get("dataset"), list):
            continue
        for key, component in _at(tree, place.split(".")):
            named = component.get("type") if isinstance(component, Mapping) else component
            if isinstance(named, str):
                yield key, kind, component


def _at(node: Any, path: Sequence[str]) -> Iterator[tuple[Key, Any]]:
    """(key, value) of what a place such as `loss.*` means below `node`."""
    if not path:
        yield (), node
        return
    name, *rest = path
    inside: Iterable[tuple[Any, Any]] = ()
    if name != "*":
        inside = [(name, node.get(name))] if isinstance(node, Mapping) else ()
    elif isinstance(node, list):
        inside = enumerate(node)
    elif isinstance(node, Mapping) and "type" not in node:
        inside = node.items()
    for part, child in inside:
        for key, value in _at(child, rest):
            yield (part, *key), value


@dataclass(frozen=True)
class _Live:
    """The classes themselves."""

    kinds: Mapping[str, Kind]

    def names(self, kind: str) -> Collection[str]:
        return self.kinds[kind].members

    def lacks(self, kind: str, name: str) -> bool:
        return name not in self.kinds[kind].members

    def signature(self, kind: str, name: str) -> Signature | None:
        return self.kinds[kind].signature(name, self.kinds) if name in self.kinds[kind].members else None


def _refusals(name: str, error: Exception) -> list[str]:
    """Why a constructor refused its arguments; pydantic's reasons, which albumentations hides in a text, one by one."""
    for reason in (error, error.__cause__, error.__context__):
        if isinstance(reason, ValidationError):
            found = [(dotted(e["loc"]), e["msg"].removeprefix("Value error, ")) for e in reason.errors()]
            return [f"{'.' if arg else ''}{arg}: {name}: {text}" for arg, text in found]
    return [f": {name}: {' '.join(str(error).split()) or type(error).__name__}"]


def _build_nested(
    value: Any, where: str, kind: Kind, kinds: Mapping[str, Kind] | None, provided: dict[str, Any]
) -> Any:
    if isinstance(value, list):
        return [kind.build(part, f"{where}[{i}]", kinds, **provided) for i, part in enumerate(value)]
    return kind.build(value, where, kinds, **provided)


def _plain(component: Spec) -> Any:
    return {"type": component.type, "args": component.args} if isinstance(component, Component) else component


def _line(where: str, problem: Problem) -> str:
    place = dotted(problem.key)
    return f"{where}{'' if not place or place.startswith('[') else '.'}{place}: {problem.text}"
