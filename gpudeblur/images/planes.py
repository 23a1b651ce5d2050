"""Images as float planes and back: dtype, range, channels and gamma."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, dtype_on, move
from .checks import check_gamma

# Rec. 709 luma weights of red, green and blue, for linear intensity.
LUMA = (0.2126, 0.7152, 0.0722)


def to_planes(image: Array, *, channel_axis: int | None = None, dtype: Any) -> Array:
    """The picture as floats with the channels, if there are any, just before the rows.

    Parameters
    ----------
    image : (..., H, W) array, or with one more axis for the channels
        As `check_picture` lets it pass. Integers are read as fractions of their full range (value / largest value of
        the type); floats of any size and byte order are converted, never scaled or clipped.
    channel_axis : int, optional
        Which axis holds the channels.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    (..., H, W) or (..., C, H, W) array of `dtype`
        Always a fresh, C-contiguous, native array, so that nobody can write to the user's picture by mistake.

    Raises
    ------
    ValueError
        A float64 value is beyond `dtype`.
    """
    xp = array_module(image)
    limit = float(np.finfo(dtype).max)
    if image.dtype.kind == "f" and image.dtype.itemsize > np.dtype(dtype).itemsize and bool((abs(image) > limit).any()):
        raise ValueError(
            f"image must be within {limit:.1e} for {np.dtype(dtype)}, got {float(abs(image).max()):.1e}; "
            "scale it to about [0, 1]"
        )
    view = image if channel_axis is None else xp.moveaxis(image, channel_axis, -3)
    planes = xp.array(view, dtype=np.dtype(dtype).newbyteorder("="), order="C")
    if image.dtype.kind in "iu":
        planes /= float(np.iinfo(image.dtype).max)
    return planes


def from_planes(planes: Array, like: Any, *, channel_axis: int | None = None) -> Array:
    """The way back of `to_planes`: the dtype and the axes that the user's picture had.

    Parameters
    ----------
    planes : (..., H, W) or (..., C, H, W) float array
    like : array or dtype
        The user's picture, or its dtype. For an integer type the values are scaled by the largest value of the type,
        rounded and clipped to its range; floats are only cast.
    channel_axis : int, optional
        Where the channels were.

    Returns
    -------
    array of the dtype of `like`, C-contiguous; on a device, of what stands for it there (`arrays.dtype_on`)
    """
    xp = array_module(planes)
    is_array = isinstance(like, np.ndarray) or hasattr(like, "__cuda_array_interface__")
    dtype = dtype_on(xp, like.dtype if is_array else np.dtype(like))
    image = xp.ascontiguousarray(planes if channel_axis is None else xp.moveaxis(planes, -3, channel_axis))
    if dtype.kind not in "iu":
        return image.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    top = float(limits.max)
    scaled = image.astype(image.dtype if dtype.itemsize < 4 else np.float64)  # float32 holds no 32-bit integers
    scaled *= top
    if top > limits.max:  # a 64-bit maximum rounds up to a float that no longer fits
        top = float(np.nextafter(top, 0))
    xp.rint(scaled, out=scaled)
    return xp.clip(scaled, float(limits.min), top, out=scaled).astype(dtype)


def to_picture(planes: Array, gamma: float, image: Array, *, channel_axis: int | None = None) -> Array:
    """Linear light as a picture like the user's `image`: its gamma, dtype, axes and memory."""
    picture = from_planes(encode(planes, gamma), image, channel_axis=channel_axis)
    return move(picture, array_module(image)).astype(image.dtype, copy=False)


def luminance(planes: Array) -> Array:
    """One gray plane from the channels: `(..., C, H, W)` to `(..., H, W)`, same dtype.

    Three channels are weighted as red, green and blue of linear intensity (Rec. 709: 0.2126, 0.7152, 0.0722); any
    other number of channels is averaged, because nothing says what they are.
    """
    xp = array_module(planes)
    if planes.shape[-3] != 3:
        return xp.mean(planes, axis=-3)
    red, green, blue = (planes[..., channel, :, :] for channel in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def decode(planes: Array, gamma: float) -> Array:
    """Linear light of a picture whose values are light ** (1 / gamma); signs are kept."""
    check_gamma(gamma)
    return planes if gamma == 1 else array_module(planes).copysign(abs(planes) ** gamma, planes)


def encode(planes: Array, gamma: float) -> Array:
    """The inverse of `decode`."""
    return planes if gamma == 1 else array_module(planes).copysign(abs(planes) ** (1 / gamma), planes)
