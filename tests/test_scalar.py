from __future__ import annotations

import re

import numpy as np
import pytest

from bqcore import RaBitQ, Tier, make_codec, search
from bqcore.evaluation import exact_distances, exact_search, recall
from bqcore.rotation import principal_axes
from bqcore.scalar import Scalar

METRICS = ["l2", "ip", "cosine"]
FORMATS = ["float16", "int8", "float8"]


def vectors(n=2000, dim=48, seed=0):
    """Vectors whose variances fall along rotated axes, away from the origin."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(9).standard_normal((dim, dim)))[0]
    spread = (1.0 + np.arange(dim)) ** -0.7
    return ((rng.standard_normal((n, dim)) * spread) @ axes + 0.3).astype(np.float32)


def all_distances(X, Q, metric):
    return exact_distances(X, Q, np.tile(np.arange(len(X)), (len(Q), 1)), metric)


@pytest.mark.parametrize(
    ("parameters", "nbytes"),
    [
        ({}, 96),
        ({"format": "int8"}, 48),
        ({"format": "float8"}, 48),
        ({"format": "float16", "dims": 20}, 44),
        ({"format": "float8", "dims": 20}, 24),
        ({"format": "int8", "dims": 100}, 52),
    ],
)
def test_bytes_are_those_of_the_dimensions_kept_and_a_norm(parameters, nbytes):
    assert Scalar(**parameters).fit(vectors()).bytes_per_vector == nbytes


@pytest.mark.parametrize("dims", [None, 48])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("format", "error"), [("float16", 2e-3), ("int8", 2e-2), ("float8", 7e-2)])
def test_estimates_are_near_the_distances(format, error, metric, dims):
    X, Q = vectors(), vectors(20, seed=1)
    codec = Scalar(format=format, metric=metric, dims=dims).fit(X)
    truth = all_distances(X, Q, metric)
    found = codec.estimate(codec.encode(X), Q)
    assert np.sqrt(np.mean((found - truth) ** 2)) <= error * truth.std()


def test_float16_codes_are_numpys_halves():
    X = vectors()
    codec = Scalar().fit(X)
    assert codec.encode(X).packed.tobytes() == X.astype("<f2").tobytes()
    np.testing.assert_array_equal(codec.decode(codec.encode(X)), X.astype(np.float16))


@pytest.mark.parametrize("calibration", ["per_dimension", "overall"])
def test_int8_is_off_by_half_a_step_at_most_and_saturates_outside_the_training_range(calibration):
    X = vectors() * np.linspace(0.1, 3, 48, dtype=np.float32)
    codec = Scalar(format="int8", calibration=calibration).fit(X)
    half = (np.ptp(X, axis=0) if calibration == "per_dimension" else np.ptp(X)) / 255 / 2
    assert np.all(np.abs(codec.decode(codec.encode(X)) - X) <= half * 1.001)
    low, high = X.min(axis=0), X.max(axis=0)
    if calibration == "overall":
        low, high = low.min(), high.max()
    np.testing.assert_allclose(
        codec.decode(codec.encode(X * 100)), np.clip(X * 100, low, high), atol=half.max()
    )


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_int8_calibrated_per_dimension_beats_one_range_on_unequal_dimensions(metric):
    X, Q = (vectors(seed=s) * np.logspace(-2, 0, 48, dtype=np.float32) for s in (0, 1))
    truth = all_distances(X, Q[:20], metric)
    errors = []
    for calibration in ("per_dimension", "overall"):
        codec = Scalar(format="int8", calibration=calibration, metric=metric).fit(X)
        errors.append(np.mean((codec.estimate(codec.encode(X), Q[:20]) - truth) ** 2))
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dims", [None, 5])
def test_dead_coordinates_one_row_and_equal_rows_are_kept_exactly(format, dims):
    X = vectors(1)
    X = X.astype(np.float16).astype(np.float32)  # float16 keeps it too
    for rows in (X, np.repeat(X, 20, axis=0)):
        codec = Scalar(format=format, dims=dims).fit(rows)
        np.testing.assert_allclose(codec.decode(codec.encode(rows)), rows, rtol=1e-6, atol=1e-7)
    X = vectors()
    X[:, 7] = 2.0**-20
    codec = Scalar(format=format).fit(X)
    np.testing.assert_array_equal(codec.decode(codec.encode(X))[:, 7], np.float32(2.0**-20))


def test_error_falls_as_more_dimensions_are_kept():
    X, Q = vectors(), vectors(50, seed=1)
    truth = all_distances(X, Q, "l2")
    errors = []
    for dims in (4, 8, 16, 32, 48):
        codec = Scalar(dims=dims).fit(X)
        errors.append(np.mean((codec.estimate(codec.encode(X), Q) - truth) ** 2))
    assert np.all(np.diff(errors) < 0)


@pytest.mark.parametrize("metric", METRICS)
def test_truncated_estimates_know_the_norms_of_whole_vectors(metric):
    X, Q = vectors(), vectors(50, seed=1)
    codec = Scalar(dims=12, metric=metric).fit(X)
    truth = all_distances(X, Q, metric)
    found = codec.estimate(codec.encode(X), Q)
    # what is left out is orthogonal on average: no bias, where distances between kept parts would fall short
    assert abs(np.mean(found - truth)) < 0.01 * truth.std()


def test_principal_axes_are_orthonormal_in_falling_order_and_seeded_by_the_data_alone():
    X = vectors()
    axes, variances = principal_axes(X)
    np.testing.assert_allclose(axes @ axes.T, np.eye(48), atol=1e-12)
    assert np.all(np.diff(variances) <= 0)
    np.testing.assert_allclose(variances, np.var(X.astype(np.float64) @ axes.T, axis=0), rtol=1e-6)
    assert np.all(axes[np.arange(48), np.abs(axes).argmax(axis=1)] > 0)


@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        ({"format": "int4"}, ValueError, "format: expected one of float16, int8, float8, not 'int4'"),
        ({"calibration": None}, ValueError, "calibration: expected one of per_dimension, overall, not None"),
        ({"dims": 0}, ValueError, "dims: expected at least 1, not 0"),
        ({"dims": 2.5}, TypeError, "dims: expected an int, not 2.5 (float)"),
    ],
)
def test_bad_parameters_are_refused(parameters, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        Scalar(**parameters).fit(vectors())


def test_values_that_float16_cannot_hold_are_refused_with_their_place():
    X = vectors()
    codec = Scalar().fit(X)
    X[3, 5] = 1e5
    with pytest.raises(
        ValueError, match=r"up to 65504\.0 \(float16\), not 100000\.0 at row 3, coordinate 5$"
    ):
        codec.encode(X)


@pytest.mark.parametrize("mode", ["decoupled", "bound"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("spec", "least"), [("scalar", 0.995), ("scalar(format=int8)", 0.97), ("scalar(format=float8)", 0.9)]
)
def test_rescoring_from_a_tier_reaches_the_tiers_recall(metric, mode, spec, least):
    X, Q = vectors(), vectors(100, seed=1)
    rabitq = RaBitQ(bits=4, metric=metric).fit(X)
    tier = make_codec(spec, metric=metric).fit(X)
    truth, _ = exact_search(X, Q, 10, metric)
    tier_codes = tier.encode(X)
    found = search(rabitq, rabitq.encode(X), Q, X=Tier(tier, tier_codes), mode=mode, eps0=4)
    alone = recall(search(tier, tier_codes, Q).ids, truth, 10)
    assert recall(found.ids, truth, 10) == pytest.approx(alone, abs=0.01)
    assert alone >= least


@pytest.mark.parametrize(
    ("spec", "least"),
    [
        ("scalar", 0.999),
        ("scalar(format=int8)", 0.985),
        ("scalar(format=int8, calibration=overall)", 0.98),
        ("scalar(format=float8)", 0.97),
        ("scalar(format=int8, dims=192)", 0.88),
    ],
)
def test_recall_on_text_vectors(shared_data, spec, least):
    folder = shared_data / "A_minilm_wordnet"
    X, Q = (np.load(folder / f"{name}.npy").astype(np.float32) for name in ("base", "query"))
    codec = make_codec(spec, metric="cosine").fit(X)
    ids = search(codec, codec.encode(X), Q, 10).ids
    assert recall(ids, np.load(folder / "gt.npy"), 10) >= least
