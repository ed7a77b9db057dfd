# make demo   everything from an empty machine to a tested FixMatch model
# make test   lint, types, tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= configs/demo/fixmatch_hair.json

.PHONY: setup setup-dev demo test lint schema bench docs clean

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install -r requirements-dev.txt
	touch $@ $(VENV)/.installed

demo: setup
	$(BIN)/python prepare.py demo --out data/demo
	$(BIN)/python train.py -c $(DEMO)
	$(BIN)/python test.py --resume saved/model.pth

lint: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

schema: setup
	$(BIN)/python -m trainer.components

bench: setup
	$(BIN)/python benchmarks/step_overhead.py --rounds 5
	$(BIN)/python benchmarks/fixmatch_step.py --rounds 3
	$(BIN)/python benchmarks/speed_choice.py --rounds 3
	$(BIN)/python benchmarks/step_cost.py --rounds 5
	$(BIN)/python benchmarks/start_up.py --repetitions 3
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/data_path.py --rounds 5
	$(BIN)/python benchmarks/memory.py --images 1000 10000
	$(BIN)/python prepare.py demo --out data/demo
	$(BIN)/python benchmarks/semi_supervised.py -c $(DEMO)

docs: schema
	@echo "docs/ is plain Markdown; start at docs/README.md"

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
