PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
OUT ?= runs/demo

.PHONY: help setup demo test lint bench clean

help:
	@echo "make demo              pre-train a small A-JEPA and score it, in minutes (DATA=folder: on your audio)"
	@echo "make test              lint, types and tests"
	@echo "make setup             only the environment, .venv"

# The stamp is newer than pyproject.toml once the environment fits it.
$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev,hear]"
	$(BIN)/ajepa harness enable hear
	touch $@

setup: $(VENV)/.ready

demo: setup
	$(BIN)/ajepa demo --out $(OUT) $(if $(DATA),--data "$(DATA)")

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

bench: setup
	$(BIN)/python benchmarks/features.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
