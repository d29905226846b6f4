"""Optimized scalar quantization and the BBQ layout."""

from __future__ import annotations

import re

import numpy as np
import pytest
import reference

from bqcore import RaBitQ, _kernels, levels, make_codec, search
from bqcore.bbq import BBQ, quantize_query
from bqcore.evaluation import recall
from bqcore.osq import OSQ, optimize_intervals

METRICS = ["l2", "ip", "cosine"]
BITS = [1, 2, 4, 7]
INTERVALS = {"cosine": 1.0, "lucene": 0.1}


def vectors(n=300, dim=100, seed=0):
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(9).lognormal(sigma=0.5, size=dim)
    return (rng.standard_normal((n, dim)) * axes + 0.5).astype(np.float32)


def loss_of(x, decoded, weight):
    e = x - decoded
    return (1 - weight) * (x * e).sum(axis=1) ** 2 / (x * x).sum(axis=1) + weight * (e * e).sum(axis=1)


# ---- intervals ----


@pytest.mark.parametrize("weight", INTERVALS.values())
@pytest.mark.parametrize("bits", BITS)
def test_losses_never_rise_and_are_those_of_what_is_returned(bits, weight):
    x = vectors().astype(np.float64)
    lower, upper, u, losses = optimize_intervals(x, bits, weight)
    assert len(losses) > 2
    assert np.all(np.diff(losses, axis=0) <= 0)
    assert np.mean(losses[-1]) < 0.99 * np.mean(losses[0])
    decoded = lower[:, None] + (upper - lower)[:, None] * u / ((1 << bits) - 1)
    np.testing.assert_allclose(losses[-1], loss_of(x, decoded, weight), rtol=1e-9)


def test_first_intervals_are_lucenes():
    x = np.random.default_rng(0).standard_normal((50, 200))
    for bits, half in [(1, 0.798), (2, 1.493), (4, 2.514), (7, 3.611)]:
        a = np.maximum(x.mean(1) - half * x.std(1), x.min(1))[:, None]
        b = np.minimum(x.mean(1) + half * x.std(1), x.max(1))[:, None]
        top = (1 << bits) - 1
        decoded = a + np.rint((np.clip(x, a, b) - a) * top / (b - a)) * (b - a) / top
        np.testing.assert_allclose(
            optimize_intervals(x, bits, 0.1)[3][0], loss_of(x, decoded, 0.1), rtol=1e-9
        )


@pytest.mark.parametrize("bits", BITS)
def test_vectors_of_equal_coordinates_are_their_interval(bits):
    x = np.array([[0.0] * 5, [3.0] * 5, [-2.0] * 5])
    lower, upper, u, losses = optimize_intervals(x, bits, 0.1)
    np.testing.assert_array_equal(lower, x[:, 0])
    np.testing.assert_array_equal(upper, x[:, 0])
    assert not u.any()
    assert not losses[-1].any()


# ---- OSQ ----


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", BITS)
def test_estimates_are_those_of_decoded_residuals_and_of_exact_norms(bits, metric, interval):
    X, Q = vectors(), vectors(5, seed=1)
    codec = OSQ(bits=bits, metric=metric, interval=interval).fit(X)
    codes = codec.encode(X)
    if metric == "cosine":
        X, Q = (V / np.linalg.norm(V, axis=1, keepdims=True) for V in (X, Q))
    c = codec.centroid_.astype(np.float64)
    # under ip the query less its projection on the centroid, else less the centroid
    share = (Q @ c / (c @ c))[:, None] if metric == "ip" else 1
    o, q = X - c, Q - share * c
    products = q @ (codec.decode(codes) - c).T
    if metric == "ip":
        expected = -(Q @ c)[:, None] - share * (o @ c) - products
    else:
        expected = (q * q).sum(1)[:, None] + (o * o).sum(1) - 2 * products
        expected /= 2 if metric == "cosine" else 1
    step = np.abs(q @ reference.rotation(100, 0).T).max(axis=1, keepdims=True) / 127
    rounding = step * np.linalg.norm(codec.decode(codes) - c, axis=1) / np.sqrt(12)
    error = (codec.estimate(codes, Q) - expected) / (2 if metric == "l2" else 1)
    assert np.sqrt(np.mean((error / rounding) ** 2)) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("bits", BITS)
def test_the_cosine_interval_is_unbiased_and_near_the_best_grid(bits):
    X = np.random.default_rng(0).standard_normal((200, 384)).astype(np.float32)
    codec = OSQ(bits=bits).fit(X)
    o = X - codec.centroid_.astype(np.float64)
    decoded = codec.decode(codec.encode(X)) - codec.centroid_
    np.testing.assert_allclose((o * decoded).sum(axis=1) / (o * o).sum(axis=1), 1, rtol=1e-5)
    cosine = np.mean(np.linalg.norm(o, axis=1) / np.linalg.norm(decoded, axis=1))
    assert cosine == pytest.approx(
        {1: 0.798, 2: 0.939, 4: 0.9943, 7: 0.99985}[bits], abs=0.003 if bits < 4 else 5e-4
    )


@pytest.mark.parametrize("bits", BITS)
def test_the_cosine_interval_has_the_larger_cosine(bits):
    x = vectors().astype(np.float64)
    cosines = []
    for weight, starts in [(1.0, 4), (0.1, 1)]:
        lower, upper, u, _ = optimize_intervals(x, bits, weight, starts)
        decoded = lower[:, None] + (upper - lower)[:, None] * u / ((1 << bits) - 1)
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(decoded, axis=1)
        cosines.append(np.mean((x * decoded).sum(axis=1) / lengths))
    gap = (1 - cosines[0]) / (1 - cosines[1])
    assert gap < {1: 0.95, 2: 0.95, 4: 0.95, 7: 0.8}[bits]


@pytest.mark.parametrize(
    ("dim", "bits", "nbytes"), [(1024, 1, 140), (100, 2, 37), (100, 4, 62), (100, 7, 103), (1, 7, 19)]
)
def test_a_vector_takes_its_bits_and_twelve_bytes(dim, bits, nbytes):
    codec = OSQ(bits=bits).fit(vectors(20, dim))
    assert codec.bytes_per_vector == nbytes == levels.code_nbytes(dim, bits) + 12


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "spec", ["osq", "osq(bits=4)", "osq(bits=7, interval=lucene)", "bbq", "bbq(rotation=hadamard)"]
)
def test_every_isa_gives_the_same_bytes(isa, spec, metric):
    X = vectors(100, 77)
    codec = make_codec(spec, metric=metric).fit(X)

    def answers():
        codes = codec.encode(X)
        arrays = codes.packed, codes.factors, codec.estimate(codes, X), codec.decode(codes)
        return [array.tobytes() for array in arrays]

    found = answers()
    _kernels.select_isa("scalar")
    assert found == answers()


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (OSQ(bits=3), "bits: expected one of 1, 2, 4, 7, not 3"),
        (OSQ(interval="mse"), "interval: expected one of cosine, lucene, not 'mse'"),
        (OSQ(rotation="dense"), "rotation: expected one of none, hadamard, not 'dense'"),
        (BBQ(rotation="dense"), "rotation: expected one of none, hadamard, not 'dense'"),
    ],
)
def test_bad_parameters_are_refused(codec, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        codec.fit(vectors())


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("spec", ["osq", "bbq", "scalar(dims=20)"])
def test_vectors_and_queries_that_overflow_are_refused_with_their_row(spec, metric):
    X = vectors()
    codec = make_codec(spec, metric=metric).fit(X)
    X[4] = 3e38
    with pytest.raises(ValueError, match=r"^X: (row 4: vector too large|expected magnitudes up to 65504)"):
        codec.encode(X)
    if not spec.startswith("scalar"):
        with pytest.raises(ValueError, match=r"^Q: row 4: vector too large"):
            codec.estimate(codec.encode(X[:4]), X)


def test_codecs_without_an_error_bound_have_no_bound_mode():
    X = vectors()
    codec = OSQ().fit(X)
    with pytest.raises(ValueError, match=r"^mode: 'bound' needs a codec with an error bound, not 'osq'$"):
        search(codec, codec.encode(X), X[:2], X=X, mode="bound")


# ---- BBQ ----


@pytest.mark.parametrize(("dim", "nbytes"), [(1024, 136), (384, 56), (1, 9), (65, 17)])
def test_bbq_takes_a_bit_per_dimension_and_eight_bytes(dim, nbytes):
    assert BBQ().fit(vectors(20, dim)).bytes_per_vector == nbytes


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rotation", ["none", "hadamard"])
def test_bbq_codes_are_rabitqs(metric, rotation):
    X = vectors()
    bbq = BBQ(metric=metric, rotation=rotation).fit(X).encode(X)
    rabitq = RaBitQ(metric=metric, rotation=rotation).fit(X).encode(X)
    assert bbq.packed.tobytes() == rabitq.packed.tobytes()
    assert bbq.factors.tobytes() == rabitq.factors.tobytes()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 63, 65, 100, 384])
def test_bbq_estimates_are_those_of_the_definition(metric, dim):
    X, Q = vectors(200, dim), vectors(6, dim, seed=1)
    codec = BBQ(metric=metric).fit(X)
    codes = codec.encode(X)
    bits = np.unpackbits(codes.packed, axis=1, count=dim, bitorder="little").astype(np.int64)
    wide = Q.astype(np.float64)
    if metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    c = codec.centroid_.astype(np.float64)
    for i, q in enumerate(wide):
        s = (q @ c) / (c @ c) if metric == "ip" else 1.0
        r = q - s * c
        low, step = r.min(), (r.max() - r.min()) / 15
        z = np.rint((r - low) / step).astype(np.int64) if step else np.zeros(dim, dtype=np.int64)
        planes = sum((bits * (z >> p & 1)).sum(axis=1) << p for p in range(4))
        np.testing.assert_array_equal(planes, bits @ z)
        # <s, qr> = 2 (low popcount(b) + step S) - sum of q's rounded coordinates, and k = s / 2
        product = (2 * (low * bits.sum(axis=1) + step * planes) - (dim * low + step * z.sum())) / 2
        g_add = -(q @ c) if metric == "ip" else (r @ r) / (2 if metric == "cosine" else 1)
        expected = s * codes.factors["f_add"] + g_add + codes.factors["f_rescale"] * product
        np.testing.assert_allclose(
            codec.estimate(codes, Q)[i], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


def test_queries_of_four_bits_span_their_range():
    q = np.random.default_rng(0).standard_normal(500)
    low, step, z = quantize_query(q)
    assert (z.min(), z.max()) == (0, 15)
    assert np.abs(low + step * z - q).max() <= step / 2 * 1.0001
    assert quantize_query(np.full(3, 2.0))[:2] == (2.0, 0.0)


@pytest.mark.parametrize(
    "name",
    [
        "A_minilm_wordnet",
        "B_sgns200",
        "B_tok384",
        "D_sift",
        "D_patch400",
        "B_gnews300",
        "B_glove25",
        "D_digits",
    ],
)
def test_recall_at_one_bit_is_that_of_rabitq_on_real_vectors(shared_data, name):
    import json

    folder = shared_data / name
    X, Q = (np.load(folder / f"{part}.npy").astype(np.float32) for part in ("base", "query"))
    truth = np.load(folder / "gt.npy")
    metric = json.loads((folder / "meta.json").read_text())["metric"]
    found = {}
    for spec in ("rabitq", "osq", "bbq(rotation=hadamard)"):
        codec = make_codec(spec, metric=metric).fit(X)
        found[spec] = recall(search(codec, codec.encode(X), Q, 10).ids, truth, 10)
    assert found["osq"] >= found["rabitq"] - 0.01
    # the query's 4 bits cost up to .015, and .03 where the effective dimension is 3
    assert found["bbq(rotation=hadamard)"] >= found["rabitq"] - (0.035 if name == "D_patch400" else 0.015)
