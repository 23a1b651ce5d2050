"""Lamps that are far too bright for the sensor: where they are, and the picture without them.

At a clipped pixel B is less than x * k, and all gradients of x whose trace touches it tell wrong things of the kernel.
Lamps outshine all others: their trails, clipped, look like a kernel that is too broad. Without them, what stays is a
scene that was blurred by the same kernel. What is clipped by a little tells more than it harms, and stays.
"""

from __future__ import annotations

from ..numerics.arrays import Array, array_module
from ..numerics.filters import dilate

# Pixels about a clipped one that are left out where kernels are judged: its rim.
RIM = 3
# A lamp's trail ends at once: two and three pixels from it the picture is darker than this, on the average. On training
# pictures it is under 0.2 there, and over 0.55 beside what is clipped by a little.
DARK = 0.4
# Where more than this share of a picture would have to go, white is what it is about (paper), and all of it stays.
MOST = 0.4
SWEEPS = 12  # of smoothing, at each scale of `filled`


def remove_lights(picture: Array, lights: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Pictures (n, H, W) without the traces of their lamps, and without the lamps alone; without any, as they are.

    Waits for the device once.
    """
    traces, rims = light_masks(picture, lights, size)
    if not bool(traces.any()):
        return picture, picture
    return inpaint(picture, traces), inpaint(picture, rims)


def light_masks(picture: Array, lights: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """(traces, rims) of the clipped `lights` (n, H, W): what lies within half a kernel of `size` of one, within RIM.

    Both are empty in a picture (n, H, W) that is not DARK beside its lights, or where the traces are over MOST of it.
    """
    traces, rims = _grown(lights, max(size) // 2 + 1), _grown(lights, RIM)
    beside = (rims & ~_grown(lights, 1)).astype(picture.dtype)
    axes = (-2, -1)
    dark = (picture * beside).sum(axis=axes, keepdims=True) < DARK * beside.sum(axis=axes, keepdims=True)
    lamps = dark & (traces.mean(axis=axes, keepdims=True) <= MOST)
    return traces & lamps, rims & lamps


def _grown(mask: Array, reach: int) -> Array:
    """`mask` (n, H, W) dilated by a square, not across the picture's borders."""
    wide = array_module(mask).pad(mask, [(0, 0), (reach, reach), (reach, reach)])
    return dilate(wide, reach)[..., reach:-reach, reach:-reach]


def inpaint(picture: Array, mask: Array) -> Array:
    """`picture` (..., H, W) with what is under `mask` as smooth as can be: nearly harmonic, from what is around it.

    Coarse to fine: each scale begins with the one below it, and is smoothed. A picture without a mask stays as it is.
    """
    xp = array_module(picture, mask)
    return xp.where(mask, _smooth(xp.where(mask, 0, picture), (~mask).astype(picture.dtype)), picture)


def _smooth(values: Array, known: Array) -> Array:
    """Values where `known` is 1, and between them where it is 0; `values` are 0 there."""
    xp = array_module(values, known)
    if max(values.shape[-2:]) == 1:
        return values
    weight = _halved(known)
    coarse = _smooth(_halved(values) / xp.where(weight > 0, weight, 1), (weight > 0).astype(values.dtype))
    h, w = values.shape[-2:]
    between = xp.repeat(xp.repeat(coarse, 2, axis=-2), 2, axis=-1)[..., :h, :w]
    edges = [(0, 0)] * (values.ndim - 2) + [(1, 1), (1, 1)]
    for _ in range(SWEEPS):
        wide = xp.pad(xp.where(known > 0, values, between), edges, mode="edge")
        across = wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
        between = (across + wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]) / 4
    return xp.where(known > 0, values, between)


def _halved(picture: Array) -> Array:
    """Means of 2 x 2 pixels; a last odd row or column counts twice."""
    xp, (h, w) = array_module(picture), picture.shape[-2:]
    even = xp.pad(picture, [(0, 0)] * (picture.ndim - 2) + [(0, h % 2), (0, w % 2)], mode="edge")
    rows = even[..., ::2, :] + even[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4
