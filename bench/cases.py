"""The data sets of the benches, as generators of frozen cases.

`folder` is always the data folder that holds `levin/`, `faces_hq/`, `faces/` and `natural/`. Pictures are gray float64
in [0, 1]; kernels are in convolution sense. Every seed comes from the case's own name: neither the order of the
pictures nor how many of them are taken changes a case.
"""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import imageio.v3 as iio
import numpy as np
import scipy.io
import skimage.data
from PIL import Image, ImageDraw, ImageFont
from skimage.transform import resize

from gpudeblur.synthesis import blur, gaussian_process_kernel, trajectory_kernel

Item = TypeVar("Item")
FACE_KERNEL_SIZES = range(21, 42, 2)
MIXED_LEVIN = (3, 1, 4, 8)  # numbers of the measured kernels among `mixed_kernels`: 15, 19, 27 and 23 px
MIXED_SIZES = (21, 31, 41, 51)  # of the trajectories among them
NIGHT_KERNELS = ("levin1", "levin4", "trajectory21", "trajectory31")  # those of them for night scenes
LIGHTS = 0.03  # share of a night scene that is too bright for the sensor
# Drawn pages: name of the font, its size in pixels, dark letters on light paper (or the other way round).
PAGE_SHAPE = (400, 480)
PAGES = (
    ("DejaVuSans", 18, True),
    ("DejaVuSerif", 22, False),
    ("DejaVuSansMono", 16, True),
    ("STIXGeneral", 26, False),
    ("DejaVuSans-Bold", 30, True),
    ("DejaVuSerif-Italic", 20, False),
    ("STIXGeneralBol", 44, True),
    ("DejaVuSansMono-Bold", 24, False),
)
WORDS = """
the light of a lens falls on every pixel while hand and shutter move so that edges draw thin lines through grain and
shadow; Figure 12 shows, from left to right, what was seen (A), what is kept (B) and 7 or 8 percent of noise. Why?
Because sharp letters hold more than one grey: Quick, jumping zebras vex 39 foxy wizards & kings
"""


@dataclass(frozen=True)
class Case:
    """A blurred picture and what it was made of: `blurred` and `sharp` have one size, `sharp` is a valid crop.

    `picture` names the scene behind it: the cases of one scene are not independent.
    """

    name: str
    blurred: np.ndarray
    sharp: np.ndarray
    kernel: np.ndarray
    noise_sigma: float
    picture: str = ""


def name_seed(name: str) -> int:
    """A seed that is the same on every machine and run (unlike `hash`)."""
    return zlib.crc32(name.encode())


def gray_picture(path: Path) -> np.ndarray:
    """Rec. 709 luma of the values as stored, in [0, 1], float64, shape (H, W)."""
    picture = iio.imread(path)
    picture = picture.astype(np.float64) / np.iinfo(picture.dtype).max
    return picture if picture.ndim == 2 else picture[..., :3] @ np.array([0.2126, 0.7152, 0.0722])


@functools.cache
def blurred_camera(shape: tuple[int, int], kernel_size: int, seed: int = 0) -> np.ndarray:
    """scikit-image's camera resized to `shape`, float32, under a trajectory kernel; what the benches of speed take."""
    sharp = resize(skimage.data.camera().astype(np.float64) / 255, shape, anti_aliasing=True)
    return blur(sharp, trajectory_kernel(kernel_size, rng=20 + seed), mode="same").astype(np.float32)


def blurred_cameras(count: int, shape: tuple[int, int], kernel_size: int) -> np.ndarray:
    """A stack of differently blurred ones; from the 17th on they come again."""
    return np.resize([blurred_camera(shape, kernel_size, i) for i in range(min(count, 16))], (count, *shape))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of them at even distances, or all where there are no more."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def quantised(picture: np.ndarray) -> np.ndarray:
    """What an 8-bit file keeps."""
    return np.round(np.clip(picture, 0, 1) * 255) / 255


def valid(sharp: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The part of `sharp` that its valid convolution with `kernel` covers."""
    ry, rx = kernel.shape[0] // 2, kernel.shape[1] // 2
    return np.ascontiguousarray(sharp[ry : sharp.shape[0] - ry, rx : sharp.shape[1] - rx])


def make_case(
    name: str, sharp: np.ndarray, kernel: np.ndarray, *, noise: float = 0.0, quantise: bool = False, picture: str = ""
) -> Case:
    """Blur `sharp` as a camera does: valid convolution, then noise, then, if asked for, 8-bit steps and clipping."""
    blurred = blur(sharp, kernel, noise_sigma=noise, rng=name_seed(name))
    return Case(name, quantised(blurred) if quantise else blurred, valid(sharp, kernel), kernel, noise, picture)


def thinned(cases: Iterable[Case], every: int) -> Iterator[Case]:
    """One case of `every`, evenly, the first among them.

    Not each `every`-th: of scenes with 8 kernels each, every 8th case always has the same kernel. Multiples of the
    square root of two are even over all cases, and over those of any one of 4 or 8 kernels (those of the golden ratio
    are not: 8 of it are nearly whole).
    """
    return (case for i, case in enumerate(cases) if i * math.sqrt(2) % 1 < 1 / every)


def levin_cases(folder: Path) -> Iterator[Case]:
    """The 32 pictures of Levin et al. (2009), really photographed: `sharp` is off `blurred` by up to 4 px."""
    for path in sorted((folder / "levin").glob("im??_ker??.mat")):
        m = scipy.io.loadmat(path)
        blurred, sharp, f = (np.asarray(m[key], np.float64) for key in ("y", "x", "f"))
        kernel = np.ascontiguousarray(f[::-1, ::-1])
        yield Case(path.stem, blurred, sharp, kernel, 0.0, path.stem[:4])


def levin_kernels(folder: Path) -> list[np.ndarray]:
    """The 8 measured kernels of the Levin set, 13 to 27 px, scaled to sum 1 (convolution sense)."""
    files = [folder / "levin" / f"im01_ker{number:02d}.mat" for number in range(1, 9)]
    kernels = [np.asarray(scipy.io.loadmat(file)["f"], np.float64) for file in files]
    return [f[::-1, ::-1] / f.sum() for f in kernels]


def photographs(folder: Path, split: str, count: int | None = None) -> list[Path]:
    """BSDS500's of `split` ("val" or "train"), or `count` of them spread evenly."""
    paths = sorted((folder / "natural" / split).glob("*.jpg"))
    return spread(paths, len(paths) if count is None else count)


def face_cases(folder: Path, per_image: int = 1, *, noise: float = 0.0, quantise: bool = False) -> Iterator[Case]:
    """The 28 portraits, scaled so that the blurred picture is 320 x 320.

    Kernel sizes cycle over 21, 23, ..., 41; kernels are trajectories and Gaussian processes in turn.
    """
    paths = sorted((folder / "faces_hq").glob("*.jpg"))
    for index, (path, copy) in enumerate(itertools.product(paths, range(per_image))):
        kernel_size = FACE_KERNEL_SIZES[index % len(FACE_KERNEL_SIZES)]
        kind, make = (("trajectory", trajectory_kernel), ("gp", gaussian_process_kernel))[index % 2]
        name = f"face_{path.stem}_{copy}_{kind}{kernel_size}"
        # Its own seed: the noise draws from the case's, and must not repeat the kernel's numbers.
        kernel = make(kernel_size, rng=name_seed(name + "_kernel"))
        picture, side = gray_picture(path), 320 + kernel_size - 1
        sharp = resize(picture, (side, side), order=3, anti_aliasing=True)
        yield make_case(name, np.clip(sharp, 0, 1), kernel, noise=noise, quantise=quantise, picture=path.stem)


def with_each(
    paths: Iterable[Path], kernels: Sequence[np.ndarray], prefix: str, *, noise: float = 0.0, quantise: bool = False
) -> Iterator[Case]:
    """Each picture with each kernel."""
    for path in paths:
        sharp = gray_picture(path)
        for number, kernel in enumerate(kernels, start=1):
            name = f"{prefix}_{path.stem}_ker{number:02d}"
            yield make_case(name, sharp, kernel, noise=noise, quantise=quantise, picture=path.stem)


def natural_cases(
    folder: Path, kernels: Sequence[np.ndarray], noise: float, count: int, split: str = "val"
) -> Iterator[Case]:
    """`count` BSDS photographs of `split`, full size, each with every kernel."""
    return with_each(photographs(folder, split, count), kernels, split, noise=noise)


def small_face_cases(folder: Path, count: int = 100, split: str = "val") -> Iterator[Case]:
    """`count` of the faces, 109 x 89 as they are, with Levin's 8 kernels; 8 bit. 007501 and later are "val".

    The blurred pictures have 97 x 77 to 83 x 63 pixels.
    """
    paths = sorted((folder / "faces").glob("*.jpg"))
    paths = [path for path in paths if (path.stem > "007500") == (split == "val")]
    return with_each(spread(paths, count), levin_kernels(folder), "small", quantise=True)


def mixed_kernels(measured: Sequence[np.ndarray], picture: str) -> Iterator[tuple[str, np.ndarray]]:
    """(case name, kernel): four of Levin's kernels (`measured`) and four trajectories, 15 to 51 px.

    Each picture has trajectories of its own: a lucky kernel must not count for all of them.
    """
    for number in MIXED_LEVIN:
        yield f"{picture}_levin{number}", measured[number - 1]
    for size in MIXED_SIZES:
        name = f"{picture}_trajectory{size}"
        # Its own seed, as for the portraits.
        yield name, trajectory_kernel(size, rng=name_seed(name + "_kernel"))


def mixed_cases(folder: Path, noise: float = 0.0, count: int = 50) -> Iterator[Case]:
    """`count` BSDS validation photographs, each with its 8 `mixed_kernels`; 8 bit, whatever the noise."""
    measured = levin_kernels(folder)
    for path in photographs(folder, "val", count):
        sharp, picture = gray_picture(path), f"val_{path.stem}"
        for name, kernel in mixed_kernels(measured, picture):
            yield make_case(name, sharp, kernel, noise=noise, quantise=True, picture=picture)


def drawn_page(font: str, size: int, dark: bool) -> np.ndarray:
    """A page of words in one of the fonts that come with matplotlib, (400, 480)."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    # "basic" layout: the other one depends on a library that Pillow may lack.
    face = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    paper, ink = (240, 25) if dark else (30, 225)
    (height, width), margin = PAGE_SHAPE, size
    page = Image.new("L", (width, height), paper)
    draw, rng = ImageDraw.Draw(page), np.random.default_rng(name_seed(f"{font}{size}"))
    words = iter(rng.choice(WORDS.split(), height * width).tolist())
    line = next(words)
    for top in range(margin // 2, height - size, round(1.4 * size)):
        while face.getlength(longer := f"{line} {(word := next(words))}") < width - 2 * margin:
            line = longer
        draw.text((margin, top), line, ink, face)
        line = word
    return np.asarray(page, np.float64) / 255


def text_pages() -> dict[str, np.ndarray]:
    """scikit-image's photographs of print and writing, and `PAGES`."""
    shipped = {name: getattr(skimage.data, name)() / 255 for name in ("page", "text")}
    return shipped | {f"{font}{size}": drawn_page(font, size, dark) for font, size, dark in PAGES}


def text_cases(folder: Path) -> Iterator[Case]:
    """The 10 `text_pages`, each with its 8 `mixed_kernels`; 8 bit, half of them with 1 % noise."""
    measured = levin_kernels(folder)
    for page, (picture, sharp) in enumerate(text_pages().items()):
        for number, (name, kernel) in enumerate(mixed_kernels(measured, picture)):
            # By pairs of pages: dark and light letters take turns, and both shall have noise with each kernel.
            noise = 0.01 * ((page // 2 + number) % 2)
            yield make_case(name, sharp, kernel, noise=noise, quantise=True, picture=picture)


def night_scene(picture: np.ndarray) -> np.ndarray | None:
    """Linear light of a dark scene with lamps, from a photograph as stored; None where it makes none.

    Light is the value to the power 2.2, scaled so that the brightest 3 % exceed 1, the most that the sensor can hold;
    as lamps outshine white paper, these are taken to the power 1.5. With more, a restoration by the true kernel, which
    knows nothing of clipping, would be worse than the blurred picture. Left out are photographs whose own highlights
    are clipped (these 3 % are not distinct) and those that are bright all over (half of the pixels over 0.3).
    """
    light = picture**2.2
    white = np.quantile(light, 1 - LIGHTS)
    if white > 0.8 * light.max() or np.median(light) > 0.3 * white:
        return None
    light = light / white
    return np.where(light > 1, light**1.5, light)


def low_light_cases(folder: Path, count: int = 15, split: str = "val") -> Iterator[Case]:
    """`count` BSDS photographs of `split` made night, with 4 kernels of 19 to 31 px, 1 % noise, 8 bit.

    The light of a `night_scene` is blurred, then clipped to 1 by the sensor, then noise is added, then it is rounded to
    8 bits, all in linear light. Sharp is the same scene clipped without the blur: the lamps' excess, whose trails are
    in the blurred picture, cannot be known from it.
    """
    measured = levin_kernels(folder)
    made = ((f"night_{path.stem}", night_scene(gray_picture(path))) for path in photographs(folder, split))
    for picture, scene in spread([(name, scene) for name, scene in made if scene is not None], count):
        for name, kernel in mixed_kernels(measured, picture):
            if not name.endswith(NIGHT_KERNELS):
                continue
            seen = np.minimum(blur(scene, kernel), 1)
            seen += 0.01 * np.random.default_rng(name_seed(name)).standard_normal(seen.shape)
            sharp = np.minimum(valid(scene, kernel), 1)
            yield Case(name, quantised(seen), sharp, kernel, 0.01, picture)
