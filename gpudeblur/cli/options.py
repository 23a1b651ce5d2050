"""The options of the `gpudeblur` command that several of its commands have, and their texts as arguments."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import gpudeblur

from ..images.output import JPEG, check_quality

# What each changes of `TwoStepOptions`; measured in docs/method.md.
PRESETS: dict[str, dict[str, Any]] = {"fast": {"starts": ("wide",)}, "standard": {}, "best": {"finest_candidates": 5}}
PRESET_HELP = (
    "fast: one initialization, two thirds of the time, and more kernels fail; standard; best: more kernels at full "
    "size, 1.3 times the time, and on average 0.1 dB."
)
Blur = StrEnum("Blur", {"uniform": "uniform", "rotation": "rotation"})
Defects = StrEnum("Defects", {"auto": "auto", "none": "none"})
Device = StrEnum("Device", {"auto": "auto", "cpu": "cpu", "cuda": "cuda"})
Final = StrEnum("Final", {"sparse": "sparse", "tv": "tv", "hyper_laplacian": "hyper-laplacian", "pnp": "pnp"})
Format = StrEnum("Format", {"png": "png", "jpg": "jpg", "tif": "tif"})
Preset = StrEnum("Preset", {"fast": "fast", "standard": "standard", "best": "best"})
Prior = StrEnum("Prior", {"discriminative": "discriminative", "dark_channel": "dark-channel", "intensity": "intensity"})

# The panels of the help. Metavars are short, so that the help has room beside them in 80 columns.
_input = functools.partial(typer.Option, rich_help_panel="Input")
_kernel = functools.partial(typer.Option, rich_help_panel="Kernel")
_restoration = functools.partial(typer.Option, rich_help_panel="Restoration")
_output = functools.partial(typer.Option, rich_help_panel="Output")
_speed = functools.partial(typer.Option, rich_help_panel="Speed")

PICTURE_HELP = (
    "The blurred picture, or - for standard input: PNG, JPEG, TIFF, WebP, BMP, GIF, JPEG 2000 or AVIF; HEIC, camera "
    "RAW and FITS with the package's extras heif, raw and fits."
)
Source = Annotated[Path, typer.Argument(metavar="IN", help=PICTURE_HELP)]
PageOption = Annotated[
    int | None, _input("--page", metavar="N", help="Of a file of several pictures: which one, from 0.")
]
Gamma = Annotated[
    str | None,
    _input(
        metavar="auto|G",
        help="The picture is light ** (1 / G): 1 is linear, photos have about 2.2. auto chooses between these two, and "
        "is the default where the kernel is estimated; a kernel of a file brings its own, or 1 if the file has none.",
    ),
]
WhiteLevel = Annotated[
    str | None,
    _input(
        metavar="auto|V",
        help="The value of full scale, such as 4095 for 12 bits in a file of 16; auto takes the smallest of 8, 10, 12, "
        "14 and 16 bits that holds the picture's values. Default: that of the file's type, 1 for floats.",
    ),
]
MaskOption = Annotated[
    str | None,
    _input(
        "--mask",
        metavar="FILE|nan",
        help="A PNG or TIFF file of the same size, 0 (black) where pixels are not valid: dead ones, dust, overlays. "
        "They are left out and filled in. nan: pixels of a TIFF file that are NaN.",
    ),
]
BatchMaskOption = Annotated[
    str | None,
    _input(
        "--mask",
        metavar="FILE|DIR",
        help="As of gpudeblur deblur (also nan), for all pictures; or a folder with a mask for each, of the same name "
        "but for the suffix. Those without one are taken as they are.",
    ),
]
DefectsOption = Annotated[
    Defects,
    _input(
        metavar="auto|none",
        help="auto: dead rows and columns, hot pixels, constant borders and overlays that are sharper than the blur, "
        "such as time stamps, are found and left out. none: all of it belongs to the scene.",
    ),
]
FocalOption = Annotated[
    str,
    _input(
        metavar="auto|PX",
        help="With --blur rotation: the focal length in pixels, or inf for motion in the image plane; auto takes the "
        "35 mm equivalent in the EXIF data / 36 * the longer side, or estimates it.",
    ),
]
KernelSize = Annotated[
    str,
    _kernel(
        "--kernel-size",
        "-k",
        metavar="N|HxW",
        help="Odd size in pixels, a little larger than the blur is long: 31, or 31x25 for height x width. "
        "auto estimates it.",
    ),
]
KernelFile = Annotated[Path, _kernel("--kernel", metavar="FILE", help="The kernel: .npy, .tif, .png or .npz.")]
KnownKernel = Annotated[
    Path | None,
    _kernel("--kernel", metavar="FILE", help="The blur is known: .npy, .tif, .png or .npz. Nothing is estimated."),
]
BatchKernel = Annotated[
    Path | None,
    _kernel("--kernel", metavar="FILE", help="The blur of all pictures is known: as in gpudeblur deblur."),
]
RegionOption = Annotated[
    str,
    _kernel(
        metavar="X,Y,W,H",
        help="Where the kernel is estimated: a part of the picture, its left and upper end, width and height in "
        "pixels; all; or auto, which takes patches of a picture of more than a megapixel.",
    ),
]
PresetOption = Annotated[
    Preset,
    _kernel(metavar="NAME", help=PRESET_HELP),
]
BlurOption = Annotated[
    Blur,
    _kernel(
        metavar="KIND",
        help="uniform; or rotation: the camera may have rotated. One kernel is kept unless poses explain the picture "
        "better.",
    ),
]
GradientWeight = Annotated[float | None, _kernel(metavar="W", help="Weight of the L0 gradient prior.")]
SmoothWeight = Annotated[float | None, _kernel(metavar="W", help="Weight of the local smooth prior; 0: none.")]
PriorOption = Annotated[
    Prior | None,
    _kernel(
        metavar="NAME",
        help="One more prior on the sharp picture: dark-channel; intensity, black and white for text; or "
        "discriminative, a network that tells blurred from sharp (needs PyTorch), which takes five times as long and "
        "finds no better kernels.",
    ),
]
FinalOption = Annotated[
    Final,
    _restoration(
        metavar="NAME",
        help="With the kernel: sparse is good, tv nearly as good, hyper-laplacian fast, pnp by a neural network.",
    ),
]
StrengthOption = Annotated[
    str,
    _restoration(
        metavar="auto|S",
        help="Share of the restoration in the result, 0 to 1; the rest is IN. auto: less where it is not trustworthy.",
    ),
]
Out = Annotated[
    Path | None,
    _output(
        "--out",
        "-o",
        metavar="OUT",
        help="The sharp picture: .png, .jpg, .tif, a folder, or - for standard output (PNG). Default: "
        "NAME_deblurred beside IN.",
    ),
]
Overwrite = Annotated[
    bool, _output("--overwrite/--no-overwrite", help="Replace files that exist, or refuse to; IN is never replaced.")
]
Compare = Annotated[
    Path | None, _output(metavar="FILE", help="Also write IN, the result and the kernel side by side: .png or .jpg.")
]
Bits = Annotated[int | None, _output(metavar="8|16", help="Bits a channel of a PNG. Default: as IN has.")]
QualityOption = Annotated[int | None, _output("--quality", metavar="N", help="Of a JPEG, 1 to 100. Default: 95.")]
StripOption = Annotated[bool, _output("--strip", help="Leave out the colour profile, EXIF, XMP and resolution of IN.")]
DeviceOption = Annotated[
    Device, _speed(metavar="NAME", help="Where to compute: cpu, cuda, or auto, the GPU if there is one.")
]


def check_encoding(bits: int | None, quality: int | None, suffix: str | None = None) -> None:
    """Check --bits and --quality; `suffix` is that of all files to be written, None where they differ."""
    check_quality(quality)
    if bits not in (None, 8, 16):
        raise ValueError(f"--bits must be 8 or 16, got {bits}; leave it out for those of IN")
    if quality is not None and suffix is not None and suffix.lower() not in JPEG:
        raise ValueError(f"--quality must be left out for {suffix} files, which lose nothing; name a .jpg file for it")


def parse_kernel_size(text: str) -> Any:
    if text.lower() == "auto":
        return None
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise ValueError(
            f"--kernel-size must be an odd integer, two as HEIGHTxWIDTH, or auto, got {text!r}; "
            "use for instance 31 or 31x25"
        ) from None
    return sizes if len(sizes) > 1 else sizes[0]


def parse_gamma(text: str | None, default: float | str | None = "auto", number_with: str = "") -> Any:
    """A number, or "auto"; None is `default`. With the option `number_with` it must be a number."""
    if text is None:
        return default
    if text.lower() == "auto":
        if number_with:
            raise ValueError(f"--gamma must be a number with {number_with}, got 'auto'; photos have about 2.2")
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--gamma must be auto or a number, got {text!r}; photos have about 2.2") from None


def parse_focal(text: str, blur: Blur, source: Path) -> float | None:
    """The focal length in pixels; None for a uniform blur, or where it is not known."""
    from ..images.exif import focal_in_pixels

    if text.lower() == "auto":
        return focal_in_pixels(source) if blur is Blur.rotation else None
    if blur is Blur.uniform:
        raise ValueError(f"--focal needs --blur rotation, got {text!r}; leave it out")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--focal must be auto or a number of pixels, got {text!r}; auto reads EXIF data") from None


def parse_strength(text: str) -> float | str:
    try:
        strength = 0.0 if text.lower() == "auto" else float(text)
    except ValueError:
        strength = math.nan
    if not 0 <= strength <= 1:
        raise ValueError(f"--strength must be auto or a number from 0 to 1, got {text!r}; auto decides")
    return "auto" if text.lower() == "auto" else strength


def parse_white_level(text: str | None) -> float | str | None:
    if text is None or text.lower() == "auto":
        return None if text is None else "auto"
    try:
        level = float(text)
    except ValueError:
        level = math.nan
    if not 0 < level < math.inf:
        raise ValueError(
            f"--white-level must be auto or a positive number, got {text!r}; give the value of full scale, such as "
            "4095 for 12 bits"
        )
    return level


def parse_region(text: str) -> tuple[slice, slice] | str:
    if text.lower() in ("auto", "all"):
        return text.lower()
    try:
        left, top, width, height = map(int, text.split(","))
    except ValueError:
        raise ValueError(
            f"--region must be auto, all or four integers X,Y,W,H, got {text!r}; such as 200,100,400,300"
        ) from None
    if min(left, top) < 0 or min(width, height) < 1:
        raise ValueError(f"--region must begin inside the picture and have pixels, got {text!r}")
    return slice(top, top + height), slice(left, left + width)


def parse_defects(defects: Defects) -> str | None:
    return None if defects is Defects.none else defects.value


def parse_mask(text: str | None, shape: tuple[int, ...] | None = None) -> Any:
    """The mask for pictures of `shape`, (H, W), if it is known."""
    if text is None or text.lower() == "nan":
        return None if text is None else "nan"
    from ..batch.folders import read_mask  # 0.2 s of CPU time, which --help does not need

    return read_mask(text, shape)


def two_step_options(
    gradient_weight: float | None,
    smooth_weight: float | None,
    prior: Prior | None,
    *,
    preset: Preset = Preset.standard,
    strength: float | str = "auto",
) -> Any:
    """The options that the user gave; None if there are none."""
    options: dict[str, Any] = {"gradient_weight": gradient_weight, "smooth_weight": smooth_weight}
    options["strength"] = None if strength == "auto" else strength
    options |= PRESETS[preset.value]
    if prior is not None:
        priors: dict[str, Callable[[], Any]] = {
            "discriminative": gpudeblur.priors.DiscriminativePrior,
            "dark-channel": gpudeblur.priors.DarkChannel,
            "intensity": functools.partial(gpudeblur.priors.L0Intensity, which="both"),
        }
        options["prior"] = priors[prior.value]()
    options = {name: value for name, value in options.items() if value is not None}
    return gpudeblur.TwoStepOptions(**options) if options else None
