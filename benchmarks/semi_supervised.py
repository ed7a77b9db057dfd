"""What unlabeled images are worth: methods × label counts × seeds on one split, with paired differences.

    python benchmarks/semi_supervised.py -c configs/demo/fixmatch_hair.json --labels 100 --seeds 0 1 2
    python benchmarks/semi_supervised.py -c configs/fixmatch_bangs_cpu.json --labels 100 200 400 --test-share 0.3
        --jobs 2 -s arch.args.weights=FILE                                                 (one line)

A seed draws other labels, another initialisation and other batches; the split stays, so that methods are compared seed
by seed. Finished runs in OUT are read, not repeated, and unfinished ones continue: the same command goes on after a
stop. A run in OUT that had another config is refused. With all labels a step has as many images as FixMatch reads in
one. Writes OUT/table.csv (a row per run and head), OUT/table.md, and what each run says to OUT/log/NAME.log.

Exit codes: 0 done; 1 a run failed (the table has the others); 2 the input is wrong or OUT has runs of another config.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.methods import GROUPS, METHODS  # noqa: E402
from benchmarks.runs import RunFailed  # noqa: E402
from benchmarks.semi_supervised_runs import Bench, Run  # noqa: E402
from benchmarks.semi_supervised_scores import Rows, Scoring  # noqa: E402
from benchmarks.semi_supervised_table import in_order, summary  # noqa: E402
from data_loader.prepare_labels import prepare_labels  # noqa: E402
from utils.children import stop_signals_exit  # noqa: E402
from utils.command import exit_codes  # noqa: E402
from utils.config import Config, load_config  # noqa: E402
from utils.errors import UserError  # noqa: E402
from utils.files import atomic_write  # noqa: E402
from utils.run_folder import lock  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-c", "--config", type=Path, required=True, help="a FixMatch config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labels", type=int, nargs="+", help="label counts (default: those of the config)")
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS, *GROUPS], default=["core"], metavar="METHOD",
        help="; ".join(f"{group}: {', '.join(names)}" for group, names in GROUPS.items()) + "; or any of these",
    )  # fmt: skip
    parser.add_argument(
        "--test-share", type=float, metavar="S", help="set split.test and score on it (default: as the config)"
    )
    parser.add_argument("--last", action="store_true", help="score the last epoch: nothing is chosen on valid")
    parser.add_argument("--tta", nargs="+", default=[], metavar="VIEW", help="also score with further views: hflip, …")
    parser.add_argument(
        "--fit", nargs="+", default=[], choices=["thresholds", "temperature"],
        help="also score with thresholds fitted on valid (without a test split: cross-fitted)",
    )  # fmt: skip
    parser.add_argument(
        "--reach", type=float, metavar="F1", help="also say after how many minutes the validation macro F1 was there"
    )
    parser.add_argument("--out", type=Path, default=Path("saved/bench"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the cores (OMP_NUM_THREADS)")
    parser.add_argument("--force", action="store_true", help="remove and repeat runs in OUT that had another config")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error("--jobs: expected at least 1")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    with exit_codes(), stop_signals_exit():
        share = [] if arguments.test_share is None else [f"split.test={arguments.test_share}"]
        base = load_config(arguments.config, [*arguments.set, *share])
        of_heads = [base.metrics] if isinstance(base.metrics, list) else base.metrics.values()
        if arguments.reach is not None and not all("macro_f1" in names for names in of_heads):
            raise UserError("--reach: needs macro_f1 in the config's metrics")
        bench = Bench(base, arguments.out, environment(arguments.jobs))
        if arguments.tta:
            from trainer.test_time_views import choose_views  # with torch, which not every table needs

            choose_views(arguments.tta)
        scoring = Scoring(_scored_split(base), arguments.last, arguments.tta, arguments.fit, arguments.reach)
        runs = plan(base, arguments.methods, arguments.labels, arguments.seeds)
        arguments.out.mkdir(parents=True, exist_ok=True)
        lock(arguments.out, "this table is being made")
        check_stale(bench, runs, arguments.force)
        rows: Rows = []
        failed: list[str] = []
        with closing(finish(bench, scoring, runs, arguments.jobs)) as finished:
            for number, (run, found) in enumerate(finished, start=1):
                if isinstance(found, Exception):
                    failed.append(f"{run}: {found}")
                else:
                    rows += found
                    write(arguments.out, rows, len(runs) - number + len(failed))
                print(f"[{number}/{len(runs)}] {said(run, found)}", file=sys.stderr, flush=True)
        if rows:
            print((arguments.out / "table.md").read_text(), end="", flush=True)
        if failed:
            print(f"{len(failed)} of {len(runs)} runs failed:", *failed, sep="\n", file=sys.stderr)
            sys.exit(1)


def plan(base: Config, names: list[str], counts: list[int] | None, seeds: list[int]) -> list[Run]:
    """All runs, the seeds one after the other. Raises UserError if a method that is named does not go with the data."""
    hidden = base.labels.labeled is not None or counts is not None
    pretrained = bool(base.arch.args.get("pretrained") or base.arch.args.get("weights"))
    unsuited = {name for name, m in METHODS.items() if (m.all_labels and not hidden) or (m.frozen and not pretrained)}
    named = [name for name in names if METHODS.get(name) and METHODS[name].all_labels and not hidden]
    if named:
        raise UserError(f"--methods {named[0]}: the config hides no labels; give --labels or set labels.labeled")
    chosen = [name for name in names if name in METHODS]
    chosen += [name for group in names if group in GROUPS for name in GROUPS[group] if name not in unsuited]
    wanted = [name for name in METHODS if name in chosen]
    count = getattr(base.labels.labeled, "count", None)
    labels: list[int | str] = [*counts] if counts else ["config" if count is None else count]
    return [
        Run(name, number, seed)
        for seed in dict.fromkeys(seeds)
        for name in wanted
        for number in dict.fromkeys(["all"] if METHODS[name].all_labels else labels)
    ]


def environment(jobs: int) -> dict[str, str]:
    """That of the runs: the cores are shared, unless OMP_NUM_THREADS says otherwise."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // jobs)), **os.environ}


def check_stale(bench: Bench, runs: list[Run], force: bool) -> None:
    """Raises UserError if OUT has runs of another config, or removes them; ConfigError if a method does not fit."""
    for run in runs:
        bench.config(run)
    stale = {run: lines for run in runs if (lines := bench.stale(run))}
    if stale and not force:
        run, lines = next(iter(stale.items()))
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        others = f"; so are {len(stale) - 1} more" if len(stale) > 1 else ""
        raise UserError(
            f"{run.folder(bench.out)} is of another config: {lines[0]}{more}{others}; give another --out, or --force "
            "to remove and repeat"
        )
    for run in stale:
        bench.discard(run)


def finish(
    bench: Bench, scoring: Scoring, runs: list[Run], jobs: int
) -> Generator[tuple[Run, Rows | Exception], None, None]:
    """Each run with its rows, or what went wrong, as they finish; commands that still run in the end are stopped."""

    def attempt(run: Run) -> Rows | Exception:
        try:
            return scoring.rows(bench, run)
        except (RunFailed, UserError, OSError) as error:
            return error

    trained = [run for run in runs if not METHODS[run.method].frozen]
    for run in runs:
        if METHODS[run.method].frozen:
            yield run, attempt(run)
    yield from bench.children.each(attempt, trained, jobs)


def said(run: Run, found: Rows | Exception) -> str:
    if isinstance(found, Exception):
        return f"{run}: FAILED"
    first = found[0]
    return f"{run}: macro F1 {first['macro_f1']:.4f}, average precision {first['ap']:.4f} ({first['minutes']:.1f} min)"


def write(out: Path, rows: Rows, lacking: int) -> None:
    """table.csv and table.md of the rows there are."""
    table = in_order(pd.DataFrame(rows))
    atomic_write(out / "table.csv", table.to_csv(index=False))
    note = f"**Incomplete: {lacking} runs are not in the table.** " if lacking else ""
    atomic_write(out / "table.md", note + summary(table))


def _scored_split(base: Config) -> str:
    """`test` if the config or its data has labeled images for it, else `valid`."""
    labels = prepare_labels(base, hide=False)
    test = labels.frame.rows.loc[(labels.split == "test").to_numpy(), list(labels.frame.classes)]
    return "test" if (test >= 0).to_numpy().any() else "valid"


if __name__ == "__main__":
    main()
