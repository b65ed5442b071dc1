"""Imports of model libraries, one thread at a time.

transformers, and each of its packages, puts another object into `sys.modules` in its own place
while it is imported. A thread that imports from it meanwhile waits for the end, and then looks into
the first object, which has hardly a name: "cannot import name 'CONFIG_MAPPING'". So what reads a
checkpoint does it within `importing`, and what runs a model begins with `import_libraries`: an
import that is made afterwards, in any thread, finds packages that are complete.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
from collections.abc import Iterator

_READING = (
    "torch",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)
# It brings the packages of transformers that replace themselves, those of the models excepted.
_RUNNING = ("transformers.modeling_utils",)
# Lines on importing torchao, which transformers does wherever it is installed: logger, beginning.
_OF_NO_USE = (
    ("torchao", "Failed to load "),  # kernels for GPUs
    ("torchao", "Skipping import of cpp extensions "),
    ("torch.utils._pytree", "%s is an Enum subclass and is now natively supported "),
)
_lock = threading.RLock()
_runs = False


@contextlib.contextmanager
def importing(*names: str) -> Iterator[None]:
    """Import what reading a checkpoint takes, and `names`; hold other threads back in the block.

    In it belongs all that imports the code of one model: its configuration, tokenizer, layers.
    Nothing in it may wait for another thread.
    """
    with _lock, _quiet():
        for name in (*_READING, *names):
            importlib.import_module(name)
        yield


def import_libraries() -> None:
    """Import what every model takes to run, once in this process."""
    global _runs
    if not _runs:  # else without the lock, which a thread that loads holds for long
        with importing(*_RUNNING):
            _runs = True


class _Without(logging.Filter):
    """Keep out messages that begin in one way."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self._beginning)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    filters = [(logging.getLogger(name), _Without(start)) for name, start in _OF_NO_USE]
    for logger, each in filters:
        logger.addFilter(each)
    try:
        yield
    finally:
        for logger, each in filters:
            logger.removeFilter(each)


def _begin_anew() -> None:
    """Forget in a forked process what a thread that is not in it may have locked."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
