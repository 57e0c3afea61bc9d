PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK ?= 1
# Compiled modules are kept: hundreds of tests import alphabar in a process of their own.
unexport PYTHONDONTWRITEBYTECODE

LOWEST := .venv-lowest/bin/python
# torch's earlier CPU builds are on pytorch.org alone: where pip finds them, `make test-lowest KEEP=` takes torch's lowest version too.
KEEP := --keep torch
ANY_VERSION := schedule fitting sampling restoration core/test_bounds.py project/test_layers.py project/test_words.py project/test_docs.py \
	training/test_auto.py training/test_lengthen.py verbs/test_tune.py evaluation/test_corruption_check.py

.PHONY: demo test test-slow test-lowest test-all lint site figures

# Modules are compiled when they are imported: half of the time of an installation, and most of them never are.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
PIP := $(BIN)/python $(INSTALL) --constraint constraints.txt
WORKERS := 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# Each environment adds to the one before it, and is made anew only when what it is made of changes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(PIP) --editable '.[test]'
	touch $@

.venv/installed-dev: .venv/installed-test
	$(PIP) --editable '.[dev]'
	$(BIN)/python $(INSTALL) --no-deps --target .venv/peers torch-fidelity==0.4.0 clean-fid==0.1.35 \
		denoising-diffusion-pytorch==2.3.4 ema-pytorch==0.8.3 einops==0.8.2
	touch $@

demo: .venv/installed
	$(BIN)/alphabar demo

# What a newcomer runs: every feature, in five to ten minutes on 2 cores.
test: .venv/installed-test
	$(PYTEST) -m "not slow"

# The rest: browsers, servers, other runtimes, several processes, simulations, kills. Much of it waits, so that three workers keep two cores busy.
test-slow: WORKERS := 3
test-slow: .venv/installed-dev
	ALPHABAR_CHECKED_CALLS=5000 $(PYTEST) -m slow

# `make test` with the lowest version of every dependency, without the tests of formulas, plans and texts, which no version changes; what old versions warn of as deprecated, or fail to close, is no error.
.venv-lowest/installed: pyproject.toml constraints.txt benchmarks/lowest.py
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) benchmarks/lowest.py test $(KEEP) > .venv-lowest/lowest.txt
	$(LOWEST) $(INSTALL) --constraint .venv-lowest/lowest.txt --editable '.[test]'
	touch $@

test-lowest: .venv-lowest/installed
	$(subst $(BIN)/python,$(LOWEST),$(PYTEST)) -m "not slow" $(ANY_VERSION:%=--ignore tests/%) -W default::DeprecationWarning -W default::pytest.PytestUnraisableExceptionWarning

test-all: test test-slow test-lowest

site: .venv/installed-dev
	$(BIN)/python docs/build_site.py

lint: .venv/installed-dev
	$(BIN)/ruff check src tests examples benchmarks docs
	$(BIN)/ruff format --check src tests examples benchmarks docs
	$(BIN)/mypy

figures:
	$(PYTHON) benchmarks/figures.py
