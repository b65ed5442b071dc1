"""Environments of the contenders that the project itself does not need.

Each has a virtual environment of its own under benchmarks/.peers, because their requirements
contradict each other.

    python benchmarks/peers.py install            # all of them, about 90 seconds and 2 GB each
    python benchmarks/peers.py install ray daft   # some
    python benchmarks/peers.py list
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent / ".peers"

# Exact, as in constraints.txt: an open range takes the newest build, gigabytes of CUDA libraries.
_TORCH = "torch==2.13.0"
_NEWEST = ("sentence-transformers==6.2.0", "transformers==5.23.0")
_TABLES = ("numpy==2.4.6", "pandas==3.0.6", "pyarrow==26.0.1")
_REPORTED = ("sentence-transformers", "transformers", "tokenizers", "torch", "numpy", "pyarrow")


@dataclass(frozen=True)
class Environment:
    """A Python with the packages of some contenders.

    Attributes
    ----------
    name : str
        Folder under benchmarks/.peers; ``"project"`` is the Python that runs the suite.
    imports : tuple of str
        Modules that a contender imports; installing ends with importing them.
    packages : tuple of str
        Distributions whose versions are recorded.
    requirements : tuple of str
        What pip is asked for.
    removed : tuple of str
        Distributions taken out again after installing; `note` says why.
    note : str
        What a reader of the versions should know.
    """

    name: str
    imports: tuple[str, ...]
    packages: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    note: str = ""

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python") if self.requirements else sys.executable

    @property
    def _installed(self) -> Path:
        return self.folder / "installed.json"

    @property
    def _failed(self) -> Path:
        return self.folder / "failed.txt"

    def problem(self) -> str | None:
        """Return why contenders cannot run here, None if they can."""
        if not self.requirements:
            return self._import_error()
        if self._failed.exists():
            return f"does not install: {self._failed.read_text('utf8').strip()}"
        again = f"python benchmarks/peers.py install {self.name}"
        if not self._installed.exists():
            return f"not installed; run {again}"
        if json.loads(self._installed.read_text("utf8")) != list(self.requirements):
            return f"installed from other requirements; run {again}"
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of `packages`, read by this environment's Python."""
        code = (
            "import json, sys; from importlib import metadata;"
            "here = {each.name: each.version for each in metadata.distributions()};"
            "print(json.dumps({name: here.get(name, 'not installed') for name in sys.argv[1:]}))"
        )
        done = self._run("-c", code, *self.packages)
        return json.loads(done.stdout) if done.returncode == 0 else {"unknown": _reason(done)}

    def described(self) -> dict[str, Any]:
        """Return what the result of a benchmark says of this environment."""
        note = {"note": self.note} if self.note else {}
        return {"versions": self.versions(), **note}

    def install(self) -> str | None:
        """Make the environment anew; return why it failed, None if it did not."""
        shutil.rmtree(self.folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
        done = self._run(*pip, "install", *self.requirements)
        error = _reason(done) if done.returncode else None
        if error is None and self.removed:
            self._run(*pip, "uninstall", "--yes", *self.removed)
        error = error or self._import_error()
        if error is None:
            self._installed.write_text(json.dumps(list(self.requirements)), "utf8")
        else:
            self._failed.write_text(error, "utf8")
        return error

    def _import_error(self) -> str | None:
        done = self._run("-c", f"import {', '.join(self.imports)}")
        return _reason(done) if done.returncode else None

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.python, *arguments], capture_output=True, text=True)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return " ".join((errors or lines)[-1:])[:300] or f"exit status {done.returncode}"


PROJECT = Environment(
    name="project",
    imports=("dask_embed", "sentence_transformers"),
    packages=("dask-embed", "dask", "distributed", "pandas", *_REPORTED),
)
PEERS = {
    peer.name: peer
    for peer in (
        Environment(
            name="onnx",
            imports=("sentence_transformers", "optimum.onnxruntime"),
            packages=("optimum-onnx", "optimum", "onnxruntime", "onnx", "pandas", *_REPORTED),
            requirements=(
                _TORCH,
                "sentence-transformers==5.7.0",
                "transformers==4.57.6",
                "optimum-onnx[onnxruntime]==0.1.0",
                "onnxruntime==1.31.1",
                "onnx==1.23.2",
                *_TABLES,
            ),
            note=(
                "optimum-onnx 0.1.0 wants transformers below 4.58, which sentence-transformers 6 "
                "does not take"
            ),
        ),
        Environment(
            name="openvino",
            imports=("sentence_transformers", "optimum.intel"),
            packages=("optimum-intel", "optimum", "openvino", "pandas", *_REPORTED),
            requirements=(
                _TORCH,
                "sentence-transformers==6.2.0",
                "transformers==5.5.4",
                "optimum-intel==2.2.0",
                "openvino==2026.4.1",
                *_TABLES,
            ),
            removed=("torchvision",),
            note=(
                "optimum-intel 2.2.0 wants transformers below 5.6; torchvision, which it also "
                "wants, is taken out: its build from PyPI does not import beside a CPU torch"
            ),
        ),
        Environment(
            name="ray",
            imports=("sentence_transformers", "ray.data"),
            packages=("ray", "pandas", *_REPORTED),
            requirements=(_TORCH, *_NEWEST, "ray[data]==2.60.0", *_TABLES),
        ),
        Environment(
            name="daft",
            imports=("sentence_transformers", "daft"),
            packages=("daft", *_REPORTED),
            requirements=(_TORCH, *_NEWEST, "daft==0.7.26", "numpy==2.4.6"),
            note=(
                "without the extra daft[transformers], which wants torch below 2.13 and "
                "sentence-transformers below 5.6"
            ),
        ),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("install", "list"))
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of {', '.join(PEERS)}")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(PEERS))
    if unknown:
        parser.error(f"no such peers: {unknown}; there are {list(PEERS)}")
    for name in options.names or PEERS:
        peer = PEERS[name]
        if options.action == "install":
            print(f"{name}: installing {' '.join(peer.requirements)}", flush=True)
            peer.install()
        print(f"{name}: {peer.problem() or json.dumps(peer.versions())}", flush=True)


if __name__ == "__main__":
    main()
