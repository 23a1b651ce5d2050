"""The commands for a blur that is not known: `deblur` and `kernel`."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import gpudeblur

from ..images.output import KERNEL_SUFFIXES
from .files import (
    COMPARISON_SUFFIXES,
    DEBLURRED,
    KERNEL,
    STREAM,
    check_further,
    check_picture_fits,
    input_file,
    output_file,
    write_kernel_file,
    write_picture,
)
from .known import channel_axis_of, refuse_options, restored, show_result
from .options import (
    Bits,
    Blur,
    BlurOption,
    Compare,
    Defects,
    DefectsOption,
    Device,
    DeviceOption,
    Final,
    FinalOption,
    FocalOption,
    Gamma,
    GradientWeight,
    KernelSize,
    KnownKernel,
    MaskOption,
    Out,
    Overwrite,
    PageOption,
    Preset,
    PresetOption,
    PriorOption,
    QualityOption,
    RegionOption,
    SmoothWeight,
    Source,
    StrengthOption,
    StripOption,
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
from .terminal import progress_bar, shape_text


def deblur(
    source: Source,
    out: Out = None,
    kernel_size: KernelSize = "auto",
    kernel_file: KnownKernel = None,
    kernel_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel="Output",
            help="Also write the kernel: .npy, .tif, or .png to look at. With --blur rotation, .png shows the kernels "
            "all over the picture, and .npz holds them.",
        ),
    ] = None,
    compare: Compare = None,
    overwrite: Overwrite = False,
    region: RegionOption = "auto",
    preset: PresetOption = Preset.standard,
    blur: BlurOption = Blur.uniform,
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    final: FinalOption = Final.sparse,
    strength: StrengthOption = "auto",
    page: PageOption = None,
    gamma: Gamma = None,
    white_level: WhiteLevel = None,
    mask: MaskOption = None,
    defects: DefectsOption = Defects.auto,
    focal: FocalOption = "auto",
    bits: Bits = None,
    quality: QualityOption = None,
    strip: StripOption = False,
    device: DeviceOption = Device.auto,
) -> None:
    """Deblur a picture. The blur is estimated from the picture alone."""
    from ..batch.folders import white_of_file
    from ..images.comparison import write_comparison
    from ..images.files import read_image

    with input_file(source) as file:
        blend, where, light = parse_strength(strength), parse_region(region), parse_gamma(gamma)
        size, white = parse_kernel_size(kernel_size), parse_white_level(white_level)
        focal_length = parse_focal(focal, blur, file)
        encoding: dict[str, Any] = {"bits": bits, "quality": quality}
        target = output_file(source, out, DEBLURRED, overwrite=overwrite, **encoding)
        suffixes = (*KERNEL_SUFFIXES, ".npz") if blur is Blur.rotation else KERNEL_SUFFIXES
        further = {"--kernel-out": (kernel_out, suffixes), "--compare": (compare, COMPARISON_SUFFIXES)}
        check_further(further, source, target, overwrite=overwrite)
        settings: dict[str, Any] = {
            "device": device.value,
            "white": white,
            "defects": parse_defects(defects),
        }
        if kernel_file is not None:
            refuse_options(
                "--kernel, which leaves nothing to be estimated",
                {
                    "--kernel-size": size is not None,
                    "--kernel-out": kernel_out is not None,
                    "--region": where != "auto",
                    "--preset": preset is not Preset.standard,
                    "--blur": blur is Blur.rotation,
                    "--gradient-weight": gradient_weight is not None,
                    "--smooth-weight": smooth_weight is not None,
                    "--prior": prior is not None,
                    "--strength": blend not in ("auto", 1),
                },
            )
            settings |= {"method": final.value, "gamma": parse_gamma(gamma, None, "--kernel"), "mask": mask}
            photo = read_image(file, page=page)
            restored(photo, kernel_file, target, settings, **encoding, strip=strip, compare=compare)
            return
        options = two_step_options(gradient_weight, smooth_weight, prior, preset=preset, strength=blend)
        photo = read_image(file, page=page)
        check_picture_fits(target, photo, bits)
        with progress_bar() as callback:
            result = gpudeblur.deblur(
                photo.pixels,
                size,
                channel_axis=channel_axis_of(photo.pixels),
                final=final.value,
                gamma=light,
                mask=parse_mask(mask, photo.pixels.shape[:2]),
                region=where,
                blur=blur.value,
                focal=focal_length,
                options=options,
                callback=callback,
                **settings,
            )
        write_picture(target, result.image, photo, **encoding, white=white_of_file(result, white), strip=strip)
        if kernel_out is not None:
            _write_kernel_or_field(kernel_out, result, photo.pixels.shape[:2])
        if compare is not None:
            blur_kernel = result.kernel if result.field is None else result.field
            write_comparison(compare, photo.pixels, result.image, blur_kernel, result.info.get("white"))
        rows = {
            "kernel size": shape_text(result.kernel),
            **_blur_rows(result, blur, focal_length, focal),
            "backend": result.info["backend"],
            **_kernel_rows(result, photo.pixels.shape[:2]),
            "strength": _strength_row(result, blend),
            "seconds": f"{result.info['seconds']:.2f}",
        }
        show_result(photo.pixels, rows, target, kernel_out, compare)


def kernel(
    source: Source,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            rich_help_panel="Output",
            help="The kernel: .npy, .tif, .png to look at, a folder, or - for standard output (.npy). Default: "
            "NAME_kernel.npy beside IN.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    kernel_size: KernelSize = "auto",
    region: RegionOption = "auto",
    preset: PresetOption = Preset.standard,
    gradient_weight: GradientWeight = None,
    smooth_weight: SmoothWeight = None,
    prior: PriorOption = None,
    from_streak: Annotated[
        bool,
        typer.Option(
            "--from-streak",
            rich_help_panel="Kernel",
            help="Read the kernel off the traces of lamps or stars; estimate nothing.",
        ),
    ] = False,
    page: PageOption = None,
    gamma: Gamma = None,
    white_level: WhiteLevel = None,
    mask: MaskOption = None,
    defects: DefectsOption = Defects.auto,
    device: DeviceOption = Device.auto,
) -> None:
    """Estimate the blur kernel of a picture, without deblurring it."""
    from ..images.files import read_image

    with input_file(source) as file:
        size, white, where = parse_kernel_size(kernel_size), parse_white_level(white_level), parse_region(region)
        if from_streak:
            refuse_options(
                "--from-streak, which estimates nothing",
                {
                    "--kernel-size": size is not None,
                    "--region": where != "auto",
                    "--preset": preset is not Preset.standard,
                    "--gradient-weight": gradient_weight is not None,
                    "--smooth-weight": smooth_weight is not None,
                    "--prior": prior is not None,
                    "--mask": mask is not None,
                    "--defects": defects is not Defects.auto,
                },
            )
        target = output_file(source, out, KERNEL, suffix=".npy", suffixes=KERNEL_SUFFIXES, overwrite=overwrite)
        photo = read_image(file, page=page)
        start, channel_axis, rows = time.perf_counter(), channel_axis_of(photo.pixels), dict[str, str]()
        if from_streak:
            light = parse_gamma(gamma, 1.0, "--from-streak")
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
                    region=where,
                    options=two_step_options(gradient_weight, smooth_weight, prior, preset=preset),
                    callback=callback,
                )
            estimate, light = result.kernel, result.info["gamma"]
            rows = _kernel_rows(result, photo.pixels.shape[:2])
        seconds = time.perf_counter() - start
        write_kernel_file(target, estimate, light)
        rows = {"kernel size": shape_text(estimate), **rows, "seconds": f"{seconds:.2f}"}
        if target != STREAM and source != STREAM:
            rows["apply it"] = shlex.join(["gpudeblur", "deconvolve", str(source), "--kernel", str(target)])
        show_result(photo.pixels, rows, target)


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


def _kernel_rows(result: Any, shape: tuple[int, int]) -> dict[str, str]:
    from ..batch.report import LOW_CONFIDENCE

    confidence = f"{result.info['confidence']:.2f}"
    if result.info["confidence"] < LOW_CONFIDENCE:
        height, width = shape
        middle = f"{width // 4},{height // 4},{width // 2},{height // 2}"
        confidence += (
            ", low: the kernel is a guess; try another --kernel-size, or --region X,Y,W,H with a part that has edges "
            f"in all directions ({middle} is the middle)"
        )
    return {"gamma": f"{result.info['gamma']:g}", "confidence": confidence}


def _strength_row(result: Any, asked: float | str) -> str:
    """The restoration's share in the result."""
    from ..batch.report import strength_text

    strength = result.info.get("strength", 1.0)
    if strength >= 1:
        return "1.00, all of the restoration"
    text = f"{strength_text(strength)} of the restoration, the rest is the blurred picture"
    return f"{text}; --strength 1 returns all of it" if asked == "auto" else text


def _write_kernel_or_field(path: Path, result: Any, shape: tuple[int, int]) -> None:
    """The field of a result for a picture of `shape`, in a file that can hold it, or else its kernel."""
    from ..images.files import write_image, write_kernel

    suffix, gamma = path.suffix.lower(), result.info["gamma"]
    if suffix == ".npz":
        field = result.field
        (gpudeblur.KernelField(result.kernel[None, None], shape) if field is None else field).save(path, gamma=gamma)
    elif suffix == ".png" and result.field is not None:
        write_image(path, gpudeblur.show_kernels(result.field))
    else:
        write_kernel(path, result.kernel, gamma=gamma)
