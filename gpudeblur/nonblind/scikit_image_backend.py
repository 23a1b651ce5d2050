"""The scikit-image backend (`skimage.util._backends`): handles CuPy arrays, leaves NumPy arrays to scikit-image.

scikit-image finds this module by the entry points `skimage_backends` and `skimage_backend_infos` of pyproject.toml. Its
version 0.26 dispatches two functions only, both of `skimage.metrics`; the deconvolution is ready for later versions.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

RESTORATION = ("richardson_lucy", "unsupervised_wiener", "wiener")


def information() -> Any:
    """The functions that this backend implements."""
    return types.SimpleNamespace(
        supported_functions=[*(f"skimage.restoration:{name}" for name in RESTORATION), *METRICS]
    )


def can_has(name: str, *args: Any, **kwargs: Any) -> bool:
    """Whether to handle this call: one with a CuPy array in it, which scikit-image itself cannot read."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and any(isinstance(value, cupy.ndarray) for value in (*args, *kwargs.values()))


def get_implementation(name: str) -> Callable[..., Any]:
    if name in METRICS:
        return METRICS[name]
    from . import scikit_image

    return getattr(scikit_image, name.rpartition(":")[2])


def _floats(*images: Any) -> tuple[Any, ...]:
    """In the precision that scikit-image uses for them: float32 if all are float32 or less, else float64."""
    from ..numerics.arrays import array_module

    array_module(*images)
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"images must have the same dimensions, got {' and '.join(str(i.shape) for i in images)}")
    dtype = np.float32 if all(image.dtype.char in "ef" for image in images) else np.float64
    return tuple(image.astype(dtype, copy=False) for image in images)


def mean_squared_error(image0: Any, image1: Any) -> float:
    """As `skimage.metrics.mean_squared_error`; the call waits for the device."""
    image0, image1 = _floats(image0, image1)
    return float(((image0 - image1) ** 2).mean(dtype=np.float64))


def normalized_root_mse(image_true: Any, image_test: Any, *, normalization: str = "euclidean") -> float:
    """As `skimage.metrics.normalized_root_mse`."""
    image_true, image_test = _floats(image_true, image_test)
    normalization = normalization.lower()
    if normalization == "euclidean":
        norm = (image_true * image_true).mean(dtype=np.float64) ** 0.5
    elif normalization == "min-max":
        norm = image_true.max() - image_true.min()
    elif normalization == "mean":
        norm = image_true.mean()
    else:
        raise ValueError(f"normalization must be 'euclidean', 'min-max' or 'mean', got {normalization!r}")
    return mean_squared_error(image_true, image_test) ** 0.5 / float(norm)


METRICS: dict[str, Callable[..., float]] = {
    "skimage.metrics:mean_squared_error": mean_squared_error,
    "skimage.metrics:normalized_root_mse": normalized_root_mse,
}
