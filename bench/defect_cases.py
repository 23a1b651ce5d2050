"""Blurred photographs with what no blur explains: overlays, dead lines, hot pixels, bars, torn frames, dim pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .cases import Case, gray_picture, make_case, name_seed, photographs, quantised

SIDE = 256  # of the blurred pictures
STAMPS = ("2024-03-02 14:07:55", "CAM 3  52 km/h", "12/08/1999", "REC 00:14:31", "5.11.2021 7:03")
MARKS = ("www.example.org", "sample", "(c) J. Doe", "PROOF - do not copy")
Maker = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class DefectCase(Case):
    """A case with a defect in `blurred`; `clean` is without it, but for dim pictures, which have lost what they have.

    `intact` is True where the defect left the picture as it was, for scores.
    """

    clean: np.ndarray | None = None
    intact: np.ndarray | None = None
    defect: str = ""


def typeface(rng: np.random.Generator, smallest: int = 11, largest: int = 22) -> ImageFont.FreeTypeFont:
    import matplotlib

    fonts = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif")
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{rng.choice(fonts)}.ttf"
    return ImageFont.truetype(path, int(rng.integers(smallest, largest)), layout_engine=ImageFont.Layout.BASIC)


def drawn(picture: np.ndarray, draw: Callable[[ImageDraw.ImageDraw], None], opacity: float = 1.0) -> np.ndarray:
    """`picture` under what `draw` draws in gray values of 0 to 255."""
    layer = Image.fromarray(np.round(picture.clip(0, 1) * 255).astype(np.uint8))
    draw(ImageDraw.Draw(layer))
    changed = np.asarray(layer) / 255
    untouched = changed == np.round(picture.clip(0, 1) * 255) / 255
    return np.where(untouched, picture, picture + opacity * (changed - picture))


def time_stamp(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A line of white, black or gray letters near an edge."""
    height, width = picture.shape
    at = int(rng.integers(3, width // 3)), int(rng.choice([4, height - 28]))
    text, fill, font = str(rng.choice(STAMPS)), int(rng.choice([255, 255, 0, 200])), typeface(rng)
    return drawn(picture, lambda draw: draw.text(at, text, fill, font))


def strip(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A black or white strip along an edge, with letters in it."""
    height, width = picture.shape
    depth, dark, font = int(rng.integers(18, 32)), bool(rng.random() < 0.7), typeface(rng, 11, 17)
    top, text = int(rng.choice([0, height - depth])), str(rng.choice(STAMPS))

    def draw(on: ImageDraw.ImageDraw) -> None:
        on.rectangle((0, top, width - 1, top + depth - 1), fill=0 if dark else 255)
        on.text((8, top + 2), text, 255 if dark else 0, font)

    return drawn(picture, draw)


def watermark(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines of letters all over, half transparent to opaque."""
    height, width = picture.shape
    font, text, step = typeface(rng), str(rng.choice(MARKS)), int(rng.integers(45, 90))
    fill = int(rng.choice([235, 255, 20]))

    def draw(on: ImageDraw.ImageDraw) -> None:
        for top in range(int(rng.integers(5, 30)), height - 10, step):
            for left in range(int(rng.integers(5, 40)), width, int(font.getlength(text)) + 40):
                on.text((left, top), text, fill, font)

    return drawn(picture, draw, float(rng.uniform(0.3, 1)))


def logo(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A filled disc with letters, in a corner."""
    height, width = picture.shape
    radius = int(rng.integers(12, 26))
    y, x = (int(rng.choice([radius + 6, n - radius - 7])) for n in (height, width))
    fill, font = int(rng.choice([255, 0, 230])), typeface(rng)

    def draw(on: ImageDraw.ImageDraw) -> None:
        on.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        on.text((x - radius // 2, y - radius // 2), "TV", 255 - fill, font)

    return drawn(picture, draw, float(rng.choice([1.0, 1.0, 0.6])))


def subtitle(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White letters with a black outline, below the middle."""
    height, width = picture.shape
    font, text = typeface(rng, 15, 22), "I did not see him"
    at = (width - font.getlength(text)) / 2, height - int(rng.integers(35, 60))
    return drawn(picture, lambda draw: draw.text(at, text, 255, font, stroke_width=1, stroke_fill=0))


def letterbox(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black or white bars above and below, or left and right."""
    image = picture.copy()
    view = image if rng.random() < 0.6 else image.T
    depth = int(rng.integers(12, 40))
    view[:depth] = view[-depth:] = rng.choice([0.0, 0.0, 1.0])
    return image


def frame(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image, depth = np.full_like(picture, rng.choice([1.0, 0.0, 0.9])), int(rng.integers(4, 30))
    image[depth:-depth, depth:-depth] = picture[depth:-depth, depth:-depth]
    return image


def dead_lines(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to three rows or columns, dead, stuck or too bright."""
    image = picture.copy()
    view = image if rng.random() < 0.5 else image.T
    lines = rng.choice(np.arange(5, len(view) - 5), int(rng.integers(1, 4)), replace=False)
    kind = rng.choice(["dead", "stuck", "offset"])
    view[lines] = {"dead": 0.0 * view[lines], "stuck": 0 * view[lines] + 1, "offset": view[lines] + 0.1}[kind]
    return image


def hot_pixels(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = picture.copy()
    image.flat[rng.choice(image.size, int(rng.integers(10, 80)), replace=False)] = 1.0
    return image


def torn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The lower part shifted, as by a frame that was read too late."""
    image, row = picture.copy(), int(rng.integers(len(picture) // 3, 2 * len(picture) // 3))
    image[row:] = np.roll(image[row:], int(rng.integers(4, 12)), axis=1)
    return image


def interlaced(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = picture.copy()
    image[1::2] = np.roll(image[1::2], int(rng.integers(2, 6)), axis=1)
    return image


def banding(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = picture.copy()
    image[:, ::2] += rng.uniform(0.015, 0.05)
    return image


def dim(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Under a tenth of the range of 8 bits."""
    return picture * rng.uniform(1 / 40, 1 / 10)


DEFECTS: dict[str, Maker] = {
    maker.__name__.replace("_", " "): maker
    for maker in (
        time_stamp, strip, watermark, logo, subtitle, letterbox, frame, dead_lines, hot_pixels, torn, interlaced,
        banding, dim,
    )
}  # fmt: skip


def defect_cases(
    folder: Path, kernels: Sequence[np.ndarray], count: int, split: str = "train", defects: Sequence[str] | None = None
) -> Iterator[DefectCase]:
    """`count` photographs for each kind of defect, with one of the kernels each, 0.3 % noise, 8 bit."""
    paths = photographs(folder, split)
    for number, name in enumerate(DEFECTS if defects is None else defects):
        for i in range(count):
            path = paths[(i * len(paths) // count + 7 * number) % len(paths)]
            kernel = kernels[(i + 3 * number) % len(kernels)]
            yield with_defect(path, kernel, name)


def with_defect(path: Path, kernel: np.ndarray, name: str) -> DefectCase:
    picture, margin = gray_picture(path), [side - 1 for side in kernel.shape]
    top, left = ((n - SIDE - m) // 2 for n, m in zip(picture.shape, margin, strict=True))
    sharp = picture[top : top + SIDE + margin[0], left : left + SIDE + margin[1]]
    case = make_case(f"{name}_{path.stem}_{len(kernel)}", sharp, kernel, noise=0.003, picture=path.stem)
    changed = DEFECTS[name](case.blurred, np.random.default_rng(name_seed(case.name)))
    intact = abs(changed - case.blurred) < 1e-9
    blurred = quantised(changed)
    if name == "dim":
        scale = np.median(changed / np.maximum(case.blurred, 1e-3))
        clean, intact = blurred / scale, np.ones_like(intact)
    else:
        clean = quantised(case.blurred)
    fields = {key: getattr(case, key) for key in ("name", "sharp", "kernel", "noise_sigma", "picture")}
    return DefectCase(**fields, blurred=blurred, clean=clean, intact=intact, defect=name)


def as_clean(case: DefectCase) -> Case:
    """The same picture without the defect, by which a kernel is judged."""
    assert case.clean is not None
    return replace(case, blurred=case.clean)
