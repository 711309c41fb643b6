# Targets that people and CI both call. PYTHON is the interpreter that makes the environment, 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done

.PHONY: help setup demo test check format bench docs sizes clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## the environment in .venv with every extra and the test dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vitkit needs Python 3.11 or newer; make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,test]'
	touch $@

demo: setup  ## digits as PNG files, vit finetune, vit predict: under three minutes after set-up
	rm -rf runs/demo
	$(BIN)/vit demo --out runs/demo

test: setup  ## all tests, offline, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## measure beside other libraries, over an hour; needs the shared data (see CONTRIBUTING)
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/tokens.py --engines tuned
	$(BIN)/python benchmarks/scaling.py --engines auto
	$(BIN)/python benchmarks/plots.py
	$(BIN)/python benchmarks/training_speed.py

docs: setup  ## check that the documentation's links and commands are real
	$(BIN)/python -m pytest -q tests/test_docs.py

sizes:  ## code lines per file, docstrings and comments free
	@$(PYTHON) benchmarks/sizes.py src/vitkit

clean:  ## remove the environment and what runs wrote
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache
