"""The observed images in the one form that the method works on: linear light, stack and channels in fixed places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..images import checks
from ..images.defects import find_defects
from ..images.masks import (
    NAN_ADVICE,
    check_enough,
    hide_invalid,
    valid_pixels,
    valid_planes,
    without_mask,
    without_opacity,
)
from ..images.noise import noise_scale
from ..images.planes import decode, luminance, split_alpha, to_planes
from ..images.saturation import DARK_SCENE, find_saturated
from ..images.white import white_level
from ..numerics.arrays import Array, array_module, choose_module, move, to_host_together
from ..numerics.inpainting import inpaint
from .options import Settings

Window = tuple[slice, slice]
# A range of values that is rounding: an 8-bit image has steps of 4e-3.
ROUNDING_RANGE = 1e-5


@dataclass(frozen=True)
class Observation:
    """Blurred images on the device that computes.

    Attributes
    ----------
    image : (n, C, H, W) float, light ** (1 / gamma) as it is stored; C is 1 for gray images. See `alike`.
    luminance : (n, H, W), what the kernel is estimated from.
    saturated : (n, C, H, W) bool, where the sensor was at full scale; None where no image is saturated anywhere.
    noise_scale : (n,), see `images.noise.noise_scale`.
    is_dark : (n,) bool, on the host: whether the mean of an image as it is stored is below `DARK_SCENE`.
    gammas : (n,), on the host: that of each image. 1: linear light.
    alpha : (..., H, W), the opacity as the user passed it, or None; see `images.planes.split_alpha`.
    white : the value of full scale in the unit of the user's image.
    valid : (n, C, H, W) bool, where the image is valid; None where all images are valid everywhere. Elsewhere `image`
        and `luminance` are interpolated (`numerics.inpainting`).
    windows : (n, 4), what lies inside the constant borders of the images, see `images.borders`; None without borders.
    patches : how many images, one after the other, share a kernel (`region`); None: each has a kernel of its own.
    initial : (n, kh, kw), or (1, kh, kw) for all, kernels to begin the finest scale with, beside those of the
        initializations; NaN for an image without one.
    inside : bool of the user's image without opacity, False on its constant border, which is returned as it is; None
        without one. See `images.defects`.
    """

    image: Array
    luminance: Array
    saturated: Array | None
    noise_scale: Array
    is_dark: np.ndarray
    gammas: np.ndarray
    alpha: Array | None = None
    white: float = 1.0
    valid: Array | None = None
    windows: np.ndarray | None = None
    inside: Array | None = None
    patches: int | None = None
    initial: Array | None = None

    @classmethod
    def of(cls, image: Array, settings: Settings, mask: Any = None) -> Observation:
        """Check `image` (..., H, W), or with channels, and its `mask`, and bring them into this form.

        Waits for a device three times; with a mask, or for a masked array, more often.

        Raises
        ------
        TypeError, ValueError
            See `images.checks.check_picture` and `images.masks.valid_pixels`; or the kernel size does not fit the
            image.
        """
        channel_axis, dtype = settings.channel_axis, settings.options.dtype
        original, image = image, without_mask(image)
        has_mask = mask is not None or image is not original
        checks.check_picture(image, channel_axis=channel_axis, nan_advice=None if has_mask else NAN_ADVICE)
        xp = choose_module(image, settings.device)
        valid = valid_pixels(original, mask, channel_axis=channel_axis)
        image, alpha = split_alpha(image, channel_axis)
        if valid is not None and alpha is not None and channel_axis is not None:
            valid = without_opacity(valid, channel_axis)
        image = hide_invalid(image, valid)
        white = white_level(image, settings.white, channel_axis=channel_axis, dtype=dtype)
        on_device, inside, windows = move(image, xp), None, None
        valid = None if valid is None else move(valid, xp)
        if valid is not None and settings.kernel_size is not None:
            check_enough(valid_planes(valid, xp, channel_axis), settings.kernel_size, "use a smaller kernel_size")
        defects = None if settings.defects is None else find_defects(on_device, valid, channel_axis)
        if defects is not None:
            defects.warn()
            valid, windows = defects.valid, defects.windows
            inside = None if defects.inside is None else move(defects.inside, array_module(image))
        planes = to_planes(on_device, channel_axis=channel_axis, dtype=dtype, white=white)
        height, width = planes.shape[-2:]
        channels = 1 if channel_axis is None else planes.shape[-3]
        planes = planes.reshape(-1, channels, height, width)
        if valid is not None:
            valid = valid_planes(valid, xp, channel_axis).reshape(planes.shape)
            planes = inpaint(planes, valid)
        saturated = find_saturated(planes)
        if valid is not None:
            saturated &= valid
        mean = planes.mean(axis=-1).mean(axis=-1).mean(axis=-1)
        facts = [abs(planes).max(), saturated.any().astype(planes.dtype), mean]
        largest, any_saturated, mean = to_host_together(xp, facts)
        checks.check_largest(float(largest), planes.dtype, None)
        gray = _gray(planes)
        scale = noise_scale(gray, None if valid is None else valid.all(axis=1))
        saturated = saturated if any_saturated else None
        is_dark = mean < DARK_SCENE
        gammas = np.full(len(planes), 1.0 if isinstance(settings.gamma, str) else settings.gamma)
        observed = cls(planes, gray, saturated, scale, is_dark, gammas, alpha, white, valid, windows, inside)
        within = "picture" if isinstance(settings.region, str) else "region"
        for shape in observed.estimated_shapes(settings.region):
            if settings.kernel_size is None:
                checks.check_minimum_size(shape)
            else:
                checks.check_kernel_size(settings.kernel_size, shape, within)
        if isinstance(settings.region, tuple):
            observed.check_edges(settings.region)
        return observed

    def decoded(self, gamma: float) -> Observation:
        """The images in linear light, if these are light ** (1 / `gamma`)."""
        if gamma == 1:
            return self
        planes = decode(self.image, gamma)
        gray = _gray(planes)
        scale = noise_scale(gray, None if self.valid is None else self.valid.all(axis=1))
        gammas = np.ones(len(self))
        return replace(self, image=planes, luminance=gray, noise_scale=scale, gammas=gammas)

    def subset(self, group: np.ndarray | None) -> Observation:
        """The images with the indices in `group`; None: all."""
        if group is None:
            return self
        indices = array_module(self.image).asarray(group)
        saturated, valid = (None if array is None else array[indices] for array in (self.saturated, self.valid))
        image, gray, scale = (array[indices] for array in (self.image, self.luminance, self.noise_scale))
        initial = self.initial if self.initial is None or len(self.initial) == 1 else self.initial[indices]
        dark, gammas = self.is_dark[group], self.gammas[group]
        return Observation(image, gray, saturated, scale, dark, gammas, white=self.white, valid=valid, initial=initial)

    def alike(self) -> Iterator[tuple[np.ndarray | None, Window | None, float, Observation]]:
        """(indices, window, gamma, the images cropped and in linear light) of those with one border and one gamma.

        The indices are None where all images are alike, and the window is where there are no borders.
        """
        windows = np.zeros((len(self), 0), dtype=int) if self.windows is None else self.windows
        different, which = np.unique(np.column_stack([windows, self.gammas]), axis=0, return_inverse=True)
        for number, (*sides, gamma) in enumerate(different.tolist()):
            group = np.flatnonzero(which == number) if len(different) > 1 else None
            images, window = self.subset(group), None
            if sides:
                top, bottom, left, right = map(int, sides)
                window = slice(top, bottom), slice(left, right)
                images = images.crop(window)
            yield group, window, gamma, images.decoded(gamma)

    def crop(self, window: Window) -> Observation:
        """The images within a window. Waits for a device."""
        xp, part = self.xp, (..., *window)
        saturated, valid = (None if array is None else array[part] for array in (self.saturated, self.valid))
        if valid is not None and bool(valid.all()):
            valid = None
        image, gray = (xp.ascontiguousarray(array[part]) for array in (self.image, self.luminance))
        scale = noise_scale(gray, None if valid is None else valid.all(axis=1))
        return replace(
            self,
            image=image,
            luminance=gray,
            saturated=saturated,
            noise_scale=scale,
            valid=valid,
            alpha=None,
            windows=None,
            inside=None,
        )

    def __len__(self) -> int:
        return len(self.image)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.image.shape[-2:]
        return height, width

    @property
    def window_shapes(self) -> list[tuple[int, int]]:
        """(H, W) of what lies inside the constant borders, each once."""
        if self.windows is None:
            return [self.shape]
        return [(bottom - top, right - left) for top, bottom, left, right in np.unique(self.windows, axis=0).tolist()]

    def estimated_shapes(self, region: Window | str) -> list[tuple[int, int]]:
        """(H, W) of what a kernel is estimated from, each once: `window_shapes`, or the `region` within the windows."""
        if isinstance(region, str):
            return self.window_shapes
        height, width = self.shape
        windows = [[0, height, 0, width]] if self.windows is None else np.unique(self.windows, axis=0).tolist()
        shapes = []
        for top, bottom, left, right in windows:
            rows, columns = checks.region_window(region, self.shape, (slice(top, bottom), slice(left, right)))
            shapes.append((rows.stop - rows.start, columns.stop - columns.start))
        return shapes

    def check_edges(self, region: Window) -> None:
        """Raise if an image has edges, but none in the `region`. Waits for a device."""
        ranges = [
            values.max(axis=(-2, -1)) - values.min(axis=(-2, -1))
            for values in (self.luminance[..., *region], self.luminance)
        ]
        if bool(((ranges[0] < ROUNDING_RANGE) & (ranges[1] >= ROUNDING_RANGE)).any()):
            raise ValueError(
                f"region must have edges, got {region!r}, where an image is constant; choose a part with edges in all "
                "directions, or region='auto'"
            )

    @property
    def pixels(self) -> int:
        """Number of pixels for each kernel."""
        return self.shape[0] * self.shape[1] * (self.patches or 1)

    def in_patches(self, planes: Array) -> Array:
        """Planes (n, H, W) of these images; where P of them share a kernel, (n / P, P, H, W)."""
        return planes if self.patches is None else planes.reshape(-1, self.patches, *planes.shape[-2:])

    def noise_scale_of_kernels(self) -> Array:
        """`noise_scale` for each kernel: the mean over the images that share it."""
        return self.noise_scale if self.patches is None else self.noise_scale.reshape(-1, self.patches).mean(axis=1)

    @property
    def xp(self) -> Any:
        """NumPy or CuPy."""
        return array_module(self.image)


def _gray(planes: Array) -> Array:
    return planes[:, 0] if planes.shape[1] == 1 else luminance(planes)
