"""Photographs, as `python -m bench quality --sets photographs,phone` takes them: neither size nor gamma is told.

"photographs": DATA/real and DATA/text, blurred by cameras, gray. There is no true picture; for ten of them
DATA/text/reference_kernels holds a kernel that makes the picture readable. "phone": a collage of sharp training
photographs, blurred by camera shake as a phone takes it, of 12 and 48 Mpixel.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from PIL import Image
from scipy.ndimage import convolve

import gpudeblur
from gpudeblur.metrics import align, kernel_similarity, psnr
from gpudeblur.synthesis import blur, trajectory_kernel

from .cases import gray_picture, name_seed, photographs, valid
from .evaluate import Row, parallel, roc_area
from .figures import ROWS, busiest, enlarged, sheet

RIGHT_SIMILARITY, WHOLE_STRENGTH = 0.8, 0.8  # a kernel is right, and its restoration handed out, from here on
CROP = 300  # px a side of what a sheet shows
OVERLAP = 16  # px by which the photographs of a collage overlap
READ_NOISE, SHOT_NOISE = 0.002, 2e-4  # standard deviation, and variance per unit of linear light, of a sensor
QUALITY = 90  # of JPEG
LUMA = np.array([0.2126, 0.7152, 0.0722])
MAX_SHIFT = 10  # px between the restored and the sharp picture
# Headings of the tables: what of a row, how written.
PHOTOGRAPH_COLUMNS = {
    "kernel": ("size", "d"),
    "gamma": ("gamma", "g"),
    "similarity": ("similarity", ".2f"),
    "confidence": ("confidence", ".2f"),
    "strength": ("strength", ".2f"),
    "CPU s, kernel": ("seconds_kernel", ".1f"),
    "CPU s": ("seconds", ".1f"),
}
PHONE_COLUMNS = {
    "Mpixel": ("megapixels", ".1f"),
    **PHOTOGRAPH_COLUMNS,
    "PSNR, blurred": ("blurred_psnr", ".2f"),
    "PSNR": ("psnr", ".2f"),
    "peak GiB": ("peak_memory", ".2f"),
}


@dataclass(frozen=True)
class Attempt:
    """`gpudeblur.deblur` as the command line calls it without options, as a value that travels to a worker process."""

    options: gpudeblur.TwoStepOptions = field(default_factory=gpudeblur.TwoStepOptions)
    arguments: Mapping[str, Any] = field(default_factory=dict)  # more arguments of deblur
    device: str = "cpu"

    def deblur(self, picture: np.ndarray, channel_axis: int | None = None) -> tuple[gpudeblur.BlindResult, Row]:
        """The result and its figures; seconds are of the process, whatever else the machine does."""
        begin = kernel_end = time.process_time()

        def callback(stage: str, fraction: float) -> None:
            nonlocal kernel_end
            if stage == "kernel":
                kernel_end = time.process_time()

        result = gpudeblur.deblur(
            picture,
            channel_axis=channel_axis,
            device=self.device,
            options=self.options,
            callback=callback,
            **{"gamma": "auto", **self.arguments},
        )
        seconds = {"seconds_kernel": kernel_end - begin, "seconds": time.process_time() - begin}
        signals = {"confidence": float(result.info["confidence"]), "strength": float(result.info.get("strength", 1))}
        found = {"size": max(result.kernel.shape), "gamma": result.info["gamma"]}
        return result, found | signals | seconds

    def photograph(self, path: Path) -> tuple[Row, np.ndarray, np.ndarray, np.ndarray]:
        """Row, picture, result and kernel of a photograph; the similarity is that to the reference kernel, if any."""
        picture = gray_picture(path).astype(np.float32)
        result, row = self.deblur(picture)
        reference = reference_kernel(path)
        compared = {} if reference is None else {"similarity": kernel_similarity(result.kernel, reference)}
        return {"name": path.stem, **compared, **row}, picture, result.image, result.kernel

    def phone(self, path: Path) -> tuple[Row, np.ndarray]:
        """Row and kernel of a phone's picture in a file; the result becomes an array in a file beside it."""
        result, row = self.deblur(iio.imread(path), channel_axis=-1)
        np.save(path.with_suffix(".npy"), result.image)
        return row | {"peak_memory": peak_memory()}, result.kernel


def paths(name: str, data: Path) -> Iterator[Path]:
    """The files of the set "photographs", or those that "phone" is made of."""
    if name == "phone":
        return iter(photographs(data, "train"))
    return (path for folder in ("real", "text") for path in sorted((data / folder).glob("*.[jp][np]g")))


# ------------------------------------------------------------------ photographs


def reference_kernel(path: Path) -> np.ndarray | None:
    """The kernel that makes the photograph readable, where there is one."""
    file = path.parents[1] / "text" / "reference_kernels" / f"{path.stem}.npy"
    return np.load(file) if file.exists() else None


def photograph_rows(data: Path, attempt: Attempt, jobs: int, every: int, out: Path) -> Iterator[Row]:
    """A row for each photograph; `out` gets results, kernels, and sheets: blurred, result, kernel, reference kernel."""
    out.mkdir(parents=True, exist_ok=True)
    chosen, sheet_rows = list(paths("photographs", data))[::every], []
    for path, outcome in zip(chosen, parallel(attempt.photograph, chosen, jobs), strict=True):
        row, picture, result, kernel = outcome
        np.save(out / f"{path.stem}.npy", kernel)
        enlarged(result, 1).save(out / f"{path.stem}.png")
        place = busiest(picture[..., None], CROP)
        kernels = [kernel, reference_kernel(path)]
        factor = max(1, CROP // max(max(shown.shape) for shown in kernels if shown is not None))
        images: list[Image.Image | None] = [enlarged(shown[place], 1) for shown in (picture, result)]
        images += [None if shown is None else enlarged(shown / shown.max(), factor) for shown in kernels]
        columns = {name: column for name, column in PHOTOGRAPH_COLUMNS.items() if column[0] in row}
        title = ", ".join(f"{name} {row[key]:{form}}" for name, (key, form) in columns.items())
        sheet_rows.append(([f"{path.stem}: {title}"], images))
        for number, first in enumerate(range(0, len(sheet_rows), ROWS), start=1):
            sheet(sheet_rows[first : first + ROWS]).save(out / f"sheet_{number}.png")
        yield row


def photograph_totals(rows: Sequence[Row]) -> Row:
    """Of the photographs with a reference kernel; the seconds are of all."""
    compared = [row for row in rows if "similarity" in row]
    right = np.array([row["similarity"] >= RIGHT_SIMILARITY for row in compared], bool)
    whole = np.array([row["strength"] >= WHOLE_STRENGTH for row in compared], bool)
    total: Row = {"n": len(rows), "compared": len(compared), "right": int(right.sum())}
    total |= {"right_and_whole": int((right & whole).sum()), "seconds": sum(row["seconds"] for row in rows)}
    if compared:
        total["similarity_mean"] = float(np.mean([row["similarity"] for row in compared]))
    area = roc_area(np.array([row["confidence"] for row in compared]), right)
    return total if math.isnan(area) else {**total, "roc_area": area}


# ------------------------------------------------------------------ phone
@dataclass(frozen=True)
class PhoneCase:
    """A phone's picture in a file, the sharp one without the border that the blur takes, and the kernel."""

    path: Path
    sharp: np.ndarray
    kernel: np.ndarray


# Height and width, kernel size, enlargement of the photographs: one scene, as 48 Mpixel resolve no more of it than 12.
PHONES = {"12": ((3000, 4000), 61, 2), "48": ((6000, 8000), 121, 4)}


def collage(paths: Sequence[Path], shape: tuple[int, int]) -> np.ndarray:
    """Photographs side by side, (H, W, 3) uint8, each blended into the next; they are repeated if need be."""
    pictures = [picture for picture in map(iio.imread, paths) if picture.shape[0] <= picture.shape[1]]
    tile = min(picture.shape[0] for picture in pictures), min(picture.shape[1] for picture in pictures)
    ramps = [np.minimum(np.minimum(i := np.arange(1, side + 1), i[::-1]), OVERLAP) / OVERLAP for side in tile]
    weight = np.outer(*ramps)[..., None]
    steps = [side - OVERLAP for side in tile]
    counts = [-(-side // step) for side, step in zip(shape, steps, strict=True)]
    page = np.zeros((*(count * step + OVERLAP for count, step in zip(counts, steps, strict=True)), 3))
    weights = np.zeros((*page.shape[:2], 1))
    for number in range(counts[0] * counts[1]):
        y, x = np.multiply(np.divmod(number, counts[1]), steps)
        place = slice(y, y + tile[0]), slice(x, x + tile[1])
        page[place] += weight * pictures[number % len(pictures)][: tile[0], : tile[1]]
        weights[place] += weight
    return np.round(page / weights).astype(np.uint8)[: shape[0], : shape[1]]


def linear_light(value: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values, both in [0, 1]."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb(light: np.ndarray) -> np.ndarray:
    """sRGB values of linear light, both in [0, 1]."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


def phone_picture(sharp: np.ndarray, kernel: np.ndarray, rng: np.random.Generator) -> bytes:
    """JPEG file of what a phone takes of a moving scene.

    The linear light of `sharp`, (H, W, 3) uint8, is blurred (valid convolution), sampled by a Bayer sensor (RGGB) with
    shot and read noise, interpolated bilinearly, and stored as sRGB.
    """
    offsets = (((0, 0),), ((0, 1), (1, 0)), ((1, 1),))  # of the red, green and blue pixels
    cross, square = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4, np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    planes = []
    for channel, weights in enumerate((square, cross, square)):
        light = blur(linear_light(sharp[..., channel].astype(np.float32) / 255), kernel.astype(np.float32))
        samples = np.zeros_like(light)
        for y, x in offsets[channel]:
            samples[y::2, x::2] = light[y::2, x::2]
            noise = rng.standard_normal(samples[y::2, x::2].shape, np.float32)
            samples[y::2, x::2] += noise * np.sqrt(READ_NOISE**2 + SHOT_NOISE * np.maximum(light[y::2, x::2], 0))
        # Mirrored about the outermost pixel, where the colors of the mosaic go on as they should.
        plane = convolve(samples, weights.astype(np.float32), mode="mirror")
        planes.append(np.round(255 * srgb(np.clip(plane, 0, 1))).astype(np.uint8))
    file = io.BytesIO()
    Image.fromarray(np.stack(planes, axis=-1)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def phone_case(data: Path, shape: tuple[int, int], kernel_size: int, enlargement: int, path: Path) -> PhoneCase:
    """A picture of `shape`, written to `path`; the scene holds as much more as the blur takes."""
    height, width = (side + kernel_size - 1 for side in shape)
    small = collage(list(paths("phone", data)), (-(-height // enlargement), -(-width // enlargement)))
    size = small.shape[1] * enlargement, small.shape[0] * enlargement
    sharp = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))[:height, :width]
    seed = name_seed(f"phone{kernel_size}")
    kernel = trajectory_kernel(kernel_size, rng=seed)
    path.write_bytes(phone_picture(sharp, kernel, np.random.default_rng(seed + 1)))
    return PhoneCase(path, valid(sharp, kernel), kernel)


def phone_rows(data: Path, attempt: Attempt, jobs: int, every: int, out: Path) -> Iterator[Row]:
    """A row for each of `PHONES`; the picture is deblurred in a process of its own (in this one if `jobs` is 0)."""
    out.mkdir(parents=True, exist_ok=True)
    for name, recipe in list(PHONES.items())[::every]:
        case = phone_case(data, *recipe, out / f"phone_{name}.jpg")
        (outcome,) = parallel(attempt.phone, [case.path], min(jobs, 1))
        row, kernel = outcome
        np.save(out / f"phone_{name}_kernel.npy", kernel)
        figures: Row = {"name": f"phone_{name}", "megapixels": math.prod(recipe[0]) / 1e6, "true_size": recipe[1]}
        figures["similarity"] = kernel_similarity(kernel, case.kernel)
        sharp = case.sharp @ (LUMA / 255)
        for key, picture in (("blurred_psnr", iio.imread(case.path)), ("psnr", np.load(case.path.with_suffix(".npy")))):
            aligned = align(picture @ (LUMA / 255), sharp, max_shift=MAX_SHIFT, border=max(recipe[1], MAX_SHIFT))
            figures[key] = psnr(aligned.image, aligned.reference)
        yield figures | row


def phone_totals(rows: Sequence[Row]) -> Row:
    return {"n": len(rows), "gain_mean": float(np.mean([row["psnr"] - row["blurred_psnr"] for row in rows]))}


def peak_memory() -> float:
    """Peak resident memory of this process in GiB, as Linux counts it; NaN on other systems."""
    status = Path("/proc/self/status")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    # Not getrusage: its maximum includes the memory of the process that started this one.
    return int(fields["VmHWM"].split()[0]) / 2**20 if "VmHWM" in fields else math.nan
