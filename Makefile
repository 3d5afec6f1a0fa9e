# Every target sets up what it needs: Python >= 3.11, make and PyPI are enough.
PYTHON ?= python3
BIN := .venv/bin
# How many tests run at a time. Each worker has its own broker. Workers mostly wait, so there may be more than cores.
WORKERS ?= 6
CYCLONEDX := 7.5.0
PIP_AUDIT := 2.10.1

.DEFAULT_GOAL := help
.PHONY: help setup demo run test test-kafka coverage lint bench bench-sites chaos fuzz simulate mutants lock clean wheel man docs sbom audit

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## set up the virtual environment from requirements.lock

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "jirafe-consumer needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@echo "Setting up .venv (once, about half a minute) ..."
	@$(PYTHON) -m venv .venv
	@# The lock is complete. With --no-deps, pip installs exactly this and resolves nothing.
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps --editable .
	@touch $@

demo: .venv/ready ## run the service with an embedded broker and a local Jirafe sandbox
	@$(BIN)/jirafe-consumer demo

run: .venv/ready ## run the service with the settings of the environment and .env
	@$(BIN)/jirafe-consumer run

test: .venv/ready ## run all tests, on a real Kafka if one is available, else on the embedded broker
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal --hypothesis-profile=thorough $(ARGS)

test-kafka: .venv/ready ## run the tests on a real Kafka, and fail if none is available
	@TEST_BROKER=real $(BIN)/pytest -n $(WORKERS) --dist worksteal --hypothesis-profile=thorough $(ARGS)

coverage: .venv/ready ## run the fast tests, and fail if they cover less than 95 % of the core
	@$(BIN)/pytest -n $(WORKERS) -q --cov --cov-report=term tests/unit

lint: .venv/ready ## check style, types, import directions and the installed packages
	@$(BIN)/python -m pip check
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: .venv/ready ## measure stages, throughput, start, memory and recovery, and compare with a plain loop
	@$(BIN)/python -m bench.throughput

bench-sites: .venv/ready ## measure how much a failing shop slows down others in the same partitions (ARGS="--seconds 600")
	@$(BIN)/python -m bench.sites $(ARGS)

chaos: .venv/ready ## kill and stop members while the API fails, and check that nothing is lost or doubled (ARGS="--messages 5000 --seed 1")
	@$(BIN)/python -m chaos.run $(ARGS)

fuzz: .venv/ready ## feed hostile input to the code for a minute (ARGS="--count 100000 --target records --seed 1"; ARGS=--help)
	@$(BIN)/python -m tests.fuzz $(ARGS)

simulate: .venv/ready ## run the engine in simulated worlds, where seeds choose the faults (ARGS="--seeds 1000 --from 1")
	@$(BIN)/python -m tests.simulation.run $(ARGS)

mutants: .venv/ready ## check that the simulation finds each of many deliberate defects (slow)
	@MUTANTS=1 $(BIN)/pytest -n $(WORKERS) tests/simulation -k mutant

lock: .venv/ready ## update the lock files from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-header --output-file requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --constraint requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --output-file requirements.run.lock
	@$(BIN)/uv pip compile --group docs --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --output-file requirements.docs.lock

wheel: .venv/ready ## build the wheel of the last commit into dist, twice, and fail if they differ
	@rm -rf build/wheel dist
	@for each in one two; do \
		umask 022 && mkdir -p build/wheel/$$each && git -c tar.umask=022 archive HEAD | tar -x -C build/wheel/$$each && \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --disable-pip-version-check --quiet \
			--no-build-isolation --no-deps --wheel-dir build/wheel/$$each/dist build/wheel/$$each || exit 1; \
	done
	@cmp build/wheel/one/dist/*.whl build/wheel/two/dist/*.whl
	@cp -r build/wheel/one/dist dist && sha256sum dist/*.whl

man: .venv/ready ## build the man page into dist
	@mkdir -p dist
	@$(BIN)/python -m consumer.cli.manual > dist/jirafe-consumer.1 && echo "dist/jirafe-consumer.1: man -l dist/jirafe-consumer.1"

build/docs/ready: requirements.docs.lock
	@$(PYTHON) -m venv build/docs
	@build/docs/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r requirements.docs.lock
	@touch $@

docs: build/docs/ready ## build the documentation as a site into site/, and fail on a broken link
	@build/docs/bin/zensical build --clean --strict --config-file mkdocs.yml

sbom: .venv/ready ## list the components of the service in dist/sbom.json, as CycloneDX (needs PyPI)
	@mkdir -p dist
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	@$(BIN)/uv tool run --quiet --from cyclonedx-bom==$(CYCLONEDX) cyclonedx-py requirements requirements.run.lock \
		--pyproject pyproject.toml --mc-type application --output-reproducible --output-format JSON \
		--output-file dist/sbom.json && echo dist/sbom.json

audit: .venv/ready ## check the pinned dependencies for known vulnerabilities (needs PyPI)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	@$(BIN)/uv tool run --quiet pip-audit==$(PIP_AUDIT) --strict --disable-pip --require-hashes --progress-spinner off \
		--requirement $(or $(ARGS),requirements.lock)

clean: ## remove the virtual environment and all caches
	rm -rf .venv build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
