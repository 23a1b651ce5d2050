"""`device`, and `measure`, which times work by pytest-benchmark and holds it against a bar."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_benchmark.logger import PytestBenchmarkWarning

import gpudeblur as gd
from bench.device import Cpu, Cuda
from bench.evaluate import Row, device_name, processor_name, provenance, record
from bench.gpu_report import best_bars, verdict

TINY = (40, 33), 9
QUICK: Row = {"iterations": 1, "kernel_iterations": 2, "beta_max": 0.1, "finest_beta_max": 0.1, "finest_iterations": 1}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gpudeblur's benches of speed")
    group.addoption("--device", choices=["cpu", "cuda"], default="cpu")
    group.addoption("--smallest", action="store_true", help="the smallest case of each bench, once: does it run?")
    group.addoption("--seconds", type=float, default=float("inf"), help="benches that would begin later are skipped")


def pytest_configure(config: pytest.Config) -> None:
    warnings.filterwarnings("default", category=PytestBenchmarkWarning)  # an error by the tests' configuration
    config.bars, config.begin = [], time.monotonic()  # type: ignore[attr-defined]
    try:
        config.device = {"cpu": Cpu, "cuda": Cuda}[config.getoption("--device")]()  # type: ignore[attr-defined]
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    device = config.device  # type: ignore[attr-defined]
    for item in items:
        timer = getattr(item.module, "TIMER", None) if device.name == "cpu" else None  # type: ignore[attr-defined]
        item.add_marker(pytest.mark.benchmark(timer=timer or device.timer))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Row) -> None:
    """What a figure needs to be repeated, and not the machine's name."""
    machine_info.pop("node", None)
    machine_info |= {"versions": provenance()["versions"], "processor": processor_name()}
    if config.device.name == "cuda":  # type: ignore[attr-defined]
        machine_info["gpu"] = device_name()


def pytest_benchmark_update_json(output_json: Row) -> None:
    output_json["load_average"] = os.getloadavg()[0]
    for bench in output_json["benchmarks"]:
        bench["stats"].pop("data", None)  # each round; the statistics are enough


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for row in best_bars(config.bars):  # type: ignore[attr-defined]
        terminalreporter.write_line(verdict(row))


def line(row: Row) -> None:
    """At once and to $GPUDEBLUR_RESULTS, for a run that may be killed before pytest-benchmark writes its JSON."""
    if "GPUDEBLUR_RESULTS" in os.environ:
        record("speed", {"platform": platform.platform(), **row})


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Cpu]:
    yield request.config.device  # type: ignore[attr-defined]
    request.config.device.free()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def smallest(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--smallest")


@pytest.fixture(scope="session")
def rates(request: pytest.FixtureRequest, smallest: bool) -> tuple[float, float]:
    """(bytes, operations) a second of a copy and of a matrix product."""
    device = request.config.device  # type: ignore[attr-defined]
    if device.name == "cpu":
        pytest.skip("needs --device cuda")
    return device.rates(*((1 << 10, 16) if smallest else (1 << 28, 8192)))


@pytest.fixture
def options(smallest: bool) -> Callable[[str], gd.TwoStepOptions]:
    """TwoStepOptions by name: "defaults", or "one start"."""
    named: Row = {"defaults": {}, "one start": {"starts": ("wide",)}}
    return lambda name: gd.TwoStepOptions(**named[name], **(QUICK if smallest else {}))


class Measure:
    def __init__(self, benchmark: Any, config: Any, smallest: bool) -> None:
        self.benchmark, self.config, self.device, self.smallest = benchmark, config, config.device, smallest

    def __call__(
        self,
        work: Callable[[], Any],
        group: str,
        *,
        pictures: int = 1,
        calls: int = 1,
        budget: float = 2.0,
        **facts: Any,
    ) -> float:
        """The median of the seconds of `work`; `pictures` pass through it, or the same is done `calls` times in it.

        As many rounds as fit into the budget in seconds, 3 to 50, after calls that compile and load; one where a call
        takes longer than five budgets.
        """
        self.skip_if_late()
        for _ in range(self.device.warm_up):
            work()
        begin = time.perf_counter()
        if not self.smallest:
            work()
        seconds = time.perf_counter() - begin
        rounds = 1 if self.smallest or seconds > 5 * budget else int(min(50, max(3, budget / seconds)))
        self.benchmark.group = group
        self.benchmark.pedantic(work, rounds=rounds)
        if self.benchmark.stats is None:  # --benchmark-disable
            return float("nan")
        median = self.benchmark.stats.stats.median / calls
        self.benchmark.extra_info |= {"pictures_per_second": pictures / median} if pictures > 1 else {}
        self.benchmark.extra_info |= facts
        line({"case": self.benchmark.name, "group": group, "ms": 1e3 * median, **self.benchmark.extra_info})
        return median

    def skip_if_late(self) -> None:
        if time.monotonic() - self.config.begin > self.config.getoption("--seconds"):
            pytest.skip("the time is up")

    def bar(self, what: str, measured: float, limit: float | None, *, least: bool = False) -> None:
        """`measured` may be at most `limit`, or at least; of several of one name the best counts."""
        sign = ">=" if least else "<="
        row: Row = {"bar": what, "limit": "none" if limit is None else f"{sign} {limit:g}", "measured": measured}
        row["holds"] = None if limit is None else bool(measured >= limit if least else measured <= limit)
        if not self.smallest:
            self.config.bars.append(row)
            line(row)


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest, smallest: bool) -> Measure:
    return Measure(benchmark, request.config, smallest)
