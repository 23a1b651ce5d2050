"""`info` of a result: its keys, their types and their meaning."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict

Number: TypeAlias = Any  # one an image: a float; for a stack an array of its shape


class Info(TypedDict, total=False):
    """`info` of `BlindResult`, `RestoreResult` and `BatchResult`: a dict with the keys that the call has an answer to.

    A value "an image" is a float (an int, a word) for a single image, and for a stack a NumPy array of the stack's
    shape. The others are of the call as a whole. Numbers without a unit are ratios.

    Attributes
    ----------
    confidence : float an image
        In [0, 1]: the probability that the kernel is good, so below 0.5 it is a guess; of `restore` the probability
        that the network has brought the image nearer to the true one.
    strength : float an image
        In [0, 1]: the restoration's share in the result (`TwoStepOptions.strength`, `restore(strength=)`); the rest is
        the input. Only with a restoration.
    gamma : float an image
        The exponent by which the image was decoded: the one given, or what ``gamma="auto"`` took.
    kernel_size : (int, int), or int an image
        Height and width in pixels as given or of `initial`; without them, the side that was estimated.
    blur : str an image
        "uniform", or "rotation" for an image with a `field`.
    focal : float an image
        Focal length of the field in pixels: infinity for motion in the image plane, NaN without a field. Only with
        ``blur="rotation"``.
    advantage : float an image
        The score of the best field over that of the uniform kernel. Only with ``blur="rotation"``.
    border_mass : float an image
        In [0, 1]: the kernel's mass in the outermost pixels of its window. 0 for a good kernel.
    spectral_match : float an image
        In [-1, 1]: correlation of the spectra of the blurred image and the kernel.
    gradient_gain : float an image
        Mean gradient of the latent image over that of the blurred one. About 1 to 2 for a good kernel.
    agreement : float an image
        In [0, 1]: similarity of the kernels of the initializations. NaN for a single one.
    energy : float an image
        Log of the minimum of eq. 2 per pixel: a part of the score by which the kernel was selected.
    residual : float an image
        Root mean square of B - x * k for the restoration x, in fractions of full scale, away from the borders. Only
        with a restoration.
    ringing : float an image
        Mean square of what exceeds [0, 1] and the blurred image's range, over its variance, outside of saturated
        lights. Only with a restoration.
    overshoot : float an image
        Mean square of what exceeds the blurred image's range, likewise.
    change : float an image
        Mean squared difference of the restoration and the blurred image, over its variance.
    reblur : float an image
        Of `restore`: rms(k * x - B) over the noise of B, for the kernel k between the restored image x and B that least
        squares finds. About 1 where the blur is uniform.
    gradient_energy : float an image
        Of `restore`: sum of squared gradients of the restored image over that of the blurred one.
    face : float an image
        Of `restore`, with the weights of the package, in [0, 1]: the probability that the image is of a small face,
        sharp or blurred. Below 0.5 there is a warning, and an automatic strength is reduced.
    method : str
        "two-step", or the name of the network.
    final : str or None
        The restoration of `deblur`: "sparse", "tv", "hyper-laplacian", "pnp", or None.
    backend : {"numpy", "cupy"}
        The library that computed the result.
    dtype : {"float32", "float64"}
        Of the arrays of `deblur`.
    precision : {"float32"}
        What the network of `restore` computes in.
    white : float
        The value taken for full scale, in the unit of the image.
    seconds : float
        Wall time of the call. In a batch, that of the stack divided by its images.
    seconds_kernel : float
        Of `seconds`, that of the kernel.
    """

    confidence: Number
    strength: Number
    gamma: Number
    kernel_size: Any
    blur: Any
    focal: Number
    advantage: Number
    border_mass: Number
    spectral_match: Number
    gradient_gain: Number
    agreement: Number
    energy: Number
    residual: Number
    ringing: Number
    overshoot: Number
    change: Number
    reblur: Number
    gradient_energy: Number
    face: Number
    method: str
    final: str | None
    backend: Literal["numpy", "cupy"]
    dtype: Literal["float32", "float64"]
    precision: Literal["float32"]
    white: float
    seconds: float
    seconds_kernel: float
