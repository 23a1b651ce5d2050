"""`KernelField`: blur kernels on a grid over an image, between which the blur varies smoothly."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..numerics.arrays import Array, array_module, move, to_host
from ..numerics.interchange import to_native
from ..numerics.varying_blur import hats, reaching, regular_nodes
from . import checks
from .kernels import fit_size, prepare_kernel, support_sides
from .known_kernel import subtract_floor, warn_of_measured
from .output import check_output, write_whole

SEPARATOR = 64  # gray of the lines between the kernels of `show_kernels`


@dataclass(frozen=True, eq=False)
class KernelField:
    """A blur that varies over the image: kernels on a grid of nodes, with bilinear interpolation between them.

    ``image(p) = sum_r w_r(p) conv(sharp, kernels[r])(p)``; the windows w_r, products of hat functions along both axes,
    have the sum 1 at every pixel ([Hirsch2010]).

    Attributes
    ----------
    kernels : (gy, gx, kh, kw) array
        NumPy or CuPy. Each is not negative and is scaled to sum 1; a zero line is added to even sides. The origin is
        pixel (kh // 2, kw // 2), as for a single kernel. They become float64.
    shape : (H, W)
        Of the image.
    nodes : (rows, columns), optional
        Positions of the nodes in pixels, (gy,) and (gx,), each at least 1 after the one before. None is a regular grid
        with nodes in the image's corners: rows i (H - 1) / (gy - 1), columns likewise; a single node is in the middle.
        Beyond the outer nodes the blur is constant.
    floor : float or "auto", optional
        A constant to be subtracted from the kernels before they are scaled, see `deconvolve`.

    Raises
    ------
    TypeError, ValueError
        An argument breaks a rule, which the message names.

    Notes
    -----
    Between neighboring nodes, points of a kernel should move by no more than a pixel or two: interpolation shows both
    positions, faintly, instead of one in between.

    Examples
    --------
    >>> import numpy as np, gpudeblur as gd
    >>> kernels = np.zeros((1, 2, 1, 3))
    >>> kernels[0, 0, 0, 1] = 1  # sharp on the left, a blur of three pixels on the right
    >>> kernels[0, 1, 0] = 1
    >>> field = gd.KernelField(kernels, shape=(50, 81))
    >>> field.centre.round(3)
    array([[0.167, 0.667, 0.167]])
    """

    kernels: Array
    shape: tuple[int, int]
    nodes: tuple[np.ndarray, np.ndarray] | None = None
    floor: InitVar[float | str | None] = None

    def __post_init__(self, floor: float | str | None) -> None:
        kernels = _checked_kernels(self.kernels, floor)
        shape = _checked_shape(self.shape)
        counts = kernels.shape[:2]
        if self.nodes is None:
            for count, n, axis in zip(counts, shape, ("rows", "columns"), strict=True):
                if count > n:
                    raise ValueError(
                        f"kernels must not have more {axis} of nodes than the image has pixels, got {count} for {n}; "
                        "take fewer"
                    )
            nodes = tuple(regular_nodes(count, n) for count, n in zip(counts, shape, strict=True))
        else:
            nodes = _checked_nodes(self.nodes, (counts[0], counts[1]))
        for name, value in (("kernels", kernels), ("shape", shape), ("nodes", nodes)):
            object.__setattr__(self, name, value)

    @property
    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """`nodes`, which are never None after the construction."""
        assert self.nodes is not None, "set by __post_init__"
        return self.nodes

    @property
    def centre(self) -> Array:
        """The kernel in the middle of the image, (kh, kw)."""
        return self.at([(n - 1) / 2 for n in self.shape])

    def at(self, points: Any) -> Array:
        """The kernels at points.

        Parameters
        ----------
        points : (..., 2)
            Pairs (row, column) in pixels; fractions are allowed.

        Returns
        -------
        (..., kh, kw) array like `kernels`.
        """
        xp, host = array_module(self.kernels), np.asarray(points, dtype=np.float64)
        if host.ndim < 1 or host.shape[-1] != 2 or not np.isfinite(host).all():
            raise ValueError(f"points must be finite pairs (row, column), got {points!r}; give for instance (10, 20.5)")
        wy, wx = (hats(nodes, host[..., axis]) for axis, nodes in enumerate(self.positions))
        weights = np.moveaxis(wy[:, None] * wx, (0, 1), (-2, -1))
        return xp.tensordot(xp.asarray(weights), self.kernels, axes=2)

    def crop(self, window: Sequence[slice]) -> KernelField:
        """The field of a part of the image, with the same kernel at each pixel: the nodes that reach it.

        Parameters
        ----------
        window : (rows, columns), two slices inside the image.
        """
        limits = [part.indices(n) for part, n in zip(window, self.shape, strict=True)]
        if any(step != 1 or stop <= start for start, stop, step in limits):
            raise ValueError(
                f"window must be two slices without a step that hold a pixel of {self.shape}, got {window}"
            )
        shape = tuple(stop - start for start, stop, _ in limits)
        nodes = [at - start for at, (start, _, _) in zip(self.positions, limits, strict=True)]
        used = tuple(reaching(at, n) for at, n in zip(nodes, shape, strict=True))
        return self._with(self.kernels[used], shape, tuple(at[part] for at, part in zip(nodes, used, strict=True)))

    def to(self, xp: Any) -> KernelField:
        """The field with its kernels in the memory of `xp`, NumPy or CuPy."""
        return self._with(move(self.kernels, xp), self.shape, self.nodes)

    def prepared(self, dtype: Any) -> KernelField | Array:
        """The field with kernels of `dtype`; of a single node, its kernel, so that it is computed as a uniform blur.

        Without the zeros at the borders of all kernels, which would only cost time.
        """
        kernels = self.kernels.astype(dtype, copy=False)
        if kernels.shape[:2] == (1, 1):
            return kernels[0, 0]
        return self._with(fit_size(kernels, support_sides(kernels)), self.shape, self.nodes)

    def _with(self, kernels: Array, shape: Any, nodes: Any) -> KernelField:
        """A field of parts that were checked: their kernels stay as they are, to the bit."""
        field = object.__new__(KernelField)
        for name, value in (("kernels", kernels), ("shape", shape), ("nodes", nodes)):
            object.__setattr__(field, name, value)
        return field

    def save(self, path: str | os.PathLike[str], *, gamma: float | None = None) -> None:
        """Write the field to an ``.npz`` file, atomically; with the `gamma` of the image it was estimated from.

        Raises
        ------
        OSError, ValueError
            The folder does not exist or is not writable, or the name has another ending.
        """
        target, buffer = check_output(path, suffixes=(".npz",)), io.BytesIO()
        rows, columns = self.positions
        arrays = {"kernels": to_host(self.kernels), "shape": np.array(self.shape), "rows": rows, "columns": columns}
        np.savez_compressed(buffer, **(arrays if gamma is None else arrays | {"gamma": np.float64(gamma)}))
        write_whole(target, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KernelField:
        """Read a file that `save` wrote; its kernels are NumPy arrays.

        Raises
        ------
        OSError, ValueError
            The file cannot be read, is damaged, or is no kernel field.
        """
        path = Path(path)
        data = path.read_bytes()
        if not data.startswith(b"PK"):
            raise ValueError(f"{path} must be a .npz file that KernelField.save wrote; write it again")
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                parts = {name: file[name] for name in ("kernels", "shape", "rows", "columns")}
        except KeyError as why:
            raise ValueError(
                f"{path} must be a file that KernelField.save wrote, but has no {why}; write it again"
            ) from why
        except Exception as why:  # of zipfile, zlib and the parser of NumPy's headers
            raise ValueError(f"{path} is damaged or truncated and cannot be read ({why}); get a fresh copy") from why
        try:
            return cls(parts["kernels"], tuple(parts["shape"].ravel().tolist()), (parts["rows"], parts["columns"]))
        except (TypeError, ValueError) as why:
            raise ValueError(f"{path} holds no kernel field: {why}") from why


def kernel_sides(kernel: KernelField | Array) -> tuple[int, int]:
    """(kh, kw) of a kernel, or of those of a field."""
    sides = (kernel.kernels if isinstance(kernel, KernelField) else kernel).shape[-2:]
    return int(sides[0]), int(sides[1])


def show_kernels(field_or_kernel: KernelField | Array) -> Array:
    """A picture of the kernels of a field on their grid, or of a single kernel.

    Parameters
    ----------
    field_or_kernel : KernelField, or (kh, kw) array.

    Returns
    -------
    (gy (kh + 1) - 1, gx (kw + 1) - 1) uint8
        In the memory of the kernels. The maximum of each is white; gray lines of a pixel separate them.

    Examples
    --------
    >>> import numpy as np, gpudeblur as gd
    >>> field = gd.KernelField(np.ones((2, 3, 5, 7)), shape=(50, 80))
    >>> gd.show_kernels(field).shape
    (11, 23)
    """
    if isinstance(field_or_kernel, KernelField):
        kernels = field_or_kernel.kernels
    else:
        checks.check_kernel(field_or_kernel, odd=False)
        if field_or_kernel.ndim != 2:
            raise ValueError(
                f"kernel must be (kh, kw), got shape {field_or_kernel.shape}; make it a KernelField, or show one"
            )
        kernels = field_or_kernel[None, None]
    xp, (gy, gx, kh, kw) = array_module(kernels), kernels.shape
    kernels = xp.maximum(kernels.astype(np.float64), 0)
    gray = xp.rint(kernels * (255 / kernels.max(axis=(-2, -1), keepdims=True)))
    out = xp.full((gy, kh + 1, gx, kw + 1), SEPARATOR, dtype=np.uint8)
    out[:, :kh, :, :kw] = gray.transpose(0, 2, 1, 3)
    return xp.ascontiguousarray(out.reshape(gy * (kh + 1), gx * (kw + 1))[:-1, :-1])


def _checked_kernels(kernels: Any, floor: float | str | None) -> Array:
    kernels = to_native(kernels, "kernels")
    if getattr(kernels, "ndim", 4) != 4:
        raise ValueError(
            f"kernels must be (gy, gx, kh, kw), a kernel for each node of a grid, got {kernels.ndim} axes (shape "
            f"{kernels.shape}); a single one is kernel[None, None]"
        )
    # Before `check_kernel`, which only warns of negative values.
    checks.module_of(kernels, "kernels")
    checks.check_dtype(kernels.dtype, "kernels")
    if floor is not None:
        checks.check_kernel_array(kernels, name="kernels", odd=False)
        kernels = subtract_floor(kernels, floor, 2, name="kernels")
    if bool((kernels < 0).any()):
        raise ValueError(
            f"kernels must not be negative, got a minimum of {float(kernels.min()):.3g}; clip them with "
            "numpy.maximum(kernels, 0)"
        )
    checks.check_kernel(kernels, name="kernels", odd=False)
    warn_of_measured(kernels, 2, name="kernels", way_out="" if floor == "auto" else 'give floor="auto"')
    return prepare_kernel(kernels)


def _checked_shape(shape: Any) -> tuple[int, int]:
    sides = [checks.as_integer(side) for side in shape] if isinstance(shape, tuple | list | np.ndarray) else []
    if len(sides) != 2 or any(side is None or side < 1 for side in sides):
        raise ValueError(f"shape must be two positive integers (H, W), got {shape!r}; use image.shape[:2]")
    return sides[0], sides[1]  # type: ignore[return-value]


def _checked_nodes(nodes: Any, counts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    try:
        rows, columns = (np.array(at, dtype=np.float64) for at in nodes)
    except (TypeError, ValueError):
        raise TypeError(
            f"nodes must be a pair (rows, columns) of positions in pixels, got {nodes!r}; leave it out for a regular "
            "grid"
        ) from None
    for name, at, count in (("rows", rows, counts[0]), ("columns", columns, counts[1])):
        if at.shape != (count,):
            raise ValueError(
                f"nodes must have {count} {name}, one for each of the kernels, got shape {at.shape}; leave it out "
                "for a regular grid"
            )
        if not (np.isfinite(at).all() and (np.diff(at) >= 1).all()):
            raise ValueError(
                f"nodes must be finite, and each of the {name} at least 1 pixel after the one before, got {at}; take "
                "fewer"
            )
    return rows, columns
