"""The table of the methods for a known kernel: functions, parameters with their checks, and what each supports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..images import checks
from ..networks.bridge import torch_module
from ..numerics.arrays import Array
from ..numerics.boundary import MODES
from .methods.epll import WEIGHT_RULE as EPLL_RULE
from .methods.epll import epll
from .methods.hyper_laplacian import WEIGHT_RULE as HYPER_LAPLACIAN_RULE
from .methods.hyper_laplacian import hyper_laplacian
from .methods.l0 import WEIGHT_RULE as L0_RULE
from .methods.l0 import l0
from .methods.mixture import SIDE, Mixture
from .methods.pnp import WEIGHT_RULE as PNP_RULE
from .methods.pnp import pnp
from .methods.richardson_lucy import richardson_lucy
from .methods.ringing import ringing_suppressed
from .methods.sparse import WEIGHT_RULE as SPARSE_RULE
from .methods.sparse import sparse
from .methods.tv import tv
from .methods.unsupervised_wiener import unsupervised_wiener
from .methods.wiener import PRIORS, wiener
from .regularization import WeightRule
from .splitting import TV_RULE

Check = Callable[[str, Any, tuple[int, ...]], Any]  # (name, value, shape of the stack) -> the value for the method


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """What a method is, and what it supports.

    Attributes
    ----------
    function : f(blurred, kernel, *, ..., callback), without checks.
    parameters : its own parameters and their checks; `boundary`, `saturated`, `mask` and `callback` are not among them.
    boundaries : accepted values of `boundary`; with a single one, the function has no such parameter.
    saturated : whether it takes a mask of saturated pixels.
    iterations : the parameter that ``deconvolve(iterations=)`` sets, or "".
    weight_rule : the automatic weight as a function of the noise, or None.
    live_arrays : by backend, how many arrays of the grid's size live at once with an unknown boundary: measured on
        NumPy (tests/nonblind/test_tiles.py), on CuPy by `deblur` on an H200 (tests/batch/test_memory.py), except for
        "pnp". None: the image cannot be cut into tiles.
    replayable : whether it waits for a device nowhere, so that its launches can become a CUDA graph.
    varying : whether it takes a `KernelField` for the kernel.
    nonnegative : whether negative values of the image count as 0, so that it has an option `offset`.
    network : whether it needs PyTorch, and has an option `color` for images whose colors it restores together.
    final : options with which `deblur` ends in this method, or None if it does not offer it.
    """

    function: Callable[..., Array]
    parameters: Mapping[str, Check]
    boundaries: tuple[str, ...] = MODES
    saturated: bool = True
    iterations: str = ""
    weight_rule: WeightRule | None = None
    live_arrays: Mapping[str, float] | None = None
    replayable: bool = True
    varying: bool = False
    nonnegative: bool = False
    network: bool = False
    final: Mapping[str, Any] | None = None

    @property
    def weight(self) -> bool:
        return "weight" in self.parameters

    @property
    def mask(self) -> bool:
        """Whether it leaves out pixels that are not valid."""
        return "unknown" in self.boundaries

    @property
    def parameter_names(self) -> list[str]:
        extra = {"boundary": len(self.boundaries) > 1, "saturated": self.saturated, "mask": self.mask, "callback": True}
        return [*self.parameters, *(name for name, present in extra.items() if present)]


def unchecked(name: str, value: Any, stack: tuple[int, ...]) -> Any:
    return value


def flag(name: str, value: Any, stack: tuple[int, ...]) -> bool:
    return checks.check_flag(name, value)


def patch_mixture(name: str, value: Any, stack: tuple[int, ...]) -> Mixture | None:
    if not isinstance(value, Mixture | None):
        raise TypeError(f"{name} must be a gpudeblur.nonblind.methods.mixture.Mixture, got {type(value).__name__}")
    return value


def color_axis(name: str, value: Any, stack: tuple[int, ...]) -> bool:
    if checks.check_flag(name, value) and stack[-1:] != (3,):
        raise ValueError(f"{name} must be False where axis -3 has no three colors, got a stack {stack}; leave it out")
    return bool(value)


def denoising_module(name: str, value: Any, stack: tuple[int, ...]) -> Callable[..., Any] | None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, got {type(value).__name__}; pass a torch.nn.Module")
    return value


def _positive_per_image(*, zero: bool = False) -> Check:
    """A positive number, one per image, or None."""
    return lambda name, value, stack: None if value is None else checks.check_positive(name, value, stack, zero=zero)


def _count(minimum: int) -> Check:
    return lambda name, value, _: checks.check_count(name, value, minimum=minimum)


def _number(rule: str, holds: Callable[[float], bool], **way_out: str) -> Check:
    return lambda name, value, _: checks.check_number(name, value, rule, holds, **way_out)


def _stride(name: str, value: Any, stack: tuple[int, ...]) -> int:
    stride = checks.check_count(name, value)
    if stride > SIDE:
        raise ValueError(f"{name} must be from 1 to {SIDE}, the side of a patch, got {stride}; larger ones skip pixels")
    return stride


def _prior(name: str, value: Any, stack: tuple[int, ...]) -> str:
    checks.check_choice(name, value, PRIORS)
    return str(value)


_WEIGHT, _NOISE_SIGMA = _positive_per_image(), _positive_per_image(zero=True)
_POSITIVE = _number("above 0", lambda x: x > 0)
_NOT_NEGATIVE = _number("at least 0", lambda x: x >= 0)
_CONTINUATION = {
    "beta_rate": _number("above 1", lambda x: x > 1),
    "beta_max": _number("above 0 and at most 1e12", lambda x: 0 < x <= checks.MAX_POSITIVE),
}
_CROSSFADES = ("reflect", "edge", "wrap")
FILTER_BOUNDARIES = ("unknown", *_CROSSFADES)  # of methods that are not built on `splitting.solve`
_SPLITTING_ARRAYS = {"numpy": 19.4, "cupy": 29.0}  # `tv_admm` takes most, in every method that calls it

METHOD_SPECS = {
    "tv": MethodSpec(
        function=tv,
        parameters={"weight": _WEIGHT, "isotropic": flag, "iterations": _count(1)},
        iterations="iterations",
        weight_rule=TV_RULE,
        live_arrays=_SPLITTING_ARRAYS,
        final={},
    ),
    "hyper-laplacian": MethodSpec(
        function=hyper_laplacian,
        parameters={
            "weight": _WEIGHT,
            "exponent": _number("above 0 and below 1", lambda x: 0 < x < 1, way_out="tv is 1, l0 is 0"),
            **_CONTINUATION,
        },
        weight_rule=HYPER_LAPLACIAN_RULE,
        live_arrays=_SPLITTING_ARRAYS,
        final={"weight": 5e-4, "boundary": "liu-jia"},  # one CUDA graph: that needs a fixed weight
    ),
    "sparse": MethodSpec(
        function=sparse,
        parameters={
            "weight": _WEIGHT,
            "exponent": _number("above 0 and at most 2", lambda x: 0 < x <= 2),
            "reweightings": _count(0),
            "iterations": _count(1),
        },
        boundaries=("unknown",),
        iterations="iterations",
        weight_rule=SPARSE_RULE,
        live_arrays={"numpy": 22.0, "cupy": 31.0},
        varying=True,
        final={},
    ),
    "epll": MethodSpec(
        function=epll,
        replayable=False,
        parameters={"weight": _WEIGHT, "stride": _stride, "mixture": patch_mixture},
        saturated=False,
        weight_rule=EPLL_RULE,
        live_arrays=_SPLITTING_ARRAYS,
    ),
    "pnp": MethodSpec(
        function=pnp,
        replayable=False,
        parameters={"weight": _WEIGHT, "color": color_axis, "denoiser": denoising_module},
        boundaries=("unknown",),
        weight_rule=PNP_RULE,
        live_arrays={"numpy": 65.0, "cupy": 65.0},  # with those of PyTorch; in color 30 a plane
        varying=True,
        network=True,
        final={},
    ),
    "l0": MethodSpec(
        function=l0,
        parameters={"weight": _WEIGHT, **_CONTINUATION},
        weight_rule=L0_RULE,
        live_arrays=_SPLITTING_ARRAYS,
    ),
    "ringing-suppressed": MethodSpec(
        function=ringing_suppressed,
        parameters={
            "weight": _WEIGHT,
            "flat_weight": _WEIGHT,
            "suppression": _number("between 0 and 1", lambda x: 0 <= x <= 1),
            "sigma": _POSITIVE,
            "range_sigma": _POSITIVE,
        },
        weight_rule=TV_RULE,
        live_arrays=_SPLITTING_ARRAYS,
    ),
    "wiener": MethodSpec(
        function=wiener,
        parameters={"weight": _WEIGHT, "prior": _prior, "noise_sigma": _NOISE_SIGMA},
        boundaries=FILTER_BOUNDARIES,
        saturated=False,
    ),
    "richardson-lucy": MethodSpec(
        function=richardson_lucy,
        replayable=False,
        parameters={
            "num_iter": _count(1),
            "accelerated": flag,
            "damping": _NOT_NEGATIVE,
            "tv_weight": _NOT_NEGATIVE,
            "discrepancy": _NOT_NEGATIVE,
            "noise_sigma": _NOISE_SIGMA,
            "offset": _NOT_NEGATIVE,
        },
        boundaries=FILTER_BOUNDARIES,
        iterations="num_iter",
        varying=True,
        nonnegative=True,
    ),
}
# Not a method of `deconvolve`, since its result depends on random numbers.
UNSUPERVISED_WIENER = MethodSpec(
    function=unsupervised_wiener,
    parameters={
        "prior": _prior,
        "threshold": _NOT_NEGATIVE,
        "burnin": _count(0),
        "min_num_iter": _count(0),
        "max_num_iter": _count(2),
        "rng": unchecked,
    },
    boundaries=_CROSSFADES,
    saturated=False,
)
METHODS: dict[str, Callable[..., Array]] = {name: spec.function for name, spec in METHOD_SPECS.items()}


def check_installed(method: str) -> None:
    """Raise an ImportError if a method needs PyTorch and that is missing."""
    if METHOD_SPECS[method].network:
        torch_module()


def color_option(method: str, planes: Array) -> dict[str, bool]:
    """The option `color` for images (..., C, H, W) of a method that has it."""
    return {"color": True} if METHOD_SPECS[method].network and planes.shape[-3:-2] == (3,) else {}
