# Everything a person types. `.venv` is made once and again only when requirements.lock changes.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
LOCK := $(shell sha256sum requirements.lock | cut -c 1-16)
READY := .venv/ready-$(LOCK)
NATIVE := worker/engine/libnative.so
INDEX := $(if $(PENSTOCK_TORCH_INDEX),--extra-index-url $(PENSTOCK_TORCH_INDEX))

.PHONY: help run test gpu check clients compose-test chaos bench bench-gpu clean

help: ## what can be done here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) $(NATIVE) ## the whole service in the foreground; one Ctrl-C ends it
	@exec $(PY) -m ops.cli.main up

test: $(READY) $(NATIVE) ## all tests
	@$(PY) -m pytest

gpu: $(READY) ## the tests that need a GPU; without one they say so
	@$(PY) -m pytest tests/gpu -k cuda -rs

check: $(READY) ## format, lint, types, floors
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

clients: $(READY) ## the JavaScript SDK against the bundled model; needs node and npm
	@$(PY) -m tests.clients

compose-test: ## one answer through the stack of docker-compose.yml
	@ops/docker/compose-test.sh

chaos: $(READY) $(NATIVE) ## N faults against the whole house: SEED=… repeats them, M=demo takes the bundled model
	@$(PY) -m tests.chaos $(if $(N),--faults $(N)) $(if $(SEED),--seed $(SEED)) $(if $(M),--model $(M)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ROWS),--rows $(ROWS))

bench: $(READY) $(NATIVE) ## the figures, as a table and in build/bench.json
	@GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(PY) -m ops.bench # as in a worker, for ours and for others

bench-gpu: $(READY) $(NATIVE) ## the figures of a GPU, and build/bench-gpu.json
	@$(PY) -m ops.bench.gpu

# Where there is no compiler, attention and masks on a CPU are slower and otherwise the same.
$(NATIVE): worker/engine/native.c
	@$(CC) -O3 -fno-math-errno -fno-trapping-math -fno-signed-zeros -fassociative-math -shared -fPIC -o $@ $< \
	  || echo "No C compiler: this CPU will be slower than it could be." >&2

clean: ## what tests and tools leave behind; not .venv, not .penstock
	@rm -rf build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# A machine's own pip fills the environment: Debian may lack ensurepip. Without pip, ensurepip must be there.
$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "penstock needs Python 3.11 to 3.13; say which with PYTHON=…" >&2; exit 1; }
	@rm -rf .venv
	@if $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -m venv --without-pip .venv && pip="$(PYTHON) -m pip --python $(PY)"; \
	else \
	  $(PYTHON) -m venv .venv && pip="$(PY) -m pip" || { echo "Neither pip nor venv: install python3-venv." >&2; exit 1; }; \
	fi && \
	$$pip --disable-pip-version-check install --quiet $(INDEX) -r requirements.lock && \
	$$pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .
	@touch $@
