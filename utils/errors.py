"""Errors that are the user's to fix: one clear message, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """The user's input is wrong; the message names the file and key, what was expected and the nearest valid choice."""


class NothingToDo(Exception):
    """What was asked for is there already: the message says so, and the exit code is 0."""

    exit_code = 0


class ConfigError(UserError):
    """All problems of a config at once; `problems` holds one line each."""

    def __init__(self, problems: Iterable[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def raise_all(problems: Sequence[str], kind: type[UserError] = UserError) -> None:
    """Raises an error of this kind with a line for each problem (the first five of them), if there is one."""
    if problems:
        more = f"\n… and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise kind("\n".join(problems[:5]) + more)


def did_you_mean(name: str, choices: Iterable[str], most: int = 12) -> str:
    """A message's tail: the nearest of `choices`, or all of them if they are few."""
    names = sorted(set(choices))
    folded = {choice.lower(): choice for choice in names}
    near = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{folded[near[0]]}'?"
    if names and len(names) <= most:
        return f"; choose from {', '.join(names)}"
    return ""


def check_heads(given: Iterable[str], heads: Iterable[str], where: str) -> None:
    """Raises ConfigError, beginning with `where`, unless `given`, heads or "default", serves just these heads."""
    given, heads = list(given), list(heads)
    for name in given:
        if name != "default" and name not in heads:
            raise ConfigError(f"{where}: no head '{name}'{did_you_mean(name, heads)}")
    left = [head for head in heads if head not in given]
    if left and "default" not in given:
        raise ConfigError(f"{where}: nothing for the head '{left[0]}' and no 'default'")
