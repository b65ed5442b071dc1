"""Vectors to labels by one linear layer."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dask_embed._validation import non_empty_string, one_of, shown
from dask_embed.models.modules import read_json
from dask_embed.operators.vectors.base import (
    VectorOperator,
    read_header,
    read_tensors,
    require_finite,
    require_revision,
    safetensors_file,
)
from dask_embed.operators.vectors.linear_weights import LinearWeights

ACTIVATIONS = ("auto", "softmax", "sigmoid", "none")
# Names under which frameworks keep the matrix, and the vector beside it.
_NAMES = (("weight", "bias"), ("coef_", "intercept_"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearHead(VectorOperator):
    """Append the label that a linear layer gives each vector; lazy on a Dask DataFrame.

    Parameters
    ----------
    weights : str, Path, classifier or arrays
        A fitted linear classifier of scikit-learn (of its `coef_`, `intercept_` and `classes_`);
        a matrix of shape (labels, dimension), or a tuple of it and the bias; both up to 1 MiB,
        because each task carries them. Or a safetensors file, or a folder with one: `weight` of
        shape (labels, dimension) and, if there is one, `bias` of shape (labels,); also under a
        common prefix (``classifier.weight``) or scikit-learn's names (`coef_`, `intercept_`).
    column : str
        The vector column.
    labels : tuple of str, optional
        Names of the labels in the order of the rows of `weight`. By default those of the file's
        metadata (``labels``, a json list), else ``id2label`` of a ``config.json`` beside it, else
        ``LABEL_0`` and so on. Of two labels there may be one row: that of the second label, as
        scikit-learn has it for two classes.
    activation : {"auto", "softmax", "sigmoid", "none"}
        From logits to scores. ``"auto"`` follows ``problem_type`` of the ``config.json``, as
        `Classifier` does: sigmoid for several labels at a time or a single one, none for
        regression, softmax for one of several. Of a classifier: softmax where that is its
        `predict_proba`, otherwise none, so that scores are its `decision_function` (of two
        labels with the sign of each).
    revision : str, optional
        Fingerprint of the files; another content is then an error. Operators set it when they
        are applied, so that every worker computes with the same weights.
    output, score, scores, on_error
        See `VectorOperator`.

    Notes
    -----
    safetensors writes NumPy arrays as they lie in memory, and scikit-learn's are often transposed:
    save ``np.ascontiguousarray(model.coef_)``.

    Raises
    ------
    ValueError
        Before any work, if the files do not hold a linear layer, the labels are not as many, or
        the column holds vectors of another dimension.

    Examples
    --------
    >>> import numpy as np, pandas as pd, tempfile
    >>> from safetensors.numpy import save_file
    >>> import dask_embed as de
    >>> from dask_embed.operators.vectors.linear_head import LinearHead
    >>> file = tempfile.mkdtemp() + "/head.safetensors"
    >>> save_file({"weight": np.eye(2, 384, dtype="float32")}, file)
    >>> frame = de.Embedder(de.datasets.minilm())(pd.DataFrame({"text": ["a table", None]}))
    >>> LinearHead(file, labels=("first", "second"))(frame)["label"].isna().tolist()
    [False, True]
    """

    method: ClassVar[str] = "linear_head"

    weights: Any = dataclasses.field(kw_only=False)
    labels: tuple[str, ...] | None = None
    activation: str = "auto"
    revision: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.weights, str | Path):
            held = self.weights
            if not isinstance(held, LinearWeights):
                held = LinearWeights.of(held)
            object.__setattr__(self, "weights", held)
        else:
            object.__setattr__(self, "weights", str(self.weights))
        super().__post_init__()
        non_empty_string("revision", self.revision, allow_none=True)
        one_of("activation", self.activation, ACTIVATIONS)
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels))

    @property
    def source(self) -> str:
        return f"head {self.weights!r}"

    @property
    def subject(self) -> str:
        return str(self.weights)

    def names(self) -> Sequence[str]:
        return self._layer().labels

    def dimension(self) -> int:
        return self._layer().shape[1]

    def pinned(self) -> LinearHead:
        """Return the operator with the file's absolute path and fingerprint."""
        if isinstance(self.weights, LinearWeights):
            return dataclasses.replace(self, revision=self._layer().revision)
        files = _files(self.weights)
        revision = require_revision(files, self.revision)
        return dataclasses.replace(self, weights=str(files[0]), revision=revision)

    def plan(self) -> list[str]:
        layer = self._layer()
        shown = ", ".join(layer.labels[:5]) + (", ..." if len(layer.labels) > 5 else "")
        return [
            f"{self.source} at revision {self.revision}",
            f"{len(layer.labels)} labels ({shown}), {self._function(layer)} of the logits",
        ]

    def resolved(self) -> dict[str, Any]:
        layer = self._layer()
        return {"labels": list(layer.labels), "activation": self._function(layer)}

    def parameters(self) -> tuple[np.ndarray, ...]:
        if isinstance(self.weights, LinearWeights):
            return self.weights.parameters()
        layer = self._layer()
        tensors = read_tensors(layer.file)
        bias = tensors[layer.bias] if layer.bias else np.zeros(layer.shape[0], np.float32)
        return tensors[layer.weight], bias.reshape(-1)

    def scores_of(self, vectors: Any, *parameters: Any) -> Any:
        weight, bias = parameters
        arrays = vectors.__array_namespace__()
        logits = vectors @ weight.T + bias
        layer = self._layer()
        function = self._function(layer)
        if len(layer.labels) > layer.shape[0]:  # one logit stands for two labels
            first = -logits if function == "none" else arrays.zeros_like(logits)
            logits = arrays.concatenate([first, logits], axis=1)
        if function == "sigmoid":
            return 1 / (1 + arrays.exp(-logits))
        if function == "softmax":
            shifted = arrays.exp(logits - logits.max(axis=1, keepdims=True))
            return shifted / shifted.sum(axis=1, keepdims=True)
        return logits

    def _function(self, layer: _Layer) -> str:
        if self.activation != "auto":
            return self.activation
        if layer.problem == "regression":
            return "none"
        several = layer.problem == "multi_label_classification"
        return "sigmoid" if several or len(layer.labels) == 1 else "softmax"

    def _layer(self) -> _Layer:
        if isinstance(self.weights, LinearWeights):
            layer = _held_layer(self.weights, self.revision)
        else:
            files = _files(self.weights)
            layer = _read_layer(files, require_revision(files, self.revision))
        labels = self.labels or layer.labels
        rows = layer.shape[0]
        one_of_two = rows == 1 and len(labels) == 2 and self.activation != "sigmoid"
        if len(labels) != rows and not one_of_two:
            raise ValueError(
                f"{self.source} needs as many labels as its weight has rows, {rows}; got "
                f"{len(labels)}: {shown(labels)}"
            )
        return dataclasses.replace(layer, labels=labels)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """What small files say of a linear layer: names of its tensors, shape, labels."""

    revision: str
    file: Path
    weight: str
    bias: str | None
    shape: tuple[int, int]
    labels: tuple[str, ...]
    problem: str | None


def _files(weights: str) -> tuple[Path, ...]:
    """Return the safetensors file, and the config.json beside it if there is one."""
    file = safetensors_file("weights", weights)
    config = file.parent / "config.json"
    return (file, config) if config.is_file() else (file,)


@functools.lru_cache(maxsize=64)
def _read_layer(files: tuple[Path, ...], revision: str) -> _Layer:
    """Read the layer; `revision` tells contents apart."""
    shapes, metadata = read_header(files[0])
    weight, bias = _tensor_names(files[0], shapes)
    require_finite(files[0], [weight] if bias is None else [weight, bias])
    config = read_json(files[1]) if len(files) > 1 else {}
    shape = shapes[weight]
    problem = config.get("problem_type")
    labels = _labels(files[0], shape[0], metadata, config)
    return _Layer(revision, files[0], weight, bias, (shape[0], shape[1]), labels, problem)


def _held_layer(weights: LinearWeights, revision: str | None) -> _Layer:
    found, labels = weights.fingerprint, weights.labels
    if revision not in (None, found):
        raise ValueError(f"weights have fingerprint {found!r} but {revision!r} was asked for")
    if labels is None:
        labels = tuple(f"LABEL_{number}" for number in range(weights.shape[0]))
    problem = None if weights.probabilities else "regression"
    return _Layer(found, Path(), "weight", "bias", weights.shape, labels, problem)


def _tensor_names(file: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[str, str | None]:
    found = [
        (key, key.removesuffix(weight) + bias)
        for weight, bias in _NAMES
        for key in shapes
        if key == weight or key.endswith(f".{weight}")
    ]
    if len(found) != 1 or len(shapes[found[0][0]]) != 2:
        raise ValueError(
            f"{str(file)!r} must hold one tensor `weight` of shape (labels, dimension); it holds "
            f"{shapes}"
        )
    weight, bias = found[0]
    if bias not in shapes:
        return weight, None
    if shapes[bias] != shapes[weight][:1]:
        raise ValueError(
            f"tensor {bias!r} of {str(file)!r} must be of shape {shapes[weight][:1]}, one value a "
            f"label; it is of shape {shapes[bias]}"
        )
    return weight, bias


def _labels(
    file: Path, rows: int, metadata: dict[str, str], config: dict[str, Any]
) -> tuple[str, ...]:
    if "labels" in metadata:
        try:
            return _checked_labels(json.loads(metadata["labels"]))
        except json.JSONDecodeError:
            written = metadata["labels"]
            raise ValueError(
                f"labels in the metadata of {str(file)!r} must be a json list, got {shown(written)}"
            ) from None
    names = config.get("id2label")
    if names:
        if not isinstance(names, dict) or not all(key.isdecimal() for key in names):
            raise ValueError(
                f"id2label in the config.json beside {str(file)!r} must map numbers to names, got "
                f"{shown(names)}"
            )
        return tuple(str(names[key]) for key in sorted(names, key=int))
    return tuple(f"LABEL_{number}" for number in range(rows))


def _checked_labels(labels: Any) -> tuple[str, ...]:
    plain = isinstance(labels, tuple | list) and all(isinstance(name, str) for name in labels)
    if not plain or not labels or len(set(labels)) != len(labels):
        raise ValueError(f"labels must be different names, in order; got {shown(labels)}")
    return tuple(labels)
