# The interpreter that the environment is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/airflow-3.3.txt
READY := $(VENV)/.ready
# Where test-ui keeps its screenshots.
PICTURES ?= build/pictures
BENCH := .venv-bench
BENCH_CONSTRAINTS := constraints/bench.txt
BENCH_READY := $(BENCH)/.ready
BENCHMARKS := upload store waits airflow_waits imports
# A company's own authority stands in the system's store, not in the one that uv brings along.
export UV_SYSTEM_CERTS := 1

.DELETE_ON_ERROR:
.PHONY: help demo ui test test-ui chromium test-matrix test-system test-bench bench lint docs dist constraints clean

help:
	@echo "make demo         run the tracking study in a real Airflow against the sandbox, and print what came of it"
	@echo "make ui           the same, and leave both up to click around in"
	@echo "make test         lint, types and all tests but those of test-ui, test-system and test-bench"
	@echo "make test-ui      look at a real Airflow with a browser; PICTURES=docs/images renews the docs' screenshots"
	@echo "make test-system  tests with a real Airflow whose processes are killed, in ten minutes"
	@echo "make test-matrix  the tests on each Airflow from 2.11 to 3.3, and a table of them; AIRFLOW=2.11 for one alone"
	@echo "make bench        measure against curl, requests, dbt Cloud, Airbyte … in 15 minutes, and print every ratio"
	@echo "make test-bench   tests with an S3 server, and a quick run of each benchmark"
	@echo "make lint         lint and types alone"
	@echo "make docs         build the docs into build/docs"
	@echo "make dist         build the wheel and the sdist into dist/"
	@echo "make constraints  pin anew what the environment holds"
	@echo "make clean        remove the environment and all that was built"

demo: $(READY)
	@$(BIN)/python -m tests.support.demo

ui: $(READY)
	@$(BIN)/python -m tests.support.demo --keep

test: lint
	$(BIN)/python -m pytest -m "not system and not ui and not bench"

test-ui: $(READY) chromium
	PICTURES=$(PICTURES) $(BIN)/python -m pytest -m ui

chromium:
	@command -v chromium >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	} || { echo "Chromium is needed: install it, so that 'chromium' is on the PATH."; exit 1; }

test-matrix: $(READY) chromium
	$(BIN)/python -m tests.matrix $(AIRFLOW)

test-system: $(READY)
	$(BIN)/python -m pytest -m system

test-bench: $(BENCH_READY)
	$(BENCH)/bin/python -m pytest -m bench tests/benchmarks tests/hooks

bench: $(BENCH_READY)
	set -e; for name in $(BENCHMARKS); do $(BENCH)/bin/python -m tests.benchmarks.$$name; done
	@$(BENCH)/bin/python -m tests.benchmarks.report $(BENCHMARKS:%=docs/benchmarks/%.json)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet --doctree-dir build/doctrees \
		docs build/docs

# uv installs in a quarter of pip's time. The bytecode is compiled once, here: many processes will want it.
$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed: $(PYTHON) is " + sys.version.split()[0] + ". Choose one with: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint $(CONSTRAINTS) \
		--build-constraint $(CONSTRAINTS) --group dev --group docs --editable '.[sandbox]'
	@touch $@

$(BENCH_READY): pyproject.toml $(BENCH_CONSTRAINTS)
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(BENCH_CONSTRAINTS) uv
	$(BENCH)/bin/uv pip install --quiet --python $(BENCH)/bin/python --compile-bytecode \
		--constraint $(BENCH_CONSTRAINTS) --build-constraint $(BENCH_CONSTRAINTS) --group bench --editable '.[sandbox]'
	@touch $@

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

constraints: $(READY)
	{ echo '# Remade by: make constraints'; \
	printf '%s\n' 'apache-airflow~=3.3.2' editables uv | $(BIN)/uv pip compile --quiet --universal \
		--python-version 3.10 --extra sandbox --group dev --group docs --no-header --no-annotate pyproject.toml -; } \
		>$(CONSTRAINTS).new
	mv $(CONSTRAINTS).new $(CONSTRAINTS)
	@# Airflow 3.0 and 3.2 take any FastAPI, and 3.0 any PyJWT and universal-pathlib, and break with later ones.
	set -e; for wanted in '2.11' '3.0 fastapi<0.118 pyjwt<2.11 universal-pathlib<0.3' '3.1' '3.2 fastapi<0.137'; do \
		set -- $$wanted; version=$$1; shift; file=constraints/airflow-$$version.txt; \
		{ echo '# Remade by: make constraints'; \
		printf '%s\n' "apache-airflow~=$$version.0" "$$@" editables uv | $(BIN)/uv pip compile --quiet --universal \
			--python-version 3.10 --extra sandbox --group dev --group docs --no-header --no-annotate \
			pyproject.toml -; } >$$file.new; \
		mv $$file.new $$file; \
	done
	@# uv keeps what stands in its output where it can: what both environments hold is the same, but where it can't be.
	cp $(CONSTRAINTS) $(BENCH_CONSTRAINTS).new
	printf '%s\n' 'apache-airflow~=3.3.2' editables hatchling uv | $(BIN)/uv pip compile --quiet --universal \
		--python-version 3.10 --extra sandbox --group bench --no-header --no-annotate \
		--output-file $(BENCH_CONSTRAINTS).new pyproject.toml - >/dev/null
	{ echo '# Remade by: make constraints'; cat $(BENCH_CONSTRAINTS).new; } >$(BENCH_CONSTRAINTS)
	rm $(BENCH_CONSTRAINTS).new

clean:
	rm -rf $(VENV) $(BENCH) .matrix build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
