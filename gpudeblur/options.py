"""Options: frozen, one default for every picture, each with its unit and where it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


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
    #: ... and by this as well after each of the last `last_iterations` at the finest scale: the kernel grows crisp.
    last_decay: float = 1.5
    last_iterations: int = 3
    #: lambda never falls below this (Pan et al.).
    gradient_weight_min: float = 1e-4
    #: alpha, weight of the local smooth prior, eq. 2. The paper takes 4e-4 to 64e-4; 0 switches the prior off.
    smooth_weight: float = 4e-4
    #: pixels: sigma of its Gaussian at the coarsest scale; it grows by as much with each scale (paper: 0.3).
    smooth_sigma: float = 0.3
    #: beta of eq. 3 grows by this factor from 2 lambda (paper: 2) ...
    beta_rate: float = 2.0
    #: ... while below this. Past 60 a pass hardly changes the latent picture (Pan et al.: 1e5, 11 more passes).
    beta_max: float = 60.0
    #: latent and kernel steps at each scale.
    iterations: int = 8
    #: side ratio from one scale to the next (paper: 1 / sqrt(2)).
    scale_ratio: float = math.sqrt(0.5)
    #: pixels: longer side of the coarsest kernel (paper: 3; Pan et al.: 7).
    smallest_kernel: int = 7
    #: pixels added to the kernel size while it is estimated: a true kernel is rarely centred in its window.
    support_margin: int = 6
    #: share of the latent gradients that vote in the kernel step, the strongest ones: at the coarsest scale and at the
    #: end. Fewer: safer on pictures with little texture, less precise.
    voting_share: tuple[float, float] = (0.05, 0.2)
    #: "nnls": least squares under k >= 0 (accelerated projected gradients); "cg": conjugate gradients, then clipped,
    #: the paper's solver.
    kernel_solver: Literal["nnls", "cg"] = "nnls"
    #: steps of the kernel solver, each time from the kernel so far. Fewer: cheaper, thicker kernels.
    kernel_iterations: int = 20
    #: gamma of eq. 9, as a share of the energy of the voting gradients. Larger: smoother kernels.
    kernel_weight: float = 3e-3
    #: kernel pixels under this share of the maximum are cut at the end (Pan et al.: 0.05).
    kernel_threshold: float = 0.05
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
    #: precision of all arrays.
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        pair = isinstance(self.voting_share, (tuple, list)) and len(self.voting_share) == 2
        fits = pair and all(0 < share <= 1 for share in self.voting_share)
        self._check("voting_share", fits, "be two numbers in (0, 1]")
        object.__setattr__(self, "voting_share", tuple(self.voting_share))  # hashable
        for name in ("gradient_weight", "gradient_weight_min", "smooth_sigma", "refine_weight", "refine_beta"):
            self._check(name, getattr(self, name) > 0, "be positive")
        for name in ("smooth_weight", "kernel_weight", "support_margin", "last_iterations"):
            self._check(name, getattr(self, name) >= 0, "not be negative")
        for name in ("gradient_weight_decay", "last_decay", "iterations", "kernel_iterations"):
            self._check(name, getattr(self, name) >= 1, "be at least 1")
        for name in ("kernel_threshold", "kernel_component"):
            self._check(name, 0 <= getattr(self, name) < 1, "be in [0, 1)")
        self._check("beta_rate", self.beta_rate > 1, "be above 1")
        self._check("beta_max", self.beta_max > 2 * self.gradient_weight, "exceed 2 gradient_weight")
        self._check("scale_ratio", 0 < self.scale_ratio < 1, "be in (0, 1)")
        self._check("scale_ratio", self.scale_ratio <= 0.95, "be at most 0.95")
        self._check("smallest_kernel", self.smallest_kernel >= 3, "be at least 3")
        self._check("smallest_kernel", self.smallest_kernel % 2 == 1, "be odd")
        self._check("support_margin", self.support_margin % 2 == 0, "be even")
        self._check("kernel_solver", self.kernel_solver in ("nnls", "cg"), "be 'nnls' or 'cg'")
        for name in ("iterations", "kernel_iterations", "last_iterations", "smallest_kernel", "support_margin"):
            self._check(name, isinstance(getattr(self, name), int), "be an integer")
        least = self.gradient_weight_min
        self._check("gradient_weight_min", least <= self.gradient_weight, "not exceed gradient_weight")
        for name, default in vars(type(self)).items():
            if isinstance(default, float):
                self._check(name, math.isfinite(getattr(self, name)), "be finite")
        self._check("dtype", self.dtype in ("float32", "float64"), "be 'float32' or 'float64'")

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must {rule}, got {getattr(self, name)!r}; leave it out for the default")
