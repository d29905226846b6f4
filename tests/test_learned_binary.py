"""Learned binary codes: losses that never rise, codes that no flip betters, and the score-aware rule."""

from __future__ import annotations

import numpy as np
import pytest

from bqcore import _kernels, datasets, make_codec
from bqcore.evaluation import exact_search, recall
from bqcore.learned_binary import LearnedBinary, score_aware_signs


def correlated(n=600, dim=48, seed=0):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * np.linspace(2, 0.1, dim)
    return (rng.normal(size=(n, dim)) @ basis.T + 1).astype(np.float32)


@pytest.mark.parametrize("bits", [0.5, 1, 2.3])
def test_loss_never_rises_at_any_half_step(bits):
    codec = LearnedBinary(bits=bits, iterations=9).fit(correlated())
    losses = np.array(codec.losses_)
    assert len(losses) == 18
    assert (np.diff(losses) <= 1e-6).all()
    assert losses[-1] < 0.9 * losses[0]


def test_the_loss_reported_is_that_of_the_codes():
    X = correlated(300)
    codec = LearnedBinary(iterations=5).fit(X)
    codes = codec.encode(X)
    residuals = X - X.mean(axis=0)
    decoded = codec._values(codes.packed) @ codec.decoder_
    scale = (decoded * residuals).sum(1) / (decoded**2).sum(1)
    loss = np.square(residuals - scale[:, np.newaxis] * decoded).sum() / np.square(residuals).sum()
    # a fresh start may end beside the code that training kept, not far from it
    assert codec.losses_[-1] - 1e-6 <= loss <= codec.losses_[-1] + 0.05


def test_no_flip_betters_a_code():
    X = correlated(200)
    codec = LearnedBinary(iterations=4).fit(X)
    residuals = X - codec.centroids_[0]
    s = codec._values(codec.encode(X).packed)
    decoded = s @ codec.decoder_

    def cos(v):
        return (v * residuals).sum(1) / np.linalg.norm(v, axis=1) / np.linalg.norm(residuals, axis=1)

    best = cos(decoded)
    for i in range(codec.n_bits_):
        assert (cos(decoded - 2 * s[:, i : i + 1] * codec.decoder_[i]) <= best + 1e-5).all()


def test_the_factor_leaves_no_error_along_the_residual():
    X = correlated(200)
    codec = LearnedBinary(iterations=4, centroids=3).fit(X)
    codes = codec.encode(X)
    residuals = X - codec.centroids_[codes.factors["list"]]
    error = X - codec.decode(codes)
    along = (error * residuals).sum(1) / np.square(residuals).sum(1)
    np.testing.assert_allclose(along, 0, atol=1e-4)


def test_codes_are_the_same_on_every_isa(isa):
    X = correlated(80, dim=67)
    active = _kernels.active_isa()
    _kernels.select_isa("scalar")
    codec = LearnedBinary(iterations=3, bits=1.3).fit(X)
    expected = codec.encode(X)
    _kernels.select_isa(active)
    found = codec.encode(X)
    assert found.packed.tobytes() == expected.packed.tobytes()
    assert found.factors.tobytes() == expected.factors.tobytes()


BYTES = [(1, 65, 9), (0.5, 64, 4), (0.01, 10, 1), (2, 3, 1), (8, 5, 5)]


@pytest.mark.parametrize(("bits", "dim", "nbytes"), BYTES)
def test_bytes_follow_bits(bits, dim, nbytes):
    codec = LearnedBinary(bits=bits, iterations=1).fit(correlated(50, dim))
    assert codec.code_nbytes == nbytes
    assert codec.bytes_per_vector == nbytes + 8


def test_more_bits_decode_better():
    X = correlated()
    errors = []
    for bits in (0.25, 0.5, 1, 2, 3):
        codec = LearnedBinary(bits=bits).fit(X)
        errors.append(np.square(codec.decode(codec.encode(X)) - X).sum())
    assert (np.diff(errors) < 0).all()


def test_fewer_vectors_than_bits_and_centroids():
    X = correlated(5)
    codec = LearnedBinary(centroids=50).fit(X)
    assert len(codec.centroids_) == 5
    np.testing.assert_allclose(codec.decode(codec.encode(X)), X, atol=1e-5)
    assert np.isfinite(LearnedBinary().fit(X).encode(X).factors["f_rescale"]).all()


def test_bad_parameters_are_refused():
    X = correlated(20)
    for params, text in [
        ({"bits": 0}, "bits: expected a number above 0 and up to 8, not 0"),
        ({"bits": 8.5}, "not 8.5"),
        ({"iterations": 0}, "iterations: expected at least 1, not 0"),
        ({"centroids": -1}, "centroids: expected 0 to 65536, not -1"),
    ]:
        with pytest.raises(ValueError, match=text):
            LearnedBinary(**params).fit(X)
    with pytest.raises(TypeError, match="bits: expected a number, not '1'"):
        LearnedBinary(bits="1").fit(X)


def test_a_vector_whose_factors_overflow_is_refused():
    codec = LearnedBinary(iterations=1).fit(correlated(20))
    with pytest.raises(ValueError, match="row 1: vector too large"):
        codec.encode(np.array([np.zeros(48), np.full(48, 1e25)]))


@pytest.mark.parametrize("eta", [0.0, 1.0, 4.125, 100.0])
def test_score_aware_flips_change_nothing_under_an_unbiased_factor_and_isotropic_queries(eta):
    X = np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32)
    np.testing.assert_array_equal(score_aware_signs(X, eta) > 0, X > 0)


def test_score_aware_flips_act_where_a_factor_is_shared_or_queries_are_not_isotropic():
    X = np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32)
    basis = np.random.default_rng(2).normal(size=(64, 64))
    covariance = basis @ np.diag(np.linspace(0.01, 3, 64)) @ basis.T
    for changed in (
        score_aware_signs(X, 30.0, factor=1.5),
        score_aware_signs(X, query_covariance=covariance),
    ):
        assert (changed != np.where(X > 0, 1, -1)).any(axis=1).mean() > 0.5

    def loss(s):
        f = (X**2).sum(1) / (X * s).sum(1)
        error = X - f[:, np.newaxis] * s
        return np.einsum("ij,jk,ik->i", error, covariance, error)

    signs, flipped = np.where(X > 0, 1, -1), score_aware_signs(X, query_covariance=covariance)
    best = loss(flipped)
    assert (best <= loss(signs) * (1 + 1e-6)).all()
    for i in range(64):
        flipped[:, i] *= -1
        worse = (loss(flipped) >= best * (1 - 1e-4)) | ((X * flipped).sum(1) <= 0)
        assert worse.all()
        flipped[:, i] *= -1
    np.testing.assert_array_equal(score_aware_signs(X, 1.0, factor=1.5), signs)
    assert (score_aware_signs(np.zeros((1, 4), np.float32)) == -1).all()


def test_recall_is_well_above_that_of_rabitq_at_equal_bytes(shared_data):
    data = datasets.read(shared_data / "A_minilm_wordnet")
    X, Q = data.base[:12_000], data.queries[:300]
    truth, _ = exact_search(X, Q, 10, "cosine")
    found = {}
    for spec in ("rabitq", "learned_binary(iterations=6)"):
        codec = make_codec(spec, metric="cosine").fit(X)
        assert codec.bytes_per_vector == 56
        nearest = np.argsort(codec.estimate(codec.encode(X), Q), axis=1)[:, :10]
        found[spec.split("(")[0]] = recall(nearest, truth, 10)
    assert found["learned_binary"] >= found["rabitq"] + 0.05
