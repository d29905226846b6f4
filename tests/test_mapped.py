"""Mapped files of codes and of scan indexes: round trips, crashes, refusals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bqcore import RaBitQ, ScanIndex, _sections, append_mapped, open_mapped, save_mapped
from bqcore.pq import PQ
from bqcore.saq import SAQ


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((700, 40)).astype(np.float32)


CODECS = [
    RaBitQ(),
    RaBitQ(bits=3, centroids=4),
    SAQ(bits=1),
    PQ(code_bits=4, subspaces=10, rotation="none"),
]


@pytest.mark.parametrize("codec", CODECS)
def test_codes_survive_their_file_and_stay_mapped(tmp_path, vectors, codec):
    codes = codec.fit(vectors).encode(vectors)
    save_mapped(codes, tmp_path / "codes")
    found = open_mapped(tmp_path / "codes", verify=True)
    np.testing.assert_array_equal(found.packed, codes.packed)
    np.testing.assert_array_equal(found.factors, codes.factors)
    assert (found.dim, found.codec, found.model_id) == (codes.dim, codes.codec, codes.model_id)
    assert not found.packed.flags.writeable
    assert not found.packed.flags.owndata
    np.testing.assert_array_equal(codec.estimate(found, vectors[:3]), codec.estimate(codes, vectors[:3]))


@pytest.mark.parametrize("codec", CODECS)
def test_an_index_survives_its_file(tmp_path, vectors, codec):
    index = ScanIndex(codec.fit(vectors), codec.encode(vectors))
    index.save(tmp_path / "index")
    found = ScanIndex.open(tmp_path / "index", codec, verify=True)
    for eps0 in (2.0, np.inf):
        a, b = index.search(vectors[:9], 7, eps0=eps0), found.search(vectors[:9], 7, eps0=eps0)
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.distances, b.distances)
    with pytest.raises(ValueError, match="expected codes of model"):
        ScanIndex.open(tmp_path / "index", RaBitQ(random_state=9).fit(vectors))


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("spec", [{"bits": 2}, {"bits": 1, "centroids": 5}])
def test_indexes_of_layout_1_are_opened(tmp_path, monkeypatch, vectors, metric, spec):
    """Their bins have no largest f_add / scale; under ip with several lists f_add is the codec's own."""
    codec = RaBitQ(metric=metric, **spec).fit(vectors)
    codes = codec.encode(vectors)
    index = ScanIndex(codec, codes)
    write = _sections.write

    def write_layout_1(path, kind, meta, sections):
        del meta["layout"]
        bins = sections["factor_bins"][0]
        sections["factor_bins"] = [np.ascontiguousarray(bins[:3])]
        if codec.shifted:  # the old file's numbers must not be taken
            sections["kernel_factors"] = [np.zeros_like(sections["kernel_factors"][0])]
        write(path, kind, meta, sections)

    monkeypatch.setattr(_sections, "write", write_layout_1)
    index.save(tmp_path / "index")
    found = ScanIndex.open(tmp_path / "index", codec)
    if not codec.shifted:
        assert (found._laid_out["factor_bins"][3] >= index._laid_out["factor_bins"][3] * (1 - 1e-6)).all()
    for Q in (vectors[:20], -vectors[:20]):
        a, b = index.search(Q, 7, eps0=np.inf), found.search(Q, 7, eps0=np.inf)
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.distances, b.distances)


def test_appended_codes_follow_and_open_files_stay(tmp_path, vectors):
    codec = RaBitQ().fit(vectors)
    save_mapped(codec.encode(vectors[:300]), tmp_path / "codes")
    before = open_mapped(tmp_path / "codes")
    append_mapped(codec.encode(vectors[300:]), tmp_path / "codes")
    assert len(before) == 300
    np.testing.assert_array_equal(before.packed, codec.encode(vectors[:300]).packed)
    np.testing.assert_array_equal(open_mapped(tmp_path / "codes").packed, codec.encode(vectors).packed)
    other = RaBitQ(random_state=1).fit(vectors)
    with pytest.raises(ValueError, match=r"^codes: expected codes of model"):
        append_mapped(other.encode(vectors[:3]), tmp_path / "codes")
    with pytest.raises(ValueError, match=r"^codes: expected at least 1 part, not 0$"):
        save_mapped([], tmp_path / "codes")


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, vectors, monkeypatch, call):
    codec = RaBitQ().fit(vectors)
    path = tmp_path / "codes"
    save_mapped(codec.encode(vectors[:10]), path)
    old = path.read_bytes()

    def fail(*_args):
        raise OSError("no space left")

    if call == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    elif call == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr("bqcore._sections._chunks", fail)
    with pytest.raises(OSError, match="no space left"):
        append_mapped(codec.encode(vectors), path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert [one.name for one in tmp_path.iterdir()] == ["codes"]


def test_damage_is_refused(tmp_path, vectors):
    path = tmp_path / "codes"
    codec = RaBitQ().fit(vectors)
    save_mapped(codec.encode(vectors[:50]), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for length in {0, 1, 8, 23, 24, 64, len(whole) - 1, *rng.integers(0, len(whole), 30).tolist()}:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"^{path}: expected "):
            open_mapped(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match=f"expected {len(whole)} bytes, not {len(whole) + 1}"):
        open_mapped(path)
    for at in [*range(24), *rng.integers(24, len(whole), 60).tolist()]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        if at >= 20 and whole[at] == 0 and (at < 24 or at > 200):
            continue  # padding, which nothing reads
        with pytest.raises(ValueError, match=f"^{path}: "):
            open_mapped(path, verify=True)
    with pytest.raises(FileNotFoundError):
        open_mapped(tmp_path / "none")
    (tmp_path / "foreign").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match=r"expected a file starting b'BQSECT"):
        open_mapped(tmp_path / "foreign")
    ScanIndex(codec, codec.encode(vectors)).save(path)
    with pytest.raises(ValueError, match="expected a file of bqcore codes, not of bqcore scan index"):
        open_mapped(path)
