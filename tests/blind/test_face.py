"""Laws of "face": shifts, windows and weights; a batch equals a loop; the door `restore(image, "face")`."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage import data
from test_bad_input_api import Trap
from test_options import Unreadable

import gpudeblur as gd
from gpudeblur.blind import face
from gpudeblur.images.checks import NotFiniteError
from gpudeblur.numerics.arrays import to_host
from gpudeblur.synthesis import blur, linear_kernel, trajectory_kernel

ASTRONAUT = np.moveaxis(data.astronaut() / 255, -1, 0)
KERNEL = trajectory_kernel(9, rng=3)
MOVES = [(0.5, -0.3), (1.3, 2.2), (-3.4, 0.25), (3.0, -2.0)]


def smooth_picture(top: int, left: int, side: int = 100, move: tuple[float, float] = (0, 0)) -> np.ndarray:
    """(3, side, side), moved down and right by `move`; what comes in at the border is real, too."""
    margin = 12
    region = ASTRONAUT[:, top - margin : top + side + margin, left - margin : left + side + margin]
    smooth = [ndimage.shift(ndimage.gaussian_filter(plane, 1), move) for plane in region]
    return np.stack(smooth)[:, margin:-margin, margin:-margin]


def blurred_faces(shape: tuple[int, int] = (40, 36)) -> np.ndarray:
    """Two parts of a photograph, (2, 3, H, W) float32, blurred differently, with noise."""
    parts = []
    for number, (top, left) in enumerate([(60, 170), (110, 190)]):
        kernel = KERNEL if number == 0 else linear_kernel(5, 30, 9)
        region = ASTRONAUT[:, top : top + shape[0] + 8, left : left + shape[1] + 8]
        parts.append([blur(plane, kernel, noise_sigma=0.005, rng=number) for plane in region])
    return np.array(parts, dtype=np.float32)


def gaussian_kernels(*sigmas: float, side: int = 27) -> np.ndarray:
    y = np.arange(side) - side // 2
    kernels = np.stack([np.exp(-(y[:, None] ** 2 + y**2) / (2 * sigma**2)) for sigma in sigmas])
    return kernels / kernels.sum(axis=(1, 2), keepdims=True)


def no_report(fraction: float) -> None:
    pass


# ------------------------------------------------------------------ shifts
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("channels", [1, 3])
def test_known_shifts_are_measured(xp: Any, move: tuple[float, float], channels: int) -> None:
    reference = smooth_picture(60, 170)[:channels]
    image = smooth_picture(60, 170, move=(-move[0], -move[1]))[:channels]
    measured = face.shift_between(xp.asarray(image)[None], xp.asarray(reference)[None])
    np.testing.assert_allclose(to_host(measured), [move], atol=0.1)


def test_the_moved_image_lies_on_the_reference(xp: Any) -> None:
    reference, image = smooth_picture(60, 170)[None], smooth_picture(60, 170, move=(1.6, -2.3))[None]
    aligned = face.moved(xp.asarray(image), face.shift_between(xp.asarray(image), xp.asarray(reference)))
    inside = (..., slice(8, -8), slice(8, -8))
    assert abs(to_host(aligned) - reference)[inside].max() < 0.1 * abs(image - reference)[inside].max()


def test_no_shift_between_equal_pictures_nor_where_nothing_can_be_aligned(xp: Any) -> None:
    flat, texture = np.full((1, 3, 40, 37), 0.3), ASTRONAUT[None, :, 60:100, 170:207]
    for dtype in ("float32", "float64"):
        for image, reference in ((texture, texture), (flat, flat), (flat, texture), (texture, flat)):
            measured = face.shift_between(xp.asarray(image, dtype=dtype), xp.asarray(reference, dtype=dtype))
            np.testing.assert_allclose(to_host(measured), 0, atol=1e-5)


@pytest.mark.parametrize("move", [(7.0, 0.0), (-7.0, 7.0), (4.4, -4.4)])
def test_no_shift_is_larger_than_the_maximum(move: tuple[float, float]) -> None:
    image = smooth_picture(60, 170, move=(-move[0], -move[1]))
    measured = face.shift_between(image[None], smooth_picture(60, 170)[None])
    assert abs(measured).max() == face.MAX_SHIFT
    assert (measured * np.array(move) >= -0.5).all()


def test_brightness_and_contrast_do_not_matter_to_shifts() -> None:
    image, reference = smooth_picture(60, 170, move=(-1.3, 0.8))[None], smooth_picture(60, 170)[None]
    expected = face.shift_between(image, reference)
    np.testing.assert_allclose(face.shift_between(0.5 * image + 0.2, 2 * reference - 0.1), expected, atol=1e-6)


def test_shifts_of_a_batch_equal_a_loop() -> None:
    """A flat image among them has no influence."""
    images = np.stack([smooth_picture(60, 170, 60, (1.2, 0.4)), np.full((3, 60, 60), 0.5), smooth_picture(90, 150, 60)])
    references = np.stack([smooth_picture(60, 170, 60)] * 2 + [smooth_picture(90, 150, 60, (-2.1, 3))])
    together = face.shift_between(images, references)
    for i in range(3):
        alone = face.shift_between(images[i : i + 1], references[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-10)


def test_moving_by_zero_is_the_identity_and_writes_to_a_copy(xp: Any) -> None:
    images = blurred_faces()
    given = xp.asarray(images)
    result = face.moved(given, xp.zeros((2, 2)))
    np.testing.assert_allclose(to_host(result), images, atol=1e-6)
    result += 1
    np.testing.assert_array_equal(to_host(given), images)


@pytest.mark.parametrize("move", MOVES)
def test_moving_there_and_back(xp: Any, move: tuple[float, float]) -> None:
    images = np.stack([smooth_picture(60, 170), smooth_picture(90, 150)])
    moves = xp.asarray([move, (-move[1], move[0])])
    result = to_host(face.moved(face.moved(xp.asarray(images), moves), -moves))
    inside = (..., slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(result[inside], images[inside], atol=1e-2)


def test_whole_pixels_are_moved_exactly() -> None:
    images = blurred_faces()
    result = face.moved(images, np.array([[2, 0], [0, -3]]))
    np.testing.assert_allclose(result[0, :, 2:], images[0, :, :-2], atol=1e-5)
    np.testing.assert_allclose(result[1, :, :, :-3], images[1, :, :, 3:], atol=1e-5)
    np.testing.assert_allclose(result[0, :, :2], np.repeat(images[0, :, :1], 2, axis=1), atol=1e-5)  # the border stays


def test_opposite_shifts_of_image_and_kernel_cancel() -> None:
    sharp, move = ASTRONAUT[None, :1, 60:160, 170:270], np.array([[1, -2]])
    kernel = np.pad(KERNEL, 3)[None, None]
    expected = blur(sharp[0, 0], kernel[0, 0])
    both = blur(face.moved(sharp, move)[0, 0], face.moved(kernel, -move, mode="grid-constant")[0, 0])
    np.testing.assert_allclose(both[3:-3, 3:-3], expected[3:-3, 3:-3], atol=1e-6)


# ------------------------------------------------------------------ windows of the blind method
def test_a_window_is_odd_and_holds_the_mass_and_a_margin() -> None:
    sigmas = (0.4, 1, 1.7, 2.5, 3.5)
    kernels = gaussian_kernels(*sigmas)
    sides = face.support_sides(kernels, (200, 200))
    assert (sides % 2 == 1).all()
    assert (np.diff(sides) >= 0).all()
    assert sides[0] == face.SMALLEST
    for kernel, side in zip(kernels, sides, strict=True):
        reach = int(side) // 2 - face.MARGIN
        inside = kernel[13 - reach : 14 + reach, 13 - reach : 14 + reach].sum()
        assert inside >= face.MASS
        if side > face.SMALLEST:
            assert kernel[14 - reach : 13 + reach, 14 - reach : 13 + reach].sum() < face.MASS


def test_windows_do_not_depend_on_scale_or_neighbors(xp: Any) -> None:
    kernels = gaussian_kernels(0.5, 3, 1.5)
    sides = face.support_sides(xp.asarray(kernels), (200, 190))
    assert face.support_sides(xp.asarray(5 * kernels), (200, 190)).tolist() == sides.tolist()
    for kernel, side in zip(kernels, sides, strict=True):
        assert face.support_sides(xp.asarray(kernel)[None], (200, 190)).tolist() == [side]


@pytest.mark.parametrize(("shape", "largest"), [((16, 16), 7), ((17, 90), 7), ((40, 36), 17), ((41, 43), 19)])
def test_windows_leave_half_of_the_image(shape: tuple[int, int], largest: int) -> None:
    wide = np.full((1, 27, 27), 1 / 27**2)
    assert face.support_sides(wide, shape).tolist() == [largest]
    assert face.support_sides(wide, (200, 200)).tolist() == [27 + 2 * face.MARGIN]


# ------------------------------------------------------------------ mixture
@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 4, 6))


def test_weights_of_the_mixture_are_a_softmax(xp: Any, features: np.ndarray) -> None:
    scores = np.random.default_rng(1).normal(size=(4, 6))
    weights = to_host(face.mixture(xp.asarray(features), scores))
    assert weights.shape == (5, 4)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    expected = np.exp((features * scores).sum(axis=2))
    np.testing.assert_allclose(weights, expected / expected.sum(axis=1, keepdims=True))
    order = (features * scores).sum(axis=2).argsort(axis=1)
    assert (weights.argsort(axis=1) == order).all()


def test_equal_scores_give_the_mean_and_a_constant_changes_nothing(features: np.ndarray) -> None:
    np.testing.assert_allclose(face.mixture(features, np.zeros((4, 6))), 0.25)
    features[..., 0] = 1
    scores = np.random.default_rng(1).normal(size=(4, 6))
    constant = np.zeros((4, 6))
    constant[:, 0] = 300  # the exponential alone would overflow
    for shifted in (scores + constant, scores - constant):
        np.testing.assert_allclose(face.mixture(features, shifted), face.mixture(features, scores))


def test_the_table_of_scores_has_a_row_for_each_candidate() -> None:
    assert face.SCORES.shape == (len(face.CANDIDATES), 6)
    assert np.isfinite(face.SCORES).all()


# ------------------------------------------------------------------ candidates
@pytest.mark.slow
@pytest.mark.usefixtures("shipped_networks")
@pytest.mark.parametrize("channels", [1, 3])
def test_candidates_of_a_batch_equal_a_loop(channels: int) -> None:
    observed = blurred_faces()[:, :channels]
    images, kernels, features = face.candidates(observed, None, no_report)
    assert len(images) == len(face.CANDIDATES)
    assert features.shape == (2, len(face.CANDIDATES), face.SCORES.shape[1])
    assert all(image.shape == observed.shape for image in images)
    assert all(np.isfinite(array).all() for array in (*images, *kernels, features))
    for kernel in kernels:
        assert kernel.shape == (2, 11, 11)
        assert kernel.min() >= 0
        np.testing.assert_allclose(kernel.sum(axis=(1, 2)), 1, rtol=1e-5)
    for i in range(2):
        images_alone, kernels_alone, features_alone = face.candidates(observed[i : i + 1], None, no_report)
        for together, alone in zip([*images, *kernels], [*images_alone, *kernels_alone], strict=True):
            np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-5)
        np.testing.assert_allclose(features[i : i + 1], features_alone, atol=1e-3)


def test_the_mixture_decides_image_and_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    observed = blurred_faces()[:1]
    images = [observed + number for number in range(4)]
    kernels = [kernel[None] for kernel in gaussian_kernels(1, 2)]
    features = np.ones((1, *face.SCORES.shape), np.float32)
    monkeypatch.setattr(face, "candidates", lambda *_: (images, kernels, features))
    for number, image in enumerate(images):
        scores = np.zeros(face.SCORES.shape)
        scores[number, 0] = 100
        monkeypatch.setattr(face, "SCORES", scores)
        restored, kernel = face.restore_faces(observed, None, no_report)
        np.testing.assert_allclose(restored, image, atol=1e-6)
        if face.CANDIDATES[number] != "one step":  # which has no kernel
            np.testing.assert_array_equal(kernel, kernels[0 if face.CANDIDATES[number] == "sketch" else 1])


# ------------------------------------------------------------------ restore(image, "face")
def at_channels_last(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(images, -3, -1))


@pytest.mark.usefixtures("shipped_networks")
@pytest.mark.parametrize(("color", "dtype"), [(False, "float64"), (True, "float32"), (True, "uint8")])
def test_the_result(color: bool, dtype: str) -> None:
    given = at_channels_last(blurred_faces()[0])
    image = np.clip((given if color else given[..., 0]) * (255 if dtype == "uint8" else 1), 0, 255).astype(dtype)
    before = image.copy()
    image.flags.writeable = False
    calls: list[tuple[str, float]] = []
    axis = -1 if color else None
    result = gd.restore(image, "face", channel_axis=axis, callback=lambda *call: calls.append(call))
    assert (result.image.shape, result.image.dtype) == (image.shape, image.dtype)
    assert abs(result.image.astype(float) - image).mean() > 0
    np.testing.assert_array_equal(image, before)
    assert result.kernel is not None
    assert (result.kernel.shape, result.kernel.dtype) == ((11, 11), np.float32)
    assert result.kernel.min() >= 0
    assert result.kernel.sum() == pytest.approx(1, abs=1e-5)
    assert result.info["method"] == "face"
    assert 0 <= result.info["confidence"] <= 1
    stages, fractions = zip(*calls, strict=True)
    assert set(stages) == {"restoration"}
    assert (np.diff(fractions) >= 0).all()
    assert fractions[0] == 0
    assert fractions[-1] == pytest.approx(1)
    assert len(set(fractions)) > 10


@pytest.mark.usefixtures("shipped_networks")
def test_no_strength_gives_the_image_back() -> None:
    image = at_channels_last(blurred_faces((16, 16))[0])
    np.testing.assert_array_equal(gd.restore(image, "face", channel_axis=-1, strength=0).image, image)


@pytest.mark.usefixtures("shipped_networks")
def test_a_flat_picture_stays() -> None:
    result = gd.restore(np.full((30, 33), 0.5), "face")
    np.testing.assert_allclose(result.image, 0.5, atol=1e-3)


@pytest.mark.usefixtures("shipped_networks")
@pytest.mark.parametrize("at", [0.0, 0.05, 0.5])
def test_the_callback_may_end_the_run(at: float) -> None:
    with pytest.raises(gd.Stopped, match=r"^stopped by the callback in stage 'restoration' at \d+% of the run$"):
        gd.restore(blurred_faces()[0, 0], "face", callback=lambda stage, fraction: fraction >= at)


@pytest.mark.usefixtures("shipped_networks")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"image": Unreadable(), "weights": "some.safetensors"},
            "weights must be None for 'face', which has several networks, got some.safetensors",
        ),
        ({"image": np.where(blurred_faces()[0, 0] > 0.6, np.nan, 0.5)}, "image must be finite, got nan at index ("),
        ({"image": np.zeros((40, 15))}, "image must have at least 16 x 16 pixels for a network, got 40 x 15"),
        ({"image": np.zeros((40, 40, 2)), "channel_axis": -1}, "image must have 1, 3 or 4 channels for a network"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    trap = Trap()
    defaults: dict[str, Any] = {"network": "face", "callback": trap}
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        gd.restore(**defaults | arguments)
    assert not trap.sprung


@pytest.mark.slow
@pytest.mark.usefixtures("shipped_networks")
def test_a_bad_picture_in_a_batch_does_not_disturb_its_neighbors() -> None:
    good = list(at_channels_last(blurred_faces((30, 28))))
    pictures: list[Any] = [good[0], np.where(good[0] > 0.6, np.nan, good[0]), None, good[1][:12], good[1]]
    results = list(gd.deblur_batch(pictures, method="face", channel_axis=-1, device="cpu"))
    assert [type(result.error) for result in results] == [type(None), NotFiniteError, TypeError, ValueError, type(None)]
    for number, picture in ((0, good[0]), (4, good[1])):
        alone, result = gd.restore(picture, "face", channel_axis=-1), results[number]
        assert result.image is not None
        assert result.kernel is not None
        assert alone.kernel is not None
        np.testing.assert_allclose(result.image, alone.image, atol=1e-5)
        np.testing.assert_allclose(result.kernel, alone.kernel, atol=1e-5)
        assert result.info["strength"] == pytest.approx(alone.info["strength"], rel=1e-3)


# ------------------------------------------------------------------ masks
def masked_faces() -> tuple[np.ndarray, np.ndarray]:
    """(images (2, H, W, 3), masks (2, H, W)): a column and a block of the first are not valid, the second is."""
    images = at_channels_last(blurred_faces())
    masks = np.ones(images.shape[:3], bool)
    masks[0, :, 9] = masks[0, 20:25, 20:25] = False
    return images, masks


@pytest.mark.usefixtures("shipped_networks")
def test_the_blind_method_leaves_the_mask_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, deblur = list[Any](), face.deblur

    def spy(image: Any, *args: Any, **options: Any) -> Any:
        calls.append((image, options["mask"]))
        return deblur(image, *args, **options)

    monkeypatch.setattr(face, "deblur", spy)
    images, masks = masked_faces()
    results = [
        gd.restore(np.where(masks[0, ..., None], images[0], np.float32(value)), "face", channel_axis=-1, mask=masks[0])
        for value in (np.nan, 1e6)
    ]
    np.testing.assert_array_equal(results[0].image, results[1].image)
    assert np.isfinite(results[0].image).all()
    for image, mask in calls:
        assert mask == "nan"
        np.testing.assert_array_equal(np.isnan(image), np.broadcast_to(~masks[0], (1, 3, *masks[0].shape)))


@pytest.mark.slow
@pytest.mark.usefixtures("shipped_networks")
def test_a_masked_face_beside_another_is_as_if_alone() -> None:
    images, masks = masked_faces()
    images[~masks] = np.nan
    together = gd.restore(images, "face", channel_axis=-1, mask=masks).image
    for i, alone in enumerate((gd.restore(images[0], "face", channel_axis=-1, mask="nan"),
                               gd.restore(images[1], "face", channel_axis=-1))):  # fmt: skip
        np.testing.assert_allclose(together[i], alone.image, atol=1e-4)


def test_too_few_valid_pixels_for_a_kernel_remain_interpolated(xp: Any) -> None:
    observed, valid = xp.asarray(blurred_faces()), np.ones((2, 3, 40, 36), bool)
    valid[0, :, 5] = valid[1, 1, 3:] = False
    given, mask = face._with_nan(observed, xp.asarray(valid), 121)
    assert mask == "nan"
    np.testing.assert_array_equal(np.isnan(to_host(given)), ~valid & (np.arange(2) == 0)[:, None, None, None])
    assert face._with_nan(observed, None, 121) == (observed, None)
