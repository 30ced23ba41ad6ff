# make quickstart   environment and the main job, from nothing
# make test         environment and tests
# make check        format, lint, types
# make parity       the table of differences from transformers' PyTorch models
# make methods      the table of what holds for every method on every family of models
# make sharding     the table of differences between eight devices and one
# make scaling      Lester et al. (2021) in miniature: a family of models, tuned in every way, and the figures
# make chaos        a run that is killed fifty times beside one that is left alone
#
# PYTHON chooses the interpreter, JAX_EXTRA the accelerator: make quickstart JAX_EXTRA=cuda13 (or tpu).

PYTHON ?= python3
VENV ?= .venv
JAX_EXTRA ?=
# One process of tests a core, up to four for the sake of memory (1.5 GB each); a file's tests, which share fixtures,
# stay together. WORKERS= runs them in one process.
WORKERS ?= -n logical --maxprocesses=4 --dist=loadfile
BIN := $(VENV)/bin
# Large buffers on huge pages: on Linux CPUs this saves page faults, which cost a step a fifth of its time and more.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart test check parity methods sharding scaling chaos clean
.SECONDARY:

quickstart: $(VENV)/.installed
	$(BIN)/python launch/train.py --config=configs/quickstart.py --workdir=runs/quickstart

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(WORKERS)

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

parity: $(VENV)/.installed-test
	$(BIN)/python benchmarks/parity.py

methods: $(VENV)/.installed-test
	$(BIN)/python benchmarks/methods.py

sharding: $(VENV)/.installed-test
	$(BIN)/python benchmarks/sharding.py

scaling: $(VENV)/.installed
	$(BIN)/python launch/sweep.py --sweep=configs/sweeps/miniature.py --root=runs/miniature
	$(BIN)/python launch/figures.py --runs=runs/miniature --output=docs/miniature

chaos: $(VENV)/.installed-test
	$(BIN)/python benchmarks/chaos.py --output=chaos.json

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxprompt needs Python 3.11 or later: set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -r requirements.txt $(if $(JAX_EXTRA),"jax[$(JAX_EXTRA)]")
	$(BIN)/python -m pip install --quiet --no-deps --config-settings editable_mode=compat --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@

clean:
	rm -rf $(VENV) runs
