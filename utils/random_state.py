"""Randomness as a pure function of (seed, what, where): nothing to replay on resume (big_vision's rule)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from utils.errors import UserError


def make_rng(*key: int) -> np.random.Generator:
    """A generator that depends on the whole key only, e.g. (seed, stream, pass)."""
    return np.random.default_rng(np.random.SeedSequence(key))


def sample_seeds(seed: int, *key: int, positions: np.ndarray) -> np.ndarray:
    """One seed per position ([N] int64 -> uint32), independent of batch and worker (splitmix64's finaliser)."""
    base = int(np.random.SeedSequence((seed, *key)).generate_state(1, np.uint64)[0])
    with np.errstate(over="ignore"):
        z = np.asarray(positions, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(base)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def hashed(*key: int) -> int:
    """63 bits that depend on every number of the key and on their order (splitmix64's finaliser after each)."""
    z = 0
    for part in key:
        z = (z + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        z ^= z >> 31
    return z >> 1


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch (all devices) for one training step, so that dropout is a function of (seed, step, rank)."""
    key = hashed(seed, 7, step, rank)
    if torch.cuda.is_initialized() or torch.backends.mps.is_available():
        torch.manual_seed(key)
    else:  # torch.manual_seed would queue a call, with a stack trace, for a CUDA that may come
        torch.default_generator.manual_seed(key)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch, for code that draws outside the keyed generators (model initialisation).

    Raises UserError if torch cannot take it.
    """
    if seed >= 2**64:
        raise UserError(f"seed: expected at most {2**64 - 1}, got {seed}")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Every global random state as plain python and tensors (readable with weights_only=True)."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    assert isinstance(keys, np.ndarray)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state`; CUDA states are restored only where as many devices exist."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
