"""What the benches share: estimate kernels, judge them by one common restoration, record where figures come from.

Kernels are judged as Levin et al. do: the picture is restored with the estimated and with the true kernel by the same
method, and the squared errors are divided, each at its own best shift.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case

from gpudeblur.metrics import kernel_error, kernel_similarity, scores

Restore = Callable[..., np.ndarray]
Row = dict[str, Any]
REPOSITORY = Path(__file__).resolve().parent.parent
BARS = (1.5, 2, 3)


# ------------------------------------------------------------------ work in processes
def parallel(function: Callable[[Any], Any], items: Iterable[Any], jobs: int) -> Iterator[Any]:
    """`map` over `jobs` processes of one thread each, in order; 0 works in this process.

    Items are asked for as they are needed: a few for each process are in memory at a time.
    """
    if jobs == 0:
        yield from map(function, items)
        return
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in threads}
    os.environ.update(dict.fromkeys(threads, "1"))  # read when a worker loads its BLAS, hence "spawn" and not "fork"
    try:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting = deque[Future[Any]]()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 4 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ------------------------------------------------------------------ estimation
@dataclasses.dataclass(frozen=True)
class Estimator:
    """`gpudeblur.estimate_kernel` with its settings, as a value that travels to a worker process."""

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None

    def __call__(self, case: Case) -> tuple[np.ndarray, float]:
        """The kernel of one case, asked for at the size of the true one, and the seconds it took."""
        import gpudeblur

        options, picture = gpudeblur.TwoStepOptions(**self.options), case.blurred
        if self.dtype is not None:
            picture = picture.astype(self.dtype)
            options = dataclasses.replace(options, dtype=self.dtype)
        start = time.perf_counter()  # a device result comes back as NumPy: the call has waited for it
        kernel = gpudeblur.estimate_kernel(picture, case.kernel.shape, device=self.device, options=options)
        return np.asarray(kernel, np.float64), time.perf_counter() - start


def estimate(cases: Sequence[Case], estimator: Estimator, jobs: int = 0) -> tuple[list[np.ndarray], list[float]]:
    """Kernels and seconds of all cases; a device is used from this process alone."""
    found = list(parallel(estimator, cases, 0 if estimator.device == "cuda" else jobs))
    return [kernel for kernel, _ in found], [seconds for _, seconds in found]


# ------------------------------------------------------------------ judgement
def restore_default(blurred: np.ndarray, kernel: np.ndarray, **settings: Any) -> np.ndarray:
    """The common restoration: `gpudeblur.deconvolve`, with the sparse method and weight of Levin's yardstick.

    One weight for all kernels: an automatic one would be larger for a wrong kernel, and hide its errors.
    """
    import gpudeblur

    settings = {"method": "sparse", **settings}
    if settings["method"] == "sparse":
        settings = {"weight": 0.0068, **settings}
    return gpudeblur.deconvolve(blurred, kernel, **settings)


def centred(kernel: np.ndarray) -> np.ndarray:
    """Sum 1, centre of mass in the middle to half a pixel, padded so that nothing is cut off."""
    kernel = np.asarray(kernel, np.float64) / float(kernel.sum())
    offsets = [
        round(float(kernel.sum(axis=1 - axis) @ np.arange(kernel.shape[axis])) - kernel.shape[axis] // 2)
        for axis in (0, 1)
    ]
    padded = np.pad(kernel, max(abs(offset) for offset in offsets))
    return np.roll(padded, (-offsets[0], -offsets[1]), (0, 1))


@dataclasses.dataclass(frozen=True)
class _Judge:
    restore: Restore
    settings: Mapping[str, Any]
    cache: Path | None

    def __call__(self, pair: tuple[Case, np.ndarray]) -> Row:
        case, kernel = pair
        true = self.of_true_kernel(case)
        kernel = centred(kernel)
        found = scores(self.restore(case.blurred, kernel, **self.settings), case.sharp)
        return {
            "name": case.name,
            "er": found.ssd / true["ssd"],
            "psnr": found.psnr,
            "ssim": found.ssim,
            "similarity": kernel_similarity(kernel, case.kernel),
            "kernel_error": kernel_error(kernel, case.kernel),
            "gain": found.psnr - true["psnr_blurred"],
            "psnr_true": true["psnr"],
            "ssim_true": true["ssim"],
            "psnr_blurred": true["psnr_blurred"],
            "shift": found.shift,
        }

    def of_true_kernel(self, case: Case) -> Row:
        """Figures that depend on the case alone, from the disk where they are known."""
        path = None
        if self.cache is not None:
            path = Path(self.cache) / f"{case.name}_{self.key(case)}.json"
            if path.exists():
                return json.loads(path.read_text())
        found = scores(self.restore(case.blurred, case.kernel, **self.settings), case.sharp)
        row = {
            "ssd": found.ssd,
            "psnr": found.psnr,
            "ssim": found.ssim,
            "psnr_blurred": scores(case.blurred, case.sharp).psnr,
        }
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(row))
            part.replace(path)
        return row

    def key(self, case: Case) -> str:
        """Changes with the picture, the kernel, the settings, and the code that restores and measures."""
        digest = hashlib.sha256(case.blurred.tobytes() + case.sharp.tobytes() + case.kernel.tobytes())
        name = f"{self.restore.__module__}.{self.restore.__qualname__}"
        digest.update(json.dumps([name, dict(self.settings)], sort_keys=True).encode())
        package = REPOSITORY / "gpudeblur"
        sources = [package / name for name in ("metrics.py", "fourier.py", "conjugate_gradient.py", "filters.py")]
        for source in sorted([*sources, *(package / "nonblind").glob("*.py")]):
            digest.update(source.read_bytes() if source.exists() else b"")
        return digest.hexdigest()[:16]


def evaluate(
    pairs: Iterable[tuple[Case, np.ndarray]],
    *,
    restore: Restore = restore_default,
    settings: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    jobs: int = 0,
) -> list[Row]:
    """One row of figures for each (case, estimated kernel).

    Parameters
    ----------
    pairs : iterable of (Case, ndarray)
        Estimated kernels in convolution sense, any size; they are centred first.
    restore : callable (blurred, kernel, **settings) -> image
        The common restoration, used with both kernels. For ``jobs > 0`` a function of a module's top level.
    settings : mapping, optional
        Its keyword arguments.
    cache : Path, optional
        Folder that keeps the figures of the true kernels; they are the slower half.
    jobs : int
        Worker processes of one thread each; 0 works in this process.

    Returns
    -------
    list of dict
        name, er, psnr, ssim, similarity, kernel_error, gain (dB over the blurred picture), psnr_true, ssim_true,
        psnr_blurred, shift; all pictures' figures at the best shift, 15 border pixels dropped.
    """
    return list(parallel(_Judge(restore, dict(settings or {}), cache), pairs, jobs))


def summary(rows: Sequence[Row], seconds: Sequence[float] = ()) -> Row:
    """Medians, means and success rates of `evaluate`'s rows."""
    er = np.array([row["er"] for row in rows])
    total: Row = {"n": len(rows)}
    total.update(er_median=float(np.median(er)), er_mean=float(er.mean()), er_max=float(er.max()))
    for bar in BARS:
        total[f"success_{bar:g}"] = float((er <= bar).mean())
    for key in ("psnr", "psnr_true", "psnr_blurred", "gain", "ssim", "ssim_true", "similarity", "kernel_error"):
        total[f"{key}_mean"] = float(np.mean([row[key] for row in rows]))
    if len(seconds):
        total["seconds_median"] = float(np.median(seconds))
    return total


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Markdown; `columns` maps a key to its format, the first one is taken as it is."""
    first, *others = columns
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        lines.append(f"| {row[first]} | " + " | ".join(format(row[key], columns[key]) for key in others) + " |")
    return "\n".join(lines)


def show(rows: Iterable[Row], *tables: Mapping[str, str]) -> list[Row]:
    """Print each row as soon as it comes, in the first of `tables` (columns as for `table`) whose columns it has."""
    shown: list[Row] = []
    current = None
    for row in rows:
        shown.append(row)
        columns = next(columns for columns in tables if columns.keys() <= row.keys())
        lines = table([row], columns).splitlines()
        print("\n".join(lines[-1:] if columns is current else ["", *lines]), flush=True)
        current = columns
    return shown


# ------------------------------------------------------------------ arguments
# What several benches take, said once; a bench names the ones it wants.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "data": {"type": Path, "required": True, "help": "folder that holds levin/, natural/, faces_hq/ and faces/"},
    "jobs": {"type": int, "default": 2, "help": "processes of one thread each"},
    "cache": {"type": Path, "help": "folder that keeps the figures of the true kernels"},
    "method": {"default": "sparse", "help": "of the common restoration (gpudeblur.deconvolve)"},
    "options": {"type": json.loads, "default": {}, "help": "fields of TwoStepOptions, as JSON"},
    "device": {"choices": ["cpu", "cuda", "auto"]},
    "dtype": {"choices": ["float32", "float64"], "help": "of picture and options; both as they are else"},
    "only": {"default": "", "help": "substring of the names to run; not recorded"},
    "seconds": {"type": float, "help": "what does not fit in so many seconds is left out, and said to be"},
    "no-record": {"action": "store_true", "help": "append nothing to bench/results"},
}


def arguments(doc: str | None, *names: str, **changes: dict[str, Any]) -> argparse.ArgumentParser:
    """A parser whose help is `doc`, with the arguments of those names; `changes` to their settings, by name."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name}", **{**ARGUMENTS[name], **changes.get(name, {})})
    return parser


# ------------------------------------------------------------------ where figures come from
def provenance() -> Row:
    """Date, commit, versions and processor: what a figure needs to be repeated."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        return done.stdout.strip()

    versions = {"python": platform.python_version()}
    for package in ("numpy", "scipy", "scikit-image", *sorted(m for m in ("cupy", "torch") if m in sys.modules)):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # CuPy's distributions carry the CUDA version in their name
            versions[package] = sys.modules[package].__version__
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD"),
        "modified": bool(git("status", "--porcelain", "--", "gpudeblur", "kernels_cuda")),
        "versions": versions,
        "machine": processor_name(),
    }


def processor_name() -> str:
    """The processor's model, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name() -> str:
    """The GPU that CuPy computes on."""
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()


def settings(args: argparse.Namespace, *names: str) -> Row:
    """The arguments of those names for a record, and the GPU where one was asked for."""
    found = {name: getattr(args, name) for name in names}
    return {**found, **({"gpu": device_name()} if getattr(args, "device", None) == "cuda" else {})}


def results_folder() -> Path:
    """Where records go: bench/results, or $GPUDEBLUR_RESULTS."""
    return Path(os.environ.get("GPUDEBLUR_RESULTS", REPOSITORY / "bench" / "results"))


def record(name: str, line: Mapping[str, Any]) -> None:
    """Append one JSON line, with its provenance, to bench/results/<name>.jsonl (or to $GPUDEBLUR_RESULTS)."""
    _append(name, {**provenance(), **line})


def recorded(name: str, line: Mapping[str, Any], rows: Iterable[Row]) -> Iterator[Row]:
    """`rows` as they come; each is appended with `line` before the next is measured, all under one provenance.

    What a process that is killed has measured by then is in the file.
    """
    common = {**provenance(), **line}
    for row in rows:
        _append(name, {**common, **row})
        yield row


def _append(name: str, line: Mapping[str, Any]) -> None:
    path = results_folder() / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """NumPy scalars and paths for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def mean_interval(
    values: Sequence[float], groups: Sequence[str], *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval; whole groups are drawn, as cases of one picture are not independent."""
    names = sorted(set(groups))
    sums = np.array([sum(v for v, g in zip(values, groups, strict=True) if g == name) for name in names])
    counts = np.array([sum(g == name for g in groups) for name in names])
    picked = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    means = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sum(values) / len(values)), float(low), float(high)


def roc_area(score: np.ndarray, success: np.ndarray) -> float:
    """Probability that a success scores above a failure, ties count half; NaN where there is only one of the two."""
    good, bad = score[success][:, None], score[~success]
    return float(((good > bad) + 0.5 * (good == bad)).mean()) if good.size and bad.size else math.nan
