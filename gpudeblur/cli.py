"""The `gpudeblur` command: deblur, batch, kernel, info, demo.

What a user can put right ends in one red line on stderr and exit code 2; nothing half-written stays behind. One file,
though a long one: the commands share their options, and how they speak to the user.
"""

from __future__ import annotations

import functools
import logging
import platform
import time
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

from .networks.classifier.command import classifier as train_classifier

app = typer.Typer(
    help="Blind image deblurring: a blurred photograph goes in, the sharp one and its blur kernel come out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

# Below this the kernel is a guess; `result.info["confidence"]` is in [0, 1].
LOW_CONFIDENCE = 0.5


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Method(StrEnum):
    two_step = "two-step"


class Final(StrEnum):
    sparse = "sparse"
    tv = "tv"
    hyper_laplacian = "hyper-laplacian"


class Prior(StrEnum):
    discriminative = "discriminative"
    dark_channel = "dark-channel"
    intensity = "intensity"


class Format(StrEnum):
    png = "png"
    jpg = "jpg"
    tif = "tif"


Source = Annotated[Path, typer.Argument(metavar="IN", help="The blurred picture: PNG, JPEG or TIFF.")]
KernelSize = Annotated[
    str,
    typer.Option(
        "--kernel-size",
        "-k",
        metavar="N|HxW|auto",
        help="Odd size in pixels, a little more than the blur is long: 31, or 31x25 for height x width; auto finds it.",
    ),
]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto takes the GPU if there is one.")]
MethodOption = Annotated[Method, typer.Option(help="How the kernel is found.")]
FinalOption = Annotated[Final, typer.Option(help="Restoration with the kernel found: the best, or the fast.")]
Bits = Annotated[int | None, typer.Option(help="8 or 16 bits a channel in a PNG; default: as many as IN has.")]
Gamma = Annotated[float, typer.Option(help="The picture is light ** (1 / gamma): 1 is linear, photos have about 2.2.")]
GradientWeight = Annotated[float | None, typer.Option(help="Weight of the L0 gradient prior.")]
PriorOption = Annotated[
    Prior | None,
    typer.Option(
        help="A prior beside the method's own: a classifier of blurred pictures (needs PyTorch), the dark channel, or "
        "black and white for text."
    ),
]
SmoothWeight = Annotated[float | None, typer.Option(help="Weight of the local smooth prior; 0 switches it off.")]


@app.command()
def deblur(
    source: Source,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="The sharp picture: .png, .jpg, .jpeg, .tif or .tiff.")
    ],
    kernel_size: KernelSize = "auto",
    kernel_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the kernel: .npy, or .png to look at.")
    ] = None,
    device: DeviceOption = Device.auto,
    method: MethodOption = Method.two_step,
    final: FinalOption = Final.sparse,
    gamma: Gamma = 1.0,
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    bits: Bits = None,
) -> None:
    """Deblur a picture: the blur is found from the picture alone."""
    with _user_errors():
        import gpudeblur

        from .images.checks import check_kernel_size
        from .images.files import KERNEL_SUFFIXES, check_output, read_image, write_image, write_kernel

        size = _parse_kernel_size(kernel_size)
        check_output(out, bits=bits)
        if kernel_out is not None:
            check_output(kernel_out, suffixes=KERNEL_SUFFIXES)
            if kernel_out.resolve() == out.resolve():
                raise ValueError(f"--kernel-out must be another file than --out, got {out} for both; rename one")
        photo = read_image(source)
        check_output(out, alpha=photo.alpha is not None, bits=bits, dtype=photo.pixels.dtype, source=source)
        if kernel_out is not None:
            check_output(kernel_out, suffixes=KERNEL_SUFFIXES, source=source)
        if size is not None:
            check_kernel_size(size, photo.pixels.shape[:2])
        with _progress_bar() as callback:
            result = gpudeblur.deblur(
                photo.pixels,
                size,
                channel_axis=_channel_axis(photo.pixels),
                device=device.value,
                final=final.value,
                gamma=gamma,
                options=_options(method, gradient_weight, smooth_weight, prior),
                callback=callback,
            )
        write_image(out, result.image, photo.alpha, bits=bits)
        if kernel_out is not None:
            write_kernel(kernel_out, result.kernel)
        _print_table(
            {
                "picture": _size_of(photo.pixels),
                "kernel size": _size_of(result.kernel),
                "backend": str(result.info["backend"]),
                "confidence": _confidence(float(result.info["confidence"])),
                "seconds": f"{float(result.info['seconds']):.2f}",
                "written": "\n".join(str(file) for file in (out, kernel_out) if file is not None),
            }
        )


@app.command()
def batch(
    sources: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="Pictures, and folders of pictures: PNG, JPEG or TIFF.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the sharp pictures; it is made if need be.")
    ],
    kernel_size: KernelSize = "auto",
    kernels_out: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write the kernels: NAME.npy.")] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also folders in folders, which DIR then has as well.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="Do again what is there already, or skip it.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What became of each picture: .csv or .json.")
    ] = None,
    device: DeviceOption = Device.auto,
    method: MethodOption = Method.two_step,
    final: FinalOption = Final.sparse,
    gamma: Gamma = 1.0,
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    format: Annotated[Format | None, typer.Option(help="Of the sharp pictures; default: that of each IN.")] = None,
    bits: Bits = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="CPU: pictures at a time; default: all CPUs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="GPU: pictures at a time; default: as many as its memory holds.")
    ] = None,
) -> None:
    """Deblur many pictures. One that fails is said so at the end, and the exit code is 1; the others are written."""
    with _user_errors():
        from .batch.folders import deblur_files, plan
        from .batch.report import REPORT_SUFFIXES, write_report
        from .images.files import check_output

        if report is not None:
            check_output(report, suffixes=REPORT_SUFFIXES)
        suffix = None if format is None else f".{format.value}"
        tasks = plan(sources, out, kernels=kernels_out, recursive=recursive, suffix=suffix)
        start, outcomes = time.perf_counter(), []
        try:
            with _counter(len(tasks)) as count:
                for outcome in deblur_files(
                    tasks,
                    _parse_kernel_size(kernel_size),
                    overwrite=overwrite,
                    bits=bits,
                    device=device.value,
                    method=method.value,
                    final=final.value,
                    gamma=gamma,
                    options=_options(method, gradient_weight, smooth_weight, prior),
                    workers=workers,
                    batch_size=batch_size,
                ):
                    outcomes.append(outcome)
                    count(outcome.status == "failed")
        finally:  # also of a run that is interrupted
            place = {str(task.source): number for number, task in enumerate(tasks)}
            outcomes.sort(key=lambda one: place[one.source])
            if report is not None and outcomes:
                write_report(report, outcomes)
        seconds = time.perf_counter() - start
        written = [one for one in outcomes if one.status == "written"]
        failed = [one for one in outcomes if one.status == "failed"]
        rows = {"written": f"{len(written)} of {len(tasks)} in {seconds:.2f} s, {len(written) / seconds:.2f} a second"}
        if skipped := len(tasks) - len(written) - len(failed):
            rows["skipped"] = f"{skipped}, there already; --overwrite does them again"
        if low := sum(one.confidence is not None and one.confidence < LOW_CONFIDENCE for one in written):
            rows["low confidence"] = f"{low}, their kernels are guesses; --report says which"
        if failed:
            rows["failed"] = "\n".join(
                one.error if one.error.startswith(one.source) else f"{one.source}: {one.error}" for one in failed
            )
        if report is not None:
            rows["report"] = str(report)
        _print_table(rows)
    if failed:
        raise typer.Exit(1)


@app.command()
def kernel(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The kernel: .npy, or .png to look at.")],
    kernel_size: KernelSize = "auto",
    device: DeviceOption = Device.auto,
    method: MethodOption = Method.two_step,
    gamma: Gamma = 1.0,
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
) -> None:
    """Find the blur kernel of a picture, and leave the picture as it is."""
    with _user_errors():
        import gpudeblur

        from .images.checks import check_kernel_size
        from .images.files import KERNEL_SUFFIXES, check_output, read_image, write_kernel

        size = _parse_kernel_size(kernel_size)
        check_output(out, suffixes=KERNEL_SUFFIXES)
        photo = read_image(source)
        check_output(out, suffixes=KERNEL_SUFFIXES, source=source)
        if size is not None:
            check_kernel_size(size, photo.pixels.shape[:2])
        start = time.perf_counter()
        with _progress_bar() as callback:
            found = gpudeblur.estimate_kernel(
                photo.pixels,
                size,
                channel_axis=_channel_axis(photo.pixels),
                device=device.value,
                gamma=gamma,
                options=_options(method, gradient_weight, smooth_weight, prior),
                callback=callback,
            )
        seconds = time.perf_counter() - start
        write_kernel(out, found)
        _print_table(
            {
                "picture": _size_of(photo.pixels),
                "kernel size": _size_of(found),
                "seconds": f"{seconds:.2f}",
                "written": str(out),
            }
        )


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the pictures.")] = Path("demo"),
    device: DeviceOption = Device.auto,
) -> None:
    """Blur a known picture, deblur it blind, and deblur a really blurred one."""
    with _user_errors():
        from .blind.demo import run_demo

        with _progress_bar() as callback:
            report = run_demo(out, device=device.value, progress=callback)
        _print_table(
            {
                "astronaut, blurred": f"PSNR {report.blurred_psnr:.2f} dB, SSIM {report.blurred_ssim:.4f}",
                "astronaut, deblurred": f"PSNR {report.psnr:.2f} dB, SSIM {report.ssim:.4f}, {report.seconds:.2f} s",
                "gain": f"{report.psnr - report.blurred_psnr:+.2f} dB",
                "clock (no true picture)": f"{report.clock_seconds:.2f} s",
                "backend": report.backend,
                "written": "\n".join(map(str, report.files)),
            }
        )


train_app = typer.Typer(help="Train a network of your own.", no_args_is_help=True)
app.add_typer(train_app, name="train")


@train_app.callback()
def train(context: typer.Context) -> None:
    """Train a network of your own."""
    context.obj = _progress_bar


@train_app.command("classifier")
@functools.wraps(train_classifier)
def _train_classifier(**arguments: Any) -> None:
    with _user_errors():
        _print_table(train_classifier(**arguments))


@app.command()
def info() -> None:
    """Show versions, GPUs, and which backends work here."""
    rows = {"python": f"{platform.python_version()} on {platform.platform()}"}
    for name in ("gpudeblur", "numpy", "scipy"):
        rows[name] = _version(name)
    rows["cupy"] = _version("cupy-cuda13x", "cupy-cuda12x", "cupy")
    rows["torch"] = _version("torch")
    rows["numpy backend"] = "works, FFT: scipy.fft (pocketfft)"
    rows.update(_cuda_rows())
    _print_table(rows)


def main() -> None:
    """Entry point of the `gpudeblur` command."""
    app()


@contextmanager
def _user_errors() -> Iterator[None]:
    """What the library says about the user's input, files and devices is the message; a traceback would bury it."""
    # tifffile also logs what it raises, and Python prints logs that nobody handles.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, ImportError, ArithmeticError) as why:
        message = f"error: {str(why) or type(why).__name__}".replace("\n", " ")
        Console(stderr=True).print(Text(message, style="bold red"), soft_wrap=True)
        raise typer.Exit(2) from why


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr, and the callback that moves it; the callback never asks the run to stop."""
    console = Console(stderr=True)
    percent = TextColumn("{task.percentage:>3.0f} %")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=1.0)

        def callback(stage: str, fraction: float) -> None:
            progress.update(task, description=stage, completed=fraction)

        yield callback


@contextmanager
def _counter(total: int) -> Iterator[Callable[[bool], None]]:
    """A bar of pictures on stderr, with their speed and the time left; the function counts one, failed or not."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        BarColumn(),
        TextColumn("{task.fields[speed]:.2f} a second, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, speed=0.0, failed=0)
        start, failures, done = time.perf_counter(), 0, 0

        def count(failed: bool) -> None:
            nonlocal failures, done
            failures, done = failures + failed, done + 1
            speed = done / (time.perf_counter() - start)
            progress.update(task, advance=1, speed=speed, failed=failures)

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


def _channel_axis(pixels: Any) -> int | None:
    return -1 if pixels.ndim == 3 else None


def _options(method: Method, gradient_weight: float | None, smooth_weight: float | None, prior: Prior | None) -> Any:
    """None where nothing was asked for, so that the defaults stand in one place."""
    given: dict[str, Any] = {"gradient_weight": gradient_weight, "smooth_weight": smooth_weight}
    if prior is not None:
        from . import priors

        kinds: dict[Prior, Any] = {
            Prior.discriminative: priors.DiscriminativePrior,
            Prior.dark_channel: priors.DarkChannel,
            Prior.intensity: priors.L0Intensity,
        }
        given["prior"] = kinds[prior](**({"which": "both"} if prior is Prior.intensity else {}))
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    import gpudeblur

    return {Method.two_step: gpudeblur.TwoStepOptions}[method](**given)


def _size_of(array: Any) -> str:
    """Height x width, and the channels if there are any."""
    return " x ".join(str(side) for side in array.shape)


def _confidence(value: float) -> str:
    if value >= LOW_CONFIDENCE:
        return f"{value:.2f}"
    return f"{value:.2f}, low: the kernel is a guess; try another --kernel-size, or a part with more edges"


def _print_table(rows: dict[str, str]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))  # Text: brackets in a file's name are no markup
    console = Console()
    # A pipe has no width: rich would fold long paths at 80 columns, and nobody could copy them.
    Console(width=None if console.is_terminal else 1000).print(table)


def _version(*names: str) -> str:
    """The version of the first of these distributions that is installed; nothing is imported."""
    for name in names:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return found if name == names[0] else f"{found} ({name})"
    return "not installed"


def _cuda_rows() -> dict[str, str]:
    from .numerics.arrays import require_cuda

    try:
        cupy = require_cuda()
    except RuntimeError as why:
        return {"cupy backend": f"does not work: {why}"}
    runtime = cupy.cuda.runtime
    rows = {"cupy backend": f"works, CUDA {runtime.runtimeGetVersion()}, FFT: cuFFT {cupy.cuda.cufft.getVersion()}"}
    for number in range(runtime.getDeviceCount()):
        device = runtime.getDeviceProperties(number)
        memory = device["totalGlobalMem"] / 2**30
        rows[f"GPU {number}"] = (
            f"{device['name'].decode()}, compute capability {device['major']}.{device['minor']}, {memory:.1f} GiB"
        )
    return rows
