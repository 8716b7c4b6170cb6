# Everything a developer types. `make run` and `make test` work in a fresh clone
# on a machine that has only Python (3.11 or newer), make and git.

PYTHON ?= python3
PORT ?= 8787
DATA ?= data

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
SOURCES := $(wildcard proto engine primary replica d1server d1client tests bench examples)

.PHONY: run test lint types format torture torture-ci bench bench-ci lock clean
.DEFAULT_GOAL := test

# Made once, and again when the dependencies change. A venv cut short leaves no stamp.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "d1server needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

run: $(READY)
	@exec $(VENV)/bin/d1server dev --port $(PORT) --data-dir $(DATA)

test: $(READY)
	$(PY) -m pytest -q

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(READY)
	$(PY) -m mypy $(SOURCES)

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

torture: $(READY)
	$(PY) -m tests.torture

torture-ci: $(READY)
	$(PY) -m tests.torture --slice ci

bench: $(READY)
	$(PY) -m bench

bench-ci: $(READY)
	$(PY) -m bench --slice ci

# Needs pip-tools in $(VENV); the lock names no index, so it installs from whichever pip is set to.
lock: $(READY)
	$(VENV)/bin/pip-compile --quiet --extra dev --generate-hashes --no-header --strip-extras \
		--no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file requirements.lock pyproject.toml

# The databases under DATA stay.
clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
