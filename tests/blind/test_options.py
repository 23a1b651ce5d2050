"""The options: every rule has its message; nothing changes afterwards."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

import gpudeblur as gd
from gpudeblur import TwoStepOptions
from gpudeblur.priors import L0Intensity

POSITIVE = ["gradient_weight", "gradient_weight_min", "smooth_sigma", "refine_weight", "refine_beta"]
NOT_NEGATIVE = ["smooth_weight", "kernel_weight", "support_margin"]
AT_LEAST_ONE = ["gradient_weight_decay", "iterations", "finest_iterations", "kernel_iterations", "finest_candidates"]
SHARES = ["kernel_threshold", "kernel_component", "finest_threshold"]


@dataclasses.dataclass
class Unhashable:
    weight: float = 1.0

    def step(self, latent: Any, ratio: float) -> Any:
        return latent


NAMES = "wide, relaxed, sparse, compact, text"
NAN = float("nan")

REFUSED: list[tuple[str, Any, str]] = [
    *((name, value, "be positive") for name in POSITIVE for value in (0, -1e-9, NAN)),
    *((name, value, "not be negative") for name in NOT_NEGATIVE for value in (-2, NAN)),
    *((name, value, "be at least 1") for name in AT_LEAST_ONE for value in (0, 0.5, -3, NAN)),
    *((name, value, "be in [0, 1)") for name in SHARES for value in (-0.1, 1, 2.0, NAN)),
    *(
        ("edge_fraction", value, "be two numbers in (0, 1]")
        for value in ((0.0, 0.2), (0.1, 1.1), (-1, 1), (0.1,), (0.1, 0.2, 0.3), (), (NAN, 0.1))
    ),
    *(
        ("iteration_threshold", value, "be two numbers in [0, 1)")
        for value in ((-0.1, 0.2), (0.1, 1.0), (0.1,), 0.1, (NAN, 0.1))
    ),
    *(("iteration_threshold", value, "be both 0 or both above 0") for value in ((0.0, 0.1), (0.1, 0))),
    ("finest_beta_max", 0.0019, "exceed 2 finest_gradient_weight"),
    ("beta_max", 0.0019, "exceed 2 gradient_weight"),
    ("prior", Unhashable(), "be hashable, as a frozen dataclass is"),
    *(
        ("finest_gradient_weight", value, "be two positive numbers")
        for value in ((0, 1e-3), (1e-3, -1), (1e-3,), 1e-3, (NAN, 1), (float("inf"), 1))
    ),
    *(("starts", value, f"be names out of {NAMES}") for value in ((), ("narrow",), "wide", (1,), None)),
    *(("beta_rate", value, "be above 1") for value in (1, 0.5, -2, NAN)),
    *(("beta_max", value, "exceed 2 gradient_weight") for value in (0, 1e-9, -1, NAN)),
    *(("scale_ratio", value, "be in (0, 1)") for value in (0, 1, 1.5, -0.5, NAN)),
    *(("smallest_kernel", value, "be at least 3") for value in (1, 2, 0, -3)),
    *(("support_margin", value, "be even") for value in (1, 7)),
    *(("kernel_solver", value, "be 'nnls' or 'cg'") for value in ("fft", "CG", None)),
    *(("prior", value, "have a weight and a step (gpudeblur.priors.Prior)") for value in ("dark", 1, L0Intensity)),
    *(("dtype", value, "be 'float32' or 'float64'") for value in ("float16", "f4", None)),
]


@pytest.mark.parametrize(("name", "value", "rule"), REFUSED)
def test_a_value_that_breaks_a_rule(name: str, value: Any, rule: str) -> None:
    message = f"{name} must {rule}, got {value!r}; leave it out for the default"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TwoStepOptions(**{name: value})


def test_beta_max_is_held_against_the_gradient_weight_that_comes_with_it() -> None:
    assert TwoStepOptions(gradient_weight=10.0, beta_max=21.0).beta_max == 21
    with pytest.raises(ValueError, match=r"^beta_max must exceed 2 gradient_weight, got 19\.0; "):
        TwoStepOptions(gradient_weight=10.0, beta_max=19.0)


ACCEPTED: list[tuple[str, Any]] = [
    ("smooth_weight", 0),
    ("kernel_weight", 0.0),
    ("support_margin", 0),
    ("gradient_weight_decay", 1),
    ("iteration_threshold", (0.99, 0.01)),
    ("finest_gradient_weight", (1e-9, 1.0)),
    ("starts", ("text", "wide")),
    ("finest_candidates", 1),
    ("prior", L0Intensity()),
    ("finest_threshold", 0),
    ("finest_iterations", 1),
    ("cautious", False),
    ("iterations", 1),
    ("kernel_iterations", 1),
    ("kernel_threshold", 0),
    ("kernel_component", 0.99),
    ("edge_fraction", (1, 1)),
    ("smallest_kernel", 3),
    ("kernel_solver", "cg"),
    ("dtype", "float64"),
    ("refine", False),
]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_the_edges_of_the_rules(name: str, value: Any) -> None:
    assert getattr(TwoStepOptions(**{name: value}), name) == value


def test_every_option_that_is_a_number_has_a_rule() -> None:
    """A new one needs its entry above, and its test in test_blind.py that it matters."""
    ruled = {name for name, _, _ in REFUSED} | {"refine", "cautious", "finest_prior"}
    assert {field.name for field in dataclasses.fields(TwoStepOptions)} == ruled


def test_options_are_frozen_comparable_and_keyword_only() -> None:
    options = TwoStepOptions(iterations=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.iterations = 4  # type: ignore[misc]
    assert options == TwoStepOptions(iterations=3) != TwoStepOptions()
    assert hash(options) == hash(TwoStepOptions(iterations=3))
    assert dataclasses.replace(options, iterations=5).iterations == 5
    with pytest.raises(ValueError, match=r"^iterations must be at least 1, got 0; "):
        dataclasses.replace(options, iterations=0)
    with pytest.raises(TypeError, match="positional"):
        TwoStepOptions(1e-3)  # type: ignore[misc]
    with pytest.raises(TypeError, match="unexpected keyword argument 'lamda'"):
        TwoStepOptions(lamda=1e-3)  # type: ignore[call-arg]


def test_beta_max_is_held_against_the_last_gradient_weight_too() -> None:
    with pytest.raises(ValueError, match=r"^finest_beta_max must exceed 2 finest_gradient_weight, got 0\.1; "):
        TwoStepOptions(finest_beta_max=0.1, finest_gradient_weight=(0.06, 0.05))


def test_they_are_public() -> None:
    assert gd.TwoStepOptions is TwoStepOptions
