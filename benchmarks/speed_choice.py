"""What `trainer.speed: auto` chooses against every fixed setting: a supervised step of some networks, in one process.

    python benchmarks/speed_choice.py

First the choice is made, as at the start of a run. Then the settings take turns again; a ratio is the median over the
rounds of (a step in this setting / one in the fastest of them).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import torch  # noqa: E402

from base.base_trainer import BaseTrainer  # noqa: E402
from base.speed import Settings, use  # noqa: E402
from benchmarks.fixmatch_step import batch_of  # noqa: E402
from benchmarks.step_overhead import CLOCK, build_trainer  # noqa: E402
from model.classifier import FaceClassifier  # noqa: E402
from trainer.speed import choose_speed  # noqa: E402
from utils.memory import keep_freed_memory  # noqa: E402


def made_trainer(backbone: str, size: int) -> BaseTrainer:
    torch.manual_seed(0)
    model = FaceClassifier({"bangs": 2}, backbone=backbone, dropout=0.0)
    trainer = build_trainer("SupervisedTrainer", model, {"bangs": 2}, 1, {})
    batch = batch_of(size, 32, 1)
    del batch["unlabeled"]
    trainer.data.first_batch = lambda: batch  # type: ignore[method-assign]
    trainer.epochs = 1  # too short for torch.compile to be worth it
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "tf_efficientnet_lite0"])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {CLOCK.__name__}")
    for backbone in arguments.backbones:
        trainer = made_trainer(backbone, arguments.size)
        print("\n".join(choose_speed(trainer, "auto")), flush=True)
        chosen = Settings.of(trainer.config.trainer, trainer.parts.dtype)
        dtypes = [torch.float32]
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            dtypes.append(torch.bfloat16)
        fixed = [
            Settings(dtype, layout, threads=chosen.threads)
            for dtype, layout in itertools.product(dtypes, ("channels_last", "contiguous"))
        ]
        times: dict[Settings, list[float]] = {settings: [] for settings in fixed}
        batch = trainer.data.first_batch()
        for number in range(arguments.rounds):
            for settings in fixed[number % len(fixed) :] + fixed[: number % len(fixed)]:
                use(trainer, settings)
                trainer.network.train()
                trainer.train_on(batch)
                started = CLOCK()
                trainer.train_on(batch)
                times[settings].append(CLOCK() - started)
        best = min(fixed, key=lambda settings: statistics.median(times[settings]))
        for settings in fixed:
            ratio = statistics.median(a / b for a, b in zip(times[settings], times[best]))
            print(f"{ratio:5.2f}  {backbone} {settings}{'   <- auto' if settings == chosen else ''}", flush=True)


if __name__ == "__main__":
    main()
