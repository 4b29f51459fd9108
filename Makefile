# Every target sets up what it needs: a virtual environment in .venv, with torch pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src csrc -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml
INSTALLED := $(VENV)/.installed

.PHONY: help integrations setup demo test format lint types imports docs unit kernels-baseline kernels-avx2 exchange plain api browser package test-torch bench gpu-wheel gpu doctor clean

setup: $(INSTALLED)  ## the virtual environment .venv with everything in it

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

$(VENV)/.created: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	touch $@

$(VENV)/.tools: $(VENV)/.created pyproject.toml tests/oracles.txt
	$(BIN)/pip install --quiet --constraint constraints.txt '.[dev]'
	$(BIN)/pip install --quiet --no-deps --requirement tests/oracles.txt
	touch $@

# Installed, not linked: what is tested is what a user gets.
$(INSTALLED): $(VENV)/.tools $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --force-reinstall .
	touch $@

# What a user installs, without the tools of developers, unless these are there.
$(VENV)/.commands: $(VENV)/.created $(SOURCES)
	$(BIN)/pip install --quiet --constraint constraints.txt '.[cli,report]'
	touch $@

demo: $(or $(wildcard $(INSTALLED)),$(VENV)/.commands)  ## train the two networks of the README
	$(BIN)/gradclip demo

doctor: setup  ## which backend answers here and why, and all that a bug report needs
	$(BIN)/gradclip doctor

# What has one process goes first, two at a time. The whole suite comes last, with one process a core: pytest's closing line
# is the verdict that continuous integration reads.
AT_ONCE := --no-print-directory --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
RUNS := plain exchange kernels-baseline kernels-avx2
test: setup browser  ## format, lint, types, import rules, packages, the site, all tests
	$(MAKE) $(AT_ONCE) format lint types imports package docs $(RUNS)
	$(SUITE)

format: setup
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check .
	$(BIN)/zizmor --offline --quiet --persona=pedantic .github

types: setup
	$(BIN)/pyrefly check

imports: setup
	$(BIN)/lint-imports

# The site, of which every reference has to have a target. Nothing is fetched. Its examples are those that the tests run.
SITE := build/docs
docs: setup  ## the site, in build/docs/html
	$(BIN)/sphinx-build --nitpicky --fail-on-warning --quiet --doctree-dir $(SITE)/doctrees --builder html docs $(SITE)/html

# The list of public names and signatures that a test compares: what changes it belongs into CHANGELOG.md.
api: setup  ## write the list of public names and signatures anew
	$(BIN)/python tests/public_api.py

FIND_BROWSER := from cli.report.browser import find_browser; print(find_browser() or "")
BROWSER = $(shell PYTHONPATH=tests $(BIN)/python -c '$(FIND_BROWSER)')

# The frameworks in which it is tried: the newest, which `make test` has too, but for TRL; with OLD=1, the oldest, in an environment of their own.
OLD_BIN := build/oldest/bin
integrations: setup  ## the frameworks; OLD=1, the oldest versions in an environment of their own
ifdef OLD
	$(PYTHON) -m venv build/oldest
	$(OLD_BIN)/pip install --quiet --constraint constraints.txt torch
	$(OLD_BIN)/pip install --quiet --requirement tests/integrations/oldest.txt pytest hypothesis '.[cli]'
	GRADCLIP_REQUIRE=integrations $(OLD_BIN)/pytest -q tests/integrations
else
	$(BIN)/pip install --quiet --constraint constraints.txt trl
	GRADCLIP_REQUIRE=integrations $(BIN)/pytest -q tests/integrations
endif

# The whole suite, in which each test of the operations names its backend.
WORKERS ?= auto
REQUIRED = native,triton,oracles,tensorboard,integrations,$(if $(BROWSER),browser)
SUITE = GRADCLIP_REQUIRE=$(REQUIRED) OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses=$(WORKERS) --dist=worksteal
unit: setup browser  ## the tests alone
	$(MAKE) $(AT_ONCE) $(RUNS)
	$(SUITE)

# The operations with the native kernels in the other instruction sets; by the other way to read a tensor, and with all cores.
NATIVE := -k 'not triton and not reference' tests/conformance
kernels-baseline kernels-avx2: kernels-%: setup
	GRADCLIP_ISA=$* OMP_NUM_THREADS=1 $(BIN)/pytest -q $(NATIVE)

exchange: setup
	GRADCLIP_EXCHANGE=0 $(BIN)/pytest -q $(subst reference',reference and not bit_patterns',$(NATIVE)) tests/test_native.py

# What clips, by plain torch, but for what asks no backend (states, copies, steps that are kept from happening, who hears
# of which), and what is on another device, where plain torch answers anyway.
ASK_NONE := captured withhold withheld_records state damaged_state lifetime skip many
OF_CLIPPERS := $(filter-out $(patsubst %,tests/clipper/test_%.py,$(ASK_NONE)),$(wildcard tests/clipper/test_*.py))
CLIPS := $(OF_CLIPPERS) tests/policies/test_conformance.py $(addprefix tests/test_,$(addsuffix .py,exactness functional nonfinite parity))
plain: setup
	GRADCLIP_BACKEND=reference OMP_NUM_THREADS=1 $(BIN)/pytest -q -k 'not triton and not native' $(CLIPS)

# Some tests of the report open it in a browser. Where there is none, root gets one if Debian has it; or they are skipped.
browser: setup
	@test -n "$(BROWSER)" || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=20 update \
	  && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install chromium fonts-liberation; } \
	  || echo "There is no Chromium and it cannot be installed: the tests that need it are skipped."

package: setup  ## build the packages, and use them in fresh environments
	$(BIN)/python tests/packaging/check_wheels.py

# The core on another torch, by hand, before the range that the package declares is changed: each takes a few GB.
OTHER := .venv-torch-$(TORCH)
test-torch:  ## the core on another torch: make test-torch TORCH=2.6.0, a few GB
	@test -n "$(TORCH)" || { echo "Say which one: make test-torch TORCH=2.6.0"; exit 2; }
	$(PYTHON) -m venv $(OTHER)
	echo "torch==$(TORCH)" > $(OTHER)/constraints.txt
	$(OTHER)/bin/pip install --quiet --constraint $(OTHER)/constraints.txt torch
	$(OTHER)/bin/pip install --quiet --constraint $(OTHER)/constraints.txt '.[dev]'
	$(OTHER)/bin/pip install --quiet --no-deps --force-reinstall .
	$(OTHER)/bin/pytest -q -p no:cacheprovider --ignore=tests/cli --ignore=tests/analysis --ignore=tests/examples

# What travels to a machine with a GPU, where nothing can be installed from; and what is done there, with its torch, Triton,
# pytest and hypothesis.
gpu-wheel: setup  ## what travels to a machine with a GPU
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/gpu/wheel .

GPU_OUT ?= build/gpu/result.json
gpu:  ## there: its tests and its benchmark
	$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target build/gpu/site build/gpu/wheel/*.whl
	PYTHONPATH=build/gpu/site GRADCLIP_REQUIRE=native,triton,cuda $(PYTHON) -m pytest -q -p no:cacheprovider tests/gpu
	PYTHONPATH=build/gpu/site GRADCLIP_REQUIRE=native,triton $(PYTHON) -m pytest -q -p no:cacheprovider -k triton tests/conformance
	PYTHONPATH=build/gpu/site $(PYTHON) benchmarks/gpu.py --compiled --out $(GPU_OUT)
	PYTHONPATH=build/gpu/site $(PYTHON) benchmarks/decisions.py --out $(basename $(GPU_OUT))-decisions.json
	PYTHONPATH=build/gpu/site $(PYTHON) benchmarks/graphs.py --out $(basename $(GPU_OUT))-graphs.json

bench: setup  ## measure, and store one JSON file in benchmarks/results/
	$(BIN)/gradclip bench --dtype float32 --dtype bfloat16 --seconds 8 --threads 2 \
	  --out benchmarks/results/$$(date -u +%Y-%m-%dT%H%M%S)-$$(git rev-parse --short HEAD).json

clean:  ## remove all that this makes
	rm -rf $(VENV) .venv-torch-* build dist
