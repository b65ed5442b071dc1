"""modules.json and its configurations are read as sentence-transformers reads them.

A module that cannot be run, or whose settings are not there, is an error; it is never skipped
and never given a default that the checkpoint did not choose.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.sentence_transformer.modules import Dense as ReferenceDense
from sentence_transformers.sentence_transformer.modules import Pooling as ReferencePooling
from torch import nn

from dask_embed.models.module_files import read_modules
from dask_embed.models.modules import Dense, LayerNorm, Normalize, Pooling, Truncate

FLAGS = {
    "pooling_mode_cls_token": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
    "pooling_mode_weightedmean_tokens": False,
    "pooling_mode_lasttoken": False,
}
POOLING = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
DENSE = {"in_features": 32, "out_features": 8, "bias": True}


def write(folder: Path, *modules: tuple[str, str, dict[str, Any] | None]) -> Path:
    """Write modules.json of (class, path, configuration), numbered in this order."""
    listing = []
    for index, (kind, path, config) in enumerate(modules):
        listing.append({"idx": index, "name": str(index), "path": path, "type": kind})
        (folder / path).mkdir(parents=True, exist_ok=True)
        if config is not None:
            (folder / path / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(listing))
    return folder


def old(kind: str) -> str:
    return f"sentence_transformers.models.{kind}"


TRANSFORMER = (old("Transformer"), "", None)
MEAN = (old("Pooling"), "1_Pooling", POOLING)


# --------------------------------------------------------------------------------------- layouts
def test_a_plain_checkpoint_has_no_modules(tmp_path: Path) -> None:
    assert read_modules(tmp_path) is None


@pytest.mark.parametrize("subfolder", ["", "0_Transformer"])
def test_the_transformer_may_lie_in_a_subfolder(tmp_path: Path, subfolder: str) -> None:
    write(tmp_path, (old("Transformer"), subfolder, None), MEAN)
    assert read_modules(tmp_path) == (subfolder, Pooling(("mean",)), ())


@pytest.mark.parametrize(
    "package",
    [
        "sentence_transformers.models",
        "sentence_transformers.sentence_transformer.modules.pooling",
        "sentence_transformers.base.modules.transformer",
    ],
)
def test_classes_are_known_by_their_old_and_new_names(tmp_path: Path, package: str) -> None:
    write(
        tmp_path,
        (f"{package}.Transformer", "", None),
        (f"{package}.Pooling", "1_Pooling", POOLING),
        (f"{package}.Normalize", "2_Normalize", None),
    )
    assert read_modules(tmp_path) == ("", Pooling(("mean",)), (Normalize(),))


def test_dropout_does_nothing_at_inference(tmp_path: Path) -> None:
    write(tmp_path, TRANSFORMER, MEAN, (old("Dropout"), "2_Dropout", {"dropout": 0.5}))
    assert read_modules(tmp_path) == ("", Pooling(("mean",)), ())


# --------------------------------------------------------------------------------------- pooling
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"pooling_mode_cls_token": True},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True},
        {"pooling_mode_mean_sqrt_len_tokens": True},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode_lasttoken": True},
        {"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True},
        dict.fromkeys(FLAGS, True),
        {"pooling_mode": "max"},
        {"pooling_mode": ["lasttoken", "cls"]},
        {"pooling_mode": "cls", "pooling_mode_mean_tokens": True},
        {"include_prompt": False, "pooling_mode_mean_tokens": True},
    ],
    ids=str,
)
def test_pooling_equals_the_reference(tmp_path: Path, flags: dict[str, Any]) -> None:
    config = {"word_embedding_dimension": 32, **FLAGS, **flags}
    write(tmp_path, TRANSFORMER, (old("Pooling"), "1_Pooling", config))
    reference = ReferencePooling.load(str(tmp_path), subfolder="1_Pooling")
    modes = reference.pooling_mode
    expected = (modes,) if isinstance(modes, str) else tuple(modes)
    assert read_modules(tmp_path) == ("", Pooling(expected, reference.include_prompt), ())
    dimension = Pooling(expected).output_dimension(32)
    assert dimension == reference.pooling_output_dimension


@pytest.mark.parametrize("modes", [(), ("none", "mean"), ("median",)])
def test_modes_that_do_not_exist_are_an_error(modes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="pooling"):
        Pooling(modes)


def test_a_misspelt_mode_gets_a_hint() -> None:
    with pytest.raises(
        ValueError, match=r"'lasttoken'.*got 'last_token'.*did you mean 'lasttoken'"
    ):
        Pooling(("last_token",))


# ------------------------------------------------------------------------------- dense and others
@pytest.mark.parametrize(
    ("activation", "residual", "bias"),
    [(nn.Tanh(), False, True), (nn.Identity(), True, False), (nn.GELU(), True, True)],
    ids=str,
)
def test_dense_equals_what_the_reference_wrote(
    tmp_path: Path, activation: nn.Module, residual: bool, bias: bool
) -> None:
    reference = ReferenceDense(
        32, 8, bias=bias, activation_function=activation, use_residual=residual
    )
    write(tmp_path, TRANSFORMER, MEAN, (old("Dense"), "2_Dense", None))
    reference.save(str(tmp_path / "2_Dense"))
    _, _, (dense,) = read_modules(tmp_path) or ("", None, ())
    assert isinstance(dense, Dense)
    assert (dense.in_features, dense.out_features) == (32, 8)
    assert (dense.bias, dense.residual) == (bias, residual)
    assert dense.activation.rpartition(".")[2] == type(activation).__name__


def test_dense_is_tanh_unless_said_otherwise(tmp_path: Path) -> None:
    write(tmp_path, TRANSFORMER, MEAN, (old("Dense"), "2_Dense", DENSE))
    _, _, (dense,) = read_modules(tmp_path) or ("", None, ())
    assert dense == Dense("2_Dense", 32, 8, activation="torch.nn.modules.activation.Tanh")
    assert type(ReferenceDense(32, 8).activation_function) is nn.Tanh


def test_dimensions() -> None:
    assert Pooling(("cls", "mean")).output_dimension(32) == 64
    assert Dense("2_Dense", 32, 8).output_dimension(32) == 8
    assert LayerNorm("2_LayerNorm", 32).output_dimension(32) == 32
    assert Truncate(5).output_dimension(32) == 5
    assert Truncate(32).output_dimension(32) == 32
    assert Normalize().output_dimension(32) == 32


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Dense("2_Dense", 31, 8), "2_Dense.*31.*32"),
        (LayerNorm("2_LayerNorm", 31), "2_LayerNorm.*31.*32"),
        (Truncate(33), "at most.*32, got 33"),
    ],
    ids=str,
)
def test_dimensions_that_do_not_fit_are_an_error(module: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module.output_dimension(32)


# --------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([], "must begin with a Transformer"),
        ([MEAN], "Pooling"),
        ([(old("StaticEmbedding"), "0_StaticEmbedding", None), MEAN], "StaticEmbedding"),
        ([(old("Router"), "", None), MEAN], "Router"),
        ([TRANSFORMER], "Pooling"),
        ([TRANSFORMER, (old("Normalize"), "1_Normalize", None)], "Pooling"),
        ([TRANSFORMER, (old("Dense"), "1_Dense", DENSE), MEAN], "Pooling"),
        ([TRANSFORMER, MEAN, (old("Pooling"), "2_Pooling", POOLING)], "Pooling"),
        ([TRANSFORMER, MEAN, (old("CNN"), "2_CNN", {})], r"models\.CNN"),
        ([TRANSFORMER, MEAN, ("own_code.Dense", "2_Dense", DENSE)], r"own_code\.Dense"),
        (
            [TRANSFORMER, MEAN, ("sentence_transformers_extra.Dense", "2_Dense", DENSE)],
            r"sentence_transformers_extra\.Dense",
        ),
        (
            [TRANSFORMER, MEAN, (old("Dense"), "2", {**DENSE, "activation_function": "os.exit"})],
            r"os\.exit",
        ),
        (
            [TRANSFORMER, MEAN, (old("Dense"), "2", {**DENSE, "module_output_name": "other"})],
            "module_output_name='other'",
        ),
        (
            [TRANSFORMER, MEAN, (old("Normalize"), "2", {"module_input_name": "token_embeddings"})],
            "module_input_name='token_embeddings'",
        ),
    ],
)
def test_what_cannot_be_run_is_an_error(
    tmp_path: Path, modules: list[tuple[str, str, dict[str, Any] | None]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_modules(write(tmp_path, *modules))


@pytest.mark.parametrize("kind", ["Pooling", "Dense", "LayerNorm"])
def test_a_module_without_its_configuration_is_an_error(tmp_path: Path, kind: str) -> None:
    """Half a copy of a folder must not become another model."""
    path = f"9_{kind}"
    pooling = [] if kind == "Pooling" else [MEAN]
    write(tmp_path, TRANSFORMER, *pooling, (old(kind), path, None))
    with pytest.raises(ValueError, match=path):
        read_modules(tmp_path)
