"""Gradients, edge masks, smoothing and the closed-form solve: the image-sized operations of the iterations.

All grids are periodic; `boundary.pad` makes an image so. float32 CuPy arrays go to the CUDA kernel of the function's
name (kernels_cuda/<name>.cu); other arrays are computed here.

Always use the return value. `out=` and `scratch=` are buffers for the CUDA path; the NumPy path ignores them. Functions
documented as in-place modify their argument on both.
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
    """D^T g, the transpose of `gradient`: <D u, g> = <u, D^T g>. It is minus the divergence of g."""
    xp = array_module(gx, gy)
    out = -gx
    out -= gy
    out[..., 1:] += gx[..., :-1]
    out[..., :1] += gx[..., -1:]
    out[..., 1:, :] += gy[..., :-1, :]
    out[..., :1, :] += gy[..., -1:, :]
    return xp.asarray(out)


def per_image(value: Any, u: Array) -> Any:
    """One number for all images or one for each, shaped to broadcast over `u` (..., H, W); nothing synchronizes."""
    xp = array_module(u)
    if np.ndim(value) == 0 and (xp is np or not isinstance(value, xp.ndarray)):
        return float(value)
    return xp.asarray(value, dtype=u.dtype)[..., None, None]


def dt_l0(u: Array, threshold: Any, *, out: Array | None = None) -> Array:
    """D^T g with g = D u where |D u|^2 >= threshold, 0 elsewhere ([Chen2017] eq. 4). CUDA kernel: dt_l0.cu.

    Parameters
    ----------
    u : (..., H, W) float.
    threshold : scalar or (...): lambda / beta, on the squared magnitude of the gradient.
    """
    if goes_to_cuda(u):
        from . import cuda

        return cuda.dt_l0(u, threshold, out=out)
    gx, gy = gradient(u)
    magnitude_sq = gx * gx
    magnitude_sq += gy * gy
    is_edge = magnitude_sq >= per_image(threshold, u)
    gx *= is_edge
    gy *= is_edge
    return gradient_adjoint(gx, gy)


def spectral_solve(data: Array, dt_g: Array, power: Array, weight: Any, shape: tuple[int, int]) -> Array:
    """(data + weight dt_g) / ((power + weight |F D|^2) H W), in place in `dt_g`: the closed form of [Chen2017] eq. 7.

    |F D|^2 = 4 sin^2(pi i / H) + 4 sin^2(pi j / W) is the spectrum of the gradient. The factor 1 / (H W) makes the
    unscaled `fourier.irfft2` the inverse transform. CUDA kernel: spectral_solve.cu.

    Parameters
    ----------
    data : (..., H, W // 2 + 1) complex, conj(F k) F B.
    dt_g : likewise, F(D^T g); overwritten with the result, which is returned.
    power : (..., H, W // 2 + 1) float, |F k|^2.
    weight : beta (plus alpha), one number for all images, or one for each, (...) or (..., 1, 1).
    shape : (H, W) of the image.
    """
    if np.ndim(weight) > dt_g.ndim - 2:
        weight = weight[..., 0, 0]
    if goes_to_cuda(data, dt_g, power):
        from . import cuda

        return cuda.spectral_solve(data, dt_g, power, weight, shape)
    if np.ndim(weight):
        weight = weight[..., None, None]
    size = shape[0] * shape[1]
    dt_g *= weight
    dt_g += data
    spectrum = array_module(power).asarray(gradient_spectrum(shape, power.dtype))
    dt_g *= 1 / (size * power + (size * weight) * spectrum)
    return dt_g


def edge_mask(u: Array, threshold: Any, *, out: Array | None = None) -> Array:
    """t of [Chen2017] eq. 5: True where |D u|^2 >= threshold, (..., H, W). CUDA kernel: edge_mask.cu."""
    if goes_to_cuda(u):
        from . import cuda

        return cuda.edge_mask(u, threshold, out=out)
    gx, gy = gradient(u)
    gx *= gx
    gy *= gy
    gx += gy
    return gx >= per_image(threshold, u)


def dilate(mask: Array, radius: int, *, out: Array | None = None, scratch: Array | None = None) -> Array:
    """`mask` (..., H, W) bool dilated by a square of side 2 radius + 1, periodic. CUDA kernel: dilate.cu."""
    if goes_to_cuda(mask):
        from . import cuda

        return cuda.dilate(mask, radius, out=out, scratch=scratch)
    xp = array_module(mask)
    for axis in (-1, -2):
        reach = min(radius, mask.shape[axis] // 2)
        size, length = 2 * reach + 1, 1
        while length < size:  # a pixel is the union of `length` pixels from it on; the last step overlaps
            step = min(length, size - length)
            mask = mask | xp.roll(mask, -step, axis)
            length += step
        mask = xp.roll(mask, reach, axis)
    return mask


def gaussian_smooth(u: Array, sigma: float, *, out: Array | None = None, scratch: Array | None = None) -> Array:
    """`u` (..., H, W) convolved with a Gaussian truncated at 4 sigma, periodic. CUDA kernel: gaussian_smooth.cu."""
    if goes_to_cuda(u):
        from . import cuda

        return cuda.gaussian_smooth(u, sigma, out=out, scratch=scratch)
    ndimage = ndimage_module(array_module(u))
    for axis in (-1, -2):
        u = ndimage.gaussian_filter1d(u, sigma, axis=axis, mode="wrap", truncate=4.0)
    return u


def dt_smooth(smooth: Array, mask: Array, scale: float | None = None, out: Array | None = None) -> Array:
    """D^T of the gradient of `smooth` between unmasked pixels: D^T grad z of [Chen2017] eq. 5-7.

    The paper's z = (not t) x has a jump along the border of t. Here a difference that crosses the border counts as 0.
    With a `scale`, the function works in place: out += scale D^T grad z. CUDA kernel: dt_smooth.cu.
    """
    if goes_to_cuda(smooth, mask):
        from . import cuda

        return cuda.dt_smooth(smooth, mask, scale, out=out)
    xp = array_module(smooth, mask)
    gx, gy = gradient(smooth)
    is_smooth = ~mask
    gx *= is_smooth & xp.roll(is_smooth, -1, -1)
    gy *= is_smooth & xp.roll(is_smooth, -1, -2)
    dt_z = gradient_adjoint(gx, gy)
    if scale is None:
        return dt_z
    if out is None:
        raise ValueError("out must be given with a scale, since it is added to; leave the scale out for D^T g alone")
    dt_z *= scale
    out += dt_z
    return out


def data_terms(otf: Array, blurred_hat: Array, *, out: Array | None = None) -> tuple[Array, Array]:
    """(conj(F k) F B, |F k|^2), the data terms of `spectral_solve`. CUDA kernel: data_terms.cu.

    Parameters
    ----------
    otf : (..., H, W // 2 + 1) complex, F k; overwritten with the first result if the shapes are equal.
    blurred_hat : F B, likewise, or with more leading axes for planes that share a kernel.
    out : buffer for the second result, float.
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
