"""SQLAlchemy types for the extension's `bqcode` and `bqmodel`, in the manner of pgvector's.

>>> class Item(Base):                                                           # doctest: +SKIP
...     code = mapped_column(BQCODE(384))
>>> query = bq_query(vector, model)                                             # doctest: +SKIP
>>> select(Item).order_by(Item.code.cosine_distance(query)).limit(10)           # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bqcore import RaBitQ

from .values import Code

try:
    from pgvector.sqlalchemy import VECTOR
    from sqlalchemy import Dialect, Float, Operators, ScalarSelect, cast, func, select
    from sqlalchemy.dialects.postgresql.base import ischema_names
    from sqlalchemy.sql.elements import ColumnElement
    from sqlalchemy.types import TypeEngine, UserDefinedType
except ImportError as error:
    raise ImportError("the SQLAlchemy types need pip install 'bqcore[sqlalchemy]'") from error

Process = Callable[[Any], Any]


class BQCODE(UserDefinedType[Code]):
    """Column of codes; values are `bqcore_postgres.values.Code`.

    Parameters
    ----------
    dim : int, optional
        Dimensions, checked by the server.
    """

    cache_ok = True

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def get_col_spec(self, **kwargs: Any) -> str:
        """Return the type's name in DDL."""
        return "BQCODE" if self.dim is None else f"BQCODE({self.dim:d})"

    def bind_processor(self, dialect: Dialect) -> Process:
        """Send codes as text."""
        return lambda value: value.to_text() if isinstance(value, Code) else value

    def literal_processor(self, dialect: Dialect) -> Process:
        """Write codes into SQL."""
        return lambda value: f"'{value.to_text()}'"

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        """Return codes, whether the driver knows the type or not."""
        return lambda value: Code.from_text(value) if isinstance(value, str) else value

    class Comparator(TypeEngine.Comparator[Any]):
        """Estimated distances of a column of codes to a query of `bq_query`, or to codes."""

        def l2_distance(self, other: object, /) -> Operators:
            """Return the estimated Euclidean distance."""
            return self.op("<->", return_type=Float)(other)

        def max_inner_product(self, other: object, /) -> Operators:
            """Return the estimated negative inner product."""
            return self.op("<#>", return_type=Float)(other)

        def cosine_distance(self, other: object, /) -> Operators:
            """Return the estimated 1 - cosine."""
            return self.op("<=>", return_type=Float)(other)

    comparator_factory = Comparator  # type: ignore[assignment,unused-ignore]


class BQMODEL(UserDefinedType[RaBitQ]):
    """Model; values are `bqcore.RaBitQ`."""

    cache_ok = True

    def get_col_spec(self, **kwargs: Any) -> str:
        """Return the type's name in DDL."""
        return "BQMODEL"

    def bind_processor(self, dialect: Dialect) -> Process:
        """Send models as text."""
        return lambda value: "\\x" + value.to_bytes().hex() if isinstance(value, RaBitQ) else value

    def literal_processor(self, dialect: Dialect) -> Process:
        """Write models into SQL: for generated columns."""
        return lambda value: f"'\\x{value.to_bytes().hex()}'"

    def result_processor(self, dialect: Dialect, coltype: object) -> Process:
        """Return models, whether the driver knows the type or not."""
        return lambda value: (
            RaBitQ.from_bytes(bytes.fromhex(value.removeprefix("\\x"))) if isinstance(value, str) else value
        )


class BQQUERY(UserDefinedType[str]):
    """What ``bq_query`` returns; it stays in the server."""

    cache_ok = True

    def get_col_spec(self, **kwargs: Any) -> str:
        """Return the type's name in DDL."""
        return "BQQUERY"


def bq_encode(vector: Any, model: RaBitQ) -> ColumnElement[Code]:
    """Encode a vector, or a column of vectors, in the server."""
    return func.bq_encode(_vector(vector), cast(model, BQMODEL()), type_=BQCODE())


def bq_query(vector: Any, model: RaBitQ) -> ScalarSelect[Any]:
    """Prepare a query once: a scalar subquery, because a bare call would run for every row."""
    return select(func.bq_query(_vector(vector), cast(model, BQMODEL()), type_=BQQUERY())).scalar_subquery()


def _vector(value: npt.ArrayLike | Any) -> Any:
    if isinstance(value, np.ndarray | list | tuple):
        return cast(np.asarray(value, dtype=np.float32), VECTOR())
    return value


# for reflection
ischema_names["bqcode"] = BQCODE
ischema_names["bqmodel"] = BQMODEL
