"""What a picture tells about itself, for users: its noise."""

from __future__ import annotations

from typing import Any

from . import images
from .noise import noise_sigma, noise_sigma_under
from .nonblind.grids import with_odd_sides
from .numerics.arrays import Array, array_module, choose_module, move, to_host


def estimate_noise(
    image: Array, kernel: Array | None = None, *, channel_axis: int | None = None, device: str | None = None
) -> Any:
    """Standard deviation of the white noise in a picture.

    Parameters
    ----------
    image : (..., H, W), or (..., H, W, C) with ``channel_axis=-1``; see `deblur`.
    kernel : (kh, kw), or one a picture, (..., kh, kw), optional
        The blur kernel, if known: the noise is measured at the frequencies that it takes from the picture
        (`noise.noise_sigma_under`). Else it is what the finest diagonal differences hold, fine texture included
        (`noise.noise_sigma`).
    device : see `deblur`.

    Returns
    -------
    float or NumPy array
        In the unit of a float picture, as a fraction of the full range of an integer one: a number, or one for each
        picture of a stack, (...), and each channel, (..., C).

    Raises
    ------
    TypeError, ValueError
        The picture or the kernel breaks a rule, which the message names.
    """
    images.check_picture(image, channel_axis=channel_axis)
    xp = choose_module(image, device)
    planes = images.to_planes(move(image, xp), channel_axis=channel_axis, dtype="float64")
    if kernel is None:
        sigma = noise_sigma(planes)
    else:
        images.check_kernel(kernel, odd=False)
        array_module(image, kernel)
        images.check_kernel_fits(kernel, image, channel_axis=channel_axis, both=False)
        weights = with_odd_sides(move(kernel, xp).astype("float64"))
        weights = weights / weights.sum(axis=(-2, -1), keepdims=True)
        sigma = noise_sigma_under(planes, weights if channel_axis is None else weights[..., None, :, :])
    found = to_host(xp.asarray(sigma))
    return float(found) if found.ndim == 0 else found
