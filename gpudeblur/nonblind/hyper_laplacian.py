"""Hyper-Laplacian deconvolution (Krishnan & Fergus 2009): |gradient|^(2/3), half-quadratic splitting, a few FFTs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from .._arrays import Array, Workspace, array_module, goes_to_cuda
from ..boundary import unwrap, wrap
from ..filters import gradient, gradient_adjoint, spectral_solve, transfer
from ..fourier import irfft2, psf_to_otf, rfft2

# The minimum w = r v fulfils r = 1 - q r^(-1/3), q = 2 / (3 beta) |v|^(-4/3), and its larger root is, for q up to
# 2^(-4/3), r = 1 - sum_i SHARES_i q / (1 - POLES_i q) to a relative 7.4e-9: the best that four terms can do (Remez).
SHARES = (0.7372999686694484, 0.20182240839424589, 0.052524283202854415, 0.0083524650025039743)
POLES = (0.073265131787152303, 0.87496147179759251, 1.6362368500232522, 2.0136239629866241)
CHUNK = 1 << 15  # numbers at a time on NumPy: what comes between stays in the cache


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


def shrink_split(u: Array, beta: float, *, out: Array | None = None) -> Array:
    """D^T s with s = `shrink_two_thirds` of either component of D u (..., H, W); `out` as in `filters`."""
    if goes_to_cuda(u):
        from .. import _cuda

        return _cuda.shrink_split(u, beta, out=out)
    return gradient_adjoint(*(shrink_two_thirds(g, beta, overwrite=True) for g in gradient(u)))


def hyper_laplacian(
    blurred: Array,
    kernel: Array,
    *,
    weight: float = 5e-4,
    beta_rate: float = 2 * 2**0.5,
    beta_max: float = 256.0,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """argmin_x |x * k - B|^2 / 2 + weight |grad x|^(2/3) by half-quadratic splitting; the picture is wrapped smoothly.

    Parameters
    ----------
    blurred : (..., H, W) float in [0, 1].
    kernel : (..., kh, kw), odd sides, sum 1.
    weight : of the prior, against |x * k - B|^2 / 2. Larger: less noise and ringing, less detail.
    beta_rate, beta_max : continuation from 1 (the paper's).
    callback : called with the fraction done after each pass; once, at the end, where the passes are a CUDA graph.

    Returns
    -------
    (..., H, W), not clipped.

    References
    ----------
    D. Krishnan, R. Fergus: Fast image deconvolution using hyper-Laplacian priors, NIPS 2009, eq. 3-9.
    """
    report = (lambda _: None) if callback is None else callback
    latent = wrap(blurred, (kernel.shape[-2] - 1, kernel.shape[-1] - 1))
    passes = functools.partial(_passes, weight=weight, beta_rate=beta_rate, beta_max=beta_max)
    if goes_to_cuda(latent, kernel):
        from .._device import replay

        (latent,) = replay(("hyper-laplacian", weight, beta_rate, beta_max), passes, latent, kernel)
        report(1.0)
    else:
        (latent,) = passes(latent, kernel, report=report)
    return unwrap(latent, blurred.shape[-2:])


def _passes(
    latent: Array,
    kernel: Array,
    *,
    weight: float,
    beta_rate: float,
    beta_max: float,
    report: Callable[[float], None] = lambda _: None,
) -> tuple[Array]:
    """The solution for a periodic blurred picture, `latent`. Nothing here may wait for a device."""
    work, shape = Workspace(latent), latent.shape[-2:]
    data, power = transfer(psf_to_otf(kernel, shape), rfft2(latent))
    beta = 1.0
    while beta <= beta_max * 1.001:
        split = rfft2(shrink_split(latent, beta, out=work.picture("split")), overwrite=True, out=work.spectrum("hat"))
        solution = spectral_solve(data, split, power, weight * beta, shape)
        latent = irfft2(solution, shape, overwrite=True, out=work.picture("latent"))
        beta *= beta_rate
        report(min(1.0, beta / beta_max))
    return (latent,)
