"""Pixels at the sensor's top: the blurred light there was at least what they show.

Compared as they are, they want a scene that is darker than it was, and ring. So where B is `clipped`, its misfit is
one-sided: min(x * k - B, 0)^2 instead of (x * k - B)^2.
"""

from __future__ import annotations

from ..numerics.arrays import Array, array_module
from ..numerics.fourier import irfft2, psf_to_otf, rfft2
from .expectation_maximization import em_iterations

# Steps of Richardson-Lucy to begin with. A lamp may have a hundred times the light that is seen of it; additive steps
# grow it slowly, these are factors.
FIRST_STEPS = 30


def project_on_data(blurred: Array, light: Array, clipped: Array | None) -> Array:
    """The point nearest to `light` of all that `blurred` may stand for: B, but what is more where B is `clipped`."""
    if clipped is None:
        return blurred
    xp = array_module(blurred, light)
    return xp.where(clipped, xp.maximum(blurred, light), blurred)


def fill_unobserved(blurred: Array, kernel: Array, latent: Array, clipped: Array | None = None) -> Array:
    """`latent` * `kernel` (..., H', W'), periodic, `project_on_data` of `blurred` in its first H rows, W columns."""
    shape = latent.shape[-2:]
    spectrum = rfft2(latent)
    spectrum *= psf_to_otf(kernel, shape)
    spectrum *= 1 / (shape[0] * shape[1])
    wide = irfft2(spectrum, shape, overwrite=True)
    inside = (..., slice(blurred.shape[-2]), slice(blurred.shape[-1]))
    wide[inside] = project_on_data(blurred, wide[inside], clipped)
    return wide


def saturated_start(blurred: Array, kernel: Array, clipped: Array, latent: Array) -> tuple[Array, Array]:
    """What to begin with on the grid of an unknown boundary: (x, B continued as x * k).

    A picture where nothing is `clipped` keeps `latent`, B continued to that grid, for both. For the others, x is made
    by `richardson_lucy`, for which x * k is B where it is more and B is clipped (Whyte et al. 2014, section 3, with a
    hard knee).

    References
    ----------
    O. Whyte, J. Sivic, A. Zisserman: Deblurring shaken and partially saturated images, Int. J. Computer Vision 110(2),
    2014.
    """
    xp = array_module(blurred, kernel, clipped)
    bright = em_iterations(
        blurred, kernel, 2, num_iter=FIRST_STEPS, boundary="unknown", accelerated=True, clipped=clipped,
        everywhere=True,
    )  # fmt: skip
    lit = clipped.any(axis=(-2, -1), keepdims=True)
    return xp.where(lit, bright, latent), xp.where(lit, fill_unobserved(blurred, kernel, bright, clipped), latent)
