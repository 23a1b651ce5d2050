"""The options of the method and the arguments of a call: every rule has its message, before a pixel is read."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gpudeblur as gd
from gpudeblur import TwoStepOptions
from gpudeblur.blind.options import Settings
from gpudeblur.nonblind.final import FINALS
from gpudeblur.priors import DarkChannel, L0Intensity

# ---- the options of the method

POSITIVE = ["gradient_weight", "gradient_weight_min", "smooth_sigma", "refine_weight", "refine_beta"]
NOT_NEGATIVE = ["smooth_weight", "kernel_weight"]
COUNTS = ["iterations", "finest_iterations", "kernel_iterations", "finest_candidates"]
FRACTIONS = ["kernel_threshold", "kernel_component", "finest_threshold"]


@dataclasses.dataclass
class Unhashable:
    weight: float = 1.0

    def step(self, latent: Any, ratio: float) -> Any:
        return latent


NAMES = "wide, relaxed, sparse, compact, text, network"
NAN = float("nan")

REFUSED: list[tuple[str, str, tuple[Any, ...]]] = [
    *((name, "be positive", (0, -1e-9, NAN)) for name in POSITIVE),
    *((name, "not be negative", (-2, NAN)) for name in NOT_NEGATIVE),
    ("support_margin", "not be negative", (-2,)),
    ("gradient_weight_decay", "be at least 1", (0, 0.5, -3, NAN)),
    *((name, "be at least 1", (0, -3)) for name in COUNTS),
    *((name, "be an integer", (0.5, 1.5, NAN, "8")) for name in COUNTS),
    *((name, "be in [0, 1)", (-0.1, 1, 2.0, NAN)) for name in FRACTIONS),
    (
        "edge_fraction",
        "be two numbers in (0, 1]",
        ((0.0, 0.2), (0.1, 1.1), (-1, 1), (0.1,), (0.1, 0.2, 0.3), (), (NAN, 0.1)),
    ),
    ("iteration_threshold", "be two numbers in [0, 1)", ((-0.1, 0.2), (0.1, 1.0), (0.1,), 0.1, (NAN, 0.1))),
    ("iteration_threshold", "be both 0 or both above 0", ((0.0, 0.1), (0.1, 0))),
    (
        "finest_gradient_weight",
        "be two positive numbers",
        ((0, 1e-3), (1e-3, -1), (1e-3,), 1e-3, (NAN, 1), (float("inf"), 1)),
    ),
    ("finest_beta_max", "exceed 2 finest_gradient_weight", (0.0019,)),
    ("starts", f"be names out of {NAMES}", ((), ("narrow",), "wide", (1,), None)),
    ("beta_rate", "be above 1", (1, 0.5, -2, NAN)),
    ("beta_max", "exceed 2 gradient_weight", (0, 0.0019, -1, NAN)),
    ("scale_ratio", "be in (0, 0.95]", (0, 0.96, 1, 1.5, -0.5, NAN)),
    ("smallest_kernel", "be at least 3", (1, 2, 0, -3)),
    ("smallest_kernel", "be odd", (4,)),
    ("support_margin", "be even", (1, 7)),
    ("gradient_weight_min", "not exceed gradient_weight", (1.0,)),
    ("smooth_weight", "be finite", (float("inf"),)),
    ("kernel_solver", "be 'nnls' or 'cg'", ("fft", "CG", None)),
    ("prior", "have a weight and a step (gpudeblur.priors.Prior)", ("dark", 1, L0Intensity)),
    ("prior", "be hashable, as a frozen dataclass is", (Unhashable(),)),
    *((name, "be True or False", (1, None)) for name in ("finest_prior", "refine")),
    ("dtype", "be 'float32' or 'float64'", ("float16", "f4", None)),
    ("strength", "be a number in [0, 1]", (-0.1, 1.1, "half", True, NAN)),
]


@pytest.mark.parametrize(("name", "rule", "values"), REFUSED)
def test_a_value_that_breaks_a_rule_is_refused(name: str, rule: str, values: tuple[Any, ...]) -> None:
    for value in values:
        message = f"{name} must {rule}, got {value!r}; leave it out for the default"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            TwoStepOptions(**{name: value})


@pytest.mark.parametrize(
    ("beta_max", "weight"), [("beta_max", "gradient_weight"), ("finest_beta_max", "finest_gradient_weight")]
)
def test_beta_max_is_compared_with_the_weight_beside_it(beta_max: str, weight: str) -> None:
    value: Any = (9.0, 10.0) if weight.startswith("finest") else 10.0
    assert getattr(TwoStepOptions(**{weight: value, beta_max: 21.0}), beta_max) == 21
    with pytest.raises(ValueError, match=rf"^{beta_max} must exceed 2 {weight}, got 19\.0; "):
        TwoStepOptions(**{weight: value, beta_max: 19.0})


def test_a_value_at_the_edge_of_a_rule_is_accepted() -> None:
    edges: dict[str, Any] = dict.fromkeys(("smooth_weight", "kernel_weight", "support_margin", "kernel_threshold"), 0)
    edges |= dict.fromkeys((*COUNTS, "gradient_weight_decay"), 1)
    edges |= {"finest_threshold": 0, "kernel_component": 0.99, "edge_fraction": (1, 1)}
    edges |= {"iteration_threshold": (0.99, 0.01), "finest_gradient_weight": (1e-9, 1.0), "smallest_kernel": 3}
    edges |= {"starts": ("text", "wide"), "prior": L0Intensity(), "kernel_solver": "cg", "dtype": "float64"}
    edges |= {"refine": False, "finest_prior": True}
    for name, value in edges.items():
        assert getattr(TwoStepOptions(**{name: value}), name) == value


def test_every_option_has_a_rule() -> None:
    """A new one needs its entry above, and one in test_deblur.py that it matters."""
    names = {name for name, *_ in REFUSED} | {"refine"}
    assert {field.name for field in dataclasses.fields(TwoStepOptions)} == names


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
        TwoStepOptions(1e-3)  # type: ignore[call-arg, arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'lamda'"):
        TwoStepOptions(lamda=1e-3)  # type: ignore[call-arg]


# ---- the arguments of a call


class Unreadable:
    """An image that must not be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the image was read: {name}")


def unreadable_images() -> Iterator[Any]:
    raise AssertionError("the images were read")
    yield


CALLS: dict[str, Callable[..., Any]] = {
    "deblur": lambda *args, **more: gd.deblur(Unreadable(), *args, **more),
    "estimate_kernel": lambda *args, **more: gd.estimate_kernel(Unreadable(), *args, **more),
    "deblur_batch": lambda *args, **more: gd.deblur_batch(unreadable_images(), *args, **more),
}
KNOWN_FINALS = ", ".join(map(repr, FINALS))
NO_GAMMA = "gamma must be a positive number, got {!r}; 1 is linear, photos have about 2.2, 'auto' chooses between them"
REFUSED_ARGUMENTS: list[tuple[str, Any, type[Exception], str]] = [
    ("kernel_size", 24, ValueError, "kernel_size must be odd, got 24; use 23 or 25"),
    ("kernel_size", "25", TypeError, "kernel_size must be an odd integer or a pair of them, got '25' (str); use for"),
    ("channel_axis", 1.0, TypeError, "channel_axis must be an integer or None, got 1.0 (float); use -1 for (H, W, C)"),
    ("device", "gpu", ValueError, "device must be None, 'cpu', 'cuda' or 'auto', got 'gpu'"),
    ("device", 0, ValueError, "device must be None, 'cpu', 'cuda' or 'auto', got 0"),
    ("method", "magic", ValueError, "method must be one of 'two-step'"),  # and for `deblur_batch` the networks
    *(("final", value, ValueError, f"final must be one of {KNOWN_FINALS}, got {value!r}") for value in ("magic", True)),
    *(("gamma", value, ValueError, NO_GAMMA.format(value)) for value in (0, -2.2, NAN, float("inf"), "2.2", None)),
    ("prior", "dark", ValueError, "prior must have a weight and a step (gpudeblur.priors.Prior), got 'dark'; leave"),
    ("options", {"iterations": 3}, TypeError, "options must be a TwoStepOptions, got dict; name its fields in one"),
    ("callback", 3, TypeError, "callback must be "),
]


@pytest.mark.parametrize(
    ("call", "name", "value", "error", "message"),
    [(call, *case) for call in CALLS for case in REFUSED_ARGUMENTS if (call, case[0]) != ("estimate_kernel", "final")],
)
def test_arguments_are_refused_before_a_pixel_is_read(
    call: str, name: str, value: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        CALLS[call](**{"kernel_size": 9} | {name: value})


@pytest.mark.parametrize("call", CALLS)
def test_a_prior_is_given_once(call: str) -> None:
    options = TwoStepOptions(prior=L0Intensity())
    with pytest.raises(ValueError, match=r"^prior must be given once, got DarkChannel\(.*; leave one out$"):
        CALLS[call](9, prior=DarkChannel(), options=options)


@pytest.mark.parametrize("call", CALLS)
def test_there_are_no_other_arguments(call: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'iterations'"):
        CALLS[call](9, iterations=3)
    with pytest.raises(TypeError, match="positional argument"):
        CALLS[call](9, None)


def test_settings_fill_in_the_defaults() -> None:
    def settings(prior: Any, options: Any) -> Settings:
        return Settings.of((9, 7), -1, None, "two-step", None, 1.0, prior, options)

    assert settings(None, None).options == TwoStepOptions()
    assert settings(None, None).kernel_size == (9, 7)
    prior = L0Intensity()
    for options in (None, TwoStepOptions(), TwoStepOptions(prior=prior)):
        assert settings(prior, options).options == TwoStepOptions(prior=prior)
