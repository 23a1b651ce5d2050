"""Kernel step: the blur kernel for a known latent image, by least squares on selected gradients (eq. 9-11)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arrays import Array, Workspace, array_module, goes_to_cuda
from ..numerics.filters import gradient, gradient_adjoint, per_image
from ..numerics.fourier import irfft2, rfft2
from ..numerics.toeplitz import solve_kernel, zero_lag
from .kernel_projection import normalize
from .options import TwoStepOptions

# A mean gradient that is rounding: an 8-bit image has steps of 4e-3.
ROUNDING_GRADIENT = 1e-5
Window = tuple[int, int, int, int]  # (top, bottom, left, right): rows top..bottom - 1, columns left..right - 1


def selection_window(shape: tuple[int, int], size: tuple[int, int]) -> Window:
    """Where gradients of the latent image may be selected for the kernel step: a rectangle (top, bottom, left, right).

    A gradient may be selected if all that it is blurred to lies inside the image: half a kernel, and the forward
    difference, away from its borders. `shape` is the image's, at the top left of the padded grid, and `size` the
    kernel's. In an image too small for that, it is the middle half of each side.
    """
    (top, bottom), (left, right) = (
        (m, n - m - 1) if n - 2 * m - 1 >= n / 2 else (n // 4, n - n // 4)
        for m, n in ((k // 2 + 1, n) for k, n in zip(size, shape, strict=True))
    )
    return top, bottom, left, right


def window_pixels(window: Window) -> int:
    """Number of pixels in a window."""
    top, bottom, left, right = window
    return max(0, bottom - top) * max(0, right - left)


def selection_threshold(latent: Array, window: Window, count: int, *, out: Array | None = None) -> Array:
    """The `count`-th largest |D x|^2 in the window, at least the smallest normal float. CUDA: selection_threshold.cu.

    Parameters
    ----------
    latent : (..., H, W), x, periodic.
    window : `selection_window`, inside the image.
    count : clipped to 1 and the number of pixels in the window.

    Returns
    -------
    (...). NaN counts as the largest; the lower bound keeps gradients of 0 from being selected.
    """
    if goes_to_cuda(latent):
        from ..numerics import cuda

        return cuda.selection_threshold(latent, window, count, out=out)
    xp = array_module(latent)
    top, bottom, left, right = window
    tiny = float(np.finfo(latent.dtype).tiny)
    pixels = window_pixels(window)
    if pixels == 0:
        return xp.full(latent.shape[:-2], tiny, dtype=latent.dtype)
    gx, gy = gradient(latent)
    gx, gy = gx[..., top:bottom, left:right], gy[..., top:bottom, left:right]
    energy = (gx * gx + gy * gy).reshape(*latent.shape[:-2], pixels)
    rank = pixels - min(max(1, count), pixels)
    return xp.maximum(xp.partition(energy, rank, axis=-1)[..., rank], tiny)


def dt_selected(latent: Array, threshold: Any, window: Window, *, out: Array | None = None) -> Array:
    """D^T W D x: W is 1 where |D x|^2 >= threshold inside the window, else 0. CUDA kernel: dt_selected.cu.

    Parameters
    ----------
    latent : (..., H, W), x, periodic.
    threshold : scalar or (...).
    window : `selection_window`, inside the image.

    Returns
    -------
    (..., H, W).
    """
    if goes_to_cuda(latent):
        from ..numerics import cuda

        return cuda.dt_selected(latent, threshold, window, out=out)
    xp = array_module(latent)
    top, bottom, left, right = window
    gx, gy = gradient(latent)
    inner_x, inner_y = gx[..., top:bottom, left:right], gy[..., top:bottom, left:right]
    selected = xp.zeros(latent.shape, dtype=bool)
    energy = inner_x * inner_x + inner_y * inner_y
    selected[..., top:bottom, left:right] = energy >= per_image(threshold, latent)
    gx *= selected
    gy *= selected
    return gradient_adjoint(gx, gy)


def select_edges(latent: Array, window: Window, fraction: float, *, buffers: Workspace | None = None) -> Array:
    """D^T W D x: W keeps the strongest `fraction` of the gradients inside the window ([Cho2009]).

    The prior cannot tell weak gradients of the latent image from noise; strong ones determine the kernel.

    Parameters
    ----------
    latent : (..., H, W), x.
    window : `selection_window`.
    fraction : in (0, 1], of the pixels in the window. A flat image has fewer: gradients of 0 are never selected.
    buffers : the buffers of a loop around this step.

    Returns
    -------
    (..., H, W).
    """
    buffers = Workspace(latent) if buffers is None else buffers
    count = int(fraction * window_pixels(window))
    threshold = selection_threshold(latent, window, count, out=buffers("selection threshold"))
    return dt_selected(latent, threshold, window, out=buffers.image("split"))


def normal_equations(
    selected: Array, latent: Array, blurred_hat: Array, size: tuple[int, int], *, buffers: Workspace | None = None
) -> tuple[Array, Array]:
    """Matrix and right-hand side of eq. 11 on a kernel support of `size`: (autocorrelation, correlation).

    The selected gradients, W grad x, are correlated with all of grad x and grad B:
    a(l) = sum W grad x(s) . grad x(s + l) and b(p) = sum W grad x(s) . grad B(s + p). Thus the true kernel solves
    sum_q a(p - q) k(q) = b(p) for any W (it would not with W on both sides of a), apart from what is dropped to make a
    symmetric and positive. As D^T W D x sums both directions, this takes two inverse transforms; the solvers never
    touch the image again.

    Parameters
    ----------
    selected : (..., H, W), D^T W D x, from `select_edges`.
    latent : (..., H, W), x.
    blurred_hat : (..., H, W // 2 + 1), `rfft2` of B.
    size : (kh, kw).
    buffers : the buffers of a loop around this step; the result is in two of them, and overwritten by the next call.

    Returns
    -------
    autocorrelation : (..., 2 kh - 1, 2 kw - 1), lag (0, 0) in the middle; made symmetric and positive semi-definite
        by keeping the real, positive part of its spectrum.
    correlation : (..., kh, kw).
    """
    buffers = Workspace(latent) if buffers is None else buffers
    shape, (kh, kw) = latent.shape[-2:], size
    selected_hat, latent_hat = rfft2(selected, out=buffers.spectrum("otf")), rfft2(latent, out=buffers.spectrum("hat"))
    selected_hat, power = normal_spectra(selected_hat, latent_hat, blurred_hat, shape)
    scratch = buffers.image("split")  # the memory of `selected`, which is not needed any more
    matrix = irfft2(power, shape, overwrite=True, out=scratch)
    matrix = central_lags(matrix, kh - 1, kw - 1, out=buffers("autocorrelation", 2 * kh - 1, 2 * kw - 1))
    rhs = irfft2(selected_hat, shape, overwrite=True, out=scratch)
    return matrix, central_lags(rhs, kh // 2, kw // 2, out=buffers("correlation", kh, kw))


def normal_spectra(
    selected_hat: Array, latent_hat: Array, blurred_hat: Array, shape: tuple[int, int]
) -> tuple[Array, Array]:
    """Spectra of the normal equations: (conj(V) F B / (H W), max(Re(conj(V) F x), 0) / (H W)). normal_spectra.cu.

    Parameters
    ----------
    selected_hat : (..., H, W // 2 + 1), V, the transform of `selected`; overwritten with the first result.
    latent_hat : the same, F x; overwritten with the second, which is real.
    blurred_hat : the same, F B.
    shape : (H, W).
    """
    if goes_to_cuda(selected_hat, latent_hat, blurred_hat):
        from ..numerics import cuda

        return cuda.normal_spectra(selected_hat, latent_hat, blurred_hat, shape)
    xp = array_module(selected_hat, latent_hat, blurred_hat)
    xp.conjugate(selected_hat, out=selected_hat)
    selected_hat *= 1 / (shape[0] * shape[1])
    latent_hat *= selected_hat
    xp.maximum(latent_hat.real, 0, out=latent_hat.real)
    latent_hat.imag = 0
    selected_hat *= blurred_hat
    return selected_hat, latent_hat


def central_lags(correlation: Array, rows: int, columns: int, *, out: Array | None = None) -> Array:
    """The lags -rows..rows, -columns..columns of a circular correlation, in rising order. central_lags.cu."""
    if goes_to_cuda(correlation):
        from ..numerics import cuda

        return cuda.central_lags(correlation, rows, columns, out=out)
    xp = array_module(correlation)
    y, x = xp.arange(-rows, rows + 1), xp.arange(-columns, columns + 1)
    return xp.ascontiguousarray(correlation[..., y[:, None], x])


def kernel_step(
    autocorrelation: Array, correlation: Array, kernel: Array, pixels: int, options: TwoStepOptions, buffers: Workspace
) -> Array:
    """Eq. 11 solved from the kernel of the iteration before, with gamma a fraction of the gradients' energy; sum 1.

    An image without gradients gets a delta.
    """
    xp, size = array_module(correlation), correlation.shape[-2:]
    ridge = xp.multiply(zero_lag(autocorrelation), options.kernel_weight, out=buffers("ridge"))
    kernel = solve_kernel(
        autocorrelation, correlation, kernel, ridge, options.kernel_solver, options.kernel_iterations, buffers=buffers
    )
    determined = has_gradients(autocorrelation, pixels, out=buffers("determined", dtype=bool))
    return normalize(kernel, determined, out=buffers("kernel", *size))


def has_gradients(autocorrelation: Array, pixels: int, out: Array | None = None) -> Array:
    """(...) bool: whether the selected gradients are more than rounding, so that they determine a kernel."""
    return array_module(autocorrelation).greater(zero_lag(autocorrelation), ROUNDING_GRADIENT**2 * pixels, out=out)
