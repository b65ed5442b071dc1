"""Operators that run a checkpoint on texts: its files, its limits, and the tokens of a row."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from dask_embed import config
from dask_embed._validation import one_of, positive_integer, shown
from dask_embed.columns import TextColumn
from dask_embed.inference.encoding import encode_rows
from dask_embed.loading.building import require_buildable
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.pin import pinned
from dask_embed.models.tasks import require_head
from dask_embed.models.tokenizer_files import tokenizer_fingerprint
from dask_embed.models.tokenizers import tokenizer_of
from dask_embed.operators.base import ColumnOperator
from dask_embed.operators.limits import require_room
from dask_embed.operators.of_model import OfModel
from dask_embed.operators.rehearsal import EXAMPLES, NeedsWeightsError, StandIn, require_encodable
from dask_embed.runtime.libraries import import_libraries
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.sequences import SequenceSettings, encoding_problem, tokens_kept

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.footprint import Footprint
    from dask_embed.inference.runner import Runner
    from dask_embed.inference.stream import Batching


def _as_a_hook(encode: Callable[..., Encoded]) -> Callable[..., Encoded]:
    """Refuse texts, which the method of this name of sentence-transformers takes."""

    @functools.wraps(encode)
    def checked(self: Any, *given: Any, **options: Any) -> Encoded:
        runner = given[0] if given else options.get("runner")
        if not hasattr(runner, "loaded"):
            raise TypeError(
                f"{type(self).__name__}.encode is a step of an operator, which makes tokens with a "
                f"loaded model, got {shown(runner)}; {self.used}"
            )
        return encode(self, *given, **options)

    return checked


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOperator(OfModel, ColumnOperator):
    """A checkpoint over text columns: what is read of it, limits, tokens; not what it computes.

    See `ModelOperator` for its arguments.
    """

    output: str = "output"
    max_length: int | None = None
    on_long: str = "truncate"
    padding_side: str | None = None
    batch_size: int | None = None
    tokens_per_batch: int | None = None

    uses_configured_cache: ClassVar[bool] = True

    most_columns: ClassVar[int | None] = 2

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"output", "padding_side", "batch_size", "tokens_per_batch"}
    )

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "encode" in vars(cls):
            cls.encode = _as_a_hook(cls.encode)  # type: ignore[method-assign]

    task: ClassVar[str] = "embed"
    """Which head the model has: a name of `dask_embed.models.tasks.TASKS`."""

    takes_tables: ClassVar[bool] = False
    """Whether a table of token vectors in place of a transformer will do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_length", "batch_size", "tokens_per_batch"):
            positive_integer(name, getattr(self, name))
        one_of("on_long", self.on_long, ("truncate", "error"))
        one_of("padding_side", self.padding_side, (None, "left", "right"))
        if self.most_columns is not None and len(self.input_columns) > self.most_columns:
            raise TypeError(
                f"{type(self).__name__} reads {len(self.input_columns)} columns; encode takes one "
                "or a pair: define an encode that makes a sequence of more"
            )

    @property
    def result_columns(self) -> tuple[str, ...]:
        return (self.output,)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        """Return name and Arrow type of every result column; errors not included.

        Raises
        ------
        ValueError
            If the checkpoint cannot do what is asked for.
        """
        raise TypeError(f"{type(self).__name__} must define output_types")

    def describe(self, checkpoint: Checkpoint) -> str:
        """Return in a few words what is computed, for `dask_embed.explain`."""
        types = ", ".join(str(dtype) for dtype in self.output_types(checkpoint).values())
        return f"{self.task}: {types}"

    def prepare(self) -> None:
        import_libraries()

    @_as_a_hook
    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        """Return the token lists of some rows: by default one for each, pairs where it has two.

        Parameters
        ----------
        runner : Runner
        rows : list of tuple of str
            The input texts of each row.
        """
        limit = self.limit(runner.loaded.checkpoint)
        return encode_rows(runner, rows, limit, on_long=self.on_long)

    def tokens_key(self) -> Hashable:
        """See `ColumnOperator`; of the `encode` here."""
        limit = self.limit(read_checkpoint(self.spec))
        return self._tokens_key(SequenceSettings(tokens_kept(limit, self.on_long)))

    def _tokens_key(self, sequences: Hashable) -> Hashable:
        fingerprint = tokenizer_fingerprint(self.spec, read_checkpoint(self.spec))
        return (self.input_columns, fingerprint, sequences)

    def runner(self) -> Runner:
        """Return the model as this process has it, loading it on first use."""
        import_libraries()
        from dask_embed.inference.runner import runner_for

        return runner_for(self.spec, self.loaded_task)

    @property
    def batching(self) -> Batching:
        from dask_embed.inference.stream import Batching

        return Batching(self.tokens_per_batch, self.batch_size, self.padding_side)

    @property
    def loaded_task(self) -> str:
        """The head that the model is loaded with."""
        return self.task

    def footprint(self, threads: int, *, on_gpu: bool = False) -> Footprint | None:
        from dask_embed.inference.footprint import footprint

        gpu = self.spec.device.startswith("cuda") or (self.spec.device == "auto" and on_gpu)
        tokens = self.batching.max_tokens or config.get("tokens-per-batch")["cpu"]
        # what runs on a GPU is in its own memory
        batches, dtype = (0, "bfloat16") if gpu else (threads, "float32")
        return footprint(self.spec, self.loaded_task, tokens, batches, dtype=dtype)

    def types(self) -> dict[str, pa.DataType]:
        checkpoint = read_checkpoint(self.spec)
        if checkpoint.static is not None and not self.takes_tables:
            raise ValueError(
                f"model {self.spec.name!r} is a table of vectors (StaticEmbedding) and no "
                f"transformer, which {type(self).__name__} needs; Embedder runs it"
            )
        require_head(self.task, checkpoint, self.spec)
        self.limit(checkpoint)
        types = self.output_types(checkpoint)
        self._require_room(checkpoint)
        return types

    def plan(self) -> list[str]:
        parts = [f"model {self.spec.name} at revision {self.spec.revision}"]
        parts += [f"{name} {value}" for name, value in self._model_parts().items()]
        checkpoint = read_checkpoint(self.spec)
        lines = [", ".join(parts), self.describe(checkpoint)]
        longest = self.longest_row(checkpoint)
        if longest is None:
            return lines
        rest = "cut there" if self.on_long == "truncate" else "refused"
        return [*lines, f"at most {longest} tokens of a row are read, longer ones are {rest}"]

    def resolved(self) -> dict[str, Any]:
        return {"max_length": self.limit(read_checkpoint(self.spec))}

    def _model_parts(self) -> dict[str, str]:
        """Return what the model is made of besides its checkpoint, by name."""
        names = ("adapter", "adapter_revision", "tokenizer", "tokenizer_revision", "quantization")
        parts = {name: getattr(self.spec, name) for name in names}
        factory = self.spec.factory
        if factory is not None:
            parts["factory"] = f"{factory.__module__}.{factory.__qualname__}"
        return {name: str(value) for name, value in parts.items() if value is not None}

    def pinned(self) -> CheckpointOperator:
        """Return the operator with its model resolved to a folder or commit."""
        return dataclasses.replace(self, model=pinned(self.spec, read_checkpoint(self.spec)))

    def limit(self, checkpoint: Checkpoint) -> int | None:
        """Return the most tokens of a sequence, None where nothing limits them.

        Raises
        ------
        ValueError
            If `max_length` is more than the model has positions.
        """
        limit = checkpoint.position_limit
        if self.max_length is not None:
            if limit is not None and self.max_length > limit:
                raise ValueError(
                    f"max_length must be at most {limit}, the positions that model "
                    f"{self.spec.name!r} has; got {self.max_length}"
                )
            return self.max_length
        return checkpoint.default_limit

    def special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return how many special tokens a sequence has: by default a pair's for two columns."""
        return tokenizer.num_special_tokens_to_add(pair=len(self.input_columns) == 2)

    def _special_tokens(self) -> int:
        return self.special_tokens(tokenizer_of(self.spec))

    def _require_room(self, checkpoint: Checkpoint) -> None:
        if self.max_length is not None:
            require_room(self.max_length, self.needed_tokens(checkpoint), self._special_tokens)

    def needed_tokens(self, checkpoint: Checkpoint) -> dict[str, int]:
        """Return what else `max_length` must hold: what it is, in words, to number of tokens."""
        return {}

    def characters(self, row: Row) -> int:
        """Return how many characters of a row are tokenized, which says where chunks end."""
        return sum(map(len, row))

    def longest_row(self, checkpoint: Checkpoint) -> int | None:
        """Return the most tokens that are read of a row, None where windows read all of it."""
        return self.limit(checkpoint)

    def rehearse(self) -> None:
        require_buildable(self.spec, self.loaded_task, read_checkpoint(self.spec))
        if self.run_encodes:
            require_encodable(self, self.spec, read_checkpoint(self.spec))

    def trial(self, tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
        """Return why no row with this text can be encoded, None if one can."""
        stand_in: Any = StandIn(self.spec, read_checkpoint(self.spec), tokenizer)
        try:
            encoded = self.encode(stand_in, [self.example(text, tokenizer)])
        except NeedsWeightsError:
            return None  # as far as it goes without them
        except BaseException as error:
            return encoding_problem(error)
        return encoded.failures.get(0)

    def example(self, text: str, tokenizer: PreTrainedTokenizerBase) -> Row:
        """Return a row that this operator should be able to use, with a text in each column."""
        return (text,) * len(self.input_columns)

    def examples(self) -> Iterator[list[TextColumn]]:
        tokenizer = self.runner().loaded.tokenizer
        for text in EXAMPLES:
            yield [TextColumn([value]) for value in self.example(text, tokenizer)]
