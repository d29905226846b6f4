from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqcore import _kernels
from bqcore.anisotropic import (
    eta,
    eta_limit,
    loss,
    penalties,
    query_metric,
    score_aware_eta,
    unit_directions,
    update_codebooks,
    update_codewords,
)
from bqcore.codebooks import decode, split


def integral(power, angle):
    """Integral of (sin t / sin angle)**power from 0 to angle, by Gauss-Legendre on 40 pieces."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    edges = np.linspace(0, angle, 41)
    half = np.diff(edges)[:, np.newaxis] / 2
    t = (edges[:-1] + edges[1:])[:, np.newaxis] / 2 + half * nodes
    return float((half * weights * (np.sin(t) / np.sin(angle)) ** power).sum())


@pytest.mark.parametrize(
    ("dim", "exact", "limit"), [(100, 5.953, 4.125), (384, 17.94, 15.96), (1024, 44.66, 42.63)]
)
def test_eta_at_threshold_02(dim, exact, limit):
    assert eta(0.2, dim) == pytest.approx(exact, rel=5e-4)
    assert eta_limit(0.2, dim) == pytest.approx(limit, rel=5e-4)


@pytest.mark.parametrize("threshold", [1e-6, 0.01, 0.1, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("dim", [2, 3, 10, 99, 100, 599, 600, 2000, 16000])
def test_eta_is_the_ratio_of_the_integrals(dim, threshold):
    angle = math.acos(threshold)
    sine2 = math.sin(angle) ** 2
    lower, upper = integral(dim - 2, angle) / sine2, integral(dim, angle)
    # 1 + what the two differ by: the quotient of the definition cancels in many dimensions
    assert eta(threshold, dim) == pytest.approx((dim - 1) * (lower - upper) / upper, rel=1e-6)


def test_eta_scales_with_the_norm_and_is_1_at_threshold_0():
    assert eta(0.6, 50, norm=3.0) == pytest.approx(eta(0.2, 50), rel=1e-12)
    for dim in (2, 3, 384, 16000):
        assert eta(0, dim) == 1
        assert eta(1e-12, dim) == pytest.approx(1, abs=1e-9)
        parallel, perpendicular = penalties(0, dim)
        assert parallel == perpendicular > 0


def test_eta_approaches_its_limit():
    excess = [eta(0.3, dim) / eta_limit(0.3, dim) - 1 for dim in (50, 200, 1000, 5000, 16000)]
    assert excess == sorted(excess, reverse=True)
    assert 0 < excess[-1] < 2e-3


@settings(deadline=None)
@given(st.floats(0, 0.999), st.integers(2, 2000))
def test_parallel_penalty_is_never_below_the_perpendicular_one(threshold, dim):
    parallel, perpendicular = penalties(threshold, dim)
    assert parallel >= perpendicular >= 0
    if perpendicular > 1e-250:
        assert parallel / perpendicular == pytest.approx(eta(threshold, dim), rel=1e-9)
    assert eta(threshold, dim) >= 1


def test_eta_is_what_random_queries_above_the_threshold_see():
    dim, threshold = 12, 0.3
    Q = np.random.default_rng(0).standard_normal((2_000_000, dim)).astype(np.float32)
    Q /= np.linalg.norm(Q, axis=1, keepdims=True)
    counted = Q[Q[:, 0] >= threshold].astype(np.float64)
    found = np.square(counted[:, 0]).mean() / np.square(counted[:, 1:]).mean()
    assert eta(threshold, dim) == pytest.approx(found, rel=0.01)


def test_bad_thresholds_are_refused():
    for function in (eta, eta_limit, penalties):
        for bad in (-0.1, 1.0, math.nan):
            with pytest.raises(ValueError, match="threshold: expected 0 <= threshold < norm"):
                function(bad, 10)
        with pytest.raises(ValueError, match="dim: expected at least 2, not 1"):
            function(0.2, 1)
    assert score_aware_eta(None, 0.2, "cosine", 100) == eta(0.2, 100)
    assert score_aware_eta(3, 0.2, "ip", 100) == 3
    assert score_aware_eta(None, 0.2, "l2", 100) == score_aware_eta(None, 0.2, "ip", 1) == 1
    for given_eta, threshold, metric, text in [
        (0.5, 0.2, "ip", "eta: expected a finite number >= 1, not 0.5"),
        (math.inf, 0.2, "ip", "eta: expected a finite number >= 1, not inf"),
        (2, 0.2, "l2", "eta: expected 1 under l2"),
        (None, 1.0, "ip", "threshold: expected 0 <= threshold < 1, not 1.0"),
    ]:
        with pytest.raises(ValueError, match=text):
            score_aware_eta(given_eta, threshold, metric, 100)


def test_query_metric_is_the_second_moment_with_a_ridge():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(5000, 6)) * [3, 2, 1, 1, 0.5, 0] + 4).astype(np.float32)
    root = query_metric(X, 0.8)
    moment = X.T.astype(np.float64) @ X / len(X)
    expected = 0.2 * np.eye(6) + 0.8 * moment * 6 / X.var(axis=0, dtype=np.float64).sum()
    np.testing.assert_allclose(root @ root, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(root, root.T)
    np.testing.assert_allclose(query_metric(X, 0), np.eye(6), atol=1e-12)
    for few in (X[:1], np.repeat(X[:1], 5, axis=0)):
        np.testing.assert_allclose(query_metric(few, 0.8), np.eye(6), atol=1e-12)
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match="expected 0 <= query_weight < 1, not"):
            query_metric(X, bad)


def data(n=300, dim=13, seed=0):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, dim)) * np.linspace(2, 0.3, dim) + 0.7).astype(np.float32)
    X[:, 3] = 0  # a dead coordinate
    X[:, 4] = 1.5  # and one that is constant
    X[7] = 0  # a zero vector
    return X, unit_directions(X), rng.uniform(0, 20, n).astype(np.float32)


@pytest.mark.parametrize("n_codewords", [3, 8, 60])  # more and fewer rows per codeword than dims
def test_updated_codewords_are_the_minimum(n_codewords):
    X, U, weights = data()
    rng = np.random.default_rng(1)
    codes = rng.integers(n_codewords - 1, size=len(X))  # nobody chooses the last
    codewords = rng.normal(size=(n_codewords, X.shape[1])).astype(np.float32)
    found = update_codewords(codewords, X, U, weights, codes)
    np.testing.assert_array_equal(found[-1], codewords[-1])
    least = loss(X, U, weights, found[codes]).sum()
    assert least < loss(X, U, weights, codewords[codes]).sum()
    for scale in (1e-2, 1e-1):
        for _ in range(20):
            moved = (found + scale * rng.normal(size=found.shape)).astype(np.float32)
            assert loss(X, U, weights, moved[codes]).sum() > least
    np.testing.assert_allclose(found[np.unique(codes), 3], 0, atol=1e-6)


def test_without_weight_updates_are_means():
    X, U, weights = data()
    codes = np.random.default_rng(2).integers(5, size=len(X))
    flat = np.zeros_like(weights)
    means = np.stack([X[codes == k].mean(axis=0) for k in range(5)])
    found = update_codewords(np.ones((5, 13), dtype=np.float32), X, U, flat, codes)
    np.testing.assert_allclose(found, means, atol=1e-5)
    offsets, codebooks = split(13, 4), np.ones((13, 16), dtype=np.float32)
    sub_codes = np.repeat(codes[:, np.newaxis], 4, axis=1).astype(np.uint16)
    decoded = decode(codebooks, offsets, sub_codes)
    found = update_codebooks(codebooks, offsets, X, U, flat, sub_codes, decoded)
    np.testing.assert_allclose(found[:, :5].T, means, atol=1e-5)
    np.testing.assert_array_equal(found[:, 5:], 1)


def test_joint_update_of_one_subspace_is_the_closed_form():
    X, U, weights = data()
    rng = np.random.default_rng(3)
    codes = rng.integers(9, size=len(X))
    codewords = rng.normal(size=(16, 13)).astype(np.float32)
    closed = update_codewords(codewords, X, U, weights, codes)
    joint = update_codebooks(
        np.ascontiguousarray(codewords.T),
        split(13, 1),
        X,
        U,
        weights,
        codes[:, np.newaxis].astype(np.uint16),
        codewords[codes],
    )
    least, found = (loss(X, U, weights, c[codes]).sum() for c in (closed, joint.T))
    assert least * (1 - 1e-6) <= found <= least * 1.001


@pytest.mark.parametrize("n_subspaces", [2, 5, 13])
def test_neither_half_step_raises_the_loss_and_both_lower_it(n_subspaces):
    X, U, weights = data()
    offsets = split(13, n_subspaces)
    codebooks = np.random.default_rng(4).normal(size=(13, 16)).astype(np.float32)
    codes = _kernels.pq_assign(codebooks, offsets, X, U, weights, max_sweeps=0)
    losses = [loss(X, U, weights, decode(codebooks, offsets, codes)).sum()]
    for _ in range(6):
        codes = _kernels.pq_assign(codebooks, offsets, X, U, weights, start=codes, max_sweeps=10)
        decoded = decode(codebooks, offsets, codes)
        losses.append(loss(X, U, weights, decoded).sum())
        codebooks = update_codebooks(codebooks, offsets, X, U, weights, codes, decoded)
        losses.append(loss(X, U, weights, decode(codebooks, offsets, codes)).sum())
    falls = np.diff(losses) / losses[0]
    assert falls.max() <= 1e-6
    assert losses[-1] < 0.7 * losses[0]


def test_joint_update_solves_the_normal_equations():
    X, U, weights = data(n=200)
    offsets, rng = split(13, 3), np.random.default_rng(5)
    codes = rng.integers(4, size=(200, 3)).astype(np.uint16)
    codebooks = np.zeros((13, 16), dtype=np.float32)
    found = codebooks
    for _ in range(10):  # as many conjugate gradients as it takes
        found = update_codebooks(found, offsets, X, U, weights, codes, decode(found, offsets, codes))
    sub = np.repeat(np.arange(3), np.diff(offsets))
    B = np.zeros((200, 13, 13 * 16))
    for i in range(200):
        B[i, np.arange(13), np.arange(13) * 16 + codes[i, sub]] = 1
    H = np.eye(13) + weights[:, None, None] * U[:, :, None] * U[:, None, :]
    matrix = np.einsum("iab,iac,icd->bd", B, H, B, optimize=True)
    rhs = np.einsum("iab,iac,ic->b", B, H, X, optimize=True)
    exact = np.linalg.lstsq(matrix, rhs, rcond=None)[0].reshape(13, 16)
    np.testing.assert_allclose(found, exact, atol=2e-3)
