"""Networks as priors: the classifier of [Li2018], any scalar network, any denoiser.

None of them uses the blur, uniform or not: `step` receives the latent image alone. A network is called once for all
images of a stack, through `networks.bridge`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from ..images.checks import check_count, check_number
from ..networks import bridge
from ..numerics.arrays import Array, array_module
from .protocol import ETA_MAX, check_eta, check_weight

# Pixels, the smallest `downsample_above`: half of an image one pixel larger has 17, and training started at 16.
MIN_DOWNSAMPLE_ABOVE = 32
# An eta that is negligible beside |x * k - B|^2, whose weight at a frequency is |F k|^2 <= 1.
UNCOUPLED_ETA = 1e-3


@dataclass(frozen=True)
class EnergyPrior:
    """p(x) = f(x) for a network f that is low on good images, by gradient steps ([Li2018] eq. 11-12).

    The other terms of the objective are sums over pixels, but f is one number per image. The weight that makes a
    difference depends on f, and may be far above the paper's.

    Attributes
    ----------
    module : from (N, 1, H, W) to one number per image, differentiable; on the device and in the dtype of the images.
    weight : lambda of the paper, mu of `Prior` (paper: 4e-3).
    rate : eta of the paper, the step length; its 0.1 is for images in about [0, 1].
    steps : number of gradient steps (paper: 10).
    gradients : number of evaluations of df / du during these steps; between them the last one is reused. None: one
        evaluation per step, as in the paper. Evaluations are the whole cost.
    eta_max : the largest eta, the weight of |x - u|^2, see `latent_step`. Large: x stays close to u, and so to the x of
        the previous pass, which makes large weights safe. Small, such as 1e-3: x moves by
        lambda (1 - (1 - rate)^steps) df / dx, which is 0.65 lambda df / dx by default. One gradient is then enough,
        rate and steps act like the weight, and too large a weight ruins the kernels of the scales that use it.
    """

    module: Callable[..., Any]
    weight: float = 4e-3
    _: KW_ONLY
    rate: float = 0.1
    steps: int = 10
    gradients: int | None = None
    eta_max: float = ETA_MAX

    #: Torch must not be captured in a CUDA graph of CuPy, so the launches of the scale are made one by one.
    replayable = False

    def __post_init__(self) -> None:
        _check_callable(self.module)
        _check_steps(self)

    def step(self, latent: Array, ratio: float) -> Array:
        """Gradient steps towards argmin_u |u - x|^2 + ratio f(u), see `gradient_steps`."""
        return _network_steps(self, self.module, latent, ratio)

    def value(self, images: Array) -> Array:
        """f of images (..., H, W): (...)."""
        return bridge.evaluate(self.module, images)


@dataclass(frozen=True)
class DiscriminativePrior:
    """p(x) = f(x), where f is the probability that an image is blurred, by the classifier of [Li2018].

    `gpudeblur/networks/classifier/classifier.md` describes its training and accuracy; its weights are for research use.
    The prior is slow, and no weight tried gave better kernels than the same splitting with an uninformative prior
    (`bench/README.md`).

    Attributes
    ----------
    weight, rate, steps, gradients, eta_max : see `EnergyPrior`. Coupling by a large eta, as in the paper, makes kernels
        worse by itself (`bench/README.md`).
    downsample_above : pixels. In `step`, images whose shorter side is longer than this are reduced to half size for the
        classifier, by the mean over 2 x 2 pixels, which costs a quarter; `probability` never reduces them. None: never
        reduced, as in the paper.
    weights : a file of other weights, written by `gpudeblur train classifier`; None: those of the package.

    Raises
    ------
    ImportError
        PyTorch is missing.

    References
    ----------
    [Li2018] L. Li, J. Pan, W.-S. Lai, C. Gao, N. Sang, M.-H. Yang: Learning a discriminative prior for blind image
    deblurring, CVPR 2018.

    Examples
    --------
    >>> import gpudeblur as gd
    >>> prior = gd.priors.DiscriminativePrior()             # doctest: +SKIP
    >>> result = gd.deblur(blurred, 25, prior=prior)        # doctest: +SKIP
    >>> prior.probability(images)                           # doctest: +SKIP
    """

    weight: float = 4e-3
    _: KW_ONLY
    rate: float = 0.1
    steps: int = 10
    gradients: int | None = 1
    eta_max: float = UNCOUPLED_ETA
    downsample_above: int | None = 128
    weights: Path | str | None = None

    replayable = False

    def __post_init__(self) -> None:
        _check_steps(self)
        if self.downsample_above is not None:
            check_count("downsample_above", self.downsample_above, minimum=MIN_DOWNSAMPLE_ABOVE)
        bridge.torch_module()

    def step(self, latent: Array, ratio: float) -> Array:
        """Gradient steps towards argmin_u |u - x|^2 + ratio f(u), see `gradient_steps`."""
        network: Callable[..., Any] = self._network(latent)
        if self.downsample_above is not None and min(latent.shape[-2:]) > self.downsample_above:
            network = functools.partial(on_half_size, network)
        return _network_steps(self, network, latent, ratio)

    def probability(self, images: Array) -> Array:
        """P(blurred) of gray images (..., H, W) in [0, 1], NumPy or CuPy floats: (...), in the same memory."""
        xp = array_module(images)
        if images.ndim < 2 or images.dtype.kind != "f":
            came = f"shape {images.shape}, {images.dtype}"
            raise ValueError(f"images must be floats (..., H, W), got {came}; divide integers by their maximum")
        images = images if images.dtype.itemsize in (4, 8) else images.astype(xp.float32)
        return bridge.evaluate(self._network(images), images)

    def _network(self, like: Array) -> Any:
        modified = None if self.weights is None else Path(self.weights).stat().st_mtime_ns
        return _classifier(self.weights, modified, str(bridge.device_of(like)), str(like.dtype))


@functools.lru_cache(maxsize=8)
def _classifier(path: Path | str | None, modified: int | None, device: str, dtype: str) -> Any:
    """The classifier on a device and in a dtype. `modified` makes the cache miss when the file has changed."""
    from ..networks.classifier.network import load_classifier

    torch = bridge.torch_module()
    return load_classifier(None if path is None else Path(path)).to(device=device, dtype=getattr(torch, dtype))


@dataclass(frozen=True)
class DenoiserPrior:
    """A denoiser D as the step of a prior (plug and play): u = D(x, sigma).

    This is argmin_u |u - x|^2 + ratio p(u) if D finds the most probable image under Gaussian noise of variance
    sigma^2 = ratio / 2.

    Attributes
    ----------
    module : module(images (N, 1, H, W), sigma) to the same shape; sigma is a float, for images in [0, 1].
    weight : mu, see `Prior`; at the largest eta, 2, a weight of 4e-3 is a sigma of 0.03.
    max_sigma : upper bound of sigma, which applies while eta is small.
    """

    module: Callable[..., Any]
    weight: float = 4e-3
    _: KW_ONLY
    max_sigma: float = 0.2

    replayable = False

    def __post_init__(self) -> None:
        _check_callable(self.module)
        check_weight("weight", self.weight)
        check_number("max_sigma", self.max_sigma, "positive", lambda sigma: sigma > 0)

    def step(self, latent: Array, ratio: float) -> Array:
        """module(latent, sigma)."""
        return bridge.apply_network(self.module, latent, min(math.sqrt(0.5 * ratio), self.max_sigma))


def on_half_size(module: Callable[..., Any], images: Any) -> Any:
    """module of torch images (N, 1, H, W) at half size: the mean over 2 x 2 pixels, over fewer at the far border."""
    pool = bridge.torch_module().nn.functional.avg_pool2d
    return module(pool(images, 2, ceil_mode=True, count_include_pad=False))


def _network_steps(
    prior: EnergyPrior | DiscriminativePrior, network: Callable[..., Any], latent: Array, ratio: float
) -> Array:
    """`gradient_steps` with the options of a prior, and the gradient of a network by autograd."""
    evaluations = prior.steps if prior.gradients is None else min(prior.gradients, prior.steps)
    gradient = functools.partial(bridge.gradient, network)
    return gradient_steps(gradient, latent, ratio, prior.rate, prior.steps, evaluations)


def gradient_steps(
    gradient: Callable[[Array], Array], latent: Array, ratio: float, rate: float, steps: int, evaluations: int
) -> Array:
    """Gradient steps from u = x towards argmin_u |u - x|^2 + ratio f(u), see `Prior.step` ([Li2018] eq. 12).

    u <- u - rate [(u - x) + (ratio / 2) df / du], the paper's step in units of its beta. n steps with the same df / du
    equal one: with r = (1 - rate)^n, u - x becomes r (u - x) - (1 - r) (ratio / 2) df / du.

    Parameters
    ----------
    gradient : df / du of images (..., H, W).
    evaluations : number of evaluations of `gradient`, at most `steps`.
    """
    u = latent
    for index in range(evaluations):
        n = steps * (index + 1) // evaluations - steps * index // evaluations
        r = (1 - rate) ** n
        u = latent + r * (u - latent) - ((1 - r) * 0.5 * ratio) * gradient(u)
    return u


def _check_steps(prior: EnergyPrior | DiscriminativePrior) -> None:
    """Check the options of `gradient_steps`."""
    check_weight("weight", prior.weight)
    check_number("rate", prior.rate, "in (0, 1]", lambda rate: 0 < rate <= 1)
    check_count("steps", prior.steps)
    check_eta("eta_max", prior.eta_max)
    if prior.gradients is not None:
        check_count("gradients", prior.gradients, way_out="None is one for each step")


def _check_callable(module: Any) -> None:
    if not callable(module):
        raise TypeError(f"module must be callable, got {module!r}; pass a torch.nn.Module")
