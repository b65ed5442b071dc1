"""What made a column, as files tell it, and whether two may stand beside each other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa

from dask_embed import operators
from dask_embed._validation import shown
from dask_embed._version import __version__
from dask_embed.jobs.engine import nested_types, plainly_named
from dask_embed.jobs.folder import METADATA_KEY
from dask_embed.operators.identity import defaults, without_places

# What files say of a column: from 2 on every setting that can change a value, from 3 on what made
# the columns that it was computed from.
FORMAT = 3
# Keys of json beside settings, which cannot be names of an operator's fields.
_INPUTS, _WRITTEN_AS = "from", "written-as"
# The operator of rows that were put together: what made each of them are its inputs.
_SEVERAL = "several"
# What a message names in any case.
_ALWAYS = ("operator", "model", "revision")


@dataclasses.dataclass(frozen=True)
class Origin:
    """What made a column.

    Attributes
    ----------
    told : dict
        Settings of the operator and its model as json values, {} where nothing is known.
    inputs : dict of str to Origin
        What made the columns that it was computed from, of those where it is known.
    defaults : dict
        What it means that one of the settings is not told.
    written_as : int
        The format in which it was told.
    """

    told: dict[str, Any]
    inputs: dict[str, Origin] = dataclasses.field(default_factory=dict)
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    written_as: int = FORMAT

    @classmethod
    def from_json(cls, said: dict[str, Any], written_as: int) -> Origin:
        told = dict(said)
        written_as = told.pop(_WRITTEN_AS, written_as)
        inputs = told.pop(_INPUTS, {})
        if told.get("operator") == _SEVERAL and "of" in told:  # as before format 3
            inputs = {str(n): json.loads(each) for n, each in enumerate(told.pop("of"))}
        operator = getattr(operators, str(told.get("operator")), None)
        return cls(
            told,
            {name: cls.from_json(each, written_as) for name, each in inputs.items()},
            defaults(operator) if isinstance(operator, type) else {},
            written_as,
        )

    def to_json(self) -> dict[str, Any]:
        said = dict(self.told)
        if self.inputs:
            said[_INPUTS] = {name: origin.to_json() for name, origin in self.inputs.items()}
        if self.told and self.written_as < FORMAT:
            said[_WRITTEN_AS] = self.written_as
        return said

    def settings(self) -> dict[str, str]:
        """Return json of each setting; where a local folder lies does not count but its content."""
        return {
            key: json.dumps(value, sort_keys=True)
            for key, value in without_places(self.told).items()
        }

    def key(self) -> str:
        """Return a text to sort by, which does not depend on where folders lie."""
        inputs = {name: origin.key() for name, origin in self.inputs.items()}
        return json.dumps([self.settings(), inputs], sort_keys=True)


UNKNOWN = Origin({})


def several(parts: Iterable[Origin]) -> Origin:
    """Return the origin of a column whose rows have these."""
    distinct: list[Origin] = []
    for part in parts:
        same = [n for n, other in enumerate(distinct) if not differing(other, part)]
        if not same:
            distinct.append(part)
        elif part.written_as < distinct[same[0]].written_as:  # no more is known of all rows
            distinct[same[0]] = part
    if len(distinct) == 1:
        return distinct[0]
    inputs = dict(enumerate(sorted(distinct, key=Origin.key)))
    return Origin({"operator": _SEVERAL}, {str(n): part for n, part in inputs.items()})


def differing(before: Origin, after: Origin) -> list[tuple[str, ...]]:
    """Return the settings in which two origins differ, those of an input behind its name."""
    written_as = min(before.written_as, after.written_as)
    old, new = before.settings(), after.settings()
    names = old.keys() | new.keys()
    if old and new and written_as < 2:  # which names some of the settings
        names = old.keys() & new.keys()
    elif old and new:  # one of them may be older than a setting of the other
        meant = {**before.defaults, **after.defaults}
        for name in names & meant.keys():
            old.setdefault(name, json.dumps(meant[name], sort_keys=True))
            new.setdefault(name, json.dumps(meant[name], sort_keys=True))
    found: list[tuple[str, ...]] = [
        (name,) for name in sorted(names) if old.get(name) != new.get(name)
    ]
    if not (old and new):
        return found
    if written_as >= 3 or _SEVERAL in (before.told.get("operator"), after.told.get("operator")):
        for name in sorted(before.inputs.keys() | after.inputs.keys()):
            parts = [origin.inputs.get(name, UNKNOWN) for origin in (before, after)]
            found += [(name, *each) for each in differing(*parts)]
    return found


def require_same_origin(
    path: str,
    written: pa.Schema,
    made: dict[Any, Origin],
    columns: Collection[Any],
    option: str = "append=True",
) -> None:
    """Raise ValueError unless files and frame say the same about what made their columns.

    Parameters
    ----------
    path : str
    written : pyarrow.Schema
        Of the files.
    made : dict
        What made `columns`, those of the frame.
    columns : collection
    option : str
        What asks to add rows, for the message.
    """
    said = json.loads((written.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    there = origins_in_file(said)
    for name in written.names:
        if name not in columns:
            continue
        if said := differences_of(there.get(name, UNKNOWN), made.get(name, UNKNOWN)):
            raise ValueError(
                f"{option} would mix values of different origin in column {name!r} of {path!r}: "
                f"what made it is {said[0]} in the files, but {said[1]} in the frame"
            )


def differences_of(before: Origin, after: Origin) -> tuple[str, str] | None:
    """Return both in words, with the settings in which they differ; None where they do not."""
    found = differing(before, after)
    if not found:
        return None
    ways: list[tuple[str, ...]] = [(key,) for key in _ALWAYS]
    if before.told and after.told:
        ways = list(dict.fromkeys([*ways, *found]))
    return _in_words(before, ways), _in_words(after, ways)


def _in_words(origin: Origin, ways: Iterable[tuple[str, ...]]) -> str:
    """Return the settings of an origin and its inputs that are named, in a line."""
    words: dict[str, None] = {}
    for *inputs, name in ways:
        at = origin
        for each in inputs:
            at = at.inputs.get(each, UNKNOWN)
        if name in at.told:
            words[f"{'.'.join([*inputs, name])}={shown(at.told[name])}"] = None
        elif inputs and not at.told:
            words[f"{'.'.join(inputs)} of unknown origin"] = None
    return ", ".join(words) or "nothing"


def require_same_types(path: str, written: pa.Schema, frame: Any, option: str) -> None:
    """Raise ValueError if a nested column of a frame is of another type in files."""
    for name, given in nested_types(frame).items():
        if name not in written.names:
            continue  # Dask names all columns that differ
        present = written.field(name).type
        if plainly_named(present) != plainly_named(given):
            raise ValueError(
                f"{option} needs the types of the files in {path!r}: column {name!r} is "
                f"{present} there, but {given} in the frame"
            )


@contextlib.contextmanager
def other_columns_told(path: str, option: str) -> Iterator[None]:
    """Tell in a line what Dask says of a frame that has other columns than files."""
    try:
        yield
    except ValueError as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{option} needs the columns and types of the files in {path!r}: {said}"
        ) from None


def provenance(made: dict[Any, Origin]) -> dict[str, Any]:
    """Describe columns of a file by what made them."""
    columns = {name: origin.to_json() for name, origin in made.items()}
    return {"version": __version__, "format": FORMAT, "columns": columns}


def origins_in_file(said: dict[str, Any]) -> dict[str, Origin]:
    """Return what made the columns of a file, by its metadata."""
    columns, written_as = said.get("columns", {}), said.get("format", 1)
    return {name: Origin.from_json(each, written_as) for name, each in columns.items()}
