# One command for each thing one does here; CI runs the same ones.

PYTHON ?= python3
BIN := .venv/bin
COVERED := core definition stores runtime
# A process for each processor; who has nothing left takes tests from the others.
TESTS := -m pytest -n auto --dist worksteal

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export NPM_CONFIG_LOGLEVEL := error

.PHONY: run test check fix bench soak docs coverage clean

run: .venv/.run                ## the orders example
	$(BIN)/python -m examples.orders

test: .venv/.dev               ## all tests
	$(BIN)/python $(TESTS)

check: .venv/.dev              ## linter, formatter, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy src examples $(wildcard tests/typing)
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

fix: .venv/.dev                ## whatever the tools can mend by themselves
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/.dev              ## durable steps, waiting runs and durable functions, beside the bare store
	@status=0; for bench in steps waiting functions; do \
		$(BIN)/python bench/bench_$$bench.py || status=1; \
	done; exit $$status

soak: .venv/.dev               ## the tests with their long gates
	HOLDFAST_SOAK=1 $(BIN)/python $(TESTS)

docs: .venv/.dev               ## every snippet of the pages, run
	$(BIN)/python -m pytest tests/e2e/test_docs.py

coverage: .venv/.dev           ## the tests; fails if one of the four is under 95 %
	$(BIN)/coverage run -m pytest
	@status=0; for part in $(COVERED); do \
		$(BIN)/coverage report --include="src/holdfast/$$part/*" --fail-under=95 || status=1; \
	done; exit $$status

clean:                         ## all that git ignores by name here
	rm -rf .venv build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv writes: a half-made environment is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "holdfast needs Python 3.11 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.11" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -q -e .
	touch $@

.venv/.dev: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@
