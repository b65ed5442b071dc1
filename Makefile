# `make demo` and `make test` are all that a newcomer needs; both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow test-alone lint notebooks benchmark newest clean

demo: $(VENV)/demo.installed
	$(BIN)/dask-embed demo $(ARGS)

# Two at a time. Others take long, or measure time, memory or threads and run alone.
test: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not alone" $(ARGS)

test-slow: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "slow and not alone" $(ARGS)

test-alone: $(VENV)/test.installed
	$(BIN)/python -m pytest -m alone $(ARGS)

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/test.installed
	$(BIN)/python notebooks/run.py

benchmark: $(VENV)/test.installed
	$(BIN)/python benchmarks/compare.py $(ARGS)

# A quick check on the newest dask, in an environment of its own on top of .venv.
newest: $(VENV)/test.installed
	bash tests/newest_dask.sh $(BIN)/python

$(VENV)/python.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/demo.installed: $(VENV)/python.made setup.cfg constraints.txt
	@echo "Installing (torch and transformers take a few minutes)"
	$(INSTALL) -e '.[demo]'
	touch $@

$(VENV)/test.installed: $(VENV)/python.made setup.cfg constraints.txt
	@echo "Installing with what tests need (takes a few minutes)"
	$(INSTALL) -e '.[test]'
	touch $@ $(VENV)/demo.installed

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output .mypy_cache .ruff_cache .pytest_cache
