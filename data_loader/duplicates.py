"""Images that are there more than once: found by content or likeness, and kept on one side of the split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_loader.fingerprints import Fingerprints, fingerprints
from data_loader.label_frame import LabelFrame

BITS = 4
DIFFERENCE = 6.0
_BLOCK = 256
_PAIRS = 1 << 15


def merge_duplicates(
    frame: LabelFrame, kind: str, folder: Path, tell: Callable[[str], None] = lambda _: None
) -> LabelFrame:
    """The frame with the groups of duplicates made one, called by the first of their names.

    kind: "exact" (files of the same content) or "near" (those, and images that look the same). folder: of the
    fingerprints that are kept. Raises UserError for files that are missing or no images.
    """
    table = duplicates(frame, kind, folder, tell)
    merged = frame.with_rows(frame.rows.assign(group=table["group"].to_numpy()))
    return merged.note(describe(frame, table, kind))


def identical_across(frame: LabelFrame, split: pd.Series) -> list[tuple[str, str]]:
    """Pairs of paths whose files have the same content and are on two sides of `split`, each file in one pair. Only
    files of the same size are read."""
    sizes: dict[int, list[int]] = {}
    for row, path in enumerate(frame.rows["path"]):
        with suppress(OSError):
            sizes.setdefault(frame.file(path).stat().st_size, []).append(row)
    first: dict[bytes, int] = {}
    pairs = []
    for rows in sizes.values():
        for row in rows if split.iloc[rows].nunique() > 1 else ():
            content = hashlib.blake2b(frame.file(frame.rows["path"].iloc[row]).read_bytes()).digest()
            other = first.setdefault(content, row)
            if split.iloc[row] != split.iloc[other]:
                pairs.append((str(frame.rows["path"].iloc[other]), str(frame.rows["path"].iloc[row])))
    return pairs


def duplicates(
    frame: LabelFrame, kind: str, folder: Path, tell: Callable[[str], None] = lambda _: None
) -> pd.DataFrame:
    """One row per image, in the order of `frame`, with the columns

    path; group: after merging; kind: `exact`, `near`, or `` for the first image of a cluster and for single ones;
    duplicate_of: the first image of the same content, or that looks the same ('' where kind is); labels_agree: bool,
    no attribute that both have a label for differs. The first of several images is the one whose path sorts first.
    """
    found = fingerprints([frame.file(path) for path in frame.rows["path"]], folder, tell)
    content = np.unique(found.content, axis=0, return_inverse=True)[1].reshape(-1)
    cluster = look_alikes(found, content) if kind == "near" else content
    by_path = np.argsort(frame.rows["path"].to_numpy(dtype=object), kind="stable")
    same, alike = _first_of(content, by_path), _first_of(cluster, by_path)
    rows = np.arange(len(frame))
    first = np.where(same != rows, same, alike)
    kinds = np.where(same != rows, "exact", np.where(alike != rows, "near", ""))
    agree = np.ones(len(frame), dtype=bool)
    for attribute in frame.attributes:
        own = frame.rows[attribute].to_numpy()
        agree &= (own == own[first]) | (own < 0) | (own[first] < 0)
    paths = frame.rows["path"].to_numpy(dtype=object)
    return pd.DataFrame(
        {
            "path": paths,
            "group": _merged_groups(frame.rows["group"], cluster),
            "kind": kinds,
            "duplicate_of": np.where(kinds == "", "", paths[first]),
            "labels_agree": agree,
        }
    )


def describe(frame: LabelFrame, table: pd.DataFrame, kind: str) -> str:
    """`duplicates near: 106 exact and 180 near duplicates of 9,778 images; …`."""
    exact, near = ((table["kind"] == name).sum() for name in ("exact", "near"))
    before, after = frame.rows["group"].nunique(), table["group"].nunique()
    counted = f"{exact:,} exact" + (f" and {near:,} near" if kind == "near" else "")
    text = f"duplicates {kind}: {counted} duplicates among {len(table):,} images; {before:,} groups became {after:,}"
    wrong = int((~table["labels_agree"]).sum())
    return f"{text}; {wrong:,} have another label than their double (prepare.py duplicates lists them)"


def look_alikes(found: Fingerprints, content: np.ndarray) -> np.ndarray:
    """[N] int64: the cluster of each image; clusters are chains of images that look the same.

    content: int64 [N] 0 … C - 1; images of the same content are compared once.
    """
    first = np.unique(content, return_index=True)[1]
    pairs = near_pairs(found.dhash[first], found.small[first])
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(first), len(first)))
    return connected_components(graph, directed=False)[1][content].astype(np.int64)


def near_pairs(dhash: np.ndarray, small: np.ndarray) -> np.ndarray:
    """[P, 2] int64: images whose difference hashes differ in at most 4 of 64 bits and whose small grey versions differ
    by less than 6 of 255 grey levels on average.

    The average difference is at least the difference of the averages, so only images of a like brightness are compared.
    """
    brightness = small.mean(axis=1)
    order = np.argsort(brightness, kind="stable")
    dhash, brightness, values = dhash[order], brightness[order], small[order].astype(np.int16)
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(order), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(order)))
        stop = np.searchsorted(brightness, brightness[rows[-1]] + DIFFERENCE)
        bits = np.bitwise_count(dhash[rows][:, None] ^ dhash[None, start:stop])
        pairs = np.argwhere(bits <= BITS) + start
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        for at in range(0, len(pairs), _PAIRS):
            one, other = pairs[at : at + _PAIRS].T
            alike = np.abs(values[one] - values[other]).mean(axis=1) < DIFFERENCE
            found.append(order[pairs[at : at + _PAIRS][alike]])
    return np.concatenate(found)


def _first_of(cluster: np.ndarray, by_path: np.ndarray) -> np.ndarray:
    """[N] int64: the row of each cluster that comes first in `by_path`."""
    first = np.zeros(cluster.max(initial=-1) + 1, dtype=np.int64)
    first[cluster[by_path[::-1]]] = by_path[::-1]
    return first[cluster]


def _merged_groups(group: pd.Series, cluster: np.ndarray) -> np.ndarray:
    """[N] str: groups that a cluster connects, by the name that sorts first."""
    code, names = pd.factorize(group, sort=True)
    count = len(names)
    nodes = count + cluster.max(initial=-1) + 1
    graph = coo_array((np.ones(len(code), bool), (code, count + cluster)), shape=(nodes, nodes))
    part = connected_components(graph, directed=False)[1][:count]
    return np.asarray(names, dtype=object)[np.unique(part, return_index=True)[1]][part[code]]
