# The interpreter for the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/airflow-3.3.txt
READY := $(VENV)/.ready
# The folder for the screenshots of test-ui.
PICTURES ?= build/pictures
# The marker expression of test-system.
SYSTEM ?= system
BENCH := .venv-bench
BENCH_READY := $(BENCH)/.ready
CLUSTER := .venv-cluster
CLUSTER_READY := $(CLUSTER)/.ready
# The marker expression of test-cluster.
CLUSTER_TESTS ?= cluster and long
BENCHMARKS := upload ledger store uploads waits latency growth airflow_waits rejections wave_check imports
# The tests wait half of the time, so there is one process more than cores. The tests of a file run in one process,
# because they share what is slow to set up.
PARALLEL := --numprocesses $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --dist loadfile
# A company's own certificate authority is in the system's store, not in the one that is bundled with uv.
export UV_SYSTEM_CERTS := 1

.DELETE_ON_ERROR:
.PHONY: help demo ui test test-ui chromium test-matrix test-system test-cluster servers test-bench coverage bench lint docs dist constraints \
	clean

help:
	@echo "make demo         run the tracking study in a real Airflow against the sandbox, and print the result"
	@echo "make ui           the same, and keep both running, to look around in a browser"
	@echo "make test         check style and types, and run all tests except those of test-ui, test-system and test-bench"
	@echo "make test-ui      test a real Airflow in a browser; PICTURES=docs/images updates the screenshots of the docs"
	@echo "make test-system  test a real Airflow while its processes are killed; takes 17 minutes"
	@echo "make test-cluster test a cluster (Celery, Redis, PostgreSQL) while its processes are killed; takes 10 minutes"
	@echo "make test-matrix  run the tests on each Airflow from 2.11 on and print a table; AIRFLOW=next for only one"
	@echo "make bench        compare with curl, requests, dbt Cloud, Airbyte … and print the ratios; takes 40 minutes"
	@echo "make test-bench   run the tests with an S3 server, and a short run of each benchmark"
	@echo "make coverage     run the tests of test and test-system, and print the lines and branches that none reached"
	@echo "make lint         check style and types"
	@echo "make docs         build the docs into build/docs"
	@echo "make dist         build the wheel and the sdist into dist/"
	@echo "make constraints  update the pinned versions in constraints/"
	@echo "make clean        remove the environments and everything that was built"

demo: $(READY)
	@$(BIN)/python -m tests.support.demo

ui: $(READY)
	@$(BIN)/python -m tests.support.demo --keep

test: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not system and not ui and not bench and not cluster"

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
	$(BIN)/python -m pytest -m "$(SYSTEM)"

test-cluster: $(CLUSTER_READY) servers
	$(CLUSTER)/bin/python -m pytest -s -m "$(CLUSTER_TESTS)" tests/cluster

servers:
	@{ command -v redis-server && ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends redis-server postgresql; \
	} || { echo "Redis and PostgreSQL are needed: install Debian's redis-server and postgresql."; exit 1; }

# The second run measures in the processes of Airflow too.
coverage: $(READY)
	rm -rf build/coverage
	mkdir -p build/coverage
	$(BIN)/coverage run -m pytest $(PARALLEL) -m "not system and not ui and not bench and not cluster"
	$(BIN)/coverage run -m pytest -m system
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-bench: $(BENCH_READY)
	$(BENCH)/bin/python -m pytest -m bench tests/benchmarks tests/hooks tests/ledger

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
	@echo "Open build/docs/index.html in a browser."

# uv installs four times faster than pip. The bytecode is compiled once here, because many processes import it.
$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed: $(PYTHON) is " + sys.version.split()[0] + ". Choose one with: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint $(CONSTRAINTS) \
		--build-constraint $(CONSTRAINTS) --group dev --group docs --editable '.[sandbox]'
	@touch $@

$(BENCH_READY) $(CLUSTER_READY): .venv-%/.ready: pyproject.toml constraints/%.txt
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints/$*.txt uv
	.venv-$*/bin/uv pip install --quiet --python .venv-$*/bin/python --compile-bytecode \
		--constraint constraints/$*.txt --build-constraint constraints/$*.txt --group $* --editable '.[sandbox]'
	@touch $@

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

constraints: $(READY)
	@# The name of each file, its oldest Python, and what it wants. uv takes a pre-release only where it is named exactly.
	@# Airflow 3.0 and 3.2 do not limit FastAPI, nor 3.0 PyJWT and universal-pathlib, and fail with later versions.
	set -e; for wanted in '2.11 3.10 apache-airflow~=2.11.0' \
			'3.0 3.10 apache-airflow~=3.0.0 fastapi<0.118 pyjwt<2.11 universal-pathlib<0.3' \
			'3.1 3.10 apache-airflow~=3.1.0' '3.2 3.10 apache-airflow~=3.2.0 fastapi<0.137' \
			'3.3 3.10 apache-airflow~=3.3.2' 'next 3.11 apache-airflow==3.4.0b2'; do \
		set -- $$wanted; file=constraints/airflow-$$1.txt; python=$$2; shift 2; \
		{ echo '# Generated by: make constraints'; \
		printf '%s\n' "$$@" editables uv | $(BIN)/uv pip compile --quiet --universal \
			--python-version $$python --extra sandbox --group dev --group docs --no-header --no-annotate \
			pyproject.toml -; } >$$file.new; \
		mv $$file.new $$file; \
	done
	@# uv prefers the versions in its output file: all environments get the same versions where that is possible.
	set -e; for group in bench cluster; do \
		file=constraints/$$group.txt; cp $(CONSTRAINTS) $$file.new; \
		printf '%s\n' 'apache-airflow~=3.3.2' editables hatchling uv | $(BIN)/uv pip compile --quiet --universal \
			--python-version 3.10 --extra sandbox --group $$group --no-header --no-annotate \
			--output-file $$file.new pyproject.toml - >/dev/null; \
		{ echo '# Generated by: make constraints'; cat $$file.new; } >$$file; \
		rm $$file.new; \
	done

clean:
	rm -rf $(VENV) $(BENCH) $(CLUSTER) .matrix build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
