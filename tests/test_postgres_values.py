"""The type `bqcode` in Python, without a server."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from bqcore import RaBitQ
from bqcore.datasets import clustered
from bqcore_postgres.values import Code, encode_rows

X = clustered(20, 37, random_state=1).base


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_codes_survive_binary_and_text(bits: int, metric: str) -> None:
    model = RaBitQ(bits, metric).fit(X)
    packed, factors = model.encode(X).packed, model.encode(X).factors
    for i, code in enumerate(encode_rows(model, X)):
        assert Code.from_binary(code.to_binary()) == Code.from_text(code.to_text()) == code
        assert (code.dim, code.bits, code.metric, code.model_id) == (37, bits, metric, model.model_id)
        assert code.packed == packed[i].tobytes()
        assert np.float32(code.f_rescale) == factors["f_rescale"][i]


def test_layout_is_that_of_the_server() -> None:
    model = RaBitQ(4, "cosine").fit(X)
    code = next(encode_rows(model, X[:1]))
    assert code.to_binary()[:4] == struct.pack("<HBB", 37, 0xC1, 4 | 2 << 4)
    assert code.to_binary()[4:12].hex() == model.model_id
    assert len(code.to_binary()) == 20 + 19


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda b: b[:19], "expected 20 bytes or more of a bqcode, not 19"),
        (lambda b: b[:-1], "expected 39 bytes of a bqcode of 37 dimensions, not 38"),
        (lambda b: b[:2] + b"\xd1" + b[3:], "expected the tag 0xc1 of a bqcode, not 0xd1"),
        (lambda b: b[:3] + b"\x03" + b[4:], "not 3 and 0"),
        (lambda b: b[:3] + b"\x34" + b[4:], "not 4 and 3"),
    ],
)
def test_foreign_bytes_are_refused(change: object, text: str) -> None:
    whole = next(encode_rows(RaBitQ(4, "cosine").fit(X), X[:1])).to_binary()
    with pytest.raises(ValueError, match=text):
        Code.from_binary(change(whole))  # type: ignore[operator]


def test_models_that_the_server_cannot_read_are_refused() -> None:
    with pytest.raises(ValueError, match="not 3 bits"):
        next(encode_rows(RaBitQ(3).fit(X), X))
    with pytest.raises(ValueError, match="hexadecimal digits, not 'ff'"):
        Code.from_text("ff")
