"""Hyper-Laplacian deconvolution (Krishnan & Fergus 2009): |gradient|^(2/3), half-quadratic splitting, a few FFTs."""

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
from ..regularization import resolve_weight
from ..splitting import continuation, solve
from ..unknown_boundary import torus

# The minimum w = r v fulfils r = 1 - q r^(-1/3), q = 2 / (3 beta) |v|^(-4/3), and its larger root is, for q up to
# 2^(-4/3), r = 1 - sum_i SHARES_i q / (1 - POLES_i q) to a relative 7.4e-9: the best that four terms can do (Remez).
SHARES = (0.7372999686694484, 0.20182240839424589, 0.052524283202854415, 0.0083524650025039743)
POLES = (0.073265131787152303, 0.87496147179759251, 1.6362368500232522, 2.0136239629866241)
TWO_THIRDS = 2 / 3
CHUNK = 1 << 15  # numbers at a time on NumPy: what comes between stays in the cache
TABLE = 1 << 12  # places of the table for other exponents; linear between them, its error is 1e-7


def shrink_two_thirds(v: Array, beta: float, *, overwrite: bool = False) -> Array:
    """argmin_w |w|^(2/3) + beta / 2 (w - v)^2, pixel by pixel.

    It is 0 up to |v| = 2 (2 / (3 beta))^(3/4), and between v / 2 and v over that. With `overwrite`, what is in `v`
    afterwards is undefined.
    """
    xp, unit = array_module(v), 2 / (3 * beta)
    threshold = 2 * unit**0.75
    if xp is not np:
        return xp.where(abs(v) > threshold, _shrunk(v, unit), 0)
    flat = v.reshape(-1) if overwrite else v.flatten()
    for begin in range(0, flat.size, CHUNK):
        part = flat[begin : begin + CHUNK]
        at = np.flatnonzero(abs(part) > threshold)  # few of a picture's gradients
        kept = _shrunk(part[at], unit)
        part.fill(0)
        part[at] = kept
    return flat.reshape(v.shape)


def _shrunk(v: Array, unit: float) -> Array:
    """The minimum other than 0, where |v| is over the threshold; unit = 2 / (3 beta)."""
    xp, size = array_module(v), abs(v)
    size *= xp.cbrt(size)
    ratio, term = xp.ones_like(v), xp.empty_like(v)
    for share, pole in zip(SHARES, POLES, strict=True):
        xp.subtract(size, pole * unit, out=term)
        xp.divide(share * unit, term, out=term)
        ratio -= term
    ratio *= v
    return ratio


def shrink_half(v: Array, beta: float) -> Array:
    """argmin_w |w|^(1/2) + beta / 2 (w - v)^2, pixel by pixel: the largest root of a cubic, by a cosine.

    It is 0 up to |v| = 3/2 beta^(-2/3), and between 2/3 v and v over that (Xu et al. 2012, eq. 10-13).
    """
    xp = array_module(v)
    threshold = 1.5 * beta ** (-2 / 3)
    size = xp.maximum(abs(v), threshold)
    angle = xp.arccos((0.25 / beta) * (size / 3) ** -1.5)
    return xp.where(abs(v) > threshold, v * (2 / 3 * (1 + xp.cos(2 / 3 * (np.pi - angle)))), 0).astype(v.dtype)


def shrink_power(v: Array, beta: float, exponent: float) -> Array:
    """argmin_w |w|^exponent + beta / 2 (w - v)^2, pixel by pixel, for an exponent in (0, 1): from a table.

    In the unit beta^(-1 / (2 - exponent)) beta is 1. The minimum w = r v then is r = 1 - q exponent r^(exponent - 1)
    with q = |v|^(exponent - 2), between the jump, where it leaps from 0 to 2 (1 - exponent) / (2 - exponent), and 1
    for q = 0 (Krishnan & Fergus 2009, section 3.2).
    """
    xp = array_module(v)
    table, jump = (xp.asarray(part, dtype=v.dtype) for part in _ratios(exponent))
    size = abs(v)
    q = xp.maximum(size, float(np.finfo(v.dtype).tiny) ** 0.25) ** (exponent - 2) * (1 / beta)
    place = xp.minimum(q * (1 / jump), 1) * (TABLE - 1)
    low = xp.minimum(xp.nan_to_num(place).astype(np.int32), TABLE - 2)
    place -= low
    ratio = table[low] * (1 - place) + table[low + 1] * place
    return xp.where(q > jump, 0, v * ratio)


@functools.lru_cache(maxsize=8)
def _ratios(exponent: float) -> tuple[np.ndarray, float]:
    """(r at `TABLE` equal steps of q from 0 to the jump, q at the jump)."""
    least = (2 * (1 - exponent)) ** (1 / (2 - exponent))  # the smallest w but 0
    jump = (least + exponent * least ** (exponent - 1)) ** (exponent - 2)
    q, ratio = np.linspace(0, jump, TABLE), np.ones(TABLE)
    for _ in range(60):  # Newton from above, where the function is convex
        power = exponent * q * ratio ** (exponent - 1)
        ratio -= (ratio - 1 + power) / (1 + (exponent - 1) * power / ratio)
    ratio.flags.writeable = False
    return ratio, float(jump)


def shrink(v: Array, beta: float, exponent: float) -> Array:
    """argmin_w |w|^exponent + beta / 2 (w - v)^2 by the fastest way there is for this exponent."""
    if exponent == TWO_THIRDS:
        return shrink_two_thirds(v, beta)
    if exponent == 0.5:
        return shrink_half(v, beta)
    return shrink_power(v, beta, exponent)


def dt_shrink(u: Array, beta: float, *, out: Array | None = None) -> Array:
    """D^T s with s = `shrink_two_thirds` of either component of D u (..., H, W); `out` as in `filters`."""
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
    clipped: Array | None = None,
    beta_rate: float = 2 * 2**0.5,
    beta_max: float = 256.0,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |x * k - B|^2 / 2 + weight (|x_x|^exponent + |x_y|^exponent) by half-quadratic splitting.

    A pass shrinks the gradients (eq. 5-9: 2/3 by an approximation of the closed form, 1/2 by the closed form, others by
    a table) and solves for x, a quotient of spectra (eq. 4).

    Parameters
    ----------
    blurred : (..., H, W) float in [0, 1].
    kernel : (..., kh, kw), odd sides, sum 1.
    weight : of the prior, a number or one a picture (...). Larger: less noise and ringing, less detail. None takes it
        from the picture's noise: `weights.estimate_weight`.
    exponent : in (0, 1). Smaller: sharper edges, flatter regions.
    boundary : {"liu-jia", "unknown", "reflect", "edge", "taper", "wrap"}
        See `torus`: 20 passes of `tv` before these, of four transforms each, for "unknown". With the exponent 2/3 and
        one weight, the passes on a GPU are one CUDA graph.
    clipped : (..., H, W) bool, of `torus`; for the boundary "unknown" only.
    beta_rate, beta_max : continuation from 1 (the paper's).
    callback : called with the fraction done after each pass; once, at the end, where the passes are a CUDA graph.

    Returns
    -------
    (..., H, W), not clipped.

    References
    ----------
    D. Krishnan, R. Fergus: Fast image deconvolution using hyper-Laplacian priors, NIPS 2009, eq. 3-9.
    Z. Xu, X. Chang, F. Xu, H. Zhang: L1/2 regularization: a thresholding representation theory and a fast solver,
    IEEE Trans. Neural Networks and Learning Systems 23(7), 2012.
    """
    if not 0 < exponent < 1:
        raise ValueError(f"exponent must be between 0 and 1, got {exponent!r}; tv is 1, l0 is 0")
    weight = resolve_weight(weight, blurred, kernel, "hyper-laplacian")
    first, share = callback, 0.7 if boundary == "unknown" else 0.0
    callback = subrange(callback, share, 1 - share)
    latent = torus(blurred, kernel, boundary, clipped=clipped, callback=subrange(first, 0, share))
    in_cuda = goes_to_cuda(latent, kernel)
    if exponent != TWO_THIRDS or (np.ndim(weight) and not in_cuda):
        split = functools.partial(_split, exponent=exponent)
        betas = continuation(1.0, beta_rate, beta_max)
        latent = solve(latent, kernel, split, weight=weight, betas=betas, boundary="wrap", callback=callback)
        return crop(latent, blurred.shape[-2:])
    report = (lambda _: None) if callback is None else callback
    number, arrays = (None, (latent, kernel, weight)) if np.ndim(weight) else (weight, (latent, kernel))
    passes = functools.partial(_passes, number=number, beta_rate=beta_rate, beta_max=beta_max)
    (latent,) = replayed(("hyper-laplacian", number, beta_rate, beta_max), passes, *arrays, report=report)
    return crop(latent, blurred.shape[-2:])


def _split(u: Array, beta: float, *, exponent: float) -> Array:
    """`dt_shrink` for any exponent."""
    if exponent == TWO_THIRDS:
        return dt_shrink(u, beta)
    return gradient_adjoint(*(shrink(g, beta, exponent) for g in gradient(u)))


def _passes(
    latent: Array,
    kernel: Array,
    weight: Array | None = None,
    *,
    number: float | None,
    beta_rate: float,
    beta_max: float,
    report: Callable[[float], None],
) -> tuple[Array]:
    """The solution for a periodic blurred picture, `latent`; `weight` one a picture (..., 1, 1), else `number`.

    Nothing here may wait for a device.
    """
    factor: Any = number if weight is None else weight
    work, shape = Workspace(latent), latent.shape[-2:]
    data, power = data_terms(psf_to_otf(kernel, shape), rfft2(latent))
    beta = 1.0
    while beta <= beta_max * 1.001:
        split = rfft2(dt_shrink(latent, beta, out=work.picture("split")), overwrite=True, out=work.spectrum("hat"))
        solution = spectral_solve(data, split, power, factor * beta, shape)
        latent = irfft2(solution, shape, overwrite=True, out=work.picture("latent"))
        beta *= beta_rate
        report(min(1.0, beta / beta_max))
    return (latent,)
