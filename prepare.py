"""Prepare data: python prepare.py COMMAND (each with --help)."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from utils.command import exit_codes
from utils.errors import UserError

Commands = argparse._SubParsersAction  # what add_subparsers returns; argparse has no public name for it


def main(argv: list[str] | None = None) -> int:
    """Parse, run, return the exit code: 0 done, 2 the user's input is wrong, 130/143 stopped by a signal."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with exit_codes():
            args.run(args)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare.py", description="Prepare data for training.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_demo, _add_corrections):
        add(commands)
    return parser


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="draw faces to try everything out with",
        description="Draw generated faces in the layouts of CelebAMask-HQ and of the mask competition. "
        "The same settings always draw the same files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("data/demo"), help="folder to make")
    parser.add_argument("--count", type=int, default=4000, help="images in CelebAMask-HQ/")
    parser.add_argument("--size", type=int, default=128, help="height of the images in pixels")
    parser.add_argument("--seed", type=int, default=0, help="decides every picture")
    parser.add_argument("--persons", type=int, default=60, help="persons in mask_faces/train/, 7 photos each")
    parser.add_argument("--processes", type=int, default=None, help="drawing processes; None: one per core")
    parser.add_argument("--force", action="store_true", help="replace demo faces made with other settings")
    parser.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> None:
    from data_loader.demo_faces.writing import DemoSettings, write_demo

    start = time.monotonic()
    settings = DemoSettings(count=args.count, size=args.size, seed=args.seed, persons=args.persons)
    if write_demo(args.out, settings, args.processes, args.force, _progress("drawing")):
        print(f"{args.out}: {args.count} generated faces, seed {args.seed}, {time.monotonic() - start:.0f} s")
    else:
        print(f"{args.out}: already there with the same settings")


def _add_corrections(commands: Commands) -> None:
    parser = commands.add_parser(
        "corrections",
        help="check a corrections file against a config's data",
        description="Say what becomes of each row of a corrections file. Writes nothing; exit code 2 if a row matches "
        "no image, contradicts the data or another row, or is unclear.",
    )
    _add_config(parser)
    parser.add_argument("file", nargs="?", help="the CSV; without it the config's labels.corrections")
    parser.set_defaults(run=run_corrections)


def run_corrections(args: argparse.Namespace) -> None:
    config = _config(args)
    file = args.file or config.labels.corrections
    if file is None:
        raise UserError(f"{args.config}: labels.corrections is null; name the file: prepare.py corrections -c … FILE")

    from data_loader.corrections import audit_corrections
    from data_loader.prepare_labels import read_frame

    verdicts, text = audit_corrections(read_frame(config), file)
    for verdict in verdicts:
        print(f"{verdict.status:<13} {verdict}")
    if any(verdict.refused for verdict in verdicts):
        raise UserError(text)
    print(text)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", type=Path, required=True, help="the config whose data is meant")
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="set one key of the config"
    )


def _config(args: argparse.Namespace):
    from utils.config import load_config

    return load_config(args.config, args.set)


def _progress(doing: str):
    """A counter (done, total) on a terminal, ten lines elsewhere."""

    def show(done: int, total: int) -> None:
        if sys.stdout.isatty():
            print(f"\r{doing} {done:,}/{total:,}", end="\n" if done == total else "", flush=True)
        elif done == total or done % max(1, total // 10) == 0:
            print(f"{doing} {done:,}/{total:,}", flush=True)

    return show


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
