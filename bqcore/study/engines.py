"""What each database would do with the vectors, and the commands that lead there; adapters load late."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bqcore.study.problem import Problem
from bqcore.study.scale import Store


@dataclass(frozen=True)
class Places:
    """Where databases are, for the printed commands.

    Parameters
    ----------
    dsn : str, optional
        Of a Postgres server.
    table, column : str, optional
        As SQL writes them, where the vectors are in a table already.
    url : str, optional
        Of a Qdrant server; without it the embedded engine is named.
    collection : str, optional
        Where the vectors are in a collection already.
    using : str
        Its vector.
    """

    dsn: str | None = None
    table: str | None = None
    column: str | None = None
    url: str | None = None
    collection: str | None = None
    using: str = ""


@dataclass(frozen=True)
class EngineAdvice:
    """What one database would do.

    Parameters
    ----------
    document : dict
        For JSON: options, the chosen one, predicted recall, commands; or why there are none.
    stores : tuple of Store
        What a row takes as float32, and under the chosen option, both with the graph.
    """

    document: dict[str, Any]
    stores: tuple[Store, ...] = ()


Engine = Callable[[Problem, Places], EngineAdvice]


def postgres(problem: Problem, places: Places) -> EngineAdvice:
    """bqhnsw: RaBitQ codes in pgvector's graph, rescored from the table."""
    from bqcore_postgres import advice, names

    source, sample = problem.source, problem.prepared.sample
    kind = source.origin.type_name
    advised = advice.advise_index(
        sample,
        source.n_source,
        target_recall=problem.target_recall,
        bytes_per_vector=problem.bytes_per_vector,
        say=problem.say,
    )
    best = advised.chosen
    in_use = places.table is not None
    table = places.table or names.quote(source.origin.identifier)
    column = places.column or "embedding"
    steps: list[dict[str, str]] = []
    if not in_use:
        steps.append({"kind": "sql", "text": advice.table_sql(table, problem.dim, kind)})
        if source.origin.kind == "file":
            server = f"--dsn {shlex.quote(places.dsn)}" if places.dsn else '--dsn "$DSN"'
            options = " --drop-invalid" if source.origin.drop_invalid else ""
            if source.origin.column is not None:
                options += f" --vector-column {shlex.quote(source.origin.column)}"
            command = f"bqcore postgres load {source.origin.quoted} {shlex.quote(table)} {server}{options}"
            steps.append({"kind": "shell", "text": command})
        else:
            steps.append({"kind": "note", "text": f"fill {table} before the index is made"})
    create = advice.index_sql(best, source.metric, table=table, column=column, type_name=kind, in_use=in_use)
    steps.append({"kind": "sql", "text": create})
    heap = advice.heap_bytes(problem.dim, kind)
    plain = advice.index_bytes(advice.vector_bytes(problem.dim, kind))
    stores = (
        Store(f"Postgres, hnsw on {kind}", plain, plain + heap),
        Store(
            f"Postgres, bqhnsw {best.bits} bit{'s' if best.bits > 1 else ''}",
            best.index_bytes,
            best.index_bytes + heap,
        ),
    )
    document = {
        "options": [one.as_dict() for one in advised.options],
        "chosen": best.as_dict(),
        "predicted_recall": best.recall,
        "float_bytes": plain,
        "reaches_target": best.recall >= problem.target_recall,
        "table": table,
        "column": column,
        "index": names.index_name(names.bare(table), names.bare(column), best.bits),
        "steps": steps,
        "note": "predicted for pgvector's graph at m = 16; bqcore_recall measures it on your rows",
    }
    return EngineAdvice(document, stores)


def qdrant(problem: Problem, places: Places) -> EngineAdvice:
    """Choose quantization and transform of a collection by predicted recall."""
    reason = "needs pip install 'bqcore[qdrant]'"
    if importlib.util.find_spec("qdrant_client") is None:
        return EngineAdvice({"unavailable": reason})
    from bqcore.datasets import is_table, split_queries
    from bqcore_qdrant import advice
    from bqcore_qdrant.sources import usable_ids

    source = problem.source
    base, queries = source.base, source.queries
    if queries is None:
        base, queries = split_queries(base)

    def show(text: str, done: int, total: int) -> None:
        problem.say(f"Qdrant: {text}")

    target = problem.target_recall
    try:
        codec, option = _fit(problem, base, queries, target, show)
    except ValueError as error:
        return EngineAdvice({"unavailable": str(error)})
    name = places.collection or source.origin.identifier
    if places.collection is not None:
        name = f"{name}_bq"
    commands: list[str] = []
    if source.origin.kind == "qdrant" and places.url:
        commands = advice.migrate_commands(
            places.collection or "", name, url=places.url, using=places.using,
            target_recall=target, bytes_per_vector=problem.bytes_per_vector,
        )  # fmt: skip
    elif source.origin.kind == "file":
        path = source.origin.vectors_path or source.origin.name
        commands = advice.commands(
            source.origin.name,
            option,
            source.metric,
            name=name,
            upload=source.origin.vectors_path,
            queries=source.origin.queries_path,
            k=problem.k,
            url=places.url,
            rows=advice.REFINED_ROWS if len(base) > advice.REFINED_ROWS else None,
            float_nbytes=4 * source.n_source * base.shape[1],
            column=source.origin.column,
            drop_invalid=source.origin.drop_invalid,
            has_zeros=problem.prepared.diagnosis.n_zero > 0 or source.n_source > len(source.base),
            has_usable_ids=not is_table(Path(path)) or usable_ids(Path(path)),
        )
    chosen = advice.option_dict(option)
    document = {
        "options": [advice.option_dict(one) for one in codec.options],
        "chosen": chosen,
        "predicted_recall": option.recall,
        "float_bytes": 4 * problem.dim + advice.GRAPH_BYTES,
        "reaches_target": option.recall >= target,
        "collection": name,
        "steps": [{"kind": "shell", "text": "\n".join(commands)}] if commands else [],
        "note": "predicted without the graph's own loss, which is about .002 at hnsw_ef 256",
    }
    floats = 4 * problem.dim + advice.GRAPH_BYTES
    stores = (
        Store("Qdrant, float32", floats, floats),
        Store(f"Qdrant, {option.config.name}", chosen["ram_bytes"], chosen["disk_bytes"]),
    )
    return EngineAdvice(document, stores)


def _fit(problem: Problem, base: Any, queries: Any, target: float, show: Any) -> Any:
    from bqcore_qdrant import advice

    return advice.fit(
        base,
        queries,
        problem.source.metric,
        target_recall=target,
        bytes_per_vector=problem.bytes_per_vector,
        n_total=max(len(base), problem.source.n_source),
        k=problem.k,
        progress=show,
    )


#: Engines by the key of their part of the document.
ENGINES: dict[str, Engine] = {"postgres": postgres, "qdrant": qdrant}
