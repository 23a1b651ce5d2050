"""Training pictures for the classifier: clear ones, and the same blurred, that differ in nothing else.

A classifier takes whatever tells the two classes apart. So both crops of a pair show the same part of the same picture,
have the same noise level, the same 8-bit steps, the same JPEG quality where there is one, and the same resampling, in
this order; the noise itself is drawn for each. NumPy alone; a batch depends on its number and the seed, not on the
batches before it.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...images import checks
from ...images.files import PICTURE_SUFFIXES, read_image
from ...images.planes import luminance, to_planes
from ...numerics.resample import resample
from ...synthesis import blur, gaussian_process_kernel, trajectory_kernel

LEAST_CROP = 32  # pixels; no picture is used that has none of these beside the smallest kernel
STEP = 8  # crops are a multiple of it, so that few shapes occur
FLAT = 0.004  # mean absolute gradient: a crop under it (sky) looks the same blurred, and is drawn again
TRIES = 5


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is done to the clear pictures.

    Attributes
    ----------
    seed : of everything that is drawn.
    batch : crops in a batch, half of them blurred.
    patch : pixels, largest side of a crop once it is rescaled (paper: 200, before).
    kernels : pixels, smallest and largest side of the blur kernels (paper: 7 to 51), before that, log-uniform: the
        small ones are the hard ones. No kernel is longer than 0.3 of the picture's shorter side.
    scales : each batch is resampled by a factor between these, log-uniform (paper: 0.25 to 1).
    noise : a crop's noise has a standard deviation between 0 and twice this, the same in both crops of a pair (paper:
        0.01, in the blurred crop alone).
    jpeg : share of the pairs that go through JPEG, of quality 70 to 95.
    """

    seed: int = 0
    batch: int = 32
    patch: int = 128
    kernels: tuple[int, int] = (7, 51)
    scales: tuple[float, float] = (0.25, 1.0)
    noise: float = 0.015
    jpeg: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.kernels
        check("batch", self.batch >= 2 and self.batch % 2 == 0, "be even and at least 2", self.batch)
        check("patch", self.patch >= LEAST_CROP, f"be at least {LEAST_CROP}", self.patch)
        odd = low % 2 == 1 and high % 2 == 1
        check("kernels", odd and 3 <= low <= high, "be two odd sides of at least 3, smallest first", self.kernels)
        small, large = self.scales
        check("scales", 0 < small <= large <= 1, "be two numbers in (0, 1], smallest first", self.scales)
        check("noise", 0 <= self.noise < 0.5, "be in [0, 0.5)", self.noise)
        check("jpeg", 0 <= self.jpeg <= 1, "be in [0, 1]", self.jpeg)


def check(name: str, holds: bool, rule: str, value: object) -> None:
    """Raises the ValueError that says so where a setting does not hold to its rule."""
    if not holds:
        raise ValueError(f"{name} must {rule}, got {value!r}; leave it out for the default")


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The usable pictures of a folder, in the order of their names.

    Attributes
    ----------
    path : the folder.
    names, pictures : (H, W) float16, linear in [0, 1] but for lights, which may exceed what a sensor holds.
    skipped : (name, why) of the others.
    """

    path: Path
    names: list[str]
    pictures: list[np.ndarray]
    skipped: list[tuple[str, str]]


def load_folder(path: Path, *, smallest: int = 7) -> ImageFolder:
    """All pictures of a folder, luminance only; what cannot be used is listed with the reason.

    Parameters
    ----------
    smallest : side of the smallest kernel.

    Raises
    ------
    NotADirectoryError, ValueError
        There is no such folder, no picture in it, none that can be read, or none on which blur leaves a trace: the
        classes would be the same.
    """
    path = Path(path)
    if not path.is_dir():
        raise NotADirectoryError(f"folder of clear pictures {path} is not a folder; check its name")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
    if not files:
        raise ValueError(f"folder {path} must hold pictures ({', '.join(PICTURE_SUFFIXES)}), got none")
    folder = ImageFolder(path, [], [], [])
    flat = 0
    for file in files:
        try:
            pixels = read_image(file).pixels
            axis = -1 if pixels.ndim == 3 else None
            checks.check_picture(pixels, channel_axis=axis)
            planes = to_planes(pixels, channel_axis=axis, dtype="float32")
        except (OSError, ValueError, TypeError) as why:
            folder.skipped.append((file.name, str(why)))
            continue
        gray = planes if axis is None else luminance(planes)
        least = LEAST_CROP + smallest - 1
        if min(gray.shape) < least:
            folder.skipped.append((file.name, f"{gray.shape[0]} x {gray.shape[1]} pixels, less than {least}"))
        elif mean_gradient(np.minimum(gray, 1)) < FLAT:
            flat += 1
            folder.skipped.append((file.name, "flat: it looks the same when it is blurred"))
        else:
            folder.names.append(file.name)
            folder.pictures.append(gray.astype(np.float16))
    if not folder.pictures:
        name, reason = folder.skipped[0]
        if flat == len(files):
            raise ValueError(
                f"folder {path} must hold pictures that blur changes, all {flat} are flat: clear and blurred would be "
                "one class; take photographs"
            )
        raise ValueError(f"folder {path} must hold usable pictures, none of {len(files)} is; {name}: {reason}")
    return folder


def mean_gradient(picture: np.ndarray) -> float:
    """Mean absolute difference of neighbours."""
    picture = picture.astype(np.float32)
    return float(0.5 * (np.abs(np.diff(picture, axis=0)).mean() + np.abs(np.diff(picture, axis=1)).mean()))


def random_side(rng: np.random.Generator, low: int, high: int) -> int:
    """An odd side between both, log-uniform."""
    ends = np.log([low - 1, high + 1])
    return min(2 * int(np.exp(rng.uniform(*ends)) / 2) + 1, high)


def draw_kernel(rng: np.random.Generator, size: int) -> np.ndarray:
    """A trajectory or a Gaussian process, in turn by chance, of an odd side."""
    if rng.random() < 0.5:
        return trajectory_kernel(size, rng=rng, dtype=np.float32)
    return gaussian_process_kernel(size, rng=rng, duration=float(rng.uniform(0.5, 2)), dtype=np.float32)


def largest_kernel(shape: tuple[int, ...], kernels: tuple[int, int]) -> int:
    """The longest kernel for a picture of `shape`: 0.3 of its shorter side, odd, within `kernels`."""
    return min(max(int(0.3 * min(shape)) // 2 * 2 - 1, kernels[0]), kernels[1])


def make_pair(
    region: np.ndarray, kernel: np.ndarray, sigma: float, quality: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(clear, blurred) of a clear region, both without the pixels that the blur cannot know, in 8-bit steps.

    `sigma`: noise of both. `quality`: of the JPEG that both go through; None for none.
    """
    ry, rx = kernel.shape[0] // 2, kernel.shape[1] // 2
    clear = region[ry : region.shape[0] - ry, rx : region.shape[1] - rx]
    found = []
    for picture in (clear, blur(region, kernel)):
        # A sensor holds no more than 1: lamps leave streaks of more than they show.
        seen = np.minimum(picture, 1) + sigma * rng.standard_normal(picture.shape, dtype=np.float32)
        steps = np.round(np.clip(seen, 0, 1) * 255).astype(np.uint8)
        if quality is not None:
            with io.BytesIO() as file:
                Image.fromarray(steps).save(file, "JPEG", quality=quality)
                steps = np.asarray(Image.open(file))
        found.append(steps.astype(np.float32) / 255)
    return found[0], found[1]


def _crop(picture: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of `side`, drawn again where it is flat, at most `TRIES` times; flipped and turned by chance."""
    for _ in range(TRIES):
        top, left = (int(rng.integers(0, length - side + 1)) for length in picture.shape)
        region = np.minimum(picture[top : top + side, left : left + side].astype(np.float32), 64)
        if mean_gradient(np.minimum(region, 1)) >= FLAT:
            break
    region = np.rot90(region, int(rng.integers(4)))
    return np.ascontiguousarray(region[::-1] if rng.random() < 0.5 else region)


def make_batch(folders: Sequence[ImageFolder], recipe: DataConfig, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batch `number` as stacks of equal shape: [(pictures (n, h, w) float32, labels (n,), 1 for blurred), ...].

    Every folder has the same share of the batch on average, however many pictures it has.
    """
    rng = np.random.default_rng((recipe.seed, number))
    scale = float(np.exp(rng.uniform(*np.log(recipe.scales))))
    groups: dict[int, list[np.ndarray]] = {}
    for _ in range(recipe.batch // 2):
        folder = folders[int(rng.integers(len(folders)))]
        picture = folder.pictures[int(rng.integers(len(folder.pictures)))]
        longest, shorter = largest_kernel(picture.shape, recipe.kernels), min(picture.shape)
        side = max(int(min(recipe.patch / scale, shorter - longest + 1)) // STEP * STEP, LEAST_CROP)
        longest = min(longest, (shorter - side) // 2 * 2 + 1)  # the smallest pictures have room for the smallest kernel
        kernel = draw_kernel(rng, random_side(rng, recipe.kernels[0], longest))
        region = _crop(picture, side + kernel.shape[0] - 1, rng)
        quality = int(rng.integers(70, 96)) if rng.random() < recipe.jpeg else None
        pair = make_pair(region, kernel, float(rng.uniform(0, 2 * recipe.noise)), quality, rng)
        small = max(round(side * scale), 8)
        groups.setdefault(small, []).extend(resample(one, (small, small)) for one in pair)
    stacks = []
    for small in sorted(groups):
        pictures = np.stack(groups[small])
        stacks.append((pictures, np.tile(np.array([0, 1], np.float32), len(pictures) // 2)))
    return stacks


def make_batches(
    folders: Sequence[ImageFolder], recipe: DataConfig, first: int, stop: int
) -> Generator[list[tuple[np.ndarray, np.ndarray]], None, None]:
    """`make_batch` for the numbers from `first` to `stop`, each made while the one before it is in use.

    Who does not take all of them closes it: that ends its thread, after the batch that is being made.
    """
    if first >= stop:
        return
    with ThreadPoolExecutor(1, "batches") as ahead:
        coming = ahead.submit(make_batch, folders, recipe, first)
        for number in range(first, stop):
            batch = coming.result()
            if number + 1 < stop:
                coming = ahead.submit(make_batch, folders, recipe, number + 1)
            yield batch
