"""Networks as priors: the classifier of seed 3, any scalar network, any denoiser.

None of them knows the blur, uniform or not: `step` sees the latent picture alone. The network is asked about all
pictures of a stack at once, through `torch_bridge`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from ..networks import bridge
from ..numerics.arrays import Array, array_module
from .protocol import check, check_eta, check_weight

# The least `downsample_above`, pixels: half of an image that is one pixel larger has 17, and it was trained on 16 up.
LEAST_HALVED = 32
# An eta beside which |x * k - B|^2, of weight |F k|^2 <= 1 a frequency, counts for all.
LINEAR = 1e-3


@dataclass(frozen=True)
class EnergyPrior:
    """p(x) = f(x), for a network f that is low on good pictures: gradient steps (seed 3, eq. 11-12).

    The other terms of the objective are sums over pixels, and f is one number a picture: what weight makes a
    difference depends on f, and may be far over the paper's.

    Attributes
    ----------
    module : from (N, 1, H, W) to one number a picture, differentiable; on the device and in the dtype of the pictures.
    weight : the paper's lambda, `Prior`'s mu (paper: 4e-3).
    rate : eta, the step's length; the paper's 0.1 is that for pictures of about [0, 1].
    steps : how many (paper: 10).
    gradients : how many times in these steps the network is asked for df / du, which is held between; None: at each
        step, as the paper does. It is all that costs.
    eta_max : the end of eta, the weight of |x - u|^2, see `latent_step`. Large: x is held to u, and with it to the x of
        the pass before, so that no weight is too large. Small, 1e-3: x feels lambda (1 - (1 - rate)^steps) df / dx,
        0.65 of it with the defaults, and no more. So one gradient does, rate and steps say the same as the weight, and
        nothing holds x back: too large a weight ruins the kernels of the scales that it is used at.
    """

    module: Callable[..., Any]
    weight: float = 4e-3
    _: KW_ONLY
    rate: float = 0.1
    steps: int = 10
    gradients: int | None = None
    eta_max: float = 2.0

    #: Torch must not be captured in a CUDA graph of CuPy's: the launches of its scale are made one by one.
    replayable = False

    def __post_init__(self) -> None:
        check("module", callable(self.module), "be callable", self.module, "pass a torch.nn.Module")
        check_steps(self)

    def step(self, latent: Array, ratio: float) -> Array:
        """`descend`, with the gradient of f by autograd."""
        slope = functools.partial(bridge.gradient, self.module)
        return gradient_steps(slope, latent, ratio, self.rate, self.steps, self.gradients)

    def value(self, pictures: Array) -> Array:
        """f of pictures (..., H, W): (...)."""
        return bridge.evaluate(self.module, pictures)


@dataclass(frozen=True)
class DiscriminativePrior:
    """p(x) = f(x), with f the probability that a picture is blurred, as a classifier sees it (seed 3).

    The classifier ships with the package; what it was trained on and what it reaches is in
    `gpudeblur/networks/classifier/classifier.md`. Its weights are for research use. It is slow, and at no weight
    tried were the kernels better than those of the same splitting with a prior that knows nothing (`bench/README.md`).

    Attributes
    ----------
    weight, rate, steps, gradients, eta_max : see `EnergyPrior`. The coupling by a large eta, as the paper has it, makes
        kernels worse by itself (`bench/README.md`).
    downsample_above : pixels. Images whose shorter side is longer are shown to the classifier at half size, by
        the mean of 2 x 2 pixels, which costs a quarter; in `step` alone, `probability` judges it as it is. None shows
        it whole, as the paper does.
    weights : a file of other weights (`gpudeblur train classifier` writes them); None takes those of the package.

    Raises
    ------
    ImportError
        PyTorch or safetensors is missing.
    ValueError
        The weights are damaged, of another network, or a pickle.

    References
    ----------
    L. Li, J. Pan, W.-S. Lai, C. Gao, N. Sang, M.-H. Yang: Learning a discriminative prior for blind image deblurring,
    CVPR 2018.

    Examples
    --------
    >>> import gpudeblur as gd
    >>> prior = gd.priors.DiscriminativePrior()             # doctest: +SKIP
    >>> result = gd.deblur(blurred, 25, prior=prior)        # doctest: +SKIP
    >>> prior.probability(pictures)                         # doctest: +SKIP
    """

    weight: float = 4e-3
    _: KW_ONLY
    rate: float = 0.1
    steps: int = 10
    gradients: int | None = 1
    eta_max: float = LINEAR
    downsample_above: int | None = 128
    weights: Path | str | None = None

    replayable = False

    def __post_init__(self) -> None:
        check_steps(self)
        fits = self.downsample_above is None or (
            type(self.downsample_above) is int and self.downsample_above >= LEAST_HALVED
        )
        rule = f"be an integer of at least {LEAST_HALVED}, or None"
        check("downsample_above", fits, rule, self.downsample_above, "leave it out for 128")
        bridge.torch_module()

    def step(self, latent: Array, ratio: float) -> Array:
        """`descend`, with the gradient of f by autograd."""
        network: Callable[..., Any] = self._network(latent)
        if self.downsample_above is not None and min(latent.shape[-2:]) > self.downsample_above:
            network = functools.partial(on_half_size, network)
        slope = functools.partial(bridge.gradient, network)
        return gradient_steps(slope, latent, ratio, self.rate, self.steps, self.gradients)

    def probability(self, pictures: Array) -> Array:
        """P(blurred) of gray pictures (..., H, W) in [0, 1], floats of NumPy or CuPy: (...), where they are."""
        xp = array_module(pictures)
        fits = pictures.ndim >= 2 and pictures.dtype.kind == "f"
        got = f"shape {pictures.shape}, {pictures.dtype}"
        check("pictures", fits, "be floats (..., H, W)", got, "divide integers by their maximum")
        wide = pictures if pictures.dtype.itemsize in (4, 8) else pictures.astype(xp.float32)
        return bridge.evaluate(self._network(wide), wide)

    def _network(self, like: Array) -> Any:
        # A file that is written again is read again.
        stamp = None if self.weights is None else Path(self.weights).stat().st_mtime_ns
        return _classifier(self.weights, stamp, str(bridge.device_of(like)), str(like.dtype))


@functools.lru_cache(maxsize=8)
def _classifier(path: Path | str | None, stamp: int | None, device: str, dtype: str) -> Any:
    """The classifier where, and in the precision in which, it is asked for."""
    from ..networks.classifier.network import load_classifier

    torch = bridge.torch_module()
    return load_classifier(None if path is None else Path(path)).to(device=device, dtype=getattr(torch, dtype))


@dataclass(frozen=True)
class DenoiserPrior:
    """A denoiser as the prior's step (plug and play): u = D(x, sigma), which is what argmin |u - x|^2 + ratio p asks
    for where D finds the likeliest picture under Gaussian noise of variance sigma^2 = ratio / 2.

    Attributes
    ----------
    module : module(pictures (N, 1, H, W), sigma) to the same shape, sigma a float for pictures in [0, 1].
    weight : mu, see `Prior`; with eta at its end, 2, 4e-3 is a sigma of 0.03.
    max_sigma : sigma is no larger than this, where eta is still small.
    """

    module: Callable[..., Any]
    weight: float = 4e-3
    _: KW_ONLY
    max_sigma: float = 0.2

    replayable = False

    def __post_init__(self) -> None:
        check("module", callable(self.module), "be callable", self.module, "pass a torch.nn.Module")
        check_weight(self.weight)
        fits = isinstance(self.max_sigma, (int, float)) and 0 < self.max_sigma < math.inf
        check("max_sigma", fits, "be a positive number", self.max_sigma, "leave it out for 0.2")

    def step(self, latent: Array, ratio: float) -> Array:
        """module(latent, sigma)."""
        return bridge.apply_network(self.module, latent, min(math.sqrt(0.5 * ratio), self.max_sigma))


def on_half_size(module: Callable[..., Any], pictures: Any) -> Any:
    """module of torch pictures (N, 1, H, W) at half size: the mean of 2 x 2 pixels, of fewer at the far border."""
    pool = bridge.torch_module().nn.functional.avg_pool2d
    return module(pool(pictures, 2, ceil_mode=True, count_include_pad=False))


def gradient_steps(
    slope: Callable[[Array], Array], latent: Array, ratio: float, rate: float, steps: int, gradients: int | None = None
) -> Array:
    """Gradient steps from u = x towards argmin_u |u - x|^2 + ratio f(u), see `Prior.step` (seed 3, eq. 12).

    u <- u - rate [(u - x) + (ratio / 2) df / du], the paper's step in units of its beta. n steps with the same df / du
    are one: with r = (1 - rate)^n, u - x becomes r (u - x) - (1 - r) (ratio / 2) df / du.

    Parameters
    ----------
    slope : df / du of pictures (..., H, W).
    gradients : how many times it is asked for, see `EnergyPrior`.
    """
    times = steps if gradients is None else min(gradients, steps)
    u = latent
    for number in range(times):
        held = steps * (number + 1) // times - steps * number // times
        kept = (1 - rate) ** held
        u = latent + kept * (u - latent) - ((1 - kept) * 0.5 * ratio) * slope(u)
    return u


def check_steps(prior: Any) -> None:
    """For the options of `descend`."""
    check_weight(prior.weight)
    fits = isinstance(prior.rate, (int, float)) and 0 < prior.rate <= 1
    check("rate", fits, "be a number in (0, 1]", prior.rate, "leave it out for 0.1")
    fits = isinstance(prior.steps, int) and not isinstance(prior.steps, bool) and prior.steps >= 1
    check("steps", fits, "be an integer of at least 1", prior.steps, "leave it out for 10")
    check_eta("eta_max", prior.eta_max)
    fits = prior.gradients is None or (type(prior.gradients) is int and prior.gradients >= 1)
    check("gradients", fits, "be an integer of at least 1, or None", prior.gradients, "None is one for each step")
