"""The Python door: names, arguments, results and errors as people who know other libraries expect them."""

from __future__ import annotations

import importlib
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bqcore
from bqcore import RaBitQ, ScanIndex, Tier, cli, make_codec, search
from bqcore._validation import InputTypeError, as_vectors, check_metric
from bqcore.cli import errors
from bqcore.registry import CODECS
from bqcore.study import Source, array_source

X = (np.random.default_rng(0).standard_normal((300, 33)) + 0.2).astype(np.float32)


def test_every_codec_is_at_the_door() -> None:
    for module, name in CODECS.values():
        assert getattr(bqcore, name) is getattr(importlib.import_module(module), name)
        assert name in bqcore.__all__
        assert name in dir(bqcore)
    assert callable(bqcore.advise)
    assert callable(bqcore.study)
    # the function has the name of the package that it is in
    assert importlib.import_module("bqcore.study").__name__ == "bqcore.study"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        bqcore.Nothing  # noqa: B018


def test_results_unpack_and_say_what_they_are() -> None:
    codec = RaBitQ().fit(X)
    codes = codec.encode(X)
    index = ScanIndex(codec, codes)
    for found in (search(codec, codes, X[:4], 5), search(codec, index, X[:4], 5), index.search(X[:4], 5)):
        ids, distances = found
        assert ids is found.ids
        assert distances is found.distances
        assert len(found) == 4
        assert "4 queries, k = 5" in repr(found)
    assert (
        repr(codes)
        == f"Codes(300 x rabitq, 33 d, {codes.bytes_per_vector} bytes each, model {codec.model_id})"
    )
    assert repr(index).startswith("ScanIndex(300 x rabitq, 33 d, ")
    assert repr(Tier(codec, codes)).startswith("Tier(RaBitQ(bits=1, ")
    with pytest.raises(TypeError, match=r"codes\[i : i \+ 1\] is one"):
        codes[0]  # type: ignore[index]
    with pytest.raises(
        TypeError, match=r"expected Codes or a ScanIndex, not ndarray: search\(quantizer, codes, Q\)"
    ):
        search(codec, X, codes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "given"),
    [
        ("rabitq", {"bit": 4}),
        ("saq", {"bits_per_dim": 2}),
        ("pq", {"subspace": 4}),
        ("osq", {"metrics": "ip"}),
    ],
)
def test_unknown_parameters_are_refused_with_those_known(spec: str, given: dict[str, Any]) -> None:
    (name,) = given
    known = ", ".join(make_codec(spec).get_params())
    with pytest.raises(ValueError, match=rf"{spec} has {known}, not '{name}'"):
        make_codec(spec, **given)


@pytest.mark.parametrize("name", ["rabitq", "scalar", "turbo"])
def test_a_metric_is_no_argument_of_fit(name: str) -> None:
    with pytest.raises(TypeError, match=r"\(metric='cosine'\)"):
        make_codec(name).fit(X, "cosine")
    assert make_codec(name).fit(X, np.zeros(300)).metric_ == "l2"  # labels of a pipeline


@pytest.mark.parametrize(
    ("given", "meant"),
    [("cos", "cosine"), ("Euclidean", "l2"), ("dot", "ip"), ("inner_product", "ip"), ("Inner Product", "ip")],
)
def test_metrics_have_the_names_of_other_libraries(given: str, meant: str) -> None:
    assert check_metric(given) == meant
    assert RaBitQ(metric=given).fit(X).metric_ == meant
    assert RaBitQ(metric=given).fit(X).model_id == RaBitQ(metric=meant).fit(X).model_id


def columns() -> dict[str, Any]:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    return {
        "rows of lists": X.tolist(),
        "list of arrays": list(X),
        "tuple of tuples": tuple(map(tuple, X)),
        "column of arrays": pandas.DataFrame({"v": list(X)})["v"],
        "column of lists": pandas.Series([x.tolist() for x in X]),
        "numbers": pandas.DataFrame(X),
        "polars": polars.DataFrame({"v": [x.tolist() for x in X]})["v"],
        "arrow": arrow.array([x.tolist() for x in X]),
    }


def test_vectors_come_in_many_containers() -> None:
    for name, given in columns().items():
        np.testing.assert_allclose(as_vectors(given), X, err_msg=name)
        assert len(RaBitQ().fit(given).encode(given)) == 300


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0], None], "X: expected a vector in every row, not None in row 1"),
        ([[1.0, 2.0], [1.0]], "X: expected rows of equal length"),
        ([["a", "b"], ["c", "d"]], "X: expected real numbers"),
        ([{"a": 1}], "X: expected "),
    ],
)
def test_what_holds_no_vectors_is_named(rows: list[Any], message: str) -> None:
    column = np.empty(len(rows), dtype=object)
    column[:] = rows
    with pytest.raises((TypeError, ValueError), match=message):
        as_vectors(column)


def test_a_table_is_told_to_give_its_column() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="not a table of 2 columns: give its vectors' column"):
        as_vectors(pandas.DataFrame({"v": list(X), "id": range(300)}))


@pytest.mark.parametrize("content", [b"hello", b"", b"PK\x03\x04 and no more", b"\x80\x04K\x01."])
@pytest.mark.parametrize("load", [bqcore.load, bqcore.Codes.load, bqcore.SAQ.load])
def test_foreign_files_are_refused_without_advice_to_trust_them(
    tmp_path: Path, load: Callable[[Path], Any], content: bytes
) -> None:
    path = tmp_path / "foo.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foo\.txt") as error:
        load(path)
    assert "pickle" not in str(error.value)


def test_a_path_that_ends_in_npz_is_one(tmp_path: Path) -> None:
    codec = RaBitQ(bits=4).fit(X)
    codec.save(tmp_path / "m.npz")
    assert "centroid_" in np.load(tmp_path / "m.npz").files
    assert bqcore.load(tmp_path / "m.npz").model_id == codec.model_id


@pytest.mark.parametrize("name", ["turbo", "sign_magnitude", "median_binary", "rabitq", "osq"])
def test_decode_turns_back_without_a_matrix(name: str) -> None:
    wide = np.random.default_rng(1).standard_normal((4, 4096)).astype(np.float32)
    codec = make_codec(name, rotation="hadamard").fit(wide)
    codes = codec.encode(wide)
    tracemalloc.start()
    decoded = codec.decode(codes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4096 * 4096  # a matrix of float32 would be four times as much
    assert np.corrcoef(decoded.ravel(), wide.ravel())[0, 1] > 0.7


def test_study_and_advise_take_arrays_and_have_a_target() -> None:
    found = bqcore.study(X, metric="cos", codecs=["rabitq(bits=4)"], engines={}, seconds=0)
    assert found.document["data"]["metric"] == "cosine"
    assert found.document["goal"]["target_recall"] == 0.95
    advice = bqcore.advise(X, codecs=["rabitq(bits=8)", "rabitq(bits=4)"], k=5, target_recall=0.5)
    assert advice.best is advice.options[0]
    assert advice.codec().get_params()["bits"] == 4
    assert "rabitq(bits=4): 25 bytes, recall" in repr(advice)
    assert bqcore.advise(X, codecs=["rabitq(bits=8)"], k=5).best.recall >= 0.95
    source = array_source(X, None, "l2")
    assert isinstance(source, Source)
    with pytest.raises(ValueError, match="expected none beside a Source"):
        bqcore.study(source, X)


def test_advice_does_without_the_extra_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "sklearn.cluster", "sklearn.exceptions", "threadpoolctl"):
        monkeypatch.setitem(sys.modules, name, None)
    found = bqcore.study(X, engines={}, seconds=0).document
    names = {one["codec"].partition("(")[0] for one in found["options"]}
    assert names
    assert "pq" not in names
    assert "factors=pair" not in str(found["options"])
    assert "pip install 'bqcore[train]'" in found["left_out"]
    for spec in ("pq", "saq(factors=pair)", "rabitq(centroids=4)"):
        with pytest.raises(ImportError, match=r"pip install 'bqcore\[train\]'"):
            make_codec(spec).fit(X)


@pytest.mark.parametrize(
    ("dim", "metric"),
    [(8, "l2"), (32, "cosine"), (300, "ip")],
)
def test_costs_compare_like_with_like(dim: int, metric: str) -> None:
    rows = np.random.default_rng(2).standard_normal((200, dim)).astype(np.float32)
    found = bqcore.study(rows, metric=metric, codecs=["rabitq(bits=1)"], seconds=0).document["storage"]
    per_row = {one["name"]: one["ram_bytes"] for one in found["per_row"]}
    pairs = [*per_row.values()]
    for floats, codes in zip(pairs[::2], pairs[1::2], strict=True):
        assert codes <= floats, per_row


def fail_by_a_fault() -> None:
    len(3)  # type: ignore[arg-type]


def fail_by_the_user() -> None:
    as_vectors([[True]])


@pytest.mark.parametrize(
    ("fail", "code", "text"), [(fail_by_a_fault, 1, "Traceback"), (fail_by_the_user, 2, "X: ")]
)
def test_a_fault_of_ours_is_no_bad_input(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fail: Callable[[], None],
    code: int,
    text: str,
) -> None:
    monkeypatch.delenv("BQCORE_DEBUG", raising=False)
    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(errors, "command_of", lambda root, arguments: type("Nothing", (), {"params": []}))
    monkeypatch.setattr(cli.typer.main, "get_command", lambda app: None)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    err = capsys.readouterr().err
    assert text in err
    assert ("report it" in err) == (code == 1)


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["advise"], "target_recall: expected a number, not 2", "--target-recall: expected a number, not 2"),
        (["advise"], "x: column='v' expects a .parquet file", "x: --column v expects a .parquet file"),
        (["eval"], "expected metric='l2', 'ip' or 'cosine'", "expected --metric l2, 'ip' or 'cosine'"),
        (["qdrant", "upload"], "keep it (zero_vectors='keep')", "keep it (--keep-zero)"),
        (["qdrant", "upload"], "several: name it (vector_column)", "several: name it (--vector-column)"),
        (["tune", "--live"], "bytes_per_vector and k: both", "bytes_per_vector and k: both"),
    ],
)
def test_errors_are_in_the_words_of_the_shell(words: list[str], error: str, text: str) -> None:
    command = errors.command_of(cli.typer.main.get_command(cli.app), words)
    assert errors.in_shell_words(ValueError(error), command) == text
    assert errors.is_for_users(InputTypeError(error))
    assert not errors.is_for_users(TypeError(error))
