"""A job on a cluster of two processes, to be killed: forked from a process that imported all of it.

Reads lines of a folder, and for each starts the job in a process group of its own, whose number it
writes; then, when the group has ended, how: 0 when the job ended by itself.
"""

from __future__ import annotations

import os
import sys
import traceback

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow.parquet  # noqa: F401
import transformers  # noqa: F401

from dask_embed.runtime.libraries import import_libraries

ROWS, PARTITIONS = 3000, 60


def rows() -> pd.DataFrame:
    texts = [f"row {n} of {n % 11 * 'some ' + 'words'}" for n in range(ROWS)]
    return pd.DataFrame({"id": range(ROWS), "text": texts, "odd": [n % 2 for n in range(ROWS)]})


def run(folder: str, model: str, **options: object) -> None:
    frame = dd.from_pandas(rows(), npartitions=PARTITIONS)
    out = frame.ml.embed("text", model=model)
    out.ml.to_parquet(folder, resume=True, **options)


def on_a_cluster(folder: str, model: str, **options: object) -> None:
    from distributed import Client, LocalCluster

    local = LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        scheduler_port=0,
        dashboard_address="127.0.0.1:0",
    )
    with local, Client(local):
        run(folder, model, **options)


def main(model: str) -> None:
    import_libraries()
    dask.config.set({"distributed.worker.multiprocessing-method": "fork"})
    for line in sys.stdin:
        folder, *partitioned = line.split()
        options = {"partition_on": partitioned} if partitioned else {}
        child = os.fork()
        if not child:
            os.setsid()
            try:
                on_a_cluster(folder, model, **options)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
