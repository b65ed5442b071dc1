"""Execute every notebook from the top and fail on the first cell that does.

python notebooks/run.py            check that all run
python notebooks/run.py --save     and keep the outputs in the files
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
        ).execute()
        if "--save" in sys.argv[1:]:
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)  # times of day, which only make noise
                if "outputs" in cell:
                    cell.outputs = [out for out in cell.outputs if not _is_noise(out)]
            nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s")


def _is_noise(output: Any) -> bool:
    """Return whether it is only what torchao says of itself when transformers imports it."""
    lines = [line for line in str(output.get("text", "")).split("\n") if line.strip()]
    about_torchao = all("torchao" in line or "_pytree.py" in line for line in lines)
    return output.get("name") == "stderr" and about_torchao


if __name__ == "__main__":
    main()
