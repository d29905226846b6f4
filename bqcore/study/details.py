"""What the report shows of codecs beyond a number: curves, scatter, queries, and a second measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bqcore._validation import Float64Array, IdArray
from bqcore.codec_sample import Profile, Sample
from bqcore.evaluation import exact_distances

#: Candidates per wanted row that recall is told for.
OVERSAMPLING = (1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 50, 100)
# Pairs of the scatter: queries, and rows of each that are near and that are any.
_SCATTER_QUERIES, _SCATTER_NEAR, _SCATTER_ANY = 25, 20, 20
#: Width of the error bound in standard deviations: 1.9 covers 94.3 % of pairs.
EPS0 = 1.9
_WORST = 12
_TEXT = 160


def candidate_curve(profile: Profile) -> list[dict[str, float]]:
    """Return recall after exact rescoring by candidates per wanted row."""
    return [
        {"oversampling": float(over), "recall": round(profile.recall_in(over * profile.k), 4)}
        for over in OVERSAMPLING
    ]


def scatter(sample: Sample, profile: Profile, random_state: int = 0) -> dict[str, Any]:
    """Compare estimates with exact distances, for near rows of some queries and for any.

    Returns
    -------
    dict
        ``exact``, ``estimate`` and, where the codec has one, ``bound`` (half its width) of each pair, in the
        unit of the metric; ``within_bound``, the share of pairs inside it; ``correlation``.
    """
    rng = np.random.default_rng(random_state)
    chosen = np.sort(rng.permutation(len(sample.queries))[:_SCATTER_QUERIES])
    queries = sample.queries[chosen]
    n = len(sample.vectors)
    near = sample.near[chosen, :_SCATTER_NEAR]
    rows = np.concatenate([near, rng.integers(n, size=(len(chosen), _SCATTER_ANY))], axis=1)
    wanted, places = np.unique(rows, return_inverse=True)
    places = places.reshape(rows.shape)
    vectors = sample.vectors[wanted]
    codes = profile.codec.encode(vectors)
    estimate = np.take_along_axis(profile.codec.estimate(codes, queries), places, axis=1)
    exact = exact_distances(vectors, queries, places, sample.metric)
    out: dict[str, Any] = {
        "codec": profile.spec,
        "exact": _rounded(exact),
        "estimate": _rounded(estimate),
        "correlation": _correlation(exact, estimate),
        "bound": None,
        "eps0": None,
        "within_bound": None,
    }
    bound_of = getattr(profile.codec, "error_bound", None)
    if bound_of is not None:
        bound = np.take_along_axis(bound_of(codes, queries, eps0=EPS0), places, axis=1)
        inside = np.abs(exact - estimate) <= bound
        out |= {"bound": _rounded(bound), "eps0": EPS0, "within_bound": round(float(inside.mean()), 4)}
    return out


def _correlation(one: Float64Array, other: Any) -> float | None:
    """Return the correlation of two arrays, None where one of them is constant."""
    if not one.std() or not other.std():
        return None
    return round(float(np.corrcoef(one.ravel(), other.ravel())[0, 1]), 4)


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.5g}") for value in np.asarray(values, dtype=np.float64).ravel()]


def query_recall(
    profile: Profile, query_ids: IdArray, rescored: int, texts: Sequence[str] | None
) -> dict[str, Any]:
    """Return how recall is spread over queries, and which are worst.

    Parameters
    ----------
    profile : Profile
    query_ids : ndarray of int64, shape (n_queries,)
        What queries are called.
    rescored : int
        Candidates per wanted row.
    texts : sequence of str, optional
        Of all queries, by id.
    """
    k = profile.k
    after = (profile.ranks <= rescored * k).mean(axis=1)
    edges = np.linspace(0, 1, min(k, 20) + 1)
    centred = np.concatenate([edges - (edges[1] - edges[0]) / 2, [1 + (edges[1] - edges[0]) / 2]])
    order = np.lexsort((profile.per_query, after))[:_WORST]
    return {
        "codec": profile.spec,
        "recall": [round(float(x), 4) for x in edges],
        "queries_codes": np.histogram(profile.per_query, centred)[0].tolist(),
        "queries_rescored": np.histogram(after, centred)[0].tolist(),
        "percentiles_codes": {
            str(p): round(float(np.percentile(profile.per_query, p)), 4) for p in (1, 5, 25, 50)
        },
        "worst": [
            {
                "query": int(query_ids[i]),
                "recall_codes": round(float(profile.per_query[i]), 4),
                "recall_rescored": round(float(after[i]), 4),
                "candidates_for_all": int(profile.ranks[i].max()),
                "text": None if texts is None else texts[int(query_ids[i])][:_TEXT],
            }
            for i in order
        ],
    }
