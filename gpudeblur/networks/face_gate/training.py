"""Training of the gate: binary cross-entropy of small faces and of everything else, each sharp and blurred."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.nn import functional

from ...images.planes import LUMA
from ..training.data import BatchMaker, blur
from ..training.trainer import Loss
from .network import FaceGate

SCALES = (0.7, 1.8)  # of faces that count as such, in the sizes of the first folder
LARGE_SCALES = (2.3, 3.5)  # of faces that do not: the networks do not know them
LARGE, LARGE_BATCH = 0.2, 8  # share of the batches with large pictures, and how many they have: they cost as much
DRAWN = 0.25  # of the crops that are no face
NOISE = 0.03  # largest standard deviation of what is added to half of the images
LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.;:    ")
DRAWING_SEED = 2_000_003  # keeps the random numbers apart from those of the batch of the same index


class Labeled(NamedTuple):
    """Images (n, 1, h, w), and labels (n,): 1 for a small face."""

    images: torch.Tensor
    labels: torch.Tensor


class FaceGateTask:
    """Binary cross-entropy of crops of the first folder of a `BatchMaker` and of others, all of them sharp and blurred.

    The others are crops of the further folders, drawn pages, textures and flat pictures, and faces that are too large.
    """

    shipped = "network"

    def __init__(self, network: FaceGate, maker: BatchMaker) -> None:
        self.network, self.maker = network, maker
        self.modules: Mapping[str, nn.Module] = {"network": network}

    def batch(self, index: int) -> Labeled:
        rng, batch = np.random.default_rng((self.maker.config.seed, index, DRAWING_SEED)), self.maker(index)
        sharp, blurred = gray(batch.sharp), gray(batch.blurred)
        margin = batch.kernel.shape[-1] // 2
        shape = sharp.shape[-2] + 2 * margin, sharp.shape[-1] + 2 * margin
        for i in torch.nonzero(~batch.is_main)[:, 0].tolist():
            if rng.random() < DRAWN:
                drawing = torch.from_numpy(draw(rng, shape)).to(sharp)[None, None]
                sharp[i] = drawing[0, :, margin : shape[0] - margin, margin : shape[1] - margin]
                blurred[i] = blur(drawing, batch.kernel[i : i + 1])[0]
        large = rng.random() < LARGE
        scale = math.exp(rng.uniform(*np.log(LARGE_SCALES if large else SCALES)))
        count = LARGE_BATCH if large else len(sharp)
        images = torch.cat([sharp[:count], blurred[:count]])
        sides = [max(16, round(side * scale)) for side in images.shape[-2:]]
        images = functional.interpolate(images, sides, mode="bicubic", antialias=True)
        sigma = rng.uniform(0, NOISE, len(images)) * (rng.random(len(images)) < 0.5)
        generator = torch.Generator(images.device).manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        images = (images + torch.from_numpy(sigma).to(images)[:, None, None, None] * noise).clamp(0, 1)
        labels = batch.is_main[:count].float() * (not large)
        return Labeled(images, torch.cat([labels, labels]))

    def losses(self, batch: Labeled, share: float) -> Iterator[Loss]:
        logits = self.network.logits(batch.images)
        loss = functional.binary_cross_entropy_with_logits(logits, batch.labels)
        accuracy = ((logits.detach() > 0) == (batch.labels > 0.5)).float().mean()
        yield Loss("network", loss, {"accuracy": float(accuracy)})

    def describe(self) -> dict[str, Any]:
        folders = [[folder.path.name, len(folder.images)] for folder in self.maker.folders]
        return {
            "architecture": FaceGate.NAME, "network": self.network.config, "folders": folders,
            **asdict(self.maker.config),
        }  # fmt: skip


def gray(images: torch.Tensor) -> torch.Tensor:
    """The luminance (n, 1, h, w) of (n, 3, h, w), a new tensor."""
    return torch.einsum("c,nchw->nhw", torch.tensor(LUMA).to(images), images)[:, None].contiguous()


def draw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A page of text (two of five pictures), a texture, ellipses, or a flat picture; (h, w) float32 in [0, 1]."""
    kind = rng.random()
    dark, light = np.sort(rng.uniform(0, 1, 2))
    if kind < 0.4:
        picture = draw_text(rng, shape)
    elif kind < 0.75:
        picture = draw_texture(rng, shape)
    elif kind < 0.92:
        picture = draw_ellipses(rng, shape)
    else:
        picture = np.full(shape, 0.5)
    if rng.random() < 0.3:  # uneven light
        y, x = (np.linspace(-0.5, 0.5, side) for side in shape)
        picture = picture + rng.uniform(-1, 1) * y[:, None] + rng.uniform(-1, 1) * x
    return np.clip(dark + (light - dark) * picture, 0, 1).astype(np.float32)


def draw_text(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Lines of random letters, black on white or white on black."""
    height, width = shape
    size = float(rng.uniform(7, 40))
    paper = int(rng.integers(0, 2))
    page, font = Image.new("L", (width, height), paper), ImageFont.load_default(size)
    top = float(rng.uniform(-size, size))
    while top < height:
        line = "".join(rng.choice(LETTERS, int(3 * width / size) + 4))
        ImageDraw.Draw(page).text((float(rng.uniform(-size, size)), top), line, 1 - paper, font)
        top += size * float(rng.uniform(1, 1.8))
    return np.asarray(page, dtype=np.float64)


def draw_texture(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Gaussian noise whose amplitude falls with frequency, from white noise to clouds, with range 1."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    stretch = math.exp(rng.uniform(-1, 1))  # textures have a direction
    frequency = np.hypot(stretch * fy, fx / stretch)
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * frequency ** -rng.uniform(0, 2.5)
    spectrum[0, 0] = 0
    texture = np.fft.irfft2(spectrum, shape)
    return (texture - texture.min()) / max(float(np.ptp(texture)), 1e-9)


def draw_ellipses(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Some ellipses of random levels, as round as faces are, on a texture."""
    ground = Image.fromarray((255 * draw_texture(rng, shape)).astype(np.uint8))
    for _ in range(int(rng.integers(1, 12))):
        center, radius = rng.uniform(0, shape[::-1]), rng.uniform(0.05, 0.4) * min(shape) * rng.uniform(0.7, 1, 2)
        ImageDraw.Draw(ground).ellipse([*(center - radius), *(center + radius)], int(rng.integers(0, 256)))
    return np.asarray(ground) / 255
