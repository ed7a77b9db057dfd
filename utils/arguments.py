"""Options that commands on checkpoints share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_vote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vote", choices=["soft", "hard"], default="soft", help="how several checkpoints combine")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        metavar="W",
        help="weight of each checkpoint in the vote (default: all alike)",
    )


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument("-c", "--config", type=Path, help="a config whose keys override the checkpoint's")
    parser.add_argument(
        "-s",
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override a config key, e.g. -s {example}",
    )
