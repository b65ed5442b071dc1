"""Names of arguments: which ones a class has, and what other libraries call them."""

from __future__ import annotations

import abc
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Self, TypeVar

from dask_embed._validation import meant, plain_scalar, shown

P = ParamSpec("P")
R = TypeVar("R")

# Options that are said of the model, not of an operator.
_OF_MODEL = (
    *("device", "dtype", "autocast", "attention", "compile", "revision", "trust_remote_code"),
    *("allow_pickle", "cache_dir", "local_files_only", "model_kwargs", "adapter", "quantization"),
    *("device_map", "max_memory", "offload_folder", "tokenizer", "factory"),
)
# What options of sentence-transformers, transformers' pipelines, NeMo Curator and Hub clients are
# called here, the first that the operator has ...
_CALLED = {
    **dict.fromkeys(("dimensions",), ("truncate_dim",)),
    **dict.fromkeys(("normalize_embeddings",), ("normalize",)),
    **dict.fromkeys(("max_seq_length", "max_sequence_length"), ("max_length",)),
    **dict.fromkeys(("max_tokens",), ("max_new_tokens", "max_length")),
    **dict.fromkeys(("max_tokens_to_sample",), ("max_new_tokens",)),
    **dict.fromkeys(("batch_size_tokens",), ("tokens_per_batch",)),
    **dict.fromkeys(("model_inference_batch_size", "per_device_batch_size"), ("batch_size",)),
    **dict.fromkeys(("embedding_pooling", "pooling_mode", "pooling_strategy"), ("pooling",)),
    **dict.fromkeys(("text_field", "text_column", "input_column", "context"), ("column",)),
    **dict.fromkeys(
        ("embedding_field", "output_field", "output_column", "label_field"), ("output",)
    ),
    **dict.fromkeys(("score_field",), ("score",)),
    **dict.fromkeys(("model_identifier", "model_name", "model_name_or_path"), ("model", "name")),
    **dict.fromkeys(("candidate_labels",), ("labels",)),
    **dict.fromkeys(("aggregation_strategy", "grouped_entities"), ("aggregation",)),
    **dict.fromkeys(("handle_impossible_answer",), ("null_answer",)),
    **dict.fromkeys(("max_answer_len",), ("max_answer_length",)),
    **dict.fromkeys(("doc_stride", "chunk_overlap"), ("stride", "overlap")),
    **dict.fromkeys(("chunk_size",), ("max_tokens",)),
    **dict.fromkeys(("stop_strings", "stop_sequences"), ("stop",)),
    **dict.fromkeys(("torch_dtype",), ("dtype",)),
    **dict.fromkeys(("attn_implementation",), ("attention",)),
    **dict.fromkeys(("cache_folder",), ("cache_dir",)),
    **dict.fromkeys(("quantization_config", "load_in_8bit", "load_in_4bit"), ("quantization",)),
}
# ... or what does the same.
_INSTEAD = {
    **dict.fromkeys(
        ("token", "use_auth_token", "hf_token", "api_key"),
        "workers read HF_TOKEN of their environment",
    ),
    **dict.fromkeys(
        ("return_all_scores", "return_scores"), "use top_k='all', or scores='name of a column'"
    ),
    **dict.fromkeys(
        ("show_progress_bar", "show_progress", "progress_bar"),
        "compute within 'with dask_embed.progress():'",
    ),
    "candidate_labels": "ZeroShotClassifier has labels of your own",
    "truncation": "texts are cut at max_length, see on_long",
    "padding": "batches are made of texts of about one length, padding changes no result",
    **dict.fromkeys(
        ("sort_by_length", "has_seq_order"),
        "texts are sorted by length within a partition, and rows keep their order",
    ),
    **dict.fromkeys(
        ("convert_to_numpy", "convert_to_tensor"),
        "dask_embed.to_array gives a column as an array",
    ),
    "output_value": "pooling='none' gives the vectors of tokens",
    **dict.fromkeys(("num_workers", "n_jobs"), "Dask's scheduler says how many partitions run"),
    **dict.fromkeys(
        ("length_penalty", "early_stopping", "num_return_sequences"),
        "one text is written for a row, its beams as the checkpoint says",
    ),
}


operators: Callable[[], Iterable[Any]] = tuple
"""Gives all operators, which stand above this module: set where the package registers itself."""


def known_options(name: str, given: Iterable[str], allowed: Sequence[str]) -> None:
    """Raise TypeError unless all names of arguments are `allowed` for the function `name`.

    Names of other libraries for the same thing are told ours.
    """
    for option in given:
        if option in allowed:
            continue
        told = _ours(option, allowed)
        close = "" if told else meant(option, allowed)
        told = told or f"its options are {', '.join(allowed)}"
        raise TypeError(f"{name} has no option {shown(option)}{close}; {told}")


def _ours(option: str, allowed: Sequence[str]) -> str:
    """Return what another library's option is called here, "" if that is not known."""
    names = _CALLED.get(option, (option,))
    for name in names:
        if name in allowed:
            return f"the option is called {name}"
    for name in names:
        if name in _OF_MODEL and "model" in allowed:
            return f"say it of the model: model=dask_embed.Model(name, {name}=...)"
    return _INSTEAD.get(option) or _of_operator(names, allowed)


def _of_operator(names: Sequence[str], allowed: Sequence[str]) -> str:
    """Return where an option is said that is given to a model instead, "" where there is none."""
    if "model_kwargs" not in allowed:  # of no model
        return ""
    for operator in operators():
        for name in names:
            if name in operator.__dataclass_fields__:
                return f"say it of the operator: dask_embed.{operator.__name__}(model, {name}=...)"
    return ""


def _with_plain_scalars(
    function: Callable[..., R], args: Iterable[Any], options: Mapping[str, Any]
) -> R:
    """Call a function with numbers of Python where numbers of NumPy are given."""
    plain = {name: plain_scalar(value) for name, value in options.items()}
    return function(*map(plain_scalar, args), **plain)


def named_options(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function take numbers of NumPy, and tell its options for another name.

    As `NamedOptions` of a class.
    """
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        known_options(function.__name__, options, names)
        return _with_plain_scalars(function, args, options)

    return checked


class _OfConstructor:
    """The signature of a class, which `inspect` may otherwise take from ``__new__``."""

    def __get__(self, instance: Any, owner: Any) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")  # of what an instance does when it is called
        return _constructor(owner)


@functools.lru_cache(maxsize=256)  # tokens of operators are made of their short forms
def _constructor(owner: Any) -> inspect.Signature:
    signature = inspect.signature(owner.__init__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


class _OfPlainScalars(abc.ABCMeta):
    """Kind of classes that keep numbers of Python where numbers of NumPy are given."""

    if not TYPE_CHECKING:  # arguments are those of the constructor

        def __call__(cls, *args: Any, **options: Any) -> Any:
            return _with_plain_scalars(super().__call__, args, options)


class NamedOptions(metaclass=_OfPlainScalars):
    """Base of classes whose options are arguments by name: what else is given is told ours.

    So is an attribute that an instance does not have. Numbers of NumPy are as those of Python.
    """

    used: ClassVar[str] = ""
    """What to do with an instance, for whoever takes it for the class of another library."""

    __signature__ = _OfConstructor()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        if options:  # none where an instance is unpickled
            parameters = inspect.signature(cls).parameters.values()
            if all(each.kind is not each.VAR_KEYWORD for each in parameters):
                known_options(cls.__name__, options, [each.name for each in parameters])
        return super().__new__(cls)

    if not TYPE_CHECKING:  # names of attributes are checked

        def __getattr__(self, name: str) -> Any:
            cls = type(self)
            if hasattr(cls, name):
                return object.__getattribute__(self, name)  # a property that failed says why
            if name.startswith("_"):
                raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
            raise AttributeError(_no_attribute(cls, name))


@functools.lru_cache(maxsize=64)  # Dask asks each operand of each node for an `expr`
def _no_attribute(cls: type[NamedOptions], name: str) -> str:
    close = meant(name, [each for each in dir(cls) if not each.startswith("_")])
    return f"{cls.__name__} has no attribute {name!r}{close}; {cls.used}"
