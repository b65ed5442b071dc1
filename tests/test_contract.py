"""Every operator keeps the dataframe contract; results are those of transformers itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support.contract import (
    NULL,
    TEXTS,
    DataframeContract,
    assert_same_values,
    input_frame,
    shared_tiny_bert,
    values_of,
)

import dask_embed as de
from dask_embed.runtime import registry

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    return shared_tiny_bert(tmp_path_factory)


@pytest.fixture(scope="session")
def token_vectors(tiny_bert):
    """The last hidden state of every text of `TEXTS`, one at a time, from transformers."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    model = AutoModel.from_pretrained(tiny_bert).eval()

    def one(text):
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            return model(**tokens).last_hidden_state[0].numpy()

    return [None if text is None else one(text) for text in TEXTS]


EMBEDDERS = {
    "default": {},
    "token vectors": {"pooling": "none"},
    "null on error": {"on_error": "null"},
    "batches of two": {"batch_size": 2, "pooling": ("cls", "max"), "normalize": True},
    "left padding": {"padding_side": "left", "model": {"attention": "padded"}},
}


class TestEmbedder(DataframeContract):
    @pytest.fixture(scope="class", params=EMBEDDERS.values(), ids=EMBEDDERS)
    @classmethod
    def operator(cls, request, tiny_bert):
        options = dict(request.param)
        model = de.Model(tiny_bert, **options.pop("model", {}))
        return de.Embedder(model, column="body", **options)


@pytest.mark.parametrize(
    "options", [{}, {"model": {"attention": "padded"}}, {"padding_side": "left", "batch_size": 3}]
)
def test_embedder_gives_the_mean_of_the_token_vectors(tiny_bert, token_vectors, options):
    """Mean pooling of a plain checkpoint, against transformers one text at a time."""
    options = dict(options)
    embedder = de.Embedder(de.Model(tiny_bert, **options.pop("model", {})), **options)
    out = embedder(pd.DataFrame({"text": pd.array(TEXTS, "str")}))
    expected = [None if tokens is None else tokens.mean(0).tolist() for tokens in token_vectors]
    assert_same_values(values_of(out["embedding"]), expected)
    assert tuple(out["embedding"].isna()) == NULL


def test_token_vectors_are_those_of_transformers(tiny_bert, token_vectors):
    """pooling="none" gives every token's vector, special tokens included."""
    out = de.Embedder(tiny_bert, pooling="none")(pd.DataFrame({"text": pd.array(TEXTS, "str")}))
    expected = [None if tokens is None else tokens.tolist() for tokens in token_vectors]
    assert_same_values(values_of(out["embedding"]), expected)


def test_the_texts_differ_in_their_vectors(token_vectors):
    """The tiny model tells texts apart, or the other tests would show nothing."""
    means = np.array([tokens.mean(0) for tokens in token_vectors if tokens is not None])
    distances = np.linalg.norm(means[:, None] - means[None], axis=2)
    same = {(0, 0), (0, 4), (4, 0)}
    assert all(
        (distances[i, j] < 0.1) == (i == j or (i, j) in same)
        for i in range(len(means))
        for j in range(len(means))
    )


def test_one_copy_of_a_model_in_a_process(tiny_bert, tmp_path):
    """Eager and lazy calls, and every way to name the same model, share one copy of it."""
    import dask.dataframe as dd

    frame = input_frame(de.Embedder(tiny_bert))
    ddf = dd.from_pandas(frame, npartitions=2, sort=False)
    de.unload()
    for model in (tiny_bert, f"{tiny_bert}/", de.Model(tiny_bert)):
        de.Embedder(model)(frame)
        de.Embedder(model)(ddf).compute()
        ddf.map_partitions(de.Embedder(model), meta=de.Embedder(model).meta(frame)).compute()
    assert len(registry.loaded()) == 1


def test_device_and_dtype_as_resolved_share_one_copy(tiny_bert):
    """On a CPU "auto" is float32 on "cpu": asked for by name it is the same copy."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("here 'auto' is the GPU")
    frame = input_frame(de.Embedder(tiny_bert))
    de.unload()
    for options in ({}, {"dtype": "float32"}, {"device": "cpu"}):
        de.Embedder(de.Model(tiny_bert, **options))(frame)
    assert len(registry.loaded()) == 1
