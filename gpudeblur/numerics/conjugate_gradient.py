"""Conjugate gradients for a stack of systems."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .arrays import Array, array_module, sum_pixels


def dot(a: Array, b: Array) -> Array:
    """<a, b> over the last two axes, (..., 1, 1)."""
    return total(a * b)


def total(x: Array) -> Array:
    """The sum over the last two axes, (..., 1, 1). On NumPy a batch equals a loop bit for bit.

    (`einsum` does not: its order of summation depends on the alignment of each row.)
    """
    if array_module(x) is not np:
        return sum_pixels(x)[..., None, None]
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1]).sum(axis=-1)[..., None, None]


def conjugate_gradient(
    A: Callable[[Array], Array],
    b: Array,
    x0: Array,
    iterations: int,
    *,
    preconditioner: Callable[[Array], Array] | None = None,
    inner: Callable[[Array, Array], Array] = dot,
) -> Array:
    """argmin_x <x, A x> / 2 - <b, x> for a positive definite A, by preconditioned conjugate gradients.

    Parameters
    ----------
    A : function of (..., H, W) that treats each leading index by itself.
    b, x0 : (..., H, W), the right-hand side and the first iterate.
    iterations : a fixed number of steps, so that nothing is read back from a device. A system that is solved already,
        or zero, stays as it is: its step is 0 / tiny.
    preconditioner : r -> z, an approximation of A^-1, positive definite too.
    inner : real inner product (..., 1, 1); another one for vectors that are represented by their spectra.

    Returns
    -------
    (..., H, W), a new array.
    """
    xp = array_module(b, x0)
    tiny = float(np.finfo(b.dtype).tiny)
    x = x0.copy()
    r = b - A(x)
    z = r if preconditioner is None else preconditioner(r)
    p = z.copy()
    rz = inner(r, z)
    for _ in range(iterations):
        Ap = A(p)
        alpha = rz / xp.maximum(inner(p, Ap), tiny)
        Ap *= alpha
        r -= Ap
        x += xp.multiply(alpha, p, out=Ap)
        z = r if preconditioner is None else preconditioner(r)
        rz, rz_old = inner(r, z), rz
        p *= rz / xp.maximum(rz_old, tiny)
        p += z
        del z
    return x
