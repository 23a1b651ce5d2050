"""Contact sheets of real photographs, which have no true picture: to be looked at. And plots of what is recorded.

    python -m bench figures sheets --data DATA [--folders real,text] [--kernel-size N] [--limit N]
    python -m bench figures plots

sheets: for each picture of DATA/real and DATA/text a row: the blurred picture and the result (both around the place
with most texture, pixel for pixel), and the kernel, enlarged; above it the file, the kernel's size and the confidence.
Pictures over 800 px are cropped to their middle first. Writes results/sheet_real.jpg, sheet_text.jpg, sheet_text_2.jpg
..., and removes older ones of the folders that it draws.
plots: the classifier's accuracy over the reduction of its pictures, of the last run in results/networks.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter

import gpudeblur

from .evaluate import arguments, results_folder

LARGEST = 800  # px a side of what is deblurred, to bound the time
CROP = 200  # px a side of what is shown
GAP, TITLE = 6, 16  # px between pictures, and for a line of words
ROWS = 6  # a sheet
QUALITY = 80  # of JPEG


@dataclass(frozen=True)
class Shown:
    """One row: crops of the same place and the kernel."""

    title: str
    blurred: np.ndarray
    sharp: np.ndarray
    kernel: np.ndarray


def middle(picture: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """The middle (h, w, 3), of at most `largest` pixels a side."""
    top, left = (max(0, (side - largest) // 2) for side in picture.shape[:2])
    return picture[top : top + largest, left : left + largest]


def busiest(picture: np.ndarray, crop: int = CROP) -> tuple[slice, slice]:
    """Where the window of `crop` x `crop` (or of the picture's size) with the largest gradients lies."""
    gray = picture.mean(axis=-1)
    h, w = min(crop, gray.shape[0]), min(crop, gray.shape[1])
    energy = sum(np.square(part) for part in np.gradient(gray))
    # By this origin the mean of the window that begins at a pixel stands there.
    means = uniform_filter(energy, (h, w), origin=(-(h // 2), -(w // 2)))
    means = means[: gray.shape[0] - h + 1, : gray.shape[1] - w + 1]
    top, left = (int(i) for i in np.unravel_index(np.argmax(means), means.shape))
    return slice(top, top + h), slice(left, left + w)


def read_colour(path: Path) -> np.ndarray:
    """(h, w, 3) uint8; gray is repeated, transparency dropped."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def show(path: Path, kernel_size: int | None) -> Shown:
    """Deblur one file."""
    picture = middle(read_colour(path))
    result = gpudeblur.deblur(picture, kernel_size, channel_axis=-1)
    place = busiest(picture)
    h, w = result.kernel.shape
    title = f"{path.name}, kernel {h} x {w}, confidence {result.info['confidence']:.2f}"
    return Shown(title, picture[place], result.image[place], result.kernel)


def enlarged(kernel: np.ndarray, side: int = CROP) -> Image.Image:
    """Peak white, pixels as squares of a whole number of pixels, at most `side` wide."""
    times = max(1, side // max(kernel.shape))
    levels = np.round(255 * np.clip(kernel / kernel.max(), 0, 1)).astype(np.uint8)
    return Image.fromarray(np.kron(levels, np.ones((times, times), np.uint8)))


def sheet(rows: Sequence[Shown]) -> Image.Image:
    """One row below the other."""
    height = TITLE + CROP + GAP
    page = Image.new("RGB", (3 * CROP + 4 * GAP, GAP + height * len(rows)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, row in enumerate(rows):
        top = GAP + number * height
        draw.text((GAP, top), row.title, "black", font)
        pictures = (Image.fromarray(row.blurred), Image.fromarray(row.sharp), enlarged(row.kernel))
        for column, picture in enumerate(pictures):
            page.paste(picture, (GAP + column * (CROP + GAP), top + TITLE))
    return page


def sheets(folder: Path, kernel_size: int | None, limit: int | None) -> Iterator[Image.Image]:
    """All pictures of `folder`, ROWS a sheet."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))[:limit]
    for first in range(0, len(paths), ROWS):
        rows = []
        for path in paths[first : first + ROWS]:
            rows.append(show(path, kernel_size))
            print(rows[-1].title, flush=True)
        yield sheet(rows)


def draw_sheets(data: Path, folders: Sequence[str], kernel_size: int | None, limit: int | None) -> None:
    out = results_folder()
    out.mkdir(parents=True, exist_ok=True)
    for name in folders:
        pages = list(sheets(data / name, kernel_size, limit))
        for old in out.glob(f"sheet_{name}*.jpg"):
            old.unlink()
        for number, page in enumerate(pages, start=1):
            path = out / f"sheet_{name}{'' if number == 1 else f'_{number}'}.jpg"
            page.save(path, quality=QUALITY)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def draw_plots() -> None:
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gpudeblur"  # the same figures give the same file
    import matplotlib.pyplot as plt

    lines = map(json.loads, (results_folder() / "networks.jsonl").read_text().splitlines())
    rows = [line for line in lines if line["kind"] == "accuracy"][-1]["rows"]
    figure, axis = plt.subplots(figsize=(6, 4))
    for pictures in sorted({row["pictures"] for row in rows}):
        points = [(1 / row["scale"], row["accuracy"]) for row in rows if row["pictures"] == pictures]
        axis.semilogx(*zip(*points, strict=True), "o-", base=2, label=pictures)
    axis.set(xlabel="reduced by", ylabel="accuracy", ylim=(0.35, 1.02))
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(results_folder() / "classifier_accuracy.svg", metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, "data", data={"required": False, "help": "folder that holds real/ and text/"})
    parser.add_argument("kind", choices=["sheets", "plots"])
    parser.add_argument("--folders", default="real,text", help="of the data folder, names with commas")
    parser.add_argument("--kernel-size", type=int, help="odd; default: what the library finds")
    parser.add_argument("--limit", type=int, help="pictures of each folder, for a quick look")
    args = parser.parse_args(argv)
    if args.kind == "plots":
        return draw_plots()
    names = args.folders.split(",")
    for name in names:
        if args.data is None or not (args.data / name).is_dir():
            parser.error(f"no folder {name!r} under {args.data}")
    draw_sheets(args.data, names, args.kernel_size, args.limit)


if __name__ == "__main__":
    main()
