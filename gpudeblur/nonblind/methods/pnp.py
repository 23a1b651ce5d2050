"""Plug and play ([Venkatakrishnan2013], [Zhang2021]): half-quadratic splitting with a learned denoiser."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...images.kernel_field import KernelField, kernel_sides
from ...networks import bridge
from ...networks.denoiser.levels import STEPS, step_levels
from ...numerics.arrays import Array, array_module, backend_name, constant
from ...numerics.conjugate_gradient import conjugate_gradient, dot
from ...numerics.fourier import irfft2, rfft2
from ...numerics.progress import subrange
from ...numerics.spectra import multiplicity
from ..blurring import Uniform, Varying
from ..regularization import WeightRule, equivalent_weight, resolve_weight
from ..splitting import TV_RULE, tv_admm
from .sparse import WEIGHT_RULE as SPARSE_RULE
from .sparse import sparse

WEIGHT_RULE = WeightRule(1.0, 2.0)  # the weight is the variance of the noise
TV_ITERATIONS = 40  # of the first iterate
CG_ITERATIONS = 2  # of each step; a field, whose preconditioner is less exact, takes more
FIELD_CG_ITERATIONS = 6
# What the denoiser was trained on. Lights may be a hundred times as bright: they are cut to this range, and what was
# cut off is added again.
RANGE = (-0.25, 1.25)
# Largest change of a pixel by the denoiser, in levels: more than noise is, so that a weight near 0 switches it off.
LIMIT = 8.0
# Pixels that a network takes at a time on a GPU; on a CPU it takes one image, which makes a batch equal a loop.
GPU_PIXELS = 1 << 21


def pnp(
    blurred: Array,
    kernel: Array | KernelField,
    *,
    weight: Any = None,
    saturated: Array | None = None,
    mask: Any = None,
    color: bool = False,
    denoiser: Callable[..., Any] | None = None,
    callback: Callable[[float], None] | None = None,
) -> Array:
    """Half-quadratic splitting for |M (x * k - B)|^2 / 2 + weight p(x) with a denoiser D as the proximal step of p.

    M selects the observed, valid pixels. From the result of `tv` on, a step is

        z = D(x, sigma_i),    x = argmin |M (x * k - B)|^2 / 2 + c_i / 2 |x - z|^2,    c_i = weight / sigma_i^2,

    with sigma_i falling as `networks.denoiser.levels` says; the last z is the result ([Zhang2021] eq. 6-7). x is
    computed from z by preconditioned conjugate gradients, whose first step would be the solution if every pixel of a
    periodic image were observed. x extends half a kernel beyond B on every side.

    Parameters
    ----------
    blurred, kernel, weight, saturated, mask, callback : common to all methods, see `help(gpudeblur.nonblind)`. The
        weight is the variance of the noise; one far too large smooths hardly more, as the network sees what noise there
        is. The boundary is always "unknown".
    color : whether axis -3 has the three colors of images, which are denoised together: noise is easier to tell from
        detail so. Otherwise all leading axes are a stack of gray images.
    denoiser : D(images (N, C, H, W), sigma (N, 1, 1, 1)) of PyTorch, from images in about [0, 1] with white noise to
        clean ones of the same shape, C = 3 with `color`, else 1. None is the one that comes with the package, which was
        trained through these steps.

    Raises
    ------
    ImportError
        PyTorch is missing.
    ValueError
        The denoiser breaks a rule, see `networks.bridge.apply_network`.

    References
    ----------
    [Venkatakrishnan2013] S. Venkatakrishnan, C. Bouman, B. Wohlberg: Plug-and-play priors for model based
    reconstruction, GlobalSIP 2013.

    [Zhang2021] K. Zhang et al.: Plug-and-play image restoration with deep denoiser prior, TPAMI 2021.
    """
    network = bundled_denoiser(str(bridge.device_of(blurred)), str(blurred.dtype)) if denoiser is None else denoiser
    xp, real = array_module(blurred), blurred.dtype
    weight = resolve_weight(weight, blurred, kernel, WEIGHT_RULE, mask)
    operator = Varying(blurred, kernel) if isinstance(kernel, KernelField) else Uniform(blurred, kernel)
    latent = first_iterate(blurred, kernel, operator.grid, weight, saturated, mask, subrange(callback, 0, 0.3))
    progress = subrange(callback, 0.3, 0.7)
    if color and np.ndim(weight):
        weight = weight.mean(axis=-3, keepdims=True)
    noise = math.sqrt(weight) if np.ndim(weight) == 0 else xp.sqrt(weight)
    compared = valid = None if mask is None else mask.astype(real)
    size = operator.grid[0] * operator.grid[1]
    data = operator.adjoint((blurred if valid is None else blurred * valid) * size**-0.5)
    iterations = FIELD_CG_ITERATIONS if isinstance(kernel, KernelField) else CG_ITERATIONS
    for index, level in enumerate(step_levels(noise, pow if np.ndim(weight) == 0 else xp.power), start=1):
        latent = denoise(latent, level, network, color, check=denoiser is not None)
        if index == STEPS:
            break
        spectrum = rfft2(latent)
        spectrum *= 1 / size
        if saturated is not None:
            compared = (~saturated | (operator.blur(spectrum) < blurred * size**-0.5)).astype(real)
            compared = compared if valid is None else compared * valid
            data = operator.adjoint(blurred * compared * size**-0.5)
        ratio = noise / level
        latent = quadratic_step(operator, data, spectrum, ratio * ratio, compared, iterations)
        progress(index / STEPS)
    progress(1.0)
    # A network returns a constant image but nearly.
    is_constant = blurred.max(axis=(-2, -1), keepdims=True) == blurred.min(axis=(-2, -1), keepdims=True)
    return xp.where(is_constant, blurred, latent[operator.window])


def first_iterate(
    blurred: Array,
    kernel: Array | KernelField,
    grid: tuple[int, int],
    weight: Any,
    saturated: Array | None,
    mask: Array | None,
    callback: Callable[[float], None] | None,
) -> Array:
    """An image on `grid`, half a kernel around B: by "tv", for a field by "sparse" with its border repeated."""
    xp, middle = array_module(blurred), tuple(side // 2 for side in kernel_sides(kernel))
    if not isinstance(kernel, KernelField):
        latent = tv_admm(
            blurred, kernel, equivalent_weight(weight, WEIGHT_RULE, TV_RULE), saturated=saturated, mask=mask,
            iterations=TV_ITERATIONS, return_padded=True, callback=callback,
        )  # fmt: skip
        return xp.roll(latent, middle, (-2, -1))
    sparse_weight = equivalent_weight(weight, WEIGHT_RULE, SPARSE_RULE)
    if np.ndim(sparse_weight):
        sparse_weight = sparse_weight[..., 0, 0]
    latent = sparse(blurred, kernel, weight=sparse_weight, saturated=saturated, mask=mask, callback=callback)
    margin = [(before, side - n - before) for before, side, n in zip(middle, grid, blurred.shape[-2:], strict=True)]
    return xp.pad(latent, [(0, 0)] * (blurred.ndim - 2) + margin, mode="edge")


def quadratic_step(
    operator: Uniform | Varying,
    data: Array,
    spectrum: Array,
    coupling: Any,
    compared: Array | None,
    iterations: int,
) -> Array:
    """argmin_x |M (x * k - B)|^2 / 2 + c / 2 |x - z|^2 on the grid of `operator`.

    Parameters
    ----------
    data : K^T M B, `operator.adjoint` of what is compared.
    spectrum : F z divided by the number of pixels of the grid.
    coupling : c, a number or one per image, (..., 1, 1).
    compared : M, (..., H, W) float, or None for 1.
    iterations : of preconditioned conjugate gradients, two transforms in each.
    """
    xp, real, grid = array_module(spectrum), spectrum.real.dtype, operator.grid
    size = grid[0] * grid[1]
    counts = constant(xp, multiplicity, grid, real)
    inverse = xp.repeat(1 / (operator.power * size + coupling), 2, axis=-1)

    def normal(vector: Array) -> Array:
        x = vector.view(spectrum.dtype)
        reblurred = operator.blur(x)
        result = operator.adjoint(reblurred if compared is None else reblurred * compared)
        result += coupling * x
        return result.view(real)

    rhs = data + coupling * spectrum
    solution = conjugate_gradient(
        normal, rhs.view(real), spectrum.view(real), iterations,
        preconditioner=lambda r: r * inverse, inner=lambda a, b: dot(a * counts, b),
    )  # fmt: skip
    return irfft2(solution.view(spectrum.dtype), grid, overwrite=True)


def denoise(images: Array, level: Any, network: Callable[..., Any], color: bool, *, check: bool) -> Array:
    """D(x, sigma) of images (..., H, W), with `color` (..., 3, H, W); `level` is a number or (..., 1, 1).

    `check`: whether the result is checked to be finite, for which a device waits.
    """
    xp, channels = array_module(images), 3 if color else 1
    cut = xp.clip(images, *RANGE)
    batch = cut.reshape(-1, channels, *images.shape[-2:])
    levels = xp.broadcast_to(xp.asarray(level, dtype=images.dtype), (*images.shape[:-2], 1, 1))
    levels = levels.reshape(-1, channels, 1, 1)[:, :1]
    count = 1 if backend_name(xp) == "numpy" else max(1, GPU_PIXELS // batch[0, 0].size)
    parts = [
        bridge.apply_network(
            network, batch[begin : begin + count], levels[begin : begin + count], channels=channels, check=check
        )
        for begin in range(0, len(batch), count)
    ]
    change = (parts[0] if len(parts) == 1 else xp.concatenate(parts)) - batch
    return images + xp.clip(change, -LIMIT * levels, LIMIT * levels).reshape(images.shape)


@functools.lru_cache(maxsize=4)
def bundled_denoiser(device: str, dtype: str) -> Any:
    """The denoiser of the package on a torch device."""
    torch = bridge.torch_module()
    from ...networks.catalog import load_network

    return load_network("denoiser").to(device=device, dtype=getattr(torch, dtype))
