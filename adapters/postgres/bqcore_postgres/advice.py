"""What bqhnsw will do for vectors: bits, ef_search, predicted recall, index size, and the SQL to get there.

`advise_index` is the only place that chooses bits: for `bqcore advise`, `bqcore postgres adopt` and
`bqcore tune --live`. No driver is needed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bqcore._validation import Float32Array, zero_rows
from bqcore.codec_sample import Sample
from bqcore.study.source import check_rows
from bqcore_postgres.names import bare, index_name, last_part, quote
from bqcore_postgres.rule import MAX_DIM, rescored

#: recall@k of answers that is aimed at where nothing is said.
TARGET_RECALL = 0.95
#: Rows of a table that recall is predicted from at most.
SAMPLE_ROWS = 200_000
#: Values of k that recall is told for, whatever k was asked for.
AT_K = (10, 20, 40)
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
    at_k : dict of int to float
        Predicted recall at other k, with the same index and setting.
    """

    bits: int
    ef_search: int
    candidates: int
    recall: float
    codes_recall: float
    code_bytes: int
    index_bytes: int
    at_k: dict[int, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return {**asdict(self), "at_k": {str(k): recall for k, recall in self.at_k.items()}}


def spec(bits: int) -> str:
    """Return the codec that an index of so many bits stores, as `bqcore.make_codec` takes it."""
    return f"rabitq(bits={bits}, rotation=hadamard, centroids=1)"


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
        Of `spec(bits)`; of ranks beyond k, recall at `AT_K` is told.
    k : int
    n : int
        Rows of the table.
    """
    found = []
    ranks = profile.ranks
    loss = {ef: graph_loss(ef, n) for ef in EF_SEARCH}

    def share(ef: int, wanted: int) -> float:
        return float((ranks[:, :wanted] <= rescored(bits, ef, wanted, ranks)).mean())

    for ef in EF_SEARCH:
        if ef < k and ef != EF_SEARCH[-1]:
            continue
        codes = share(ef, k)
        nbytes = profile.bytes_per_vector
        found.append(
            IndexOption(
                bits,
                ef,
                rescored(bits, ef, k, ranks),
                round(max(0.0, codes - loss[ef]), 4),
                round(codes, 4),
                nbytes,
                index_bytes(nbytes),
                {one: round(max(0.0, share(ef, one) - loss[ef]), 4) for one in AT_K if one <= ranks.shape[1]},
            )
        )
    return found


def index_bytes(code_bytes: int) -> int:
    """Bytes per row of a graph's index: links at m = 16, what stands for the vector, and free room."""
    return round(_LINKS + _FILL * code_bytes)


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


def vector_bytes(dim: int, type_name: str = "vector") -> int:
    """Bytes of a vector with its header."""
    return dim * (2 if type_name == "halfvec" else 4) + 8


def heap_bytes(dim: int, type_name: str = "vector") -> int:
    """Bytes of a table's row with its vector; beyond 2,000 bytes TOAST adds headers of about 3 %."""
    nbytes = vector_bytes(dim, type_name)
    return round(nbytes * (1.03 if nbytes > 2000 else 1.0)) + _HEAP


@dataclass(frozen=True)
class IndexAdvice:
    """Which index, and what else there was.

    Parameters
    ----------
    options : tuple of IndexOption
    chosen : IndexOption
    k : int
    target_recall : float
    sample_rows : int
        Rows that recall was predicted from.
    """

    options: tuple[IndexOption, ...]
    chosen: IndexOption
    k: int
    target_recall: float
    sample_rows: int

    @property
    def reaches_target(self) -> bool:
        """Whether the chosen index is predicted to have the recall that was asked for."""
        return self.chosen.recall >= self.target_recall

    def with_bits(self, bits: int) -> IndexOption | None:
        """Return the option of so many bits that is chosen among them; None where they were not measured."""
        found = [one for one in self.options if one.bits == bits]
        return choose_option(found, target_recall=self.target_recall) if found else None

    def as_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return {**asdict(self), "reaches_target": self.reaches_target}


@dataclass(frozen=True)
class _Deep:
    ranks: NDArray[np.float64]
    bytes_per_vector: int


def advise_index(
    sample: Sample,
    n: int,
    *,
    target_recall: float = TARGET_RECALL,
    bytes_per_vector: int | None = None,
    say: Callable[[str], None] | None = None,
) -> IndexAdvice:
    """Choose bits and hnsw.ef_search for rows.

    Parameters
    ----------
    sample : Sample
        Of the rows, with the k that is wanted.
    n : int
        Rows of the table.
    target_recall : float, default .95
    bytes_per_vector : int, optional
        As in `choose_option`.
    say : callable, optional
        Takes a line before every step.
    """
    found: list[IndexOption] = []
    is_enough = False
    for bits, most in MAX_DIM.items():
        if sample.vectors.shape[1] > most:
            continue
        if say is not None:
            say(f"Postgres: bqhnsw with {bits} bits")
        profile = sample.profile(spec(bits), max(AT_K))
        these = options(bits, _Deep(profile.deep_ranks, profile.bytes_per_vector), sample.k, n)
        found += these
        # More bits would make a larger index of what is good enough; one step beyond shows what they gain.
        if is_enough:
            break
        is_enough = bytes_per_vector is None and is_cheap(these, target_recall)
    best = choose_option(found, target_recall=target_recall, bytes_per_vector=bytes_per_vector)
    return IndexAdvice(tuple(found), best, sample.k, target_recall, len(sample.vectors))


def advise_rows(
    X: Float32Array,
    metric: str,
    n: int,
    *,
    k: int = 10,
    target_recall: float | None = None,
    name: str = "rows",
    say: Callable[[str], None] | None = None,
) -> IndexAdvice:
    """Choose bits and hnsw.ef_search for rows that were read from a table, as `bqcore advise` does.

    Parameters
    ----------
    X : ndarray of float32, shape (n_rows, dim)
        Zero rows are left out under cosine.
    metric : {"l2", "ip", "cosine"}
    n : int
        Rows of the table.
    k : int, default 10
    target_recall : float, optional
        .95 by default.
    name : str
        What error texts call the rows.
    say : callable, optional
        Takes a line before every step.

    Raises
    ------
    ValueError
        If there are fewer than 100 rows, or not more than k, or the target is out of (0, 1].
    """
    target = TARGET_RECALL if target_recall is None else target_recall
    if not 0 < target <= 1:
        raise ValueError(f"target_recall: expected a number in (0, 1], not {target}")
    if metric == "cosine":
        X = np.delete(X, zero_rows(X), axis=0)
    check_rows(len(X), k, name)
    return advise_index(Sample(X, None, metric, k, 0), n, target_recall=target, say=say)


def table_sql(table: str, dim: int, type_name: str = "vector") -> str:
    """Return SQL for an empty table."""
    return (
        "CREATE EXTENSION IF NOT EXISTS bqcore CASCADE;\n"
        f"CREATE TABLE {table} (id bigint PRIMARY KEY, embedding {type_name}({dim}));"
    )


def index_ddl(
    bits: int,
    metric: str,
    *,
    table: str,
    column: str,
    type_name: str = "vector",
    concurrently: bool = True,
    schema: str = "",
) -> str:
    """Return the statement that builds an index, without its semicolon.

    Parameters
    ----------
    bits : {1, 2, 4, 8}
    metric : {"l2", "ip", "cosine"}
    table, column : str
        Written as SQL has them.
    type_name : {"vector", "halfvec"}
    concurrently : bool, default True
        For a table that others write to.
    schema : str, optional
        Of the extension, where it has to be named; as SQL writes it.
    """
    create = "CREATE INDEX CONCURRENTLY" if concurrently else "CREATE INDEX"
    prefix = f"{schema}." if schema else ""
    return (
        f"{create} {quote(index_name(bare(table), bare(column), bits))} ON {table} "
        f"USING bqhnsw ({column} {prefix}{type_name}_{metric}_ops) WITH (bits = {bits})"
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
    schema = table[: len(table) - len(last_part(table))]
    name = schema + quote(index_name(bare(table), bare(column), option.bits))
    lines = ["CREATE EXTENSION IF NOT EXISTS bqcore CASCADE;"] if in_use else []
    ddl = index_ddl(option.bits, metric, table=table, column=column, type_name=type_name, concurrently=in_use)
    return "\n".join(
        [
            *lines,
            f"{ddl};",
            f"ANALYZE {table};",
            f"SET hnsw.ef_search = {option.ef_search};",
            "SELECT bqcore_recall('{}');".format(name.replace("'", "''")),
        ]
    )
