"""Configurations of a collection: quantization, primary storage, rescoring; and their bytes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, cast

from bqcore_qdrant.transform import Distance
from bqcore_qdrant.versions import Version

Quantizer = Literal["none", "binary", "turbo", "scalar"]
QueryEncoding = Literal["binary", "scalar4bits", "scalar8bits"]
Datatype = Literal["float32", "float16", "uint8", "turbo4", "turbo8", "turbo16"]

QUANTIZERS: tuple[Quantizer, ...] = ("none", "binary", "turbo", "scalar")
BITS: dict[Quantizer, tuple[float, ...]] = {
    "none": (32,),
    "binary": (1, 1.5, 2),
    "turbo": (1, 1.5, 2, 4, 8),
    "scalar": (8,),
}
QUERY_ENCODINGS: tuple[QueryEncoding, ...] = ("binary", "scalar4bits", "scalar8bits")
DATATYPES: tuple[Datatype, ...] = ("float32", "float16", "uint8", "turbo4", "turbo8", "turbo16")
#: Candidates per result that recall is predicted for; beyond 16 the reads from primary storage dominate.
OVERSAMPLING = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
#: Candidates of the graph's search. At Qdrant's default of 100 the graph itself loses .01 recall and more.
DEFAULT_EF = 256
#: Bytes that a code's block of 128 bits is rounded up to.
_BLOCK = 16
_NAME = re.compile(
    r"(?P<quantizer>[a-z]+?)(?P<bits>[\d.]+)?(?:/(?P<query>\w+))?\+(?P<datatype>\w+)(?: x(?P<over>[\d.]+))?$"
)


@dataclass(frozen=True)
class Config:
    """One way to set up a collection and to search it.

    Parameters
    ----------
    quantizer : {"none", "binary", "turbo", "scalar"}
    bits : float
        Bits per dimension of codes: binary 1, 1.5, 2; turbo 1, 1.5, 2, 4, 8; scalar 8; none 32.
    query_encoding : {"binary", "scalar4bits", "scalar8bits"}, optional
        Of binary quantization.
    datatype : {"float32", "float16", "uint8", "turbo4", "turbo8", "turbo16"}
        Primary storage, which candidates are rescored from. Where it is turbo, no floats are kept.
    oversampling : float
        Candidates that are rescored, per result.
    rescore : bool
        False only for measurements: points that are not yet optimized are scored with another bias, so that
        fresh and old ones do not compare.
    hnsw_ef : int

    Raises
    ------
    ValueError
        If the parts do not go together.
    """

    quantizer: Quantizer
    bits: float = 32
    query_encoding: QueryEncoding | None = None
    datatype: Datatype = "float32"
    oversampling: float = 1.0
    rescore: bool = True
    hnsw_ef: int = DEFAULT_EF

    def __post_init__(self) -> None:
        if self.quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer: expected one of {', '.join(QUANTIZERS)}, not {self.quantizer!r}")
        if self.bits not in BITS[self.quantizer]:
            choices = ", ".join(f"{bits:g}" for bits in BITS[self.quantizer])
            raise ValueError(f"bits: expected one of {choices} for {self.quantizer}, not {self.bits:g}")
        if self.datatype not in DATATYPES:
            raise ValueError(f"datatype: expected one of {', '.join(DATATYPES)}, not {self.datatype!r}")
        if self.quantizer == "binary" and self.query_encoding not in QUERY_ENCODINGS:
            raise ValueError(
                f"query_encoding: expected one of {', '.join(QUERY_ENCODINGS)}, not {self.query_encoding!r}"
            )
        if self.quantizer != "binary" and self.query_encoding is not None:
            raise ValueError(
                f"query_encoding: expected None for {self.quantizer}, not {self.query_encoding!r}"
            )
        if not self.oversampling >= 1:
            raise ValueError(f"oversampling: expected at least 1, not {self.oversampling}")

    @property
    def storage(self) -> str:
        """Name of what is stored, e.g. ``binary1/scalar4bits+float16``."""
        bits = "" if self.quantizer == "none" else f"{self.bits:g}"
        query = f"/{self.query_encoding}" if self.query_encoding else ""
        return f"{self.quantizer}{bits}{query}+{self.datatype}"

    @property
    def name(self) -> str:
        """`storage` and the oversampling, e.g. ``turbo1+turbo8 x4``."""
        return f"{self.storage} x{self.oversampling:g}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read what `name` or `storage` wrote.

        Raises
        ------
        ValueError
            If it is not such a name.
        """
        found = _NAME.match(name)
        if found is None:
            raise ValueError(f"configuration: expected a name such as 'turbo1+turbo8 x4', not {name!r}")
        return cls(
            quantizer=cast(Quantizer, found["quantizer"]),
            bits=float(found["bits"] or 32),
            query_encoding=cast(QueryEncoding | None, found["query"]),
            datatype=cast(Datatype, found["datatype"]),
            oversampling=float(found["over"] or 1),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for files and JSON."""
        return asdict(self)

    @property
    def needs(self) -> tuple[str, ...]:
        """Features of the server that this needs, as `versions.FEATURES` names them."""
        found: list[str] = []
        if self.quantizer == "binary":
            found.append("binary encodings")
        if self.quantizer == "turbo":
            found.append("turbo 8 bits" if self.bits == 8 else "turbo quantization")
        if self.datatype != "float32":
            found.append(self.datatype)
        return tuple(found)

    def code_bytes(self, dim: int, distance: Distance) -> int:
        """Bytes of one code, with what is stored beside it; 0 without quantization."""
        if self.quantizer == "none":
            return 0
        if self.quantizer == "scalar":
            return -(-dim // 16) * 16 + 4
        if self.quantizer == "binary":
            return -(-int(-(-dim * self.bits // 1)) // (8 * _BLOCK)) * _BLOCK
        # A factor, the norm under Euclid, and what shift and scale add, which codes of 8 bits do without.
        extras = 4 + 4 * (distance == "Euclid") + 4 * (self.bits < 8)
        return int(turbo_dim(dim, self.bits) * (1 if self.bits < 2 else self.bits)) // 8 + extras

    def primary_bytes(self, dim: int, distance: Distance) -> int:
        """Bytes of one vector in primary storage."""
        widths = {"float32": 4 * dim, "float16": 2 * dim, "uint8": dim}
        if self.datatype in widths:
            return widths[self.datatype]
        bits = int(self.datatype.removeprefix("turbo"))
        return turbo_dim(dim, bits) * bits // 8 + (8 if distance == "Euclid" else 4)

    def bytes_ram(self, dim: int, distance: Distance) -> int:
        """Bytes per vector held in memory: the code, or the vector where there is none. Graph not counted."""
        return self.code_bytes(dim, distance) or self.primary_bytes(dim, distance)

    def bytes_disk(self, dim: int, distance: Distance) -> int:
        """Bytes per vector on disk, where everything is: primary storage and the code. Graph not counted."""
        return self.code_bytes(dim, distance) + self.primary_bytes(dim, distance)


def turbo_dim(dim: int, bits: float) -> int:
    """Dimensions that turbo codes have: whole bytes, and half as many again at 1.5 bits."""
    if bits == 1.5:
        return -(-(dim * 3 // 2) // 8) * 8
    per_byte = max(1, int(8 // bits))
    return -(-dim // per_byte) * per_byte


def storages(version: Version, *, distance: Distance, uint8: bool) -> list[Config]:
    """Return what a server can store, without choosing an oversampling.

    Scalar queries go with one bit only: at 1.5 and 2 bits they lose recall. On uint8 there are scalar codes
    or none: there, binary and turbo codes of points that are not yet optimized are taken without the centre,
    and searches miss them (recall .02 and .24 where it is .96 after optimizing). Turbo storages rotate by
    themselves, so that binary and scalar codes on top of them would be taken from rounded values: these get
    floats.

    Parameters
    ----------
    version : Version
    distance : {"Cosine", "Euclid", "Dot"}
    uint8 : bool
        Whether vectors can be stored as whole numbers.
    """
    found: list[Config] = []
    for datatype in DATATYPES:
        if datatype == "uint8" and (not uint8 or distance != "Euclid"):
            continue
        is_turbo = datatype.startswith("turbo")
        pairs: list[tuple[Quantizer, float, QueryEncoding | None]] = [("none", 32, None)]
        if datatype == "uint8":
            pairs += [("scalar", 8, None)]
        else:
            pairs += [("turbo", bits, None) for bits in BITS["turbo"] if not (is_turbo and bits >= 4)]
        if datatype in ("float32", "float16"):
            pairs += [("binary", 1, encoding) for encoding in QUERY_ENCODINGS]
            pairs += [("binary", 1.5, "binary"), ("binary", 2, "binary"), ("scalar", 8, None)]
        for quantizer, bits, encoding in pairs:
            config = Config(quantizer, bits, encoding, datatype)
            if all(version.has(feature) for feature in config.needs):
                found.append(config)
    return found
