"""Restoring networks on arrays: gray and RGB images, stacks, and large images in tiles.

A network maps RGB images (N, 3, H, W) in display values to the same shape. One that also estimates the blur returns the
pair (images, kernels (N, K, K)), and has a method for each, `estimate_kernel(images)` and `restore(images, kernels)`.
Its attribute `reach` says how many pixels away an input pixel may still influence an output pixel.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from ..images.planes import luminance
from ..numerics.arrays import Array, array_module, sum_pixels, to_host
from ..numerics.filters import gradient
from ..numerics.resample import resample
from . import bridge, catalog

# Pixels that a network takes at a time: larger images are cut into tiles, stacks into parts.
MAX_PIXELS = 1 << 21
CPU_STACK = 8  # images at a time; more do not fit a CPU's cache
TILE = 512  # pixels per side, without the overlap
BLEND_WIDTH = 16  # pixels, over which neighboring tiles fade into each other
DEFAULT_REACH = 128  # pixels, of a network without the attribute
ALIGNMENT = 8  # pixels; tiles begin at multiples, as networks reduce images by up to 8
KERNEL_WINDOW, WINDOW_STEP = 256, 32  # pixels: the part of a tiled image that its kernel is estimated from
# Pixels, the longer side of what the gate for faces sees: it is trained to refuse faces that fill such an image, as the
# networks do not know them either.
GATE_SIDE, GATE_MIN_SIDE = 256, 16
# Networks are trained on values in [0, 1]. They receive those clipped to this range; the remainder is added back.
INPUT_RANGE = (-0.1, 1.1)

_loading = threading.Lock()


def load(name: str, weights: Path | None, device: Any = "cpu") -> Any:
    """The network of that name on a torch device. It is made once for each file of weights and device.

    Raises
    ------
    ImportError
        PyTorch is missing.
    OSError, ValueError
        As `catalog.load_network`.
    """
    bridge.torch_module()
    modified = None if weights is None else weights.stat().st_mtime_ns
    with _loading:
        return _load(name, weights, modified, str(device))


def estimates_kernel(name: str) -> bool:
    """Whether a network returns kernels; an ImportError without PyTorch."""
    bridge.torch_module()
    return name == "face" or hasattr(catalog.NETWORKS[name].network, "estimate_kernel")


@functools.lru_cache(maxsize=8)
def _load(name: str, weights: Path | None, modified: int | None, device: str) -> Any:
    """`modified` makes the cache miss when the file has changed."""
    return catalog.load_network(name, weights).to(device)


def restore_images(
    network: Any,
    images: Array,
    *,
    tile: int | None = None,
    kernels: Array | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> tuple[Array, Array | None]:
    """(restored images, their kernels or None) by a network on the device of the images.

    Parameters
    ----------
    images : (n, C, H, W) float32 or float64, C = 1 or 3. Gray images enter as three equal channels, of which the mean
        is taken. The network computes in float32; its change is added in the dtype of the images.
    tile : pixels per side, without the overlap; None: whole up to `MAX_PIXELS`, else `TILE`.
    kernels : (n, K, K) of the network's size, in place of those that it would estimate.
    report : called with the completed fraction.

    Returns
    -------
    restored : like `images`, a new array.
    kernels : (n, K, K) float32, those given, or None if the network estimates none. Of an image in several tiles it is
        estimated from the window with the strongest gradients.

    Raises
    ------
    ValueError
        The network changes the shape, or returns NaN or infinity.
    """
    xp, (n, _, h, w) = array_module(images), images.shape
    if tile is None:
        tile = max(h, w) if h * w < MAX_PIXELS else TILE
    reach = getattr(network, "reach", DEFAULT_REACH)
    tiles = [*product(_windows(h, tile, reach), _windows(w, tile, reach))]
    result, estimates = images.copy(), []
    for stack in _stacks(images):
        part, target, function = images[stack], result[stack], network
        kernel = None if kernels is None else kernels[stack].astype(np.float32, copy=False)
        if kernel is None and hasattr(network, "estimate_kernel") and len(tiles) > 1:
            (kernel,) = _run(network.estimate_kernel, _network_input(textured_window(part)))
        if kernel is not None:
            estimates.append(kernel)
            function = functools.partial(_restore_with, network, kernel)
        for index, ((rows, row_weights), (columns, column_weights)) in enumerate(tiles):
            change, *kernel_of_whole = _change(function, part[..., rows, columns])
            estimates += kernel_of_whole
            weights = np.outer(row_weights, column_weights).astype(np.float32)
            target[..., rows, columns] += change if len(tiles) == 1 else change * xp.asarray(weights)
            report((stack.start + len(part) * (index + 1) / len(tiles)) / n)
    return result, xp.concatenate(estimates) if estimates else None


def estimate_kernels(network: Any, images: Array) -> Array:
    """Kernels (n, K, K) float32 of images (n, C, H, W), C = 1 or 3; of large images, from their strongest window.

    On NumPy one image at a time: layers round differently in a stack, and the blind method, which goes on from these
    kernels and decides by thresholds, would make other kernels of a stack than of its images alone.
    """
    window = textured_window(images) if max(images.shape[-2:]) > KERNEL_WINDOW else images
    stacks = _stacks(window, 1 if array_module(images) is np else None)
    kernels = [_run(network.estimate_kernel, _network_input(window[stack]))[0] for stack in stacks]
    return array_module(images).concatenate(kernels)


def _stacks(images: Array, count: int | None = None) -> Iterator[slice]:
    """Which of the images (n, C, H, W) a network takes at a time: `count`, or as many as are fastest."""
    n, _, h, w = images.shape
    if count is None:
        count = max(1, MAX_PIXELS // (h * w))
        count = min(count, CPU_STACK) if array_module(images) is np else count
    return (slice(begin, min(begin + count, n)) for begin in range(0, n, count))


def face_probability(images: Array) -> Array:
    """Probability, (n,), that an image is of a small face, sharp or blurred, by the gate of the package.

    Parameters
    ----------
    images : (n, C, H, W) in display values, C = 1 or 3.
    """
    xp, (h, w) = array_module(images), images.shape[-2:]
    gray = images[:, 0] if images.shape[1] == 1 else luminance(images)
    gray = xp.ascontiguousarray(xp.clip(gray, 0, 1).astype(xp.float32))
    scale = min(1.0, GATE_SIDE / max(h, w))
    h, w = (side if scale == 1 else max(GATE_MIN_SIDE, round(side * scale)) for side in (h, w))
    gray = resample(gray, (h, w))[:, None]
    network, count = load("face-gate", None, bridge.device_of(images)), max(1, MAX_PIXELS // (h * w))
    if xp is np:
        count = min(count, CPU_STACK)
    parts = [gray[begin : begin + count] for begin in range(0, len(gray), count)]
    # `_run` takes outputs with pixels.
    return xp.concatenate([_run(lambda x: network(x)[:, None, None], part)[0][:, 0, 0] for part in parts])


def _windows(length: int, tile: int, reach: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(pixels, weights) of each tile along an axis. Outside the weights' support the pixels are overlap, of `reach`.

    The weights of neighbors fade over `BLEND_WIDTH` and add up to 1.
    """
    count = -(-length // tile)
    for begin, end in pairwise(length * i // count for i in range(count + 1)):
        margin = BLEND_WIDTH // 2 + reach
        start, stop = max(0, begin - margin) // ALIGNMENT * ALIGNMENT, min(length, end + margin)
        position = np.arange(start, stop) + 0.5
        rise = position - begin if begin else np.full(len(position), np.inf)
        fall = end - position if end < length else np.full(len(position), np.inf)
        yield slice(start, stop), np.clip(np.minimum(rise, fall) / BLEND_WIDTH + 0.5, 0, 1)


def textured_window(images: Array) -> Array:
    """The window of each image (n, C, H, W) whose gradients have the most energy, at most `KERNEL_WINDOW` a side."""
    xp, (h, w) = array_module(images), images.shape[-2:]
    rows, columns = (min(side, KERNEL_WINDOW) for side in (h, w))
    gx, gy = gradient(images.mean(axis=1).astype(xp.float64))
    sums = xp.zeros((len(images), h + 1, w + 1))
    sums[:, 1:, 1:] = (gx**2 + gy**2).cumsum(axis=-2).cumsum(axis=-1)
    tops, lefts = np.arange(0, h - rows + 1, WINDOW_STEP), np.arange(0, w - columns + 1, WINDOW_STEP)
    top, left = xp.asarray(tops)[:, None], xp.asarray(lefts)
    energy = sums[:, top + rows, left + columns] - sums[:, top, left + columns]
    energy += sums[:, top, left] - sums[:, top + rows, left]
    best = to_host(energy.reshape(len(images), -1).argmax(axis=-1))  # waits for a device
    corners = [(int(tops[i // len(lefts)]), int(lefts[i % len(lefts)])) for i in best]
    return xp.stack([x[:, i : i + rows, j : j + columns] for x, (i, j) in zip(images, corners, strict=True)])


def _restore_with(network: Any, kernel: Array, images: Any) -> Any:
    return network.restore(images, bridge.to_torch(kernel))


def _network_input(images: Array) -> Array:
    """(n, 3, H, W) float32, clipped, a new array: networks may work in place."""
    xp = array_module(images)
    clipped = xp.clip(images, *INPUT_RANGE).astype(xp.float32)
    return clipped if images.shape[1] == 3 else xp.repeat(clipped, 3, axis=1)


def _change(function: Callable[[Any], Any], images: Array) -> list[Array]:
    """[function(x) - x] for images (n, C, H, W), float32; and the kernels, if the function returns them too."""
    inputs = _network_input(images)
    output, *kernels = _run(function, inputs.copy())
    if output.shape != inputs.shape:
        raise ValueError(f"network must return the shape that it gets, {inputs.shape}, got {output.shape}")
    change = output - inputs
    return [change if images.shape[1] == 3 else change.mean(axis=1, keepdims=True), *kernels]


def _run(function: Callable[[Any], Any], images: Array) -> list[Array]:
    """What a function of the tensor that shares the memory of `images` returns, as arrays; all must be finite."""
    with bridge.stream_of(images), bridge.torch_module().no_grad():
        outputs = function(bridge.to_torch(images))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        arrays = [bridge.from_torch(output.contiguous(), images) for output in outputs]
    for array in arrays:
        finite = array_module(array).isfinite(sum_pixels(array))
        if not bool(finite.all()):  # waits for a device
            raise ValueError(
                "network must return finite numbers, got NaN or infinity; its weights may not be those of a trained "
                "network"
            )
    return arrays
