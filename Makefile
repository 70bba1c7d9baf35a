PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
OUT ?= runs/demo

MINUTES ?= 10
SEED ?= 0

.PHONY: help setup demo test test-fast fuzz lint bench bench-gpu docs clean

help:
	@echo "make demo              pre-train a small A-JEPA and score it, in minutes (DATA=folder: on your audio)"
	@echo "make test              lint, types and tests"
	@echo "make test-fast         without the slow tests, while you write"
	@echo "make fuzz              mutated files through all readers (MINUTES=10 SEED=0), failures into build/fuzz"
	@echo "make setup             only the environment, .venv"
	@echo "make docs              the documentation site, into build/site"
	@echo "make bench             the CPU's benchmarks"
	@echo "make bench-gpu         the GPU's in 8 minutes, into gpu.json (DATA=folder: a short run on your audio)"

# The stamp is newer than what the environment is made from once it fits.
$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev,hear,s3prl,xares]"
	$(BIN)/ajepa harness enable hear
	$(BIN)/ajepa harness enable s3prl
	$(BIN)/ajepa harness enable xares
	touch $@

setup: $(VENV)/.ready

fuzz: setup
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

demo: setup
	$(BIN)/ajepa demo --out $(OUT) $(if $(DATA),--data "$(DATA)")

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n auto --dist loadscope --no-loadscope-reorder

test-fast: setup
	$(BIN)/pytest -n auto --dist loadscope --no-loadscope-reorder -m "not slow"

docs: setup
	$(BIN)/python -m mkdocs build --strict

bench: setup
	$(BIN)/python benchmarks/features.py
	$(BIN)/python benchmarks/masking.py
	$(BIN)/python benchmarks/input.py
	$(BIN)/python benchmarks/pretrain_step.py --against-float32
	$(BIN)/python benchmarks/embed.py
	$(BIN)/python benchmarks/embed_job.py --what loop share
	$(BIN)/python benchmarks/probe.py

bench-gpu:
	benchmarks/gpu.sh $(if $(DATA),--audio "$(DATA)")

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
