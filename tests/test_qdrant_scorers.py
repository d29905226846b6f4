from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bqcore.evaluation import exact_search

pytest.importorskip("qdrant_client", reason="needs pip install 'bqcore[qdrant]'")

from bqcore_qdrant.config import Config, turbo_dim
from bqcore_qdrant.dense import best_rows
from bqcore_qdrant.predict import Sample
from bqcore_qdrant.ranked import Ranked
from bqcore_qdrant.scorers import BinaryRows, Encoder, ScalarRows, bit_counts, bit_counts_by_byte
from bqcore_qdrant.transform import Transform
from bqcore_qdrant.turbo_rotation import server_rotation
from bqcore_qdrant.turbo_scorer import Coordinates, TurboRows


@pytest.fixture(scope="module")
def data() -> Any:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((30, 48))
    rows = centres[rng.integers(30, size=4100)] + 0.7 * rng.standard_normal((4100, 48)) + 0.8
    return rows[:4000].astype(np.float32), rows[4000:].astype(np.float32)


@pytest.mark.parametrize("dim", [8, 25, 48, 200, 384])
def test_server_rotation_is_orthogonal_and_mixes(dim: int) -> None:
    matrix = server_rotation(dim)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=2e-6)
    if dim >= 48:  # the energy of every axis goes to many coordinates
        assert np.abs(matrix).max() < 0.9


@pytest.mark.parametrize(("encoding", "bits"), [("scalar4bits", 4), ("scalar8bits", 8)])
def test_scalar_queries_score_as_counted_bits(data: Any, encoding: Any, bits: int) -> None:
    X, Q = data[0][:50], data[1][:5]
    rows = BinaryRows(X, Config("binary", 1, encoding))
    ranges = (1 << bits) - 1
    for query, scores in zip(Q, rows.scores(Q), strict=True):
        largest = np.abs(query).max()
        levels = np.floor((query + largest) / (2 * largest / ranges) + 0.5).astype(int)
        for x, score in zip(X, scores, strict=True):
            counted = sum(
                (1 << bit) * int((((levels >> bit) & 1) ^ (x > 0)).sum()) for bit in range(bits)
            )  # XOR of every bit plane of the query with the code
            assert score == pytest.approx(X.shape[1] - 2 * counted / ranges, abs=1e-3)


@pytest.mark.parametrize("bits", [1, 1.5, 2])
def test_binary_scores_are_hamming_distances(data: Any, bits: float) -> None:
    X = data[0][:200]
    rows = BinaryRows(X, Config("binary", bits, "binary"))
    own = rows.scores(X)
    width = X.shape[1] * bits
    assert own.max() == pytest.approx(width)
    np.testing.assert_array_equal(np.diag(own), width)
    np.testing.assert_array_equal(own % 2, width % 2)


def test_scalar_codes_are_fine_and_clipped(data: Any) -> None:
    X, Q = data
    rows = ScalarRows(X, euclid=True, random_state=0)
    exact = 2 * Q @ X.T - np.square(X).sum(axis=1)
    error = rows.scores(Q) - exact
    error -= error.mean(axis=1, keepdims=True)  # of the query, the same for all rows
    assert np.sqrt(np.square(error).mean()) < 0.03 * exact.std()


@pytest.mark.parametrize(("bits", "most"), [(1, 0.7), (1.5, 0.6), (2, 0.4), (4, 0.12), (8, 0.02)])
def test_turbo_codes_keep_norms_and_come_closer_with_bits(data: Any, bits: float, most: float) -> None:
    X = data[0]
    rows = TurboRows(Coordinates.of(X, turbo_dim(X.shape[1], bits)), bits, True, 0)._rows.rows
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.linalg.norm(X, axis=1), rtol=1e-4)
    rotated = np.pad(X, ((0, 0), (0, rows.shape[1] - X.shape[1]))) @ server_rotation(rows.shape[1])
    error = np.linalg.norm(rows - rotated, axis=1) / np.linalg.norm(X, axis=1)
    assert error.mean() < most


def test_turbo_storage_gives_back_vectors(data: Any) -> None:
    X = data[0][:500]
    for bits, most in ((4, 0.12), (8, 0.02)):
        back = Coordinates.of(X, X.shape[1]).stored(bits)
        assert (np.linalg.norm(back - X, axis=1) / np.linalg.norm(X, axis=1)).mean() < most
    encoder = Encoder(X, "Euclid", 0)
    np.testing.assert_array_equal(encoder.stored("float32").rows, X)
    np.testing.assert_array_equal(encoder.stored("turbo4").rows, Coordinates.of(X, X.shape[1]).stored(4))
    assert 0 < np.abs(encoder.stored("float16").rows - X).max() < 1e-2


def test_a_dead_coordinate_and_a_zero_row_do_not_break_codes(data: Any) -> None:
    X = data[0][:300].copy()
    X[:, 5] = 0
    X[7] = 0
    for name in ("binary2/binary+float32", "turbo1+float32", "turbo4+float32", "scalar8+float32"):
        scores = Encoder(X, "Euclid", 0).coded(Config.parse(name), "float32").scores(data[1])
        assert np.isfinite(scores).all()


def test_the_best_rows_are_those_of_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    smooth = rng.standard_normal((20, 5000)).astype(np.float32)
    # Whole numbers tie; a sorted row has its best where the stride cannot see them; and few rows.
    for scores in (smooth, np.rint(smooth * 3), np.sort(smooth, axis=1), smooth[:, :40]):
        for depth in (1, 10, 40, min(700, scores.shape[1])):
            wanted = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
            np.testing.assert_array_equal(best_rows(scores, depth), wanted)
    spike = np.zeros((1, 5000), dtype=np.float32)
    spike[0, ::16] = 1  # every score that is looked at is larger than the others
    np.testing.assert_array_equal(best_rows(spike, 400)[0, 313:], np.flatnonzero(spike[0] == 0)[:87])


def test_bits_are_counted_alike_with_and_without_numpy_2() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 63, 1000, dtype=np.uint64)
    words[0], words[1] = 0, np.uint64((1 << 64) - 1)
    np.testing.assert_array_equal(bit_counts(words), bit_counts_by_byte(words))
    assert list(bit_counts_by_byte(words)[:2]) == [0, 64]


# ---- prediction ----


def test_exact_storage_predicts_full_recall_with_and_without_own_queries(data: Any) -> None:
    X, Q = data
    for queries in (Q, None):
        sample = Sample(X, queries, "l2", 10, len(X), 0)
        found = sample.predict(Transform.fit(X, "l2", "raw"), [Config("none")], [1.0])[0]
        assert found.recall == {1.0: 1.0}


def test_prediction_is_what_scoring_by_hand_gives(data: Any) -> None:
    X, Q = data
    transform = Transform.fit(X, "l2", "rotate")
    config = Config.parse("binary1/scalar8bits+float32")
    found = Sample(X, Q, "l2", 10, len(X), 0).predict(transform, [config], [1.0, 4.0])[0]
    truth, _ = exact_search(X, Q, 10, "l2")
    scores = BinaryRows(transform.apply(X), config).scores(transform.apply_query(Q))
    order = np.argsort(-scores, axis=1, kind="stable")
    alone = np.mean([len(set(a[:10]) & set(b)) / 10 for a, b in zip(order, truth, strict=True)])
    four = np.mean([len(set(a[:40]) & set(b)) / 10 for a, b in zip(order, truth, strict=True)])
    assert found.recall_without_rescore == pytest.approx(alone, abs=0.005)
    assert found.recall[4.0] == pytest.approx(four, abs=0.005)


@pytest.mark.parametrize("datatype", ["float16", "turbo8", "turbo4"])
def test_vectors_without_codes_are_predicted_from_what_is_stored(data: Any, datatype: Any) -> None:
    X, Q = data
    # So close together that float16 cannot tell neighbours apart.
    close = np.float32(100) + X * np.float32(0.02) if datatype == "float16" else X
    asked = np.float32(100) + Q * np.float32(0.02) if datatype == "float16" else Q
    transform = Transform.fit(close, "l2", "raw")
    config = Config("none", datatype=datatype)
    found = Sample(close, asked, "l2", 10, len(X), 0).predict(transform, [config], [1.0, 2.0])[0]
    truth, _ = exact_search(close, asked, 10, "l2")
    stored = Encoder(close, "Euclid", 0).stored(datatype).rows.astype(np.float64)
    squares = np.square(stored[np.newaxis] - asked[:20, np.newaxis]).sum(axis=2)
    order = np.argsort(squares, axis=1, kind="stable")[:, :10]
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(order, truth, strict=False)])
    few = Sample(close, asked[:20], "l2", 10, len(X), 0).predict(transform, [config], [1.0])[0]
    assert few.recall[1.0] == pytest.approx(by_hand, abs=0.03)
    assert found.recall[1.0] == found.recall[2.0] == found.recall_without_rescore < 1


def test_ranked_candidates_give_the_recall_of_every_depth_and_group() -> None:
    rng = np.random.default_rng(2)
    n, m, n_groups = 30, 60, 4
    exact, distances = rng.standard_normal((2, n, m))
    groups = rng.integers(n_groups, size=(n, m))
    for labels, count in ((groups, n_groups), (np.zeros_like(groups), 1)):
        kth = np.full((n, count), 0.5)
        ranked = Ranked(exact, distances, labels, count)
        for k, depth in ((1, 1), (3, 7), (5, 60), (2, 100)):
            hits = 0
            for query in range(n):
                for group in range(count):
                    inside = np.flatnonzero(labels[query] == group)[:depth]
                    best = inside[np.argsort(-exact[query, inside])][:k]
                    hits += int((distances[query, best] <= 0.5).sum())
            assert ranked.recall(ranked.near(kth), k, depth) == pytest.approx(hits / (n * count * k))


def test_a_fifth_of_the_rows_predicts_the_whole(data: Any) -> None:
    X, Q = data
    fifth = X[np.sort(np.random.default_rng(0).choice(len(X), len(X) // 5, replace=False))]
    for name in ("binary1/scalar8bits+float32", "turbo1+float32", "none+turbo4"):
        config = Config.parse(name)
        found = [
            Sample(rows, Q, "l2", 10, len(X), 0).predict(
                Transform.fit(rows, "l2", "rotate"), [config], [4.0]
            )[0]
            for rows in (X, fifth)
        ]
        assert found[1].recall[4.0] == pytest.approx(found[0].recall[4.0], abs=0.06)  # 100 queries


def test_a_samples_prediction_does_not_depend_on_what_else_is_asked(data: Any) -> None:
    X, Q = data
    sample = Sample(X[:1000], Q, "l2", 10, 4000, 0)
    transform = Transform.fit(X, "l2", "raw")
    for name in ("none+turbo4", "turbo1+float32"):
        one, several = (
            sample.predict(transform, [Config.parse(name)], asked)[0].recall[1.0]
            for asked in ([1.0], [1.0, 4.0, 16.0])
        )
        assert one == pytest.approx(several, abs=0.01)
        assert one < 1
