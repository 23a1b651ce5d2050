"""How long, how much memory, how fast a copy: the same questions to NumPy on one thread and to CuPy.

To be imported before NumPy, which reads when it is loaded how many threads BLAS may have.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import contextlib
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Work = Callable[[], Any]


class Timing(NamedTuple):
    """Medians over `calls`, in seconds: a call; until it returned to the host; of this process on its CPUs, which other
    processes do not slow down much; between events on the device."""

    seconds: float
    host: float
    cpu: float
    device: float
    calls: int

    @property
    def own(self) -> float:
        """What to compare: CPU time where there is no GPU, as other processes hardly change it."""
        return self.cpu if np.isnan(self.device) else self.seconds


class Deadline:
    """So many seconds from now on; None: no end."""

    def __init__(self, seconds: float | None) -> None:
        self._end = float("inf") if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


class Host:
    """NumPy on one thread."""

    name, device = "numpy", "cpu"
    warm_up = 1

    def __init__(self) -> None:
        import scipy.fft

        self.xp: Any = np
        self.fft: Any = scipy.fft

    def is_out_of_memory(self, why: Exception) -> bool:
        return isinstance(why, MemoryError)

    def put(self, array: np.ndarray) -> Any:
        return array

    def once(self, work: Work) -> tuple[float, float, float]:
        """Seconds of one call: (on the host, of its CPUs, on the device)."""
        start, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - start, time.process_time() - cpu, float("nan")

    def time(self, work: Work, *, seconds: float = 2.0, least: int = 3, most: int = 50) -> Timing:
        """Medians of `least` to `most` calls in about so many seconds, after calls that warm up."""
        for _ in range(self.warm_up):
            work()
        found: list[tuple[float, float, float]] = []
        deadline = Deadline(seconds)
        while len(found) < least or (deadline.left > 0 and len(found) < most):
            found.append(self.once(work))
        host, cpu, device = (statistics.median(one) for one in zip(*found, strict=True))
        return Timing(statistics.median(np.fmax(one[0], one[2]) for one in found), host, cpu, device, len(found))

    def peak_bytes(self, work: Work) -> int:
        """Bytes of arrays above those that existed before, at their highest."""
        work()  # tables that are kept are no working memory
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - before

    def free(self) -> None:
        """Give back what is kept between calls."""
        gc.collect()

    def copy_bandwidth(self, size: int = 1 << 26) -> float:
        """Bytes a second of a copy of `size` float32 numbers, read and write counted."""
        source = self.xp.ones(size, np.float32)
        target = self.xp.empty_like(source)

        def copy() -> None:
            target[...] = source

        return 2 * source.nbytes / self.time(copy, least=5, most=20).seconds

    def operation_rate(self, side: int = 1024) -> float:
        """Operations a second of a large float32 matrix product: what the arithmetic can reach."""
        a = self.xp.asarray(np.random.default_rng(0).random((side, side), np.float32))
        return 2 * side**3 / self.time(lambda: a @ a, seconds=0.5, least=5).seconds


class Cuda(Host):
    """CuPy: events on the current stream, memory as the driver sees it."""

    name, device = "cupy", "cuda"
    warm_up = 3  # the second call of a shape captures its CUDA graphs, the third replays them

    def __init__(self) -> None:
        from gpudeblur.numerics.arrays import fft_module, require_cuda

        self.xp = require_cuda()
        self.fft = fft_module(self.xp)

    def is_out_of_memory(self, why: Exception) -> bool:
        # cuFFT says 2 as its result, the driver and the runtime as their status.
        return super().is_out_of_memory(why) or 2 in (getattr(why, "result", None), getattr(why, "status", None))

    def put(self, array: np.ndarray) -> Any:
        return self.xp.asarray(array)

    def once(self, work: Work) -> tuple[float, float, float]:
        begin, end = self.xp.cuda.Event(), self.xp.cuda.Event()
        begin.record()
        start, cpu = time.perf_counter(), time.process_time()
        work()
        host, cpu = time.perf_counter() - start, time.process_time() - cpu
        end.record()
        end.synchronize()
        return host, cpu, self.xp.cuda.get_elapsed_time(begin, end) / 1e3

    def peak_bytes(self, work: Work) -> int:
        """Bytes that the device has less, once `work` ran as often as it takes to have its plans and CUDA graphs.

        Neither CuPy's pools nor plans nor graphs give anything back by themselves: what is held at the end is the peak.
        """
        work()  # compiled CUDA code is no working memory
        self.free()
        before = self.xp.cuda.Device().mem_info[0]
        for _ in range(self.warm_up):
            work()
        self.xp.cuda.Device().synchronize()
        return before - self.xp.cuda.Device().mem_info[0]

    def free(self) -> None:
        from gpudeblur.numerics.device import clear

        clear()
        gc.collect()
        self.xp.fft.config.get_plan_cache().clear()
        self.xp.get_default_memory_pool().free_all_blocks()

    def copy_bandwidth(self, size: int = 1 << 28) -> float:
        return super().copy_bandwidth(size)  # a GB: far more than the cache

    def operation_rate(self, side: int = 8192) -> float:
        return super().operation_rate(side)

    def time_launches(self, launch: Work, *, repeats: int = 20) -> tuple[float, bool]:
        """Seconds of one launch, and whether `repeats` of them were replayed as one CUDA graph.

        The host takes longer to ask for a small launch than the device to run it; a graph is asked for once.
        """
        stream = self.xp.cuda.Stream(non_blocking=True)
        self.xp.cuda.Device().synchronize()  # what the launch reads is there
        with stream:
            launch()  # compiles, and makes FFT plans, which belong to the stream and cannot be made in a capture
        stream.synchronize()
        try:
            with stream:
                stream.begin_capture()
                try:
                    for _ in range(repeats):
                        launch()
                finally:
                    graph = stream.end_capture()
            return self.time(graph.launch, seconds=0.2, least=5, most=30).device / repeats, True
        except RuntimeError:  # CUDA's own errors are such, and so is NotImplementedError

            def many() -> None:
                for _ in range(repeats):
                    launch()

            return self.time(many, seconds=0.2, least=5, most=30).device / repeats, False


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used, as Linux counts them; NaN elsewhere."""
    try:
        user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    except OSError:
        return float("nan")
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Seconds since it was made: on the wall, of this process on its CPUs, of all others on theirs."""

    def __init__(self) -> None:
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), busy_seconds()

    def read(self) -> tuple[float, float, float]:
        wall, cpu, busy = (now - start for now, start in zip(self._now(), self._start, strict=True))
        return wall, cpu, max(0.0, busy - cpu)


def backend(device: str) -> Host:
    """What "cpu" or "cuda" asks for; a RuntimeError says what is missing."""
    return Cuda() if device == "cuda" else Host()


@contextlib.contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes of `owner` that are others for a while."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
