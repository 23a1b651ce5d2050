"""`deblur_batch` and `gpudeblur batch` with a network as the method: each picture as `restore` alone would give it."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import COLOR, fails, run, table, wide
from test_gpu import NumpyDevice, device

import gpudeblur as gd
from gpudeblur.batch import cpu
from gpudeblur.images.files import read_image, write_image
from gpudeblur.numerics.arrays import to_host
from gpudeblur.priors import DarkChannel

pytest.importorskip("torch")
pytest.importorskip("safetensors")

__all__ = ["device", "wide"]  # fixtures; every test here uses the second
JOIN_TIMEOUT = 60


def picture(seed: int, shape: tuple[int, ...] = (20, 26, 3), dtype: str = "float32") -> np.ndarray:
    values = np.random.default_rng(seed).random(shape)
    return (values * (255 if dtype == "uint8" else 1)).astype(dtype)


def check_equal(result: gd.BatchResult, alone: gd.RestoreResult) -> None:
    assert result.error is None
    assert result.image is not None
    assert result.kernel is None
    assert result.image.dtype == alone.image.dtype
    tolerance = 1 if alone.image.dtype.kind == "u" else 1e-5
    np.testing.assert_allclose(result.image.astype(float), alone.image.astype(float), atol=tolerance)
    assert result.info.keys() == alone.info.keys()
    assert result.info["strength"] == pytest.approx(alone.info["strength"], rel=1e-3)


def test_a_batch_equals_a_loop(shipped: Path) -> None:
    pictures: list[Any] = [picture(i, (20, 26 + i % 2, 3), ("float32", "float64", "uint8")[i % 3]) for i in range(9)]
    small = np.full((12, 20, 3), 0.5)
    spoiled = np.where(pictures[0] > 0.99, np.nan, pictures[0])
    pictures[4:4] = [small, spoiled, None]
    progress: list[gd.Progress] = []
    with gd.deblur_batch(
        pictures, method="deepdeblur", channel_axis=-1, gamma=0.9, callback=lambda p: progress.append(p)
    ) as results:
        for index, result in enumerate(results):
            assert result.index == index
            if 4 <= index < 7:
                with pytest.raises((TypeError, ValueError)) as caught:
                    gd.restore(pictures[index], "deepdeblur", channel_axis=-1)
                assert (type(result.error), str(result.error)) == (caught.type, str(caught.value))
            else:
                check_equal(result, gd.restore(pictures[index], "deepdeblur", channel_axis=-1, gamma=0.9))
    assert (progress[-1].done, progress[-1].failed, progress[-1].total) == (12, 3, 12)


def test_equal_pictures_are_restored_by_eights(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, all_there, restore = list[Any](), threading.Event(), cpu.restore_silently

    def spy(image: Any, *args: Any, **kwargs: Any) -> gd.RestoreResult:
        assert all_there.wait(JOIN_TIMEOUT)
        shapes.append(image.shape)
        return restore(image, *args, **kwargs)

    def pictures() -> Iterator[np.ndarray]:
        yield picture(99, (18, 18, 3))
        yield from (picture(i) for i in range(10))
        all_there.set()

    monkeypatch.setattr(cpu, "restore_silently", spy)
    results = list(gd.deblur_batch(pictures(), method="deepdeblur", channel_axis=-1))
    monkeypatch.undo()
    assert shapes == [(18, 18, 3), (8, 20, 26, 3), (2, 20, 26, 3)]
    assert all(result.error is None for result in results)


def test_the_executor_of_a_gpu_groups_pictures(device: NumpyDevice, shipped: Path) -> None:
    pictures: list[Any] = [picture(i) for i in range(5)]
    pictures[2:2] = [picture(9, (12, 20, 3)), None]
    results = list(gd.deblur_batch(pictures, method="deepdeblur", channel_axis=-1, device="cuda"))
    assert device.computed == [(5, 20, 26, 3)]
    assert [type(results[i].error) for i in (2, 3)] == [ValueError, TypeError]
    for i in (0, 1, 4, 5, 6):
        check_equal(results[i], gd.restore(pictures[i], "deepdeblur", channel_axis=-1))


def test_a_batch_warns_once_of_what_is_no_face(
    device: NumpyDevice, shipped_files: dict[str, Path], gates: dict[bool, Path]
) -> None:
    """After the last result, with the number of all, at the line of the user."""
    shipped_files["face-gate"] = gates[False]
    pictures: list[Any] = [*(picture(i, (20, 26 + i % 2, 3)) for i in range(5)), None]
    for where in ("cpu", "cuda"):
        with gd.deblur_batch(pictures, method="deepdeblur", channel_axis=-1, device=where, batch_size=1) as results:
            for _ in pictures:
                next(results)
            with pytest.warns(UserWarning, match="5 of 5 pictures do not look like one") as caught:
                assert next(results, None) is None
        assert [warning.filename for warning in caught] == [__file__]


def test_the_command_line_names_its_own_way_out(
    shipped_files: dict[str, Path], gates: dict[bool, Path], tmp_path: Path
) -> None:
    shipped_files["face-gate"] = gates[False]
    write_image(tmp_path / "a.png", COLOR)
    write_image(tmp_path / "b.png", COLOR)
    for which, command in {
        "this picture does": ("restore", tmp_path / "a.png", "-o", tmp_path / "out.png", "--network"),
        "2 of 2 pictures do": ("batch", tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out", "--method"),
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            result = run(*command, "deepdeblur")
        assert result.exit_code == 0, result.output
        assert [line for line in result.stderr.splitlines() if " written, " not in line] == [
            f"warning: deepdeblur is for small faces, and {which} not look like one; gpudeblur deblur is for other "
            "pictures"
        ]


@pytest.mark.gpu
@pytest.mark.usefixtures("full_float32")
def test_a_batch_on_a_gpu_equals_a_loop(cupy: Any, shipped: Path) -> None:
    pictures = [picture(i, (20, 26 + i % 2, 3)) for i in range(9)]
    for given in (pictures, [cupy.asarray(p) for p in pictures]):
        for result in gd.deblur_batch(given, method="deepdeblur", channel_axis=-1, device="cuda"):
            expected = gd.restore(pictures[result.index], "deepdeblur", channel_axis=-1, device="cpu")
            assert result.error is None
            assert result.image is not None
            np.testing.assert_allclose(to_host(result.image), expected.image, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 25}, "kernel_size is not known to method 'deepdeblur', got 25; leave it out"),
        ({"final": "tv"}, "final is not known to method 'deepdeblur', got 'tv'; leave it out"),
        ({"final": None}, "final is not known to method 'deepdeblur', got None; leave it out"),
        ({"prior": DarkChannel()}, "prior is not known to method 'deepdeblur', got DarkChannel("),
        ({"options": gd.TwoStepOptions()}, "options is not known to method 'deepdeblur', got TwoStepOptions("),
        ({"gamma": -1}, "gamma must be a positive number, got -1; 1 takes the picture as it is"),
        ({"method": "deepblur"}, "method must be one of 'two-step', 'deepdeblur'"),
    ],
)
def test_what_is_wrong_for_all_pictures_is_said_at_the_call(
    shipped: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        gd.deblur_batch([], **{"method": "deepdeblur"} | arguments)


def test_a_folder(shipped: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_image(folder / "a.png", COLOR)
    write_image(folder / "b.tif", COLOR[..., 0])
    write_image(folder / "c.png", COLOR, COLOR[..., 1])
    (folder / "d.png").write_bytes(b"hello")
    write_image(folder / "e.png", COLOR[:10])
    result = run("batch", folder, "-o", out, "--method", "deepdeblur", "--report", tmp_path / "r.csv")
    assert result.exit_code == 1, result.output
    rows = table(result)
    assert rows["written"].startswith("3 of 5 in ")
    d, e = rows["failed"].splitlines()
    assert d.startswith(f"{folder / 'd.png'} must be an image (PNG, JPEG, TIFF, ")
    assert e.startswith(f"{folder / 'e.png'}: image must have at least 16 x 16 pixels for a network, got 10 x 50")
    expected = gd.restore(COLOR, "deepdeblur", channel_axis=-1).image
    for name in ("a.png", "c.png"):
        np.testing.assert_allclose(read_image(out / name).pixels.astype(int), expected.astype(int), atol=1)
    np.testing.assert_array_equal(read_image(out / "c.png").alpha, COLOR[..., 1])
    assert read_image(out / "b.tif").pixels.ndim == 2


def test_options_that_a_network_does_not_have(shipped: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", COLOR)
    command = ("batch", tmp_path / "a.png", "-o", tmp_path / "out", "--method")
    fails(run(*command, "deepdeblur", "-k", "25"), "--kernel-size is not known to method 'deepdeblur', got 25")
    fails(
        run(*command, "deepdeblur", "--kernels-out", tmp_path / "k"),
        "--kernels-out needs a method that estimates the kernel, got 'deepdeblur'; leave it out",
    )
    fails(run(*command, "magic"), "--method must be one of 'two-step', 'deepdeblur'")
    assert not (tmp_path / "out").exists()


def test_masks(shipped: Path, device: NumpyDevice) -> None:
    """One for all pictures, one a picture, or masked arrays; a wrong one fails its picture only."""
    mask = np.ones((20, 26), bool)
    mask[:, 9] = mask[3:6, 12:15] = False
    spoiled = [np.where(mask[..., None], picture(i), np.float32(np.nan)) for i in range(4)]
    options: dict[str, Any] = {"method": "deepdeblur", "channel_axis": -1}
    expected = [gd.restore(image, "deepdeblur", channel_axis=-1, mask="nan") for image in spoiled]
    each: list[Any] = [mask, "nan", mask.copy(), mask]
    for where in ("cpu", "cuda"):
        for given in (mask, "nan", each):
            for result, alone in zip(
                gd.deblur_batch(spoiled, mask=given, device=where, **options), expected, strict=True
            ):
                check_equal(result, alone)
        wrong = [mask, mask[1:], None, mask & False]
        results = [*gd.deblur_batch(spoiled, mask=wrong, device=where, **options)]
        check_equal(results[0], expected[0])
        assert "mask must be like image, shape (20, 26), got shape (19, 26)" in str(results[1].error)
        assert "mask='nan' leaves such pixels out" in str(results[2].error)
        assert "mask must be True at some pixel" in str(results[3].error)
    for result, alone in zip(gd.deblur_batch([*map(np.ma.masked_invalid, spoiled)], **options), expected, strict=True):
        assert isinstance(result.image, np.ma.MaskedArray)
        np.testing.assert_allclose(result.image.data, alone.image, atol=1e-5)


def test_a_mask_at_the_command_line(shipped: Path, tmp_path: Path) -> None:
    mask = np.ones(COLOR.shape[:2], bool)
    mask[:, 9] = False
    write_image(tmp_path / "a.png", np.where(mask[..., None], COLOR, 255).astype(np.uint8))
    write_image(tmp_path / "mask.png", mask.astype(np.uint8))
    expected = gd.restore(COLOR, "deepdeblur", channel_axis=-1, mask=mask).image
    given = ("--mask", tmp_path / "mask.png")
    restore = ("restore", tmp_path / "a.png", "-o", tmp_path / "out.png", "--network", "deepdeblur")
    result = run(*restore, *given)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, expected)
    result = run("batch", tmp_path / "a.png", "-o", tmp_path / "out", "--method", "deepdeblur", *given)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(read_image(tmp_path / "out" / "a.png").pixels.astype(int), expected.astype(int), atol=1)
    write_image(tmp_path / "small.png", mask[1:].astype(np.uint8))
    fails(
        run(*restore, "--overwrite", "--mask", tmp_path / "small.png"),
        "--mask must have the size of the picture, 40 x 50, got 39",
    )
