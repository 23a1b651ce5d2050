"""`deconvolve`: the sharp image for a known blur kernel, by any method of `nonblind`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..images import checks
from ..images.defects import find_defects, has_steps
from ..images.kernel_field import KernelField
from ..images.kernels import prepare_kernel
from ..images.known_kernel import known_kernel
from ..images.masks import (
    NAN_ADVICE,
    check_enough,
    hide_invalid,
    valid_pixels,
    valid_planes,
    with_mask_of,
    without_mask,
    without_opacity,
)
from ..images.planes import decode, join_alpha, split_alpha, to_picture, to_planes
from ..images.saturation import find_saturated
from ..images.white import check_white, white_level
from ..numerics.arrays import Array, array_module, choose_module, device_errors, move, replayed
from ..numerics.inpainting import inpaint
from ..numerics.interchange import any_library
from ..numerics.progress import Callback, OnProgress, make_progress
from .blurring import check_field
from .specs import METHOD_SPECS, METHODS, MethodSpec, check_installed, color_option
from .tiles import tiled


@any_library
def deconvolve(
    image: Array,
    kernel: Array | KernelField,
    *,
    method: str | None = None,
    boundary: str = "unknown",
    weight: Any = None,
    noise_sigma: Any = None,
    offset: float | None = None,
    floor: float | str | None = None,
    iterations: int | None = None,
    saturation: float | str | None = "auto",
    mask: Array | str | None = None,
    defects: str | None = "auto",
    tile: int | str | None = None,
    channel_axis: int | None = None,
    device: str | None = None,
    gamma: float = 1.0,
    white: float | str | None = None,
    dtype: str = "float32",
    callback: Callback | None = None,
) -> Array:
    """The sharp image for a known blur kernel.

    Solves argmin_x |x * k - B|^2 / 2 + weight phi(x) with the method's prior phi. By default, noise and boundaries are
    taken into account.

    Parameters
    ----------
    image : (..., H, W), or (..., H, W, C) with ``channel_axis=-1``; see `deblur`, also for opacity.
    kernel : (kh, kw), or one per image, (..., kh, kw)
        ``image = conv(sharp, kernel)``. It is scaled to sum 1 and need not be centered. Its origin is pixel
        (kh // 2, kw // 2), the middle one of odd sides: a delta elsewhere shifts the image. A stack of them is no
        3-D point spread function, for which `gpudeblur.restoration.richardson_lucy` is: stacks whose slices look like
        its planes are refused, unless each has the sum 1. In the same kind of memory as `image`. It may be larger than
        the image along one axis, unless the boundary is "wrap". Or a `KernelField` of the image's height and width: a
        blur that varies over the image, the same in a whole stack.
    method : str
        phi; each is a function of `gpudeblur.nonblind` with more options. "tv", |grad x|: good under noise.
        "sparse", |derivatives|^0.8: better without noise, about as slow. "hyper-laplacian", |gradient|^(2/3): between
        them. "pnp", a neural network that removes noise: the best on photographs, and slow; needs PyTorch. "epll",
        minus the log likelihood of patches of 8 x 8 under a mixture learned from photographs: better than "tv" under
        noise, two to four times as slow. "l0", the number of edges: for text and drawings. "ringing-suppressed": tv and
        l0 combined, for inexact kernels. "wiener", |grad x|^2: one quotient, and for the
        boundary "unknown" a "tv" of what lies beyond it. "richardson-lucy": no prior, Poisson noise; x >= 0. None is
        "tv" for a kernel and "sparse" for a field, which "pnp" and "richardson-lucy" support too, all with the boundary
        "unknown". With nodes two kernel sides apart, "sparse" takes five times as long as with one kernel.
    boundary : {"unknown", "liu-jia", "reflect", "edge", "taper", "wrap"}
        What is assumed outside the image, see `numerics.boundary.pad`. "unknown" assumes nothing: x extends as far as
        the blur, and only observed pixels are compared. The others take half of the transforms ("wiener": a tenth), and
        cost up to some dB along the borders. "sparse" and "pnp" support "unknown" only, "wiener" and "richardson-lucy"
        neither "liu-jia" nor "taper".
    weight : float, or one per image, optional
        Of phi. Larger: less noise and ringing, less detail. None derives it from the noise,
        `gpudeblur.nonblind.regularization`. "richardson-lucy" has none.
    noise_sigma : float, or one per image, optional
        Standard deviation of the noise, as a fraction of full scale (`white`). None estimates it.
    offset : float, optional
        Of "richardson-lucy", which counts negative values as 0 and so adds light where noise about 0 was cut off: added
        to the image before, and subtracted after. For images with the sky or the camera's offset subtracted, give what
        was subtracted, or as much as makes the image positive; in the unit of `noise_sigma`. The other methods take
        negative values as they are.
    floor : float or "auto", optional
        A constant to be subtracted from the kernel, in its unit: a measured point spread function contains the offset
        of the camera, and the sky, which would count as a very wide blur. "auto" takes it from the kernel's border, and
        sets to 0 what does not exceed the noise there. None: the kernel is taken as it is, with a warning if it seems
        to have a floor, or its origin at [0, 0] (use `numpy.fft.fftshift`). A `KernelField` has its own `floor`.
    iterations : int, optional
        Of "tv" (30), "sparse" (8, four times) and "richardson-lucy" (30 at most).
    saturation : float or "auto", optional
        Level, as a fraction of full scale (`white`), from which on the sensor was saturated: there x * k may exceed the
        recorded value. Lamps and highlights treated as ordinary data ring widely. "auto" looks for plateaus at the
        top of the range; without any, it is the same as None: no pixel was saturated. For the boundary "unknown" only,
        and not for "epll" and "wiener". Saturated images take up to 2.5 times as long, and their lights may come out
        far above 1.
    mask : bool array, (H, W) or (..., H, W), or "nan", optional
        True where the image is valid. The other pixels may have any value, NaN included: they are not compared with the
        blurred sharp image, like those beyond an unknown boundary, and the prior fills in what they hide. In holes up
        to half as wide as the kernel this costs about 3 dB; the middle of wider ones is interpolated, not restored. A
        mask (H, W) may serve a stack, and a mask has no channels. In the memory of `image`. "nan": valid where the
        image is finite, in each channel. For the boundary "unknown" only. A `numpy.ma.MaskedArray` as `image` brings
        its own mask; the result is a masked array too, with the same mask over the pixels that were filled in.
    defects : {"auto", None}
        "auto": in an image with steps from pixel to pixel, what is sharper than its blur can be is looked for, as in
        `deblur`: dead rows and columns, hot pixels, overlays, constant borders. What there is is left out, beside the
        `mask`, and filled in, with a warning that says where; borders come back as they are. For the boundary "unknown"
        only. None: all pixels belong to the scene.
    tile : int or "auto", optional
        Restore the image in tiles of this side, for images that do not fit the device; "auto" is the largest that
        fits. Not for "wiener" and "richardson-lucy"; boundary "unknown" only.
    gamma, white, device, callback : see `deblur`; the callback's stage is "restoration", and a repeated call on a GPU
        reports once. "wiener" and "richardson-lucy" need `white` for saturated pixels only, and do not warn. Without
        `white`, but with `weight`, `noise_sigma`, `offset` or `saturation`, nothing is read as by "auto", since these
        are given as fractions of full scale.
    dtype : {"float32", "float64"}
        Precision of the computation; the result has the dtype of `image`.

    Returns
    -------
    array like `image`, complete also where `mask` is False.

    Raises
    ------
    TypeError, ValueError
        The image, the kernel or an option breaks a rule, which the message names.
    Stopped
        The callback returned True.

    Examples
    --------
    >>> import numpy as np, gpudeblur as gd
    >>> from skimage import data
    >>> sharp = data.camera() / 255
    >>> blurred = (sharp[:, 2:] + sharp[:, 1:-1] + sharp[:, :-2]) / 3
    >>> restored = gd.deconvolve(blurred, np.ones((1, 3)))
    >>> bool(abs(restored - sharp[:, 1:-1]).mean() < abs(blurred - sharp[:, 1:-1]).mean() / 3)
    True

    A blur that varies over the image, here not at all:

    >>> field = gd.KernelField(np.ones((2, 3, 1, 3)), shape=blurred.shape)
    >>> restored = gd.deconvolve(blurred, field)
    >>> bool(abs(restored - sharp[:, 1:-1]).mean() < abs(blurred - sharp[:, 1:-1]).mean() / 3)
    True
    """
    method = checked_method(method, kernel)
    spec = METHOD_SPECS[method]
    checks.check_choice("dtype", dtype, ("float32", "float64"))
    checks.check_choice(f"boundary of method {method!r}", boundary, spec.boundaries)
    if tile is not None:
        check_tile(tile, method, boundary)
    check_saturation(saturation, method, boundary)
    white = check_white(white)
    checks.check_defects(defects)
    original, image = image, without_mask(image)
    has_mask = mask is not None or image is not original
    if has_mask and boundary != "unknown":
        raise ValueError(f"boundary must be 'unknown' with a mask, got {boundary!r}; leave it out")
    checks.check_picture(image, channel_axis=channel_axis, nan_advice=None if has_mask else NAN_ADVICE)
    if isinstance(kernel, KernelField):
        check_field(kernel, image, boundary=boundary, channel_axis=channel_axis)
        if floor is not None:
            raise ValueError(f"floor must be None for a KernelField, got {floor!r}; use KernelField(..., floor=)")
    else:
        kernel = known_kernel(kernel, floor=floor)
    with device_errors():
        kernels = kernel.kernels[0, 0] if isinstance(kernel, KernelField) else kernel
        xp_in, xp = array_module(image, kernels), choose_module(image, device)
        checks.check_kernel_fits(kernels, image, channel_axis=channel_axis, both=boundary == "wrap")
        stack = checks.without_channels(image, channel_axis)[:-2]
        options = checked_options(method, spec, weight, noise_sigma, offset, iterations, stack)
        progress = make_progress(callback, "restoration")
        if tile is not None:
            xp = xp_in  # `tiled` moves each tile to the device
        valid = valid_pixels(original, mask, channel_axis=channel_axis)
        image, alpha = split_alpha(image, channel_axis)
        if valid is not None and alpha is not None and channel_axis is not None:
            valid = without_opacity(valid, channel_axis)
        image = hide_invalid(image, valid)
        numbers = (weight, noise_sigma, offset, None if isinstance(saturation, str) else saturation)
        level = white_level(
            image,
            white,
            channel_axis=channel_axis,
            dtype=dtype,
            # Warnings about negative values name an offset as a fraction of full scale.
            adaptive=all(number is None for number in numbers) and not (spec.nonnegative and bool(image.min() < 0)),
            unit_free=spec.weight_rule is None,
        )
        planes = to_planes(move(image, xp), channel_axis=channel_axis, dtype=dtype, white=level)
        located = None
        if defects is not None and boundary == "unknown" and has_steps(planes):
            located = find_defects(image, valid, channel_axis)
        if located is not None:
            located.warn()
            valid = located.valid
        if valid is not None:
            valid = valid_planes(valid, xp, channel_axis)
            check_enough(valid, (kernels.shape[-2], kernels.shape[-1]))
            planes = inpaint(planes, valid)
        saturated = None
        if saturation is not None and boundary == "unknown" and spec.saturated:
            saturated = find_saturated(planes) if isinstance(saturation, str) else planes >= saturation
            if valid is not None:
                saturated &= valid
            if not bool(saturated.any()):  # here CuPy must wait
                saturated = None
        planes = decode(planes, gamma)
        checks.check_range(planes, None)
        if spec.nonnegative:
            checks.warn_of_cut(planes, options.get("offset", 0.0))
        if isinstance(kernel, KernelField):
            kernel = kernel.to(xp).prepared(dtype)
        else:
            kernel = prepare_kernel(move(kernel, xp)).astype(dtype)
            if channel_axis is not None:
                kernel = kernel[..., None, :, :]
        for name, value in options.items():
            if getattr(value, "ndim", 0):  # one per image: to the memory of the planes, with an axis for the channels
                options[name] = move(value, xp) if channel_axis is None else move(value, xp)[..., None]
        if channel_axis is not None:
            options |= color_option(method, planes)
        if saturated is not None:
            options["saturated"] = saturated
        if valid is not None:
            options["mask"] = valid
        if tile is not None:
            side = None if tile == "auto" else int(tile)
            sharp = tiled(planes, kernel, method=method, tile=side, device=device, callback=progress, **options)
        else:
            if len(spec.boundaries) > 1:
                options["boundary"] = boundary
            sharp = _restored(planes, kernel, method, options, progress)
        sharp = to_picture(sharp, gamma, image, channel_axis=channel_axis, white=level)
        if located is not None and located.inside is not None:
            sharp = xp_in.where(located.inside, sharp, image)
        return with_mask_of(original, join_alpha(sharp, alpha, channel_axis))


def _restored(
    planes: Array, kernel: Array | KernelField, method: str, options: dict[str, Any], report: OnProgress
) -> Array:
    """The result of the method; on a device, repeated calls are CUDA graphs where the method waits for nothing."""
    arrays = {name: value for name, value in options.items() if hasattr(value, "ndim")}
    scalars = {name: value for name, value in options.items() if name not in arrays}
    if isinstance(kernel, KernelField) or "mask" in arrays or not METHOD_SPECS[method].replayable:
        return METHODS[method](planes, kernel, callback=report, **options)

    def function(planes: Array, kernel: Array, *values: Array, report: OnProgress) -> tuple[Array]:
        named = dict(zip(arrays, values, strict=True))
        return (METHODS[method](planes, kernel, callback=report, **scalars, **named),)

    key = ("deconvolve", method, tuple(arrays), tuple(sorted(scalars.items())))
    (sharp,) = replayed(key, function, planes, kernel, *arrays.values(), report=report)
    return sharp


def checked_method(method: Any, kernel: Any) -> str:
    """The checked name of the method; None is the default for a kernel, or for a field of them."""
    if not isinstance(kernel, KernelField):
        checks.check_choice("method", "tv" if method is None else method, METHOD_SPECS)
        check_installed("tv" if method is None else method)
        return "tv" if method is None else str(method)
    if method is None:
        return "sparse"
    checks.check_choice("method", method, METHOD_SPECS)
    checks.check_choice(
        "method for a KernelField", method, [name for name, spec in METHOD_SPECS.items() if spec.varying]
    )
    check_installed(method)
    return str(method)


def checked_options(
    method: str, spec: MethodSpec, weight: Any, noise_sigma: Any, offset: Any, iterations: Any, stack: tuple[int, ...]
) -> dict[str, Any]:
    """Checked options of the method, without the boundary; what it does not support is refused."""
    options = dict[str, Any]()
    if weight is not None:
        if not spec.weight:
            raise ValueError(f"weight is not known to method {method!r}, got {weight!r}; leave it out")
        options["weight"] = checks.check_positive("weight", weight, stack)
    if noise_sigma is not None:
        noise_sigma = checks.check_positive("noise_sigma", noise_sigma, stack, zero=True)
        if spec.weight_rule is None:
            options["noise_sigma"] = noise_sigma
        elif weight is None:
            options["weight"] = spec.weight_rule.weight(noise_sigma)
    if offset is not None:
        if not spec.nonnegative:
            raise ValueError(f"offset is not known to method {method!r}, got {offset!r}; it takes negative values, too")
        options["offset"] = spec.parameters["offset"]("offset", offset, stack)
    if iterations is not None:
        if not spec.iterations:
            raise ValueError(f"iterations are not known to method {method!r}, got {iterations!r}; leave it out")
        options[spec.iterations] = checks.check_count("iterations", iterations)
    return options


def check_tile(tile: Any, method: str, boundary: str) -> None:
    checks.check_choice("method with tile", method, [name for name, spec in METHOD_SPECS.items() if spec.live_arrays])
    if boundary != "unknown":
        raise ValueError(f"boundary must be 'unknown' with tile, got {boundary!r}; leave it out")
    side = None if isinstance(tile, list | tuple) or np.ndim(tile) else checks.as_integer(tile)
    if not (isinstance(tile, str) and tile == "auto") and (side is None or side < 1):
        raise ValueError(f"tile must be a positive integer or 'auto', got {tile!r}; 'auto' is as many as fit")


def check_saturation(saturation: Any, method: str, boundary: str) -> None:
    if saturation is None or (isinstance(saturation, str) and saturation == "auto"):
        return
    if isinstance(saturation, bool) or not isinstance(saturation, int | float | np.number) or not saturation > 0:
        raise ValueError(f"saturation must be a positive level, 'auto' or None, got {saturation!r}; full scale is 1")
    if not METHOD_SPECS[method].saturated:
        raise ValueError(f"saturation is not known to method {method!r}, got {saturation!r}; leave it out")
    if boundary != "unknown":
        raise ValueError(f"boundary must be 'unknown' with saturation, got {boundary!r}; leave it out")
