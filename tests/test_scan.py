from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqcore import RaBitQ, ScanIndex, Tier, _kernels, scan
from bqcore.evaluation import exact_search, recall
from bqcore.pq import PQ
from bqcore.saq import SAQ

METRICS = ["l2", "ip", "cosine"]


@pytest.fixture(scope="module")
def clusters():
    """1,500 vectors in 15 clusters of unequal axes, and 70 queries like them."""
    rng = np.random.default_rng(0)
    axes = rng.lognormal(sigma=0.5, size=60)
    centres = 3 * rng.standard_normal((15, 60)) * axes
    points = centres[rng.integers(15, size=1570)] + rng.standard_normal((1570, 60)) * axes
    return points[:1500].astype(np.float32), points[1500:].astype(np.float32)


def made(codec, X):
    codec.fit(X)
    codes = codec.encode(X)
    return codec, codes, ScanIndex(codec, codes)


def best(estimates, k):
    return np.argsort(estimates, axis=1, kind="stable")[:, :k]


def agrees(index, Q, k, expected, estimates, **options):
    """At eps0 = inf a search is a sort of the estimates, up to their rounding."""
    found = index.search(Q, k, eps0=np.inf, **options)
    scale = np.abs(estimates[np.isfinite(estimates)]).max()
    own = np.take_along_axis(estimates, np.maximum(found.ids, 0), axis=1)
    np.testing.assert_allclose(found.distances, own, atol=2e-5 * scale)
    np.testing.assert_allclose(own, np.take_along_axis(estimates, expected, axis=1), atol=4e-5 * scale)
    assert np.mean(found.ids == expected) >= 0.99


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("centroids", [1, 7])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_rabitq_without_loss_is_a_sort_of_estimates(clusters, bits, centroids, metric):
    X, Q = clusters
    codec, codes, index = made(RaBitQ(bits=bits, metric=metric, centroids=centroids), X)
    estimates = codec.estimate(codes, Q)
    agrees(index, Q, 20, best(estimates, 20), estimates)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("centroids", [1, 7])
@pytest.mark.parametrize("bits", [0.5, 1, 2, 4])
def test_saq_without_loss_is_a_sort_of_estimates(clusters, bits, centroids, metric):
    X, Q = clusters
    codec, codes, index = made(SAQ(bits=bits, metric=metric, centroids=centroids), X)
    estimates = codec.estimate(codes, Q)
    agrees(index, Q, 20, best(estimates, 20), estimates)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("centroids", [1, 5])
def test_pq_without_loss_is_a_sort_of_estimates(clusters, centroids, metric):
    X, Q = clusters
    codec, codes, index = made(
        PQ(code_bits=4, subspaces=25, rotation="none", centroids=centroids, metric=metric), X
    )
    estimates = codec.estimate(codes, Q)
    agrees(index, Q, 20, best(estimates, 20), estimates)


def test_pq_of_8_bits_is_refused(clusters):
    codec = PQ(subspaces=4).fit(clusters[0][:500])
    with pytest.raises(ValueError, match=r"^expected pq with code_bits 4, not 8$"):
        ScanIndex(codec, codec.encode(clusters[0][:500]))


@settings(deadline=None, max_examples=40)
@given(
    dim=st.integers(1, 200),
    n=st.integers(1, 150),
    bits=st.integers(1, 8),
    metric=st.sampled_from(METRICS),
    saq=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_size_finds_the_best_estimates(dim, n, bits, metric, saq, seed):
    rng = np.random.default_rng(seed)
    X, Q = rng.normal(size=(n, dim)).astype(np.float32) + 1, rng.normal(size=(3, dim)).astype(np.float32)
    codec, codes, index = made((SAQ if saq else RaBitQ)(bits=bits, metric=metric), X)
    estimates = codec.estimate(codes, Q)
    k = min(n, 1 + seed % 20)
    found = index.search(Q, k, eps0=np.inf)
    expected = np.take_along_axis(estimates, best(estimates, k), axis=1)
    # distances of zero are differences of such terms
    terms = (np.linalg.norm(X, axis=1).max() + np.linalg.norm(Q, axis=1).max()) ** 2
    atol = 1e-4 * np.abs(estimates).max() + 1e-6 * terms
    if not saq:  # estimate() rounds the query, the last stage does not: dim errors of step / sqrt(12)
        step = np.linalg.norm(Q - X.mean(axis=0), axis=1).max() / 127
        atol += 5 * step * np.sqrt(dim / 12) * np.abs(codes.factors["f_rescale"]).max()
    np.testing.assert_allclose(found.distances, expected, atol=atol)
    for ids in found.ids:
        assert len(set(ids)) == k


@pytest.mark.parametrize(("bits", "same"), [(1, 0.99), (4, 0.97)])
def test_default_bound_loses_little_and_reads_few(shared_data, bits, same):
    folder = shared_data / "A_minilm_wordnet"
    X, Q = (np.load(folder / f"{name}.npy")[:20_000].astype(np.float32) for name in ("base", "query"))
    codec, codes, index = made(RaBitQ(bits=bits, metric="cosine"), X)
    found = index.search(Q[:200], 10)
    assert recall(found.ids, best(codec.estimate(codes, Q[:200]), 10), 10) >= same
    assert found.n_estimated.mean() <= 0.01 * len(X)


@pytest.mark.parametrize("factors", ["uint8", "bfloat16"])
def test_stored_factors_are_read_as_floats(clusters, factors):
    X, Q = clusters
    codec, codes, index = made(RaBitQ(bits=2, factors=factors), X)
    estimates = codec.estimate(codes, Q)
    agrees(index, Q, 20, best(estimates, 20), estimates)


@pytest.mark.parametrize(
    "codec", [RaBitQ(), RaBitQ(bits=3, centroids=3), SAQ(bits=1), SAQ(bits=2, metric="ip")]
)
def test_an_index_survives_a_new_fit_of_its_codec(clusters, codec):
    X, Q = clusters
    _, _, index = made(codec, X)
    before = index.search(Q, 10)
    codec.fit(X[:400] * 3 + 1)
    junk = [np.full(n, 1e30, np.float32) for n in (60, 64, 240, 512, 3600)]  # takes freed memory
    after = index.search(Q, 10)
    assert len(junk) == 5
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.distances, before.distances)


def test_the_stage_is_chosen_alike_for_like_codes(clusters):
    X, _ = clusters
    X = np.tile(X, (4, 1)) + np.random.default_rng(1).standard_normal((4 * len(X), X.shape[1])).astype(
        np.float32
    )
    codec = SAQ(bits=2).fit(X)
    codes = codec.encode(X)
    one, two = ScanIndex(codec, codes), ScanIndex(codec, codes)
    assert one.scanned_bytes_per_vector == two.scanned_bytes_per_vector
    np.testing.assert_array_equal(one.search(X[:5]).ids, two.search(X[:5]).ids)


def test_no_query_of_infinite_length_is_searched(clusters):
    X, Q = clusters
    for metric in METRICS:
        for codec in (RaBitQ(metric=metric), SAQ(metric=metric)):
            _, _, index = made(codec, X)
            for bad in (np.nan, np.inf):
                broken = Q[:3].copy()
                broken[1, 5] = bad
                with pytest.raises(ValueError, match=r"^Q: "):
                    index.search(broken)
                with pytest.raises(ValueError, match=r"^Q: "):
                    index.search(broken, n_threads=2)


@pytest.mark.parametrize("codec", [RaBitQ(bits=1), RaBitQ(bits=4, centroids=5), SAQ(bits=1)])
def test_every_isa_thread_count_and_batch_gives_the_same(clusters, isa, codec, monkeypatch):
    monkeypatch.setattr(scan, "_RANGE_BLOCKS", 1)
    X, Q = clusters
    _, _, index = made(codec, X)
    found = index.search(Q, 15, eps0=2)
    for options in ({"n_threads": 2}, {"n_threads": 5}):
        for n in (1, 3, len(Q)):
            again = index.search(Q[:n], 15, eps0=2, **options)
            np.testing.assert_array_equal(again.ids, found.ids[:n])
            np.testing.assert_array_equal(again.distances, found.distances[:n])
    one = [index.search(q, 15, eps0=2) for q in Q]
    np.testing.assert_array_equal(np.concatenate([o.ids for o in one]), found.ids)
    _kernels.select_isa("scalar")
    plain = index.search(Q, 15, eps0=2)
    _kernels.select_isa(isa)
    np.testing.assert_array_equal(plain.ids, found.ids)
    np.testing.assert_array_equal(plain.distances, found.distances)


@pytest.mark.parametrize("codec", [RaBitQ(bits=1), RaBitQ(bits=4), SAQ(bits=1, centroids=4)])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.03, 0.01, 0.001])
def test_a_filter_is_brute_force_on_the_subset(clusters, codec, share, monkeypatch):
    monkeypatch.setattr(scan, "_RANGE_BLOCKS", 1)
    X, Q = clusters
    _, codes, index = made(codec, X)
    mask = np.zeros(len(X), dtype=bool)
    mask[np.random.default_rng(3).choice(len(X), int(share * len(X)), replace=False)] = True
    estimates = np.where(mask, codec.estimate(codes, Q), np.inf)
    k = min(10, np.count_nonzero(mask))
    for rows in (mask, np.flatnonzero(mask)):
        agrees(index, Q, k, best(estimates, k), estimates, filter=rows)
        threads = index.search(Q[0], k, eps0=np.inf, filter=rows, n_threads=2)
        np.testing.assert_array_equal(threads.ids, index.search(Q[0], k, eps0=np.inf, filter=rows).ids)


def test_too_narrow_a_filter_leaves_places_empty(clusters):
    X, Q = clusters
    _, _, index = made(RaBitQ(), X)
    for rows in ([7, 3], np.arange(len(X)) == 3, []):
        found = index.search(Q[:2], 5, filter=rows)
        n = np.count_nonzero(rows) if np.asarray(rows).dtype == bool else len(rows)
        assert np.all(found.ids[:, n:] == -1)
        assert np.all(np.isinf(found.distances[:, n:]))
        assert set(found.ids[0, :n]) == set(np.flatnonzero(rows) if n == 1 else rows)


@pytest.mark.parametrize("codec", [RaBitQ(bits=1), RaBitQ(bits=4), SAQ(bits=1)])
def test_no_order_of_the_rows_changes_what_is_found(codec, monkeypatch):
    monkeypatch.setattr(scan, "_RANGE_BLOCKS", 1)  # threads share even so few codes
    rng = np.random.default_rng(5)
    X = rng.standard_normal((12_000, 40)).astype(np.float32) * rng.lognormal(sigma=0.5, size=40)
    X, Q = X.astype(np.float32), X[:6].astype(np.float32) + 0.1
    codec.fit(X)
    near = np.argsort(np.square(X - Q[0]).sum(axis=1))
    first = ScanIndex(codec, codec.encode(X))._laid_out["ids"]  # rows in the order of the scan
    first = first[first < len(X)]
    n_estimated = {}
    for name, rows in (("as they are", np.arange(len(X))), ("near first", near), ("far first", near[::-1])):
        placed = np.empty_like(X)
        placed[first] = X[rows]
        codes = codec.encode(placed)
        index = ScanIndex(codec, codes)
        estimates = codec.estimate(codes, Q)
        for k in (1, 10, 60):
            agrees(index, Q, k, best(estimates, k), estimates)
        for n in (1, 3, 6):
            threads = index.search(Q[:n], 10, n_threads=2)
            np.testing.assert_array_equal(threads.distances, index.search(Q[:n], 10).distances)
        n_estimated[name] = index.search(Q[0], 60).n_estimated[0]
    assert n_estimated["as they are"] < n_estimated["far first"]


def test_threads_do_not_share_few_codes(clusters, monkeypatch):
    X, Q = clusters
    _, _, index = made(RaBitQ(), X)
    expected = index.search(Q[:3], 5)
    monkeypatch.setattr(scan, "_pool", lambda n_threads: pytest.fail(f"{n_threads} threads"))
    for n in (1, 3):
        np.testing.assert_array_equal(index.search(Q[:n], 5, n_threads=2).ids, expected.ids[:n])


def test_a_search_for_more_rows_than_a_filter_allows_ends(clusters):
    X, Q = clusters
    _, _, index = made(RaBitQ(), X)
    mask = np.arange(len(X)) % 10 == 0  # more than are estimated one by one
    found = index.search(Q, 200, eps0=np.inf, filter=mask)
    assert np.all(np.sort(found.ids[:, :150], axis=1) == np.flatnonzero(mask))
    assert np.all(found.ids[:, 150:] == -1)


def test_ties_go_to_the_first_row(clusters):
    X, Q = clusters
    X = np.repeat(X[:40], 20, axis=0)
    _, _, index = made(RaBitQ(), X)
    found = index.search(Q, 30, eps0=np.inf)
    same = np.diff(found.distances, axis=1) == 0
    assert same.mean() > 0.9
    assert np.all(np.diff(found.ids, axis=1)[same] > 0)


def test_a_tier_rescores_the_candidates(clusters):
    X, Q = clusters
    codec, codes, _ = made(RaBitQ(bits=1), X)
    fine = RaBitQ(bits=8).fit(X)
    index = ScanIndex(codec, codes, Tier(fine, fine.encode(X)))
    truth, _ = exact_search(X, Q, 10, "l2")
    assert recall(index.search(Q, 10, oversampling=20).ids, truth, 10) >= 0.98
    every = index.search(Q, 10, oversampling=np.inf, eps0=np.inf)
    np.testing.assert_array_equal(every.ids, best(fine.estimate(fine.encode(X), Q), 10))
    assert set(index.search(Q, 3, filter=[5, 9], oversampling=1).ids[0].tolist()) == {5, 9, -1}


def test_bad_arguments_are_refused(clusters):
    X, Q = clusters
    codec, codes, index = made(RaBitQ(), X)
    n = len(X)
    refused = [
        ({"k": n + 1}, rf"^k: expected 1 to {n}, not {n + 1}$"),
        ({"eps0": -1}, r"^eps0: expected a number >= 0, not -1$"),
        ({"eps0": np.nan}, r"^eps0: expected a number >= 0, not nan$"),
        ({"n_threads": 0}, r"^n_threads: expected"),
        ({"oversampling": 0.5}, r"^oversampling: expected at least 1, not 0\.5$"),
        ({"filter": np.ones(n - 1, bool)}, rf"^filter: expected a mask of shape \({n},\), not \({n - 1},\)$"),
        ({"filter": [0, n]}, rf"^filter: expected rows 0 to {n - 1}, not 0 to {n}$"),
        ({"filter": [[1]]}, r"^filter: expected row numbers"),
    ]
    for options, text in refused:
        with pytest.raises(ValueError, match=text):
            index.search(Q, **options)
    with pytest.raises(TypeError, match=r"^filter: expected bool or int, not float64$"):
        index.search(Q, filter=[0.5])
    with pytest.raises(ValueError, match=r"^Q: expected 60 dimensions, not 59$"):
        index.search(Q[:, 1:])
    with pytest.raises(ValueError, match=r"^codes: expected at least 1 code, not 0$"):
        ScanIndex(codec, codes[:0])
    with pytest.raises(ValueError, match=r"^codes: expected codes of model"):
        ScanIndex(RaBitQ(random_state=1).fit(X), codes)
    coarse = PQ(code_bits=4, subspaces=4).fit(X[:300])
    with pytest.raises(ValueError, match=r"^tier: expected codes of rabitq or saq, not of pq$"):
        ScanIndex(codec, codes[:300], Tier(coarse, coarse.encode(X[:300])))
    fine = RaBitQ(bits=8).fit(X)
    with pytest.raises(ValueError, match=r"^tier: expected 1500 rows, one per code, not 10$"):
        ScanIndex(codec, codes, Tier(fine, fine.encode(X[:10])))


def test_zero_query_and_equal_vectors(clusters):
    X = np.ones((200, 64), dtype=np.float32)
    for codec in (RaBitQ(), SAQ(bits=1)):
        _, _, index = made(codec, X)
        for Q in (np.zeros((1, 64), np.float32), np.ones((1, 64), np.float32)):
            np.testing.assert_array_equal(index.search(Q, 5).ids, [np.arange(5)])
