"""vLLM as an engine. It loads the weights itself, so that no model of ours is in its way."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from dask_embed.inference.generation.settings import GenerationSettings
from dask_embed.inference.generation.text import Generated
from dask_embed.inference.memory import Budget
from dask_embed.inference.repeats import VectorCache
from dask_embed.inference.runner import Runner
from dask_embed.inference.verdict import Verdict
from dask_embed.loading.load import LoadedModel
from dask_embed.models.checkpoint import read_checkpoint
from dask_embed.models.modules import read_json
from dask_embed.models.prepared import prepared
from dask_embed.models.spec import Model
from dask_embed.models.tokenizers import tokenizer_for
from dask_embed.models.vocabulary import Tables
from dask_embed.runtime.process import claim_process
from dask_embed.runtime.registry import Registry, get_or_build
from dask_embed.tokens.lists import TokenLists


def vllm_runner(spec: Model, options: Mapping[str, Any]) -> VllmRunner:
    """Return this process's vLLM of `spec`, loading it on first use."""
    claim_process()
    key = ("vllm", spec, tuple(options.items()))
    return get_or_build(key, lambda: VllmRunner(spec, options))


class VllmRunner(Runner):
    """A checkpoint whose model runs in vLLM: the tokenizer is ours.

    Parameters
    ----------
    spec : Model
    options : mapping
        More arguments of ``vllm.LLM``.
    """

    def __init__(self, spec: Model, options: Mapping[str, Any]) -> None:
        checkpoint = read_checkpoint(spec, weights=True)
        elsewhere: Any = None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.loaded = LoadedModel(
            spec=spec,
            checkpoint=checkpoint,
            transformer=elsewhere,
            tokenizer=tokenizer_for(checkpoint, spec),
            layers={},
            device=device,
            task="causal-lm",
        )
        self.kept = Registry()
        self.tables = Tables(None)  # vLLM checks its own
        self.head = None
        self.verdict = Verdict(True, pads=False, reason="")
        self.budget = Budget(device)
        self.vector_cache = VectorCache(0)
        self.engine = VllmEngine(self.loaded, options)

    @property
    def shares(self) -> bool:
        """One call at a time: vLLM makes batches of its own."""
        return False


class VllmEngine:
    """Continue prompts with ``vllm.LLM.generate``.

    Source: the API reference of vLLM, ``LLM`` and ``SamplingParams``.
    """

    def __init__(self, loaded: LoadedModel, options: Mapping[str, Any]) -> None:
        vllm: Any = importlib.import_module("vllm")  # optional, and without types
        spec, checkpoint = loaded.spec, loaded.checkpoint
        self.tokenizer = loaded.tokenizer
        self._sampling = vllm.SamplingParams
        self._defaults = _generation_config(loaded)
        self._lock = threading.Lock()
        code, weights = spec.trust_remote_code, checkpoint.weights(spec)
        folder = prepared(checkpoint.folder, code=code, weights=weights)
        own = checkpoint.own_tokenizer
        arguments = {
            "model": str(folder),
            "tokenizer": str(folder if own is None else prepared(own, code=code)),
            "dtype": spec.dtype,
            "trust_remote_code": spec.trust_remote_code,
            # where it may choose, it reads pickled weights, too
            "load_format": "auto" if spec.allow_pickle else "safetensors",
            **options,
        }
        self._llm = vllm.LLM(**arguments)

    def __call__(
        self,
        prompts: TokenLists,
        settings: GenerationSettings,
        seeds: Sequence[int] | None = None,
        *,
        hidden: bool = False,
    ) -> Generated:
        """Generate for a batch of prompts, each with parameters and a seed of its own."""
        seeds = [settings.seed] * len(prompts) if seeds is None else seeds
        with self._lock:
            outputs = self._llm.generate(
                [{"prompt_token_ids": prompts[row].tolist()} for row in range(len(prompts))],
                sampling_params=[self._parameters(settings, seed) for seed in seeds],
                use_tqdm=False,
            )
        first = [output.outputs[0] for output in outputs]
        tokens = TokenLists.of([list(each.token_ids) for each in first])
        return Generated(tokens, tuple(_finish(each) for each in first))

    def cost(self, prompt_length: int, settings: GenerationSettings) -> int:
        """Return the tokens of prompt and text."""
        return prompt_length + settings.max_new_tokens

    def _parameters(self, settings: GenerationSettings, seed: int) -> Any:
        def value(name: str, otherwise: Any) -> Any:
            own = getattr(settings, name)
            own = getattr(self._defaults, name, None) if own is None else own
            return otherwise if own is None else own

        draws = bool(value("do_sample", False))
        parameters = {
            "max_tokens": settings.max_new_tokens,
            "min_tokens": value("min_new_tokens", 0),
            # vLLM takes the likeliest token at temperature 0
            "temperature": value("temperature", 1.0) if draws else 0.0,
            "repetition_penalty": value("repetition_penalty", 1.0),
            "stop": list(settings.stop) or None,
            "include_stop_str_in_output": True,
            "seed": seed if draws else None,
        }
        if draws:
            # generate keeps 50 tokens unless told otherwise
            parameters |= {"top_k": value("top_k", 50), "top_p": value("top_p", 1.0)}
            parameters["min_p"] = value("min_p", 0.0)
        return self._sampling(**parameters)


def _finish(output: Any) -> str:
    if output.finish_reason == "length":
        return "length"
    return "stop" if isinstance(output.stop_reason, str) else "eos"


def _generation_config(loaded: LoadedModel) -> GenerationConfig:
    file = loaded.checkpoint.folder / "generation_config.json"
    if file.is_file():
        return GenerationConfig.from_dict(read_json(file))
    # as written: a configuration that is loaded has lost these fields
    return GenerationConfig.from_model_config(read_json(loaded.checkpoint.folder / "config.json"))
