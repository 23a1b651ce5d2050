"""The sets of `python -m bench networks faces`, as generators of frozen cases, seeded by their names as all cases are.

Pictures are float64 in [0, 1], RGB but for B and the pages of text, and blurred as a camera does (valid convolution)
but for G. Faces 007901 to 008000 are for reports; `choose` takes 007501 to 007900, for choosing and fitting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from skimage.transform import resize

from gpudeblur.synthesis import blur, gaussian_process_kernel, linear_kernel, trajectory_kernel

from .cases import (
    Case,
    gray_picture,
    make_case,
    name_seed,
    photographs,
    quantised,
    small_face_cases,
    spread,
    text_pages,
    thinned,
    valid,
)
from .evaluate import centred

SIDES = (5, 9, 13, 17, 21, 27)  # pixels, of our own kernels
NOISE = 0.01
CROP = (112, 96)  # pixels, of the blurred crops of photographs: the size of the papers' faces
PHOTOGRAPHS, WHOLE = 60, 20  # how many photographs are cropped, and how many are taken whole
PORTRAITS = ((128, 128), (240, 200))  # pixels, of the blurred picture
PORTRAIT_SIDES = (21, 31, 41, 51)
MAP_MARGIN = 4  # pixels by which MAP's kernel is larger than the true one
UNKNOWN_SIZE = 25  # of MAP's kernel for sharp pictures
SMALL_FACES_EVERY = 3  # of the quality bench's cases: those 268 that README.md has MAP's figures of


@dataclass(frozen=True)
class FaceCase(Case):
    """A case with the rows' `group` that it counts to, and the kernel size that MAP is told.

    The kernel of a picture without blur has one pixel.
    """

    group: str = ""
    map_size: tuple[int, int] = (UNKNOWN_SIZE, UNKNOWN_SIZE)

    @property
    def is_sharp(self) -> bool:
        return self.kernel.size == 1

    @property
    def channel_axis(self) -> int | None:
        return -1 if self.blurred.ndim == 3 else None


def color_picture(path: Path) -> np.ndarray:
    """(H, W, 3) float64 in [0, 1]."""
    return iio.imread(path, mode="RGB").astype(np.float64) / 255


def faces(folder: Path, choose: bool, limit: int | None) -> list[Path]:
    """The faces for reports, or those to choose by; `limit` of them, at even distances."""
    low, high = (7501, 7900) if choose else (7901, 8000)
    paths = [path for path in sorted((folder / "faces").glob("*.jpg")) if low <= int(path.stem) <= high]
    return spread(paths, len(paths) if limit is None else limit)


def own_kernel(name: str, side: int, number: int) -> np.ndarray:
    """A trajectory for even numbers, a Gaussian process for odd ones; not of the noise's seed, nor of training's."""
    return (trajectory_kernel, gaussian_process_kernel)[number % 2](side, rng=name_seed(name + "_kernel"))


def blurred_case(
    name: str,
    sharp: np.ndarray,
    kernel: np.ndarray,
    *,
    group: str,
    picture: str,
    noise: float = NOISE,
    quantise: bool = False,
    mode: str = "valid",
) -> FaceCase:
    """`make_case` for pictures (H, W) or (H, W, C)."""
    planes = np.moveaxis(sharp, -1, 0) if sharp.ndim == 3 else sharp
    blurred = blur(planes, kernel, noise_sigma=noise, rng=name_seed(name), mode=mode)
    blurred = np.ascontiguousarray(np.moveaxis(blurred, 0, -1)) if sharp.ndim == 3 else blurred
    blurred, sharp = quantised(blurred) if quantise else blurred, valid(sharp, kernel) if mode == "valid" else sharp
    h, w = kernel.shape
    size = (h + MAP_MARGIN, w + MAP_MARGIN) if kernel.size > 1 else (UNKNOWN_SIZE, UNKNOWN_SIZE)
    return FaceCase(name, blurred, sharp, kernel, noise, picture, group, size)


def sharp_case(name: str, sharp: np.ndarray, *, group: str, picture: str, noise: float = 0.0) -> FaceCase:
    return blurred_case(name, sharp, np.ones((1, 1)), group=group, picture=picture, noise=noise)


# ------------------------------------------------------------------ sets
def own_kernel_cases(folder: Path, choose: bool, limit: int | None) -> Iterator[FaceCase]:
    """A: small faces, each with a kernel of its own of each of `SIDES`; 1 % noise."""
    for path in faces(folder, choose, limit):
        sharp = color_picture(path)
        for side in SIDES:
            name = f"A_{path.stem}_{side}"
            kernel = own_kernel(name, side, int(path.stem))
            yield blurred_case(name, sharp, kernel, group=f"{side} px", picture=path.stem)


def centred_kernel(kernel: np.ndarray) -> np.ndarray:
    """The centre of mass moved to the middle by whole pixels, in the smallest odd window that holds the kernel."""
    kernel = centred(kernel)
    supports = [np.flatnonzero(kernel.any(axis=1 - axis)) for axis in (0, 1)]
    m = min(min(s[0], n - 1 - s[-1]) for s, n in zip(supports, kernel.shape, strict=True))
    return np.ascontiguousarray(kernel[m : kernel.shape[0] - m, m : kernel.shape[1] - m])


def levin_kernel_cases(folder: Path, choose: bool, limit: int | None) -> Iterator[FaceCase]:
    """B: the quality bench's small faces with Levin's kernels, gray, 8 bit: centred, and as they were measured.

    MAP is told the true size, as there. Without `limit`, the cases are those of README.md.
    """
    measured = list(thinned(small_face_cases(folder), SMALL_FACES_EVERY))
    pictures = sorted({case.picture for case in measured})
    chosen = set(spread(pictures, len(pictures) if limit is None else limit))
    for case in (case for case in measured if case.picture in chosen):
        sharp, kernel = gray_picture(folder / "faces" / f"{case.picture}.jpg"), centred_kernel(case.kernel)
        moved = make_case(f"B_centred_{case.name}", sharp, kernel, quantise=True, picture=case.picture)
        yield FaceCase(**vars(moved), group="centred", map_size=kernel.shape)
        yield FaceCase(**{**vars(case), "name": f"B_{case.name}"}, group="as measured", map_size=case.kernel.shape)


def linear_cases(folder: Path, choose: bool, limit: int | None) -> Iterator[FaceCase]:
    """C: 15 px of motion at 45 degrees, as in [WangL2017] table 4; 8 bit, no other noise."""
    kernel = linear_kernel(15, 45)
    for path in faces(folder, choose, limit):
        yield blurred_case(
            f"C_{path.stem}", color_picture(path), kernel,
            group="15 px, 45 degrees", picture=path.stem, noise=0, quantise=True,
        )  # fmt: skip


def sharp_cases(folder: Path, choose: bool, limit: int | None) -> Iterator[FaceCase]:
    """D: sharp faces, without noise and with 1 %."""
    for path in faces(folder, choose, limit):
        for noise in (0, NOISE):
            name, group = f"D_{path.stem}_{noise:g}", f"{100 * noise:g} % noise"
            yield sharp_case(name, color_picture(path), group=group, picture=path.stem, noise=noise)


def other_cases(folder: Path, choose: bool, limit: int | None) -> Iterator[FaceCase]:
    """E: what is no face: crops of photographs, whole ones, pages of text; sharp, and blurred with 1 % noise."""
    split = "train" if choose else "val"
    chosen = photographs(folder, split, min(PHOTOGRAPHS, limit or PHOTOGRAPHS))
    pages = text_pages()
    pages = {name: pages[name] for name in spread(list(pages), len(pages) if limit is None else limit)}
    scenes = [(f"crop_{path.stem}", color_picture(path), "crops", True) for path in chosen]
    scenes += [(f"whole_{path.stem}", color_picture(path), "photographs", False) for path in spread(chosen, WHOLE)]
    scenes += [(f"text_{name}", page, "text", False) for name, page in pages.items()]
    for scene, sharp, kind, crop in scenes:
        name, seed = f"E_{scene}", name_seed(scene)
        side = SIDES[seed % len(SIDES)]
        if crop:
            rng, size = np.random.default_rng(name_seed(f"{scene}_place")), [length + side - 1 for length in CROP]
            top, left = (int(rng.integers(max(1, n - k + 1))) for n, k in zip(sharp.shape[:2], size, strict=True))
            sharp = sharp[top : top + size[0], left : left + size[1]]
        kernel = own_kernel(name, side, seed // len(SIDES))
        yield blurred_case(f"{name}_blurred", sharp, kernel, group=f"{kind}, blurred", picture=scene)
        yield sharp_case(f"{name}_sharp", valid(sharp, kernel), group=f"{kind}, sharp", picture=scene)


def portrait_cases(folder: Path, choose: bool, limit: int | None) -> Iterator[FaceCase]:
    """F: portraits, scaled so that the blurred picture has each of `PORTRAITS`; 8 bit, no other noise."""
    paths = sorted((folder / "faces_hq").glob("*.jpg"))
    for path in spread(paths, len(paths) if limit is None else limit):
        portrait = color_picture(path)
        for (h, w), side in ((shape, side) for shape in PORTRAITS for side in PORTRAIT_SIDES):
            name, length, left = f"F_{path.stem}_{h}x{w}_{side}", h + side - 1, (h - w) // 2
            sharp = np.clip(resize(portrait, (length, length), order=3, anti_aliasing=True), 0, 1)
            kernel = own_kernel(name, side, int(path.stem))
            yield blurred_case(
                name, np.ascontiguousarray(sharp[:, left : left + w + side - 1]), kernel,
                group=f"{h} x {w}, {side} px", picture=path.stem, noise=0, quantise=True,
            )  # fmt: skip


def identity_cases(folder: Path, choose: bool, limit: int | None) -> Iterator[FaceCase]:
    """G: whole faces, sharp and blurred with mirrored borders, so that their size stays; 1 % noise."""
    for path in faces(folder, choose, limit):
        sharp = color_picture(path)
        yield sharp_case(f"G_{path.stem}_0", sharp, group="sharp", picture=path.stem, noise=NOISE)
        for side in SIDES:
            name = f"G_{path.stem}_{side}"
            kernel = own_kernel(name, side, int(path.stem))
            yield blurred_case(name, sharp, kernel, group=f"{side} px", picture=path.stem, mode="same")


SETS: dict[str, Callable[[Path, bool, int | None], Iterator[FaceCase]]] = {
    "A": own_kernel_cases,
    "B": levin_kernel_cases,
    "C": linear_cases,
    "D": sharp_cases,
    "E": other_cases,
    "F": portrait_cases,
    "G": identity_cases,
}
NOT_TO_CHOOSE_BY = ("B", "F")  # their pictures are all for reports
# Rows over several groups. Those of A are what the networks' bars are about.
TOGETHER: dict[str, dict[str, Sequence[str]]] = {
    "A": {"5 to 21 px": [f"{side} px" for side in SIDES[:5]], "9 to 21 px": [f"{side} px" for side in SIDES[1:5]]},
    "F": {f"{h} x {w}, all": [f"{h} x {w}, {side} px" for side in PORTRAIT_SIDES] for h, w in PORTRAITS},
}
