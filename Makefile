# Everything runs in .venv, which the first target that needs it creates and fills.
# `make` without a target lists what there is.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
# A name on PATH is not enough: it must run, be new enough and be able to make an environment.
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTEST_ARGS ?=
DEMO_ARGS ?=
AUDIT_ARGS ?=
UTILITY_ARGS ?=
FUSION_ARGS ?=
SOAK_ARGS ?=
ROBUSTNESS_ARGS ?=

.PHONY: help demo test lint format types bench audit utility fusion robustness soak clean

help:
	@echo "make demo    train two parties on this machine and write a report (DEMO_ARGS=...)"
	@echo "make test    run the tests (PYTEST_ARGS=...)"
	@echo "make lint    ruff and the import layers"
	@echo "make types   mypy --strict"
	@echo "make format  let ruff put imports and layout in order"
	@echo "make bench   overhead, exchange, start-up and private training, about 12 minutes"
	@echo "make audit   attack every privacy mode, about 15 minutes; fails if more than the claim is proven"
	@echo "make utility accuracy under privacy on Fashion-MNIST, tens of minutes (UTILITY_ARGS=...)"
	@echo "make fusion  what fusing gains, over five seeds, about an hour (FUSION_ARGS=...)"
	@echo "make robustness  rule x attack, a long table (ROBUSTNESS_ARGS='--rules median krum')"
	@echo "make soak    kills, changing members, cuts, a black hole, fuzz and strangers at full length, hours (SOAK_ARGS=--quick)"
	@echo "make clean   remove caches and build folders; keeps $(VENV) and runs/"

demo: $(VENV)/.has-demo
	$(BIN)/splitfed demo $(DEMO_ARGS)

test: $(VENV)/.has-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.has-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(VENV)/.has-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.has-dev
	$(BIN)/mypy

bench: $(VENV)/.has-demo
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/exchange.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/private_speed.py
	$(BIN)/python benchmarks/memory.py

audit: $(VENV)/.has-demo
	$(BIN)/python benchmarks/audit.py $(AUDIT_ARGS)

utility: $(VENV)/.has-demo
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/utility.py $(UTILITY_ARGS)

fusion: $(VENV)/.has-demo
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fusion.py $(FUSION_ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/personalised.py

robustness: $(VENV)/.has-demo
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/robustness.py $(ROBUSTNESS_ARGS)

soak: $(VENV)/.has-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py $(SOAK_ARGS)

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamps make a second call fast; a changed pyproject.toml installs again.
$(VENV)/.has-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

$(VENV)/.has-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,dev]'
	touch $@ $(VENV)/.has-demo

$(BIN)/python:
	@for name in $(CANDIDATES); do \
		if "$$name" -c '$(USABLE)' >/dev/null 2>&1; then \
			echo "creating $(VENV) with $$name ($$("$$name" --version))"; \
			exec "$$name" -m venv $(VENV); \
		fi; \
	done; \
	echo "no Python >= 3.11 with venv found among: $(CANDIDATES)" >&2; \
	echo "  cure: install one (Debian: apt install python3 python3-venv)" >&2; \
	exit 1
