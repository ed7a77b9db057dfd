"""Train what a config describes:  python train.py -c configs/fixmatch_hair.json"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from utils.command import exit_codes
from utils.files import check_output
from utils.folds import load_fold_config
from utils.run_folder import run_name


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("-c", "--config", type=Path, help="JSON config (needed unless -r names a checkpoint)")
    parser.add_argument(
        "-r",
        "--resume",
        metavar="CHECKPOINT|auto",
        help="continue that run in its own folder; auto: the newest unfinished run of this config, or a new one",
    )
    parser.add_argument("-d", "--device", default="auto", help="cpu, cuda, cuda:1, mps or auto (default)")
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="such as trainer.epochs=3"
    )
    parser.add_argument("--run-id", type=run_name, metavar="ID", help="name of the run's folder (default: the time)")
    check = parser.add_mutually_exclusive_group()
    check.add_argument("--check", action="store_true", help="load and try everything, make no run, and stop")
    check.add_argument(
        "--check-resume", action="store_true", help="prove that stop and resume changes nothing, and stop"
    )
    parser.add_argument(
        "--folds", type=int, metavar="K", help="train K models, each validated on another K-th of the data"
    )
    arguments = parser.parse_args()
    if arguments.config is None and arguments.resume in (None, "auto"):
        parser.error("-c CONFIG is needed")
    if (arguments.check or arguments.check_resume) and (arguments.config is None or arguments.resume):
        parser.error("--check and --check-resume take -c CONFIG and no -r")
    if arguments.folds is not None and (arguments.folds < 2 or arguments.resume not in (None, "auto")):
        parser.error("--folds takes a number of at least 2, and no -r but -r auto")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    with exit_codes():
        config = None
        if arguments.resume in (None, "auto"):
            # Before torch is imported: a mistake in the file is told within a second.
            config = load_fold_config(arguments.config, arguments.set, arguments.folds)
            if not arguments.check_resume:
                check_output(Path(config.trainer.save_dir), config.where("trainer.save_dir"), folder=True)

        from trainer import session

        if arguments.check and config is not None:
            print("\n".join(session.check(config, arguments.device)))
            return
        if arguments.check_resume and config is not None:
            from trainer.check_resume import check_resume

            same, lines = check_resume(config, arguments.device)
            print("\n".join(lines))
            sys.exit(0 if same else 1)
        device, run_id, changes = arguments.device, arguments.run_id, [] if config else arguments.set
        if arguments.folds and config is not None:
            from trainer.folds import resume_command, train_folds  # with the report's plots: seconds that others save

            again = resume_command(arguments.config, arguments.set, arguments.folds, device, run_id)
            train_folds(config, arguments.resume, device, run_id, again)
            return
        session.train(config, arguments.config, changes, arguments.resume, device, run_id).train()


if __name__ == "__main__":
    main()
