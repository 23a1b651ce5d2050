"""Arrays of other libraries at the doors: torch tensors, and a stand-in for any array with DLPack."""

from __future__ import annotations

import inspect
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gpudeblur as gd
from gpudeblur import metrics, nonblind, restoration
from gpudeblur.numerics import interchange

torch = pytest.importorskip("torch")

IMAGE = np.random.default_rng(0).random((26, 30)).astype(np.float32)
KERNEL = np.ones((3, 3)) / 9
FAST = gd.TwoStepOptions(starts=("wide",))
CALLS: dict[str, Any] = {
    "deblur": lambda u, k: gd.deblur(u, 5, initial=None, options=FAST),
    "estimate_kernel": lambda u, k: gd.estimate_kernel(u, 5, options=FAST),
    "deconvolve": lambda u, k: gd.deconvolve(u, k, weight=0.01),
    "deconvolve mask": lambda u, k: gd.deconvolve(image=u, kernel=k, mask=u < 0.9),
    "nonblind": lambda u, k: nonblind.wiener(u, kernel=k, weight=0.01),
    "restoration": lambda u, k: restoration.unsupervised_wiener(u, k, rng=0)[0],
    "restore": lambda u, k: gd.restore(u, "deepdeblur").image,
}


@pytest.mark.filterwarnings("ignore:restore:UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_torch_in_torch_out_with_the_same_numbers(name: str) -> None:
    image, kernel = torch.from_numpy(IMAGE.copy()), torch.from_numpy(KERNEL)
    result, expected = CALLS[name](image, kernel), CALLS[name](IMAGE, KERNEL)
    if name == "deblur":
        assert result.info["confidence"] == expected.info["confidence"]
        assert isinstance(result.kernel, torch.Tensor)
        np.testing.assert_array_equal(result.kernel.numpy(), expected.kernel)
        result, expected = result.image, expected.image
    assert isinstance(result, torch.Tensor)
    assert result.device == image.device
    np.testing.assert_array_equal(result.numpy(), expected)
    np.testing.assert_array_equal(image.numpy(), IMAGE)  # whose memory the library has


def test_memory_is_shared_both_ways() -> None:
    tensor = torch.from_numpy(IMAGE.copy())
    array = interchange.to_native(tensor, "image")
    assert array.ctypes.data == tensor.data_ptr()
    assert interchange.to_library(array, torch).data_ptr() == tensor.data_ptr()
    assert interchange.to_library(array[::-1], torch)[0, 0] == array[-1, 0]  # torch has no such strides
    assert interchange.to_native(array, "image") is array


@pytest.mark.parametrize("shape", [(26, 30), (26, 30, 3)])
def test_images_of_pillow(shape: tuple[int, ...]) -> None:
    """Colors need no `channel_axis`; the result is an image, with a kernel of NumPy, and can be plotted and written."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    axis = None if len(shape) == 2 else -1
    expected = gd.deblur(pixels, 5, channel_axis=axis, options=FAST)
    result: Any = gd.deblur(Image.fromarray(pixels), 5, options=FAST)
    assert result.image.mode == ("L" if axis is None else "RGB")
    np.testing.assert_array_equal(np.asarray(result.image), expected.image)
    np.testing.assert_array_equal(result.kernel, expected.kernel)
    assert result._repr_html_().count("<img") == expected._repr_html_().count("<img")
    deep: Any = gd.deconvolve(Image.fromarray(np.full((26, 30), 40_000, np.uint16)), KERNEL, weight=0.01)
    assert deep.mode == "I;16"
    (in_batch,) = gd.deblur_batch([Image.fromarray(pixels)], 5, channel_axis=axis, options=FAST)
    np.testing.assert_array_equal(np.asarray(in_batch.image), expected.image)


def test_modes_of_pillow_that_hold_no_light() -> None:
    with pytest.raises(TypeError, match=r"image must be .* got one of Pillow's mode P; convert it, .*convert"):
        gd.estimate_noise(Image.new("P", (30, 26)))


class Strict:
    """An array that can nothing but DLPack and the array API's namespace."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __array_namespace__(self) -> Any:
        return types.SimpleNamespace(from_dlpack=Strict)


def test_any_library_with_dlpack() -> None:
    result: Any = gd.deconvolve(Strict(IMAGE), KERNEL, weight=0.01)
    assert isinstance(result, Strict)
    expected = gd.deconvolve(IMAGE, KERNEL, weight=0.01)
    np.testing.assert_array_equal(result.array, expected)
    # The image decides: a foreign kernel alone leaves the result NumPy's.
    np.testing.assert_array_equal(gd.deconvolve(IMAGE, Strict(KERNEL), weight=0.01), expected)
    assert isinstance(gd.estimate_noise(Strict(IMAGE)), float)
    assert metrics.psnr(Strict(IMAGE), IMAGE) == np.inf
    assert metrics.kernel_similarity(Strict(KERNEL), KERNEL) == pytest.approx(1)
    assert isinstance(gd.KernelField(Strict(np.ones((2, 2, 3, 3))), IMAGE.shape).kernels, np.ndarray)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.requires_grad_(), ValueError, "image must not require a gradient, ..., pass image.detach()"),
        (lambda t: t.bfloat16(), TypeError, "image must be an array that NumPy can share, got a torch.Tensor (..."),
        (lambda t: t.to_sparse(), TypeError, "image must be an array that NumPy can share, got a torch.Tensor (..."),
        (lambda t: t.to("meta"), TypeError, "image must be an array that NumPy can share, got a torch.Tensor (..."),
        (lambda t: t + 1j, TypeError, "image must have an integer or float dtype, got complex64; pass its real part"),
        (lambda t: "a.png", TypeError, "image must be a NumPy or CuPy array, got str; read the file with gpudeblur.re"),
        (lambda t: Path("a"), TypeError, "image must be a NumPy or CuPy array, got ...; read the file with gpudeblur."),
        (lambda t: t.tolist(), TypeError, "image must be a NumPy or CuPy array, got list; convert it with numpy.asarr"),
    ],
)
def test_what_cannot_be_shared_gets_the_way_out(change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message).replace(r"\.\.\.", ".*")):
        gd.deconvolve(change(torch.from_numpy(IMAGE.copy())), KERNEL)


def test_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    array = Strict(IMAGE)
    monkeypatch.setattr(Strict, "__dlpack_device__", lambda self: (10, 0))
    with pytest.raises(TypeError, match=r"^image must be on a CPU or an NVIDIA GPU, got .* device 10; move it to"):
        gd.deconvolve(array, KERNEL)
    monkeypatch.setattr(Strict, "__dlpack_device__", lambda self: (2, 0))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"^image is on a GPU and CuPy is not available, move it to the CPU; "):
        gd.deconvolve(array, KERNEL)


@pytest.mark.gpu
def test_cuda_tensors_go_through_cupy(cupy: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch without CUDA")
    image, kernel = torch.from_numpy(IMAGE).cuda(), torch.from_numpy(KERNEL).cuda()
    result: Any = gd.deconvolve(image, kernel, weight=0.01)
    assert result.device == image.device
    expected: Any = gd.deconvolve(cupy.asarray(IMAGE), cupy.asarray(KERNEL), weight=0.01)
    np.testing.assert_array_equal(result.cpu().numpy(), expected.get())
    blind = gd.deblur(image, 5, options=FAST)
    assert blind.image.device == blind.kernel.device == image.device
    assert blind.info["backend"] == "cupy"


def test_signatures_stay() -> None:
    """Of the public functions, for help() and editors; arguments too many are refused by the function."""
    assert list(inspect.signature(gd.deconvolve).parameters)[:2] == ["image", "kernel"]
    with pytest.raises(TypeError, match="positional argument"):
        gd.deconvolve(torch.from_numpy(IMAGE.copy()), KERNEL, "tv")  # type: ignore[call-arg]


def test_batches_of_tensors() -> None:
    """A stack, or pictures of several libraries; what cannot be shared is the error of its own result."""
    tensor, kernel_size = torch.from_numpy(IMAGE.copy()), 5
    expected = gd.deblur(IMAGE, kernel_size, options=FAST)
    mixed = [tensor, IMAGE, tensor.clone().requires_grad_()]
    results: list[Any] = list(gd.deblur_batch(mixed, kernel_size, options=FAST))
    assert [type(r.image) for r in results] == [torch.Tensor, np.ndarray, type(None)]
    assert str(results[2].error).startswith("image must not require a gradient")
    np.testing.assert_array_equal(results[0].image.numpy(), expected.image)
    np.testing.assert_array_equal(results[0].kernel.numpy(), expected.kernel)
    stack: Any = torch.stack([tensor, tensor])
    masked = gd.deblur_batch(stack, kernel_size, options=FAST, mask=stack < 2)
    assert [type(r.kernel) for r in masked] == [torch.Tensor] * 2
