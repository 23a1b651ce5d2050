"""Masks of valid pixels that users pass: a bool array, "nan", or the mask of a `numpy.ma.MaskedArray`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, move
from . import checks

NAN_ADVICE = checks.NAN_ADVICE


def without_mask(image: Any) -> Any:
    """The values of a `numpy.ma.MaskedArray` as a plain array; anything else as it is."""
    return np.ma.getdata(image, subok=False) if isinstance(image, np.ma.MaskedArray) else image


def with_mask_of(image: Any, result: Array) -> Array:
    """`result`, as a masked array with the mask of `image` if that is one."""
    if not isinstance(image, np.ma.MaskedArray):
        return result
    return np.ma.MaskedArray(result, mask=np.ma.getmaskarray(image).copy())


def valid_pixels(image: Any, mask: Any, *, channel_axis: int | None = None, name: str = "image") -> Array | None:
    """Where `image` is valid, bool of its shape; None if it is valid everywhere.

    Parameters
    ----------
    image : as the user passed it, a `numpy.ma.MaskedArray` or an array that `checks.check_picture` accepts but for NaN
        and infinity.
    mask : bool array or "nan" or None
        True where the image is valid, (H, W) or (..., H, W), for all channels. "nan": where it is finite, each channel
        by itself.
    name : of the image in the messages.

    Raises
    ------
    TypeError
        The mask is no bool array, or not in the memory of the image.
    ValueError
        A wrong shape, an image without a valid pixel, NaN at a valid pixel, or a mask for a masked array.
    """
    if isinstance(image, np.ma.MaskedArray):
        if mask is not None:
            raise ValueError(
                f"mask must be left out for a masked array, got both; mask {name} where it is invalid too, for "
                f"instance by numpy.ma.masked_invalid({name}), or pass its .data"
            )
        valid: Any = ~np.ma.getmaskarray(image)
        image = without_mask(image)
        advice = f"numpy.ma.masked_invalid({name}) masks such pixels too"
    elif isinstance(mask, str):
        if mask != "nan":
            raise ValueError(
                f"mask must be a bool array, 'nan' or None, got {mask!r}; 'nan' leaves NaN and infinity out"
            )
        if image.dtype.kind != "f":
            return None
        valid = array_module(image).isfinite(image)
        advice = ""
    elif mask is None:
        return None
    else:
        valid = _bool_mask(image, mask, channel_axis, name)
        advice = f"mask & isfinite({name}) leaves such pixels out"
    if bool(valid.all()):  # here CuPy must wait
        valid = None
    if advice:
        xp = array_module(image)
        checks.check_finite(image if valid is None else xp.where(valid, image, 0), xp, name, advice)
    if valid is not None:
        view = valid if channel_axis is None else array_module(valid).moveaxis(valid, channel_axis, -3)
        empty = ~view.any(axis=(-2, -1))
        if bool(empty.any()):
            which = "" if empty.ndim == 0 else f" in {int(empty.sum())} of {empty.size} planes"
            raise ValueError(
                f"mask must be True at some pixel of each image, got none{which}; True is valid, try ~mask"
            )
    return valid


def _bool_mask(image: Any, mask: Any, channel_axis: int | None, name: str) -> Array:
    """The checked `mask`, broadcast to the shape of `image`."""
    checks.module_of(mask, "mask")
    xp = array_module(image, mask)
    if mask.dtype != bool:
        raise TypeError(f"mask must have dtype bool, True where {name} is valid, got {mask.dtype}; mask != 0 is bool")
    shape = checks.without_channels(image, channel_axis)
    if mask.shape not in (shape, shape[-2:]):
        stack = f" or {shape[-2:]}" if len(shape) > 2 else ""
        way_out = "leave the channels out, for instance by mask.all(axis=channel_axis)"
        if channel_axis is None or mask.shape != image.shape:
            way_out = f"True is valid, isfinite({name}) is one" if channel_axis is None else "it has no channels"
        raise ValueError(f"mask must be like {name}, shape {shape}{stack}, got shape {mask.shape}; {way_out}")
    if channel_axis is not None:
        planes = xp.moveaxis(image, channel_axis, -3).shape
        return xp.moveaxis(xp.broadcast_to(mask[..., None, :, :], planes), -3, channel_axis)
    return xp.broadcast_to(mask, image.shape)


def without_opacity(valid: Array, channel_axis: int) -> Array:
    """What `valid_pixels` says of the colors of an image whose last channel is opacity."""
    xp = array_module(valid)
    return xp.moveaxis(xp.moveaxis(valid, channel_axis, 0)[:-1], 0, channel_axis)


def hide_invalid(image: Array, valid: Array | None) -> Array:
    """`image` with 0 where it is not `valid`; as it is if `valid` is None."""
    if valid is None:
        return image
    return array_module(image, valid).where(valid, image, 0).astype(image.dtype, copy=False)


def valid_planes(valid: Array, xp: Any, channel_axis: int | None) -> Array:
    """What `valid_pixels` returns as (..., H, W), or (..., C, H, W), in the memory of `xp`: see `planes.to_planes`."""
    xp_in = array_module(valid)
    planes = valid if channel_axis is None else xp_in.moveaxis(valid, channel_axis, -3)
    return move(xp_in.ascontiguousarray(planes), xp)


def check_enough(mask: Array, size: tuple[int, int], advice: str = "crop the kernel's empty border") -> None:
    """Raise if an incomplete `mask` (..., H, W) has fewer valid pixels than a kernel of `size`."""
    counts, needed = mask.sum(axis=(-2, -1)), math.prod(size)
    few = (counts < needed) & (counts < math.prod(mask.shape[-2:]))
    if bool(few.any()):  # here CuPy must wait
        kh, kw = size
        raise ValueError(
            f"mask must have at least as many valid pixels as the kernel, {kh} x {kw} = {needed}, got "
            f"{int(counts.min())}; {advice}, take a part with more valid pixels, or give ~mask if True marks bad ones"
        )
