"""Saturated lights: where they are, and the image without them.

At a saturated pixel B is less than x * k, and all gradients of x whose blur reaches it mislead the kernel step. Lights
are the brightest points of a scene, and their saturated trails look like a kernel that is too broad. Without them, the
rest is a scene blurred by the same kernel. In a bright scene, regions that are saturated only slightly help more than
they harm, and stay.
"""

from __future__ import annotations

from ..numerics.arrays import Array, array_module
from ..numerics.filters import dilate
from ..numerics.inpainting import inpaint

# Pixels around a saturated one that are inpainted in the image on which kernels are scored.
RIM = 3
# The trail of a light ends sharply: two and three pixels from it the mean is below this. On training images it is below
# 0.2 there, and above 0.55 beside regions that are saturated only slightly.
DARK_SURROUND = 0.4
# If more than this fraction of an image would be inpainted, it is white by itself (a page), and nothing is removed.
MAX_LIGHT_AREA = 0.4


def remove_lights(image: Array, saturated: Array, size: tuple[int, int], is_dark: Array) -> tuple[Array, Array]:
    """(images (n, H, W) without their lights' footprints, images without the lights alone); unchanged where none are.

    Waits for the device once.
    """
    footprints, rims = light_masks(image, saturated, size, is_dark)
    if not bool(footprints.any()):
        return image, image
    return inpaint(image, ~footprints), inpaint(image, ~rims)


def light_masks(image: Array, saturated: Array, size: tuple[int, int], is_dark: Array) -> tuple[Array, Array]:
    """(footprints, rims) of `saturated` (n, H, W): within half a kernel of `size` of a saturated pixel, within `RIM`.

    Both are empty in an image (n, H, W) that is bright beside its saturated pixels, unless the scene `is_dark` (n,),
    or of which the footprints take more than `MAX_LIGHT_AREA`.
    """
    footprints, rims = _dilated(saturated, max(size) // 2 + 1), _dilated(saturated, RIM)
    surround = (rims & ~_dilated(saturated, 1)).astype(image.dtype)
    axes = (-2, -1)
    dark = (image * surround).sum(axis=axes, keepdims=True) < DARK_SURROUND * surround.sum(axis=axes, keepdims=True)
    lights = (dark | is_dark[:, None, None]) & (footprints.mean(axis=axes, keepdims=True) <= MAX_LIGHT_AREA)
    return footprints & lights, rims & lights


def _dilated(mask: Array, radius: int) -> Array:
    """`mask` (n, H, W) dilated by a square, not across the image's borders."""
    padded = array_module(mask).pad(mask, [(0, 0), (radius, radius), (radius, radius)])
    return dilate(padded, radius)[..., radius:-radius, radius:-radius]
