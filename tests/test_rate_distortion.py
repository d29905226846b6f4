from __future__ import annotations

import numpy as np
import pytest

from bqcore.datasets import read
from bqcore.evaluation import exact_distances, exact_search, recall
from bqcore.rate_distortion import GaussianBound, reverse_water_filling


def rate(variances, distortions):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nansum(np.log2(variances / distortions)) / 2


SPECTRUM = np.linspace(3, 0.1, 24)


def gaussian(n=4000, spectrum=SPECTRUM, seed=0):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(len(spectrum),) * 2))[0]
    X = rng.normal(size=(n, len(spectrum))) * np.sqrt(spectrum) @ turn.T + 0.7
    return X.astype(np.float32)


@pytest.mark.parametrize("bits", [0, 0.5, 3, 24, 100, 1000])
def test_water_filling_spends_the_rate_below_one_level(bits):
    lam = np.array([0.01, 4, 1, 0, 1, 0.3])
    found = reverse_water_filling(lam, bits)
    assert rate(lam, found) == pytest.approx(bits, abs=1e-9)
    assert (found <= lam).all()
    wet = found < lam
    assert np.ptp(found[wet]) <= 1e-12 if wet.any() else bits == 0
    if wet.any():
        assert (lam[~wet] <= found[wet][0] + 1e-12).all()


def test_equal_variances_follow_the_closed_form():
    found = reverse_water_filling(np.full(10, 2.0), 15)
    np.testing.assert_allclose(found, 2 * 2 ** (-2 * 15 / 10))


def test_water_filling_refuses_what_is_not_a_variance_or_a_rate():
    for lam in ([-1.0], [np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="variances: expected"):
            reverse_water_filling(lam, 1)
    for bits in (-1, np.inf, np.nan):
        with pytest.raises(ValueError, match="bits: expected a finite number >= 0"):
            reverse_water_filling([1.0], bits)
    np.testing.assert_array_equal(reverse_water_filling([0.0, 0.0], 5), [0, 0])


def test_distortions_are_those_of_the_true_spectrum():
    bound = GaussianBound(6).fit(gaussian(40_000))
    expected = reverse_water_filling(SPECTRUM, 48)
    assert bound.distortions_.sum() == pytest.approx(expected.sum(), rel=0.02)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_estimates_are_unbiased(metric):
    X, Q = gaussian(), gaussian(30, seed=1)
    bound = GaussianBound(12, metric).fit(X)
    truth = exact_distances(X, Q, np.tile(np.arange(len(X)), (len(Q), 1)), metric)
    found = bound.estimate(bound.encode(X), Q)
    assert np.polyfit(truth.ravel(), found.ravel(), 1)[0] == pytest.approx(1, abs=0.02)
    assert (found - truth).mean() == pytest.approx(0, abs=0.02 * truth.std())


def test_factor_is_that_of_the_coordinates_with_rate():
    X, Q = gaussian(spectrum=SPECTRUM**3), gaussian(30, SPECTRUM**3, seed=1)
    bound = GaussianBound(4).fit(X)
    assert bound.basis_.shape[1] < 20
    o, q = X - bound.mean_, Q - bound.mean_
    dots = ((o**2).sum(1) + (q**2).sum(1)[:, np.newaxis] - bound.estimate(bound.encode(X), Q)) / 2
    kept = (q @ bound.basis_) @ (o @ bound.basis_).T
    assert np.polyfit(kept.ravel(), dots.ravel(), 1)[0] == pytest.approx(1, abs=0.02)


def test_error_of_estimates_is_the_channel_s():
    # Isotropic: the factor makes the part of x' along o exact; across it, noise of variance D / a per
    # coordinate is left, a = 1 - D / lam: <error, q> has variance |q|^2 D / a.
    X, Q = gaussian(20_000, np.ones(64)), gaussian(20, np.ones(64), seed=1)
    bound = GaussianBound(16, "ip").fit(X)
    error = bound.estimate(bound.encode(X), Q) + Q @ X.T
    distortion = 2 ** (-2 * 128 / 64)
    centred = np.linalg.norm(Q - bound.mean_, axis=1)
    np.testing.assert_allclose(error.std(axis=1) / centred, np.sqrt(distortion / (1 - distortion)), rtol=0.06)


def test_recall_rises_with_bytes_and_is_exact_at_many():
    X, Q = gaussian(), gaussian(50, seed=1)
    truth, _ = exact_search(X, Q, 10, "l2")
    found = []
    for nbytes in (2, 4, 8, 16, 64):
        bound = GaussianBound(nbytes).fit(X)
        ids = np.argsort(bound.estimate(bound.encode(X), Q), axis=1)[:, :10]
        found.append(recall(ids, truth, 10))
    assert found == sorted(found)
    assert found[-1] > 0.995


def test_dead_coordinates_one_vector_and_fewer_rows_than_dims_are_fine():
    X = gaussian(50)
    X[:, 3] = 1
    for rows in (X, X[:1], X[:5], np.repeat(X[:1], 9, axis=0)):
        for metric in ("l2", "ip", "cosine"):
            bound = GaussianBound(20, metric).fit(rows)
            assert np.isfinite(bound.estimate(bound.encode(rows), X)).all()


def test_bad_rates_are_refused():
    for bad in (0, -1, np.inf):
        with pytest.raises(ValueError, match="bytes: expected a finite number > 0"):
            GaussianBound(bad)
    with pytest.raises(TypeError, match="bytes: expected a number, not '48'"):
        GaussianBound("48")


def test_bound_on_minilm_is_the_one_computed_independently(shared_data):
    data = read(shared_data / "A_minilm_wordnet")
    bound = GaussianBound(48, "cosine").fit(data.base)
    estimates = bound.estimate(bound.encode(data.base), data.queries)
    ids = np.argpartition(estimates, 10, axis=1)[:, :10]
    assert recall(ids, data.ground_truth, 10) == pytest.approx(0.852, abs=0.006)
