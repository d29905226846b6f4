from __future__ import annotations

import re

import numpy as np
import pytest
import reference

from bqcore import Codes, Quantizer, RaBitQ

METRICS = ["l2", "ip", "cosine"]
BITS = [1, 2, 4, 8]
NOT_FITTED = re.escape(
    "RaBitQ(bits=1, metric='l2', rotation='hadamard', random_state=0, centroids=1, factors='float32') "
    "is not fitted: call fit(X) first"
)


def vectors(n=60, dim=128, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, dim)) + rng.standard_normal(dim)).astype(np.float32)


def same_codes(a, b):
    return a.packed.tobytes() == b.packed.tobytes() and a.factors.tobytes() == b.factors.tobytes()


# ---- fit ----


@pytest.mark.parametrize("metric", METRICS)
def test_fit_takes_the_mean_of_normalised_rows_under_cosine_else_of_rows(metric):
    X = vectors() * np.linspace(0.1, 9, 60, dtype=np.float32)[:, None]
    quantizer = RaBitQ(metric=metric)
    assert quantizer.fit(X, y=np.zeros(60)) is quantizer
    rows = X.astype(np.float64)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(quantizer.centroid_, rows.mean(axis=0), rtol=1e-6)
    assert quantizer.centroid_.dtype == np.float32
    assert (quantizer.dim_, quantizer.n_trained_) == (128, 60)
    assert isinstance(quantizer, Quantizer)


def test_centroid_does_not_drift_with_the_number_of_rows():
    X = np.full((200_000, 2), 0.1, dtype=np.float32)
    np.testing.assert_array_equal(RaBitQ().fit(X).centroid_, np.float32(0.1))


def test_constructor_and_set_params_store_parameters_as_given():
    given = {
        "bits": np.int64(4),
        "metric": "cosine",
        "rotation": "none",
        "random_state": 2**63,
        "centroids": 3,
        "factors": "bfloat16",
    }
    quantizer = RaBitQ(**given)
    assert all(quantizer.get_params()[name] is value for name, value in given.items())
    assert quantizer.get_params(deep=False) == given
    assert quantizer.set_params(bits=1, metric="ip") is quantizer
    assert quantizer.get_params() == {**given, "bits": 1, "metric": "ip"}
    shown = "bits=1, metric='l2', rotation='hadamard', random_state=0, centroids=1, factors='float32'"
    assert repr(RaBitQ()) == f"RaBitQ({shown})"
    known = "bits, metric, rotation, random_state, centroids, factors"
    with pytest.raises(ValueError, match=f"^expected one of {known}, not 'nope'$"):
        quantizer.set_params(nope=1)


def test_sklearn_clones_parameters_without_the_fit():
    base = pytest.importorskip("sklearn.base")
    quantizer = RaBitQ(bits=4, metric="ip", random_state=9).fit(vectors())
    clone = base.clone(quantizer)
    assert clone.get_params() == quantizer.get_params()
    with pytest.raises(ValueError, match="is not fitted"):
        clone.encode(vectors())


@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        ({"bits": 9}, ValueError, "bits: expected one of 1, 2, 3, 4, 5, 6, 7, 8, not 9"),
        ({"bits": 0}, ValueError, "bits: expected at least 1, not 0"),
        ({"bits": 1.0}, TypeError, "bits: expected an int, not 1.0 (float)"),
        ({"bits": True}, TypeError, "bits: expected an int, not True"),
        ({"metric": "l1"}, ValueError, "metric: expected 'l2', 'ip' or 'cosine', not 'l1'"),
        ({"metric": None}, TypeError, "metric: expected a str, not None (NoneType)"),
        ({"rotation": "pca"}, ValueError, "rotation: expected one of none, hadamard, dense, not 'pca'"),
        ({"rotation": None}, ValueError, "rotation: expected one of none, hadamard, dense, not None"),
        ({"centroids": 0}, ValueError, "centroids: expected 1 to 4096, not 0"),
        ({"centroids": 2.0}, TypeError, "centroids: expected an int, not 2.0 (float)"),
        ({"random_state": -1}, ValueError, "random_state: expected an int in [0, 2**64), not -1"),
        ({"random_state": 2**64}, ValueError, f"random_state: expected an int in [0, 2**64), not {2**64}"),
        ({"random_state": None}, TypeError, "random_state: expected an int, not None (NoneType)"),
        ({"random_state": 0.5}, TypeError, "random_state: expected an int, not 0.5 (float)"),
    ],
)
def test_fit_refuses_parameters_with_both_values(parameters, error, text):
    quantizer = RaBitQ(**parameters)
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        quantizer.fit(vectors())
    with pytest.raises(ValueError, match="is not fitted"):
        quantizer.encode(vectors())


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1, np.uint64(2**64 - 1)])
def test_every_seed_of_64_bits_is_kept(seed):
    quantizer = RaBitQ(random_state=seed).fit(vectors())
    assert RaBitQ.from_bytes(quantizer.to_bytes()).random_state == int(seed)


def test_model_ids_tell_models_apart():
    X = vectors()
    ids = {
        RaBitQ(bits=bits, metric=metric, rotation=rotation, random_state=seed).fit(X[:n]).model_id
        for bits in BITS
        for metric in METRICS
        for rotation in ("none", "hadamard")
        for seed in (0, 1)
        for n in (59, 60)
    }
    assert len(ids) == 96
    assert RaBitQ().fit(X).model_id == RaBitQ().fit(X.copy()).model_id


# ---- encode ----


@pytest.mark.parametrize(
    ("dim", "bits", "nbytes"),
    [(1, 1, 9), (3, 4, 10), (25, 1, 12), (127, 4, 72), (384, 1, 56), (1024, 1, 136), (1024, 4, 520)],
)
def test_a_vector_takes_its_bits_and_eight_bytes(dim, bits, nbytes):
    X = vectors(7, dim)
    quantizer = RaBitQ(bits=bits).fit(X)
    codes = quantizer.encode(X)
    assert quantizer.bytes_per_vector == codes.bytes_per_vector == nbytes == -(-dim * bits // 8) + 8
    assert codes.nbytes == codes.packed.nbytes + codes.factors.nbytes == 7 * nbytes


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_layouts_and_dtypes_give_the_codes_of_contiguous_float32(bits, metric):
    X = np.random.default_rng(1).integers(0, 256, (30, 50)).astype(np.float32)  # exact in every dtype below
    quantizer = RaBitQ(bits=bits, metric=metric).fit(X)
    expected = quantizer.encode(X)
    wide = np.zeros((60, 100), dtype=np.float32)
    wide[::2, ::2] = X
    read_only = X.copy()
    read_only.flags.writeable = False
    variants = {dtype: X.astype(dtype) for dtype in ("float16", "float64", "uint8", "int32", ">f4")}
    variants |= {"Fortran": np.asfortranarray(X), "strided": wide[::2, ::2], "list": X.tolist()}
    variants |= {"reversed": X[::-1].copy()[::-1], "read-only": read_only}
    differing = [
        name for name, variant in variants.items() if not same_codes(quantizer.encode(variant), expected)
    ]
    assert differing == []
    assert RaBitQ(bits=bits, metric=metric).fit(variants["uint8"]).model_id == quantizer.model_id
    estimates = quantizer.estimate(expected, X[:3])
    for name in ("float16", "float64", "uint8", "Fortran", "strided"):
        found = quantizer.estimate(expected, np.asarray(variants[name])[:3])
        assert found.tobytes() == estimates.tobytes(), name


def test_codes_do_not_depend_on_the_rows_around_them():
    X = vectors()
    quantizer = RaBitQ(bits=4).fit(X)
    whole = quantizer.encode(X)
    parts = [quantizer.encode(X[i : i + 1]) for i in range(len(X))]
    assert whole.packed.tobytes() == b"".join(part.packed.tobytes() for part in parts)
    assert whole.factors.tobytes() == b"".join(part.factors.tobytes() for part in parts)
    assert same_codes(whole[10:20], quantizer.encode(X[10:20]))


def test_no_rows_give_no_codes():
    quantizer = RaBitQ().fit(vectors())
    codes = quantizer.encode(np.empty((0, 128)))
    assert (len(codes), codes.nbytes, codes.packed.shape) == (0, 0, (0, 16))
    assert quantizer.estimate(codes, vectors(3)).shape == (3, 0)
    assert quantizer.error_bound(codes, vectors(3)[0]).shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(value):
    X = vectors()
    quantizer = RaBitQ().fit(X)
    codes = quantizer.encode(X)
    X[3, 7] = value
    place = f"expected finite values, not {value} at row 3, coordinate 7"
    for call in (RaBitQ().fit, quantizer.encode):
        with pytest.raises(ValueError, match=f"^X: {place}$"):
            call(X)
    for call in (quantizer.estimate, quantizer.error_bound):
        with pytest.raises(ValueError, match=f"^Q: {place}$"):
            call(codes, X)


def test_zero_vector_has_no_cosine_and_its_row_is_named():
    X = vectors()
    quantizer = RaBitQ(metric="cosine").fit(X)
    X[5] = 0
    with pytest.raises(ValueError, match=r"^X: row 5: zero vector under the cosine metric$"):
        quantizer.encode(X)
    with pytest.raises(ValueError, match=r"^X: expected rows with a direction, but row 5 is a zero vector"):
        RaBitQ(metric="cosine").fit(X)
    assert len(RaBitQ(metric="l2").fit(X).encode(X)) == 60


def test_distance_that_overflows_is_refused_with_its_row():
    X = vectors()
    quantizer = RaBitQ().fit(X)
    X[4, 9] = 3e38
    with pytest.raises(ValueError, match=r"^X: row 4: vector too large"):
        quantizer.encode(X)


# ---- estimate ----


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("query_bits", [4, 8, 32])
def test_single_query_is_a_row_of_many(bits, metric, query_bits):
    X = vectors()
    quantizer = RaBitQ(bits=bits, metric=metric).fit(X)
    codes = quantizer.encode(X)
    for call in (quantizer.estimate, quantizer.error_bound):
        many = call(codes, X[:4], query_bits=query_bits)
        assert many.shape == (4, 60)
        assert many.dtype == np.float32
        for i in range(4):
            one = call(codes, X[i], query_bits=query_bits)
            assert one.shape == (60,)
            assert one.tobytes() == many[i].tobytes()


def test_query_copies_are_estimated_at_zero_within_the_bound():
    X = vectors()
    for bits in BITS:
        quantizer = RaBitQ(bits=bits).fit(X)
        codes = quantizer.encode(X)
        own = np.diag(quantizer.estimate(codes, X))
        assert np.all(np.abs(own) <= np.diag(quantizer.error_bound(codes, X, eps0=5.0)))
        assert np.mean(np.abs(own)) < 0.05 * np.mean(quantizer.estimate(codes, X))


def test_error_bound_is_proportional_to_eps0():
    X = vectors()
    quantizer = RaBitQ().fit(X)
    codes = quantizer.encode(X)
    unit = quantizer.error_bound(codes, X[:3], eps0=1.0)
    assert np.all(unit > 0)
    np.testing.assert_array_equal(quantizer.error_bound(codes, X[:3], eps0=3.0), unit * np.float32(3))
    np.testing.assert_array_equal(quantizer.error_bound(codes, X[:3]), unit * np.float32(1.9))
    assert not quantizer.error_bound(codes, X[:3], eps0=0).any()
    for eps0 in (-0.1, np.nan):
        with pytest.raises(ValueError, match=rf"^eps0: expected a number >= 0, not {eps0}$"):
            quantizer.error_bound(codes, X[0], eps0=eps0)


def test_queries_have_8_bits_unless_4_or_32_are_asked_for():
    X = vectors()
    quantizer = RaBitQ().fit(X)
    codes = quantizer.encode(X)
    for call in (quantizer.estimate, quantizer.error_bound):
        by_bits = {bits: call(codes, X[0], query_bits=bits) for bits in (4, 8, np.int64(32))}
        np.testing.assert_array_equal(call(codes, X[0]), by_bits[8])
        assert len({found.tobytes() for found in by_bits.values()}) == 3
        for bits in (1, 16, 64):
            with pytest.raises(ValueError, match=rf"^query_bits: expected one of 4, 8, 32, not {bits}$"):
                call(codes, X[0], query_bits=bits)
        with pytest.raises(TypeError, match=r"^query_bits: expected an int, not 8\.0"):
            call(codes, X[0], query_bits=8.0)


def test_codes_of_another_model_are_refused_with_both_ids():
    X = vectors()
    mine, other = RaBitQ().fit(X), RaBitQ(random_state=1).fit(X)
    codes = other.encode(X)
    text = f"^codes: expected codes of model {mine.model_id}, not of model {other.model_id}$"
    for call in (mine.estimate, mine.error_bound):
        with pytest.raises(ValueError, match=text):
            call(codes, X[0])


def test_unfitted_quantizer_says_so():
    codes = RaBitQ().fit(vectors()).encode(vectors())
    calls = [
        lambda q: q.encode(vectors()),
        lambda q: q.estimate(codes, vectors()[0]),
        lambda q: q.error_bound(codes, vectors()[0]),
        lambda q: q.to_bytes(),
        lambda q: q.save("never"),
        lambda q: q.model_id,
        lambda q: q.bytes_per_vector,
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"^{NOT_FITTED}$"):
            call(RaBitQ())


def test_other_dims_are_refused_with_both_values():
    quantizer = RaBitQ().fit(vectors())
    codes = quantizer.encode(vectors())
    with pytest.raises(ValueError, match=r"^X: expected 128 dimensions, not 96$"):
        quantizer.encode(vectors(dim=96))
    for query in (vectors(dim=96), vectors(dim=96)[0]):
        for call in (quantizer.estimate, quantizer.error_bound):
            with pytest.raises(ValueError, match=r"^Q: expected 128 dimensions, not 96$"):
                call(codes, query)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rotation", ["hadamard", "none"])
def test_estimates_do_not_change_when_the_model_is_copied_through_bytes(metric, rotation):
    X = vectors()
    quantizer = RaBitQ(bits=4, metric=metric, rotation=rotation, random_state=3).fit(X)
    restored = RaBitQ.from_bytes(quantizer.to_bytes())
    assert restored.get_params() == quantizer.get_params()
    assert restored.model_id == quantizer.model_id
    assert restored.n_trained_ == 60
    assert restored.to_bytes() == quantizer.to_bytes()
    codes = quantizer.encode(X)
    assert same_codes(restored.encode(X), codes)
    assert restored.estimate(codes, X).tobytes() == quantizer.estimate(codes, X).tobytes()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_small_and_odd_dims_are_estimated_and_one_dimension_exactly(bits, metric):
    for dim, least_correlation in [(1, 1.0), (3, 0.9), (25, 0.87), (127, 0.88)]:
        X = vectors(300, dim)
        quantizer = RaBitQ(bits=bits, metric=metric).fit(X)
        found = quantizer.estimate(quantizer.encode(X), X)
        truth = reference.distances(X, X, metric)
        if dim == 1:
            np.testing.assert_allclose(found, truth, atol=1e-5 * np.abs(truth).max())
        least = least_correlation if bits == 1 else {2: 0.96, 4: 0.995, 8: 0.9999}[bits]
        assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] >= least - 1e-6, dim


def test_codes_are_checked_when_they_are_made():
    codes = RaBitQ().fit(vectors()).encode(vectors())
    parts = {"packed": codes.packed, "factors": codes.factors, "dim": 128, "codec": "rabitq", "model_id": "x"}
    with pytest.raises(ValueError, match=r"^packed: expected uint8 of shape \(n, code_nbytes\), not int8"):
        Codes(**{**parts, "packed": codes.packed.astype(np.int8)})
    for factors in (codes.factors[:5], np.zeros(60)):
        with pytest.raises(ValueError, match=r"^factors: expected a structured array of shape \(60,\), not"):
            Codes(**{**parts, "factors": factors})


def test_codes_of_another_width_are_refused():
    quantizer = RaBitQ().fit(vectors())
    codes = quantizer.encode(vectors())
    parts = {"dim": 128, "codec": "rabitq", "model_id": codes.model_id}
    with pytest.raises(ValueError, match=r"^codes: expected 16 bytes per code, not 8"):
        quantizer.estimate(Codes(codes.packed[:, :8], codes.factors, **parts), vectors())
    with pytest.raises(ValueError, match=r"^codes: expected factors of"):
        quantizer.estimate(Codes(codes.packed, np.zeros(60, dtype=[("f_add", "<f4")]), **parts), vectors())
