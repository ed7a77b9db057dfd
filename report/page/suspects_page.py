"""The page of `prepare.py suspects`: one file that needs neither network nor the files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from report.page.gallery import Thumb
from report.page.page import templates


@dataclass(frozen=True)
class Card:
    """One suspect label; number: of its row in the table."""

    number: int
    path: str
    label: str
    predicted: str
    p_label: float
    p_predicted: float
    pictures: Sequence[Thumb]


@dataclass(frozen=True)
class SuspectsPage:
    """fields: the cards of each attribute."""

    title: str
    source: str
    fields: Mapping[str, Sequence[Card]]


def render_suspects_page(page: SuspectsPage) -> str:
    """The page as HTML; all text is escaped."""
    return templates().get_template("suspects.html.j2").render(page=page)
