from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_client", reason="needs pip install 'bqcore[qdrant]'")

from qdrant_client import models

from bqcore_qdrant import Config, QdrantCodec, Transform, Version, formula, requests
from bqcore_qdrant.identity import check_identity, identity
from bqcore_qdrant.stages import factors


@pytest.fixture(scope="module")
def data() -> Any:
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((20, 32))
    rows = centres[rng.integers(20, size=1600)] + 0.6 * rng.standard_normal((1600, 32)) + 1.0
    return rows[:1500].astype(np.float32), rows[1500:].astype(np.float32)


@pytest.fixture(scope="module")
def codec(data: Any) -> QdrantCodec:
    return QdrantCodec.fit(data[0], "cosine", target_recall=0.9, queries=data[1])


def test_every_option_meets_the_target_cheapest_first(codec: QdrantCodec) -> None:
    assert codec.options
    assert all(option.recall >= 0.9 for option in codec.options)
    prices = [option.price for option in codec.options]
    assert prices == sorted(prices)
    assert codec.option == codec.options[0]
    assert codec.config == codec.options[0].config
    assert all(option.recall >= option.raw_recall - 0.01 for option in codec.options)
    assert codec.reason


def test_fit_is_deterministic(codec: QdrantCodec, data: Any) -> None:
    again = QdrantCodec.fit(data[0], "cosine", target_recall=0.9, queries=data[1])
    assert again.header() == codec.header()
    assert again.hash == codec.hash


def test_a_budget_is_kept_and_best_recall_comes_first(data: Any) -> None:
    codec = QdrantCodec.fit(data[0], "l2", bytes_per_vector=20, server_version="1.15", queries=data[1])
    assert all(option.bytes_ram <= 20 for option in codec.options)
    recalls = [round(option.recall, 3) for option in codec.options]
    assert recalls == sorted(recalls, reverse=True)
    assert not any("turbo" in option.config.storage for option in codec.options)
    with pytest.raises(ValueError, match="bytes_per_vector: expected at least 16 for 32 dimensions, not 3"):
        QdrantCodec.fit(data[0][:300], "l2", bytes_per_vector=3, server_version="1.15", queries=data[1])


def test_a_codec_is_read_back_from_its_file(codec: QdrantCodec, data: Any, tmp_path: Path) -> None:
    file = tmp_path / "codec.npz"
    codec.save(file)
    read = QdrantCodec.load(file)
    assert read.header() == codec.header()
    np.testing.assert_array_equal(read.encode(data[0]), codec.encode(data[0]))
    assert read.option == codec.option
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a readable file of bqcore Qdrant codec"):
        QdrantCodec.load(file)
    np.savez(file, header=np.array('{"format": "other", "version": 1}'))
    with pytest.raises(ValueError, match="expected format 'bqcore qdrant codec', not 'other'"):
        QdrantCodec.load(file)
    with pytest.raises(FileNotFoundError):
        QdrantCodec.load(tmp_path / "none.npz")


def test_the_hash_is_of_what_is_stored(codec: QdrantCodec, data: Any) -> None:
    assert codec.with_search(oversampling=9, hnsw_ef=64).hash == codec.hash
    assert codec.with_search(oversampling=9).config.oversampling == 9
    other = QdrantCodec(Transform.fit(data[0][:-1], "cosine", "rotate"), codec.config)
    assert other.hash != codec.hash


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "expected one of bytes_per_vector and target_recall"),
        ({"target_recall": 0.9, "bytes_per_vector": 9}, ValueError, "expected one of"),
        ({"target_recall": 1.5}, ValueError, r"expected a number in \(0, 1\], not 1.5"),
        ({"target_recall": 0.9, "n_total": 3}, ValueError, "n_total: expected at least 1500, not 3"),
        ({"target_recall": 0.9, "k": 0}, ValueError, "k: expected 1 to 1499, not 0"),
        ({"target_recall": 0.9, "server_version": "1.9"}, ValueError, r"expected 1\.15 or later, not 1\.9"),
        ({"target_recall": 0.9, "queries": np.ones((2, 31))}, ValueError, "expected 32 dimensions, not 31"),
    ],
)
def test_wrong_arguments_are_errors(data: Any, arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        QdrantCodec.fit(data[0], "cosine", **arguments)


def test_bad_vectors_are_errors(data: Any, codec: QdrantCodec) -> None:
    bad = data[0].copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match="expected finite values, not nan at row 3, coordinate 2"):
        QdrantCodec.fit(bad, "l2", target_recall=0.9)
    with pytest.raises(ValueError, match="expected 32 dimensions, not 30"):
        codec.encode(data[0][:, :30])
    with pytest.raises(ValueError, match="row 0 is a zero vector"):
        codec.encode(np.zeros((1, 32)))
    with pytest.raises(ValueError, match="expected a direction under cosine, not a zero vector"):
        codec.encode_query(np.zeros(32))
    with pytest.raises(ValueError, match="all 4 are zero vectors"):
        QdrantCodec.fit(np.zeros((4, 8)), "cosine", target_recall=0.9)


def test_zero_rows_are_left_out_of_the_fit(data: Any) -> None:
    rows = np.concatenate([data[0][:400], np.zeros((5, 32), dtype=np.float32)])
    fitted = QdrantCodec.fit(rows, "cosine", target_recall=0.8, server_version="1.15").fitted
    assert fitted is not None
    assert (fitted.n_zero, fitted.n_sample) == (5, 400)


def test_a_configuration_beyond_the_server_is_refused(data: Any) -> None:
    transform = Transform.fit(data[0], "l2", "centre")
    with pytest.raises(ValueError, match=r"turbo8: expected a server of version 1\.20"):
        QdrantCodec(transform, Config.parse("turbo1+turbo8"), server_version=Version(1, 19))


# ---- what is sent ----


def test_search_parameters_are_the_codecs_unless_given(codec: QdrantCodec) -> None:
    ours = requests.search_params(codec, None)
    assert ours.hnsw_ef == codec.config.hnsw_ef
    assert ours.quantization.rescore is True
    assert ours.quantization.oversampling == codec.config.oversampling
    given = models.SearchParams(
        hnsw_ef=32, exact=True, quantization=models.QuantizationSearchParams(rescore=False)
    )
    found = requests.search_params(codec, given)
    assert (found.hnsw_ef, found.exact, found.quantization.rescore) == (32, True, False)
    assert found.quantization.oversampling == codec.config.oversampling


def test_placement_follows_the_server(data: Any) -> None:
    codec = QdrantCodec(Transform.fit(data[0], "l2", "centre"), Config.parse("turbo1+float32"))
    new = requests.vector_params(codec, Version(1, 19))
    assert (new.memory, new.on_disk) == (models.Memory.COLD, None)
    assert new.quantization_config.turbo.memory == models.Memory.PINNED
    old = requests.vector_params(codec, Version(1, 18))
    assert (old.memory, old.on_disk) == (None, True)
    assert old.quantization_config.turbo.always_ram is True


def test_queries_that_cannot_be_translated_are_errors(data: Any) -> None:
    codec = QdrantCodec(Transform.fit(data[0], "ip", "centre"), Config.parse("turbo1+float32"))
    recommend = models.RecommendQuery(recommend=models.RecommendInput(positive=[1]))
    with pytest.raises(ValueError, match="not RecommendQuery"):
        requests.encode_request(codec, "dense", models.QueryRequest(query=recommend, using="dense"))
    with pytest.raises(ValueError, match="not a point's id"):
        requests.encode_request(codec, "dense", models.QueryRequest(query=5, using="dense"))
    # Another vector's query is none of the codec's business.
    other = models.QueryRequest(query=recommend, using="small", score_threshold=0.5)
    assert requests.encode_request(codec, "dense", other) == (other, None)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_factors_complete_scores_to_the_metric(data: Any, metric: str) -> None:
    X, Q = data
    codec = QdrantCodec.with_factors(X, metric)
    stored = codec.encode(X)
    found = factors(codec.transform, X, stored)
    for query in Q[:5]:
        asked = codec.encode_query(query).astype(float)
        shift = float(codec.transform.query_shift(query[np.newaxis])[0])
        weight = float(codec.transform.query_weight(query[np.newaxis])[0])
        assert metric == "ip" or weight == 1
        exact = stored @ asked + weight * found[:, 1]
        got = [codec.transform.score(float(one), shift) for one in exact]
        wanted = X @ query
        if metric == "cosine":
            wanted = wanted / np.linalg.norm(X, axis=1) / np.linalg.norm(query)
        elif metric == "l2":
            wanted = np.linalg.norm(X - query, axis=1)
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(
            [codec.transform.threshold(one, shift) for one in got], exact, rtol=2e-3, atol=2e-2
        )
        estimate = np.sign(stored) @ asked * found[:, 0] + weight * found[:, 1]
        assert np.corrcoef(estimate, exact)[0, 1] > 0.85


def value(expression: Any, variables: dict[str, Any]) -> Any:
    """Compute a formula as the server does, of arrays."""
    if isinstance(expression, models.SumExpression):
        return sum(value(one, variables) for one in expression.sum)
    if isinstance(expression, models.MultExpression):
        return np.prod(
            [np.broadcast_to(value(one, variables), variables["$score"].shape) for one in expression.mult],
            axis=0,
        )
    return variables[expression] if isinstance(expression, str) else np.float64(expression)


@pytest.mark.parametrize("place", ["as it is", "across", "opposite", "zero"])
def test_under_ip_stages_with_factors_do_not_depend_on_the_length_of_a_query(data: Any, place: str) -> None:
    X, q = data[0], data[1][0].astype(np.float64)
    codec = QdrantCodec.with_factors(X, "ip")
    codec.typical_factors = None  # as of a codec that was saved before it knew them
    mean = codec.transform.mean.astype(np.float64)
    along = (q @ mean) / (mean @ mean) * mean
    query = {"as it is": q, "across": q - along, "opposite": q - 3 * along, "zero": 0 * q}[place]
    query = query.astype(np.float32)
    stored = codec.encode(X)
    rescale, add = factors(codec.transform, X, stored).T
    orders = []
    for scale in (1.0, 2.0**-20, 2.0**20):
        request = models.QueryRequest(query=(query * np.float32(scale)).tolist(), using="dense", limit=5)
        staged, shift = requests.encode_request(codec, "dense", request)
        exact = staged.prefetch[0]
        kept = exact.prefetch[0]
        asked = np.asarray(kept.prefetch[0].query, dtype=np.float64)
        largest = np.abs(asked).max()
        signs = np.sign(stored) @ (asked / largest) if largest else np.zeros(len(X))
        for stage, score in ((kept.query, signs), (staged.query, stored @ asked)):
            variables = {"$score": score, formula.F_RESCALE: rescale, formula.F_ADD: add}
            found = value(stage.formula, variables)
            if stage is staged.query:
                assert shift is not None
                exact_scores = X.astype(np.float64) @ (query * scale)
                np.testing.assert_allclose(
                    found + shift, exact_scores, atol=1e-5 * scale * max(np.abs(X @ query).max(), 1)
                )
            missing = {"$score": score[:1]} | {
                name: stage.defaults[name] for name in variables if name != "$score"
            }
            assert value(stage.formula, missing)[0] < found.min() - 1e3
            if place != "zero":
                orders.append(np.argsort(-found, kind="stable"))
    for i, order in enumerate(orders):
        np.testing.assert_array_equal(order, orders[i % 2])


def test_factors_come_with_a_predicted_recall(data: Any) -> None:
    X, Q = data
    codec = QdrantCodec.with_factors(X, "l2", target_recall=0.9, queries=Q, server_version="1.15")
    option = codec.option
    assert option is not None
    assert option.recall >= 0.9
    assert option.recall > option.recall_without_rescore
    less = QdrantCodec.with_factors(X, "l2", oversampling=1, queries=Q).option
    assert less is not None
    assert less.recall < option.recall
    noise = np.random.default_rng(0).standard_normal((3000, 64))
    with pytest.raises(ValueError, match=r"expected at most 0\.\d+ with factors here, not 0\.9999"):
        QdrantCodec.with_factors(noise, "l2", target_recall=0.9999)
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\], not 1.2"):
        QdrantCodec.with_factors(X, "l2", target_recall=1.2)
    fifth = X[::5]
    part = QdrantCodec.with_factors(fifth, "l2", oversampling=4, queries=Q, n_total=len(X)).option
    whole = QdrantCodec.with_factors(X, "l2", oversampling=4, queries=Q).option
    assert part is not None
    assert whole is not None
    assert part.recall == pytest.approx(whole.recall, abs=0.08)  # 300 rows stand for 1,500


def test_factors_are_taken_from_payloads_again() -> None:
    payload = {"a": 1, formula.F_ADD: 0.5, formula.F_RESCALE: 2.0}
    assert formula.without_factors(payload) == {"a": 1}
    assert formula.without_factors(None) is None


def test_stages_of_a_search_with_factors(data: Any) -> None:
    codec = QdrantCodec.with_factors(data[0], "cosine", oversampling=8)
    request = models.QueryRequest(query=data[1][0].tolist(), using="dense", limit=5, score_threshold=0.5)
    staged, _ = requests.encode_request(codec, "dense", request)
    assert isinstance(staged.query, models.FormulaQuery)
    exact = staged.prefetch[0]
    kept = exact.prefetch[0]
    codes = kept.prefetch[0]
    assert (exact.params.exact, kept.limit, codes.limit) == (True, 20, 40)
    assert codes.params.quantization.rescore is False
    assert staged.score_threshold == pytest.approx(0.5 - codec.transform.query_shift(data[1][:1])[0])
    with pytest.raises(ValueError, match="makes itself"):
        requests.encode_request(
            codec, "dense", request.model_copy(update={"prefetch": [models.Prefetch(limit=3)]})
        )


# ---- identity ----


def test_identities_are_checked(codec: QdrantCodec) -> None:
    mine = identity(codec, "dense")
    assert check_identity("c", mine, codec, "dense") == mine
    with pytest.raises(ValueError, match="expected version <= 1, not 2"):
        check_identity("c", {**mine, "version": 2}, codec, "dense")
    with pytest.raises(ValueError, match="expected vector 'other', not 'dense'"):
        check_identity("c", mine, codec, "other")
    with pytest.raises(ValueError, match=f"expected codec {codec.hash}, not abc"):
        check_identity("c", {**mine, "codec": "abc"}, codec, "dense")
