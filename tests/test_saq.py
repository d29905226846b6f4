"""SAQ: exact budgets, the trellis' error, what factors and neighbours are worth, recall on real text."""

from __future__ import annotations

import numpy as np
import pytest

from bqcore._products import Columns
from bqcore._trellis import Trellis
from bqcore.allocation import DISTORTION, allocate
from bqcore.axes import Expectation, expectation, fit_axes, near_pairs
from bqcore.rabitq import RaBitQ
from bqcore.saq import SAQ


def spectrum(n: int = 3000, dim: int = 48, seed: int = 0) -> np.ndarray:
    """Rows around 20 centres whose coordinates' deviations fall as 1 / i in a random basis."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    centres = rng.normal(size=(20, dim))
    rows = (centres[rng.integers(20, size=n)] + rng.normal(size=(n, dim))) / (1 + np.arange(dim) / 4)
    return (rows @ basis + 0.3).astype(np.float32)


def recall(found: np.ndarray, exact: np.ndarray, k: int = 10) -> float:
    best = np.argsort(exact, axis=1)[:, :k]
    top = np.argsort(found, axis=1)[:, :k]
    return float(np.mean([len(np.intersect1d(f, b)) / k for f, b in zip(top, best, strict=True)]))


def l2(Q: np.ndarray, X: np.ndarray) -> np.ndarray:
    return np.square(Q).sum(1)[:, None] + np.square(X).sum(1) - 2 * Q @ X.T


def expected_error(known: Expectation, axes: np.ndarray, levels: np.ndarray, o: np.ndarray) -> np.ndarray:
    """E<q - c, decoded o - o> for queries q near rows o with these coordinates and levels."""
    rest = np.square(o).sum(1) - np.square(axes) @ known.lengths
    return np.sum(known.share * axes * (levels - axes), axis=1) - known.dropped * np.maximum(rest, 0)


@pytest.mark.parametrize("bits", range(1, 9))
def test_distortion_of_a_gaussian_axis_is_what_bits_are_allocated_by(bits):
    rows = np.random.default_rng(bits).normal(size=(400, 300)).astype(np.float32)
    trellis = Trellis(np.full(300, bits, np.uint8), np.ones(300, np.float32), 300)
    _, levels, rescale = trellis.encode(rows, 2)
    # the best scale of the levels, not the one that keeps the norm
    scale = (rows * levels).sum(1) / np.square(levels).sum(1)
    error = np.mean(np.square(levels * scale[:, None] - rows))
    assert error == pytest.approx(DISTORTION[bits], rel=0.05)
    np.testing.assert_allclose(
        rescale * np.linalg.norm(levels, axis=1), np.linalg.norm(rows, axis=1), rtol=1e-5
    )


@pytest.mark.parametrize("budget", [0, 1, 7, 64, 100, 511, 512, 4000])
def test_allocation_is_the_best_one_within_the_budget(budget):
    rng = np.random.default_rng(budget)
    sizes = np.array([8, 8, 8, 4])
    variance = np.sort(rng.exponential(size=4))[::-1] * sizes
    bits = allocate(variance, sizes, budget)
    assert (bits * sizes).sum() <= budget
    grid = np.stack(np.meshgrid(*[np.arange(9)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    grid = grid[(grid * sizes).sum(1) <= budget]
    errors = np.asarray(DISTORTION)[grid] @ variance
    assert np.asarray(DISTORTION)[bits] @ variance == pytest.approx(errors.min(), rel=1e-12)


@pytest.mark.parametrize("bits", [0.5, 1, 1.5, 2.5, 4, 8])
@pytest.mark.parametrize(("factors", "both"), [("pair", 1), ("uint8", 2), ("bfloat16", 4), ("float32", 8)])
def test_bytes_are_the_budget_and_two_factors(bits, factors, both):
    codec = SAQ(bits=bits, factors=factors).fit(spectrum(300))
    assert codec.code_nbytes == 48 * bits / 8
    assert codec.bytes_per_vector == codec.code_nbytes + both
    assert codec.axis_bits_.sum() <= 8 * codec.code_nbytes


def test_axes_are_inverse_and_decorrelated():
    X = spectrum()
    rng = np.random.default_rng(0)
    residuals = X - X.mean(0)
    axes = fit_axes(residuals, near_pairs(X, "l2", rng), np.broadcast_to(X.mean(0), X.shape), 96, 8, rng)
    np.testing.assert_allclose(axes.back @ axes.forward, np.eye(len(axes.bits)), atol=1e-4)
    assert np.all(np.diff(axes.bits.astype(int)) <= 0)
    moments = np.cov((residuals @ axes.forward).T)
    segments = np.arange(len(moments)) // 8
    apart = segments[:, None] != segments
    scale = np.sqrt(np.outer(moments.diagonal(), moments.diagonal()))
    assert np.abs(moments / scale)[apart].max() < 0.02


def test_expectation_removes_the_error_that_near_queries_share():
    X = spectrum(6000)
    rng = np.random.default_rng(1)
    mean = np.broadcast_to(X.mean(0), X.shape)
    pairs = near_pairs(X, "l2", rng)
    centroids = mean[: len(pairs.rows)]
    axes = fit_axes(X - mean, pairs, centroids, 48, 8, rng)
    known = expectation(pairs, centroids, axes)
    o = pairs.rows - centroids
    coordinates = o @ axes.forward
    _, levels, rescale = Trellis(axes.bits, axes.deviation, 6).encode(np.ascontiguousarray(coordinates), 2)
    levels *= rescale[:, None]
    error = levels @ axes.back - o
    expected = expected_error(known, coordinates, levels, o)
    queries = pairs.rows[: len(pairs.near), None] - centroids[0]
    actual = np.einsum("ijk,ijk->ij", np.broadcast_to(queries, (*pairs.near.shape, 48)), error[pairs.near])
    assert np.mean(actual - expected[pairs.near]) == pytest.approx(0, abs=0.05 * float(np.std(actual)))
    assert np.var(actual - expected[pairs.near]) < 0.9 * np.var(actual)


def test_products_do_not_depend_on_the_rows_beside_them():
    rng = np.random.default_rng(3)
    rows, matrix = rng.normal(size=(131, 77)).astype(np.float32), rng.normal(size=(77, 53)).astype(np.float32)
    columns = Columns(matrix)
    whole = columns.product(rows)
    error = (whole - rows @ matrix) / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(matrix, axis=0)
    assert np.sqrt(np.mean(np.square(error))) == pytest.approx(1.25e-5, rel=0.1)
    assert np.array_equal(
        np.concatenate([columns.product(rows[:50]), columns.product(rows[50:])]),
        whole,
    )
    with pytest.raises(ValueError, match=r"X: expected contiguous rows of 77 float32, not .*\(131, 76\)"):
        columns.product(np.ascontiguousarray(rows[:, 1:]))


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("centroids", [1, 7])
def test_codes_and_factors_are_those_of_the_definition(metric, centroids):
    X = spectrum(2000)
    codec = SAQ(bits=2, centroids=centroids, factors="float32", metric=metric).fit(X)
    X = codec.as_coded(X)
    codes = codec.encode(X)
    c = codec.centroids_[codec._lists(codes)]
    distances = np.square(X[:, None] - codec.centroids_).sum(-1)
    own = np.square(X - c).sum(1)
    np.testing.assert_allclose(own, distances.min(1), rtol=1e-3)
    o = X - c
    axes = o @ codec.forward_
    packed, levels, rescale = codec._trellis.encode(np.ascontiguousarray(axes), 2)
    # a product's rounding may turn the search to another path: in few rows
    alike = (packed == codes.packed).all(1)
    assert alike.mean() > 0.95
    np.testing.assert_allclose(codes.factors["f_rescale"][alike], rescale[alike], rtol=1e-4)
    levels = levels * rescale[:, None]
    known = Expectation(codec.axis_share_, codec.axis_length_, codec.dropped_share_)
    f_add = expected_error(known, axes, levels, o)
    if metric == "l2":
        f_add = own - np.square(levels) @ codec.axis_length_ + 2 * f_add
    else:
        f_add += np.sum(levels * (c @ codec.back_.T), axis=1) - np.sum(o * c, axis=1)
    np.testing.assert_allclose(codes.factors["f_add"][alike], f_add[alike], atol=2e-4 * float(own.max()))


def test_nothing_is_expected_of_a_part_that_is_not_dropped():
    codec = SAQ(bits=8).fit(spectrum(300))
    assert len(codec.axis_bits_) == 48
    assert codec.dropped_share_ == 0


@pytest.mark.parametrize(("metric", "centroids"), [("l2", 1), ("l2", 8), ("ip", 8), ("cosine", 1)])
def test_a_byte_of_both_factors_beats_two_bytes_at_equal_size(metric, centroids):
    X = spectrum(6000)
    Q, X = X[:300], X[300:]
    floats = SAQ(bits=1, factors="float32", metric=metric, centroids=centroids).fit(X)
    pair = SAQ(bits=1, factors="pair", metric=metric, centroids=centroids).fit(X)
    two = SAQ(bits=5 / 6, metric=metric, centroids=centroids).fit(X)
    assert pair.bytes_per_vector == two.bytes_per_vector == 7 + (centroids > 1)
    exact = -(pair.as_coded(Q) @ pair.as_coded(X).T) if metric != "l2" else l2(Q, X)
    found = [recall(c.estimate(c.encode(X), Q), exact) for c in (two, pair, floats)]
    assert found[1] > found[0]
    assert found[1] > found[2] - 0.01


def test_pairs_do_not_depend_on_neighbours_and_survive_a_file(tmp_path):
    X = spectrum(1500)
    X[:40] = X.mean(axis=0)
    codec = SAQ(bits=1, factors="pair").fit(X)
    codes = codec.encode(X)
    assert len(codec.factor_pairs_) <= 256
    for rows in (slice(0, 1), slice(700, 733)):
        alone = codec.encode(X[rows])
        assert np.array_equal(alone.packed, codes.packed[rows])
        assert np.array_equal(alone.factors, codes.factors[rows])
    codec.save(tmp_path / "model.npz")
    again = SAQ.load(tmp_path / "model.npz")
    assert np.array_equal(again.estimate(codes, X[:5]), codec.estimate(codes, X[:5]))
    one = SAQ(bits=1, factors="pair").fit(X[:1])
    assert one.decode(one.encode(X[:1])) == pytest.approx(X[:1], abs=1e-5)
    assert np.isfinite(one.estimate(one.encode(X), X[:3])).all()


def test_rows_too_large_for_factors_are_refused():
    codec = SAQ(bits=1).fit(spectrum(300))
    X = spectrum(20)
    X[7] *= 1e30
    with pytest.raises(ValueError, match="X: row 7: vector too large: its factors overflow float32"):
        codec.encode(X)


def test_more_bits_more_recall_and_small_factors_lose_little():
    X = spectrum(4000)
    Q, X = X[:100], X[100:]
    exact, found = l2(Q, X), {}
    for bits in (0.5, 1, 2, 4, 8):
        for factors in ("uint8", "float32"):
            codec = SAQ(bits=bits, factors=factors).fit(X)
            found[bits, factors] = recall(codec.estimate(codec.encode(X), Q), exact)
    floats = [found[bits, "float32"] for bits in (0.5, 1, 2, 4, 8)]
    assert floats == sorted(floats)
    assert floats[-1] > 0.98
    for bits in (0.5, 1, 2):
        assert found[bits, "uint8"] > found[bits, "float32"] - 0.02


def test_estimates_are_the_decoded_distance_and_a_term_of_the_row():
    X = spectrum(500)
    Q = spectrum(20, seed=9)
    codec = SAQ(bits=2, centroids=8, factors="float32").fit(X)
    codes = codec.encode(X)
    rest = codec.estimate(codes, Q) - l2(Q, codec.decode(codes))
    np.testing.assert_allclose(rest, np.broadcast_to(codes.factors["f_add"], rest.shape), atol=1e-3)


def test_recall_on_text_is_above_that_of_rabitq(shared_data):
    folder = shared_data / "A_minilm_wordnet"
    X, Q = (np.load(folder / name).astype(np.float32) for name in ("base.npy", "query.npy"))
    X, Q = X[:20_000], Q[:200]
    X, Q = X / np.linalg.norm(X, axis=1, keepdims=True), Q / np.linalg.norm(Q, axis=1, keepdims=True)
    figures = {}
    for codec in (SAQ(bits=1, metric="cosine"), RaBitQ(bits=1, metric="cosine")):
        codec.fit(X)
        figures[codec.codec] = recall(codec.estimate(codec.encode(X), Q), -Q @ X.T)
    assert figures["saq"] > figures["rabitq"] + 0.05
    assert figures["saq"] > 0.8
