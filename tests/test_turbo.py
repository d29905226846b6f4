"""Lloyd-Max codes: their error on N(0, 1), the calibration, and recall beside RaBitQ's."""

from __future__ import annotations

import numpy as np
import pytest

from bqcore import _kernels, datasets, make_codec
from bqcore.evaluation import exact_search, recall
from bqcore.turbo import Turbo, lloyd_max


def gaussian(n=1000, dim=64, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def test_levels_are_those_of_max():
    np.testing.assert_allclose(lloyd_max(1), [-0.7979, 0.7979], atol=1e-4)
    np.testing.assert_allclose(lloyd_max(2)[2:], [0.4528, 1.510], atol=5e-4)
    np.testing.assert_allclose(lloyd_max(3)[4:], [0.2451, 0.7560, 1.344, 2.152], atol=5e-4)
    table = [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733]
    np.testing.assert_allclose(lloyd_max(4)[8:], table, atol=5e-4)


@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize(("bits", "mse"), [(1, 0.3634), (2, 0.1175), (3, 0.0345), (4, 0.0095)])
def test_squared_error_on_gaussian_coordinates(bits, mse, calibrate):
    X = gaussian(3000, 512)
    codec = Turbo(bits=bits, centroids=0, rotation="none", calibrate=calibrate).fit(X)
    y, _ = codec._unit_coordinates(X)
    error = np.square(codec._coordinates(codec.encode(X).packed) - y).mean()
    assert abs(error / mse - 1) < 0.02


def test_calibration_matches_the_outer_quantiles():
    sigma, mean = np.linspace(0.2, 3, 32), np.linspace(-2, 2, 32)
    X = (gaussian(20_000, 32) * sigma + mean).astype(np.float32)
    codec = Turbo(bits=2, centroids=0, rotation="none").fit(X)
    y, _ = codec._unit_coordinates(X)
    plus = (y + codec.shift_) / codec.inverse_scale_
    outer = lloyd_max(2)[-1]
    tail = 0.06552  # of N(0, 1) beyond 1.510
    np.testing.assert_allclose((plus > outer).mean(axis=0), tail, atol=5e-4)
    np.testing.assert_allclose((plus < -outer).mean(axis=0), tail, atol=5e-4)


def test_folding_shift_and_scale_into_the_query_changes_nothing():
    X = (gaussian(300, 24) * np.linspace(0.2, 3, 24) + 1).astype(np.float32)
    codec = Turbo(bits=3, metric="ip", centroids=0).fit(X)
    assert np.abs(codec.shift_).max() > 0.05
    codes = codec.encode(X)
    direct = -X[:5] @ codec.decode(codes).T
    np.testing.assert_allclose(codec.estimate(codes, X[:5]), direct, rtol=1e-4, atol=1e-3)


def test_calibration_helps_where_coordinates_differ():
    X = (gaussian(2000, 32) * np.linspace(0.1, 3, 32) + np.linspace(-3, 3, 32)).astype(np.float32)
    errors = []
    for calibrate in (True, False):
        codec = Turbo(bits=3, centroids=0, rotation="none", calibrate=calibrate).fit(X)
        errors.append(np.square(codec.decode(codec.encode(X)) - X).sum())
    assert errors[0] < 0.5 * errors[1]


def test_the_norm_is_restored():
    X = gaussian() * 3
    codec = Turbo(bits=2, centroids=0).fit(X)
    decoded = codec.decode(codec.encode(X))
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), np.linalg.norm(X, axis=1), rtol=1e-4)


def test_the_unbiased_factor_leaves_no_error_along_the_vector():
    X = gaussian()
    codec = Turbo(bits=2, centroids=0, correction="unbiased").fit(X)
    error = codec.decode(codec.encode(X)) - X
    np.testing.assert_allclose((error * X).sum(1) / np.square(X).sum(1), 0, atol=1e-4)


def test_a_dead_coordinate_is_decoded_exactly():
    X = gaussian(500, 20)
    X[:, 3] = 7
    X[:, 5] = 0
    codec = Turbo(bits=4, rotation="none").fit(X)
    decoded = codec.decode(codec.encode(X))
    np.testing.assert_allclose(decoded[:, 3], 7, atol=1e-4)
    np.testing.assert_allclose(decoded[:, 5], 0, atol=1e-4)


def test_codes_are_the_same_on_every_isa(isa):
    X = gaussian(60, 70)
    active = _kernels.active_isa()
    _kernels.select_isa("scalar")
    codec = Turbo(bits=3).fit(X)
    expected = codec.encode(X)
    _kernels.select_isa(active)
    found = codec.encode(X)
    assert found.packed.tobytes() == expected.packed.tobytes()
    assert found.factors.tobytes() == expected.factors.tobytes()


BYTES = [(1, 65, 9), (2, 65, 17), (3, 65, 27), (4, 65, 33), (4, 1, 1)]


@pytest.mark.parametrize(("bits", "dim", "nbytes"), BYTES)
def test_bytes_follow_bits(bits, dim, nbytes):
    codec = Turbo(bits=bits).fit(gaussian(20, dim))
    assert codec.code_nbytes == nbytes
    assert codec.bytes_per_vector == nbytes + 8


def test_bad_parameters_are_refused():
    for params, text in [
        ({"bits": 5}, "bits: expected one of 1, 2, 3, 4, not 5"),
        ({"correction": "none"}, "correction: expected one of norm, unbiased, not 'none'"),
        ({"rotation": "dense"}, "rotation: expected one of none, hadamard, not 'dense'"),
    ]:
        with pytest.raises(ValueError, match=text):
            Turbo(**params).fit(gaussian(20))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_recall_is_near_that_of_rabitq(shared_data, bits):
    data = datasets.read(shared_data / "A_minilm_wordnet")
    X, Q = data.base[:20_000], data.queries
    truth, _ = exact_search(X, Q, 10, "cosine")
    found = []
    for name in ("turbo", "rabitq"):
        codec = make_codec(f"{name}(bits={bits})", metric="cosine").fit(X)
        nearest = np.argsort(codec.estimate(codec.encode(X), Q), axis=1)[:, :10]
        found.append(recall(nearest, truth, 10))
    assert abs(found[0] - found[1]) <= 0.015
