"""environment.json: on what, with what and from which code a run was made."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "albumentations": ("albumentations",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "numpy": ("numpy",),
    "pandas": ("pandas",),
    "scikit-learn": ("scikit-learn",),
}


def environment(device: str | torch.device, seed: int) -> dict[str, Any]:
    """What must be known to repeat a run; plain JSON values, null for what cannot be found out."""
    device = torch.device(device)
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "seed": seed,
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "device": str(device),
        "device_name": _device_name(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "torch_threads": torch.get_num_threads(),
    }


def package_versions() -> dict[str, str | None]:
    """Installed version of each package that a result depends on; None if it is not installed."""
    return {package: _installed(names) for package, names in PACKAGES.items()}


def git_state(folder: Path = PROJECT) -> dict[str, Any] | None:
    """{"commit": str, "dirty": bool} of the code in `folder`; None if it is not under git, or has no commit yet."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit or not _git(folder, "ls-files", "--", "."):
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--", "."))}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _installed(names: tuple[str, ...]) -> str | None:
    for name in names:
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
