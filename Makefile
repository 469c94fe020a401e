# Everything runs in .venv, which is made on first use. Nothing but Python >= 3.11 and make is assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each test uses one thread, so as many run at a time as there are cores.
PARALLEL := -n auto --dist worksteal

.DEFAULT_GOAL := help
FUZZ_SECONDS ?= 300
# For `make versions`, which makes a .venvs/<name> for each of PYTHONS, and for the lowest versions on LOWEST.
PYTHONS ?= python3.11 python3.12 python3.13
LOWEST ?= python3.11
LOWER := s/>=\([0-9.]*\),.*/==\1/p

.PHONY: help demo test test-slow versions fuzz coverage bench lint format schema clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/run.stamp  ## train ResNet18 with ConvNorm on real handwritten digits, under three minutes
	$(BIN)/python train.py -c configs/demo.json

test: $(VENV)/dev.stamp  ## run the test suite
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: $(VENV)/dev.stamp  ## run the tests that take long
	$(BIN)/python -m pytest -m slow $(PARALLEL)

versions: .venvs/lowest/stamp $(PYTHONS:%=.venvs/%/stamp)  ## run the test suite with the lowest versions and on each Python
	@failed=; for venv in $(^D); do \
		echo "$$venv: $$($$venv/bin/python -V), torch $$($$venv/bin/python -c 'import torch; print(torch.__version__)')"; \
		$$venv/bin/python -m pytest -m "not slow" $(PARALLEL) || failed="$$failed $$venv"; \
	done; test -z "$$failed" || { echo "failed in$$failed"; exit 1; }

fuzz: $(VENV)/dev.stamp  ## feed the readers damaged files for FUZZ_SECONDS (300); guided where atheris is installed
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

coverage: $(VENV)/dev.stamp  ## run the test suite and show the lines it does not reach
	$(BIN)/python -m pytest -m "not slow" --cov --cov-report=term-missing:skip-covered

bench: $(VENV)/run.stamp  ## measure layer, trainer and pipeline, in some minutes; figures and plots in saved/bench
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.scaling

lint: $(VENV)/dev.stamp  ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp  ## format the code
	$(BIN)/ruff format .

schema: $(VENV)/run.stamp  ## write configs/schema.json anew, after a change of config_schema.py
	$(BIN)/python parse_config.py > configs/schema.json

clean:  ## remove .venv and caches; runs in saved/ stay
	rm -rf $(VENV) .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

$(VENV)/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing requirements.txt into $(VENV): PyTorch is large, this takes some minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt requirements-slurm.txt requirements-extras.txt $(VENV)/run.stamp
	@echo "installing the development tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venvs/%/stamp: requirements.txt requirements-dev.txt requirements-slurm.txt requirements-extras.txt
	@$(if $(filter lowest,$*),$(LOWEST),$*) -m venv $(@D)
	@sed -n '$(if $(filter lowest,$*),$(LOWER),/>=/p)' requirements.txt requirements-slurm.txt > $(@D)/requirements.txt
	@echo "installing into $(@D): PyTorch is large, this takes some minutes"
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $(@D)/requirements.txt -r requirements-dev.txt
	@touch $@
