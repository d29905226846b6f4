"""The ends of the number range, and parameters that change under a fitted model."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from bqcore import Codes, RaBitQ, search

BITS = [1, 2, 4, 8]


def vectors(n=60, dim=128):
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, dim)) + rng.standard_normal(dim)).astype(np.float32)


def same_codes(a, b):
    return a.packed.tobytes() == b.packed.tobytes() and a.factors.tobytes() == b.factors.tobytes()


def unit_residuals(n=30, dim=64):
    """Vectors of unit length about zero."""
    X = vectors(n, dim)
    X -= X.mean(axis=0)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("exponent", [-40, 0, 40])
@pytest.mark.parametrize("bits", BITS)
def test_scaling_by_a_power_of_two_scales_estimates(bits, exponent):
    X = unit_residuals()
    model = RaBitQ(bits=bits).fit(X)
    scaled = RaBitQ(bits=bits).fit(np.ldexp(X, exponent))
    codes, scaled_codes = model.encode(X), scaled.encode(np.ldexp(X, exponent))
    assert scaled_codes.packed.tobytes() == codes.packed.tobytes()
    found = scaled.estimate(scaled_codes, np.ldexp(X, exponent))
    np.testing.assert_array_equal(found, np.ldexp(model.estimate(codes, X), 2 * exponent))


def test_codes_of_huge_vectors_are_as_good_or_refused():
    X = unit_residuals()
    huge = np.ldexp(X, 60)
    quantizer = RaBitQ(bits=4).fit(huge)
    try:
        codes = quantizer.encode(huge)
    except ValueError:
        return
    assert codes.packed.tobytes() == RaBitQ(bits=4).fit(X).encode(X).packed.tobytes()


def test_distances_of_accepted_vectors_are_finite():
    huge = unit_residuals() * np.float32(1.5e19)
    quantizer = RaBitQ().fit(huge)
    try:
        codes = quantizer.encode(huge)
    except ValueError:
        return
    assert np.isfinite(quantizer.estimate(codes, huge)).all()


def test_cosine_of_denormal_vectors_is_that_of_their_direction():
    X = vectors(10, 64)
    quantizer = RaBitQ(metric="cosine").fit(X)
    X = np.trunc(X * 1000) * np.float32(1e-45)  # thousandths become multiples of the smallest float
    codes = quantizer.encode(X)
    assert same_codes(codes, quantizer.encode(np.ldexp(X, 149)))
    assert np.isfinite(quantizer.estimate(codes, X)).all()


def test_query_that_overflows_is_refused_with_its_row():
    X = vectors()
    quantizer = RaBitQ().fit(X)
    codes = quantizer.encode(X)
    X[2, 3] = 3e38
    with pytest.raises(ValueError, match="too large") as refused:
        quantizer.estimate(codes, X)
    assert str(refused.value).startswith("Q: row 2: ")


@pytest.mark.filterwarnings("ignore:overflow encountered in scalar multiply:RuntimeWarning")
@pytest.mark.parametrize("bits", [np.int8(4), np.uint8(4), np.int64(4)])
def test_bits_of_any_integer_type_are_taken(tmp_path, bits):
    X = vectors()
    codes = RaBitQ(bits=bits).fit(X).encode(X)
    codes.save(tmp_path / "codes.npz")
    assert same_codes(Codes.load(tmp_path / "codes.npz"), codes)


def test_parameters_set_after_the_fit_wait_for_the_next_one():
    X = vectors()
    quantizer = RaBitQ().fit(X)
    expected = quantizer.encode(X)
    quantizer.set_params(bits=4)
    assert same_codes(quantizer.encode(X), expected)
    assert quantizer.fit(X).encode(X).packed.shape[1] == X.shape[1] // 2


def test_a_fitted_quantizer_survives_pickling():
    X = np.random.default_rng(1).standard_normal((50, 30)).astype(np.float32)
    for quantizer in (RaBitQ(bits=4, metric="ip", random_state=9), RaBitQ(bits=2).fit(X)):
        restored = pickle.loads(pickle.dumps(quantizer))
        assert restored.get_params() == quantizer.get_params()
        if hasattr(quantizer, "centroid_"):
            assert restored.model_id == quantizer.model_id
            assert restored.encode(X).packed.tobytes() == quantizer.encode(X).packed.tobytes()


def test_searching_no_codes_is_refused():
    X = np.eye(4, dtype=np.float32)
    quantizer = RaBitQ().fit(X)
    with pytest.raises(ValueError, match="expected at least 1 code, not 0"):
        search(quantizer, quantizer.encode(X[:0]), X[0], 1)
