"""A study of a data set: diagnosis, options with predicted recall, databases, bytes; one JSON document."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

import bqcore
from bqcore._validation import as_vectors, check_int, check_metric, zero_rows
from bqcore.advisor import TARGET_RECALL, Advice, NothingFitsError, Option, choose, prepare
from bqcore.centroids import can_cluster, preload
from bqcore.codec_sample import RESCORED_RECALL, Profile, Sample
from bqcore.diagnosis import gaussian_l1_ratio
from bqcore.study import details
from bqcore.study.coordinates import coordinates_of
from bqcore.study.engines import ENGINES, Engine, EngineAdvice, Places
from bqcore.study.problem import Problem, Say
from bqcore.study.result import Study
from bqcore.study.scale import DISK_PRICE, GRAPH_BYTES, RAM_PRICE, Store, scales
from bqcore.study.source import Source, array_source
from bqcore.study.words import findings

#: Candidates per wanted row that databases are taken to rescore at most.
RESCORED = 10
# Bytes per dimension of the budgets that make up the trade-off; the first one is always measured.
_LADDER = (1 / 8, 1 / 4, 1 / 16, 1 / 2)
# Bytes beside the code in a budget: two factors of float32.
_FACTORS = 8
# Queries from which on half of them are kept for the second measurement.
_SPLIT_FROM = 400
#: What is said where some codecs cannot be trained.
LEFT_OUT = "codecs that need k-means are left out: it needs scikit-learn, pip install 'bqcore[train]'"
#: Seconds after which no further budget is begun.
SECONDS = 40.0


def study(
    source: Source | npt.ArrayLike,
    queries: npt.ArrayLike | None = None,
    metric: str = "l2",
    *,
    k: int = 10,
    target_recall: float | None = None,
    bytes_per_vector: int | None = None,
    places: Places | None = None,
    engines: Mapping[str, Engine] | None = None,
    codecs: Sequence[str] | None = None,
    random_state: int = 0,
    seconds: float = SECONDS,
    ram_price: float = RAM_PRICE,
    disk_price: float = DISK_PRICE,
    progress: Say | None = None,
) -> Study:
    """Find out what quantization will do to vectors, and what to set.

    Codecs are advised (`bqcore.advisor`) for several budgets of bytes per vector, two at a time. The chosen
    one takes the fewest bytes among those whose k nearest rows are in the first 10 k candidates with at least
    `target_recall`; with `bytes_per_vector` it is the best within that budget.

    Parameters
    ----------
    source : Source or array-like of float, shape (n, dim)
    queries, metric
        Of an array, as `bqcore.advise` takes them; a `Source` has its own.
    k : int, default 10
    target_recall : float, optional
        recall@k after exact rescoring; .95 where neither this nor a budget is given.
    bytes_per_vector : int, optional
    places : Places, optional
        Where databases are, for the printed commands.
    engines : mapping of str to Engine, optional
        By default Postgres and Qdrant.
    codecs : sequence of str, optional
        Specs to choose from in place of what codecs propose.
    random_state : int, default 0
    seconds : float, default 40
        After so many seconds no further budget is begun; what is left out is named in the document.
    ram_price, disk_price : float
        US dollars per 10^9 bytes and month.
    progress : callable, optional
        Called with a line before every step, from several threads.

    Returns
    -------
    Study

    Raises
    ------
    TypeError, ValueError
        If there are too few rows, both goals are given, or one of them is out of range.
    """
    started, cpu = time.perf_counter(), time.process_time()
    if not isinstance(source, Source):
        asked = None if queries is None else as_vectors(queries, name="queries")
        source = array_source(as_vectors(source), asked, check_metric(metric))
    elif queries is not None:
        raise ValueError("queries: expected none beside a Source, which has its own")
    if target_recall is not None and bytes_per_vector is not None:
        raise ValueError(
            f"expected one of target_recall and bytes_per_vector, not {target_recall} and {bytes_per_vector}"
        )
    target = TARGET_RECALL if target_recall is None else target_recall
    if not 0 < target <= 1:
        raise ValueError(f"target_recall: expected a number in (0, 1], not {target}")
    if bytes_per_vector is not None:
        bytes_per_vector = check_int(bytes_per_vector, name="bytes", low=1, high=1 << 20)
    k = check_int(k, name="k", low=1)
    source.check(k)
    say = progress or (lambda text: None)
    preload()
    used, kept = _split(source)
    prepared = prepare(source.base, used, source.metric, k=k, random_state=random_state, progress=say)
    sample = prepared.sample
    problem = Problem(source, prepared, k, target, bytes_per_vector, RESCORED, seconds, say)
    coordinates = coordinates_of(sample.vectors, source.metric, random_state)

    wanted = dict(ENGINES if engines is None else engines)
    budgets = _budgets(problem)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_within, problem, budgets[0], codecs, is_first=True)
        others = {name: pool.submit(engine, problem, places or Places()) for name, engine in wanted.items()}
        later = [pool.submit(_within, problem, budget, codecs) for budget in budgets[1:]]
        advices: dict[int, Advice | None] = {budgets[0]: first.result()}
        advised: dict[str, EngineAdvice] = {name: future.result() for name, future in others.items()}
        advices |= {budget: future.result() for budget, future in zip(budgets[1:], later, strict=True)}

    options = _options(advices, sample)
    if not options and advices[max(budgets)] is None:
        # It may have been left out for time, and nothing smaller held a codec.
        advices[max(budgets)] = _within(problem, max(budgets), codecs, is_first=True)
        options = _options(advices, sample)
    if not options:
        listed = ", ".join(str(budget) for budget in budgets)
        raise ValueError(
            f"codecs: expected one of at most {max(budgets)} bytes per vector ({listed} were tried)"
        )
    best = _best(options, problem)
    for one in options:
        one["chosen"] = one["codec"] == best["codec"]
    profile = sample.profiles[best["codec"]]
    verified = _verify(problem, kept, options, random_state)
    document = {
        "bqcore": bqcore.__version__,
        "data": _about(source, sample, k, kept is not None),
        "goal": {
            "target_recall": target,
            "bytes_per_vector": bytes_per_vector,
            "rescored_per_result": RESCORED,
            "oversampling_holds": RESCORED_RECALL,
            "k": k,
        },
        "diagnosis": {
            **asdict(prepared.diagnosis),
            "rotation": prepared.diagnosis.rotation,
            "gaussian_l1_ratio": round(
                gaussian_l1_ratio(max(1, prepared.diagnosis.dim - prepared.diagnosis.n_dead)), 4
            ),
            "n_bimodal": len(coordinates.bimodal),
            "n_invalid": source.n_dropped[0],
            "n_invalid_queries": source.n_dropped[1],
        },
        "findings": [one.as_dict() for one in findings(prepared.diagnosis, coordinates, source.n_dropped)],
        "options": options,
        "chosen": best["codec"],
        "left_out": "" if codecs is not None or can_cluster() else LEFT_OUT,
        "skipped_budgets": [budget for budget, advice in advices.items() if advice is None],
        "candidates": {one["codec"]: one.pop("curve") for one in options},
        "verification": verified,
        "coordinates": coordinates.as_dict(),
        "scatter": details.scatter(sample, profile, random_state),
        "queries": details.query_recall(profile, _names(source, sample, used), RESCORED, source.query_texts),
        "storage": _storage(source, best, advised, ram_price, disk_price),
        **{name: one.document for name, one in advised.items()},
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }
    bound = _bound_scatter(sample, profile, random_state)
    if bound is not None:
        document["scatter_with_bound"] = bound
    return Study(_finite(document))


def _finite(value: Any) -> Any:
    """Replace NaN and inf, which JSON does not have, by None: statistics that this data does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _split(source: Source) -> tuple[Any, Any]:
    """Return the queries that recall is predicted from, and those kept for the second measurement."""
    queries = source.queries
    if queries is None:
        return None, None
    if source.metric == "cosine":
        zeros = zero_rows(queries)
        if len(zeros) == len(queries):
            raise ValueError(
                f"queries: expected at least 1 with a direction, but all {len(zeros)} are zero vectors"
            )
    if len(queries) < _SPLIT_FROM:
        return queries, None
    return queries[::2], queries[1::2]


def _names(source: Source, sample: Sample, asked: Any) -> Any:
    """Numbers of the sample's queries in the source."""
    if asked is None:
        zeros = zero_rows(source.base) if source.metric == "cosine" else np.empty(0, dtype=np.int64)
        return np.delete(np.arange(len(source.base)), zeros)[sample.query_ids]
    assert source.queries is not None  # what was asked is a part of them
    step = 1 if len(asked) == len(source.queries) else 2
    zeros = zero_rows(asked) if source.metric == "cosine" else np.empty(0, dtype=np.int64)
    return np.delete(np.arange(0, step * len(asked), step), zeros)[sample.query_ids]


def _budgets(problem: Problem) -> list[int]:
    ladder = [-(-round(problem.dim * share * 1e6) // 1_000_000) + _FACTORS for share in _LADDER]
    first = [] if problem.bytes_per_vector is None else [problem.bytes_per_vector]
    return list(dict.fromkeys(first + ladder))


def _within(
    problem: Problem, budget: int, codecs: Sequence[str] | None, is_first: bool = False
) -> Advice | None:
    """Advise within a budget; None where it is late, or no codec is that small."""
    if problem.is_late and not is_first:
        problem.say(f"left out for time: {budget} bytes per vector")
        return None
    try:
        return choose(problem.prepared, bytes_per_vector=budget, codecs=codecs, progress=problem.say)
    except NothingFitsError:
        # Specs of the caller's own may be larger than this budget.
        if is_first and problem.bytes_per_vector is not None:
            raise
        return None


def _options(advices: Mapping[int, Advice | None], sample: Sample) -> list[dict[str, Any]]:
    """All options by bytes, each once, with the points that no other one beats marked."""
    found: dict[str, dict[str, Any]] = {}
    for budget, advice in advices.items():
        for place, option in enumerate(advice.options if advice else ()):
            if option.codec not in found or place < found[option.codec]["place"]:
                found[option.codec] = _option(option, budget, place, sample.profiles[option.codec])
    options = sorted(found.values(), key=lambda one: (one["bytes_per_vector"], -one["recall"]))
    best = -1.0
    for one in options:
        one["frontier"] = one["recall"] > best
        best = max(best, one["recall"])
    return options


def _option(option: Option, budget: int, place: int, profile: Profile) -> dict[str, Any]:
    return {
        **asdict(option),
        "recall_rescored": round(profile.recall_in(RESCORED * profile.k), 4),
        "budget": budget,
        "place": place,
        "curve": details.candidate_curve(profile),
    }


def _best(options: Sequence[dict[str, Any]], problem: Problem) -> dict[str, Any]:
    """Return the advised option: first in its budget, or that of the least budget that does."""
    leaders = [one for one in options if one["place"] == 0]
    if problem.bytes_per_vector is not None:
        return next(one for one in leaders if one["budget"] == problem.bytes_per_vector)
    reaching = [one for one in leaders if one["recall_rescored"] >= problem.target_recall]
    if reaching:
        return min(reaching, key=lambda one: one["budget"])
    return max(leaders, key=lambda one: one["recall_rescored"])


def _verify(
    problem: Problem, kept: Any, options: Sequence[dict[str, Any]], random_state: int
) -> dict[str, Any]:
    """Train again with another seed and measure with queries that the prediction has not seen."""
    wanted = sorted((one for one in options if one["place"] == 0), key=lambda one: not one["chosen"])
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    if problem.is_late:
        return {"rows": rows, "skipped": [one["codec"] for one in wanted], "queries": None, "n_queries": 0}
    problem.say("neighbours of other queries")
    source, first = problem.source, problem.prepared.sample
    if source.queries is None:
        queries, what = None, "other rows"
    elif kept is None:
        queries, what = source.queries, "the same queries, another training"
    else:
        queries, what = kept, "queries that the prediction has not seen"
    if queries is not None and source.metric == "cosine":
        queries = np.delete(queries, zero_rows(queries), axis=0)
    second = Sample(first.vectors, queries, source.metric, problem.k, random_state + 1)
    for option in wanted:
        if problem.is_late:
            skipped.append(option["codec"])
            continue
        problem.say(f"measuring again {option['codec']}")
        profile = second.profile(option["codec"])
        error = float(profile.per_query.std() / np.sqrt(len(profile.per_query)))
        rows.append(
            {
                "codec": option["codec"],
                "bytes_per_vector": option["bytes_per_vector"],
                "predicted": option["recall"],
                "measured": round(profile.recall, 4),
                "standard_error": round(error, 4),
                "predicted_rescored": option["recall_rescored"],
                "measured_rescored": round(profile.recall_in(RESCORED * problem.k), 4),
            }
        )
    return {"rows": rows, "skipped": skipped, "queries": what, "n_queries": len(second.queries)}


def _about(source: Source, sample: Sample, k: int, is_split: bool) -> dict[str, Any]:
    return {
        "name": source.origin.name,
        "kind": source.origin.kind,
        "rows": len(source.base),
        "rows_in_source": source.n_source,
        "dim": int(source.base.shape[1]),
        "metric": source.metric,
        "queries_given": 0 if source.queries is None else len(source.queries),
        "queries_used": len(sample.queries),
        "queries_are": "rows, each without itself" if source.queries is None else "given",
        "queries_kept_for_measuring": is_split,
        "compared_with": "all rows" if sample.is_whole else f"a sample of {len(sample.rows):,} rows",
        "k": k,
    }


def _storage(
    source: Source,
    best: dict[str, Any],
    advised: Mapping[str, EngineAdvice],
    ram_price: float,
    disk_price: float,
) -> dict[str, Any]:
    floats, code = 4 * int(source.base.shape[1]), best["bytes_per_vector"]
    # Each after what it replaces, with the same graph.
    stores = [
        *(store for one in advised.values() for store in one.stores),
        Store("no database: float32 with a graph", floats + GRAPH_BYTES, floats + GRAPH_BYTES),
        Store(
            f"no database: codes of {best['codec']} with a graph, float32 on disk",
            code + GRAPH_BYTES,
            floats + code + GRAPH_BYTES,
        ),
    ]
    return {
        "ram_price": ram_price,
        "disk_price": disk_price,
        "currency": "US dollars per GB (10^9 bytes) and month",
        "per_row": [asdict(store) for store in stores],
        "at": [one.as_dict() for one in scales(stores, ram_price=ram_price, disk_price=disk_price)],
    }


def _bound_scatter(sample: Sample, profile: Profile, random_state: int) -> dict[str, Any] | None:
    """Compare estimates of a codec that has an error bound, where the chosen one has none."""
    if hasattr(profile.codec, "error_bound"):
        return None
    having = [one for one in sample.profiles.values() if hasattr(one.codec, "error_bound")]
    if not having:
        return None
    return details.scatter(sample, min(having, key=lambda one: one.bytes_per_vector), random_state)
