"""Sparse-prior deconvolution ([Levin2007] appendix, `deconvSps`): |derivatives|^0.8, unknown boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...images.kernel_field import KernelField, kernel_sides
from ...numerics.arrays import Array, array_module, constant
from ...numerics.conjugate_gradient import conjugate_gradient, dot, total
from ...numerics.fourier import irfft2, rfft2
from ...numerics.spectra import difference_spectrum, multiplicity
from ..blurring import Uniform, Varying
from ..expectation_maximization import em_iterations
from ..regularization import WeightRule, resolve_weight
from ..saturation import START_STEPS
from ..splitting import TV_RULE, tv_admm

# Levin's code: the c_i of first and second derivatives in the reweighted solves, and the lower bound on |D_i x|.
FIRST_ORDER, SECOND_ORDER, MIN_DERIVATIVE = 0.1, 0.025, 0.01
ITERATIONS = 8
TV_ITERATIONS = 20  # of the first iterate where pixels are saturated or not valid
# For a field, the first solve goes on for this many times `iterations` in images with pixels that are not valid: holes
# of 12 pixels gain 1 to 2 dB, as much as from the first iterate by "tv".
FIELD_REPETITIONS = 4
WEIGHT_RULE = WeightRule(17.7, 1.9)


def derivatives(u: Array) -> list[Array]:
    """d/dx, d/dy, d2/dx2, d2/dy2, d2/dxdy of (..., H, W), without wrapping or padding."""
    dx, dy = u[..., 1:] - u[..., :-1], u[..., 1:, :] - u[..., :-1, :]
    return [dx, dy, dx[..., 1:] - dx[..., :-1], dy[..., 1:, :] - dy[..., :-1, :], dx[..., 1:, :] - dx[..., :-1, :]]


def derivatives_adjoint(parts: list[Array], out: Array) -> Array:
    """Adds the transpose of `derivatives` to `out` (..., H, W) in place; `parts` are overwritten."""
    dx, dy, dxx, dyy, dxy = parts
    dx[..., 1:] += dxx
    dx[..., :-1] -= dxx
    dy[..., 1:, :] += dyy
    dy[..., :-1, :] -= dyy
    dx[..., 1:, :] += dxy
    dx[..., :-1, :] -= dxy
    out[..., 1:] += dx
    out[..., :-1] -= dx
    out[..., 1:, :] += dy
    out[..., :-1, :] -= dy
    return out


def sparse(
    blurred: Array,
    kernel: Array | KernelField,
    *,
    weight: Any = None,
    exponent: float = 0.8,
    saturated: Array | None = None,
    mask: Any = None,
    reweightings: int = 3,
    iterations: int = ITERATIONS,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |valid(x * k) - B|^2 + weight sum_i c_i |D_i x|^exponent by iteratively reweighted least squares.

    x extends half a kernel beyond B on every side and only observed pixels are compared, so the boundary needs no
    assumption. The first solve has unit weights on all five derivatives, each further one
    c_i max(|D_i x|, 0.01)^(exponent - 2). Each is solved by conjugate gradients that start from the previous solution.
    The preconditioner is the inverse of the equations of a periodic, fully observed image, with the mean of each
    derivative's weights. The iteration works on spectra, where it needs no transform.

    A `KernelField` as kernel stands for x * k that varies over the image; the preconditioner then has the mean of
    |F k|^2.

    Parameters
    ----------
    blurred, kernel, weight, saturated, mask, callback : common to all methods, see `help(gpudeblur.nonblind)`. The
        weight of Levin's code is 0.0068. The boundary is always "unknown".
    exponent : in (0, 2]. Smaller: sharper edges, flatter regions.
    reweightings, iterations : solves after the first; conjugate-gradient steps in each, four transforms per step (for
        a field, four and those of `numerics.varying_blur.VaryingBlur`).
    """
    weight = resolve_weight(weight, blurred, kernel, WEIGHT_RULE, mask)
    xp, real, (h, w) = array_module(blurred), blurred.dtype, blurred.shape[-2:]
    operator = Varying(blurred, kernel) if isinstance(kernel, KernelField) else Uniform(blurred, kernel)
    grid, window = operator.grid, operator.window
    size = grid[0] * grid[1]
    # The unknowns are spectra divided by `size`, viewed as pairs of real numbers. All columns but the first and the
    # last stand for two of the full spectrum.
    as_spectrum = np.result_type(real, np.complex64)
    counts = constant(xp, multiplicity, grid, real)
    steps, done = (reweightings + 1) * (iterations + 1), 0
    is_field = isinstance(kernel, KernelField)
    if is_field and mask is not None:
        steps += FIELD_REPETITIONS * iterations + 1

    def product(a: Array, b: Array) -> Array:
        return dot(a * counts, b)

    def solve(start: Array, weights: list[Array], compared: Array | None, iterations: int = iterations) -> Array:
        """From and to an image on the grid. `weights` are divided by `size`; pixels where `compared` is 1 count."""

        def normal(vector: Array) -> Array:
            nonlocal done
            done += 1
            if callback is not None:  # at each step, so that a long solve of a large image can be stopped
                callback(done / (steps + 1))
            spectrum = vector.view(as_spectrum)
            u = irfft2(spectrum, grid)
            parts = derivatives(u)
            for part, scale in zip(parts, weights, strict=True):
                part *= scale
            u[...] = 0
            result = rfft2(derivatives_adjoint(parts, u), overwrite=True)
            del parts, u
            reblurred = operator.blur(spectrum)
            result += operator.adjoint(reblurred if compared is None else reblurred * compared)
            return result.view(real)

        inverse = _preconditioner(operator.power, weights, grid)
        rhs = operator.adjoint((blurred if compared is None else blurred * compared) * size**-0.5).view(real)
        start = rfft2(start)
        start *= 1 / size
        solution = conjugate_gradient(
            normal, rhs, start.view(real), iterations, preconditioner=lambda r: r * inverse, inner=product
        )
        return irfft2(solution.view(as_spectrum), grid, overwrite=True)

    top, left = window[-2].start, window[-1].start
    margin = [(0, 0)] * (blurred.ndim - 2) + [(top, grid[0] - h - top), (left, grid[1] - w - left)]
    valid = None if mask is None else mask.astype(real)
    uniform = xp.ones((1, 1), dtype=real) * (weight / size)
    latent = solve(xp.pad(blurred, margin, mode="edge"), [uniform] * 5, valid)
    if is_field and mask is not None:
        longer = solve(latent, [uniform] * 5, valid, FIELD_REPETITIONS * iterations)
        latent = xp.where(mask.all(axis=(-2, -1), keepdims=True), latent, longer)
        del longer
    partial = saturated
    if mask is not None and not is_field:
        partial = ~mask if saturated is None else saturated | ~mask
    if partial is not None:
        start = _start(blurred, kernel, saturated, grid, mask)
        latent = xp.where(partial.any(axis=(-2, -1), keepdims=True), start, latent)
        del start
    for _ in range(reweightings):
        compared = valid
        if saturated is not None:
            compared = (~saturated | (operator.blur(rfft2(latent)) < blurred * size**0.5)).astype(real)
            compared = compared if valid is None else compared * valid
        weights = derivatives(latent)
        for part, order in zip(weights, (FIRST_ORDER,) * 2 + (SECOND_ORDER,) * 3, strict=True):
            xp.abs(part, out=part)
            xp.maximum(part, MIN_DERIVATIVE, out=part)
            xp.log(part, out=part)  # ** takes as long as a step
            part *= exponent - 2
            xp.exp(part, out=part)
            part *= weight * (order / size)
        latent = solve(latent, weights, compared)
    if callback is not None:
        callback(1.0)
    return latent[window]


def _start(
    blurred: Array, kernel: Array | KernelField, saturated: Array | None, grid: tuple[int, int], mask: Array | None
) -> Array:
    """An image on `grid` whose blur may exceed B where it is `saturated`, and differ from it where it is not valid.

    By "tv", for a field by Richardson-Lucy.
    """
    xp, middle = array_module(blurred), tuple(side // 2 for side in kernel_sides(kernel))
    if not isinstance(kernel, KernelField):
        weight = resolve_weight(None, blurred, kernel, TV_RULE, mask)
        bright = tv_admm(
            blurred, kernel, weight, saturated=saturated, mask=mask, iterations=TV_ITERATIONS, return_padded=True
        )
        return xp.roll(bright, middle, (-2, -1))
    bright = em_iterations(
        blurred, kernel, 2, num_iter=START_STEPS, boundary="unknown", accelerated=True, saturated=saturated,
        mask=mask, return_padded=True,
    )  # fmt: skip
    margin = [(0, side - n) for side, n in zip(grid, bright.shape[-2:], strict=True)]
    return xp.pad(xp.roll(bright, middle, (-2, -1)), [(0, 0)] * (blurred.ndim - 2) + margin, mode="edge")


def _preconditioner(power: Array, weights: list[Array], shape: tuple[int, int]) -> Array:
    """1 / (|K|^2 + sum_i mean(weights_i) |D_i|^2), (..., H, W + 2): each number twice."""
    xp, (h, w) = array_module(power), shape
    rows = constant(xp, difference_spectrum, h, h, power.dtype)[:, None]
    columns = constant(xp, difference_spectrum, w, w // 2 + 1, power.dtype)
    denominator = power
    for part, spectrum in zip(weights, (columns, rows, columns**2, rows**2, rows * columns), strict=True):
        # max: a single row or column has no derivatives across it.
        denominator = denominator + total(part) * (1 / max(1, part.shape[-2] * part.shape[-1])) * spectrum
    denominator *= h * w
    return xp.repeat(1 / denominator, 2, axis=-1)
