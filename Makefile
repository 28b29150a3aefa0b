# `make dev` and `make test` do everything on a machine that has Python 3.11 and make. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help install dev test faults soak bench lint test-compose lock model places clean
HOST ?= 127.0.0.1
PORT ?= 8000
PYTHON ?= python3
JOBS ?= 2
export PYTHON

help:  ## Show this
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' Makefile

install:  ## Make .venv with the gateway command in it
	@tools/install runtime

dev: install  ## Serve from private servers on http://127.0.0.1:8000 (PORT=8001 for another); Ctrl-C ends it all
	@tools/install-servers
	@exec .venv/bin/gateway dev --host $(HOST) --port $(PORT)

test:  ## Run all tests that need no container engine
	@tools/install dev
	@tools/install-servers
	.venv/bin/pytest -n $(JOBS) --dist worksteal $(ARGS)

faults:  ## Run all fault tests, the long sweeps included, and write docs/faults.md
	@tools/install dev
	@tools/install-servers
	.venv/bin/pytest -m "not compose and not soak" tests/faultlab tests/faults --report docs/faults $(ARGS)

soak:  ## Break everything under load for ten minutes (SOAK_SECONDS, SOAK_SEED), and write what that was like
	@tools/install dev
	@tools/install-servers
	SOAK_REPORT=$${SOAK_REPORT-build/soak.md} .venv/bin/pytest -m soak -o faulthandler_timeout=7200 tests/chaos $(ARGS)

bench:  ## Measure against others in one run, in less than ten minutes, and write docs/benchmarks.md (ARGS=--help says more)
	@tools/install dev
	@tools/install-servers
	.venv/bin/python -m benchmarks --write docs/benchmarks.md $(ARGS)

lint:  ## Check format, style, types, imports and the words of the prose
	@tools/install dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/typos --format brief $(PROSE)
	.venv/bin/python tools/check_prose.py $(PROSE)
# Where words, phrases and the names of tests are checked (see [tool.typos] and [tool.prose] in pyproject.toml).
PROSE := gateway/lifecycle faultlab tests/lifecycle tests/faultlab tests/faults tests/pitfalls tests/support \
	docs/lifecycle.md docs/pitfalls.md docs/check_your_own_app.md docs/faults.md $(wildcard docs/faults docs/glossary.md)

test-compose:  ## Bring the whole compose stack up and test it; GATEWAY_COMPOSE may name another command
	@tools/install dev
	.venv/bin/pytest -m compose tests/compose

lock:  ## Write the locked, hashed requirements anew
	@tools/install dev
	.venv/bin/pip-compile $(LOCK) -o requirements/runtime.txt pyproject.toml
	.venv/bin/pip-compile $(LOCK) -o requirements/build.txt requirements/build.in
	.venv/bin/pip-compile $(LOCK) -o requirements/dev.txt requirements/dev.in
	.venv/bin/pip-compile $(LOCK) -o requirements/training.txt requirements/training.in
LOCK := --quiet --generate-hashes --strip-extras --allow-unsafe --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-options

model: .venv-training  ## Train the model that the package ships
	.venv-training/bin/python -m tools.train_model

places: .venv-training  ## Make the table of places that the package ships
	.venv-training/bin/python tools/make_places.py

.venv-training: requirements/training.txt
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --no-deps --require-hashes -r requirements/training.txt
	touch $@

clean:  ## Remove what the other targets have made
	rm -rf .venv .venv-training .install.lock .servers.lock .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis benchmarks/contenders/node/node_modules
