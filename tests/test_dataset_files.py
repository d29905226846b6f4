from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bqcore.datasets import read, read_vecs
from bqcore.evaluation import exact_search


def vectors(n=60, dim=6, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def write_vecs(path, X, dtype):
    X = np.asarray(X, dtype=dtype)
    with path.open("wb") as file:
        for row in X:
            file.write(np.int32(len(row)).astype("<i4").tobytes() + row.tobytes())
    return X


# .npy


def test_npy_round_trip_holds_out_the_last_rows(tmp_path):
    X = np.asfortranarray(vectors(100))
    np.save(tmp_path / "x.npy", X)
    data = read(tmp_path / "x.npy", metric="cosine")
    np.testing.assert_array_equal(data.base, X[:95])
    np.testing.assert_array_equal(data.queries, X[95:])
    assert (data.name, data.metric, data.ground_truth) == ("x", "cosine", None)
    cut = read(tmp_path / "x.npy", metric="cosine", rows=10)
    np.testing.assert_array_equal(cut.base, X[:10])
    np.testing.assert_array_equal(cut.queries, X[95:])
    assert cut.ground_truth is None


def test_npy_needs_a_metric(tmp_path):
    np.save(tmp_path / "x.npy", vectors())
    with pytest.raises(ValueError, match="expected metric='l2', 'ip' or 'cosine', not None"):
        read(tmp_path / "x.npy")


def test_npy_of_one_dimension_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(5))
    with pytest.raises(
        ValueError, match=r"x: base: expected a 2-d array \(n, dim\), not 1-d of shape \(5,\)"
    ):
        read(tmp_path / "x.npy", metric="l2")


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "pickled", "zip"])
def test_damaged_npy_is_refused_with_its_size(tmp_path, damage):
    path = tmp_path / "x.npy"
    if damage == "pickled":
        np.save(path, np.array([[None]]))
    elif damage == "zip":
        with path.open("wb") as file:
            np.savez(file, a=vectors())
    else:
        np.save(path, vectors())
        content = {"empty": b"", "truncated": path.read_bytes()[:-1], "foreign": b"x" * 300}
        path.write_bytes(content[damage])
    size = path.stat().st_size
    with pytest.raises(
        ValueError, match=rf"x\.npy: expected a whole \.npy file of numbers, not these {size} bytes"
    ):
        read(path, metric="l2")


# .fvecs, .ivecs, .bvecs


@pytest.mark.parametrize(("suffix", "dtype"), [("fvecs", "<f4"), ("ivecs", "<i4"), ("bvecs", "u1")])
def test_vecs_round_trip(tmp_path, suffix, dtype):
    X = write_vecs(tmp_path / f"x.{suffix}", np.abs(vectors(7, 5) * 100), dtype)
    found = read_vecs(tmp_path / f"x.{suffix}")
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, X)


def test_texmex_triple_is_read_together(tmp_path):
    X = write_vecs(tmp_path / "s_base.fvecs", vectors(50), "<f4")
    alone = read(tmp_path / "s_base.fvecs")
    assert alone.ground_truth is None
    assert alone.n == 48
    Q = write_vecs(tmp_path / "s_query.fvecs", vectors(3, seed=1), "<f4")
    truth = write_vecs(tmp_path / "s_groundtruth.ivecs", exact_search(X, Q, 4, "l2")[0], "<i4")
    data = read(tmp_path / "s_base.fvecs")
    np.testing.assert_array_equal(data.base, X)
    np.testing.assert_array_equal(data.queries, Q)
    np.testing.assert_array_equal(data.ground_truth, truth)
    assert (data.name, data.metric) == ("s", "l2")
    ip = read(tmp_path / "s_base.fvecs", metric="ip")
    np.testing.assert_array_equal(ip.ground_truth, exact_search(X, Q, 4, "ip")[0])


def test_bvecs_are_upcast(tmp_path):
    X = write_vecs(tmp_path / "x.bvecs", np.arange(80).reshape(20, 4), "u1")
    data = read(tmp_path / "x.bvecs", rows=5)
    assert data.base.dtype == np.float32
    np.testing.assert_array_equal(data.base, X[:5])
    np.testing.assert_array_equal(data.queries, X[19:])


def test_ivecs_are_not_vectors(tmp_path):
    write_vecs(tmp_path / "x.ivecs", np.ones((3, 3)), "<i4")
    with pytest.raises(ValueError, match=r"expected vectors \(\.fvecs or \.bvecs\), not row numbers"):
        read(tmp_path / "x.ivecs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at least 4 bytes, not 0"),
        (b"\x05\0", "expected at least 4 bytes, not 2"),
        (b"\x05\0\0\0" + b"\0" * 19, "expected at least 24 bytes (one row of 5 dimensions), not 23"),
        (
            (b"\x05\0\0\0" + b"\0" * 20) * 3 + b"\x05\0\0\0\0",
            "expected a multiple of 24 bytes (rows of 5 dimensions), not 77: "
            "5 bytes follow row 2, from byte 72",
        ),
        (
            (b"\x05\0\0\0" + b"\0" * 20) * 2 + b"\x04\0\0\0" + b"\0" * 20,
            "expected 5 dimensions in every row like in row 0, not 4 in row 2 at byte 48",
        ),
        (b"\x93NUMPY\x01\0", "expected 1 to 16000 dimensions in bytes 0 to 3, not 1297436307"),
        (b"\0\0\0\x80" * 9, "expected 1 to 16000 dimensions in bytes 0 to 3, not -2147483648"),
        (b"\0\0\0\0" * 9, "expected 1 to 16000 dimensions in bytes 0 to 3, not 0"),
    ],
)
def test_damaged_vecs_are_refused_with_byte_numbers(tmp_path, content, message):
    path = tmp_path / "x.fvecs"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read(path)


@given(cut=st.integers(1, 24 * 4 - 1))
def test_every_truncation_that_splits_a_row_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.getbasetemp() / "cut.fvecs"
    write_vecs(path, vectors(4, 5), "<f4")
    path.write_bytes(path.read_bytes()[:-cut])
    if cut % 24:
        with pytest.raises(ValueError, match="expected"):
            read_vecs(path)
    else:
        assert len(read_vecs(path)) == 4 - cut // 24


def test_read_vecs_names_suffix_and_missing_path(tmp_path):
    with pytest.raises(ValueError, match=r"expected a suffix of \.fvecs, \.ivecs, \.bvecs, not '\.npy'"):
        read_vecs(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError, match=r"none\.fvecs: no such file"):
        read_vecs(tmp_path / "none.fvecs")


# HDF5


def write_hdf5(path, *, distance="euclidean", **parts):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in parts.items():
            file[name] = array
        if distance is not None:
            file.attrs["distance"] = distance


@pytest.mark.parametrize(
    ("distance", "metric"),
    [("angular", "cosine"), ("euclidean", "l2"), ("dot", "ip"), (np.bytes_("angular"), "cosine")],
)
def test_hdf5_round_trip(tmp_path, distance, metric):
    X, Q = vectors(50), vectors(3, seed=1)
    truth, d = exact_search(X, Q, 7, metric)
    write_hdf5(tmp_path / "x.hdf5", distance=distance, train=X, test=Q, neighbors=truth, distances=d)
    data = read(tmp_path / "x.hdf5")
    np.testing.assert_array_equal(data.base, X)
    np.testing.assert_array_equal(data.queries, Q)
    np.testing.assert_array_equal(data.ground_truth, truth)
    assert (data.name, data.metric) == ("x", metric)
    cut = read(tmp_path / "x.hdf5", rows=9)
    np.testing.assert_array_equal(cut.ground_truth, exact_search(X[:9], Q, 7, metric)[0])


def test_hdf5_without_queries_holds_some_out(tmp_path):
    write_hdf5(tmp_path / "x.h5", train=vectors(40))
    data = read(tmp_path / "x.h5")
    assert (data.n, len(data.queries), data.ground_truth) == (38, 2, None)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"distance": "hamming", "train": np.eye(3)}, "expected a distance of angular, .*, not 'hamming'"),
        ({"base": np.eye(3)}, r"expected a dataset 'train', not only \['base'\]"),
        ({"distance": None, "train": np.eye(3)}, "expected metric='l2', 'ip' or 'cosine', not None"),
        (
            {"train": np.eye(3), "test": np.eye(3), "neighbors": [[0], [1]]},
            "x: ground_truth: expected 3 rows like queries, not 2",
        ),
    ],
)
def test_hdf5_errors_name_both_values(tmp_path, parts, message):
    write_hdf5(tmp_path / "x.hdf5", **parts)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.hdf5")


@pytest.mark.parametrize("suffix", ["hdf5", "parquet"])
@pytest.mark.parametrize("keep", [0, 100, 700])
def test_truncated_hdf5_and_parquet_are_refused_with_their_size(tmp_path, suffix, keep):
    path = tmp_path / f"x.{suffix}"
    if suffix == "hdf5":
        write_hdf5(path, train=vectors())
    else:
        write_parquet(path, v=vectors().tolist())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"x\.{suffix}: expected a whole .* file, not these {keep} bytes"):
        read(path, metric="l2")


# Parquet


def write_parquet(path, **columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, row_group_size=16)


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
@pytest.mark.parametrize("value", ["float16", "float32", "float64", "uint8"])
def test_parquet_round_trip(tmp_path, kind, value):
    pa = pytest.importorskip("pyarrow")
    X = np.abs(vectors(50) * 10).astype(value)
    inner = pa.from_numpy_dtype(X.dtype)
    types = {"list": pa.list_(inner), "large_list": pa.large_list(inner), "fixed": pa.list_(inner, 6)}
    write_parquet(
        tmp_path / "x.parquet",
        id=list(range(50)),
        words=[["a"]] * 50,
        v=pa.array(list(X), type=types[kind]),
    )
    data = read(tmp_path / "x.parquet", metric="ip")
    np.testing.assert_array_equal(np.concatenate([data.base, data.queries]), X.astype(np.float32))
    assert (data.n, data.metric, data.ground_truth) == (48, "ip", None)
    assert read(tmp_path / "x.parquet", metric="ip", column="v", rows=5).n == 5


@pytest.mark.parametrize(
    ("columns", "keywords", "message"),
    [
        ({"a": [[1.0]] * 2, "b": [[1.0]] * 2}, {}, r"expected one column of number lists, not 2 \(a, b\)"),
        ({"a": [1.0, 2.0]}, {}, r"expected one column of number lists, not 0 \(none\)"),
        (
            {"a": [[1.0]] * 2, "b": [1, 2]},
            {"column": "b"},
            r"expected a column of number lists \(a\), not 'b'",
        ),
        ({"a": [[1.0, 2.0]] * 40 + [[1.0]]}, {}, "expected 2 dimensions like in row 0, not 1 in row 40"),
        ({"a": [[1.0]] * 20 + [None]}, {}, "column 'a': expected a list in every row, not null in row 20"),
        ({"a": [[1.0, 2.0]] * 20 + [[1.0, None]]}, {}, "expected numbers, not null in row 20, coordinate 1"),
        ({"a": [[1.0], [float("nan")]]}, {}, "expected finite values, not nan at row 0, coordinate 0"),
        ({"a": [[1.0]] * 2}, {"metric": None}, "expected metric='l2', 'ip' or 'cosine', not None"),
        ({"a": [[], []]}, {"column": "a"}, r"number lists \(none\), not 'a'"),
    ],
)
def test_parquet_errors_name_both_values(tmp_path, columns, keywords, message):
    write_parquet(tmp_path / "x.parquet", **columns)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.parquet", **{"metric": "l2", **keywords})


def test_parquet_without_rows_is_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "x.parquet", v=pa.array([], type=pa.list_(pa.float32())))
    with pytest.raises(ValueError, match="expected at least 2 rows to hold out queries, not 0"):
        read(tmp_path / "x.parquet", metric="l2")
