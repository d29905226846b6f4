"""Which rows readers take: random parts, finite rows, what fits the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bqcore.datasets import InvalidRowsError, read
from bqcore.datasets._part import check_memory, invalid_rows

RNG = np.random.default_rng(5)
X = RNG.normal(size=(300, 6)).astype(np.float32)


def folder(path: Path, base: np.ndarray, queries: np.ndarray) -> Path:
    path.mkdir()
    np.save(path / "base.npy", base)
    np.save(path / "query.npy", queries)
    (path / "meta.json").write_text(json.dumps({"metric": "l2"}))
    return path


def test_invalid_rows_are_counted_in_base_and_queries(tmp_path: Path) -> None:
    base, queries = X.copy(), X[:9].copy()
    base[[3, 200], [1, 5]] = np.nan, np.inf
    queries[8] = np.nan
    path = folder(tmp_path / "d", base, queries)
    with pytest.raises(InvalidRowsError, match=re.escape("2 of 300 rows of base and 1 of 9 rows of queries")):
        read(path)
    data = read(path, drop_invalid=True)
    assert data.n_dropped == (2, 1)
    assert np.array_equal(data.base, np.delete(X, [3, 200], axis=0))
    assert len(data.queries) == 8


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_invalid_rows_are_found_in_every_float_type(dtype: type) -> None:
    rows = np.ones((70, 3), dtype=dtype)
    rows[[0, 41, 69], [2, 0, 1]] = np.nan, -np.inf, np.inf
    assert invalid_rows(rows).tolist() == [0, 41, 69]
    assert not len(invalid_rows(np.ones((4, 3), dtype=np.uint8)))


def test_a_double_beyond_float32_is_invalid() -> None:
    rows = np.ones((5, 2))
    rows[2, 0] = 1e39
    assert invalid_rows(rows).tolist() == [2]


def test_a_sample_is_random_and_the_same_every_time(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    data = read(tmp_path / "x.npy", metric="l2", sample=50, hold_out=False)
    assert data.base.shape == (50, 6)
    assert data.n_source == 300
    assert not data.has_queries
    again = read(tmp_path / "x.npy", metric="l2", sample=50, hold_out=False)
    assert np.array_equal(data.base, again.base)
    assert len(np.unique(np.concatenate([data.base, X]), axis=0)) == 300
    assert not np.array_equal(data.base, X[:50])


def test_a_folder_needs_no_ground_truth(tmp_path: Path) -> None:
    data = read(folder(tmp_path / "d", X, X[:7]))
    assert data.ground_truth is None
    assert data.has_queries


def test_queries_of_other_dimensions_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="queries: expected 6 dimensions, not 5"):
        read(folder(tmp_path / "d", X, X[:7, :5]), drop_invalid=True)


def test_what_exceeds_the_machine_is_refused_before_it_is_read() -> None:
    with pytest.raises(
        ValueError, match=r"1,099,511,627,776 x 16,000 float32 take 70,368,744,177,664,000 bytes"
    ):
        check_memory((1 << 40, 16_000), "big")


def test_headers_that_promise_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.npy"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 768), }"
    header += b" " * (117 - len(header)) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(768 * 4))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read(path, metric="l2")
    vecs = tmp_path / "huge.fvecs"
    vecs.write_bytes((2**31 - 1).to_bytes(4, "little") + bytes(400))
    with pytest.raises(ValueError, match="expected 1 to 16000 dimensions in bytes 0 to 3, not 2147483647"):
        read(vecs)
    vecs.write_bytes((-5).to_bytes(4, "little", signed=True) + bytes(400))
    with pytest.raises(ValueError, match="not -5"):
        read(vecs)


def test_an_hdf5_file_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs bqcore[datasets]")
    path = tmp_path / "huge.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("train", shape=(1 << 40, 768), dtype="f4", chunks=(1024, 768))
        file.attrs["distance"] = "angular"
    with pytest.raises(ValueError, match="and this machine has"):
        read(path)
