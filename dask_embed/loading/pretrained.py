"""A checkpoint as a model of transformers, and which of its weights are not as they must be."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

import torch

from dask_embed.loading.completeness import gaps_of
from dask_embed.loading.copies import sharing_copy
from dask_embed.loading.devices import resolve_device
from dask_embed.loading.placement import placement
from dask_embed.loading.quantize import quantization_config
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.config_file import named_labels
from dask_embed.models.foreign import told_as
from dask_embed.models.parts import decodes_texts, token_part
from dask_embed.models.prepared import prepared
from dask_embed.models.spec import Model
from dask_embed.models.tasks import class_for, encoder_fields
from dask_embed.models.weights import not_tensors
from dask_embed.runtime.libraries import importing

# Rows of a head that `embed` does not use; a checkpoint may leave them out.
_UNUSED_WEIGHTS = ("pooler.",)


def load_pretrained(
    checkpoint: Checkpoint, spec: Model, dtype: torch.dtype, task: str
) -> tuple[Any, dict[str, str]]:
    """Return the model, and which of its weights the checkpoint does not have as they must be."""
    own_attention = spec.attention in ("auto", "padded")
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": None if own_attention else spec.attention,
        "use_safetensors": None if spec.allow_pickle else True,
        "trust_remote_code": spec.trust_remote_code,
        "local_files_only": True,
        "ignore_mismatched_sizes": True,  # require_complete names them
        "quantization_config": quantization_config(spec, dtype),
        **placement(spec, resolve_device(spec.device)),
        **named_labels(spec.labels if task != "embed" else None),
        **encoder_fields(task, checkpoint),
        **dict(spec.model_kwargs),
    }
    if arguments["quantization_config"] is None:  # the checkpoint's own, then
        del arguments["quantization_config"]
    weights = checkpoint.weights(spec)
    cannot = f"checkpoint {str(checkpoint.folder)!r} cannot be loaded"
    try:
        with importing(), told_as(cannot), _without_progress():
            whole, info = class_for(task, checkpoint).from_pretrained(
                prepared(checkpoint.folder, code=spec.trust_remote_code, weights=weights),
                output_loading_info=True,
                **arguments,
            )
            model = whole
            if task == "embed" and not checkpoint.has_text_side:
                model = token_part(whole, encoder=_embeds_by_encoder(checkpoint, whole))
    except pickle.UnpicklingError as error:
        raise ValueError(not_tensors(weights.files[0], error)) from None
    model.config.use_cache = False
    for part in whole.modules():
        if getattr(getattr(part, "config", None), "return_dict", True) is False:
            part.config.return_dict = True  # results are read by their names
    unused = _UNUSED_WEIGHTS if task == "embed" else ()
    return model, gaps_of(info, whole, model, checkpoint.config, unused)


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """Keep transformers from drawing its progress bar."""
    from transformers.utils import logging  # noqa: PLC0415 - within `importing`

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _embeds_by_encoder(checkpoint: Checkpoint, model: Any) -> bool:
    """Return whether token vectors are those of the encoder of a model that has a decoder.

    In a folder of sentence-transformers they are what it takes: those of the decoder, where this
    reads the text too.
    """
    if not checkpoint.config.is_encoder_decoder:
        return False
    # a copy, since what is tried may change a model (BigBird)
    return checkpoint.pooling is None or not decodes_texts(sharing_copy(model))
