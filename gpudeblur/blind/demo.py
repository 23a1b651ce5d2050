"""`gpudeblur demo`: an image blurred by a known camera shake, and one blurred by a camera, both deblurred blind."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..images.files import write_image, write_whole
from ..images.planes import luminance
from ..metrics import align, psnr, ssim
from ..synthesis import blur, trajectory_kernel
from .deblur import BlindResult, Callback, deblur

KERNEL_SIZE = 27
CLOCK_KERNEL_SIZE = (11, 51)  # the camera moved sideways
KERNEL_SEED = 7
# An estimated kernel may sit a few pixels off the true one, and the picture with it: scores are at the best shift.
BORDER = 20


@dataclass(frozen=True)
class DemoReport:
    """What the demo measured and wrote: PSNR in dB and SSIM against the true picture, before and after; seconds."""

    blurred_psnr: float
    psnr: float
    blurred_ssim: float
    ssim: float
    seconds: float
    clock_seconds: float
    backend: str
    files: tuple[Path, ...]


def run_demo(out: Path, *, device: str | None = None, progress: Callback | None = None) -> DemoReport:
    """Deblur scikit-image's astronaut (blurred here, in colour) and clock (blurred by the camera) into folder `out`.

    Writes `astronaut.png` and `clock.png` (blurred | result | true, with the kernels), and the results by themselves.
    """
    from skimage import data

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    kernel = trajectory_kernel(KERNEL_SIZE - 4, rng=KERNEL_SEED)
    true = data.astronaut().astype(np.float32) / 255
    planes = np.moveaxis(true, -1, 0)
    taken = np.clip(np.moveaxis(blur(planes, kernel.astype(np.float32)), 0, -1), 0, 1)
    blurred = np.round(taken * 255).astype(np.uint8)
    margin = kernel.shape[0] // 2
    true = true[margin:-margin, margin:-margin]
    astronaut = deblur(blurred, KERNEL_SIZE, channel_axis=-1, device=device, callback=_half(progress, 0))
    clock_picture = data.clock()
    clock = deblur(clock_picture, CLOCK_KERNEL_SIZE, device=device, callback=_half(progress, 1))

    before, after = _scores(blurred, true), _scores(astronaut.image, true)
    files = [out / name for name in ("astronaut.png", "clock.png", "astronaut_deblurred.png", "clock_deblurred.png")]
    _comparison(
        files[0],
        [("blurred", blurred), ("deblurred blind", astronaut.image), ("true", true)],
        [("true kernel", kernel), ("kernel found", astronaut.kernel)],
    )
    _comparison(
        files[1],
        [("blurred by the camera", clock_picture), ("deblurred blind", clock.image)],
        [("kernel found", clock.kernel)],
    )
    write_image(files[2], astronaut.image)
    write_image(files[3], clock.image)
    return DemoReport(
        before[0],
        after[0],
        before[1],
        after[1],
        _seconds(astronaut),
        _seconds(clock),
        str(astronaut.info["backend"]),
        tuple(files),
    )


def _half(progress: Callback | None, index: int) -> Callback | None:
    """The first or second half of the demo's progress."""
    if progress is None:
        return None
    name = ("astronaut", "clock")[index]
    return lambda stage, fraction: progress(f"{name}: {stage}", (index + fraction) / 2)


def _seconds(result: BlindResult) -> float:
    return float(result.info["seconds"])


def _scores(picture: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM of the luminance at the best shift."""
    gray = luminance(np.moveaxis(picture.astype(np.float64) / 255, -1, 0))
    aligned = align(gray, luminance(np.moveaxis(true.astype(np.float64), -1, 0)), border=BORDER)
    return psnr(aligned.image, aligned.reference), ssim(aligned.image, aligned.reference)


def _comparison(path: Path, pictures: list[tuple[str, np.ndarray]], kernels: list[tuple[str, Any]]) -> None:
    """Pictures side by side, kernels in a column beside them, as one PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = pictures[0][1].shape[:2]
    figure = Figure(figsize=(4 * len(pictures) + 2, 4 * height / width + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(kernels), len(pictures) + 1, width_ratios=[4] * len(pictures) + [2])
    panels = [(grid[:, i], title, picture) for i, (title, picture) in enumerate(pictures)]
    panels += [(grid[i, -1], title, kernel) for i, (title, kernel) in enumerate(kernels)]
    for cell, title, panel in panels:
        axes = figure.add_subplot(cell)
        axes.imshow(panel, cmap="gray", interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png")
    write_whole(path, png.getvalue())
