from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from bqcore.evaluation import exact_search

pytest.importorskip("qdrant_client", reason="needs pip install 'bqcore[qdrant]'")

from bqcore_qdrant.config import BITS, Config, storages, turbo_dim
from bqcore_qdrant.transform import KINDS, Transform
from bqcore_qdrant.versions import FEATURES, Version

METRICS = ("cosine", "l2", "ip")


@pytest.fixture(scope="module")
def rows() -> Any:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((600, 40)) + 1.5).astype(np.float32)


def native(distance: str, stored: Any, asked: Any) -> Any:
    """Scores as Qdrant returns them for one query."""
    if distance == "Dot":
        return stored @ asked
    if distance == "Cosine":
        return stored @ asked / np.linalg.norm(stored, axis=1) / np.linalg.norm(asked)
    return np.linalg.norm(stored - asked, axis=1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_order_and_scores_are_those_of_the_metric(rows: Any, metric: str, kind: Any) -> None:
    base, queries = rows[:500], rows[500:520]
    transform = Transform.fit(base, metric, kind)  # type: ignore[arg-type]
    truth, _ = exact_search(base, queries, 10, metric)
    shifts = transform.query_shift(queries)
    for query, asked, shift, near in zip(queries, transform.apply_query(queries), shifts, truth, strict=True):
        stored = native(transform.distance, transform.apply(base).astype(float), asked.astype(float))
        sign = 1 if transform.distance == "Euclid" else -1
        assert set(np.argsort(sign * stored)[:10]) == set(near)
        wanted = native({"cosine": "Cosine", "l2": "Euclid", "ip": "Dot"}[metric], base.astype(float), query)
        got = [transform.score(float(one), float(shift)) for one in stored]
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4)
        back = [transform.threshold(one, float(shift)) for one in got]
        np.testing.assert_allclose(back, stored, rtol=1e-3, atol=3e-3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_invert_gives_back_what_was_stored(rows: Any, metric: str, kind: Any) -> None:
    transform = Transform.fit(rows, metric, kind)  # type: ignore[arg-type]
    wanted = rows
    if metric == "cosine" and kind != "raw":
        wanted = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(transform.invert(transform.apply(rows)), wanted, atol=2e-5)


def test_uint8_keeps_whole_numbers_and_scales_the_rest(rows: Any) -> None:
    whole = np.random.default_rng(1).integers(0, 256, (50, 8)).astype(np.float32)
    raw = Transform.fit(whole, "l2", "raw")
    assert raw.for_uint8(whole) is raw
    scaled = Transform.fit(rows, "l2", "rotate").for_uint8(rows)
    assert scaled is not None
    stored = scaled.apply(rows)
    assert stored.min() >= 0
    assert stored.max() <= 255
    np.testing.assert_array_equal(stored, np.rint(stored))
    assert np.abs(scaled.invert(stored) - rows).mean() < 0.02
    assert Transform.fit(rows, "ip", "centre").for_uint8(rows) is None


def test_hash_tells_everything_that_is_stored_apart(rows: Any) -> None:
    hashes = {
        dataclasses.replace(Transform.fit(rows, metric, kind), random_state=seed).hash  # type: ignore[arg-type]
        for metric in METRICS
        for kind in KINDS
        for seed in (0, 1)
    }
    assert len(hashes) == len(METRICS) * len(KINDS) * 2
    transform = Transform.fit(rows, "l2", "rotate")
    fields = json.loads(json.dumps(transform.as_dict()))
    assert Transform.from_dict(fields, transform.mean).hash == transform.hash


def test_negative_distances_are_no_thresholds(rows: Any) -> None:
    with pytest.raises(ValueError, match="expected a distance >= 0 under l2, not -1"):
        Transform.fit(rows, "l2", "centre").threshold(-1)


# ---- configurations ----


@pytest.mark.parametrize(
    ("name", "distance", "dim", "ram", "disk"),
    [
        ("binary1/scalar4bits+float32", "Euclid", 384, 48, 1584),
        ("binary1/binary+float32", "Dot", 200, 32, 832),  # blocks of 128 bits
        ("binary1.5/binary+float32", "Dot", 384, 80, 1616),
        ("turbo1+turbo8", "Cosine", 384, 56, 56 + 388),
        ("turbo1+turbo8", "Euclid", 384, 60, 60 + 392),
        ("turbo2+float16", "Dot", 384, 104, 104 + 768),
        ("turbo4+float32", "Dot", 384, 200, 200 + 1536),
        ("none+turbo4", "Dot", 384, 196, 196),
        ("scalar8+uint8", "Euclid", 128, 132, 260),
        ("turbo8+float16", "Cosine", 300, 304, 904),
    ],
)
def test_bytes_are_those_of_the_server(name: str, distance: Any, dim: int, ram: int, disk: int) -> None:
    config = Config.parse(name)
    assert (config.bytes_ram(dim, distance), config.bytes_disk(dim, distance)) == (ram, disk)


def test_names_are_read_back() -> None:
    for config in storages(Version(1, 20), distance="Euclid", uint8=True):
        for over in (1.0, 2.5, 16.0):
            one = dataclasses.replace(config, oversampling=over)
            assert Config.parse(one.name) == one
    with pytest.raises(ValueError, match="expected a name such as"):
        Config.parse("turbo one")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantizer": "product"}, "expected one of none, binary"),
        ({"quantizer": "turbo", "bits": 3}, "expected one of 1, 1.5, 2, 4, 8 for turbo, not 3"),
        ({"quantizer": "binary", "bits": 1}, "query_encoding: expected one of"),
        ({"quantizer": "turbo", "bits": 1, "query_encoding": "binary"}, "expected None for turbo"),
        ({"quantizer": "none", "datatype": "int4"}, "datatype: expected one of"),
        ({"quantizer": "none", "oversampling": 0.5}, "oversampling: expected at least 1"),
    ],
)
def test_parts_that_do_not_go_together_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**arguments)


def test_servers_are_offered_what_they_have() -> None:
    def found(version: Version) -> set[str]:
        return {config.storage for config in storages(version, distance="Dot", uint8=False)}

    assert not any("turbo" in name for name in found(Version(1, 17)))
    assert "turbo2+float32" in found(Version(1, 18))
    assert not any("+turbo" in name for name in found(Version(1, 18)))
    assert "turbo1+turbo4" in found(Version(1, 19))
    assert "turbo1+turbo8" in found(Version(1, 20)) - found(Version(1, 19))
    on_uint8 = storages(Version(1, 20), distance="Euclid", uint8=True)
    assert {one.storage for one in on_uint8 if one.datatype == "uint8"} == {"none+uint8", "scalar8+uint8"}
    # scalar queries lose recall beyond one bit
    assert not any(name.startswith(("binary1.5/scalar", "binary2/scalar")) for name in found(Version(1, 20)))


def test_versions_are_read_and_compared() -> None:
    assert Version.parse("v1.18.2") == Version.parse("1.18") == Version(1, 18)
    assert str(Version.parse("1.20.1-dev")) == "1.20"
    with pytest.raises(ValueError, match=r"expected 1\.15 or later, not 1\.14\.3"):
        Version.parse("1.14.3")
    with pytest.raises(ValueError, match="expected a version such as"):
        Version.parse("latest")
    with pytest.raises(TypeError, match="expected a str"):
        Version.parse(1.18)  # type: ignore[arg-type]
    for feature, (major, minor) in FEATURES.items():
        assert Version(major, minor).has(feature)
    with pytest.raises(ValueError, match=r"turbo8: expected a server of version 1\.20 or later, not 1\.18"):
        Version(1, 18).check("float16", "turbo8")


def test_turbo_codes_fill_whole_bytes() -> None:
    for bits in BITS["turbo"]:
        for dim in (1, 7, 25, 200, 383):
            padded = turbo_dim(dim, bits)
            assert padded >= dim
            assert padded * (1 if bits == 1.5 else bits) % 8 == 0
