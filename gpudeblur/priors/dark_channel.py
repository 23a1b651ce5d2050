"""The dark channel prior [Pan2016]: sharp images have a dark pixel almost everywhere, blurred ones do not."""

from __future__ import annotations

from dataclasses import dataclass

from ..images.checks import check_choice, check_count
from ..numerics.arrays import Array, array_module, ndimage_module
from .intensity import ENDS, Ends, threshold_to_ends
from .protocol import check_weight


@dataclass(frozen=True)
class DarkChannel:
    """p(x) = |d(x)|_0, where d is the minimum of x over a square around each pixel.

    Attributes
    ----------
    weight : mu, see `Prior`; about lambda, the weight of the gradients ([Pan2016]: both 4e-3).
    radius : pixels; the square has sides of 2 radius + 1. [Pan2016] has 17 at every scale.
    which : "dark"; "bright": |1 - max x|_0; "both": the sum of the two, the extreme channels of [Yan2017].

    References
    ----------
    [Pan2016] J. Pan, D. Sun, H. Pfister, M.-H. Yang: Blind image deblurring using dark channel prior, CVPR 2016.
    [Yan2017] Y. Yan, W. Ren, Y. Guo, R. Wang, X. Cao: Image deblurring via extreme channels prior, CVPR 2017.
    """

    weight: float = 8e-3
    radius: int = 17
    which: Ends = "dark"

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        check_count("radius", self.radius, way_out="for single pixels use L0Intensity")
        check_choice("which", self.which, ENDS)

    def step(self, latent: Array, ratio: float) -> Array:
        """u = 0 at the minimum of a neighborhood if x^2 < ratio, x elsewhere; likewise 1 at the maximum.

        As in [Pan2016] eq. 11, the thresholded d is written back to the position of each minimum. Differences: the
        image is periodic, all pixels of a tie are written, and d is not updated meanwhile. The step is not an exact
        argmin, because a pixel that is the minimum of several neighborhoods counts once.
        """
        dark = self.which == "bright" or latent == opening(latent, self.radius)
        bright = self.which == "dark" or latent == opening(latent, self.radius, bright=True)
        return threshold_to_ends(latent, ratio, self.which, dark, bright)


def opening(u: Array, radius: int, *, bright: bool = False) -> Array:
    """Morphological opening by a square of 2 radius + 1 pixels a side, periodic; with `bright`, the closing.

    It equals `u` exactly where a pixel is the minimum (maximum) of some square that contains it.
    """
    ndimage = ndimage_module(array_module(u))
    filters = [ndimage.minimum_filter1d, ndimage.maximum_filter1d]
    for extreme in reversed(filters) if bright else filters:
        for axis in (-1, -2):
            half_width = min(radius, u.shape[axis] // 2)  # from here on the window is the whole line
            u = extreme(u, 2 * half_width + 1, axis=axis, mode="wrap")
    return u
