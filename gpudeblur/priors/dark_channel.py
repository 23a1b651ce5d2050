"""Dark channel prior of Pan et al. 2016: a sharp picture has a dark pixel nearly everywhere, a blurred one does not."""

from __future__ import annotations

from dataclasses import dataclass

from ..numerics.arrays import Array, array_module, ndimage_module
from .intensity import Ends, threshold_to_ends
from .protocol import check, check_ends, check_weight


@dataclass(frozen=True)
class DarkChannel:
    """p(x) = |d(x)|_0, with d the minimum of x over a square around each pixel.

    Attributes
    ----------
    weight : mu, see `Prior`; about lambda, the weight of the gradients (Pan et al. 2016: both 4e-3).
    radius : pixels, half the side of the square without its middle. Pan et al. take 17 at every scale.
    of : "dark"; "bright": the maximum, |1 - max x|_0; "both": the sum, the extreme channels of Yan et al. 2017.

    References
    ----------
    J. Pan, D. Sun, H. Pfister, M.-H. Yang: Blind image deblurring using dark channel prior, CVPR 2016.
    Y. Yan, W. Ren, Y. Guo, R. Wang, X. Cao: Image deblurring via extreme channels prior, CVPR 2017.
    """

    weight: float = 8e-3
    radius: int = 17
    of: Ends = "dark"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        fits = isinstance(self.radius, int) and self.radius >= 1
        check("radius", fits, "be an integer of at least 1", self.radius, "for single pixels take L0Intensity")
        check_ends(self.of)

    def step(self, latent: Array, ratio: float) -> Array:
        """u = 0 at the minimum of a neighbourhood where x^2 < ratio, x elsewhere; the same at the other end.

        The step of Pan et al. (eq. 11) writes the thresholded d back to where each minimum was; so does this one, but
        that the picture is periodic, that all pixels of a tie are written to, and that d is that of x throughout. It is
        no exact argmin: a pixel counts once, of however many neighbourhoods it is the minimum.
        """
        dark = self.of == "bright" or latent == opening(latent, self.radius)
        bright = self.of == "dark" or latent == opening(latent, self.radius, bright=True)
        return threshold_to_ends(latent, ratio, self.of, dark, bright)


def opening(u: Array, radius: int, *, bright: bool = False) -> Array:
    """The largest of the minima over the squares of 2 radius + 1 pixels a side that hold a pixel; periodic.

    It equals `u` exactly where a pixel is the minimum of some square. With `bright`, minima and maxima change places.
    """
    ndimage = ndimage_module(array_module(u))
    filters = [ndimage.minimum_filter1d, ndimage.maximum_filter1d]
    for extreme in reversed(filters) if bright else filters:
        for axis in (-1, -2):
            # From half the side on, a square is the whole line.
            reach = min(radius, u.shape[axis] // 2)
            u = extreme(u, 2 * reach + 1, axis=axis, mode="wrap")
    return u
