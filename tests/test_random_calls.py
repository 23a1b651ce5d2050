"""A sample of `python -m bench random_calls`, which makes 5,000."""

from __future__ import annotations

import numpy as np
import pytest

from bench import random_calls

COUNT = 15 * len(random_calls.DOORS)


@pytest.mark.parametrize("seed", [11])
def test_random_calls_end_in_a_result_or_in_our_words(seed: int) -> None:
    names, outcomes = [*random_calls.DOORS], []
    for index in range(COUNT):
        name = names[index % len(names)]
        arguments, options = random_calls.random_call(np.random.default_rng([seed, index]), name)
        outcomes.append(random_calls.outcome(name, arguments, options))
        assert outcomes[-1] in ("accepted", "refused"), f"call {index} of {name}: {outcomes[-1]}"
    assert outcomes.count("accepted") > COUNT / 8


def test_the_bench_sees_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells our words from others', and a result that is not finite from one that is."""

    def call(function: object) -> str:
        monkeypatch.setitem(random_calls.DOORS, "deconvolve", function)
        return random_calls.outcome("deconvolve", (np.ones((9, 9)), np.ones((3, 3))), {})

    assert call(lambda image, kernel: image) == "accepted"
    assert call(lambda image, kernel: image * np.nan) == "not finite"
    assert call(lambda image, kernel: np.ones(3) @ np.ones(4)).startswith("ValueError: matmul")
    assert call(lambda image, kernel: random_calls.gd.deconvolve(image, "k.png")) == "refused"
    monkeypatch.setattr(random_calls, "SECONDS", 1)

    def endless(image: object, kernel: object) -> None:
        while True:
            pass

    assert call(endless) == "endless"
