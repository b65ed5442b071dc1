"""Snapshots of Hub repositories: from the cache where it will do, and never for long."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dask_embed.models.spec import Model

_COMMIT = re.compile(r"[0-9a-f]{40}")


def snapshot(model: Model, patterns: list[str]) -> Path:
    """Return the folder of a repository's files, fetching from the Hub what is missing.

    A commit whose list of files the cache holds is looked for there before the Hub is asked. The
    Hub has the seconds of ``HF_HUB_ETAG_TIMEOUT`` (10 by default) to answer at all; where it fails
    in any way, the cache stands in for it.

    Raises
    ------
    Exception
        Of huggingface_hub or its transport, if neither has the files.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if model.local_files_only:
        return _look(model, patterns, offline=True)
    if _lists_files(model):
        try:
            return _look(model, patterns, offline=True)
        except LocalEntryNotFoundError:
            pass  # some are not there yet
    try:
        HfApi().repo_info(
            model.name, revision=model.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        return _look(model, patterns, offline=False)
    except HFValidationError:
        raise
    except Exception as error:  # the package of the transport's errors differs with the version
        try:
            return _look(model, patterns, offline=True)
        except LocalEntryNotFoundError:
            raise error from None


def _look(model: Model, patterns: list[str], *, offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            model.name,
            revision=model.revision,
            cache_dir=model.cache_dir,
            local_files_only=offline,
            allow_patterns=patterns,
        )
    )


def _lists_files(model: Model) -> bool:
    """Return whether the cache knows which files a commit has, and so whether all are there."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if model.revision is None or not _COMMIT.fullmatch(model.revision):
        return False
    cache = Path(model.cache_dir or constants.HF_HUB_CACHE)
    folder = cache / repo_folder_name(repo_id=model.name, repo_type="model")
    return (folder / "trees" / f"{model.revision}.json").is_file()
