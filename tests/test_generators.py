from __future__ import annotations

import numpy as np
import pytest

from bqcore.datasets import clustered, gaussian
from bqcore.evaluation import exact_search, recall


@pytest.mark.parametrize("generate", [gaussian, clustered])
def test_generators_repeat_their_seed(generate):
    first = generate(200, 12, n_queries=9, k=5, metric="cosine", random_state=7)
    again = generate(200, 12, n_queries=9, k=5, metric="cosine", random_state=7)
    other = generate(200, 12, n_queries=9, k=5, metric="cosine", random_state=8)
    np.testing.assert_array_equal(first.base, again.base)
    np.testing.assert_array_equal(first.queries, again.queries)
    assert (first.base != other.base).any()
    assert first.ground_truth.shape == (9, 5)
    pair = {"X": first.base, "Q": first.queries, "metric": "cosine"}
    assert (
        recall(exact_search(first.base, first.queries, 5, "cosine")[0], first.ground_truth, 5, **pair) == 1.0
    )


def test_ground_truth_of_a_small_base_has_n_columns():
    assert gaussian(3, 2, random_state=0).ground_truth.shape == (100, 3)


def test_clustered_has_the_spectrum_and_offset_asked_for():
    data = clustered(20_000, 32, spectrum_exponent=1.0, offset=2.0, within=1.0, k=1, random_state=1)
    X = data.base.astype(np.float64)
    assert np.linalg.norm(X.mean(axis=0)) == pytest.approx(2.0, rel=0.02)
    eigenvalues = np.linalg.eigvalsh(np.cov(X.T))[::-1]
    assert eigenvalues.sum() == pytest.approx(1.0, rel=0.02)
    np.testing.assert_allclose(eigenvalues / eigenvalues[0], 1 / np.arange(1, 33), rtol=0.08)


def test_clustered_rows_are_near_their_centres():
    data = clustered(500, 16, n_clusters=4, within=0.0, k=1, random_state=2)
    assert len(np.unique(data.base, axis=0)) == 4
    tight = clustered(500, 16, n_clusters=4, within=1e-6, k=1, random_state=2)
    distances = exact_search(tight.base, tight.queries, 10, "l2")[1]
    assert distances.max() < 1e-4


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"n": 0}, "n: expected at least 1, not 0"),
        ({"dim": 16_001}, "dim: expected 1 to 16000, not 16001"),
        ({"n_queries": 0}, "n_queries: expected at least 1, not 0"),
        ({"n_clusters": 0}, "n_clusters: expected at least 1, not 0"),
        ({"within": 1.5}, r"within: expected 0 to 1, not 1\.5"),
        ({"offset": -1.0}, r"offset: expected a finite number of at least 0, not -1\.0"),
        (
            {"spectrum_exponent": float("nan")},
            "spectrum_exponent: expected a finite number of at least 0, not nan",
        ),
        ({"metric": "manhattan"}, "expected 'l2', 'ip' or 'cosine', not 'manhattan'"),
        ({"random_state": -1}, r"random_state: expected an int in \[0, 2\*\*64\), not -1"),
        ({"k": 0}, "k: expected at least 1, not 0"),
    ],
)
def test_generator_errors_name_both_values(keywords, message):
    with pytest.raises(ValueError, match=message):
        clustered(**{"n": 10, "dim": 4, "random_state": 0, **keywords})
