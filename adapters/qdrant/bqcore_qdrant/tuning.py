"""Search parameters of a live collection: recall and time at each oversampling and hnsw_ef."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from bqcore._validation import check_int
from bqcore.quickest import quickest
from bqcore_qdrant.collection import Collection
from bqcore_qdrant.verify import random_points, verify

OVERSAMPLING = (1.0, 2.0, 4.0, 8.0, 16.0)
HNSW_EF = (64, 128, 256, 512)


def tune_collection(
    collection: Collection,
    queries: npt.ArrayLike | None = None,
    k: int = 10,
    *,
    target_recall: float | None = None,
    n_queries: int = 100,
    seconds: float = 300.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure search parameters on a live collection and choose the quickest that reaches a recall.

    Parameters
    ----------
    collection : Collection
    queries : ndarray of float32, shape (n, dim), optional
        By default vectors of the same random points for all settings.
    k : int, default 10
    target_recall : float, optional
        Without it the best recall is chosen.
    n_queries : int, default 100
    seconds : float, default 300
        No further parameters are begun after so many.
    progress : callable, optional
        Called with a text, steps done, steps in all.

    Returns
    -------
    dict
        ``chosen``, ``settings``, ``reaches_target``, and the ``python`` that uses them.

    Raises
    ------
    ValueError
        As `verify`.
    """
    points = int(collection.client.count(collection.name, exact=True).count)
    k = check_int(k, name="k", low=1, high=max(1, points))
    say = progress or (lambda text, done, total: None)
    started = time.monotonic()
    asked = queries
    if asked is None:
        # A point that is asked for is among its own results, which every setting finds.
        _, asked = random_points(collection, n_queries)
    has_codes = collection.codec.config.quantizer != "none"
    efs = [ef for ef in HNSW_EF if ef >= k] or [k]
    pairs = [(over, ef) for over in (OVERSAMPLING if has_codes else (1.0,)) for ef in efs]
    measured: list[dict[str, Any]] = []
    for done, (over, ef) in enumerate(pairs):
        if measured and time.monotonic() - started > seconds:
            break
        say(f"oversampling {over:g}, hnsw_ef {ef}", done, len(pairs))
        codec = collection.codec.with_search(oversampling=over, hnsw_ef=ef)
        tried = Collection(collection.client, collection.name, codec, collection.using)
        found = verify(tried, asked, k, n_queries=n_queries)
        measured.append(
            {
                "oversampling": over,
                "hnsw_ef": ef,
                "recall": round(found.recall, 4),
                "standard_error": round(found.standard_error, 4),
                "ms": round(found.ms, 3),
            }
        )
    at, reaches = quickest(
        [one["recall"] for one in measured],
        [one["ms"] for one in measured],
        [(one["oversampling"], one["hnsw_ef"]) for one in measured],
        target_recall,
    )
    best = measured[at]
    return {
        "collection": collection.name,
        "config": collection.codec.config.storage,
        "k": k,
        "target_recall": target_recall,
        "chosen": best,
        "reaches_target": reaches,
        "settings": measured,
        "not_measured": [list(pair) for pair in pairs[len(measured) :]],
        "python": "codec = codec.with_search("
        f"oversampling={best['oversampling']:g}, hnsw_ef={best['hnsw_ef']})",
    }
