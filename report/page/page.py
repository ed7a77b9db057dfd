"""index.html: one file that needs neither network nor the files beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from report.page.gallery import Cell, Picture
from report.pseudo_labels import PseudoLabelSection
from report.table import calibration_rows, describe_calibration, percent, score


@dataclass(frozen=True)
class Section:
    """What the page shows of one head; `slug` is unique on the page, `scores` is the head's part of metrics.json."""

    name: str
    slug: str
    scores: Mapping[str, Any]
    reliability: bytes
    cells: Sequence[Cell] = ()
    more_cells: int = 0
    unsure: Sequence[Picture] = ()
    cross_fitted: bytes = b""

    @property
    def classes(self) -> list[str]:
        return list(self.scores["per_class"])

    @property
    def shown(self) -> set[tuple[int, int]]:
        """Which cells of the confusion matrix have pictures to link to."""
        return {(cell.true, cell.predicted) for cell in self.cells}


@dataclass(frozen=True)
class Page:
    """Everything on the page; `curves` maps a title to a PNG, `errors` are lines about kinds of mistakes, `slices` the
    rows of a table for each column."""

    title: str
    about: str
    metrics: Mapping[str, Any]
    notes: Sequence[str]
    sections: Sequence[Section]
    curves: Mapping[str, bytes] = field(default_factory=dict)
    errors: Sequence[str] = ()
    pseudo_labels: Sequence[PseudoLabelSection] = ()
    slices: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)

    @property
    def explains(self) -> bool:
        """Whether there are pictures of what speaks for the predictions."""
        pictures = [
            picture
            for section in self.sections
            for picture in [*section.unsure, *(picture for cell in section.cells for picture in cell.pictures)]
        ]
        return any(picture.explained for picture in pictures)


def templates() -> jinja2.Environment:
    """The pages beside this file; all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=score, percent=percent, png=_png_uri)
    return environment


def render(page: Page) -> str:
    """The page as HTML."""
    environment = templates()
    environment.globals.update(calibration_rows=calibration_rows, describe_calibration=describe_calibration)
    return environment.get_template("index.html.j2").render(page=page)


def _png_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()
