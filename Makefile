# Each target makes .venv first, where it is missing or older than the requirements.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
OLDEST_PYTHON ?= $(shell for python in python3.10 python3.11 python3; do $$python -c "" 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin

.PHONY: install demo app gpu test test-all test-oldest lint docs release-check

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/accelerate launch recipes/train_voc.py

outputs/demo/metrics.json:
	$(BIN)/accelerate launch recipes/train_voc.py

outputs/demo-plain/metrics.json:
	$(BIN)/accelerate launch recipes/train_voc.py --loss_weights 1 0 0 --output_dir outputs/demo-plain

app: install outputs/demo/metrics.json outputs/demo-plain/metrics.json
	$(BIN)/msl-hf app --models MSL=outputs/demo plain=outputs/demo-plain

# What only a GPU shows, in commands of nine minutes; again goes on, until both say that nothing is left.
gpu: install
	$(BIN)/msl-hf benchmark --gpu true --output outputs/gpu/benchmark.json
	$(BIN)/msl-hf ablate --grid long --output_dir outputs/gpu/long --minutes 9

test: install
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: install
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term

# The fast tests on the oldest versions that pyproject.toml admits, in an environment of their own.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n 2 -m "not slow"

.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -c constraints-oldest.txt -e ".[peft]" optuna pytest pytest-xdist
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# What a release is checked with: its files, their metadata, the wheel in an empty environment, the site.
release-check: install docs
	rm -rf dist .venv-release
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install -c constraints.txt dist/*.whl
	.venv-release/bin/python tests/three_lines.py
