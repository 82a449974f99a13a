# Each target sets up what it needs: Python 3.11 or newer with pip is enough.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Where a change is decided on, what fails is run once more and named if it passes then: see CONTRIBUTING.md.
PYTEST := $(BIN)/python -m pytest $(if $(CI),--reruns 1 -rfER)
SERVED := tests/chaos tests/e2e tests/gateway/test_large_bodies.py tests/loadgen/baselines tests/test_readme.py # as in tests/conftest.py, which refuses such tests elsewhere
SCRIPTS := lego_serve/gateway/ui/static
WITHOUT_RAY := "not ray and not long and not alone"
MODELS := tests/core tests/engine tests/jobstore tests/kernels tests/models tests/serving
HTTP := tests/browser tests/client tests/compat tests/gateway tests/webhooks
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
timed = started=$$(date +%s); $(1); status=$$?; echo "$@ took $$(($$(date +%s) - started)) s"; exit $$status
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
# A bare `torch` resolves to gigabytes of CUDA on a machine without a GPU; constraints.txt pins the build.

.PHONY: cluster images deploy-files demo serve test test-models test-http test-rest test-servers test-alone test-long long fuzz chaos check wheel

demo: $(STAMP)
	$(BIN)/python -m lego_serve.cli.demo

serve: $(STAMP)
	$(BIN)/lego-serve serve

# Four parts, three at once, the longest first: the two cores are busy until nearly the end. Each prints its report.
# `make test ONLY=core` runs the tests under tests/core alone; any path under tests/ will do, or several.
test: $(STAMP)
ifdef ONLY
	@$(call timed,$(PYTEST) -m "not long" $(addprefix tests/,$(patsubst tests/%,%,$(ONLY))))
else
	@$(call timed,$(MAKE) --no-print-directory --jobs 3 $(SYNC) --keep-going test-servers test-rest test-models test-http && $(MAKE) --no-print-directory test-alone)
endif

# Niced as Ray nices its workers, or the servers of the first part would hardly run beside these.
test-models: $(STAMP)
	nice -n 15 $(PYTEST) -m $(WITHOUT_RAY) $(MODELS)

test-http: $(STAMP)
	nice -n 15 $(PYTEST) -m $(WITHOUT_RAY) $(HTTP)

test-rest: $(STAMP)
	nice -n 15 $(PYTEST) -m $(WITHOUT_RAY) tests $(addprefix --ignore=,$(MODELS) $(HTTP))

# These two collect the files that hold such tests alone, for collecting all costs a quarter of a minute: see SERVED.
test-servers: $(STAMP)
	$(PYTEST) -m "ray and not long and not alone" $(SERVED)

# Those that bound how late a server may be, which nothing beside them may add to.
test-alone: $(STAMP)
	$(PYTEST) -m "alone and not long" $(SERVED)

# Those that say the same as a quick one of more sizes, kinds or repetitions: an hour and a half. None begins later than
# LEGO_LONG_SECONDS where that is set; what is left out is named.
test-long: $(STAMP)
	$(PYTEST) -m long

# Every test, with more examples of each property.
long: $(STAMP)
	LEGO_EXAMPLES=200 LEGO_FUZZ_CASES=10000 $(PYTEST)

# Twenty thousand requests made from the OpenAPI document, to a gateway without models; minutes.
fuzz: $(STAMP)
	LEGO_FUZZ_CASES=20000 $(PYTEST) -m long -s tests/gateway/test_openapi.py -k as_the_document_says

# Every test that the table of docs/reliability.md names, with many faults, and its figures in chaos.jsonl; some hours.
CHAOS := LEGO_CHAOS=1 LEGO_CHAOS_KILLS=20 LEGO_CHAOS_STOPS=20 LEGO_CHAOS_SECONDS=60 LEGO_CHAOS_LEAVERS=500
CHAOS += LEGO_CHAOS_DEADLINES=500 LEGO_CHAOS_ROUNDS=200 LEGO_CHAOS_REQUESTS=10000 LEGO_CHAOS_SLACK=1
CHAOS += LEGO_CHAOS_FIGURES=$(CURDIR)/chaos.jsonl
FAULTS = $(shell grep '^| P' docs/reliability.md | grep -oE 'tests/[a-z0-9_/]+/test_[a-z0-9_]+\.py(::[a-z0-9_]+)?' | sort -u)
chaos: $(STAMP)
	$(CHAOS) $(PYTEST) tests/chaos $(FAULTS)

# The package with its weights, pages and workflows, in dist.
wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Both images from the Dockerfile, without a registry or a daemon, and an inventory of each (an SBOM by CycloneDX); for root.
# A minute, and ten the first time.
images: $(STAMP)
	LEGO_SBOM=$${LEGO_SBOM:-.} deploy/images.sh gateway worker

# Parts on several machines, and the manifests' pods from both images, in network namespaces of this machine; they are
# broken one after the other: on an idle machine, for Ray gives up where its processes wait for a processor. Prints
# figures.
cluster: $(STAMP)
	LEGO_CLUSTER=1 $(PYTEST) -s tests/e2e/cluster

# What follows from other files: Serve's configurations of the overlays, the operator's rules, the dashboard.
deploy-files: $(STAMP)
	$(BIN)/python -m deploy.generate

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.checks
	DENO_NO_UPDATE_CHECK=1 $(BIN)/deno check --quiet $(SCRIPTS)
	DENO_NO_UPDATE_CHECK=1 $(BIN)/deno lint --quiet $(SCRIPTS)
	DENO_NO_UPDATE_CHECK=1 $(BIN)/deno fmt --check --quiet $(SCRIPTS)/*/*.js tests/ui/*.js

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)
