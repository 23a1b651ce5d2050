"""`gpudeblur.dask`: chunks give what the whole gives, lazily; one task a chunk; errors of one picture stay its own."""

from typing import Any

import numpy as np
import pytest

import gpudeblur as gd

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

OPTIONS = gd.TwoStepOptions(iterations=1, kernel_iterations=2, refine=False, starts=("wide",))
SETTINGS: dict[str, Any] = {"final": "hyper-laplacian", "options": OPTIONS}
MOTION = np.full((1, 5), 0.2, np.float32)


@pytest.fixture(autouse=True)
def _synchronous() -> Any:
    with dask.config.set(scheduler="synchronous"):
        yield


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def photograph(height: int, width: int) -> np.ndarray:
    from skimage import data

    sharp = data.camera()[100 : 100 + height, 100 : 104 + width].astype(np.float32) / 255
    blurred = sum(sharp[:, i : width + i] for i in range(5)) / 5
    return (blurred + 0.01 * np.random.default_rng(1).standard_normal(blurred.shape)).astype(np.float32)


@pytest.mark.parametrize("axis", [None, -1])
def test_each_picture_is_that_of_deblur(axis: int | None) -> None:
    stack = pictures(3, 24, 26) if axis is None else pictures(3, 24, 26, 3)
    stack[1, 3, 4] = np.nan
    chunks = (2, *stack.shape[1:])
    results = gd.dask.deblur(da.from_array(stack, chunks=chunks), 5, channel_axis=axis, **SETTINGS)
    sharp, kernels, info = dask.compute(*results)
    assert [lazy.shape for lazy in results] == [sharp.shape, kernels.shape, info.shape]
    assert [lazy.dtype for lazy in results] == [sharp.dtype, kernels.dtype, info.dtype]
    for i in (0, 2):
        alone = gd.deblur(stack[i], 5, channel_axis=axis, **SETTINGS)
        assert np.array_equal(sharp[i], alone.image)
        assert np.array_equal(kernels[i], alone.kernel)
        assert info["confidence"][i] == alone.info["confidence"]
        assert info["error"][i] == ""
    assert np.isnan(sharp[1]).all()
    assert np.isnan(kernels[1]).all()
    assert "image must be finite, got nan at index (3, 4" in info["error"][1]


@pytest.mark.parametrize(("axis", "is_lazy"), [(None, True), (1, False)])
def test_a_mask_a_picture(axis: int | None, is_lazy: bool) -> None:
    stack = pictures(3, 24, 26) if axis is None else pictures(3, 3, 24, 26)
    mask = np.random.default_rng(1).random((3, 24, 26)) > 0.1
    lazy = da.from_array(stack, chunks=(2, *stack.shape[1:]))
    masks = da.from_array(mask, chunks=(3, 12, 13)) if is_lazy else mask
    sharp, _, info = dask.compute(*gd.dask.deblur(lazy, 5, channel_axis=axis, mask=masks, **SETTINGS))
    assert not any(info["error"])
    for i in range(3):
        alone = gd.deblur(stack[i], 5, channel_axis=None if axis is None else 0, mask=mask[i], **SETTINGS)
        assert np.array_equal(sharp[i], alone.image)
    for wrong in (mask[:2], mask.astype(np.uint8), da.from_array(mask[0])):
        with pytest.raises(ValueError, match=r"mask must be bool, \(H, W\) in memory for all pictures or"):
            gd.dask.deblur(lazy, 5, channel_axis=axis, mask=wrong, **SETTINGS)


def test_one_task_a_chunk_gives_all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpudeblur import dask as module

    sizes = []

    def deblur_chunk(chunk: np.ndarray, *arguments: Any) -> np.ndarray:
        sizes.append(len(chunk))
        result = np.empty(1, object)
        result[0] = chunk, np.zeros((len(chunk), 5, 5), np.float32), np.zeros(len(chunk), module.INFO)
        return result

    monkeypatch.setattr(module, "_deblur_chunk", deblur_chunk)
    results = module.deblur(da.from_array(pictures(5, 24, 26), chunks=(2, 24, 26)), 5)
    assert sizes == []
    dask.compute(*results)
    assert sorted(sizes) == [1, 2, 2]


def test_kernels_of_estimated_sizes_are_in_the_middle_of_the_largest() -> None:
    stack = pictures(1, 20, 24)
    _, kernels, info = dask.compute(*gd.dask.deblur(da.from_array(stack, chunks=-1), **SETTINGS))
    kernel = gd.deblur(stack[0], **SETTINGS).kernel
    assert kernels.shape == (1, 9, 9)
    assert (info["kernel_height"][0], info["kernel_width"][0]) == kernel.shape
    margin = (9 - len(kernel)) // 2
    assert np.array_equal(np.pad(kernel, margin), kernels[0])


STACK = da.from_array(np.ones((4, 24, 26), np.float32), chunks=(2, 24, 26))


@pytest.mark.parametrize(
    ("stack", "arguments", "text"),
    [
        (np.ones((4, 24, 26)), {}, "stack must be a dask array, got ndarray; use dask.array.from_array"),
        (STACK.rechunk((2, 12, 13)), {}, r"must not split a picture.*use stack.rechunk\(\(2, -1, -1\)\)"),
        (STACK.astype(object), {}, "object"),
        (STACK[0], {}, r"stack must be \(n, H, W\)"),
        (STACK, {"channel_axis": -1}, r"stack must be \(n, H, W, C\)"),
        (STACK[..., None], {"channel_axis": 0}, "channel_axis must be an axis of a picture, got 0"),
        (STACK[STACK[:, 0, 0] > 0], {}, r"use stack.compute_chunk_sizes\(\)"),
        (STACK[:0], {}, "stack must not be empty"),
        (STACK, {"kernel_size": 4}, "kernel_size must be odd"),
        (STACK, {"kernel_size": 27}, "kernel_size must"),
        (STACK, {"final": "sharp"}, "final must be one of"),
        (STACK, {"device": "tpu"}, "device must be one of"),
    ],
)
def test_what_is_wrong_is_said_at_once(stack: Any, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        gd.dask.deblur(stack, **{"kernel_size": 5} | arguments)


def difference(result: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.mean((result - reference) ** 2)))


@pytest.mark.parametrize("axis", [None, -1])
def test_deconvolve_in_chunks_is_deconvolve_in_tiles(axis: int | None) -> None:
    """Also of a picture with a saturated light, whose level is that of the whole."""
    image = np.minimum(photograph(136, 140), 0.7) / 0.7
    image[20:40, 30:50] = 1
    if axis is not None:
        image = np.stack([image, image / 2], axis=-1)
    chunks = (68, 70) if axis is None else (68, 70, 1)
    lazy = gd.dask.deconvolve(da.from_array(image, chunks=chunks), MOTION, channel_axis=axis)
    tiles = gd.deconvolve(image, MOTION, tile=70, channel_axis=axis, defects=None)
    assert lazy.shape == image.shape
    assert lazy.dtype == image.dtype
    assert difference(lazy.compute(), tiles) < 1e-3


def test_deconvolve_with_a_field_and_given_weight() -> None:
    image = photograph(136, 140)
    field = gd.KernelField(np.stack([[MOTION, MOTION]] * 2) + 0.0, shape=image.shape)
    result = gd.dask.deconvolve(da.from_array(image, chunks=(68, 70)), field, weight=1e-3, iterations=2)
    tiles = gd.deconvolve(image, field, tile=70, weight=1e-3, iterations=2, defects=None)
    assert difference(result.compute(), tiles) < 1e-3


def test_levels_are_those_of_the_whole_picture() -> None:
    """A dark chunk is not read as an image in another unit, and 12 bits of 16 are, with one warning."""
    image = (photograph(136, 140).clip(0, 1) * 4095).astype(np.uint16)
    image[:68, :70] //= 64
    image[100:103, 100:103] = 4095
    with pytest.warns(UserWarning, match="as if full scale were 4095") as warnings:
        result = gd.dask.deconvolve(da.from_array(image, chunks=(68, 70)), MOTION).compute()
    assert len(warnings) == 1
    with pytest.warns(UserWarning, match="as if full scale were 4095"):
        tiles = gd.deconvolve(image, MOTION, tile=70, defects=None)
    assert difference(result / 4095, tiles / 4095) < 1e-3


@pytest.mark.parametrize(
    ("image", "arguments", "text"),
    [
        (np.ones((20, 20)), {}, "image must be a dask array"),
        (da.ones((2, 20, 20)), {}, r"image must be \(H, W\)"),
        (da.ones((20, 20)), {"kernel": np.ones((21, 21))}, "kernel must not exceed the picture"),
        (da.ones((20, 20)), {"kernel": np.ones((2, 3, 3))}, "kernel must be one kernel"),
        (da.ones((20, 20)), {"method": "wiener"}, "method with tile must be one of"),
        (da.ones((20, 20)), {"depth": 3}, "depth must be at least 5"),
        (da.ones((20, 20)), {"weight": -1.0}, "weight must"),
    ],
)
def test_deconvolve_refuses(image: Any, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        gd.dask.deconvolve(image, **{"kernel": MOTION} | arguments)


def test_deconvolve_names_pixels_that_are_not_finite() -> None:
    image = photograph(40, 42)
    image[3, 4] = np.nan
    lazy = gd.dask.deconvolve(da.from_array(image, chunks=-1), MOTION)
    with pytest.raises(ValueError, match="image must be finite, got nan"):
        lazy.compute()


def test_xarray_keeps_names_and_coordinates() -> None:
    xarray = pytest.importorskip("xarray")
    stack = pictures(2, 3, 24, 26)
    coords = {"time": [10, 20], "band": ["b", "g", "r"], "y": np.arange(24) / 2}
    array = xarray.DataArray(stack, coords, ("time", "band", "y", "x"), name="scene", attrs={"unit": "1"})
    _ = gd.dask  # registers the accessor
    result = array.deblur.blind(5, channel="band", **SETTINGS)
    assert result["scene"].dims == array.dims
    assert result["scene"].attrs == array.attrs
    assert result["kernel"].dims == ("time", "kernel_y", "kernel_x")
    assert result["confidence"].dims == ("time",)
    for name in coords:
        assert result[name].equals(array[name])
    alone = gd.deblur(stack[0], 5, channel_axis=0, **SETTINGS)
    assert np.array_equal(result["scene"][0], alone.image)

    lazy = array[0].chunk(y=12)
    sharp = lazy.deblur.deconvolve(MOTION, channel="band")
    assert sharp.chunks is not None
    assert (sharp.name, sharp.dims, sharp.attrs) == ("scene", ("band", "y", "x"), {"unit": "1"})
    assert sharp.coords.equals(lazy.coords)
    assert array[0].deblur.blind(5, channel="band", **SETTINGS)["scene"].dims == ("band", "y", "x")
    with pytest.raises(ValueError, match="channel must be one of the dimensions"):
        array.deblur.blind(5, channel="color")
