from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bqcore.datasets import Dataset, read, split_queries
from bqcore.evaluation import exact_search


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
        ({"metric": "manhattan"}, ValueError, "metric: expected 'l2', 'ip' or 'cosine', not 'manhattan'"),
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
    with pytest.raises(ValueError, match="expected 'l2', 'ip' or 'cosine', not 'manhattan'"):
        read(tmp_path / "x.npy", metric="manhattan")


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
