"""scikit-image's deconvolution on NumPy and CuPy: the same names, arguments and results, in less time.

    from gpudeblur import restoration            # instead of: from skimage import restoration

`richardson_lucy`, `wiener` and `unsupervised_wiener` return the results of scikit-image 0.26, to 1e-5. In addition they
offer CuPy arrays, ``boundary=``, ``channel_axis=``, ``batch=``, and errors that name the argument.

They differ where scikit-image does not do what it documents:

- A complex `psf`, a transfer function, is used as it is, and so is the transfer function of a `reg`. scikit-image drops
  the imaginary parts (its issue 7363), which is wrong for whatever is not symmetric about its middle, such as an
  even-sided or one-sided `reg` like ``[[1, -1]]``: 7 dB where 59 dB are right.
- `unsupervised_wiener` takes from `is_real` whether a spectrum is half of one. scikit-image derives it from whether the
  spectrum is square, and so counts half of it for an image like 257 x 512 (both chains are off by two), and twice of it
  for a non-square one with ``is_real=False`` (the noise of 24 x 64 pixels comes out eight times too large).
- These raise an error instead of returning NaN or a meaningless result: NaN or infinity in an image or a `psf`, a `psf`
  of zeros, ``num_iter=0``, ``max_num_iter`` at or under ``burnin + 1``, a `balance` or a threshold below 0, a single
  pixel for `unsupervised_wiener`.

These conventions of scikit-image are preserved: images of integers become float64 of the same values, not fractions,
and are clipped to 1 (with a warning; ``clip=False``); `psf` is not scaled to sum 1 (with a warning if it has another
sum); a real `psf` of the shape of a transfer function is used as one (with a warning); the origin of a `psf` of even
side n is pixel n / 2 - 1 in `richardson_lucy` and n / 2 in the others; the correction step of `richardson_lucy` is then
a pixel off the adjoint, and many iterations diverge (with a warning; with any `boundary` but None it is correct);
`unsupervised_wiener` counts the last column of an even width twice. Outside the image, the scene is black for
`richardson_lucy` and periodic for the others, unless ``boundary=`` changes that.

scikit-image hands CuPy arrays over (see `scikit_image_backend`) to the functions that it dispatches. Version 0.26
dispatches none of these three: import them from here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..images import checks
from ..images.known_kernel import subtract_floor
from ..numerics.arrays import Array, array_module, fft_module
from ..numerics.fourier import fast_shape, irfftn, kernel_to_grid, rfftn, sum_last_axes
from ..numerics.interchange import any_library
from .expectation_maximization import convolutions, em_iterations
from .methods.unsupervised_wiener import gibbs, random_streams
from .methods.wiener import periodic_data, prior_power, squared_magnitude
from .scikit_image_checks import (
    check_array,
    check_boundary,
    check_channel_axis,
    check_channels,
    check_fits,
    check_lucy,
    check_not_negative,
    check_psf_axes,
    check_spectral,
    sampler_parameters,
    warn_of_even,
    warn_of_negative_light,
)
from .specs import FILTER_BOUNDARIES

__all__ = ["richardson_lucy", "unsupervised_wiener", "wiener"]
CLIPPED = "clip=True cuts the result at 1; pass clip=False, or scale the image to [0, 1]"


@any_library
def richardson_lucy(
    image: Array,
    psf: Array,
    num_iter: int = 50,
    clip: bool = True,
    filter_epsilon: float | None = None,
    *,
    boundary: str | None = None,
    channel_axis: int | None = None,
    batch: int = 0,
    offset: float = 0.0,
    floor: float | str | None = None,
) -> Array:
    """Richardson-Lucy deconvolution; drop-in for `skimage.restoration.richardson_lucy`.

    Repeats ``x = x * H^T (B / (H x + 1e-12))`` from x = 0.5. The `psf` is transformed once.

    Parameters
    ----------
    image : ([P, ]M, N) array, of any number of axes
        Blurred image. float16 is computed in float32, integers and bool in float64.
    psf : array with as many axes
        Point spread function, not scaled to sum 1; it may be larger than the image.
    num_iter : int
        Number of iterations.
    clip : bool
        Cut the result at -1 and 1.
    filter_epsilon : float, optional
        Where `H x` is below it, the ratio counts as 0.
    boundary : {None, "unknown", "reflect", "edge", "wrap"}
        What is beyond the borders. None: black, as in scikit-image. "unknown": the scene continues and only observed
        pixels are compared ([Bertero2005]), the best. "reflect", "edge": the image is mirrored, or continued
        by its border pixels. "wrap": it is periodic. With any but None the first iterate is the mean, and the scale of
        the `psf` affects only the brightness of the result.
    channel_axis : int, optional
        Axis of the channels; each is restored with the same `psf`.
    batch : int
        Number of leading axes, the channels' not counted, that are a stack of images; `psf` is shared, or has these
        axes too.
    offset : float
        Added to the image before, and subtracted after: for images from which the sky or the offset of the camera was
        subtracted. Negative values diverge with ``boundary=None``, and count as 0 with any other. With it, give a
        boundary: None takes what is beyond the borders for 0 with the offset included.
    floor : float or "auto", optional
        A constant to be subtracted from the `psf`, see `gpudeblur.deconvolve`.

    Returns
    -------
    array like `image`, float32 or float64.

    References
    ----------
    See `gpudeblur.nonblind.richardson_lucy`, which has acceleration, damping and total variation too.

    Examples
    --------
    >>> import numpy as np
    >>> from gpudeblur import restoration
    >>> image = np.random.default_rng(0).random((32, 32))
    >>> restoration.richardson_lucy(image, np.ones((5, 5)) / 25, num_iter=5).shape
    (32, 32)
    """
    check_boundary(boundary, FILTER_BOUNDARIES)
    planes, psf, ndim = _prepare(image, psf, channel_axis, batch, floor)
    check_lucy(psf, ndim, floor)
    offset = check_not_negative("offset", offset)
    warn_of_negative_light(planes, offset, boundary, ndim)
    count = checks.check_count("num_iter", num_iter, way_out="30 is usual")
    if filter_epsilon is not None:
        filter_epsilon = check_not_negative("filter_epsilon", filter_epsilon)
    if checks.check_flag("clip", clip):
        checks.check_range(planes, CLIPPED)
    if offset:
        planes += offset
    if boundary is None:
        warn_of_even(psf.shape[-ndim:])
        sharp = _richardson_lucy_zero_boundary(planes, psf, count, filter_epsilon, ndim)
    else:
        if boundary == "wrap":
            check_fits(psf, planes, ndim)
        sharp = em_iterations(planes, psf, ndim, num_iter=count, boundary=boundary, filter_epsilon=filter_epsilon)
    if offset:
        sharp = sharp - offset / sum_last_axes(psf, ndim)
    return _finalize(sharp, channel_axis, batch, clip)


def _richardson_lucy_zero_boundary(
    image: Array, psf: Array, num_iter: int, filter_epsilon: float | None, ndim: int
) -> Array:
    """scikit-image's iteration: zeros outside, as in `scipy.signal.convolve(mode="same")`, from 0.5 on."""
    xp, shape = array_module(image), image.shape[-ndim:]
    # Parts of the psf farther from its origin than the image is long connect no two pixels.
    forward, backward = (_central_part(kernel, shape) for kernel in (psf, xp.flip(psf, tuple(range(-ndim, 0)))))
    radius = (max(o, n - 1 - o) for o, n in zip(forward[1], forward[0].shape[-ndim:], strict=True))
    grid = fast_shape(tuple(side + r for side, r in zip(shape, radius, strict=True)))
    blur, correct = (convolutions(kernel, grid, origin)[0] for kernel, origin in (forward, backward))
    window: Any = (..., *map(slice, shape))
    latent = xp.zeros((*image.shape[:-ndim], *grid), dtype=image.dtype)
    ratio = xp.zeros_like(latent)
    inner, quotient = latent[window], ratio[window]
    inner += 0.5
    for _ in range(num_iter):
        reblurred = blur(latent)[window]
        reblurred += 1e-12
        xp.divide(image, reblurred, out=quotient)
        if filter_epsilon:
            quotient[reblurred < filter_epsilon] = 0
        inner *= correct(ratio)[window]
    return inner


def _central_part(kernel: Array, shape: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """The part of a kernel within `shape` of its origin, (side - 1) // 2, and the origin there."""
    sides = kernel.shape[-len(shape) :]
    begin = [max(0, (n - 1) // 2 - (length - 1)) for n, length in zip(sides, shape, strict=True)]
    end = [min(n, (n - 1) // 2 + length) for n, length in zip(sides, shape, strict=True)]
    origin = tuple((n - 1) // 2 - b for n, b in zip(sides, begin, strict=True))
    window: Any = (..., *map(slice, begin, end))
    return kernel[window], origin


@any_library
def wiener(
    image: Array,
    psf: Array,
    balance: float,
    reg: Array | None = None,
    is_real: bool = True,
    clip: bool = True,
    *,
    boundary: str | None = None,
    channel_axis: int | None = None,
    batch: int = 0,
    floor: float | str | None = None,
) -> Array:
    """Wiener-Hunt deconvolution; drop-in for `skimage.restoration.wiener`.

    ``F^-1 (conj(F h) F B / (|F h|^2 + lambda |F d|^2))`` for the point spread function h and the regularization d.

    Parameters
    ----------
    image : ([P, ]M, N) array, of any number of axes
        Blurred image. float16 is computed in float32, integers and bool in float64.
    psf : array with as many axes
        Real: the point spread function, not scaled, at most as large as the image. Complex: its transfer function, of
        shape (M, N // 2 + 1), or (M, N) unless `is_real`.
    balance : float
        lambda. Larger: less noise, less detail.
    reg : array, optional
        The regularization D, an impulse response or a transfer function like `psf`. None: the Laplacian.
    is_real : bool
        Whether transfer functions are of a real transform. If not, the result is complex.
    clip : bool
        Cut the result at -1 and 1.
    boundary : {None, "wrap", "unknown", "reflect", "edge"}
        What is beyond the borders. None and "wrap": the image is periodic. "reflect", "edge": it is mirrored, or
        continued by its border pixels, and fades over to its opposite border. "unknown": it is continued by a
        restoration that compares only observed pixels (`unknown_boundary`), the best and slowest, for images of two
        axes. The last three need a real `psf` and `reg`, and `is_real`.
    channel_axis, batch, floor : see `richardson_lucy`.

    Returns
    -------
    array like `image`, float32 or float64.

    References
    ----------
    B. R. Hunt: A matrix theory proof of the discrete convolution theorem, IEEE Trans. Audio Electroacoustics 1971.
    F. Orieux, J.-F. Giovannelli, T. Rodet, J. Opt. Soc. Am. A 27 (2010).

    Examples
    --------
    >>> import numpy as np
    >>> from gpudeblur import restoration
    >>> image = np.random.default_rng(0).random((32, 32))
    >>> restoration.wiener(image, np.ones((5, 5)) / 25, 0.1).shape
    (32, 32)
    """
    check_boundary(boundary, FILTER_BOUNDARIES)
    planes, psf, ndim = _prepare(image, psf, channel_axis, batch, floor)
    balance = check_not_negative("balance", balance, "0 is the inverse filter, 0.1 a start")
    if checks.check_flag("clip", clip):
        checks.check_range(planes, CLIPPED)
    data, window, otf, penalty = _spectral(planes, psf, reg, is_real, boundary, ndim, floor)
    xp, grid = array_module(data), data.shape[-ndim:]
    denominator = squared_magnitude(otf) + balance * penalty
    inverse = otf.conj() / xp.where(denominator > 0, denominator, 1)
    if not is_real:
        fft, axes = fft_module(xp), tuple(range(-ndim, 0))
        sharp = fft.ifftn(inverse * fft.fftn(data, axes=axes), axes=axes)
    else:
        inverse /= math.prod(grid)
        sharp = irfftn(inverse * rfftn(data, ndim), grid)[window]
    return _finalize(sharp, channel_axis, batch, clip)


@any_library
def unsupervised_wiener(
    image: Array,
    psf: Array,
    reg: Array | None = None,
    user_params: dict[str, Any] | None = None,
    is_real: bool = True,
    clip: bool = True,
    *,
    rng: Any = None,
    boundary: str | None = None,
    channel_axis: int | None = None,
    batch: int = 0,
    floor: float | str | None = None,
) -> tuple[Array, dict[str, list[Any]]]:
    """Wiener-Hunt deconvolution with an automatic weight; drop-in for `skimage.restoration.unsupervised_wiener`.

    Draws images and the precisions of noise and prior in turn (Gibbs sampling) and averages the images.

    Parameters
    ----------
    image : (M, N) array
        Blurred image. float16 is computed in float32, integers and bool in float64.
    psf, reg, is_real, clip, channel_axis, batch, floor : see `wiener`.
    user_params : dict, optional
        ``threshold``: a sample that changes the mean by less than this fraction is the last, 1e-4. ``burnin``: number
        of samples left out of the mean, 15. ``min_num_iter``, ``max_num_iter``: number of samples, 30 and 200.
        ``callback``: called with each sample, in Fourier space.
    rng : {`numpy.random.Generator`, int}, optional
        With one, the random numbers are those of scikit-image, also for CuPy arrays, to which they are copied. Without,
        or with a `cupy.random.Generator`, they are drawn faster, CuPy's on the device. All images of a stack share
        them: a stack equals a loop.
    boundary : {None, "wrap", "reflect", "edge"}
        See `wiener`.

    Returns
    -------
    x_postmean : array like `image`, float32 or float64
        The posterior mean.
    chains : dict
        ``noise`` and ``prior``: lists of the precisions, numbers, or arrays with one number per plane of a stack.

    References
    ----------
    F. Orieux, J.-F. Giovannelli, T. Rodet: Bayesian estimation of regularization and point spread function parameters
    for Wiener-Hunt deconvolution, J. Opt. Soc. Am. A 27 (2010).

    Examples
    --------
    >>> import numpy as np
    >>> from gpudeblur import restoration
    >>> image = np.random.default_rng(0).random((32, 32))
    >>> sharp, chains = restoration.unsupervised_wiener(image, np.ones((5, 5)) / 25, rng=0)
    >>> sharp.shape, sorted(chains)
    ((32, 32), ['noise', 'prior'])
    """
    check_boundary(boundary, ("wrap", "reflect", "edge"))
    planes, psf, ndim = _prepare(image, psf, channel_axis, batch, floor)
    if ndim != 2:
        raise ValueError(
            f"image must have 2 axes of space, (M, N), got {ndim} (shape {image.shape}); "
            "a stack of pictures needs batch=, channels need channel_axis="
        )
    if math.prod(planes.shape[-2:]) < 2:
        raise ValueError("image must have at least 2 pixels, got one; there is no noise to estimate then")
    params = sampler_parameters(user_params)
    if checks.check_flag("clip", clip):
        checks.check_range(planes, CLIPPED)
    data, window, otf, penalty = _spectral(planes, psf, reg, is_real, boundary, ndim, floor)
    xp, grid = array_module(data), data.shape[-2:]
    unit = math.prod(grid) ** -0.5
    if rng is None or (xp is not np and isinstance(rng, xp.random.Generator)):
        normal, gamma = random_streams(rng, xp, data.dtype)
    else:
        normal, gamma = _skimage_stream(checks.random_generator(rng), xp, data.dtype)
    chains = gibbs(
        unit * (rfftn(data, 2) if is_real else fft_module(xp).fft2(data, axes=(-2, -1))),
        otf,
        penalty,
        math.prod(grid),
        normal=normal,
        gamma=gamma,
        halved=is_real,
        sample=params.pop("callback"),
        **params,
    )
    mean = chains.mean * unit
    sharp = irfftn(mean, grid)[window] if is_real else fft_module(xp).ifft2(mean, axes=(-2, -1), norm="forward")
    return _finalize(sharp, channel_axis, batch, clip), {"noise": chains.noise, "prior": chains.prior}


def _skimage_stream(host: np.random.Generator, xp: Any, dtype: Any) -> tuple[Any, Any]:
    """`random_streams` as scikit-image draws them: float64, whatever the dtype of the image."""

    def normal(shape: tuple[int, ...]) -> Array:
        out = np.empty((2, *shape), dtype)
        for part in out:
            part[...] = host.standard_normal(shape)
        return xp.asarray(out)

    return normal, host.standard_gamma


def _prepare(image: Array, psf: Array, channel_axis: int | None, batch: int, floor: Any) -> tuple[Array, Array, int]:
    """Checked and converted: (planes (*batch, [C], *space), psf that broadcasts with them, number of spatial axes)."""
    check_array(image, "image", "inpaint it first", "biuf")
    check_array(psf, "psf", "set it to zero there", "biufc")
    xp = array_module(image, psf)
    lead = checks.check_count("batch", batch, minimum=0, way_out="it is the number of leading axes that are a stack")
    axis = None if channel_axis is None else check_channel_axis(channel_axis, image.ndim)
    ndim = image.ndim - lead - (axis is not None)
    if ndim < 1:
        raise ValueError(
            f"batch must leave image an axis of space, got {batch} for shape {image.shape} and channel_axis "
            f"{channel_axis}; it is the number of leading axes that are a stack"
        )
    check_psf_axes(psf, image, lead, axis, ndim)
    check_channels(image, psf, lead, axis, ndim)
    if floor is not None:
        psf = subtract_floor(psf, floor, ndim, name="psf")
    dtype = np.dtype(np.float32 if image.dtype.char in "ef" else np.float64)
    planes = image if axis is None else xp.moveaxis(image, axis, lead)
    planes = planes.astype(dtype)
    if image.dtype.itemsize > dtype.itemsize and image.dtype.kind == "f":
        check_array(planes, "image", f"scale it to the range of {dtype}", "f")
    psf = psf.astype(np.result_type(dtype, np.complex64) if psf.dtype.kind == "c" else dtype)
    if float(abs(psf).max()) > checks.value_limit(dtype):
        raise ValueError(f"psf must be within {checks.value_limit(dtype):.2g} for {dtype}; use psf / psf.sum()")
    if axis is not None and psf.ndim > ndim:
        psf = xp.expand_dims(psf, lead)
    return xp.ascontiguousarray(planes), psf, ndim


def _finalize(planes: Array, channel_axis: int | None, batch: int, clip: bool) -> Array:
    xp = array_module(planes)
    if channel_axis is not None:
        planes = xp.moveaxis(planes, batch, channel_axis)
    planes = xp.array(planes, order="C")  # a copy, which does not keep the grid alive
    if clip:
        planes[planes > 1] = 1
        planes[planes < -1] = -1
    return planes


def _spectral(
    planes: Array, psf: Array, reg: Any, is_real: bool, boundary: str | None, ndim: int, floor: Any
) -> tuple[Array, tuple[Any, ...], Array, Array]:
    """(image on its grid, its position there, transfer function of `psf`, |F D|^2)."""
    xp, shape = array_module(planes), planes.shape[-ndim:]
    is_real = checks.check_flag("is_real", is_real)
    bins = (*shape[:-1], shape[-1] // 2 + 1) if is_real else shape
    is_otf = check_spectral(psf, reg, planes, bins, is_real, boundary, ndim, floor)
    data, window = periodic_data(planes, psf, boundary or "wrap", ndim=ndim)
    grid = data.shape[-ndim:]

    def transform(kernel: Array) -> Array:
        padded = kernel_to_grid(kernel, grid)
        return rfftn(padded, ndim) if is_real else fft_module(xp).fftn(padded, axes=tuple(range(-ndim, 0)))

    otf = psf if is_otf else transform(psf)
    if reg is None:
        return data, window, otf, xp.asarray(prior_power(grid, "laplacian", data.dtype, halved=is_real))
    if reg.dtype.kind != "c":
        reg = transform(reg.astype(np.float64))
    return data, window, otf, squared_magnitude(reg).astype(data.dtype)
