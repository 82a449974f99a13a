# Each target sets up what it needs: Python 3.11 or newer with pip is enough.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
# A bare `torch` resolves to gigabytes of CUDA on a machine without a GPU; constraints.txt pins the build.

.PHONY: demo serve test test-units test-servers test-long long chaos check

demo: $(STAMP)
	$(BIN)/python -m lego_serve.cli.demo

serve: $(STAMP)
	$(BIN)/lego-serve serve

# What starts servers runs beside all else; each says what it has to say when it is done.
test: $(STAMP)
	$(MAKE) --no-print-directory --jobs 2 $(SYNC) --keep-going test-units test-servers

test-units: $(STAMP)
	$(BIN)/python -m pytest -m "not ray and not long"

test-servers: $(STAMP)
	$(BIN)/python -m pytest -m "ray and not long"

# Those that say the same as a quick one of more sizes, kinds or repetitions.
test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

# Every test, with more examples of each property.
long: $(STAMP)
	LEGO_EXAMPLES=200 $(BIN)/python -m pytest

# Kills twenty backbone replicas under load; minutes.
chaos: $(STAMP)
	LEGO_CHAOS_KILLS=20 $(BIN)/python -m pytest tests/e2e/test_recovery.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)
