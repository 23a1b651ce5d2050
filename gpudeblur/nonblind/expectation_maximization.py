"""The Richardson-Lucy iteration (expectation maximization under Poisson noise), accelerated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module
from ..numerics.boundary import pad_crossfade
from ..numerics.fourier import Shape, fast_shape, irfftn, kernel_to_grid, rfftn, sum_last_axes
from ..numerics.progress import OnProgress

BOUNDARIES = ("unknown", "reflect", "edge", "wrap")
# Pixels outside the picture that count with less than this share of one inside are not estimated, but black (Bertero).
LEAST = 1e-3
# On a device, it is asked after so many steps whether all pictures are done.
READ = 8
Step = Callable[[Array], Array]


def em_iterations(
    blurred: Array,
    kernel: Array,
    ndim: int,
    *,
    num_iter: int,
    boundary: str,
    accelerated: bool = False,
    filter_epsilon: float | None = None,
    damped: Callable[[Array, Array], Array] | None = None,
    regular: Step | None = None,
    clipped: Array | None = None,
    until: Any = 0.0,
    everywhere: bool = False,
    callback: OnProgress | None = None,
) -> Array:
    """`richardson_lucy` over the last `ndim` axes, whatever their number; the kernel's sum need not be 1.

    Parameters
    ----------
    kernel : its origin is its pixel (side - 1) // 2, for even sides that of scikit-image.
    filter_epsilon : where x * k is below it, x is not project_on_data (the ratio counts as 0); None: it is everywhere.
    damped : B / (x * k), B - x * k -> what takes the place of the ratio.
    regular : x -> what each step is divided by, about 1.
    clipped : where B - x * k counts as 0 if it is less, and the ratio as 1; `boundary` "unknown" or "wrap".
    until : rms of B - x * k that is small enough, a number or (..., 1, 1); 0: none is.
    everywhere : return x on all of the grid, the picture's first pixel at index 0.
    """
    xp, shape, sides = array_module(blurred, kernel), blurred.shape[-ndim:], kernel.shape[-ndim:]
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {', '.join(map(repr, BOUNDARIES))}, got {boundary!r}")
    tiny = float(np.finfo(blurred.dtype).tiny)
    origin = tuple((side - 1) // 2 for side in sides)
    data = xp.maximum(blurred, 0)
    grid = shape
    seen: tuple[Any, ...] = (...,)  # where B is on the grid
    home: tuple[Any, ...] = (...,)  # where the picture is
    if boundary == "unknown":
        grid = fast_shape(tuple(a + b - 1 for a, b in zip(shape, sides, strict=True)))
        seen = home = (..., *(slice(b - 1 - o, b - 1 - o + a) for a, b, o in zip(shape, sides, origin, strict=True)))
    elif boundary != "wrap":
        data, home = pad_crossfade(data, tuple(2 * (side - 1) for side in sides), boundary), (..., *map(slice, shape))
        grid = data.shape[-ndim:]
    blur, back = convolutions(kernel, grid, origin)
    ratio = xp.zeros((*data.shape[:-ndim], *grid), dtype=data.dtype)
    ratio[seen] = 1
    weight, whole = back(ratio), sum_last_axes(kernel, ndim)  # H^T 1: how much of a pixel's light was seen
    estimated = weight > LEAST * whole
    inverse = xp.where(estimated, 1 / xp.where(estimated, weight, 1), 0)
    count = math.prod(data.shape[-ndim:])
    mean = sum_last_axes(data, ndim) / count
    latent = xp.where(estimated, mean / whole, 0)
    floor = xp.maximum(mean * float(np.finfo(data.dtype).eps), tiny)

    def step(x: Array) -> tuple[Array, Array | None]:
        again = blur(x)[seen]
        if clipped is not None:
            again = xp.where(clipped, xp.minimum(again, data), again)
        close = None
        if not isinstance(until, float):
            close = sum_last_axes((data - again) ** 2, ndim) <= count * until**2
        quotient = data / xp.maximum(again, floor)
        if filter_epsilon:
            quotient = xp.where(again < filter_epsilon, 0, quotient)
        ratio[seen] = quotient if damped is None else damped(quotient, data - again)
        factor = back(ratio)
        factor *= inverse
        if regular is not None:
            factor /= xp.maximum(regular(x), 0.5)
        factor *= x
        return xp.maximum(factor, 0, out=factor), close  # rounding in the transforms

    latent = _accelerate(step, latent, ndim, num_iter, accelerated, callback)
    if everywhere:
        return xp.roll(latent, tuple(-(place.start or 0) for place in home[1:]), tuple(range(1 - len(home), 0)))
    return latent[home]


def convolutions(kernel: Array, grid: Shape, origin: Shape) -> tuple[Step, Step]:
    """x * k on a periodic grid, and its adjoint; the kernel's transform is made once, here."""
    otf = rfftn(kernel_to_grid(kernel, grid, origin=origin), len(grid))
    otf /= math.prod(grid)
    conjugate = otf.conj()

    def times(transfer: Array) -> Step:
        def convolve(x: Array) -> Array:
            spectrum = rfftn(x, len(grid))
            spectrum *= transfer
            return irfftn(spectrum, grid)

        return convolve

    return times(otf), times(conjugate)


def _accelerate(
    step: Callable[[Array], tuple[Array, Array | None]],
    x: Array,
    ndim: int,
    num_iter: int,
    accelerated: bool,
    callback: OnProgress | None,
) -> Array:
    """`num_iter` steps from `x` on; with `accelerated`, each from a point ahead (Biggs & Andrews 1997, eq. 2 to 8).

    A step returns x and, where it was asked to, whether it set out from a point that was close enough already: that
    picture stays as it is then.
    """
    xp, tiny = array_module(x), float(np.finfo(x.dtype).tiny)
    ahead, last, done, kept = x, None, None, x
    for i in range(num_iter):
        new, close = step(ahead)
        if close is not None:
            kept = ahead if done is None else xp.where(done, kept, ahead)
            done = close if done is None else done | close
            if (xp is np or i % READ == READ - 1) and bool(done.all()):  # here CuPy must wait
                if callback is not None:
                    callback(1.0)
                break
        if accelerated:
            gain = new - ahead
            ahead = new
            if last is not None:
                share = sum_last_axes(gain * last, ndim) / xp.maximum(sum_last_axes(last * last, ndim), tiny)
                ahead = xp.maximum(new + xp.clip(share, 0, 1) * (new - x), 0)
            last = gain
        else:
            ahead = new
        x = new
        if callback is not None:
            callback((i + 1) / num_iter)
    if done is not None:
        x = xp.where(done, kept, x)
    return x
