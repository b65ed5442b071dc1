"""Time generated columns against transformers' text-generation pipeline.

Both continue the same docstrings with the same seeded model, greedily; the pipeline with several
batch sizes, of which the fastest counts. In float32 the texts must be equal, all of them::

    python benchmarks/generate.py --output generate.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import torch
import transformers
from machine import describe
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import dask_embed as de
from dask_embed.operators.language.generator import Generator

PACKAGES = ["dask", "pandas"]
SPECIAL = ["<pad>", "<eos>"]
Texts = list[str]


def main() -> None:
    """Measure, print a table, write JSON; exit with an error if texts differ."""
    dask.config.set({"embed.cached-vectors-bytes": 0})  # every round runs all texts
    arguments = parse()
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    corpus = docstrings()
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), corpus, arguments)
        prompts = chosen(folder, corpus, arguments)
        contenders = {"dask-embed": ours(folder, prompts, arguments)}
        for size in arguments.batch_sizes:
            contenders[f"pipeline-{size}"] = pipeline(folder, prompts, size, arguments)
        report = measured(contenders, arguments.rounds)
    report["prompts"] = described(prompts)
    report["settings"] = {k: v for k, v in vars(arguments).items() if k != "output"}
    report["machine"] = describe(arguments.device)
    report["versions"] = {each.__name__: each.__version__ for each in (torch, transformers, de)}
    show(report)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=2))
    if report["rows_that_differ"] and arguments.dtype == "float32":  # else scores are close
        sys.exit(f"texts differ from those of {report['reference']}: {report['rows_that_differ']}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--longest", type=int, default=256, help="most tokens of a prompt")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", help="file for all figures, JSON")
    return parser.parse_args()


def docstrings() -> Texts:
    frame = de.datasets.docstrings(PACKAGES, rows=3000, npartitions=1)
    texts: Texts = frame.compute(scheduler="sync")["text"].tolist()
    return texts


def save(folder: Path, corpus: Texts, arguments: argparse.Namespace) -> None:
    """Write a seeded Llama, and a tokenizer trained on the corpus."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=arguments.vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    trained.train_from_iterator(corpus, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token=SPECIAL[0], eos_token=SPECIAL[1], padding_side="left"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden,
        intermediate_size=arguments.hidden * 8 // 3,
        num_hidden_layers=arguments.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).requires_grad_(False)
    for parameter in model.parameters():  # large, so that texts differ and no scores are close
        parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def chosen(folder: str, corpus: Texts, arguments: argparse.Namespace) -> Texts:
    """Return docstrings of any length, cut, whose tokens are those of the cut text again."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    order = np.random.default_rng(0).permutation(len(corpus))
    prompts: dict[str, None] = {}
    for place in order:
        ids = tokenizer(corpus[place])["input_ids"][: arguments.longest]
        text = tokenizer.decode(ids)
        if tokenizer(text)["input_ids"] == ids:
            prompts[text] = None
        if len(prompts) == arguments.rows:
            break
    return list(prompts)


def ours(folder: str, prompts: Texts, arguments: argparse.Namespace) -> Callable[[], Texts]:
    frame = pd.DataFrame({"text": pd.array(prompts, "str")})
    model = de.Model(folder, device=arguments.device, dtype=arguments.dtype)
    generator = Generator(model, max_new_tokens=arguments.new_tokens, do_sample=False)
    return lambda: generator(frame)["generated"].tolist()


def pipeline(
    folder: str, prompts: Texts, size: int, arguments: argparse.Namespace
) -> Callable[[], Texts]:
    run = transformers.pipeline(
        "text-generation", model=folder, device=arguments.device, dtype=arguments.dtype
    )
    run.model.generation_config.max_length = None
    threads = torch.get_num_threads()

    def texts() -> Texts:
        torch.set_num_threads(threads)  # whatever ran before
        found = run(
            prompts,
            batch_size=size,
            max_new_tokens=arguments.new_tokens,
            do_sample=False,
            return_full_text=False,
        )
        return [each[0]["generated_text"] for each in found]

    return texts


def measured(contenders: dict[str, Callable[[], Texts]], rounds: int) -> dict[str, Any]:
    """Run all in turn, once to warm up, then `rounds` times."""
    texts = {name: run() for name, run in contenders.items()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            again = run()
            seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            runs[name].append(seconds)
            print(f"{name:14}{seconds['wall']:9.2f}{seconds['cpu']:9.2f}", file=sys.stderr)
            if again != texts[name]:
                sys.exit(f"{name} does not give the same texts twice")
    medians = {
        name: {kind: statistics.median(each[kind] for each in of) for kind in ("wall", "cpu")}
        for name, of in runs.items()
    }
    own = next(iter(contenders))
    others = [name for name in contenders if name != own]
    best = {kind: min(others, key=lambda name: medians[name][kind]) for kind in ("wall", "cpu")}
    reference = texts[best["wall"]]
    differing = [row for row, text in enumerate(texts[own]) if text != reference[row]]
    return {
        "runs": runs,
        "medians": medians,
        "best": best,
        "ratio": {kind: medians[best[kind]][kind] / medians[own][kind] for kind in best},
        "reference": best["wall"],
        "rows_that_differ": differing,
        "distinct_texts": len(set(reference)),
    }


def described(prompts: Texts) -> dict[str, Any]:
    lengths = [len(prompt) for prompt in prompts]
    return {"rows": len(prompts), "characters": sum(lengths), "longest": max(lengths)}


def show(report: dict[str, Any]) -> None:
    print(f"{'':14}{'wall s':>9}{'cpu s':>9}")
    for name, medians in report["medians"].items():
        print(f"{name:14}{medians['wall']:9.2f}{medians['cpu']:9.2f}")
    for kind, ratio in report["ratio"].items():
        print(f"{kind}: {ratio:.2f} times as fast as {report['best'][kind]}")
    same = report["prompts"]["rows"] - len(report["rows_that_differ"])
    print(f"{same} of {report['prompts']['rows']} texts are equal")


if __name__ == "__main__":
    main()
