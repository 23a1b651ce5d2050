"""Laws of the metrics: identities, whole shifts found exactly, and the fast search against a brute-force one."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.signal import correlate2d

from gpudeblur.metrics import align, error_ratio, kernel_error, kernel_similarity, psnr, scores, ssim
from gpudeblur.synthesis import trajectory_kernel


def picture(shape=(70, 81), seed=0, smooth=1.5):
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smooth)
    return 0.5 + 0.2 * noise / noise.std()


def brute_force(image, reference, max_shift, step, border):
    """Every shifted picture formed, every error summed: (ssd, (dy, dx))."""
    h, w = (n - 2 * border for n in reference.shape)
    padded = np.pad(image, ((0, 1), (0, 1)), mode="edge")
    shifts = np.arange(-max_shift, max_shift + step / 2, step)
    errors = np.empty((shifts.size, shifts.size))
    for i, dy in enumerate(shifts):
        for j, dx in enumerate(shifts):
            y, x = math.floor(dy), math.floor(dx)
            moved = np.zeros((h, w))
            for a, wy in ((0, 1 - (dy - y)), (1, dy - y)):
                for b, wx in ((0, 1 - (dx - x)), (1, dx - x)):
                    y0, x0 = border + y + a, border + x + b
                    moved += wy * wx * padded[y0 : y0 + h, x0 : x0 + w]
            errors[i, j] = np.sum((moved - reference[border : border + h, border : border + w]) ** 2)
    best = np.unravel_index(np.argmin(errors), errors.shape)
    return errors[best], tuple(shifts[[*best]])


def shifted(seed):
    """(picture, reference): off by a fraction, brighter and noisy, so that the minimum is far from 0."""
    reference, rng = picture(seed=seed), np.random.default_rng(100 + seed)
    moved = np.roll(reference, rng.integers(-4, 5, 2), (0, 1))
    moved = 0.7 * moved + 0.3 * np.roll(moved, 1, 1) + 0.05 + 0.05 * rng.standard_normal(reference.shape)
    return moved, reference


UNALIKE = [((41, 33), 5, 0.25, 15), ((31, 64), 3, 0.5, 7), ((40, 37), 2, 1.0, 2), ((20, 21), 0, 0.25, 0)]
ALIGNED = [(*shifted(seed), 5, 0.25, 15) for seed in range(4)]
ALIGNED += [(*(picture(shape, i, 2) for i in (1, 2)), *more) for shape, *more in (*UNALIKE, ((31, 31), 15, 0.5, 15))]


@pytest.mark.parametrize(("image", "reference", "max_shift", "step", "border"), ALIGNED, ids=range(len(ALIGNED)))
def test_align_agrees_with_brute_force(image, reference, max_shift, step, border):
    ssd, shift = brute_force(image, reference, max_shift, step, border)
    result = align(image, reference, max_shift, step, border)
    assert result.ssd == pytest.approx(ssd, rel=1e-9)
    assert result.shift == shift
    assert result.image.shape == result.reference.shape == tuple(side - 2 * border for side in image.shape)
    assert result.ssd == pytest.approx(np.sum((result.image - result.reference) ** 2), rel=1e-12)


@given(st.integers(-5, 5), st.integers(-5, 5))
@settings(deadline=None, max_examples=40)
def test_whole_shifts_are_found_exactly(dy, dx):
    reference = picture()
    result = align(np.roll(reference, (dy, dx), (0, 1)), reference)
    assert result.shift == (dy, dx)
    assert result.ssd == 0
    np.testing.assert_array_equal(result.image, result.reference)


def test_align_is_blind_to_a_common_level_and_keeps_its_digits():
    """A level of 1e4 beside structure of 0.2 would eat eight digits of the quadratic form."""
    image, reference = picture(seed=1), picture(seed=1) + 0.01 * picture(seed=2)
    assert align(image + 1e4, reference + 1e4).ssd == pytest.approx(align(image, reference).ssd, rel=1e-6)


PICTURE = picture()


@pytest.mark.parametrize(
    ("function", "args", "options", "message"),
    [
        (align, (PICTURE, PICTURE[:, 1:]), {}, "image and reference must have one shape, got (70, 81) and (70, 80)"),
        (align, (PICTURE[None],) * 2, {}, "image must be 2-D, got shape (1, 70, 81)"),
        (align, (PICTURE, PICTURE), {"step": 0.3}, "step must be 1/n for an integer n, got 0.3"),
        (align, (PICTURE, PICTURE), {"step": 0}, "step must be 1/n"),
        (align, (PICTURE, PICTURE), {"max_shift": 16}, "max_shift must be from 0 to border = 15, got 16"),
        (align, (PICTURE[:30], PICTURE[:30]), {}, "image must be larger than twice the border"),
        (align, (PICTURE.tolist(), PICTURE), {}, "arrays must be all NumPy or all CuPy"),
        (psnr, (PICTURE[:0], PICTURE[:0]), {}, "image must not be empty"),
        (kernel_similarity, (np.ones(3), np.ones((3, 3))), {}, "k must be a 2-D kernel, got shape (3,)"),
        (kernel_error, (np.zeros((5, 5)), np.ones((3, 3))), {}, "k must not sum to zero"),
    ],
)
def test_what_is_refused(function, args, options, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        function(*args, **options)


# ------------------------------------------------------------------ PSNR, SSIM
def test_psnr():
    reference = picture()
    assert psnr(reference + 0.1, reference) == pytest.approx(20)
    assert psnr(255 * (reference + 0.1), 255 * reference, data_range=255) == pytest.approx(20)
    assert psnr(reference, reference) == math.inf
    # float32 and integers are measured in float64.
    eight = np.round(255 * np.clip(reference, 0, 1)).astype(np.uint8)
    assert psnr(eight, 255 - eight, data_range=255.0) == psnr(eight.astype(float), 255.0 - eight, data_range=255.0)


def test_ssim_laws():
    reference = picture()
    assert ssim(reference, reference) == pytest.approx(1, abs=1e-12)
    noisy = [reference + s * np.random.default_rng(0).standard_normal(reference.shape) for s in (0.02, 0.1)]
    assert 1 > ssim(noisy[0], reference) > ssim(noisy[1], reference)
    assert ssim(noisy[1], reference) == pytest.approx(ssim(reference, noisy[1]), abs=1e-12)
    assert ssim(255 * noisy[1], 255 * reference, data_range=255) == pytest.approx(ssim(noisy[1], reference), abs=1e-12)
    color = np.stack([noisy[0], noisy[1], reference], axis=-1)
    mean = (ssim(noisy[0], reference) + ssim(noisy[1], reference) + 1) / 3
    assert ssim(color, np.stack([reference] * 3, axis=-1), channel_axis=-1) == pytest.approx(mean, abs=1e-12)


def test_ssim_against_the_definition():
    """Wang et al. (2004), with Gaussian moments taken here; scikit-image leaves out half a window at the border."""
    a = picture(seed=1)
    b = a + 0.05 * picture(seed=2)

    def smooth(x):
        return gaussian_filter(x, 1.5, truncate=3.5)

    ma, mb = smooth(a), smooth(b)
    va, vb, cov = smooth(a * a) - ma * ma, smooth(b * b) - mb * mb, smooth(a * b) - ma * mb
    local = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    assert ssim(a, b) == pytest.approx(local[5:-5, 5:-5].mean(), abs=1e-12)


def test_scores_are_those_of_the_aligned_pictures():
    reference = picture()
    image = np.roll(reference, (2, -3), (0, 1)) + 0.05 * picture(seed=5)
    result, aligned = scores(image, reference), align(image, reference)
    assert (result.ssd, result.shift) == (aligned.ssd, aligned.shift)
    assert result.psnr == psnr(aligned.image, aligned.reference)
    assert result.psnr == pytest.approx(10 * math.log10(aligned.reference.size / result.ssd), abs=1e-9)
    assert result.ssim == ssim(aligned.image, aligned.reference)
    assert scores(2 * image, 2 * reference, data_range=2.0).psnr == pytest.approx(result.psnr, abs=1e-9)


# ------------------------------------------------------------------ error ratio
def test_error_ratio_laws():
    reference = picture()
    noise = np.random.default_rng(3).standard_normal(reference.shape)
    good = reference + 0.01 * noise
    assert error_ratio(good, good, reference) == 1
    assert error_ratio(reference, reference, reference) == 1
    assert error_ratio(good, reference, reference) == math.inf
    # Squared errors: twice the error is a ratio of 4. Each picture has its own shift.
    worse = reference + 0.02 * noise
    assert error_ratio(worse, good, reference) == pytest.approx(4, rel=1e-9)
    assert error_ratio(np.roll(worse, (3, -2), (0, 1)), good, reference) == pytest.approx(4, rel=1e-9)


# ------------------------------------------------------------------ kernels
def test_kernel_laws():
    k = trajectory_kernel(21, rng=0)
    other = trajectory_kernel(25, rng=1)
    assert kernel_similarity(k, k) == pytest.approx(1, abs=1e-12)
    assert kernel_similarity(3 * k, k) == pytest.approx(1, abs=1e-12)
    assert kernel_similarity(np.pad(k, ((7, 1), (0, 4))), k) == pytest.approx(1, abs=1e-12)
    assert kernel_similarity(k, other) == pytest.approx(kernel_similarity(other, k), abs=1e-12)
    assert 0 < kernel_similarity(k, other) < 0.95
    assert kernel_similarity(np.zeros((5, 5)), k) == 0
    assert kernel_error(k, k) == pytest.approx(0, abs=1e-7)
    assert kernel_error(2 * np.pad(k, ((4, 0), (1, 3))), k) == pytest.approx(0, abs=1e-7)


def test_kernel_figures_are_those_of_the_best_shift():
    k, ref = trajectory_kernel(9, rng=0), trajectory_kernel(7, rng=1)
    product = correlate2d(k, ref).max()
    error = math.sqrt((k**2).sum() + (ref**2).sum() - 2 * product)  # |k - ref|^2 at the shift of the largest product
    norm = np.linalg.norm(ref)
    assert kernel_similarity(k, ref) == pytest.approx(product / (np.linalg.norm(k) * norm), abs=1e-12)
    assert kernel_error(k, ref) == pytest.approx(error / norm, abs=1e-9)
