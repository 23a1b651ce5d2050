"""The Richardson-Lucy iteration (expectation maximization under Poisson noise), accelerated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..images.kernel_field import KernelField
from ..numerics.arrays import Array, array_module
from ..numerics.boundary import pad_crossfade
from ..numerics.filters import gradient, gradient_adjoint
from ..numerics.fourier import Shape, fast_shape, irfftn, kernel_to_grid, rfftn, sum_last_axes
from ..numerics.inpainting import inpaint
from ..numerics.progress import OnProgress
from ..numerics.varying_blur import VaryingBlur

# Pixels outside the image of which less than this fraction was observed are not estimated, but black (Bertero).
MIN_OBSERVED = 1e-3
# Pixels of the image of which a mask leaves less than this fraction of the light are interpolated. In columns and in
# blocks of 8 and 12 pixels (five pairs of photograph and kernel), 0.1 and 0.35 cost 0.1 dB, 0.001 0.4 dB, 0.5 1.3 dB.
MIN_SHARE = 0.2
# Of the total variation by which steps are divided where a mask takes light, times the share that it takes. Nine cases
# (docs/method.md) lose 3.3 dB in the holes; with 0.0015 4.2 dB, with 0.0375 3.8 dB, and 0.3 dB away from them.
HIDDEN_TV_WEIGHT = 0.0075
FLAT_GRADIENT = 1e-3  # |grad x| of the TV term is smoothed below this fraction of the mean brightness
# On a device, convergence is read back after every so many steps.
CONVERGENCE_INTERVAL = 8
Step = Callable[[Array], Array]


def em_iterations(
    blurred: Array,
    kernel: Array | KernelField,
    ndim: int,
    *,
    num_iter: int,
    boundary: str,
    accelerated: bool = False,
    filter_epsilon: float | None = None,
    damping: Callable[[Array, Array], Array] | None = None,
    regularizer: Step | None = None,
    saturated: Array | None = None,
    mask: Array | None = None,
    tolerance: Array | None = None,
    return_padded: bool = False,
    callback: OnProgress | None = None,
) -> Array:
    """`richardson_lucy` over the last `ndim` axes, any number of them; the kernel's sum need not be 1.

    Parameters
    ----------
    kernel : its origin is pixel (side - 1) // 2, for even sides that of scikit-image. Or a field, for two axes and the
        boundary "unknown".
    boundary : {"unknown", "reflect", "edge", "wrap"}
    filter_epsilon : where x * k is below it, the ratio counts as 0; None: nowhere.
    damping : B / (x * k), B - x * k -> the replacement of the ratio.
    regularizer : x -> divisor of each step, about 1.
    saturated : where a negative B - x * k counts as 0, and the ratio as 1; for the boundaries "unknown" and "wrap".
    mask : where `blurred` is valid; for two axes and the boundary "unknown". An image with holes starts from H^T of B,
        interpolated in them, and steps are divided by a TV term as far as light is lost in them. Where too little is
        left (`MIN_SHARE`), the result is interpolated from the one around.
    tolerance : (..., 1, 1), the rms of B - x * k at which an image has converged; None: never.
    return_padded : return x on the whole grid, the first pixel of the image at index 0.
    """
    kernels = kernel.kernels if isinstance(kernel, KernelField) else kernel
    xp, shape, sides = array_module(blurred, kernels), blurred.shape[-ndim:], kernels.shape[-ndim:]
    tiny = float(np.finfo(blurred.dtype).tiny)
    origin = tuple((side - 1) // 2 for side in sides)
    data = xp.maximum(blurred, 0)
    grid = shape
    observed: tuple[Any, ...] = (...,)  # the position of the data on the grid
    window: tuple[Any, ...] = (...,)  # that of the image
    if boundary == "unknown":
        grid = tuple(a + b - 1 for a, b in zip(shape, sides, strict=True))
        grid = grid if isinstance(kernel, KernelField) else fast_shape(grid)
        begins = [b - 1 - o for b, o in zip(sides, origin, strict=True)]
        observed = window = (..., *(slice(begin, begin + a) for begin, a in zip(begins, shape, strict=True)))
    elif boundary != "wrap":
        data, window = pad_crossfade(data, tuple(2 * (side - 1) for side in sides), boundary), (..., *map(slice, shape))
        grid = data.shape[-ndim:]
    blur: Step
    blur_adjoint: Step
    if isinstance(kernel, KernelField):
        operator = VaryingBlur(kernels, kernel.positions, kernel.shape, data.dtype)
        blur, blur_adjoint = operator.blur, operator.adjoint
        kernel_sum = xp.ones((1,) * ndim, dtype=data.dtype)
    else:
        blur, blur_adjoint = observed_convolutions(kernel, grid, origin, data, observed)
        kernel_sum = sum_last_axes(kernel, ndim)
    valid = xp.ones_like(data) if mask is None else xp.broadcast_to(mask, data.shape).astype(data.dtype)
    observability = blur_adjoint(valid)  # H^T 1: how much reached the data
    estimated = observability > MIN_OBSERVED * kernel_sum
    inverse = xp.where(estimated, 1 / xp.where(estimated, observability, 1), 0)
    pixels: Any = math.prod(data.shape[-ndim:])
    mean = sum_last_axes(data, ndim) / pixels
    if mask is not None:
        pixels = sum_last_axes(valid, ndim)
    latent = xp.where(estimated, mean / kernel_sum, 0)
    complete = lost = None
    if mask is not None:
        complete = blur_adjoint(xp.ones_like(data))
        seen = xp.maximum(complete, MIN_OBSERVED * kernel_sum)
        lost = xp.clip(1 - observability / seen, 0, 1)
        start = blur_adjoint(inpaint(data, valid > 0)) / seen / kernel_sum
        has_holes = valid.min(axis=tuple(range(-ndim, 0)), keepdims=True) == 0
        latent = xp.where(has_holes & (complete > MIN_OBSERVED * kernel_sum), start, latent)
    floor = xp.maximum(mean * float(np.finfo(data.dtype).eps), tiny)

    def step(x: Array) -> tuple[Array, Array | None]:
        reblurred = blur(x)
        if saturated is not None:
            reblurred = xp.where(saturated, xp.minimum(reblurred, data), reblurred)
        converged = None
        if tolerance is not None:
            error = (data - reblurred) ** 2
            if mask is not None:
                error *= valid
            converged = sum_last_axes(error, ndim) <= pixels * tolerance**2
        quotient = data / xp.maximum(reblurred, floor)
        if filter_epsilon:
            quotient = xp.where(reblurred < filter_epsilon, 0, quotient)
        if damping is not None:
            quotient = damping(quotient, data - reblurred)
        if mask is not None:
            quotient *= valid
        factor = blur_adjoint(quotient)
        factor *= inverse
        if lost is not None:
            factor /= xp.maximum(1 + HIDDEN_TV_WEIGHT * lost * tv_slope(x), 0.5)
        if regularizer is not None:
            factor /= xp.maximum(regularizer(x), 0.5)
        factor *= x
        return xp.maximum(factor, 0, out=factor), converged  # negative values are rounding errors of the transforms

    latent = _accelerate(step, latent, ndim, num_iter, accelerated, callback)
    if complete is not None:
        hidden = (complete > MIN_OBSERVED * kernel_sum) & (observability < MIN_SHARE * complete)
        latent[window] = inpaint(latent[window], ~hidden[window])
    if return_padded:
        return xp.roll(latent, tuple(-(part.start or 0) for part in window[1:]), tuple(range(1 - len(window), 0)))
    return latent[window]


def tv_slope(x: Array) -> Array:
    """D^T (D x / |D x|), the slope of the total variation of x (..., H, W), with a small minimum of |D x|."""
    xp, tiny = array_module(x), float(np.finfo(x.dtype).tiny)
    gx, gy = gradient(x)
    # The direction of a gradient far below the brightness is noise.
    size = xp.sqrt(gx * gx + gy * gy + (FLAT_GRADIENT * x.mean(axis=(-2, -1), keepdims=True)) ** 2)
    size = xp.maximum(size, tiny)
    return gradient_adjoint(gx / size, gy / size)


def observed_convolutions(
    kernel: Array, grid: Shape, origin: Shape, data: Array, observed: tuple[Any, ...]
) -> tuple[Step, Step]:
    """H: x on the grid * k where `data` were observed, and its adjoint."""
    convolve, correlate = convolutions(kernel, grid, origin)
    padded = array_module(data).zeros((*data.shape[: data.ndim - len(grid)], *grid), dtype=data.dtype)

    def adjoint(u: Array) -> Array:
        padded[observed] = u
        return correlate(padded)

    return lambda x: convolve(x)[observed], adjoint


def convolutions(kernel: Array, grid: Shape, origin: Shape) -> tuple[Step, Step]:
    """x * k on a periodic grid, and its adjoint; the kernel is transformed once, here."""
    otf = rfftn(kernel_to_grid(kernel, grid, origin=origin), len(grid))
    otf /= math.prod(grid)

    def convolution(factor: Array) -> Step:
        def convolve(x: Array) -> Array:
            spectrum = rfftn(x, len(grid))
            spectrum *= factor
            return irfftn(spectrum, grid)

        return convolve

    return convolution(otf), convolution(otf.conj())


def _accelerate(
    step: Callable[[Array], tuple[Array, Array | None]],
    x: Array,
    ndim: int,
    num_iter: int,
    accelerated: bool,
    callback: OnProgress | None,
) -> Array:
    """`num_iter` steps from `x`; with `accelerated`, each from an extrapolation ([Biggs1997] eq. 2 to 8).

    A step returns x and, if there is a tolerance, whether the point it started from had converged. The result for that
    image is then this point.
    """
    xp, tiny = array_module(x), float(np.finfo(x.dtype).tiny)
    extrapolated, old_change, done, frozen = x, None, None, x
    for i in range(num_iter):
        new, converged = step(extrapolated)
        if converged is not None:
            frozen = extrapolated if done is None else xp.where(done, frozen, extrapolated)
            done = converged if done is None else done | converged
            read_back = xp is np or i % CONVERGENCE_INTERVAL == CONVERGENCE_INTERVAL - 1
            if read_back and bool(done.all()):  # here CuPy must wait
                if callback is not None:
                    callback(1.0)
                break
        if accelerated:
            change = new - extrapolated
            extrapolated = new
            if old_change is not None:
                overlap = sum_last_axes(change * old_change, ndim)
                alpha = overlap / xp.maximum(sum_last_axes(old_change * old_change, ndim), tiny)
                extrapolated = xp.maximum(new + xp.clip(alpha, 0, 1) * (new - x), 0)
            old_change = change
        else:
            extrapolated = new
        x = new
        if callback is not None:
            callback((i + 1) / num_iter)
    if done is not None:
        x = xp.where(done, frozen, x)
    return x
