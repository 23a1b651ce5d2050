# What a developer types; README, CONTRIBUTING and .ci/run use the same targets.
#
#   make demo         install the package and run its demo
#   make test         quick tests
#   make test-all     ruff, mypy and every test but the long trainings, the examples in the docstrings included
#   make test-training  the long trainings of networks, which test-all leaves out
#   make test-gpu     what needs an NVIDIA GPU; no skip passes
#   make test-floors  the lowest versions that pyproject.toml allows, on the lowest Python
#   make test-napari  the plugin of napari-gpudeblur/, which needs a virtual display (Debian: xvfb, libxcb-icccm4,
#                     libxcb-keysyms1, libxcb-cursor0, libxkbcommon-x11-0, libegl1, libgl1-mesa-dri)
#   make docs         the documentation with its gallery, docs/_build/html
#   make doctest      the examples in the docstrings
#   make lint, make bench (the speed benchmarks)
#
# VENV=folder and PYTHON=python3.12 choose another environment and interpreter.

PYTHON ?= python3
VENV ?= .venv
PYTHON_LOWEST ?= python3.11
VENV_LOWEST ?= .venv-lowest
VENV_NAPARI ?= .venv-napari
VIRTUAL_DISPLAY ?= xvfb-run -a

RUN = $(VENV)/bin/python -m
PIP_INSTALL = $(RUN) pip install --quiet --no-compile
READY = $(VENV)/ready

# Modules are compiled when they are first imported, a quarter of those installed, and stay so for all later processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo lint test test-all test-training test-gpu test-floors test-napari bench docs doctest

demo: $(VENV)/bin/gpudeblur
	$(VENV)/bin/gpudeblur demo

$(VENV)/bin/gpudeblur:
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) .

# The development environment: made once, and brought up to date when pyproject.toml changes. PyTorch comes first, so
# that no other package chooses its version.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch==2.13.0
	$(PIP_INSTALL) --editable ".[test,docs]"
	touch $@

lint: $(READY)
	$(RUN) ruff check .
	$(RUN) mypy

test: $(READY)
	$(RUN) pytest -n auto --dist worksteal -m "not slow and not training"

# mypy, which has one thread, beside the tests.
test-all: $(READY)
	$(RUN) ruff check .
	$(RUN) mypy & types=$$!; $(RUN) pytest -n auto --dist worksteal -m "not training" && wait $$types

test-training: $(READY)
	$(RUN) pytest -n auto --dist worksteal -m training

test-gpu: $(READY)
	$(PIP_INSTALL) --editable ".[cuda13]"
	$(RUN) pytest -m gpu --require-gpu

docs: $(READY)
	$(RUN) sphinx -W --keep-going -q docs docs/_build/html

doctest: $(READY)
	$(RUN) pytest tests/test_doctests.py

bench: $(READY)
	$(RUN) pytest bench/speed --benchmark-only

# The part of the suite that reaches every dependency. Two tests need newer versions for what only they use: to write
# packed 12-bit TIFF, and to have scikit-image dispatch (from 0.26).
NOT_AT_FLOORS = \
	--deselect tests/images/test_io.py::test_tiff_of_12_bits_fills_16 \
	--deselect tests/nonblind/test_restoration.py::test_scikit_image_hands_cupy_arrays_over_and_keeps_numpys

test-floors:
	$(PYTHON_LOWEST) -m venv $(VENV_LOWEST)
	$(VENV_LOWEST)/bin/pip install --quiet --constraint tests/lowest-versions.txt --editable . pytest pytest-xdist hypothesis
	$(VENV_LOWEST)/bin/python -m pytest -n auto -m "not slow" $(NOT_AT_FLOORS) tests/blind tests/images \
		tests/nonblind tests/numerics tests/test_cli.py tests/test_metrics.py tests/test_packaging.py

test-napari:
	$(PYTHON) -m venv $(VENV_NAPARI)
	$(VENV_NAPARI)/bin/pip install --quiet --editable . --editable "napari-gpudeblur[test]"
	$(VENV_NAPARI)/bin/npe2 validate napari-gpudeblur
	$(VIRTUAL_DISPLAY) $(VENV_NAPARI)/bin/python -m pytest napari-gpudeblur
