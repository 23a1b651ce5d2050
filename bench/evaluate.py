"""What the benches share: judge kernels by one common restoration, and record where figures come from.

Kernels are judged as Levin et al. do: the picture is restored with the estimated and with the true kernel by the same
method, and the squared errors are divided, each at its own best shift.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import os
import platform
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import center_of_mass
from scipy.stats import mannwhitneyu

import gpudeblur
from gpudeblur.metrics import kernel_error, kernel_similarity, scores

from .cases import Case
from .gpu_report import REPOSITORY, output_of

Row = dict[str, Any]


def parallel(function: Callable[[Any], Any], items: Iterable[Any], jobs: int) -> Iterator[Any]:
    """`map` over `jobs` processes of one thread each, in order; 0 works in this process. Few items are in memory."""
    if jobs == 0:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = deque[Future[Any]]()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def centred(kernel: np.ndarray) -> np.ndarray:
    """Sum 1, centre of mass in the middle to half a pixel, padded so that nothing is cut off."""
    kernel = np.asarray(kernel, np.float64) / float(kernel.sum())
    offsets = np.round(np.subtract(center_of_mass(kernel), np.array(kernel.shape) // 2)).astype(int)
    return np.roll(np.pad(kernel, abs(offsets).max()), -offsets, (0, 1))


def evaluation(pair: tuple[Case, np.ndarray]) -> Row:
    """Figures of (case, kernel in convolution sense, of any size).

    Of the common restoration, "sparse" with the weight of Levin's yardstick, at the best shift, 15 border pixels
    dropped; `gain` is in dB over the blurred picture. One weight for all kernels: an automatic one would be larger for
    a wrong kernel, and hide its errors.
    """
    case, kernel = pair[0], centred(pair[1])
    pictures = [gpudeblur.deconvolve(case.blurred, k, method="sparse", weight=0.0068) for k in (kernel, case.kernel)]
    restored, true, blurred = (scores(picture, case.sharp) for picture in (*pictures, case.blurred))
    return {
        "name": case.name,
        "er": restored.ssd / true.ssd,
        "psnr": restored.psnr,
        "ssim": restored.ssim,
        "similarity": kernel_similarity(kernel, case.kernel),
        "kernel_error": kernel_error(kernel, case.kernel),
        "gain": restored.psnr - blurred.psnr,
        "psnr_true": true.psnr,
        "psnr_blurred": blurred.psnr,
    }


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Markdown; `columns` maps a key to its format, the first one is taken as it is."""
    first, *others = columns
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        lines.append(f"| {row[first]} | " + " | ".join(format(row[key], columns[key]) for key in others) + " |")
    return "\n".join(lines)


# What several benches take, said once; a bench names the ones it wants.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "data": {"type": Path, "required": True, "help": "folder that holds levin/, natural/, faces_hq/ and faces/"},
    "jobs": {"type": int, "default": 2, "help": "processes of one thread each"},
    "yardstick": {"type": Path, "help": "eval_levin.py, the script that judges Levin's pictures"},
    "options": {"type": json.loads, "default": {}, "help": "fields of TwoStepOptions, as JSON"},
    "device": {"choices": ["cpu", "cuda"], "default": "cpu"},
    "side": {"type": int, "default": 255, "help": "pixels of the picture's side"},
    "kernel": {"type": int, "default": 25, "help": "pixels of the kernel's side"},
    "every": {"type": int, "default": 1, "help": "take one case of so many, evenly"},
    "no-record": {"action": "store_true", "help": "append nothing to bench/results"},
}


def arguments(doc: str | None, *names: str) -> argparse.ArgumentParser:
    """A parser whose help is `doc`, with the arguments of those names."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name}", **ARGUMENTS[name])
    return parser


@functools.cache
def provenance() -> Row:
    """Date of the run, commit, versions and processor: what a figure needs to be repeated."""
    imported = (sys.modules.get(name) for name in ("numpy", "scipy", "skimage", "cupy", "torch"))
    versions = {module.__name__: module.__version__ for module in imported if module is not None}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": output_of("git", "rev-parse", "--short", "HEAD"),
        "modified": bool(output_of("git", "status", "--porcelain", "--", "gpudeblur", "kernels_cuda")),
        "versions": {"python": platform.python_version(), **versions},
        "machine": processor_name(),
    }


def processor_name() -> str:
    """The processor's model, where the system tells it."""
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", information.read_text()) if information.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def device_name() -> str:
    """The GPU that CuPy computes on."""
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()


def settings(args: argparse.Namespace, *names: str) -> Row:
    """The arguments of those names for a record, and the GPU where one was asked for."""
    gpu = {"gpu": device_name()} if getattr(args, "device", "cpu") == "cuda" else {}
    return {name: getattr(args, name) for name in names} | gpu


def results_folder() -> Path:
    """Where records go: bench/results, or $GPUDEBLUR_RESULTS."""
    return Path(os.environ.get("GPUDEBLUR_RESULTS", REPOSITORY / "bench" / "results"))


def record(name: str, line: Mapping[str, Any]) -> None:
    """Append one JSON line, with its provenance, to <name>.jsonl in the folder of results."""
    path = results_folder() / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({**provenance(), **line}, default=lambda value: getattr(value, "item", value.__str__)()))
        file.write("\n")


def mean_interval(values: Sequence[float], groups: Sequence[str]) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval; whole groups are drawn, as cases of one picture are not independent."""
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    picked = np.random.default_rng(0).integers(len(counts), size=(10_000, len(counts)))
    means = np.bincount(group, values)[picked].sum(axis=1) / counts[picked].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean(values)), float(low), float(high)


def roc_area(score: np.ndarray, success: np.ndarray) -> float:
    """Probability that a success scores above a failure, ties count half; NaN where there is only one of the two."""
    pairs = int(success.sum()) * int((~success).sum())
    return float(mannwhitneyu(score[success], score[~success]).statistic) / pairs if pairs else math.nan
