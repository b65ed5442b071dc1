#!/usr/bin/env bash
# Run a part of the tests on the oldest versions that setup.cfg allows, torch excepted: there is one
# build for CPUs here.
# usage: oldest_versions.sh PYTHON (of an environment with the test requirements)
set -euo pipefail
python=${1:?usage: oldest_versions.sh PYTHON}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
mapfile -t oldest < <("$python" - <<'PY'
import configparser

settings = configparser.ConfigParser()
settings.read("setup.cfg")
for line in settings["options"]["install_requires"].split():
    if not line.startswith("torch"):
        print(line.replace(">=", "=="))
PY
)
echo "${oldest[@]}"
"$python" -m pip install --quiet --disable-pip-version-check --target "$site" "${oldest[@]}" \
  2>&1 | { grep -v -e "dependency resolver" -e "which is incompatible" || true; }
PYTHONPATH="$site" "$python" -m pytest -q tests/test_contract.py tests/test_import.py \
  -m "not slow and not alone"
