"""What the benches of speed ask of a device: NumPy on one thread, or CuPy."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gpudeblur.numerics.arrays import require_cuda


class Cpu:
    """NumPy."""

    name = "cpu"
    warm_up = 1
    timer = staticmethod(time.process_time)

    def __init__(self) -> None:
        self.xp: Any = np

    def put(self, array: np.ndarray) -> Any:
        return array

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def free(self) -> None:
        """Give back what is kept between calls."""
        gc.collect()

    def seconds(self, work: Callable[[], Any], *, rounds: int = 5) -> float:
        """Median of a few calls."""
        work()
        durations = []
        for _ in range(rounds):
            begin = self.timer()
            work()
            durations.append(self.timer() - begin)
        return statistics.median(durations)


class Cuda(Cpu):
    """CuPy; seconds are between events, which also wait for what was launched before."""

    name = "cuda"
    warm_up = 2  # the second call of a shape captures its CUDA graphs, the third replays them

    def __init__(self) -> None:
        self.xp = require_cuda()
        self._event, self._seconds = self.xp.cuda.Event(), 0.0
        self._event.record()

    def timer(self) -> float:  # type: ignore[override]
        """Seconds on the device's clock when all that was launched on the current stream is done.

        Summed from reading to reading: the time between two distant events is a float32 of milliseconds.
        """
        event = self.xp.cuda.Event()
        event.record()
        event.synchronize()
        self._seconds += self.xp.cuda.get_elapsed_time(self._event, event) / 1e3
        self._event = event
        return self._seconds

    def put(self, array: np.ndarray) -> Any:
        return self.xp.asarray(array)

    def is_out_of_memory(self, error: Exception) -> bool:
        from gpudeblur.numerics import device

        return device.is_out_of_memory(error)

    def free(self) -> None:
        from gpudeblur.numerics import device

        device.clear()
        gc.collect()
        self.xp.fft.config.get_plan_cache().clear()
        self.xp.get_default_memory_pool().free_all_blocks()

    def copy_bandwidth(self, size: int = 1 << 28) -> float:
        """Bytes a second of a copy of `size` float32 numbers, read and write counted; a GB, far more than the cache."""
        source = self.xp.ones(size, np.float32)
        target = self.xp.empty_like(source)

        def copy() -> None:
            target[...] = source

        return 2 * source.nbytes / self.seconds(copy)

    def operation_rate(self, side: int = 8192) -> float:
        """Operations a second of a large float32 matrix product: what the arithmetic can reach."""
        a = self.xp.asarray(np.random.default_rng(0).random((side, side), np.float32))
        return 2 * side**3 / self.seconds(lambda: a @ a)
