# The two commands are `make report` and `make test`; both make the virtual environment first.
PYTHON ?= python3
PRESET ?= quick
BIN := .venv/bin

.PHONY: report test test-all lint clean

report: .venv/installed
	$(BIN)/gradgauge report --preset $(PRESET)

test: .venv/tested
	$(BIN)/python -m pytest -q -m "not slow"

test-all: .venv/tested
	$(BIN)/python -m pytest -q

lint: .venv/tested
	$(BIN)/python -m pip install -q --group lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q "pip>=25.1"
	$(BIN)/python -m pip install -q -e .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install -q --group test
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
