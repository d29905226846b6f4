"""The study behind `bqcore advise`: its document, its words, its commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bqcore.datasets import clustered
from bqcore.diagnosis import diagnose
from bqcore.report import report_html
from bqcore.study import Places, Source, Study, array_source, read_source, study
from bqcore.study.coordinates import coordinates_of
from bqcore.study.engines import postgres
from bqcore.study.scale import Store, scales, size_text
from bqcore.study.source import Origin
from bqcore.study.words import findings

#: Quick to train; what codecs propose by themselves is the advisor's own test.
CODECS = [f"{name}(bits={bits}, rotation=hadamard)" for name in ("rabitq", "turbo") for bits in (1, 2, 4)]
DATA = clustered(1500, 24, n_queries=450, metric="cosine", random_state=3)


def numbers(value: Any) -> set[float]:
    """All numbers of a document."""
    if isinstance(value, dict):
        return set().union(*(numbers(one) for one in value.values()), set())
    if isinstance(value, list | tuple):
        return set().union(*(numbers(one) for one in value), set())
    return {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()


@pytest.fixture(scope="module")
def found() -> Study:
    source = Source(DATA.base, DATA.queries, "cosine", Origin("file", "data/x.npy", "data/x.npy"), 1500)
    return study(source, engines={"postgres": postgres}, codecs=CODECS, seconds=1e9)


def test_the_document_is_json_and_whole(found: Study) -> None:
    document = json.loads(json.dumps(found.document, allow_nan=False))
    assert document["data"]["rows"] == 1500
    assert document["data"]["queries_used"] == 225
    assert {
        "diagnosis",
        "findings",
        "options",
        "candidates",
        "verification",
        "coordinates",
        "scatter",
    } <= set(document)
    assert len(document["coordinates"]["variance"]) == 24
    assert document["skipped_budgets"] == [10]  # no codec is that small


def test_one_option_is_chosen_and_the_smallest_that_reaches_the_target(found: Study) -> None:
    options = found.document["options"]
    assert [one["codec"] for one in options if one["chosen"]] == [found.document["chosen"]]
    leaders = [one for one in options if one["place"] == 0]
    reaching = [one["budget"] for one in leaders if one["recall_rescored"] >= 0.95]
    assert found.chosen["budget"] == min(reaching)
    sizes = [one["bytes_per_vector"] for one in options]
    assert sizes == sorted(sizes)


def test_the_frontier_rises(found: Study) -> None:
    recalls = [one["recall"] for one in found.document["options"] if one["frontier"]]
    assert recalls == sorted(recalls)
    assert max(one["recall"] for one in found.document["options"]) == recalls[-1]


def test_prediction_agrees_with_unseen_queries(found: Study) -> None:
    rows = found.document["verification"]["rows"]
    assert len(rows) >= 3
    for row in rows:
        # two independent means of 225 queries, and another training
        assert abs(row["predicted"] - row["measured"]) < 0.01 + 4 * row["standard_error"]
        assert abs(row["predicted_rescored"] - row["measured_rescored"]) < 0.02


def test_more_candidates_never_lose(found: Study) -> None:
    for option in found.document["options"]:
        curve = [point["recall"] for point in found.document["candidates"][option["codec"]]]
        assert curve == sorted(curve)
        assert curve[-1] > 0.99


def test_a_budget_takes_the_place_of_the_target() -> None:
    within = study(
        array_source(DATA.base, None, "cosine"), bytes_per_vector=14, engines={}, codecs=CODECS, seconds=0
    )
    assert within.chosen["bytes_per_vector"] <= 14
    assert within.chosen["budget"] == 14
    assert within.document["skipped_budgets"] == [11, 10, 20]
    assert within.document["data"]["queries_are"] == "rows, each without itself"
    with pytest.raises(
        ValueError, match=r"expected one of target_recall and bytes_per_vector, not 0\.9 and 14"
    ):
        study(array_source(DATA.base, None, "l2"), bytes_per_vector=14, target_recall=0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: expected at least 1, not 0"),
        ({"k": 1 << 63}, "expected at least 9,223,372,036,854,775,809 rows"),
        ({"bytes_per_vector": 1 << 70}, "bytes: expected 1 to 1048576, not 1180591620717411303424"),
        ({"target_recall": 1.5}, r"target_recall: expected a number in \(0, 1\], not 1.5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(array_source(DATA.base, None, "l2"), engines={}, **arguments)


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("constant", "l2"),
        ("constant", "cosine"),
        ("one dimension", "ip"),
        ("duplicates", "cosine"),
        ("tiny", "l2"),
    ],
)
def test_odd_data_gives_a_document_and_a_report(kind: str, metric: str) -> None:
    pytest.importorskip("matplotlib", reason="reports need bqcore[plot]")
    rng = np.random.default_rng(0)
    X = {
        "constant": np.ones((150, 8)),
        "one dimension": rng.normal(size=(150, 1)),
        "duplicates": np.repeat(rng.normal(size=(15, 6)), 10, axis=0),
        "tiny": 1e-20 * rng.normal(size=(150, 6)),
    }[kind].astype(np.float32)
    odd = study(array_source(X, None, metric), engines={"postgres": postgres}, codecs=CODECS[:1], seconds=0)
    json.dumps(odd.document, allow_nan=False)
    assert "</html>" in report_html(odd.document)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 100 rows to predict recall@10 from, not 99"):
        study(array_source(DATA.base[:99], None, "l2"))


def test_worst_queries_carry_their_own_numbers(found: Study) -> None:
    worst = found.document["queries"]["worst"]
    # every other query was kept for the second measurement
    assert all(one["query"] % 2 == 0 and one["query"] < 450 for one in worst)
    shares = [one["recall_rescored"] for one in worst]
    assert shares == sorted(shares)


def test_the_scatter_with_a_bound_holds_its_promise(found: Study) -> None:
    data = found.document.get("scatter_with_bound") or found.document["scatter"]
    assert data["eps0"] == 1.9
    assert 0.88 < data["within_bound"] <= 1  # 94.3 % of pairs, 1,000 of them
    assert len(data["exact"]) == len(data["estimate"]) == len(data["bound"]) == 1000


def test_sql_for_a_table_in_use_creates_no_table() -> None:
    source = Source(DATA.base, None, "ip", Origin("postgres", "public.docs.vec"), 1500)
    part = study(
        source,
        engines={"postgres": postgres},
        places=Places(table="public.docs", column="vec"),
        codecs=CODECS,
        seconds=0,
    ).document["postgres"]
    (step,) = part["steps"]
    assert "CREATE TABLE" not in step["text"]
    name = f"docs_vec_bqhnsw{part['chosen']['bits']}"
    assert f"CREATE INDEX CONCURRENTLY {name} ON public.docs USING bqhnsw (vec vector_ip_ops)" in step["text"]
    assert f"SELECT bqcore_recall('public.{name}');" in step["text"]


def test_findings_say_what_is_wrong() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 16)).astype(np.float32) + 3
    X[:, 4] = 0.0
    X[:, 7] = 3 + np.where(rng.random(2000) < 0.5, 2, -2) + 0.1 * rng.normal(size=2000)
    X[100:300] = X[0]
    X[500:503] = 0
    coordinates = coordinates_of(X, "l2")
    assert coordinates.dead.tolist() == [4]
    assert coordinates.bimodal.tolist() == [7]
    by_topic = {one.topic: one for one in findings(diagnose(X), coordinates, (2, 1))}
    assert by_topic["common mean"].level == "warning"
    assert by_topic["common mean"].text.startswith("Centre")
    assert by_topic["dead coordinates"].value == "1 of 16"
    assert by_topic["bimodal coordinates"].value == "1 of 16"
    assert "coordinates 7" in by_topic["bimodal coordinates"].text
    assert by_topic["duplicates"].value.startswith("about 202 ")
    assert by_topic["zero vectors"].value == "3"
    assert by_topic["invalid rows"].value == "2 rows, 1 queries"


def test_bytes_and_cost_at_scale() -> None:
    (small, _, large) = scales([Store("x", 50, 1000)])
    assert (small.rows, small.ram_bytes, small.disk_bytes) == (10**6, 50 * 10**6, 10**9)
    assert small.cost == pytest.approx(0.05 * 3 + 1 * 0.1)
    assert large.ram_bytes == 50 * 10**9
    assert [size_text(n) for n in (999, 1e3, 2.5e7, 5e10, 3.21e12)] == [
        "999 B",
        "1 kB",
        "25 MB",
        "50 GB",
        "3.21 TB",
    ]
    with pytest.raises(ValueError, match="ram_price: expected a price of at least 0, not -1"):
        scales([Store("x", 1, 1)], ram_price=-1)


def test_names_become_identifiers() -> None:
    for name, expected in (("data/A minilm.npy", "a_minilm"), ("9.npy", "items_9"), ("x/ü.npy", "items")):
        assert Origin("file", name).identifier == expected


def test_frames_and_notebooks(found: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "<table>" in found._repr_html_()
    assert found.chosen["codec"] in repr(found)
    with pytest.raises(ValueError, match="library: expected one of pandas, polars, not 'arrow'"):
        found.to_frame("arrow")
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match="a data frame needs pandas or polars"):
        found.to_frame()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_options_become_a_data_frame(found: Study, library: str) -> None:
    module = pytest.importorskip(library, reason="to_frame is for where it is installed")
    frame = found.to_frame(library)
    assert isinstance(frame, module.DataFrame)
    assert list(frame["codec"]) == [one["codec"] for one in found.document["options"]]


def test_files_become_sources(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", DATA.base)
    source = read_source(tmp_path / "x.npy", metric="cosine", max_rows=200)
    assert source.n_source == 1500
    assert source.base.shape == (200, 24)
    assert source.queries is None
    assert source.origin.vectors_path == str(tmp_path / "x.npy")
