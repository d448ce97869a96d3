# Everything goes through the virtual environment .venv, made from requirements.lock.
PYTHON ?= python3
PORT ?= 3000
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: run test test-duckdb-1.5 test-stack test-ui lint bench lock clean
.DEFAULT_GOAL := run

run: $(INSTALLED)  ## the whole platform with an embedded broker and a simulated shop
	@$(BIN)/pharmacy-bi demo --port $(PORT)

test: $(INSTALLED) lint  ## lint, types and every test that needs neither servers nor a browser
	$(BIN)/pytest -n 2 --dist loadgroup -m "not stack and not ui"

test-duckdb-1.5: $(INSTALLED)  ## the heart of it on the older DuckDB that we promise to run on
	@test -d .venv-duckdb15 || $(PYTHON) -m venv .venv-duckdb15
	@$(BIN)/uv pip sync --quiet --python .venv-duckdb15/bin/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python .venv-duckdb15/bin/python --no-deps duckdb==1.5.6
	@$(BIN)/uv pip install --quiet --python .venv-duckdb15/bin/python --no-deps --no-build-isolation -e .
	.venv-duckdb15/bin/pytest -n 2 tests/refresh tests/outputs tests/landing/test_land.py \
		tests/landing/test_offsets.py tests/history/test_touched.py tests/test_cli.py tests/test_compaction.py

test-stack: $(INSTALLED)  ## the real chain: MariaDB, Debezium, Kafka (Java 17, Maven, mariadbd)
	$(BIN)/python -m stack fetch
	$(BIN)/pytest tests/stack -m stack

test-ui: $(INSTALLED)  ## the Dagster UI of `make run` in headless Chromium
	$(BIN)/pytest tests/ui -m ui

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## every figure beside its baseline; an hour or two (Kafka Streams: JDK 17, Maven)
	$(BIN)/python -m benchmarks

lock: $(INSTALLED)  ## after a change of pyproject.toml
	$(BIN)/uv pip compile --quiet --generate-hashes --no-strip-extras --extra dev \
		pyproject.toml -o requirements.lock

clean:  ## throw away what was installed, fetched and written
	rm -rf $(VENV) .venv-duckdb15 .stack data

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or later is needed: install it, or name it: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "Python's venv module is missing: install it (Debian: apt install python3-venv)"; exit 1; }
	@echo "making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "installing $$(grep -c == requirements.lock) packages ..."
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
