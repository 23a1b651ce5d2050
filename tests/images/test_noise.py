"""The noise is measured as it was made, and only a noisy picture is divided by it."""

import re
from typing import Any

import numpy as np
import pytest
from laws import assert_close, assert_same
from skimage import data

import gpudeblur as gd
from gpudeblur.images.noise import REFERENCE_SIGMA, divide_by_noise, noise_scale, noise_sigma, noise_sigma_under
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, linear_kernel, trajectory_kernel

KERNELS = {"shake": trajectory_kernel(15, rng=2), "line": linear_kernel(9, 30, 11), "box": np.ones((3, 3)) / 9}


def constant() -> np.ndarray:
    return np.full((256, 256), 0.4)


def blurred(name: str) -> np.ndarray:
    sharp = getattr(data, name)()[:270, :270] / 255
    return blur(sharp, trajectory_kernel(15, rng=2))


def noisy(picture: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    return picture + sigma * np.random.default_rng(seed).standard_normal(picture.shape)


@pytest.mark.parametrize(("sigma", "dtype"), [(0.005, "float32"), (0.02, "float64"), (0.1, "float32")])
def test_white_noise_is_measured_on_a_constant(xp: Any, sigma: float, dtype: str) -> None:
    result = noise_sigma(xp.asarray(noisy(constant(), sigma).astype(dtype)))
    assert result.shape == ()
    assert result.dtype == dtype
    assert float(result) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("sigma", [0.01, 0.03])
@pytest.mark.parametrize("name", ["camera", "moon", "brick"])
def test_white_noise_is_measured_on_a_blurred_photograph(xp: Any, name: str, sigma: float) -> None:
    picture = blurred(name)
    assert float(noise_sigma(xp.asarray(picture))) < REFERENCE_SIGMA / 5
    assert float(noise_sigma(xp.asarray(noisy(picture, sigma)))) == pytest.approx(sigma, rel=0.05)


def test_neither_brightness_nor_slopes_are_noise_and_the_unit_is_the_pictures(xp: Any) -> None:
    y, x = np.mgrid[:64, :70] / 64
    picture = noisy(np.zeros((64, 70)), 0.01)
    alone = float(noise_sigma(xp.asarray(picture)))
    assert float(noise_sigma(xp.asarray(picture + 3 + 2 * x - 5 * y))) == pytest.approx(alone, rel=1e-9)
    assert float(noise_sigma(xp.asarray(8 * picture))) == 8 * alone


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (2, 7), (5, 7)])
def test_pictures_of_a_few_pixels(xp: Any, shape: tuple[int, int]) -> None:
    picture = xp.asarray(noisy(np.zeros(shape), 1.0))
    assert (float(noise_sigma(picture)) > 0) == (min(shape) > 1)
    assert xp.isfinite(divide_by_noise(picture, noise_scale(picture))).all()
    assert xp.isfinite(noise_sigma_under(picture, xp.asarray(KERNELS["box"])))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_quiet_picture_is_left_as_it_is(xp: Any, dtype: str) -> None:
    for picture in (constant(), blurred("camera"), noisy(blurred("camera"), 0.9 * REFERENCE_SIGMA)):
        given = xp.asarray(picture.astype(dtype))
        result = divide_by_noise(given, noise_scale(given))
        assert result.dtype == dtype
        assert to_host(result).tobytes() == to_host(given).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_noisy_picture_is_divided(xp: Any, dtype: str) -> None:
    """By so much that its noise is at the bound."""
    given = xp.asarray(noisy(blurred("camera"), 0.05).astype(dtype))
    result = divide_by_noise(given, noise_scale(given))
    assert result.dtype == dtype
    ratio = to_host(given) / to_host(result)
    assert ratio.mean() == pytest.approx(0.05 / REFERENCE_SIGMA, rel=0.05)
    assert np.ptp(ratio) < 1e-5
    assert float(noise_sigma(result)) == pytest.approx(REFERENCE_SIGMA, rel=1e-5)


def test_a_batch_is_a_loop(xp: Any) -> None:
    pictures = [noisy(blurred("camera"), sigma, seed) for seed, sigma in enumerate((0.0, 0.01, 0.05))]
    pictures += [constant(), np.full((256, 256), np.nan)]
    stack = xp.asarray(np.stack(pictures).astype(np.float32)).reshape(5, 1, 256, 256)
    for law in (noise_sigma, lambda picture: divide_by_noise(picture, noise_scale(picture))):
        together = law(stack)
        assert together.shape[:2] == (5, 1)
        for i in range(5):
            assert_same(xp.asarray(together[i, 0]), xp.asarray(law(stack[i, 0])))


# ---- with the kernel known


@pytest.mark.parametrize(
    ("name", "kernel", "sigma", "dtype"),
    [
        ("camera", "shake", 0.0025, "float32"), ("camera", "line", 0.01, "float64"), ("camera", "box", 0.05, "float32"),
        ("brick", "line", 0.0025, "float64"), ("brick", "box", 0.01, "float32"), ("brick", "shake", 0.05, "float64"),
        ("astronaut", "box", 0.0025, "float64"), ("astronaut", "shake", 0.01, "float32"),
        ("astronaut", "line", 0.05, "float64"),
    ],
)  # fmt: skip
def test_noise_under_a_known_kernel(xp: Any, name: str, kernel: str, sigma: float, dtype: str) -> None:
    """However fine the texture: where the kernel leaves nothing, only noise is."""
    sharp = getattr(data, name)()[:270, :270] / 255
    sharp = sharp if sharp.ndim == 2 else sharp[..., 1]
    k = KERNELS[kernel]
    picture = noisy(blur(sharp, k), sigma).astype(dtype)
    result = noise_sigma_under(xp.asarray(picture), xp.asarray(k.astype(dtype)))
    assert result.shape == ()
    assert result.dtype == dtype
    assert float(result) == pytest.approx(sigma, rel=0.12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_noise_next_to_none_is_found(xp: Any, kernel: str) -> None:
    """Less than 8 bits round off; of a sharp picture's texture, `noise_sigma` takes more for noise."""
    picture = xp.asarray(blur(data.brick()[:270, :270] / 255, KERNELS[kernel]))
    assert float(noise_sigma_under(picture, xp.asarray(KERNELS[kernel]))) < 1 / 255 / 12**0.5


def test_noise_under_kernels_a_batch_is_a_loop(xp: Any) -> None:
    stack = np.stack([noisy(blurred("camera"), sigma) for sigma in (0.01, 0.03, 0.0, 0.0)])
    stack[2, 5, 5], stack[3] = np.nan, 0
    kernels = np.stack([KERNELS["shake"], KERNELS["shake"].T, KERNELS["shake"][::-1], KERNELS["shake"]])
    for given in (kernels, kernels[:1]):
        out = to_host(noise_sigma_under(xp.asarray(stack), xp.asarray(given)))
        assert np.isnan(out[2])
        assert out[3] == 0
        for i in (0, 1):
            k = given[i if len(given) > 1 else 0]
            alone = noise_sigma_under(xp.asarray(stack[i]), xp.asarray(k))
            assert float(out[i]) == pytest.approx(float(alone), rel=1e-12)


# ---- for users


def test_estimate_noise_of_every_kind_of_picture(xp: Any) -> None:
    k = KERNELS["shake"]
    gray = noisy(blurred("camera"), 0.02)
    assert gd.estimate_noise(xp.asarray(gray)) == pytest.approx(0.02, rel=0.05)
    assert gd.estimate_noise(xp.asarray(gray), xp.asarray(7 * k)) == pytest.approx(0.02, rel=0.05)
    bytes_ = np.round(gray.clip(0, 1) * 255).astype(np.uint8)
    assert gd.estimate_noise(xp.asarray(bytes_), xp.asarray(k)) == pytest.approx(0.02, rel=0.1)
    colour = np.stack([gray, noisy(blurred("camera"), 0.05), blurred("camera")], axis=-1)
    for given in (None, xp.asarray(k)):
        result = gd.estimate_noise(xp.asarray(colour), given, channel_axis=-1)
        assert isinstance(result, np.ndarray)
        assert_close(result[:2], np.array([0.02, 0.05]), rtol=0.06)
        assert result[2] < 0.002
    stack = gd.estimate_noise(xp.asarray(np.stack([gray, gray + 1])), xp.asarray(k))
    assert stack[0] == pytest.approx(stack[1], rel=1e-9)


# ---- with a mask


def holes(shape: tuple[int, int]) -> np.ndarray:
    """A tenth is not valid."""
    mask = np.ones(shape, bool)
    mask[40:100, 60:120] = mask[:, 30] = False
    return mask


@pytest.mark.parametrize("kernel", [None, KERNELS["shake"]])
@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_masked_pixels_have_no_vote(xp: Any, sigma: float, kernel: Any) -> None:
    picture = noisy(blurred("camera"), sigma)
    mask = holes(picture.shape)
    arrays = () if kernel is None else (xp.asarray(kernel),)
    complete = gd.estimate_noise(xp.asarray(picture), *arrays)
    results = [
        gd.estimate_noise(xp.asarray(np.where(mask, picture, value)), *arrays, mask=xp.asarray(mask))
        for value in (np.nan, 0, -1e30)
    ]
    results.append(gd.estimate_noise(xp.asarray(np.where(mask, picture, np.nan)), *arrays, mask="nan"))
    assert results[0] == pytest.approx(complete, rel=0.1)
    assert results[1:] == results[:1] * 3
    assert type(results[0]) is float
    assert gd.estimate_noise(xp.asarray(picture), *arrays, mask=xp.asarray(mask | True)) == complete
    if xp is np:
        masked: Any = np.ma.MaskedArray(np.where(mask, picture, np.inf), mask=~mask)
        assert gd.estimate_noise(masked, *arrays) == results[0]


@pytest.mark.parametrize("kernel", [None, KERNELS["box"]])
def test_masks_of_stacks_and_channels(xp: Any, kernel: Any) -> None:
    stack = np.round(255 * np.stack([noisy(blurred("camera"), s, i).clip(0, 1) for i, s in enumerate((0.02, 0.05))]))
    mask, arrays = holes(stack.shape[-2:]), () if kernel is None else (xp.asarray(kernel),)
    spoiled = np.where(mask, stack, 255).astype(np.uint8)
    alone = [gd.estimate_noise(xp.asarray(image), *arrays, mask=xp.asarray(mask)) for image in spoiled]
    np.testing.assert_allclose(gd.estimate_noise(xp.asarray(spoiled), *arrays, mask=xp.asarray(mask)), alone)
    each = xp.asarray(np.stack([mask, mask | True]))
    np.testing.assert_allclose(gd.estimate_noise(xp.asarray(spoiled), *arrays, mask=each)[0], alone[0])
    color = xp.asarray(np.moveaxis(spoiled, 0, -1))
    result = gd.estimate_noise(color, *arrays, channel_axis=-1, mask=xp.asarray(mask))
    np.testing.assert_allclose(result, alone)


PLAIN = np.random.default_rng(0).random((20, 24))
SPOILED = PLAIN.copy()
SPOILED[3, 4] = np.nan
GOOD = np.ones(PLAIN.shape, bool)
CHECKERS = np.indices(GOOD.shape).sum(axis=0) % 2 == 0


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (SPOILED, {}, ValueError, "image must be finite, got nan at index (3, 4) (1 bad pixel); mask='nan' leaves such "
         "pixels out"),
        (SPOILED, {"mask": GOOD}, ValueError, "image must be finite, got nan at index (3, 4) (1 bad pixel); mask & "
         "isfinite(image) leaves such pixels out"),
        (PLAIN, {"mask": "inf"}, ValueError, "mask must be a bool array, 'nan' or None, got 'inf'"),
        (PLAIN, {"mask": GOOD[1:]}, ValueError, "mask must be like image, shape (20, 24), got shape (19, 24)"),
        (PLAIN, {"mask": GOOD * 1.0}, TypeError, "mask must have dtype bool, True where image is valid, got float64"),
        (PLAIN, {"mask": ~GOOD}, ValueError, "mask must be True at some pixel of each image, got none; True is valid"),
        (PLAIN, {"mask": CHECKERS}, ValueError, "mask must have 2 x 2 valid pixels side by side to measure the noise "
         "without a kernel, got none; give the kernel, or take a part with more valid pixels"),
        (np.stack([PLAIN, PLAIN]), {"mask": np.stack([GOOD, CHECKERS])}, ValueError, "mask must have 2 x 2 valid "
         "pixels side by side to measure the noise without a kernel, got none in 1 of 2 planes"),
        (PLAIN, {"mask": CHECKERS, "kernel": np.ones((19, 23))}, ValueError, "mask must have at least as many valid "
         "pixels as the kernel, 19 x 23 = 437, got 240; crop the kernel's empty border"),
        (np.ma.masked_invalid(SPOILED), {"mask": GOOD}, ValueError, "mask must be left out for a masked array"),
    ],
)  # fmt: skip
def test_masks_that_estimate_noise_refuses(
    image: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        gd.estimate_noise(image, **options)


def test_a_row_of_pixels_has_no_noise_with_a_mask_either() -> None:
    assert gd.estimate_noise(PLAIN[:1], mask=GOOD[:1]) == 0
    assert gd.estimate_noise(PLAIN[:1], mask=CHECKERS[:1]) == 0
