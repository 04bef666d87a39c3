# make demo       sample a molecule in this terminal; again: go on with it
# make test       the default test suite
# make test-slow  the long tests
# make bench      the benchmarks
# make lint       format, lint, types, import ladder
#
# Everything is installed into .venv, anew only when pyproject.toml or constraints.txt change.
# PYTHON=python3.12 make demo   takes another Python (3.11 or later).

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow bench lint

help:
	@sed -n 's/^# //p' Makefile

demo: .venv/.installed
	@if [ -e $(DEMO)/config.toml ]; then \
		echo "Going on with $(DEMO); remove that folder to start afresh."; \
		$(BIN)/separatrix run $(DEMO); \
	else \
		$(BIN)/separatrix run $(DEMO) --system alanine-dipeptide; \
	fi

test: .venv/.installed-test
	$(BIN)/python -m pytest

test-slow: .venv/.installed-test
	$(BIN)/python -m pytest -m slow

bench: .venv/.installed-test
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s

lint: .venv/.installed-lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Separatrix needs Python 3.11 or later; try PYTHON=python3.12 make ...")'
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv; the first time takes some minutes."
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

.venv/.installed-%: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv; the first time takes some minutes."
	$(BIN)/python -m pip install -c constraints.txt -e '.[$*]'
	@touch $@
