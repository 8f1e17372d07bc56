# make demo and make test do everything on a machine that has Python 3.11+, pip, make and (for the end-to-end
# tests) apt. Everything goes into .venv; nothing else is touched, except that make test installs Debian packages
# of the servers it starts when it may (root) and they are missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q
PARALLEL := -n auto --dist worksteal
STAMP := $(VENV)/.installed
SERVERS := unbound dnsdist dnsperf fstrm-bin mosquitto
KERNEL_TESTS := tests/stages tests/kernel tests/observe/test_ledger.py tests/test_golden.py tests/fuzz

FUZZ := PYTHONPATH=src:tests $(BIN)/python
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 1
FUZZ_FOLDER ?= build/fuzz
FUZZ_TARGETS ?= capture configuration dawg dns dnstap framestream keys names packets pipeline prefixes seen_log

.PHONY: setup demo test test-modes fuzz check bench format lock servers clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed ($(PYTHON))" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup
	@$(BIN)/python demo/demo.py

servers:
	@sh tests/e2e/install_servers.sh $(SERVERS)

test: setup servers
	$(PYTEST) $(PARALLEL) -m "not e2e"
	$(PYTEST) -m e2e
	$(MAKE) --no-print-directory test-modes

# The kernels once more with every index checked, and as plain Python.
test-modes: setup
	NUMBA_BOUNDSCHECK=1 $(PYTEST) $(PARALLEL) -m "not e2e" $(KERNEL_TESTS)
	NUMBA_DISABLE_JIT=1 $(PYTEST) $(PARALLEL) -m "not e2e" $(KERNEL_TESTS)

# Both fuzzers on every target, FUZZ_SECONDS each; what the guided one has found is where the other starts.
fuzz: setup
	@mkdir -p $(FUZZ_FOLDER)
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-fuzz.txt \
	  && $(BIN)/python -c 'import atheris' 2>/dev/null; then \
	  for target in $(FUZZ_TARGETS); do \
	    $(FUZZ) -m fuzz.guided $$target --corpus $(FUZZ_FOLDER) -max_total_time=$(FUZZ_SECONDS) \
	      -artifact_prefix=$(FUZZ_FOLDER)/$$target- -verbosity=0 || exit 1; \
	  done; \
	else echo "atheris cannot be installed here: no guided fuzzing, only mutation"; fi
	$(FUZZ) -m fuzz.run --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED) --corpus $(FUZZ_FOLDER) \
	  $(addprefix --target ,$(FUZZ_TARGETS))

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-tools
	$(BIN)/pip-compile --quiet --generate-hashes --all-extras --allow-unsafe --strip-extras --no-emit-index-url \
	  --no-emit-trusted-host --no-emit-find-links --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
