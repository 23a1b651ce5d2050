"""From layers of napari to the arguments of gpudeblur, and from its results to layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image, Shapes

PLACE = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
DISPLAY = ("contrast_limits", "colormap")
TRUSTED = 0.5  # confidence from which on a kernel is no guess, as everywhere in gpudeblur


def pixels(image: Image) -> np.ndarray:
    """All of the layer in memory, at full resolution."""
    return np.asarray(image.data[0] if image.multiscale else image.data)


def channel_axis(image: Image) -> int | None:
    return -1 if image.rgb else None


def sides(image: Image) -> tuple[int, int]:
    """Height and width, in pixels."""
    shape = (image.data[0] if image.multiscale else image.data).shape
    height, width = shape[-3:-1] if image.rgb else shape[-2:]
    return height, width


def rectangle(shapes: Shapes, image: Image) -> tuple[slice, slice]:
    """Rows and columns of `image` under the first rectangle of `shapes`, clipped to the image.

    Of a rectangle that is rotated against the image, those of its bounding box.
    """
    corners = next(
        (data for data, kind in zip(shapes.data, shapes.shape_type, strict=True) if kind == "rectangle"), None
    )
    if corners is None:
        raise ValueError(f"region must have a rectangle, got layer {shapes.name!r} without one; draw one, or take none")
    world = [shapes.data_to_world(corner) for corner in corners]
    positions = np.array([image.world_to_data(position) for position in world])[:, -2:]
    edges = positions + 0.5  # pixel i of a layer reaches from i - 0.5 to i + 0.5
    begin = np.clip(np.round(edges.min(axis=0)), 0, sides(image)).astype(int)
    end = np.clip(np.round(edges.max(axis=0)), 0, sides(image)).astype(int)
    if not (end > begin).all():
        raise ValueError(
            f"region must lie on the image, got a rectangle of layer {shapes.name!r} beside {image.name!r}; move it"
        )
    return slice(int(begin[0]), int(end[0])), slice(int(begin[1]), int(end[1]))


def properties(image: Image) -> dict[str, Any]:
    """What a result shares with `image`: its place, its colors, and the limits of its contrast."""
    state = image.as_layer_data_tuple()[1]
    names = PLACE if image.rgb else PLACE + DISPLAY
    return {"rgb": image.rgb} | {name: state[name] for name in names if name in state}


def kernel_properties(image: Image) -> dict[str, Any]:
    """Pixels as large as those of `image`, to the right of it."""
    state = image.as_layer_data_tuple()[1]
    translate = np.array(state["translate"], float)
    translate[-1] += state["scale"][-1] * (sides(image)[1] + 1)
    shared = {name: state[name] for name in ("scale", "units", "axis_labels") if name in state}
    return shared | {"translate": translate, "interpolation2d": "nearest", "colormap": "gray"}


def _range(values: Any) -> str:
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.2f}" if np.ndim(values) == 0 or np.size(values) == 1 else f"{low:.2f} to {high:.2f}"


def summary(info: Any) -> str:
    """Confidence and strength in words; of a stack the lowest and the highest."""
    return f"confidence {_range(info['confidence'])}, strength {_range(info['strength'])}"


def doubt(info: Any) -> str | None:
    """A warning where the kernel is a guess, or None."""
    confidence = np.atleast_1d(info["confidence"])
    guesses = int((confidence < TRUSTED).sum())
    if guesses == 0:
        return None
    which = "the kernel" if confidence.size == 1 else f"the kernel of {guesses} of {confidence.size} images"
    return (
        f"{which} may be wrong: confidence {_range(info['confidence'])}, strength of the restoration "
        f"{_range(info['strength'])}. Try a region with strong edges, or another kernel size."
    )
