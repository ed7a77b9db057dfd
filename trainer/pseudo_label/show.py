"""Pseudo-labels in TensorBoard and wandb: which values share a chart, and pictures of all charts now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from logger.run_logger import Panels, RunLogger

PICTURES = 8
"""At most so many pictures of a head in a run."""


def show_panels(logger: RunLogger, heads: Mapping[str, Sequence[str]]) -> None:
    logger.panels(partial(_panels, heads))


def show_picture(logger: RunLogger, heads: Mapping[str, Sequence[str]], run_dir: Path, step: int) -> None:
    """The charts of the report's page, from the epochs that metrics.csv has so far."""
    for head, classes in heads.items():
        logger.image(f"pseudo-labels/{head}", step, partial(_picture, run_dir / "metrics.csv", head, classes))


def is_due(epoch: int, epochs: int) -> bool:
    """Whether there is a picture after this epoch."""
    return epoch == epochs or epoch % -(-epochs // PICTURES) == 0


# matplotlib takes a third of a second to import; most runs' first picture comes later or never.


def _panels(heads: Mapping[str, Sequence[str]]) -> Panels:
    from report.pseudo_labels import all_charts

    return {
        f"pseudo-labels: {head}": {
            title: [line.column for line in lines] for title, lines in all_charts(head, classes).items()
        }
        for head, classes in heads.items()
    }


def _picture(metrics_csv: Path, head: str, classes: Sequence[str]) -> np.ndarray:
    import pandas as pd

    from report.pseudo_labels import pseudo_label_picture

    return pseudo_label_picture(pd.read_csv(metrics_csv), head, classes)
