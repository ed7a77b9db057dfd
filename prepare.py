"""Prepare data, and look at what runs came to: python prepare.py COMMAND (each with --help)."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from utils.arguments import add_config, config_of, workers_of
from utils.command import counter, exit_codes, printable
from utils.errors import UserError
from utils.files import check_output

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
    parser = argparse.ArgumentParser(
        prog="prepare.py", description="Prepare data for training, and look at what runs came to."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        _add_demo,
        _add_explore,
        _add_crops,
        _add_males,
        _add_statistics,
        _add_duplicates,
        _add_corrections,
        _add_agreement,
        _add_suspects,
        _add_cache,
        _add_sweep,
        _add_runs,
        _add_submissions,
    ):
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
    if args.processes is not None and args.processes < 1:
        raise UserError(f"--processes {args.processes}: expected at least 1")
    settings = DemoSettings(count=args.count, size=args.size, seed=args.seed, persons=args.persons)
    if write_demo(args.out, settings, args.processes, args.force, counter("drawing")):
        print(f"{args.out}: {args.count} generated faces, seed {args.seed}, {time.monotonic() - start:.0f} s")
    else:
        print(f"{args.out}: already there with the same settings")


def _add_explore(commands: Commands) -> None:
    parser = commands.add_parser(
        "explore",
        help="look at a config's data before training: one page",
        description="Counts of classes and ages, sizes and damage of images, identical files, the split and pictures "
        "of each class, as OUT/index.html and OUT/explore.json.",
    )
    add_config(parser)
    parser.add_argument("--out", type=Path, default=Path("explore"), help="folder for index.html and explore.json")
    parser.add_argument("--workers", type=int, default=None, help="images at once; default: one per core")
    parser.set_defaults(run=run_explore)


def run_explore(args: argparse.Namespace) -> None:
    config, workers = config_of(args), workers_of(args)
    check_output(args.out, "--out", folder=True)

    from trainer.explore import explore

    check = explore(config, args.out, workers, counter("reading"))
    for problem in check["problems"]:
        print(f"problem: {problem}")
    print(f"{args.out / 'index.html'}: {check['images']:,} images, {len(check['problems']):,} problems")


def _add_crops(commands: Commands) -> None:
    parser = commands.add_parser(
        "crops",
        help="cut the faces out of a folder of pictures",
        description="Find the face in each picture of a folder with YuNet, turn it upright, and write it under the "
        "same path in another folder, with the label tables beside it. OUT/crops.csv says what was found. Run again, "
        "it does only what has changed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of pictures, in any layout")
    parser.add_argument("--out", type=Path, required=True, help="folder to make, in the same layout")
    parser.add_argument("--detector", type=Path, required=True, help="YuNet's .onnx file")
    parser.add_argument("--score", type=float, default=0.6, help="least confidence; faces with masks have less")
    parser.add_argument("--margin", type=float, default=0.3, help="around the face, as a share of its height")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[224], help="of the crops: one number, or height and width"
    )
    parser.add_argument(
        "--outlier", type=float, default=2.5, help="so many times smaller or larger than usual is no face; 0: any size"
    )
    parser.add_argument("--workers", type=int, default=None, help="pictures at once; None: one per core")
    parser.set_defaults(run=run_crops)


def run_crops(args: argparse.Namespace) -> None:
    from dataclasses import replace
    from functools import partial

    from data_loader.face_crops.detector import YuNet
    from data_loader.face_crops.folder import CropSettings, complain, crop_folder
    from utils.files import sha256_of

    if len(args.size) > 2:
        raise UserError(f"--size {' '.join(map(str, args.size))}: expected one number, or height and width")
    settings = CropSettings((args.size[0], args.size[-1]), args.score, args.margin, args.outlier)
    settings.check()
    YuNet(args.detector, args.score)  # a wrong file is said before anything is written
    settings = replace(settings, detector=sha256_of(args.detector))
    open_detector = partial(YuNet, args.detector, args.score)
    cropped = crop_folder(args.root, args.out, settings, open_detector, workers_of(args), counter("looking for faces"))
    print(f"{args.out}: {cropped}")
    if cropped.beyond > 0.2:
        print(
            f"note: {cropped.beyond:.0%} of a typical crop lies outside of its picture; a smaller --margin fits these"
        )
    complain(cropped)


def _add_males(commands: Commands) -> None:
    parser = commands.add_parser(
        "males",
        help="list the images that show men",
        description="By CelebAMask-HQ's annotation, by a gender classifier, or by both: then the images on which they "
        "disagree are listed too.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--root", type=Path, required=True, help="CelebAMask-HQ, or any folder of images")
    parser.add_argument("--out", type=Path, default=Path("males.csv"), help="the table to write")
    parser.add_argument("--attribute", default="Male", help="the annotation's attribute, used where there is one")
    parser.add_argument("--checkpoint", type=Path, help="a run's checkpoint, or a ResNet-18 of torchvision; it decides")
    parser.add_argument("--head", help="of a run's checkpoint; None: the one with a class male")
    parser.add_argument("--classes", nargs="+", help="outputs of a ResNet-18, in order; None: female male")
    parser.add_argument("--threshold", type=float, default=0.5, help="least probability of a man")
    parser.add_argument("--label-frame", help="a label frame that gets the columns, such as label_frame.csv")
    parser.add_argument("-d", "--device", default="auto", help="cpu, cuda, cuda:1, mps or auto")
    parser.set_defaults(run=run_males)


def run_males(args: argparse.Namespace) -> None:
    check_output(args.out, "--out")

    from trainer.males import find_males, open_classifier, with_hand_labels, write_males
    from utils.device import choose_device

    classifier = None
    if args.checkpoint is None and (args.head is not None or args.threshold != 0.5 or args.classes is not None):
        raise UserError("--head, --classes and --threshold are about a classifier; name it with --checkpoint")
    if args.checkpoint is not None:
        classifier = open_classifier(args.checkpoint, args.head, args.classes, choose_device(args.device))
    males = find_males(args.root, args.attribute, classifier, args.threshold, counter("classifying"))
    table = males.table if args.label_frame is None else with_hand_labels(males.table, args.root, args.label_frame)
    print("\n".join(write_males(args.out, males, table)))


def _add_statistics(commands: Commands) -> None:
    parser = commands.add_parser(
        "statistics",
        help="mean and standard deviation of the training images' pixels",
        description="Over all pixels of all training images of a config, labeled or not, resized to views.size; prints "
        "the value of views.normalize.",
    )
    add_config(parser)
    parser.add_argument("--full-size", action="store_true", help="of the images as they are, not resized")
    parser.add_argument("--workers", type=int, default=None, help="images at once; default: one per core")
    parser.set_defaults(run=run_statistics)


def run_statistics(args: argparse.Namespace) -> None:
    import json

    config = config_of(args)

    from data_loader.image_reader import ImageReader
    from data_loader.prepare_labels import prepare_labels
    from data_loader.statistics import pixel_statistics
    from trainer.components import check_views

    check_views(config)
    labels = prepare_labels(config)
    files = [labels.frame.file(path) for path in labels.frame.rows["path"][labels.split == "train"]]
    read = ImageReader(None) if args.full_size else ImageReader.of(config.views)
    folder = Path(config.trainer.save_dir) / ".cache"
    found = pixel_statistics(files, read, folder, workers_of(args), counter("reading"))
    how = "as they are" if read.size is None else f"resized to {read.size[0]} x {read.size[1]}"
    print(f"{len(files):,} training images, {how}: {found.pixels:,} pixels")
    print(f'"normalize": {json.dumps(found.option())}')


def _add_corrections(commands: Commands) -> None:
    parser = commands.add_parser(
        "corrections",
        help="check a corrections file against a config's data",
        description="Say what becomes of each row of a corrections file. Writes nothing; exit code 2 if a row matches "
        "no image, contradicts the data or another row, or is unclear.",
    )
    add_config(parser)
    parser.add_argument("file", nargs="?", help="the CSV; without it the config's labels.corrections")
    parser.set_defaults(run=run_corrections)


def run_corrections(args: argparse.Namespace) -> None:
    config = config_of(args)
    file = args.file or config.labels.corrections
    if file is None:
        raise UserError(f"{args.config}: labels.corrections is null; name the file: prepare.py corrections -c … FILE")

    from data_loader.corrections import audit_corrections
    from data_loader.prepare_labels import read_frames

    verdicts, text = audit_corrections(read_frames(config), file)
    for verdict in verdicts:
        print(f"{verdict.status:<13} {verdict}")
    if any(verdict.refused for verdict in verdicts):
        raise UserError(text)
    print(text)


def _add_duplicates(commands: Commands) -> None:
    parser = commands.add_parser(
        "duplicates",
        help="list images that are there more than once",
        description="Find images of a config's data that are the same file or look the same, and write them as a CSV: "
        "path, group (with its duplicates), kind, duplicate_of, labels_agree.",
    )
    add_config(parser)
    parser.add_argument("--kind", choices=("exact", "near"), default="near", help="near (the default) includes exact")
    parser.add_argument("--out", type=Path, default=Path("duplicates.csv"), help="the CSV to write")
    parser.set_defaults(run=run_duplicates)


def run_duplicates(args: argparse.Namespace) -> None:
    args.set.append("labels.duplicates=null")
    config = config_of(args)
    check_output(args.out, "--out")

    from data_loader.duplicates import describe, duplicates
    from data_loader.prepare_labels import fingerprint_folder, read_labels
    from utils.files import atomic_write

    frame = read_labels(config)
    table = duplicates(frame, args.kind, fingerprint_folder(config), print)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(args.out, table[table["kind"] != ""].to_csv(index=False, lineterminator="\n"))
    print(f"{args.out}: {describe(frame, table, args.kind).partition(' (prepare.py')[0]}")


def _add_agreement(commands: Commands) -> None:
    parser = commands.add_parser(
        "agreement",
        help="compare two people's labels of the same images",
        description="Of two tables of labels: how many images are labeled alike, agreement beyond chance (Cohen's "
        "kappa), and which classes are confused. Writes the images that differ as a corrections file for the first "
        "table, whose column 'to' is for you.",
    )
    parser.add_argument("first", type=Path, help="a CSV with a row per image")
    parser.add_argument("second", type=Path, help="another one")
    parser.add_argument("--columns", nargs="+", default=[], metavar="COLUMN", help="default: all labels that both have")
    parser.add_argument("--key", metavar="COLUMN", help="what images are called by; default: path, file or id")
    parser.add_argument("--out", type=Path, default=Path("disagreements.csv"), help="the corrections file to write")
    parser.set_defaults(run=run_agreement)


def run_agreement(args: argparse.Namespace) -> None:
    check_output(args.out, "--out")

    from trainer.agreement import compare_labels

    print(compare_labels(args.first, args.second, args.columns, args.key, args.out))


def _add_suspects(commands: Commands) -> None:
    parser = commands.add_parser(
        "suspects",
        help="list labels that a run's predictions contradict",
        description="By confident learning, from predictions of models that have not seen the images: the oof.csv of "
        "train.py --folds, or a report's predictions.csv. Writes OUT/suspects.csv, a corrections file whose column "
        "'to' is for you, and OUT/index.html with the pictures.",
    )
    add_config(parser)
    parser.add_argument("predictions", type=Path, help="oof.csv or predictions.csv")
    parser.add_argument("--out", type=Path, default=Path("suspects"), help="the folder to write to")
    parser.add_argument("--most", type=int, default=200, help="how many are listed, the surest first")
    parser.set_defaults(run=run_suspects)


def run_suspects(args: argparse.Namespace) -> None:
    if args.most < 1:
        raise UserError(f"--most {args.most}: expected at least 1")
    config = config_of(args)
    check_output(args.out, "--out", folder=True)

    from trainer.suspects import list_suspects

    print(list_suspects(config, args.predictions, args.out, args.most))


def _add_cache(commands: Commands) -> None:
    parser = commands.add_parser(
        "cache",
        help="decode a config's images before its training",
        description="Decode the images of a config to views.size and keep them where its training will look for them "
        "(SAVE_DIR/.cache). What is there already is not decoded again.",
    )
    add_config(parser)
    parser.add_argument("--clear", action="store_true", help="instead remove all decoded images that no process uses")
    parser.set_defaults(run=run_cache)


def run_cache(args: argparse.Namespace) -> None:
    config = config_of(args)

    from trainer.prepare_cache import clear_cache, fill_cache

    print("\n".join(clear_cache(config) if args.clear else [fill_cache(config)]))


def _add_sweep(commands: Commands) -> None:
    parser = commands.add_parser(
        "sweep",
        help="train a config with several values of its keys, and compare what they score",
        description="All combinations of the values, for each of the configs, one training after the other, with folds "
        "too. The same command again continues what was stopped and leaves alone what is finished.",
    )
    parser.add_argument(
        "-c", "--config", type=Path, nargs="+", action="extend", required=True, help="one config, or several of them"
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help="values of a key; KEY1+KEY2=V1,V2 for keys that change together",
    )
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="for all of them")
    parser.add_argument("--folds", type=int, metavar="K", help="train each on K folds")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many of the combinations, drawn at random")
    parser.add_argument(
        "-d", "--device", nargs="+", action="extend", help="several, such as cuda:0 cuda:1: one training on each"
    )
    parser.add_argument("--check", action="store_true", help="only try each, as train.py --check does")
    parser.add_argument("--out", type=Path, help="also write the table as a CSV, with a column for each key")
    parser.set_defaults(run=run_sweep)


def run_sweep(args: argparse.Namespace) -> None:
    if args.folds is not None and args.folds < 2:
        raise UserError(f"--folds {args.folds}: expected at least 2")
    if args.sample is not None and args.sample < 1:
        raise UserError(f"--sample {args.sample}: expected at least 1")
    if args.out is not None:
        if args.check:
            raise UserError(
                f"--out {args.out}: --check trains nothing that a table could be of; leave out one of the two"
            )
        check_output(args.out, "--out")

    from trainer.sweep import sweep
    from trainer.sweep_plan import parse_factor, plan
    from utils.children import stop_signals_exit

    factors = [parse_factor(text) for text in args.vary]
    trainings = plan(args.config, factors, args.set, args.folds, args.sample)
    with stop_signals_exit():
        print(printable(sweep(trainings, args.folds, args.device or ["auto"], args.check, args.out)))


def _add_runs(commands: Commands) -> None:
    parser = commands.add_parser(
        "runs",
        help="compare runs: what was changed, and what they scored",
        description="A line per run, the best first: state, score of its best and its last epoch, and the keys in "
        "which its config differs from another run's. Runs that differ in the seed only are averaged, and compared "
        "seed by seed.",
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, help="runs, folders of runs, or all of SAVE_DIR; default: saved"
    )
    parser.add_argument(
        "--metric", help="such as valid/age/macro_f1; default: what the runs choose their best epoch by"
    )
    parser.add_argument("--against", type=Path, metavar="RUN", help="tell changes from this run; default: the oldest")
    parser.add_argument("--out", type=Path, help="also write a CSV, with a column for each key that differs")
    parser.set_defaults(run=run_runs)


def run_runs(args: argparse.Namespace) -> None:
    if args.out is not None:
        check_output(args.out, "--out")

    from report.run_table import compare_runs

    print(printable(compare_runs(args.folders or [Path("saved")], args.metric, args.against, args.out)))


def _add_submissions(commands: Commands) -> None:
    parser = commands.add_parser(
        "submissions",
        help="list what was submitted, and keep what the leaderboard said",
        description="Without FILE, list the submissions that test.py --submission wrote, with the scores of their "
        "models on their validation images and on the leaderboard. With FILE, keep its scores.",
    )
    parser.add_argument("file", nargs="?", type=Path, help="a submission, known by its content")
    parser.add_argument("--public", type=float, metavar="F1", help="its score on the public leaderboard, 0 to 1")
    parser.add_argument("--private", type=float, metavar="F1", help="on the private one")
    parser.add_argument("--note", help="a remark to keep with it")
    parser.add_argument("--saved", type=Path, default=Path("saved"), metavar="DIR", help="SAVE_DIR of the models")
    parser.set_defaults(run=run_submissions)


def run_submissions(args: argparse.Namespace) -> None:
    given = (args.public, args.private, args.note)
    if args.file is None and given != (None, None, None):
        raise UserError("--public, --private and --note are about a submission; name its file")
    if args.file is not None and given == (None, None, None):
        raise UserError(f"{args.file}: what did it score? give --public, --private or --note")

    from report.submissions import add_scores, format_ledger, read_ledger

    if args.file is not None:
        add_scores(args.saved, args.file, *given)
    print(printable(format_ledger(read_ledger(args.saved))))


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
