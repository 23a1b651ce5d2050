"""gamma="auto": whether the values of an image are linear light or those of a photograph.

A blur is a convolution in linear light alone: in any other, the dips of its kernel's spectrum are filled in. A kernel
estimated from the image as it is stored, at half of the size, is near enough to show in which light they are deeper.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from ..images.planes import encode
from ..numerics.arrays import Array, array_module, replayed, stack, to_host
from ..numerics.progress import OnProgress
from ..priors.protocol import is_replayable
from .confidence import spectral_match
from .kernel_size import window_sides
from .observation import Observation
from .options import Settings, TwoStepOptions
from .racing import Entry, at_scale, race, race_scale
from .region import cut_patches, exceeds_limit, for_patches, mean_of_patches

GAMMAS = (1.0, 2.2)  # the second is near the curves of cameras
# The initialization of the kernel, and the sides of its windows in pixels where no kernel size is given.
INITIALIZATION, SIDES = "relaxed", (35, 71)


def choose_gammas(observed: Observation, settings: Settings) -> np.ndarray:
    """(n,): of `GAMMAS`, that in which the kernel of each image of `observed`, as it is stored, has the best match.

    Images that share a kernel have one gamma. Waits for a device.
    """
    gammas = np.empty(len(observed))
    for group, _, _, images in observed.alike():
        in_patches = exceeds_limit(images.shape)
        together = settings.shared_kernel or not in_patches
        chosen = []
        for indices in [None] if together else np.arange(len(images))[:, None]:
            source, sizes = images.subset(indices), _sizes(images.shape, settings.kernel_size)
            if in_patches:
                source = cut_patches(source, max(sizes))
            elif settings.shared_kernel:
                source = replace(source, patches=len(source))
            matches = to_host(_matches(source, sizes, settings))
            chosen.append(np.array(GAMMAS)[matches.argmax(axis=0)])
        gammas[slice(None) if group is None else group] = np.concatenate(chosen)
    return gammas


def _sizes(shape: tuple[int, int], kernel_size: tuple[int, int] | None) -> list[tuple[int, int]]:
    if kernel_size is not None:
        return [kernel_size]
    largest = window_sides(shape)[-1]
    return [(side, side) for side in sorted({min(side, largest) for side in SIDES})]


def _matches(observed: Observation, sizes: list[tuple[int, int]], settings: Settings) -> Array:
    """(gammas, n): `matches_in_each` of `GAMMAS`; n is the number of kernels."""
    views = [observed.decoded(gamma) for gamma in GAMMAS]
    arrays = [array for view in views for array in (view.in_patches(view.luminance), view.noise_scale_of_kernels())]
    options = settings.options.of_start(INITIALIZATION)
    entries = tuple(Entry(INITIALIZATION, size) for size in sizes)
    return replayed(
        ("gamma", entries, settings.options),
        functools.partial(matches_in_each, entries=entries, options=settings.options),
        *arrays,
        report=settings.gamma_progress(),
        capturable=is_replayable(options.prior),
    )


def matches_in_each(*arrays: Array, entries: tuple[Entry, ...], options: TwoStepOptions, report: OnProgress) -> Array:
    """The spectral match, summed over the kernels of all `entries`, (len(arrays) / 2, n).

    Parameters
    ----------
    arrays : the images (n, H, W) in each light, and their noise scale (n,). Kernels are estimated in the first.
    """
    images, noise_scale = arrays[:2]
    kernels, _ = race(lambda _: images, images, noise_scale, entries, options, report)
    scale, matches = race_scale(images.shape[-2:], entries, options), []
    for light, noise in zip(arrays[::2], arrays[1::2], strict=True):
        scaled, _ = at_scale(light, noise, scale)
        each = [mean_of_patches(spectral_match(scaled, for_patches(kernel, scaled))) for kernel in kernels]
        matches.append(sum(each[1:], each[0]))
    return stack(matches)


def encode_each(planes: Array, gammas: np.ndarray) -> Array:
    """Planes (n, C, H, W) of linear intensity as they are stored, each with its gamma."""
    if len(np.unique(gammas)) == 1:
        return encode(planes, float(gammas[0]))
    stored = planes.copy()
    for gamma in np.unique(gammas):
        indices = array_module(planes).asarray(np.flatnonzero(gammas == gamma))
        stored[indices] = encode(planes[indices], float(gamma))
    return stored
