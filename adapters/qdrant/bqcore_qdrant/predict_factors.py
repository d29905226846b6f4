"""Recall of searches with corrective factors, predicted on a sample: codes, RaBitQ's estimate, floats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array, Float64Array, IdArray
from bqcore_qdrant.config import Config
from bqcore_qdrant.dense import DenseRows, best_rows
from bqcore_qdrant.predict import Prediction, Sample
from bqcore_qdrant.scorers import BinaryRows
from bqcore_qdrant.stages import KEPT, factors
from bqcore_qdrant.transform import Transform


def predict_factors(
    sample: Sample, transform: Transform, config: Config, oversampling: Sequence[float]
) -> Prediction:
    """Predict recall with factors at several oversamplings, as `formula.staged` searches.

    Parameters
    ----------
    sample : Sample
    transform : Transform
        With factors.
    config : Config
        Binary codes of 1 bit.
    oversampling : sequence of float

    Returns
    -------
    Prediction
        Without rescoring: by the estimate alone, of the largest oversampling's candidates.
    """
    stored, asked = transform.apply(sample.X), transform.apply_query(sample.queries)
    found, estimate, exact = _candidates(sample, transform, config, stored, asked, oversampling)
    distances = sample.distances_of(found)

    def recalls(rescored: bool, wanted: Sequence[float]) -> Float64Array:
        def at(n_groups: int, k: int) -> Float64Array:
            near = sample.kth(k, n_groups)
            out = np.zeros(len(wanted))
            for group in range(n_groups):
                inside = np.ones(found.shape, dtype=bool) if n_groups == 1 else sample.parts[found] == group
                is_near = distances <= near[:, group : group + 1]
                out += [
                    _staged(inside, estimate, exact, is_near, k, math.ceil(over * k), rescored)
                    for over in wanted
                ]
            return out / n_groups

        return sample.in_the_whole(at)

    (blind,) = recalls(False, [max(oversampling)])
    found_at = [float(one) for one in recalls(True, oversampling)]
    return Prediction(dict(zip(oversampling, found_at, strict=True)), float(blind))


def _candidates(
    sample: Sample,
    transform: Transform,
    config: Config,
    stored: Float32Array,
    asked: Float32Array,
    oversampling: Sequence[float],
) -> tuple[IdArray, Float64Array, Float64Array]:
    """Return candidates in their codes' order, their estimates and exact scores: (n_queries, depth) each."""
    rows, primary = BinaryRows(stored, config), DenseRows(stored, False)
    rescale, add = factors(transform, sample.X, stored).T
    weight = transform.query_weight(sample.queries)[:, np.newaxis].astype(np.float64)
    largest = np.abs(asked).max(axis=1, keepdims=True)
    depth = sample.depth(oversampling)
    found = np.empty((len(asked), depth), dtype=np.int64)
    by_code = np.empty((len(asked), depth))
    step = max(1, (1 << 24) // len(stored))
    for start in range(0, len(asked), step):
        part = slice(start, min(start + step, len(asked)))
        scores = rows.scores(asked[part])
        if sample.own is not None:
            scores[np.arange(len(scores)), sample.own[part]] = -np.inf
        found[part] = best_rows(scores, depth)
        by_code[part] = np.take_along_axis(scores, found[part], axis=1)
    return (
        found,
        largest * by_code * rescale[found] + weight * add[found],
        sample.rescored(primary, asked, found) + weight * add[found],
    )


def _staged(
    inside: npt.NDArray[np.bool_],
    estimate: Float64Array,
    exact: Float64Array,
    near: npt.NDArray[np.bool_],
    k: int,
    depth: int,
    rescored: bool,
) -> float:
    """Share of the k nearest: the first `depth` inside by codes, the best by estimate, then exactly."""
    deep = inside & (np.cumsum(inside, axis=1) <= depth)
    kept = max(k, math.ceil(KEPT * depth)) if rescored else k
    order = np.argsort(np.where(deep, -estimate, np.inf), axis=1, kind="stable")[:, :kept]
    near, deep = (np.take_along_axis(one, order, axis=1) for one in (near, deep))
    if rescored:
        last = np.where(deep, -np.take_along_axis(exact, order, axis=1), np.inf)
        best = np.argsort(last, axis=1, kind="stable")[:, :k]
        near, deep = (np.take_along_axis(one, best, axis=1) for one in (near, deep))
    return float(np.count_nonzero(near & deep)) / (len(near) * k)
