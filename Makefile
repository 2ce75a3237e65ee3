# Each target makes .venv itself; nothing has to be installed by hand but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The suite is done in a third of this; one that hangs is ended and shows where.
TEST_SECONDS ?= 1200

.PHONY: demo test lint types format bench torture clean typing

demo: $(READY)  ## a three-shot project, with the embedded provider, and a page to look at
	$(BIN)/prefect-video demo

test: $(READY)  ## the whole suite
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m tests.support.time_limit $(TEST_SECONDS) \
		$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) typing
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## what it costs, measured
	$(BIN)/python -m benchmarks

torture: $(READY)  ## kills workers at random and counts what was paid
	$(BIN)/python -m benchmarks.torture

# Type checkers and editors cannot read setuptools' package-dir; this link tree shows them the package.
typing:
	@rm -rf .typing && mkdir -p .typing/prefect_video
	@cd .typing/prefect_video && ln -s ../../src/prefect_video/* ../../blocks ../../tasks ../../flows .

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .typing .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info videos
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
