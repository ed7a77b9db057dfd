"""Prepare data: python prepare.py COMMAND (each with --help)."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from utils.errors import UserError

Command = Callable[[argparse.Namespace], None]


def main(argv: list[str] | None = None) -> int:
    """Parse, run, return the exit code: 0 done, 2 the user's input is wrong, 130/143 stopped by a signal."""
    args = build_parser().parse_args(argv)
    run: Command = args.run
    signal.signal(signal.SIGTERM, _stop)
    try:
        run(args)
    except UserError as error:
        print(f"prepare.py {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare.py", description="Prepare data for training.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_demo,):
        add(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    if write_demo(args.out, settings, args.processes, args.force, _show_progress):
        print(f"{args.out}: {args.count} generated faces, seed {args.seed}, {time.monotonic() - start:.0f} s")
    else:
        print(f"{args.out}: already there with the same settings")


def _show_progress(done: int, total: int) -> None:
    """A counter on a terminal, ten lines elsewhere."""
    if sys.stdout.isatty():
        print(f"\rdrawing {done}/{total}", end="\n" if done == total else "", flush=True)
    elif done == total or done % max(1, total // 10) == 0:
        print(f"drawing {done}/{total}", flush=True)


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
