"""The page of `prepare.py explore`: one file that needs neither network nor the files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from report.page.gallery import Thumb
from report.page.page import templates

_WIDTH, _HEIGHT, _FOOT = 720.0, 200.0, 22.0


@dataclass(frozen=True)
class Sheet:
    """Pictures of one class; count: images of the class in all."""

    attribute: str
    name: str
    count: int
    pictures: Sequence[Thumb]


@dataclass(frozen=True)
class ViewSheet:
    """Some images as a view makes them; images: data URIs of the draws for each of them. name: of the view; used: for
    what."""

    name: str
    used: str
    images: Sequence[Sequence[str]]


@dataclass(frozen=True)
class DataPage:
    """source: the kinds of data sets and their folders. check: what explore.json holds. views: of the same images."""

    title: str
    source: str
    check: Mapping[str, Any]
    sheets: Sequence[Sheet]
    views: Sequence[ViewSheet] = ()


@dataclass(frozen=True)
class Bar:
    """One piece of a histogram in the units of its picture; `series` numbers its color."""

    x: float
    y: float
    width: float
    height: float
    series: int
    title: str


def render_data_page(page: DataPage) -> str:
    """The page as HTML; all text is escaped."""
    ages = page.check["ages"]
    chart = {"width": _WIDTH, "height": _HEIGHT, "foot": _FOOT}
    bars, ticks = age_bars(ages) if ages else ([], [])
    by_attribute: dict[str, list[Sheet]] = {}
    for sheet in page.sheets:
        by_attribute.setdefault(sheet.attribute, []).append(sheet)
    template = templates().get_template("data.html.j2")
    return template.render(page=page, check=page.check, bars=bars, ticks=ticks, chart=chart, sheets=by_attribute)


def age_bars(ages: Mapping[str, Any]) -> tuple[list[Bar], list[tuple[float, str]]]:
    """Stacked bars of the age histogram, and (x, age) of the axis."""
    series = ages["series"]
    totals = [sum(column) for column in zip(*series.values())]
    step, most = _WIDTH / len(totals), max(totals)
    bars = []
    for index, total in enumerate(totals):
        first = ages["first"] + index * ages["width"]
        said = ", ".join(f"{name} {counts[index]:,}" for name, counts in series.items())
        title, top = f"{first} to {first + ages['width'] - 1}: {total:,} ({said})", 0.0
        for number, counts in enumerate(series.values()):
            height = counts[index] / most * (_HEIGHT - _FOOT)
            if height:
                y = _HEIGHT - _FOOT - top - height
                bars.append(Bar(index * step + 1, y, step - 2, height, number, title))
            top += height
    every = max(1, -(-len(totals) // 12))
    return bars, [(i * step, str(ages["first"] + i * ages["width"])) for i in range(0, len(totals), every)]
