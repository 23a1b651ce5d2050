"""Laws of the padding: the image is kept, the grid is periodic, the margin harmonic, and results ring less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from scipy.ndimage import laplace
from skimage import data

from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.boundary import MODES, crop, pad, pad_crossfade, pad_liu_jia
from gpudeblur.numerics.fourier import fast_size, irfft2, psf_to_otf, rfft2
from gpudeblur.synthesis import blur, linear_kernel

# (picture, margin): odd and even, no margin at all, a margin wider than the picture, one-pixel sides.
SHAPES = [(37, 31), (40, 32), (32, 40), (5, 64), (1, 9), (9, 1)]
CASES = list(zip(SHAPES, [(4, 6), (8, 8), (0, 0), (12, 12), (4, 4), (4, 2)], strict=True))
in_every_case = pytest.mark.parametrize(("shape", "margin"), CASES)


def scene(shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
    """Smooth, but with opposite borders that do not meet."""
    y, x = np.indices(shape[-2:])
    base = 0.2 + 0.6 * y / shape[-2] + 0.1 * np.sin(x / 5 + 1) + 0.15 * x / shape[-1]
    return (base + 0.01 * np.random.default_rng(0).normal(size=shape)).astype(dtype)


@in_every_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_picture_is_kept_and_no_value_leaves_its_range(
    xp: Any, shape: tuple[int, int], margin: tuple[int, int], dtype: str
) -> None:
    """The maximum principle: values stay within those of the borders, and a constant is constant."""
    u = xp.asarray(scene((2, *shape), dtype))
    before, wide = u.copy(), pad_liu_jia(u, margin)
    assert wide.dtype == dtype
    assert wide.shape == (2, *(fast_size(side + extra) for side, extra in zip(shape, margin, strict=True)))
    assert_same(crop(wide, shape), u)
    if dtype == "float64":
        assert float(u.min()) - 1e-12 <= float(wide.min()) <= float(wide.max()) <= float(u.max()) + 1e-12
        assert_close(pad_liu_jia(xp.full(shape, 0.3), margin), np.full((), 0.3), rtol=1e-13)
    wide[...] = 7
    assert_same(u, before)  # no part of it is the picture's own memory


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ramp_comes_back_in_equal_steps(xp: Any, axis: int) -> None:
    """A margin on one side only: the other side, 24, is fast as it is."""
    u = np.moveaxis(np.broadcast_to(np.linspace(0.2, 0.8, 37), (24, 37)), 1, axis)
    wide = np.moveaxis(to_host(pad_liu_jia(xp.asarray(u), (0, 10) if axis else (10, 0))), axis, 0)
    steps = np.diff(np.concatenate([wide[36:], wide[:1]]), axis=0)
    assert steps.shape == (12, 24)
    assert_close(steps, np.full(steps.shape, -0.05), rtol=1e-9)


@pytest.mark.parametrize("shape", [(37, 31), (40, 32)])
def test_nothing_jumps_where_the_grid_closes(xp: Any, shape: tuple[int, int]) -> None:
    """Borders that differ by 0.6 and 0.3: no difference in the margin or at any of its seams comes near that."""
    y, x = np.indices(shape)
    wide = to_host(pad_liu_jia(xp.asarray(0.6 * y / (shape[0] - 1) + 0.3 * x / (shape[1] - 1)), (10, 10)))
    down, right = (np.abs(np.roll(wide, -1, axis) - wide) for axis in (0, 1))
    assert down.max() < 0.6 / 6
    assert right.max() < 0.3 / 4


@pytest.mark.parametrize("shape", [(37, 31), (40, 32)])
def test_the_margins_are_harmonic(xp: Any, shape: tuple[int, int]) -> None:
    """The right one is made first, beside the picture alone, even about the picture's first and last row."""
    wide = to_host(pad_liu_jia(xp.asarray(scene(shape)), (9, 13)))
    assert np.abs(laplace(wide, mode="wrap")[shape[0] :]).max() < 1e-12
    assert np.abs(laplace(wide, mode="wrap")[: shape[0], : shape[1]]).max() > 1e-2
    mirrored = np.pad(wide[: shape[0]], ((1, 1), (0, 0)), mode="symmetric")
    assert np.abs(laplace(mirrored, mode="wrap")[1:-1, shape[1] :]).max() < 1e-12


@pytest.mark.parametrize("axis", [0, 1])
def test_mirroring_the_picture_mirrors_the_margin(xp: Any, axis: int) -> None:
    """No direction is preferred: the padding of the mirrored image is the mirrored padding."""
    shape, u = (36, 30), scene((36, 30))
    wide, mirrored = (to_host(pad_liu_jia(xp.asarray(np.ascontiguousarray(a)), (8, 8))) for a in (u, np.flip(u, axis)))
    expected = np.roll(np.flip(wide, axis), shape[axis], axis)
    np.testing.assert_allclose(mirrored, expected, atol=1e-13)


def test_deconvolution_rings_less_than_with_zeros(xp: Any) -> None:
    """A Wiener filter on a cropped picture: the error near the borders falls to a fraction, inside too."""
    kernel = linear_kernel(9, 30, 11)
    true = data.camera()[150:280, 150:280].astype(float) / 255
    blurred = blur(true, kernel)
    true = true[5:-5, 5:-5]

    def restored(wide: Any) -> np.ndarray:
        otf = psf_to_otf(xp.asarray(kernel), wide.shape)
        spectrum = otf.conj() * rfft2(wide) / (abs(otf) ** 2 + 1e-3)
        return to_host(crop(irfft2(spectrum, wide.shape) / wide.size, blurred.shape))

    smooth = pad_liu_jia(xp.asarray(blurred), (10, 10))
    zeros = xp.zeros_like(smooth)
    zeros[: blurred.shape[0], : blurred.shape[1]] = xp.asarray(blurred)
    border = np.ones(true.shape, dtype=bool)
    border[12:-12, 12:-12] = False
    error, error_zeros = ((restored(wide) - true) ** 2 for wide in (smooth, zeros))
    assert error[border].mean() < 0.1 * error_zeros[border].mean()
    assert error[~border].mean() < 0.5 * error_zeros[~border].mean()


# ---- the named modes


KERNEL = linear_kernel(9, 30, 11)
in_every_mode = pytest.mark.parametrize("mode", MODES)


@in_every_mode
@pytest.mark.parametrize("shape", [(37, 31), (40, 32), (5, 64), (9, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_grid_holds_the_picture_and_is_fast(xp: Any, mode: str, shape: tuple[int, int], dtype: str) -> None:
    kernel = KERNEL[3:8, 4:7] if min(shape) < 11 else KERNEL
    u = xp.asarray(scene((2, *shape), dtype))
    wide = pad(u, xp.asarray((kernel / kernel.sum()).astype(dtype)), mode)
    assert wide.dtype == dtype
    if mode == "wrap":
        assert_same(wide, u)
    else:
        assert wide.shape[-2:] == tuple(map(fast_size, wide.shape[-2:]))
    if mode != "taper":
        assert_same(crop(wide, shape), u)


@in_every_mode
def test_a_constant_picture_stays_constant_in_every_mode(xp: Any, mode: str) -> None:
    assert_close(pad(xp.full((20, 26), 0.3), xp.asarray(KERNEL), mode), np.full((), 0.3), rtol=1e-12)


@in_every_mode
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_a_batch_equals_a_loop_whatever_its_neighbours_hold(xp: Any, mode: str, dtype: str, tolerance: float) -> None:
    stack = scene((2, 2, 21, 24), dtype)
    stack[0, 1], stack[1, 0] = np.nan, 0
    kernels = np.stack([KERNEL, KERNEL.T, KERNEL[::-1], KERNEL[:, ::-1]]).reshape(2, 2, 11, 11).astype(dtype)
    out = to_host(pad(xp.asarray(stack), xp.asarray(kernels), mode))
    for i in np.ndindex(2, 2):
        alone = pad(xp.asarray(stack[i]), xp.asarray(kernels[i]), mode)
        assert_close(out[i], alone, rtol=0 if xp is np else tolerance, atol=0 if xp is np else tolerance / 1e4)
    assert np.isnan(out[0, 1]).all()
    assert not out[1, 0].any()


@pytest.mark.parametrize(("mode", "numpy_name"), [("reflect", "symmetric"), ("edge", "edge")])
@pytest.mark.parametrize("shape", [(30, 40), (7, 40), (1, 40)])
def test_beside_the_picture_is_what_numpy_pads(xp: Any, mode: str, numpy_name: Any, shape: tuple[int, int]) -> None:
    """Fading over to what leads to the other side: the margin is between the two, and next to the picture it is one."""
    u = scene(shape)[:, :1] * np.linspace(0.2, 1, 40)
    wide = to_host(pad(xp.asarray(u), xp.asarray(KERNEL), mode))[: shape[0]]
    count = int(wide.shape[1]) - 40
    padded = np.pad(u, ((0, 0), (count, count)), mode=numpy_name)
    after, before, margin = padded[:, -count:], padded[:, :count], wide[:, 40:]
    assert (margin >= np.minimum(after, before) - 1e-12).all()
    assert (margin <= np.maximum(after, before) + 1e-12).all()
    span = np.abs(after - before).max()
    assert np.abs(margin - after)[:, :2].max() < 0.05 * span < 0.5 * np.abs(margin - after)[:, -2:].max()
    assert np.abs(margin - before)[:, -2:].max() < 0.05 * span


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize("shape", [(9,), (7, 12), (1, 5), (5, 4, 6)])
def test_what_is_around_a_picture_stays_within_its_range(xp: Any, mode: str, shape: tuple[int, ...]) -> None:
    u = np.random.default_rng(0).random((2, *shape))
    out = to_host(pad_crossfade(xp.asarray(u), (4,) * len(shape), mode))
    assert_same(out[:, *map(slice, shape)], u)
    assert all(a >= b + 4 for a, b in zip(out.shape[1:], shape, strict=True))
    assert u.min() - 1e-12 <= out.min() <= out.max() <= u.max() + 1e-12


def test_an_extended_constant_is_constant_and_a_ramp_does_not_jump(xp: Any) -> None:
    out = pad_crossfade(xp.full((3, 6, 7), 2.5), (5, 5), "reflect")
    assert_close(out, np.full((), 2.5))
    ramp = np.linspace(0, 1, 50)
    for mode in ("reflect", "edge"):
        out = to_host(pad_crossfade(xp.asarray(ramp), (30,), mode))
        assert np.abs(np.diff(np.append(out, out[0]))).max() < 0.12


def test_tapering_fades_into_the_blur_at_the_seam_only(xp: Any) -> None:
    u = scene((50, 60))
    wide = to_host(pad(xp.asarray(u), xp.asarray(KERNEL), "taper"))
    assert wide.shape == (50, 60)
    assert_close(wide[11:-11, 11:-11], u[11:-11, 11:-11], rtol=1e-12)
    assert np.abs(wide[0] - wide[-1]).mean() < 0.3 * np.abs(u[0] - u[-1]).mean()


def test_the_unknown_starts_from_the_smooth_margin(xp: Any) -> None:
    u, kernel = xp.asarray(scene((20, 26))), xp.asarray(KERNEL)
    assert_same(pad(u, kernel, "unknown"), pad_liu_jia(u, (10, 10)))
    assert_same(pad(u, kernel), pad_liu_jia(u, (10, 10)))


def test_a_mode_that_does_not_exist(xp: Any) -> None:
    with pytest.raises(ValueError, match=r"boundary must be one of 'unknown', 'liu-jia', .*, got 'zero'"):
        pad(xp.ones((9, 9)), xp.ones((3, 3)), "zero")
