"""The judge on NumPy and CuPy, without torch: its weights as arrays, and its logits."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

import numpy as np

from ...numerics.arrays import Array, array_module, constant, sum_pixels
from ...numerics.convolution import strided_convolution

RESIDUAL_SCALE = 20.0  # of the third channel: the residual of a good kernel is about a twentieth of an image's contrast


@functools.cache
def tensors() -> dict[str, np.ndarray]:
    """The weights that ship, in float16; a ValueError where the file is not the one of this version."""
    from ..catalog import entry, shipped_weights  # here, as it imports the libraries of image files

    path = shipped_weights("judge")
    data, checksum = path.read_bytes(), entry("judge").checksum
    if (sha256 := hashlib.sha256(data).hexdigest()) != checksum:
        raise ValueError(f"weights {path} must have SHA-256 {checksum}, got {sha256}; get a fresh copy of the package")
    # safetensors: the length of the header in 8 bytes, the header in JSON, the values.
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    return {
        name: np.frombuffer(data[slice(*(end + offset for offset in about["data_offsets"]))], "<f2").reshape(
            about["shape"]
        )
        for name, about in header.items()
        if name != "__metadata__"
    }


@functools.lru_cache(maxsize=64)
def _tensor(name: str, dtype: Any) -> np.ndarray:
    """A tensor in the layout that the functions here take: filters, and units, are the last axis."""
    values = tensors()[name].astype(dtype)
    if values.ndim == 4:
        filters, channels = values.shape[:2]
        values = values.reshape(filters, channels, 9).transpose(1, 2, 0)
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values


def judge(latent: Array, blurred: Array, residual: Array) -> Array:
    """`Judge` in NumPy or CuPy: logits (n,) of candidate kernels by what they make of their images, all (n, H, W).

    In float32 nothing here waits for a device. Each image is computed by itself: a batch equals a loop.

    Parameters
    ----------
    latent, blurred : x and B, both divided by the noise of the image.
    residual : x * k - B.
    """
    xp, (n, h, w), dtype = array_module(latent), blurred.shape, blurred.dtype
    mean = (sum_pixels(blurred) / (h * w))[:, None, None]
    x = xp.empty((n, 3, h, w), dtype=dtype)
    x[:, 0], x[:, 1], x[:, 2] = latent - mean, blurred - mean, RESIDUAL_SCALE * residual

    def tensor(name: str) -> Array:
        return constant(xp, _tensor, name, dtype)

    for layer in range(sum(name.startswith("convolutions") for name in tensors()) // 2):
        name = f"convolutions.{layer}"
        x = strided_convolution(x, tensor(f"{name}.weight"), tensor(f"{name}.bias"))
    x = sum_pixels(x) / (x.shape[-2] * x.shape[-1])
    # Sums of products rather than BLAS, which would round a batch differently.
    x = xp.maximum((x[:, None] * tensor("hidden.weight")).sum(axis=-1) + tensor("hidden.bias"), 0)
    return (x * tensor("logit.weight")[0]).sum(axis=-1) + tensor("logit.bias")[0]
