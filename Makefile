# The course's commands. Each works on a fresh clone, twice in a row, and offline once set up.

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
EXE := .exe
else
BIN := .venv/bin
endif
# The first Python of a version that works here; none: uv fetches one.
FIT := import sys; print(sys.executable) if (3, 11) <= sys.version_info[:2] <= (3, 12) else sys.exit(1)
PYTHON ?= $(or $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c '$(FIT)' 2>/dev/null && break; done),3.12)
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
UV := build/uv/$(notdir $(BIN))/uv$(EXE)
endif
# Kept byte code spares every process seconds.
unexport PYTHONDONTWRITEBYTECODE
LOCK := --quiet --universal --python-version 3.11 --no-annotate --no-header --no-emit-package omni-lab
PAIR := printf "torch==2.11.0\ntorchaudio==2.11.0\n"
NBVAL := --nbval-lax --nbval-cell-timeout=240 --nbval-kernel-name=python3 --timeout=900

.PHONY: help setup course test browser browser-all test-code test-notebooks lab lint notebooks bench locks clean
help:
	@echo "make course     set up, then run every solved lab at smoke scale; pages and a table (summary.txt) under build/course"
	@echo "make test       set up, then run all tests and every notebook in both forms"
	@echo "make lab        set up, then open JupyterLab"
	@echo "make lint       format, style, types, cell tags, continuous integration"
	@echo "make notebooks  make notebooks and checks again from solutions/*.py"
	@echo "make bench      run the benchmarks"
	@echo "make browser-all  move every explorer in a real JupyterLab; screenshots under build/explorers"

setup: .venv/set-up

# uv installs the whole set in a minute, pip in several: fetched once, into a folder of its own, where there is none.
build/uv/$(notdir $(BIN))/uv$(EXE):
	$(PYTHON) -m venv build/uv
	build/uv/$(notdir $(BIN))/python -m pip install --quiet uv

.venv/set-up: requirements.lock pyproject.toml $(filter build/%,$(UV))
	test -x $(BIN)/python || $(UV) venv --quiet --python "$(PYTHON)" .venv
	$(UV) pip install --python $(BIN)/python --no-deps -r requirements.lock
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/set-up-lab: requirements-lab.lock .venv/set-up
	$(UV) pip install --python $(BIN)/python --no-deps -r requirements-lab.lock
	@touch $@

.venv/set-up-lint: requirements-lint.lock .venv/set-up
	$(UV) pip install --python $(BIN)/python --no-deps -r requirements-lint.lock
	@touch $@

course: .venv/set-up
	$(BIN)/omni-lab notebooks run --scale smoke --out build/course

test: browser test-code test-notebooks

# The chat is tested in a real browser; a bare machine of continuous integration has none.
browser:
	if test -n "$$CI" && test "$$(id -u)" = 0 && ! command -v chromedriver && command -v apt-get; then \
		apt-get update -qq && apt-get install -qq -y chromium chromium-driver; fi

# Every explorer of every lab (or LABS="05 07"), moved in a real JupyterLab.
browser-all: browser .venv/set-up-lab
	$(BIN)/python -m tests.browser.explorers $(LABS)

test-code: .venv/set-up
	$(BIN)/python -m pytest -n 2 tests

test-notebooks: .venv/set-up
	$(BIN)/python -m pytest -n 2 $(NBVAL) notebooks solutions

lab: .venv/set-up-lab
	$(BIN)/jupyter lab notebooks

lint: .venv/set-up-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/omni-lab notebooks check
	if command -v actionlint; then actionlint; fi

notebooks: .venv/set-up
	$(BIN)/omni-lab notebooks build

bench: .venv/set-up
	$(BIN)/omni-lab bench $(notdir $(basename $(wildcard benchmarks/[a-z]*.py)))

# Exact versions for every platform, naming no index. Run after a change of pyproject.toml.
locks:
	@mkdir -p build && $(PAIR) > build/pair.txt && printf "webrtcvad; sys_platform == 'none'\ntyping; sys_platform == 'none'\n" > build/override.txt
	$(UV) pip compile pyproject.toml --extra test --constraint build/pair.txt --override build/override.txt $(LOCK) -o requirements.lock
	$(UV) pip compile pyproject.toml --extra lab --constraint requirements.lock $(LOCK) -o requirements-lab.lock
	$(UV) pip compile pyproject.toml --extra lint --constraint requirements.lock $(LOCK) -o requirements-lint.lock

# uv stays: without a network nothing would bring it back.
clean:
	test ! -d build || find build -mindepth 1 -maxdepth 1 ! -name uv -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .mypy_cache
