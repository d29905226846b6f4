"""QdrantCodec: learns what to store and how to set up the collection, and predicts the recall."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt

from bqcore import _archive
from bqcore._validation import (
    Float32Array,
    Metric,
    as_vectors,
    check_int,
    check_metric,
    check_random_state,
    zero_rows,
)
from bqcore_qdrant.choose import Option, best_options, given_option, predict_all
from bqcore_qdrant.config import OVERSAMPLING, Config, Datatype, QueryEncoding
from bqcore_qdrant.predict import checked_sample
from bqcore_qdrant.predict_factors import predict_factors
from bqcore_qdrant.stages import factors
from bqcore_qdrant.transform import Kind, Transform, check_query
from bqcore_qdrant.versions import EDGE, Version

FORMAT, FORMAT_VERSION = "bqcore qdrant codec", 1
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fitted:
    """What a codec was fitted on.

    Parameters
    ----------
    n_total, n_sample, n_queries, n_zero : int
        Rows of the collection, rows and queries that recall was predicted from, zero rows left out.
    k : int
    """

    n_total: int
    n_sample: int
    n_queries: int
    n_zero: int
    k: int


class QdrantCodec:
    """A transform of vectors and a configuration for a Qdrant collection, chosen for data.

    Parameters
    ----------
    transform : Transform
    config : Config
    options : sequence of Option
        What it was chosen from, cheapest or best first.
    fitted : Fitted, optional
    server_version : Version
        What features it may use.
    typical_factors : tuple of float, optional
        Mean f_rescale and f_add of the rows it was fitted on: what a point without factors is scored with.
    """

    def __init__(
        self,
        transform: Transform,
        config: Config,
        options: tuple[Option, ...] = (),
        fitted: Fitted | None = None,
        server_version: Version = EDGE,
        typical_factors: tuple[float, float] | None = None,
    ) -> None:
        server_version.check(*config.needs)
        self.transform = transform
        self.config = config
        self.options = options
        self.fitted = fitted
        self.server_version = server_version
        self.typical_factors = typical_factors
        #: The file that it was saved to or read from.
        self.path: Path | None = None

    @classmethod
    def fit(
        cls,
        X: npt.ArrayLike,
        metric: str,
        *,
        target_recall: float | None = None,
        bytes_per_vector: int | None = None,
        server_version: str | Version = EDGE,
        queries: npt.ArrayLike | None = None,
        k: int = 10,
        n_total: int | None = None,
        random_state: int = 0,
        progress: Progress | None = None,
        only: tuple[Kind, Config] | None = None,
        among: Collection[str] | None = None,
    ) -> Self:
        """Choose a transform and a configuration.

        Parameters
        ----------
        X : ndarray of float32, shape (n, dim)
            The vectors, or a random sample of them. Zero rows are left out under cosine.
        metric : {"l2", "ip", "cosine"}
        target_recall : float, optional
            Cheapest configuration that reaches this recall@k. Give this or `bytes_per_vector`.
        bytes_per_vector : int, optional
            Best recall with at most so many bytes per vector in memory, the graph not counted.
        server_version : str or Version
            Such as "1.18"; by default that of the embedded engine.
        queries : ndarray of float32, shape (n_queries, dim), optional
            As users will ask; up to 500 are used. Without them rows of X, each without itself.
        k : int, default 10
        n_total : int, optional
            Rows of the whole collection where X is a sample.
        random_state : int, default 0
        progress : callable, optional
            Called with a text, steps done, steps in all.
        only : tuple, optional
            Transform ("raw", "centre", "rotate") and configuration that are taken, whatever recall they
            have, which is predicted. Neither target nor budget then.
        among : collection of str, optional
            Names of storages (`Config.storage`) to choose from; by default all that the server offers.

        Raises
        ------
        TypeError, ValueError
            If both or neither of target and budget are given, or none is met; if arrays are not finite and
            of equal dimensions.
        """
        metric = check_metric(metric)
        version = server_version if isinstance(server_version, Version) else Version.parse(server_version)
        seed = check_random_state(random_state)
        if [bytes_per_vector, target_recall, only].count(None) != 2:
            given = f"bytes_per_vector = {bytes_per_vector} and target_recall = {target_recall}"
            raise ValueError(f"expected one of bytes_per_vector and target_recall, not {given}")
        _check_target(target_recall)
        if bytes_per_vector is not None:
            bytes_per_vector = check_int(bytes_per_vector, name="bytes_per_vector", low=1)
        sample, n_zero = checked_sample(X, queries, metric, k, n_total, seed)
        say = progress or (lambda text, done, total: None)
        predicted = predict_all(sample, version, seed, say, among if only is None else [only[1].storage])
        dim = sample.X.shape[1]
        if only is not None:
            options = [given_option(predicted, *only, dim)]
        else:
            options = best_options(
                predicted, dim, target_recall=target_recall, bytes_per_vector=bytes_per_vector
            )
        best = options[0]
        transform = Transform.fit(sample.X, metric, best.kind, seed)
        if best.config.datatype == "uint8":
            transform = transform.for_uint8(sample.X) or transform
        fitted = Fitted(sample.n_total, len(sample.X), len(sample.queries), n_zero, sample.k)
        return cls(transform, best.config, tuple(options), fitted, version)

    @classmethod
    def with_factors(
        cls,
        X: npt.ArrayLike,
        metric: str,
        *,
        datatype: Datatype = "float32",
        oversampling: float = 4.0,
        target_recall: float | None = None,
        query_encoding: QueryEncoding = "scalar8bits",
        server_version: str | Version = EDGE,
        queries: npt.ArrayLike | None = None,
        k: int = 10,
        n_total: int | None = None,
        random_state: int = 0,
    ) -> Self:
        """Return a codec with RaBitQ's corrective factors in the payload: for servers without turbo codes.

        Candidates are found by binary codes of 1 bit and ordered by the RaBitQ estimate on the server, before
        any float is read. The factors take two payload fields and their indexes, some 80 bytes per point.

        Parameters
        ----------
        X : ndarray of float32, shape (n, dim)
            Vectors or a sample, which the mean is taken from and recall predicted on.
        metric : {"l2", "ip", "cosine"}
        datatype : {"float32", "float16"}
        oversampling : float, default 4
            Candidates by codes, per result, where there is no target.
        target_recall : float, optional
            The least oversampling that reaches this recall@k.
        query_encoding : {"scalar4bits", "scalar8bits"}
        server_version : str or Version
        queries, k, n_total, random_state
            As in `fit`.

        Raises
        ------
        ValueError
            If the target is out of reach, or the server lacks formula queries.
        """
        if datatype not in ("float32", "float16"):
            raise ValueError(f"datatype: expected float32 or float16 with factors, not {datatype!r}")
        if query_encoding not in ("scalar4bits", "scalar8bits"):
            raise ValueError(
                f"query_encoding: expected scalar4bits or scalar8bits with factors, not {query_encoding!r}"
            )
        version = server_version if isinstance(server_version, Version) else Version.parse(server_version)
        version.check("formula")
        _check_target(target_recall)
        metric, seed = check_metric(metric), check_random_state(random_state)
        sample, n_zero = checked_sample(X, queries, metric, k, n_total, seed)
        transform = replace(Transform.fit(sample.X, metric, "rotate", seed), factors=True)
        config = Config("binary", 1, query_encoding, datatype, oversampling)
        tried = (oversampling,) if target_recall is None else OVERSAMPLING
        found = predict_factors(sample, transform, config, tried)
        if target_recall is not None:
            enough = [over for over in tried if found.recall[over] >= target_recall]
            if not enough:
                best = max(found.recall.values())
                raise ValueError(
                    f"target_recall: expected at most {best:.3f} with factors here, not {target_recall}"
                )
            config = replace(config, oversampling=min(enough))
        plain = Transform.fit(sample.X, metric, "raw", seed)
        (raw,) = sample.predict(plain, [config], [config.oversampling])
        option = Option(
            kind="rotate",
            config=config,
            recall=round(found.recall[config.oversampling], 4),
            recall_without_rescore=round(found.recall_without_rescore, 4),
            raw_recall=round(raw.recall[config.oversampling], 4),
            bytes_ram=config.bytes_ram(transform.dim, "Dot"),
            bytes_disk=config.bytes_disk(transform.dim, "Dot"),
            reason=(
                f"binary codes of 1 bit find {config.oversampling:g} times the results, RaBitQ's factors in "
                f"the payload (some 80 bytes more) choose half of them, rescored from {datatype}"
            ),
        )
        fitted = Fitted(sample.n_total, len(sample.X), len(sample.queries), n_zero, sample.k)
        rescale, add = factors(transform, sample.X, transform.apply(sample.X)).mean(axis=0).tolist()
        return cls(transform, config, (option,), fitted, version, (rescale, add))

    def with_option(self, option: Option, X: npt.ArrayLike, random_state: int = 0) -> QdrantCodec:
        """Return a codec that uses another of the options, its mean taken from X, shape (n, dim)."""
        rows = as_vectors(X, dim=self.dim)
        transform = Transform.fit(rows, self.metric, option.kind, random_state)
        if option.config.datatype == "uint8":
            transform = transform.for_uint8(rows) or transform
        return QdrantCodec(transform, option.config, self.options, self.fitted, self.server_version)

    # ---- what it is ----

    @property
    def dim(self) -> int:
        """Dimensions of vectors."""
        return self.transform.dim

    @property
    def metric(self) -> Metric:
        """What users ask for."""
        return self.transform.metric

    @property
    def option(self) -> Option | None:
        """The chosen one of `options`, with its predicted recall; None where it was not chosen by `fit`."""
        for option in self.options:
            if option.config == self.config and option.kind == self.transform.kind:
                return option
        return None

    @property
    def hash(self) -> str:
        """Identity of the codec: transform and what is stored; 64 hexadecimal digits.

        Search parameters are left out: a codec with another oversampling reads the same collection.
        """
        text = f"bqcore qdrant codec {self.transform.hash} {self.config.storage}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def reason(self) -> str:
        """Why this configuration, in a sentence."""
        return self.option.reason if self.option else "configuration given by hand"

    def with_search(self, *, oversampling: float | None = None, hnsw_ef: int | None = None) -> QdrantCodec:
        """Return a codec of the same collection that searches it with other parameters."""
        config = replace(
            self.config,
            oversampling=self.config.oversampling if oversampling is None else oversampling,
            hnsw_ef=self.config.hnsw_ef if hnsw_ef is None else check_int(hnsw_ef, name="hnsw_ef", low=1),
        )
        return QdrantCodec(
            self.transform, config, self.options, self.fitted, self.server_version, self.typical_factors
        )

    # ---- vectors ----

    def encode(self, X: npt.ArrayLike) -> Float32Array:
        """Return what is stored for vectors, shape (n, dim).

        Raises
        ------
        TypeError, ValueError
            If dims differ, a value is not finite, or a row is zero under cosine.
        """
        rows = as_vectors(X, dim=self.dim, allow_empty=True)
        if self.metric == "cosine":
            zeros = zero_rows(rows)
            if len(zeros):
                raise ValueError(
                    f"X: expected rows with a direction under cosine, but row {zeros[0]} is a zero vector "
                    f"({len(zeros)} of {len(rows)} rows are)"
                )
        return self.transform.apply(rows)

    def encode_query(self, Q: npt.ArrayLike) -> Float32Array:
        """Return what is asked for queries, shape (n_queries, dim) or (dim,).

        Raises
        ------
        TypeError, ValueError
            If dims differ, a value is not finite, or a query is zero under cosine.
        """
        queries, single = check_query(Q, self.dim)
        if self.metric == "cosine" and len(zero_rows(queries)):
            raise ValueError("query: expected a direction under cosine, not a zero vector")
        out = self.transform.apply_query(queries)
        return out[0] if single else out

    def decode(self, V: npt.ArrayLike) -> Float32Array:
        """Return the vectors that are stored as V, shape (n, dim); unit vectors under cosine."""
        return self.transform.invert(as_vectors(V, name="V", dim=self.dim, allow_empty=True))

    # ---- files ----

    def header(self) -> dict[str, Any]:
        """Return everything but the mean, as JSON has it."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "transform": self.transform.as_dict(),
            "config": self.config.as_dict(),
            "options": [option.as_dict() for option in self.options],
            "fitted": asdict(self.fitted) if self.fitted else None,
            "server_version": str(self.server_version),
            "typical_factors": self.typical_factors,
            "hash": self.hash,
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Write the codec to a .npz file, readable by numpy alone."""
        _archive.write(Path(path), self.header(), {"mean": self.transform.mean})
        self.path = Path(path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is foreign, truncated, damaged or of a newer version; the text names the file.
        """
        with _archive.reading(Path(path), "Qdrant codec"):
            header, arrays = _archive.read(Path(path), FORMAT, FORMAT_VERSION)
            self = cls(
                Transform.from_dict(header["transform"], arrays["mean"]),
                Config(**header["config"]),
                tuple(Option.from_dict(fields) for fields in header["options"]),
                Fitted(**header["fitted"]) if header["fitted"] else None,
                Version.parse(header["server_version"]),
                tuple(header["typical_factors"]) if header.get("typical_factors") else None,
            )
            if self.hash != header["hash"]:
                raise ValueError(f"expected codec {header['hash']}, but its content is {self.hash}")
        self.path = Path(path)
        return self

    def __repr__(self) -> str:
        parts = json.dumps({"metric": self.metric, "dim": self.dim, "transform": self.transform.kind})
        return f"QdrantCodec({parts}, {self.config.name!r}, hash={self.hash[:12]})"


def _check_target(target_recall: float | None) -> None:
    if target_recall is not None and not 0 < target_recall <= 1:
        raise ValueError(f"target_recall: expected a number in (0, 1], not {target_recall}")
