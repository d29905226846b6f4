"""The extension's type `bqcode` in Python. Layout: docs/code-format.md."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore import RaBitQ

#: dim, tag, bits | metric << 4, first bytes of the model's id, f_add, f_rescale; the packed code follows.
_HEAD = struct.Struct("<HBB8sff")
_TAG = 0xC1
_METRICS = ("l2", "ip", "cosine")


@dataclass(frozen=True)
class Code:
    """One code of the type `bqcode`, with all it needs to be compared.

    Parameters
    ----------
    dim, bits : int
    metric : {"l2", "ip", "cosine"}
    model_id : str
        `RaBitQ.model_id` of the model that made it.
    f_add, f_rescale : float
        Corrective factors, float32.
    packed : bytes
        ceil(dim * bits / 8) of them.
    """

    dim: int
    bits: int
    metric: str
    model_id: str
    f_add: float
    f_rescale: float
    packed: bytes

    def to_binary(self) -> bytes:
        """Return what the type's binary format carries."""
        kind = self.bits | _METRICS.index(self.metric) << 4
        model = bytes.fromhex(self.model_id)
        return _HEAD.pack(self.dim, _TAG, kind, model, self.f_add, self.f_rescale) + self.packed

    def to_text(self) -> str:
        """Return the type's text form."""
        return "\\x" + self.to_binary().hex()

    @classmethod
    def from_binary(cls, data: bytes | bytearray | memoryview) -> Code:
        """Read the binary format.

        Raises
        ------
        ValueError
            If the bytes are no code.
        """
        data = bytes(data)
        if len(data) < _HEAD.size:
            raise ValueError(f"expected {_HEAD.size} bytes or more of a bqcode, not {len(data)}")
        dim, tag, kind, model, f_add, f_rescale = _HEAD.unpack_from(data)
        bits, metric = kind & 15, kind >> 4
        if tag != _TAG:
            raise ValueError(f"expected the tag {_TAG:#x} of a bqcode, not {tag:#x}")
        if bits not in (1, 2, 4, 8) or metric >= len(_METRICS):
            raise ValueError(
                f"expected 1, 2, 4 or 8 bits and metric 0 to 2 in a bqcode, not {bits} and {metric}"
            )
        expected = _HEAD.size + (dim * bits + 7) // 8
        if len(data) != expected:
            raise ValueError(f"expected {expected} bytes of a bqcode of {dim} dimensions, not {len(data)}")
        return cls(dim, bits, _METRICS[metric], model.hex(), f_add, f_rescale, data[_HEAD.size :])

    @classmethod
    def from_text(cls, text: str) -> Code:
        """Read the text form; errors as of `from_binary`."""
        if not text.startswith("\\x"):
            raise ValueError(f"expected \\x and hexadecimal digits, not {text[:20]!r}")
        return cls.from_binary(bytes.fromhex(text[2:]))


def encode_rows(model: RaBitQ, X: npt.ArrayLike) -> Iterator[Code]:
    """Encode rows for a column of type `bqcode`, as ``bq_encode`` does in the server.

    Parameters
    ----------
    model : RaBitQ
        Of 1, 2, 4 or 8 bits: one that `to_bytes` can write.
    X : array-like, shape (n, dim)

    Raises
    ------
    ValueError
        If the model or a row does not fit; the text names the row.
    """
    model.to_bytes()
    codes = model.encode(X)
    for packed, f_add, f_rescale in zip(
        codes.packed, codes.factors["f_add"], codes.factors["f_rescale"], strict=True
    ):
        yield Code(
            model.dim_,
            model.bits_,
            model.metric_,
            model.model_id,
            float(f_add),
            float(f_rescale),
            np.asarray(packed).tobytes(),
        )
