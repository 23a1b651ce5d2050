"""Contact sheets of real photographs, which have no true picture: to be looked at.

    python -m bench figures sheets --data DATA [--folders real,text] [--kernel-size N]
    python -m bench figures methods --data DATA [--kernel-size N]

sheets: for each picture of DATA/real and DATA/text a row: the blurred picture and the result (both around the place
with most texture, pixel for pixel), and the kernel, enlarged; above it the file, the kernel's size and the confidence.
Pictures over 800 px are cropped to their middle first. Writes results/sheet_real.jpg, sheet_text.jpg, sheet_text_2.jpg
..., and removes older ones of the folders that it draws.

methods: eight of these pictures, spread evenly, each restored with its estimated kernel by "sparse", "epll" and "pnp",
beside the blurred one: results/methods.jpg.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter

import gpudeblur

from .evaluate import arguments, results_folder

LARGEST = 800  # px a side of what is deblurred, to bound the time
CROP = 200  # px a side of what is shown
GAP, TITLE = 6, 16  # px between pictures, and for a line of words
ROWS = 6  # a sheet
METHODS, PICTURES = ("sparse", "epll", "pnp"), 8  # of "methods"
QUALITY = 80  # of JPEG

# Titles and pictures from left to right; None leaves a place free.
SheetRow = tuple[Sequence[str], Sequence[Image.Image | None]]


def pictures_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))


def busiest(picture: np.ndarray, crop: int = CROP) -> tuple[slice, ...]:
    """Where the window of `crop` x `crop` (or of the picture's size) with the largest gradients lies."""
    gray = picture.mean(axis=-1)
    energy = uniform_filter(sum(np.square(part) for part in np.gradient(gray)), crop, mode="constant")
    centre = np.unravel_index(np.argmax(energy), energy.shape)
    starts = [max(0, min(int(c) - crop // 2, side - crop)) for c, side in zip(centre, gray.shape, strict=True)]
    return tuple(slice(start, start + crop) for start in starts)


def middle(path: Path) -> np.ndarray:
    """RGB bytes, at most `LARGEST` a side."""
    with Image.open(path) as image:
        picture = np.asarray(image.convert("RGB"))
    top, left = (max(0, (side - LARGEST) // 2) for side in picture.shape[:2])
    return picture[top : top + LARGEST, left : left + LARGEST]


def show_methods(path: Path, kernel_size: int | None) -> SheetRow:
    """Restore one file with its estimated kernel: titles; blurred, and by each of `METHODS`."""
    picture = middle(path)
    kernel = gpudeblur.estimate_kernel(picture, kernel_size, channel_axis=-1)
    place = busiest(picture)
    images = [gpudeblur.deconvolve(picture, kernel, method=name, channel_axis=-1) for name in METHODS]
    print(path.name, flush=True)
    return [path.name, *METHODS], [Image.fromarray(image[place]) for image in (picture, *images)]


def show(path: Path, kernel_size: int | None) -> SheetRow:
    """Deblur one file: title; blurred, sharp, and the kernel with its peak white and whole numbers of pixels."""
    picture = middle(path)
    result = gpudeblur.deblur(picture, kernel_size, channel_axis=-1)
    place, (h, w) = busiest(picture), result.kernel.shape
    kernel = np.round(255 * np.clip(result.kernel / result.kernel.max(), 0, 1)).astype(np.uint8)
    kernel = np.kron(kernel, np.ones((max(1, CROP // max(h, w)),) * 2, np.uint8))
    title = f"{path.name}, kernel {h} x {w}, confidence {result.info['confidence']:.2f}"
    print(title, flush=True)
    return [title], [Image.fromarray(array) for array in (picture[place], result.image[place], kernel)]


def sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """One row below the other, a title above each picture; a place is `CROP` wide and high, or more for larger ones."""
    sizes = [[picture.size for picture in pictures if picture] for _, pictures in rows]
    width = max([CROP, *(size[0] for row in sizes for size in row)])
    heights = [max([CROP, *(size[1] for size in row)]) for row in sizes]
    tops = list(itertools.accumulate((TITLE + height + GAP for height in heights), initial=GAP))
    columns = max(len(pictures) for _, pictures in rows)
    page = Image.new("RGB", (columns * (width + GAP) + GAP, tops[-1]), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for top, (titles, pictures) in zip(tops[:-1], rows, strict=True):
        for column, title in enumerate(titles):
            draw.text((GAP + column * (width + GAP), top), title, "black", font)
        for column, picture in enumerate(pictures):
            if picture:
                page.paste(picture, (GAP + column * (width + GAP), top + TITLE))
    return page


def enlarged(picture: np.ndarray, factor: int) -> Image.Image:
    """8 bits, each pixel `factor` times as wide and high."""
    pixels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data")
    parser.add_argument("kind", choices=["sheets", "methods"])
    parser.add_argument("--folders", default="real,text", help="of the data folder, names with commas")
    parser.add_argument("--kernel-size", type=int, help="odd; default: what the library finds")
    args = parser.parse_args(argv)
    out, names = results_folder(), args.folders.split(",")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (args.data / name).is_dir():
            parser.error(f"no folder {name!r} under {args.data}")
    if args.kind == "methods":
        paths = [path for name in names for path in pictures_of(args.data / name)]
        chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(PICTURES, len(paths))).round().astype(int)]
        sheet([show_methods(path, args.kernel_size) for path in chosen]).save(out / "methods.jpg", quality=QUALITY)
        return
    for name in names:
        rows = [show(path, args.kernel_size) for path in pictures_of(args.data / name)]
        for old in out.glob(f"sheet_{name}*.jpg"):
            old.unlink()
        for first in range(0, len(rows), ROWS):
            number = "" if first == 0 else f"_{first // ROWS + 1}"
            sheet(rows[first : first + ROWS]).save(out / f"sheet_{name}{number}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
