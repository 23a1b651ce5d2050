"""The array primitives of the picture-sized loops. NumPy input runs here; CuPy input goes to the CUDA kernel so named.

All grids are periodic: the picture was made so by `boundary.wrap`. The CUDA kernels compute in float32; CuPy arrays of
another float dtype take the NumPy form, which is written for either library.

Here and in the steps, the result is what a function returns. `out=` is where a CUDA launch puts it, and `scratch=` what
it needs on the way; the NumPy form allots both itself and leaves them alone. Only what is documented as in place (a
spectrum overwritten, a sum added to) is so in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import Array, array_module, goes_to_cuda, ndimage_module
from .spectra import gradient_spectrum


def gradient(u: Array) -> tuple[Array, Array]:
    """Forward differences (d/dx, d/dy) of `u` (..., H, W), periodic."""
    xp = array_module(u)
    gx, gy = xp.empty_like(u), xp.empty_like(u)
    xp.subtract(u[..., 1:], u[..., :-1], out=gx[..., :-1])
    xp.subtract(u[..., :1], u[..., -1:], out=gx[..., -1:])
    xp.subtract(u[..., 1:, :], u[..., :-1, :], out=gy[..., :-1, :])
    xp.subtract(u[..., :1, :], u[..., -1:, :], out=gy[..., -1:, :])
    return gx, gy


def gradient_adjoint(gx: Array, gy: Array) -> Array:
    """D^T g, the transpose of `gradient`: <D u, g> = <u, D^T g>. Minus the divergence by backward differences."""
    xp = array_module(gx, gy)
    out = -gx
    out -= gy
    out[..., 1:] += gx[..., :-1]
    out[..., :1] += gx[..., -1:]
    out[..., 1:, :] += gy[..., :-1, :]
    out[..., :1, :] += gy[..., -1:, :]
    return xp.asarray(out)


def per_image(value: Any, u: Array) -> Any:
    """A number for all pictures, or one a picture, shaped to broadcast over `u` (..., H, W); waits for no device."""
    xp = array_module(u)
    if np.ndim(value) == 0 and (xp is np or not isinstance(value, xp.ndarray)):
        return float(value)
    return xp.asarray(value, dtype=u.dtype)[..., None, None]


def dt_l0(u: Array, threshold: Any, *, out: Array | None = None) -> Array:
    """D^T g with g = D u where |D u|^2 >= threshold, 0 elsewhere (seed 0, eq. 4).

    Parameters
    ----------
    u : (..., H, W) float.
    threshold : scalar or (...): lambda / beta, on the squared magnitude of the gradient.
    """
    if goes_to_cuda(u):
        from . import cuda

        return cuda.dt_l0(u, threshold, out=out)
    gx, gy = gradient(u)
    energy = gx * gx
    energy += gy * gy
    keep = energy >= per_image(threshold, u)
    gx *= keep
    gy *= keep
    return gradient_adjoint(gx, gy)


def spectral_solve(data: Array, split: Array, power: Array, weight: Any, shape: tuple[int, int]) -> Array:
    """(data + weight split) / ((power + weight |F D|^2) H W), the closed form of seed 0, eq. 7.

    |F D|^2 = 4 sin^2(pi i / H) + 4 sin^2(pi j / W) is the spectrum of the gradient; the factor 1 / (H W) makes the
    unscaled `fourier.irfft2` the inverse transform.

    Parameters
    ----------
    data : (..., H, W // 2 + 1) complex, conj(F k) F B.
    split : the same, F(D^T g); overwritten with the result, which is returned.
    power : (..., H, W // 2 + 1) float, |F k|^2.
    weight : beta (plus alpha): a number, or one a picture, (...) or (..., 1, 1).
    shape : (H, W) of the picture.
    """
    if np.ndim(weight) > split.ndim - 2:
        weight = weight[..., 0, 0]
    if goes_to_cuda(data, split, power):
        from . import cuda

        return cuda.spectral_solve(data, split, power, weight, shape)
    if np.ndim(weight):
        weight = weight[..., None, None]
    size = shape[0] * shape[1]
    split *= weight
    split += data
    spectrum = array_module(power).asarray(gradient_spectrum(shape, power.dtype))
    split *= 1 / (size * power + (size * weight) * spectrum)
    return split


def edge_mask(u: Array, threshold: Any, *, out: Array | None = None) -> Array:
    """t of seed 0, eq. 5: True where |D u|^2 >= threshold, (..., H, W)."""
    if goes_to_cuda(u):
        from . import cuda

        return cuda.edge_mask(u, threshold, out=out)
    gx, gy = gradient(u)
    gx *= gx
    gy *= gy
    gx += gy
    return gx >= per_image(threshold, u)


def dilate(mask: Array, radius: int, *, out: Array | None = None, scratch: Array | None = None) -> Array:
    """`mask` (..., H, W) bool dilated by a square of 2 radius + 1 pixels a side, periodic."""
    if goes_to_cuda(mask):
        from . import cuda

        return cuda.dilate(mask, radius, out=out, scratch=scratch)
    xp = array_module(mask)
    for axis in (-1, -2):
        reach = min(radius, mask.shape[axis] // 2)
        size, length = 2 * reach + 1, 1
        while length < size:  # a pixel stands for `length` pixels from it on; the last step overlaps
            step = min(length, size - length)
            mask = mask | xp.roll(mask, -step, axis)
            length += step
        mask = xp.roll(mask, reach, axis)
    return mask


def gaussian_smooth(u: Array, sigma: float, *, out: Array | None = None, scratch: Array | None = None) -> Array:
    """`u` (..., H, W) under a Gaussian of `sigma` pixels, cut at 4 sigma, periodic."""
    if goes_to_cuda(u):
        from . import cuda

        return cuda.gaussian_smooth(u, sigma, out=out, scratch=scratch)
    ndimage = ndimage_module(array_module(u))
    for axis in (-1, -2):
        u = ndimage.gaussian_filter1d(u, sigma, axis=axis, mode="wrap", truncate=4.0)
    return u


def dt_smooth(smooth: Array, mask: Array, scale: float | None = None, out: Array | None = None) -> Array:
    """D^T of the gradient of `smooth` outside `mask` and 0 inside: D^T grad z of seed 0, eq. 5-7.

    The paper's z = (not t) x has a jump of its own along the border of t; a difference that crosses the border
    is no smooth region either, so it counts as 0. With a `scale`, `out` is added to: out += scale D^T grad z.
    """
    if goes_to_cuda(smooth, mask):
        from . import cuda

        return cuda.dt_smooth(smooth, mask, scale, out=out)
    xp = array_module(smooth, mask)
    gx, gy = gradient(smooth)
    flat = ~mask
    gx *= flat & xp.roll(flat, -1, -1)
    gy *= flat & xp.roll(flat, -1, -2)
    split = gradient_adjoint(gx, gy)
    if scale is None:
        return split
    if out is None:
        raise ValueError("out must be given with a scale: it is added to; leave the scale out for the split alone")
    split *= scale
    out += split
    return out


def data_terms(otf: Array, blurred_hat: Array, *, out: Array | None = None) -> tuple[Array, Array]:
    """(conj(F k) F B, |F k|^2): what `spectral_solve` needs of a kernel and a blurred picture.

    Parameters
    ----------
    otf : (..., H, W // 2 + 1) complex, F k; overwritten with the first result where the shapes are equal.
    blurred_hat : the same, F B, or with more leading axes: several planes that share a kernel.
    out : like `otf`, float, for the second.
    """
    if goes_to_cuda(otf, blurred_hat):
        from . import cuda

        if otf.shape != blurred_hat.shape:
            otf = array_module(otf).broadcast_to(otf, blurred_hat.shape).copy()
        return cuda.data_terms(otf, blurred_hat, out=out)
    power = otf.real**2 + otf.imag**2
    if otf.shape != blurred_hat.shape:
        return otf.conj() * blurred_hat, power
    xp = array_module(otf)
    xp.conjugate(otf, out=otf)
    otf *= blurred_hat
    return otf, power
