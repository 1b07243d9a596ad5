# make demo: a picture from a prompt.    make test: the tests.    make lint: ruff and mypy.    make clean: remove .venv.
# make docs: the site of docs/ into site/; any warning is an error.
# make resolve: whether constraints.txt can be installed with each Python; asks the package index, installs nothing.
# make bench: measure the ops here and draw them.    make gpu: all that is to be known of an NVIDIA GPU; benchmarks/README.md.
# Needs Python 3.10 to 3.13; everything else goes into .venv. A C++ compiler (apt install g++) makes CPUs faster.

PYTHON ?= python3
PYTHONS := 3.10 3.11 3.12 3.13
VENV ?= .venv
PROMPT ?= a large purple pyramid
IMAGE ?= demo.png
# Tests are small and run on one thread each; more processes than these only cost memory.
PYTEST_FLAGS ?= -n auto --maxprocesses 4 --dist worksteal
BENCH_FLAGS ?=
# make gpu PARTS='build tests', MINUTES=12: only these parts, or only what ends in this time.
PARTS ?=
MINUTES ?=
# Where torch for the GPU is installed already: make gpu GPU_PYTHON=python3 installs nothing but glide_fast's own build.
GPU_PYTHON ?= $(BIN)/python

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
SOURCES := pyproject.toml setup.py constraints.txt $(shell find csrc -type f 2>/dev/null)

.PHONY: demo test triton-versions resolve lint docs bench gpu clean

demo: $(VENV)/.installed
	$(BIN)/glide-fast sample "$(PROMPT)" -o "$(IMAGE)" --overwrite
	@echo
	@echo "\"$(PROMPT)\" is in $(abspath $(IMAGE))"
	@echo "It ran on:"
	@$(BIN)/glide-fast env

test: $(VENV)/.developed
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

triton-versions: $(VENV)/.developed
	$(BIN)/python .ci/triton_versions.py

lint: $(VENV)/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The switch is for a notice about another project's plans, which mkdocs-material prints at every run.
docs: $(VENV)/.documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q --strict

# Reads metadata only. pip cannot ask for another Python than its own: it would judge markers by that one.
resolve: $(VENV)/.developed
	@for python in $(PYTHONS); do \
		echo "Python $$python"; \
		$(BIN)/uv pip compile -q --python-version $$python --only-binary :all: -c constraints.txt --all-extras pyproject.toml \
			>/dev/null || exit 1; \
	done

bench: $(VENV)/.developed
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)
	$(BIN)/python -m benchmarks.plot

gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.measured)
	$(GPU_PYTHON) -m benchmarks.gpu $(PARTS) $(if $(MINUTES),--minutes $(MINUTES))

clean:
	rm -rf $(VENV) build site

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON): apt install python3 python3-venv, or make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is `$(PYTHON) -V 2>&1`; glide_fast needs Python 3.10 to 3.13: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Before glide_fast, whose hook into torch's memory is compiled against it.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(INSTALL) torch
	@touch $@

# Editable: the sources of this folder run as they are; only a change of what is listed here installs again.
$(VENV)/.installed: $(SOURCES) $(VENV)/.torch
	$(INSTALL) -e .
	@touch $@

# With the packages that the kernels are compared with.
$(VENV)/.measured: $(VENV)/.developed
	$(INSTALL) -e '.[peers]'
	@touch $@

$(VENV)/.documented: $(VENV)/.developed
	$(INSTALL) -e '.[docs]'
	@touch $@

$(VENV)/.developed: $(SOURCES) $(VENV)/.torch
	$(INSTALL) -e '.[test,lint]'
	@touch $@ $(VENV)/.installed
