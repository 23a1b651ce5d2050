"""Blind image deblurring on NumPy and CuPy arrays: the sharp image and its blur kernel.

The rooms of the package, from the top; each imports only from those below it (docs/architecture.md):

    batch      many images: iterator, CPU and GPU executors, folders, reports
    blind      unknown kernel: the two-step method. Read `blind/deblur.py` first
    nonblind   known kernel: deconvolution, one method a file
    priors     priors on the latent image
    networks   everything that needs PyTorch
    images     images as data: checks, files, planes, noise, saturation
    numerics   arrays, transforms, CUDA launches

and the doors: this module, `cli` (the command line), `restoration` (for users of scikit-image), `metrics` and
`synthesis`.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import nonblind, priors
from .batch.iterator import BatchIterator, BatchResult, Progress, deblur_batch
from .blind.deblur import BlindResult, deblur, estimate_kernel
from .blind.options import TwoStepOptions
from .blind.restore import RestoreResult, restore
from .blind.streaks import streak_kernel
from .images.kernel_field import KernelField, show_kernels
from .images.noise import estimate_noise
from .nonblind.deconvolve import deconvolve
from .numerics.progress import Stopped, progress_bar

if _TYPE_CHECKING:
    from . import metrics, restoration, synthesis
    from .images.files import read_image, read_kernel, write_image, write_kernel

__all__ = [
    "BatchIterator",
    "BatchResult",
    "BlindResult",
    "KernelField",
    "Progress",
    "RestoreResult",
    "Stopped",
    "TwoStepOptions",
    "deblur",
    "deblur_batch",
    "deconvolve",
    "estimate_kernel",
    "estimate_noise",
    "metrics",
    "nonblind",
    "priors",
    "progress_bar",
    "read_image",
    "read_kernel",
    "restoration",
    "restore",
    "show_kernels",
    "streak_kernel",
    "synthesis",
    "write_image",
    "write_kernel",
]
__version__ = "0.1.0"

# Loaded when first used: file formats and quality measures bring libraries that deblurring does not need.
_MODULES = ("dask", "distributed", "metrics", "restoration", "synthesis")  # the first two need the extra `dask`
_FILES = ("read_image", "read_kernel", "write_image", "write_kernel")


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _import_module(f".{name}", __name__)
    if name in _FILES:
        return getattr(_import_module(".images.files", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
