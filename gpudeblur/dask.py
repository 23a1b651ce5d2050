"""Lazy deblurring of Dask arrays: stacks, in chunks of some pictures, and pictures too large for one memory.

Needs the extra `dask`. Importing this module gives the DataArrays of xarray, if that is installed, the accessor
`deblur` (`Accessor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from .batch.iterator import deblur_batch
from .blind.kernel_size import window_sides
from .blind.options import TwoStepOptions
from .images import checks
from .images.kernel_field import KernelField, kernel_sides
from .images.kernels import prepare_kernel
from .images.known_kernel import known_kernel
from .images.planes import decode, to_picture, to_planes
from .images.saturation import HEADROOM, find_saturated
from .images.white import NOISE_HEADROOM, OTHER_UNIT, Values, assess_values, check_white
from .nonblind.blurring import check_field
from .nonblind.deconvolve import check_saturation, check_tile, checked_method, checked_options
from .nonblind.regularization import WeightRule, estimate_weight
from .nonblind.specs import METHOD_SPECS, METHODS, color_option
from .nonblind.tiles import ALIGNMENT, MIN_OVERLAP, OVERLAP_KERNELS, WEIGHT_SAMPLES
from .numerics.allocator import keep_freed_memory
from .numerics.arrays import Array, array_module, choose_module, move, to_host
from .numerics.user_warnings import warn
from .priors import Prior

try:
    import dask.array as da
    from dask import delayed
except ImportError as why:
    raise ImportError('gpudeblur.dask needs Dask; pip install "gpudeblur[dask]"') from why

# Of the result of each picture; see `BlindResult.info`.
FIGURES = ("confidence", "strength", "residual", "gamma", "white", "seconds")
INFO = np.dtype(
    [(name, np.float64) for name in FIGURES]
    + [("kernel_height", np.int32), ("kernel_width", np.int32), ("error", "U240")]
)


def deblur(
    stack: Any,
    kernel_size: int | tuple[int, int] | None = None,
    *,
    channel_axis: int | None = None,
    device: str | None = None,
    final: str | None = "sparse",
    gamma: float | str = 1.0,
    white: float | str | None = None,
    mask: Any = None,
    defects: str | None = "auto",
    region: tuple[slice, slice] | str = "auto",
    prior: Prior | None = None,
    options: TwoStepOptions | None = None,
) -> tuple[Any, Any, Any]:
    """Sharp pictures, kernels and figures of a stack of blurred pictures, all three lazy.

    A task deblurs the pictures of a chunk, each as `gpudeblur.deblur` would alone, bit by bit on the CPU, and gives all
    three results of them: compute them together (``dask.compute(sharp, kernels, info)``), or each computes the chunks
    again.

    Parameters
    ----------
    stack : dask array (n, H, W), or (n, H, W, C) with ``channel_axis=-1``
        Of NumPy or CuPy arrays. A chunk holds one or more whole pictures.
    kernel_size, channel_axis, device, final, gamma, white, defects, region, prior, options
        As in `gpudeblur.deblur`; `white="auto"` is decided for each picture by itself. `device` is looked for where the
        task runs. With ``kernel_size=None`` the kernels are padded to the largest size that is tried for a picture of
        this shape, up to 151 pixels a side; `info` has the size of each.
    mask : bool array (H, W) or "nan", or bool array or dask array (n, H, W), optional
        As in `gpudeblur.deblur`, the same for all pictures, or one a picture.

    Returns
    -------
    sharp : dask array like `stack`, or None with ``final=None``
    kernels : dask array (n, kh, kw)
    info : dask array (n,) of dtype `INFO`
        ``confidence``, ``strength``, ``residual``, ``gamma``, ``white``, ``seconds``, ``kernel_height``,
        ``kernel_width`` and ``error``: "", or what is wrong with that picture, which does not affect the others. Its
        sharp picture is NaN, or 0 of an integer type, and so are its kernel and its figures.

    Raises
    ------
    TypeError, ValueError
        At once: `stack` is no dask array of real numbers, its chunks split a picture, or an argument is wrong for every
        picture.

    Examples
    --------
    >>> import dask.array as da, gpudeblur as gd
    >>> stack = da.from_zarr("frames.zarr").rechunk((16, -1, -1))       # doctest: +SKIP
    >>> sharp, kernels, info = gd.dask.deblur(stack, 31)                # doctest: +SKIP
    >>> da.to_zarr(sharp, "sharp.zarr")                                 # doctest: +SKIP
    """
    rank = 3 if channel_axis is None else 4
    _check_array(stack, "stack", rank, "(n, H, W)" if channel_axis is None else "(n, H, W, C) with channel_axis=-1")
    axis = None if channel_axis is None else _axis_from_end(channel_axis, rank, 1)
    if any(len(sizes) > 1 for sizes in stack.chunks[1:]):
        chunks = ", ".join([str(max(stack.chunks[0])), *["-1"] * (rank - 1)])
        raise ValueError(
            f"chunks of stack must not split a picture, got {stack.numblocks[1:]} of them for each; use "
            f"stack.rechunk(({chunks}))"
        )
    height, width = checks.without_channels(stack, axis)[1:]
    masks, shared_mask = None, mask
    if getattr(mask, "ndim", None) == 3 or isinstance(mask, da.Array):
        masks, shared_mask = _masks_in_chunks(mask, (len(stack), height, width), stack.chunks[0]), None
    settings: dict[str, Any] = {
        "kernel_size": kernel_size, "channel_axis": axis, "final": final, "gamma": gamma, "white": white,
        "mask": shared_mask, "defects": defects, "region": region, "prior": prior, "options": options,
    }  # fmt: skip
    if device is not None:
        checks.check_choice("device", device, ("cpu", "cuda", "auto"))
    deblur_batch([], **settings).close()  # checks the arguments; the device is not that of this process
    if kernel_size is None:
        checks.check_minimum_size((height, width))
        sides = (max(window_sides((height, width))),) * 2
    else:
        sides = checks.check_kernel_size(kernel_size, (height, width))
    kernel_dtype = np.dtype((options or TwoStepOptions()).dtype)
    settings["device"] = device
    arguments = [(stack, "nabc"[:rank]), (masks, None if masks is None else "nhw")]
    arguments += [(sides, None), (kernel_dtype, None), (settings, None)]
    results = da.blockwise(
        _deblur_chunk,
        "n",
        *(item for pair in arguments for item in pair),
        adjust_chunks={"n": (1,) * stack.numblocks[0]},
        concatenate=True,
        dtype=object,
        meta=np.empty(0, object),
    )

    def part(index: int, dtype: Any, sides: tuple[int, ...], meta: Any) -> Any:
        chunks = (stack.chunks[0], *((side,) for side in sides))
        new_axes = [*range(1, 1 + len(sides))]
        return results.map_blocks(_part, index, dtype=dtype, chunks=chunks, new_axis=new_axes, meta=meta)

    xp = array_module(stack._meta)
    sharp = None if final is None else part(0, stack.dtype, stack.shape[1:], stack._meta)
    kernels = part(1, kernel_dtype, sides, xp.empty((0, 0, 0), kernel_dtype))
    return sharp, kernels, part(2, INFO, (), np.empty(0, INFO))


def _masks_in_chunks(mask: Any, shape: tuple[int, ...], counts: tuple[int, ...]) -> Any:
    """A mask a picture, as a dask array in the chunks of the stack."""
    if mask.shape != shape or mask.dtype != np.bool_:
        raise ValueError(
            f"mask must be bool, (H, W) in memory for all pictures or (n, H, W) {shape}, got {mask.dtype} "
            f"{mask.shape}; True is where a picture is valid"
        )
    return da.asarray(mask).rechunk((counts, -1, -1))


def _deblur_chunk(
    pictures: Array, masks: Array | None, sides: tuple[int, int], kernel_dtype: Any, settings: dict[str, Any]
) -> np.ndarray:
    """One object: the sharp pictures, the kernels and the figures of a chunk."""
    keep_freed_memory()
    if masks is not None:
        settings = settings | {"mask": masks}
    xp, count = array_module(pictures), len(pictures)
    sharp = xp.full_like(pictures, np.nan if pictures.dtype.kind == "f" else 0)
    kernels = xp.full((count, *sides), np.nan, kernel_dtype)
    info = _no_info(count)
    with deblur_batch(pictures, workers=1, **settings) as results:
        for result in results:
            i = result.index
            if result.error is not None:
                info["error"][i] = str(result.error) or type(result.error).__name__
                continue
            kernel: Any = result.kernel
            if result.image is not None:
                sharp[i] = result.image
            kernels[i] = 0
            kernels[(i, *_middle(sides, kernel.shape))] = kernel
            for name in FIGURES:
                info[name][i] = result.info.get(name, np.nan)
            info["kernel_height"][i], info["kernel_width"][i] = kernel.shape
    chunk = np.empty(1, object)
    chunk[0] = sharp, kernels, info
    return chunk


def _no_info(count: int) -> np.ndarray:
    info = np.zeros(count, INFO)
    for name in FIGURES:
        info[name] = np.nan
    return info


def _middle(sides: tuple[int, int], inner: tuple[int, ...]) -> tuple[slice, slice]:
    """Where a kernel with the sides `inner` lies in one of `sides`, all odd, so that their middle pixels agree."""
    rows, columns = (slice((n - k) // 2, (n + k) // 2) for n, k in zip(sides, inner, strict=True))
    return rows, columns


def _part(results: np.ndarray, index: int) -> Array:
    return results[0][index]


def deconvolve(
    image: Any,
    kernel: Array | KernelField,
    *,
    method: str | None = None,
    depth: int | str = "auto",
    weight: float | None = None,
    noise_sigma: float | None = None,
    floor: float | str | None = None,
    iterations: int | None = None,
    saturation: float | str | None = "auto",
    channel_axis: int | None = None,
    device: str | None = None,
    gamma: float = 1.0,
    white: float | str | None = None,
    dtype: str = "float32",
) -> Any:
    """The sharp picture for a known blur kernel, lazily, of a picture that is too large for one memory.

    Each chunk is restored with an overlap, as `gpudeblur.deconvolve` does it with ``tile=``, and what depends on the
    whole picture is measured once, before the first chunk: the white level and whether lights are cut off, in all
    chunks, and the noise, in nine of them. So the picture is read twice.

    Parameters
    ----------
    image : dask array (H, W), or (H, W, C) with ``channel_axis=-1``
        Of NumPy or CuPy arrays. All channels are colors: opacity is to be taken away before. Chunks shorter than the
        overlap are joined; they had better be four times as long, for the overlaps are computed twice.
    kernel : (kh, kw) array, or `KernelField` of the picture's height and width
    depth : int or "auto"
        Overlap in pixels on each side. "auto": five times the larger side of the kernel, and at least 64.
    method, weight, noise_sigma, floor, iterations, saturation, channel_axis, device, gamma, white, dtype
        As in `gpudeblur.deconvolve`, for the methods that can work in tiles. Defects are not looked for, as with
        ``defects=None`` there.

    Returns
    -------
    dask array like `image`

    Raises
    ------
    TypeError, ValueError
        At once, as `gpudeblur.deconvolve`; what is wrong with the pixels, such as NaN, when they are computed.

    Notes
    -----
    The results of neighboring chunks do not fade into each other, since the whole overlap of each is dropped: they
    differ less at a cut than with ``tile=``, where it is half of it. "pnp" needs chunks whose sides are multiples of 8
    for that: its network reduces images by 8.
    """
    method = checked_method(method, kernel)
    spec = METHOD_SPECS[method]
    check_tile("auto", method, "unknown")
    check_saturation(saturation, method, "unknown")
    checks.check_choice("dtype", dtype, ("float32", "float64"))
    checks.check_gamma(gamma)
    white = check_white(white)
    if device is not None:
        checks.check_choice("device", device, ("cpu", "cuda", "auto"))
    rank = 2 if channel_axis is None else 3
    _check_array(image, "image", rank, "(H, W)" if channel_axis is None else "(H, W, C) with channel_axis=-1")
    axis = None if channel_axis is None else _axis_from_end(channel_axis, rank, 0)
    options = checked_options(method, spec, weight, noise_sigma, None, iterations, ())
    if isinstance(kernel, KernelField):
        check_field(kernel, image, boundary="unknown", channel_axis=axis)
        if floor is not None:
            raise ValueError(f"floor must be None for a KernelField, got {floor!r}; use KernelField(..., floor=)")
        kernel = kernel.prepared(dtype)
    else:
        kernel = known_kernel(kernel, floor=floor)
        if kernel.ndim != 2:
            raise ValueError(
                f"kernel must be one kernel (kh, kw), got shape {kernel.shape}; call once for each picture"
            )
        checks.check_kernel_fits(kernel, image, channel_axis=axis, both=False)
        kernel = prepare_kernel(kernel).astype(dtype)
    spatial = [i for i in range(rank) if axis is None or i != rank + axis]
    sides = kernel_sides(kernel)
    if isinstance(depth, str) and depth == "auto":
        depth = max(MIN_OVERLAP, OVERLAP_KERNELS * max(sides))
        if spec.network:
            depth = -(-depth // ALIGNMENT) * ALIGNMENT
    else:
        depth = checks.check_count("depth", depth, minimum=max(sides), way_out='"auto" is five kernel sides')
    if axis is not None:
        image = image.rechunk({rank + axis: -1})
    depths = {i: depth if image.shape[i] > depth else 0 for i in spatial}
    image = image.rechunk(
        {i: da.overlap.ensure_minimum_chunksize(n, image.chunks[i]) if n else -1 for i, n in depths.items()}
    )
    grown = da.overlap.overlap(image, depth=depths, boundary=dict.fromkeys(spatial, "none"))
    windows = [_windows(image.chunks[i], depths[i]) for i in spatial]
    numbers = (weight, noise_sigma, None if isinstance(saturation, str) else saturation)
    reading = _Reading(axis, device, gamma, dtype, saturation if spec.saturated else None)
    thresholds = [value for value, _ in OTHER_UNIT]
    extremes = image.map_blocks(
        _extremes,
        axis,
        [*thresholds, NOISE_HEADROOM * white] if isinstance(white, float) else thresholds,
        dtype=object,
        meta=np.empty((0, 0), object),
        chunks=tuple((1,) * image.numblocks[i] for i in spatial),
        drop_axis=[] if axis is None else [rank + axis],
    )
    levels = delayed(_levels)(extremes, image.dtype, white, all(number is None for number in numbers), dtype)
    if "weight" not in options:
        places = [*np.ndindex(*(image.numblocks[i] for i in spatial))]
        weights = []
        for place in places[:: -(-len(places) // WEIGHT_SAMPLES)]:
            index = [*place]
            if axis is not None:
                index.insert(rank + axis, 0)
            part = _kernel_of(kernel, windows, place, dtype)
            weights.append(delayed(_weight)(grown.blocks[tuple(index)], levels, part, spec.weight_rule, reading))
        options["weight"] = delayed(_median)(weights)
    if len(spec.boundaries) > 1:
        options["boundary"] = "unknown"
    restored = grown.map_blocks(
        _restore_chunk,
        da.from_delayed(delayed(dict)(levels=levels, options=options), (), object, meta=np.empty((), object)),
        kernel,
        windows,
        method,
        reading,
        dtype=image.dtype,
        meta=image._meta,
    )
    return da.overlap.trim_internal(restored, depths, dict.fromkeys(spatial, "none"))


@dataclass(frozen=True)
class _Levels:
    """What is measured in all chunks: the white level, and in which channels (C,), or (), nothing exceeds it."""

    white: float
    is_clipped: np.ndarray


@dataclass(frozen=True)
class _Reading:
    """How a chunk becomes planes (..., H, W) of linear intensity."""

    channel_axis: int | None
    device: str | None
    gamma: float
    dtype: str
    saturation: float | str | None

    def planes(self, chunk: Array, levels: _Levels) -> tuple[Array, Array | None]:
        """The planes, and where they are saturated, or None."""
        moved = move(chunk, choose_module(chunk, self.device))
        planes = to_planes(moved, channel_axis=self.channel_axis, dtype=self.dtype, white=levels.white)
        saturated = None
        if isinstance(self.saturation, str):
            is_clipped = move(levels.is_clipped, array_module(planes))
            saturated = find_saturated(planes) & is_clipped[..., None, None]
        elif self.saturation is not None:
            saturated = planes >= self.saturation
        if saturated is not None and not bool(saturated.any()):  # here CuPy must wait
            saturated = None
        return decode(planes, self.gamma), saturated


def _extremes(chunk: Array, channel_axis: int | None, thresholds: Sequence[float]) -> np.ndarray:
    """One object: what `_levels` needs of a chunk."""
    checks.check_picture(chunk, channel_axis=channel_axis)
    values = Values.of(chunk, channel_axis)
    axes = None if channel_axis is None else tuple(i for i in range(chunk.ndim) if i != chunk.ndim + channel_axis)
    fractions = {value: values.fraction_above(value) for value in thresholds}
    maxima = to_host(array_module(chunk).asarray(chunk.max(axis=axes)))
    block = np.empty((1, 1), object)
    block[0, 0] = (values.largest, values.bright, values.smallest), fractions, chunk.size, maxima
    return block


def _levels(extremes: np.ndarray, image_dtype: Any, white: Any, adaptive: bool, dtype: str) -> _Levels:
    (figures, fractions, sizes, maxima) = zip(*extremes.ravel(), strict=True)
    largest, bright, smallest = zip(*figures, strict=True)

    def fraction_above(value: float) -> float:
        return float(np.average([fraction[value] for fraction in fractions], weights=sizes))

    values = Values(max(largest), max(bright), min(smallest), fraction_above)
    level, warning = assess_values(
        image_dtype, values, white, dtype=dtype, adaptive=adaptive, unit_free=False, name="image"
    )
    if warning is not None:
        warn(warning)
    return _Levels(level, np.asarray(np.max(maxima, axis=0) <= (1 + HEADROOM) * level))


def _weight(chunk: Array, levels: _Levels, kernel: Array | KernelField, rule: WeightRule, reading: _Reading) -> Array:
    planes, _ = reading.planes(chunk, levels)
    return estimate_weight(planes, _moved(kernel, array_module(planes)), rule)


def _median(weights: list[Array]) -> Array:
    return array_module(weights[0]).median(array_module(weights[0]).stack(weights), axis=0)


def _restore_chunk(
    chunk: Array,
    measured: dict[str, Any],
    kernel: Array | KernelField,
    windows: list[list[slice]],
    method: str,
    reading: _Reading,
    block_id: tuple[int, ...] = (),
) -> Array:
    """The sharp chunk, with its overlap."""
    keep_freed_memory()
    levels, options = measured["levels"], measured["options"]
    planes, saturated = reading.planes(chunk, levels)
    block = [i for axis, i in enumerate(block_id) if axis - chunk.ndim != reading.channel_axis]
    kernel = _moved(_kernel_of(kernel, windows, block, reading.dtype), array_module(planes))
    if reading.channel_axis is not None and not isinstance(kernel, KernelField):
        kernel = kernel[None]
    if saturated is not None:
        options = options | {"saturated": saturated}
    if reading.channel_axis is not None:
        options = options | color_option(method, planes)
    sharp = METHODS[method](planes, kernel, **options)
    return to_picture(sharp, reading.gamma, chunk, channel_axis=reading.channel_axis, white=levels.white)


def _kernel_of(kernel: Any, windows: list[list[slice]], place: Sequence[int], dtype: str) -> Any:
    """The kernel, or the field of the chunk at that place."""
    if not isinstance(kernel, KernelField):
        return kernel
    return kernel.crop([of_axis[i] for of_axis, i in zip(windows, place, strict=True)]).prepared(dtype)


def _moved(kernel: Any, xp: Any) -> Any:
    return kernel.to(xp) if isinstance(kernel, KernelField) else move(kernel, xp)


def _windows(sizes: tuple[int, ...], depth: int) -> list[slice]:
    """Where the chunks of an axis lie with their overlaps."""
    ends = np.cumsum(sizes)
    return [
        slice(max(0, end - size - depth), min(ends[-1], end + depth)) for end, size in zip(ends, sizes, strict=True)
    ]


def _check_array(array: Any, name: str, rank: int, axes: str) -> None:
    """Raise unless it is a dask array of real numbers and of that rank, whose chunks have sizes."""
    if not isinstance(array, da.Array):
        raise TypeError(f"{name} must be a dask array, got {type(array).__name__}; use dask.array.from_array")
    checks.check_dtype(array.dtype, name)
    if array.ndim != rank:
        raise ValueError(f"{name} must be {axes}, got shape {array.shape}; index or reshape it")
    if any(np.isnan(side) for side in array.shape):
        raise ValueError(f"{name} must have a shape, got {array.shape}; use {name}.compute_chunk_sizes()")
    if 0 in array.shape:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}; every side must be at least 1")


def _axis_from_end(channel_axis: Any, rank: int, stack_axes: int) -> int:
    """`channel_axis` as a negative number, which is the same for one picture and for a stack."""
    axis = checks.check_axis(channel_axis)
    if not stack_axes <= axis % rank or not -rank <= axis < rank:
        raise ValueError(f"channel_axis must be an axis of a picture, got {channel_axis} of {rank} axes; use -1")
    return axis % rank - rank


if find_spec("xarray") is not None:
    import xarray

    @xarray.register_dataarray_accessor("deblur")
    class Accessor:
        """`array.deblur` of an xarray.DataArray: the functions of this module by the names of dimensions.

        The last two dimensions but `channel` are the rows and columns of a picture, and there may be one more in front
        of them, of the pictures. Names, coordinates and attributes stay. Of a DataArray without chunks the result has
        none: it is computed at once.
        """

        def __init__(self, array: Any) -> None:
            self._array = array

        def blind(
            self, kernel_size: int | tuple[int, int] | None = None, *, channel: str | None = None, **settings: Any
        ) -> Any:
            """`gpudeblur.dask.deblur`, with its `settings`, as a Dataset.

            It has the sharp picture under the name of the DataArray, or "image"; "kernel" with the dimensions
            "kernel_y" and "kernel_x"; and the fields of `INFO`. `channel` is the dimension of the colors.
            """
            array = self._in_order(channel)
            rank = 2 if channel is None else 3
            if array.ndim not in (rank, rank + 1):
                raise ValueError(f"array must be a picture or a stack of them, got dimensions {array.dims}; stack them")
            stack = array if array.ndim > rank else array.expand_dims("_picture")
            of_stack = stack.dims[0]
            sharp, kernels, info = deblur(
                stack.chunk({of_stack: 1}).data if self._array.chunks is None else stack.data,
                kernel_size,
                channel_axis=None if channel is None else -1,
                **settings,
            )
            variables: dict[str, Any] = (
                {} if sharp is None else {self._array.name or "image": (stack.dims, sharp, self._array.attrs)}
            )
            variables["kernel"] = ((of_stack, "kernel_y", "kernel_x"), kernels)
            variables |= {name: (of_stack, info[name]) for name in INFO.names or ()}
            result = xarray.Dataset(variables, coords=stack.coords)
            result = result.isel(_picture=0) if of_stack == "_picture" else result
            if sharp is not None:
                name = self._array.name or "image"
                result[name] = result[name].transpose(*self._array.dims)
            return result.compute() if self._array.chunks is None else result

        def deconvolve(self, kernel: Array | KernelField, *, channel: str | None = None, **settings: Any) -> Any:
            """`gpudeblur.dask.deconvolve`, with its `settings`, of one picture, as a DataArray."""
            array = self._in_order(channel)
            data = array.chunk().data if self._array.chunks is None else array.data
            sharp = deconvolve(data, kernel, channel_axis=None if channel is None else -1, **settings)
            result = array.copy(data=sharp).transpose(*self._array.dims)
            return result.compute() if self._array.chunks is None else result

        def _in_order(self, channel: str | None) -> Any:
            """The DataArray with the dimension of the colors last."""
            if channel is None:
                return self._array
            if channel not in self._array.dims:
                raise ValueError(f"channel must be one of the dimensions {self._array.dims}, got {channel!r}")
            return self._array.transpose(..., channel)
