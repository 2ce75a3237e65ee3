# Each target makes .venv itself; nothing has to be installed by hand but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The package alone, without what only its development needs.
INSTALLED := $(VENV)/.installed
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
# The suite is done in less than half of this; one that hangs is ended and shows where.
TEST_SECONDS ?= 2700

# Python compiles a module once, not in each process, whatever the environment says: collection takes half the time.
export PYTHONDONTWRITEBYTECODE :=

# The oldest Prefect that is supported, and the newest versions of what it shares with others that it accepts.
OLDEST := prefect==3.8.6 apprise<2 python-slugify<9 whenever<0.11

.PHONY: help demo film docs test test-fast explore test-oldest test-litellm test-fleet test-docs lint types format bench torture clean typing

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-10s %s\n", $$1, $$2 }'

demo: $(INSTALLED)  ## a three-shot project, with the embedded provider, and a page to look at
	$(BIN)/prefect-video demo

film: $(INSTALLED)  ## a film of eight shots on the emulator, in ./film, checked by decoding it
	$(BIN)/python examples/make_film.py

docs: $(READY)  ## the documentation site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -f docs/site/mkdocs.yml

test: $(READY)  ## the whole suite
	$(BIN)/python -m tests.support.time_limit $(TEST_SECONDS) \
		$(BIN)/python -m pytest -q -m "not fleet" -n 5 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
		--ignore tests/integration/docs --ignore tests/recovery/test_fleet.py

test-docs: $(READY)  ## builds the documentation, and follows its tutorial and how-tos
	$(BIN)/python -m pytest -q tests/integration/docs -n 2 --dist loadgroup

test-fast: $(READY)  ## the unit tests that need no database server, S3 or Prefect, in under a minute
	$(BIN)/python -m pytest -q tests/unit -m "not postgres and not s3 and not prefect and not kills and not slow" \
		-n 4 --dist loadfile --no-loadscope-reorder

explore: $(READY)  ## the property tests with new random examples, ten times as many
	$(BIN)/python -m pytest -q tests -m hypothesis --hypothesis-profile=explore -n 4 --dist loadfile --no-loadscope-reorder

test-oldest:  ## Prefect's tests with the oldest Prefect that is supported, in an environment of its own
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	grep -vE '^(prefect|apprise|python-slugify|whenever)==' constraints.txt > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint .venv-oldest/constraints.txt --editable '.[dev]' $(OLDEST:%='%')
	.venv-oldest/bin/python -m pytest -q tests/integration -m "prefect and not fleet" -n 4 --dist loadfile --no-loadscope-reorder \
		--ignore tests/integration/docs

# The proxy pins older versions (`rich<14`, `websockets<16`) of what our users get, and is 740 MB: not in the dev extra.
LITELLM := .venv-litellm/.ready

$(LITELLM): constraints-litellm.txt
	test -x .venv-litellm/bin/python || $(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-litellm.txt 'litellm[proxy]'
	touch $@

test-litellm: $(READY) $(LITELLM)  ## our profile against a real LiteLLM proxy, which runs in an environment of its own
	PREFECT_VIDEO_TEST_LITELLM_PYTHON=$(CURDIR)/.venv-litellm/bin/python \
		$(BIN)/python -m pytest -q tests/integration/sdks/test_litellm_proxy.py

FLEET := $(VENV)/.fleet

$(FLEET): $(READY)
	$(INSTALL) '.[dev,fleet]'
	touch $@

test-fleet: $(FLEET)  ## 60 shots on a fleet of processes that are killed and restarted, in minutes; writes its numbers
	$(BIN)/python -m pytest -q -s -n 0 -m fleet tests/recovery/test_fleet.py \
		tests/integration/flows/test_fan_out.py tests/integration/service/test_deployment_queue.py \
		tests/recovery/test_first_minute.py
	$(BIN)/python -m pytest -q -n 0 tests/integration/flows/test_embedding.py -k ray

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) typing  ## mypy, strict; writes pyrightconfig.json for editors
	$(BIN)/mypy

format: $(READY)  ## apply what lint would ask for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## what it costs, measured
	$(BIN)/python -m benchmarks

torture: $(READY)  ## kills workers at random and counts what was paid
	$(BIN)/python -m benchmarks.torture

# Type checkers and editors cannot read setuptools' package-dir; this link tree shows them the package.
define PYRIGHT
{
  "extraPaths": [".typing"],
  "exclude": [".typing", ".venv*", "build", "demo"],
  "pythonVersion": "3.11",
  "venvPath": ".",
  "venv": "$(VENV)"
}
endef
export PYRIGHT

typing:  ## what type checkers and editors need to follow every import
	@rm -rf .typing && mkdir -p .typing/prefect_video
	@cd .typing/prefect_video && ln -s ../../src/prefect_video/* ../../blocks ../../tasks ../../flows .
	@echo "$$PYRIGHT" > pyrightconfig.json

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[dev]'
	touch $(INSTALLED) $@

clean:  ## remove everything that was made here
	rm -rf $(VENV) .venv-* .typing pyrightconfig.json .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info videos
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
