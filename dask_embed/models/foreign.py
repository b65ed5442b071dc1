"""Errors of other libraries over a checkpoint's files, in one line that names the checkpoint."""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

from dask_embed._validation import shown_error

_PACKAGE = str(Path(__file__).parents[1])
# Memory that runs out, and what else torch tells at run time, is no fault of a file; pickles are
# judged where they are read.
_NOT_OF_FILES = (MemoryError, RuntimeError, pickle.UnpicklingError)
_OF_FILES = (NotImplementedError, RecursionError)  # though they are RuntimeErrors


@contextlib.contextmanager
def told_as(what: str) -> Iterator[None]:
    """Raise errors of other libraries, and of values of the wrong kind, as a ValueError.

    Parameters
    ----------
    what : str
        What the message begins with.

    Raises
    ------
    ValueError
        With what was raised within the block as its cause; errors in words of this package
        are left as they are.
    """
    try:
        yield
    except Exception as error:  # libraries have classes of their own
        if isinstance(error, _NOT_OF_FILES) and not isinstance(error, _OF_FILES):
            raise
        if isinstance(error, ValueError | ModuleNotFoundError) and _is_own(error):
            raise
        raise ValueError(f"{what}: {shown_error(error)}") from error


def _is_own(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename.startswith(_PACKAGE)
