# make demo       sample a molecule and watch it in the browser; again: go on with it
# make test       the default test suite
# make test-browser  the pages and JupyterLab in Chromium
# make test-slow  the long tests
# make bench      the benchmarks
# make bench-peers  the benchmarks beside other programs, which are installed into .venv-peers
# make soak       two hours of sessions, people who look and workers that die; SOAK="--minutes 10" for less
# make bench-gpu  how many workers a GPU feeds; says so where there is none
# make lint       format, lint, types, import ladder
#
# Everything is installed into .venv, anew only when pyproject.toml or constraints.txt change.
# PYTHON=python3.12 make demo   takes another Python (3.11 or later).

PYTHON ?= python3
BIN := .venv/bin
RUNS := runs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-browser test-slow bench bench-peers soak bench-gpu lint browser

help:
	@sed -n 's/^# //p' Makefile

demo: .venv/.installed
	$(BIN)/separatrix serve $(RUNS) --start alanine-dipeptide

test: .venv/.installed-test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --durations 15

test-browser: .venv/.installed-test browser
	$(BIN)/python -m pytest tests/browser -m browser

test-slow: .venv/.installed-test
	$(BIN)/python -m pytest -m slow --timeout 0

bench: .venv/.installed-test .venv/.installed-bench
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s --timeout 0

bench-peers: .venv/.installed-test .venv-peers/.installed
	$(BIN)/python -m pytest tests/benchmarks/test_peers.py -m benchmark -p no:randomly -s -rs --timeout 0

soak: .venv/.installed-test
	$(BIN)/python -m tests.benchmarks.soak $(SOAK)

bench-gpu: .venv/.installed-test
	@if command -v nvidia-smi >/dev/null; then $(MAKE) --no-print-directory .venv/.installed-cuda; fi
	$(BIN)/python -m pytest tests/benchmarks/test_gpu_speed.py tests/benchmarks/test_descriptor_speed.py \
		-m benchmark -k gpu -s -rs --timeout 0

lint: .venv/.installed-lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests drive a real browser: Debian's, or whatever SEPARATRIX_CHROMIUM names.
browser:
	@if [ -z "$$SEPARATRIX_CHROMIUM" ] && ! command -v chromium >/dev/null; then \
		as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		echo "Installing Chromium for the tests of the pages."; \
		$$as_root apt-get update -qq && $$as_root apt-get install -y -qq chromium; \
	fi

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Separatrix needs Python 3.11 or later; try PYTHON=python3.12 make ...")'
	$(PYTHON) -m venv .venv

VIEWER := dashboards/separatrix_dashboards/viewer
BUILT_FROM := pyproject.toml constraints.txt $(VIEWER)/hatch_build.py $(VIEWER)/package-lock.json $(wildcard $(VIEWER)/source/*)

.venv/.installed: $(BUILT_FROM) | .venv/bin/python
	@echo "Installing into .venv; the first time takes some minutes."
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

.venv/.installed-%: $(BUILT_FROM) | .venv/bin/python
	@echo "Installing into .venv; the first time takes some minutes."
	$(BIN)/python -m pip install -c constraints.txt -e '.[$*]'
	@touch $@

.venv-peers/.installed: tests/benchmarks/peers/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] > (3, 12) and "The peers need Python 3.11 or 3.12; try PYTHON=python3.12 make ...")'
	@echo "Installing the peers into .venv-peers; the first time takes some minutes."
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install -r $<
	@touch $@
