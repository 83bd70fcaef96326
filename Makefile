# Everything starts here: `make` lists what there is. Needs Python 3.11 or newer, and make.

# The first of these that is new enough and can make virtual environments. Another can be
# named: make test PYTHON=python3.13
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
		>/dev/null 2>&1 && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Passed on to what is run: make test ARGS="-k append"
ARGS ?=

SOURCES := client/treering server migrations tools benchmarks $(wildcard tests/*.py)

# Stamps: what they depend on has changed if they are older, and is installed again.
MADE := $(VENV)/.made
SERVER := $(VENV)/.server
DEV := $(VENV)/.dev
PEERS := build/peers/.made

.DEFAULT_GOAL := help
.PHONY: help run test check check-format check-lint check-types check-imports check-protos \
	check-generated protos released format lock faults soak breakages bench bench-full bench-budget \
	bench-plots peers \
	client-go client-typescript client-java client-cpp client-rust client-browser clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
		awk -F ':.*## ' '{ printf "  make %-17s %s\n", $$1, $$2 }'

run: $(SERVER) ## Serves on embedded SQLite; ARGS="--listen ..." and TREERING_* are passed on
	$(BIN)/treering serve $(ARGS)

test: $(DEV) ## Runs the tests, on SQLite and PostgreSQL; ARGS="-k append"
	$(BIN)/python -m pytest $(ARGS)

check: check-format check-lint check-types check-imports check-protos check-generated ## Checks everything that needs no run
	@echo "All checks passed."

check-format: $(DEV) ## Checks that the code is formatted
	$(BIN)/ruff format --check .

check-lint: $(DEV) ## Looks for what is suspicious in the code
	$(BIN)/ruff check .

# Each folder of tests by itself, since the names of their modules need not differ.
check-types: $(DEV) ## Checks the types
	$(BIN)/mypy $(SOURCES)
	for folder in $(sort $(dir $(wildcard tests/*/*.py))); do \
		MYPYPATH=$$folder $(BIN)/mypy $$folder || exit 1; done

check-imports: $(DEV) ## Checks who may import whom
	$(BIN)/lint-imports --no-logo

check-protos: $(DEV) ## Checks that the API is in good form and breaks no caller
	$(BIN)/buf lint protos
	$(BIN)/buf format protos --diff --exit-code
	$(BIN)/buf breaking protos --against protos/released.binpb

check-generated: $(DEV) ## Checks that what is generated is up to date
	$(BIN)/python tools/protos.py --check
	$(BIN)/python tools/api_reference.py --check
	$(BIN)/python tools/sync_client.py --check

protos: $(DEV) ## Makes the stubs and the API reference from the protos
	$(BIN)/python tools/protos.py
	$(BIN)/python tools/api_reference.py

# What callers have in their hands: `check-protos` compares with it. Renewed with each release
# and at no other time: it must show every break since then, and a new field is free to change
# until it was released once.
released: $(DEV) ## For a release: makes the API of now what may never break
	$(BIN)/buf build protos --exclude-source-info --output protos/released.binpb

format: $(DEV) ## Formats the code and makes the sync client again
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .
	$(BIN)/buf format protos --write
	$(BIN)/python tools/sync_client.py

# Versions stay as they are where they can: make lock ARGS=--upgrade, or
# ARGS="--upgrade-package grpcio". Building the project needs what its build system requires.
PIN = $(BIN)/uv pip compile --quiet --system-certs --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url --no-emit-find-links $(ARGS)
COMPILE = $(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb')) \
	['build-system']['requires'], sep='\n')" | $(PIN) pyproject.toml -
lock: $(DEV) ## Pins all requirements again, with hashes; ARGS=--upgrade for newer ones
	$(COMPILE) --extra server --output-file requirements/server.txt
	$(COMPILE) --extra server --group dev --constraints requirements/server.txt \
		--output-file requirements/dev.txt
	$(PIN) --group peers --constraints requirements/dev.txt --output-file requirements/peers.txt

# The validators' verdict; all that is behind a broken promise is kept under build/faults. What
# was done is counted there, run by run: three runs with three seeds reach every bar.
COUNTS := build/faults/counts.jsonl
faults: $(DEV) ## Lets everything break for an hour: FAULT_SEED=1 make faults; ARGS="-k sqlite"
	mkdir -p $(dir $(COUNTS))
	FAULT_LONG=1 FAULT_SEED=$${FAULT_SEED:-1} FAULT_COUNTS=$(COUNTS) $(BIN)/python -m pytest -vv \
		tests/faults tests/hostile tests/bounded tests/model $(ARGS); result=$$?; \
		PYTHONPATH=tests $(BIN)/python tests/faults/bars.py $(COUNTS); exit $$result

TRY := GRPC_ENABLE_FORK_SUPPORT=0 PYTHONPATH=tests:tests/contract:tests/faults $(BIN)/python

soak: $(DEV) ## Lets everything break, a line a minute with a new seed: make soak MINUTES=60
	$(TRY) tests/faults/soak.py $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

breakages: $(DEV) ## Breaks the server on purpose, and tells which validator notices
	$(TRY) tests/faults/breakages.py $(ARGS)

# Whoever can't be installed is left out by the program, which says so.
bench: $(DEV) ## Measures beside others, in minutes; ARGS="--contestant umadb --workload W2"
	-$(MAKE) peers
	$(BIN)/python -m benchmarks $(ARGS)

bench-full: $(DEV) ## Measures everything beside all others, for hours
	-$(MAKE) peers
	$(BIN)/python -m benchmarks --full $(ARGS)

bench-budget: $(DEV) ## Measures the stages of an append and of a read
	$(BIN)/python benchmarks/budget.py

bench-plots: $(PEERS) ## Draws what bench has left in build/benchmarks.json to build/plots
	build/peers/bin/python benchmarks/plots.py build/benchmarks.json build/plots

peers: $(PEERS) ## Installs what bench measures beside Treering, apart from everything else

client-go: ## Makes the stubs of Go, builds and tests its example
client-typescript: ## Makes the stubs of TypeScript, builds and tests its example
client-java: ## Makes the stubs of Java, builds and tests its example
client-cpp: ## Makes the stubs of C++, builds and tests its example
client-rust: ## Makes the stubs of Rust, builds and tests its example
client-browser: ## Builds the sidecar and the page for browsers, and tests them

# An example is tested on both databases, and with all languages whose tools are there.
client-go client-typescript client-java client-cpp client-rust client-browser: client-%: $(DEV)
	TREERING_REQUIRE_LANGUAGES=$* $(BIN)/python -m pytest -s tests/languages -k $* $(ARGS)

clean: ## Removes all that was made here; databases stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf client/*/.cache client/*/bin client/go/treering/v1 \
		client/typescript/dist client/typescript/node_modules client/typescript/src/gen \
		client/java/target client/rust/target
	rm -rf client/browser/dist client/browser/node_modules client/browser/src/gen \
		client/browser/src/treering.ts client/browser/sidecar/treering.binpb client/browser/page/*.js
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@test -n "$(PYTHON)" || { echo "Treering needs Python 3.11 or newer with its venv module;" \
		"none is on the PATH. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The project itself is built with what was just installed, so that nothing comes unpinned.
$(SERVER): requirements/server.txt pyproject.toml | $(MADE)
	$(PIP) install --require-hashes --requirement requirements/server.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt $(SERVER)
	$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@

$(PEERS): requirements/peers.txt benchmarks/package-lock.json | $(MADE)
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --requirement requirements/peers.txt
	cp benchmarks/package.json benchmarks/package-lock.json build/peers
	-cd build/peers && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@
