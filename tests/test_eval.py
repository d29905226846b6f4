"""`bqcore eval` and what it measures, on small data."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from bqcore import cli, make_codec
from bqcore.cli import picture
from bqcore.cli.eval_ import _quiet_stdout
from bqcore.codec_eval import check_specs, evaluate
from bqcore.datasets import Dataset
from bqcore.evaluation import exact_search, recall
from bqcore.peers import PEERS, list_id_bytes

KEYS = {
    "codec",
    "recall_at_10",
    "recall_10_in_100",
    "bytes_per_vector",
    "encode_us_per_vector",
    "train_s",
}
#: Spec, bytes per vector at 64 dimensions.
PEER_SPECS = [
    ("faiss(PQ8x4)", 4),
    ("faiss(PQ16x4fs)", 8),
    ("faiss(PCA32,PQ8x8)", 8),
    ("faiss(RaBitQ)", 8 + 8),
    ("faiss(IVF4,RaBitQ)", 8 + 8 + 1),
    ("faiss(SQ8)", 64),
    ("scann(dims_per_block=4)", 8),
    ("scann(dims_per_block=2, hash=lut256)", 32),
    ("turbovec(bits=2)", 16 + 4),
    ("turbovec(bits=4, calibrate=False)", 32 + 4),
    ("rabitqlib(bits=1)", 8 + 12),
    ("rabitqlib(bits=4, centroids=4)", 32 + 20 + 1),
]


def dataset(metric="cosine", n=600, dim=64, n_queries=20, **changes):
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(6, dim))
    X = centres[rng.integers(6, size=n + n_queries)] + rng.normal(size=(n + n_queries, dim)) * 0.7
    base, queries = X[:n].astype(np.float32), X[n:].astype(np.float32)
    truth, _ = exact_search(base, queries, min(20, n), metric)
    return Dataset(**{"name": "small", "base": base, "queries": queries, "metric": metric,
                      "ground_truth": truth, **changes})  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    data = dataset()
    path = tmp_path / "small"
    path.mkdir()
    np.save(path / "base.npy", data.base)
    np.save(path / "query.npy", data.queries)
    np.save(path / "gt.npy", data.ground_truth.astype(np.int32))
    (path / "meta.json").write_text(json.dumps({"name": "small", "metric": "cosine"}))
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bqcore", "eval", *map(str, arguments)])
    monkeypatch.delenv("BQCORE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def installed(spec):
    name = spec.partition("(")[0]
    module = {"scann": "scann", "faiss": "faiss"}.get(name, name)
    return importlib.util.find_spec(module) is not None


def peer_or_skip(spec):
    if not installed(spec):
        pytest.skip(f"{spec.partition('(')[0]} is not installed (extra peers)")
    return spec


# ---- the command ----


def test_stdout_is_json_alone_with_a_row_per_codec_and_the_bound(folder, capfd, monkeypatch):
    specs = ["rabitq(bits=1)", "rabitq(bits=4)"]
    assert run(monkeypatch, folder, *(f"--codec={spec}" for spec in specs), "--seeds=2", "--json=-") == 0
    out, err = capfd.readouterr()
    rows = json.loads(out)
    assert [row["codec"] for row in rows] == [*specs, "gaussian_bound(bytes=16)", "gaussian_bound(bytes=40)"]
    assert all(row.keys() >= KEYS for row in rows)
    assert [row["bytes_per_vector"] for row in rows] == [16, 40, 16, 40]
    assert all(row["seeds"] == [0, 1] and row["n"] == 600 and row["metric"] == "cosine" for row in rows)
    assert "rabitq(bits=1), seed 2 of 2" in err


def test_what_libraries_print_stays_off_stdout(capfd):
    with _quiet_stdout():
        os.write(1, b"chatter")
    os.write(1, b"answer")
    assert capfd.readouterr() == ("answer", "chatter")


def test_without_json_there_is_a_table(folder, capfd, monkeypatch):
    assert run(monkeypatch, folder, "--codec", "rabitq(bits=1)", "--seeds", 1, "--no-bound") == 0
    out = capfd.readouterr().out
    assert "recall@10" in out
    assert "rabitq(bits=1)" in out
    assert "gaussian_bound" not in out


def test_json_file_and_picture_are_written_beside_the_table(folder, tmp_path, capfd, monkeypatch):
    pytest.importorskip("matplotlib")
    json_path, plot = tmp_path / "new" / "rows.json", tmp_path / "new" / "plot.png"
    codec = ["--codec", "rabitq", "--seeds", 1, "--k", 5, "--rows", 300]
    assert run(monkeypatch, folder, *codec, "--json", json_path, "--plot", plot) == 0
    row = json.loads(json_path.read_text())[0]
    assert row["n"] == 300
    assert {"recall_at_5", "recall_5_in_50"} <= row.keys()
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "recall@5" in capfd.readouterr().out


def test_specs_that_cannot_be_had_are_left_out_with_their_reason_on_request(folder, capfd, monkeypatch):
    codecs = ["--codec", "zip", "--codec", "rabitq"]
    assert run(monkeypatch, folder, *codecs, "--seeds", 1, "--no-bound", "--skip", "--json", "-") == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["codec"] for row in rows] == ["rabitq", "zip"]
    assert "not 'zip'" in rows[1]["skipped"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--codec", "zip(bits=1)"], r"expected one of rabitq, .*faiss.*gaussian_bound, not 'zip'"),
        (["--codec", "rabitq(bits=1"], r"expected a name or name\(key=value, ...\), not 'rabitq\(bits=1'"),
        (["--codec", "rabitq(bit=1)"], "rabitq has bits, .*, not 'bit'"),
        (["--codec", "rabitq(bits=3.5)"], r"rabitq\(bits=3.5\): bits: expected an int, not 3.5"),
        (["--codec", "rabitq(metric=l2)"], "metric: expected the data's 'cosine', not 'l2'"),
        (["--codec", "gaussian_bound"], r"expected gaussian_bound\(bytes=48\), not gaussian_bound"),
        (["--codec", "gaussian_bound(bytes=0)"], "bytes: expected a finite number > 0, not 0"),
        (["--codec", "rabitq", "--k", "601"], "k: expected 1 to 600, not 601"),
        (["--codec", "rabitq", "--metric", "l1"], "expected 'l2', 'ip' or 'cosine', not 'l1'"),
    ],
)
def test_errors_name_both_values_before_anything_is_trained(folder, capfd, monkeypatch, arguments, text):
    arguments = ["--codec", "rabitq(bits=1)", *arguments]
    assert run(monkeypatch, folder, *arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "seed 1" not in err
    assert re.search(text, " ".join(err.split()))


def test_unreadable_data_is_one_line(tmp_path, capfd, monkeypatch):
    assert run(monkeypatch, tmp_path / "nowhere", "--codec", "rabitq") == 2
    assert "no such file or folder" in capfd.readouterr().err
    (tmp_path / "base.npy").write_bytes(b"short")
    assert run(monkeypatch, tmp_path, "--codec", "rabitq") == 2
    assert "missing: query.npy, meta.json" in capfd.readouterr().err


def test_a_codec_is_asked_for():
    assert CliRunner().invoke(cli.app, ["eval", "folder"]).exit_code == 2


# ---- what is measured ----


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_recall_is_that_of_the_codec_s_own_estimates(metric):
    data = dataset(metric)
    (found,) = evaluate(data, ["rabitq(bits=2)"], seeds=[7], bound=False)
    codec = make_codec("rabitq(bits=2)", metric=metric, random_state=7).fit(data.base)
    codes = codec.encode(data.base)
    order = np.argsort(codec.estimate(codes, data.queries), axis=1, kind="stable")
    assert found.recall_at_k == recall(order[:, :10], data.ground_truth, 10)
    assert found.recall_in_candidates == recall(order[:, :100], data.ground_truth, 10)
    assert found.bytes_per_vector == codes.nbytes / data.n == 24
    assert found.recall_at_k_sd is None


def test_results_are_means_over_seeds_and_repeat():
    data, spec = dataset(), "rabitq(bits=1)"
    single = [evaluate(data, [spec], seeds=[seed], bound=False)[0] for seed in range(3)]
    together, again = (evaluate(data, [spec], seeds=range(3), bound=True) for _ in range(2))
    recalls = [one.recall_at_k for one in single]
    assert len(set(recalls)) > 1
    assert together[0].recall_at_k == pytest.approx(np.mean(recalls))
    assert together[0].recall_at_k_sd == pytest.approx(np.std(recalls, ddof=1))
    assert [one.recall_at_k for one in together] == [one.recall_at_k for one in again]


def test_a_seed_in_the_spec_stays():
    (found,) = evaluate(dataset(), ["rabitq(random_state=3)"], bound=False)
    assert found.recall_at_k_sd == 0


def test_rows_as_near_as_the_kth_count():
    data = dataset()
    twins = np.repeat(data.base[:30], 20, axis=0)
    # the ground truth names the first of the 20 twins; a codec cannot tell them apart, the last are as good
    truth = exact_search(twins, data.queries, 10, "cosine")[0]
    reversed_twins = Dataset("twins", twins, data.queries, "cosine", truth + 10)
    (found,) = evaluate(reversed_twins, ["rabitq(bits=8)"], seeds=[0], bound=False)
    assert found.recall_at_k == 1


def test_missing_or_narrow_ground_truth_is_computed():
    data = dataset()
    expected = evaluate(data, ["rabitq"], seeds=[0], bound=False)[0].recall_at_k
    for truth in (None, data.ground_truth[:, :3]):
        without = dataset(ground_truth=truth)
        assert evaluate(without, ["rabitq"], seeds=[0], bound=False)[0].recall_at_k == expected


def test_few_vectors_make_few_candidates():
    (found,) = evaluate(dataset(n=12, ground_truth=None), ["rabitq"], seeds=[0], bound=False)
    assert found.recall_in_candidates == 1


def test_a_bound_that_was_asked_for_is_not_added_again():
    found = evaluate(dataset(), ["rabitq", "gaussian_bound(bytes=16)"], seeds=[0])
    assert [one.codec for one in found] == ["rabitq", "gaussian_bound(bytes=16)"]
    assert found[1].recall_at_k > found[0].recall_at_k


def test_zero_vectors_are_found_before_the_work(capsys):
    data = dataset()
    base = data.base.copy()
    base[5] = 0
    with pytest.raises(ValueError, match="small: base: expected rows with a direction, but row 5"):
        evaluate(
            Dataset("small", base, data.queries, "cosine", data.ground_truth), ["rabitq"], progress=print
        )
    assert capsys.readouterr().out == ""


def test_nothing_to_measure_or_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1 spec and 1 seed, not 0 and 3"):
        evaluate(dataset(), [])
    with pytest.raises(ValueError, match="at least one measurement to draw, not 0"):
        picture.save_codecs([], tmp_path / "x.png", "nothing")


# ---- peers ----


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("spec", "nbytes"), PEER_SPECS)
def test_peers_store_what_they_say_and_find_neighbours(spec, nbytes, capfd):
    data = dataset(n=640)
    (found,) = evaluate(data, [peer_or_skip(spec)], seeds=[0], bound=False)
    assert found.kind == "peer"
    assert found.version
    assert found.version.split()[1][0].isdigit()
    assert found.bytes_per_vector == nbytes
    if found.library_bytes_per_vector is not None:
        # row ids (8 or 4 bytes), blocks, and for rabitqlib its file's header and centroids
        extra = found.library_bytes_per_vector - found.bytes_per_vector
        assert -1 <= extra < (12 if spec.startswith("rabitqlib") else 9)
    assert found.recall_in_candidates > 0.9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("spec", "coarse"),
    [
        ("faiss(IVF6,RaBitQ)", "faiss(RaBitQ)"),
        ("rabitqlib(bits=1, centroids=6)", "rabitqlib(bits=1)"),
        ("scann(leaves=6, dims_per_block=8)", "scann(dims_per_block=8)"),
    ],
)
def test_lists_of_residuals_help_on_clusters(spec, coarse, capfd):
    data = dataset(n=640)
    fine, plain = evaluate(data, [peer_or_skip(spec), coarse], seeds=[0, 1], bound=False)
    assert fine.recall_at_k > plain.recall_at_k + 0.02
    assert fine.bytes_per_vector == plain.bytes_per_vector + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(
    "spec", ["faiss(RaBitQ)", "scann(dims_per_block=2)", "turbovec(bits=4)", "rabitqlib(bits=4)"]
)
def test_peers_rank_by_the_metric_of_the_data(spec, metric, capfd):
    rng = np.random.default_rng(2)
    data = dataset(metric)
    base = data.base * rng.uniform(0.5, 2, size=(len(data.base), 1)).astype(np.float32)
    scaled = Dataset("scaled", base, data.queries, metric)
    peer_or_skip(spec)
    if spec.startswith("turbovec") and metric == "l2":
        assert check_specs([spec], scaled) == {spec: "turbovec: expected metric ip or cosine, not l2"}
        return
    (found,) = evaluate(scaled, [spec], seeds=[0], bound=False)
    assert found.recall_in_candidates > 0.97


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("faiss(PQ7x8)", "expected an index_factory string for 64 dimensions, not 'PQ7x8'"),
        ("faiss(Nope)", "expected an index_factory string for 64 dimensions, not 'Nope'"),
        ("faiss()", "not nothing"),
        ("faiss(HNSW16)", "without graph and rescoring, not 'HNSW16'"),
        ("faiss(PQ8,RFlat)", "without graph and rescoring, not 'PQ8,RFlat'"),
        ("faiss(PQ8x10)", "expects at least 1024 vectors, not 600"),
        ("faiss(IVF1024,PQ8x4)", "expects at least 1024 vectors, not 600"),
        ("scann(hash=lut8)", "expected lut16 or lut256, not 'lut8'"),
        ("scann(dims_per_block=65)", "expected at most 64 dims_per_block, not 65"),
        ("scann(leaves=601)", "expected at most 600 leaves, one per vector, not 601"),
        ("scann(threshold=2)", r"expected a number in \[0, 1\), not 2"),
        ("turbovec(bits=1)", "bits: expected one of 2, 3, 4, not 1"),
        ("turbovec()", "expected bits, calibrate, not"),
        ("rabitqlib(bits=10)", "bits: expected one of 1, 2, .*, not 10"),
        ("rabitqlib(bits=1, lists=4)", "expected bits, centroids, not .*lists=4"),
        ("rabitqlib(bits=1, metric=l2)", r"the metric is the data's \(cosine\), not 'l2'"),
        ("rabitqlib(bits=1, centroids=601)", "expected at most 600 centroids, not 601"),
    ],
)
def test_peers_refuse_before_the_work(spec, text):
    with pytest.raises(ValueError, match=text):
        evaluate(dataset(), ["rabitq", peer_or_skip(spec)], progress=lambda text: pytest.fail(text))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("spec", "text"),
    [("turbovec(bits=2)", "multiple of 8 dimensions, not 25"), ("rabitqlib(bits=1)", "not 25")],
)
def test_dims_that_a_peer_lacks_are_refused(spec, text):
    assert text in check_specs([peer_or_skip(spec)], dataset(dim=25))[spec]


@pytest.mark.parametrize("name", PEERS)
def test_a_missing_peer_names_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    spec = {"faiss": "faiss(PQ8x4)", "scann": "scann", "usearch": "usearch(b1)"}.get(name, f"{name}(bits=2)")
    with pytest.raises(ImportError, match=r"is not installed: pip install 'bqcore\[peers\]' or"):
        evaluate(dataset(), [spec])


def test_list_ids_take_the_bytes_that_codecs_count():
    assert [list_id_bytes(n) for n in (1, 2, 256, 257, 65_536, 65_537)] == [0, 1, 1, 2, 2, 4]
