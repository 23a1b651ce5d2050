"""The commands that say what is there: `demo` and `info`."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Annotated

import typer

from ..networks.catalog import LICENSE, all_weights
from ..numerics.arrays import require_cuda
from .options import Device, DeviceOption, Overwrite
from .terminal import LOGGER, print_table, progress_bar

ON_CPU = "computing on the CPU"


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the pictures.", rich_help_panel="Output")
    ] = Path("demo"),
    overwrite: Overwrite = False,
    device: DeviceOption = Device.auto,
) -> None:
    """Deblur three pictures of a known blur. One is too hard; index.html in DIR shows them."""
    from ..batch.report import strength_text
    from ..blind.demo import run_demo

    page = out / "index.html"
    if page.exists() and not overwrite:
        raise FileExistsError(f"--out must be a new folder, {page} exists; name another, or give --overwrite")
    with progress_bar() as callback:
        report = run_demo(out, device=device.value, progress=callback)
    rows = {
        name: f"PSNR {figures.blurred_psnr:.2f} -> {figures.psnr:.2f} dB, confidence {figures.confidence:.2f}, "
        f"strength {strength_text(figures.strength)}, {figures.seconds:.1f} s"
        for name, figures in report.figures.items()
    }
    print_table({**rows, "backend": report.backend, "written": "\n".join(map(str, report.files))})


def info(
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON object.", rich_help_panel="Output")] = False,
) -> None:
    """Show versions, GPUs, backends and weights."""
    rows = {"python": f"{platform.python_version()} on {platform.platform()}"}
    for name in ("gpudeblur", "numpy", "scipy", "pillow", "tifffile", "imagecodecs", "scikit-image", "typer"):
        rows[name] = version_of(name)
    rows["cupy"] = version_of("cupy-cuda13x", "cupy-cuda12x", "cupy")
    rows["torch"] = version_of("torch")
    rows["numpy backend"] = "works, FFT: scipy.fft (pocketfft)"
    rows.update(_cuda_rows())
    for file in all_weights():
        data = file.read_bytes()
        checksum = hashlib.sha256(data).hexdigest()[:12]
        rows[f"weights of {file.stem.replace('_', '-')}"] = f"{len(data) / 1e3:.0f} kB, SHA-256 {checksum}, {LICENSE}"
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows)


def version_of(*names: str) -> str:
    """The version of the first of these distributions that is installed; nothing is imported."""
    from importlib import metadata

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
        LOGGER.debug("%s", error)
        if isinstance(error.__cause__, ImportError):
            reason = f'CuPy cannot be imported: {ON_CPU}; with an NVIDIA GPU: pip install "gpudeblur[cuda13]"'
        elif "compute capability" in str(error):
            reason = f"{str(error).partition(';')[0]}: {ON_CPU}"
        else:
            reason = f"no NVIDIA GPU found: {ON_CPU}"
        return {"cupy backend": reason}
    runtime = cupy.cuda.runtime
    rows = {"cupy backend": f"works, CUDA {runtime.runtimeGetVersion()}, FFT: cuFFT {cupy.cuda.cufft.getVersion()}"}
    for number in range(runtime.getDeviceCount()):
        device = runtime.getDeviceProperties(number)
        memory = device["totalGlobalMem"] / 2**30
        rows[f"GPU {number}"] = (
            f"{device['name'].decode()}, compute capability {device['major']}.{device['minor']}, {memory:.1f} GiB"
        )
    return rows
