"""The `gpudeblur` command: deblur, restore, batch, kernel, demo, train and info.

An error that a user can correct is one red line on stderr and exit code 2; no file is left half-written.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

import gpudeblur

from .batch.folders import deblur_files, decide, plan, white_of_file
from .batch.journal import Journal, fingerprint
from .batch.report import LOW_CONFIDENCE, REPORT_SUFFIXES, strength_text
from .blind.restore import network_names
from .cli_batch import (
    DryRunOption,
    QuietOption,
    ShardOption,
    VerboseOption,
    parse_shard,
    print_any_name,
    run_batch,
    show_plan,
    signals_end_the_run,
)
from .cli_options import (
    BatchMaskOption,
    Bits,
    Blur,
    BlurOption,
    CautiousOption,
    Defects,
    DefectsOption,
    Device,
    DeviceOption,
    Final,
    FinalOption,
    FocalOption,
    Format,
    Gamma,
    GradientWeight,
    KernelSize,
    MaskOption,
    PriorOption,
    RegionOption,
    SmoothWeight,
    Source,
    WhiteLevel,
    parse_defects,
    parse_focal,
    parse_gamma,
    parse_kernel_size,
    parse_mask,
    parse_region,
    parse_strength,
    parse_white_level,
    two_step_options,
)
from .cli_terminal import print_table, progress_bar, shape_text, user_errors
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
    gamma: Gamma = None,
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
    with user_errors():
        size = parse_kernel_size(kernel_size)
        focal_length, white = parse_focal(focal, blur, source), parse_white_level(white_level)
        check_output(out, bits=bits, source=source)
        if kernel_out is not None:
            _check_kernel_out(kernel_out, out, source, (*KERNEL_SUFFIXES, ".npz") if blur is Blur.rotation else None)
        photo = read_image(source)
        check_output(out, alpha=photo.alpha is not None, bits=bits, dtype=photo.pixels.dtype)
        with progress_bar() as callback:
            result = gpudeblur.deblur(
                photo.pixels,
                size,
                channel_axis=_channel_axis(photo.pixels),
                device=device.value,
                final=final.value,
                gamma=parse_gamma(gamma),
                white=white,
                mask=parse_mask(mask, photo.pixels.shape[:2]),
                defects=parse_defects(defects),
                region=parse_region(region),
                blur=blur.value,
                focal=focal_length,
                options=two_step_options(gradient_weight, smooth_weight, prior, cautious),
                callback=callback,
            )
        write_image(out, result.image, photo.alpha, bits=bits, white=white_of_file(result, white))
        if kernel_out is not None:
            _write_kernel_or_field(kernel_out, result, photo.pixels.shape[:2])
        print_table(
            {
                "picture": shape_text(photo.pixels),
                "kernel size": shape_text(result.kernel),
                **_blur_rows(result, blur, focal_length, focal),
                "backend": result.info["backend"],
                **_kernel_rows(result),
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
    with user_errors():
        share, white = parse_strength(strength), parse_white_level(white_level)
        check_output(out, bits=bits, source=source)
        if kernel_out is not None:
            _check_kernel_out(kernel_out, out, source)
            _check_estimates_kernel("--kernel-out", network)
        photo = read_image(source)
        check_output(out, alpha=photo.alpha is not None, bits=bits, dtype=photo.pixels.dtype)
        with progress_bar() as callback:
            result = gpudeblur.restore(
                photo.pixels,
                network,
                channel_axis=_channel_axis(photo.pixels),
                device=device.value,
                weights=weights,
                strength=share,
                tile="auto" if tile is None else tile,
                white=white,
                mask=parse_mask(mask, photo.pixels.shape[:2]),
                callback=callback,
            )
        write_image(out, result.image, photo.alpha, bits=bits, white=white_of_file(result, white))
        if kernel_out is not None and result.kernel is not None:
            write_kernel(kernel_out, result.kernel)
        print_table(
            {
                "picture": shape_text(photo.pixels),
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
    gamma: Gamma = None,
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
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Deblur many pictures. Those that fail are listed at the end, and the exit code is 1; the others are written."""
    with signals_end_the_run(), user_errors():
        print_any_name()
        if report is not None:
            check_output(report, suffixes=REPORT_SUFFIXES)
        if kernels_out is not None:
            _check_estimates_kernel("--kernels-out", method)
        suffix, (number, count) = None if format is None else f".{format.value}", parse_shard(shard)
        masks = None if mask is None or mask.lower() == "nan" or not Path(mask).is_dir() else Path(mask)
        picture_plan = plan(sources, out, kernels=kernels_out, recursive=recursive, suffix=suffix, masks=masks)
        picture_plan = picture_plan.shard(number, count)
        settings: dict[str, Any] = {
            "method": method,
            "final": final.value,
            "gamma": parse_gamma(gamma, "auto" if method == "two-step" else 1.0),
            "white": parse_white_level(white_level),
            "mask": None if masks is not None else parse_mask(mask),
            "defects": parse_defects(defects),
        }
        size, two_step = parse_kernel_size(kernel_size), (gradient_weight, smooth_weight, prior, cautious)
        version = gpudeblur.__version__
        options_hash = fingerprint(version, settings | {"kernel_size": size, "bits": bits, "options": two_step})
        folders = {file.parent for task in picture_plan.tasks for file in task.outputs}
        with Journal(out, folders) as journal:
            decisions = decide(picture_plan.tasks, journal, options_hash, overwrite=overwrite)
            if dry_run:
                show_plan(picture_plan, decisions)
                return
            outcomes = deblur_files(
                decisions,
                journal,
                {"fingerprint": options_hash, "version": version},
                size,
                bits=bits,
                device=device.value,
                options=two_step_options(*two_step),
                workers=workers,
                batch_size=batch_size,
                **settings,
            )
            with closing(outcomes):
                all_succeeded = run_batch(
                    picture_plan,
                    outcomes,
                    report=report,
                    verbose=verbose,
                    quiet=quiet,
                    overwrite=overwrite,
                    is_network=method != "two-step",
                )
    if not all_succeeded:
        raise typer.Exit(1)


@app.command()
def kernel(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The kernel: .npy, or .png to look at.")],
    kernel_size: KernelSize = "auto",
    device: DeviceOption = Device.auto,
    gamma: Gamma = None,
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
    with user_errors():
        size, white = parse_kernel_size(kernel_size), parse_white_level(white_level)
        check_output(out, suffixes=KERNEL_SUFFIXES, source=source)
        photo = read_image(source)
        start, channel_axis, rows = time.perf_counter(), _channel_axis(photo.pixels), dict[str, str]()
        if from_streak:
            light = parse_gamma(gamma, 1.0)
            if isinstance(light, str):
                raise ValueError("--gamma must be a number with --from-streak, got 'auto'; photographs have about 2.2")
            estimate = gpudeblur.streak_kernel(photo.pixels, channel_axis=channel_axis, gamma=light, white=white)
        else:
            with progress_bar() as callback:
                result = gpudeblur.deblur(
                    photo.pixels,
                    size,
                    channel_axis=channel_axis,
                    device=device.value,
                    final=None,
                    gamma=parse_gamma(gamma),
                    white=white,
                    mask=parse_mask(mask, photo.pixels.shape[:2]),
                    defects=parse_defects(defects),
                    region=parse_region(region),
                    options=two_step_options(gradient_weight, smooth_weight, prior),
                    callback=callback,
                )
            estimate, rows = result.kernel, _kernel_rows(result)
        seconds = time.perf_counter() - start
        write_kernel(out, estimate)
        print_table(
            {
                "picture": shape_text(photo.pixels),
                "kernel size": shape_text(estimate),
                **rows,
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
    with user_errors():
        from .blind.demo import run_demo

        with progress_bar() as callback:
            report = run_demo(out, device=device.value, progress=callback)
        rows = {
            name: f"PSNR {figures.blurred_psnr:.2f} -> {figures.psnr:.2f} dB, confidence {figures.confidence:.2f}, "
            f"strength {strength_text(figures.strength)}, {figures.seconds:.1f} s"
            for name, figures in report.figures.items()
        }
        print_table({**rows, "backend": report.backend, "written": "\n".join(map(str, report.files))})


train_app = typer.Typer(help="Train a network of your own.", no_args_is_help=True)
app.add_typer(train_app, name="train")


@train_app.callback()
def train(context: typer.Context) -> None:
    """Train a network of your own."""
    context.obj = progress_bar


@functools.wraps(train_network)
def _train_network(**arguments: Any) -> None:
    with user_errors():
        print_table(train_network(**arguments))


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
    print_table(rows)


def main() -> None:
    """Entry point of the `gpudeblur` command."""
    app()


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


def _kernel_rows(result: Any) -> dict[str, str]:
    confidence = f"{result.info['confidence']:.2f}"
    if result.info["confidence"] < LOW_CONFIDENCE:
        confidence += ", low: the kernel is a guess; try another --kernel-size, or a part with more edges"
    return {"gamma": f"{result.info['gamma']:g}", "confidence": confidence}


def _strength_row(result: Any) -> dict[str, str]:
    """What the table says of a restoration that is not handed out whole."""
    strength = result.info.get("strength", 1.0)
    if strength >= 1:
        return {}
    text = f"{strength_text(strength)} of the restoration, the rest is the blurred picture"
    return {"strength": f"{text}; --no-cautious returns all of it"}


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
