"""Photographs blurred by a rotating camera, and uniformly blurred controls, for the bench "rotation"."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from gpudeblur.metrics import Alignment, align
from gpudeblur.synthesis import blur, blur_by_poses, gaussian_process_kernel, pose_path

from .cases import gray_picture, name_seed, photographs, quantised, valid

# The blurred pictures' sides are those of the photograph minus twice this.
MARGIN = 36
NOISE = 0.005
KERNEL_SIZE = 31
# Roll in pixels at the corner, and focal length in longer sides of the picture.
ROLLS, FOCALS = (0, 3, 6, 12), (0.75, 1.0, 1.4, math.inf)
SHORTEST, LONGEST = 12, 25  # pixels of the path
BORDER = 25  # pixels left out of a score
ROTATIONS = np.linspace(-1, 1, 5)  # of the score, in pixels at the corner
# The set "koehler": photographs, paths that all of them share, and frames of a path that the score compares with.
KOEHLER_PHOTOGRAPHS, KOEHLER_PATHS, KOEHLER_FRAMES = 4, 12, 40


@dataclass(frozen=True)
class RotationCase:
    """`blurred` and `sharp` of one shape; `path` is empty where the blur is uniform, by `kernel`."""

    name: str
    picture: str
    blurred: np.ndarray
    sharp: np.ndarray
    path: np.ndarray
    roll: float
    focal: float  # pixels
    kernel: np.ndarray

    def score(self, image: np.ndarray) -> float:
        """PSNR of a restored image, see `best_psnr`."""
        return best_psnr(image, self.sharp)


@dataclass(frozen=True)
class KoehlerCase(RotationCase):
    """Compared with the frames of its path; `photograph` is the sharp one with its margins."""

    photograph: np.ndarray

    @functools.cached_property
    def frames(self) -> list[np.ndarray]:
        """The sharp photograph seen from `KOEHLER_FRAMES` poses, evenly in time; computed where it is first needed."""
        times = np.linspace(0, len(self.path) - 1, KOEHLER_FRAMES).round().astype(int)
        return [blur_by_poses(self.photograph, self.path[[t]], self.focal, margin=MARGIN) for t in times]

    def score(self, image: np.ndarray) -> float:
        """The best PSNR over the frames ([Koehler2012]), each at its best shift (1/4 px, up to `BORDER`).

        All frames are searched. The shift may be as large as the path: the frame with the image's roll need not be the
        one with its position. No roll is searched, since the frames have the path's. The frames are bilinear, as those
        whose mean is the blurred image, so they are smoother than the photograph: in one case the blurred image scores
        0.7 dB and the restoration with the true field 2.5 dB more than with cubic frames.
        """
        return best_aligned(align(image, frame, max_shift=BORDER, border=BORDER) for frame in self.frames)


def rotation_cases(folder: Path, split: str = "val", count: int = 16) -> Iterator[RotationCase]:
    """`count` photographs, each with one path: all pairs of `ROLLS` and `FOCALS` in turn, lengths of 12 to 25 px."""
    for number, path in enumerate(photographs(folder, split, count)):
        roll, sides = roll_and_sides(number)
        yield rotation_case(path, roll, sides, f"rotation_{split}_{path.stem}_{roll}_{sides}")


def roll_and_sides(number: int) -> tuple[int, float]:
    """All pairs of `ROLLS` and `FOCALS` in turn; each value comes once in four numbers."""
    return ROLLS[number % 4], FOCALS[(number // 4 + number) % 4]


def koehler_cases(folder: Path, split: str = "val", count: int = KOEHLER_PHOTOGRAPHS) -> Iterator[KoehlerCase]:
    """The first `count` of 4 photographs, each under the same 12 paths, which are drawn as in `rotation_cases`."""
    for photograph in photographs(folder, split, KOEHLER_PHOTOGRAPHS)[:count]:
        picture = gray_picture(photograph)
        sharp = picture[MARGIN:-MARGIN, MARGIN:-MARGIN]
        for number in range(KOEHLER_PATHS):
            poses, roll, focal = koehler_path(number, sharp.shape)
            name = f"koehler_{split}_{photograph.stem}_{number}"
            blurred = blur_by_poses(picture, poses, focal, margin=MARGIN, noise_sigma=NOISE, rng=name_seed(name))
            yield KoehlerCase(
                name, photograph.stem, quantised(blurred), sharp, poses, roll, focal, np.zeros((0, 0)), picture
            )


def koehler_path(number: int, shape: tuple[int, int]) -> tuple[np.ndarray, float, float]:
    """Poses, roll and focal length of a path, seeded by its number; the same for upright and wide photographs."""
    roll, sides = roll_and_sides(number)
    rng = np.random.default_rng(name_seed(f"koehler_path_{number}"))
    return pose_path(shape, rng.uniform(SHORTEST, LONGEST), roll, rng=rng), roll, sides * max(shape)


def known_cases(folder: Path, split: str = "val", count: int = 12) -> Iterator[RotationCase]:
    """`count` photographs with a roll of 12 px and without, and a focal length of one longer side."""
    for path in photographs(folder, split, count):
        for roll in (12, 0):
            yield rotation_case(path, roll, 1.0, f"known_{path.stem}_{roll}")


def rotation_case(photograph: Path, roll: float, sides: float, name: str) -> RotationCase:
    """One photograph under a random path: bilinear homographies, 0.5 % noise, 8 bit."""
    picture, rng = gray_picture(photograph), np.random.default_rng(name_seed(name))
    shape = picture.shape[0] - 2 * MARGIN, picture.shape[1] - 2 * MARGIN
    focal = sides * max(shape)
    length = rng.uniform(SHORTEST, LONGEST)
    poses = pose_path(shape, length, roll, rng=rng)
    blurred = blur_by_poses(picture, poses, focal, margin=MARGIN, noise_sigma=NOISE, rng=rng)
    sharp = picture[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return RotationCase(name, photograph.stem, quantised(blurred), sharp, poses, roll, focal, np.zeros((0, 0)))


def control_cases(folder: Path, split: str = "val", count: int = 16) -> Iterator[RotationCase]:
    """The same photographs under one kernel everywhere, of 12 to 25 px."""
    for path in photographs(folder, split, count):
        name = f"control_{split}_{path.stem}"
        rng = np.random.default_rng(name_seed(name))
        kernel = gaussian_process_kernel(int(rng.integers(7, 14)) * 2 + 1, rng=rng)
        picture = gray_picture(path)[8:-8, 8:-8]
        blurred = quantised(blur(picture, kernel, noise_sigma=NOISE, rng=rng))
        yield RotationCase(name, path.stem, blurred, valid(picture, kernel), np.zeros((0, 3)), 0.0, math.inf, kernel)


def best_psnr(image: np.ndarray, sharp: np.ndarray) -> float:
    """PSNR after the best shift (1/4 px) and roll (5 values within a pixel at the corner): both cannot be known."""
    radius = math.hypot(*image.shape) / 2
    candidates = (image if pixels == 0 else rolled(image, pixels / radius) for pixels in ROTATIONS)
    return best_aligned(align(candidate, sharp, border=BORDER) for candidate in candidates)


def best_aligned(alignments: Iterable[Alignment]) -> float:
    """The largest PSNR of the alignments, in dB; at most 200."""
    return -10 * math.log10(max(min(aligned.ssd / aligned.reference.size for aligned in alignments), 1e-20))


def rolled(image: np.ndarray, angle: float) -> np.ndarray:
    """`image` turned about its middle by `angle` radians, cubic."""
    y, x = np.indices(image.shape) - (np.array(image.shape)[:, None, None] - 1) / 2
    middle = (np.array(image.shape) - 1) / 2
    points = [
        math.sin(angle) * x + math.cos(angle) * y + middle[0],
        math.cos(angle) * x - math.sin(angle) * y + middle[1],
    ]
    return map_coordinates(image, points, order=3, mode="nearest")
