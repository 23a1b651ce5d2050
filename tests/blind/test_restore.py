"""The door to the networks: arguments, axes, dtypes, alpha, strength, and every refusal."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from test_bad_input_api import Trap
from test_options import Unreadable

import gpudeblur as gd
from gpudeblur.networks import catalog
from gpudeblur.networks.catalog import network_names
from gpudeblur.networks.restore import _load
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.inpainting import inpaint

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gpudeblur.networks.weights import pack, unpack  # noqa: E402

RGB = np.random.default_rng(0).random((20, 26, 3), dtype=np.float32)
NAMES = ", ".join(map(repr, network_names()))
FORCED: dict[str, Any] = {"strength": 1.0}


def restore(image: Any, weights: Path, **options: Any) -> gd.RestoreResult:
    axis = -1 if isinstance(image, Unreadable) or image.ndim > 2 else None
    return gd.restore(image, "deepdeblur", **{"weights": weights, "channel_axis": axis} | options)


def test_the_result(network_weights: Path) -> None:
    given = RGB.copy()
    given.flags.writeable = False
    result = restore(given, network_weights)
    assert type(result.image) is np.ndarray
    assert (result.image.shape, result.image.dtype, result.kernel) == (RGB.shape, RGB.dtype, None)
    assert abs(result.image - RGB).mean() > 1e-3
    np.testing.assert_array_equal(given, RGB)
    info = result.info
    assert {*info} == {
        *("change", "reblur", "gradient_energy", "confidence", "strength"),
        *("method", "precision", "backend", "white", "seconds"),
    }
    assert (info["method"], info["precision"], info["backend"]) == ("deepdeblur", "float32", "numpy")
    assert all(type(value) in (float, str) for value in info.values())


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "uint8", "uint16", "uint32"])
def test_every_dtype_comes_back(network_weights: Path, dtype: str) -> None:
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 1
    image = (RGB * np.float64(top)).astype(dtype)
    result = restore(image, network_weights, **FORCED)
    assert result.image.dtype == image.dtype
    expected = np.clip(restore(RGB, network_weights, **FORCED).image, *((0, 1) if top > 1 else (-9, 9)))
    np.testing.assert_allclose(
        result.image / np.float64(top), expected, atol=1e-2 if dtype in ("float16", "uint8") else 1e-4
    )
    assert result.info["precision"] == "float32"
    np.testing.assert_array_equal(restore(image, network_weights, strength=0).image, image)  # nothing is rounded


def test_axes_and_stacks(network_weights: Path) -> None:
    stack = np.stack([RGB, RGB[::-1], 1 - RGB])
    expected = [restore(image, network_weights) for image in stack]
    for axis in (-1, 1, -3):
        result = restore(np.moveaxis(stack, -1, axis), network_weights, channel_axis=axis)
        for i, alone in enumerate(expected):
            np.testing.assert_allclose(np.moveaxis(result.image, axis, -1)[i], alone.image, atol=1e-5)
            for name in ("confidence", "strength", "change", "reblur", "gradient_energy"):
                np.testing.assert_allclose(result.info[name][i], alone.info[name], rtol=1e-3)
    gray = RGB[..., 0]
    expected_gray = restore(gray, network_weights, channel_axis=None).image
    np.testing.assert_allclose(restore(gray[..., None], network_weights).image[..., 0], expected_gray, atol=1e-6)
    result = restore(np.stack([[gray] * 2]), network_weights, channel_axis=None)
    assert result.info["strength"].shape == (1, 2)
    np.testing.assert_allclose(result.image[0, 1], expected_gray, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "uint8", "uint32"])
def test_alpha_passes_through(network_weights: Path, dtype: str) -> None:
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    image = (np.random.default_rng(1).random((20, 26, 4)) * top).astype(dtype)
    for axis in (-1, 0):
        given = np.moveaxis(image, -1, axis)
        for gamma in (1.0, 0.5):
            result = restore(given, network_weights, channel_axis=axis, gamma=gamma)
            np.testing.assert_array_equal(np.moveaxis(result.image, axis, -1)[..., 3], image[..., 3])
            colors = restore(image[..., :3], network_weights, gamma=gamma)
            np.testing.assert_allclose(np.moveaxis(result.image, axis, -1)[..., :3], colors.image, rtol=1e-6)
            assert result.info["strength"] == colors.info["strength"]


def test_strength_is_the_share_of_the_change(network_weights: Path) -> None:
    full = restore(RGB, network_weights, **FORCED)
    assert full.info["strength"] == 1
    half = restore(RGB, network_weights, strength=0.5)
    np.testing.assert_allclose(half.image, (RGB + full.image) / 2, atol=1e-6)
    auto = restore(RGB, network_weights)
    share = auto.info["strength"]
    np.testing.assert_allclose(auto.image, RGB + share * (full.image - RGB), atol=1e-6)
    assert 0 <= auto.info["confidence"] <= 1


def test_gamma_is_that_of_the_values_against_display(network_weights: Path) -> None:
    """A linear image is restored as its display values are."""
    linear = RGB.astype(np.float64) ** 2.2
    result = restore(linear, network_weights, gamma=1 / 2.2, **FORCED)
    expected = restore(RGB.astype(np.float64), network_weights, **FORCED).image
    np.testing.assert_allclose(np.sign(result.image) * abs(result.image) ** (1 / 2.2), expected, atol=1e-5)


def test_tiles_change_nothing(network_weights: Path) -> None:
    image = np.random.default_rng(2).random((150, 90))
    whole = restore(image, network_weights)
    np.testing.assert_allclose(restore(image, network_weights, tile=64).image, whole.image, atol=1e-5)


def test_the_callback_sees_the_run_and_may_end_it(network_weights: Path) -> None:
    calls: list[tuple[str, float]] = []
    restore(RGB, network_weights, callback=lambda *call: calls.append(call))
    assert calls == [("restoration", 0.0), ("restoration", 1.0)]
    with pytest.raises(gd.Stopped, match=r"^stopped by the callback in stage 'restoration' at 0% of the run$"):
        restore(RGB, network_weights, callback=Trap())


def test_the_weights_of_the_package(shipped: Path) -> None:
    np.testing.assert_array_equal(gd.restore(RGB, "deepdeblur", channel_axis=-1).image, restore(RGB, shipped).image)


def test_what_is_no_face_is_warned_of_and_restored_gently(
    shipped_files: dict[str, Path], gates: dict[bool, Path]
) -> None:
    """Not where the user says how much, or what the weights are for."""
    face = gd.restore(RGB, "deepdeblur", channel_axis=-1).info
    assert face.keys() <= get_type_hints(gd.Info).keys()
    assert face.keys() >= {"reblur", "gradient_energy", "face", "precision"}
    shipped_files["face-gate"] = gates[False]
    _load.cache_clear()
    message = 'restore(..., "deepdeblur") is for small faces, and this picture does not look like one; deblur() is for'
    with pytest.warns(UserWarning, match="^" + re.escape(message)) as caught:
        other = gd.restore(RGB, "deepdeblur", channel_axis=-1).info
    assert [warning.filename for warning in caught] == [__file__]
    assert (face["face"], other["face"]) == pytest.approx((1 / (1 + np.exp(-4)), 1 / (1 + np.exp(4))))
    assert other["strength"] < face["strength"]
    assert other["confidence"] <= face["confidence"]
    with pytest.warns(UserWarning, match="2 of 2 pictures do not look like one") as caught:
        result = gd.restore(np.stack([RGB, RGB]), "deepdeblur", channel_axis=-1, strength=0.7)
    assert len(caught) == 1
    np.testing.assert_array_equal(result.info["strength"], np.float32(0.7))
    assert "face" not in restore(RGB, shipped_files["deepdeblur"]).info


# ---- masks


MASK = np.ones(RGB.shape[:2], bool)
MASK[:, 7] = MASK[4:8, 12:18] = False
HOLES = np.where(MASK[..., None], RGB, np.float32(np.nan))


def test_the_network_sees_an_interpolation(network_weights: Path) -> None:
    planes = np.moveaxis(np.where(MASK[..., None], RGB, 0), -1, 0)
    filled = np.moveaxis(inpaint(planes, np.broadcast_to(MASK, planes.shape)), 0, -1)
    expected = restore(filled, network_weights)
    result = restore(HOLES, network_weights, mask="nan")
    np.testing.assert_array_equal(result.image, expected.image)
    assert result.info["confidence"] == expected.info["confidence"]
    assert type(result.image) is np.ndarray
    given = HOLES.copy()
    given.flags.writeable = False
    for image in (given, np.where(MASK[..., None], RGB, np.float32(-1e30))):
        np.testing.assert_array_equal(restore(image, network_weights, mask=MASK).image, expected.image)
    np.testing.assert_array_equal(given, HOLES)
    unmasked = restore(RGB, network_weights).image
    np.testing.assert_array_equal(restore(RGB, network_weights, mask=MASK | True).image, unmasked)


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_masks_of_gray_pictures_and_stacks(network_weights: Path, dtype: str) -> None:
    """Each of its own in a stack, or one for all; in full strength 0 gives back what is valid."""
    top = 255 if dtype == "uint8" else 1
    stack = (np.stack([RGB[..., 0], RGB[..., 1]]) * top).astype(dtype)
    spoiled = np.where(MASK, stack, top).astype(dtype)
    options: dict[str, Any] = {"channel_axis": None}
    alone = [restore(image, network_weights, mask=MASK, **options).image for image in spoiled]
    close: dict[str, Any] = {"atol": 1 if top > 1 else 1e-5}
    for mask in (MASK, np.stack([MASK, MASK])):
        np.testing.assert_allclose(restore(spoiled, network_weights, mask=mask, **options).image, alone, **close)
    result = restore(np.stack([stack[0], spoiled[1]]), network_weights, mask=np.stack([MASK | True, MASK]), **options)
    np.testing.assert_allclose(result.image[0], restore(stack[0], network_weights, **options).image, **close)
    np.testing.assert_allclose(result.image[1], alone[1], **close)
    copy = restore(spoiled, network_weights, mask=MASK, strength=0, **options).image
    np.testing.assert_array_equal(copy[:, MASK], stack[:, MASK])
    assert (copy[:, ~MASK] != top).all()


def test_masked_arrays_come_back_masked(network_weights: Path) -> None:
    masked: Any = np.ma.masked_invalid(HOLES)
    result: Any = restore(masked, network_weights)
    assert isinstance(result.image, np.ma.MaskedArray)
    np.testing.assert_array_equal(result.image.mask, np.isnan(HOLES))
    np.testing.assert_array_equal(result.image.data, restore(HOLES, network_weights, mask="nan").image)


def test_nan_in_one_channel_leaves_the_others_valid(network_weights: Path) -> None:
    image = RGB.copy()
    image[~MASK, 0] = np.nan
    copy = restore(image, network_weights, mask="nan", strength=0).image
    np.testing.assert_array_equal(copy[..., 1:], RGB[..., 1:])
    np.testing.assert_array_equal(copy[MASK], RGB[MASK])
    assert np.isfinite(copy).all()


def test_opacity_has_no_mask(network_weights: Path) -> None:
    alpha = np.random.default_rng(1).random((*MASK.shape, 1), dtype=np.float32)
    expected = restore(HOLES, network_weights, mask="nan").image
    for mask in (MASK, "nan"):
        result = restore(np.concatenate([HOLES, alpha], axis=-1), network_weights, mask=mask).image
        np.testing.assert_array_equal(result[..., 3:], alpha)
        np.testing.assert_allclose(result[..., :3], expected, rtol=1e-6)


def test_masked_pixels_do_not_decide_the_white_level(network_weights: Path) -> None:
    image = np.where(MASK[..., None], RGB, 1000)
    assert restore(image, network_weights, mask=MASK, white="auto").info["white"] == 1


@pytest.mark.gpu
@pytest.mark.usefixtures("full_float32")
def test_a_mask_on_a_gpu(cupy: Any, network_weights: Path) -> None:
    expected = restore(HOLES, network_weights, mask="nan").image
    for mask in (cupy.asarray(MASK), "nan"):
        result = restore(cupy.asarray(HOLES), network_weights, mask=mask)
        np.testing.assert_allclose(to_host(result.image), expected, atol=1e-4)
    np.testing.assert_allclose(restore(HOLES, network_weights, mask=MASK, device="cuda").image, expected, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.usefixtures("full_float32")
def test_on_a_gpu(cupy: Any, network_weights: Path) -> None:
    expected = restore(RGB, network_weights)
    result = restore(cupy.asarray(RGB), network_weights)
    assert isinstance(result.image, cupy.ndarray)
    assert result.info["backend"] == "cupy"
    np.testing.assert_allclose(to_host(result.image), expected.image, atol=1e-4)
    result = restore(RGB, network_weights, device="cuda")
    assert type(result.image) is np.ndarray
    np.testing.assert_allclose(result.image, expected.image, atol=1e-4)


# ---- bad input


SPOILED = np.where(RGB > 0.99, np.nan, RGB)
AUTO = "'auto' decides for each image"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"network": "magic"}, ValueError, f"network must be one of {NAMES}, got 'magic'"),
        ({"network": None}, ValueError, f"network must be one of {NAMES}, got None"),
        ({"channel_axis": 1.0}, TypeError, "channel_axis must be an integer or None, got 1.0 (float); use -1"),
        ({"device": "gpu"}, ValueError, "device must be None, 'cpu', 'cuda' or 'auto', got 'gpu'"),
        ({"gamma": 0}, ValueError, "gamma must be a positive number, got 0; 1 takes the picture as it is"),
        ({"callback": 3}, TypeError, "callback must be a function, got 3"),
        ({"strength": 1.1}, ValueError, f"strength must be in [0, 1], and finite, got 1.1; {AUTO}"),
        ({"strength": "full"}, TypeError, f"strength must be a number, got 'full' (str); {AUTO}"),
        ({"strength": None}, TypeError, f"strength must be a number, got None (NoneType); {AUTO}"),
        ({"tile": 32}, ValueError, "tile must be at least 64, got 32; 'auto' takes images whole if it can"),
        ({"tile": 99.0}, TypeError, "tile must be an integer, got 99.0 (float)"),
        ({"weights": 3}, TypeError, "weights must be a path to a file, got 3 (int); leave it out for those of the"),
        ({"image": SPOILED}, ValueError, "image must be finite, got nan at index ("),
        ({"image": RGB.tolist()}, TypeError, "image must be a NumPy or CuPy array, got list"),
        ({"image": RGB > 0.5}, TypeError, "image must have an integer or float dtype, got bool"),
        ({"image": RGB.astype(np.float64) * 1e200}, ValueError, "image must be within 1.8e+15 for float32, got 1"),
        ({"image": RGB[:15]}, ValueError, "image must have at least 16 x 16 pixels for a network, got 15 x 26"),
        ({"channel_axis": None}, ValueError, "image must end in rows and columns, (..., H, W), got shape (20, 26, 3)"),
        ({"image": RGB[..., :2]}, ValueError, "image must have 1, 3 or 4 channels for a network (gray, RGB, RGB and "
         "alpha), got 2; pass its channels as a stack of gray pictures"),
        ({"image": np.zeros((20, 20, 5))}, ValueError, "image must have 1, 3 or 4 channels for a network"),
        ({"image": np.zeros((0, 20, 3))}, ValueError, "image must not be empty"),
        ({"image": HOLES}, ValueError, "image must be finite, got nan at index (0, 7, 0) (132 bad pixels); mask='nan' "
         "leaves such pixels out"),
        ({"image": HOLES, "mask": MASK | True}, ValueError, "image must be finite, got nan at index (0, 7, 0) (132 bad "
         "pixels); mask & isfinite(image) leaves such pixels out"),
        ({"mask": "inf"}, ValueError, "mask must be a bool array, 'nan' or None, got 'inf'"),
        ({"mask": MASK[1:]}, ValueError, "mask must be like image, shape (20, 26), got shape (19, 26); it has no "
         "channels"),
        ({"mask": np.stack([MASK] * 3, axis=-1)}, ValueError, "mask must be like image, shape (20, 26), got shape (20, "
         "26, 3); leave the channels out"),
        ({"mask": MASK * 1}, TypeError, "mask must have dtype bool, True where image is valid, got int64; mask != 0"),
        ({"mask": MASK.tolist()}, TypeError, "mask must be a NumPy or CuPy array, got list"),
        ({"mask": MASK & False}, ValueError, "mask must be True at some pixel of each image, got none in 3 of 3"),
        ({"image": np.ma.masked_invalid(HOLES), "mask": MASK}, ValueError, "mask must be left out for a masked array"),
    ],
)  # fmt: skip
def test_restore_refuses(
    network_weights: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    trap = Trap()
    defaults: dict[str, Any] = {"image": RGB, "network": "deepdeblur", "channel_axis": -1, "weights": network_weights}
    with pytest.raises(error, match="^" + re.escape(message)):
        gd.restore(**defaults | {"callback": trap} | arguments)
    assert not trap.sprung


def test_weights_that_are_none(network_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the image is read."""
    tensors, metadata = unpack(network_weights)
    others = {
        "pickle": pickle.dumps({"weight": 1}),
        "damaged": network_weights.read_bytes()[:-9],
        "text": b"hello",
        "network": pack(tensors, metadata | {"architecture": "sketch"}),
        "plain": pack(tensors),
        "config": pack(tensors, {"architecture": "deepdeblur"}),
        "width": pack(tensors, metadata | {"config": '{"widths": [8, 12, 20], "counts": [1, 1, 1, 1, 1]}'}),
        "option": pack(tensors, metadata | {"config": '{"magic": 1}'}),
    }
    messages = {
        "pickle": "weights {} must be safetensors, got a pickle, which can run code",
        "damaged": "weights {} must be safetensors, got a damaged file",
        "text": "weights {} must be safetensors, got a damaged file",
        "network": "weights {} must be of the network 'deepdeblur', got 'sketch'; name another file or network",
        "plain": "weights {} must be of the network 'deepdeblur', got None; name another file or network",
        "config": "weights {} must hold the config of 'deepdeblur', got KeyError('config'); get a fresh copy",
        "width": "weights {} must hold the tensors of its config, got others; get a fresh copy",
        "option": "weights {} must hold the config of 'deepdeblur', got TypeError(",
    }
    for name, data in others.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match="^" + re.escape(messages[name].format(path))):
            restore(Unreadable(), path)
    with pytest.raises(FileNotFoundError, match="missing"):
        restore(Unreadable(), tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        restore(Unreadable(), tmp_path)


def test_weights_of_the_package_that_are_missing_or_changed(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalog.Entry(catalog.NETWORKS["deepdeblur"].location, "0" * 64)
    monkeypatch.setitem(catalog.NETWORKS, "deepdeblur", entry)
    with pytest.raises(ValueError, match=rf"^weights {shipped} must have SHA-256 0{{64}}, got \w{{64}}; get a fresh"):
        gd.restore(RGB, "deepdeblur", channel_axis=-1)
    monkeypatch.setattr(catalog, "shipped_weights", lambda name: shipped.with_name("none"))
    with pytest.raises(FileNotFoundError, match=r"^no weights of the network 'deepdeblur' ship with this version"):
        gd.restore(RGB, "deepdeblur", channel_axis=-1)


def test_without_torch_the_message_says_what_to_install(network_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ImportError, match=r"needs PyTorch, which cannot be imported .* pip install 'gpudeblur\[torch\]'"
    ):
        restore(RGB, network_weights)
    with pytest.raises(ValueError, match=r"^network must be one of "):
        gd.restore(RGB, "magic")


def test_values_like_those_of_8_bits_are_warned_of(network_weights: Path) -> None:
    with pytest.warns(UserWarning, match=r"^image has values up to 2\d\d.*divide by the white level") as caught:
        restore(RGB * 255, network_weights)
    assert caught[0].filename == __file__
