# Everything this project can do. `make` alone lists it.
#
#   PYTHON       the interpreter .venv is made with (3.10 or newer)
#   CONSTRAINTS  the pinned set to install; point it at another file to try other versions
#   OUT          where `make quickstart` writes
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
OUT ?= runs/quickstart

VENV := .venv
BIN := $(VENV)/bin
DEPENDENCIES := $(VENV)/.dependencies
PACKAGE := $(VENV)/.package
# Folders too, so that a deleted module also leads to a new installation.
SOURCES := $(shell find oneshot supernets callbacks -type d ! -name __pycache__ -o -name '*.py' -o -name py.typed)
# One process per core; a file stays in one, because its tests share what they trained.
# A worker that dies ends the run: pytest-xdist would wait for its tests for ever.
PARALLEL := -n auto --dist loadfile --max-worker-restart 0 --durations=25

.DEFAULT_GOAL := help
.PHONY: help dev quickstart test test-all test-nightly test-network test-newest test-lowest check docs architecture bench build constraints clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- environment: .venv with the pinned dependencies, then the package itself -----------------------------------------

$(DEPENDENCIES): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "Python 3.10 or newer is needed; $(PYTHON) is not. Name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    echo "==> creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "==> installing dependencies into $(VENV) as pinned in $(CONSTRAINTS) (minutes the first time, mostly PyTorch)"
	@$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) 'setuptools>=77'
	@rm -rf build oneshot_nas.egg-info
	@$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --no-build-isolation ".[onnx,ray,docs,dev]"
	@touch $@

# Not an editable installation: mypy and the documentation read the mounted folders where users have them.
$(PACKAGE): $(DEPENDENCIES) setup.cfg $(SOURCES)
	@echo "==> installing oneshot from this checkout into $(VENV)"
	@rm -rf build oneshot_nas.egg-info
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	@rm -rf build oneshot_nas.egg-info
	@touch $@

dev: $(PACKAGE) ## make or refresh .venv and say how to use it
	@echo "==> $(VENV) is ready: 'source $(BIN)/activate', then 'pytest tests/...' runs on the checkout as it is"

# --- using it ---------------------------------------------------------------------------------------------------------

quickstart: $(PACKAGE) ## search, retrain and export a network on small real images; writes OUT
	@echo "==> oneshot quickstart, results go to $(OUT)"
	@$(BIN)/oneshot quickstart --out $(OUT) --overwrite

bench: $(PACKAGE) ## run every benchmark in experiments/benchmarks, and add the figures to their history
	@set -e; for script in experiments/benchmarks/[!_]*.py; do \
	    case "$$script" in */history.py) continue;; esac; \
	    echo "==> $$script"; $(BIN)/python "$$script"; \
	done
	@$(BIN)/python experiments/benchmarks/history.py
	@echo "==> figures over time are in experiments/benchmarks/history/README.md"

# --- trusting it ------------------------------------------------------------------------------------------------------

test: $(PACKAGE) ## the tests, without the slow ones: CPU, offline
	@echo "==> pytest, without the tests marked slow, nightly, gpu or network"
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not nightly and not gpu and not network"

test-all: $(PACKAGE) ## the tests, with the slow ones: CPU, offline
	@echo "==> pytest, without the tests marked nightly, gpu or network"
	@$(BIN)/python -m pytest $(PARALLEL)

test-nightly: $(PACKAGE) ## the very slow tests only (series of kills, fuzzing): CPU, offline, an hour or two
	@echo "==> pytest, the tests marked nightly, without those marked gpu or network"
	@ONESHOT_REAL_PROCESSES=1 $(BIN)/python -m pytest $(PARALLEL) --timeout 1800 -m "nightly and not gpu and not network"

test-network: $(PACKAGE) ## the tests that install packages into environments of their own
	@$(BIN)/python -m pytest --timeout 1800 -m network

test-newest: $(PACKAGE) ## the tests with the newest Lightning, also above our bound; meant for CONSTRAINTS=<empty file>
	@echo "==> installing the newest pytorch-lightning into $(VENV); 'make distclean' takes it away"
	@$(BIN)/python -m pip install --quiet --upgrade pytorch-lightning
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not nightly and not gpu and not network"

test-lowest: $(PACKAGE) ## the tests with other versions, of whose old packages no warning is an error; see tests/lowest.py
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not nightly and not gpu and not network" -W ignore::DeprecationWarning

check: $(PACKAGE) ## lint, formatting, types of the installed copy and of a user's file, import rules
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "==> mypy, strict, on the installed copy and on a user's file"
	@cd $(VENV) && MYPYPATH=$(CURDIR)/tests/typing bin/mypy --config-file $(CURDIR)/pyproject.toml -p oneshot -m users_options
	@echo "==> import rules"
	@$(BIN)/python -m pytest -q tests/test_architecture.py

docs: $(PACKAGE) ## build the documentation into site/; a warning is an error
	@echo "==> mkdocs build --strict"
	@$(BIN)/mkdocs build --strict --quiet
	@echo "==> open site/index.html"

# --- maintaining it ---------------------------------------------------------------------------------------------------

architecture: $(DEPENDENCIES) ## draw who imports whom, into docs/; rooms, floors and lines of code
	@$(BIN)/python tests/rooms.py

build: $(DEPENDENCIES) ## wheel and source archive into dist/
	@echo "==> building into dist/"
	@rm -rf build dist oneshot_nas.egg-info
	@$(BIN)/python -m build --no-isolation
	@rm -rf build oneshot_nas.egg-info

# GPU runtime packages come with the platform's own PyTorch, so they are not pinned. Newest versions that still support
# Python 3.10 differ from these, so nothing is pinned there.
constraints: $(DEPENDENCIES) ## write constraints.txt anew from what .venv holds
	@echo "==> writing constraints.txt"
	@{ echo "# The tested set (Python 3.11), written by 'make constraints'. On Python 3.10 only the lower bounds hold."; \
	   $(BIN)/python -m pip freeze --all --exclude pip --exclude oneshot-nas \
	   | sed -E '/^(nvidia-|cuda-|triton==|-e )/d; s/\+[a-z0-9.]+$$//; s/$$/ ; python_version >= "3.11"/'; } > constraints.tmp
	@mv constraints.tmp constraints.txt

clean: ## remove what building and checking left behind; keeps .venv and runs/
	@echo "==> removing build products and caches"
	@rm -rf build dist site oneshot_nas.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find oneshot supernets callbacks tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	@echo "==> removing $(VENV)"
	@rm -rf $(VENV)
