#!/usr/bin/env bash
# Run the tests that depend on Dask's internals on the newest dask and distributed.
# usage: newest_dask.sh PYTHON (of an environment with the test requirements)
set -euo pipefail
python=${1:?usage: newest_dask.sh PYTHON}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$site" \
  --upgrade dask distributed
PYTHONPATH="$site" "$python" -c 'import dask, distributed; print("dask", dask.__version__, "distributed", distributed.__version__)'
PYTHONPATH="$site" "$python" -m pytest -q -n 2 --dist loadscope tests/test_contract.py \
  --deselect tests/lazy/test_rising.py::TestManyChains \
  --deselect tests/lazy/test_rising.py::TestManyMoreChains \
  tests/lazy/test_{as_map_partitions,expr,rising,row_steps,rows_of_a_model}.py
