"""Images a second from files to normalised batches: the warm cache against loaders that decode every time.

    python benchmarks/data_path.py --plot docs/data_path.png

Three loaders make the same batches (one thread, one process) and take turns: ours from the cache, OpenCV with
albumentations, PIL with torchvision. Two tasks: one view (flip, translation), and FixMatch's pair of a weak and a
strong view, for which the others decode once too. Time is CPU time, so other jobs disturb little; figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import albumentations as A  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from albumentations.pytorch import ToTensorV2  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision import transforms as T  # noqa: E402

from base.scoring import Normalize  # noqa: E402
from data_loader.cache import open_images  # noqa: E402
from data_loader.dataset import FaceDataset  # noqa: E402
from data_loader.image_reader import ImageReader  # noqa: E402
from data_loader.views import View  # noqa: E402
from utils.memory import keep_freed_memory  # noqa: E402

SIDES, BATCH = (128, 256, 1024), 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TASKS = {"one view": ("flip_translate",), "weak + strong": ("flip_translate", "randaugment")}
LOADERS = ("ours", "OpenCV + albumentations", "PIL + torchvision")
Loader = Callable[[np.ndarray], object]


def write_images(folder: Path, side: int, count: int) -> list[Path]:
    """JPEGs with a photo's amount of detail: blots of all sizes and a little noise."""
    files = []
    for i in range(count):
        rng = np.random.default_rng(i)
        picture = sum(
            cv2.resize(rng.normal(0, 30, (n, n, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
            for n in (4, 16, max(32, side // 8), max(64, side // 3))
        )
        files.append(folder / f"{side}-{i}.jpg")
        cv2.imwrite(str(files[-1]), np.clip(picture + 128, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return files


def ours(files: list[Path], size: int, views: tuple[str, ...], folder: Path) -> Loader:
    images = open_images(files, ImageReader((size, size)), "disk", folder)
    pipelines = {name: View(name, (size, size)) for name in views}
    dataset, normalize = FaceDataset(images, {}, {"labeled": pipelines}, 0), Normalize(MEAN, STD, torch.device("cpu"))

    def load(rows: np.ndarray) -> object:
        batch = dataset.fetch("labeled", rows, rows)
        return [normalize(batch[name]) for name in views]

    return load


def opencv(files: list[Path], size: int, views: tuple[str, ...]) -> Loader:
    border, pad = {"border_mode": cv2.BORDER_REFLECT_101, "p": 0.5}, size // 8

    def pipeline(name: str) -> A.Compose:
        weak = [A.HorizontalFlip(), A.Pad(pad, border_mode=cv2.BORDER_REFLECT_101), A.RandomCrop(size, size)]
        strong = [A.SomeOf(operations, 2, p=1), A.CoarseDropout((1, 1), (0.5, 0.5), (0.5, 0.5), 127, p=1)]
        last = strong if name == "randaugment" else []
        return A.Compose([A.Resize(size, size), *weak, *last, A.Normalize(MEAN, STD), ToTensorV2()])

    def jitter(brightness: float = 0, contrast: float = 0, saturation: float = 0) -> A.ColorJitter:
        return A.ColorJitter(brightness, contrast, saturation, 0)

    operations = [
        *(A.NoOp(p=0.5), A.AutoContrast(), A.Equalize(), A.Posterize((4, 8)), A.Solarize((0.1, 0.9))),
        *(A.Sharpen((0.1, 0.9)), jitter(brightness=0.7), jitter(contrast=0.7), jitter(saturation=0.7)),
        *(A.Rotate((-27, 27), **border), A.Affine(shear={"x": (-15, 15)}, **border)),
        A.Affine(shear={"y": (-15, 15)}, **border),
        *(A.Affine(translate_percent={axis: (-0.27, 0.27)}, **border) for axis in "xy"),
    ]
    pipelines = [pipeline(name) for name in views]

    def load(rows: np.ndarray) -> object:
        read = (np.asarray(cv2.imread(str(files[row]))) for row in rows)
        images = [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in read]
        return [torch.stack([view(image=image)["image"] for image in images]) for view in pipelines]

    return load


def pil(files: list[Path], size: int, views: tuple[str, ...]) -> Loader:
    def pipeline(name: str) -> T.Compose:
        weak = [T.Resize((size, size)), T.RandomHorizontalFlip(), T.RandomCrop(size, size // 8, padding_mode="reflect")]
        strong = [T.RandAugment(2), T.ToTensor(), T.RandomErasing(1.0, (0.25, 0.25), (1, 1))]
        last = strong if name == "randaugment" else [T.ToTensor()]
        return T.Compose([*weak, *last, T.Normalize(MEAN, STD)])

    pipelines = [pipeline(name) for name in views]

    def load(rows: np.ndarray) -> object:
        images = [Image.open(files[row]).convert("RGB") for row in rows]
        return [torch.stack([view(image) for image in images]) for view in pipelines]

    return load


def measure(loaders: list[Loader], count: int, rounds: int) -> list[float]:
    """Median CPU milliseconds an image of each loader; the loaders take turns."""
    times: list[list[float]] = [[] for _ in loaders]
    for number in range(rounds + 1):
        rows = np.random.default_rng(number).choice(count, BATCH).astype(np.int64)
        for load, found in zip(loaders, times):
            started = time.process_time()
            load(rows)
            found.append((time.process_time() - started) * 1e3 / BATCH)
    return [statistics.median(found[1:]) for found in times]  # the first warms up


def plot(rows: list[tuple[str, int, list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.0), dpi=90)
    places = np.arange(len(rows))
    for i, (name, color) in enumerate(zip(LOADERS[1:], ("#4c72b0", "#dd8452"))):
        ratios = [ms[i + 1] / ms[0] for _, _, ms in rows]
        bars = axis.bar(places + (i - 0.5) * 0.38, ratios, 0.36, label=f"against {name}", color=color)
        axis.bar_label(bars, [f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×" for ratio in ratios], fontsize=8)
    axis.set_yscale("log")
    axis.set_ylim(0.8, 5 * max(ms[-1] / ms[0] for _, _, ms in rows))  # room for the legend
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_xticks(places, [f"{side} px\n{task}" for task, side, _ in rows], fontsize=7)
    axis.set_ylabel("times as many images a second", fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="working size in pixels (default 96)")
    parser.add_argument("--count", type=int, default=64, help="images of each size (default 64)")
    parser.add_argument("--rounds", type=int, default=15, help="batches of 16 images a loader (default 15)")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()  # as a training on the CPU does; it helps all three
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {side: write_images(folder, side, arguments.count) for side in SIDES}
        for task, views in TASKS.items():
            for side in SIDES:
                loaders = [
                    ours(files[side], arguments.size, views, folder / "cache"),
                    opencv(files[side], arguments.size, views),
                    pil(files[side], arguments.size, views),
                ]
                results.append((task, side, measure(loaders, arguments.count, arguments.rounds)))
    print(
        "| task | JPEGs of | times OpenCV + albumentations | times PIL + torchvision | images/s: ours | OpenCV | PIL |"
    )
    print("|---|---|---|---|---|---|---|")
    for task, side, ms in results:
        ratios = " | ".join(f"**{other / ms[0]:.3g}**" for other in ms[1:])
        print(f"| {task} | {side} px | {ratios} | {' | '.join(f'{1e3 / value:,.0f}' for value in ms)} |")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
