"""What a pixel says of x * k: its value, at least its value where it is saturated, nothing where it is not valid.

Treated as ordinary data, saturated pixels bias the solution towards a darker scene and cause ringing. So where B is
saturated, the misfit is one-sided: min(x * k - B, 0)^2 instead of (x * k - B)^2. A pixel that is not valid (`mask` is
False) has no misfit, like those beyond an unknown boundary.
"""

from __future__ import annotations

from ..numerics.arrays import Array, array_module
from ..numerics.fourier import irfft2, psf_to_otf, rfft2
from .expectation_maximization import em_iterations

# Richardson-Lucy steps of `saturated_start`. A lamp may be a hundred times brighter than its recorded value. Additive
# steps approach this slowly; these multiply.
START_STEPS = 30


def project_on_data(blurred: Array, reblurred: Array, saturated: Array | None, mask: Array | None = None) -> Array:
    """The point closest to `reblurred` that agrees with B.

    B itself, any larger value where B is `saturated`, and any value where it is not valid (`mask` is False).
    """
    if saturated is None and mask is None:
        return blurred
    xp = array_module(blurred, reblurred)
    if saturated is not None:
        blurred = xp.where(saturated, xp.maximum(blurred, reblurred), blurred)
    return blurred if mask is None else xp.where(mask, blurred, reblurred)


def fill_unobserved(
    blurred: Array, kernel: Array, latent: Array, saturated: Array | None = None, mask: Array | None = None
) -> Array:
    """`latent` * `kernel` (..., H', W'), periodic, replaced by `project_on_data` in its first H rows and W columns."""
    shape = latent.shape[-2:]
    spectrum = rfft2(latent)
    spectrum *= psf_to_otf(kernel, shape)
    spectrum *= 1 / (shape[0] * shape[1])
    filled = irfft2(spectrum, shape, overwrite=True)
    window = (..., slice(blurred.shape[-2]), slice(blurred.shape[-1]))
    filled[window] = project_on_data(blurred, filled[window], saturated, mask)
    return filled


def saturated_start(
    blurred: Array, kernel: Array, saturated: Array, padded: Array, mask: Array | None = None
) -> tuple[Array, Array]:
    """First iterates on the grid of an unknown boundary: (x, B continued as x * k).

    For an image without `saturated` pixels both are `padded`, B continued to that grid. For the others, x is computed
    by Richardson-Lucy steps in which x * k counts as B where it exceeds a saturated B ([Whyte2014] section 3,
    with a hard knee).
    """
    xp = array_module(blurred, kernel, saturated)
    latent = em_iterations(
        blurred, kernel, 2, num_iter=START_STEPS, boundary="unknown", accelerated=True, saturated=saturated,
        mask=mask, return_padded=True,
    )  # fmt: skip
    reblurred = fill_unobserved(blurred, kernel, latent, saturated, mask)
    any_saturated = saturated.any(axis=(-2, -1), keepdims=True)
    return xp.where(any_saturated, latent, padded), xp.where(any_saturated, reblurred, padded)
