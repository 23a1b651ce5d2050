"""The convolution of small networks that run without torch, on NumPy and CuPy."""

from __future__ import annotations

from .arrays import Array, array_module, goes_to_cuda


def strided_convolution(u: Array, weights: Array, bias: Array) -> Array:
    """max(bias + weights * u, 0): 3 x 3 correlations at every second pixel from the first, with zeros outside.

    Image by image, as BLAS would round a batch differently. CUDA kernel: strided_convolution.cu.

    Parameters
    ----------
    u : (n, channels, H, W) float.
    weights : (channels, 9, filters); the 9 taps row by row.
    bias : (filters,).

    Returns
    -------
    (n, filters, ceil(H / 2), ceil(W / 2)).
    """
    xp = array_module(u, weights, bias)
    if goes_to_cuda(u, weights, bias):
        from . import cuda

        return cuda.strided_convolution(u, weights, bias)
    (n, channels, h, w), filters = u.shape, weights.shape[-1]
    rows, columns = (h + 1) // 2, (w + 1) // 2
    padded = xp.zeros((channels, 2 * rows + 1, 2 * columns + 1), dtype=u.dtype)
    taps = xp.empty((channels, 9, rows, columns), dtype=u.dtype)
    matrix = xp.ascontiguousarray(weights.reshape(9 * channels, filters).T)
    out = xp.empty((n, filters, rows, columns), dtype=u.dtype)
    for image, result in zip(u, out, strict=True):
        padded[:, 1 : h + 1, 1 : w + 1] = image
        for tap in range(9):
            taps[:, tap] = padded[:, tap // 3 : tap // 3 + 2 * rows : 2, tap % 3 : tap % 3 + 2 * columns : 2]
        flat = matrix @ taps.reshape(9 * channels, -1)
        flat += bias[:, None]
        result[...] = xp.maximum(flat, 0).reshape(result.shape)
    return out
