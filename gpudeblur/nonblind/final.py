"""The restoration at the end of `deblur`: method, weight and boundary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..images.kernel_field import KernelField, kernel_sides
from ..images.noise import noise_sigma_under
from ..numerics.arrays import Array, array_module, masked_mean
from ..numerics.fourier import fast_size, irfft2, psf_to_otf, rfft2
from ..numerics.progress import subrange
from ..numerics.varying_blur import VaryingBlur
from .saturation import project_on_data
from .specs import METHOD_SPECS, METHODS, color_option
from .tiles import tiled

# The methods that `deblur` offers, and their options.
FINALS = {name: spec.final for name, spec in METHOD_SPECS.items() if spec.final is not None}
# The error of an estimated kernel acts like noise. It grows with the number of kernel pixels per image pixel: a
# standard deviation of 5 (kh kw / H W)^2, at most 0.016. On small faces this reduces the worst loss from 4.5 to 3.4 dB,
# at no cost in the mean.
KERNEL_ERROR, KERNEL_ERROR_MAX = 5.0, 0.016


def residual_mse(
    blurred: Array,
    sharp: Array,
    kernel: Array | KernelField,
    saturated: Array | None = None,
    mask: Array | None = None,
) -> Array:
    """Mean of (B - x * k)^2 over the pixels whose whole kernel window lies inside the image; (...).

    Where B is `saturated`, a larger x * k is no error. Pixels that are not in `mask` (..., H, W), bool, do not count.
    """
    (h, w), (kh, kw) = blurred.shape[-2:], kernel_sides(kernel)
    window = (..., slice(kh // 2, h - kh // 2), slice(kw // 2, w - kw // 2))
    reblurred = _reblurred(sharp, kernel)[window]
    data = project_on_data(blurred[window], reblurred, None if saturated is None else saturated[window])
    error = (reblurred - data) ** 2
    flat = (*error.shape[:-2], -1)  # one axis: on NumPy, a batch rounds as a loop then
    return masked_mean(error.reshape(flat), None if mask is None else mask[window].reshape(flat))


def _reblurred(sharp: Array, kernel: Array | KernelField) -> Array:
    """x * k, (..., H, W), right where the kernel's whole window lies inside the image."""
    h, w = sharp.shape[-2:]
    if isinstance(kernel, KernelField):
        operator = VaryingBlur(kernel.kernels, kernel.positions, (h, w), sharp.dtype)
        margins = [(0, 0)] * (sharp.ndim - 2) + [(side // 2, side // 2) for side in kernel_sides(kernel)]
        return operator.blur(array_module(sharp).pad(sharp, margins))
    xp, grid = array_module(sharp, kernel), (fast_size(h), fast_size(w))
    padded = xp.zeros((*sharp.shape[:-2], *grid), dtype=sharp.dtype)
    padded[..., :h, :w] = sharp
    return irfft2(psf_to_otf(kernel, grid) * rfft2(padded), grid)[..., :h, :w] / (grid[0] * grid[1])


def result_signals(
    sharp: Array, blurred: Array, saturated: Array | None = None, mask: Array | None = None
) -> tuple[Array, Array, Array]:
    """How a restoration (..., H, W) differs from its blurred image: (ringing, change, overshoot), (...) each.

    Mean squares over the blurred image's variance. Ringing: of what exceeds both [0, 1] and the blurred image's range.
    Change: of the difference. Overshoot: of what exceeds the blurred image's range. A sharp image has more range than
    a blurred one, text far more; a wrong kernel rings beyond any range. In an image with pixels in `saturated` (bool,
    like `blurred`), lights may be brighter than anything observed: there only values that are too dark count. Pixels
    that are not in `mask` (bool, like `blurred`) do not count; there `blurred` must be interpolated (`inpaint`).
    """
    xp = array_module(sharp, blurred)
    flat = blurred.reshape(*blurred.shape[:-2], -1)  # one axis: on NumPy, a batch rounds as a loop then
    sharp, darkest = sharp.reshape(flat.shape), flat.min(axis=-1, keepdims=True)
    brightest = flat.max(axis=-1, keepdims=True)
    if saturated is not None:
        brightest = xp.where(saturated.reshape(flat.shape).any(axis=-1, keepdims=True), np.inf, brightest)
    valid = None if mask is None else mask.reshape(flat.shape)
    variance = masked_mean(xp.square(flat - masked_mean(flat, valid)[..., None]), valid)
    variance = xp.maximum(variance, float(np.finfo(flat.dtype).tiny))

    def relative(difference: Array) -> Array:
        return xp.asarray(masked_mean(xp.square(difference), valid) / variance)

    ringing = relative(sharp - xp.clip(sharp, xp.minimum(darkest, 0), xp.maximum(brightest, 1)))
    return ringing, relative(sharp - flat), relative(sharp - xp.clip(sharp, darkest, brightest))


def restore(
    blurred: Array,
    kernel: Array | KernelField,
    method: str,
    callback: Callable[[float], None] | None = None,
    saturated: Array | None = None,
    mask: Array | None = None,
    tile: int | None = None,
) -> Array:
    """`blurred` (..., H, W) restored with an estimated `kernel` (..., kh, kw), or a field, by one of `FINALS`.

    An axis -3 of length 3 has the colors of images. `saturated` (..., H, W) bool is used by those whose boundary is
    unknown. Pixels that are not in `mask` (..., H, W), bool, are left out; there `blurred` must be smooth (`inpaint`).
    An image that is valid everywhere is restored as without a mask. With a `tile`, it is the side of tiles in which an
    image is restored (`tiles.tiled`); the weight is the same in all of them.
    """
    options: dict[str, Any] = {**FINALS[method], **color_option(method, blurred)}
    if saturated is not None and "boundary" not in options:
        options["saturated"] = saturated
    if "weight" not in options:
        options["weight"] = _weight_with_kernel_error(blurred, kernel, method, mask)
    if tile is not None:
        if mask is not None:
            options.pop("boundary", None)
        return tiled(
            blurred, kernel, method=method, saturated=options.pop("saturated", None), mask=mask, tile=tile,
            callback=callback, **options,
        )  # fmt: skip
    if mask is None or "boundary" not in options:
        options |= {} if mask is None else {"mask": mask}
        return METHODS[method](blurred, kernel, callback=callback, **options)
    # A mask needs the unknown boundary.
    complete = METHODS[method](blurred, kernel, callback=subrange(callback, 0, 0.3), **options)
    options = options | {"boundary": "unknown", "mask": mask}
    sharp = METHODS[method](blurred, kernel, callback=subrange(callback, 0.3, 0.7), **options)
    return array_module(sharp).where(mask.all(axis=(-2, -1), keepdims=True), complete, sharp)


def _weight_with_kernel_error(
    blurred: Array, kernel: Array | KernelField, method: str, mask: Array | None = None
) -> Array:
    """The weight for the noise of `blurred` or for the error of `kernel`, whichever is larger; (...)."""
    xp, rule, (kh, kw) = array_module(blurred), METHOD_SPECS[method].weight_rule, kernel_sides(kernel)
    assert rule is not None, "a method that ends `deblur` has a rule or a fixed weight"
    ratio = kh * kw / (blurred.shape[-2] * blurred.shape[-1])
    error = min(KERNEL_ERROR * ratio**2, KERNEL_ERROR_MAX)
    sigma = xp.maximum(noise_sigma_under(blurred, kernel, mask), error)
    return xp.asarray(rule.weight(sigma), dtype=blurred.dtype)
