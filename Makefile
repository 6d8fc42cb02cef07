# make run | test | lint | format | lessons | colab | readme | docs | clean
# The first call makes .venv, once; PYTHON=… names another Python to make it with.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do "$$p" -c '$(USABLE)' 2>/dev/null && echo "$$p" && break; done)

.PHONY: run test lint format lessons colab readme docs clean
.DEFAULT_GOAL := run

run: $(VENV)/.installed   ## train, evaluate and try the small sound network; INSTRUMENTS_DATA=… uses the real ESC-50
	@$(BIN)/instruments_quickstart

test: $(VENV)/.installed   ## every notebook and tests/
	@$(BIN)/python .ci/test.py

lint: $(VENV)/.installed   ## format and rules of ruff.toml, in notebooks too; changes nothing
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check

format: $(VENV)/.installed   ## what ruff can mend by itself
	@$(BIN)/ruff check --fix --exit-zero --quiet
	@$(BIN)/ruff format

lessons: $(VENV)/.installed   ## run the six lessons and keep their outputs; INSTRUMENTS_DATA=… names the real data
	@$(BIN)/python .ci/execute.py nbs/0*.ipynb
	@$(BIN)/nbdev_clean

colab: $(VENV)/.installed   ## .ci/colab_cell.py into every lesson
	@$(BIN)/python .ci/colab_lessons.py

readme: $(VENV)/.installed   ## README.md from nbs/index.ipynb
	@$(BIN)/python .ci/execute.py nbs/index.ipynb
	@$(BIN)/nbdev_clean --fname nbs/index.ipynb
	@$(BIN)/python .ci/readme.py

docs: $(VENV)/.installed   ## the site, in _docs/
	@command -v quarto >/dev/null || { echo "make docs: the site needs Quarto (quarto.org)"; exit 1; }
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python .ci/pages.py --site

clean:   ## what builds leave; keeps .venv and runs/
	@rm -rf _proc _docs build dist *.egg-info .pytest_cache .ruff_cache nbs/nbdev.yml nbs/sidebar.yml
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# A failed install leaves no stamp, so that the next call tries again.
$(VENV)/.installed: settings.ini setup.py constraints.txt
	@"$(PYTHON)" -c '$(USABLE)' 2>/dev/null || { echo "Python 3.11 or newer with its venv module is needed and" \
	 "was not found: install one, or name it (make PYTHON=/path/to/python3)."; exit 1; }
	@test -x $(BIN)/pip || { echo "Making $(VENV) with $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv --clear $(VENV); }
	@echo "Installing the tested versions into $(VENV) (some minutes the first time: PyTorch is large)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null || echo "uv cannot be had here: pip does the work"
	@{ test -x $(BIN)/uv && $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $$(test -t 2 || echo --quiet) -e '.[dev]' -c constraints.txt; } \
	 || $(BIN)/python -m pip install $$(test -t 1 || echo --quiet) --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
