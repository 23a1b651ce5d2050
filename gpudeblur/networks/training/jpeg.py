"""JPEG's loss on batches of pictures, on any device: 8 x 8 cosine transforms, quantization, colors at half size.

Pillow compresses pictures one by one on the CPU; this gives the same pixels to within rounding, for a whole batch.
"""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional

# ITU-T T.81, tables K.1 (luminance) and K.2 (chrominance).
LUMINANCE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
CHROMINANCE = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 " + "99 " * 36
# From RGB to luminance and two color differences (JFIF); the differences are shifted by a half.
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def compress(images: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """What JPEG of a quality from 1 to 100, (N,), leaves of RGB pictures (N, 3, H, W) in [0, 1]."""
    h, w = images.shape[-2:]
    matrix = torch.tensor(TO_YCC, dtype=images.dtype, device=images.device)
    levels = (255 * images.clamp(0, 1)).round()
    ycc = torch.einsum("ij,njhw->nihw", matrix, levels).round()
    ycc = functional.pad(ycc, (0, -w % 16, 0, -h % 16), mode="replicate")
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)[:, None, None, None, None, None]
    light = _quantize(ycc[:, :1] - 128, LUMINANCE, scale) + 128
    color = _quantize(functional.avg_pool2d(ycc[:, 1:], 2).round(), CHROMINANCE, scale).round()
    color = functional.interpolate(color, scale_factor=2, mode="bilinear")
    ycc = torch.cat([light, color], dim=1).round()
    rgb = torch.einsum("ij,njhw->nihw", torch.linalg.inv(matrix.double()).to(matrix), ycc)
    return rgb[..., :h, :w].round().clamp(0, 255) / 255


def _quantize(planes: torch.Tensor, table: str, scale: torch.Tensor) -> torch.Tensor:
    """Round the cosine transform of each block of 8 x 8 pixels to multiples of the scaled table."""
    n, c, h, w = planes.shape
    dct = _dct(planes.dtype, planes.device)
    steps = torch.tensor([int(value) for value in table.split()], dtype=planes.dtype, device=planes.device)
    steps = ((steps.reshape(8, 8)[:, None] * scale + 50) / 100).floor().clamp(1, 255)
    blocks = planes.reshape(n, c, h // 8, 8, w // 8, 8)
    spectrum = torch.einsum("up,vq,ncapbq->ncaubv", dct, dct, blocks)
    spectrum = (spectrum / steps).round() * steps
    return torch.einsum("up,vq,ncaubv->ncapbq", dct, dct, spectrum).reshape(n, c, h, w)


@functools.lru_cache(maxsize=4)
def _dct(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The orthonormal cosine transform of 8 samples, (8, 8)."""
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi / 8 * k[:, None] * (k + 0.5)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.to(device, dtype)
