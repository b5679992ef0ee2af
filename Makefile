# The interpreter that the environment is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/airflow-3.3.txt
READY := $(VENV)/.ready
# A company's own authority stands in the system's store, not in the one that uv brings along.
export UV_SYSTEM_CERTS := 1

.DELETE_ON_ERROR:
.PHONY: help demo ui test test-system lint dist constraints clean

help:
	@echo "make demo         run the tracking study in a real Airflow against the sandbox, and print what came of it"
	@echo "make ui           the same, and leave both up to click around in"
	@echo "make test         lint, types and all tests but those of test-system"
	@echo "make test-system  tests with a real Airflow whose processes are killed, in ten minutes"
	@echo "make lint         lint and types alone"
	@echo "make dist         build the wheel and the sdist into dist/"
	@echo "make constraints  pin anew what the environment holds"
	@echo "make clean        remove the environment and all that was built"

demo: $(READY)
	@$(BIN)/python -m tests.support.demo

ui: $(READY)
	@$(BIN)/python -m tests.support.demo --keep

test: lint
	$(BIN)/python -m pytest -m "not system"

test-system: $(READY)
	$(BIN)/python -m pytest -m system

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# uv installs in a quarter of pip's time. The bytecode is compiled once, here: many processes will want it.
$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed: $(PYTHON) is " + sys.version.split()[0] + ". Choose one with: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint $(CONSTRAINTS) \
		--build-constraint $(CONSTRAINTS) --group dev --editable '.[sandbox]'
	@touch $@

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

constraints: $(READY)
	{ echo '# Remade by: make constraints'; \
	printf '%s\n' 'apache-airflow~=3.3.2' editables uv | $(BIN)/uv pip compile --quiet --universal \
		--python-version 3.10 --extra sandbox --group dev --no-header --no-annotate pyproject.toml -; } \
		>$(CONSTRAINTS).new
	mv $(CONSTRAINTS).new $(CONSTRAINTS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
