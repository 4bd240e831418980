# stepladder: `make demo` and `make test` each work as the first command in a fresh clone.
# They need Python >= 3.11, make and a C compiler. PYTHON=, TORCH= and INDEX= may be given.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stepladder-setup
export HF_HUB_OFFLINE = 1

.PHONY: setup check test test-all docs demo bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/setup.py
	$(PYTHON) tools/setup.py --venv $(VENV) $(if $(TORCH),--torch '$(TORCH)')
	@touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/python tools/budget.py

# Files go to two processes: most tests keep one core busy. For one after the other: make test WORKERS=0
WORKERS ?= 2

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow and not gpu and not ui'

test-all: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not gpu and not ui'

docs: setup
	$(BIN)/pip install -q --group docs -c constraints.txt
	$(BIN)/zensical build

demo: setup
	$(BIN)/stepladder demo

bench: setup
	$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache .hypothesis
