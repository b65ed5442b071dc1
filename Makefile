# `make demo` and `make test` are all that a newcomer needs; both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Tests start many interpreters: none of them compiles what another one has.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-alone test-slow lint audit notebooks benchmark newest oldest bare docs gpu clean

demo: $(VENV)/demo.installed
	$(BIN)/dask-embed demo $(ARGS)

# Two at a time. Others take long, or measure time, memory or threads and have nothing beside them.
test: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not alone" $(ARGS)

test-alone: $(VENV)/test.installed
	$(BIN)/python -m pytest -m "alone and not slow" $(ARGS)

test-slow: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "slow and not alone" $(ARGS)
	$(BIN)/python -m pytest -m "slow and alone" $(ARGS)

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known holes in the versions of constraints.txt; skipped where the service does not answer.
audit: $(VENV)/python.made
	$(BIN)/python tests/audit.py $(ARGS)

notebooks: $(VENV)/test.installed
	$(BIN)/python notebooks/run.py

# The pages of docs/ as a site in build/site, where a warning is an error; and their code is run.
docs: $(VENV)/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python -m pytest -q -n 2 tests/test_docs.py

benchmark: $(VENV)/test.installed
	$(BIN)/python benchmarks/compare.py $(ARGS)

# A quick check on the newest dask, in an environment of its own on top of .venv.
newest: $(VENV)/test.installed
	bash tests/newest_dask.sh $(BIN)/python

# Quick checks of what setup.cfg promises: the oldest versions, and no extra at all.
oldest: $(VENV)/test.installed
	bash tests/oldest_versions.sh $(BIN)/python

bare: $(VENV)/test.installed
	PYTHONPATH=tests $(BIN)/python -m pytest -q -p without_extras -m "not slow and not alone" \
	  tests/test_contract.py tests/test_import.py

# What needs a GPU with torch and nothing else, then the benchmark: 5 minutes at most, by $(PYTHON)
# with what is installed there. Nothing is installed and nothing is fetched.
gpu: export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
gpu: export HF_HUB_OFFLINE := 1
gpu:
	@$(PYTHON) -c "import sys, torch; torch.cuda.is_available() or sys.exit('torch sees no GPU here')"
	timeout 120 $(PYTHON) -m pytest -q -m cuda -p no:cacheprovider \
	  $$(grep -lrs --include='test_*.py' 'mark\.cuda' tests) $(ARGS); tests=$$?; \
	timeout 170 $(PYTHON) benchmarks/gpu.py --documents 8192; speed=$$?; \
	echo "gpu: tests $$([ $$tests = 0 ] && echo passed || echo failed), benchmark" \
	  "$$([ $$speed = 0 ] && echo ran || echo failed)"; \
	[ $$tests = 0 ] && [ $$speed = 0 ]

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

$(VENV)/docs.installed: $(VENV)/test.installed
	$(INSTALL) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output .mypy_cache .ruff_cache .pytest_cache
