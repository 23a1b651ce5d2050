"""Hyper-Laplacian deconvolution ([Krishnan2009]): |gradient|^(2/3), half-quadratic splitting, a few FFTs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...numerics.arrays import Array, Workspace, array_module, goes_to_cuda, replayed
from ...numerics.boundary import crop
from ...numerics.filters import data_terms, gradient, gradient_adjoint, spectral_solve
from ...numerics.fourier import irfft2, psf_to_otf, rfft2
from ...numerics.progress import subrange
from ..regularization import WeightRule, resolve_weight
from ..splitting import continuation, solve
from ..unknown_boundary import periodic_extension

# The minimizer w = r v satisfies r = 1 - q r^(-1/3), q = 2 / (3 beta) |v|^(-4/3). For q up to 2^(-4/3) its larger root
# is r = 1 - sum_i RESIDUES_i q / (1 - POLES_i q) to a relative 7.4e-9, the best of four terms (Remez).
RESIDUES = (0.7372999686694484, 0.20182240839424589, 0.052524283202854415, 0.0083524650025039743)
POLES = (0.073265131787152303, 0.87496147179759251, 1.6362368500232522, 2.0136239629866241)
TWO_THIRDS = 2 / 3
WEIGHT_RULE = WeightRule(0.69, 1.6)
CHUNK_SIZE = 1 << 15  # numbers at a time on NumPy, so that intermediate results stay in the cache
TABLE_SIZE = 1 << 12  # of the table for other exponents; interpolated linearly, its error is 1e-7


def shrink_two_thirds(v: Array, beta: float, *, overwrite: bool = False) -> Array:
    """argmin_w |w|^(2/3) + beta / 2 (w - v)^2, pixel by pixel.

    It is 0 up to |v| = 2 (2 / (3 beta))^(3/4), and between v / 2 and v above. With `overwrite`, the content of `v` is
    undefined afterwards.
    """
    xp, unit = array_module(v), 2 / (3 * beta)
    threshold = 2 * unit**0.75
    if xp is not np:
        return xp.where(abs(v) > threshold, _nonzero_minimum(v, unit), 0)
    flat = v.reshape(-1) if overwrite else v.flatten()
    for begin in range(0, flat.size, CHUNK_SIZE):
        chunk = flat[begin : begin + CHUNK_SIZE]
        indices = np.flatnonzero(abs(chunk) > threshold)  # few of an image's gradients
        values = _nonzero_minimum(chunk[indices], unit)
        chunk.fill(0)
        chunk[indices] = values
    return flat.reshape(v.shape)


def _nonzero_minimum(v: Array, unit: float) -> Array:
    """The minimizer for |v| above the threshold; unit = 2 / (3 beta)."""
    xp, power = array_module(v), abs(v)
    power *= xp.cbrt(power)  # |v|^(4/3)
    ratio, term = xp.ones_like(v), xp.empty_like(v)
    for residue, pole in zip(RESIDUES, POLES, strict=True):
        xp.subtract(power, pole * unit, out=term)
        xp.divide(residue * unit, term, out=term)
        ratio -= term
    ratio *= v
    return ratio


def shrink_half(v: Array, beta: float) -> Array:
    """argmin_w |w|^(1/2) + beta / 2 (w - v)^2, pixel by pixel: the largest root of a cubic, by a cosine.

    It is 0 up to |v| = 3/2 beta^(-2/3), and between 2/3 v and v above ([XuZ2012] eq. 10-13).
    """
    xp = array_module(v)
    threshold = 1.5 * beta ** (-2 / 3)
    size = xp.maximum(abs(v), threshold)
    angle = xp.arccos((0.25 / beta) * (size / 3) ** -1.5)
    return xp.where(abs(v) > threshold, v * (2 / 3 * (1 + xp.cos(2 / 3 * (np.pi - angle)))), 0).astype(v.dtype)


def shrink_power(v: Array, beta: float, exponent: float) -> Array:
    """argmin_w |w|^exponent + beta / 2 (w - v)^2, pixel by pixel, for an exponent in (0, 1), from a table.

    In the unit beta^(-1 / (2 - exponent)), beta is 1. The minimizer w = r v then satisfies
    r = 1 - q exponent r^(exponent - 1) with q = |v|^(exponent - 2). r is 1 for q = 0 and falls with q, to
    2 (1 - exponent) / (2 - exponent) at a certain q, where it jumps to 0 ([Krishnan2009] section 3.2).
    """
    xp = array_module(v)
    table, jump = (xp.asarray(array, dtype=v.dtype) for array in _ratio_table(exponent))
    size = abs(v)
    q = xp.maximum(size, float(np.finfo(v.dtype).tiny) ** 0.25) ** (exponent - 2) * (1 / beta)
    position = xp.minimum(q * (1 / jump), 1) * (TABLE_SIZE - 1)
    index = xp.minimum(xp.nan_to_num(position).astype(np.int32), TABLE_SIZE - 2)
    position -= index
    ratio = table[index] * (1 - position) + table[index + 1] * position
    return xp.where(q > jump, 0, v * ratio)


@functools.lru_cache(maxsize=8)
def _ratio_table(exponent: float) -> tuple[np.ndarray, float]:
    """(r at `TABLE_SIZE` equal steps of q from 0 to the jump, q at the jump)."""
    min_w = (2 * (1 - exponent)) ** (1 / (2 - exponent))  # the smallest nonzero minimizer
    jump = (min_w + exponent * min_w ** (exponent - 1)) ** (exponent - 2)
    q, ratio = np.linspace(0, jump, TABLE_SIZE), np.ones(TABLE_SIZE)
    for _ in range(60):  # Newton from above, where the function is convex
        power = exponent * q * ratio ** (exponent - 1)
        ratio -= (ratio - 1 + power) / (1 + (exponent - 1) * power / ratio)
    ratio.flags.writeable = False
    return ratio, float(jump)


def shrink(v: Array, beta: float, exponent: float) -> Array:
    """argmin_w |w|^exponent + beta / 2 (w - v)^2 by the fastest way for this exponent."""
    if exponent == TWO_THIRDS:
        return shrink_two_thirds(v, beta)
    if exponent == 0.5:
        return shrink_half(v, beta)
    return shrink_power(v, beta, exponent)


def dt_shrink(u: Array, beta: float, *, out: Array | None = None) -> Array:
    """D^T g with g = `shrink_two_thirds` of both components of D u (..., H, W); `out` as in `filters`.

    CUDA kernel: dt_shrink.cu.
    """
    if goes_to_cuda(u):
        from ...numerics import cuda

        return cuda.dt_shrink(u, beta, out=out)
    return gradient_adjoint(*(shrink_two_thirds(g, beta, overwrite=True) for g in gradient(u)))


def hyper_laplacian(
    blurred: Array,
    kernel: Array,
    *,
    weight: Any = None,
    exponent: float = TWO_THIRDS,
    boundary: str = "unknown",
    saturated: Array | None = None,
    mask: Any = None,
    beta_rate: float = 2 * 2**0.5,
    beta_max: float = 256.0,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |x * k - B|^2 / 2 + weight (|x_x|^exponent + |x_y|^exponent) by half-quadratic splitting.

    A pass ([Krishnan2009]) shrinks the gradients (eq. 5-9: for 2/3 by an approximation of the closed form, for 1/2 by
    the closed form, for others from a table) and solves for x, a quotient of spectra (eq. 4).

    Parameters
    ----------
    blurred, kernel, weight, boundary, saturated, mask, callback : common to all methods, see
        `help(gpudeblur.nonblind)`.
    exponent : in (0, 1). Smaller: sharper edges, flatter regions. Others than 2/3 are kept for comparison: they are
        slower, and best in no row of the benches.
    beta_rate, beta_max : continuation from 1 (the paper's).

    Before these passes, the boundary "unknown" takes 20 of `tv`, see `periodic_extension`. With the exponent 2/3 and
    one weight, the passes on a GPU are one CUDA graph, and `callback` is called once, at their end.
    """
    weight = resolve_weight(weight, blurred, kernel, WEIGHT_RULE, mask)
    begin = 0.7 if boundary == "unknown" else 0.0
    latent = periodic_extension(
        blurred, kernel, boundary, saturated=saturated, mask=mask, callback=subrange(callback, 0, begin)
    )
    progress = subrange(callback, begin, 1 - begin)
    if exponent != TWO_THIRDS or (np.ndim(weight) and not goes_to_cuda(latent, kernel)):
        split = functools.partial(_dt_shrink_power, exponent=exponent)
        betas = continuation(1.0, beta_rate, beta_max)
        latent = solve(latent, kernel, split, weight=weight, betas=betas, boundary="wrap", callback=progress)
        return crop(latent, blurred.shape[-2:])
    scalar, arrays = (None, (latent, kernel, weight)) if np.ndim(weight) else (weight, (latent, kernel))
    passes = functools.partial(_passes, scalar=scalar, beta_rate=beta_rate, beta_max=beta_max)
    (latent,) = replayed(("hyper-laplacian", scalar, beta_rate, beta_max), passes, *arrays, report=progress)
    return crop(latent, blurred.shape[-2:])


def _dt_shrink_power(u: Array, beta: float, *, exponent: float) -> Array:
    """`dt_shrink` for any exponent."""
    if exponent == TWO_THIRDS:
        return dt_shrink(u, beta)
    return gradient_adjoint(*(shrink(g, beta, exponent) for g in gradient(u)))


def _passes(
    latent: Array,
    kernel: Array,
    weight: Array | None = None,
    *,
    scalar: float | None,
    beta_rate: float,
    beta_max: float,
    report: Callable[[float], None],
) -> tuple[Array]:
    """The solution for a periodic blurred image, `latent`; `weight` one per image (..., 1, 1), or `scalar` for all.

    Nothing here may wait for a device.
    """
    factor: Any = scalar if weight is None else weight
    buffers, shape = Workspace(latent), latent.shape[-2:]
    data, power = data_terms(psf_to_otf(kernel, shape), rfft2(latent))
    beta = 1.0
    while beta <= beta_max * 1.001:
        dt_g = rfft2(dt_shrink(latent, beta, out=buffers.image("split")), overwrite=True, out=buffers.spectrum("hat"))
        spectrum = spectral_solve(data, dt_g, power, factor * beta, shape)
        latent = irfft2(spectrum, shape, overwrite=True, out=buffers.image("latent"))
        beta *= beta_rate
        report(min(1.0, beta / beta_max))
    return (latent,)
