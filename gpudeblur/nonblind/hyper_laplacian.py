"""Hyper-Laplacian deconvolution (Krishnan & Fergus 2009): |gradient|^(2/3), half-quadratic splitting, a few FFTs."""

from __future__ import annotations

from collections.abc import Callable

from .._arrays import Array, array_module
from ..boundary import unwrap, wrap
from ..filters import gradient, gradient_adjoint, spectral_solve
from ..fourier import irfft2, psf_to_otf, rfft2


def shrink_two_thirds(v: Array, beta: float) -> Array:
    """argmin_w |w|^(2/3) + beta / 2 (w - v)^2, pixel by pixel.

    With w = u^3 the derivative vanishes at the largest root of u^4 - |v| u + 2 / (3 beta), which Newton's method
    reaches from u = |v|^(1/3) without overshoot; below |v| = 2 (2 / (3 beta))^(3/4) the minimum is at w = 0.
    """
    xp = array_module(v)
    size = abs(v)
    keep = size > 2 * (2 / (3 * beta)) ** 0.75
    size = xp.where(keep, size, 4)  # any value whose root is far from a double one
    u = xp.cbrt(size)
    for _ in range(4):
        cube = u * u * u
        u -= (u * (cube - size) + 2 / (3 * beta)) / (4 * cube - size)
    return xp.where(keep, xp.copysign(u * u * u, v), 0)


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
    callback : called with the fraction done after each pass.

    Returns
    -------
    (..., H, W), not clipped.

    References
    ----------
    D. Krishnan, R. Fergus: Fast image deconvolution using hyper-Laplacian priors, NIPS 2009, eq. 3-9.
    """
    picture = blurred.shape[-2:]
    latent = wrap(blurred, (kernel.shape[-2] - 1, kernel.shape[-1] - 1))
    shape = latent.shape[-2:]
    otf = psf_to_otf(kernel, shape)
    data = otf.conj() * rfft2(latent)
    power = otf.real**2 + otf.imag**2
    beta = 1.0
    while beta <= beta_max * 1.001:
        gx, gy = gradient(latent)
        split = gradient_adjoint(shrink_two_thirds(gx, beta), shrink_two_thirds(gy, beta))
        latent = irfft2(spectral_solve(data, rfft2(split), power, weight * beta, shape), shape, overwrite=True)
        beta *= beta_rate
        if callback is not None:
            callback(min(1.0, beta / beta_max))
    return unwrap(latent, picture)
