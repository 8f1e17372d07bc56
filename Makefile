# make demo and make test do everything on a machine that has Python 3.11+ with venv, make and (for the end-to-end
# tests) apt. Python packages go into .venv and compiled kernels into the user's cache folder. Debian packages are
# installed only by root and only where they are missing: the one that Python needs to make .venv, and for
# make test the servers that it starts.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -q
PARALLEL := -n auto --dist worksteal
RUNTIME := $(VENV)/.installed
STAMP := $(VENV)/.installed-dev
SERVERS := unbound dnsdist dnsperf fstrm-bin mosquitto bind9 bind9-dnsutils knot knot-module-dnstap knot-resolver nsd pdns-recursor chromium chromium-driver prometheus
KERNEL_TESTS := tests/stages tests/kernel tests/observe/test_ledger.py tests/test_golden.py tests/fuzz
STAGES := test-fast test-e2e test-checked test-plain

FUZZ := PYTHONPATH=src:tests $(BIN)/python
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 1
FUZZ_FOLDER ?= build/fuzz
FUZZ_TARGETS ?= capture configuration dawg dns dnstap framestream keys names packets pipeline prefixes seen_log

.PHONY: setup runtime demo test $(STAGES) test-quick test-modes fuzz check bench format lock servers clean

# What running needs.
runtime: $(RUNTIME)

$(RUNTIME): requirements.lock requirements-build.lock pyproject.toml
	@sh packaging/python_venv.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements.lock -r requirements-build.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $(RUNTIME)

# And what tests and checks need.
setup: $(STAMP)

$(STAMP): $(RUNTIME) requirements-dev.lock
	$(PIP) --require-hashes -r requirements-dev.lock
	@touch $(STAMP)

demo: runtime
	@$(BIN)/python demo/demo.py

servers:
	@sh tests/e2e/install_servers.sh $(SERVERS)

# All stages run, whatever becomes of one of them; the last line says which failed.
test: setup servers
	@trap 'exit 130' INT; failed=; \
	for stage in $(STAGES); do \
	  $(MAKE) --no-print-directory $$stage || failed="$$failed $$stage"; \
	done; \
	if [ -n "$$failed" ]; then echo "make test: FAILED:$$failed" >&2; exit 1; fi; \
	echo "make test: all stages passed: $(STAGES)"

test-fast: setup
	$(PYTEST) $(PARALLEL) -m "not e2e"

# What CI runs on the other Pythons.
test-quick: setup
	$(PYTEST) $(PARALLEL) -m "not e2e and not slow"

test-e2e: setup servers
	$(PYTEST) $(PARALLEL) -m e2e

# The kernels once more with every index checked, and as plain Python.
test-modes: test-checked test-plain

test-checked: setup
	NUMBA_BOUNDSCHECK=1 $(PYTEST) $(PARALLEL) -m "not e2e" $(KERNEL_TESTS)

test-plain: setup
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

# Versions that serve Python 3.11 to 3.14 on every processor. Pins that are there stay, unless they must change:
# to have them all anew, remove the files first.
LOCK := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
  --annotation-style line --custom-compile-command "make lock"

lock: setup
	$(PIP) uv
	$(LOCK) pyproject.toml -o requirements.lock
	@# The second builds on the first and does not repeat it.
	@[ ! -f requirements-dev.lock ] || sed -i '/^-r /d' requirements-dev.lock
	$(LOCK) pyproject.toml --extra test --extra lint -c requirements.lock \
	  $$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements.lock) -o requirements-dev.lock
	@sed -i '2a -r requirements.lock' requirements-dev.lock
	sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml | \
	  $(LOCK) - -c requirements-dev.lock -o requirements-build.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
