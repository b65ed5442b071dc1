"""``df.ml`` and ``ddf.ml``: one thin method per operator."""

from __future__ import annotations

import keyword
from collections.abc import Callable
from typing import Any, TypeVar

from dask_embed import operators
from dask_embed._options import named_options
from dask_embed._validation import boolean, meant, shown
from dask_embed.operators import ColumnOperator

Operator = TypeVar("Operator", bound=type[ColumnOperator])

# What tasks and methods of sentence-transformers and transformers' pipelines are called here.
_ELSEWHERE = {
    **dict.fromkeys(("encode", "feature_extraction", "embeddings"), "embed"),
    **dict.fromkeys(("text_classification", "sentiment", "predict"), "classify"),
    **dict.fromkeys(("zero_shot", "zero_shot_classification"), "classify_zero_shot"),
    **dict.fromkeys(("ner", "token_classification", "entities"), "classify_tokens"),
    **dict.fromkeys(("question_answering", "qa"), "answer"),
    **dict.fromkeys(("rank", "cross_encode"), "rerank"),
    **dict.fromkeys(("summarize", "translate", "text_generation", "chat"), "generate"),
}


class FrameAccessor:
    """Model operators on a pandas or cuDF DataFrame; they run at once."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def _append(self, operator: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Apply an operator; it refuses options that it does not have."""
        return operator(*args, **options)(self._frame)

    def __getattr__(self, name: str) -> Any:
        """Say which methods there are, for one that there is not."""
        methods = [each for each in dir(type(self)) if not each.startswith("_")]
        told = f"{meant(name, methods)}; its methods are {', '.join(methods)}"
        if name == "to_parquet":
            told = " here; give it a Dask DataFrame, as dask.dataframe.from_pandas makes"
        elif name in _ELSEWHERE:
            told = f"; use {_ELSEWHERE[name]}"
        raise AttributeError(f".ml has no method {name!r}{told}")

    def embed(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append one embedding vector per text; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column.
        model : str, Path or dask_embed.Model
            Hub id, local folder or specification.
        **options
            `output`, `pooling`, `normalize`, `truncate_dim`, `prompt`, `prompt_name`,
            `chat`, `max_length`, `max_chars`, `padding_side`, `batch_size`, `tokens_per_batch`,
            `precision`, `ranges` and `on_error` of `dask_embed.Embedder`.

        Returns
        -------
        DataFrame
            Of the same kind, with the column `output` (``"embedding"``) at its end.

        Raises
        ------
        TypeError, ValueError
            Before any work, if an argument, the column or the checkpoint does not fit.
        """
        return self._append(operators.Embedder, model, column=column, **options)

    def classify(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append the label of each text and its score; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column.
        model : str, Path or dask_embed.Model
            A checkpoint with a head for sequence classification.
        **options
            See `dask_embed.Classifier`.
        """
        return self._append(operators.Classifier, model, column=column, **options)

    def classify_zero_shot(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append the label, of any, that fits each text best; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column.
        model : str, Path or dask_embed.Model
            A classifier that was trained to tell entailment from contradiction.
        **options
            See `dask_embed.ZeroShotClassifier`.
        """
        return self._append(operators.ZeroShotClassifier, model, column=column, **options)

    def classify_tokens(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append the labelled spans of each text, such as names; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column.
        model : str, Path or dask_embed.Model
            A checkpoint with a head for token classification.
        **options
            See `dask_embed.TokenClassifier`.
        """
        return self._append(operators.TokenClassifier, model, column=column, **options)

    def rerank(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append how well each text answers a query; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column.
        model : str, Path or dask_embed.Model
            A cross-encoder.
        **options
            See `dask_embed.Reranker`.
        """
        return self._append(operators.Reranker, model, column=column, **options)

    def fill_mask(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append the most likely tokens for the mask in each text; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column.
        model : str, Path or dask_embed.Model
            A masked language model.
        **options
            See `dask_embed.MaskFiller`.
        """
        return self._append(operators.MaskFiller, model, column=column, **options)

    def answer(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append the answer that each text gives to a question; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column in which answers are looked for.
        model : str, Path or dask_embed.Model
            A checkpoint with a head for extractive question answering.
        **options
            `question` or `question_column`, and the others of `dask_embed.QuestionAnswerer`.
        """
        return self._append(operators.QuestionAnswerer, model, column=column, **options)

    def score(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append how likely a language model takes texts to be; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The column of prompts or, without candidates, of texts.
        model : str, Path or dask_embed.Model
            A causal language model, or an encoder with a decoder.
        **options
            `candidates` or `candidates_column`, and the others of `dask_embed.Scorer`.
        """
        return self._append(operators.Scorer, model, column=column, **options)

    def generate(self, prompt: str | None = None, *, model: Any, **options: Any) -> Any:
        """Append the text that a model writes behind a prompt; lazy on a Dask DataFrame.

        Parameters
        ----------
        prompt : str, optional
            A template with names of columns in braces, such as ``"Summarize: {text}"``; without
            one, the prompts are those of ``column=``.
        model : str, Path or dask_embed.Model
            A causal language model, or an encoder with a decoder.
        **options
            `max_new_tokens`, `do_sample`, `stop`, `chat` and others of `dask_embed.Generator`.
        """
        return self._append(operators.Generator, model, prompt=prompt, **options)

    def tokenize(self, column: str = "text", *, model: Any, **options: Any) -> Any:
        """Append the token ids of each text and their number; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column.
        model : str, Path or dask_embed.Model
            A checkpoint; only its tokenizer is read.
        **options
            See `dask_embed.Tokenizer`.
        """
        return self._append(operators.Tokenizer, model, column=column, **options)

    def chunk(self, column: str = "text", *, model: Any, late: bool = False, **options: Any) -> Any:
        """Cut each text into rows of a limited number of tokens; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The text column; it is left out of the result unless ``keep_text=True``.
        model : str, Path or dask_embed.Model
            A checkpoint with a tokenizer in Rust; without `late` its weights are not read.
        late : bool
            Append a vector to each chunk too, from one pass over its whole text.
        **options
            See `dask_embed.Chunker`, and with `late` `dask_embed.LateChunkEmbedder`.

        Returns
        -------
        DataFrame
            Of the same kind with one row for each chunk; index and other columns are repeated.
        """
        boolean("late", late)
        operator = operators.LateChunkEmbedder if late else operators.Chunker
        return self._append(operator, model, column=column, **options)

    def linear_head(self, column: str = "embedding", *, weights: Any, **options: Any) -> Any:
        """Append the label that a linear layer gives each vector; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The vector column.
        weights : str, Path, classifier or arrays
            A safetensors file or its folder, a fitted linear classifier of scikit-learn, or its
            arrays.
        **options
            See `dask_embed.LinearHead`.
        """
        return self._append(operators.LinearHead, weights, column=column, **options)

    def similarity(self, column: str = "embedding", *, prototypes: Any, **options: Any) -> Any:
        """Append the nearest of fixed prototypes to each vector; lazy on a Dask DataFrame.

        Parameters
        ----------
        column : str
            The vector column.
        prototypes : mapping, array, str or Path
            Name to vector, vectors as the rows of an array, or a safetensors file.
        **options
            See `dask_embed.Similarity`.
        """
        return self._append(operators.Similarity, prototypes, column=column, **options)


class DaskAccessor(FrameAccessor):
    """Model operators on a Dask DataFrame; they are lazy."""

    def to_parquet(self, path: Any, **options: Any) -> Any:
        """Write to Parquet files that any reader opens; see `dask_embed.jobs.to_parquet`.

        Parameters
        ----------
        path : str or Path
            Folder to write, one file per partition.
        **options
            `overwrite`, `append`, `repeat`, `compute` and what ``dask.dataframe.to_parquet``
            takes.
        """
        from dask_embed.jobs.parquet import to_parquet

        return to_parquet(self._frame, path, **options)


@named_options
def register_operator(name: str, operator: Operator) -> Operator:
    """Add an operator of one's own as the method ``.ml.<name>`` of all dataframes.

    Parameters
    ----------
    name : str
        Name of the method; its arguments are those of the operator.
    operator : type
        A subclass of `dask_embed.ModelOperator` or `dask_embed.ColumnOperator`. Workers import
        it from its module, or get its code with the task if it was written in a notebook.

    Returns
    -------
    type
        The operator.

    Raises
    ------
    TypeError, ValueError
        If `operator` is not such a class, or `name` is taken or no Python name. The same class
        may be registered again, and a class that was written anew takes the place of the old one.
    """
    if not (isinstance(operator, type) and issubclass(operator, ColumnOperator)):
        raise TypeError(
            f"operator must be a subclass of dask_embed.ModelOperator, got {shown(operator)}"
        )
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"name must be a Python name, got {shown(name)}")
    taken = getattr(DaskAccessor, name, None)
    if name.startswith("_") or (taken is not None and not _replaces(operator, taken)):
        raise ValueError(f"name {name!r} is taken by a method of .ml; choose another")

    def append(self: FrameAccessor, *args: Any, **options: Any) -> Any:
        return self._append(operator, *args, **options)

    append.__name__, append.__doc__ = name, operator.__doc__
    append._operator = operator  # type: ignore[attr-defined]
    setattr(FrameAccessor, name, append)
    return operator


def _replaces(operator: type, method: Any) -> bool:
    """Return whether a method is that of the same operator, as it was before."""
    old = getattr(method, "_operator", None)
    return old is not None and (old.__module__, old.__qualname__) == (
        operator.__module__,
        operator.__qualname__,
    )
