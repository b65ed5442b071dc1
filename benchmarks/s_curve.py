"""Draw how often pairs of each similarity become candidates, beside what theory says.

Pairs of random sets whose Jaccard similarity is known, signed and cut into bands as
`mark_fuzzy_duplicates` does it::

    python benchmarks/s_curve.py --output benchmarks/results/s-curve.png
"""

from __future__ import annotations

import argparse

import numpy as np

from dask_embed.curation.minhash import Banding, band_hashes, banding, signatures
from dask_embed.curation.ngrams import Lists, offsets_of

PERMUTATIONS = 128
SIZE = 200  # of each set


def main() -> None:
    """Measure, draw, and print the largest difference in standard errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000, help="of each similarity")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.6, 0.8, 0.9])
    parser.add_argument("--output", required=True, help="picture")
    arguments = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    shared = np.arange(20, SIZE, 6)
    similarities = shared / (2 * SIZE - shared)
    fine = np.linspace(0, 1, 200)
    signed = [signed_pairs(count, arguments.pairs, count) for count in shared.tolist()]
    worst = 0.0
    for threshold in arguments.thresholds:
        cut = banding(threshold, PERMUTATIONS, True)
        found = np.array([share_of_candidates(*each, cut) for each in signed])
        chance = cut.chance(similarities)
        error = np.sqrt(np.maximum(chance * (1 - chance), 1e-4) / arguments.pairs)
        worst = max(worst, float(np.max(np.abs(found - chance) / error)))
        label = f"threshold {threshold}: {cut.bands} bands of {cut.rows}"
        (line,) = axes.plot(fine, cut.chance(fine), label=label)
        axes.plot(similarities, found, "o", markersize=3, color=line.get_color())
        axes.axvline(threshold, color=line.get_color(), linewidth=0.5, linestyle=":")
    axes.set(xlabel="Jaccard similarity", ylabel="share that become candidates")
    axes.set_title(f"Lines: theory. Points: {arguments.pairs:,} pairs each")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(arguments.output, dpi=120)
    print(f"largest difference: {worst:.1f} standard errors")


def signed_pairs(shared: int, pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the signatures of both sets of pairs that share so many of their elements."""
    random = np.random.default_rng(seed)
    values = random.integers(2**63, size=(pairs, 2 * SIZE - shared), dtype=np.uint64)
    sides = values[:, :SIZE], values[:, SIZE - shared :]
    offsets = offsets_of(np.full(pairs, SIZE))
    one, other = (Lists(np.ascontiguousarray(each).ravel(), offsets) for each in sides)
    return signatures(one, PERMUTATIONS, 1), signatures(other, PERMUTATIONS, 1)


def share_of_candidates(one: np.ndarray, other: np.ndarray, cut: Banding) -> float:
    bands = [band_hashes(each, cut.bands, cut.rows) for each in (one, other)]
    return float((bands[0] == bands[1]).any(axis=1).mean())


if __name__ == "__main__":
    main()
