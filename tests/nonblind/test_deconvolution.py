"""`deconvolve`: dtypes and axes are preserved, each option reaches the method, and the defaults are good.

Laws of the single methods are in test_nonblind.py; here three of them stand for all, where one suffices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

import gpudeblur as gd
from gpudeblur.metrics import psnr
from gpudeblur.nonblind.specs import METHOD_SPECS
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, trajectory_kernel

KERNEL = trajectory_kernel(9, rng=3)
SCENE = data.camera()[100:180, 190:286] / 255
TRUE = SCENE[4:-4, 4:-4]
DTYPES = ["uint8", "int16", "float16", "float64", ">f4", ">u2"]
METHOD_NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "epll" else name for name in sorted(METHOD_SPECS)]
in_every_method = pytest.mark.parametrize("method", METHOD_NAMES)
# A splitting method, one without a boundary, one without a weight, one in closed form.
in_some_methods = pytest.mark.parametrize("method", ["tv", "sparse", "richardson-lucy", "wiener"])


def photo(noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """`TRUE`, 72 x 88, blurred with `KERNEL`: the blur reaches in from the scene outside."""
    return blur(SCENE, KERNEL, noise_sigma=noise, rng=seed)


# ---- kernels


@in_some_methods
@pytest.mark.parametrize("size", [(4, 5), (2, 2)])
def test_an_even_kernel_is_the_odd_one_that_it_is_padded_to(xp: Any, method: str, size: tuple[int, int]) -> None:
    """By zeros at the end: the origin is the same pixel (kh // 2, kw // 2)."""
    even = np.random.default_rng(0).random(size)
    odd = np.pad(even, [(0, 1 - side % 2) for side in size])
    arrays = (xp.asarray(photo()), xp.asarray(even)), (xp.asarray(photo()), xp.asarray(odd))
    assert_same(*(gd.deconvolve(*args, method=method) for args in arrays))


def test_the_scale_of_a_kernel_does_not_matter(xp: Any) -> None:
    u = xp.asarray(photo())
    assert_close(gd.deconvolve(u, xp.asarray(255 * KERNEL)), gd.deconvolve(u, xp.asarray(KERNEL)), atol=1e-5)
    box = np.ones((3, 3))
    assert_same(gd.deconvolve(u, xp.asarray(box.astype("uint8"))), gd.deconvolve(u, xp.asarray(box)))


@in_some_methods
def test_a_kernel_may_exceed_the_picture_along_one_axis(xp: Any, method: str) -> None:
    """A strip of nine rows under a blur of eleven; the picture on its side is no other.

    With 1 % noise: without any, "wiener" hardly gains, as so much was not seen.
    """
    kernel = np.outer(np.hanning(13)[1:-1], [0.2, 0.6, 0.2])
    kernel /= kernel.sum()
    strip = blur(SCENE[20:39], kernel, noise_sigma=0.01, rng=0)
    assert strip.shape[0] == 9 < kernel.shape[0]
    for boundary in set(METHOD_SPECS[method].boundaries) - {"wrap"}:
        options: dict[str, Any] = {"method": method, "boundary": boundary}
        out = to_host(gd.deconvolve(xp.asarray(strip), xp.asarray(kernel), **options))
        turned = gd.deconvolve(xp.asarray(strip.T.copy()), xp.asarray(kernel.T.copy()), **options)
        assert out.shape == to_host(turned).T.shape == strip.shape
        assert np.isfinite(out).all()
        if boundary == "unknown":
            true = SCENE[25:34, 1:-1]
            assert psnr(out[3:-3], true[3:-3]) > psnr(strip[3:-3], true[3:-3])


# ---- what goes in, and what comes back


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("color", [False, True])
def test_the_dtype_the_shape_and_the_scale_come_back(xp: Any, dtype: str, color: bool) -> None:
    u, axis = photo()[:36, :40], -1 if color else None
    if color:
        u = np.stack([u, u**2, u[::-1]], axis=-1)
    if xp is not np and dtype[0] == ">":
        pytest.skip("CuPy has native arrays only")
    kind = np.dtype(dtype)
    top = np.iinfo(kind).max if kind.kind in "iu" else 1
    given = np.clip(np.round(u * top) if top > 1 else u, 0, top).astype(kind)
    out = gd.deconvolve(xp.asarray(given), xp.asarray(KERNEL), channel_axis=axis)
    assert out.dtype == given.dtype
    assert out.shape == given.shape
    plain = gd.deconvolve(xp.asarray(given / top), xp.asarray(KERNEL), channel_axis=axis, dtype="float64")
    step = 1 / top if top > 1 else float(np.finfo(kind).eps)
    least = np.iinfo(kind).min / top if top > 1 else -np.inf
    assert_close(to_host(out) / top, np.clip(to_host(plain), least, top > 1 or np.inf), atol=step + 1e-4)


@in_some_methods
def test_read_only_and_strided_arrays_are_read_and_left_alone(method: str) -> None:
    u = photo()
    expected = gd.deconvolve(u, KERNEL, method=method)
    wide = np.repeat(np.repeat(u, 2, 0), 3, 1)[::2, ::3]
    upside_down = u[::-1].copy()[::-1]
    for given in (wide, upside_down, np.asfortranarray(u)):
        given.flags.writeable = False
        kernel = np.asfortranarray(KERNEL)
        kernel.flags.writeable = False
        assert_same(gd.deconvolve(given, kernel, method=method), expected)
        assert_same(given, photo())


@in_some_methods
def test_colours_are_their_channels_wherever_the_axis_is(xp: Any, method: str) -> None:
    u = photo()[:28, :30]
    planes, kernel = np.stack([u, u**2, u[::-1]]), xp.asarray(KERNEL)
    single = np.stack([to_host(gd.deconvolve(xp.asarray(plane), kernel, method=method)) for plane in planes])
    for axis in (0, 1, -1):
        image = xp.asarray(np.ascontiguousarray(np.moveaxis(planes, 0, axis)))
        out = to_host(gd.deconvolve(image, kernel, method=method, channel_axis=axis))
        assert_close(np.moveaxis(out, axis, 0), single, atol=0 if xp is np else 1e-3)


@in_some_methods
@pytest.mark.parametrize("name", ["weight", "noise_sigma", ""])
@pytest.mark.parametrize("color", [False, True])
def test_a_stack_is_a_loop_of_kernels_and_numbers_too(xp: Any, method: str, name: str, color: bool) -> None:
    """One a picture of each, of pictures whose noise is not the same. Numbers in an array are rounded to float32."""
    if name == "weight" and not METHOD_SPECS[method].weight:
        pytest.skip("it has no weight")
    stack = np.stack([photo(0.01, 1), photo(0.04, 2)])[:, :28, :30].astype("float32")
    if color:
        stack = np.stack([stack, stack**2], axis=-1)
    kernels, numbers = np.stack([KERNEL, KERNEL.T]), np.array([0.004, 0.03])
    axis = -1 if color else None
    more: dict[str, Any] = {name: numbers} if name else {}
    out = to_host(gd.deconvolve(xp.asarray(stack), xp.asarray(kernels), method=method, channel_axis=axis, **more))
    for i in range(2):
        more = {name: float(numbers[i])} if name else {}
        args = xp.asarray(stack[i]), xp.asarray(kernels[i])
        alone = to_host(gd.deconvolve(*args, method=method, channel_axis=axis, **more))
        assert_close(out[i], alone, atol=(1e-4 if name else 0) if xp is np else 1e-3)


# ---- options


# By these factors at least from noise to noise, and 1.05 for the others. The network of "pnp" sees what noise there is:
# with five times as much it smooths no more.
LESS = {"wiener": (1.2, 1.1), "pnp": (1.05, 0.9)}


@in_every_method
def test_more_noise_is_smoother(xp: Any, method: str) -> None:
    args = xp.asarray(photo(0.01)), xp.asarray(KERNEL)
    sharp = [gd.deconvolve(*args, method=method, noise_sigma=sigma) for sigma in (0.002, 0.01, 0.05)]
    roughness, (less, much_less) = [float(abs(xp.diff(x)).mean()) for x in sharp], LESS.get(method, (1.05, 1.05))
    assert roughness[0] > less * roughness[1] > less * much_less * roughness[2]


@in_some_methods
def test_the_noise_is_estimated(xp: Any, method: str) -> None:
    args = xp.asarray(photo(0.02)), xp.asarray(KERNEL)
    estimated, given = (to_host(gd.deconvolve(*args, method=method, noise_sigma=sigma)) for sigma in (None, 0.02))
    assert psnr(estimated, TRUE) == pytest.approx(psnr(given, TRUE), abs=0.5)


@in_every_method
def test_every_boundary_restores(xp: Any, method: str) -> None:
    """In the middle for wrong boundaries; "wrap" restores a periodic image everywhere, the default a photograph."""
    u, kernel, middle = xp.asarray(photo()), xp.asarray(KERNEL), (slice(16, -16), slice(16, -16))
    names = METHOD_SPECS[method].boundaries
    out = {name: to_host(gd.deconvolve(u, kernel, method=method, boundary=name)) for name in names}
    assert len({sharp.tobytes() for sharp in out.values()}) == len(out)
    usual = to_host(gd.deconvolve(u, kernel, method=method))
    assert psnr(usual, TRUE) > psnr(photo(), TRUE) + (1 if method in ("wiener", "richardson-lucy") else 2.5)
    for boundary in {*out} - {"wrap"}:
        assert psnr(out[boundary][middle], TRUE[middle]) > psnr(photo()[middle], TRUE[middle])
    if "wrap" in out:
        periodic = blur(np.pad(TRUE, 4, mode="wrap"), KERNEL, noise_sigma=0.01, rng=0)
        sharp = gd.deconvolve(xp.asarray(periodic), kernel, method=method, boundary="wrap")
        assert psnr(to_host(sharp), TRUE) > psnr(periodic, TRUE) + 1


def test_the_default_is_tv_with_an_unknown_boundary(xp: Any) -> None:
    args = xp.asarray(photo()), xp.asarray(KERNEL)
    assert_same(gd.deconvolve(*args), gd.deconvolve(*args, method="tv", boundary="unknown"))


def test_gamma_is_that_of_the_picture(xp: Any) -> None:
    dark = np.clip(photo(0.001), 0, 1) ** (1 / 2.2)
    args = xp.asarray(dark), xp.asarray(KERNEL)
    linear = gd.deconvolve(xp.asarray(dark**2.2), xp.asarray(KERNEL), dtype="float64")
    sharp = to_host(gd.deconvolve(*args, gamma=2.2, dtype="float64"))
    assert_close(np.copysign(np.abs(sharp) ** 2.2, sharp), linear, atol=1e-9)
    assert psnr(sharp, TRUE ** (1 / 2.2)) > psnr(to_host(gd.deconvolve(*args)), TRUE ** (1 / 2.2)) + 1


# ---- tiles


@pytest.mark.parametrize("method", ["tv", "sparse", "l0", pytest.param("epll", marks=pytest.mark.slow)])
def test_tiles_come_close_to_the_whole(xp: Any, method: str) -> None:
    """Two tiles of 150 pixels, with a given noise, so that the weight is the same for both.

    "l0" is not convex: where there is little to choose between an edge and none, a tile may choose otherwise.
    """
    scene = np.tile(SCENE, (1, 3))[:, :240]
    u = blur(scene, KERNEL, noise_sigma=0.01, rng=0)
    args = xp.asarray(u), xp.asarray(KERNEL)
    options: dict[str, Any] = {"method": method, "noise_sigma": 0.01}
    whole, tiles, auto = (to_host(gd.deconvolve(*args, tile=tile, **options)) for tile in (None, 150, "auto"))
    assert_same(whole, auto)  # it fits
    assert np.abs(tiles - whole).max() > 0
    assert np.sqrt(((tiles - whole) ** 2).mean()) < (4e-3 if method == "l0" else 2e-3)
    assert psnr(tiles, scene[4:-4, 4:-4]) > psnr(whole, scene[4:-4, 4:-4]) - 0.05


@pytest.mark.parametrize("color", [False, True])
def test_tiles_of_colours_and_stacks(xp: Any, color: bool) -> None:
    stack = np.stack([photo(0.01, 1), photo(0.04, 2)])
    image = np.stack([stack, stack**2], axis=-1) if color else stack
    axis = -1 if color else None
    options: dict[str, Any] = {"channel_axis": axis, "weight": [0.001, 0.01]}
    args = xp.asarray(image), xp.asarray(np.stack([KERNEL, KERNEL.T]))
    assert_close(
        gd.deconvolve(*args, tile="auto", **options), gd.deconvolve(*args, **options), atol=1e-6 if xp is np else 1e-3
    )


# ---- progress, devices


@in_some_methods
@pytest.mark.parametrize("tile", [None, 100])
@pytest.mark.parametrize("count", [0, 3])
def test_progress_rises_to_one_in_the_iterations_asked_for(xp: Any, method: str, tile: int | None, count: int) -> None:
    if (tile and not METHOD_SPECS[method].live_arrays) or (count and not METHOD_SPECS[method].iterations):
        pytest.skip("it knows no tiles, or no iterations")
    calls: list[tuple[str, float]] = []
    options: dict[str, Any] = {"iterations": np.int64(count), "noise_sigma": 0} if count else {}
    options |= {"method": method, "tile": tile, "callback": lambda *at: calls.append(at)}
    gd.deconvolve(xp.asarray(photo()), xp.asarray(KERNEL), **options)
    stages, fractions = zip(*calls, strict=True)
    assert {*stages} == {"restoration"}
    assert fractions[0] > 0
    assert list(fractions) == sorted(set(fractions))
    assert fractions[-1] == pytest.approx(1)
    assert not count or len(fractions) == (4 * (3 + 1) + 1 if method == "sparse" else 3)


@in_some_methods
def test_a_callback_that_returns_true_stops_it(xp: Any, method: str) -> None:
    """In the second report; a CUDA graph has one."""
    count = 2 if xp is np else 1
    fractions: list[float] = []

    def callback(stage: str, fraction: float) -> bool:
        fractions.append(fraction)
        return len(fractions) == count

    with pytest.raises(gd.Stopped, match=r"^stopped by the callback in stage 'restoration' at \d+% of the run$"):
        gd.deconvolve(xp.asarray(photo()), xp.asarray(KERNEL), method=method, callback=callback)
    assert len(fractions) == count


@pytest.mark.parametrize("tile", [None, "auto"])
def test_cuda_without_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch, tile: str | None) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)  # as if it were not installed
    with pytest.raises(RuntimeError, match=r"^device='cuda' needs CuPy, .*; use device=\"cpu\", or install"):
        gd.deconvolve(photo(), KERNEL, tile=tile, device="cuda")
    assert_same(gd.deconvolve(photo(), KERNEL, device="auto"), gd.deconvolve(photo(), KERNEL))


@pytest.mark.gpu
@in_every_method
@pytest.mark.parametrize("tile", [None, "auto"])
def test_a_gpu_gives_numpy_arrays_back(cupy: Any, method: str, tile: str | None) -> None:
    stack, tile = np.stack([photo(0.01, 1), photo(0.04, 2)]), tile if METHOD_SPECS[method].live_arrays else None
    more: dict[str, Any] = {"method": method, "noise_sigma": np.array([0.01, 0.04]), "tile": tile}
    out = gd.deconvolve(stack, KERNEL, device="cuda", **more)
    assert isinstance(out, np.ndarray)
    assert_close(out, gd.deconvolve(stack, KERNEL, **more), atol=5e-3)
    back = gd.deconvolve(cupy.asarray(stack), cupy.asarray(KERNEL), device="cpu", **more)
    assert isinstance(back, cupy.ndarray)
