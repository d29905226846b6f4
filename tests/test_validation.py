from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqcore._validation import (
    as_matrix_or_vector,
    as_vectors,
    check_bits,
    check_int,
    check_metric,
    check_random_state,
    normalize,
    row_blocks,
    zero_rows,
)

shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
float32_rows = hnp.arrays(
    np.float32, shapes, elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float32", "float64", "longdouble", "int8", "uint8", "int32", "int64", "uint64", ">f4"],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_real_dtypes_and_layouts_become_contiguous_float32(dtype, order):
    X = np.arange(12).reshape(3, 4).astype(dtype, order=order)
    out = as_vectors(X)
    assert out.dtype == np.dtype("=f4")
    assert out.flags.c_contiguous
    assert out.flags.aligned
    np.testing.assert_array_equal(out, np.arange(12).reshape(3, 4))


@given(float32_rows)
def test_checked_vectors_are_passed_through_without_a_copy(X):
    assert as_vectors(X) is X


def test_unaligned_and_strided_views_are_copied_into_place():
    raw = np.zeros(4 * 6 + 1, dtype=np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(2, 3)
    assert as_vectors(unaligned).flags.aligned
    strided = np.arange(24.0, dtype=np.float32).reshape(4, 6)[::2, ::3]
    np.testing.assert_array_equal(as_vectors(strided), [[0, 3], [12, 15]])


def test_float64_is_available_and_keeps_values_beyond_float32():
    out = as_vectors([[1e300, -1e-300]], dtype=np.float64)
    assert out.dtype == np.float64
    assert out.tolist() == [[1e300, -1e-300]]


def test_lists_and_empty_sets_where_allowed():
    assert as_vectors([[1, 2], [3, 4]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert as_vectors(np.empty((0, 5)), allow_empty=True).shape == (0, 5)
    assert as_vectors(np.ones((1, 16_000))).shape == (1, 16_000)


@pytest.mark.parametrize(
    ("X", "keywords", "message"),
    [
        (np.ones(5), {}, r"X: expected a 2-d array \(n, dim\), not 1-d of shape \(5,\)"),
        (np.ones((2, 3, 4)), {}, r"expected a 2-d array \(n, dim\), not 3-d of shape \(2, 3, 4\)"),
        (3.0, {}, r"expected a 2-d array \(n, dim\), not 0-d of shape \(\)"),
        (np.ones((2, 96)), {"dim": 128, "name": "Q"}, "^Q: expected 128 dimensions, not 96$"),
        (np.ones((2, 0)), {}, "expected at least 1 dimension, not 0"),
        (np.ones((1, 16_001)), {}, "expected at most 16000 dimensions, not 16001"),
        (np.ones((0, 4)), {}, "expected at least 1 row, not 0"),
        ([[1, 2], [3]], {}, "expected rows of equal length"),
        ([[1.0, 2.0], [3.0, np.nan]], {}, "expected finite values, not nan at row 1, coordinate 1"),
        ([[1.0, -np.inf], [np.nan, 1.0]], {}, "expected finite values, not -inf at row 0, coordinate 1"),
        (
            [[0.0, 0.0], [-1e39, 0.0]],
            {},
            r"up to 3\.4028235e\+38 \(float32\), not -1e\+39 at row 1, coordinate 0",
        ),
    ],
)
def test_errors_name_both_values(X, keywords, message):
    with pytest.raises(ValueError, match=message):
        as_vectors(X, **keywords)


@pytest.mark.parametrize(
    ("X", "dtype"),
    [
        ([[1 + 2j]], "complex128"),
        ([["a"]], "<U1"),
        ([[None]], "object"),
        ([[True]], "bool"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), "datetime64"),
    ],
)
def test_other_element_types_are_refused(X, dtype):
    with pytest.raises(TypeError, match=rf"expected real numbers \(float or integer\), not dtype {dtype}"):
        as_vectors(X)


def test_masked_arrays_are_refused_because_their_mask_would_be_lost():
    with pytest.raises(TypeError, match="not a masked one"):
        as_vectors(np.ma.masked_less(np.eye(2), 0.5))


def test_first_bad_value_is_found_beyond_the_first_block():
    X = np.zeros((600, 16_000), dtype=np.float32)
    assert len(list(row_blocks(X))) > 2
    X[570, 15_999] = np.nan
    X[599, 0] = np.inf
    with pytest.raises(ValueError, match="not nan at row 570, coordinate 15999"):
        as_vectors(X)


@given(shapes)
def test_row_blocks_cover_every_row_once(shape):
    X = np.empty(shape)
    covered = np.concatenate([np.arange(len(X))[rows] for rows in row_blocks(X)])
    np.testing.assert_array_equal(covered, np.arange(len(X)))


def test_one_query_or_many():
    one, was_1d = as_matrix_or_vector([1.0, 2.0], dim=2)
    assert was_1d
    assert one.shape == (1, 2)
    many, was_1d = as_matrix_or_vector([[1.0, 2.0]])
    assert not was_1d
    assert many.shape == (1, 2)
    with pytest.raises(ValueError, match=r"Q: expected a vector \(dim,\) or a 2-d array \(n, dim\), not 0-d"):
        as_matrix_or_vector(1.0)
    with pytest.raises(ValueError, match="q: expected 3 dimensions, not 2"):
        as_matrix_or_vector([1.0, 2.0], name="q", dim=3)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_known_metrics_pass(metric):
    assert check_metric(metric) == metric


def test_other_metrics_are_refused():
    with pytest.raises(ValueError, match="expected 'l2', 'ip' or 'cosine', not 'manhattan'"):
        check_metric("manhattan")
    with pytest.raises(TypeError, match=r"metric: expected a str, not None \(NoneType\)"):
        check_metric(None)


def test_bits_are_one_of_the_allowed():
    assert check_bits(np.int64(4), {1, 2, 4}) == 4
    assert type(check_bits(np.uint8(4), {1, 2, 4})) is int
    with pytest.raises(ValueError, match="bits: expected one of 1, 2, 4, not 3"):
        check_bits(3, {4, 1, 2})
    with pytest.raises(ValueError, match=r"^query_bits: expected one of 4, 8, not 5$"):
        check_bits(5, (4, 8), name="query_bits")
    with pytest.raises(ValueError, match="bits: expected at least 1, not 0"):
        check_bits(0, {1})
    with pytest.raises(TypeError, match="bits: expected an int, not True"):
        check_bits(True, {1})
    with pytest.raises(TypeError, match=r"bits: expected an int, not 2\.0 \(float\)"):
        check_bits(2.0, {2})


def test_ints_in_range():
    assert check_int(3, name="k", low=1, high=3) == 3
    with pytest.raises(ValueError, match="k: expected 1 to 3, not 4"):
        check_int(4, name="k", low=1, high=3)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1, np.uint64(2**64 - 1)])
def test_seeds_of_eight_bytes_pass(seed):
    assert check_random_state(seed) == int(seed)


@pytest.mark.parametrize("seed", [-1, 2**64, -(2**300)])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=rf"random_state: expected .*, not {seed}"):
        check_random_state(seed)


@pytest.mark.parametrize("seed", [None, 1.0, "1", False])
def test_seeds_of_other_types_are_refused(seed):
    with pytest.raises(TypeError, match="random_state: expected an int, not"):
        check_random_state(seed)


@given(hnp.arrays(np.int8, shapes, elements=st.integers(-1, 1)))
def test_zero_rows_are_all_found(X):
    expected = [i for i, row in enumerate(X.tolist()) if not any(row)]
    found = zero_rows(X.astype(np.float32))
    assert found.dtype == np.int64
    assert found.tolist() == expected


@given(float32_rows)
def test_normalized_rows_have_unit_length_at_any_scale(X):
    X[:, 0] = np.where(X.any(axis=1), X[:, 0], np.float32(1e-45))
    before = X.copy()
    unit = normalize(X)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float64), axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(X, before)


def test_normalize_names_the_first_zero_row_and_their_number():
    X = np.ones((5, 3))
    X[[2, 4]] = [[0.0, -0.0, 0.0]]
    with pytest.raises(ValueError, match=r"base: .* row 2 is a zero vector \(2 of 5 rows are\)"):
        normalize(X, name="base")
