# The two commands are `make report` and `make test`; both make the virtual environment first.
PYTHON ?= python3
PRESET ?= quick
PYTEST := -m pytest -q -n auto --maxprocesses 8
BIN := .venv/bin

.PHONY: report test test-all lint bench-peers clean

report: .venv/installed
	$(BIN)/gradgauge report --preset $(PRESET) --engine local

test: .venv/tested
	$(BIN)/python $(PYTEST) -m "not slow"

test-all: .venv/tested
	$(BIN)/python $(PYTEST)

lint: .venv/tested
	$(BIN)/python -m pip install -q --group lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The libraries that gradgauge is timed against pin old releases of much; they have an environment of their own.
bench-peers: build/peers/installed
	PYTHONPATH=build/peers/learn2learn-0.2.0 build/peers/bin/python -m benchmarks.peers $(BENCH)

build/peers/installed: benchmarks/peers/requirements.txt pyproject.toml
	test -x build/peers/bin/python || $(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install -q "pip<24.1"
	build/peers/bin/python -m pip install -q -e .
	build/peers/bin/python -m pip install -q --no-deps -r benchmarks/peers/requirements.txt
	build/peers/bin/python -m pip download -q --no-deps --no-binary learn2learn -d build/peers learn2learn==0.2.0
	tar -xzf build/peers/learn2learn-0.2.0.tar.gz -C build/peers
	touch $@

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
