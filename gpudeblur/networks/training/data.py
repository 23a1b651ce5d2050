"""Training data of the restoring networks: pairs of a sharp and a blurred crop, made while training, on any device.

A batch depends on its index and the seed, not on earlier batches. Small random numbers come from NumPy, the noise from
a generator of torch on the device, so that nothing but the indices of pictures travels to a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...images.checks import check_count, check_number
from ...images.planes import LUMA
from ...numerics.fourier import fast_size
from ...synthesis import gaussian_process_kernel, linear_kernel, trajectory_kernel
from .jpeg import compress
from .pictures import Pictures, check_sides, read_folder

MIN_SIDE = 64  # pixels, of a usable picture
DISPLAY_GAMMA = 2.2  # of the batches that are blurred in linear light
POOL_SEED = 1_000_003  # keeps the kernels apart from those of a batch of the same seed


@dataclass(frozen=True, kw_only=True)
class RestorationConfig:
    """How crops are drawn, blurred and degraded. Fractions and probabilities are in [0, 1].

    Attributes
    ----------
    seed : of all random numbers.
    batch : crops per batch.
    crop : pixels, smallest and largest side of a crop. One shape a batch; a crop and the margin of its kernels fit into
        the smallest picture, so large crops come with small kernels there.
    kernels : pixels, smallest and largest side of the blur kernels, both odd.
    pool : number of kernels; flips and transposes make eight of each.
    mirrored : batches whose pictures are mirrored at their borders before the blur; the others are blurred as a camera
        does, whose scene goes on beyond the frame.
    linear_light : batches that are blurred in linear light.
    sharp : crops that are not blurred.
    noise : largest standard deviation of the noise; half of the crops have noise that grows with the light.
    saturated : crops that are brightened by up to 1.5 before the blur.
    jpeg, rounded : crops that are JPEG-compressed with a quality of 60 to 95, and that are rounded to 8 bits.
    gray : crops without color.
    natural : crops from the second and further folders together, if there are any; the others are from the first.
    """

    seed: int = 0
    batch: int = 16
    crop: tuple[int, int] = (48, 80)
    kernels: tuple[int, int] = (5, 27)
    pool: int = 8000
    mirrored: float = 0.3
    linear_light: float = 0.5
    sharp: float = 0.06
    noise: float = 0.03
    saturated: float = 0.1
    jpeg: float = 0.3
    rounded: float = 0.5
    gray: float = 0.15
    natural: float = 0.2

    def __post_init__(self) -> None:
        for name, minimum in (("batch", 1), ("pool", 8)):
            check_count(name, getattr(self, name), minimum=minimum)
        small, large = self.crop
        if not 16 <= small <= large:
            raise ValueError(f"crop must be two sides of at least 16 pixels, smallest first, got {self.crop}")
        low, high = self.kernels
        if not (3 <= low <= high and low % 2 == 1 and high % 2 == 1):
            raise ValueError(f"kernels must be two odd sides of at least 3, smallest first, got {self.kernels}")
        if small < high // 2:
            raise ValueError(f"crop must be at least half of the largest kernel, {high // 2}, got {small}")
        check_number("noise", self.noise, "in [0, 0.5)", lambda sigma: 0 <= sigma < 0.5)
        for name in ("mirrored", "linear_light", "sharp", "saturated", "jpeg", "rounded", "gray", "natural"):
            check_number(name, getattr(self, name), "in [0, 1]", lambda fraction: 0 <= fraction <= 1)


class Batch(NamedTuple):
    """Crops: sharp and blurred (N, 3, H, W) in [0, 1], and the kernels (N, K, K) in the sense of a convolution.

    `linear_light`: whether the pictures were blurred in linear light, so that no kernel explains the blurred pictures
    exactly. `is_main` (N,): whether a crop is from the first folder. `corner` (N, 2): row and column of its first pixel
    in its whole picture, or in the flipped one.
    """

    sharp: torch.Tensor
    blurred: torch.Tensor
    kernel: torch.Tensor
    linear_light: bool
    is_main: torch.Tensor
    corner: torch.Tensor


def load_pictures(path: Path, *, limit: slice = slice(None), min_side: int = MIN_SIDE) -> Pictures:
    """The pictures of a folder as (3, H, W) uint8 tensors, gray ones with three equal channels; see `read_folder`."""

    def convert(planes: np.ndarray) -> torch.Tensor:
        check_sides(planes, min_side)
        rgb = np.broadcast_to(planes, (3, *planes.shape[-2:]))
        return torch.from_numpy(np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8))

    return read_folder(path, convert, limit=limit)


# ------------------------------------------------------------------ kernels
def make_kernels(config: RestorationConfig) -> tuple[np.ndarray, np.ndarray]:
    """(kernels (pool, K, K) float32, their sides), K the largest side, sorted by side, each centered in K x K.

    The center of mass is in the middle by whole pixels: where a blurred picture lies, nothing else tells. Log-uniform
    sides. 5 % are straight motion, 3 % defocus, the others
    trajectories and Gaussian processes, a third of them without a margin.
    """
    rng = np.random.default_rng((config.seed, POOL_SEED))
    low, high = config.kernels
    lengths = np.exp(rng.uniform(math.log(low - 1), math.log(high + 1), config.pool))
    sides = np.minimum(2 * (lengths / 2).astype(int) + 1, high)
    kernels = np.zeros((config.pool, high, high), np.float32)
    sides.sort()
    sides[0] = low  # which few kernels may lack
    for kernel, side in zip(kernels, sides.tolist(), strict=True):
        start, kind, margin = (high - side) // 2, rng.random(), 0 if rng.random() < 1 / 3 else None
        if kind < 0.05:
            shape = linear_kernel(float(rng.uniform(max(side - 2, 1), side)), float(rng.uniform(0, 180)), side)
        elif kind < 0.08:
            shape = _disk(float(rng.uniform(0.5, min(2.5, side / 2 - 0.5))), side)
        elif kind < 0.54:
            shape = trajectory_kernel(side, rng=rng, margin=margin, dtype=np.float32)
        else:
            duration = float(rng.uniform(0.5, 2))
            shape = gaussian_process_kernel(side, rng=rng, duration=duration, margin=margin, dtype=np.float32)
        kernel[start : start + side, start : start + side] = shape
    sides = np.array([_center(kernel, side) for kernel, side in zip(kernels, sides.tolist(), strict=True)])
    order = np.argsort(sides, kind="stable")
    return kernels[order], sides[order]


def _center(kernel: np.ndarray, side: int) -> int:
    """Move the center of mass to the middle by whole pixels, in place; the side of the window that then holds it.

    A kernel of the largest sides moves as far as its support stays inside.
    """
    room, radius = (len(kernel) - side) // 2, len(kernel) // 2
    shifts = [radius - round(float(kernel.sum(axis=1 - axis) @ np.arange(len(kernel)))) for axis in (0, 1)]
    shifts = [min(max(shift, -room), room) for shift in shifts]
    kernel[:] = np.roll(kernel, shifts, (0, 1))
    return side + 2 * max(map(abs, shifts))


def _disk(radius: float, side: int) -> np.ndarray:
    """Defocus: a disk with a soft edge."""
    y = np.arange(side) - side // 2
    weights = np.clip(radius + 0.5 - np.hypot(y[:, None], y), 0, 1)
    return weights / weights.sum()


# ------------------------------------------------------------------ batches
class BatchMaker:
    """Batches of sharp and blurred crops from folders of sharp pictures.

    Parameters
    ----------
    folders : the first is what the network is for; the others share `config.natural` of the crops.
    device : torch device of the pictures, kernels and batches.
    kernels : what `make_kernels(config)` returns, which takes a minute for 8000; None: it is called.
    """

    def __init__(
        self,
        folders: Sequence[Pictures],
        config: RestorationConfig,
        device: str = "cpu",
        kernels: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.folders = [replace(folder, images=[i.to(self.device) for i in folder.images]) for folder in folders]
        shapes = [image.shape[1:] for folder in folders for image in folder.images]
        self.smallest = tuple(min(shape[axis] for shape in shapes) for axis in (0, 1))
        self.largest_kernel = min(self.smallest) - config.crop[0] + 1  # that leaves room for the smallest crop
        if self.largest_kernel < config.kernels[0]:
            raise ValueError(
                f"crop must fit with a kernel of {config.kernels[0]} pixels into the smallest picture, "
                f"{self.smallest[0]} x {self.smallest[1]}, got {config.crop[0]}; use a smaller crop or larger pictures"
            )
        pool, self.sides = make_kernels(config) if kernels is None else kernels
        self.kernels = torch.from_numpy(pool).to(self.device)

    def __call__(self, index: int) -> Batch:
        """Batch `index`."""
        config, rng = self.config, np.random.default_rng((self.config.seed, index))
        mirrored, linear_light = rng.random() < config.mirrored, rng.random() < config.linear_light
        limit = self._kernel_limit(rng, mirrored)
        h, w = (self._crop_side(rng, side, 0 if mirrored else limit - 1) for side in self.smallest)
        margin = 0 if mirrored else limit // 2
        sharp, is_main, corner = self._regions(rng, h + 2 * margin, w + 2 * margin)
        kernel = self._kernels(rng, limit)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        if mirrored:
            sharp = symmetric_pad(sharp, limit // 2)
        sharp = self._vary(rng, sharp)
        blurred = sharp**DISPLAY_GAMMA if linear_light else sharp
        blurred = blur(blurred, kernel)
        if linear_light:
            blurred = blurred.clamp_min(0) ** (1 / DISPLAY_GAMMA)
        r = limit // 2
        sharp = sharp[..., r : sharp.shape[-2] - r, r : sharp.shape[-1] - r].clamp(0, 1).contiguous()
        blurred = self._degrade(rng, generator, blurred)
        return Batch(sharp, blurred, kernel, linear_light, is_main, corner + margin)

    def _kernel_limit(self, rng: np.random.Generator, mirrored: bool) -> int:
        """The largest kernel side of a batch: small ones leave room for large crops."""
        high = self.config.kernels[1]
        limit = int(rng.choice([round(high * share) | 1 for share in (0.34, 0.5, 0.65, 0.8, 1, 1, 1)]))
        if not mirrored:
            limit = min(limit, (self.largest_kernel - 1) | 1)
        return max(limit, self.config.kernels[0])

    def _crop_side(self, rng: np.random.Generator, side: int, margin: int) -> int:
        low, high = self.config.crop
        return int(rng.integers(low, min(high, side - margin) + 1))

    def _regions(self, rng: np.random.Generator, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random regions (N, 3, h, w) of random pictures, half of them flipped left-right, in [0, 1]; see `Batch`."""
        regions, corners = [], []
        is_natural = rng.random(self.config.batch) < (self.config.natural if len(self.folders) > 1 else 0)
        for natural in is_natural:
            folders = self.folders[1:] if natural else self.folders[:1]
            images = folders[int(rng.integers(len(folders)))].images
            image = images[int(rng.integers(len(images)))]
            top, left = (int(rng.integers(0, n - k + 1)) for n, k in zip(image.shape[1:], (h, w), strict=True))
            region, flipped = image[:, top : top + h, left : left + w], rng.random() < 0.5
            regions.append(region.flip(-1) if flipped else region)
            corners.append((top, image.shape[2] - w - left if flipped else left))
        is_main, corner = torch.from_numpy(~is_natural), torch.tensor(corners)
        return torch.stack(regions).float() / 255, is_main.to(self.device), corner.to(self.device)

    def _kernels(self, rng: np.random.Generator, limit: int) -> torch.Tensor:
        """Random kernels (N, limit, limit), flipped and transposed at random; some are a delta."""
        count, largest = int(np.searchsorted(self.sides, limit, "right")), self.kernels.shape[-1]
        start = (largest - limit) // 2
        choice = torch.from_numpy(rng.integers(0, count, self.config.batch)).to(self.device)
        kernels = self.kernels[choice, start : start + limit, start : start + limit]
        flips, sharp = rng.random((3, self.config.batch)) < 0.5, rng.random(self.config.batch) < self.config.sharp
        for changed, change in zip(
            flips, (lambda k: k.flip(-1), lambda k: k.flip(-2), lambda k: k.transpose(-1, -2)), strict=True
        ):
            kernels = torch.where(self._each(changed, kernels), change(kernels), kernels)
        delta = torch.zeros_like(kernels)
        delta[:, limit // 2, limit // 2] = 1
        return torch.where(self._each(sharp, kernels), delta, kernels)

    def _vary(self, rng: np.random.Generator, sharp: torch.Tensor) -> torch.Tensor:
        """Random brightness and contrast; some pictures gray, some with lights beyond the range of the sensor."""
        n, config = len(sharp), self.config
        saturated = rng.random(n) < config.saturated
        light = rng.uniform(0.7, 1.3, n) * np.where(saturated, rng.uniform(1, 1.5, n), 1)
        contrast, gray = rng.uniform(0.8, 1.2, n), rng.random(n) < config.gray
        weights = torch.tensor(LUMA, dtype=torch.float32, device=self.device)
        luminance = torch.einsum("c,nchw->nhw", weights, sharp)[:, None].expand_as(sharp)
        sharp = torch.where(self._each(gray, sharp), luminance, sharp)
        mean = sharp.mean(dim=(1, 2, 3), keepdim=True)
        varied = (mean + (sharp - mean) * self._each(contrast, sharp)) * self._each(light, sharp)
        return torch.where(self._each(saturated, sharp), varied.clamp_min(0), varied.clamp(0, 1))

    def _degrade(self, rng: np.random.Generator, generator: torch.Generator, blurred: torch.Tensor) -> torch.Tensor:
        """Noise, the range of the sensor, JPEG, and rounding to 8 bits."""
        n, config = len(blurred), self.config
        sigma, shot = rng.uniform(0, config.noise, n), rng.random(n) < 0.5
        quality = rng.integers(60, 96, n)
        jpeg, rounded = rng.random(n) < config.jpeg, rng.random(n) < config.rounded
        noise = torch.randn(blurred.shape, generator=generator, device=self.device)
        level = torch.where(self._each(shot, blurred), (2 * blurred.clamp(0, 1)).sqrt(), torch.ones_like(blurred))
        result = (blurred + self._each(sigma, blurred) * level * noise).clamp(0, 1)
        if jpeg.any():
            which = torch.from_numpy(np.flatnonzero(jpeg)).to(self.device)
            result[which] = compress(result[which], torch.from_numpy(quality[jpeg]).float().to(self.device))
        return torch.where(self._each(rounded, result), (255 * result).round() / 255, result)

    def _each(self, values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
        """One value a picture as a tensor that broadcasts."""
        dtype = torch.bool if values.dtype == bool else torch.float32
        return torch.from_numpy(values).to(self.device, dtype).reshape(-1, *(1,) * (images.ndim - 1))


def symmetric_pad(images: torch.Tensor, margin: int) -> torch.Tensor:
    """Mirror (..., H, W) at its borders, the outermost pixels included, as NumPy's "symmetric"."""
    for axis in (-2, -1):
        size = images.shape[axis]
        before, after = images.narrow(axis, 0, margin).flip(axis), images.narrow(axis, size - margin, margin).flip(axis)
        images = torch.cat([before, images, after], dim=axis)
    return images


def blur(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """images (N, C, H, W) convolved with kernels (N, K, K), K odd, where no boundary rule matters: smaller by K - 1."""
    r, (h, w) = kernels.shape[-1] // 2, images.shape[-2:]
    shape = fast_size(h), fast_size(w)
    spectrum = torch.fft.rfft2(images, shape) * torch.fft.rfft2(kernels, shape)[:, None]
    return torch.fft.irfft2(spectrum, shape)[..., 2 * r : h, 2 * r : w]
