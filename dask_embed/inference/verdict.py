"""How a model may run, as it was judged when it was loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """How a model may run.

    Attributes
    ----------
    packed : bool
        Texts may run one after the other without padding.
    up_to : int or None
        Longest text for which batches were tried; longer ones run alone. None without a limit.
    pads, pads_left : bool
        Texts of different lengths may share a batch that is padded on the right, on the left.
        Not tried where texts run packed.
    by_length : bool
        Texts of one length may share a batch; where not even they may, each text runs alone.
        Not tried where texts run packed.
    keeps_state : bool
        A forward pass changes the model, which is put back after it: one text at a time.
    shortest : int
        Fewest tokens that the model takes.
    reason : str
        Why it does not run packed.
    """

    packed: bool
    up_to: int | None = None
    pads: bool = True
    pads_left: bool = False
    by_length: bool = True
    keeps_state: bool = False
    shortest: int = 1
    reason: str = ""

    @property
    def runs(self) -> str:
        """How texts run that are not longer than `up_to`, in a word or two."""
        if self.packed:
            return "packed"
        return "padded" if self.pads else "by length" if self.by_length else "alone"


class NotPerTokenError(ValueError):
    """The transformer gives other vectors than one for each token."""
