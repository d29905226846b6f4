"""Statistics of the estimate: unbiased, and within its bound as often as the theorem says."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from bqcore import RaBitQ

METRICS = ["l2", "ip", "cosine"]
BITS = [1, 2, 4, 8]
QUERY_BITS = [4, 8, 32]
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
    slopes = {query_bits: [] for query_bits in QUERY_BITS}
    covered = {(query_bits, eps0): [] for query_bits in QUERY_BITS for eps0 in COVERAGE}
    for seed in range(2):
        quantizer = RaBitQ(bits=bits, metric=metric, random_state=seed).fit(X)
        codes = quantizer.encode(X)
        for query_bits in QUERY_BITS:
            estimate = quantizer.estimate(codes, Q, query_bits=query_bits).astype(np.float64)
            slopes[query_bits].append(np.polyfit(truth.ravel(), estimate.ravel(), 1)[0])
            unit = quantizer.error_bound(codes, Q, eps0=1.0, query_bits=query_bits)
            for eps0 in COVERAGE:
                covered[query_bits, eps0].append(np.mean(np.abs(estimate - truth) <= eps0 * unit))
    for query_bits in QUERY_BITS:
        assert np.mean(slopes[query_bits]) == pytest.approx(1.0, abs=0.005), query_bits
    for (query_bits, eps0), shares in covered.items():
        assert np.mean(shares) >= COVERAGE[eps0] - 0.005, (query_bits, eps0)
        # From above too: a bound that is too wide covers everything and prunes nothing. Under ip the error of
        # 8-bit codes is taken as that of dim 1,024: too wide below, where no rounding of queries hides it.
        if not (metric == "ip" and bits == 8 and query_bits == 32 and X.shape[1] < 384):
            assert np.mean(shares) <= min(COVERAGE[eps0] + 0.06, 0.9995), (query_bits, eps0)


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
@pytest.mark.parametrize("query_bits", QUERY_BITS)
def test_root_mean_square_error_is_the_one_the_cosine_and_the_query_predict(gaussian, bits, query_bits):
    X, Q = gaussian[384]
    quantizer = RaBitQ(bits=bits).fit(X)
    found = quantizer.estimate(quantizer.encode(X), Q, query_bits=query_bits).astype(np.float64)
    lengths = (
        np.linalg.norm(X - quantizer.centroid_, axis=1)
        * np.linalg.norm(Q - quantizer.centroid_, axis=1)[:, None]
    )
    error = np.sqrt(np.mean(((found - reference.distances(X, Q, "l2")) / (2 * lengths)) ** 2))
    cosine = {1: reference.mean_cosine(384), 2: 0.93915, 4: 0.9945, 8: 0.999975}[bits]
    # steps of the query's largest coordinate / top, about 3.2 / sqrt(384) of its length
    step = 0.0 if query_bits == 32 else 3.2 / np.sqrt(384) / (2 ** (query_bits - 1) - 1)
    expected = np.hypot(np.sqrt((1 / cosine**2 - 1) / 383), step / np.sqrt(12) / cosine)
    assert error == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("dim", [128, 384, 1024, "minilm"])
def test_rounding_of_queries_adds_little_to_the_error_of_one_bit_codes(gaussian, dim, request):
    X, Q = request.getfixturevalue("minilm") if dim == "minilm" else gaussian[dim]
    truth = reference.distances(X, Q, "l2")
    quantizer = RaBitQ().fit(X)
    codes = quantizer.encode(X)
    estimates = {b: quantizer.estimate(codes, Q, query_bits=b).astype(np.float64) for b in QUERY_BITS}
    code_error = np.std(estimates[32] - truth)
    # in quadrature: a fifth to a quarter of the code's own error makes 2 to 3 % of it
    assert 0.17 <= np.std(estimates[4] - estimates[32]) / code_error <= 0.25
    assert np.std(estimates[4] - truth) / code_error <= 1.035
    assert np.std(estimates[8] - estimates[32]) / code_error <= 0.014
    assert np.std(estimates[8] - truth) / code_error <= 1.001
