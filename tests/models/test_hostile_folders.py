"""What a checkpoint's own files ask for is not done: no code runs, nothing else is opened.

Each case is a whole checkpoint with one edit. It is refused in one line, or gives the vectors of
the checkpoint without the edit, computed by transformers. The Hub is not switched off: whoever asks
for it meets a socket that counts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import huggingface_hub.constants
import numpy as np
import pandas as pd
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support import tiny

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TEXTS = ["Return the LINES of a file.", "x", "Ünïcode, 日本語 and  two\n lines"]


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.ran),)


@dataclass
class Folder:
    """A checkpoint that is being spoilt, beside a folder of things that are not its own."""

    path: Path
    outside: Path
    ran: Path

    def edit(self, file: str, **changes: Any) -> None:
        path = self.path / file
        content = json.loads(path.read_text()) if path.exists() else {}
        self.write(file, json.dumps(content | changes))

    def write(self, file: str, text: str) -> None:
        (self.path / file).parent.mkdir(parents=True, exist_ok=True)
        (self.path / file).write_text(text)

    def code(self, file: str = "evil.py") -> None:
        self.write(file, f"import os\nos.mkdir({str(self.ran)!r})\n")

    def pickle(self, file: str) -> None:
        torch.save({"weight": Payload(self.ran)}, self.path / file)

    def move_out(self, file: str) -> Path:
        """Leave a link in the place of a file or folder."""
        target = self.outside / Path(file).name
        shutil.move(self.path / file, target)
        (self.path / file).symlink_to(target)
        return target

    def index(self, **changes: Any) -> None:
        """Have an index in the place of the weights, in which one is elsewhere."""
        (self.path / "model.safetensors").rename(self.path / "a.safetensors")
        places = dict.fromkeys(load_file(self.path / "a.safetensors"), "a.safetensors")
        self.write("model.safetensors.index.json", json.dumps({"weight_map": places | changes}))

    def drop(self, part: str) -> None:
        """Take the weights whose name has `part` out."""
        weights = load_file(self.path / "model.safetensors")
        kept = {name: value for name, value in weights.items() if part not in name}
        assert len(kept) < len(weights)
        save_file(kept, self.path / "model.safetensors", metadata={"format": "pt"})

    @property
    def elsewhere(self) -> str:
        return str(self.outside / "bert")


@dataclass(frozen=True)
class Case:
    """An edit, and the words of the error that it must give; without any, it has no effect."""

    edit: Callable[[Folder], Any]
    refused: str = ""
    base: str = "bert"
    options: dict[str, Any] = field(default_factory=dict)
    adapter: bool = False


def config(refused: str = "", **changes: Any) -> Case:
    return Case(lambda folder: folder.edit("config.json", **changes), refused)


def tokenizer(refused: str = "", **changes: Any) -> Case:
    """Paths are given relative to what is outside."""

    def edit(folder: Folder) -> None:
        folder.edit("tokenizer_config.json", **_placed(folder, changes))

    return Case(edit, refused)


def _placed(folder: Folder, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _placed(folder, each) for name, each in value.items()}
    return value.replace("OUTSIDE", folder.elsewhere) if isinstance(value, str) else value


def lora(refused: str = "", **changes: Any) -> Case:
    """Of the adapter, which is named."""

    def edit(folder: Folder) -> None:
        folder.edit("../lora/adapter_config.json", **_placed(folder, changes))

    return Case(edit, refused, adapter=True)


def sentence(edit: Callable[[Folder], Any], refused: str = "") -> Case:
    return Case(edit, refused, base="sentence")


def module(refused: str, place: int, **changes: Any) -> Case:
    def edit(folder: Folder) -> None:
        modules = json.loads((folder.path / "modules.json").read_text())
        modules[place] |= _placed(folder, changes)
        folder.write("modules.json", json.dumps(modules))

    return sentence(edit, refused)


def beside(file: str) -> Case:
    return Case(lambda folder: folder.pickle(file))


def with_code(file: str, **changes: Any) -> Case:
    """Name Python code that lies in the folder, which nobody allowed."""

    def edit(folder: Folder) -> None:
        folder.code()
        folder.edit(file, **changes)

    return Case(edit)


def with_weights(name: str, made: Callable[[Folder], Any], refused: str) -> Case:
    def edit(folder: Folder) -> None:
        made(folder)
        folder.edit("config.json", transformers_weights=name.replace("OUTSIDE", folder.elsewhere))

    return Case(edit, refused)


def only(name: str, refused: str) -> Case:
    """The weights under another name."""
    return Case(
        lambda folder: (folder.path / "model.safetensors").rename(folder.path / name), refused
    )


def adapter_beside(*, weights: bool = True, missing: bool = False, alone: bool = False) -> Any:
    def edit(folder: Folder) -> None:
        for name in ("adapter_config.json", "adapter_model.safetensors")[: 2 if weights else 1]:
            shutil.copy(folder.path.parent / "lora" / name, folder.path)
        if missing:
            folder.drop("layer.1.")
        if alone:
            (folder.path / "config.json").unlink()

    return edit


def fifo(folder: Folder) -> None:
    os.mkfifo(folder.path / "vocab.txt")


def loop(folder: Folder) -> None:
    (folder.path / "vocab.txt").symlink_to("vocab.txt")


def as_tokenizer(edit: Callable[[Folder], Any], refused: str = "") -> Case:
    """Of a folder that is named for its tokenizer alone."""

    def spoil(folder: Folder) -> None:
        shutil.copytree(folder.path, folder.path.parent / "words")
        edit(Folder(folder.path.parent / "words", folder.outside, folder.ran))

    return Case(spoil, refused, options={"tokenizer": "words"})


def of_the_cache(folder: Folder) -> None:
    """As huggingface_hub lays a repository out."""
    blobs = folder.outside / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    shutil.move(folder.path / "tokenizer.json", blobs / "0a1b")
    (folder.path / "tokenizer.json").symlink_to(blobs / "0a1b")


def without_tokenizer(**changes: Any) -> Callable[[Folder], None]:
    def edit(folder: Folder) -> None:
        (folder.path / "tokenizer.json").unlink()
        folder.edit("tokenizer_config.json", **_placed(folder, changes))

    return edit


_CODE = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", None]}
_OTHERS_CODE = {"AutoConfig": "owner/other--evil.C"}
_KERNEL = "owner/kernel"
CASES: dict[str, Case] = {
    # -------------------- kernels and devices
    "attention kernel": config(_attn_implementation=_KERNEL),
    "attention kernel at a revision": config(_attn_implementation=f"{_KERNEL}@main:fn"),
    "attention kernel, public": config(attn_implementation=_KERNEL),
    "attention kernel, internal": config(_attn_implementation_internal=_KERNEL),
    "attention kernel by part": config(_attn_implementation={"": _KERNEL}),
    "attention that is not installed": config(_attn_implementation="flash_attention_2"),
    "paged attention kernel": config(attn_implementation=f"paged|{_KERNEL}"),
    "experts kernel": config(_experts_implementation=_KERNEL),
    "experts kernel, public": config(experts_implementation="sonicmoe"),
    "fusions": config(fusion_config={"patch_embeddings": True}),
    "kernels": config(use_kernels=True, kernel_config={"RMSNorm": f"{_KERNEL}:RMSNorm"}),
    "distributed": config(distributed_config={"tp_size": 2}, tp_plan="auto", device_map="auto"),
    # -------------------- code of the folder
    "code of a known type": with_code("config.json", auto_map=_CODE),
    "code as a list": with_code("config.json", auto_map=["evil.C"]),
    "code as a text": with_code("config.json", auto_map="evil.C"),
    "code of another repository": config(auto_map=_OTHERS_CODE),
    "code of an unknown type": config("brings Python code", model_type="zzz", auto_map=_CODE),
    "code of a tokenizer": with_code("tokenizer_config.json", auto_map=_CODE),
    "code of a tokenizer as a list": with_code("tokenizer_config.json", auto_map=["evil.T", None]),
    "code that allows itself": with_code(
        "tokenizer_config.json", auto_map=_CODE, trust_remote_code=True
    ),
    "code that generates": Case(lambda folder: folder.code("custom_generate/generate.py")),
    "code of a processor": with_code("processor_config.json", auto_map={"AutoProcessor": "evil.P"}),
    "code of a pipeline": with_code("config.json", custom_pipelines={"x": {"impl": "evil.P"}}),
    "allowed code of another repository": Case(
        lambda folder: folder.edit("config.json", model_type="zzz", auto_map=_OTHERS_CODE),
        "code of another repository, 'owner/other'",
        options={"trust_remote_code": True},
    ),
    "allowed tokenizer of another repository": Case(
        lambda folder: folder.edit(
            "tokenizer_config.json", auto_map={"AutoTokenizer": ["a/b--c.T"]}
        ),
        "code of another repository, 'a/b'",
        options={"trust_remote_code": True},
    ),
    # -------------------- names of other places
    "another name": config(_name_or_path="owner/other", name_or_path="owner/other"),
    "another base": config(base_model_name_or_path="owner/other", _commit_hash="1" * 40),
    "another configuration": Case(
        lambda folder: (
            folder.write("config.4.0.0.json", '{"model_type": "zzz"}'),
            folder.edit("config.json", configuration_files=["config.4.0.0.json"]),
        ),
        "names other configuration files",
    ),
    "a backbone": config("names backbone='owner/x'", model_type="dpt", backbone="owner/x"),
    "a backbone of a part": config(
        "names backbone='owner/x'",
        vision_config={"model_type": "dpt", "backbone": "owner/x", "use_timm_backbone": False},
    ),
    "a GGUF file": config(gguf_file="model.gguf"),
    "other names of attributes": config(attribute_map={"z": "transformers_weights"}, z="a.bin"),
    "an attribute for a method": config(get_text_config="x", to_dict=1, sub_configs_defaults={}),
    "an unknown type": config("model_type 'zzz'", model_type="zzz"),
    "an unknown quantization": config(
        "quant_method must be one of", quantization_config={"quant_method": "owner/q"}
    ),
    "a quantization of no kind": config("quantization_config must", quantization_config=["gptq"]),
    "a quantization by a list": config(
        "quant_method must be one of", quantization_config={"quant_method": ["gptq"]}
    ),
    "no quantization": config(quantization_config=None),
    "settings of generation": Case(
        lambda folder: folder.edit(
            "generation_config.json", custom_generate=_KERNEL, assistant_model="owner/other"
        )
    ),
    # -------------------- weights
    "weights by their own name": config(transformers_weights="model.safetensors"),
    "weights by another name": Case(
        lambda folder: (
            (folder.path / "model.safetensors").rename(folder.path / "own.safetensors"),
            folder.edit("config.json", transformers_weights="own.safetensors"),
        )
    ),
    "pickled weights by name": with_weights(
        "adapter_model.bin", lambda f: f.pickle("adapter_model.bin"), "transformers_weights"
    ),
    "pickled weights by their usual name": with_weights(
        "pytorch_model.bin", lambda f: f.pickle("pytorch_model.bin"), "transformers_weights"
    ),
    "weights above": with_weights("../outside/bert/model.safetensors", str, "transformers_weights"),
    "weights at a path": with_weights("OUTSIDE/model.safetensors", str, "transformers_weights"),
    "weights that are missing": with_weights("none.safetensors", str, "is missing"),
    "weights as a list": config("transformers_weights", transformers_weights=["a.safetensors"]),
    "weights of the Hub": config(
        "transformers_weights", transformers_weights="owner/a.safetensors"
    ),
    "an index": Case(lambda folder: folder.index()),
    "an index above": Case(
        lambda folder: folder.index(w="../outside/bert/model.safetensors"), "in its folder"
    ),
    "an index at a path": Case(
        lambda folder: folder.index(w=f"{folder.elsewhere}/model.safetensors"), "in its folder"
    ),
    "an index below": Case(lambda folder: folder.index(w="below/a.safetensors"), "in its folder"),
    "an index of a pickle": Case(
        lambda folder: (folder.pickle("b.bin"), folder.index(w="b.bin")), "in its folder"
    ),
    "an index of numbers": Case(lambda folder: folder.index(w=5), "in its folder"),
    "an index without a shard": Case(lambda folder: folder.index(w="b.safetensors"), "is missing"),
    "an index of more than there is": Case(
        lambda folder: folder.index(**{"layer.9.bias": "a.safetensors"}), "lists 1 weights"
    ),
    "an index of nothing": Case(
        lambda folder: (
            folder.index(),
            folder.write("model.safetensors.index.json", '{"weight_map": []}'),
        ),
        "must map names of weights",
    ),
    "a pickle beside": beside("pytorch_model.bin"),
    "a pickle of an adapter beside": beside("adapter_model.bin"),
    "a pickled training state beside": beside("training_args.bin"),
    "a pickled index beside": Case(
        lambda folder: (
            folder.pickle("b.bin"),
            folder.write("pytorch_model.bin.index.json", '{"weight_map": {"w": "b.bin"}}'),
        )
    ),
    "a distributed checkpoint beside": beside("shard-00000-model-00000-of-00001.safetensors"),
    "a pickle alone": Case(
        lambda folder: (
            (folder.path / "model.safetensors").unlink(),
            folder.pickle("pytorch_model.bin"),
        ),
        "allow_pickle=True",
    ),
    "an allowed pickle of code": Case(
        lambda folder: (
            (folder.path / "model.safetensors").unlink(),
            folder.pickle("pytorch_model.bin"),
        ),
        "cannot be read",
        options={"allow_pickle": True},
    ),
    "a pickle that is called safetensors": Case(
        lambda folder: folder.pickle("model.safetensors"), "safetensors"
    ),
    "a variant alone": only("model.fp16.safetensors", "holds no model.safetensors"),
    "a GGUF file alone": only("model.gguf", "holds no weights"),
    "an adapter's weights alone": only("adapter_model.safetensors", "holds no weights"),
    "a variant beside": Case(
        lambda folder: shutil.copy(
            folder.path / "model.safetensors", folder.path / "model.fp16.safetensors"
        )
    ),
    # -------------------- tokenizers
    "a tokenizer file": tokenizer(tokenizer_file="OUTSIDE/tokenizer.json"),
    "a vocabulary file": tokenizer(vocab_file="OUTSIDE/vocab.txt", merges_file="OUTSIDE/m.txt"),
    "a map of tokens": tokenizer(special_tokens_map_file="OUTSIDE/special_tokens_map.json"),
    "a vocabulary": tokenizer(vocab="OUTSIDE/vocab.txt", merges="OUTSIDE/merges.txt"),
    "a GGUF tokenizer": tokenizer(gguf_file="OUTSIDE/model.gguf"),
    "an object": tokenizer(tokenizer_object="OUTSIDE/tokenizer.json"),
    "another tokenizer's name": tokenizer(name_or_path="owner/other", local_files_only=False),
    "a cache": tokenizer(cache_dir="OUTSIDE", revision="main", subfolder="..", token="hf_x"),
    "a sentencepiece model": tokenizer(sp_model_kwargs={"model_file": "OUTSIDE/tokenizer.json"}),
    "arguments by place": tokenizer("sets init_inputs", init_inputs=["OUTSIDE/vocab.txt"]),
    "other versions": tokenizer("fast_tokenizer_files", fast_tokenizer_files=["../t.4.0.json"]),
    "a model as a tokenizer": tokenizer("is no tokenizer", tokenizer_class="AutoModel"),
    "a fast model as a tokenizer": tokenizer("is no tokenizer", tokenizer_class="BertModelFast"),
    "a function as a tokenizer": tokenizer("is no tokenizer", tokenizer_class="pipeline"),
    "a number as a tokenizer": tokenizer("names tokenizer_class 5", tokenizer_class=5),
    "a model as the configured tokenizer": config(
        "is no tokenizer", tokenizer_class="AutoModelForCausalLM"
    ),
    "files in the map of tokens": Case(
        lambda folder: folder.edit(
            "special_tokens_map.json",
            gguf_file=f"{folder.elsewhere}/a.gguf",
            vocab_file=f"{folder.elsewhere}/vocab.txt",
            merges_file=f"{folder.elsewhere}/merges.txt",
        )
    ),
    "a vocabulary from outside alone": Case(
        without_tokenizer(vocab_file="OUTSIDE/vocab.txt", vocab="OUTSIDE/vocab.txt"),
        "cannot be loaded",
    ),
    "a tokenizer of several": Case(without_tokenizer(tokenizer_class="RagTokenizer"), "is no"),
    "a template of its own": Case(
        lambda folder: folder.write("chat_template.jinja", "{{ ''.__class__.__mro__ }}"),
        "is unsafe",
    ),
    "a tokenizer of a folder": as_tokenizer(lambda f: (f.path / "model.safetensors").unlink()),
    "a tokenizer beside an adapter": as_tokenizer(
        lambda folder: folder.write("adapter_config.json", '{"base_model_name_or_path": "a/b"}')
    ),
    "a tokenizer beside a kernel": as_tokenizer(
        lambda folder: folder.edit("config.json", _attn_implementation=_KERNEL, backbone=None)
    ),
    "a tokenizer beside other configurations": as_tokenizer(
        lambda folder: folder.edit("config.json", configuration_files=["../config.json"]),
        "names other configuration files",
    ),
    "a tokenizer that is linked": as_tokenizer(
        lambda folder: folder.move_out("tokenizer_config.json"), "leaves the folder"
    ),
    "a tokenizer folder that is a model": as_tokenizer(
        lambda folder: folder.edit("tokenizer_config.json", tokenizer_class="AutoModel"),
        "is no tokenizer",
    ),
    "a tokenizer folder with code": as_tokenizer(
        lambda folder: (folder.code(), folder.edit("tokenizer_config.json", auto_map=_CODE))
    ),
    # -------------------- links
    "a linked configuration": Case(lambda f: f.move_out("config.json"), "leaves the folder"),
    "a linked tokenizer": Case(lambda f: f.move_out("tokenizer.json"), "leaves the folder"),
    "a linked vocabulary": Case(
        lambda folder: (folder.path / "vocab.txt").symlink_to("/proc/self/environ"),
        "leaves the folder",
    ),
    "linked weights": Case(lambda folder: folder.move_out("model.safetensors")),
    "a link into the cache of the Hub": Case(of_the_cache),
    "a link in the folder": Case(
        lambda folder: (folder.path / "vocab.txt").symlink_to("tokenizer.json")
    ),
    "linked templates": Case(
        lambda folder: (
            folder.write("additional_chat_templates/a.jinja", "{{ messages }}"),
            folder.move_out("additional_chat_templates"),
        ),
        "is a link",
    ),
    "a linked template": Case(
        lambda folder: (
            folder.write("additional_chat_templates/a.jinja", "{{ messages }}"),
            folder.move_out("additional_chat_templates/a.jinja"),
        ),
        "leaves the folder",
    ),
    "a link to itself": Case(loop),
    "a file that never ends": Case(
        lambda folder: (folder.path / "vocab.txt").symlink_to("/dev/zero")
    ),
    "a file that waits": Case(fifo),
    # -------------------- sentence-transformers
    "a module above": module("must name folders in it", 1, path="../outside/bert"),
    "a module at a path": module("must name folders in it", 1, path="OUTSIDE"),
    "a module at a list": module("must name folders in it", 1, path=["1_Pooling"]),
    "a transformer above": module("must name folders in it", 0, path="../outside/bert"),
    "a module of other code": module("evil.Evil", 2, type="evil.Evil"),
    "a linked module": sentence(lambda f: f.move_out("1_Pooling"), "not links"),
    "a linked pooling": sentence(
        lambda f: f.move_out("1_Pooling/config.json"), "leaves the folder"
    ),
    "an activation of other code": sentence(
        lambda folder: folder.edit("2_Dense/config.json", activation_function="os.system"),
        "os.system",
    ),
    "pickled weights of a module": sentence(
        lambda folder: (
            (folder.path / "2_Dense" / "model.safetensors").unlink(),
            folder.pickle("2_Dense/pytorch_model.bin"),
        ),
        "allow_pickle=True",
    ),
    "a pickle beside a module": sentence(lambda f: f.pickle("2_Dense/pytorch_model.bin")),
    # -------------------- adapters
    "an adapter beside the model": Case(adapter_beside(), "name it, dask_embed.Model"),
    "an adapter beside missing weights": Case(adapter_beside(missing=True), "name it, dask_embed"),
    "an adapter's configuration alone": Case(adapter_beside(weights=False), "name it, dask_embed"),
    "an adapter as the model": Case(adapter_beside(alone=True), "is a PEFT adapter of"),
    "an adapter beside, named": Case(
        lambda folder: (
            adapter_beside()(folder),
            shutil.rmtree(folder.path.parent / "lora"),
            (folder.path.parent / "lora").symlink_to(folder.path),
        ),
        adapter=True,
    ),
    "an adapter beside missing weights, named": Case(
        lambda folder: (
            adapter_beside(missing=True)(folder),
            shutil.rmtree(folder.path.parent / "lora"),
            (folder.path.parent / "lora").symlink_to(folder.path),
        ),
        "weights are missing",
        adapter=True,
    ),
    "another base of an adapter": lora(base_model_name_or_path="owner/other", revision="v2"),
    "a class for an adapter": lora(
        auto_mapping={"base_model_class": "C", "parent_library": "antigravity"}
    ),
    "a library for an adapter": lora(megatron_config={"a": 1}, megatron_core="antigravity"),
    "a pickled cache of an adapter": lora(
        corda_config={"cache_file": "OUTSIDE/c.pt", "covariance_file": "OUTSIDE/c.pt"}
    ),
    "an adapter of adapters": lora(
        "reads other adapters", peft_type="XLORA", adapters={"0": "owner/a"}, hidden_size=32
    ),
    "an adapter with a shadow": lora(
        "reads other adapters or models", peft_type="SHADOW", shadow_model="owner/other"
    ),
    "an adapter of virtual tokens": lora(
        "virtual tokens", peft_type="PROMPT_TUNING", tokenizer_name_or_path="owner/other"
    ),
    "an adapter of an unknown type": lora("is of type 'owner/x'", peft_type="owner/x"),
    "an adapter of no type": lora("is of type None", peft_type=None),
    "pickled weights of an adapter": Case(
        lambda folder: (
            (folder.path / "../lora/adapter_model.safetensors").unlink(),
            folder.pickle("../lora/adapter_model.bin"),
        ),
        "holds no adapter_model.safetensors",
        adapter=True,
    ),
    "a pickle beside an adapter": Case(
        lambda folder: folder.pickle("../lora/adapter_model.bin"), adapter=True
    ),
    "a linked adapter": Case(
        lambda folder: folder.move_out("../lora/adapter_config.json"),
        "leaves the folder",
        adapter=True,
    ),
    # -------------------- settings that name code or files in other words
    "4 bits over plain weights": config(
        "but they are plain", quantization_config={"load_in_4bit": True}
    ),
    "a type of quantization that is code": config(
        "but they are plain",
        quantization_config={
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "os.system", "_data": "true"}},
        },
    ),
    "a type of products that is code": config(
        "but they are plain",
        quantization_config={
            "quant_method": "bitsandbytes",
            "load_in_8bit": True,
            "bnb_4bit_compute_dtype": "os.system",
        },
    ),
    "a type of weights that is code": config(torch_dtype="os.system"),
    "a type of weights of no kind": config("cannot be read", dtype=["float32"]),
    "a name of weights with an end": config(
        "transformers_weights", transformers_weights="model.safetensors\0.bin"
    ),
    "an index of a name with an end": Case(
        lambda folder: folder.index(w="a\0.safetensors"), "is missing"
    ),
    "code of an image processor": with_code(
        "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.P"}
    ),
    "code of a video processor": with_code(
        "video_preprocessor_config.json", auto_map={"AutoVideoProcessor": "evil.P"}
    ),
    "code of a feature extractor": with_code(
        "config.json", feature_extractor_type="evil.F", processor_class="evil.P"
    ),
    "a template of old": Case(
        lambda folder: folder.write(
            "chat_template.json", '{"chat_template": "{{ \'\'.__class__ }}"}'
        ),
    ),
    "a configuration that is a folder": Case(
        lambda f: ((f.path / "config.json").unlink(), (f.path / "config.json").mkdir()),
        "holds no config",
    ),
    "weights that are a folder": Case(
        lambda f: (
            (f.path / "model.safetensors").unlink(),
            (f.path / "model.safetensors").mkdir(),
        ),
        "holds no model.safetensors",
    ),
    "a tokenizer of unknown steps": Case(
        lambda f: f.edit("tokenizer.json", pre_tokenizer={"type": "os.system"}), "cannot be loaded"
    ),
    "arguments of a module": module("sets kwargs", 1, kwargs=["trust_remote_code"]),
    "a module that is a function": module("os.system", 1, type="os.system"),
    "a file of a model's arguments": sentence(
        lambda f: f.edit("sentence_bert_config.json", model_args={"gguf_file": "a.gguf"}),
        "is not known here",
    ),
    "a backend": sentence(
        lambda f: f.edit("sentence_bert_config.json", backend="onnx", file_name="a.onnx"),
        "sets backend",
    ),
    "a task of an adapter that is code": lora("does not fit", task_type="os.system"),
    "weights to load an adapter with": lora(
        "does not fit", init_lora_weights="OUTSIDE/model.safetensors"
    ),
    "a class of an adapter's data": lora(
        "reads other adapters or models", peft_type="SHADOW", shadow_model="OUTSIDE"
    ),
    "a quantization of a kind that fetches": config(
        "but they are plain", quantization_config={"quant_method": "mxfp4"}
    ),
    "a quantization that is not installed": config(
        "but they are plain", quantization_config={"quant_method": "awq", "bits": 4}
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bases")
    saved = tiny.save_bases(root / "all")
    saved["bert"].rename(root / "bert")
    saved["bert"].symlink_to(root / "bert")
    tiny.SENTENCE_TRANSFORMERS["dense-tanh"](root / "sentence", saved)
    model = transformers.AutoModel.from_pretrained(root / "bert")
    settings = peft.LoraConfig(target_modules=["query"], r=2, init_lora_weights=False)
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng():
        torch.manual_seed(3)
        peft.get_peft_model(model, settings).save_pretrained(root / "lora")
    return root


@pytest.fixture(scope="module")
def expected(bases: Path) -> dict[str, np.ndarray]:
    """By transformers, peft and sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    def means(model: Any) -> np.ndarray:
        rows = []
        for text in TEXTS:
            tokens = reader(text, return_tensors="pt")
            with torch.inference_mode():
                rows.append(model(**tokens).last_hidden_state[0].mean(0).numpy())
        return np.stack(rows)

    reader = transformers.AutoTokenizer.from_pretrained(bases / "bert")
    model = transformers.AutoModel.from_pretrained(bases / "bert").eval()
    whole = SentenceTransformer(str(bases / "sentence"), device="cpu", local_files_only=True)
    found = {"bert": means(model), "sentence": whole.encode(TEXTS, show_progress_bar=False)}
    with warnings.catch_warnings(action="ignore"):
        adapted = peft.PeftModel.from_pretrained(model, bases / "lora").eval()
    return found | {"lora": means(adapted)}


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every try to reach another machine, none of which succeeds."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> Any:
        tried.append(arguments)
        raise OSError("no connection was asked for")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return tried


@pytest.fixture
def spoil(bases: Path, tmp_path: Path) -> Callable[[Case], Folder]:
    def build(case: Case) -> Folder:
        shutil.copytree(bases / case.base, tmp_path / "model")
        shutil.copytree(bases / "lora", tmp_path / "lora")
        shutil.copytree(bases / "bert", tmp_path / "outside" / "bert")
        folder = Folder(tmp_path / "model", tmp_path / "outside", tmp_path / "ran")
        case.edit(folder)
        return folder

    return build


_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_watch)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every file that Python opens, by the name that it is opened by."""
    global _opened
    _opened = []
    yield _opened
    _opened = None


def named(folder: Folder, case: Case) -> de.Model:
    options = dict(case.options)
    if case.adapter:
        options["adapter"] = folder.path.parent / "lora"
    if "tokenizer" in options:
        options["tokenizer"] = folder.path.parent / options["tokenizer"]
    return de.Model(str(folder.path), device="cpu", **options)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_folder(
    name: str,
    spoil: Callable[[Case], Folder],
    expected: dict[str, np.ndarray],
    connections: list[Any],
    opened: list[str],
) -> None:
    case = CASES[name]
    folder = spoil(case)
    opened.clear()
    model = named(folder, case)
    embedder = de.Embedder(model, column="text", pooling="auto" if case.base != "bert" else "mean")
    frame = pd.DataFrame({"text": TEXTS})
    if case.refused:
        with pytest.raises(ValueError, match=re.escape(case.refused)) as caught:
            embedder(frame)
        assert "\n" not in str(caught.value)
    else:
        out = embedder(frame)
        reference = expected["lora" if case.adapter else case.base]
        scale = max(1.0, float(np.abs(reference).max()))
        given = de.to_array(out["embedding"])
        np.testing.assert_allclose(given, reference, rtol=0, atol=1e-5 * scale)
    assert not folder.ran.exists()
    assert connections == []
    outside = [str(folder.outside), "/proc/self/environ", "/dev/zero"]
    assert not [path for path in opened if any(each in path for each in outside)]


def test_what_would_run_runs_where_it_is_allowed(
    spoil: Callable[[Case], Folder], tmp_path: Path
) -> None:
    """So that the cases above can fail: code and pickles of these folders do what they say."""
    folder = spoil(CASES["code of an unknown type"])
    folder.code()
    with pytest.raises(Exception, match=r"evil|C"):
        de.Embedder(de.Model(str(folder.path), trust_remote_code=True), column="text")(
            pd.DataFrame({"text": TEXTS})
        )
    assert folder.ran.exists()
    folder.ran.rmdir()
    folder.pickle("any.bin")
    torch.load(folder.path / "any.bin", weights_only=False)
    assert folder.ran.exists()


@pytest.mark.parametrize("repository", ["", "owner/other--"])
def test_allowed_code_of_the_folder_runs(
    repository: str,
    spoil: Callable[[Case], Folder],
    expected: dict[str, np.ndarray],
    connections: list[Any],
) -> None:
    """Two files, one of which imports the other; that of another repository by its name here."""
    named = {"AutoConfig": "own_config.OwnConfig", "AutoModel": "own_model.OwnModel"}
    code = {name: repository + each for name, each in named.items()}
    folder = spoil(config(model_type="own", auto_map=code))
    folder.write(
        "own_config.py",
        "from transformers import BertConfig\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n",
    )
    folder.write(
        "own_model.py",
        "from transformers import BertModel\nfrom .own_config import OwnConfig\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n",
    )
    model = de.Model(str(folder.path), device="cpu", trust_remote_code=True)
    out = de.Embedder(model, column="text", pooling="mean")(pd.DataFrame({"text": TEXTS}))
    np.testing.assert_allclose(de.to_array(out["embedding"]), expected["bert"], rtol=0, atol=1e-5)
    assert connections == []


REFUSED_ON_THE_CLIENT = (
    *("pickled weights by name", "an index above", "a module above", "an adapter of adapters"),
    *("an adapter beside the model", "an adapter as the model", "a linked tokenizer"),
    *("a variant alone", "an index of more than there is", "pickled weights of an adapter"),
)


@pytest.mark.parametrize("name", REFUSED_ON_THE_CLIENT)
def test_it_is_refused_before_any_work(name: str, spoil: Callable[[Case], Folder]) -> None:
    case = CASES[name]
    folder = spoil(case)
    lazy = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=2)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        de.Embedder(named(folder, case), column="text")(lazy)
    assert case.refused in str(caught.value)
