"""Sign and strong bit: popcounts against levels, and the constants of the theory."""

from __future__ import annotations

from math import erfc, exp, pi, sqrt

import numpy as np
import pytest

from bqcore import make_codec
from bqcore.sign_magnitude import SignMagnitude


def gaussian(n, dim, sigma=1.0, seed=0):
    return (np.random.default_rng(seed).standard_normal((n, dim)) * sigma).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 7, 8, 63, 64, 65, 130, 384])
def test_popcounts_equal_the_float_score(isa, dim):
    X = gaussian(50, dim)
    codec = SignMagnitude(centroids=0).fit(X)
    codes = codec.encode(X)
    strong = np.abs(X) > np.abs(X).mean(axis=1, keepdims=True)
    levels = np.where(X > 0, 1, -1) * (1 + strong)
    for row in (0, 49):
        agree = np.where((X > 0) == (X[row] > 0), 1, -1)
        weight = np.array([1, 2, 4])[strong.astype(int) + strong[row]]
        scores = codec.symmetric_scores(codes, row)
        np.testing.assert_array_equal(scores, (agree * weight).sum(axis=1))
        np.testing.assert_array_equal(scores, levels @ levels[row])
    np.testing.assert_array_equal(codec._values(codes.packed), levels)


def test_symmetric_estimates_are_the_scores_with_both_factors():
    X = gaussian(60, 40)
    codec = SignMagnitude(centroids=0, metric="ip", query="code").fit(X)
    codes = codec.encode(X)
    f = -codes.factors["f_rescale"]
    found = codec.estimate(codes, X[3])
    np.testing.assert_allclose(found, -f * f[3] * codec.symmetric_scores(codes, 3), rtol=1e-5, atol=1e-5)


def test_int8_queries_cost_little():
    X = gaussian(500, 64)
    exact, coarse = (SignMagnitude(metric="ip", query=query).fit(X) for query in ("float", "int8"))
    a, b = (codec.estimate(codec.encode(X), X[:20]) for codec in (exact, coarse))
    assert 0 < np.std(a - b) < 0.02 * np.std(a)


def test_estimates_are_unbiased():
    X = gaussian(2000, 128)
    codec = SignMagnitude(metric="ip", centroids=0).fit(X)
    estimates = -codec.estimate(codec.encode(X), X[:50]).ravel()
    truth = (X[:50] @ X.T).ravel()
    assert abs(estimates @ truth / (truth @ truth) - 1) < 0.01


def test_eta_on_gaussian_coordinates():
    X = gaussian(2000, 1024)
    codec = SignMagnitude(centroids=0).fit(X)
    values = codec._values(codec.encode(X).packed)
    assert abs(np.corrcoef(X.ravel(), values.ravel())[0, 1] - 0.9138) < 0.001


def pooled(sigma):
    """Correlation of a coordinate, any of them, with its sign and with its level, by the pooled model."""
    tau = sqrt(2 / pi)
    rms = sqrt(np.mean(sigma**2))
    t = tau * sigma.mean()
    c = [s * tau * (1 + exp(-(t**2) / (2 * s**2))) for s in sigma]
    v = [1 + 3 * erfc(t / (s * sqrt(2))) for s in sigma]
    return tau * sigma.mean() / rms, np.mean(c) / sqrt(np.mean(v)) / rms


def test_gain_of_the_strong_bit_follows_the_spread_of_variances():
    spreads = np.linspace(0, 0.1, 6)
    shape = np.linspace(-sqrt(3), sqrt(3), 4096)
    shape /= shape.std()
    gains = [np.subtract(*reversed(pooled(1 + cv * shape))) for cv in spreads]
    K, delta0 = np.polyfit(spreads**2, gains, 1)
    assert abs(delta0 - 0.1159) < 0.002
    assert abs(K - 0.088) < 0.003


@pytest.mark.parametrize("cv", [0.0, 0.1, 0.3])
def test_codes_gain_what_the_pooled_model_says(cv):
    dim = 2048
    sigma = 1 + cv * np.linspace(-sqrt(3), sqrt(3), dim)
    X = gaussian(1000, dim, sigma)
    codec = SignMagnitude(centroids=0).fit(X)
    values = codec._values(codec.encode(X).packed)
    for found, expected in zip((np.sign(values), values), pooled(sigma), strict=True):
        assert abs(np.corrcoef(X.ravel(), found.ravel())[0, 1] - expected) < 0.001


@pytest.mark.parametrize(("dim", "nbytes"), [(1, 2), (8, 2), (9, 4), (384, 96), (1000, 250)])
def test_bytes_are_two_planes_and_two_factors(dim, nbytes):
    codec = SignMagnitude().fit(gaussian(20, dim))
    assert codec.code_nbytes == nbytes
    assert codec.bytes_per_vector == nbytes + 8


def test_codes_are_the_same_on_every_isa(isa):
    X = gaussian(50, 70)
    for rotation in ("none", "hadamard"):
        codec = SignMagnitude(rotation=rotation, centroids=0).fit(X)
        scalar = make_codec(f"sign_magnitude(rotation={rotation}, centroids=0)").fit(X).encode(X)
        assert codec.encode(X).packed.tobytes() == scalar.packed.tobytes()


def test_equal_magnitudes_are_all_weak_and_decode_exactly():
    X = np.where(gaussian(10, 33) > 0, 2, -2).astype(np.float32)
    codec = SignMagnitude(centroids=0).fit(X)
    np.testing.assert_allclose(codec.decode(codec.encode(X)), X, rtol=1e-6)


def test_bad_parameters_are_refused():
    X = gaussian(20, 5)
    with pytest.raises(ValueError, match="query: expected one of float, int8, code, not 'int4'"):
        SignMagnitude(query="int4").fit(X)
    with pytest.raises(ValueError, match="rotation: expected one of none, hadamard, not 'dense'"):
        SignMagnitude(rotation="dense").fit(X)
    codec = SignMagnitude().fit(X)
    with pytest.raises(ValueError, match="row: expected 0 to 19, not 20"):
        codec.symmetric_scores(codec.encode(X), 20)
