"""Whether what the generated catalogue says of a component still holds, found out without importing it.

Someone who has just given a class a new argument must not be refused it because configs/schema.json is older.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


def origin(target: Callable[..., Any]) -> str:
    """`torch==2.14.1` for a library's class; `trainer/fixmatch.py:FixMatchTrainer#1f3a…` and its bases for our own.

    The number is a digest of the signature as written, so it changes when the catalogue does.
    """
    owners = inspect.getmro(target) if inspect.isclass(target) else (target,)
    marks = [f"{place}#{_signature_digest(place)}" for place in map(_place, owners) if place is not None]
    package = target.__module__.partition(".")[0]
    return " ".join(marks) or f"{package}=={_version(package)}"


def is_current(recorded: str) -> bool:
    """Whether the package has the same version, or the sources the same signatures, as when `origin` was called."""
    for mark in recorded.split():
        name, is_package, version = mark.partition("==")
        place, _, digest = mark.rpartition("#")
        if (_version(name) if is_package else _signature_digest(place)) != (version if is_package else digest):
            return False
    return True


def is_named_in_sources(name: str) -> bool:
    """Whether a class or function of this name may be somewhere in the project's packages."""
    word = re.compile(rf"\b{re.escape(name)}\b")
    packages = (folder.parent for folder in _ROOT.glob("*/__init__.py") if folder.parent.name != "tests")
    return any(word.search(file.read_text(encoding="utf-8")) for folder in packages for file in folder.rglob("*.py"))


def _place(owner: Any) -> str | None:
    """`folder/file.py:Name` if the class or function is the project's own."""
    file = getattr(sys.modules.get(owner.__module__), "__file__", None)
    path = Path(file or "/").resolve()
    if not path.is_relative_to(_ROOT) or "site-packages" in path.parts:
        return None
    return f"{path.relative_to(_ROOT).as_posix()}:{owner.__name__}"


def _signature_digest(place: str) -> str | None:
    """Digest of the arguments of a function, or of a class's own __init__; None if it is not there."""
    file, _, name = place.partition(":")
    try:
        nodes = ast.parse((_ROOT / file).read_text(encoding="utf-8")).body
    except (OSError, SyntaxError):
        return None
    node = _find(nodes, name)
    if node is None:
        return None
    function = _find(node.body, "__init__") if isinstance(node, ast.ClassDef) else node
    text = ast.unparse(function.args) if isinstance(function, ast.FunctionDef) else ""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _find(nodes: list[ast.stmt], name: str) -> ast.ClassDef | ast.FunctionDef | None:
    found = (node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name)
    return next(found, None)


def _version(package: str) -> str | None:
    """Without the build's suffix: 2.14.1+cpu has the signatures of 2.14.1."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None
