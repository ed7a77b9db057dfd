"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    from utils.config import Config


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


def add_config(parser: argparse.ArgumentParser) -> None:
    """For commands that are about a config's data; `config_of` reads it."""
    parser.add_argument("-c", "--config", type=Path, required=True, help="the config whose data is meant")
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="set one key of the config"
    )


def config_of(args: argparse.Namespace) -> Config:
    from utils.config import load_config

    return load_config(args.config, args.set)


def workers_of(args: argparse.Namespace) -> int:
    """--workers, or one per core that this process may use. Raises UserError for less than 1."""
    if args.workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: expected at least 1")
    return int(args.workers)
