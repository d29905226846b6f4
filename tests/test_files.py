"""Files of models and of codes: round trips, and refusals that name the file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqcore import Codes, RaBitQ
from bqcore._kernels import ffi, lib

DIM = 24


def vectors(n=20):
    return np.random.default_rng(0).standard_normal((n, DIM)).astype(np.float32)


def seal(data):
    """Give a model file the checksum of its contents."""
    data = bytearray(data)
    data[12:16] = bytes(4)
    crc = lib.bqk_crc32c(ffi.from_buffer("uint8_t[]", data), len(data), 0)
    data[12:16] = crc.to_bytes(4, "little")
    return bytes(data)


@pytest.fixture
def model_bytes():
    return RaBitQ(metric="cosine", random_state=2**64 - 1).fit(vectors()).to_bytes()


@pytest.fixture
def codes():
    return RaBitQ(bits=4).fit(vectors()).encode(vectors())


def refuse_model(path, data, text):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {text}"):
        RaBitQ.load(path)


def refuse_codes(path, data, text="not a readable file of bqcore codes: "):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {text}"):
        Codes.load(path)


# ---- models ----


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_model_survives_its_file(tmp_path, bits, metric):
    quantizer = RaBitQ(bits=bits, metric=metric, rotation="none", random_state=2**64 - 1).fit(vectors())
    for path in (tmp_path / "model.bqm", str(tmp_path / "by name.bqm")):
        quantizer.save(path)
        loaded = RaBitQ.load(path)
        assert loaded.get_params() == quantizer.get_params()
        assert loaded.model_id == quantizer.model_id
        assert loaded.n_trained_ == 20
        assert loaded.centroid_.tobytes() == quantizer.centroid_.tobytes()
        assert loaded.encode(vectors()).packed.tobytes() == quantizer.encode(vectors()).packed.tobytes()


def test_missing_model_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.bqm"):
        RaBitQ.load(tmp_path / "nowhere.bqm")


def test_every_truncated_model_file_is_refused_with_its_name(tmp_path, model_bytes):
    for n in range(len(model_bytes)):
        text = (
            "expected a bqcore model, not"
            if n < 64
            else f"truncated model: expected {len(model_bytes)} bytes, not {n}"
        )
        refuse_model(tmp_path / "model.bqm", model_bytes[:n], text)


def test_foreign_files_are_not_models(tmp_path, codes):
    codes.save(tmp_path / "codes.npz")
    text = "not a readable file of bqcore model: expected format 'bqcore model', not 'bqcore codes'"
    refuse_model(tmp_path / "foreign", (tmp_path / "codes.npz").read_bytes(), text)
    for data in (b"%PDF-1.7" + bytes(100), bytes(200), b"text\n" * 50):
        text = re.escape(f"expected a bqcore model, not {len(data)} bytes starting {data[:8]!r}")
        refuse_model(tmp_path / "foreign", data, text)


def test_every_corrupted_byte_of_a_model_file_is_refused_with_its_name(tmp_path, model_bytes):
    for at in range(len(model_bytes)):
        data = bytearray(model_bytes)
        data[at] ^= 0x10
        text = "model checksum does not match its contents"
        if at < 12:  # magic, version and lengths are read before the checksum
            text += "|expected a bqcore model|truncated model|overlong model|not a bqcore model"
            text += "|model was written by a newer"
        refuse_model(tmp_path / "model.bqm", data, f"({text})")


def test_newer_model_file_is_refused_with_its_version(tmp_path, model_bytes):
    data = bytearray(model_bytes)
    data[4] = lib.BQK_MODEL_VERSION + 1
    text = rf"model was written by a newer version \(format version {data[4]}, {len(data)} bytes\)"
    refuse_model(tmp_path / "model.bqm", seal(data), text)


def test_model_file_with_a_critical_section_is_refused(tmp_path, model_bytes):
    data = bytearray(model_bytes)
    data[64] = 2
    refuse_model(tmp_path / "model.bqm", seal(data), "model was written by a newer version")


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
def test_no_bytes_but_a_model_are_read(data):
    for candidate in (data, b"BQMD" + data, seal(b"BQMD\x01\x00" + data + bytes(64))):
        with pytest.raises(ValueError, match="model"):
            RaBitQ.from_bytes(candidate)


# ---- codes ----


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("n", [0, 1, 20])
def test_codes_survive_their_file(tmp_path, bits, n):
    codes = RaBitQ(bits=bits).fit(vectors()).encode(vectors()[:n])
    for path in (tmp_path / "codes.npz", str(tmp_path / "without suffix")):
        codes.save(path)
        loaded = Codes.load(path)
        assert loaded.packed.tobytes() == codes.packed.tobytes()
        assert loaded.factors.tobytes() == codes.factors.tobytes()
        assert (loaded.dim, loaded.codec, loaded.model_id) == (DIM, "rabitq", codes.model_id)
        assert len(loaded) == n
    with np.load(path) as plain:  # what the documentation promises to readers without bqcore
        assert json.loads(str(plain["header"]))["format"] == "bqcore codes"
        assert plain["packed"].shape == (n, DIM * bits // 8)


def test_missing_codes_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        Codes.load(tmp_path / "nowhere.npz")


@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_every_truncated_codes_file_is_refused_with_its_name(tmp_path, codes):
    codes.save(tmp_path / "codes.npz")
    data = (tmp_path / "codes.npz").read_bytes()
    for n in range(0, len(data), 7):
        refuse_codes(tmp_path / "codes.npz", data[:n])
    refuse_codes(tmp_path / "codes.npz", data[:-1])


def test_foreign_files_are_not_codes(tmp_path, codes, model_bytes):
    np.save(tmp_path / "array.npy", codes.packed)
    np.savez(tmp_path / "arrays.npz", packed=codes.packed, factors=codes.factors)
    foreign = [(tmp_path / name).read_bytes() for name in ("array.npy", "arrays.npz")]
    for data in [*foreign, model_bytes, b"", b"PK", bytes(100), b"text\n" * 50]:
        refuse_codes(tmp_path / "foreign", data)


def write_codes(path, header, packed, factors):
    with path.open("wb") as file:
        np.savez(file, header=np.array(header), packed=packed, factors=factors)
    return path.read_bytes()


def test_codes_file_is_refused_for_its_header(tmp_path, codes):
    path = tmp_path / "codes.npz"
    old = {"format": "bqcore codes", "version": 1, "dim": DIM, "bits": 4, "model_id": codes.model_id}
    header = {**old, "version": 2, "code_nbytes": 12, "codec": "rabitq"}
    cases = [
        ({**header, "format": "other"}, "expected format 'bqcore codes', not 'other'"),
        ({**header, "version": 3}, "expected version <= 2, not 3"),
        ({**header, "code_nbytes": 13}, "packed: expected 13 bytes per code, not 12"),
        ({**old, "dim": 26}, "packed: expected 13 bytes per code, not 12"),
        ({**old, "bits": 1}, "packed: expected 3 bytes per code, not 12"),
        ({k: v for k, v in header.items() if k != "model_id"}, "'model_id'"),
        ([header], "'list' object"),
    ]
    for changed, text in cases:
        data = write_codes(path, json.dumps(changed), codes.packed, codes.factors)
        refuse_codes(path, data, f"not a readable file of bqcore codes: {text}")
    refuse_codes(path, write_codes(path, "{", codes.packed, codes.factors))
    for good in (json.dumps(header), json.dumps(old)):
        path.write_bytes(write_codes(path, good, codes.packed, codes.factors))
        assert len(Codes.load(path)) == 20
    refuse_codes(path, write_codes(path, good, codes.packed[:9], codes.factors))
    refuse_codes(path, write_codes(path, good, codes.packed, codes.factors["f_add"]))
    refuse_codes(path, write_codes(path, good, codes.packed.astype(object), codes.factors))


@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_corrupted_codes_file_is_refused_or_read_unchanged(tmp_path, codes):
    path = tmp_path / "codes.npz"
    codes.save(path)
    data = path.read_bytes()
    refused = 0
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x04
        path.write_bytes(damaged)
        try:
            loaded = Codes.load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            refused += 1
            continue
        # a time stamp, say
        assert loaded.packed.tobytes() == codes.packed.tobytes()
        assert loaded.factors.tobytes() == codes.factors.tobytes()
        assert (loaded.dim, loaded.codec, loaded.model_id) == (DIM, "rabitq", codes.model_id)
    assert refused > 0.7 * len(data)


def test_codes_file_marked_encrypted_or_of_a_newer_zip_is_refused(tmp_path, codes):
    path = tmp_path / "codes.npz"
    codes.save(path)
    data = path.read_bytes()
    entry = data.index(b"PK\x01\x02")
    for offset, value in [(8, 1), (6, 255), (10, 99)]:  # flag bit 0, version needed, compression method
        damaged = bytearray(data)
        damaged[entry + offset] = value
        refuse_codes(path, damaged)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to list open files")
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_refused_codes_file_is_closed(tmp_path, codes):
    path = tmp_path / "codes.npz"
    codes.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    still_open = None
    try:
        Codes.load(path)
    except ValueError:
        still_open = path.resolve() in {link.resolve() for link in Path("/proc/self/fd").iterdir()}
    assert still_open is False
