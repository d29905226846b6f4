"""psycopg adapters for the extension's types: `Code` is a `bqcode`, `bqcore.RaBitQ` a `bqmodel`.

>>> register_codes(conn)                                                        # doctest: +SKIP
>>> conn.execute("SELECT bq_encode(embedding, %b) FROM items", [model])         # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, Connection, ProgrammingError
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo

from bqcore import RaBitQ

from .values import Code

_NAMES = ("bqcode", "bqmodel")


class _CodeTextDumper(Dumper):
    format = Format.TEXT

    def dump(self, obj: Code) -> Buffer:
        return obj.to_text().encode()


class _CodeBinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Code) -> Buffer:
        return obj.to_binary()


class _ModelTextDumper(Dumper):
    format = Format.TEXT

    def dump(self, obj: RaBitQ) -> Buffer:
        return b"\\x" + obj.to_bytes().hex().encode()


class _ModelBinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: RaBitQ) -> Buffer:
        return obj.to_bytes()


class _CodeTextLoader(Loader):
    format = Format.TEXT

    def load(self, data: Buffer) -> Code:
        return Code.from_text(bytes(data).decode())


class _CodeBinaryLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Code:
        return Code.from_binary(data)


class _ModelTextLoader(Loader):
    format = Format.TEXT

    def load(self, data: Buffer) -> RaBitQ:
        return RaBitQ.from_bytes(bytes.fromhex(bytes(data).decode().removeprefix("\\x")))


class _ModelBinaryLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> RaBitQ:
        return RaBitQ.from_bytes(bytes(data))


def register_codes(conn: Connection[Any]) -> None:
    """Teach a connection the types `bqcode` and `bqmodel`.

    Raises
    ------
    psycopg.ProgrammingError
        If the database has no such types: the extension is missing, or older than 0.2.0.
    """
    _register(conn, [TypeInfo.fetch(conn, name) for name in _NAMES])


async def register_codes_async(conn: AsyncConnection[Any]) -> None:
    """`register_codes` on an asynchronous connection."""
    _register(conn, [await TypeInfo.fetch(conn, name) for name in _NAMES])


def _register(context: AdaptContext, found: list[TypeInfo | None]) -> None:
    code, model = found
    if code is None or model is None:
        missing = " and ".join(name for name, info in zip(_NAMES, found, strict=True) if info is None)
        raise ProgrammingError(
            f"this database has no type {missing}: CREATE EXTENSION bqcore CASCADE, "
            "or ALTER EXTENSION bqcore UPDATE"
        )
    adapters = context.adapters
    assert adapters is not None
    for info, kind, dumpers, loaders in (
        (code, Code, (_CodeTextDumper, _CodeBinaryDumper), (_CodeTextLoader, _CodeBinaryLoader)),
        (model, RaBitQ, (_ModelTextDumper, _ModelBinaryDumper), (_ModelTextLoader, _ModelBinaryLoader)),
    ):
        info.register(context)
        for dumper in dumpers:
            # a dumper of its own per connection: the type's oid is the database's
            adapters.register_dumper(kind, type(dumper.__name__, (dumper,), {"oid": info.oid}))
        for loader in loaders:
            adapters.register_loader(info.oid, loader)
