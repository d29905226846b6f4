"""Bound mode, and rescoring from a storage tier."""

from __future__ import annotations

import numpy as np
import pytest

from bqcore import RaBitQ, Tier, make_codec, search
from bqcore.evaluation import exact_distances, exact_search, recall
from bqcore.rescore import BOUND_STEP

METRICS = ["l2", "ip", "cosine"]


@pytest.fixture(scope="module")
def clusters():
    """3,000 vectors in 30 clusters of unequal axes, and 100 queries like them."""
    rng = np.random.default_rng(0)
    axes = rng.lognormal(sigma=0.5, size=96)
    centres = 2 * rng.standard_normal((30, 96)) * axes
    points = centres[rng.integers(30, size=3100)] + rng.standard_normal((3100, 96)) * axes
    return points[:3000].astype(np.float32), points[3000:].astype(np.float32)


def fitted(X, spec="rabitq", **parameters):
    codec = make_codec(spec, **parameters).fit(X)
    return codec, codec.encode(X)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spec", ["rabitq", "rabitq(bits=3, centroids=8)"])
def test_an_infinite_bound_loses_nothing(clusters, metric, spec):
    X, Q = clusters[0][:500], clusters[1][:20]
    codec, codes = fitted(X, spec, metric=metric)
    truth, distances = exact_search(X, Q, 7, metric)
    found = search(codec, codes, Q, 7, X=X, mode="bound", eps0=np.inf)
    np.testing.assert_array_equal(found.ids, truth)
    np.testing.assert_array_equal(found.distances, distances)
    np.testing.assert_array_equal(found.n_rescored, 500)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spec", ["rabitq", "rabitq(bits=4)", "rabitq(centroids=16)"])
def test_the_default_bound_loses_half_a_percent_at_most_and_skips_most_rows(clusters, metric, spec):
    X, Q = clusters
    codec, codes = fitted(X, spec, metric=metric)
    truth, _ = exact_search(X, Q, 10, metric)
    found = search(codec, codes, Q, 10, X=X, mode="bound")
    assert recall(found.ids, truth, 10) >= 0.995
    assert found.n_rescored.mean() < (30 if "4" in spec else 400)
    assert len(set(found.n_rescored)) > 3  # easy queries take fewer
    wider = search(codec, codes, Q, 10, X=X, mode="bound", eps0=3.0)
    assert recall(wider.ids, truth, 10) >= 0.999
    assert np.all(wider.n_rescored >= found.n_rescored)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_are_skipped_only_where_their_bound_is_above_the_kth_distance(clusters, metric):
    X, Q = clusters
    codec, codes = fitted(X, metric=metric)
    found = search(codec, codes, Q, 10, X=X, mode="bound", eps0=1.0)
    lower = codec.estimate(codes, Q) - codec.error_bound(codes, Q, eps0=1.0)
    exact = exact_distances(X, Q, np.tile(np.arange(len(X)), (len(Q), 1)), metric)
    for i in range(len(Q)):
        order = np.argsort(lower[i], kind="stable")
        needed, best = 0, np.full(10, np.inf)
        for row in order:
            if lower[i, row] > best[-1]:
                break
            best = np.sort(np.append(best, exact[i, row]))[:10]
            needed += 1
        assert max(needed, 10) <= found.n_rescored[i] < max(needed, 10) + BOUND_STEP
        assert np.all(found.distances[i] <= best)  # the last step may find better rows beyond its need


def test_ties_are_ordered_by_row_in_bound_mode(clusters):
    X = np.repeat(clusters[0][:20], 10, axis=0)[np.random.default_rng(1).permutation(200)]
    codec, codes = fitted(X)
    truth, _ = exact_search(X, clusters[1], 15, "l2")
    np.testing.assert_array_equal(
        search(codec, codes, clusters[1], 15, X=X, mode="bound", eps0=10).ids, truth
    )


def test_bad_modes_are_refused(clusters):
    X, Q = clusters
    codec, codes = fitted(X)
    with pytest.raises(ValueError, match=r"^mode: expected one of decoupled, bound, not 'heap'$"):
        search(codec, codes, Q, X=X, mode="heap")
    with pytest.raises(
        ValueError, match=r"^mode: 'bound' rescores: expected vectors or a tier as X, not None$"
    ):
        search(codec, codes, Q, mode="bound")
    for eps0 in (-1, np.nan):
        with pytest.raises(ValueError, match=rf"^eps0: expected a number >= 0, not {eps0}$"):
            search(codec, codes, Q, X=X, mode="bound", eps0=eps0)


def test_zero_vectors_have_no_cosine_to_rescore(clusters):
    X, Q = clusters[0][:50], clusters[1][:2]
    codec, codes = fitted(X, metric="cosine")
    with pytest.raises(ValueError, match="Q: cosine needs rows with a direction, but row 1 is a zero vector"):
        search(codec, codes, Q * [[1], [0]], 5, X=X)


# ---- tiers ----


@pytest.mark.parametrize("mode", ["decoupled", "bound"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_tier_rescores_with_its_own_estimates(clusters, metric, mode):
    X, Q = clusters
    codec, codes = fitted(X, metric=metric)
    tier = Tier(*fitted(X, "rabitq(bits=8)", metric=metric))
    truth, _ = exact_search(X, Q, 10, metric)
    found = search(codec, codes, Q, 10, X=tier, mode=mode, oversampling=30)
    assert recall(found.ids, truth, 10) >= 0.97
    estimates = np.take_along_axis(tier.codec.estimate(tier.codes, Q), found.ids, axis=1)
    np.testing.assert_array_equal(found.distances, estimates)
    assert found.n_rescored.min() >= 10


def test_tiers_of_other_rows_metrics_and_models_are_refused(clusters):
    X, Q = clusters
    codec, codes = fitted(X)
    for tier, text in [
        (Tier(*fitted(X[1:])), "X: expected 3000 rows, one per code, not 2999"),
        (Tier(*fitted(X, metric="ip")), "X: expected a tier of metric 'l2', not 'ip'"),
        (Tier(*fitted(X[:, 1:])), "X: expected 96 dimensions, not 95"),
    ]:
        with pytest.raises(ValueError, match=f"^{text}$"):
            search(codec, codes, Q, X=tier)
    with pytest.raises(ValueError, match="expected codes of model"):
        Tier(RaBitQ(bits=2).fit(X), codes)
