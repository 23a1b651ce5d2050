"""Conjugate gradients, one system a leading index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._arrays import Array, array_module


def dot(a: Array, b: Array) -> Array:
    """<a, b> over the last two axes, (..., 1, 1). On NumPy one picture's sum does not depend on the batch around it.

    (That of `einsum` does: its order of summation depends on where in memory a row begins.)
    """
    flat = (*a.shape[:-2], a.shape[-2] * a.shape[-1])
    return (a * b).reshape(flat).sum(axis=-1)[..., None, None]


def conjugate_gradient(apply: Callable[[Array], Array], rhs: Array, start: Array, iterations: int) -> Array:
    """argmin_x <x, A x> / 2 - <rhs, x> for a positive definite A, by `iterations` steps of conjugate gradients.

    Parameters
    ----------
    apply : A, on (..., H, W); it must treat the leading axes apart.
    rhs, start : (..., H, W).
    iterations : the number of steps. It is fixed and nothing is read back: a system that is solved already (or is
        zero) stands still, because its step is 0 / tiny.

    Returns
    -------
    (..., H, W), a fresh array.
    """
    xp = array_module(rhs, start)
    tiny = float(np.finfo(rhs.dtype).tiny)
    x = start.copy()
    residual = rhs - apply(x)
    direction = residual.copy()
    energy = dot(residual, residual)
    for _ in range(iterations):
        image = apply(direction)
        step = energy / xp.maximum(dot(direction, image), tiny)
        image *= step
        residual -= image
        xp.multiply(step, direction, out=image)
        x += image
        energy, last = dot(residual, residual), energy
        direction *= energy / xp.maximum(last, tiny)
        direction += residual
    return x
