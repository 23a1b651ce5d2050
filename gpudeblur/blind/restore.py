"""`restore`: images restored by a trained network, in one step, with the arguments and results of `deblur`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..images import checks
from ..images.masks import NAN_ADVICE, hide_invalid, valid_pixels, valid_planes, with_mask_of, without_mask
from ..images.planes import decode, to_picture, to_planes
from ..images.white import check_white, white_level
from ..networks.catalog import network_names
from ..numerics.arrays import Array, array_module, backend_name, choose_module, device_errors, move
from ..numerics.inpainting import inpaint
from ..numerics.interchange import any_library
from ..numerics.progress import Callback, OnProgress, make_progress
from ..numerics.user_warnings import warn
from .display import Displayed
from .info import Info
from .options import check_call
from .parts import as_info

MIN_TILE = 64  # pixels
FACE_LIMIT = 0.5  # probability, below which an image is no face
FACE_NETWORKS = ("deepdeblur", "sketch")  # of "face"


class NoFaceWarning(UserWarning):
    """Images given to a network for small faces do not look like one. `at_command_line` is the text for there."""

    def __init__(self, network: str, others: int, total: int) -> None:
        which = "this picture does" if total == 1 else f"{others} of {total} pictures do"
        text = f"is for small faces, and {which} not look like one"
        super().__init__(f'restore(..., "{network}") {text}; deblur() is for other pictures')
        self.at_command_line = f"{network} {text}; gpudeblur deblur is for other pictures"


@dataclass(frozen=True, repr=False)
class RestoreResult(Displayed):
    """What `restore` returns.

    Attributes
    ----------
    image : array like the input
        The restored image, with the shape, dtype and memory of the input.
    kernel : (..., K, K) float32 array, or None
        The blur kernel, from a network that estimates one.
    info : Info
        Confidence, strength, method, times and more: a dict; `Info` has all keys.
    channel_axis : int or None
        Axis of the colors of `image`, as given.
    """

    image: Array
    kernel: Array | None
    info: Info
    channel_axis: int | None = None


@dataclass(frozen=True)
class RestoreSettings:
    """The arguments of `restore` and of `deblur_batch` with a network, checked without reading a pixel."""

    network: str
    channel_axis: int | None
    device: str | None
    weights: Path | None
    strength: float | None  # None: by the confidence
    tile: int | None  # None: whole, or as small as a large image needs
    gamma: float
    callback: Callback | None
    white: float | str | None = None

    @classmethod
    def of(
        cls,
        network: Any,
        channel_axis: Any = None,
        device: Any = None,
        weights: Any = None,
        strength: Any = "auto",
        tile: Any = "auto",
        gamma: Any = 1.0,
        callback: Any = None,
        white: Any = None,
    ) -> RestoreSettings:
        """Check the arguments, with the errors of `restore`; the weights are read, so that they are checked too."""
        checks.check_choice("network", network, network_names())
        checks.check_gamma(gamma, "1 takes the picture as it is, 1 / 2.2 is linear intensity")
        white = check_white(white)
        check_call(channel_axis, device, callback)
        if isinstance(strength, str) and strength == "auto":
            strength = None
        else:
            way_out = "'auto' decides for each image"
            strength = checks.check_number("strength", strength, "in [0, 1]", lambda s: 0 <= s <= 1, way_out=way_out)
        if isinstance(tile, str) and tile == "auto":
            tile = None
        else:
            tile = checks.check_count("tile", tile, minimum=MIN_TILE, way_out="'auto' takes images whole if it can")
        if weights is not None:
            if not isinstance(weights, str | os.PathLike):
                came = f"{weights!r} ({type(weights).__name__})"
                raise TypeError(f"weights must be a path to a file, got {came}; leave it out for those of the package")
            if network == "face":
                raise ValueError(f"weights must be None for 'face', which has several networks, got {weights}")
            weights = Path(weights)
        settings = cls(network, channel_axis, device, weights, strength, tile, gamma, callback, white)
        settings.load()
        return settings

    def load(self, device: Any = "cpu") -> Any:
        """The network on a torch device; of "face", the last of its networks. The gate is loaded too if it is used."""
        from ..networks.restore import load

        for name in FACE_NETWORKS if self.network == "face" else (self.network,):
            network = load(name, self.weights, device)
        if self.for_faces:
            load("face-gate", None, device)
        return network

    @property
    def for_faces(self) -> bool:
        """Whether the network is for small faces; nobody knows what a user's weights are for."""
        return self.weights is None


@any_library
def restore(
    image: Array,
    network: str,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    weights: Path | str | None = None,
    strength: float | str = "auto",
    tile: int | str = "auto",
    gamma: float = 1.0,
    white: float | str | None = None,
    mask: Array | str | None = None,
    callback: Callback | None = None,
) -> RestoreResult:
    """The sharp image of a blurred face, or of each image of a stack, by a trained network (needs PyTorch).

    result = image + strength (network(image) - image). The networks know small faces, some 15 to 30 pixels between the
    eyes; `deblur` is for everything else, and a warning says so if an image does not look like such a face.

    Parameters
    ----------
    image : (..., H, W) array; (..., H, W, C) with ``channel_axis=-1``; of any library, see `deblur`
        Sides of at least 16 pixels. Gray, RGB, or RGB and alpha, which passes through unchanged. Floats are
        intensities, about [0, 1], never clipped; integers are fractions of their full range. Leading axes are a stack.
    network : str
        - "deepdeblur": in one step ([WangL2017]); no kernel.
        - "sketch": by the structure of the face, from which the kernel follows ([Lin2020]).
        - "face": both, and the blind method with the kernel of "sketch" among its initializations, mixed as far as each
          is right. The best of all, and the slowest.
        - "enhancement-gan": with the texture of sharp faces ([Qi2020]), which the blurred picture may not hold: it
          pleases, where the others are faithful.
    channel_axis : int, optional
        Axis of the colors.
    device : {None, "cpu", "cuda", "auto"}
        Where to compute; None: where the image lives. The result has the type of the input. On a GPU torch's
        convolutions take TF32 unless `torch.backends.cudnn.allow_tf32` is False; results then differ by some 2e-4 from
        those of a CPU.
    weights : path, optional
        A file written by `gpudeblur train`; None: the weights of the package.
    strength : float in [0, 1], or "auto"
        The share of the network's change in the result; "auto" decides by the confidence in each image, and takes less
        where it is no small face.
    tile : int or "auto"
        The side, in pixels, of the tiles that an image is cut into, without their overlap: less memory, the same
        result. "auto" takes images of less than 2^21 pixels whole, and others in tiles of 512.
    gamma : float
        The image's values are v ** (1 / gamma) for the display values v that networks are trained on. 1: a photograph,
        taken as it is; 1 / 2.2: linear intensity.
    white : see `deblur`.
    mask : bool array, (H, W) or (..., H, W), or "nan", optional
        True where the image is valid; in the memory of `image`, without channels. The other pixels may have any value,
        NaN included: the networks see an interpolation of them, and the result shows there what they make of it. "nan":
        valid where the image is finite, in each channel. A `numpy.ma.MaskedArray` as `image` brings its own mask; the
        result is a masked array too, with the same mask. Opacity is returned as it came.
    callback : callable(stage, fraction), optional
        Called with the progress, in the stage "restoration". Returning True ends the run by `Stopped`.

    Returns
    -------
    RestoreResult

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above, or a file of weights is not one of this network; the message names the
        rule. What can be checked without the image is checked first.
    ImportError
        PyTorch is missing: ``pip install "gpudeblur[torch]"``.
    OSError
        The weights cannot be read.
    RuntimeError
        ``device="cuda"`` where there is none.
    Stopped
        The callback returned True.

    References
    ----------
    [WangL2017] L. Wang, Y. Li, S. Wang: DeepDeblur: fast one-step blurry face images restoration, 2017.

    [Qi2020] Q. Qi et al.: Blurry face image deblurring by an enhancement generative adversarial network, 2020.

    [Lin2020] S. Lin et al.: Learning to deblur face images via sketch synthesis, AAAI 2020.

    Examples
    --------
    >>> import gpudeblur as gd
    >>> result = gd.restore(face, "deepdeblur", channel_axis=-1)    # doctest: +SKIP
    >>> result.image, result.info["strength"]                       # doctest: +SKIP
    """
    with device_errors():
        settings = RestoreSettings.of(network, channel_axis, device, weights, strength, tile, gamma, callback, white)
    result = _restore(image, settings, mask)
    others, total = count_others(result.info)
    if others:
        warn(NoFaceWarning(network, others, total))
    return result


def count_others(info: Info) -> tuple[int, int]:
    """(images that do not look like small faces, those that the gate has seen) in a result."""
    face = np.asarray(info.get("face", []))
    return int((face < FACE_LIMIT).sum()), face.size


def restore_silently(image: Array, *, mask: Any = None, **arguments: Any) -> RestoreResult:
    """`restore` without the warning of images that are no faces: a batch has one for all images."""
    with device_errors():
        settings = RestoreSettings.of(**arguments)
    return _restore(image, settings, mask)


def _restore(image: Array, settings: RestoreSettings, mask: Any) -> RestoreResult:
    begin = time.perf_counter()
    with device_errors():
        channel_axis, gamma = settings.channel_axis, settings.gamma
        planes, valid, white = network_planes(image, settings, mask)
        original, image = image, without_mask(image)
        stack = checks.without_channels(image, channel_axis)[:-2]
        observed = decode(planes[:, :3], gamma)
        report = make_progress(settings.callback, "restoration")
        restored, kernel, signals = restore_planes(observed, settings, report, valid)
        xp = array_module(planes)
        share = signals["strength"].astype(planes.dtype)[:, None, None, None]
        result = observed + share * (restored - observed)
        if planes.shape[1] == 4:
            result = xp.concatenate([result, planes[:, 3:]], axis=1)
        result = result.reshape(*stack, *(result.shape[1:] if channel_axis is not None else result.shape[-2:]))
        result = to_picture(result, gamma, image, channel_axis=channel_axis, white=white)
        if channel_axis is not None and planes.shape[1] == 4:
            _copy_alpha(image, result, channel_axis)
        if kernel is not None:
            kernel = move(kernel.reshape(*stack, *kernel.shape[-2:]), array_module(image))
        info = as_info(signals, stack) | {
            "method": settings.network,
            "precision": "float32",
            "backend": backend_name(xp),
            "white": float(white),
        }
        info["seconds"] = time.perf_counter() - begin
        return RestoreResult(with_mask_of(original, result), kernel, cast(Info, info), channel_axis)


def network_planes(image: Array, settings: RestoreSettings, mask: Any = None) -> tuple[Array, Array | None, float]:
    """Check `image` and `mask` and bring them to the device that computes: (n, C, H, W) each, and the white level.

    In float64 if float32 would round its values. Where the image is not valid it is interpolated; the second is where
    its colors are valid, or None for everywhere.

    Raises
    ------
    TypeError, ValueError
        See `images.checks.check_network_picture` and `images.masks.valid_pixels`.
    """
    original, image, channel_axis = image, without_mask(image), settings.channel_axis
    has_mask = mask is not None or image is not original
    checks.check_network_picture(image, channel_axis=channel_axis, nan_advice=None if has_mask else NAN_ADVICE)
    xp = choose_module(image, settings.device)
    valid = valid_pixels(original, mask, channel_axis=channel_axis)
    image = hide_invalid(image, valid)
    white = white_level(colors_of(image, channel_axis), settings.white, channel_axis=channel_axis)
    dtype = np.float32 if np.can_cast(image.dtype, np.float32) else np.float64
    planes = to_planes(move(image, xp), channel_axis=channel_axis, dtype=dtype, white=white)
    channels = 1 if channel_axis is None else planes.shape[-3]
    planes = planes.reshape(-1, channels, *planes.shape[-2:])
    if valid is not None:
        valid = valid_planes(valid, xp, channel_axis).reshape(planes.shape)[:, :3]
        planes[:, :3] = inpaint(planes[:, :3], valid)
    checks.check_largest(float(abs(planes[:, :3]).max()), np.dtype(np.float32), None)
    return planes, valid, white


def colors_of(image: Array, channel_axis: int | None) -> Array:
    """The image without alpha."""
    if channel_axis is None:
        return image
    xp = array_module(image)
    return xp.moveaxis(xp.moveaxis(image, channel_axis, -1)[..., :3], -1, channel_axis)


def restore_planes(
    observed: Array, settings: RestoreSettings, report: OnProgress, valid: Array | None = None
) -> tuple[Array, Array | None, dict[str, Array]]:
    """(restored images, kernels (n, K, K) or None, signals with confidence and strength, (n,)) of (n, C, H, W).

    Where `valid` (n, C, H, W) is False, `observed` is interpolated; the blind method leaves these pixels out.
    """
    from ..networks import bridge, confidence
    from ..networks.restore import face_probability, restore_images

    report(0.0)
    if settings.network == "face":
        from .face import restore_faces

        restored, kernel = restore_faces(observed, settings.tile, report, valid)
    else:
        network = settings.load(bridge.device_of(observed))
        restored, kernel = restore_images(network, observed, tile=settings.tile, report=report)
    signals = confidence.signals(restored, observed)
    if settings.for_faces:
        signals["face"] = face_probability(observed)
    features = confidence.features(**signals)
    signals["confidence"] = confidence.confidence(settings.network, features)
    if settings.strength is None:
        signals["strength"] = confidence.strength(settings.network, features)
    else:
        signals["strength"] = array_module(observed).full_like(signals["confidence"], settings.strength)
    return restored, kernel, signals


def _copy_alpha(image: Array, result: Array, channel_axis: int) -> None:
    """The last channel as it came, to the last bit."""
    xp = array_module(image, result)
    xp.moveaxis(result, channel_axis, -1)[..., 3] = xp.moveaxis(image, channel_axis, -1)[..., 3]
