"""Priors on the latent image itself, which `latent_step` adds to its two terms on the gradients.

A prior p with weight mu adds mu p(x) to the objective. Splitting introduces u beside x: eta |x - u|^2 + mu p(u). The
prior computes the step for u, `Prior.step`; the latent step does everything else and sets eta. Any object with a
`weight` and a `step` is a prior; the classes here are not base classes. Those in `learned` evaluate a network, which
loads PyTorch.

The L0 gradient prior and the local smooth prior are not here. They split the gradients, not the image, share one
stencil, D^T g, and are fused into the CUDA launches of `latent_step`, which has a name and a weight for each.
"""

from .dark_channel import DarkChannel
from .intensity import L0Intensity
from .learned import DenoiserPrior, DiscriminativePrior, EnergyPrior
from .protocol import Prior

__all__ = ["DarkChannel", "DenoiserPrior", "DiscriminativePrior", "EnergyPrior", "L0Intensity", "Prior"]
