"""What a forward pass changes in its model, and how it is put back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

_CONTAINERS = (dict, list, set)
# What accelerate replaces while it brings weights from elsewhere; `_hf_hook` is how it does so.
_FETCHED = ("_parameters", "_buffers")


class ModelState:
    """The state of a model between two forward passes.

    Most models have none. Some keep what they saw (RecurrentGemma its recurrent states), or change
    for good with the first text (BigBird turns sparse attention off): such a model gives the
    vectors of a fresh one only if it is put back before each text. What it does to its weights
    with the first text (RWKV divides them by powers of two) stays, and so do the attributes that
    say that it was done.

    Parameters
    ----------
    model : torch.nn.Module
        Its attributes, submodules, buffers and configuration are remembered; weights are not
        copied.

    Notes
    -----
    Not for models that run in another thread meanwhile.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._remember()

    def _remember(self) -> None:
        model = self._model
        self._owners: list[tuple[Any, dict[str, Any]]] = [
            (owner, _remembered(owner)) for owner in _owners(model)
        ]
        self._weights = [each for each in model.parameters() if not each.is_inference()]
        self._versions = [weights._version for weights in self._weights]
        self._buffers = [
            (buffer, buffer._version, buffer.clone())
            for buffer in model.buffers()
            if not buffer.is_inference()
        ]

    def changes(self) -> list[str]:
        """Return the names of attributes that are no longer what they were."""
        found = [
            f"{type(owner).__name__}.{name}"
            for owner, before in self._owners
            for name in _differing(before, _entries(owner))
        ]
        rewritten = sum(buffer._version != version for buffer, version, _ in self._buffers)
        return found + ["a buffer"] * (rewritten > 0)

    def rewrote_weights(self) -> bool:
        """Return whether weights were written to."""
        return [weights._version for weights in self._weights] != self._versions

    def restore(self) -> None:
        """Put everything back; where weights were written to, what there is now counts instead."""
        if self.rewrote_weights():
            self._remember()
            return
        for owner, before in self._owners:
            for name in _differing(before, _entries(owner)):
                if name in before:
                    owner.__dict__[name] = _copied(before[name])
                else:
                    del owner.__dict__[name]
        for buffer, version, content in self._buffers:
            if buffer._version != version:
                buffer.copy_(content)
        self._buffers = [(buffer, buffer._version, kept) for buffer, _, kept in self._buffers]


def _owners(model: torch.nn.Module) -> Iterator[Any]:
    seen: set[int] = set()
    for module in model.modules():
        yield module
        config = module.__dict__.get("config")
        if hasattr(config, "__dict__") and id(config) not in seen:
            seen.add(id(config))
            yield config


def _remembered(owner: Any) -> dict[str, Any]:
    """Return the attributes of a module or configuration; of containers their entries."""
    return {name: _copied(value) for name, value in _entries(owner).items()}


def _entries(owner: Any) -> dict[str, Any]:
    left = _FETCHED if "_hf_hook" in owner.__dict__ else ("_parameters",)
    return {name: value for name, value in owner.__dict__.items() if name not in left}


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, _CONTAINERS) else value


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    names = [name for name in before if name not in after or not _same(before[name], after[name])]
    return names + [name for name in after if name not in before]


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are the same thing, or equal plain ones."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, set | str | int | float | bool) and bool(one == other)
