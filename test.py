"""Score checkpoints and write a report, or a submission:  python test.py --resume saved/model.pth"""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.arguments import add_overrides, add_vote
from utils.command import exit_codes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--resume",
        nargs="+",
        type=Path,
        required=True,
        metavar="CHECKPOINT",
        help="one checkpoint, or several: shared heads vote, different heads complement each other",
    )
    add_overrides(parser, "dataset.args.root=DIR (of several: dataset.0.args.root)")
    parser.add_argument("-d", "--device", default="auto", help="cpu, cuda, cuda:1, mps or auto (default)")
    parser.add_argument(
        "--split",
        choices=["valid", "test", "train", "all"],
        help="which rows to score (default: valid)",
    )
    add_vote(parser)
    parser.add_argument(
        "--tta",
        nargs="+",
        action="extend",
        default=[],
        metavar="VIEW",
        help="average with further views: hflip, crop, shift_left, shift_right, shift_up, shift_down",
    )
    parser.add_argument(
        "--near-years",
        type=int,
        metavar="N",
        help="count mistakes of age at most so many years from a class boundary (default: 2)",
    )
    parser.add_argument(
        "--fit",
        nargs="+",
        default=[],
        metavar="WHAT",
        help="fit temperature, thresholds or both on valid and write calibration.json into the report's folder",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="apply a calibration.json that --fit wrote for these checkpoints",
    )
    parser.add_argument(
        "--by",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN",
        help="scores apart for each value of an attribute or of another column, such as mask, race or dataset",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        default=None,
        help="pictures of what speaks for the predictions (Grad-CAM) in the report; for one checkpoint",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the report's folder (default: report/ in the run's folder)"
    )
    parser.add_argument(
        "--submission",
        type=Path,
        metavar="FILE",
        help="instead of scoring, predict the mask competition's evaluation images and write its ImageID,ans file",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with exit_codes():
        from report.slices import format_slices
        from report.table import format_table
        from trainer.ensemble import Ensemble
        from trainer.evaluate import test_checkpoints
        from trainer.submission import submit
        from utils.device import choose_device
        from utils.errors import UserError
        from utils.files import check_output

        for option, path, folder in (("--out", arguments.out, True), ("--submission", arguments.submission, False)):
            if path is not None:
                check_output(path, option, folder)
        ensemble = Ensemble(arguments.resume, arguments.vote, arguments.weights, arguments.tta, arguments.calibration)
        given = (ensemble, choose_device(arguments.device), arguments.config, arguments.set)
        if arguments.submission is not None:
            for option in ("split", "out", "near_years", "fit", "explain", "by"):
                if getattr(arguments, option) not in (None, []):
                    name = f"--{option.replace('_', '-')}"
                    raise UserError(f"{name}: a submission is not scored, and is one file; leave it out")
            submit(*given, arguments.submission)
            return
        metrics, out, notes = test_checkpoints(
            *given,
            arguments.split or "valid",
            arguments.out,
            arguments.near_years,
            arguments.fit,
            bool(arguments.explain),
            arguments.by,
        )
        for note in notes:
            print(f"note: {note}")
        print("\n\n".join(filter(None, [format_table(metrics), format_slices(metrics["by"])])))
        print(f"report: {out / 'index.html'}")


if __name__ == "__main__":
    main()
