"""Statistics of the estimate: unbiased, and within its bound as often as the theorem says."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from bqcore import RaBitQ

METRICS = ["l2", "ip", "cosine"]
BITS = [1, 2, 4, 8]
#: Share of a Gaussian within eps0 standard deviations.
COVERAGE = {1.0: 0.683, 1.9: 0.943, 2.5: 0.988, 3.0: 0.998}
N, N_QUERIES = 2000, 100


@pytest.fixture(scope="module")
def gaussian():
    """Vectors and queries near some of them, so that distances vary, by dim."""
    made = {}
    for dim in (128, 384, 1024):
        rng = np.random.default_rng(dim)
        X = rng.standard_normal((N, dim)).astype(np.float32)
        Q = X[:N_QUERIES] + rng.standard_normal((N_QUERIES, dim)).astype(np.float32)
        made[dim] = X, Q
    return made


@pytest.fixture(scope="module")
def minilm(shared_data):
    folder = shared_data / "A_minilm_wordnet"
    X = np.load(folder / "base.npy", mmap_mode="r")[:5000].astype(np.float32)
    Q = np.load(folder / "query.npy")[:N_QUERIES].astype(np.float32)
    return X, Q


def check_statistics(X, Q, bits, metric):
    truth = reference.distances(X, Q, metric)
    slopes, covered = [], {eps0: [] for eps0 in COVERAGE}
    for seed in range(2):
        quantizer = RaBitQ(bits=bits, metric=metric, random_state=seed).fit(X)
        codes = quantizer.encode(X)
        estimate = quantizer.estimate(codes, Q).astype(np.float64)
        slopes.append(np.polyfit(truth.ravel(), estimate.ravel(), 1)[0])
        for eps0, shares in covered.items():
            shares.append(np.mean(np.abs(estimate - truth) <= quantizer.error_bound(codes, Q, eps0=eps0)))
    assert np.mean(slopes) == pytest.approx(1.0, abs=0.005)
    for eps0, expected in COVERAGE.items():
        # from above as well: a bound that is too wide covers everything and prunes nothing
        assert expected - 0.005 <= np.mean(covered[eps0]) <= min(expected + 0.06, 0.9995), eps0


@pytest.mark.parametrize("dim", [128, 384, 1024])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_estimates_of_gaussian_vectors_are_unbiased_and_covered(gaussian, dim, bits, metric):
    check_statistics(*gaussian[dim], bits, metric)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_estimates_of_text_vectors_are_unbiased_and_covered(minilm, bits, metric):
    check_statistics(*minilm, bits, metric)


@pytest.mark.parametrize("bits", BITS)
def test_root_mean_square_error_is_the_one_the_cosine_predicts(gaussian, bits):
    X, Q = gaussian[384]
    quantizer = RaBitQ(bits=bits).fit(X)
    found = quantizer.estimate(quantizer.encode(X), Q).astype(np.float64)
    lengths = (
        np.linalg.norm(X - quantizer.centroid_, axis=1)
        * np.linalg.norm(Q - quantizer.centroid_, axis=1)[:, None]
    )
    error = np.sqrt(np.mean(((found - reference.distances(X, Q, "l2")) / (2 * lengths)) ** 2))
    cosine = {1: reference.mean_cosine(384), 2: 0.93915, 4: 0.9945, 8: 0.999975}[bits]
    # the query's 8 bits: steps of its largest coordinate / 127, about 3 / sqrt(384) of its length
    rounding = 3 / np.sqrt(384) / 127 / np.sqrt(12)
    assert error == pytest.approx(np.hypot(np.sqrt((1 / cosine**2 - 1) / 383), rounding), rel=0.05)
