"""The data sets of the benches, as generators of frozen cases.

`folder` is always the data folder that holds `levin/`, `faces_hq/` and `natural/`. Pictures are gray float64 in [0, 1];
kernels are in convolution sense. Every seed comes from the case's own name: neither the order of the pictures nor how
many of them are taken changes a case.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import scipy.io
from skimage.transform import resize

from gpudeblur.synthesis import blur, gaussian_process_kernel, trajectory_kernel

FACE_KERNEL_SIZES = range(21, 42, 2)


@dataclass(frozen=True)
class Case:
    """A blurred picture and what it was made of: `blurred` and `sharp` have one size, `sharp` is a valid crop."""

    name: str
    blurred: np.ndarray
    sharp: np.ndarray
    kernel: np.ndarray
    noise_sigma: float
    seed: int


def name_seed(name: str) -> int:
    """A seed that is the same on every machine and run (unlike `hash`)."""
    return zlib.crc32(name.encode())


def gray_picture(path: Path) -> np.ndarray:
    """Rec. 709 luma of the values as stored, in [0, 1], float64, shape (H, W)."""
    picture = iio.imread(path)
    picture = picture.astype(np.float64) / np.iinfo(picture.dtype).max
    return picture if picture.ndim == 2 else picture[..., :3] @ np.array([0.2126, 0.7152, 0.0722])


def make_case(
    name: str, sharp: np.ndarray, kernel: np.ndarray, *, noise: float = 0.0, quantise: bool = False
) -> Case:
    """Blur `sharp` as a camera does: valid convolution, then noise, then, if asked for, 8-bit steps and clipping."""
    seed = name_seed(name)
    blurred = blur(sharp, kernel, noise_sigma=noise, rng=seed)
    if quantise:
        blurred = np.round(np.clip(blurred, 0, 1) * 255) / 255
    ry, rx = kernel.shape[0] // 2, kernel.shape[1] // 2
    inner = sharp[ry : sharp.shape[0] - ry, rx : sharp.shape[1] - rx]
    return Case(name, blurred, np.ascontiguousarray(inner), kernel, noise, seed)


def levin_cases(folder: Path) -> Iterator[Case]:
    """The 32 pictures of Levin et al. (2009), really photographed: `sharp` is off `blurred` by up to 4 px."""
    for path in sorted((Path(folder) / "levin").glob("im??_ker??.mat")):
        m = scipy.io.loadmat(path)
        blurred, sharp, f = (np.asarray(m[key], np.float64) for key in ("y", "x", "f"))
        yield Case(path.stem, blurred, sharp, np.ascontiguousarray(f[::-1, ::-1]), 0.0, name_seed(path.stem))


def levin_kernels(folder: Path) -> list[np.ndarray]:
    """The 8 measured kernels of the Levin set, 13 to 27 px, scaled to sum 1 (convolution sense)."""
    kernels = []
    for number in range(1, 9):
        f = np.asarray(scipy.io.loadmat(Path(folder) / "levin" / f"im01_ker{number:02d}.mat")["f"], np.float64)
        kernels.append(f[::-1, ::-1] / f.sum())
    return kernels


def face_cases(
    folder: Path, size: int = 320, per_picture: int = 1, *, noise: float = 0.0, quantise: bool = False
) -> Iterator[Case]:
    """The 28 portraits, scaled so that the blurred picture is `size` x `size`.

    Kernel sizes cycle over 21, 23, ..., 41; kernels are trajectories and Gaussian processes in turn.
    """
    paths = sorted((Path(folder) / "faces_hq").glob("*.jpg"))
    for index, (path, copy) in enumerate((path, copy) for path in paths for copy in range(per_picture)):
        kernel_size = FACE_KERNEL_SIZES[index % len(FACE_KERNEL_SIZES)]
        make = trajectory_kernel if index % 2 == 0 else gaussian_process_kernel
        name = f"face_{path.stem}_{copy}_{'trajectory' if index % 2 == 0 else 'gp'}{kernel_size}"
        # Its own seed: the noise draws from the case's, and must not repeat the kernel's numbers.
        kernel = make(kernel_size, rng=name_seed(name + "_kernel"))
        picture, side = gray_picture(path), size + kernel_size - 1
        sharp = resize(picture, (side, side), order=3, anti_aliasing=True)
        yield make_case(name, np.clip(sharp, 0, 1), kernel, noise=noise, quantise=quantise)


def natural_cases(
    folder: Path,
    kernels: Sequence[np.ndarray],
    noise: float = 0.0,
    count: int = 10,
    split: str = "val",
    *,
    quantise: bool = False,
) -> Iterator[Case]:
    """`count` BSDS photographs spread evenly over `split` ("val" or "train"), full size, each with every kernel."""
    paths = sorted((Path(folder) / "natural" / split).glob("*.jpg"))
    for path in (paths[i * len(paths) // count] for i in range(min(count, len(paths)))):
        sharp = gray_picture(path)
        for number, kernel in enumerate(kernels, start=1):
            yield make_case(f"{split}_{path.stem}_ker{number:02d}", sharp, kernel, noise=noise, quantise=quantise)
