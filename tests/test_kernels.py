from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqcore import _kernels
from bqcore._kernels import Model

METRICS = ["l2", "ip", "cosine"]
BITS = [1, 2, 4, 8]
QUERY_BITS = [4, 8, 32]
WEIGHT = {"l2": 2.0, "ip": 1.0, "cosine": 1.0}


def model_of(dim, bits=1, metric="l2", seed=0, rotation="hadamard", centroid=None):
    centroid = np.zeros(dim, dtype=np.float32) if centroid is None else centroid
    return Model(bits=bits, metric=metric, rotation=rotation, seed=seed, centroid=centroid, n_trained=1)


def sample(dim, n=40, n_queries=5, seed=0, metric="l2"):
    """Vectors with a common mean and unequal axes, their centroid, and queries like them."""
    rng = np.random.default_rng(seed + dim)
    axes = rng.lognormal(sigma=0.5, size=dim)
    X = (rng.standard_normal((n + n_queries, dim)) * axes + rng.standard_normal(dim)).astype(np.float32)
    centroid = X[:n].mean(axis=0)
    if metric == "cosine":
        centroid = (X[:n] / np.linalg.norm(X[:n], axis=1, keepdims=True)).mean(axis=0)
    return X[:n], X[n:], centroid * np.float32(0.7)


def outputs(model, X, Q):
    """Everything the kernels compute, as bytes by name."""
    codes, factors = model.encode(X)
    found = {"rotated": model.rotate(X), "unrotated": model.unrotate(X), "codes": codes, "factors": factors}
    found["estimate_sym"] = model.estimate_sym(codes, factors, 0)
    found["sym"] = model.sym(codes, codes[-1])
    for i, q in enumerate(Q):
        for query_bits in QUERY_BITS:
            query = model.prepare(q, query_bits)
            key = f"{i} at {query_bits}"
            found[f"terms {key}"] = np.frombuffer(_kernels.ffi.buffer(query.struct), dtype=np.uint8)
            found[f"z {key}"] = query.z
            found[f"estimate {key}"] = model.estimate(query, codes, factors)
            found[f"error {key}"] = model.error(query, codes, factors)
        found[f"dot {i}"] = model.dot(codes, model.prepare(q).z)
    return {name: array.tobytes() for name, array in found.items()}


@pytest.mark.parametrize("dim", [1, 3, 25, 63, 64, 65, 127, 128, 384, 1000, 1536])
@pytest.mark.parametrize("rotation", ["hadamard", "none"])
def test_every_isa_computes_the_same_bytes(isa, dim, rotation):
    X, Q, centroid = sample(dim)
    X[1, ::2] = centroid[::2]  # residuals of exactly zero
    for bits in BITS:
        for metric in METRICS:
            model = model_of(dim, bits, metric, 5, rotation, centroid)
            found = outputs(model, X, Q)
            _kernels.select_isa("scalar")
            expected = outputs(model, X, Q)
            _kernels.select_isa(isa)
            differing = [name for name in expected if found[name] != expected[name]]
            assert differing == [], f"{isa}: dim={dim} bits={bits} metric={metric}"


def test_isas_are_those_of_the_architecture():
    by_machine = {"x86_64": ("avx2", "avx512"), "aarch64": ("neon",), "arm64": ("neon",)}
    assert ("scalar", *by_machine.get(platform.machine(), ())) == _kernels.ISAS


def test_unknown_isa_is_refused_and_the_active_one_stays():
    before = _kernels.active_isa()
    with pytest.raises(ValueError, match=rf"^isa: expected one of {', '.join(_kernels.ISAS)}, not 'x87'$"):
        _kernels.select_isa("x87")
    assert _kernels.active_isa() == before


def test_an_isa_the_machine_lacks_is_refused():
    missing = [isa for isa in _kernels.ISAS if isa not in _kernels.supported_isas()]
    if not missing:
        pytest.skip("this machine has every instruction set")
    with pytest.raises(ValueError, match=rf"on this machine, not '{missing[0]}'$"):
        _kernels.select_isa(missing[0])


def _import_with_isa(name):
    program = "from bqcore import _kernels; print(_kernels.active_isa())"
    environment = {**os.environ, "BQCORE_ISA": name}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )


def test_environment_selects_the_isa():
    best = _kernels.supported_isas()[-1]
    assert _import_with_isa("scalar").stdout == "scalar\n"
    assert _import_with_isa("").stdout == f"{best}\n"
    refused = _import_with_isa("x87")
    assert refused.returncode == 1
    assert f"isa: expected one of {', '.join(_kernels.ISAS)}, not 'x87'" in refused.stderr


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 25, 64, 96, 127, 384, 1000, 1536])
def test_rotation_is_the_matrix_of_its_definition(dim):
    R = reference.rotation(dim, seed=2**64 - 1)
    np.testing.assert_allclose(R @ R.T, np.eye(dim), atol=1e-14)
    found = model_of(dim, seed=2**64 - 1).rotate(np.eye(dim, dtype=np.float32))
    np.testing.assert_allclose(found, R.T, rtol=0, atol=2e-7)


@pytest.mark.parametrize("dim", [1, 3, 25, 127, 128, 384, 1000, 1536, 3072, 16000])
def test_rotation_keeps_inner_products(dim):
    rng = np.random.default_rng(dim)
    scale = rng.lognormal(sigma=2, size=dim)
    X = (rng.standard_normal((20, dim)) * scale).astype(np.float32)
    Y = (rng.standard_normal((20, dim)) * scale + 1).astype(np.float32)
    model = model_of(dim, seed=3)
    before = (X.astype(np.float64) * Y).sum(axis=1)
    after = (model.rotate(X).astype(np.float64) * model.rotate(Y)).sum(axis=1)
    lengths = np.linalg.norm(X.astype(np.float64), axis=1) * np.linalg.norm(Y.astype(np.float64), axis=1)
    assert np.max(np.abs(after - before) / lengths) <= 1e-5


@pytest.mark.parametrize("dim", [1, 2, 3, 25, 127, 128, 384, 1000, 16000])
def test_unrotating_is_the_inverse_and_the_transpose(dim):
    X = np.random.default_rng(dim).standard_normal((20, dim)).astype(np.float32)
    model = model_of(dim, seed=3)
    np.testing.assert_allclose(model.unrotate(model.rotate(X)), X, rtol=0, atol=1e-5)
    if dim <= 1000:
        np.testing.assert_allclose(model.unrotate(X), X @ reference.rotation(dim, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dim", [128, 384, 768, 1024, 1536])
def test_rotated_axes_look_gaussian(dim):
    kurtosis = []
    for seed in range(6):
        rotated = model_of(dim, seed=seed).rotate(np.eye(dim, dtype=np.float32)).astype(np.float64)
        kurtosis.append(np.mean(dim * (rotated**4).sum(axis=1) / (rotated**2).sum(axis=1) ** 2))
    assert np.mean(kurtosis) == pytest.approx(3.0, abs=0.1)


def test_rotation_depends_on_the_seed_alone():
    X = sample(384)[0]
    first = model_of(384, 4, seed=7).encode(X)
    again = model_of(384, 4, seed=7).encode(X.copy())
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1].tobytes() == again[1].tobytes()
    other = model_of(384, 4, seed=8).encode(X)[0]
    assert np.mean(first[0] == other) < 0.1


@pytest.mark.parametrize("dim", [1, 3, 25, 127, 384, 1000])
@pytest.mark.parametrize("metric", METRICS)
def test_one_bit_codes_are_the_signs_of_rotated_residuals(dim, metric):
    X, _, centroid = sample(dim, metric=metric)
    codes, _ = model_of(dim, 1, metric, 5, centroid=centroid).encode(X)
    o = reference.residuals(X, centroid, metric) @ reference.rotation(dim, 5).T
    clear = np.abs(o) > 1e-5 * np.linalg.norm(o, axis=1, keepdims=True)
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(reference.unpack(codes, dim, 1)[clear], (o > 0)[clear])


@pytest.mark.parametrize(
    ("bits", "dim", "n", "mean_gap", "largest_gap"),
    [
        *[
            (2, 1, 100, 1e-7, 1e-7),
            (2, 25, 100, 1e-4, 1e-3),
            (2, 127, 100, 1e-4, 1e-3),
            (2, 384, 100, 1e-4, 1e-3),
        ],
        *[
            (4, 1, 100, 1e-7, 1e-7),
            (4, 3, 100, 1e-3, 5e-3),
            (4, 25, 100, 1.2e-4, 2e-3),
            (4, 200, 100, 4e-5, 1e-3),
        ],
        *[(8, 1, 8, 1e-7, 1e-7), (8, 3, 8, 5e-6, 1e-5), (8, 25, 8, 3e-6, 1e-5), (8, 127, 8, 3e-6, 1e-5)],
    ],
)
def test_codes_of_several_bits_come_close_to_the_best_cosine(bits, dim, n, mean_gap, largest_gap):
    X, _, centroid = sample(dim, n=n)
    codes, _ = model_of(dim, bits, seed=5, centroid=centroid).encode(X)
    residuals = reference.residuals(X, centroid, "l2") @ reference.rotation(dim, 5).T
    k = reference.unpack(codes, dim, bits) - ((1 << bits) - 1) / 2
    found = (residuals * k).sum(axis=1) / np.linalg.norm(residuals, axis=1) / np.linalg.norm(k, axis=1)
    gap = np.array([reference.best_cosine(o, bits) for o in residuals]) - found
    assert np.min(gap) > -1e-7
    assert np.mean(gap) <= mean_gap
    assert np.max(gap) <= largest_gap


@pytest.mark.parametrize(("bits", "distortion"), [(2, 0.1188), (4, 0.01154)])
@pytest.mark.parametrize("dim", [3072, 16000])
def test_large_dims_reach_the_distortion_of_the_best_uniform_quantiser(dim, bits, distortion):
    # the largest coordinate grows with dim, and the best step falls behind it (Max 1960)
    X = np.random.default_rng(0).standard_normal((30, dim)).astype(np.float32)
    model = model_of(dim, bits)
    k = reference.unpack(model.encode(X)[0], dim, bits) - ((1 << bits) - 1) / 2
    o = model.rotate(X).astype(np.float64)
    cosine = (o * k).sum(axis=1) / np.linalg.norm(o, axis=1) / np.linalg.norm(k, axis=1)
    assert np.mean(cosine) == pytest.approx(np.sqrt(1 - distortion), abs=1e-3 if bits == 2 else 2e-4)


@pytest.mark.parametrize("dim", [1, 3, 25, 127, 384, 1000])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_factors_queries_and_estimates_match_the_reference(dim, bits, metric):
    X, Q, centroid = sample(dim, metric=metric)
    model = model_of(dim, bits, metric, 5, centroid=centroid)
    R = reference.rotation(dim, 5)
    codes, factors = model.encode(X)
    levels = reference.unpack(codes, dim, bits)
    k = levels - ((1 << bits) - 1) / 2
    o = reference.residuals(X, centroid, metric) @ R.T
    n2 = (o**2).sum(axis=1)
    scale = WEIGHT[metric] * n2 / (o * k).sum(axis=1)
    np.testing.assert_allclose(factors["f_rescale"], -scale, rtol=1e-5)
    f_add = {"l2": n2, "cosine": n2 / 2, "ip": -(reference.residuals(X, centroid, metric) @ centroid)}[metric]
    np.testing.assert_allclose(factors["f_add"], f_add, rtol=1e-5, atol=1e-5 * np.abs(f_add).max())

    np.testing.assert_array_equal(
        model.sym(codes, codes[3]), (2 * k).astype(np.int64) @ (2 * k[3]).astype(np.int64)
    )
    for q in Q:
        rotated = reference.centred_query(q, centroid, metric)[0] @ R.T
        for query_bits in QUERY_BITS:
            query = model.prepare(q, query_bits)
            assert query.struct.bits == query_bits
            # of one dimension nothing is left under ip but rounding
            rounding = 1e-6 * float(np.linalg.norm(q)) if metric == "ip" else 0.0
            length = np.linalg.norm(rotated)
            assert query.struct.g_error == pytest.approx(length, rel=1e-5, abs=rounding)
            if query_bits == 32:
                z, delta = query.z, 1.0
                assert (query.struct.delta, query.struct.sum_z) == (0, 0)
                np.testing.assert_allclose(z, rotated, rtol=0, atol=1e-6 * length + rounding)
            else:
                planes = query_bits == 4 and bits == 1
                z = reference.query_levels(query.z, dim, bits)
                if planes:
                    z = reference.plane_levels(query.z, dim)
                delta = query.struct.delta
                step = np.abs(rotated).max() / (2 ** (query_bits - 1) - 1)
                assert delta == pytest.approx(step, rel=1e-5, abs=rounding)
                assert np.max(np.abs(z * delta - rotated)) <= 0.501 * delta + rounding
                assert query.struct.sum_z == z.sum()
                if not planes:
                    assert query.z.astype(np.int64).sum() == z.sum()
                    np.testing.assert_array_equal(model.dot(codes, query.z), levels @ z)
            expected = reference.estimate(X, q, levels, z, delta, centroid, R, metric, bits)
            found = model.estimate(query, codes, factors)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_error_bounds_match_the_theorem(bits, metric):
    dim = 200
    X, Q, centroid = sample(dim, metric=metric)
    model = model_of(dim, bits, metric, 5, centroid=centroid)
    codes, factors = model.encode(X)
    k = reference.unpack(codes, dim, bits) - ((1 << bits) - 1) / 2
    R = reference.rotation(dim, 5)
    o = reference.residuals(X, centroid, metric) @ R.T
    cosine = (o * k).sum(axis=1) / np.linalg.norm(o, axis=1) / np.linalg.norm(k, axis=1)
    tail = np.linalg.norm(o, axis=1) * np.sqrt(1 / cosine**2 - 1)
    if metric == "ip":  # the norm is not stored: 1 - c^2 is taken at its expectation
        tail = (
            np.linalg.norm(o, axis=1) / cosine * np.sqrt({1: 0.3634, 2: 0.1188, 4: 0.01154, 8: 0.00006}[bits])
        )
    for q in Q:
        rotated = reference.centred_query(q, centroid, metric)[0] @ R.T
        code = tail * np.linalg.norm(rotated) / np.sqrt(dim - 1)
        for query_bits in QUERY_BITS:
            step = 0.0 if query_bits == 32 else np.abs(rotated).max() / (2 ** (query_bits - 1) - 1)
            rounding = np.linalg.norm(o, axis=1) / cosine * step / np.sqrt(12)
            expected = WEIGHT[metric] * np.hypot(code, rounding)
            found = model.error(model.prepare(q, query_bits), codes, factors)
            # 1 - cos^2 of 8-bit codes is a difference of nearly equal float32
            rtol = 3e-2 if bits == 8 and query_bits == 32 else 3e-3
            np.testing.assert_allclose(found, expected, rtol=rtol)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_code_to_code_estimates_follow_angles_at_one_bit_and_levels_at_more(bits, metric):
    dim = 384
    X, _, centroid = sample(dim, metric=metric)
    model = model_of(dim, bits, metric, 5, centroid=centroid)
    codes, factors = model.encode(X)
    k = reference.unpack(codes, dim, bits) - ((1 << bits) - 1) / 2
    f = np.abs(factors["f_rescale"].astype(np.float64)) / WEIGHT[metric]
    if bits == 1:
        lengths = f * np.sqrt(2 / np.pi) * np.sqrt(dim) / 2
        hamming = (k[:, None] != k).sum(axis=2)
        product = lengths[:, None] * lengths * np.cos(np.pi * hamming / dim)
    else:
        product = f[:, None] * f * (k @ k.T)
    f_add = factors["f_add"].astype(np.float64)
    expected = f_add[:, None] + f_add - WEIGHT[metric] * product
    found = np.array([model.estimate_sym(codes, factors, row) for row in range(len(X))])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_sine_of_the_angle_is_within_its_stated_error():
    dim = 16000
    f = _kernels.ffi.new("bqk_factors *", {"f_add": 0.0, "f_rescale": 1.0})
    sym = np.arange(-dim, dim + 1)
    ip = _kernels.METRICS["ip"]
    estimates = np.array([_kernels.lib.bqk_estimate_sym(1, ip, dim, int(s), f, f) for s in sym])
    sine = -estimates * 2 * np.pi / dim  # (c1 / 2)^2 = 1 / (2 pi)
    # 6e-7 of the polynomial, and four roundings of float32
    assert np.max(np.abs(sine - np.sin(np.pi / 2 * sym / dim))) < 6e-7 + 4 * 2.0**-24


@pytest.mark.parametrize("dim", [128, 384, 768, 1024, 1536])
@pytest.mark.parametrize("kind", ["gaussian", "unequal axes", "sparse"])
def test_mean_cosine_of_codes_is_that_of_random_directions(dim, kind):
    rng = np.random.default_rng(dim)
    X = rng.standard_normal((500, dim))
    if kind == "unequal axes":
        X *= rng.lognormal(sigma=0.7, size=dim)
    elif kind == "sparse":
        X *= rng.random((500, dim)) < 0.1
    X = X.astype(np.float32)
    for bits, expected, tolerance in [
        (1, reference.mean_cosine(dim), 0.002),
        (2, 0.939, 0.003),
        (4, 0.995, 0.003),
        (8, 0.99997, 0.00002),
    ]:
        found = []
        for seed in range(8):
            model = model_of(dim, bits, seed=seed)
            k = reference.unpack(model.encode(X)[0], dim, bits) - ((1 << bits) - 1) / 2
            o = model.rotate(X).astype(np.float64)
            found.append(np.mean((o * k).sum(axis=1) / np.linalg.norm(o, axis=1) / np.linalg.norm(k, axis=1)))
        assert np.mean(found) == pytest.approx(expected, abs=tolerance), bits


def test_mean_cosines_of_the_closed_form():
    found = [reference.mean_cosine(dim) for dim in (128, 384, 1024)]
    assert found == pytest.approx([0.79944, 0.79840, 0.79808], abs=5e-6)


@pytest.mark.parametrize(
    ("dim", "bits", "nbytes"),
    [
        *[(1, 1, 1), (3, 1, 1), (25, 1, 4), (127, 1, 16), (384, 1, 48), (1024, 1, 128), (16000, 1, 2000)],
        *[(1, 2, 1), (5, 2, 2), (25, 2, 7), (384, 2, 96), (25, 8, 25), (3072, 8, 3072)],
        *[(1, 4, 1), (3, 4, 2), (25, 4, 13), (127, 4, 64), (384, 4, 192), (1024, 4, 512), (16000, 4, 8000)],
    ],
)
def test_code_sizes(dim, bits, nbytes):
    model = model_of(dim, bits)
    assert model.code_nbytes == nbytes
    codes, factors = model.encode(np.ones((2, dim), dtype=np.float32))
    assert codes.shape == (2, nbytes)
    assert factors.itemsize == 8


def test_arrays_of_another_width_never_reach_c():
    X, _, _ = sample(64)
    model = model_of(64, 4)
    codes, factors = model.encode(X)
    query = model.prepare(X[0])
    calls = [
        lambda: model.rotate(X[:, :63]),
        lambda: model.unrotate(X[:, :63]),
        lambda: model.encode(X[:, :63]),
        lambda: model.encode(np.asfortranarray(X)),
        lambda: model.encode(X[::2]),
        lambda: model.prepare(X[0, :63]),
        lambda: model.prepare(X[0, ::2]),
        lambda: model.dot(codes[:, :31], query.z),
        lambda: model.dot(codes, query.z[:63]),
        lambda: model.sym(codes, codes[0, :31]),
        lambda: model.sym(codes[::2], codes[0]),
        lambda: model.estimate(query, codes[:, :31].copy(), factors),
        lambda: model.estimate(query, codes, factors[:-1]),
        lambda: model.estimate(query, codes, factors[::2]),
        lambda: model.error(query, codes, factors[:-1]),
        lambda: model.estimate_sym(codes, factors[:-1], 0),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(ValueError, match="expected contiguous"):
            pytest.fail(f"call {number} returned {call()}")


def test_arrays_of_another_type_and_rows_out_of_range_never_reach_c():
    X, _, _ = sample(64)
    model = model_of(64, 4)
    codes, factors = model.encode(X)
    calls = [
        lambda: model.rotate(X.astype(np.float64)),
        lambda: model.encode(X.astype(np.float64)),
        lambda: model.prepare(X[0].astype(np.float64)),
        lambda: model.estimate_sym(codes, factors, -1),
    ]
    for number, call in enumerate(calls):
        with pytest.raises((TypeError, ValueError, IndexError), match="expected"):
            pytest.fail(f"call {number} returned {call()}")


finite = st.floats(-1e6, 1e6, width=32)


@settings(deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=finite))
def test_one_bit_codes_hold_the_signs_of_any_vector(X):
    dim = X.shape[1]
    codes, factors = model_of(dim, 1, rotation="none").encode(X)
    encoded = factors["f_rescale"] != 0  # else on the centroid, with a code of zeros
    np.testing.assert_array_equal(reference.unpack(codes, dim, 1)[encoded], (X > 0)[encoded])
    assert not codes[~encoded].any()


@settings(deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=finite))
def test_four_bit_levels_keep_the_order_of_coordinates(X):
    dim = X.shape[1]
    codes, factors = model_of(dim, 4, rotation="none").encode(X)
    levels = reference.unpack(codes, dim, 4)
    for x, u, f in zip(X, levels, factors["f_rescale"], strict=True):
        if f == 0:
            continue
        order = np.argsort(x, kind="stable")
        assert np.all(np.diff(u[order]) >= 0)
        assert np.all(u[x > 0] >= 8)
        assert np.all(u[x < -1e-6 * np.abs(x).max()] <= 7)
