"""The config of a k-fold training: that of its first fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.config import Config, load_config
from utils.config.layers import Problem, override, read_layer
from utils.errors import ConfigError


def load_fold_config(path: str | Path, overrides: Sequence[str] = (), folds: int | None = None) -> Config:
    """`load_config`, for the first of so many folds where `folds` says how many there are.

    Raises ConfigError also where the config itself names a fold, or another number of them.
    """
    if folds is None:
        return load_config(path, overrides)
    layer, _ = override(read_layer(path), overrides)
    split = layer.tree.get("split")
    given = split if isinstance(split, dict) else {}
    if given.get("fold") is not None:
        text = f"--folds {folds} trains every fold, not number {given['fold']} alone; leave out one of the two"
        raise ConfigError(layer.line(Problem(("split", "fold"), text)))
    if given.get("folds") not in (None, folds):
        text = f"--folds asks for {folds} folds, the config for {given['folds']}; leave out one of the two"
        raise ConfigError(layer.line(Problem(("split", "folds"), text)))
    return load_config(path, [*overrides, f"split.folds={folds}", "split.fold=1"])
