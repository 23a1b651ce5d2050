"""`deblur_batch` with `shared_kernel` and `initial`: each item is what `deblur` makes of it alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from laws import assert_same
from test_gpu import NumpyDevice, on_device
from test_gpu import device as device
from test_iterator import QUICK, Source, picture, quick, wait_until_full
from test_iterator import no_thread_is_left as no_thread_is_left

import gpudeblur as gd
from gpudeblur.synthesis import trajectory_kernel

SEVERAL = replace(QUICK, starts=("wide", "compact"))
KERNEL = trajectory_kernel(7, rng=2)
SHARED: dict[str, Any] = {"options": QUICK, "shared_kernel": True}


def burst(seed: int, shape: tuple[int, ...] = (3, 24, 32), dtype: str = "float32") -> np.ndarray:
    return picture(seed, shape, dtype)


def check_equal_arrays(result: gd.BatchResult, alone: gd.BlindResult) -> None:
    """Also where `info` holds arrays."""
    assert result.error is None
    assert_same(result.kernel, alone.kernel)
    if alone.image is not None:
        assert_same(result.image, alone.image)
    assert result.info.keys() == alone.info.keys()
    infos: list[dict[str, Any]] = [dict(result.info), dict(alone.info)]
    for name in infos[0].keys() - {"seconds", "seconds_kernel"}:
        np.testing.assert_array_equal(infos[0][name], infos[1][name])


@pytest.mark.parametrize("run", [quick, on_device])
@pytest.mark.parametrize("axis", [None, 1])
def test_bursts_equal_a_loop(device: NumpyDevice, run: Callable[..., Any], axis: int | None) -> None:
    """Of several lengths, sides and dtypes, with bad ones among them."""
    shapes = [(3, 24, 32), (3, 24, 32), (2, 28, 32), (1, 24, 32)]
    if axis is not None:
        shapes = [tuple(np.insert(shape, axis % 4, 3)) for shape in shapes]
    bursts = [burst(i, shape, ("float32", "uint8")[i // 3]) for i, shape in enumerate(shapes)]
    bursts.insert(1, np.full_like(bursts[0], np.nan))
    arguments: dict[str, Any] = SHARED | {"channel_axis": axis, "final": "hyper-laplacian", "kernel_size": 5}
    results = list(run(iter(bursts), **arguments))
    assert [r.index for r in results] == list(range(5))
    assert "image must be finite, got nan" in str(results.pop(1).error)
    del bursts[1]
    for result, item in zip(results, bursts, strict=True):
        check_equal_arrays(result, gd.deblur(item, **arguments))
        assert len(result.kernel) == len(item)
        assert_same(result.kernel[0], result.kernel[-1])


@pytest.mark.filterwarnings("ignore:kernel_size=None found kernels that touch the border:RuntimeWarning")
def test_bursts_without_a_kernel_size_and_with_masks() -> None:
    bursts = np.stack([burst(i) for i in range(2)])
    for result, item in zip(quick(bursts, None, **SHARED), bursts, strict=True):
        check_equal_arrays(result, gd.deblur(item, None, final=None, **SHARED))
    masks = [np.random.default_rng(i).random((3, 24, 32)[i:]) > 0.1 for i in range(2)]
    for result, item, mask in zip(quick(bursts, mask=masks, **SHARED), bursts, masks, strict=True):
        check_equal_arrays(result, gd.deblur(item, 5, mask=mask, final=None, **SHARED))
    (result, _) = quick(bursts, mask=np.stack([masks[0]] * 2), **SHARED)
    check_equal_arrays(result, gd.deblur(bursts[0], 5, mask=masks[0], final=None, **SHARED))


@pytest.mark.parametrize(("run", "shape"), [(quick, (24, 32)), (on_device, (2, 24, 32))])
def test_an_initial_kernel_for_all_items(device: NumpyDevice, run: Callable[..., Any], shape: tuple[int, ...]) -> None:
    items = [picture(i, shape) for i in range(2)]
    arguments: dict[str, Any] = {"kernel_size": None, "options": SEVERAL, "initial": 3 * KERNEL}
    arguments["shared_kernel"] = len(shape) == 3
    for result, item in zip(run(items, **arguments), items, strict=True):
        check_equal_arrays(result, gd.deblur(item, final=None, **arguments))
        assert result.kernel.shape[-2:] == KERNEL.shape


@pytest.mark.parametrize("run", [quick, on_device])
def test_what_is_no_burst_is_its_own_error(device: NumpyDevice, run: Callable[..., Any]) -> None:
    good = burst(0)
    rule = r"^pictures must be bursts \(N, H, W\), each one array, for shared_kernel=True, got "
    items: dict[str, Any] = {
        r"shape \(24, 32\); a single picture \(H, W\) is picture\[None\], or leave shared_kernel out": good[0],
        r"shape \(1, 3, 24, 32\); a single picture": good[None],
        r"a list of shapes \(20, 32\), \(24, 32\); crop its pictures to one shape": [good[0], good[1, :20]],
        r"a list of shapes \(24, 32\); join its pictures by numpy\.stack": list(good),
    }
    results = list(run([item for bad in items.values() for item in (bad, good)], **SHARED))
    alone = gd.deblur(good, 5, final=None, **SHARED)
    for message, bad, after in zip(items, results[::2], results[1::2], strict=True):
        assert re.search(rule + message, str(bad.error))
        check_equal_arrays(after, alone)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pictures": burst(0)}, ValueError, r"at least 4 axes as a stack, \(n, N, H, W\), got 3 .*put a single burst"),
        ({"mask": np.ones((1, 3, 24, 32, 3), bool)}, ValueError, r"one a burst, \(n, H, W\) or \(n, N, H, W\), got"),
        ({"shared_kernel": 1}, TypeError, "shared_kernel must be True or False, got 1; leave it out for False"),
        ({"method": "deepdeblur"}, ValueError, "shared_kernel is not known to method 'deepdeblur', got True; leave"),
        ({"initial": KERNEL}, ValueError, r"initial must have the kernel_size \(5, 5\), got \(7, 7\); leave kernel"),
    ],
)
def test_wrong_for_all_bursts_is_said_at_the_call(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    defaults: dict[str, Any] = SHARED | {"pictures": Source([]), "kernel_size": 5}
    if "method" in arguments:
        defaults |= {"kernel_size": None, "options": None}
    with pytest.raises(error, match=message):
        gd.deblur_batch(**defaults | arguments)


@pytest.mark.parametrize(("run", "limit"), [(quick, 2), (on_device, 4)])
@pytest.mark.parametrize("axis", [None, -1])
def test_few_bursts_are_in_memory(device: NumpyDevice, run: Callable[..., Any], limit: int, axis: int | None) -> None:
    """Two for each worker, four on a GPU, which need not wait for more to fill a group."""
    read: list[int] = []

    def bursts() -> Iterator[np.ndarray]:
        for i in range(12):
            read.append(i)
            yield burst(i, (2, 24, 32) if axis is None else (2, 24, 32, 2))

    with run(bursts(), workers=1, batch_size=8, channel_axis=axis, **SHARED) as results:
        next(results)
        wait_until_full(results)
        assert len(read) <= limit + 1  # one is taken, and none is out of the iterator before there is room
        assert [r.index for r in results] == list(range(1, 12))
