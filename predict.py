"""Classify pictures:  python predict.py --resume saved/model.pth --out predictions.csv photos/"""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.arguments import add_overrides, add_vote
from utils.command import exit_codes
from utils.run_folder import is_run_folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    checkpoint = parser.add_argument_group("models")
    checkpoint.add_argument(
        "--resume",
        nargs="+",
        type=Path,
        required=True,
        metavar="CHECKPOINT",
        help="one checkpoint, or several: shared heads are averaged, different heads complement each other",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("predictions.csv"), help="table to write (default: %(default)s)"
    )
    add_vote(parser)
    parser.add_argument(
        "--tta",
        action="append",
        default=[],
        metavar="VIEW",
        help="average with a further view, may be given several times: hflip, crop, shift_left, shift_right, shift_up, "
        "shift_down",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="a calibration.json that test.py --fit wrote for these checkpoints",
    )
    add_overrides(parser, "trainer.evaluation_prior=1")
    parser.add_argument("-d", "--device", default="auto", help="cpu, cuda, cuda:1, mps or auto (default)")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE_OR_FOLDER", help="pictures, or folders of them")
    arguments = parser.parse_args()
    if not arguments.images:
        # `--resume MODEL photos/` hands everything to --resume: what is no checkpoint is a picture.
        models = [path for path in arguments.resume if path.suffix == ".pth" or is_run_folder(path)]
        arguments.images = [path for path in arguments.resume if path not in models]
        arguments.resume = models
    if not arguments.images or not arguments.resume:
        parser.error("name at least one checkpoint (.pth, or a run folder) and one image or folder")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    with exit_codes():
        from trainer.pictures import find_images
        from trainer.predictor import FacePredictor, predict_files
        from utils.errors import raise_all
        from utils.files import atomic_write, check_output

        check_output(arguments.out, "--out")
        files = find_images(arguments.images)
        predictor = FacePredictor(
            *arguments.resume,
            device=arguments.device,
            overrides=arguments.set,
            config_file=arguments.config,
            vote=arguments.vote,
            weights=arguments.weights,
            tta=arguments.tta,
            calibration=arguments.calibration,
        )
        table, problems = predict_files(predictor, files)
        replaced = " (replaced)" if arguments.out.exists() else ""
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(arguments.out, table.to_csv(index=False))
        for column in table.columns[table.columns.str.endswith("/prediction")]:
            counts = ", ".join(f"{name} {n:,}" for name, n in table[column].value_counts().items())
            print(f"{column.split('/')[0]}: {counts}")
        print(f"{len(files) - len(problems):,} images: {arguments.out}{replaced}")
        if problems:
            raise_all([f"{len(problems):,} of {len(files):,} images have no answer, the others are written", *problems])


if __name__ == "__main__":
    main()
