"""RaBitQ beyond the databases' model format: several centroids, dense rotations, 3, 5, 6 and 7 bits."""

from __future__ import annotations

import re

import numpy as np
import pytest
import reference

import bqcore
from bqcore import RaBitQ, _kernels, levels, search
from bqcore.evaluation import recall
from bqcore.rotation import dense_rotation

METRICS = ["l2", "ip", "cosine"]
ALL_BITS = range(1, 9)


def clustered(n=600, dim=100, n_clusters=8, seed=0):
    """Vectors around unequal centres away from the origin, so that lists differ from the mean."""
    rng = np.random.default_rng(seed)
    centres = 1.5 * rng.standard_normal((n_clusters, dim)) + 0.5
    X = centres[rng.integers(n_clusters, size=n)] + rng.standard_normal((n, dim))
    return X.astype(np.float32)


def codes_of(quantizer, X):
    """Residuals, rotated in float64, and the levels of their codes."""
    codes = quantizer.encode(X)
    lists = codes.factors["list"] if "list" in codes.factors.dtype.names else np.zeros(len(X), dtype=int)
    X = X.astype(np.float64)
    if quantizer.metric_ == "cosine":
        X /= np.linalg.norm(X, axis=1, keepdims=True)
    residuals = X - quantizer.centroids_[lists]
    R = {
        "none": lambda: np.eye(quantizer.dim_),
        "hadamard": lambda: reference.rotation(quantizer.dim_, quantizer.random_state_),
        "dense": lambda: quantizer.rotation_matrix_.astype(np.float64).T,
    }[quantizer.rotation_]()
    middle = ((1 << quantizer.bits_) - 1) / 2
    return (
        codes,
        residuals @ R.T,
        levels.unpack(codes.packed, quantizer.dim_, quantizer.bits_) - middle,
        lists,
        R,
    )


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("dim", [1, 7, 8, 65])
def test_levels_survive_packing(bits, dim):
    u = np.random.default_rng(0).integers(0, 1 << bits, (20, dim)).astype(np.uint8)
    packed = levels.pack(u, bits)
    assert packed.shape == (20, levels.code_nbytes(dim, bits))
    np.testing.assert_array_equal(levels.unpack(packed, dim, bits), u)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("rotation", "centroids"), [("hadamard", 8), ("dense", 8), ("none", 8), ("dense", 1)]
)
def test_estimates_are_those_of_the_definition(bits, metric, rotation, centroids):
    X, Q = clustered(), clustered(5, seed=1)
    quantizer = RaBitQ(bits=bits, metric=metric, rotation=rotation, centroids=centroids, random_state=3).fit(
        X
    )
    codes, o, k, lists, R = codes_of(quantizer, X)
    if rotation != "none":
        assert np.abs(R @ R.T - np.eye(100)).max() < 1e-5
    n2 = (o**2).sum(axis=1)
    wide = Q.astype(np.float64)
    if metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    expected = np.empty((len(Q), len(X)))
    for i, q in enumerate(wide):
        c = quantizer.centroids_[lists].astype(np.float64)
        s = (c @ q) / (c * c).sum(axis=1) if metric == "ip" else np.ones(len(c))
        product = n2 * (((q - s[:, np.newaxis] * c) @ R.T) * k).sum(axis=1) / (o * k).sum(axis=1)
        if metric == "ip":
            expected[i] = -(c @ q + s * ((o @ R) * c).sum(axis=1) + product)
        else:
            expected[i] = n2 + ((q - c) ** 2).sum(axis=1) - 2 * product
            expected[i] /= 2 if metric == "cosine" else 1
    error = quantizer.estimate(codes, Q) - expected
    # what is left is the query's rounding to 8 bits, largest / 127 / sqrt(12) in every coordinate
    weight = 2 if metric == "l2" else 1
    mean = quantizer.centroid_.astype(np.float64)
    s = (wide @ mean) / (mean @ mean) if metric == "ip" else np.ones(len(Q))
    if quantizer.shifted:  # queries keep the mean
        s[:] = 0
    step = np.abs((wide - s[:, np.newaxis] * mean) @ R.T).max(axis=1, keepdims=True) / 127
    cosine = (o * k).sum(axis=1) / np.sqrt(n2) / np.linalg.norm(k, axis=1)
    rounding = weight * np.sqrt(n2) / cosine * step / np.sqrt(12)
    assert np.sqrt(np.mean((error / rounding) ** 2)) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "parameters",
    [{"bits": 1, "centroids": 8}, {"bits": 4, "centroids": 8}]
    + [{"bits": bits} for bits in (3, 5, 6, 7)]
    + [{"bits": 1, "rotation": "dense"}, {"bits": 7, "rotation": "dense", "centroids": 3}],
)
def test_estimates_are_unbiased_and_covered_as_the_theorem_says(metric, parameters):
    X, Q = clustered(2000, 200), clustered(100, 200, seed=1)
    Q = Q + X[:100]
    truth = reference.distances(X, Q, metric)
    slopes, covered = [], {1.0: [], 1.9: [], 3.0: []}
    for seed in range(2):
        quantizer = RaBitQ(metric=metric, random_state=seed, **parameters).fit(X)
        codes = quantizer.encode(X)
        found = quantizer.estimate(codes, Q).astype(np.float64)
        slopes.append(np.polyfit(truth.ravel(), found.ravel(), 1)[0])
        for eps0, shares in covered.items():
            shares.append(np.mean(np.abs(found - truth) <= quantizer.error_bound(codes, Q, eps0=eps0)))
    assert np.mean(slopes) == pytest.approx(1, abs=0.005)
    # under ip 1 - cos^2 of a code is taken as at dim 1,024; from 5 bits on it is a quarter smaller at 200
    wide = 0.1 if metric == "ip" and quantizer.bits_ > 4 else 0.06
    for eps0, expected in [(1.0, 0.683), (1.9, 0.943), (3.0, 0.997)]:
        assert expected - 0.01 <= np.mean(covered[eps0]) <= min(expected + wide, 0.9999), eps0


@pytest.mark.parametrize("rotation", ["hadamard", "dense"])
def test_cosine_of_codes_grows_with_bits_to_the_known_values(rotation):
    X = np.random.default_rng(0).standard_normal((500, 384)).astype(np.float32)
    found = []
    for bits in ALL_BITS:
        _, o, k, _, _ = codes_of(RaBitQ(bits=bits, rotation=rotation).fit(X), X)
        found.append(np.mean((o * k).sum(axis=1) / np.linalg.norm(o, axis=1) / np.linalg.norm(k, axis=1)))
    assert found[:4] == pytest.approx([0.798, 0.939, 0.982, 0.995], abs=0.003)
    assert np.all(np.diff(found) > 0)
    assert found[-1] > 0.99995


@pytest.mark.parametrize(("bits", "mean_gap"), [(3, 1e-4), (5, 3e-5), (6, 2e-5), (7, 1e-5)])
def test_planes_come_close_to_the_best_cosine(bits, mean_gap):
    X = np.random.default_rng(0).standard_normal((30, 60)).astype(np.float32)
    _, o, k, _, _ = codes_of(RaBitQ(bits=bits).fit(X), X)
    found = (o * k).sum(axis=1) / np.linalg.norm(o, axis=1) / np.linalg.norm(k, axis=1)
    gap = np.array([reference.best_cosine(row, bits) for row in o]) - found
    assert gap.min() > -1e-7
    assert gap.mean() < mean_gap


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_residuals_to_centroids_estimate_better_than_to_the_mean(bits):
    X, Q = clustered(2000), clustered(50, seed=1)
    truth = reference.distances(X, Q, "l2")
    errors = []
    for centroids in (1, 8):
        quantizer = RaBitQ(bits=bits, centroids=centroids).fit(X)
        errors.append(np.mean((quantizer.estimate(quantizer.encode(X), Q) - truth) ** 2))
    # at 8 bits the query's rounding, which centroids leave alone, is the larger part
    assert errors[1] < (0.95 if bits == 8 else 0.75) * errors[0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_fewer_rows_than_centroids_leave_no_residual_and_exact_estimates(metric, bits):
    X, Q = clustered(20), clustered(5, seed=1)
    quantizer = RaBitQ(bits=bits, metric=metric, centroids=4096).fit(X)
    assert quantizer.centroids_.shape == (20, 100)
    codes = quantizer.encode(X)
    assert not codes.factors["f_rescale"].any()
    assert not codes.packed.any()
    truth = reference.distances(X, Q, metric)
    np.testing.assert_allclose(quantizer.estimate(codes, Q), truth, rtol=1e-5, atol=1e-5)
    assert not quantizer.error_bound(codes, Q).any()
    np.testing.assert_allclose(
        quantizer.decode(codes),
        X / np.linalg.norm(X, axis=1)[:, None] if metric == "cosine" else X,
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("centroids", "dtype", "nbytes"), [(1, None, 8), (2, "u1", 9), (256, "u1", 9), (257, "<u2", 10)]
)
def test_list_ids_take_a_byte_up_to_256_centroids_and_two_beyond(centroids, dtype, nbytes):
    X = clustered(300)
    quantizer = RaBitQ(centroids=centroids).fit(X)
    factors = quantizer.encode(X).factors
    assert len(quantizer.centroids_) == centroids
    assert factors.itemsize == nbytes
    assert quantizer.bytes_per_vector == 13 + nbytes
    assert ("list" in factors.dtype.names) == (dtype is not None)
    if dtype is not None:
        assert factors["list"].dtype == np.dtype(dtype)
        distances = ((X[:, None].astype(np.float64) - quantizer.centroids_) ** 2).sum(axis=2)
        np.testing.assert_allclose(
            distances[np.arange(300), factors["list"]], distances.min(axis=1), rtol=1e-5
        )


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"bits": 3}, "3 bits"),
        ({"rotation": "dense"}, "rotation 'dense'"),
        ({"centroids": 5}, "5 centroids"),
        ({"bits": 7, "rotation": "dense", "centroids": 2}, "7 bits and rotation 'dense' and 2 centroids"),
    ],
)
def test_what_the_databases_format_cannot_express_is_named_and_saved_otherwise(tmp_path, parameters, text):
    quantizer = RaBitQ(**parameters).fit(clustered())
    with pytest.raises(ValueError, match=f"not {re.escape(text)}: use save"):
        quantizer.to_bytes()
    quantizer.save(tmp_path / "model")
    for restored in (RaBitQ.load(tmp_path / "model"), bqcore.load(tmp_path / "model")):
        assert restored.model_id == quantizer.model_id
        assert restored.encode(clustered()).packed.tobytes() == quantizer.encode(clustered()).packed.tobytes()


def test_a_single_distinct_row_leaves_one_centroid_and_the_databases_format():
    X = np.repeat(clustered(1), 9, axis=0)
    quantizer = RaBitQ(centroids=16).fit(X)
    assert quantizer.centroids_.shape == (1, 100)
    assert quantizer.encode(X).factors.dtype == _kernels.FACTORS_DTYPE
    assert RaBitQ.from_bytes(quantizer.to_bytes()).model_id == quantizer.model_id


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "parameters", [{"bits": 3}, {"bits": 7, "centroids": 5}, {"rotation": "dense", "bits": 2}]
)
def test_every_isa_gives_the_same_bytes(isa, metric, parameters):
    X = clustered(100, 77)
    quantizer = RaBitQ(metric=metric, **parameters).fit(X)

    def answers():
        codes = quantizer.encode(X)
        arrays = codes.packed, codes.factors, quantizer.estimate(codes, X), quantizer.error_bound(codes, X)
        return [array.tobytes() for array in (*arrays, quantizer.decode(codes))]

    found = answers()
    _kernels.select_isa("scalar")
    assert found == answers()


def test_dense_rotations_are_orthogonal_seeded_and_limited():
    R = dense_rotation(50, 7).astype(np.float64)
    np.testing.assert_allclose(R @ R.T, np.eye(50), atol=1e-6)
    np.testing.assert_array_equal(R, dense_rotation(50, 7))
    assert np.abs(R - dense_rotation(50, 8)).max() > 0.1
    with pytest.raises(
        ValueError, match=r"^rotation: expected at most 1024 dimensions for 'dense', not 1025$"
    ):
        RaBitQ(rotation="dense").fit(np.ones((2, 1025)))


def test_vectors_that_overflow_are_refused_with_their_row():
    X = clustered()
    quantizer = RaBitQ(centroids=4).fit(X)
    X[4, 9] = 3e38
    with pytest.raises(ValueError, match=r"^X: row 4: vector too large"):
        quantizer.encode(X)
    with pytest.raises(ValueError, match=r"^Q: row 4: vector too large"):
        quantizer.estimate(quantizer.encode(X[:4]), X)


@pytest.mark.parametrize(
    ("spec", "least"), [("rabitq", 0.75), ("rabitq(bits=2)", 0.865), ("rabitq(bits=3)", 0.92)]
)
def test_recall_on_text_vectors(shared_data, spec, least):
    folder = shared_data / "A_minilm_wordnet"
    X, Q = (np.load(folder / f"{name}.npy").astype(np.float32) for name in ("base", "query"))
    quantizer = bqcore.make_codec(spec, metric="cosine").fit(X)
    ids = search(quantizer, quantizer.encode(X), Q, 10).ids
    assert recall(ids, np.load(folder / "gt.npy"), 10) >= least
