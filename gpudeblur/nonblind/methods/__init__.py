"""The methods, one a file: f(blurred, kernel, *, ..., callback) on (..., H, W), without checks of their arguments."""

from __future__ import annotations

from collections.abc import Callable

from ...numerics.arrays import Array
from .epll import epll
from .hyper_laplacian import hyper_laplacian
from .l0 import l0
from .richardson_lucy import richardson_lucy
from .ringing import ringing_suppressed
from .sparse import sparse
from .tv import tv
from .wiener import wiener

METHODS: dict[str, Callable[..., Array]] = {
    "sparse": sparse,
    "hyper-laplacian": hyper_laplacian,
    "tv": tv,
    "epll": epll,
    "l0": l0,
    "ringing-suppressed": ringing_suppressed,
    "wiener": wiener,
    "richardson-lucy": richardson_lucy,
}
