"""The judge: its forward pass without torch, its losses, and its training from groups of candidates."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpudeblur.networks.judge.forward import judge
from gpudeblur.numerics.arrays import to_host
from gpudeblur.numerics.convolution import strided_convolution

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
needs_torch = pytest.mark.skipif(torch is None, reason="needs PyTorch")


def explained(shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """(latent, blurred, residual)."""
    random = np.random.default_rng(seed)
    return [scale * random.random(shape, np.float32) for scale in (1, 1, 0.02)]


@pytest.mark.parametrize(("shape", "dtype"), [((7, 6), np.float64), ((1, 1), np.float64), ((33, 64), np.float32)])
def test_strided_convolution_is_the_sum_over_its_taps(xp: Any, shape: tuple[int, int], dtype: Any) -> None:
    random, (h, w) = np.random.default_rng(0), shape
    u, weights, bias = random.normal(size=(2, 3, *shape)), random.normal(size=(3, 9, 4)), random.normal(size=4)
    padded = np.pad(u, ((0, 0), (0, 0), (1, 2), (1, 2)))
    expected = np.zeros((2, 4, (h + 1) // 2, (w + 1) // 2)) + bias[:, None, None]
    for tap in range(9):
        moved = padded[..., tap // 3 :, tap % 3 :][..., :h:2, :w:2]
        expected += np.einsum("nchw,cf->nfhw", moved, weights[:, tap])
    out = strided_convolution(*(xp.asarray(array.astype(dtype)) for array in (u, weights, bias)))
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(to_host(out), np.maximum(expected, 0), atol=tolerance, rtol=tolerance)


@needs_torch
@pytest.mark.parametrize("shape", [(2, 83, 63), (1, 128, 97), (1, 5, 3)])
def test_the_forward_pass_is_that_of_the_network(xp: Any, shape: tuple[int, ...]) -> None:
    from gpudeblur.networks.catalog import load_network

    inputs = explained(shape)
    expected = load_network("judge")(*map(torch.from_numpy, inputs)).numpy()
    logits = to_host(judge(*map(xp.asarray, inputs)))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_batch_is_a_loop_and_nan_stays_with_its_image() -> None:
    inputs = explained((4, 40, 51))
    inputs[0][2] = np.nan
    together = judge(*inputs)
    for i in range(4):
        np.testing.assert_array_equal(judge(*(array[i : i + 1] for array in inputs)), together[i : i + 1])
    assert np.isnan(together).tolist() == [False, False, True, False]


def test_the_level_of_the_image_does_not_count(xp: Any) -> None:
    latent, blurred, residual = map(xp.asarray, explained((2, 40, 51)))
    a, b = (to_host(judge(latent + level, blurred + level, residual)) for level in (0, 0.5))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def groups_of(count: int, shape: tuple[int, int], candidates: int = 5, seed: int = 0) -> Any:
    """Groups in which the latent image of a candidate with a larger error is rougher."""
    from gpudeblur.networks.judge.training import Groups

    random = np.random.default_rng(seed)
    log_ratio = random.uniform(0, 2.3, (count, candidates)).astype(np.float32)
    blurred = random.random((count, *shape), np.float32)
    noise = random.normal(size=(count, candidates, *shape)).astype(np.float32)
    latent = blurred[:, None] + 0.3 * log_ratio[..., None, None] * noise
    images = [torch.from_numpy(array).half() for array in (blurred, latent, 0.01 * noise)]
    return Groups(images[0], images[1], images[2], torch.from_numpy(log_ratio), torch.zeros(log_ratio.shape))


@needs_torch
def test_the_loss_rewards_the_order_of_the_errors() -> None:
    from gpudeblur.networks.judge.training import excess_ratio, ranking_loss

    log_ratio = torch.tensor([[0.0, 0.1, 1.0, 2.0], [0.5, 0.0, 9.0, 8.0]])
    right, wrong = -log_ratio, log_ratio
    assert ranking_loss(5 * right, log_ratio) < ranking_loss(right, log_ratio) < ranking_loss(wrong, log_ratio)
    assert float(excess_ratio(right, log_ratio)) == 0
    # The errors 8 and 9 are beyond the limit, so they are equally wrong.
    assert float(excess_ratio(wrong, log_ratio)) == pytest.approx((2 + np.log(10)) / 2)
    shifted = float(ranking_loss(right + 3, log_ratio))
    assert shifted == pytest.approx(float(ranking_loss(right, log_ratio)), rel=1e-5)


@pytest.mark.training
@needs_torch
def test_training_from_files_learns_to_rank(tmp_path: Path) -> None:
    from gpudeblur.networks.blocks import initialized
    from gpudeblur.networks.judge.network import Judge
    from gpudeblur.networks.judge.training import SUFFIX, JudgeConfig, JudgeTask, read_groups
    from gpudeblur.networks.training import trainer

    for number, shape in enumerate([(24, 20), (31, 17)]):
        groups_of(12, shape, seed=number).write(tmp_path / f"{number}{SUFFIX}")
    folder = read_groups(tmp_path)
    assert [tuple(groups.latent.shape) for groups in folder.images] == [(12, 5, 24, 20), (12, 5, 31, 17)]
    network = initialized(lambda: Judge((4, 8), 8), 0)
    task = JudgeTask(network, folder.images, JudgeConfig(batch=8, candidates=4))
    config = trainer.TrainConfig(steps=40, rate=1e-2, warm_up=5, average=0.0)
    before = trainer.validate(task, 5)
    trainer.train(task, config, tmp_path / "state.safetensors")
    after = trainer.validate(task, 5)
    assert after["excess"] < 0.4 * before["excess"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"must hold groups .* got none"):
        read_groups(tmp_path / "empty")
