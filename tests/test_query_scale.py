"""Under ip the length of a query changes no order and its sign turns it round: codecs, bounds, indexes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from test_codec import SCORES, SPECS

from bqcore import ScanIndex, make_codec, search
from bqcore.projection import shares

K, DIM = 10, 32
#: A common mean, none (a codec may still have centroids), and rows whose lengths differ by a million.
OFFSETS = ["strong", "zero", "mixed norms"]
#: Where a query lies to the mean of the rows.
PLACES = ["natural", "across", "opposite"]
POWERS = [2.0**-20, 0.125, 2.0**20]
OTHERS = [0.03, 0.3, 7.0, 100.0]
#: Codes of queries that are not symmetric about zero: rounded between their extremes, or look-ups to 8 bits.
ASYMMETRIC = ("bbq", "pq(bits=1.5, code_bits=4, threshold=0.1, rotation=none, lut=uint8)", "median_binary")
SCANNED = [
    *("rabitq(bits=1)", "rabitq(bits=4, rotation=none)", "rabitq(bits=3)", "rabitq(bits=2, centroids=16)"),
    *("rabitq(bits=1, factors=uint8)", "saq(bits=1)", "saq(bits=2.5, centroids=4, factors=float32)"),
    "pq(bits=1, code_bits=4, centroids=7)",
]


@cache
def rows(offset):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(12, DIM))[rng.integers(12, size=600)] + 0.7 * rng.normal(size=(600, DIM))
    X += 2.0 if offset == "strong" else 0.0
    if offset == "zero":
        X -= X.mean(axis=0)
    if offset == "mixed norms":
        X *= 10 ** rng.uniform(-3, 3, size=(600, 1))
    return X.astype(np.float32)


@cache
def queries(offset, place):
    rng = np.random.default_rng(6)
    Q = rows("strong" if offset == "strong" else "zero")[:40] + 0.3 * rng.normal(size=(40, DIM))
    mean = rows(offset).mean(axis=0, dtype=np.float64)
    along = (Q @ mean / (mean @ mean))[:, np.newaxis] * mean
    return (Q - {"natural": 0, "across": 1, "opposite": 3}[place] * along).astype(np.float32)


@cache
def coded(spec, offset):
    codec = make_codec(spec, metric="ip").fit(rows(offset))
    return codec, codec.encode(rows(offset))


@cache
def index(spec, offset):
    return ScanIndex(*coded(spec, offset))


def truth(Q, offset):
    return -(Q.astype(np.float64) @ rows(offset).astype(np.float64).T)


def order(estimates):
    return np.argsort(estimates, axis=1, kind="stable")[:, :K]


def recall(ids, Q, offset):
    near = order(truth(Q, offset))
    return np.mean([len(set(a) & set(b)) / K for a, b in zip(ids.tolist(), near.tolist(), strict=True)])


def unit(Q):
    return (Q / np.linalg.norm(Q, axis=1, keepdims=True)).astype(np.float32)


def others(Q):
    """Queries at lengths that are no powers of two."""
    return [*(np.asarray(Q * np.float32(scale)) for scale in OTHERS), unit(Q)]


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("spec", SPECS)
def test_order_does_not_depend_on_the_length_of_a_query(spec, offset):
    codec, codes = coded(spec, offset)
    for place in PLACES:
        Q = queries(offset, place)
        first = codec.estimate(codes, Q)
        for power in POWERS:
            found = codec.estimate(codes, Q * np.float32(power))
            np.testing.assert_array_equal(order(found), order(first))
            if codec.codec not in SCORES:
                np.testing.assert_array_equal(found, first * np.float32(power))
        at_first = recall(order(first), Q, offset)
        for scaled in others(Q):
            assert recall(order(codec.estimate(codes, scaled)), Q, offset) >= at_first - 0.01, place


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("spec", SPECS)
def test_the_opposite_query_has_the_opposite_estimates(spec, offset):
    codec, codes = coded(spec, offset)
    for place in PLACES:
        Q = queries(offset, place)
        first, found = codec.estimate(codes, Q), codec.estimate(codes, -Q)
        if codec.codec not in SCORES and not spec.startswith(ASYMMETRIC):
            np.testing.assert_array_equal(found, -first)
        at_first = recall(order(found), -Q, offset)
        for scaled in others(-Q):
            assert recall(order(codec.estimate(codes, scaled)), -Q, offset) >= at_first - 0.01, place


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith(tuple(SCORES))])
def test_a_zero_query_is_as_far_from_every_row(spec, offset):
    codec, codes = coded(spec, offset)
    assert not codec.estimate(codes, np.zeros((2, DIM))).any()


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.startswith("rabitq")])
def test_bounds_grow_with_a_query_and_cover_at_every_length(spec, offset):
    codec, codes = coded(spec, offset)
    for place in PLACES:
        Q = queries(offset, place)
        first = codec.error_bound(codes, Q)
        for scale in (*POWERS, *OTHERS, -1.0):
            scaled = np.asarray(Q * np.float32(scale))
            bound = codec.error_bound(codes, scaled)
            # rounding to 8 bits depends on the last digit of the largest coordinate
            np.testing.assert_allclose(bound, first * abs(np.float32(scale)), rtol=1e-4)
            error = np.abs(codec.estimate(codes, scaled) - truth(scaled, offset))
            digits = 1e-6 * np.linalg.norm(scaled, axis=1)[:, None] * np.linalg.norm(rows(offset), axis=1)
            assert np.mean(error <= bound + digits) >= 0.92, (place, scale)
        found = [
            search(codec, codes, np.asarray(Q * np.float32(scale)), K, X=rows(offset), mode="bound", eps0=3.0)
            for scale in (1.0, *POWERS)
        ]
        for one in found:
            np.testing.assert_array_equal(one.ids, found[0].ids)
        assert recall(found[0].ids, Q, offset) >= 0.99


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("spec", SCANNED)
def test_scans_find_the_best_estimates_at_every_length_and_sign(spec, offset):
    codec, codes = coded(spec, offset)
    for place in PLACES:
        for sign in (1, -1):
            Q = sign * queries(offset, place)
            first = index(spec, offset).search(Q, K, eps0=np.inf)
            estimates = codec.estimate(codes, Q)
            best = np.take_along_axis(estimates, order(estimates), axis=1)
            lengths = np.linalg.norm(Q, axis=1) * np.linalg.norm(rows(offset), axis=1).max()
            assert (np.abs(first.distances - best) <= 1e-4 * lengths[:, np.newaxis]).all()
            fast = index(spec, offset).search(Q, K)
            for power in POWERS:
                scaled = Q * np.float32(power)
                found = index(spec, offset).search(scaled, K, eps0=np.inf)
                np.testing.assert_array_equal(found.ids, first.ids)
                np.testing.assert_array_equal(found.distances, first.distances * power)
                np.testing.assert_array_equal(index(spec, offset).search(scaled, K).ids, fast.ids)
            for scaled in others(Q):
                found = index(spec, offset).search(scaled, K)
                assert recall(found.ids, Q, offset) >= recall(fast.ids, Q, offset) - 0.01


def test_a_negative_weight_reads_no_more_codes():
    """Limits take the sign of the weight: with the other one they would hold back nothing, or too much."""
    few = {
        place: index("rabitq(bits=1)", "strong").search(queries("strong", place), K).n_estimated.mean()
        for place in PLACES
    }
    assert few["opposite"] <= 0.5 * len(rows("strong"))
    assert few["across"] <= 0.5 * len(rows("strong"))


def test_shares_leave_queries_orthogonal_and_are_zero_without_a_centroid():
    Q, c = queries("strong", "natural"), rows("strong").mean(axis=0)
    centroids = np.stack([c, np.zeros_like(c), 1e-20 * c])
    s = shares(Q, centroids)
    assert s.dtype == np.float32
    np.testing.assert_allclose((Q - s[:, :1] * c) @ c, 0, atol=1e-4)
    assert not s[:, 1:].any()
    np.testing.assert_array_equal(shares(-0.25 * Q, centroids), -0.25 * s)
