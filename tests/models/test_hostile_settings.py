"""Settings that would run code, open doors, carry secrets or never end are refused, on the client.

Nothing here needs more than a tiny model, and nothing may take long: what hangs fails the test.
"""

from __future__ import annotations

import pickle
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from support import headed

import dask_embed as de

SECRET = "S3CRET-of-mine"
HUB_TOKEN = "hf_" + "AbCdEfGhIj" * 4
FRAME = pd.DataFrame({"text": ["hello there", "second"]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    return headed.saver(tmp_path_factory.mktemp("hostile"))


# ------------------------------------------------------------------------------------- switches
SWITCHES: dict[str, Callable[[Any], Any]] = {
    **{
        name: lambda value, name=name: de.Model("org/name", adapter="a", **{name: value})
        for name in (
            *("trust_remote_code", "allow_pickle", "compile", "local_files_only"),
            "merge_adapter",
        )
    },
    "windows": lambda value: de.Tokenizer("x", windows=value),
    "special_tokens": lambda value: de.Tokenizer("x", special_tokens=value),
    "keep_text": lambda value: de.Chunker("x", max_tokens=8, keep_text=value),
    "late": lambda value: FRAME.ml.chunk("text", model="x", max_tokens=8, late=value),
    "multi_label": lambda value: de.ZeroShotClassifier("x", labels=["a"], multi_label=value),
    "null_answer": lambda value: de.QuestionAnswerer("x", question="?", null_answer=value),
    "align_to_words": lambda value: de.QuestionAnswerer("x", question="?", align_to_words=value),
    "question_first": lambda value: de.QuestionAnswerer("x", question="?", question_first=value),
    "add_special_tokens": lambda value: de.Generator("x", add_special_tokens=value),
    "do_sample": lambda value: de.Generator("x", do_sample=value),
    "candidate_end": lambda value: de.CandidateScorer("x", candidates=["a"], candidate_end=value),
    "normalize": lambda value: de.Embedder("x", normalize=value),
    "chat": lambda value: de.Generator("x", chat=value),
    "overwrite": lambda value: write(overwrite=value),
    "append": lambda value: write(append=value),
    "compute": lambda value: write(compute=value),
}


def write(**options: Any) -> None:
    dd.from_pandas(FRAME, npartitions=1).ml.to_parquet("/nowhere/at/all", **options)


@pytest.mark.parametrize("value", ["False", "true", "", 1, 0, 1.0, np.True_, [], (True,)], ids=repr)
@pytest.mark.parametrize("switch", SWITCHES)
def test_what_is_merely_truthy_decides_nothing(switch: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{switch} must be") as caught:
        SWITCHES[switch](value)
    assert switch in ("normalize", "chat") or type(caught.value) is TypeError


def test_switches_of_an_operator_of_ones_own_are_checked() -> None:
    from support import own_switch

    assert own_switch.Shouter("x", loudly=True).loudly
    with pytest.raises(TypeError, match="loudly must be True or False, got 'no'"):
        own_switch.Shouter("x", loudly="no")


# ----------------------------------------------------------------------------------- side doors
KWARGS = {
    # told without the checkpoint
    "code": ({"trust_remote_code": True}, "use trust_remote_code= of dask_embed.Model"),
    "revision": ({"revision": "main"}, "use revision="),
    "code revision": ({"code_revision": "main"}, "use revision="),
    "pickle": ({"use_safetensors": False}, "use allow_pickle="),
    "weights_only": ({"weights_only": False}, "use allow_pickle="),
    "attention from the Hub": ({"attn_implementation": "kernels/evil"}, "use attention="),
    "type": ({"torch_dtype": "float16"}, "use dtype="),
    "new name of the type": ({"dtype": "float16"}, "use dtype="),
    "placement": ({"device_map": "auto"}, "use device_map="),
    "quantization": ({"quantization_config": (("bits", 4),)}, "use quantization="),
    "bits": ({"load_in_4bit": True}, "use quantization="),
    "cache": ({"cache_dir": "/tmp"}, "use cache_dir="),
    "offline": ({"local_files_only": False}, "use local_files_only="),
    "adapter": ({"adapter_kwargs": ()}, "use adapter="),
    "labels": ({"num_labels": 5}, "use labels="),
    "private": ({"_attn_implementation": "org/kernel"}, "what the checkpoint is made of"),
    "code of the configuration": ({"auto_map": "evil.C"}, "what the checkpoint is made of"),
    "other class": ({"architectures": ("Evil",)}, "what the checkpoint is made of"),
    "other weights": ({"transformers_weights": "x.bin"}, "what the checkpoint is made of"),
    "no name": ({"a b": 1}, "what the checkpoint is made of"),
    "object": ({"hidden_size": object()}, "numbers, texts, booleans"),
    "function": ({"hidden_size": print}, "numbers, texts, booleans"),
    "array": ({"hidden_size": np.ones(2)}, "numbers, texts, booleans"),
    # told with it
    "subfolder": ({"subfolder": "elsewhere"}, "no such field"),
    "state_dict": ({"state_dict": 1}, "no such field"),
    "config": ({"config": "elsewhere"}, "no such field"),
    "variant": ({"variant": "fp16"}, "no such field"),
    "gguf": ({"gguf_file": "x.gguf"}, "no such field"),
    "report": ({"output_loading_info": False}, "no such field"),
    "proxies": ({"proxies": ("http", "x")}, "no such field"),
    "typing mistake": ({"num_hidden_layer": 1}, "did you mean 'num_hidden_layers'"),
    "text for a number": (
        {"num_hidden_layers": "two"},
        "a text where the checkpoint.s configuration has 3",
    ),
}


@pytest.mark.parametrize("case", KWARGS)
def test_model_kwargs_are_no_side_door(case: str, folder: Callable[..., Path]) -> None:
    given, says = KWARGS[case]
    with pytest.raises((TypeError, ValueError), match=says):
        de.Embedder(de.Model(str(folder("bert")), model_kwargs=given), column="text")(
            dd.from_pandas(FRAME, npartitions=1)
        )


def test_model_kwargs_are_known_to_the_client(folder: Callable[..., Path]) -> None:
    """The vectors have the size that is set, before anything is computed."""
    from dask_embed.models.checkpoint import read_checkpoint

    model = de.Model(
        str(folder("bert")), model_kwargs={"num_hidden_layers": 2, "hidden_act": "relu"}
    )
    config = read_checkpoint(model).config
    assert (config.num_hidden_layers, config.hidden_act) == (2, "relu")


OTHER_DOORS: dict[str, tuple[Callable[[], Any], str]] = {
    "vllm code": (lambda: vllm(trust_remote_code=True), "must not set 'trust_remote_code'"),
    "vllm model": (lambda: vllm(model="other"), "must not set 'model'"),
    "vllm tokenizer": (lambda: vllm(tokenizer="other"), "must not set 'tokenizer'"),
    "vllm class of workers": (lambda: vllm(worker_cls="evil.W"), "must not set 'worker_cls'"),
    "vllm extension": (lambda: vllm(worker_extension_cls="evil.W"), "must not set"),
    "vllm processors": (lambda: vllm(logits_processors=("evil:P",)), "must not set"),
    "vllm pickles": (lambda: vllm(load_format="pt"), "must not set 'load_format'"),
    "vllm overrides": (lambda: vllm(hf_overrides='{"a": 1}'), "must not set 'hf_overrides'"),
    "vllm second model": (lambda: vllm(speculative_config="x"), "must not set"),
    "vllm folder": (lambda: vllm(download_dir="/tmp"), "must not set 'download_dir'"),
    "vllm mistake": (lambda: vllm(max_num_seq=1), "did you mean 'max_num_seqs'"),
    "vllm without the adapter": (
        lambda: de.Generator(de.Model("x", adapter="a"), engine="vllm"),
        "does not take adapter=",
    ),
    "vllm without quantization": (
        lambda: de.Generator(de.Model("x", quantization="int8"), engine="vllm"),
        "does not take quantization=",
    ),
    "tokenized chat": (lambda: chat(tokenize=True), "'tokenize' is none of them"),
    "tensors": (lambda: chat(return_tensors="pt"), "'return_tensors' is none"),
    "other chat": (lambda: chat(conversation=()), "'conversation' is none"),
    "messages": (lambda: chat(messages=()), "'messages' is none"),
    "tools": (lambda: chat(tools=()), "'tools' is none"),
    "tokenizer": (lambda: chat(tokenizer_kwargs=()), "'tokenizer_kwargs' is none"),
    "no template": (lambda: chat(chat_template=5), "chat_template must be a string"),
    "prompt of generation": (lambda: chat(add_generation_prompt=1), "must be True or False"),
    "calibration data": (
        lambda: de.Model("x", quantization={"quant_method": "gptq", "dataset": "c4"}),
        "must not set 'dataset'",
    ),
    "calibration tokenizer": (
        lambda: de.Model("x", quantization={"quant_method": "gptq", "tokenizer": "org/x"}),
        "must not set 'tokenizer'",
    ),
}


def vllm(**options: Any) -> de.Generator:
    return de.Generator("x", engine="vllm", engine_options=options)


def chat(**variables: Any) -> de.Generator:
    return de.Generator("x", chat=True, chat_template_kwargs=variables)


@pytest.mark.parametrize("case", OTHER_DOORS)
def test_other_mappings_are_no_side_door(case: str) -> None:
    build, says = OTHER_DOORS[case]
    with pytest.raises((TypeError, ValueError), match=says):
        build()


# -------------------------------------------------------------------------------------- secrets
SECRETS: dict[str, Any] = {
    **{
        name: {name: SECRET}
        for name in (
            *("token", "hf_token", "HF_TOKEN", "hfToken", "auth_token", "use_auth_token"),
            *("access_token", "api_tokens", "api_key", "apiKey", "OPENAI_API_KEY", "x-api-key"),
            *("password", "db_passwd", "passphrase", "client_secret", "aws_secret_access_key"),
            *("Authorization", "http_auth", "credentials", "private_key", "bearer", "vendor_token"),
            *("tool_api_token", "video_service_token", "extra_hf_token", "end_user_token"),
            *("new_token", "github_pat", "token_value", "tokenValue", "token_str", "HF_TOKEN_PROD"),
            *("access_token_id", "my_token_here", "hftoken", "sastoken2", "signing_key", "sshKey"),
            *("encryption-key", "hf_key", "aws_storage_key", "oauth2", "session_cookies", "otp"),
            *("pass", "PASS", "smtp_pass", "dbPass", "pg_pass", "pw", "user_pw", "sig", "url_sig"),
        )
    },
    "pairs of tuples": (("token", SECRET),),
    "pairs deep within": {"loader": (("a", (("b", (("token_value", SECRET),)),)),)},
    "three in a row": {"loader": (("token", SECRET, 1),)},
    "pairs of bytes": {"loader": ((b"token", SECRET),)},
    "items": {"token": SECRET}.items(),
    "header and value": {"headers": [{"header": "X-Api-Key", "value": SECRET}]},
    "signed URL": {"file": f"https://b.s3.amazonaws.com/x?X-Amz-Date=1&X-Amz-Signature={SECRET}"},
    "signed by Azure": {"file": (f"https://a.blob.core.windows.net/c?sv=1&sig={SECRET}",)},
    "signed by Google": {"file": f"https://storage.googleapis.com/x?X-Goog-Signature={SECRET}"},
    "code in a URL": {"file": f"https://host/api/f?code={SECRET}"},
    "code behind others": {"file": f"https://host/cb?state=1&code={SECRET}&scope=x"},
    "user without a scheme": {"db": f"me:{SECRET}@db.example.org/x"},
    "user and a port": {"db": f"connect to me:{SECRET}@db:5432 now"},
    "user as a whole": {"db": f"me:{SECRET}@host"},
    "user and a number": {"db": f"me:{SECRET}@[::1]:5432/x"},
    "short form in a text": {"env": f"SMTP_PASS={SECRET}"},
    "short form as json": {"db": '{"user": "me", "pass": "' + SECRET + '"}'},
    "flag of short form": {"args": ["--pass", SECRET]},
    "token in a URL": {"file": f"https://host/x?a=1&token={SECRET}"},
    "token in a fragment": {"file": f"https://host/x#access_token={SECRET}"},
    "signed URL as json": {"file": '["https://host/x?sig=' + SECRET + '"]'},
    "signed URL as a name": {f"https://host/x?sig={SECRET}": 1},
    "DSN": {"db": f"host=h user=u password={SECRET}"},
    "DSN of numbers": {"db": "host=h user=u password=31415926"},
    "connection string": {"db": f"AccountName=a;AccountKey={SECRET};EndpointSuffix=core"},
    "several variables": {"env": f"A=1 HF_TOKEN={SECRET} B=2"},
    "export": {"env": f"export HF_TOKEN='{SECRET}'"},
    "another header": {"headers": f"X-Api-Key: {SECRET}"},
    "Python": {"loader": "{'token': '" + SECRET + "'}"},
    "json within json": {"loader": '"{\\"token\\": \\"' + SECRET + '\\"}"'},
    "in a list of pairs": (("hf_token", SECRET),),
    "nested": {"loader": (("hub", (("token", SECRET),)),)},
    "nested mapping": {"loader": {"hub": {"token": SECRET}}},
    "nested list": {"loaders": [{"a": 1}, {"token": SECRET}]},
    "in a list": {"api_keys": [SECRET, SECRET]},
    "as json": {"loader": '{"hub": [{"password": "' + SECRET + '"}]}'},
    "as bytes": {"token": SECRET.encode()},
    "URL": {"proxy": f"https://me:{SECRET}@host/path"},
    "URL within": {"loader": (f"s3://:{SECRET}@bucket",)},
    "URL with a token": {"proxy": f"https://{SECRET}@host/path"},
    "header": {"headers": f"Authorization: Bearer {SECRET}"},
    "bearer within": {"headers": f"Accept: */*; authorization: Bearer {SECRET}1"},
    "variable": {"env": (f"HF_TOKEN={SECRET}",)},
    "name and value": {"env": [{"name": "HF_TOKEN", "value": SECRET}]},
    "flag": {"args": ("--port", "1", "--hf-token", SECRET)},
    "flag with a value": {"args": [f"--hf-token={SECRET}"]},
    "token of GitLab": {"anything": f"glpat-{SECRET * 3}"},
    "token of the Hub": {"anything": f"see {HUB_TOKEN}"},
    "token as a name": {HUB_TOKEN: 1},
}
KEEPERS: dict[str, Callable[[Any], Any]] = {
    "model_kwargs": lambda given: de.Model("x", model_kwargs=given),
    "max_memory": lambda given: de.Model("x", device_map="auto", max_memory=given),
    "device_map": lambda given: de.Model("x", device_map=given),
    "quantization": lambda given: de.Model("x", quantization=given),
    "engine_options": lambda given: de.Generator("x", engine="vllm", engine_options=given),
    "chat_template_kwargs": lambda given: de.Generator("x", chat=True, chat_template_kwargs=given),
    "custom_metadata": lambda given: write(custom_metadata=given),
}


@pytest.mark.parametrize("option", KEEPERS)
@pytest.mark.parametrize("case", SECRETS)
def test_no_mapping_keeps_a_secret(case: str, option: str) -> None:
    with pytest.raises(ValueError, match="must not hold an access token, a password") as caught:
        KEEPERS[option](SECRETS[case])
    text = str(caught.value)
    assert text.startswith(option)
    assert "environment of the workers" in text
    assert SECRET not in text
    assert HUB_TOKEN not in text
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "value",
    [
        ["--hf-token", SECRET],
        ("hf_token", SECRET),
        [("a", 1), ("hf_token", SECRET)],
        {"env": [{"name": "HF_TOKEN", "value": SECRET}]},
        [f"HF_TOKEN={SECRET}"],
        {"headers": [f"Authorization: Bearer {SECRET}"]},
        (("token_value", SECRET), ("b", 2)),
        {"a": [["token", SECRET]], b"password": SECRET},
        OrderedDict(token=SECRET),
        {"token": SECRET}.items(),
        SimpleNamespace(url="x", access_token=SECRET),
        f"https://host/x?X-Amz-Signature={SECRET}",
        [f"postgresql://u:{SECRET}@db/x"],
        "the text {'token': '" + SECRET + "'} within",
        "x" * 20_000 + f" HF_TOKEN={SECRET}",
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_refused_value_is_shown_without_its_secrets(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        de.Generator("x", max_new_tokens=value)
    assert SECRET not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize("url", ["me:{}@host/org/model", "host/model?sig={}", "host/x?token={}"])
@pytest.mark.parametrize("name", ["name", "adapter", "tokenizer", "cache_dir", "revision"])
def test_no_name_keeps_a_password(name: str, url: str) -> None:
    given = {"name": "x", "adapter": "a", name: f"https://{url.format(SECRET)}"}
    with pytest.raises(ValueError, match=f"^{name} must not hold") as caught:
        de.Model(**given)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "harmless",
    [
        {"max_tokens": 5, "num_tokens": "all", "tokens_per_batch": 1024, "token_type": "bpe"},
        {"pad_token": "[PAD]", "eos_token": "</s>", "image_token": "<image>", "mask_token": "<m>"},
        {"stop_token_ids": (1, 2), "eos_token_id": 2, "bos_token_id": 1, "tokenizer": "org/x"},
        {"additional_special_tokens": ("<a>", "<b>"), "think_end_token": "</think>"},
        {"image_break_token": "[B]", "forced_bos_token": "<s>", "end_of_text_token": "<e>"},
        {"author": "me", "keyword": "k", "sort_key": "a", "monkey": "b", "authored": "x"},
        {"url": "https://host:8080/path@v1", "mail": "me@host.org", "note": "hf_short"},
        {"max_new_tokens": "5", "new_tokens": "6", "args": ("--max-tokens", "5", "-token")},
        {"say": "the bearer of this token: tell it", "note": "Secret: {text}", "x": "a=token"},
        {"place": "abfs://container@account.host/path", "ssh": "ssh://git@host/x"},
        {"token": None, "password": "", "auth_token": True},
        {"columns": ("token", "text"), "where": "token == 'x'", "env": "HF_TOKEN=$HF_TOKEN"},
        {"token_level": "word", "token_type_ids": "no", "prefix": "x?page=2&versionId=3#part"},
        {"compass": "n", "bypass": "x", "signal": "y", "design": "z", "passage": "a", "sign": "b"},
        {"first_pass": "a", "pass_rate": "b", "pass@1": "c", "forwardPass": "d", "sig_figs": "e"},
        {"say": "bypass: x, the first pass: done, compass=north", "code": "de", "zip_code": "1"},
        {"see": "https://host/x?country_code=de&encode=1#codes=2", "mail": "mailto:me@host.org"},
        {"to": "To:me@host.org", "image": "app:v1@sha256:ab12", "at": "recall:10@k, ratio:5@x"},
        {"time": "12:30@noon", "remote": "git@host.org:owner/name", "css": "a:b@c"},
        {"note": "unexpected token: x", "max": "max_tokens=5", "primary_key": "id"},
    ],
)
def test_names_that_resemble_secrets_are_none(harmless: dict[str, Any]) -> None:
    kept = de.Generator("x", chat=True, chat_template_kwargs=harmless)
    assert dict(kept.chat_template_kwargs) == harmless
    assert pickle.loads(pickle.dumps(kept)) == kept


@pytest.mark.parametrize(
    "text",
    [
        *("x" * 10**6, "://" * 10**5, "hf_sk-" * 10**5, "a:b@" * 10**5, "a=b" * 10**5),
        *("a:" + "b" * 10**6, "a:bbbbbbbb " * 10**5, "a:b@c " * 10**5),
    ],
)
def test_long_texts_are_looked_through_in_time(text: str) -> None:
    started = time.thread_time()
    kept = de.Generator("x", chat=True, chat_template_kwargs={"text": text})
    assert dict(kept.chat_template_kwargs) == {"text": text}
    assert time.thread_time() - started < 2


# ------------------------------------------------------------------------------------ templates
CHATS = {
    "text times a number": "{{ 'x' * 10**10 }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubled": "{% set ns = namespace(x='xx') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(80) }}",
    "long": "x" * 300_000,
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize(
    ("case", "given"), [*((case, True) for case in CHATS), ("loops", False), ("long", False)]
)
def test_a_template_without_an_end_is_told_on_the_client(
    case: str, given: bool, folder: Callable[..., Path], tmp_path: Path
) -> None:
    model, options = folder("llama", "causal-lm"), {"chat_template": CHATS[case]}
    if not given:
        shutil.copytree(model, tmp_path / "model")
        (tmp_path / "model" / "chat_template.jinja").write_text(CHATS[case])
        model, options = tmp_path / "model", {}
    started = time.thread_time()
    with pytest.raises(ValueError, match="chat template"):
        dd.from_pandas(FRAME, npartitions=1).ml.generate(
            "{text}", model=str(model), chat=True, on_error="null", chat_template_kwargs=options
        )
    assert time.thread_time() - started < 10
