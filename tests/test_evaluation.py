from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqcore.datasets import read
from bqcore.evaluation import exact_distances, exact_search, recall, recall_per_query

METRICS = ["l2", "ip", "cosine"]


def brute_force(X, Q, k, metric):
    X, Q = X.astype(np.longdouble), Q.astype(np.longdouble)
    if metric == "l2":
        d = ((Q[:, None] - X[None]) ** 2).sum(axis=2)
    elif metric == "ip":
        d = -(Q[:, None] * X[None]).sum(axis=2)
    else:
        lengths = np.sqrt((Q**2).sum(1))[:, None] * np.sqrt((X**2).sum(1))
        d = 1 - (Q[:, None] * X[None]).sum(axis=2) / lengths
    ids = np.lexsort((np.broadcast_to(np.arange(len(X)), d.shape), d), axis=1)[:, :k]
    return ids, np.take_along_axis(d, ids, axis=1).astype(np.float64)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block", [1, 37, 8192])
def test_exact_search_equals_brute_force(metric, block):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((300, 20)).astype(np.float32) * rng.lognormal(size=(300, 1)).astype(np.float32)
    Q = rng.standard_normal((25, 20)).astype(np.float32)
    ids, distances = exact_search(X, Q, 12, metric, block=block)
    expected_ids, expected = brute_force(X, Q, 12, metric)
    assert ids.dtype == np.int64
    assert distances.dtype == np.float64
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(distances, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e15, 1e25, 1e38])
def test_exact_search_at_the_ends_of_float32(metric, scale):
    rng = np.random.default_rng(2)
    X = (rng.uniform(-1, 1, (200, 8)) * scale).astype(np.float32)
    Q = (rng.uniform(-1, 1, (10, 8)) * scale).astype(np.float32)
    ids, distances = exact_search(X, Q, 5, metric, block=64)
    expected_ids, expected = brute_force(X, Q, 5, metric)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(distances, expected, rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_far_from_the_origin(metric):
    # Norms of 1e5 and distances of 1: a float32 scan without a rounding bound loses neighbours here.
    rng = np.random.default_rng(3)
    X = (1e4 + rng.standard_normal((2000, 100))).astype(np.float32)
    Q = (1e4 + rng.standard_normal((10, 100))).astype(np.float32)
    ids, distances = exact_search(X, Q, 10, metric, block=500)
    expected_ids, expected = brute_force(X, Q, 10, metric)
    if metric == "l2":
        np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(distances, expected, rtol=1e-9 if metric != "ip" else 1e-15)


@pytest.mark.parametrize("metric", METRICS)
def test_outlier_does_not_hide_neighbours(metric):
    rng = np.random.default_rng(4)
    X = rng.standard_normal((400, 16)).astype(np.float32)
    X[123] *= 1e12
    Q = rng.standard_normal((5, 16)).astype(np.float32)
    ids, _ = exact_search(X, Q, 10, metric, block=50)
    np.testing.assert_array_equal(ids, brute_force(X, Q, 10, metric)[0])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), metric=st.sampled_from(["l2", "ip"]))
def test_ties_are_ordered_by_id(data, metric):
    # Small integers: float64 distances are exact, and many are equal.
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n, dim = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 6))
    X = rng.integers(-2, 3, (n, dim)).astype(np.float32)
    Q = rng.integers(-2, 3, (4, dim)).astype(np.float32)
    k = data.draw(st.integers(1, n))
    ids, distances = exact_search(X, Q, k, metric, block=data.draw(st.integers(1, 70)))
    expected_ids, expected = brute_force(X, Q, k, metric)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(distances, expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_equal_rows_have_equal_distances_wherever_they_stand(metric, offset):
    rng = np.random.default_rng(5)
    distinct = (rng.standard_normal((3, 131)) + offset).astype(np.float32)
    members = rng.integers(0, 3, 500)
    Q = (rng.standard_normal((4, 131)) + offset).astype(np.float32)
    ids, distances = exact_search(distinct[members], Q, 500, metric, block=500)
    for i in range(4):
        assert len(np.unique(distances[i])) == 3
        for group in np.unique(distances[i]):
            assert (np.diff(ids[i][distances[i] == group]) > 0).all()


def test_all_rows_equal_gives_the_first_ids():
    X = np.full((100, 7), 0.1, dtype=np.float32)
    for metric in METRICS:
        ids, _ = exact_search(X, X[:2] * 3, 6, metric, block=10)
        np.testing.assert_array_equal(ids, [range(6)] * 2)


def test_units_are_squared_l2_negative_ip_and_cosine_distance():
    X, Q = [[3.0, 4.0], [-1.0, 0.0]], [[2.0, 0.0]]
    assert exact_search(X, Q, 2, "l2")[1].tolist() == [[9.0, 17.0]]
    assert exact_search(X, Q, 2, "ip")[1].tolist() == [[-6.0, 2.0]]
    np.testing.assert_allclose(exact_search(X, Q, 2, "cosine")[1], [[0.4, 2.0]], rtol=1e-15)


def test_cosine_distance_of_equal_directions_is_zero_not_negative():
    X = np.random.default_rng(6).standard_normal((50, 30)).astype(np.float32)
    ids, distances = exact_search(X * 4, X, 1, "cosine")
    np.testing.assert_array_equal(ids[:, 0], np.arange(50))
    np.testing.assert_array_equal(distances, 0)


@pytest.mark.parametrize("n_queries", [1, 1024, 1025])
def test_query_blocks_do_not_show(n_queries):
    rng = np.random.default_rng(7)
    X, Q = rng.standard_normal((50, 4)), rng.standard_normal((n_queries, 4))
    ids, _ = exact_search(X, Q, 3, "l2")
    expected, _ = brute_force(X.astype(np.float32), Q.astype(np.float32), 3, "l2")
    np.testing.assert_array_equal(ids, expected)


def test_exact_distances_of_chosen_rows():
    X, Q = [[0.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]
    found = exact_distances(X, Q, [[1, -1], [0, 1]], "l2")
    assert found.tolist() == [[1.0, np.inf], [2.0, 0.0]]


def test_distances_agree_with_search():
    rng = np.random.default_rng(8)
    X, Q = rng.standard_normal((90, 33)), rng.standard_normal((6, 33))
    for metric in METRICS:
        ids, distances = exact_search(X, Q, 90, metric, block=17)
        np.testing.assert_array_equal(exact_distances(X, Q, ids, metric), distances)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 4)), np.ones((1, 5)), 1, "l2"), "Q: expected 4 dimensions, not 5"),
        ((np.ones((3, 4)), np.ones((1, 4)), 4, "l2"), "k: expected 1 to 3, not 4"),
        ((np.ones((3, 4)), np.ones((1, 4)), 0, "l2"), "k: expected 1 to 3, not 0"),
        (
            (np.ones((3, 4)), np.ones((1, 4)), 1, "manhattan"),
            "expected 'l2', 'ip' or 'cosine', not 'manhattan'",
        ),
        (
            (np.eye(3)[[0, 1]] * 0, np.ones((1, 3)), 1, "cosine"),
            r"X: .* row 0 is a zero vector \(2 of 2 rows",
        ),
        ((np.ones((3, 4)), np.zeros((1, 4)), 1, "cosine"), r"Q: .* row 0 is a zero vector \(1 of 1 rows"),
        ((np.ones(4), np.ones((1, 4)), 1, "l2"), r"X: expected a 2-d array \(n, dim\), not 1-d"),
    ],
)
def test_exact_search_errors_name_both_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        exact_search(*arguments)


def test_block_must_be_positive():
    with pytest.raises(ValueError, match="block: expected at least 1, not 0"):
        exact_search([[1.0]], [[1.0]], 1, "l2", block=0)


def test_recall_by_id_counts_each_id_once_and_skips_missing_rows():
    truth = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    retrieved = [[1, 0, 9], [4, 4, 4], [-1, -1, 11]]
    np.testing.assert_array_equal(recall_per_query(retrieved, truth, 2), [1.0, 0.5, 0.0])
    assert recall(retrieved, truth, 2) == 0.5
    np.testing.assert_array_equal(recall_per_query(retrieved, truth, 4), [0.5, 0.25, 0.25])


def test_recall_counts_ties_when_vectors_are_given():
    X = np.array([[0.0], [1.0], [-1.0], [1.0], [2.0]])
    Q = [[0.0]]
    truth = [[0, 1, 2, 3, 4]]
    for retrieved in ([[0, 1]], [[0, 3]], [[2, 0]]):
        assert recall(retrieved, truth, 2, X=X, Q=Q, metric="l2") == 1.0
    assert recall([[0, 4]], truth, 2, X=X, Q=Q, metric="l2") == 0.5
    assert recall([[0, 3]], truth, 2) == 0.5


def test_recall_never_exceeds_one_and_counts_repeated_ties_once():
    X, Q = np.ones((6, 2)), np.zeros((2, 2))
    truth = [[0, 1, 2], [0, 1, 2]]
    retrieved = [[0, 1, 2, 3, 4, 5], [5, 5, 5, 5, -1, -1]]
    np.testing.assert_array_equal(recall_per_query(retrieved, truth, 2, X=X, Q=Q, metric="l2"), [1.0, 0.5])


@pytest.mark.parametrize(("factor", "expected"), [(1 + 2e-7, 1.0), (1 + 1e-5, 0.0)])
@pytest.mark.parametrize("metric", METRICS)
def test_tie_tolerance_is_that_of_float32_rounding(metric, factor, expected):
    if metric == "ip":
        X = np.array([[2.0], [2.0 / factor]])
        Q = [[1.0]]
    elif metric == "l2":
        X = np.array([[2.0], [2.0 * np.sqrt(factor)]])
        Q = [[0.0]]
    else:
        angles = np.array([1.0, 2 * np.arcsin(np.sin(0.5) * np.sqrt(factor))])
        X = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        Q = [[1.0, 0.0]]
    assert recall([[1]], [[0]], 1, X=X, Q=Q, metric=metric) == expected


def test_ground_truth_in_float32_order_is_accepted():
    X, Q = [[3.0], [2.0], [1.0]], [[0.0]]
    assert recall([[2, 1]], [[1, 2, 0]], 2, X=X, Q=Q, metric="l2") == 1.0
    assert recall([[1]], [[2, 1, 0]], 1, X=X, Q=Q, metric="l2") == 0.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_recall_with_vectors_is_never_below_recall_by_id(seed, k):
    rng = np.random.default_rng(seed)
    X, Q = rng.integers(0, 3, (20, 3)), rng.integers(0, 3, (5, 3))
    truth, _ = exact_search(X, Q, 10, "l2")
    retrieved = rng.integers(-1, 20, (5, 8))
    by_id = recall_per_query(retrieved, truth, k)
    by_distance = recall_per_query(retrieved, truth, k, X=X, Q=Q, metric="l2")
    expected = [len(set(r.tolist()) & set(t[:k].tolist())) / k for r, t in zip(retrieved, truth, strict=True)]
    np.testing.assert_allclose(by_id, expected)
    assert (by_distance >= by_id).all()
    assert (by_distance <= 1).all()


@pytest.mark.parametrize(
    ("retrieved", "truth", "keywords", "error", "message"),
    [
        ([[1]], [[1], [2]], {}, ValueError, "retrieved: expected 2 rows like ground_truth, not 1"),
        ([[1]], [[1, 2]], {"k": 5}, ValueError, "ground_truth: expected at least k = 5 columns, not 2"),
        ([[1]], [[1]], {"k": 0}, ValueError, "k: expected at least 1, not 0"),
        ([[-2]], [[1]], {}, ValueError, "retrieved: expected ids at least -1, not -2 at row 0, column 0"),
        ([[1]], [[-1]], {}, ValueError, "ground_truth: expected ids at least 0, not -1 at row 0, column 0"),
        (
            [[1]],
            [[3, 3]],
            {"k": 2},
            ValueError,
            "ground_truth: expected 2 different ids, but row 0 repeats 3",
        ),
        ([[1.0]], [[1]], {}, TypeError, "retrieved: expected integer ids, not dtype float64"),
        ([1], [[1]], {}, ValueError, "retrieved: expected a 2-d array (n_queries, m), not 1-d of shape (1,)"),
        (
            np.empty((1, 0), int),
            [[1]],
            {},
            ValueError,
            "expected at least 1 row and 1 column, not shape (1, 0)",
        ),
        ([[1]], [[1]], {"metric": "l2"}, TypeError, "all of X, Q and metric or none, not without X and Q"),
        (
            [[9]],
            [[1]],
            "vectors",
            ValueError,
            "retrieved: expected ids from -1 to 2, not 9 at row 0, column 0",
        ),
        ([[1]], [[9]], "vectors", ValueError, "ground_truth: expected ids from 0 to 2, not 9 at row 0"),
        ([[1], [1]], [[1], [1]], "vectors", ValueError, "retrieved: expected 1 rows like Q, not 2"),
    ],
)
def test_recall_errors_name_both_values(retrieved, truth, keywords, error, message):
    if keywords == "vectors":
        keywords = {"X": np.eye(3), "Q": np.ones((1, 3)), "metric": "l2"}
    with pytest.raises(error, match=re.escape(message)):
        recall_per_query(retrieved, truth, **{"k": 1, **keywords})


@pytest.mark.parametrize("name", ["D_digits", "B_glove25", "A_minilm_wordnet"])
def test_exact_search_reproduces_independent_ground_truth(shared_data, name):
    data = read(shared_data / name)
    Q, truth = data.queries[:100], data.ground_truth[:100]
    ids, _ = exact_search(data.base, Q, 100, data.metric)
    for k in (1, 10, 100):
        pair = {"X": data.base, "Q": Q, "metric": data.metric}
        assert recall(ids[:, :k], truth, k, **pair) == 1.0
        assert recall(truth[:, :k], ids, k, **pair) == 1.0
