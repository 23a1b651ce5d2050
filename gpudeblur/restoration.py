"""For users of scikit-image: `from gpudeblur import restoration` instead of `from skimage import restoration`."""

from .nonblind.scikit_image import richardson_lucy, unsupervised_wiener, wiener

__all__ = ["richardson_lucy", "unsupervised_wiener", "wiener"]
