"""``python -m dask_embed`` is the command ``dask-embed``."""

from __future__ import annotations

import sys

from dask_embed.jobs.cli import main

if __name__ == "__main__":
    sys.exit(main())
