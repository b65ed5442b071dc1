"""What is compared: for each contender a function that reads texts, embeds and writes.

Needs only the packages of the contender that is asked for, as does `worker.py`, which runs one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setting import (
    BATCH_ROWS,
    DIMENSION,
    MAX_TOKENS,
    Backend,
    Embed,
    Setting,
    encode,
    load_exported,
    load_reference,
    vector_array,
    with_vectors,
    write_part,
)


@dataclass(frozen=True)
class Contender:
    """A way to embed texts.

    Attributes
    ----------
    what : str
        How it is done, for the reader of the result.
    prepare : callable
        From a `Setting` to a function that reads, embeds and writes.
    environment : str
        Key of `peers.PEERS`, or ``"project"``.
    exports : bool
        Whether it runs its own format of the model, made beforehand; CPU and float32 only.
    """

    what: str
    prepare: Callable[[Setting], Embed]
    environment: str = "project"
    exports: bool = False


def _dask_embed(setting: Setting) -> Embed:
    import dask.dataframe as dd

    import dask_embed as de

    model = de.Model(setting.model, device=setting.device, dtype=setting.dtype)

    def embed(source: str, target: str) -> None:
        dd.read_parquet(source).ml.embed("text", model=model).ml.to_parquet(target)

    return embed


def _engine(setting: Setting) -> Embed:
    import pandas as pd
    import pyarrow as pa

    import dask_embed as de

    model = de.Model(setting.model, device=setting.device, dtype=setting.dtype)
    embedder = de.Embedder(model, column="text").pinned()

    def embed(source: str, target: str) -> None:
        for part, file in enumerate(sorted(Path(source).glob("*.parquet"))):
            frame = embedder.apply(pd.read_parquet(file))
            write_part(pa.Table.from_pandas(frame, preserve_index=False), target, part)

    return embed


def _whole_frame(vectors_of: Callable[[list[str]], Any]) -> Embed:
    """Read all files into one frame, embed its texts at once, write one file."""
    import pandas as pd
    import pyarrow as pa

    def embed(source: str, target: str) -> None:
        frame = pd.read_parquet(source)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        write_part(with_vectors(table, vectors_of(frame["text"].tolist())), target)

    return embed


def _sentence_transformers(setting: Setting) -> Embed:
    return _whole_frame(functools.partial(encode, load_reference(setting)))


def _exported(backend: Backend, setting: Setting) -> Embed:
    return _whole_frame(functools.partial(encode, load_exported(backend, setting.model)))


def _pipeline(setting: Setting) -> Embed:
    import torch
    from transformers import FeatureExtractionPipeline, pipeline

    class MeanPooling(FeatureExtractionPipeline):
        def _forward(self, model_inputs: Any) -> Any:
            hidden = self.model(**model_inputs).last_hidden_state
            mask = model_inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            return {"vectors": torch.nn.functional.normalize(mean).float()}

        def postprocess(self, model_outputs: Any, return_tensors: Any = None) -> Any:
            return model_outputs["vectors"]

    extract = pipeline(
        "feature-extraction",
        model=setting.model,
        device=setting.device,
        dtype=getattr(torch, setting.dtype),
        pipeline_class=MeanPooling,
        tokenize_kwargs={"truncation": True, "max_length": MAX_TOKENS},
    )
    return _whole_frame(lambda texts: torch.cat(extract(texts, batch_size=BATCH_ROWS)).numpy())


def _map_partitions(setting: Setting) -> Embed:
    import dask.dataframe as dd
    import pandas as pd
    import pyarrow as pa

    dtype = pd.ArrowDtype(pa.list_(pa.float32(), DIMENSION))

    def embed_partition(frame: Any) -> Any:
        vectors = vector_array(encode(load_reference(setting), frame["text"].tolist()))
        column = pd.arrays.ArrowExtensionArray(vectors)
        return frame.assign(embedding=pd.Series(column, index=frame.index))

    def embed(source: str, target: str) -> None:
        lazy = dd.read_parquet(source)
        meta = lazy._meta.assign(embedding=pd.Series([], dtype=dtype))
        lazy.map_partitions(embed_partition, meta=meta).to_parquet(target, write_index=False)

    load_reference(setting)
    return embed


def _ray(setting: Setting) -> Embed:
    import ray

    class Encoder:
        def __init__(self) -> None:
            self.model = load_reference(setting)
            encode(self.model, ["a text"] * BATCH_ROWS)  # each dataset starts new actors
            setting.note_ready()

        def __call__(self, batch: Any) -> Any:
            return with_vectors(batch, encode(self.model, batch["text"].to_pylist()))

    cores = os.cpu_count() or 1
    # Reading and writing need places of their own: the actor asks for all cores, because torch
    # gets as many threads in an actor as it asked for.
    ray.init(num_cpus=cores + 2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = {"num_cpus": cores, "num_gpus": 1 if setting.device == "cuda" else 0}

    def embed(source: str, target: str) -> None:
        compute = ray.data.ActorPoolStrategy(size=1)
        data = ray.data.read_parquet(source)
        data = data.map_batches(Encoder, batch_format="pyarrow", compute=compute, **resources)
        data.write_parquet(target)

    return embed


def _daft(setting: Setting) -> Embed:
    import daft
    from daft.ai.transformers.protocols.text_embedder import TransformersTextEmbedderDescriptor
    from daft.ai.transformers.provider import TransformersProvider
    from daft.functions import embed_text

    class Descriptor(TransformersTextEmbedderDescriptor):
        def instantiate(self) -> Any:
            embedder = super().instantiate()
            setting.note_ready()
            return embedder

    class Provider(TransformersProvider):
        """Daft's own, only that loading the model, anew for each query, is noted."""

        def get_text_embedder(self, *arguments: Any, **options: Any) -> Any:
            own = super().get_text_embedder(*arguments, **options)
            return Descriptor(own.model, own.dimensions, own.embed_options)

    def embed(source: str, target: str) -> None:
        vectors = embed_text(daft.col("text"), provider=Provider(), model=setting.model)
        frame = daft.read_parquet(f"{source}/*.parquet").with_column("embedding", vectors)
        frame.write_parquet(target)

    return embed


CONTENDERS = {
    "dask-embed": Contender(
        "dd.read_parquet, ddf.ml.embed, ddf.ml.to_parquet; threads scheduler", _dask_embed
    ),
    "against": Contender("the same by another checkout of the project", _dask_embed),
    "engine": Contender(
        "the same operator on the same files one by one, without Dask: pd.read_parquet, "
        "Embedder.apply, pyarrow",
        _engine,
    ),
    "sentence-transformers": Contender(
        f"pd.read_parquet, SentenceTransformer.encode(batch_size={BATCH_ROWS}), pyarrow",
        _sentence_transformers,
    ),
    "onnx": Contender(
        "sentence-transformers, backend='onnx', CPUExecutionProvider",
        functools.partial(_exported, "onnx"),
        "onnx",
        exports=True,
    ),
    "openvino": Contender(
        "sentence-transformers, backend='openvino', INFERENCE_PRECISION_HINT f32",
        functools.partial(_exported, "openvino"),
        "openvino",
        exports=True,
    ),
    "pipeline": Contender(
        f"transformers feature-extraction pipeline, batch_size={BATCH_ROWS}, mean pooling and "
        "normalizing by hand in a pipeline_class",
        _pipeline,
    ),
    "map-partitions": Contender(
        "dd.read_parquet, ddf.map_partitions around SentenceTransformer.encode, one model for "
        "all threads, to_parquet; threads scheduler",
        _map_partitions,
    ),
    "ray": Contender(
        "ray.data.read_parquet, map_batches of a class around SentenceTransformer.encode, one "
        "actor with all cores, write_parquet; starting the actor is not timed",
        _ray,
        "ray",
    ),
    "daft": Contender(
        "daft.read_parquet, embed_text(provider=transformers), write_parquet; loading the model "
        "is not timed",
        _daft,
        "daft",
    ),
}
