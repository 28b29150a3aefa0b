# `make dev` and `make test` do everything on a machine that has make and Python 3.11 or later. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help install dev test test-platforms faults soak bench lint docs test-compose lock model places clean
HOST ?= 127.0.0.1
PORT ?= 8000
PYTHON ?= python3
JOBS ?= 3
export PYTHON
# The tests start hundreds of processes, and each would compile the sources.
unexport PYTHONDONTWRITEBYTECODE

help:  ## Show this
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' Makefile

install:  ## Create .venv with the gateway command
	@tools/install runtime

dev: install  ## Serve from private servers on http://127.0.0.1:8000 (PORT=8001 for another); Ctrl-C stops everything
	@tools/install-servers
	@exec .venv/bin/gateway dev --host $(HOST) --port $(PORT)

test:  ## Run all tests that need no container engine
	@tools/install dev
	@tools/install-servers test
	.venv/bin/pytest -n $(JOBS) --dist worksteal $(ARGS)

test-platforms:  ## Run the tests without faults and chaos on other Debian releases (PLATFORMS="trixie testing"), as root or with sudo
	@for platform in $(PLATFORMS); do tools/in-platform $$platform make test JOBS=$(JOBS) ARGS="$(QUICK) $(ARGS)" || exit; done
PLATFORMS ?= trixie testing
QUICK := --ignore=tests/faults --ignore=tests/chaos

faults:  ## Run all fault tests, the long sweeps included, and write docs/faults
	@tools/install dev
	@tools/install-servers test
	.venv/bin/pytest -m "not compose and not soak" tests/faultlab tests/faults tests/end_to_end/test_dev.py --report docs/faults $(ARGS)

soak:  ## Break all servers under load for ten minutes (SOAK_SECONDS, SOAK_SEED) and write a report
	@tools/install dev
	@tools/install-servers test
	SOAK_REPORT=$${SOAK_REPORT-build/soak.md} .venv/bin/pytest -m soak -o faulthandler_timeout=7200 tests/chaos $(ARGS)

bench:  ## Compare with other implementations, in less than ten minutes, and write docs/benchmarks.md (ARGS=--help for options)
	@tools/install dev
	@tools/install-servers
	-@command -v npm >/dev/null || tools/install-packages nodejs npm
	.venv/bin/python -m benchmarks --write docs $(ARGS)

lint:  ## Check format, style, types, imports and wording
	@tools/install dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/typos --format brief $(PROSE)
	.venv/bin/python tools/check_prose.py $(PROSE)
# Everything that is written by hand (see [tool.typos] and [tool.prose] in pyproject.toml).
PROSE := gateway faultlab benchmarks tests tools docs deploy .ci \
	README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md Makefile Dockerfile compose.yaml pyproject.toml

docs:  ## Build the site of the documentation in build/site, and check every link
	@tools/install dev
	.venv/bin/python -m tools.build_docs

test-compose:  ## Start the compose stack and test it; GATEWAY_COMPOSE may name another command
	@tools/install dev
	.venv/bin/pytest -m compose tests/compose

lock:  ## Update the locked, hashed requirements
	@tools/install dev
	.venv/bin/pip-compile $(LOCK) --extra telemetry -o requirements/runtime.txt pyproject.toml
	.venv/bin/pip-compile $(LOCK) -o requirements/build.txt requirements/build.in
	.venv/bin/pip-compile $(LOCK) -o requirements/dev.txt requirements/dev.in
	.venv/bin/pip-compile $(LOCK) -o requirements/training.txt requirements/training.in
LOCK := --quiet --generate-hashes --strip-extras --allow-unsafe --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-options

model: .venv-training  ## Train the model that the package ships
	.venv-training/bin/python -m tools.train_model

places: .venv-training  ## Create the table of places that the package ships
	.venv-training/bin/python tools/make_places.py

.venv-training: requirements/training.txt
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --no-deps --require-hashes -r requirements/training.txt
	touch $@

clean:  ## Remove everything that the other targets create
	rm -rf build .cache .venv .venv-training .install.lock .servers.lock .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis benchmarks/contenders/node/node_modules
