"""The tensors in a weight file of any program, read without running code from it."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError, did_you_mean

# Keys under which training programs keep a model's tensors, the most specific first.
CONTAINERS = ("state_dict", "model_state_dict", "model", "weight", "weights", "net", "network", "params", "model_ema")


def read_tensors(path: Path, key_in_file: str = "auto") -> tuple[dict[str, Tensor], str]:
    """The named tensors of a .pth or .safetensors file, and the (dotted) key they were found under, '' for none.

    Raises UserError, naming the file, if it is damaged, not a checkpoint, or holds pickled objects or no such key.
    """
    content, where = _read(path), ""
    if key_in_file != "auto":
        content, where = _descend(content, key_in_file, path), key_in_file
    else:
        if average := _our_average(content):
            return average, "ema.model"
        while inner := _container(content):
            content, where = content[inner], f"{where}.{inner}".strip(".")
    tensors = _tensors(content)
    if not tensors:
        raise UserError(f"arch.args.weights: {path} holds no named tensors{f' under {where!r}' if where else ''}")
    return tensors, where


def _read(path: Path) -> Any:
    where = f"arch.args.weights: {path}"
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # The arguments that training scripts like to save along: attributes only, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if blocked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{where} holds a pickled {blocked[1]}, which may run code when it is read; where the file comes from, "
                "save the tensors alone: torch.save(model.state_dict(), path)"
            ) from error
        raise UserError(f"{where} is not a PyTorch checkpoint; it begins with {_beginning(path)}") from error
    except EOFError as error:
        raise UserError(f"{where} is damaged: it ends too early ({path.stat().st_size:,} bytes)") from error
    except Exception as error:  # torch and safetensors raise half a dozen types for bytes they cannot make sense of
        raise UserError(f"{where} is damaged or not a checkpoint: {str(error).strip().splitlines()[0]}") from error


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return repr(file.read(24))[1:]


def _our_average(content: Any) -> dict[str, Tensor]:
    """In a checkpoint of this project the averaged weights, where there are any: they are the ones that were scored."""
    ours = isinstance(content, Mapping) and {"format", "config", "ema"} <= content.keys()
    return _tensors((content["ema"] or {}).get("model")) if ours else {}


def _descend(content: Any, dotted: str, path: Path) -> Any:
    for key in [dotted] if isinstance(content, Mapping) and dotted in content else dotted.split("."):
        if not isinstance(content, Mapping) or key not in content:
            keys = [str(name) for name in content] if isinstance(content, Mapping) else []
            near = did_you_mean(key, keys)
            raise UserError(f"arch.args.weights.key_in_file: {path} has no '{dotted}'{near}")
        content = content[key]
    return content


def _container(content: Any) -> str | None:
    """The key of the mapping inside `content` that holds the tensors, if they are not in `content` itself."""
    if not isinstance(content, Mapping):
        return None
    holding = [str(key) for key, value in content.items() if _holds_tensors(value)]
    known = [key for key in CONTAINERS if key in holding]
    return known[0] if known else holding[0] if len(holding) == 1 and not _tensors(content) else None


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(_tensors(value) or _container(value))


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
