"""What a user may set: the options of the method, and the checked arguments of a call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..images import checks
from ..images.kernels import prepare_kernel
from ..images.known_kernel import known_kernel
from ..images.white import check_white
from ..nonblind.final import FINALS
from ..nonblind.specs import METHOD_SPECS, check_installed
from ..numerics.arrays import Array, choose_module
from ..numerics.progress import Callback, OnProgress, make_progress
from ..priors import L0Intensity, Prior

# What each initialization changes of the options. They fail on different images: a wide support finds long, faint
# kernels, but lets a kernel spread over it where an image has little texture, or repetitive texture such as text.
STARTS: Mapping[str, Mapping[str, Any]] = {
    "wide": {},
    "relaxed": {"support_margin": 2, "iteration_threshold": (0.2, 0.02), "kernel_iterations": 40},
    "sparse": {"support_margin": 2, "iteration_threshold": (0.15, 0.15), "kernel_iterations": 40},
    "compact": {
        "support_margin": 0,
        "iteration_threshold": (0.2, 0.2),
        "kernel_iterations": 40,
        "kernel_weight": 1e-2,
        "smooth_weight": 0.0,
    },
    "text": {
        "support_margin": 0,
        "iteration_threshold": (0.1, 0.1),
        "kernel_solver": "cg",
        "edge_fraction": (0.3, 0.6),
        "prior": L0Intensity(which="both"),
    },
    # The kernel of the network "sketch" instead of the coarser scales: for faces; needs PyTorch. No default.
    "network": {},
}
# Fractions of the run: the kernel, where a restoration follows; of that, choosing the gamma and finding the size.
KERNEL_FRACTION, GAMMA_FRACTION, SIZE_FRACTION = 0.7, 0.1, 0.4


@dataclass(frozen=True, kw_only=True)
class TwoStepOptions:
    """Options of the two-step method ([Chen2017]), for images in [0, 1].

    The defaults are one fixed set for faces and landscapes, small and large kernels; `bench/README.md` has the figures
    behind them, and `docs/method.md` where they come from. Weights refer to |x * k - B|^2 with weight 1.

    Attributes
    ----------
    starts : tuple of str
        Initializations, names in `STARTS`. The kernel that scores best is kept, for each image by itself
        (`selection`). "network", which is no default, is the kernel of `restore(image, "sketch")`: it finds kernels of
        small faces that the others miss, and needs PyTorch. Values in `STARTS` override these options for that
        initialization; the finest scale uses these options, except as `schedule.finest_options` states. They race: only
        the best go on from half of the size (`racing`). With a single one nothing is ranked, and ``("wide",)`` is the
        fastest choice.
    finest_candidates : int
        How many kernels, the best ones, are taken through the finest scale.
    strength : float or None
        The restoration's share in the result, in [0, 1]; the rest is the observed image. None: less than 1 for an image
        whose kernel has little confidence, or whose restoration rings far beyond the image's range.
        ``info["strength"]`` is the share that was taken.
    dtype : {"float32", "float64"}
        Precision of all arrays.

    gradient_weight : float
        lambda at the coarsest scale, the weight of the L0 norm of the latent gradient, eq. 2. Larger: fewer, stronger
        edges, safer on images with little texture, but thicker kernels. The paper keeps 0.02 to 0.04; that it decays is
        decisive ([Pan2014] start at 4e-3).
    gradient_weight_decay : float
        lambda is divided by this after each iteration, at all scales but the finest ([Pan2014]: 1.1).
    gradient_weight_min : float
        lambda never falls below this ([Pan2014]).
    smooth_weight : float
        alpha, the weight of the local smooth prior, eq. 2 (paper: 4e-4 to 64e-4). 0 switches the prior off, as it
        always is at the finest scale and, with several initializations, after the race between them.
    smooth_sigma : float
        Standard deviation in pixels of its Gaussian at the coarsest scale; it grows by as much with each scale
        (paper: 0.3).
    prior : Prior or None
        A prior on the latent image, beside the two on its gradients: one of `gpudeblur.priors`, or your own. Its weight
        decays as lambda does. Scoring does not use it.
    beta_rate : float
        beta of eq. 3 starts at 2 lambda and grows by this factor (paper: 2).
    beta_max : float
        End of beta at all scales but the finest. Beyond 60 an iteration hardly changes the latent image ([Pan2014]:
        1e5, 11 more iterations).
    iterations : int
        Latent and kernel steps at each scale but the finest.
    scale_ratio : float
        Ratio of the sides of one scale to those of the next, at most 0.95 (paper: 1 / sqrt(2)).
    smallest_kernel : int
        Longer side of the coarsest kernel, in pixels (paper: 3; [Pan2014]: 7).

    finest_prior : bool
        Whether `prior` is used at the finest scale too, as in [Li2018]. It costs more there than at all other scales.
    finest_beta_max : float
        End of beta at the finest scale, where a larger one still helps a little, most with noise.
    finest_iterations : int
        Latent and kernel steps at the finest scale.
    finest_gradient_weight : pair of float
        lambda at the finest scale, in its first and its last iteration, for an image without noise: the kernel becomes
        crisp. With noise of sigma > 0.0063 it is (sigma / 0.0063)^2 times as large.
    finest_threshold : float
        Kernel pixels below this fraction of the maximum are set to 0 at the end.

    support_margin : int
        Pixels added to the kernel size while the kernel is estimated: a true kernel is rarely centered in its window.
    edge_fraction : pair of float
        Fraction of the latent gradients, the strongest ones, that the kernel step uses, at the coarsest scale and at
        the end. Smaller: safer on images with little texture, less precise.
    kernel_solver : {"nnls", "cg"}
        "nnls": least squares under k >= 0 by accelerated projected gradients. "cg": conjugate gradients, then clipped
        at 0, the paper's solver.
    kernel_iterations : int
        Iterations of that solver in each kernel step. Fewer: cheaper, thicker kernels.
    kernel_weight : float
        gamma of eq. 9, as a fraction of the energy of the selected gradients. Larger: smoother kernels.
    iteration_threshold : pair of float
        Kernel pixels below this fraction of the maximum are set to 0 after each kernel step, at the coarsest scale and
        at the end; 0: none. Larger: the kernel cannot spread over its support, and loses its faint parts.
    kernel_threshold : float
        The same between scales ([Pan2014]: 0.05).
    kernel_component : float
        Connected components with less than this fraction of the kernel's mass are removed. [Pan2014] take 0.1, which
        deletes thin tails.

    refine : bool
        Whether to run the second step, the L0 refinement of the kernel, eq. 12-16.
    refine_weight : float
        lambda of eq. 12, for a kernel scaled to maximum 1: pixels below its square root are taken for noise.
    refine_beta : float
        First beta of eq. 13, as a fraction of the energy of the selected gradients; it doubles up to 1. Smaller: the
        kernel is first solved more freely, which on real noise undoes the first step.
    """

    # The result
    starts: tuple[str, ...] = ("wide", "relaxed", "sparse", "compact", "text")
    finest_candidates: int = 2
    strength: float | None = None
    dtype: Literal["float32", "float64"] = "float32"
    # First step, all scales but the finest
    gradient_weight: float = 8e-3
    gradient_weight_decay: float = 1.07
    gradient_weight_min: float = 1e-4
    smooth_weight: float = 4e-4
    smooth_sigma: float = 0.3
    prior: Prior | None = None
    beta_rate: float = 2.0
    beta_max: float = 60.0
    iterations: int = 8
    scale_ratio: float = math.sqrt(0.5)
    smallest_kernel: int = 7
    # First step, finest scale
    finest_prior: bool = False
    finest_beta_max: float = 1e3
    finest_iterations: int = 6
    finest_gradient_weight: tuple[float, float] = (1e-3, 1e-4)
    finest_threshold: float = 0.03
    # Kernel step
    support_margin: int = 6
    edge_fraction: tuple[float, float] = (0.05, 0.2)
    kernel_solver: Literal["nnls", "cg"] = "nnls"
    kernel_iterations: int = 20
    kernel_weight: float = 3e-3
    iteration_threshold: tuple[float, float] = (0.0, 0.0)
    kernel_threshold: float = 0.05
    kernel_component: float = 0.03
    # Second step
    refine: bool = True
    refine_weight: float = 1e-4
    refine_beta: float = 0.1

    def __post_init__(self) -> None:
        integers = ("iterations", "finest_iterations", "kernel_iterations", "finest_candidates")
        for name in (*integers, "smallest_kernel", "support_margin"):
            self._check(name, isinstance(getattr(self, name), int), "be an integer")
        self._check_pair("edge_fraction", lambda end: 0 < end <= 1, "be two numbers in (0, 1]")
        self._check_pair("iteration_threshold", lambda end: 0 <= end < 1, "be two numbers in [0, 1)")
        self._check_pair("finest_gradient_weight", lambda end: 0 < end < math.inf, "be two positive numbers")
        ends = [end > 0 for end in self.iteration_threshold]
        self._check("iteration_threshold", all(ends) or not any(ends), "be both 0 or both above 0")
        several = isinstance(self.starts, (tuple, list)) and len(self.starts) > 0
        valid = several and all(isinstance(name, str) and name in STARTS for name in self.starts)
        self._check("starts", valid, f"be names out of {', '.join(STARTS)}")
        object.__setattr__(self, "starts", tuple(self.starts))
        for name in ("gradient_weight", "gradient_weight_min", "smooth_sigma", "refine_weight", "refine_beta"):
            self._check(name, getattr(self, name) > 0, "be positive")
        for name in ("smooth_weight", "kernel_weight", "support_margin"):
            self._check(name, getattr(self, name) >= 0, "not be negative")
        for name in ("gradient_weight_decay", *integers):
            self._check(name, getattr(self, name) >= 1, "be at least 1")
        for name in ("kernel_threshold", "kernel_component", "finest_threshold"):
            self._check(name, 0 <= getattr(self, name) < 1, "be in [0, 1)")
        self._check("beta_rate", self.beta_rate > 1, "be above 1")
        self._check("beta_max", self.beta_max > 2 * self.gradient_weight, "exceed 2 gradient_weight")
        finest = 2 * max(self.finest_gradient_weight)
        self._check("finest_beta_max", self.finest_beta_max > finest, "exceed 2 finest_gradient_weight")
        self._check("scale_ratio", 0 < self.scale_ratio <= 0.95, "be in (0, 0.95]")
        self._check("smallest_kernel", self.smallest_kernel >= 3, "be at least 3")
        self._check("smallest_kernel", self.smallest_kernel % 2 == 1, "be odd")
        self._check("support_margin", self.support_margin % 2 == 0, "be even")
        self._check("kernel_solver", self.kernel_solver in ("nnls", "cg"), "be 'nnls' or 'cg'")
        minimum = self.gradient_weight_min
        self._check("gradient_weight_min", minimum <= self.gradient_weight, "not exceed gradient_weight")
        for name, default in vars(type(self)).items():
            if isinstance(default, float):
                self._check(name, math.isfinite(getattr(self, name)), "be finite")
        complete = hasattr(self.prior, "step") and hasattr(self.prior, "weight") and not isinstance(self.prior, type)
        self._check("prior", self.prior is None or complete, "have a weight and a step (gpudeblur.priors.Prior)")
        hashable = getattr(type(self.prior), "__hash__", None) is not None
        self._check("prior", hashable, "be hashable, as a frozen dataclass is")
        is_share = isinstance(self.strength, int | float) and not isinstance(self.strength, bool)
        valid = self.strength is None or (is_share and 0 <= self.strength <= 1)
        self._check("strength", valid, "be a number in [0, 1]")
        for name in ("finest_prior", "refine"):
            self._check(name, isinstance(getattr(self, name), bool), "be True or False")
        self._check("dtype", self.dtype in ("float32", "float64"), "be 'float32' or 'float64'")

    def _check_pair(self, name: str, holds: Callable[[float], bool], rule: str) -> None:
        value = getattr(self, name)
        is_pair = isinstance(value, (tuple, list)) and len(value) == 2
        self._check(name, is_pair and all(holds(end) for end in value), rule)
        object.__setattr__(self, name, tuple(value))  # hashable

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must {rule}, got {getattr(self, name)!r}; leave it out for the default")

    def of_start(self, name: str) -> TwoStepOptions:
        """These options as that initialization changes them."""
        return replace(self, **STARTS[name])


def check_call(channel_axis: Any, device: Any, callback: Any) -> None:
    """Check the arguments that mean the same to `deblur` and `restore`."""
    if channel_axis is not None:
        checks.check_axis(channel_axis)
    make_progress(callback, "kernel")
    if device is not None:
        choose_module(np.empty(0), device)


def check_blur(blur: Any, focal: Any, final: Any) -> None:
    """Check `blur` and `focal`, and that the restoration `final` can do with a field of kernels."""
    checks.check_choice("blur", blur, ("uniform", "rotation"))
    varying = [name for name in FINALS if METHOD_SPECS[name].varying]
    if blur == "rotation" and final is not None and final not in varying:
        choices = " or ".join(map(repr, varying))
        raise ValueError(f"final must be {choices} or None for blur='rotation', got {final!r}; leave it out")
    if focal is not None:
        checks.check_focal(focal, "leave it out to have it estimated")
        if blur == "uniform":
            raise ValueError(f"focal must be left out for blur='uniform', got {focal!r}; use blur='rotation'")


def check_initial(initial: Any, kernel_size: tuple[int, int] | None) -> tuple[Array, tuple[int, int]]:
    """A kernel (kh, kw) to begin with, sum 1, and the kernel size: its own if none is given."""
    kernel = known_kernel(initial, name="initial")
    if kernel.ndim != 2:
        raise ValueError(f"initial must be one kernel (kh, kw), got shape {kernel.shape}; call once for each image")
    kernel = prepare_kernel(kernel)
    height, width = kernel.shape
    if kernel_size is not None and kernel_size != (height, width):
        raise ValueError(
            f"initial must have the kernel_size {kernel_size}, got {(height, width)}; leave kernel_size out, or crop "
            "or pad initial"
        )
    return kernel, checks.check_kernel_size((height, width))


@dataclass(frozen=True)
class Settings:
    """The arguments of `deblur`, `estimate_kernel` and `deblur_batch`, checked without reading a pixel."""

    kernel_size: tuple[int, int] | None
    channel_axis: int | None
    device: str | None
    final: str | None
    gamma: float | str
    options: TwoStepOptions
    callback: Callback | None = None
    blur: str = "uniform"
    focal: float | None = None
    white: float | str | None = None
    defects: str | None = "auto"
    region: tuple[slice, slice] | str = "auto"
    shared_kernel: bool = False
    initial: Array | None = None

    @classmethod
    def of(
        cls,
        kernel_size: Any,
        channel_axis: Any,
        device: Any,
        method: Any,
        final: Any,
        gamma: Any,
        prior: Any,
        options: Any,
        callback: Any = None,
        blur: Any = "uniform",
        focal: Any = None,
        white: Any = None,
        defects: Any = "auto",
        region: Any = "auto",
        shared_kernel: Any = False,
        initial: Any = None,
    ) -> Settings:
        """Check the arguments; those of `deblur`, with its errors."""
        checks.check_choice("method", method, ("two-step",))
        check_blur(blur, focal, final)
        if final is not None:
            checks.check_choice("final", final, FINALS)
            check_installed(final)
        if kernel_size is not None:
            kernel_size = checks.check_kernel_size(kernel_size)
        if initial is not None:
            initial, kernel_size = check_initial(initial, kernel_size)
        if not (isinstance(gamma, str) and gamma == "auto"):
            checks.check_gamma(gamma, "1 is linear, photos have about 2.2, 'auto' chooses between them")
        white = check_white(white)
        checks.check_defects(defects)
        region = checks.check_region(region)
        if not isinstance(shared_kernel, bool):
            raise TypeError(f"shared_kernel must be True or False, got {shared_kernel!r}; leave it out for False")
        if blur != "uniform" and not isinstance(region, str):
            raise ValueError(f"region must be 'all' for blur={blur!r}, got {region!r}; such a blur differs elsewhere")
        if blur != "uniform" and shared_kernel:
            raise ValueError(f"shared_kernel must be False for blur={blur!r}; it is one kernel for all of the images")
        check_call(channel_axis, device, callback)
        if not isinstance(options, TwoStepOptions | None):
            raise TypeError(f"options must be a TwoStepOptions, got {type(options).__name__}; name its fields in one")
        if prior is not None:
            if options is not None and options.prior not in (None, prior):
                raise ValueError(
                    f"prior must be given once, got {prior!r} and options.prior={options.prior!r}; leave one out"
                )
            options = replace(options or TwoStepOptions(), prior=prior)
        options = options or TwoStepOptions()
        if initial is not None and len(options.starts) == 1:
            raise ValueError(
                "initial needs two initializations or more to be compared with, got "
                f"options.starts={options.starts!r}; leave starts out"
            )
        if "network" in options.starts:  # without PyTorch or weights, this fails before the other starts have run
            from ..networks.restore import load

            load("sketch", None)
        return cls(
            kernel_size,
            channel_axis,
            device,
            final,
            gamma,
            options,
            callback,
            blur,
            focal,
            white,
            defects,
            region,
            shared_kernel,
            initial,
        )

    def gamma_progress(self) -> OnProgress:
        """The progress of choosing gammas."""
        return make_progress(self.callback, "kernel", end=self._fractions()[0])

    def size_progress(self) -> OnProgress:
        """The progress of finding the kernel's size."""
        begin, end, _ = self._fractions()
        return make_progress(self.callback, "kernel", begin=begin, end=end)

    def progress(self, begin: float, fraction: float) -> tuple[OnProgress, OnProgress]:
        """The progress of the kernels and of the restorations of a `fraction` of the images, from `begin` on."""
        _, size, kernel = self._fractions()
        start, end = size + (1 - size) * begin, size + (1 - size) * (begin + fraction)
        middle = end if kernel == 1 else start + (kernel - size) * fraction
        return (
            make_progress(self.callback, "kernel", begin=start, end=middle),
            make_progress(self.callback, "restoration", begin=middle, end=end),
        )

    def _fractions(self) -> tuple[float, float, float]:
        """(end of choosing the gamma, end of finding the size, end of the kernel) as fractions of the run."""
        kernel = 1.0 if self.final is None else KERNEL_FRACTION
        gamma = GAMMA_FRACTION * kernel if self.gamma == "auto" else 0.0
        return gamma, gamma + (SIZE_FRACTION * kernel if self.kernel_size is None else 0.0), kernel
