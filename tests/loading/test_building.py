"""What transformers cannot build is told on the client, by name and without weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pytest
from support import headed

import dask_embed as de

FRAME = dd.from_pandas(pd.DataFrame({"text": ["hello there", "second"]}), npartitions=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    return headed.saver(tmp_path_factory.mktemp("building"))


@pytest.mark.parametrize(
    ("name", "task", "changes", "says"),
    [
        (
            "bert",
            "embed",
            {"hidden_act": "gelo"},
            r"hidden_act='gelo'.*mean 'gelu'\?\).*one of gelu,",
        ),
        ("bert", "classify", {"hidden_act": "nosuch"}, "hidden_act='nosuch'"),
        ("modernbert", "embed", {"hidden_activation": "nosuch"}, "hidden_activation='nosuch'"),
        (
            *("t5", "embed", {"feed_forward_proj": "nosuch", "dense_act_fn": "nosuch"}),
            "feed_forward_proj='nosuch'",
        ),
        ("llama", "causal-lm", {"hidden_act": ""}, "hidden_act=''"),
        (
            *("llama", "causal-lm", {"rope_parameters": {"rope_type": "yarm", "rope_theta": 1e4}}),
            r"rope_type='yarm'.*mean 'yarn'\?\); it must be one of default, dynamic, ",
        ),
        (
            *("qwen3", "embed", {"rope_scaling": {"type": "nosuch", "factor": 2.0}}),
            "type='nosuch'",
        ),
        ("bert", "embed", {"num_attention_heads": 7}, "cannot build: .* multiple of the number of"),
        ("llama", "causal-lm", {"head_dim": 0}, "cannot build: ZeroDivisionError"),
        ("bert", "embed", {"intermediate_size": -1}, "cannot build: RuntimeError: .* dimension -1"),
    ],
)
def test_what_cannot_be_built(
    name: str,
    task: str,
    changes: dict[str, Any],
    says: str,
    saved: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(saved(name, task), tmp_path / "model"))
    operator = {"embed": de.Embedder, "classify": de.Classifier, "causal-lm": de.Generator}[task]
    operator(str(folder))(FRAME)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | changes))
    with pytest.raises(ValueError, match=f"config.json of '.*{says}") as caught:
        operator(str(folder))(FRAME)
    assert "\n" not in str(caught.value)


def test_fields_that_are_set_are_tried_too(saved: Callable[..., Path]) -> None:
    model = de.Model(str(saved("bert")), model_kwargs={"hidden_act": "gelo"})
    with pytest.raises(ValueError, match="hidden_act='gelo'"):
        de.Embedder(model)(FRAME)


def test_attention_by_another_name(saved: Callable[..., Path]) -> None:
    for name in ("eager", "sdpa", "flash_attention_2"):
        de.Embedder(de.Model(str(saved("bert")), attention=name))(FRAME)
    with pytest.raises(ValueError, match=r"^attention must be one of 'auto', .*mean 'sdpa'\?\)$"):
        de.Embedder(de.Model(str(saved("bert")), attention="spda"))(FRAME)


def test_nothing_is_left_of_building(saved: Callable[..., Path]) -> None:
    """Neither the device nor the type in which tensors are made, nor how weights begin."""
    torch = pytest.importorskip("torch")
    de.Embedder(str(saved("roberta")))(FRAME)
    layer = torch.nn.Linear(2, 2)
    assert (layer.weight.device.type, layer.weight.dtype) == ("cpu", torch.float32)
    assert float(layer.weight.detach().abs().sum()) > 0
