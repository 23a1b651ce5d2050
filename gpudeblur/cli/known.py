"""The commands that estimate no blur: `deconvolve`, for a kernel that is known, and `restore`, by a network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import gpudeblur

from ..images.output import KERNEL_SUFFIXES
from ..networks.catalog import network_names
from .files import (
    COMPARISON_SUFFIXES,
    DEBLURRED,
    STREAM,
    check_further,
    check_picture_fits,
    input_file,
    output_file,
    write_picture,
)
from .options import (
    Bits,
    Compare,
    Defects,
    DefectsOption,
    Device,
    DeviceOption,
    Gamma,
    KernelFile,
    MaskOption,
    Out,
    Overwrite,
    PageOption,
    QualityOption,
    Source,
    StrengthOption,
    StripOption,
    WhiteLevel,
    parse_defects,
    parse_gamma,
    parse_mask,
    parse_strength,
    parse_white_level,
)
from .terminal import print_table, print_warning, progress_bar, shape_text

if TYPE_CHECKING:
    from ..images.files import ImageFile


def deconvolve(
    source: Source,
    kernel: KernelFile,
    out: Out = None,
    compare: Compare = None,
    overwrite: Overwrite = False,
    floor: Annotated[
        str | None,
        typer.Option(
            metavar="auto|F",
            rich_help_panel="Kernel",
            help="A constant to subtract from a measured kernel: the camera's offset, the sky. auto takes it from the "
            "kernel's border.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel="Restoration",
            help="tv: good under noise; sparse: better without; hyper-laplacian: between them; epll: patches of "
            "photographs; pnp: a neural network, best on photographs, slow; l0: text and drawings; ringing-suppressed: "
            "inexact kernels; wiener: fast; richardson-lucy: few photons. Default: tv, for a .npz kernel sparse.",
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            metavar="W",
            rich_help_panel="Restoration",
            help="Of the method's prior. Larger: less noise and ringing, less detail. Default: by the noise.",
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            metavar="SIGMA",
            rich_help_panel="Restoration",
            help="Standard deviation of the noise, as a fraction of full scale. Default: estimated.",
        ),
    ] = None,
    boundary: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel="Restoration",
            help="What is outside the picture: unknown; or faster, and worse along the borders: liu-jia, reflect, "
            "edge, taper, wrap.",
        ),
    ] = "unknown",
    iterations: Annotated[
        int | None,
        typer.Option(metavar="N", rich_help_panel="Restoration", help="Of tv, sparse and richardson-lucy."),
    ] = None,
    page: PageOption = None,
    gamma: Gamma = None,
    white_level: WhiteLevel = None,
    mask: MaskOption = None,
    defects: DefectsOption = Defects.auto,
    bits: Bits = None,
    quality: QualityOption = None,
    strip: StripOption = False,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="auto|N",
            rich_help_panel="Speed",
            help="Restore tiles of N pixels a side, where a large picture does not fit into memory; auto: as large as "
            "fit.",
        ),
    ] = None,
    device: DeviceOption = Device.auto,
) -> None:
    """Deblur a picture by a kernel that is known."""
    from ..images.files import read_image

    with input_file(source) as file:
        settings = {
            "method": method,
            "boundary": boundary,
            "weight": weight,
            "noise_sigma": noise,
            "floor": _number_or_auto("--floor", floor, float, "a number"),
            "iterations": iterations,
            "tile": _number_or_auto("--tile", tile, int, "a number of pixels"),
            "gamma": parse_gamma(gamma, None, "--kernel"),
            "white": parse_white_level(white_level),
            "mask": mask,
            "defects": parse_defects(defects),
            "device": device.value,
        }
        encoding: dict[str, Any] = {"bits": bits, "quality": quality}
        target = output_file(source, out, DEBLURRED, overwrite=overwrite, **encoding)
        check_further({"--compare": (compare, COMPARISON_SUFFIXES)}, source, target, overwrite=overwrite)
        photo = read_image(file, page=page)
        restored(photo, kernel, target, settings, **encoding, strip=strip, compare=compare)


def restored(
    photo: ImageFile,
    kernel_file: Path,
    target: Path,
    settings: Mapping[str, Any],
    *,
    bits: int | None,
    quality: int | None,
    strip: bool,
    compare: Path | None,
) -> None:
    """Read the kernel, write the restoration of the `photo`, and print the table.

    `settings` are those of `gpudeblur.deconvolve`, with the mask as its option has it, and gamma None for that of the
    kernel's file.
    """
    from ..images.comparison import write_comparison

    kernel = read_single_kernel(kernel_file)
    gamma, gamma_text = gamma_with_kernel(settings["gamma"], kernel_file)
    check_picture_fits(target, photo, bits)
    start, white = time.perf_counter(), settings["white"]
    with progress_bar() as callback:
        image = gpudeblur.deconvolve(
            photo.pixels,
            kernel,
            channel_axis=channel_axis_of(photo.pixels),
            callback=callback,
            **(dict(settings) | {"gamma": gamma, "mask": parse_mask(settings["mask"], photo.pixels.shape[:2])}),
        )
    seconds = time.perf_counter() - start
    level = float(white) if isinstance(white, int | float) and image.dtype.kind == "f" else None
    write_picture(target, image, photo, bits=bits, quality=quality, white=level, strip=strip)
    if compare is not None:
        write_comparison(compare, photo.pixels, image, kernel, white)
    size = shape_text(kernel) if isinstance(kernel, np.ndarray) else shape_text(kernel.kernels)
    method = settings["method"] or ("tv" if isinstance(kernel, np.ndarray) else "sparse")
    rows = {
        "kernel": f"{size}, of {kernel_file}; nothing was estimated",
        "method": method,
        "gamma": gamma_text,
        "seconds": f"{seconds:.2f}",
    }
    show_result(photo.pixels, rows, target, compare)


def restore(
    source: Source,
    network: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel="Restoration",
            help=f"{', '.join(network_names())}; needs PyTorch.",
        ),
    ],
    out: Out = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel="Restoration",
            help="Weights that gpudeblur train wrote. Default: the package's.",
        ),
    ] = None,
    strength: StrengthOption = "auto",
    kernel_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel="Output",
            help="Also write the kernel, if the network estimates one: .npy, .tif or .png.",
        ),
    ] = None,
    compare: Compare = None,
    overwrite: Overwrite = False,
    tile: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel="Speed",
            help="Side of the tiles of a large picture. Default: what is needed.",
        ),
    ] = None,
    page: PageOption = None,
    white_level: WhiteLevel = None,
    mask: MaskOption = None,
    device: DeviceOption = Device.auto,
    bits: Bits = None,
    quality: QualityOption = None,
    strip: StripOption = False,
) -> None:
    """Restore a blurred face by a trained network."""
    from ..batch.folders import white_of_file
    from ..images.comparison import write_comparison
    from ..images.files import read_image, write_kernel

    with input_file(source) as file:
        blend, white = parse_strength(strength), parse_white_level(white_level)
        target = output_file(source, out, DEBLURRED, overwrite=overwrite, bits=bits, quality=quality)
        further = {"--kernel-out": (kernel_out, KERNEL_SUFFIXES), "--compare": (compare, COMPARISON_SUFFIXES)}
        check_further(further, source, target, overwrite=overwrite)
        if kernel_out is not None:
            check_estimates_kernel("--kernel-out", network)
        photo = read_image(file, page=page)
        check_picture_fits(target, photo, bits)
        with progress_bar() as callback:
            result = gpudeblur.restore(
                photo.pixels,
                network,
                channel_axis=channel_axis_of(photo.pixels),
                device=device.value,
                weights=weights,
                strength=blend,
                tile="auto" if tile is None else tile,
                white=white,
                mask=parse_mask(mask, photo.pixels.shape[:2]),
                callback=callback,
            )
        level = white_of_file(result, white)
        write_picture(target, result.image, photo, bits=bits, quality=quality, white=level, strip=strip)
        if kernel_out is not None and result.kernel is not None:
            write_kernel(kernel_out, result.kernel)
        if compare is not None:
            write_comparison(compare, photo.pixels, result.image, result.kernel, result.info.get("white"))
        rows = {
            "network": network,
            "backend": result.info["backend"],
            "confidence": f"{result.info['confidence']:.2f}",
            "strength": f"{result.info['strength']:.2f}",
            "seconds": f"{result.info['seconds']:.2f}",
        }
        show_result(photo.pixels, rows, target, kernel_out, compare)


def read_single_kernel(path: Path) -> Any:
    """The kernel (kh, kw), or the field of kernels, in the file of --kernel."""
    from ..images.files import read_kernel

    if not path.is_file():
        raise FileNotFoundError(f"--kernel must be a file, there is none at {path}; gpudeblur kernel writes one")
    kernel = read_kernel(path)
    if isinstance(kernel, np.ndarray) and kernel.ndim != 2:
        shape = shape_text(kernel)
        raise ValueError(f"--kernel must hold one kernel, got {shape} in {path}; save the one to use by itself")
    return kernel


def gamma_with_kernel(gamma: float | None, kernel_file: Path) -> tuple[float, str]:
    """--gamma, or that of the kernel's file, or 1; and where it comes from."""
    from ..images.files import kernel_gamma

    stored = kernel_gamma(kernel_file)
    if gamma is None:
        if stored is None:
            return 1.0, f"1, as {kernel_file} says none; --gamma 2.2 if the kernel belongs to linear light of a photo"
        return stored, f"{stored:g}, of {kernel_file}"
    if stored is not None and abs(stored - gamma) > 1e-6:
        print_warning(f"--gamma {gamma:g} differs from that of the kernel, {stored:g} in {kernel_file}; leave it out")
    return gamma, f"{gamma:g}"


def channel_axis_of(pixels: Any) -> int | None:
    return -1 if pixels.ndim == 3 else None


def refuse_options(option: str, others: Mapping[str, bool]) -> None:
    """Raise if one of the `others`, which make no sense with `option`, was given."""
    present = [name for name, is_present in others.items() if is_present]
    if present:
        raise ValueError(f"{present[0]} must be left out with {option}; leave out one of them")


def check_estimates_kernel(option: str, method: str) -> None:
    """Refuse a file for kernels with a network that estimates none."""
    from ..networks.restore import estimates_kernel

    if method in network_names() and not estimates_kernel(method):
        raise ValueError(f"{option} needs a method that estimates the kernel, got {method!r}; leave it out")


def show_result(pixels: Any, rows: Mapping[str, str], *files: Path | None) -> None:
    """The table of a command: its picture, `rows`, and the files that it wrote, of which the first is the result."""
    written = [str(file) for file in files if file is not None and file != STREAM]
    table = {"picture": shape_text(pixels), **rows}
    print_table(table | ({"written": "\n".join(written)} if written else {}), stderr=files[0] == STREAM)


def _number_or_auto(option: str, text: str | None, kind: type, what: str) -> Any:
    if text is None or text.lower() == "auto":
        return text if text is None else "auto"
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{option} must be auto or {what}, got {text!r}; leave it out for the default") from None
