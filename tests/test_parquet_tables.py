"""Parquet as people have it: parts, one column per dimension, indexes of pandas, rows without a vector."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import numpy as np
import pytest

from bqcore.datasets import ColumnChoiceError, InvalidRowsError, is_table, open_points, read, read_bin
from bqcore.datasets._points import plain

pa = pytest.importorskip("pyarrow", reason="needs bqcore[datasets]")
pq = pytest.importorskip("pyarrow.parquet")
X = np.random.default_rng(0).standard_normal((90, 6)).astype(np.float32)


def write(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=16)
    return path


def whole(path: Path, **options: object) -> np.ndarray:
    return read(path, metric="l2", hold_out=False, **options).base  # type: ignore[arg-type]


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    for i, part in enumerate(np.array_split(X, 3)):
        write(tmp_path / "set" / f"year={i}" / f"part-{i:03}.parquet", v=list(part), n=[i] * len(part))
    (tmp_path / "set" / "_SUCCESS").touch()
    (tmp_path / "set" / ".hidden.parquet").write_text("no table")
    assert is_table(tmp_path / "set")
    np.testing.assert_array_equal(whole(tmp_path / "set"), X)
    points = [one for part in open_points(tmp_path / "set").points(50) for one in part.payloads]
    assert [one["n"] for one in points] == [0] * 30 + [1] * 30 + [2] * 30
    write(tmp_path / "set" / "z.parquet", other=[1])
    with pytest.raises(ValueError, match=r"z\.parquet: expected a column 'v', not only other"):
        whole(tmp_path / "set")


@pytest.mark.parametrize("first", [0, 1])
def test_one_column_per_dimension(tmp_path: Path, first: int) -> None:
    columns = {f"dim_{i + first}": X[:, i] for i in reversed(range(6))}  # their order is that of the numbers
    path = write(tmp_path / "x.parquet", id=np.arange(90), price=[1.0] * 90, **columns)
    np.testing.assert_array_equal(whole(path), X)
    np.testing.assert_array_equal(whole(path, column="dim_"), X)
    (part,) = open_points(path).points(100)
    assert part.ids == list(range(90))
    assert part.payloads[3] == {"price": 1.0}


def test_two_rows_of_columns_have_to_be_named(tmp_path: Path) -> None:
    columns = {f"{name}{i}": X[:, i] for name in ("a", "b") for i in range(3)}
    path = write(tmp_path / "x.parquet", **columns)
    with pytest.raises(ColumnChoiceError, match=r"not 'a' \(3\), 'b' \(3\)"):
        whole(path)
    np.testing.assert_array_equal(whole(path, column="b"), X[:, :3])
    with pytest.raises(ColumnChoiceError, match="not 'c'"):
        whole(path, column="c")


@pytest.mark.parametrize("column", ["emb.v", "a.b.c"])
def test_a_column_with_a_dot_beside_what_it_would_be_a_path_into(tmp_path: Path, column: str) -> None:
    nested = pa.array([{"v": [0.0]}] * 90) if column == "emb.v" else pa.array([{"b": {"c": [0.0]}}] * 90)
    path = write(tmp_path / "x.parquet", **{column.partition(".")[0]: nested, column: list(X)})
    np.testing.assert_array_equal(whole(path, column=column), X)


@pytest.mark.parametrize("bad", [[0], [0, 1, 2], [89], [16, 17, 40]])
@pytest.mark.parametrize("empty", [None, []])
def test_rows_without_a_vector_are_counted(tmp_path: Path, bad: list[int], empty: list[float] | None) -> None:
    rows = [empty if i in bad else x.tolist() for i, x in enumerate(X)]
    path = write(tmp_path / "x.parquet", v=pa.array(rows, type=pa.list_(pa.float32())))
    message = rf"not null in row {bad[0]}; {len(bad)} of 90 rows have no vector"
    with pytest.raises(InvalidRowsError, match=message):
        whole(path)
    found = read(path, metric="l2", hold_out=False, drop_invalid=True)
    assert found.n_dropped == (len(bad), 0)
    np.testing.assert_array_equal(found.base, np.delete(X, bad, axis=0))
    parts = list(open_points(path).points(10))
    assert [part.start for part in parts] == list(range(0, 90, 10))
    assert {part.vectors.shape[1] for part in parts} == {6}
    has = np.concatenate([part.has_vector for part in parts])
    assert np.flatnonzero(~has).tolist() == bad


def test_only_rows_without_a_vector(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", v=pa.array([None] * 9, type=pa.list_(pa.float32())))
    with pytest.raises(InvalidRowsError, match="9 of 9 rows have no vector"):
        whole(path)
    with pytest.raises(ValueError, match="at least 1 row"):
        whole(path, drop_invalid=True)


@pytest.mark.parametrize(("start", "step"), [(0, 1), (1000, 1), (500, -2)])
def test_indexes_of_pandas(tmp_path: Path, start: int, step: int) -> None:
    pandas = pytest.importorskip("pandas")
    labels = pandas.RangeIndex(start, start + 90 * step, step, name="id")
    table = pandas.DataFrame({"v": list(X), "t": ["a"] * 90}, index=labels)
    expected = list(range(start, start + 90 * step, step))
    table.to_parquet(tmp_path / "range.parquet")
    table.set_axis(pandas.Index(expected, name="id")).to_parquet(tmp_path / "list.parquet")
    for name in ("range", "list"):
        parts = list(open_points(tmp_path / f"{name}.parquet").points(40))
        assert [one for part in parts for one in part.ids or ()] == expected
        assert parts[0].payloads[0] == {"t": "a"}
    # without a name it is bookkeeping, not payload
    table.set_axis(pandas.Index(expected[::-1])).to_parquet(tmp_path / "shuffled.parquet")
    (part,) = open_points(tmp_path / "shuffled.parquet").points(100)
    assert part.ids is None
    assert part.payloads[0] == {"t": "a"}
    # under another name than that of the id column it is payload
    (part,) = open_points(tmp_path / "range.parquet", id_column="").points(100)
    assert part.payloads[1] == {"t": "a", "id": start + step}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (datetime.datetime(2024, 1, 2, 3), "2024-01-02T03:00:00"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.timedelta(minutes=1), 60.0),
        (decimal.Decimal("1.5"), 1.5),
        (b"text", "text"),
        (b"\xff\x00", "/wA="),
        ({"a": [float("nan"), {"b": (1, 2)}]}, {"a": [None, {"b": [1, 2]}]}),
        (np.float32(2.5), 2.5),
    ],
)
def test_payload_is_what_json_has(value: object, expected: object) -> None:
    assert plain(value) == expected


def test_times_to_the_nanosecond(tmp_path: Path) -> None:
    moments = pa.array([1_700_000_000_123_456_789] * 90, type=pa.timestamp("ns"))
    path = write(tmp_path / "x.parquet", v=list(X), at=moments)
    (part,) = open_points(path).points(100)
    assert part.payloads[0]["at"] == "2023-11-14T22:13:20.123456"


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".fbin", "<f4"), (".u8bin", "u1"), (".i8bin", "i1"), (".ibin", "<i4")]
)
def test_files_of_the_big_benchmarks(tmp_path: Path, suffix: str, dtype: str) -> None:
    rows = np.abs(X * 10).astype(dtype)
    path = tmp_path / f"base{suffix}"
    path.write_bytes(np.array(rows.shape, dtype="<u4").tobytes() + rows.tobytes())
    np.testing.assert_array_equal(read_bin(path), rows)
    np.testing.assert_array_equal(whole(path), rows.astype(np.float32))
    path.with_name(f"query{suffix}").write_bytes(np.array([2, 6], dtype="<u4").tobytes() + rows[:2].tobytes())
    assert len(read(path, metric="ip").queries) == 2
    for cut in (3, -1):
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ValueError, match="expected"):
            read_bin(path)


def test_archives_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, base=X, query=X[:4], labels=np.arange(90))
    found = read(path, metric="l2")
    assert (found.n, len(found.queries)) == (90, 4)
    np.savez(path, a=X, b=X[:, :3], names=np.array(["x"] * 90))
    with pytest.raises(ColumnChoiceError, match=r"expected one matrix of numbers, not 2 \(a, b\)"):
        whole(path)
    assert whole(path, column="b").shape == (90, 3)
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match=r"x\.npz: expected a whole \.npz file") as error:
        whole(path)
    assert "pickle" not in str(error.value)
