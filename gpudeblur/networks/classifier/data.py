"""Training data of the classifier: pairs of a clear and a blurred crop that differ in nothing but the blur.

A classifier uses any difference between its two classes. Both crops of a pair therefore show the same part of the same
image, and have the same noise level, 8-bit quantization, JPEG quality (if any) and resampling, applied in this order;
only the noise itself is drawn separately. A batch depends on its index and the seed, not on earlier batches.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...images.checks import check_count, check_number
from ...images.planes import luminance
from ...numerics.resample import resample
from ...synthesis import blur, gaussian_process_kernel, trajectory_kernel
from ..training.pictures import Pictures, check_sides, read_folder

MIN_CROP = 32  # pixels; an image must hold such a crop and the smallest kernel
CROP_STEP = 8  # pixels; crop sides are multiples of it, so that few shapes occur
FLAT_GRADIENT = 0.004  # mean absolute gradient below which a crop (of sky, say) looks the same blurred
MAX_CROP_DRAWS = 5


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How crops are drawn and degraded.

    Attributes
    ----------
    seed : of all random numbers.
    batch : crops per batch, half of them blurred.
    patch : pixels, largest side of a crop after rescaling (paper: 200, before it).
    kernels : pixels, smallest and largest side of the blur kernels before rescaling, log-uniform, because small kernels
        are the hard ones (paper: 7 to 51). No kernel is longer than 0.3 of the image's shorter side.
    scales : smallest and largest factor by which a batch is resampled, log-uniform (paper: 0.25 to 1).
    noise : the standard deviation of a pair's noise is uniform between 0 and twice this value (paper: 0.01, in the
        blurred crop only).
    jpeg : fraction of the pairs that are JPEG-compressed, with a quality of 70 to 95.
    """

    seed: int = 0
    batch: int = 32
    patch: int = 128
    kernels: tuple[int, int] = (7, 51)
    scales: tuple[float, float] = (0.25, 1.0)
    noise: float = 0.015
    jpeg: float = 0.5

    def __post_init__(self) -> None:
        check_count("batch", self.batch, minimum=2)
        if self.batch % 2:
            raise ValueError(f"batch must be even, got {self.batch}; half of the crops are blurred")
        check_count("patch", self.patch, minimum=MIN_CROP)
        low, high = self.kernels
        if not (3 <= low <= high and low % 2 == 1 and high % 2 == 1):
            raise ValueError(f"kernels must be two odd sides of at least 3, smallest first, got {self.kernels}")
        small, large = self.scales
        if not 0 < small <= large <= 1:
            raise ValueError(f"scales must be two numbers in (0, 1], smallest first, got {self.scales}")
        check_number("noise", self.noise, "in [0, 0.5)", lambda sigma: 0 <= sigma < 0.5)
        check_number("jpeg", self.jpeg, "in [0, 1]", lambda fraction: 0 <= fraction <= 1)


def load_folder(path: Path, *, smallest_kernel: int = 7) -> Pictures:
    """The luminance of the images of a folder, (H, W) float16, linear; lights may exceed the range of a sensor.

    `smallest_kernel`: pixels, side of the smallest blur kernel. See `read_folder`.
    """

    def convert(planes: np.ndarray) -> np.ndarray:
        check_sides(planes, MIN_CROP + smallest_kernel - 1)
        gray = planes if planes.ndim == 2 else luminance(planes)
        if mean_gradient(np.minimum(gray, 1)) < FLAT_GRADIENT:
            raise ValueError("flat: it looks the same when it is blurred")
        return gray.astype(np.float16)

    return read_folder(path, convert)


def mean_gradient(image: np.ndarray) -> float:
    """Mean absolute difference of neighboring pixels."""
    image = image.astype(np.float32)
    return float(0.5 * (np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean()))


def random_side(rng: np.random.Generator, low: int, high: int) -> int:
    """A random odd side from `low` to `high`, log-uniform."""
    return min(2 * int(np.exp(rng.uniform(*np.log([low - 1, high + 1]))) / 2) + 1, high)


def draw_kernel(rng: np.random.Generator, size: int) -> np.ndarray:
    """A random kernel of an odd side: a trajectory or a Gaussian process, with equal probability."""
    if rng.random() < 0.5:
        return trajectory_kernel(size, rng=rng, dtype=np.float32)
    return gaussian_process_kernel(size, rng=rng, duration=float(rng.uniform(0.5, 2)), dtype=np.float32)


def largest_kernel(shape: tuple[int, ...], kernels: tuple[int, int]) -> int:
    """The largest kernel side for an image of `shape`: 0.3 of its shorter side, odd, within `kernels`."""
    return min(max(int(0.3 * min(shape)) // 2 * 2 - 1, kernels[0]), kernels[1])


def make_pair(
    region: np.ndarray, kernel: np.ndarray, sigma: float, quality: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(clear, blurred) of a clear region, without the border that the blur cannot determine, quantized to 8 bits.

    `sigma`: noise of both. `quality`: JPEG quality of both; None: no JPEG.
    """
    ry, rx = kernel.shape[0] // 2, kernel.shape[1] // 2
    clear = region[ry : region.shape[0] - ry, rx : region.shape[1] - rx]
    pair = []
    for image in (clear, blur(region, kernel)):
        # The sensor saturates at 1 after the blur: bright lights leave longer streaks than their clipped values would.
        noisy = np.minimum(image, 1) + sigma * rng.standard_normal(image.shape, dtype=np.float32)
        pixels = np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
        if quality is not None:
            with io.BytesIO() as file:
                Image.fromarray(pixels).save(file, "JPEG", quality=quality)
                pixels = np.asarray(Image.open(file))
        pair.append(pixels.astype(np.float32) / 255)
    return pair[0], pair[1]


def _crop(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of `side` pixels, drawn again while it is flat; randomly flipped and rotated."""
    for _ in range(MAX_CROP_DRAWS):
        top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape)
        region = np.minimum(image[top : top + side, left : left + side].astype(np.float32), 64)
        if mean_gradient(np.minimum(region, 1)) >= FLAT_GRADIENT:
            break
    region = np.rot90(region, int(rng.integers(4)))
    return np.ascontiguousarray(region[::-1] if rng.random() < 0.5 else region)


def make_batch(folders: Sequence[Pictures], config: DataConfig, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batch `index` as stacks of equal shape: [(images (n, h, w) float32, labels (n,), 1 for blurred), ...].

    Folders are drawn with equal probability, whatever their number of images.
    """
    rng = np.random.default_rng((config.seed, index))
    scale = float(np.exp(rng.uniform(*np.log(config.scales))))
    groups: dict[int, list[np.ndarray]] = {}
    for _ in range(config.batch // 2):
        folder = folders[int(rng.integers(len(folders)))]
        image = folder.images[int(rng.integers(len(folder.images)))]
        largest, shorter = largest_kernel(image.shape, config.kernels), min(image.shape)
        side = max(int(min(config.patch / scale, shorter - largest + 1)) // CROP_STEP * CROP_STEP, MIN_CROP)
        largest = min(largest, (shorter - side) // 2 * 2 + 1)  # the smallest images hold the smallest kernel only
        kernel = draw_kernel(rng, random_side(rng, config.kernels[0], largest))
        region = _crop(image, side + kernel.shape[0] - 1, rng)
        quality = int(rng.integers(70, 96)) if rng.random() < config.jpeg else None
        pair = make_pair(region, kernel, float(rng.uniform(0, 2 * config.noise)), quality, rng)
        reduced = max(round(side * scale), 8)
        groups.setdefault(reduced, []).extend(resample(crop, (reduced, reduced)) for crop in pair)
    labels = np.array([0, 1], np.float32)
    return [(np.stack(crops), np.tile(labels, len(crops) // 2)) for _, crops in sorted(groups.items())]
