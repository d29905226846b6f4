from __future__ import annotations

import numpy as np
import pytest

from bqcore import float8

ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is the reference for float8")
#: Beyond 448 and half a step ml_dtypes gives NaN; here values saturate.
LARGEST_ROUNDED = 464.0


def check(values):
    values = np.asarray(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        expected = values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    beyond = np.abs(values) > LARGEST_ROUNDED
    saturated = np.where(values < 0, 0xFE, 0x7E)
    np.testing.assert_array_equal(float8.encode(values), np.where(beyond, saturated, expected))


def test_every_float16_value_is_rounded_as_ml_dtypes_does():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    check(halves[~np.isnan(halves)])


def test_random_float32_values_are_rounded_as_ml_dtypes_does():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 2_000_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    check(bits[~np.isnan(bits)])
    check(rng.standard_normal(500_000) * np.exp2(rng.uniform(-14, 10, 500_000)))


def test_ties_denormals_and_the_neighbours_of_every_step_are_rounded_as_ml_dtypes_does():
    grid = np.sort(float8.VALUES[~np.isnan(float8.VALUES)])
    middles = ((grid[1:].astype(np.float64) + grid[:-1]) / 2).astype(np.float32)
    for values in (grid, middles):
        check(values)
        check(np.nextafter(values, np.float32(np.inf)))
        check(np.nextafter(values, np.float32(-np.inf)))
    tiny = np.float32(1e-45)
    check(
        [
            0.0,
            -0.0,
            tiny,
            -tiny,
            2.0**-126,
            2.0**-10,
            2.0**-10 * 1.0000001,
            448,
            463.9,
            464,
            464.1,
            np.inf,
            -np.inf,
        ]
    )


def test_codes_decode_to_the_values_of_ml_dtypes_and_back():
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
        float8.decode(codes), codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    )
    numbers = codes[~np.isnan(float8.decode(codes))]
    assert len(numbers) == 254
    np.testing.assert_array_equal(float8.encode(float8.decode(numbers)), numbers)


def test_shapes_are_kept_and_nan_is_refused():
    assert float8.encode(np.ones((2, 3), dtype=np.float32).T).shape == (3, 2)
    with pytest.raises(ValueError, match=r"^x: expected numbers, not nan$"):
        float8.encode(np.array([1, np.nan], dtype=np.float32))
