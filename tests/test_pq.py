from __future__ import annotations

import numpy as np
import pytest

from bqcore import _kernels, make_codec
from bqcore.codebooks import decode, initial_codebooks, learn_rotation, split
from bqcore.evaluation import exact_search
from bqcore.pq import PQ
from bqcore.vq import VQ


def vectors(n=600, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(dim, dim)) * np.linspace(1.5, 0.1, dim)
    return (rng.normal(size=(n, dim)) @ mix.T + 0.3).astype(np.float32)


def unpack(codes, code_bits, n_subspaces):
    if code_bits == 8:
        return codes.packed
    return np.stack([codes.packed & 15, codes.packed >> 4], axis=2).reshape(len(codes), -1)[:, :n_subspaces]


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("code_bits", [4, 8])
def test_eta_1_is_plain_kmeans_in_every_subspace(code_bits, metric):
    X = vectors(2000)
    found = PQ(subspaces=5, code_bits=code_bits, eta=1, query_weight=0, rotation="none", metric=metric).fit(X)
    codes = unpack(found.encode(X), code_bits, 5)
    centred = X - found.centroids_[0]
    start = initial_codebooks(centred, split(24, 5), 1 << code_bits, 0)
    for m, (first, last) in enumerate(zip(found.offsets_[:-1], found.offsets_[1:], strict=True)):
        sub = centred[:, first:last].astype(np.float64)
        distances = np.square(sub[:, np.newaxis] - found.codebooks_[first:last].T).sum(axis=2)
        np.testing.assert_array_equal(codes[:, m], distances.argmin(axis=1))
        # Lloyd's algorithm from the same start, as long as PQ ran it
        codebook = start[first:last].T.astype(np.float64)
        losses = []
        for _ in range(12):
            losses.append(np.abs(codebook - found.codebooks_[first:last].T).max())
            nearest = np.square(sub[:, np.newaxis] - codebook).sum(axis=2).argmin(axis=1)
            for k in np.unique(nearest):
                codebook[k] = sub[nearest == k].mean(axis=0)
        assert min(losses) < 1e-5


def test_l2_is_plain_and_ip_is_score_aware():
    X = vectors()
    assert PQ(bits=1).fit(X).eta_ == 1
    assert PQ(bits=1, metric="ip").fit(X).eta_ > 1.5
    with pytest.raises(ValueError, match="eta: expected 1 under l2"):
        PQ(eta=2).fit(X)


@pytest.mark.parametrize(
    ("dim", "kwargs", "n_subspaces", "nbytes"),
    [
        (384, {"bits": 1}, 48, 48),
        (384, {"bits": 1, "code_bits": 4}, 96, 48),
        (384, {"bits": 0.5}, 24, 24),
        (100, {"bits": 1}, 13, 13),
        (100, {"bits": 1, "code_bits": 4}, 26, 13),
        (100, {"subspaces": 7, "code_bits": 4}, 7, 4),
        (100, {"subspaces": 100}, 100, 100),
        (1, {"bits": 8}, 1, 1),
        (1, {"bits": 4, "code_bits": 4}, 1, 1),
        (3, {"bits": 8}, 3, 3),
    ],
)
@pytest.mark.parametrize("centroids", [1, 5])
def test_codes_have_exactly_the_bytes_asked_for(dim, kwargs, n_subspaces, nbytes, centroids):
    X = vectors(30, dim)
    codec = PQ(**kwargs, rotation="none", centroids=centroids).fit(X)
    sizes = np.diff(codec.offsets_)
    assert len(sizes) == n_subspaces
    assert sizes.sum() == dim
    assert sizes.max() - sizes.min() <= 1
    assert codec.code_nbytes == nbytes
    assert codec.bytes_per_vector == nbytes + (centroids > 1)
    assert codec.encode(X).packed.shape == (30, nbytes)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_few_distinct_rows_are_coded_exactly(metric):
    X = np.repeat(vectors(9), 7, axis=0)
    codec = PQ(bits=1, code_bits=4, metric=metric, eta=1).fit(X)
    expected = X / np.linalg.norm(X, axis=1, keepdims=True) if metric == "cosine" else X
    np.testing.assert_allclose(codec.decode(codec.encode(X)), expected, atol=1e-4)


def test_dead_coordinates_are_decoded_exactly():
    X = vectors()
    X[:, :5], X[:, 9] = 0, 2.5  # a whole subspace and more
    for kwargs in (
        {"metric": "l2"},
        {"metric": "ip"},
        {"metric": "ip", "query_weight": 0, "rotation": "none"},
    ):
        codec = PQ(subspaces=6, code_bits=4, **kwargs).fit(X)
        decoded = codec.decode(codec.encode(X))
        assert np.isfinite(decoded).all()
        if "rotation" in kwargs:
            np.testing.assert_allclose(decoded[:, :4], 0, atol=1e-5)


def test_learned_rotation_is_orthogonal_and_lowers_the_error():
    X = vectors(2000)
    offsets = split(24, 6)
    rotation, _ = learn_rotation(X, offsets, 16, 0)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(24), atol=1e-5)
    errors = {}
    for name in ("opq", "none"):
        codec = PQ(subspaces=6, code_bits=4, rotation=name).fit(X)
        errors[name] = np.square(codec.decode(codec.encode(X)) - X).sum()
    assert errors["opq"] < 0.7 * errors["none"]


def test_residuals_to_centroids_lower_the_error():
    rng = np.random.default_rng(3)
    X = (vectors(2000) * 0.3 + rng.normal(size=(8, 24))[rng.integers(8, size=2000)] * 4).astype(np.float32)
    errors = []
    for centroids in (1, 8):
        codec = PQ(subspaces=6, code_bits=4, centroids=centroids).fit(X)
        codes = codec.encode(X)
        errors.append(np.square(codec.decode(codes) - X).sum())
    assert codes.factors["list"].max() == 7
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("centroids", [1, 6])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_estimates_are_distances_to_decoded_vectors(metric, centroids):
    X, Q = vectors(), vectors(9, seed=1)
    codec = PQ(bits=2, metric=metric, centroids=centroids).fit(X)
    codes = codec.encode(X)
    decoded = codec.decode(codes).astype(np.float64)
    if metric == "l2":
        expected = np.square(Q[:, np.newaxis] - decoded).sum(axis=2)
    elif metric == "ip":
        expected = -Q @ decoded.T
    else:
        expected = 1 - (Q / np.linalg.norm(Q, axis=1, keepdims=True)) @ decoded.T
    np.testing.assert_allclose(codec.estimate(codes, Q), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("code_bits", [4, 8])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_uint8_luts_stay_within_half_a_step_per_subspace(metric, code_bits):
    X, Q = vectors(), vectors(20, seed=1)
    fine = PQ(bits=2, code_bits=code_bits, metric=metric).fit(X)
    coarse = PQ(bits=2, code_bits=code_bits, metric=metric, lut="uint8").fit(X)
    np.testing.assert_array_equal(fine.codebooks_, coarse.codebooks_)
    luts = fine._luts((Q - fine.centroids_[0] * (metric == "l2")) @ fine._query_transform.astype(np.float32))
    steps = np.ptp(luts, axis=2).max(axis=1) / 255
    bound = (len(fine.offsets_) - 1) * steps / 2
    exact = fine.estimate(fine.encode(X), Q)
    off = np.abs(coarse.estimate(coarse.encode(X), Q) - exact).max(axis=1)
    assert (off <= bound + 1e-5 * np.abs(exact).max()).all()
    assert (off > 0).all()


@pytest.mark.parametrize("lut", ["float32", "uint8"])
@pytest.mark.parametrize("code_bits", [4, 8])
def test_every_isa_computes_the_same_codes_and_estimates(isa, code_bits, lut):
    X, Q = vectors(100), vectors(7, seed=1)
    codec = PQ(bits=1.5, code_bits=code_bits, metric="ip", lut=lut, centroids=3).fit(X)
    found = codec.encode(X), codec.estimate(codec.encode(X), Q)
    _kernels.select_isa("scalar")
    expected = codec.encode(X), codec.estimate(codec.encode(X), Q)
    assert found[0].packed.tobytes() == expected[0].packed.tobytes()
    assert found[1].tobytes() == expected[1].tobytes()


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def errors_and_recall(X, Q, spec):
    """Mean relative error of the largest inner product, and whether its row is among the first ten."""
    codec = make_codec(spec, metric="cosine").fit(X)
    found = codec.estimate(codec.encode(X), Q)
    best, distance = exact_search(X, Q, 1, "cosine")
    inner = 1 - distance[:, 0]
    error = np.abs(1 - found[np.arange(len(Q)), best[:, 0]] - inner) / inner
    return error.mean(), (np.argsort(found, axis=1)[:, :10] == best).any(axis=1).mean()


@pytest.mark.parametrize("name", ["A_minilm_wordnet", "B_sgns200"])
def test_score_aware_codes_know_the_largest_inner_products_better(shared_data, name):
    X = unit(np.load(shared_data / name / "base.npy")[:2500].astype(np.float32))
    Q = unit(np.load(shared_data / name / "query.npy")[:200].astype(np.float32))
    gains = []
    for bits in (0.25, 0.5, 1, 2):
        spec = f"pq(bits={bits}, code_bits=4"
        plain = errors_and_recall(X, Q, spec + ", eta=1, query_weight=0)")
        aware = errors_and_recall(X, Q, spec + ")")
        assert aware[0] < plain[0], bits
        gains.append(aware[1] - plain[1])
    assert np.mean(gains) > 0
    assert min(gains) >= -0.02


def test_wrong_parameters_are_refused():
    X = vectors(50)
    for kwargs, text in [
        ({"code_bits": 5}, "code_bits: expected 4 or 8, not 5"),
        ({"rotation": "dense"}, "rotation: expected one of opq, none, not 'dense'"),
        ({"lut": "int4"}, "lut: expected one of float32, uint8, not 'int4'"),
        ({"bits": 5, "code_bits": 4}, "bits: expected 0 < bits <= code_bits = 4, not 5"),
        ({"bits": 0}, "bits: expected 0 < bits <= code_bits = 8, not 0"),
        ({"subspaces": 25}, "subspaces: expected 1 to 24, not 25"),
        ({"centroids": 0}, "centroids: expected 1 to 65536, not 0"),
        ({"threshold": 1, "metric": "ip"}, "threshold: expected 0 <= threshold < 1, not 1"),
    ]:
        with pytest.raises(ValueError, match=text):
            PQ(**kwargs).fit(X)


def test_arrays_of_another_shape_or_type_never_reach_c():
    X = vectors(10)
    codebooks, offsets, weights = np.zeros((24, 16), np.float32), split(24, 3), np.zeros(10, np.float32)
    codes, luts = np.zeros((10, 2), np.uint8), np.zeros((4, 3, 16), np.float32)
    calls = [
        lambda: _kernels.pq_assign(codebooks[:-1], offsets, X, X, weights, max_sweeps=1),
        lambda: _kernels.pq_assign(codebooks, offsets.astype(np.int64), X, X, weights, max_sweeps=1),
        lambda: _kernels.pq_assign(codebooks, offsets, X[:, :-1], X, weights, max_sweeps=1),
        lambda: _kernels.pq_assign(codebooks, offsets, X, X[:-1], weights, max_sweeps=1),
        lambda: _kernels.pq_assign(codebooks, offsets, X, X, weights[:-1], max_sweeps=1),
        lambda: _kernels.pq_assign(codebooks, offsets, X, X, weights, start=codes, max_sweeps=1),
        lambda: _kernels.lut_scan(codes[:, :1], luts),
        lambda: _kernels.lut_scan(codes, luts.astype(np.float64)),
        lambda: _kernels.lut_scan(codes, luts[:, :, :8]),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(ValueError, match="expected contiguous"):
            pytest.fail(f"call {number} returned {call()}")


@pytest.mark.parametrize(("codewords", "nbytes"), [(1, 1), (16, 1), (256, 1), (257, 2)])
def test_vq_codes_are_ids_of_the_best_codeword(codewords, nbytes):
    X = vectors()
    for metric in ("l2", "ip"):
        codec = VQ(codewords=codewords, metric=metric).fit(X)
        codes = codec.encode(X)
        assert codec.bytes_per_vector == nbytes
        error = X[:, np.newaxis].astype(np.float64) - codec.codewords_
        along = np.einsum("nkd,nd->nk", error, X) / np.linalg.norm(X, axis=1)[:, np.newaxis]
        cost = np.square(error).sum(axis=2) + (codec.eta_ - 1) * np.square(along)
        chosen = cost[np.arange(len(X)), codec._ids(codes)]
        np.testing.assert_allclose(chosen, cost.min(axis=1), rtol=1e-4, atol=1e-4)


def test_score_aware_vq_knows_the_largest_inner_products_better():
    rng = np.random.default_rng(0)
    X = unit(rng.normal(size=(3000, 32)) + 2 * rng.normal(size=(40, 32))[rng.integers(40, size=3000)])
    Q = X[:200]
    plain = errors_and_recall(X, Q, "vq(codewords=64, eta=1)")
    aware = errors_and_recall(X, Q, "vq(codewords=64)")
    assert aware[0] < 0.8 * plain[0]


def test_decode_concatenates_codewords():
    codebooks = np.arange(6 * 16, dtype=np.float32).reshape(6, 16)
    found = decode(codebooks, split(6, 4), np.array([[3, 0, 15, 7]]))
    np.testing.assert_array_equal(found, [[3, 19, 32, 48, 79, 87]])
