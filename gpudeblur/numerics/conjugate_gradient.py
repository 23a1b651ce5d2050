"""Conjugate gradients, one system a leading index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .arrays import Array, array_module, sum_pixels


def dot(a: Array, b: Array) -> Array:
    """<a, b> over the last two axes, (..., 1, 1)."""
    return total(a * b)


def total(x: Array) -> Array:
    """The sum over the last two axes, (..., 1, 1). On NumPy one picture's sum does not depend on the batch around it.

    (That of `einsum` does: its order of summation depends on where in memory a row begins.)
    """
    if array_module(x) is not np:
        return sum_pixels(x)[..., None, None]
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1]).sum(axis=-1)[..., None, None]


def conjugate_gradient(
    apply: Callable[[Array], Array],
    rhs: Array,
    start: Array,
    iterations: int,
    *,
    precondition: Callable[[Array], Array] | None = None,
    product: Callable[[Array, Array], Array] = dot,
) -> Array:
    """argmin_x <x, A x> / 2 - <rhs, x> for a positive definite A, by `iterations` steps of conjugate gradients.

    Parameters
    ----------
    apply : A, on (..., H, W); it must treat the leading axes apart.
    rhs, start : (..., H, W).
    iterations : the number of steps. It is fixed and nothing is read back: a system that is solved already (or is
        zero) stands still, because its step is 0 / tiny.
    precondition : r -> about A^-1 r, positive definite too; fewer steps do then.
    product : <a, b> (..., 1, 1), real; another one for vectors that are given by their spectra.

    Returns
    -------
    (..., H, W), a fresh array.
    """
    xp = array_module(rhs, start)
    tiny = float(np.finfo(rhs.dtype).tiny)
    x = start.copy()
    residual = rhs - apply(x)
    towards = residual if precondition is None else precondition(residual)
    direction = towards.copy()
    energy = product(residual, towards)
    for _ in range(iterations):
        image = apply(direction)
        step = energy / xp.maximum(product(direction, image), tiny)
        image *= step
        residual -= image
        xp.multiply(step, direction, out=image)
        x += image
        towards = residual if precondition is None else precondition(residual)
        energy, last = product(residual, towards), energy
        direction *= energy / xp.maximum(last, tiny)
        direction += towards
        del towards
    return x
