"""Which checkpoints bring the same tokenizer, told from their files."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.modules import read_json
from dask_embed.models.spec import Model

_PATTERNS = (
    *("tokenizer*", "vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
    *("*.model", "*.tiktoken", "*.py"),
)
# Settings that change no token of a text where the limit is given.
_WITHOUT_EFFECT = (
    *("name_or_path", "is_local", "local_files_only", "model_max_length", "chat_template"),
    *("clean_up_tokenization_spaces", "padding_side"),
)


def tokenizer_fingerprint(spec: Model, checkpoint: Checkpoint) -> str:
    """Return the same text for models whose tokenizers give the same tokens.

    The files count, and what else decides how transformers reads them; where the specification
    names another tokenizer, its name and revision. Different texts say nothing.
    """
    if spec.tokenizer is not None:
        content = f"{spec.tokenizer}@{spec.tokenizer_revision}"
    else:
        content = _content(checkpoint.folder, checkpoint.revision)
    kind = (checkpoint.config.model_type, checkpoint.sentence.do_lower_case, spec.trust_remote_code)
    return ":".join(map(str, (*kind, content)))


@functools.lru_cache(maxsize=64)
def _content(folder: Path, revision: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)}):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.name == "tokenizer_config.json":
            settings = read_json(path)
            kept = {k: v for k, v in settings.items() if k not in _WITHOUT_EFFECT}
            content = json.dumps(kept, sort_keys=True).encode()
        digest.update(f"{path.name}:{len(content)};".encode())
        digest.update(content)
    return digest.hexdigest()
