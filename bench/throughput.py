"""Seconds per picture of `estimate_kernel` against picture, kernel and batch size, and its peak memory.

    python bench/throughput.py [--memory] [--device cuda] [--only SUBSTRING]

The picture is scikit-image's camera, resized, under a trajectory kernel with a fixed seed. One thread on the CPU. Each
row says how many transforms of how many bytes ran, and how long they take alone on this machine: the floor of the
time measured. `--memory` runs each row once more under tracemalloc, to which NumPy reports its arrays (not FFT work
space), and adds a 2048 x 2048 row. Appends to results/throughput.jsonl.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read when NumPy loads its BLAS

import argparse  # noqa: E402
import contextlib  # noqa: E402
import dataclasses  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
import tracemalloc  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from evaluate import device_name, record, table  # noqa: E402

import gpudeblur  # noqa: E402
from gpudeblur.synthesis import blur, trajectory_kernel  # noqa: E402

SEED = 20
COLUMNS = {
    "case": "", "seconds": ".4f", "transforms": "d", "gigabytes": ".2f", "fft_seconds": ".4f", "over_floor": ".2f",
    "memory_ratio": ".1f",
}  # fmt: skip
# Real or complex, all that a step may call; each entry of the count is one call.
TRANSFORMS = ("rfft2", "irfft2", "rfftn", "irfftn", "fft2", "ifft2", "fftn", "ifftn")


@dataclasses.dataclass(frozen=True)
class Load:
    """One row: `batch` pictures of `shape`, kernels of `kernel_size`."""

    shape: tuple[int, int]
    kernel_size: int
    batch: int = 1

    @property
    def name(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]}_k{self.kernel_size}_b{self.batch}"

    def pictures(self, dtype: str) -> np.ndarray:
        """(H, W), or (batch, H, W) of differently blurred ones."""
        from skimage.data import camera
        from skimage.transform import resize

        sharp = resize(camera().astype(np.float64) / 255, self.shape, anti_aliasing=True)
        stack = np.stack([
            blur(sharp, trajectory_kernel(self.kernel_size, rng=SEED + i), mode="same") for i in range(self.batch)
        ])  # fmt: skip
        return (stack if self.batch > 1 else stack[0]).astype(dtype)


LOADS = (
    # Picture size.
    Load((96, 112), 15), Load((255, 255), 25), Load((512, 512), 25), Load((800, 800), 31), Load((1024, 1024), 31),
    # Kernel size.
    Load((255, 255), 15), Load((255, 255), 31), Load((255, 255), 51), Load((512, 512), 51),
    # Batch size.
    Load((96, 112), 15, 16), Load((255, 255), 25, 4), Load((255, 255), 25, 16),
)  # fmt: skip
LARGE_BATCHES = (Load((96, 112), 15, 64), Load((255, 255), 25, 64))  # what a GPU is for
MEMORY_LOAD = Load((2048, 2048), 31)


class Backend:
    """NumPy on one thread: how to time, how to see memory. `Cuda` says the same for CuPy."""

    name = "numpy"

    def __init__(self) -> None:
        import scipy.fft

        self.xp: Any = np
        self.fft: Any = scipy.fft

    def put(self, array: np.ndarray) -> Any:
        return array

    def times(self, work: Callable[[], Any], repeats: int) -> list[float]:
        """Seconds of `repeats` calls after one that warms up."""
        work()
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
        return found

    def peak_bytes(self, work: Callable[[], Any]) -> int:
        """Bytes of arrays above those that existed before, at their highest."""
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - before


class Cuda(Backend):
    """CuPy: time by events on the stream, memory by the pool."""

    name = "cupy"

    def __init__(self) -> None:
        import cupy
        import cupyx.scipy.fft

        self.xp, self.fft = cupy, cupyx.scipy.fft

    def put(self, array: np.ndarray) -> Any:
        return self.xp.asarray(array)

    def times(self, work: Callable[[], Any], repeats: int) -> list[float]:
        from cupyx.profiler import benchmark

        found = benchmark(work, n_repeat=repeats, n_warmup=2)
        # The larger of both clocks: a step that waits for the host shows on the CPU's only.
        return [max(gpu, cpu) for gpu, cpu in zip(found.gpu_times[0].tolist(), found.cpu_times.tolist(), strict=True)]

    def peak_bytes(self, work: Callable[[], Any]) -> int:
        pool = self.xp.get_default_memory_pool()
        self.xp.fft.config.get_plan_cache().clear()
        pool.free_all_blocks()
        before = pool.used_bytes()
        work()
        return pool.total_bytes() - before  # the pool gives nothing back by itself: its total is the peak


@contextlib.contextmanager
def counted(fft: Any) -> Iterator[Counter[tuple[str, tuple[int, ...], str]]]:
    """Counts calls of the FFT module by name, shape of the transform's (real) side and dtype, while it lasts."""
    calls: Counter[tuple[str, tuple[int, ...], str]] = Counter()
    originals = {name: getattr(fft, name) for name in TRANSFORMS if hasattr(fft, name)}

    def watch(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, *arguments: Any, **keywords: Any) -> Any:
            result = original(x, *arguments, **keywords)
            given = result if name.startswith("i") else x
            size = keywords.get("s") or (arguments[0] if arguments else None) or given.shape[-2:]
            calls[name, (*given.shape[:-2], *size), str(given.dtype)] += 1
            return result

        return call

    for name, original in originals.items():
        setattr(fft, name, watch(name, original))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(fft, name, original)


def transform_floor(backend: Backend, calls: Counter[tuple[str, tuple[int, ...], str]]) -> tuple[float, float]:
    """Seconds that the counted transforms take alone, and the gigabytes they read and write."""
    seconds = moved = 0.0
    for (name, shape, dtype), count in calls.items():
        work = getattr(backend.fft, name)
        real = backend.xp.ones(shape, dtype)
        spectrum = backend.fft.rfft2(real) if "rfft" in name else backend.fft.fft2(real)
        source = spectrum if name.startswith("i") else real
        keywords = {"s": shape[-2:]} if name.startswith("irfft") else {}
        repeats = 9 if source.size < 1 << 20 else 3
        seconds += count * statistics.median(
            backend.times(lambda w=work, x=source, k=keywords: w(x, axes=(-2, -1), **k), repeats)
        )
        moved += count * (real.nbytes + spectrum.nbytes)
    return seconds, moved / 1e9


def copy_bandwidth(backend: Backend) -> float:
    """GB/s of a large copy, read and write counted."""
    source = backend.xp.ones(1 << 26, np.float32)
    target = backend.xp.empty_like(source)

    def copy() -> None:
        target[...] = source

    return 2 * source.nbytes / statistics.median(backend.times(copy, 5)) / 1e9


def measure(backend: Backend, load: Load, options: Any, dtype: str, repeats: int, memory: bool) -> dict[str, Any]:
    """One row; the memory's run comes last and does not count for the time."""
    pictures = backend.put(load.pictures(dtype))

    def work() -> Any:
        return gpudeblur.estimate_kernel(pictures, load.kernel_size, options=options)

    with counted(backend.fft) as calls:
        work()
    seconds = statistics.median(backend.times(work, repeats)) / load.batch
    fft_seconds, gigabytes = transform_floor(backend, calls)
    fft_seconds, gigabytes = fft_seconds / load.batch, gigabytes / load.batch
    row = {
        "case": load.name, "seconds": seconds, "transforms": calls.total(), "gigabytes": gigabytes,
        "fft_seconds": fft_seconds, "over_floor": seconds / fft_seconds if fft_seconds else float("nan"),
        "memory_ratio": float("nan"),
    }  # fmt: skip
    if memory:
        row["memory_ratio"] = backend.peak_bytes(work) / (4 * load.shape[0] * load.shape[1] * load.batch)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="peak memory too, over the input's float32 size")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--options", type=json.loads, default={}, help="fields of TwoStepOptions, as JSON")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="substring of the rows to run, such as 255x255_k25_b1")
    parser.add_argument("--no-record", action="store_true", help="append nothing to bench/results")
    args = parser.parse_args()

    backend = Cuda() if args.device == "cuda" else Backend()
    options = dataclasses.replace(gpudeblur.TwoStepOptions(**args.options), dtype=args.dtype)
    loads = [*LOADS, *(LARGE_BATCHES if args.device == "cuda" else ()), *([MEMORY_LOAD] if args.memory else ())]
    loads = [load for load in loads if args.only in load.name]
    if not loads:
        parser.error(f"no row has {args.only!r} in its name")
    bandwidth = copy_bandwidth(backend)
    print(f"{backend.name}, {args.dtype}, copy {bandwidth:.1f} GB/s; per picture of a batch, transforms per call\n")
    rows = []
    for load in loads:
        rows.append(measure(backend, load, options, args.dtype, args.repeats, args.memory))
        lines = table(rows, COLUMNS).splitlines()
        print("\n".join(lines if len(rows) == 1 else lines[-1:]), flush=True)
    if not args.no_record:
        gpu = {"gpu": device_name()} if args.device == "cuda" else {}
        settings = {key: getattr(args, key) for key in ("options", "device", "dtype", "repeats")}
        record("throughput", {**settings, **gpu, "copy_gb_per_s": bandwidth, "rows": rows})


if __name__ == "__main__":
    main()
