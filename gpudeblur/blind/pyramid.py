"""The pyramid: kernel sizes from coarse to fine, and how a kernel is enlarged from one scale to the next."""

from __future__ import annotations

import functools
import math

import numpy as np

from ..numerics.arrays import Array, array_module, goes_to_cuda
from ..numerics.resample import resample_on_device
from .kernel_projection import normalize


def kernel_sizes(size: tuple[int, int], *, ratio: float, smallest: int) -> list[tuple[tuple[int, int], float]]:
    """(kernel size, scale) from the coarsest scale, where the longer side is about `smallest`, to scale 1 and `size`.

    Sides shrink by `ratio` with each scale, rounded up to odd, and are never below `smallest`.
    """
    scales = [ratio**i for i in range(1 + max(0, math.floor(math.log(smallest / max(size)) / math.log(ratio) + 1e-9)))]

    def odd(side: float) -> int:
        return max(smallest, 2 * math.ceil((side - 1) / 2 - 1e-9) + 1)

    return [((odd(size[0] * s), odd(size[1] * s)), s) for s in reversed(scales)]


def support_size(size: tuple[int, int], shape: tuple[int, int], margin: int) -> tuple[int, int]:
    """`size` plus `margin` pixels, both sides odd, and not larger than the image."""
    h, w = (max(k, min(k + margin, side - 1 + side % 2)) for k, side in zip(size, shape, strict=True))
    return h, w


def enlarge_kernel(kernel: Array, factor: float, size: tuple[int, int]) -> Array:
    """The kernel of the next scale: resampled by `factor`, cropped or zero-padded about its center to `size`, sum 1.

    A delta, if nothing of it lies in that window.
    """
    xp = array_module(kernel)
    if goes_to_cuda(kernel):
        out = resample_on_device(kernel, size, _magnify, factor)
    else:
        rows, columns = (
            xp.asarray(_magnify(a, b, factor).astype(kernel.dtype))
            for a, b in zip(kernel.shape[-2:], size, strict=True)
        )
        out = rows @ kernel @ columns.T
    return normalize(out)


@functools.lru_cache(maxsize=64)
def _magnify(source: int, target: int, factor: float) -> np.ndarray:
    """(target, source): cubic interpolation about the center of both grids."""
    position = (np.arange(target) - target // 2) / factor + source // 2
    t = np.abs(np.arange(source)[None, :] - position[:, None])
    return np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0.0))
