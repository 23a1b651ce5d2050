"""Options: frozen, one default for every picture, each with its unit and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..priors import L0Intensity, Prior

# What each start changes of the options. They fail on different pictures: a wide support finds long, faint kernels, but
# lets a kernel run all over it where a picture has little to say, or much of the same, as text has.
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
}


@dataclass(frozen=True, kw_only=True)
class TwoStepOptions:
    """Options of the two-step method (Chen & Chang 2017, "seed 0"), for pictures in [0, 1].

    The defaults are one fixed set for faces and landscapes, small and large kernels; `bench/README.md` has the
    figures behind them. Weights refer to |x * k - B|^2 with weight 1.
    """

    #: lambda at the coarsest scale: weight of the L0 norm of the latent gradient, eq. 2. The paper keeps 0.02 to
    #: 0.04; that it decays is decisive (Pan et al. 2014 start at 4e-3). Larger: fewer, stronger edges, safer on
    #: pictures with little texture, but thicker kernels.
    gradient_weight: float = 8e-3
    #: lambda is divided by this after each iteration (Pan et al.: 1.1), all the way down the pyramid.
    gradient_weight_decay: float = 1.07
    #: lambda never falls below this (Pan et al.).
    gradient_weight_min: float = 1e-4
    #: alpha, weight of the local smooth prior, eq. 2. The paper takes 4e-4 to 64e-4; 0 switches the prior off, as it
    #: always is at the finest scale.
    smooth_weight: float = 4e-4
    #: pixels: sigma of its Gaussian at the coarsest scale; it grows by as much with each scale (paper: 0.3).
    smooth_sigma: float = 0.3
    #: a prior on the latent picture itself, beside the two on its gradients: `gpudeblur.priors`, or your own. Its
    #: weight decays as lambda does. Where kernels are judged it plays no part ...
    prior: Prior | None = None
    #: ... and at the finest scale only if this is set, as in seed 3. It costs more there than at all other scales.
    finest_prior: bool = False
    #: beta of eq. 3 grows by this factor from 2 lambda (paper: 2) ...
    beta_rate: float = 2.0
    #: ... while below this. Past 60 a pass hardly changes the latent picture (Pan et al.: 1e5, 11 more passes).
    beta_max: float = 60.0
    #: ... and at the finest scale, under this: there it still helps a little, most where there is noise.
    finest_beta_max: float = 1e3
    #: latent and kernel steps at each scale but the finest.
    iterations: int = 8
    #: ... and at the finest, for the best of the starts.
    finest_iterations: int = 6
    #: lambda at the finest scale, at its first and at its last iteration, for a picture without noise: the kernel grows
    #: crisp. With noise of sigma > 0.0063 it is (sigma / 0.0063)^2 times as large.
    finest_gradient_weight: tuple[float, float] = (1e-3, 1e-4)
    #: where the estimation starts from; see `STARTS`. What a start names there is its own; what is set here holds for
    #: the others, and for the finest scale. The best is kept, by `choice.judge`, for each picture by itself.
    #: Each costs about as much as the iterations at the finest scale. One alone is not judged, and ("wide",) the fast
    #: setting.
    starts: tuple[str, ...] = ("wide", "relaxed", "sparse", "compact", "text")
    #: how many starts are taken through the finest scale, the best of them.
    finest_candidates: int = 2
    #: side ratio from one scale to the next (paper: 1 / sqrt(2)).
    scale_ratio: float = math.sqrt(0.5)
    #: pixels: longer side of the coarsest kernel (paper: 3; Pan et al.: 7).
    smallest_kernel: int = 7
    #: pixels added to the kernel size while it is estimated: a true kernel is rarely centred in its window.
    support_margin: int = 6
    #: share of the latent gradients that vote in the kernel step, the strongest ones: at the coarsest scale and at the
    #: end. Fewer: safer on pictures with little texture, less precise.
    edge_fraction: tuple[float, float] = (0.05, 0.2)
    #: "nnls": least squares under k >= 0 (accelerated projected gradients); "cg": conjugate gradients, then clipped,
    #: the paper's solver.
    kernel_solver: Literal["nnls", "cg"] = "nnls"
    #: steps of the kernel solver, each time from the kernel so far. Fewer: cheaper, thicker kernels.
    kernel_iterations: int = 20
    #: gamma of eq. 9, as a share of the energy of the voting gradients. Larger: smoother kernels.
    kernel_weight: float = 3e-3
    #: kernel pixels under this share of the maximum are cut after each kernel step, at the coarsest scale and at the
    #: finest; 0: none. More: the kernel cannot run all over its support, and loses its faint parts.
    iteration_threshold: tuple[float, float] = (0.0, 0.0)
    #: ... are cut between scales (Pan et al.: 0.05) ...
    kernel_threshold: float = 0.05
    #: ... and at the end.
    finest_threshold: float = 0.03
    #: connected components with less than this share of the kernel's mass are dropped at the end. Pan et al. take 0.1,
    #: which deletes thin tails.
    kernel_component: float = 0.03
    #: whether to run the second step, the L0 refinement of the kernel, eq. 12-16.
    refine: bool = True
    #: lambda of eq. 12, for a kernel scaled to maximum 1: pixels below its square root are noise.
    refine_weight: float = 1e-4
    #: beta of eq. 13 at the start, as a share of the energy of the voting gradients; it doubles up to 1. Smaller: the
    #: kernel is first solved more freely, which on real noise undoes the first step.
    refine_beta: float = 0.1
    #: whether a picture whose kernel deserves little confidence, or whose restoration rings far beyond its range, gets
    #: a gentle answer: the restoration mixed with the blurred picture; `info["strength"]` is the restoration's share.
    cautious: bool = True
    #: precision of all arrays.
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        self._check_pair("edge_fraction", lambda share: 0 < share <= 1, "be two numbers in (0, 1]")
        self._check_pair("iteration_threshold", lambda share: 0 <= share < 1, "be two numbers in [0, 1)")
        self._check_pair("finest_gradient_weight", lambda weight: 0 < weight < math.inf, "be two positive numbers")
        names = isinstance(self.starts, (tuple, list)) and len(self.starts) > 0
        ends = [end > 0 for end in self.iteration_threshold]
        self._check("iteration_threshold", all(ends) or not any(ends), "be both 0 or both above 0")
        known = names and all(isinstance(name, str) and name in STARTS for name in self.starts)
        self._check("starts", known, f"be names out of {', '.join(STARTS)}")
        object.__setattr__(self, "starts", tuple(self.starts))
        for name in ("gradient_weight", "gradient_weight_min", "smooth_sigma", "refine_weight", "refine_beta"):
            self._check(name, getattr(self, name) > 0, "be positive")
        for name in ("smooth_weight", "kernel_weight", "support_margin"):
            self._check(name, getattr(self, name) >= 0, "not be negative")
        for name in (
            "gradient_weight_decay",
            "iterations",
            "finest_iterations",
            "kernel_iterations",
            "finest_candidates",
        ):
            self._check(name, getattr(self, name) >= 1, "be at least 1")
        for name in ("kernel_threshold", "kernel_component", "finest_threshold"):
            self._check(name, 0 <= getattr(self, name) < 1, "be in [0, 1)")
        self._check("beta_rate", self.beta_rate > 1, "be above 1")
        self._check("beta_max", self.beta_max > 2 * self.gradient_weight, "exceed 2 gradient_weight")
        last = 2 * max(self.finest_gradient_weight)
        self._check("finest_beta_max", self.finest_beta_max > last, "exceed 2 finest_gradient_weight")
        self._check("scale_ratio", 0 < self.scale_ratio < 1, "be in (0, 1)")
        self._check("scale_ratio", self.scale_ratio <= 0.95, "be at most 0.95")
        self._check("smallest_kernel", self.smallest_kernel >= 3, "be at least 3")
        self._check("smallest_kernel", self.smallest_kernel % 2 == 1, "be odd")
        self._check("support_margin", self.support_margin % 2 == 0, "be even")
        self._check("kernel_solver", self.kernel_solver in ("nnls", "cg"), "be 'nnls' or 'cg'")
        integers = ("iterations", "kernel_iterations", "finest_iterations", "finest_candidates")
        for name in (*integers, "smallest_kernel", "support_margin"):
            self._check(name, isinstance(getattr(self, name), int), "be an integer")
        least = self.gradient_weight_min
        self._check("gradient_weight_min", least <= self.gradient_weight, "not exceed gradient_weight")
        for name, default in vars(type(self)).items():
            if isinstance(default, float):
                self._check(name, math.isfinite(getattr(self, name)), "be finite")
        parts = hasattr(self.prior, "step") and hasattr(self.prior, "weight") and not isinstance(self.prior, type)
        self._check("prior", self.prior is None or parts, "have a weight and a step (gpudeblur.priors.Prior)")
        hashable = getattr(type(self.prior), "__hash__", None) is not None
        self._check("prior", hashable, "be hashable, as a frozen dataclass is")
        self._check("finest_prior", isinstance(self.finest_prior, bool), "be True or False")
        self._check("dtype", self.dtype in ("float32", "float64"), "be 'float32' or 'float64'")

    def _check_pair(self, name: str, holds: Callable[[float], bool], rule: str) -> None:
        value = getattr(self, name)
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        self._check(name, pair and all(holds(one) for one in value), rule)
        object.__setattr__(self, name, tuple(value))  # hashable

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must {rule}, got {getattr(self, name)!r}; leave it out for the default")

    def of_start(self, name: str) -> TwoStepOptions:
        """These options as that start changes them."""
        return replace(self, **STARTS[name])


def with_prior(options: TwoStepOptions | None, prior: Prior | None) -> TwoStepOptions | None:
    """The options with the prior that came beside them.

    Raises
    ------
    ValueError
        The prior is none, or the options have another.
    """
    if prior is None or not isinstance(options, TwoStepOptions | None):
        return options
    if options is not None and options.prior not in (None, prior):
        raise ValueError(f"prior must be given once, got {prior!r} and options.prior={options.prior!r}; leave one out")
    return replace(options or TwoStepOptions(), prior=prior)
