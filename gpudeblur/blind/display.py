"""A result for people: in a line, in a notebook's cell, as a figure, and as files."""

from __future__ import annotations

import html
import os
from typing import Any, TypeAlias

import numpy as np

from ..images.kernel_field import KernelField, show_kernels
from ..images.pages import data_uri
from ..images.planes import split_alpha
from ..numerics.arrays import Array, to_host
from ..numerics.interchange import to_native

Result: TypeAlias = Any  # a BlindResult or a RestoreResult
SIDE = 320  # pixels of a thumbnail; noise of this size is 110 kB
MAX_IMAGES = 4  # of a stack, in a cell or a figure
KERNEL_SIDE = 160  # pixels of a kernel in a cell
# The keys of `info` that people look at first, by the words for them.
ROWS = {"confidence": "confidence", "strength": "strength", "gamma": "gamma", "kernel size": "kernel_size",
        "method": "method", "seconds": "seconds"}  # fmt: skip


class Displayed:
    """The methods that `BlindResult` and `RestoreResult` have in common."""

    def __repr__(self) -> str:
        return summary(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def plot(self, axes: Any = None) -> Any:
        """Draw the image and the kernel beside each other, of a stack the first four of each.

        Parameters
        ----------
        axes : matplotlib axes, optional
            As many as there are arrays to draw; None: a new figure of pyplot.

        Returns
        -------
        array of matplotlib axes
        """
        return plot(self, axes)

    def save(self, path: str | os.PathLike[str], *, kernel: str | os.PathLike[str] | None = None) -> None:
        """Write the image, and the kernel if it has a path, as `write_image` and `write_kernel` do.

        Raises
        ------
        OSError, ValueError
            As `write_image`; or there is no such array, or the result is of a stack.
        """
        save(self, path, kernel)


def summary(result: Result) -> str:
    """`BlindResult(image=(300, 400) uint8, kernel=(31, 31), confidence=0.83, ...)`."""
    parts = [f"image={_kind(result.image)}"]
    if result.kernel is not None:
        parts.append(f"kernel={tuple(result.kernel.shape)}")
    if getattr(result, "field", None) is not None:
        parts.append("field")
    parts += [f"{ROWS[name]}={text}" for name, text in _rows(result.info).items()]
    return f"{type(result).__name__}({', '.join(parts)})"


def as_html(result: Result) -> str:
    """The images and kernels as thumbnails, and a table of what `info` says first; less than 200 kB."""
    cells = []
    for image, kernel in _pairs(result):
        if image is not None:
            cells.append(_picture(image, "image", "JPEG"))
        if kernel is not None:
            # In pixels that are seen as such, none wider than a thumbnail.
            side = min(max(KERNEL_SIDE, max(kernel.shape)), SIDE)
            style = f"height:{side * kernel.shape[0] // max(kernel.shape)}px;image-rendering:pixelated"
            cells.append(_picture(kernel, "kernel", "PNG", style))
    rows = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in _rows(result.info).items())
    return f'<div style="display:flex;gap:8px;flex-wrap:wrap">{"".join(cells)}<table>{rows}</table></div>'


def plot(result: Result, axes: Any = None) -> Any:
    """See `Displayed.plot`."""
    drawings = [
        (array, "image" if array is image else "kernel")
        for image, kernel in _pairs(result)
        for array in (image, kernel)
        if array is not None
    ]
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(1, len(drawings), figsize=(4 * len(drawings), 4), squeeze=False)
    axes = np.asarray(axes)
    if axes.size != len(drawings):
        raise ValueError(f"axes must be {len(drawings)}, one for each image and kernel, got {axes.size}; leave it out")
    for subplot, (array, title) in zip(axes.flat, drawings, strict=True):
        subplot.imshow(array, cmap="gray", vmin=0, vmax=255)
        subplot.set_title(title)
        subplot.set_axis_off()
    return axes


def save(result: Result, path: str | os.PathLike[str], kernel: str | os.PathLike[str] | None = None) -> None:
    """See `Displayed.save`."""
    from ..images.files import write_image, write_kernel

    if result.image is None:
        raise ValueError("there is no image to save for final=None; write_kernel writes the kernel")
    if kernel is not None and result.kernel is None:
        raise ValueError(f"kernel must be None for a network that estimates no kernel, got {os.fspath(kernel)!r}")
    image, axis = to_native(result.image, "image"), result.channel_axis
    if image.ndim != (2 if axis is None else 3):
        raise ValueError(
            f"save writes a single image, got a stack of shape {tuple(image.shape)}; write each with write_image"
        )
    colors, alpha = split_alpha(image, axis, warns=False)
    colors = to_host(colors)
    write_image(path, colors if axis is None else np.moveaxis(colors, axis, -1), alpha, white=result.info.get("white"))
    if kernel is not None:
        write_kernel(kernel, to_native(result.kernel, "kernel"), gamma=result.info.get("gamma"))


def _kind(image: Any) -> str:
    if image is None:
        return "None"
    return f"{tuple(image.shape)} {str(image.dtype).removeprefix('torch.')}"


def _rows(info: Any) -> dict[str, str]:
    return {name: _text(info[key]) for name, key in ROWS.items() if key in info}


def _text(value: Any) -> str:
    """A number, a name or a pair; of a stack the first values."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.ndim == 0:
        return f"{float(array):.3g}"
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    rest = ", ..." if array.size > MAX_IMAGES else ""
    return ", ".join(f"{float(number):.3g}" for number in array.flat[:MAX_IMAGES]) + rest


def _pairs(result: Result) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
    """(thumbnail of the image (h, w[, 3]), kernel (kh, kw)), uint8, of the first images of a stack."""
    kernels: list[Any] = [None]
    if result.kernel is not None:
        kernel = to_native(result.kernel, "kernel")
        kernels = list(kernel.reshape(-1, *kernel.shape[-2:])[:MAX_IMAGES])
    field = getattr(result, "field", None)
    fields: list[KernelField | None] = field if isinstance(field, list) else [field]
    shown = [
        None if kernel is None else to_host(show_kernels(kernel if field is None else field))
        for kernel, field in zip(kernels, [*fields, *[None] * (len(kernels) - len(fields))], strict=False)
    ]
    if result.image is None:
        return [(None, kernel) for kernel in shown]
    image, axis = to_native(result.image, "image"), result.channel_axis
    image = np.ma.getdata(image) if isinstance(image, np.ma.MaskedArray) else image
    pixels = to_host(split_alpha(image, axis, warns=False)[0])
    pixels = pixels[..., None] if axis is None else np.moveaxis(pixels, axis, -1)
    stack = pixels.reshape(-1, *pixels.shape[-3:])[:MAX_IMAGES]
    side = SIDE if len(stack) == 1 else SIDE // 2
    images = [_thumbnail(pixels, float(result.info.get("white", 1.0)), side) for pixels in stack]
    return list(zip(images, [*shown, *[None] * (len(images) - len(shown))], strict=False))


def _thumbnail(pixels: Array, white: float, side: int) -> np.ndarray:
    """(H, W, C) as uint8, (h, w, 3), or (h, w) for other numbers of channels; sides of at most `side` pixels."""
    from PIL import Image

    # A stride first: a large image must not be converted whole for a small picture.
    step = max(1, max(pixels.shape[:2]) // (2 * side))
    values = np.nan_to_num(pixels[::step, ::step].astype(np.float64) / white)
    values = values if values.shape[-1] == 3 else values.mean(axis=-1)
    picture = Image.fromarray(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8))
    picture.thumbnail((side, side))
    return np.asarray(picture)


def _picture(pixels: np.ndarray, text: str, form: str, style: str = "") -> str:
    source = data_uri(pixels, form, **({"quality": 85} if form == "JPEG" else {}))
    return f'<img src="{source}" alt="{text}" title="{text}" style="{style}">'
