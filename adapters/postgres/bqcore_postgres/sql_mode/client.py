"""SQL mode from the client: codes made by the kernels, copied into their columns, and searches with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bqcore import RaBitQ, _kernels
from bqcore._kernels import Float32Array
from bqcore._validation import as_vectors
from bqcore_postgres.candidates import OPERATORS, raw_sql
from bqcore_postgres.copying import copy_rows, copy_rows_async

from .model import from_json

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    Connection = psycopg.Connection[Any]
    AsyncConnection = psycopg.AsyncConnection[Any]

MAX_CANDIDATES = 1000

_FIND = """
    SELECT n.nspname, c.relname, a.attname, s.code, s.f_add, s.f_rescale,
        bqcore.model(c.oid::pg_catalog.regclass, a.attname), t.typname, v.nspname
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
        AND a.attname OPERATOR(pg_catalog.=) %(column)s
    JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
    JOIN pg_catalog.pg_namespace v ON v.oid OPERATOR(pg_catalog.=) t.typnamespace
    CROSS JOIN LATERAL bqcore.setup(%(table)s::pg_catalog.regclass, %(column)s) s
    WHERE c.oid OPERATOR(pg_catalog.=) %(table)s::pg_catalog.regclass"""


@dataclass(frozen=True, eq=False)
class PlannedQuery:
    """A query as SQL mode's statements take it.

    Parameters
    ----------
    code : str
        Sign bits of the centred, rotated query, "0101...".
    planes : tuple of str
        Bits 0 to 3 of its levels in two's complement.
    delta, shift, g_add, weight : float
        Width of a level; delta times half the sum of levels; the query's own term of the estimate; how often
        f_add counts in it.
    """

    code: str
    planes: tuple[str, ...]
    delta: float
    shift: float
    g_add: float
    weight: float


@dataclass(frozen=True, eq=False)
class CodedColumn:
    """A column with codes beside it, as ``bqcore.add`` made them.

    Parameters
    ----------
    schema, table, column, code, f_add, f_rescale : str
        Names, unquoted.
    type_name, type_schema : str
        ``vector`` or ``halfvec``, and pgvector's schema.
    model : RaBitQ
        Of 1 bit.
    """

    schema: str
    table: str
    column: str
    code: str
    f_add: str
    f_rescale: str
    type_name: str
    type_schema: str
    model: RaBitQ

    @classmethod
    def read(cls, conn: Connection, table: str, column: str) -> CodedColumn:
        """Look a column up.

        Parameters
        ----------
        conn : psycopg.Connection
        table : str
            As SQL names it: quoted and with its schema where that is needed.
        column : str
            Unquoted.

        Raises
        ------
        psycopg.errors.UndefinedObject
            If the column has no codes; other errors of the server if there is no such table or column.
        """
        return cls._of(conn.execute(_FIND, {"table": table, "column": column}).fetchone())

    @classmethod
    async def read_async(cls, conn: AsyncConnection, table: str, column: str) -> CodedColumn:
        """`read` on an asynchronous connection."""
        cursor = await conn.execute(_FIND, {"table": table, "column": column})
        return cls._of(await cursor.fetchone())

    @classmethod
    def _of(cls, row: Any) -> CodedColumn:
        if row is None:
            raise ValueError("expected a column of the table, and there is none of that name")
        schema, table, column, code, f_add, f_rescale, model, type_name, type_schema = row
        return cls(schema, table, column, code, f_add, f_rescale, type_name, type_schema, from_json(model))

    @property
    def _kernel_model(self) -> _kernels.Model:
        return _kernels.Model.from_bytes(self.model.to_bytes())

    # ---- store ----

    def encode(self, X: npt.ArrayLike) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.void]]:
        """Encode rows of shape (n, dim).

        Returns
        -------
        codes : ndarray of uint8, shape (n, ceil(dim / 8))
            Bits in the order of the type ``bit``: the first dimension is the highest bit of byte 0.
        factors : structured ndarray, shape (n,)
            ``f_add``, ``f_rescale``.
        """
        codes = self.model.encode(X)
        return np.packbits(np.unpackbits(codes.packed, axis=1, bitorder="little"), axis=1), codes.factors

    def copy(
        self, conn: Connection, X: npt.ArrayLike, columns: Mapping[str, Sequence[Any]], types: Sequence[str]
    ) -> int:
        """Append rows with their codes by binary COPY; the trigger takes the codes as they are.

        Parameters
        ----------
        conn : psycopg.Connection
            With pgvector's types registered (``pgvector.psycopg.register_vector``).
        X : array-like, shape (n, dim)
            Vectors, stored as they are.
        columns : mapping of str to sequence
            Values of the other columns, n each.
        types : sequence of str
            Their SQL types, for the binary format: ``["int4", "text"]``.

        Returns
        -------
        int
            Rows written.

        Raises
        ------
        ValueError
            If lengths or dimensions disagree, or a vector cannot be encoded; the text names its row.
        """
        names, all_types = self._copied(columns, types)
        rows = self._copy_rows(X, columns)
        with conn.transaction():
            conn.execute(_GIVEN)
            count = copy_rows(conn, (self.schema, self.table), names, all_types, rows)
            conn.execute(_NOT_GIVEN)
        return count

    async def copy_async(
        self,
        conn: AsyncConnection,
        X: npt.ArrayLike,
        columns: Mapping[str, Sequence[Any]],
        types: Sequence[str],
    ) -> int:
        """`copy` on an asynchronous connection."""
        names, all_types = self._copied(columns, types)
        rows = self._copy_rows(X, columns)
        async with conn.transaction():
            await conn.execute(_GIVEN)
            count = await copy_rows_async(conn, (self.schema, self.table), names, all_types, rows)
            await conn.execute(_NOT_GIVEN)
        return count

    def _copied(
        self, columns: Mapping[str, Sequence[Any]], types: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """Names and types of all that is copied."""
        if len(types) != len(columns):
            raise ValueError(f"expected {len(columns)} types, one per column, not {len(types)}")
        names = [*columns, self.column, self.code, self.f_add, self.f_rescale]
        return names, [*types, self.type_name, "bit", "float4", "float4"]

    def _copy_rows(self, X: npt.ArrayLike, columns: Mapping[str, Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        from pgvector import Bit, HalfVector

        rows = as_vectors(X, name="X", dim=self.model.dim_)
        for name, values in columns.items():
            if len(values) != len(rows):
                raise ValueError(f"{name}: expected {len(rows)} values, not {len(values)}")
        codes, factors = self.encode(rows)
        length = self.model.dim_.to_bytes(4, "big")
        for i, row in enumerate(rows):
            yield (
                *(values[i] for values in columns.values()),
                HalfVector(row) if self.type_name == "halfvec" else row,
                Bit.from_binary(length + codes[i].tobytes()),
                float(factors["f_add"][i]),
                float(factors["f_rescale"][i]),
            )

    # ---- search ----

    def plan(self, q: npt.ArrayLike) -> PlannedQuery:
        """Rotate and round a query, shape (dim,), as ``bqcore.query`` does in SQL."""
        vector: Float32Array = as_vectors(np.asarray(q)[np.newaxis], name="q", dim=self.model.dim_)
        model = self._kernel_model
        query = model.prepare(vector[0], query_bits=4)
        # blocks of 128 dimensions, 16 bytes for each of the four planes (native/include/bqk.h)
        blocks = query.z.view(np.uint8).reshape(-1, 4, 16)
        planes = tuple(_text(blocks[:, p].ravel(), model.dim) for p in range(4))
        weight = float(query.struct.g_weight)
        # the sign of a coordinate; a query of zeros has no code of its own under cosine, but a place
        signs = _kernels.Model(
            bits=1,
            metric="l2",
            rotation=model.rotation,
            seed=model.seed,
            centroid=np.zeros_like(model.centroid),
            n_trained=1,
        )
        if model.metric == "cosine" and vector.any():
            vector = vector / np.linalg.norm(vector).astype(np.float32)
        rest = np.asarray(vector - np.float32(weight) * model.centroid, dtype=np.float32)
        code = _text(signs.encode(rest)[0][0], model.dim)
        delta = float(query.struct.delta)
        shift = delta * 0.5 * query.struct.sum_z
        return PlannedQuery(code, planes, delta, shift, float(query.struct.g_add), weight)

    def search_statement(
        self,
        q: npt.ArrayLike,
        k: int = 10,
        *,
        key: str = "id",
        candidates: int = 100,
        rescore: int | None = None,
        where: sql.Composable | None = None,
    ) -> tuple[sql.Composed, list[Any]]:
        """Return the statement that ``bqcore.search`` would run, prepared here.

        Run ``SET hnsw.ef_search`` to at least `candidates` before.

        Parameters
        ----------
        q : array-like, shape (dim,)
            Query.
        k : int
            Rows wanted.
        key : str
            Column to return, as ``id``.
        candidates : int
            Rows by Hamming distance, k to 1,000.
        rescore : int, optional
            Rows whose vectors are read, chosen by estimates; all candidates by default.
        where : psycopg.sql.Composable, optional
            Condition on the table, whose alias is ``t``; % is written %%, as beside any parameters.

        Returns
        -------
        statement : psycopg.sql.Composed
            Columns ``id`` and ``distance``, best first.
        parameters : list
            The query vector, for binary transfer.

        Raises
        ------
        ValueError
            If k, candidates and rescore do not fit each other, or the query is malformed.
        """
        from psycopg import sql

        if not 1 <= k <= candidates <= MAX_CANDIDATES:
            raise ValueError(f"expected 1 <= k <= candidates <= {MAX_CANDIDATES}, not {k} and {candidates}")
        rescore = candidates if rescore is None else rescore
        if rescore < k:
            raise ValueError(f"rescore: expected k ({k}) or more, not {rescore}")
        planned = self.plan(q)
        names = {
            "key": _name(key),
            "x": _name(self.column),
            "code": _name(self.code),
            "f_add": _name(self.f_add),
            "f_rescale": _name(self.f_rescale),
            "table": _name(self.schema, self.table),
            "schema": _name(self.type_schema),
            "type": _name(self.type_schema, self.type_name),
            "where": sql.SQL("") if where is None else sql.SQL(" AND ({})").format(where),
            "signs": sql.SQL("B{}").format(planned.code),
            "candidates": sql.Literal(candidates),
            "rescore": sql.Literal(rescore),
            "k": sql.Literal(k),
            "operator": raw_sql(OPERATORS[self.model.metric_]),
            "delta": sql.Literal(planned.delta),
            "shift": sql.Literal(planned.shift),
            "weight": sql.Literal(planned.weight),
            **{f"p{p}": sql.SQL("B{}").format(plane) for p, plane in enumerate(planned.planes)},
        }
        stages = _HAMMING if rescore >= candidates else _ESTIMATE
        return raw_sql(stages + _FLOATS).format(**names), [np.asarray(q, dtype=np.float32)]


def _name(*parts: str) -> sql.Identifier:
    """Quote a name for a statement with parameters, where psycopg reads a single % as a placeholder."""
    from psycopg import sql

    return sql.Identifier(*(part.replace("%", "%%") for part in parts))


_GIVEN = "SELECT pg_catalog.set_config('bqcore_sql.given_codes', 'on', true)"
_NOT_GIVEN = "SELECT pg_catalog.set_config('bqcore_sql.given_codes', 'off', true)"

_FIRST = (
    "SELECT t.{key} AS key, t.{x} AS x, t.{code} AS code, t.{f_add} AS f_add, t.{f_rescale} AS f_rescale "
    "FROM {table} AS t WHERE t.{code} IS NOT NULL{where} "
    "ORDER BY t.{code} OPERATOR({schema}.<~>) {signs} LIMIT {candidates}"
)
_HAMMING = f"WITH b AS ({_FIRST}) "
_ESTIMATE = (
    f"WITH b AS (SELECT a.key, a.x FROM ({_FIRST}) AS a ORDER BY "
    "({weight}::float8 OPERATOR(pg_catalog.*) a.f_add::float8) OPERATOR(pg_catalog.+) ("
    "a.f_rescale::float8 OPERATOR(pg_catalog.*) (({delta}::float8 OPERATOR(pg_catalog.*) ("
    "pg_catalog.bit_count(a.code OPERATOR(pg_catalog.&) {p0}) OPERATOR(pg_catalog.+) "
    "(2 OPERATOR(pg_catalog.*) pg_catalog.bit_count(a.code OPERATOR(pg_catalog.&) {p1})) "
    "OPERATOR(pg_catalog.+) "
    "(4 OPERATOR(pg_catalog.*) pg_catalog.bit_count(a.code OPERATOR(pg_catalog.&) {p2})) "
    "OPERATOR(pg_catalog.-) "
    "(8 OPERATOR(pg_catalog.*) pg_catalog.bit_count(a.code OPERATOR(pg_catalog.&) {p3})))::float8) "
    "OPERATOR(pg_catalog.-) {shift}::float8)) LIMIT {rescore}) "
)
_FLOATS = (
    "SELECT b.key AS id, b.x OPERATOR({schema}.{operator}) %b::{type} AS distance FROM b ORDER BY 2 LIMIT {k}"
)


def _text(packed: npt.NDArray[np.uint8], dim: int) -> str:
    """Packed bits, lowest first, as "0101..."."""
    return "".join(map(str, np.unpackbits(packed, bitorder="little")[:dim]))
