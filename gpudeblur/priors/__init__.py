"""Priors on the latent picture itself: what `latent_step` adds to its two terms on the gradients.

A prior p with weight mu adds mu p(x) to the objective. Splitting puts u beside x: eta |x - u|^2 + mu p(u). The prior
knows the step for u, `Prior.step`; the latent step knows the rest, eta included. Any object with a `weight` and a
`step` is a prior: the classes here are no base classes. Those in `discriminative` ask a network, which loads PyTorch.

The L0 gradient prior and the local smooth prior are not among them. They split the gradients, not the picture, so that
they share one stencil, D^T g, with the weight beta |D|^2 in the closed form; the smooth map needs the threshold that
selects g; and both are fused into the launches of `latent_step`, which has a name and a weight for each.
"""

from .dark_channel import DarkChannel
from .intensity import L0Intensity
from .learned import DenoiserPrior, DiscriminativePrior, EnergyPrior
from .protocol import Prior

__all__ = ["DarkChannel", "DenoiserPrior", "DiscriminativePrior", "EnergyPrior", "L0Intensity", "Prior"]
