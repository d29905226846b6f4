"""Median-threshold codes: balanced bits, exact Hamming distances, and the score's definition."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import log2

import numpy as np
import pytest

from bqcore.median_binary import MedianBinary


def skewed(n=500, dim=70, seed=0):
    return np.random.default_rng(seed).lognormal(size=(n, dim)).astype(np.float32)


def bits_of(codec, X):
    return np.unpackbits(codec.encode(X).packed, axis=1, count=codec.dim_, bitorder="little")


@pytest.mark.parametrize("rotation", ["none", "hadamard"])
def test_every_bit_is_balanced(rotation):
    X = skewed()
    np.testing.assert_array_equal(bits_of(MedianBinary(rotation=rotation).fit(X), X).sum(axis=0), 250)


@pytest.mark.parametrize("dim", [1, 7, 8, 63, 64, 65, 200])
def test_hamming_is_the_count_of_differing_bits(isa, dim):
    X = skewed(dim=dim)
    codec = MedianBinary().fit(X)
    bits = bits_of(codec, X)
    expected = (bits[:9, np.newaxis] != bits).sum(axis=2)
    np.testing.assert_array_equal(codec.estimate(codec.encode(X), X[:9]), expected)


def its(q, x):
    n, information = len(q), 0.0
    for i in (0, 1):
        for j in (0, 1):
            both = np.sum((q == i) & (x == j))
            if both:
                information += both * log2(both * n / (np.sum(q == i) * np.sum(x == j)))
    p = q.mean()
    entropy = -n * (p * log2(p) + (1 - p) * log2(1 - p))
    return np.sign(np.corrcoef(q, x)[0, 1]) * information / entropy


def test_its_is_the_signed_share_of_the_querys_information():
    X = skewed(80, dim=40)
    codec = MedianBinary(score="its").fit(X)
    bits = bits_of(codec, X).astype(int)
    expected = [[1 - its(bits[i], bits[j]) for j in range(80)] for i in range(5)]
    np.testing.assert_allclose(codec.estimate(codec.encode(X), X[:5]), expected, atol=1e-5)


def test_its_of_a_code_with_itself_is_the_least_and_with_its_opposite_the_greatest():
    X = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
    X = np.concatenate([X, -X])
    codec = MedianBinary(score="its").fit(X)
    found = codec.estimate(codec.encode(X), X[:10])
    assert found.min() > -1e-6
    assert found.max() < 2 + 1e-6
    for i in range(10):
        assert found[i].argmin() == i
        assert found[i].argmax() == i + 400
        np.testing.assert_allclose(found[i, [i, i + 400]], [0, 2], atol=1e-6)


def test_its_orders_codes_of_equally_many_ones_as_hamming_does():
    X = skewed(2000, dim=32)
    hamming, score = (MedianBinary(score=s).fit(X) for s in ("hamming", "its"))
    codes = hamming.encode(X)
    ones = np.unpackbits(codes.packed, axis=1).sum(axis=1)
    same = np.flatnonzero(ones == 16)
    assert len(same) > 100
    a = hamming.estimate(codes, X[0])[same]
    b = score.estimate(score.encode(X), X[0])[same]
    order = np.argsort(a, kind="stable")
    assert (np.diff(b[order]) >= -1e-6).all()


def test_a_query_of_equal_bits_is_scored_by_hamming():
    X = skewed()
    codec = MedianBinary(score="its").fit(X)
    codes = codec.encode(X)
    expected = 2 * (bits_of(codec, X) == 0).sum(axis=1) / 70
    np.testing.assert_allclose(codec.estimate(codes, np.full(70, 1e6)), expected, rtol=1e-6)


@pytest.mark.parametrize("score", ["hamming", "its"])
def test_results_are_the_same_in_every_thread_and_on_every_isa(isa, score):
    X, Q = skewed(), skewed(40, seed=1)
    codec = MedianBinary(score=score).fit(X)
    codes = codec.encode(X)
    together = codec.estimate(codes, Q)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda q: codec.estimate(codes, q), Q))
    assert np.stack(alone).tobytes() == together.tobytes()
    assert codec.encode(X).packed.tobytes() == codes.packed.tobytes()


def test_nothing_is_stored_beside_the_code():
    codec = MedianBinary().fit(skewed(dim=65))
    assert codec.factors_dtype.itemsize == 0
    assert codec.bytes_per_vector == codec.code_nbytes == 9


def test_decoded_vectors_are_the_means_of_both_sides():
    X = skewed()
    codec = MedianBinary().fit(X)
    decoded = codec.decode(codec.encode(X))
    np.testing.assert_allclose(decoded.mean(axis=0), X.mean(axis=0), rtol=1e-4)
    above = X[:, 0] > np.median(X[:, 0])
    np.testing.assert_allclose(decoded[above, 0], X[above, 0].mean(), rtol=1e-4)


def test_the_median_beats_zero_as_a_threshold_where_coordinates_have_a_mean():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 64))
    X = (centres[rng.integers(40, size=2000)] + 0.7 * rng.normal(size=(2000, 64)) + 1).astype(np.float32)
    codec = MedianBinary().fit(X)
    truth = np.square(X[:50, np.newaxis] - X).sum(axis=2)

    def share_found(distances):
        nearest = [np.argsort(d, axis=1, kind="stable")[:, :50] for d in (distances, truth)]
        return np.mean([len(set(a) & set(b)) for a, b in zip(*nearest, strict=True)]) / 50

    zero = ((X[:50, np.newaxis] > 0) != (X > 0)).sum(axis=2)
    assert share_found(codec.estimate(codec.encode(X), X[:50])) > share_found(zero) + 0.02


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="score: expected one of hamming, its, not 'mib'"):
        MedianBinary(score="mib").fit(skewed())
