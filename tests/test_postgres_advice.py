"""What is predicted of a bqhnsw index: candidates, size, choice, SQL."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bqcore_postgres import advice, names, rule
from bqcore_postgres.advice import IndexOption
from bqcore_postgres.vectors import split_name


@dataclass
class Ranks:
    ranks: np.ndarray
    bytes_per_vector: int


def option(bits: int, ef: int, recall: float) -> IndexOption:
    return IndexOption(bits, ef, 10, recall, recall, 48 * bits + 8, 300 + 50 * bits)


def test_candidates_follow_the_rule_of_the_index() -> None:
    spread = np.arange(1, 1001, dtype=float).reshape(100, 10)
    # as many as the bounds need: .97, .985, .995 and .999 of the neighbours are among them
    assert [rule.rescored(bits, 200, 10, spread) for bits in (1, 2, 4, 8)] == [971, 986, 996, 1000]
    # at most ten times ef_search, at least ef_search / bits and k
    assert [rule.rescored(bits, 40, 10, spread) for bits in (1, 8)] == [400, 400]
    near = np.ones((100, 10))
    assert [rule.rescored(bits, 100, 10, near) for bits in (1, 2, 4, 8)] == [100, 50, 25, 12]
    assert rule.rescored(8, 40, 30, near) == 30
    # neighbours that were not ranked
    assert rule.rescored(1, 40, 10, np.full((3, 10), np.inf)) == 400


def test_recall_is_that_of_the_candidates_less_the_graph() -> None:
    ranks = np.array([[1.0, 5, 39], [2, 410, 1500]])
    found = {one.ef_search: one for one in advice.options(1, Ranks(ranks, 56), 3, 55_000)}
    assert found[40].codes_recall == pytest.approx(4 / 6, abs=1e-4)
    assert found[40].recall == pytest.approx(4 / 6 - 0.02, abs=1e-4)
    assert found[100].codes_recall == pytest.approx(5 / 6, abs=1e-4)
    assert found[200].codes_recall == 1
    # a small graph loses nothing, a large one more
    assert advice.options(1, Ranks(ranks, 56), 3, 1500)[-1].recall == 1.0
    assert 0 < advice.graph_loss(100, 10_000) < 0.008 < advice.graph_loss(100, 10**6) < 0.02


@pytest.mark.parametrize(
    ("bits", "code", "measured"), [(1, 56, 360), (2, 104, 411), (4, 200, 513), (8, 392, 716)]
)
def test_size_is_what_was_measured(bits: int, code: int, measured: int) -> None:
    # README: 19.8, 22.6, 28.2 and 39.4 MB for 55,000 rows of 384 dimensions
    (one, *_) = advice.options(bits, Ranks(np.ones((1, 10)), code), 10, 55_000)
    assert one.index_bytes == pytest.approx(measured, rel=0.01)


def test_more_bits_come_before_a_large_ef_search() -> None:
    found = [option(1, 100, 0.94), option(1, 200, 0.96), option(2, 40, 0.96), option(4, 40, 0.99)]
    assert advice.choose_option(found, target_recall=0.95) == found[2]
    assert advice.choose_option(found[:2], target_recall=0.95) == found[1]
    assert advice.choose_option(found, target_recall=0.999) == found[3]
    assert advice.choose_option(found, target_recall=0.999, bytes_per_vector=100) == found[1]
    # smaller than the smallest code: the smallest
    assert advice.choose_option(found, target_recall=0.5, bytes_per_vector=3) == found[0]


def test_sql_names_and_quotes() -> None:
    text = advice.index_sql(option(2, 100, 0.9), "l2", table='"My Docs"', column="vec", type_name="halfvec")
    assert (
        'CREATE INDEX "My Docs_vec_bqhnsw2" ON "My Docs" USING bqhnsw (vec halfvec_l2_ops) WITH (bits = 2);'
        in text
    )
    assert "SET hnsw.ef_search = 100;" in text
    assert "SELECT bqcore_recall('\"My Docs_vec_bqhnsw2\"');" in text
    assert len(names.index_name("x" * 80, "embedding", 1)) <= 63
    assert split_name('public."My.Docs".vec') == ('public."My.Docs"', "vec")
    for name in ("items", ".vec", "items."):
        with pytest.raises(ValueError, match=r"expected table\.column"):
            split_name(name)


def test_rows_of_a_table() -> None:
    assert advice.heap_bytes(384) == 384 * 4 + 8 + 48
    assert advice.heap_bytes(384, "halfvec") == 384 * 2 + 8 + 48
    assert advice.heap_bytes(1536) > 1536 * 4 * 1.03
