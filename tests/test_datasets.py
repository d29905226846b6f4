from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bqcore.datasets import Dataset, clustered, gaussian, read, read_vecs, split_queries
from bqcore.evaluation import exact_search, recall


def vectors(n=60, dim=6, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def write_folder(folder, *, n=60, dim=6, n_queries=4, k=5, metric="l2", dtype=np.float16, texts=True):
    folder.mkdir(exist_ok=True)
    X, Q = vectors(n, dim).astype(dtype), vectors(n_queries, dim, seed=1).astype(dtype)
    truth, _ = exact_search(X, Q, k, metric)
    np.save(folder / "base.npy", X)
    np.save(folder / "query.npy", Q)
    np.save(folder / "gt.npy", truth.astype(np.int32))
    (folder / "meta.json").write_text(json.dumps({"name": "small", "n": n, "d": dim, "metric": metric}))
    if texts:
        lines = "".join(f"text {i}\u2028still {i}\n" for i in range(n))
        (folder / "base_texts.txt").write_text(lines, encoding="utf-8")
        (folder / "query_texts.txt").write_text("\n".join("abcd"[:n_queries]), encoding="utf-8")
    return X, Q, truth


def write_vecs(path, X, dtype):
    X = np.asarray(X, dtype=dtype)
    with path.open("wb") as file:
        for row in X:
            file.write(np.int32(len(row)).astype("<i4").tobytes() + row.tobytes())
    return X


# Dataset


def test_parts_are_checked_and_converted():
    data = Dataset("a", [[1, 2], [3, 4]], [[5, 6]], "ip", np.array([[1]], dtype=np.uint32))
    assert (data.n, data.dim) == (2, 2)
    assert data.base.dtype == data.queries.dtype == np.float32
    assert data.ground_truth.dtype == np.int64
    with pytest.raises(AttributeError):
        data.name = "b"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"queries": np.ones((1, 3))}, ValueError, "a: queries: expected 2 dimensions, not 3"),
        ({"base": np.ones(2)}, ValueError, "a: base: expected a 2-d array (n, dim), not 1-d of shape (2,)"),
        ({"metric": "dot"}, ValueError, "metric: expected 'l2', 'ip' or 'cosine', not 'dot'"),
        ({"ground_truth": [[0], [1]]}, ValueError, "a: ground_truth: expected 1 rows like queries, not 2"),
        ({"ground_truth": [[2]]}, ValueError, "a: ground_truth: expected ids from 0 to 1, not 2 (row 0)"),
        ({"ground_truth": [[-1]]}, ValueError, "a: ground_truth: expected ids from 0 to 1, not -1 (row 0)"),
        ({"ground_truth": [0]}, ValueError, "a: ground_truth: expected shape (1, k), not (1,)"),
        ({"ground_truth": [[0.0]]}, TypeError, "a: ground_truth: expected integer ids, not dtype float64"),
        ({"base_texts": ["x"]}, ValueError, "a: base_texts: expected 2 texts, not 1"),
        ({"query_texts": []}, ValueError, "a: query_texts: expected 1 texts, not 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, error, message):
    parts = {"name": "a", "base": np.eye(2), "queries": np.ones((1, 2)), "metric": "l2", **changes}
    with pytest.raises(error, match=re.escape(message)):
        Dataset(**parts)


# split_queries


@given(st.integers(2, 300), st.none() | st.integers(0, 2**64 - 1), st.data())
def test_split_keeps_every_row_once_and_in_order(total, seed, data):
    n = data.draw(st.none() | st.integers(1, total - 1))
    X = np.arange(total)[:, None]
    base, queries = split_queries(X, n, seed)
    assert len(queries) == (n or max(1, total // 20))
    np.testing.assert_array_equal(np.sort(np.concatenate([base, queries]), axis=0), X)
    assert (np.diff(base[:, 0]) > 0).all()
    np.testing.assert_array_equal(split_queries(X, n, seed)[1], queries)
    if seed is None:
        assert queries[-1, 0] == total - 1
        assert base[-1, 0] == len(base) - 1


def test_split_holds_out_at_most_500():
    assert len(split_queries(np.zeros((50_000, 1)))[1]) == 500
    assert len(split_queries(np.zeros((1_000, 1)))[1]) == 50


def test_split_needs_a_row_on_each_side():
    with pytest.raises(ValueError, match="expected at least 2 rows to hold out queries, not 1"):
        split_queries(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="n: expected 1 to 4, not 5"):
        split_queries(np.zeros((5, 3)), 5)


# Folders


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_folder_round_trip(tmp_path, dtype):
    X, Q, truth = write_folder(tmp_path / "d", dtype=dtype)
    data = read(str(tmp_path / "d"))
    np.testing.assert_array_equal(data.base, X.astype(np.float32))
    np.testing.assert_array_equal(data.queries, Q.astype(np.float32))
    np.testing.assert_array_equal(data.ground_truth, truth)
    assert (data.name, data.metric, data.n, data.dim) == ("small", "l2", 60, 6)
    assert data.base_texts[59] == "text 59\u2028still 59"
    assert data.query_texts == ["a", "b", "c", "d"]


def test_rows_cut_base_and_texts_and_recompute_the_ground_truth(tmp_path):
    X, Q, truth = write_folder(tmp_path / "d")
    assert truth.max() >= 20
    data = read(tmp_path / "d", rows=20)
    np.testing.assert_array_equal(data.base, X[:20].astype(np.float32))
    np.testing.assert_array_equal(data.ground_truth, exact_search(X[:20], Q, 5, "l2")[0])
    assert len(data.base_texts) == 20
    assert len(data.queries) == 4
    assert read(tmp_path / "d", rows=3).ground_truth.shape == (4, 3)
    np.testing.assert_array_equal(read(tmp_path / "d", rows=1000).ground_truth, truth)


def test_another_metric_recomputes_the_ground_truth(tmp_path):
    X, Q, truth = write_folder(tmp_path / "d")
    data = read(tmp_path / "d", metric="ip")
    assert data.metric == "ip"
    np.testing.assert_array_equal(data.ground_truth, exact_search(X, Q, 5, "ip")[0])
    assert (data.ground_truth != truth).any()


@pytest.mark.parametrize("missing", ["base.npy", "query.npy", "meta.json"])
def test_missing_file_of_a_folder_is_named(tmp_path, missing):
    write_folder(tmp_path / "d")
    (tmp_path / "d" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / 'd'}: ") + f".*missing: {missing}$"):
        read(tmp_path / "d")


def test_texts_are_optional_but_must_fit(tmp_path):
    write_folder(tmp_path / "d", texts=False)
    assert read(tmp_path / "d").base_texts is None
    (tmp_path / "d" / "base_texts.txt").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="base_texts: expected 60 texts, not 2"):
        read(tmp_path / "d", rows=2)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ('{"metric": "l2", "n": 61}', r"meta\.json says n = 61, but base\.npy has shape \(60, 6\)"),
        ('{"metric": "l2", "d": 7}', r"meta\.json says d = 7, but base\.npy has shape \(60, 6\)"),
        ('{"metric": "hamming"}', "metric: expected 'l2', 'ip' or 'cosine', not 'hamming'"),
        ('{"n": 60}', r"meta\.json: expected a key 'metric', not only \['n'\]"),
        ("[1]", r"meta\.json: expected a JSON object, not list"),
        ("{", r"meta\.json: expected JSON: "),
    ],
)
def test_bad_metadata_is_refused(tmp_path, meta, message):
    write_folder(tmp_path / "d")
    (tmp_path / "d" / "meta.json").write_text(meta)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "d")


def test_folder_with_queries_of_another_dimension_is_refused(tmp_path):
    write_folder(tmp_path / "d")
    np.save(tmp_path / "d" / "query.npy", np.ones((4, 5)))
    with pytest.raises(ValueError, match="small: queries: expected 6 dimensions, not 5"):
        read(tmp_path / "d")


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


# The door


@pytest.mark.parametrize(("module", "suffix"), [("h5py", "hdf5"), ("pyarrow", "parquet")])
def test_missing_extra_is_named(tmp_path, monkeypatch, module, suffix):
    (tmp_path / f"x.{suffix}").touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(f"needs {module}: pip install 'bqcore[datasets]'")):
        read(tmp_path / f"x.{suffix}", metric="l2")


@pytest.mark.parametrize("name", ["none", "none.npy", "none.parquet"])
def test_missing_path_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / name}: no such file or folder")):
        read(tmp_path / name)


def test_wrong_arguments_are_refused_at_the_door(tmp_path):
    (tmp_path / "x.csv").touch()
    (tmp_path / "x.npy").touch()
    with pytest.raises(ValueError, match=r"expected a folder or a suffix of \.npy, .*\.parquet, not '\.csv'"):
        read(tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"column='v' expects a \.parquet file, not \.npy"):
        read(tmp_path / "x.npy", column="v")
    with pytest.raises(ValueError, match="rows: expected at least 1, not 0"):
        read(tmp_path / "x.npy", rows=0)
    with pytest.raises(ValueError, match="expected 'l2', 'ip' or 'cosine', not 'dot'"):
        read(tmp_path / "x.npy", metric="dot")


# Generators


@pytest.mark.parametrize("generate", [gaussian, clustered])
def test_generators_repeat_their_seed(generate):
    first = generate(200, 12, n_queries=9, k=5, metric="cosine", random_state=7)
    again = generate(200, 12, n_queries=9, k=5, metric="cosine", random_state=7)
    other = generate(200, 12, n_queries=9, k=5, metric="cosine", random_state=8)
    np.testing.assert_array_equal(first.base, again.base)
    np.testing.assert_array_equal(first.queries, again.queries)
    assert (first.base != other.base).any()
    assert first.ground_truth.shape == (9, 5)
    pair = {"X": first.base, "Q": first.queries, "metric": "cosine"}
    assert (
        recall(exact_search(first.base, first.queries, 5, "cosine")[0], first.ground_truth, 5, **pair) == 1.0
    )


def test_ground_truth_of_a_small_base_has_n_columns():
    assert gaussian(3, 2, random_state=0).ground_truth.shape == (100, 3)


def test_clustered_has_the_spectrum_and_offset_asked_for():
    data = clustered(20_000, 32, spectrum_exponent=1.0, offset=2.0, within=1.0, k=1, random_state=1)
    X = data.base.astype(np.float64)
    assert np.linalg.norm(X.mean(axis=0)) == pytest.approx(2.0, rel=0.02)
    eigenvalues = np.linalg.eigvalsh(np.cov(X.T))[::-1]
    assert eigenvalues.sum() == pytest.approx(1.0, rel=0.02)
    np.testing.assert_allclose(eigenvalues / eigenvalues[0], 1 / np.arange(1, 33), rtol=0.08)


def test_clustered_rows_are_near_their_centres():
    data = clustered(500, 16, n_clusters=4, within=0.0, k=1, random_state=2)
    assert len(np.unique(data.base, axis=0)) == 4
    tight = clustered(500, 16, n_clusters=4, within=1e-6, k=1, random_state=2)
    distances = exact_search(tight.base, tight.queries, 10, "l2")[1]
    assert distances.max() < 1e-4


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"n": 0}, "n: expected at least 1, not 0"),
        ({"dim": 16_001}, "dim: expected 1 to 16000, not 16001"),
        ({"n_queries": 0}, "n_queries: expected at least 1, not 0"),
        ({"n_clusters": 0}, "n_clusters: expected at least 1, not 0"),
        ({"within": 1.5}, r"within: expected 0 to 1, not 1\.5"),
        ({"offset": -1.0}, r"offset: expected a finite number of at least 0, not -1\.0"),
        (
            {"spectrum_exponent": float("nan")},
            "spectrum_exponent: expected a finite number of at least 0, not nan",
        ),
        ({"metric": "dot"}, "expected 'l2', 'ip' or 'cosine', not 'dot'"),
        ({"random_state": -1}, r"random_state: expected an int in \[0, 2\*\*64\), not -1"),
        ({"k": 0}, "k: expected at least 1, not 0"),
    ],
)
def test_generator_errors_name_both_values(keywords, message):
    with pytest.raises(ValueError, match=message):
        clustered(**{"n": 10, "dim": 4, "random_state": 0, **keywords})


# Real vectors


@pytest.mark.parametrize(
    ("name", "shape", "metric"),
    [
        ("D_digits", (1597, 64), "l2"),
        ("B_glove25", (10_925, 25), "cosine"),
        ("B_tok384", (20_000, 384), "ip"),
    ],
)
def test_real_folders_are_read(shared_data, name, shape, metric):
    data = read(shared_data / name)
    assert (data.name, data.base.shape, data.metric) == (name, shape, metric)
    assert data.base.dtype == np.float32
    assert data.ground_truth.shape == (len(data.queries), 100)


def test_real_texts_belong_to_their_rows(shared_data):
    data = read(shared_data / "A_minilm_wordnet", rows=1000)
    assert len(data.base_texts) == 1000
    assert len(data.query_texts) == 500
    assert data.ground_truth.max() < 1000
