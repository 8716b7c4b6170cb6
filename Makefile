# Everything a developer types. `make run` and `make test` work in a fresh clone
# on a machine that has only Python (3.11 or newer), make and git.

PYTHON ?= python3
PORT ?= 8787
DATA ?= data

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
NAME ?= fast-commerce
CLIENTS_VENV := .venv-clients
CLIENTS_READY := $(CLIENTS_VENV)/.installed
CLIENTS_NPM := tests/clients/node_modules/.installed
EXAMPLES_NPM := examples/node_modules/.installed
SOURCES := $(wildcard proto engine primary replica d1server d1client tests bench examples)

.PHONY: run example test test-clients chromium lock-clients lint types format torture torture-ci large-import bench bench-ci lock clean
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

# An example of examples/ with a cluster under it: make example NAME=orders
example: $(READY) $(EXAMPLES_NPM)
	@exec $(PY) -m examples $(NAME) --port $(PORT) --data-dir $(DATA)

test: $(READY)
	$(PY) -m pytest -q

# D1's real clients from npm and PyPI, and the examples in a real browser. Needs npm, Chromium and
# Node 22.12 or newer (20 on x64 Linux, where a newer one is installed beside the clients); what
# cannot be installed fails here, nothing is skipped.
test-clients: $(READY) $(CLIENTS_READY) $(CLIENTS_NPM) $(EXAMPLES_NPM) chromium
	$(CLIENTS_VENV)/bin/python -m pytest -q --timeout 600 tests/clients tests/browser

$(CLIENTS_READY): tests/clients/requirements.lock
	$(PYTHON) -m venv $(CLIENTS_VENV)
	$(CLIENTS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# `npm ci` would refuse a lock without the builds for systems that the registry has none for;
# `npm install --no-save` installs the lock's versions, checked by its hashes, and `npm ls` says so.
%/node_modules/.installed: %/package.json %/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: install Node 22 or newer" >&2; exit 1; }
	cd $* && npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error
	cd $* && npm ls --loglevel=error >/dev/null
	touch $@

chromium:
	@command -v chromium >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core; \
	else echo "chromium is missing: install it, such as with apt-get install chromium" >&2; exit 1; fi

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

# A file of 1 GiB in, out and in again, with kill -9 in the middle: some ten minutes, 6 GB of disk.
large-import: $(READY)
	$(PY) -m tests.torture.large_import --mib 1024

bench: $(READY)
	$(PY) -m bench

bench-ci: $(READY)
	$(PY) -m bench --slice ci

# Needs pip-tools in $(VENV); the lock names no index, so it installs from whichever pip is set to.
lock: $(READY)
	$(VENV)/bin/pip-compile --quiet --extra dev --generate-hashes --no-header --strip-extras \
		--no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file requirements.lock pyproject.toml

# The same for the tests of clients: edit requirements.in or a package.json, then this.
lock-clients: $(READY)
	$(VENV)/bin/pip-compile --quiet --generate-hashes --no-header --strip-extras --no-annotate \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file tests/clients/requirements.lock tests/clients/requirements.in
	for folder in tests/clients examples; do (cd $$folder && npm install --package-lock-only \
		--omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund); \
		$(PY) -c 'import json, sys; lock = json.load(sys.stdin); \
			[package.pop("funding", None) for package in lock["packages"].values()]; \
			print(json.dumps(lock, indent=2, ensure_ascii=False))' \
			<$$folder/package-lock.json >$$folder/package-lock.new && \
		mv $$folder/package-lock.new $$folder/package-lock.json || exit 1; done

# The databases under DATA stay.
clean:
	rm -rf $(VENV) $(CLIENTS_VENV) tests/clients/node_modules examples/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
