"""Blind deblurring. Start here: `deblur` prepares the images, `two_step.two_step` is the method.

    image -> Settings (every argument) -> Observation (n, C, H, W) -> for each kernel size: kernel (two_step)
    -> restoration with the kernel (nonblind.final) -> blended with the observed image by its confidence -> image

The inner loop of the method is `alternation.alternate`. Equation numbers in this room are those of [Chen2017].
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

from ..images.checks import without_channels
from ..images.masks import with_mask_of, without_mask
from ..images.planes import join_alpha, split_alpha, to_picture
from ..numerics.arrays import (
    Array,
    Clock,
    array_module,
    backend_name,
    device_errors,
    move,
)
from ..numerics.interchange import any_library
from ..numerics.progress import Callback
from ..priors import Prior
from .display import Displayed
from .gamma_choice import encode_each
from .info import Info
from .observation import Observation
from .options import Settings, TwoStepOptions
from .parts import (
    as_info,
    blur_info,
    estimate_parts,
    fields_of,
    gammas_of,
    join_parts,
    kernel_sides,
    restore_part,
    warn_if_truncated,
)
from .rotation_choice import check_rotation_fits


@dataclass(frozen=True, repr=False)
class BlindResult(Displayed):
    """What `deblur` returns.

    Attributes
    ----------
    image : array like the input, or None
        The sharp image, with the shape, dtype and memory of the input; None where ``final=None``.
    kernel : (..., kh, kw) float array
        Non-negative, sum 1: ``blurred = conv(image, kernel)``.
    field : KernelField or None
        With ``blur="rotation"``: the kernels all over the image, of which `kernel` is that in the middle; None where
        the uniform kernel explains the image as well. A list of these for a stack.
    info : Info
        Confidence, strength, kernel size, times and more: a dict; `Info` has all keys.
    channel_axis : int or None
        Axis of the colors of `image`, as given.
    """

    image: Array
    kernel: Array
    info: Info
    field: Any = None
    channel_axis: int | None = None


@any_library
def deblur(
    image: Array,
    kernel_size: int | tuple[int, int] | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    final: str | None = "sparse",
    gamma: float | str = 1.0,
    white: float | str | None = None,
    mask: Array | str | None = None,
    defects: str | None = "auto",
    region: tuple[slice, slice] | str = "auto",
    shared_kernel: bool = False,
    blur: str = "uniform",
    focal: float | None = None,
    initial: Array | None = None,
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
    callback: Callback | None = None,
) -> BlindResult:
    """Sharp image and blur kernel of a blurred image, or of each image of a stack.

    Alternates argmin_x |x * k - B|^2 + lambda |grad x|_0 + alpha |grad x - grad z|^2 (eq. 2) and
    argmin_k |grad x * k - grad B|^2 + gamma |k|^2 (eq. 9), refines the kernel under |k|_0 (eq. 12), and restores the
    image with it under a prior for natural images (`deconvolve`).

    Parameters
    ----------
    image : (..., H, W) array; (..., H, W, C) with ``channel_axis=-1``
        Floats are intensities, about [0, 1], never clipped; integers are fractions of their full range; `white` says
        otherwise. Leading axes are a stack: every image is deblurred by itself. An array of NumPy, CuPy or any library
        with DLPack, such as torch, on a CPU or an NVIDIA GPU; image and kernel of the result are of the same library,
        on the same device.
    kernel_size : odd int or pair of odd ints (height, width), pixels; or None
        At least as large as the blur; a little larger is better than smaller. None finds it, a square of up to 151
        pixels and up to half of the image, at two to three times the cost; the kernels of a stack are padded to one
        size.
    channel_axis : int, optional
        Axis of the colors; the kernel is estimated on their luminance, and all are restored with it. The last of 2 or 4
        channels is returned unchanged if it is opacity: constant, or mostly at 0 or at its maximum.
    device : {None, "cpu", "cuda", "auto"}
        Where to compute; None: where the image lives. The result has the type of the input.
    method : {"two-step"}
    final : {"sparse", "tv", "hyper-laplacian", "pnp", None}
        The restoration: the best, one nearly as good, the fast one, or none (kernel and `info` are the result). Where
        the sensor was saturated, the first two take the light to be at least what the image shows: lights may come out
        far brighter than 1 in a float image.
    gamma : float or "auto"
        The image's values are light ** (1 / gamma); 1: linear intensity, as from a sensor or a simulation. "auto": 1,
        or 2.2 if a rough kernel shows that the image was blurred in that light, as photographs in files are, where it
        gains about 1 dB; decided for each image by itself, at a tenth of the kernel's time. ``info["gamma"]`` is what
        was taken.
    white : float, "auto" or None
        The value of full scale in the image's unit, such as 4095 for 12 bits; integers come back clipped there. "auto":
        the smallest of 2^8 - 1, 2^10 - 1, 2^12 - 1, 2^14 - 1 and 2^16 - 1 that holds all values of the image, or of the
        whole stack. For floats it is 1, but for those far below 1 the largest value, rounded up, as for others that no
        usual scale fits. None: the largest value of an integer type, 1 for floats. But an image that uses under 1/16 of
        its type's range, integers that end exactly at a smaller full scale, and floats of which more than 1 % are above
        16 or 10 % above 4 are read as by "auto", with a warning. ``info["white"]`` is what was taken.
    mask : bool array, (H, W) or (..., H, W), or "nan", optional
        True where the image is valid; in the memory of `image`. The other pixels may have any value, NaN included: they
        are interpolated while the kernel is estimated, and the restoration fills them in (see `deconvolve`). A mask
        (H, W) may serve a stack, and a mask has no channels. "nan": valid where the image is finite, in each channel. A
        `numpy.ma.MaskedArray` as `image` brings its own mask; the result is a masked array too, with the same mask over
        the pixels that were filled in.
    defects : {"auto", None}
        "auto": what is sharper than the blur of the image can be is found and left out, beside the `mask`, with a
        warning that says where: dead rows and columns, hot pixels, and overlays such as time stamps, logos and
        watermarks in under 40 % of the image; constant borders as well, such as letterbox bars, if there is no `mask`.
        Borders come back as they are, all else is filled in, as under a `mask`. Faint overlays in strong noise are not
        found, and an image that is sharp itself has none. Stars and lamps of a single pixel count as hot.
        None: all pixels belong to the scene, but for those that `mask` leaves out.
    region : {"auto", "all"} or two slices, of rows and of columns
        Where the kernel is estimated. "all": on the whole image. "auto": on the whole image up to 2^20 pixels, and in a
        larger one on patches of as many pixels together that share a kernel: those with the strongest edges in all
        directions, spread over the image, where it is valid and not saturated. Time and memory then do not grow with
        the image. With ``blur="rotation"`` it is "all". Slices, such as ``numpy.s_[100:400, 200:600]``: on that part
        alone, for images in which something else moves by itself. The whole image is restored in any case. Confidence
        and all other signals of the kernel are those of where it was estimated.
    shared_kernel : bool
        True: all images of a stack have the same blur, such as channels taken at once or frames of one tripod. One
        kernel is estimated for all of them together, and returned once for each.
    blur : {"uniform", "rotation"}
        "rotation": the camera may have rotated, so that the blur varies over the image ([Li2018] section 5). The
        uniform method runs first and its result is kept, bit for bit, unless a `field` of kernels explains the image
        better. It takes three times as long and needs six kernels along each side of the image.
    focal : float, optional
        With ``blur="rotation"``: the focal length in pixels, ``math.inf`` for motion in the image plane. The focal
        length in 35 mm equivalent / 36 * the image's longer side. None: estimated with the camera's path, on
        training images within a third of the true one for 16 of 24 fields.
    initial : (kh, kw) array, optional
        A kernel to begin with, such as that of another photograph of the burst or of `streak_kernel`: one more
        initialization, which takes part in the finest scale and is kept if it explains the image best. `kernel_size` is
        its size. In dark images with lights at full scale, streaks are looked for without being asked.
    prior : Prior, optional
        A prior on the latent image beside those of the method, as `options.prior`: one of `gpudeblur.priors`, such as
        `DiscriminativePrior()`, or your own. The initialization "text" keeps its own.
    options : TwoStepOptions, optional
    callback : callable(stage, fraction), optional
        Called with the progress of the whole run; the stages are "kernel" and "restoration". Returning True ends the
        run by `Stopped`.

    Returns
    -------
    BlindResult

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above; the message names the rule. What can be checked without the image is
        checked first.
    ImportError, OSError
        The initialization "network" without PyTorch, or without its weights.
    RuntimeError
        ``device="cuda"`` where there is none.
    Stopped
        The callback returned True.

    References
    ----------
    [Chen2017] J.-H. Chen, L.-W. Chang: Two-step facial images deblurring with kernel refinement via smooth priors,
    EMERGING 2017.

    Examples
    --------
    >>> import gpudeblur as gd
    >>> from skimage import data
    >>> result = gd.deblur(data.clock(), 31)                # doctest: +SKIP
    >>> result.image.shape, result.kernel.shape             # doctest: +SKIP
    ((300, 400), (31, 31))
    """
    begin = time.perf_counter()
    with device_errors():
        settings = Settings.of(
            kernel_size,
            channel_axis,
            device,
            method,
            final,
            gamma,
            prior,
            options,
            callback,
            blur,
            focal,
            white,
            defects,
            region,
            shared_kernel,
            initial,
        )
        observed = Observation.of(image, settings, mask)
        original, image = image, without_mask(image)
        if blur == "rotation" and settings.kernel_size is not None:
            for shape in observed.window_shapes:
                check_rotation_fits(shape, settings.kernel_size)
        setup_end, clock = time.perf_counter(), Clock(observed.xp)
        parts = [restore_part(part, settings) for part in estimate_parts(observed, settings, clock)]
        warn_if_truncated(parts, settings)
        kernel, sharp, signals = join_parts(parts, len(observed), observed.shape)
        stack = without_channels(image, channel_axis)[:-2]
        info = as_info(signals, stack) | {"method": method, "final": final, "dtype": settings.options.dtype}
        fields = fields_of(parts, len(observed))
        info |= blur_info(stack, fields)
        info |= {"backend": backend_name(observed.xp), "white": float(observed.white)}
        info["kernel_size"] = settings.kernel_size or kernel_sides(parts, len(observed), stack)
        gammas = gammas_of(parts, len(observed))
        info["gamma"] = gammas.reshape(stack) if stack else float(gammas[0])
        if sharp is not None:
            sharp = encode_each(sharp, gammas)
            planes = sharp if channel_axis is not None else sharp[:, 0]
            planes = planes.reshape(*stack, *planes.shape[1:])
            sharp = to_picture(planes, 1.0, image, channel_axis=channel_axis, white=observed.white)
            if observed.inside is not None:
                colors = split_alpha(image, channel_axis)[0]
                sharp = array_module(image).where(observed.inside, sharp, colors).astype(image.dtype, copy=False)
            sharp = with_mask_of(original, join_alpha(sharp, observed.alpha, channel_axis))
        kernel = move(kernel.reshape(*stack, *kernel.shape[-2:]), array_module(image))
        kernel_seconds = sum(clock.seconds(part.end) - clock.seconds(part.start) for part in parts)
        info["seconds_kernel"] = setup_end - begin + kernel_seconds
        info["seconds"] = time.perf_counter() - begin
        field: Any = fields if stack and blur == "rotation" else fields[0]
        return BlindResult(sharp, kernel, cast(Info, info), field, channel_axis)


@any_library
def estimate_kernel(
    image: Array,
    kernel_size: int | tuple[int, int] | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    method: str = "two-step",
    gamma: float | str = 1.0,
    white: float | str | None = None,
    mask: Array | str | None = None,
    defects: str | None = "auto",
    region: tuple[slice, slice] | str = "auto",
    shared_kernel: bool = False,
    initial: Array | None = None,
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
    callback: Callback | None = None,
) -> Array:
    """The blur kernel alone, (..., kh, kw); arguments and errors as `deblur`."""
    with device_errors():
        settings = Settings.of(
            kernel_size,
            channel_axis,
            device,
            method,
            None,
            gamma,
            prior,
            options,
            callback,
            white=white,
            defects=defects,
            region=region,
            initial=initial,
            shared_kernel=shared_kernel,
        )
        observed = Observation.of(image, settings, mask)
        image = without_mask(image)
        parts = list(estimate_parts(observed, settings, Clock(observed.xp)))
        warn_if_truncated(parts, settings)
        kernel, _, _ = join_parts(parts, len(observed), observed.shape)
        stack = without_channels(image, channel_axis)[:-2]
        return move(kernel.reshape(*stack, *kernel.shape[-2:]), array_module(image))
