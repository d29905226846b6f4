"""The frontier search: points, choice, extrapolation, resumption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bqcore import make_codec, search
from bqcore.datasets import clustered
from bqcore.evaluation import exact_search, recall
from bqcore.study import array_source
from bqcore.tune import Tuning, tune
from bqcore.tune.frontier import choose, extrapolate, frontier
from bqcore.tune.measure import Point, Rows

DATA = clustered(4000, 16, n_queries=150, metric="l2", within=1.0, random_state=2)
SPECS = [
    "rabitq(bits=1)",
    "rabitq(bits=2)",
    "rabitq(bits=2, rotation=none)",
    "turbo(bits=2)",
    "rabitq(bits=4)",
]


def point(
    codec: str = "a", recall: float = 0.9, ram: int = 10, disk: int = 0, ms: float = 1.0, rows: int = 100
) -> Point:
    return Point(codec, "none", 1.0, rows, recall, 0.002, ram, disk, ms)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuning, Path]:
    state = tmp_path_factory.mktemp("tune") / "state.json"
    source = array_source(DATA.base, DATA.queries, "l2")
    return tune(source, codecs=SPECS, target_recall=0.9, total_rows=20_000, state=state, seconds=1e9), state


def test_points_are_what_a_search_gives() -> None:
    rows = Rows(DATA.base, DATA.queries, None, "l2", 10)
    points = {(one.tier, one.oversampling): one for one in rows.measure("rabitq(bits=1)", 0)}
    codec = make_codec("rabitq(bits=1)", metric="l2", random_state=0).fit(DATA.base)
    codes = codec.encode(DATA.base)
    truth, _ = exact_search(DATA.base, DATA.queries, 10, "l2")
    for tier, over, X in (("none", 1.0, None), ("float32", 4.0, DATA.base)):
        ids = search(codec, codes, DATA.queries, 10, X=X, oversampling=over).ids
        expected = recall(ids, truth, 10, X=DATA.base, Q=DATA.queries, metric="l2")
        assert points[tier, over].recall == pytest.approx(expected, abs=1e-4)
    assert points["none", 1.0].ram_bytes == codec.bytes_per_vector
    assert points["float32", 4.0].disk_bytes == 64
    # 8-bit codes lose a little against floats, and no more
    assert (
        points["float32", 10.0].recall - 0.05
        < points["int8", 10.0].recall
        <= points["float32", 10.0].recall + 0.005
    )


def test_rows_as_queries_do_not_find_themselves() -> None:
    own = np.arange(100)
    points = Rows(DATA.base, DATA.base[own], own, "l2", 10).measure("rabitq(bits=8)", 0)
    exact = [one for one in points if one.tier == "float32" and one.oversampling == 20]
    assert exact[0].recall == 1.0


def test_the_frontier_holds_what_nothing_beats() -> None:
    best, cheap, beaten, slow = (
        point("a"),
        point("b", 0.8, 5),
        point("c", 0.85, 11),
        point("d", 0.9, 10, ms=9),
    )
    assert frontier([best, cheap, beaten, slow]) == [cheap, best, slow] or frontier(
        [best, cheap, beaten, slow]
    ) == [cheap, best]
    assert beaten not in frontier([best, cheap, beaten, slow])


def test_the_least_memory_that_reaches_the_target_is_chosen() -> None:
    points = [point("a", 0.99, 40), point("b", 0.95, 20, 100), point("c", 0.96, 20, 50), point("d", 0.7, 5)]
    assert choose(points, target_recall=0.95, max_bytes=None) == (points[2], True)
    assert choose(points, target_recall=0.95, max_bytes=10) == (points[3], False)
    assert choose(points, target_recall=None, max_bytes=None) == (points[0], True)
    with pytest.raises(ValueError, match="max_bytes: expected at least 5, not 4"):
        choose(points, target_recall=None, max_bytes=4)


def test_a_straight_line_is_carried_on_and_a_bend_widens_it() -> None:
    sizes = (1000, 2000, 4000)
    line = [point(recall=0.99 - 0.02 * i, rows=n) for i, n in enumerate(sizes)]
    found = extrapolate(line, 16_000)
    assert found is not None
    assert found.recall == pytest.approx(0.91)
    assert found.missed == pytest.approx(0, abs=1e-9)
    assert found.sizes == sizes
    bent = extrapolate([*line[:2], replace(line[2], recall=0.92)], 16_000)
    assert bent is not None
    assert bent.missed == pytest.approx(0.03)
    assert bent.plus_minus == pytest.approx(0.06)  # twice as far as the miss was
    assert extrapolate(line[:2], 16_000) is None
    assert extrapolate(line, 80_001) is None  # more than 20 times the largest
    assert extrapolate([replace(one, recall=0.995) for one in line], 16_000) is None  # too near 1
    steep = extrapolate([replace(one, recall=one.recall - 0.3 * i) for i, one in enumerate(line)], 80_000)
    assert steep is not None
    assert steep.recall == 0.0  # not below it


def test_extrapolation_holds_on_rows_kept_back() -> None:
    whole = clustered(16_000, 32, n_queries=200, metric="l2", within=1.0, random_state=2)
    measured = []
    for n in (1000, 2000, 4000, 16_000):
        points = Rows(whole.base[:n], whole.queries, None, "l2", 10).measure("rabitq(bits=2)", 0)
        measured.append(next(one for one in points if one.tier == "none"))
    line = extrapolate(measured[:3], 16_000)
    assert line is not None
    assert abs(line.recall - measured[3].recall) <= line.plus_minus + 2 * measured[3].standard_error


def test_the_document_is_json_and_the_choice_reaches_the_target(found: tuple[Tuning, Path]) -> None:
    document = json.loads(json.dumps(found[0].document, allow_nan=False))
    best = document["chosen"]
    assert document["reaches_target"]
    assert best["recall"] >= 0.9
    assert best["at_total"]["rows"] == 20_000
    assert best["at_total"]["recall"] <= best["recall"]
    assert {one["rows"] for one in document["measured"]} == {1000, 2000, 4000}
    others = [one for one in document["measured"] if one["rows"] == 4000 and one["recall"] >= 0.9]
    assert best["ram_bytes"] == min(one["ram_bytes"] for one in others)
    assert "<table>" in found[0]._repr_html_()
    assert best["codec"] in repr(found[0])


def test_a_second_run_measures_nothing_again(
    found: tuple[Tuning, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Rows, spec: str, random_state: int) -> list[Point]:
        raise AssertionError(f"measured {spec} again")

    monkeypatch.setattr(Rows, "measure", fail)
    source = array_source(DATA.base, DATA.queries, "l2")
    again = tune(source, codecs=SPECS, target_recall=0.9, total_rows=20_000, state=found[1], seconds=1e9)
    assert again.document["resumed_steps"] > 10
    for name in ("chosen", "frontier", "measured"):
        assert again.document[name] == found[0].document[name]


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, state = array_source(DATA.base[:2000], None, "l2"), tmp_path / "s.json"
    measure, calls = Rows.measure, []

    def stop(self: Rows, spec: str, random_state: int) -> list[Point]:
        calls.append(spec)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, spec, random_state)

    monkeypatch.setattr(Rows, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(source, codecs=SPECS[:2], state=state, seconds=1e9)
    done = tune(source, codecs=SPECS[:2], state=state, seconds=1e9)
    assert done.document["resumed_steps"] == 2
    whole = tune(source, codecs=SPECS[:2], seconds=1e9)
    assert [one["recall"] for one in done.document["measured"]] == [
        one["recall"] for one in whole.document["measured"]
    ]


def test_a_state_of_other_data_or_another_file_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "s.json"
    source = array_source(DATA.base[:800], None, "l2")
    tune(source, codecs=SPECS[:1], state=state, seconds=0)
    with pytest.raises(ValueError, match="expected a state with k = 5, not 10"):
        tune(source, k=5, codecs=SPECS[:1], state=state)
    with pytest.raises(ValueError, match="expected a state with data = "):
        tune(array_source(DATA.base[:900], None, "l2"), codecs=SPECS[:1], state=state)
    state.write_text("[]")
    with pytest.raises(ValueError, match="expected a state that bqcore tune wrote"):
        tune(source, codecs=SPECS[:1], state=state)


def test_without_time_one_codec_is_measured_and_the_rest_is_named() -> None:
    found = tune(array_source(DATA.base[:800], None, "l2"), codecs=SPECS[:2], seconds=0).document
    assert found["data"]["rows_measured"] == 800
    assert len(found["not_measured"]) > 0
    assert found["chosen"]["at_total"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_recall": 0.0}, r"target_recall: expected a number in \(0, 1\], not 0"),
        ({"max_bytes": 0}, "max_bytes: expected 1 to 1048576, not 0"),
        ({"max_rows": 10}, "max_rows: expected at least 400, not 10"),
        ({"total_rows": 1 << 63}, "total_rows: expected 1 to"),
        ({"k": 1000, "max_rows": 4004}, "expected at least 4,001 rows"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tune(array_source(DATA.base, None, "l2"), **{"max_rows": 2400, **arguments})
