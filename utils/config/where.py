"""Messages about a key of the config name the file or the -s that its value comes from, whoever raises them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from utils.config.json_schema import Schema, child
from utils.config.layers import Key
from utils.config.schema import Config
from utils.errors import ConfigError, UserError

P = ParamSpec("P")
R = TypeVar("R")

# `split.from nope.csv: …`, `arch.args.freeze: …`, `split: …`, but not the table `metrics.csv: …`
_BEGIN = re.compile(r"(?:data set '[^']*': )?([a-z_]+)((?:\.\w+|\[\d+\])*)(?<!\.csv)(?<!\.json)[: ]")
_PART = re.compile(r"\[(\d+)\]|\.(\w+)")


def says_where(function: Callable[Concatenate[Config, P], R]) -> Callable[Concatenate[Config, P], R]:
    """For functions of a config: what data and components say of one of its keys (`arch.args.freeze: …`) begins with
    the source of its value (`configs/x.json: arch.args.freeze: …`), as what the check of the config itself says."""

    @functools.wraps(function)
    def called(config: Config, *args: P.args, **named: P.kwargs) -> R:
        try:
            return function(config, *args, **named)
        except ConfigError as error:
            error.problems = [with_source(config, line) for line in error.problems]
            error.args = ("\n".join(error.problems),)
            raise
        except UserError as error:
            error.args = (with_source(config, str(error)),)
            raise

    return called


def with_source(config: Config, text: str) -> str:
    """`text` after the source of the key that it begins with; as it is where it begins with none, or with a source."""
    found = _BEGIN.match(text)
    if found is None or not (found[2] or found[0].endswith(":")):
        return text
    key: Key = (found[1], *(int(number) if number else name for number, name in _PART.findall(found[2])))
    source = config._layer.source(key) if _is_key(key) else None
    return text if source is None else f"{source}: {text}"


def _is_key(key: Key) -> bool:
    """Whether there can be such a key: the table labels.csv is none. What is in `args` depends on the component."""
    root = Config.model_json_schema()
    schema: Schema = root
    for part in key:
        inner = child(schema, part, root)
        if inner is None or part == "args":
            return inner is not None
        schema = inner
    return True
