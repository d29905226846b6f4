"""Choose a codec for a data set: screened by local fidelity, settled by recall, with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bqcore._validation import as_vectors, check_int, check_metric, check_random_state, zero_rows
from bqcore.centroids import can_cluster
from bqcore.codec import Codec
from bqcore.codec_sample import Sample, Screened
from bqcore.diagnosis import Diagnosis, diagnose
from bqcore.registry import CODECS, codec_class, make_codec, parse_spec

Progress = Callable[[str], None]

#: recall@k that is aimed at where nothing is said.
TARGET_RECALL = 0.95

# Candidates of a budget that are settled by recall: the best by local fidelity, as far as what they leave
# unexplained is less than so many times the best one's. At a recall of .85, 1.5 times as much cost .02.
_FINALISTS, _MARGIN = 3, 2.0
# Without queries of users' own, a rotated codec has to predict so much less than its unrotated twin to stand
# behind it: two standard errors of the difference, and real queries profit from a rotation no less than rows.
_ROTATION_LEAD = 0.015
# Above this local fidelity recall is beyond .96, and codecs that train slowly cannot add .01 to it.
_GOOD_ENOUGH = 0.997
# Sets of more coordinates are advised without codecs that train slowly: they take minutes there, and their
# lead shrinks as vectors outnumber codewords (.02 of recall at 10,000 vectors; .001 at 55,000 of 384
# dimensions, for two minutes).
_SLOW_COORDINATES = 9_000_000
# Codecs measured at a time: kernels and numpy let go of the interpreter.
_THREADS = 2
# Bytes per dimension that are tried for a target recall, smallest first.
_BUDGETS = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 1)


class NothingFitsError(ValueError):
    """No codec is as small as the budget of bytes."""


@dataclass(frozen=True)
class Option:
    """One codec with what it will do.

    Parameters
    ----------
    codec : str
        Spec for `make_codec` and ``bqcore eval``.
    bytes_per_vector : int
        Code, corrective factors and list id.
    recall : float
        Predicted share of the k nearest among the first k by estimate, without rescoring.
    oversampling : float
        Candidates per wanted row that hold 99 % of the k nearest: what rescoring has to look at.
    fidelity : float
        Correlation of exact with estimated scores over all pairs (`theory.plug_in_fidelity`).
    local_fidelity : float
        The same among each query's 100 nearest rows, which is what orders codecs by recall.
    reason : str
        Why it stands where it stands.
    """

    codec: str
    bytes_per_vector: int
    recall: float
    oversampling: float
    fidelity: float
    local_fidelity: float
    reason: str


@dataclass(frozen=True)
class Advice:
    """Ranked options for a data set.

    Parameters
    ----------
    options : tuple of Option
        Best first: by recall within a budget of bytes, or by bytes among those that reach a target recall.
        Without queries a rotated codec stands before its unrotated twin of up to .015 more.
    diagnosis : Diagnosis
    k : int
    n_queries, n_rows : int
        What recall was predicted from: queries, and the rows that they were compared with.
    metric : {"l2", "ip", "cosine"}
    """

    options: tuple[Option, ...]
    diagnosis: Diagnosis
    k: int
    n_queries: int
    n_rows: int
    metric: str

    @property
    def best(self) -> Option:
        """The first option."""
        return self.options[0]

    def codec(self) -> Codec:
        """Return the codec of the first option, unfitted."""
        return make_codec(self.best.codec, metric=self.metric)

    def __repr__(self) -> str:
        lines = [f"Advice({len(self.options)} options, recall@{self.k} from {self.n_queries:,} queries)"]
        lines += [
            f"  {one.codec}: {one.bytes_per_vector} bytes, recall {one.recall:.3f}, "
            f"99 % within {one.oversampling:g} x k candidates"
            for one in self.options
        ]
        return "\n".join(lines)


def candidate_specs(dim: int, n: int, nbytes: int) -> list[str]:
    """Return specs of all codecs, with the settings they propose for at most `nbytes` bytes per vector.

    Parameters
    ----------
    dim, n : int
        Dimensions and number of the vectors.
    nbytes : int

    Returns
    -------
    list of str
        What they store exactly is known after training. Those that cannot be trained here are left out.
    """
    found = []
    can_cluster_here = can_cluster()
    for name in CODECS:
        cls = codec_class(name)
        for settings in cls.settings(dim, n, nbytes):
            if can_cluster_here or not cls.needs_clustering(settings):
                found.append(f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})")
    return found


def advise(
    X: npt.ArrayLike,
    queries: npt.ArrayLike | None = None,
    metric: str = "l2",
    *,
    bytes_per_vector: int | None = None,
    target_recall: float | None = None,
    k: int = 10,
    codecs: Sequence[str] | None = None,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Advice:
    """Recommend codecs for X.

    Exact neighbours of a sample of queries are found among all rows. Candidates are trained on 8,000 to
    20,000 rows and screened by local fidelity, the quick ones first: of codecs that train slowly only those
    with the number of lists that served the quick ones better, and none where X has more than 9 million
    coordinates (name them in `codecs`); of a codec's forms of factors the best. The best are trained on up to
    65,536 rows, and their recall is measured. Up to 100,000 rows of 400 dimensions this is the recall of up
    to 1,000 queries over all rows, with a standard error of .004. Beyond it, 300 queries are compared
    with their 200 nearest rows and 20,000 others, each of which stands for n / 20,000 rows: a standard error
    of .007 and more where rows from beyond the nearest 200 come first, which is where recall is below .5.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
        Zero rows are left out under cosine.
    queries : ndarray of float32, shape (n_queries, dim), optional
        As users will ask; at most 1,000 are used. Without them rows of X are, each without itself.
    metric : {"l2", "ip", "cosine"}, default "l2"
    bytes_per_vector : int, optional
        Best recall within this many bytes per vector, corrective factors and list id included.
    target_recall : float, optional
        Fewest bytes that reach this recall without rescoring. Give this or `bytes_per_vector`; .95 where
        neither is given.
    k : int, default 10
    codecs : sequence of str, optional
        Specs to choose from, all of which are measured; by default what the codecs themselves propose.
    random_state : int, default 0
    progress : callable, optional
        Called with a line before every step, from two threads.

    Returns
    -------
    Advice

    Raises
    ------
    TypeError, ValueError
        If both `bytes_per_vector` and `target_recall` are given, no codec fits the budget or reaches the
        target, there are fewer than 2 rows, or arrays are not finite and of equal dimensions.
    """
    if bytes_per_vector is None and target_recall is None:
        target_recall = TARGET_RECALL
    _check_goal(bytes_per_vector, target_recall)
    prepared = prepare(X, queries, metric, k=k, random_state=random_state, progress=progress)
    return choose(
        prepared,
        bytes_per_vector=bytes_per_vector,
        target_recall=target_recall,
        codecs=codecs,
        progress=progress,
    )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set with its diagnosis and its sample: what several budgets share."""

    diagnosis: Diagnosis
    sample: Sample


def prepare(
    X: npt.ArrayLike,
    queries: npt.ArrayLike | None = None,
    metric: str = "l2",
    *,
    k: int = 10,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Prepared:
    """Diagnose X and find the exact neighbours of a sample of queries; arguments and errors as `advise`."""
    metric = check_metric(metric)
    vectors = as_vectors(X)
    seed = check_random_state(random_state)
    say = progress or (lambda text: None)
    say("statistics of the data")
    diagnosis = diagnose(vectors, metric, seed)
    if metric == "cosine":
        vectors = np.delete(vectors, zero_rows(vectors), axis=0) if diagnosis.n_zero else vectors
    n, dim = vectors.shape
    if n < 2:
        raise ValueError(f"X: expected at least 2 rows, not {n}")
    k = check_int(k, name="k", low=1, high=n - 1)
    asked = None
    if queries is not None:
        asked = as_vectors(queries, name="queries", dim=dim)
        if metric == "cosine":
            asked = np.delete(asked, zero_rows(asked), axis=0)
    say("exact neighbours")
    return Prepared(diagnosis, Sample(vectors, asked, metric, k, seed))


def choose(
    prepared: Prepared,
    *,
    bytes_per_vector: int | None = None,
    target_recall: float | None = None,
    codecs: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Recommend codecs for prepared data; arguments, result and errors as `advise`."""
    sample, diagnosis = prepared.sample, prepared.diagnosis
    _check_goal(bytes_per_vector, target_recall)
    say = progress or (lambda text: None)
    if bytes_per_vector is not None:
        limit = check_int(bytes_per_vector, name="bytes_per_vector", low=1)
        options = _within(sample, codecs, limit, diagnosis, say)
        if not options:
            raise NothingFitsError(
                f"bytes_per_vector: no codec stores {diagnosis.dim} dimensions in {limit} bytes"
            )
    else:
        assert target_recall is not None
        options = _reaching(sample, codecs, target_recall, diagnosis, say)
    return Advice(tuple(options), diagnosis, sample.k, len(sample.queries), len(sample.rows), sample.metric)


def _check_goal(bytes_per_vector: int | None, target_recall: float | None) -> None:
    if (bytes_per_vector is None) == (target_recall is None):
        given = f"bytes_per_vector = {bytes_per_vector} and target_recall = {target_recall}"
        raise ValueError(f"expected one of bytes_per_vector and target_recall, not {given}")
    if target_recall is not None and not 0 < target_recall <= 1:
        raise ValueError(f"target_recall: expected a number in (0, 1], not {target_recall}")


def _within(
    sample: Sample, specs: Sequence[str] | None, limit: int, diagnosis: Diagnosis, say: Progress
) -> list[Option]:
    """Options of at most `limit` bytes, best recall first: all of `specs`, or the best that are proposed."""
    if specs is not None:
        screened = _screen(sample, specs, limit, say)
    else:
        proposed = candidate_specs(diagnosis.dim, diagnosis.n, limit)
        slow = [spec for spec in proposed if _trains_slowly(spec)]
        quick = [spec for spec in proposed if spec not in slow]
        screened = _screen_forms(sample, [spec for spec in quick if _lists(spec) == 1], limit, say)
        several = _with_factors([spec for spec in quick if _lists(spec) > 1], screened)
        screened += _screen(sample, several, limit, say)
        screened.sort(key=lambda one: -one.local_fidelity)
        if screened and diagnosis.n * diagnosis.dim > _SLOW_COORDINATES:
            slow = []
        if not screened or screened[0].local_fidelity < _GOOD_ENOUGH:
            lists = _lists(screened[0].spec) if screened else 1
            screened += _screen(sample, _with_lists(slow, lists), limit, say)
            screened.sort(key=lambda one: -one.local_fidelity)
        screened = _finalists(screened)

    def measured(one: Screened) -> Option:
        say(f"measuring {one.spec}")
        return _option(one, *sample.settle(one.spec), diagnosis)

    with ThreadPoolExecutor(_THREADS) as pool:
        options = list(pool.map(measured, screened))
    options.sort(key=lambda option: (-option.recall, option.bytes_per_vector))
    return options if sample.has_queries else _rotated_first(options)


def _finalists(screened: list[Screened]) -> list[Screened]:
    """Return those worth measuring: the best of those that train slowly and of a codec's forms of factors."""
    slow = [one for one in screened if _trains_slowly(one.spec)]
    kinds = [(parse_spec(one.spec)[0], _lists(one.spec)) for one in screened]
    left = [
        one
        for i, one in enumerate(screened)
        if one not in slow[1:] and not (_factors(one.spec) and kinds[i] in kinds[:i])
    ]
    return [
        one for one in left[:_FINALISTS] if 1 - one.local_fidelity <= _MARGIN * (1 - left[0].local_fidelity)
    ]


def _rotated_first(options: list[Option]) -> list[Option]:
    """Put rotated codecs before their unrotated twins where it is too close to tell."""
    out = list(options)
    for kept in options:
        for rotated in options:
            close = 0 <= kept.recall - rotated.recall < _ROTATION_LEAD
            if close and _is_twin(kept.codec, rotated.codec) and out.index(kept) < out.index(rotated):
                out.remove(rotated)
                out.insert(out.index(kept), rotated)
    return out


def _is_twin(kept: str, rotated: str) -> bool:
    """Whether two specs differ in nothing but that the second one rotates."""
    params = [make_codec(spec).get_params() for spec in (kept, rotated)]
    found = [one.pop("rotation", None) for one in params]
    same = parse_spec(kept)[0] == parse_spec(rotated)[0] and params[0] == params[1]
    return same and found == ["none", "hadamard"]


def _screen(sample: Sample, specs: Sequence[str], limit: int, say: Progress) -> list[Screened]:
    """Specs of at most `limit` bytes, best local fidelity first."""
    screened = []
    for spec in specs:
        say(f"screening {spec}")
        one = sample.screen(spec)
        if one.bytes_per_vector <= limit:
            screened.append(one)
    return sorted(screened, key=lambda one: -one.local_fidelity)


def _screen_forms(sample: Sample, specs: Sequence[str], limit: int, say: Progress) -> list[Screened]:
    """As `_screen`; of a codec's forms of factors, finer ones follow only as long as they do better."""
    found: list[Screened] = []
    by_codec: dict[str, list[float]] = {}
    for spec in specs:
        so_far = by_codec.setdefault(parse_spec(spec)[0], []) if _factors(spec) else []
        if len(so_far) > 1 and so_far[-1] <= so_far[-2]:
            continue
        one = _screen(sample, [spec], limit, say)
        found += one
        so_far += [each.local_fidelity for each in one]
    return sorted(found, key=lambda one: -one.local_fidelity)


def _trains_slowly(spec: str) -> bool:
    return codec_class(parse_spec(spec)[0]).trains_slowly


def _lists(spec: str) -> int:
    return int(parse_spec(spec)[2].get("centroids", 1))


def _factors(spec: str) -> str | None:
    """Form of factors that a spec names."""
    found = parse_spec(spec)[2].get("factors")
    return None if found is None else str(found)


def _with_factors(specs: Sequence[str], screened: Sequence[Screened]) -> list[str]:
    """Specs without the forms of factors that did worse than another of the codec; best screened first."""
    best: dict[str, str | None] = {}
    for one in screened:
        best.setdefault(parse_spec(one.spec)[0], _factors(one.spec))
    return [spec for spec in specs if _factors(spec) == best.get(parse_spec(spec)[0], _factors(spec))]


def _with_lists(specs: Sequence[str], lists: int) -> list[str]:
    """Specs with so many lists; of a codec that has none of them, all."""
    having = {parse_spec(spec)[0] for spec in specs if _lists(spec) == lists}
    return [spec for spec in specs if _lists(spec) == lists or parse_spec(spec)[0] not in having]


def _reaching(
    sample: Sample, specs: Sequence[str] | None, target: float, diagnosis: Diagnosis, say: Progress
) -> list[Option]:
    """Options that reach a recall, fewest bytes first: budgets rise until one holds them."""
    dim = diagnosis.dim
    if specs is not None:
        options = _within(sample, specs, 1 << 62, diagnosis, say)
    else:
        options = []
        for share in _BUDGETS:
            limit = round(dim * share) + 8
            options += _within(sample, None, limit, diagnosis, say)
            if any(option.recall >= target for option in options):
                break
    best = max((option.recall for option in options), default=0.0)
    reached = [option for option in options if option.recall >= target]
    if not reached:
        raise ValueError(f"target_recall: expected at most {best:.3f} of these codecs, not {target}")
    return sorted(reached, key=lambda option: (option.bytes_per_vector, -option.recall))


def _option(one: Screened, measured: float, oversampling: float, diagnosis: Diagnosis) -> Option:
    return Option(
        codec=one.spec,
        bytes_per_vector=one.bytes_per_vector,
        recall=round(measured, 4),
        oversampling=oversampling,
        fidelity=round(one.fidelity, 4),
        local_fidelity=round(one.local_fidelity, 4),
        reason=_reason(one.spec, diagnosis),
    )


def _reason(spec: str, diagnosis: Diagnosis) -> str:
    """One sentence: what the codec does, and what of the data it uses."""
    name, _, _ = parse_spec(spec)
    settings = make_codec(spec).get_params()
    live = diagnosis.dim - diagnosis.n_dead
    parts = [codec_class(name).idea]
    if name in ("saq", "scalar"):
        parts.append(f"the variance counts for {diagnosis.effective_dim:.0f} of {live} dimensions")
    if settings.get("rotation") == "none":
        parts.append(f"axes are kept (l1 ratio {diagnosis.l1_ratio:.3f})")
    if settings.get("centroids", 1) > 1:
        parts.append(f"what {settings['centroids']} centroids explain costs a byte or two")
    elif diagnosis.mean_share > 0.2:
        parts.append(f"centring removes the common mean, {diagnosis.mean_share:.0%} of the squared norm")
    return "; ".join(parts)
