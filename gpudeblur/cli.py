"""The `gpudeblur` command: deblur, restore, batch, kernel, demo, train and info.

An error that a user can correct is one red line on stderr and exit code 2; no file is left half-written.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import gpudeblur

from .batch.folders import at_command_line, deblur_files, plan, read_mask, white_of_file
from .batch.report import LOW_CONFIDENCE, REPORT_SUFFIXES, strength_text, summary, write_report
from .blind.restore import network_names
from .images.files import KERNEL_SUFFIXES, check_output, read_image, write_image, write_kernel
from .networks.catalog import LICENSE, all_weights
from .networks.training.command import RECIPES, train_network
from .numerics.arrays import require_cuda

app = typer.Typer(
    help="Blind image deblurring: a blurred photograph goes in, the sharp one and its blur kernel come out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

Blur = StrEnum("Blur", {"uniform": "uniform", "rotation": "rotation"})
Defects = StrEnum("Defects", {"auto": "auto", "none": "none"})
Device = StrEnum("Device", {"auto": "auto", "cpu": "cpu", "cuda": "cuda"})
Final = StrEnum("Final", {"sparse": "sparse", "tv": "tv", "hyper_laplacian": "hyper-laplacian"})
Format = StrEnum("Format", {"png": "png", "jpg": "jpg", "tif": "tif"})
Prior = StrEnum("Prior", {"discriminative": "discriminative", "dark_channel": "dark-channel", "intensity": "intensity"})

# Options of several commands.
Source = Annotated[Path, typer.Argument(metavar="IN", help="The blurred picture: PNG, JPEG or TIFF.")]
KernelSize = Annotated[
    str,
    typer.Option(
        "--kernel-size",
        "-k",
        metavar="N|HxW|auto",
        help="Odd size in pixels, a little larger than the blur is long: 31, or 31x25 for height x width. "
        "auto estimates it.",
    ),
]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto takes the GPU if there is one.")]
FinalOption = Annotated[Final, typer.Option(help="Restoration with the kernel: sparse is best, hyper-laplacian fast.")]
Bits = Annotated[int | None, typer.Option(help="8 or 16 bits a channel in a PNG; default: as many as IN has.")]
Gamma = Annotated[
    str,
    typer.Option(
        metavar="G",
        help="The picture is light ** (1 / gamma): 1 is linear, photos have about 2.2; auto chooses between them.",
    ),
]
WhiteLevel = Annotated[
    str | None,
    typer.Option(
        metavar="auto|V",
        help="The value of full scale, such as 4095 for 12 bits in a file of 16; auto takes the smallest of 8, 10, 12, "
        "14 and 16 bits that holds the picture's values. Default: that of the file's type, 1 for floats.",
    ),
]
MaskOption = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="FILE|nan",
        help="A PNG or TIFF file of the same size, 0 (black) where pixels are not valid: dead ones, dust, overlays. "
        "They are left out and filled in. nan: pixels of a TIFF file that are NaN.",
    ),
]
BatchMaskOption = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="FILE|DIR|nan",
        help="As of gpudeblur deblur, for all pictures; or a folder with a mask for each, of the same name but for the "
        "suffix. Those without one are taken as they are.",
    ),
]
DefectsOption = Annotated[
    Defects,
    typer.Option(
        help="auto: dead rows and columns, hot pixels, constant borders and overlays that are sharper than the blur, "
        "such as time stamps, are found and left out. none: all of it belongs to the scene."
    ),
]
RegionOption = Annotated[
    str,
    typer.Option(
        metavar="auto|all|X,Y,W,H",
        help="Where the kernel is estimated: in all of the picture; in one part, its left and upper end, width and "
        "height in pixels; or, auto, in patches of a picture of more than a megapixel.",
    ),
]
GradientWeight = Annotated[float | None, typer.Option(help="Weight of the L0 gradient prior.")]
SmoothWeight = Annotated[float | None, typer.Option(help="Weight of the local smooth prior; 0 switches it off.")]
CautiousOption = Annotated[
    bool,
    typer.Option(
        "--cautious/--no-cautious",
        help="A restoration that is not to be trusted is blended with IN; --no-cautious returns all of it.",
    ),
]
BlurOption = Annotated[
    Blur,
    typer.Option(
        help="rotation: the camera may have rotated. One kernel is kept unless poses explain the picture better."
    ),
]
FocalOption = Annotated[
    str,
    typer.Option(
        metavar="auto|PX",
        help="With --blur rotation: the focal length in pixels, or inf for motion in the image plane; auto takes the "
        "35 mm equivalent in the EXIF data / 36 * the longer side, or estimates it.",
    ),
]
PriorOption = Annotated[
    Prior | None,
    typer.Option(
        help="One more prior on the sharp picture: a classifier of blurred pictures (needs PyTorch), the dark channel, "
        "or black and white for text."
    ),
]


@app.command()
def deblur(
    source: Source,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="The sharp picture: .png, .jpg, .jpeg, .tif or .tiff.")
    ],
    kernel_size: KernelSize = "auto",
    kernel_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the kernel: .npy, or .png to look at. With --blur rotation, .png shows the kernels all "
            "over the picture, and .npz holds them for gpudeblur.KernelField.load.",
        ),
    ] = None,
    device: DeviceOption = Device.auto,
    final: FinalOption = Final.sparse,
    gamma: Gamma = "1",
    white_level: WhiteLevel = None,
    mask: MaskOption = None,
    defects: DefectsOption = Defects.auto,
    region: RegionOption = "auto",
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    blur: BlurOption = Blur.uniform,
    focal: FocalOption = "auto",
    cautious: CautiousOption = True,
    bits: Bits = None,
) -> None:
    """Deblur a picture. The blur is estimated from the picture alone."""
    with _user_errors():
        size = _parse_kernel_size(kernel_size)
        focal_length, white = _parse_focal(focal, blur, source), _parse_white_level(white_level)
        check_output(out, bits=bits, source=source)
        if kernel_out is not None:
            _check_kernel_out(kernel_out, out, source, (*KERNEL_SUFFIXES, ".npz") if blur is Blur.rotation else None)
        photo = read_image(source)
        check_output(out, alpha=photo.alpha is not None, bits=bits, dtype=photo.pixels.dtype)
        with _progress_bar() as callback:
            result = gpudeblur.deblur(
                photo.pixels,
                size,
                channel_axis=_channel_axis(photo.pixels),
                device=device.value,
                final=final.value,
                gamma=_parse_gamma(gamma),
                white=white,
                mask=_parse_mask(mask, photo.pixels.shape[:2]),
                defects=_parse_defects(defects),
                region=_parse_region(region),
                blur=blur.value,
                focal=focal_length,
                options=_options(gradient_weight, smooth_weight, prior, cautious),
                callback=callback,
            )
        write_image(out, result.image, photo.alpha, bits=bits, white=white_of_file(result, white))
        if kernel_out is not None:
            _write_kernel_or_field(kernel_out, result, photo.pixels.shape[:2])
        confidence = f"{result.info['confidence']:.2f}"
        if result.info["confidence"] < LOW_CONFIDENCE:
            confidence += ", low: the kernel is a guess; try another --kernel-size, or a part with more edges"
        _print_table(
            {
                "picture": _shape(photo.pixels),
                "kernel size": _shape(result.kernel),
                **_blur_rows(result, blur, focal_length, focal),
                "backend": result.info["backend"],
                "confidence": confidence,
                **_strength_row(result),
                "seconds": f"{result.info['seconds']:.2f}",
                "written": "\n".join(str(file) for file in (out, kernel_out) if file is not None),
            }
        )


@app.command()
def restore(
    source: Source,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="The restored picture: .png, .jpg, .jpeg, .tif or .tiff.")
    ],
    network: Annotated[str, typer.Option(metavar="|".join(network_names()), help="The network; needs PyTorch.")],
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights that gpudeblur train wrote; default: the package's.")
    ] = None,
    strength: Annotated[
        str, typer.Option(metavar="auto|S", help="Share of the network's change in the result, 0 to 1.")
    ] = "auto",
    kernel_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the kernel, if the network estimates one: .npy or .png."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(metavar="N", help="Side of the tiles of a large picture; default: what is needed.")
    ] = None,
    white_level: WhiteLevel = None,
    mask: MaskOption = None,
    device: DeviceOption = Device.auto,
    bits: Bits = None,
) -> None:
    """Restore a blurred face by a trained network."""
    with _user_errors():
        share, white = _parse_strength(strength), _parse_white_level(white_level)
        check_output(out, bits=bits, source=source)
        if kernel_out is not None:
            _check_kernel_out(kernel_out, out, source)
            _check_estimates_kernel("--kernel-out", network)
        photo = read_image(source)
        check_output(out, alpha=photo.alpha is not None, bits=bits, dtype=photo.pixels.dtype)
        with _progress_bar() as callback:
            result = gpudeblur.restore(
                photo.pixels,
                network,
                channel_axis=_channel_axis(photo.pixels),
                device=device.value,
                weights=weights,
                strength=share,
                tile="auto" if tile is None else tile,
                white=white,
                mask=_parse_mask(mask, photo.pixels.shape[:2]),
                callback=callback,
            )
        write_image(out, result.image, photo.alpha, bits=bits, white=white_of_file(result, white))
        if kernel_out is not None and result.kernel is not None:
            write_kernel(kernel_out, result.kernel)
        _print_table(
            {
                "picture": _shape(photo.pixels),
                "network": network,
                "backend": result.info["backend"],
                "confidence": f"{result.info['confidence']:.2f}",
                "strength": f"{result.info['strength']:.2f}",
                "seconds": f"{result.info['seconds']:.2f}",
                "written": "\n".join(str(file) for file in (out, kernel_out) if file is not None),
            }
        )


@app.command()
def batch(
    sources: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="Pictures, and folders of pictures: PNG, JPEG or TIFF.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the sharp pictures; created if need be.")
    ],
    method: Annotated[
        str,
        typer.Option(
            metavar="|".join(("two-step", *network_names())),
            help="two-step, or a network for faces, which takes no option of the method or of the kernel.",
        ),
    ] = "two-step",
    kernel_size: KernelSize = "auto",
    kernels_out: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write the kernels: NAME.npy.")] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also the folders within folders; DIR gets the same ones.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="Replace results that exist, or skip their pictures.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The outcome of each picture: .csv or .json.")
    ] = None,
    device: DeviceOption = Device.auto,
    final: FinalOption = Final.sparse,
    gamma: Gamma = "1",
    white_level: WhiteLevel = None,
    mask: BatchMaskOption = None,
    defects: DefectsOption = Defects.auto,
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    cautious: CautiousOption = True,
    format: Annotated[Format | None, typer.Option(help="Of the sharp pictures; default: that of each IN.")] = None,
    bits: Bits = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="CPU: number of threads; default: one for each CPU.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="GPU: pictures at a time; default: as many as its memory holds.")
    ] = None,
) -> None:
    """Deblur many pictures. Those that fail are listed at the end, and the exit code is 1; the others are written."""
    with _user_errors():
        if report is not None:
            check_output(report, suffixes=REPORT_SUFFIXES)
        if kernels_out is not None:
            _check_estimates_kernel("--kernels-out", method)
        suffix = None if format is None else f".{format.value}"
        masks = None if mask is None or mask.lower() == "nan" or not Path(mask).is_dir() else Path(mask)
        tasks = plan(sources, out, kernels=kernels_out, recursive=recursive, suffix=suffix, masks=masks)
        start, outcomes = time.perf_counter(), []
        try:
            with _counter(len(tasks)) as count:
                for outcome in deblur_files(
                    tasks,
                    _parse_kernel_size(kernel_size),
                    overwrite=overwrite,
                    bits=bits,
                    device=device.value,
                    method=method,
                    final=final.value,
                    gamma=_parse_gamma(gamma),
                    white=_parse_white_level(white_level),
                    mask=None if masks is not None else _parse_mask(mask),
                    defects=_parse_defects(defects),
                    options=_options(gradient_weight, smooth_weight, prior, cautious),
                    workers=workers,
                    batch_size=batch_size,
                ):
                    outcomes.append(outcome)
                    count(outcome.status == "failed")
        finally:  # also if the run is interrupted
            order = {str(task.source): number for number, task in enumerate(tasks)}
            outcomes.sort(key=lambda outcome: order[outcome.source])
            if report is not None and outcomes:
                write_report(report, outcomes)
        seconds = time.perf_counter() - start
        rows = summary(outcomes, len(tasks), seconds, is_network=method != "two-step")
        _print_table(rows if report is None else rows | {"report": str(report)})
    if "failed" in rows:
        raise typer.Exit(1)


@app.command()
def kernel(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The kernel: .npy, or .png to look at.")],
    kernel_size: KernelSize = "auto",
    device: DeviceOption = Device.auto,
    gamma: Gamma = "1",
    white_level: WhiteLevel = None,
    mask: MaskOption = None,
    defects: DefectsOption = Defects.auto,
    region: RegionOption = "auto",
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    from_streak: Annotated[
        bool, typer.Option("--from-streak", help="Read the kernel off the traces of lamps or stars; estimate nothing.")
    ] = False,
) -> None:
    """Estimate the blur kernel of a picture, without deblurring it."""
    with _user_errors():
        size, white = _parse_kernel_size(kernel_size), _parse_white_level(white_level)
        check_output(out, suffixes=KERNEL_SUFFIXES, source=source)
        photo = read_image(source)
        start, channel_axis, light = time.perf_counter(), _channel_axis(photo.pixels), _parse_gamma(gamma)
        if from_streak:
            if isinstance(light, str):
                raise ValueError("--gamma must be a number with --from-streak, got 'auto'; photographs have about 2.2")
            estimate = gpudeblur.streak_kernel(photo.pixels, channel_axis=channel_axis, gamma=light, white=white)
        else:
            with _progress_bar() as callback:
                estimate = gpudeblur.estimate_kernel(
                    photo.pixels,
                    size,
                    channel_axis=channel_axis,
                    device=device.value,
                    gamma=light,
                    white=white,
                    mask=_parse_mask(mask, photo.pixels.shape[:2]),
                    defects=_parse_defects(defects),
                    region=_parse_region(region),
                    options=_options(gradient_weight, smooth_weight, prior),
                    callback=callback,
                )
        seconds = time.perf_counter() - start
        write_kernel(out, estimate)
        _print_table(
            {
                "picture": _shape(photo.pixels),
                "kernel size": _shape(estimate),
                "seconds": f"{seconds:.2f}",
                "written": str(out),
            }
        )


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the pictures.")] = Path("demo"),
    device: DeviceOption = Device.auto,
) -> None:
    """Deblur three pictures blurred by a known camera shake, one of them too hard; open index.html to see them."""
    with _user_errors():
        from .blind.demo import run_demo

        with _progress_bar() as callback:
            report = run_demo(out, device=device.value, progress=callback)
        rows = {
            name: f"PSNR {figures.blurred_psnr:.2f} -> {figures.psnr:.2f} dB, confidence {figures.confidence:.2f}, "
            f"strength {strength_text(figures.strength)}, {figures.seconds:.1f} s"
            for name, figures in report.figures.items()
        }
        _print_table({**rows, "backend": report.backend, "written": "\n".join(map(str, report.files))})


train_app = typer.Typer(help="Train a network of your own.", no_args_is_help=True)
app.add_typer(train_app, name="train")


@train_app.callback()
def train(context: typer.Context) -> None:
    """Train a network of your own."""
    context.obj = _progress_bar


@functools.wraps(train_network)
def _train_network(**arguments: Any) -> None:
    with _user_errors():
        _print_table(train_network(**arguments))


for _name, _recipe in RECIPES.items():
    train_app.command(_name, help=_recipe.help)(_train_network)


@app.command()
def info() -> None:
    """Show versions, GPUs, which backends work here, and the weights of the package."""
    rows = {"python": f"{platform.python_version()} on {platform.platform()}"}
    for name in ("gpudeblur", "numpy", "scipy"):
        rows[name] = _version(name)
    rows["cupy"] = _version("cupy-cuda13x", "cupy-cuda12x", "cupy")
    rows["torch"] = _version("torch")
    rows["numpy backend"] = "works, FFT: scipy.fft (pocketfft)"
    rows.update(_cuda_rows())
    for file in all_weights():
        data = file.read_bytes()
        checksum = hashlib.sha256(data).hexdigest()[:12]
        rows[f"weights of {file.stem.replace('_', '-')}"] = f"{len(data) / 1e3:.0f} kB, SHA-256 {checksum}, {LICENSE}"
    _print_table(rows)


def main() -> None:
    """Entry point of the `gpudeblur` command."""
    app()


@contextmanager
def _user_errors() -> Iterator[None]:
    """Print errors about the user's input, files and devices as one line instead of a traceback; warnings too."""
    # tifffile also logs what it raises, and Python prints logs that nobody handles.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning  # type: ignore[assignment]  # takes all arguments by position
            yield
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, ImportError, ArithmeticError) as error:
        text = at_command_line(error) or type(error).__name__
        message = f"error: {text}".replace("\n", " ")
        Console(stderr=True).print(Text(message, style="bold red"), soft_wrap=True)
        raise typer.Exit(2) from error


def _print_warning(message: Warning | str, *_: Any) -> None:
    Console(stderr=True).print(
        Text(f"warning: {at_command_line(message)}".replace("\n", " "), style="yellow"), soft_wrap=True
    )


@contextmanager
def _bar(*columns: Any, total: float, **fields: Any) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, if that is a terminal; yields the function that updates it."""
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield functools.partial(
            progress.update, progress.add_task(fields.pop("description", ""), total=total, **fields)
        )


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar of the stages of one run; yields its callback, which never stops the run."""
    percent = TextColumn("{task.percentage:>3.0f} %")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeElapsedColumn())
    with _bar(*columns, total=1.0, description="reading") as update:
        yield lambda stage, fraction: update(description=stage, completed=fraction)


@contextmanager
def _counter(total: int) -> Iterator[Callable[[bool], None]]:
    """A bar of pictures with their speed and the time left; yields the function that counts one, failed or not."""
    columns = (
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        BarColumn(),
        TextColumn("{task.fields[speed]:.2f} a second, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with _bar(*columns, total=total, speed=0.0, failed=0) as update:
        start, done, failures = time.perf_counter(), 0, 0

        def count(failed: bool) -> None:
            nonlocal done, failures
            done, failures = done + 1, failures + failed
            update(completed=done, speed=done / (time.perf_counter() - start), failed=failures)

        yield count


def _parse_kernel_size(text: str) -> Any:
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


def _parse_gamma(text: str) -> float | str:
    """A number, or "auto"."""
    if text.lower() == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--gamma must be auto or a number, got {text!r}; photos have about 2.2") from None


def _parse_focal(text: str, blur: Blur, source: Path) -> float | None:
    """The focal length in pixels; None for a uniform blur, or where it is not known."""
    from .images.exif import focal_in_pixels

    if text.lower() == "auto":
        return focal_in_pixels(source) if blur is Blur.rotation else None
    if blur is Blur.uniform:
        raise ValueError(f"--focal needs --blur rotation, got {text!r}; leave it out")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--focal must be auto or a number of pixels, got {text!r}; auto reads EXIF data") from None


def _blur_rows(result: Any, blur: Blur, focal: float | None, text: str) -> dict[str, str]:
    """What the table says of the blur with --blur rotation."""
    if blur is Blur.uniform:
        return {}
    model = "one kernel, as poses explain the picture no better" if result.field is None else "of a rotating camera"
    source = "given" if text.lower() != "auto" else "from EXIF data"
    if focal is not None:
        where = f"{focal:.0f} px, {source}"
    elif result.field is None:
        where = "none in EXIF data"
    else:
        where = f"none in EXIF data; {result.info['focal']:.0f} px, estimated"
    return {"blur": model, "focal length": where}


def _strength_row(result: Any) -> dict[str, str]:
    """What the table says of a restoration that is not handed out whole."""
    strength = result.info.get("strength", 1.0)
    if strength >= 1:
        return {}
    text = f"{strength_text(strength)} of the restoration, the rest is the blurred picture"
    return {"strength": f"{text}; --no-cautious returns all of it"}


def _parse_strength(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise ValueError(f"--strength must be auto or a number from 0 to 1, got {text!r}; auto decides") from None


def _parse_white_level(text: str | None) -> float | str | None:
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


def _parse_region(text: str) -> tuple[slice, slice] | str:
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


def _parse_defects(defects: Defects) -> str | None:
    return None if defects is Defects.none else defects.value


def _parse_mask(text: str | None, shape: tuple[int, ...] | None = None) -> Any:
    """The mask for pictures of `shape`, (H, W), if it is known."""
    if text is None or text.lower() == "nan":
        return None if text is None else "nan"
    return read_mask(text, shape)


def _write_kernel_or_field(path: Path, result: Any, shape: tuple[int, int]) -> None:
    """The field of a result for a picture of `shape`, in a file that can hold it, or else its kernel."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        field = result.field
        (gpudeblur.KernelField(result.kernel[None, None], shape) if field is None else field).save(path)
    elif suffix == ".png" and result.field is not None:
        write_image(path, gpudeblur.show_kernels(result.field))
    else:
        write_kernel(path, result.kernel)


def _check_kernel_out(kernel_out: Path, out: Path, source: Path, suffixes: tuple[str, ...] | None = None) -> None:
    check_output(kernel_out, suffixes=suffixes or KERNEL_SUFFIXES, source=source)
    if kernel_out.resolve() == out.resolve():
        raise ValueError(f"--kernel-out must be another file than --out, got {out} for both; rename one")


def _check_estimates_kernel(option: str, method: str) -> None:
    """Refuse a file for kernels with a network that estimates none."""
    from .networks.restore import estimates_kernel

    if method in network_names() and not estimates_kernel(method):
        raise ValueError(f"{option} needs a method that estimates the kernel, got {method!r}; leave it out")


def _channel_axis(pixels: Any) -> int | None:
    return -1 if pixels.ndim == 3 else None


def _options(
    gradient_weight: float | None, smooth_weight: float | None, prior: Prior | None, cautious: bool = True
) -> Any:
    """The options that the user gave; None if there are none."""
    options: dict[str, Any] = {"gradient_weight": gradient_weight, "smooth_weight": smooth_weight}
    options["cautious"] = None if cautious else False
    if prior is not None:
        priors: dict[str, Callable[[], Any]] = {
            "discriminative": gpudeblur.priors.DiscriminativePrior,
            "dark-channel": gpudeblur.priors.DarkChannel,
            "intensity": functools.partial(gpudeblur.priors.L0Intensity, which="both"),
        }
        options["prior"] = priors[prior.value]()
    options = {name: value for name, value in options.items() if value is not None}
    return gpudeblur.TwoStepOptions(**options) if options else None


def _shape(array: Any) -> str:
    """Height x width, and the channels if there are any."""
    return " x ".join(str(side) for side in array.shape)


def _print_table(rows: dict[str, str]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))  # as Text, brackets in a file name are not read as markup
    console = Console()
    # A pipe has no width, and rich would wrap it at 80 columns. A path must stay on one line.
    Console(width=None if console.is_terminal else 1000).print(table)


def _version(*names: str) -> str:
    """The version of the first of these distributions that is installed; nothing is imported."""
    for name in names:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return version if name == names[0] else f"{version} ({name})"
    return "not installed"


def _cuda_rows() -> dict[str, str]:
    try:
        cupy = require_cuda()
    except RuntimeError as error:
        return {"cupy backend": f"does not work: {error}"}
    runtime = cupy.cuda.runtime
    rows = {"cupy backend": f"works, CUDA {runtime.runtimeGetVersion()}, FFT: cuFFT {cupy.cuda.cufft.getVersion()}"}
    for number in range(runtime.getDeviceCount()):
        device = runtime.getDeviceProperties(number)
        memory = device["totalGlobalMem"] / 2**30
        rows[f"GPU {number}"] = (
            f"{device['name'].decode()}, compute capability {device['major']}.{device['minor']}, {memory:.1f} GiB"
        )
    return rows
