"""What the benches ask of a device: NumPy on one thread, or CuPy."""

from __future__ import annotations

import gc
import time
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

    def free(self) -> None:
        """Give back what is kept between calls."""
        gc.collect()

    def free_bytes(self) -> int:
        return 0


class Cuda(Cpu):
    """CuPy; seconds are between events, which also wait for what was launched before."""

    name = "cuda"
    warm_up = 2  # the second call of a shape captures its CUDA graphs, the third replays them

    def __init__(self) -> None:
        self.xp = require_cuda()
        self._event, self._seconds = self.xp.cuda.Event(), 0.0
        self._event.record()

    def timer(self) -> float:
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

    def free(self) -> None:
        from gpudeblur.numerics import constants, device

        self.xp.cuda.Device().synchronize()
        device.clear()
        constants.clear()
        gc.collect()
        self.xp.fft.config.get_plan_cache().clear()
        self.xp.get_default_memory_pool().free_all_blocks()

    def free_bytes(self) -> int:
        return self.xp.cuda.Device().mem_info[0]

    def rates(self, size: int, side: int) -> tuple[float, float]:
        """(bytes a second of a copy of `size` float32 numbers, operations a second of a float32 matrix product).

        Read and write are counted; a GB is far more than the cache holds.
        """
        source, matrix = (self.xp.ones(shape, np.float32) for shape in (size, (side, side)))
        target, done = self.xp.empty_like(source), (2 * source.nbytes, 2 * side**3)
        rates = []
        for work in (lambda: target.__setitem__(..., source), lambda: matrix @ matrix):
            times = []
            for _ in range(7):  # the first one compiles and loads
                work()
                times.append(self.timer())
            rates.append(float(np.median(np.diff(times))))
        return done[0] / rates[0], done[1] / rates[1]
