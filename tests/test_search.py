from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqcore import RaBitQ, ScanIndex, _kernels, search
from bqcore.evaluation import exact_distances, exact_search, recall
from bqcore.search import _best

METRICS = ["l2", "ip", "cosine"]
BITS = [1, 2, 4, 8]


@pytest.fixture(scope="module")
def clusters():
    """5,000 vectors in 50 clusters of unequal axes, and 100 queries like them."""
    rng = np.random.default_rng(0)
    axes = rng.lognormal(sigma=0.5, size=96)
    centres = 3 * rng.standard_normal((50, 96)) * axes
    points = centres[rng.integers(50, size=5100)] + rng.standard_normal((5100, 96)) * axes
    return points[:5000].astype(np.float32), points[5000:].astype(np.float32)


def fitted(X, **parameters):
    quantizer = RaBitQ(**parameters).fit(X)
    return quantizer, quantizer.encode(X)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("bits", "estimated", "rescored"), [(1, 0.26, 0.995), (4, 0.78, 0.999)])
def test_recall_on_clusters(clusters, metric, bits, estimated, rescored):
    X, Q = clusters
    quantizer, codes = fitted(X, bits=bits, metric=metric)
    truth, _ = exact_search(X, Q, 10, metric)
    assert recall(search(quantizer, codes, Q, 10).ids, truth, 10) >= estimated
    assert recall(search(quantizer, codes, Q, 10, X=X, oversampling=10).ids, truth, 10) >= rescored


def test_recall_on_text_vectors(shared_data):
    folder = shared_data / "A_minilm_wordnet"
    X, Q = (np.load(folder / f"{name}.npy").astype(np.float32) for name in ("base", "query"))
    truth = np.load(folder / "gt.npy")
    quantizer, codes = fitted(X, metric="cosine")
    assert recall(search(quantizer, codes, Q, 10).ids, truth, 10) >= 0.74
    assert recall(search(quantizer, codes, Q, 10, X=X, oversampling=10).ids, truth, 10) >= 0.99


def check_query_bits(X, Q, truth, metric, n_seeds):
    found = {4: 0.0, 8: 0.0, 32: 0.0}
    for seed in range(n_seeds):
        quantizer, codes = fitted(X, metric=metric, random_state=seed)
        for query_bits in found:
            ids = search(quantizer, codes, Q, 10, query_bits=query_bits).ids
            found[query_bits] += recall(ids, truth, 10) / n_seeds
    assert found[32] - found[4] <= 0.015
    assert found[32] - found[8] <= 0.003
    assert found[4] < found[8]


def test_queries_of_4_and_8_bits_lose_little_recall_on_clusters(clusters):
    X, Q = clusters
    check_query_bits(X, Q, exact_search(X, Q, 10, "l2")[0], "l2", n_seeds=6)


def test_queries_of_4_and_8_bits_lose_little_recall_on_text_vectors(shared_data):
    folder = shared_data / "A_minilm_wordnet"
    X, Q = (np.load(folder / f"{name}.npy").astype(np.float32) for name in ("base", "query"))
    check_query_bits(X, Q, np.load(folder / "gt.npy"), "cosine", n_seeds=1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", BITS)
def test_rescoring_every_row_is_exact_search(clusters, metric, bits):
    X, Q = clusters[0][:400], clusters[1][:20]
    quantizer, codes = fitted(X, bits=bits, metric=metric)
    truth, distances = exact_search(X, Q, 7, metric)
    found = search(quantizer, codes, Q, 7, X=X, oversampling=400 / 7)
    np.testing.assert_array_equal(found.n_rescored, np.full(20, 400))
    np.testing.assert_array_equal(found.ids, truth)
    np.testing.assert_array_equal(found.distances, distances)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", BITS)
def test_without_vectors_results_are_in_estimated_order(clusters, metric, bits):
    X, Q = clusters[0][:500], clusters[1][:10]
    quantizer, codes = fitted(X, bits=bits, metric=metric)
    found = search(quantizer, codes, Q, 25)
    estimates = quantizer.estimate(codes, Q)
    order = np.argsort(estimates, axis=1, kind="stable")[:, :25]
    np.testing.assert_array_equal(found.ids, order)
    np.testing.assert_array_equal(found.distances, np.take_along_axis(estimates, order, axis=1))
    assert not found.n_rescored.any()
    assert (found.ids.dtype, found.distances.dtype) == (np.int64, np.float64)


def test_candidates_are_the_best_estimates_and_their_distances_exact(clusters):
    X, Q = clusters[0][:500], clusters[1][:10]
    quantizer, codes = fitted(X)
    candidates = search(quantizer, codes, Q, 13).ids
    found = search(quantizer, codes, Q, 5, X=X, oversampling=2.5)  # ceil(5 * 2.5) = 13
    assert set(found.n_rescored) == {13}
    exact = exact_distances(X, Q, candidates, "l2")
    best = np.argsort(exact, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(found.ids, np.take_along_axis(candidates, best, axis=1))
    np.testing.assert_array_equal(found.distances, np.take_along_axis(exact, best, axis=1))
    assert set(search(quantizer, codes, Q, 5, X=X, oversampling=1).n_rescored) == {5}


def test_single_query_gives_one_row(clusters):
    X, Q = clusters
    quantizer, codes = fitted(X)
    many, one = search(quantizer, codes, Q[:3], 5), search(quantizer, codes, Q[2], 5)
    assert one.ids.shape == one.distances.shape == (1, 5)
    np.testing.assert_array_equal(one.ids[0], many.ids[2])


def test_every_isa_finds_the_same_rows(clusters, isa):
    X, Q = clusters
    quantizer, codes = fitted(X[:1000], bits=4, metric="ip")
    for query_bits in (4, 8, 32):
        found = search(quantizer, codes, Q, 50, query_bits=query_bits)
        _kernels.select_isa("scalar")
        plain = np.argsort(quantizer.estimate(codes, Q, query_bits=query_bits), axis=1, kind="stable")[:, :50]
        _kernels.select_isa(isa)
        np.testing.assert_array_equal(found.ids, plain)


@pytest.mark.parametrize("rescored", [False, True])
def test_ties_are_ordered_by_row(clusters, rescored):
    X = np.repeat(clusters[0][:10], 30, axis=0)[np.random.default_rng(1).permutation(300)]
    Q = clusters[1][:20]
    quantizer, codes = fitted(X)
    found = search(quantizer, codes, Q, 40, X=X if rescored else None, oversampling=2)
    same = np.diff(found.distances, axis=1) == 0
    assert same.mean() > 0.9
    assert np.all(np.diff(found.ids, axis=1)[same] > 0)
    # the group cut off at k keeps its first rows
    for ids, distances in zip(found.ids, found.distances, strict=True):
        group = np.flatnonzero((X[ids[-1]] == X).all(axis=1))
        kept = ids[distances == distances[-1]]
        np.testing.assert_array_equal(kept, group[: len(kept)])


few_values = st.sampled_from([-np.inf, -1.5, 0.0, 1.0, 2.0, 3.0, np.inf])


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 40), elements=few_values), st.data())
def test_best_rows_are_the_first_of_a_stable_sort(distances, data):
    k = data.draw(st.integers(1, len(distances)))
    np.testing.assert_array_equal(_best(distances, k), np.argsort(distances, kind="stable")[:k])


def test_all_rows_can_be_asked_for_but_no_more(clusters):
    X, Q = clusters[0][:50], clusters[1][:4]
    quantizer, codes = fitted(X)
    np.testing.assert_array_equal(np.sort(search(quantizer, codes, Q, 50).ids, axis=1), [np.arange(50)] * 4)
    for k in (51, 0, -1):
        with pytest.raises(ValueError, match=rf"^k: expected 1 to 50, not {k}$"):
            search(quantizer, codes, Q, k)
    with pytest.raises(TypeError, match=r"^k: expected an int, not 2\.5"):
        search(quantizer, codes, Q, 2.5)


@pytest.mark.parametrize("oversampling", [0.99, 0, -3, np.nan])
def test_oversampling_below_one_is_refused(clusters, oversampling):
    X, Q = clusters
    quantizer, codes = fitted(X)
    with pytest.raises(ValueError, match=rf"^oversampling: expected at least 1, not {oversampling}$"):
        search(quantizer, codes, Q, 5, X=X, oversampling=oversampling)


def test_unknown_query_bits_are_refused(clusters):
    X, Q = clusters
    quantizer, codes = fitted(X[:100])
    with pytest.raises(ValueError, match=r"^query_bits: expected one of 4, 8, 32, not 7$"):
        search(quantizer, codes, Q, 5, query_bits=7)


def test_vectors_and_queries_of_another_shape_are_refused(clusters):
    X, Q = clusters
    quantizer, codes = fitted(X)
    with pytest.raises(ValueError, match=r"^X: expected 5000 rows, one per code, not 4999$"):
        search(quantizer, codes, Q, 5, X=X[1:])
    with pytest.raises(ValueError, match=r"^X: expected 96 dimensions, not 95$"):
        search(quantizer, codes, Q, 5, X=X[:, 1:])
    with pytest.raises(ValueError, match=r"^Q: expected 96 dimensions, not 95$"):
        search(quantizer, codes, Q[:, 1:], 5)


def test_codes_of_another_model_are_refused(clusters):
    X, Q = clusters
    quantizer, _ = fitted(X)
    other, codes = fitted(X, random_state=1)
    text = f"^codes: expected codes of model {quantizer.model_id}, not of model {other.model_id}$"
    with pytest.raises(ValueError, match=text):
        search(quantizer, codes, Q, 5)


def test_unfitted_quantizer_is_refused(clusters):
    X, Q = clusters
    _, codes = fitted(X)
    with pytest.raises(ValueError, match="is not fitted"):
        search(RaBitQ(), codes, Q, 5)


def test_infinite_oversampling_rescores_every_row(clusters):
    X, Q = clusters[0][:200], clusters[1][:3]
    quantizer, codes = fitted(X)
    assert set(search(quantizer, codes, Q, 5, X=X, oversampling=np.inf).n_rescored) == {200}


def test_parameters_set_after_the_fit_wait_for_the_next_one(clusters):
    X, Q = clusters[0][:200], clusters[1][:3]
    quantizer, codes = fitted(X)
    expected = search(quantizer, codes, Q, 5, X=X)
    quantizer.set_params(metric="ip")
    found = search(quantizer, codes, Q, 5, X=X)
    np.testing.assert_array_equal(found.distances, expected.distances)


def test_an_index_finds_the_candidates(clusters):
    X, Q = clusters
    quantizer, codes = fitted(X, bits=4)
    index = ScanIndex(quantizer, codes)
    plain, found = search(quantizer, codes, Q, 10, X=X), search(quantizer, index, Q, 10, X=X)
    assert recall(found.ids, plain.ids, 10) >= 0.99
    np.testing.assert_array_equal(found.n_rescored, 100)
    assert recall(search(quantizer, index, Q, 10).ids, search(quantizer, codes, Q, 10).ids, 10) >= 0.9
    with pytest.raises(ValueError, match=r"^an index expects mode 'decoupled' and no query_bits$"):
        search(quantizer, index, Q, 10, X=X, mode="bound")
    with pytest.raises(ValueError, match=r"^codes: expected codes of model"):
        search(RaBitQ(random_state=7).fit(X), index, Q)
