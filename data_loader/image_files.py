"""What the image files of a data set are: sizes, modes, damage, copies, and what else lies around."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_loader.readers.celeba_annotation import MASKS
from data_loader.readers.image_folder import images_below

_MOST_SIZES = 12
_MOST_NAMES = 20


@dataclass(frozen=True)
class ImageFile:
    """mode: PIL's, such as RGB, RGBA, L, CMYK. digest: SHA-256 of the content. problem: '' for an image in order."""

    mode: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    digest: str = ""
    problem: str = ""


def inspect(file: Path) -> ImageFile:
    """Decodes the whole image: one that was cut off while copying has a header like any other."""
    try:
        data = file.read_bytes()
    except OSError as error:
        return ImageFile(problem="missing" if isinstance(error, FileNotFoundError) else f"unreadable: {error.strerror}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")
            image.load()
            return ImageFile(image.mode, str(image.format), *image.size, digest)
    except Exception as error:  # PIL's plug-ins raise half a dozen types for damaged files
        return ImageFile(digest=digest, problem=f"unreadable: {str(error).splitlines()[0].partition(' <')[0]}")


def inspect_all(
    files: Sequence[Path], workers: int = 1, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[ImageFile]:
    pool, found = ThreadPoolExecutor(max(1, workers)), []
    try:
        for facts in pool.map(inspect, files):
            found.append(facts)
            progress(len(found), len(files))
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def describe_files(paths: Sequence[str], facts: Sequence[ImageFile], roots: Mapping[str, Path]) -> dict[str, Any]:
    """Counts of sizes, modes and formats; names of missing and damaged files; hidden and unused files below `roots`.

    roots: the folder of each data set, by the name that its paths begin with, '' where there is one.
    """
    whole = [fact for fact in facts if not fact.problem]
    sizes = Counter((fact.width, fact.height) for fact in whole).most_common()
    rest = sum(count for _, count in sizes[_MOST_SIZES:])
    bad = [(path, fact.problem) for path, fact in zip(paths, facts) if fact.problem]
    below = (names for root in roots.values() for _, _, names in os.walk(root))
    hidden = [name for names in below for name in names if name.startswith(".")]
    used = set(paths)
    there = (f"{name}/{path}" if name else path for name, root in roots.items() for path in images_below(root))
    unused = [path for path in there if path not in used and MASKS not in path.split("/")]
    return {
        "sizes": [{"width": w, "height": h, "images": count} for (w, h), count in sizes[:_MOST_SIZES]],
        "other_sizes": rest,
        "different_sizes": len(sizes),
        "smallest_side": min((min(fact.width, fact.height) for fact in whole), default=0),
        "modes": dict(Counter(fact.mode for fact in whole).most_common()),
        "formats": dict(Counter(fact.format for fact in whole).most_common()),
        "missing": [path for path, problem in bad if problem == "missing"],
        "unreadable": {path: problem.removeprefix("unreadable: ") for path, problem in bad if problem != "missing"},
        "apple_double": sum(name.startswith("._") for name in hidden),
        "other_hidden": sum(not name.startswith("._") for name in hidden),
        "unused": len(unused),
        "unused_such_as": unused[:_MOST_NAMES],
    }
