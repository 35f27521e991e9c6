# `make demo` and `make test` do everything from nothing: a virtual environment, the pinned install of what each needs,
# then the work. Both use the same environment: what the demo installed is not installed again for the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.installed-demo
STAMP := $(VENV)/.installed
EXTRA_MARKS = $(if $(MATRIX),,$(if $(SLOW),-m "not matrix",-m "not slow and not gpu and not device"))
# Test processes at once, a file in each; they share the cores, so each computes with one thread.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 4))')
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

WEB := tests/apps/web/node_modules/.installed

.PHONY: setup setup-demo setup-web demo test test-kotlin test-swift lint types format site clean

setup: $(STAMP)

setup-demo: $(DEMO)

$(DEMO): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgekit needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[onnx,demo,report]'
	touch $@

# What the tests need besides; llama-cpp-python is built from source, minutes with a C++ compiler.
$(STAMP): $(DEMO)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(if $(NO_GGUF),,$(BIN)/python -m pip install -q -c constraints.txt -e '.[gguf]' 'llama-cpp-python[server]' \
	  || echo "llama-cpp-python was not built (it needs a C++ compiler); the tests of GGUF skip.")
	touch $@

# What the web library is tested on: onnxruntime-web, a type checker and a driver of browsers by npm, and Chromium where
# this may install it. What is missing makes tests skip, with its reason.
setup-web:
	@command -v npm > /dev/null || echo "npm is not here: the tests of the web library skip."
	@! command -v npm > /dev/null || test -e $(WEB) || (cd $(dir $(WEB)).. && npm install --ignore-scripts --no-audit \
	  --no-fund --no-package-lock > npm.log 2>&1 && touch node_modules/.installed && rm npm.log) \
	  || echo "npm cannot install their packages: tests of the web library skip; tests/apps/web/npm.log says why."
	@command -v chromium > /dev/null || (test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -q \
	  && apt-get install -yq --no-install-recommends chromium) > /dev/null 2>&1 \
	  || echo "Chromium is not here, and was not installed: the tests of the web page skip."

# Distil, export, measure, in demo-run/; the same command goes on where it was stopped.
demo: $(DEMO)
	mkdir -p demo-run
	cd demo-run && ../$(BIN)/edgekit distill
	cd demo-run && ../$(BIN)/edgekit export --target onnx
	cd demo-run && ../$(BIN)/edgekit bench

test: export OMP_NUM_THREADS ?= 1
test: lint types
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(EXTRA_MARKS) $(ARGS)

# The Android library on the JVM: needs Java 17, npm (which brings the Kotlin compiler) and a C compiler. The app's files
# and resources: needs aapt, android-framework-res, zipalign and apksigner of Debian. What is missing is a skip.
test-kotlin: export OMP_NUM_THREADS ?= 1
test-kotlin: $(STAMP)
	$(BIN)/python -m pytest tests/apps/test_kotlin.py tests/apps/test_app_android.py tests/apps/test_android_resources.py $(ARGS)

# The library of iPhone apps: Swift's toolchain is fetched once, as a Debian of its own, where there is none (root, 2.8 GB).
test-swift: $(DEMO)
	PYTHON=$(BIN)/python tests/apps/swift/run

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package in full. Of tests and benchmarks what they name of it: attributes, modules, arguments, so that a rename
# that they did not follow is found before they run. They pass wrong types on purpose, patch names where these are
# imported, and put calls of no value into the lambdas of doubles (func-returns-value); none of that is asked. Other
# options make another cache.
NOT_OF_TESTS := arg-type assignment comparison-overlap dict-item func-returns-value index list-item method-assign misc \
  no-any-return no-untyped-call no-untyped-def operator return-value type-arg type-var unreachable untyped-decorator \
  unused-ignore var-annotated

types: $(STAMP)
	$(BIN)/python -m mypy -p edgekit
	$(BIN)/python -m mypy --cache-dir .mypy_cache/tests --implicit-reexport \
	  $(addprefix --disable-error-code=,$(NOT_OF_TESTS)) tests benchmarks

# The documentation as pages, in an environment of its own without torch; a link that leads nowhere fails.
SITE ?= site
SITE_VENV ?= .venv-site
site:
	test -x $(SITE_VENV)/bin/mkdocs || ($(PYTHON) -m venv $(SITE_VENV) && $(SITE_VENV)/bin/python -m pip install -q \
	  -c constraints.txt mkdocs-material 'mkdocstrings[python]')
	NO_MKDOCS_2_WARNING=1 $(SITE_VENV)/bin/mkdocs build --strict --quiet -d $(abspath $(SITE))
	@echo "Open $(SITE)/index.html"

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info demo-run .mypy_cache .ruff_cache .pytest_cache .hypothesis
