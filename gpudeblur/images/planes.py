"""Conversion of images to float planes and back: dtype, range, channels and gamma."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, dtype_on, move, to_host
from ..numerics.user_warnings import warn
from .checks import check_gamma
from .white import ComparedWhite, full_scale

# Rec. 709 luma weights of red, green and blue, for linear intensity.
LUMA = (0.2126, 0.7152, 0.0722)


def to_planes(image: Array, *, channel_axis: int | None = None, dtype: Any, white: float | None = None) -> Array:
    """The image as floats, with the channels, if any, before the rows.

    Parameters
    ----------
    image : (..., H, W) array, or with one more axis for the channels
        An image that `check_picture` accepts, of any byte order. Its values become fractions of `white`; nothing is
        clipped.
    channel_axis : int, optional
        Axis of the channels.
    dtype : dtype
        float32 or float64.
    white : float, optional
        The value of full scale. None: the largest value of an integer type, 1 for floats.

    Returns
    -------
    (..., H, W) or (..., C, H, W) array of `dtype`
        Always a new, C-contiguous array of native byte order, so that the user's image is never written to.

    Raises
    ------
    ValueError
        A value is beyond the range of `dtype`.
    """
    # CuPy computes with no type derived from float.
    xp, full = array_module(image), full_scale(image.dtype) if white is None else float(white)
    limit = float(np.finfo(dtype).max) * full
    if image.dtype.kind == "f" and image.dtype.itemsize > np.dtype(dtype).itemsize and bool((abs(image) > limit).any()):
        raise ValueError(
            f"image must be within {limit:.1e} for {np.dtype(dtype)}, got {float(abs(image).max()):.1e}; "
            "scale it to about [0, 1]"
        )
    view = image if channel_axis is None else xp.moveaxis(image, channel_axis, -3)
    if image.dtype.kind == "f" and full != 1:
        view = xp.divide(view, full, dtype=np.result_type(image.dtype, dtype))  # float32 may hold the quotient only
    planes = xp.array(view, dtype=np.dtype(dtype).newbyteorder("="), order="C")
    if image.dtype.kind in "iu":
        planes /= full
    return planes


def from_planes(planes: Array, like: Any, *, channel_axis: int | None = None, white: float | None = None) -> Array:
    """The inverse of `to_planes`: the dtype and the axes of the user's image.

    Parameters
    ----------
    planes : (..., H, W) or (..., C, H, W) float array
    like : array or dtype
        The user's image, or its dtype. For an integer type the values are rounded, and clipped to the range of the type
        and at `white`.
    channel_axis : int, optional
        Axis of the channels in the result.
    white : float, optional
        As in `to_planes`: the values are multiplied by it.

    Returns
    -------
    C-contiguous array of the dtype of `like`, or on a device of `arrays.dtype_on`
    """
    xp = array_module(planes)
    is_array = isinstance(like, np.ndarray) or hasattr(like, "__cuda_array_interface__")
    dtype = dtype_on(xp, like.dtype if is_array else np.dtype(like))
    image = xp.ascontiguousarray(planes if channel_axis is None else xp.moveaxis(planes, -3, channel_axis))
    full = full_scale(dtype) if white is None else float(white)
    if dtype.kind not in "iu":
        if full != 1:
            image = xp.multiply(image, full, dtype=np.result_type(image.dtype, dtype))
        return image.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    top = min(white.top if isinstance(white, ComparedWhite) else full, float(limits.max))
    scaled = image.astype(image.dtype if dtype.itemsize < 4 else np.float64)  # float32 holds no 32-bit integers
    scaled *= full
    if top > limits.max:  # the largest 64-bit integer rounds up to a float beyond it
        top = float(np.nextafter(top, 0))
    xp.rint(scaled, out=scaled)
    return xp.clip(scaled, float(limits.min), top, out=scaled).astype(dtype)


def to_picture(
    planes: Array, gamma: float, image: Array, *, channel_axis: int | None = None, white: float | None = None
) -> Array:
    """Planes of linear intensity as an array like the user's `image`: its gamma, unit, dtype, axes and memory."""
    result = from_planes(encode(planes, gamma), image, channel_axis=channel_axis, white=white)
    return move(result, array_module(image)).astype(image.dtype, copy=False)


# Opacity is constant, or has at least these fractions of its pixels at its maximum, and there or at 0.
OPAQUE, OPAQUE_OR_EMPTY = 0.05, 0.5


def split_alpha(image: Array, channel_axis: int | None, *, warns: bool = True) -> tuple[Array, Array | None]:
    """(the colors, the last of 2 or 4 channels if it is opacity), or (the image, None). On CuPy the call waits.

    Opacity must not be blurred or sharpened with the colors. Bands of an instrument are not opacity: whether the last
    channel is, is seen from its values, `OPAQUE`.

    Raises
    ------
    ValueError
        Some pictures of a stack have opacity, and others do not.
    """
    if channel_axis is None or image.shape[channel_axis] not in (2, 4):
        return image, None
    xp = array_module(image)
    channels = xp.moveaxis(image, channel_axis, 0)
    alpha, axes = channels[-1], (-2, -1)
    values = xp.nan_to_num(alpha) if alpha.dtype.kind == "f" else alpha  # of pixels that a mask leaves out
    at_top = values == values.max(axis=axes, keepdims=True)
    in_either = (at_top | (values == 0)).mean(axis=axes)
    is_alpha = to_host(xp.asarray((at_top.mean(axis=axes) >= OPAQUE) & (in_either >= OPAQUE_OR_EMPTY)))
    if is_alpha.all():
        return xp.moveaxis(channels[:-1], 0, channel_axis), alpha
    if is_alpha.any():
        raise ValueError(
            f"image must have opacity as the last of {len(channels)} channels in all pictures of a stack or in none, "
            f"got {int(is_alpha.sum())} of {is_alpha.size}; pass them one by one"
        )
    if len(channels) == 4 and warns:
        warn(
            "image has 4 channels, and the last is deblurred like the others, since it is not mostly 0 or full; if it "
            "is opacity, pass the first three alone"
        )
    return image, None


def join_alpha(colors: Array, alpha: Array | None, channel_axis: int | None) -> Array:
    """The inverse of `split_alpha`: the opacity as it came, to the last bit."""
    if alpha is None or channel_axis is None:
        return colors
    xp = array_module(colors, alpha)
    channels = xp.concatenate([xp.moveaxis(colors, channel_axis, -1), alpha[..., None]], axis=-1)
    return xp.ascontiguousarray(xp.moveaxis(channels, -1, channel_axis))


def luminance(planes: Array) -> Array:
    """One gray plane (..., H, W) from the channels (..., C, H, W), same dtype.

    Three channels are weighted as red, green and blue of linear intensity (Rec. 709). Any other number of channels is
    averaged, since their meaning is unknown.
    """
    xp = array_module(planes)
    if planes.shape[-3] != 3:
        return xp.mean(planes, axis=-3)
    red, green, blue = (planes[..., channel, :, :] for channel in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def decode(planes: Array, gamma: float) -> Array:
    """Linear intensity of an image whose values are intensity ** (1 / gamma); signs are kept."""
    check_gamma(gamma)
    return planes if gamma == 1 else array_module(planes).copysign(abs(planes) ** gamma, planes)


def encode(planes: Array, gamma: float) -> Array:
    """The inverse of `decode`."""
    return planes if gamma == 1 else array_module(planes).copysign(abs(planes) ** (1 / gamma), planes)
