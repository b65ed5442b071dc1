"""What transformers gives for one text in a fresh model, and what dask_embed gives for all."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import dask.dataframe as dd
import numpy as np
import pandas as pd
import torch
import transformers

import dask_embed as de
from dask_embed.inference.runner import runner_for
from dask_embed.models.classes import gives_one_vector, gives_scores, plain_class
from dask_embed.models.dual import has_text_side
from dask_embed.runtime import lanes
from dask_embed.tokens.lists import TokenLists
from support.built import NotBuiltError, encoder, fills_up, inputs, texts

CANDIDATES = ("the lines", "file")
WRITTEN = 4  # tokens
# An answer is looked for behind a question and what stands between two texts.
_QUESTION = "what does it return?"


# ------------------------------------------------------------------------------- the reference
def vectors(model_class: Any, folder: Path) -> np.ndarray:
    """Mean of the token vectors of each text, or the one that the model gives itself."""
    model, info = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    missing = [each for each in info["missing_keys"] if "pooler" not in each]
    if missing:
        raise NotBuiltError(f"transformers does not find its own weights again ({missing[0]})")
    given = []
    for text in [texts()[0], *texts()]:
        more = {"output_hidden_states": True} if gives_scores(model_class) else {}
        output = _alone(encoder(model.eval()), folder, text, model, **more)
        if has_text_side(model.config):
            vector = getattr(output, "embeds", getattr(output, "pooler_output", None))  # CLVP
            if vector is None:
                raise NotBuiltError("its get_text_features gives no vector of a text")
            # FLAVA and SAM 3 have one for each token
            given.append((vector[0] if vector.ndim == 2 else vector[0].mean(0)).numpy())
            continue
        if gives_one_vector(model_class):
            given.append(output.pooler_output[0].numpy())
            continue
        hidden = getattr(output, "last_hidden_state", None)
        states = getattr(output, "hidden_states", None)
        hidden = states[-1] if hidden is None and states else hidden
        if hidden is None or hidden.ndim != 3:
            raise NotBuiltError("gives no vectors of tokens")
        given.append(hidden[0].mean(0).numpy())
    _require_same(*given[:2])
    return np.stack(given[1:])


def logits(model_class: Any, task: str, folder: Path) -> list[np.ndarray]:
    """What the head gives for each text."""
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    given = []
    first, *others = read(task, folder)
    for text in (first, first, *others):
        output = _alone(model, folder, text)
        if task == "answer":
            parts = [output["start_logits"][0], output["end_logits"][0]]
            given.append(torch.stack(parts, -1).numpy())
        else:
            given.append(output["logits"][0].numpy())
    _require_same(*given[:2])
    return given[1:]


def likelihoods(model_class: Any, folder: Path) -> list[np.ndarray]:
    """Log-probabilities of the candidates, as labels of each text."""
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, given = _tokens(folder), []
    for text in texts():
        values = []
        for candidate in CANDIDATES:
            labels = torch.tensor([tokens(candidate).input_ids])
            more = {"labels": labels}
            if model.config.model_type == "fsmt":  # its class makes no beginning of labels
                begun = model.prepare_decoder_input_ids_from_labels(labels)
                more = {"decoder_input_ids": begun, "use_cache": False}
            output = _alone(model, folder, text, **more)
            chosen = output.logits.log_softmax(-1).gather(2, labels[:, :, None])
            values.append(float(chosen.double().sum()))
        given.append(np.array(values))
    return given


def written(model_class: Any, folder: Path, **settings: Any) -> list[str]:
    """What `generate` writes after each text."""
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    encodes = model.config.is_encoder_decoder
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    takes_types = takes_types and model.config.model_type != "xlnet"  # writes at a token of its own
    side = {} if encodes else {"truncation_side": "left"}  # a decoder continues the end of a text
    tokens, given = transformers.AutoTokenizer.from_pretrained(folder, **side), []
    for text in texts():
        with torch.inference_mode():
            ids = inputs(tokens, text)
            if not takes_types:
                ids.pop("token_type_ids", None)
            output = copy.deepcopy(model).generate(**ids, max_new_tokens=WRITTEN, **settings)
        begin = 1 if encodes else ids["input_ids"].shape[1]
        given.append(tokens.decode(output[0, begin:], skip_special_tokens=True))
    return given


def read(task: str, folder: Path) -> list[str]:
    """Return the texts of a task; answers are looked for behind a question."""
    if task != "answer":
        return texts()
    separator = _tokens(folder).sep_token or ""
    given = texts()
    if transformers.AutoConfig.from_pretrained(folder).model_type == "longformer":
        given = [text.replace(separator, " ") for text in given]  # it takes three and no more
    return [f"{_QUESTION} {separator * 2} {text}" for text in given]


def _require_same(one: np.ndarray, again: np.ndarray) -> None:
    if apart(one, again) > 0:
        raise NotBuiltError("transformers gives a text other numbers each time")


def _alone(call: Any, folder: Path, text: str, model: Any = None, **more: Any) -> Any:
    with torch.inference_mode():
        return copy.deepcopy(call)(**inputs(_tokens(folder), text, model), **more)


@functools.lru_cache(maxsize=1)
def _tokens(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


# -------------------------------------------------------------------------------------- ours
def embedding_paths(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the vectors of every path, each with its name."""
    yield "default", embedded(folder)
    yield "one long batch", embedded(folder, tokens_per_batch=10_000)
    yield "three partitions", embedded(folder, partitions=3)
    for each in _in_two_threads(folder):
        yield "two threads", each
    if fills_up(transformers.AutoConfig.from_pretrained(folder)):
        return  # there the side is part of what the model reads
    left = folder.parent / f"{folder.name}-left"
    shutil.copytree(folder, left)
    file = left / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf8")) | {"padding_side": "left"}))
    yield "padded left", embedded(left, attention="padded")
    yield "padded right", embedded(left, attention="padded", padding_side="right")


def embedded(folder: Path, partitions: int = 1, attention: str = "auto", **settings: Any) -> Any:
    model = de.Model(str(folder), device="cpu", attention=attention)
    kind: Any = type(transformers.AutoConfig.from_pretrained(folder))
    pooling = "auto" if gives_one_vector(plain_class(kind)) else "mean"
    embedder = de.Embedder(model, column="text", pooling=pooling, normalize=False, **settings)
    frame = pd.DataFrame({"text": texts()})
    if partitions > 1:
        lazy = embedder(dd.from_pandas(frame, npartitions=partitions))
        return de.to_array(lazy.compute(scheduler="sync")["embedding"])
    return de.to_array(embedder(frame)["embedding"])


def _in_two_threads(folder: Path) -> list[np.ndarray]:
    with mock.patch.object(lanes, "math_threads", return_value=4), ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda _: embedded(folder, batch_size=2), range(2)))


def given_logits(task: str, folder: Path) -> list[np.ndarray]:
    """What the head gives, in one batch."""
    spec = de.Model(str(folder), device="cpu")
    runner = runner_for(spec, task)
    encoded = [runner.loaded.tokenizer(t, truncation=True) for t in read(task, folder)]
    types = [each["token_type_ids"] for each in encoded if "token_type_ids" in each]
    tokens = TokenLists.of([each["input_ids"] for each in encoded], types or None)
    given = runner.logits(tokens).numpy()
    if len(given) == len(tokens):
        return list(given)
    return np.split(given, tokens.offsets[1:-1])


def given_likelihoods(folder: Path) -> list[np.ndarray]:
    """Scores of the candidates, in one batch."""
    model = de.Model(str(folder), device="cpu")
    scorer = de.CandidateScorer(model, column="text", candidates=CANDIDATES, scores="scores")
    scores = scorer(pd.DataFrame({"text": texts()}))["scores"]
    return [np.array([row[candidate] for candidate in CANDIDATES]) for row in scores]


def given_texts(folder: Path) -> list[str]:
    """What is written after each text, in one batch."""
    model = de.Model(str(folder), device="cpu")
    most = _tokens(folder).model_max_length
    encodes = transformers.AutoConfig.from_pretrained(folder).is_encoder_decoder
    length = most if encodes else most + WRITTEN
    generator = de.Generator(model, column="text", max_new_tokens=WRITTEN, max_length=length)
    return list(generator(pd.DataFrame({"text": texts()}))["generated"])


def apart(given: Any, expected: Any) -> float:
    """Return how far two results are apart, beyond 1 as a part of the value."""
    if np.shape(given) != np.shape(expected):
        return float("inf")
    return float(np.abs(given - expected).max() / max(1.0, float(np.abs(expected).max())))
