"""Richardson-Lucy deconvolution: non-negative, keeps the light, assumes nothing about what was not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..images.kernels import pad_to_odd
from ..images.noise import noise_sigma_under
from ..numerics.arrays import Array, array_module
from ..numerics.boundary import continued
from ..numerics.filters import gradient, gradient_adjoint
from ..numerics.fourier import Shape, fast_shape, irfftn, place, rfftn, sum_last_axes

BOUNDARIES = ("unknown", "reflect", "edge", "wrap")
# Pixels outside the picture that count with less than this share of one inside are not estimated, but black (Bertero).
LEAST = 1e-3
# White's N: how suddenly the damping sets in.
SUDDENNESS = 10
# On a device, it is asked after so many steps whether all pictures are done.
READ = 8
# Dey's |grad x|, rounded off below this share of the mean brightness.
FLAT = 1e-3

Progress = Callable[[float], None]
Step = Callable[[Array], Array]


def richardson_lucy(
    blurred: Array,
    kernel: Array,
    *,
    num_iter: int = 30,
    accelerated: bool = True,
    damping: float = 0.0,
    tv_weight: float = 0.0,
    discrepancy: float = 1.0,
    noise_sigma: Any = None,
    boundary: str = "unknown",
    clipped: Array | None = None,
    callback: Progress | None = None,
) -> Array:
    """argmax_x of the likelihood of B under Poisson noise, sum(B log(x * k) - x * k), x >= 0, by steps of EM.

    A step is x <- x / (H^T 1) . H^T(B / H x) with H x = x * k where B was seen. It keeps the light: H x sums to what B
    sums to. There is no prior unless `tv_weight` says so: the number of steps trades detail for noise.

    Parameters
    ----------
    blurred : (..., H, W) float; what is below 0 counts as 0.
    kernel : (kh, kw), or one a picture, (..., kh, kw); non-negative, sum 1. Its origin is its pixel
        (kh // 2, kw // 2).
    num_iter : number of steps, four transforms each, unless they end before.
    accelerated : extrapolate between the steps (Biggs & Andrews); `num_iter` then counts for some three times as many.
    damping : in standard deviations of the noise, 0: none. Where x * k is within so many of B, B is followed only
        faintly (White's formula, with the noise of a photograph instead of Poisson's).
    tv_weight : divides a step by 1 - tv_weight div(grad x / |grad x|) (Dey). Against noise; 0.002 to 0.02.
    discrepancy : a picture is done once the rms of B - x * k is under so many `noise_sigma`; 0: only after `num_iter`.
    noise_sigma : standard deviation of the noise of B, a number or one a picture; None estimates it.
    boundary : {"unknown", "reflect", "edge", "wrap"}
        "unknown": x reaches beyond B as far as the kernel does, only what was seen is compared, and what is seen in
        part is weighted with that part (Bertero & Boccacci). "reflect", "edge": B is carried on so. "wrap": B is
        periodic.
    clipped : (..., H, W) bool, where the sensor was at its top: where x * k is more than B there, B has no say. For
        the boundary "unknown" only.
    callback : called with the fraction done after each step.

    Returns
    -------
    (..., H, W), non-negative, not clipped.

    References
    ----------
    W. H. Richardson, J. Opt. Soc. Am. 62 (1972); L. B. Lucy, Astron. J. 79 (1974).
    D. S. C. Biggs, M. Andrews: Acceleration of iterative image restoration algorithms, Appl. Opt. 36 (1997).
    R. L. White: Image restoration using the damped Richardson-Lucy method, SPIE 2198 (1994).
    N. Dey et al.: Richardson-Lucy algorithm with total variation regularization, Microsc. Res. Tech. 69 (2006).
    M. Bertero, P. Boccacci: A simple method for the reduction of boundary effects in the Richardson-Lucy approach to
    image deconvolution, Astron. Astrophys. 437 (2005).

    Examples
    --------
    >>> import numpy as np
    >>> from gpudeblur.nonblind.richardson_lucy import richardson_lucy
    >>> sharp = np.zeros((16, 16))
    >>> sharp[8, 8] = 1
    >>> kernel = np.ones((1, 3)) / 3
    >>> blurred = (np.roll(sharp, 1, 1) + sharp + np.roll(sharp, -1, 1)) / 3
    >>> restored = richardson_lucy(blurred, kernel, num_iter=50)
    >>> bool(restored[8, 8] > 0.95), round(float(restored.sum()), 3)
    (True, 1.0)
    """
    xp, damped, regular = array_module(blurred, kernel), None, None
    sigma: Any = 0.0
    if damping or discrepancy:
        sigma = noise_sigma_under(blurred, kernel) if noise_sigma is None else noise_sigma
        sigma = xp.asarray(sigma, dtype=blurred.dtype)[..., None, None]
    if damping:
        # Without any noise there is nothing to be damped, but something to be divided by.
        least = 1e-12 * abs(blurred).max(axis=(-2, -1), keepdims=True) + float(np.finfo(blurred.dtype).tiny)
        limit = xp.maximum(damping * sigma, least)

        def damped(ratio: Array, difference: Array) -> Array:
            share = xp.minimum(abs(difference) / limit, 1) ** 2
            ratio = ratio - 1
            ratio *= share ** (SUDDENNESS - 1) * (SUDDENNESS - (SUDDENNESS - 1) * share)
            return ratio + 1

    if clipped is not None and boundary != "unknown":
        raise ValueError(f"boundary must be 'unknown' with clipped, got {boundary!r}; leave out one of them")
    if tv_weight:

        def regular(x: Array) -> Array:
            gx, gy = gradient(x)
            # A gradient far below the brightness is none: its direction is noise.
            size = xp.sqrt(gx * gx + gy * gy + (FLAT * x.mean(axis=(-2, -1), keepdims=True)) ** 2)
            size = xp.maximum(size, float(np.finfo(x.dtype).tiny))
            return 1 + tv_weight * gradient_adjoint(gx / size, gy / size)

    return iterate(
        blurred,
        pad_to_odd(kernel),
        2,
        num_iter=num_iter,
        boundary=boundary,
        accelerated=accelerated,
        damped=damped,
        regular=regular,
        clipped=clipped,
        until=discrepancy * sigma if discrepancy else 0.0,
        callback=callback,
    )


def iterate(
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
    callback: Progress | None = None,
) -> Array:
    """`richardson_lucy` over the last `ndim` axes, whatever their number; the kernel's sum need not be 1.

    Parameters
    ----------
    kernel : its origin is its pixel (side - 1) // 2, for even sides that of scikit-image.
    filter_epsilon : where x * k is below it, x is not believed (the ratio counts as 0); None: it is everywhere.
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
        data, home = continued(data, tuple(2 * (side - 1) for side in sides), boundary), (..., *map(slice, shape))
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

    latent = _repeat(step, latent, ndim, num_iter, accelerated, callback)
    if everywhere:
        return xp.roll(latent, tuple(-(place.start or 0) for place in home[1:]), tuple(range(1 - len(home), 0)))
    return latent[home]


def convolutions(kernel: Array, grid: Shape, origin: Shape) -> tuple[Step, Step]:
    """x * k on a periodic grid, and its adjoint; the kernel's transform is made once, here."""
    otf = rfftn(place(kernel, grid, origin), len(grid))
    otf /= math.prod(grid)
    conjugate = otf.conj()

    def times(transfer: Array) -> Step:
        def convolve(x: Array) -> Array:
            spectrum = rfftn(x, len(grid))
            spectrum *= transfer
            return irfftn(spectrum, grid)

        return convolve

    return times(otf), times(conjugate)


def _repeat(
    step: Callable[[Array], tuple[Array, Array | None]],
    x: Array,
    ndim: int,
    num_iter: int,
    accelerated: bool,
    callback: Progress | None,
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
