# Each target makes .venv first, where it is missing or older than the requirements.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install demo app test test-all lint

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
	$(BIN)/python recipes/app/app.py

test: install
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: install
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
