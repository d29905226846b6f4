"""What the demo searches: documentation strings embedded here, or the user's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bqcore.cli.progress import Stages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUESTIONS = (
    "remove leading and trailing whitespace",
    "create a temporary directory that is deleted afterwards",
    "wait until a thread has finished",
)
DEFAULT_DATA_ROWS = 50_000
HELD_OUT = 300
K = 10


@dataclass(frozen=True, eq=False)
class Problem:
    """What is searched, what is asked, and the exact answers.

    Attributes
    ----------
    base, queries : ndarray of float32, shape (n, dim) and (n_queries, dim)
    ground_truth : ndarray of int, shape (n_queries, 10)
        Rows of `base`, nearest first.
    titles, texts : list of str
        Per row of `base`; a text is empty if the data has none.
    samples : list of (str, ndarray)
        Questions to answer in readable form, with their vectors.
    """

    name: str
    metric: str
    base: NDArray[np.float32]
    queries: NDArray[np.float32]
    titles: list[str]
    texts: list[str]
    samples: list[tuple[str, NDArray[np.float32]]]
    ground_truth: NDArray[np.int64]


def documentation(questions: Sequence[str], rows: int | None, stages: Stages) -> Problem:
    """Embed documentation strings; the queries are passages held out of the base and of the embedder.

    Parameters
    ----------
    questions : sequence of str
        Sample questions; `QUESTIONS` if there are none.
    rows : int, optional
        Size of the base; default: `corpus.DEFAULT_MAX_PASSAGES`, less the queries.
    stages : Stages

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        If there is too little documentation, or a question has no word in common with it.
    """
    import numpy as np

    from bqcore import corpus
    from bqcore.embedding import LsaEmbedder

    questions = questions or QUESTIONS
    wanted = corpus.DEFAULT_MAX_PASSAGES if rows is None else rows + HELD_OUT
    with stages.stage("read documentation strings") as tick:
        passages = corpus.python_docs(min_passages=min(wanted, 10_000), max_passages=wanted, progress=tick)
    is_query = np.zeros(len(passages), dtype=bool)
    is_query[np.random.default_rng(0).choice(len(passages), HELD_OUT, replace=False)] = True
    kept = [passage for passage, held in zip(passages, is_query, strict=True) if not held]
    held_out = [passage for passage, held in zip(passages, is_query, strict=True) if held]
    with stages.stage("embed them (TF-IDF, SVD)"):
        embedder = LsaEmbedder()
        base = embedder.fit_transform([f"{passage.title} {passage.text}" for passage in kept])
        queries = embedder.transform([f"{passage.title} {passage.text}" for passage in held_out])
        asked = embedder.transform(list(questions))
    for question, vector in zip(questions, asked, strict=True):
        if not vector.any():
            raise ValueError(f"--query {question!r} has no word that occurs in the documentation")
    known = np.flatnonzero(base.any(axis=1))
    return _problem(
        "Python documentation",
        "cosine",
        base[known],
        queries[queries.any(axis=1)],
        titles=[kept[row].title for row in known],
        texts=[kept[row].text for row in known],
        samples=list(zip(questions, asked, strict=True)),
        stages=stages,
    )


def user_data(path: Path, metric: str | None, rows: int | None, stages: Stages) -> Problem:
    """Read the user's vectors, or a sample of them if there are many.

    Parameters
    ----------
    path : Path
        As `bqcore.datasets.read` takes it.
    metric : {"l2", "ip", "cosine"}, optional
        Default: what the data says, else cosine.
    rows : int, optional
        The most to use; default: 50,000.
    stages : Stages

    Returns
    -------
    Problem

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        As `bqcore.datasets.read` raises them; also if fewer than 10 vectors are left.
    """
    import numpy as np

    from bqcore.cli.data import read_data

    with stages.stage(f"read {path.name}"):
        data = read_data(path, metric=metric, note=stages.note)
    ids = np.arange(data.n)
    asked = np.arange(len(data.queries))
    if data.metric == "cosine":
        ids, asked = np.flatnonzero(data.base.any(axis=1)), np.flatnonzero(data.queries.any(axis=1))
        n_zero = data.n + len(data.queries) - len(ids) - len(asked)
        if n_zero:
            stages.note(f"left out: {n_zero:,} zero vectors, which have no cosine")
    limit = rows or DEFAULT_DATA_ROWS
    if len(ids) > limit:
        stages.note(f"using a sample of {limit:,} of the {len(ids):,} vectors (--rows changes that)")
        ids = np.sort(np.random.default_rng(0).choice(ids, limit, replace=False))
    asked = asked[:HELD_OUT]
    if len(ids) < K or not len(asked):
        raise ValueError(
            f"{path}: expected at least {K} vectors and 1 query, not {len(ids)} and {len(asked)}"
        )
    names = data.query_texts or [f"query {number}" for number in range(len(data.queries))]
    return _problem(
        data.name,
        data.metric,
        data.base[ids],
        data.queries[asked],
        titles=[f"row {row}" for row in ids],
        texts=[data.base_texts[row] if data.base_texts else "" for row in ids],
        samples=[(names[number], data.queries[number]) for number in asked[:3]],
        stages=stages,
    )


def _problem(
    name: str,
    metric: str,
    base: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    titles: list[str],
    texts: list[str],
    samples: list[tuple[str, NDArray[np.float32]]],
    stages: Stages,
) -> Problem:
    from bqcore.evaluation import exact_search

    with stages.stage("exact search (ground truth)"):
        ground_truth, _ = exact_search(base, queries, K, metric)
    return Problem(name, metric, base, queries, titles, texts, samples, ground_truth)
