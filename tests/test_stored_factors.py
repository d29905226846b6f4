"""Corrective factors in 4, 2 and 1 bytes: sizes, errors, files, and what estimates lose."""

from __future__ import annotations

import numpy as np
import pytest

from bqcore import load, make_codec, search
from bqcore.datasets import clustered
from bqcore.evaluation import recall

SIZES = {"float32": 8, "bfloat16": 4, "uint8": 2}
SPECS = ["rabitq(bits=2, factors={})", "learned_binary(iterations=2, factors={})", "turbo(factors={})"]
SPECS += ["sign_magnitude(factors={})", "rabitq(bits=1, centroids=7, factors={})"]


@pytest.fixture(scope="module")
def data():
    return clustered(1500, 40, n_queries=60, random_state=4)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_recall_in_fewer_bytes(spec, metric, data):
    exact = make_codec(spec.format("float32"), metric=metric).fit(data.base)
    wanted = exact.estimate(exact.encode(data.base), data.queries)
    for form, size in SIZES.items():
        codec = make_codec(spec.format(form), metric=metric).fit(data.base)
        codes = codec.encode(data.base)
        assert codes.bytes_per_vector == codec.bytes_per_vector == exact.bytes_per_vector - 8 + size
        found = search(codec, codes, data.queries, 10).ids
        assert recall(found, np.argsort(wanted, axis=1, kind="stable"), 10) >= 0.93
        # 256 steps of what f_add and f_rescale span; half a step of either is an error of 1 % at most
        assert np.abs(codec.estimate(codes, data.queries) - wanted).max() <= 0.02 * np.ptp(wanted)


@pytest.mark.parametrize("spec", [SPECS[1], SPECS[4]])
@pytest.mark.parametrize("form", SIZES)
def test_files_keep_the_form(spec, form, data, tmp_path):
    codec = make_codec(spec.format(form)).fit(data.base)
    codec.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.model_id == codec.model_id
    assert again.factors_dtype == codec.factors_dtype
    codes = codec.encode(data.base[:20])
    np.testing.assert_array_equal(again.estimate(codes, data.queries), codec.estimate(codes, data.queries))


def test_bounds_hold_with_rounded_factors(data):
    codec = make_codec("rabitq(factors=uint8)").fit(data.base)
    codes = codec.encode(data.base)
    exact = np.square(data.queries[:, None] - data.base[None]).sum(axis=2)
    off = np.abs(codec.estimate(codes, data.queries) - exact)
    assert (off <= codec.error_bound(codes, data.queries, eps0=3.0)).mean() >= 0.99


@pytest.mark.parametrize("form", SIZES)
def test_equal_and_single_rows(form):
    for rows in (np.ones((1, 9)), np.ones((30, 9))):
        codec = make_codec(f"rabitq(bits=2, factors={form})").fit(rows)
        estimates = codec.estimate(codec.encode(rows), np.zeros(9))
        np.testing.assert_allclose(estimates, 9, rtol=1e-2)


def test_databases_take_float32_alone(data):
    codec = make_codec("rabitq(factors=bfloat16)").fit(data.base)
    with pytest.raises(ValueError, match="not bfloat16 factors"):
        codec.to_bytes()
    with pytest.raises(ValueError, match="factors: expected one of float32, bfloat16, uint8, not 'int3'"):
        make_codec("rabitq(factors=int3)").fit(data.base)
