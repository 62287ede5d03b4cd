# Every target sets up what it needs. `make demo DEMO_FLAGS=--once` ends after the first page.
PYTHON ?= python3
BIN := .venv/bin
DEMO_FLAGS ?=

.PHONY: demo test check bench docs slow clean

$(BIN)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tamis needs Python 3.11 or newer, '$(PYTHON)' is not; choose another: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[train,dev]'
	touch $@

demo: $(BIN)/.installed
	$(BIN)/tamis demo demo-feed $(DEMO_FLAGS)

test: $(BIN)/.installed
	$(BIN)/python -m pytest -n 2 -m 'not slow'

slow: $(BIN)/.installed
	$(BIN)/python -m pytest -n 2 -m slow

check: $(BIN)/.installed
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests benchmarks docs README.md CHANGELOG.md CONTRIBUTING.md

$(BIN)/.bench: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	touch $@

bench: $(BIN)/.bench
	$(BIN)/tamis bench

docs: $(BIN)/.installed
	$(BIN)/python -m pytest tests/docs

clean:
	rm -rf .venv demo-feed .pytest_cache .mypy_cache .ruff_cache .hypothesis
