"""What bqhnsw will do for vectors: bits, ef_search, predicted recall, index size, and the SQL to get there.

No driver is needed here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: Bits that an index can have, and the most dimensions at each: a code has to fit a page.
MAX_DIM = {1: 16_000, 2: 16_000, 4: 16_000, 8: 8_064}
#: Values of hnsw.ef_search that are offered. 40 is pgvector's default.
EF_SEARCH = (40, 100, 200, 400)
# Up to here a larger ef_search is cheaper than more bits: see `choose_option`.
_CHEAP_EF = 100
# What pgvector's graph itself loses, in recall, times ef_search. `hnsw` on `vector` at its defaults, m = 16:
# 0.8, 0.6 and 0.6 at ef_search 40, 100 and 200 on 55,000 text embeddings; 1.3, 1.3 and 0.4 at 100 on word
# vectors, a token table and SIFT (docs/postgres.md). bqhnsw of 2 and more bits has a larger ef_construction.
# Small tables lose less: nothing at 1,597 rows, 0.2 at 7,500. It is taken to grow with the logarithm of the
# rows, from none at 2,000 to all of it at 55,000.
_GRAPH_LOSS, _NO_LOSS_ROWS, _LOSS_ROWS = 0.8, 2_000, 55_000
# Bytes of the index per row beside the code: element header and links at m = 16, and the share of pages that
# stays free. 304, 307, 313 and 324 were measured at 1, 2, 4 and 8 bits of 384 dimensions.
_LINKS, _FILL = 302, 1.05
# Row header, id and alignment of a table (id bigint, embedding vector).
_HEAP = 48


class Ranked(Protocol):
    """What is known of a codec: `bqcore.codec_sample.Profile`."""

    @property
    def ranks(self) -> NDArray[np.float64]:
        """Places of true neighbours by estimate, shape (n_queries, k)."""

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a code."""


@dataclass(frozen=True)
class IndexOption:
    """An index with a setting of hnsw.ef_search.

    Parameters
    ----------
    bits, ef_search : int
    candidates : int
        Rows that are rescored for k results.
    recall : float
        Predicted recall@k: of the candidates, less what the graph loses.
    codes_recall : float
        Of the candidates, as if the graph were searched exhaustively.
    code_bytes, index_bytes : int
        Per row: the code, and all of the index.
    """

    bits: int
    ef_search: int
    candidates: int
    recall: float
    codes_recall: float
    code_bytes: int
    index_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


def spec(bits: int) -> str:
    """Return the codec that an index of so many bits stores, as `bqcore.make_codec` takes it."""
    return f"rabitq(bits={bits}, rotation=hadamard, centroids=1)"


def rescored(bits: int, ef_search: int, k: int) -> int:
    """Rows rescored before the k-th is returned: a + s (k - 1) of docs/postgres.md, at most ef_search."""
    a, s = {1: (ef_search, 1), 2: (40, 3), 4: (12, 2), 8: (10, 1)}[bits]
    return max(k, min(ef_search, a + s * (k - 1)))


def graph_loss(ef_search: int, n: int) -> float:
    """Recall that the graph loses by itself."""
    growth = math.log(max(n, 1) / _NO_LOSS_ROWS) / math.log(_LOSS_ROWS / _NO_LOSS_ROWS)
    return _GRAPH_LOSS / ef_search * max(0.0, growth)


def options(bits: int, profile: Ranked, k: int, n: int) -> list[IndexOption]:
    """Return an index of so many bits at each ef_search.

    Parameters
    ----------
    bits : {1, 2, 4, 8}
    profile : Ranked
        Of `spec(bits)`.
    k : int
    n : int
        Rows of the table.
    """
    found = []
    for ef in EF_SEARCH:
        if ef < k and ef != EF_SEARCH[-1]:
            continue
        candidates = rescored(bits, ef, k)
        codes = float((profile.ranks <= candidates).mean())
        nbytes = profile.bytes_per_vector
        found.append(
            IndexOption(
                bits,
                ef,
                candidates,
                round(max(0.0, codes - graph_loss(ef, n)), 4),
                round(codes, 4),
                nbytes,
                round(_LINKS + _FILL * nbytes),
            )
        )
    return found


def is_cheap(found: Sequence[IndexOption], target_recall: float) -> bool:
    """Tell whether one of the options reaches a recall at an ef_search of 100 or less."""
    return any(one.recall >= target_recall and one.ef_search <= _CHEAP_EF for one in found)


def choose_option(
    found: Sequence[IndexOption], *, target_recall: float, bytes_per_vector: int | None = None
) -> IndexOption:
    """Take the smallest index that reaches a recall: at an ef_search up to 100, else at any; else the best.

    From 1 to 2 bits an index of 384 dimensions grows by a seventh, and a query at ef_search 40 then takes a
    third of the time of one at 200: bits are the cheaper way, once ef_search 100 does not do.

    Parameters
    ----------
    found : sequence of IndexOption
    target_recall : float
    bytes_per_vector : int, optional
        Codes of more bytes are left out where smaller ones exist.
    """
    small = [one for one in found if bytes_per_vector is None or one.code_bytes <= bytes_per_vector]
    fitting = small or [one for one in found if one.bits == min(other.bits for other in found)]
    for limit in (_CHEAP_EF, max(EF_SEARCH)):
        reaching = [one for one in fitting if one.recall >= target_recall and one.ef_search <= limit]
        if reaching:
            return min(reaching, key=lambda one: (one.index_bytes, one.ef_search))
    return max(fitting, key=lambda one: (one.recall, -one.ef_search))


def heap_bytes(dim: int, type_name: str = "vector") -> int:
    """Bytes of a table's row with its vector; beyond 2,000 bytes TOAST adds headers of about 3 %."""
    nbytes = dim * (2 if type_name == "halfvec" else 4) + 8
    return round(nbytes * (1.03 if nbytes > 2000 else 1.0)) + _HEAP


def quote(identifier: str) -> str:
    """Quote an SQL name where it needs it."""
    return (
        identifier
        if re.fullmatch(r"[a-z_][a-z0-9_]*", identifier)
        else '"' + identifier.replace('"', '""') + '"'
    )


def index_name(table: str, column: str) -> str:
    """Name that the printed SQL gives the index; at most 63 bytes, as Postgres keeps."""
    last = table.rsplit(".", 1)[-1].strip('"')
    return f"{last}_{column}"[:58] + "_bq"


def table_sql(table: str, dim: int, type_name: str = "vector") -> str:
    """Return SQL for an empty table."""
    return (
        "CREATE EXTENSION IF NOT EXISTS bqcore CASCADE;\n"
        f"CREATE TABLE {table} (id bigint PRIMARY KEY, embedding {type_name}({dim}));"
    )


def index_sql(
    option: IndexOption,
    metric: str,
    *,
    table: str,
    column: str = "embedding",
    type_name: str = "vector",
    in_use: bool = False,
) -> str:
    """Return SQL for the index, its setting and the check.

    Parameters
    ----------
    option : IndexOption
    metric : {"l2", "ip", "cosine"}
    table, column : str
        Written as SQL has them.
    type_name : {"vector", "halfvec"}
    in_use : bool, default False
        Whether the table is one that others write to: the index is then built concurrently.
    """
    name = quote(index_name(table, column.strip('"')))
    create = "CREATE INDEX CONCURRENTLY" if in_use else "CREATE INDEX"
    lines = ["CREATE EXTENSION IF NOT EXISTS bqcore CASCADE;"] if in_use else []
    return "\n".join(
        [
            *lines,
            f"{create} {name} ON {table} USING bqhnsw ({column} {type_name}_{metric}_ops) "
            f"WITH (bits = {option.bits});",
            f"ANALYZE {table};",
            f"SET hnsw.ef_search = {option.ef_search};",
            f"SELECT bqcore_recall('{name}');",
        ]
    )
