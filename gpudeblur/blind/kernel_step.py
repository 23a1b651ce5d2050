"""Kernel step: the blur kernel for a known latent picture, by least squares on gradients (seed 0, eq. 8-11)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numerics.arrays import Array, Workspace, array_module, goes_to_cuda
from ..numerics.filters import gradient, gradient_adjoint, per_image
from ..numerics.fourier import irfft2, rfft2

Window = tuple[int, int, int, int]  # (top, bottom, left, right): rows top..bottom - 1, columns left..right - 1


def selection_window(picture: tuple[int, int], size: tuple[int, int]) -> Window:
    """Where a gradient of the latent picture may vote in the kernel step: a rectangle (top, bottom, left, right).

    A gradient votes if its whole blurred trace lies inside the real picture: half a kernel (and the forward
    difference) from its borders. `picture` is the real (h, w), at the top left of the wrapped grid, `size` the
    kernel's. In a picture too small for that, the middle half of each side votes.
    """
    (top, bottom), (left, right) = (
        (m, n - m - 1) if n - 2 * m - 1 >= n / 2 else (n // 4, n - n // 4)
        for m, n in ((k // 2 + 1, n) for k, n in zip(size, picture, strict=True))
    )
    return top, bottom, left, right


def window_pixels(window: Window) -> int:
    """How many pixels a window has."""
    top, bottom, left, right = window
    return max(0, bottom - top) * max(0, right - left)


def selection_threshold(latent: Array, window: Window, count: int, *, out: Array | None = None) -> Array:
    """The `count`-th largest |D x|^2 inside the window, at least the smallest normal float: no gradient of 0 votes.

    Parameters
    ----------
    latent : (..., H, W), the picture x, periodic.
    window : `selection_window`, inside the picture.
    count : from 1 to the pixels of the window; what is beyond either end is taken for that end.

    Returns
    -------
    (...): one a picture. NaN counts as the largest.
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
    """D^T W D x: W is 1 where |D x|^2 >= threshold inside the window, else 0.

    Parameters
    ----------
    latent : (..., H, W), the picture x, periodic.
    threshold : scalar or (...).
    window : `selection_window`, inside the picture.

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
    voting = xp.zeros(latent.shape, dtype=bool)
    energy = inner_x * inner_x + inner_y * inner_y
    voting[..., top:bottom, left:right] = energy >= per_image(threshold, latent)
    gx *= voting
    gy *= voting
    return gradient_adjoint(gx, gy)


def select_edges(latent: Array, window: Window, share: float, *, work: Workspace | None = None) -> Array:
    """D^T W D x: W keeps the strongest `share` of the gradients inside the window.

    Weak gradients of a latent picture are what its prior could not tell from noise; strong ones know the kernel.

    Parameters
    ----------
    latent : (..., H, W), the picture x.
    window : `selection_window`.
    share : in (0, 1], of the pixels in the window. A flat picture has fewer: gradients of 0 never vote.
    work : the buffers of a loop around this step.

    Returns
    -------
    (..., H, W).
    """
    work = Workspace(latent) if work is None else work
    count = int(share * window_pixels(window))
    threshold = selection_threshold(latent, window, count, out=work("voting threshold"))
    return dt_selected(latent, threshold, window, out=work.picture("split"))


def normal_equations(
    votes: Array, latent: Array, blurred_hat: Array, size: tuple[int, int], *, work: Workspace | None = None
) -> tuple[Array, Array]:
    """Matrix and right-hand side of eq. 11 on a kernel support of `size`: (autocorrelation, correlation).

    The gradients that vote, W grad x, are held against the whole of grad x and grad B:
    a(l) = sum W grad x(s) . grad x(s + l) and b(p) = sum W grad x(s) . grad B(s + p), so a true kernel solves
    sum_q a(p - q) k(q) = b(p) whatever W is (it would not if W stood on both sides of a), but for what making a
    symmetric and positive takes away. As D^T W D x stands for both directions, all this is two inverse transforms;
    solvers never touch the picture again.

    Parameters
    ----------
    votes : (..., H, W), D^T W D x, `select_edges`.
    latent : (..., H, W), x.
    blurred_hat : (..., H, W // 2 + 1), `rfft2` of B.
    size : (kh, kw).
    work : the buffers of a loop around this step; the result is in two of them, and overwritten by the next call.

    Returns
    -------
    autocorrelation : (..., 2 kh - 1, 2 kw - 1), lag (0, 0) in the middle; made symmetric and positive semi-definite
        by dropping what of its spectrum is not real and positive.
    correlation : (..., kh, kw).
    """
    work = Workspace(latent) if work is None else work
    shape, (kh, kw) = latent.shape[-2:], size
    votes_hat, latent_hat = rfft2(votes, out=work.spectrum("otf")), rfft2(latent, out=work.spectrum("hat"))
    votes_hat, power = normal_spectra(votes_hat, latent_hat, blurred_hat, shape)
    room = work.picture("split")  # of the votes, which are not needed any more
    matrix = irfft2(power, shape, overwrite=True, out=room)
    matrix = central_lags(matrix, kh - 1, kw - 1, out=work("autocorrelation", 2 * kh - 1, 2 * kw - 1))
    rhs = irfft2(votes_hat, shape, overwrite=True, out=room)
    return matrix, central_lags(rhs, kh // 2, kw // 2, out=work("correlation", kh, kw))


def normal_spectra(
    votes_hat: Array, latent_hat: Array, blurred_hat: Array, shape: tuple[int, int]
) -> tuple[Array, Array]:
    """Spectra of what `normal_equations` returns: (conj(V) F B / (H W), max(Re(conj(V) F x), 0) / (H W)).

    Parameters
    ----------
    votes_hat : (..., H, W // 2 + 1), V, the transform of the votes; overwritten with the first result.
    latent_hat : the same, F x; overwritten with the second, which is real.
    blurred_hat : the same, F B.
    shape : (H, W).
    """
    if goes_to_cuda(votes_hat, latent_hat, blurred_hat):
        from ..numerics import cuda

        return cuda.normal_spectra(votes_hat, latent_hat, blurred_hat, shape)
    xp = array_module(votes_hat, latent_hat, blurred_hat)
    xp.conjugate(votes_hat, out=votes_hat)
    votes_hat *= 1 / (shape[0] * shape[1])
    latent_hat *= votes_hat
    xp.maximum(latent_hat.real, 0, out=latent_hat.real)
    latent_hat.imag = 0
    votes_hat *= blurred_hat
    return votes_hat, latent_hat


def central_lags(correlation: Array, rows: int, columns: int, *, out: Array | None = None) -> Array:
    """The lags -rows..rows, -columns..columns of a circular correlation, in rising order."""
    if goes_to_cuda(correlation):
        from ..numerics import cuda

        return cuda.central_lags(correlation, rows, columns, out=out)
    xp = array_module(correlation)
    y, x = xp.arange(-rows, rows + 1), xp.arange(-columns, columns + 1)
    return xp.ascontiguousarray(correlation[..., y[:, None], x])
