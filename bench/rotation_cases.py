"""Photographs blurred by a rotating camera, and uniformly blurred controls, for the bench "rotation"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from gpudeblur.metrics import align
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


def rotation_cases(folder: Path, split: str = "val", count: int = 16) -> Iterator[RotationCase]:
    """`count` photographs, each with one path: all pairs of `ROLLS` and `FOCALS` in turn, lengths of 12 to 25 px."""
    for number, path in enumerate(photographs(folder, split, count)):
        roll, sides = ROLLS[number % 4], FOCALS[(number // 4 + number) % 4]
        yield rotation_case(path, roll, sides, f"rotation_{split}_{path.stem}_{roll}_{sides}")


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
    errors = []
    for pixels in ROTATIONS:
        rotated = image if pixels == 0 else rolled(image, pixels / radius)
        aligned = align(rotated, sharp, border=BORDER)
        errors.append(aligned.ssd / aligned.reference.size)
    return -10 * math.log10(max(min(errors), 1e-20))


def rolled(image: np.ndarray, angle: float) -> np.ndarray:
    """`image` turned about its middle by `angle` radians, cubic."""
    y, x = np.indices(image.shape) - (np.array(image.shape)[:, None, None] - 1) / 2
    middle = (np.array(image.shape) - 1) / 2
    points = [
        math.sin(angle) * x + math.cos(angle) * y + middle[0],
        math.cos(angle) * x - math.sin(angle) * y + middle[1],
    ]
    return map_coordinates(image, points, order=3, mode="nearest")
