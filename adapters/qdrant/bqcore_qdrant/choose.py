"""From predictions to the configuration: what is offered, in which order, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, cast

from bqcore_qdrant.config import OVERSAMPLING, Config, storages
from bqcore_qdrant.predict import Prediction, Sample
from bqcore_qdrant.scorers import Encoder
from bqcore_qdrant.transform import Distance, Kind, Transform
from bqcore_qdrant.versions import Version

#: What a byte on disk costs beside one in memory.
DISK_PRICE = 0.1
# A transform is taken where it gains this much; raw vectors keep a collection readable by anyone.
_WORTH = 0.005
# Oversampling that transforms of one storage are compared at.
_COMPARED = 4.0
# Under a budget, oversampling stops where it gains no more than this.
_ENOUGH = 0.002


@dataclass(frozen=True)
class Predicted:
    """Prediction of one storage under one transform."""

    kind: Kind
    distance: Distance
    config: Config
    prediction: Prediction


@dataclass(frozen=True)
class Option:
    """A configuration that is offered.

    Parameters
    ----------
    kind : {"raw", "centre", "rotate"}
        Transform.
    config : Config
    recall : float
        Predicted recall@k, rescored.
    recall_without_rescore, raw_recall : float
        By codes alone; and what raw vectors would give in the same configuration.
    bytes_ram, bytes_disk : int
        Per vector, the graph not counted: codes (or vectors without codes); primary storage and codes.
    reason : str
    """

    kind: Kind
    config: Config
    recall: float
    recall_without_rescore: float
    raw_recall: float
    bytes_ram: int
    bytes_disk: int
    reason: str

    @property
    def price(self) -> float:
        """Bytes in memory, and a tenth of those on disk."""
        return self.bytes_ram + DISK_PRICE * self.bytes_disk

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for files and JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild an option from `as_dict`."""
        return cls(**{**fields, "config": Config(**fields["config"]), "kind": cast(Kind, fields["kind"])})


def predict_all(
    sample: Sample,
    version: Version,
    random_state: int,
    progress: Callable[[str, int, int], None],
    among: Collection[str] | None = None,
) -> list[Predicted]:
    """Predict every storage that a server offers, under every transform that makes sense for it.

    Turbo codes rotate by themselves: a rotation of ours would be a second one. With `among`, only
    storages of these names are predicted.
    """
    work: list[tuple[Transform, list[Config]]] = []
    raw = Transform.fit(sample.X, sample.metric, "raw", random_state)  # type: ignore[arg-type]
    centre = Transform.fit(sample.X, sample.metric, "centre", random_state)  # type: ignore[arg-type]
    for transform in (raw, centre, replace(centre, kind="rotate")):
        # Whether it can be stored as uint8 is decided when its turn comes: it takes the transformed rows.
        groups: dict[tuple[object, ...], list[Config]] = {}
        for config in storages(version, distance=transform.distance, uint8=True):
            if transform.kind == "rotate" and config.quantizer in ("none", "turbo"):
                continue
            if among is not None and config.storage not in among:
                continue
            key = (config.datatype == "uint8", config.quantizer, config.bits, config.query_encoding)
            groups.setdefault(key, []).append(config)
        work += [(transform, groups[key]) for key in sorted(groups, key=lambda key: key[0] is True)]
    out: list[Predicted] = []
    encoder: Encoder | None = None
    for done, (transform, configs) in enumerate(work):
        progress(f"{transform.kind}, {configs[0].storage.partition('+')[0]}", done, len(work))
        if done == 0 or work[done - 1][0] is not transform:
            shown = transform.apply(sample.X)
            whole = transform.for_uint8(sample.X, shown)
            encoder = sample.encoder(transform, shown)
        if configs[0].datatype == "uint8":
            if whole is None:
                continue
            transform, encoder = whole, sample.encoder(whole, whole.rounded(shown))
        found = sample.predict(transform, configs, OVERSAMPLING, encoder)
        for config, prediction in zip(configs, found, strict=True):
            out.append(Predicted(transform.kind, transform.distance, config, prediction))
    progress("predicted", len(work), len(work))
    return out


def _best_kinds(predicted: list[Predicted]) -> list[tuple[Predicted, Prediction]]:
    """Per storage its best transform, with what raw vectors give."""
    groups: dict[str, list[Predicted]] = {}
    for one in predicted:
        groups.setdefault(one.config.storage, []).append(one)
    out = []
    for group in groups.values():
        raw = next((one for one in group if one.kind == "raw"), group[0])
        best = raw
        for one in group:
            gain = one.prediction.recall[_COMPARED] - best.prediction.recall[_COMPARED]
            blind = one.prediction.recall_without_rescore - best.prediction.recall_without_rescore
            # Where rescoring hides the difference, the codes themselves tell.
            if gain >= _WORTH or (gain > -_WORTH and blind >= 4 * _WORTH):
                best = one
        out.append((best, raw.prediction))
    return out


def best_options(
    predicted: list[Predicted],
    dim: int,
    *,
    target_recall: float | None,
    bytes_per_vector: int | None,
) -> list[Option]:
    """Return what meets the target, cheapest first, or what fits the budget, best recall first.

    Options that an earlier one beats or equals in memory, disk and oversampling are left out.

    Raises
    ------
    ValueError
        If nothing does.
    """
    found: list[Option] = []
    for one, raw in _best_kinds(predicted):
        recalls = one.prediction.recall
        if target_recall is not None:
            enough = [over for over in OVERSAMPLING if recalls[over] >= target_recall]
        else:
            enough = [over for over in OVERSAMPLING if recalls[over] >= max(recalls.values()) - _ENOUGH]
        if enough:
            found.append(_option(one, raw, min(enough), dim))
    if bytes_per_vector is not None:
        fitting = [option for option in found if option.bytes_ram <= bytes_per_vector]
        if not fitting:
            least = min(option.bytes_ram for option in found)
            raise ValueError(
                f"bytes_per_vector: expected at least {least} for {dim} dimensions, not {bytes_per_vector}"
            )
        fitting.sort(key=lambda option: (-round(option.recall, 3), option.price, option.config.oversampling))
        return _front(fitting)
    if not found:
        best = max(max(one.prediction.recall.values()) for one in predicted)
        raise ValueError(f"target_recall: expected at most {best:.3f} on this data, not {target_recall}")
    found.sort(key=lambda option: (option.price, option.config.oversampling, -option.recall))
    return _front(found)


def given_option(predicted: list[Predicted], kind: Kind, config: Config, dim: int) -> Option:
    """Return the option of a configuration that is given, of `predict_all`.

    Raises
    ------
    ValueError
        If the server does not offer it under that transform.
    """
    asked = [one for one in predicted if one.kind == kind and one.config.storage == config.storage]
    if not asked:
        raise ValueError(
            f"configuration: expected one that the server offers for this data, not {config.name!r} "
            f"on {kind} vectors"
        )
    if config.oversampling not in OVERSAMPLING:
        choices = ", ".join(f"{one:g}" for one in OVERSAMPLING)
        raise ValueError(f"oversampling: expected one of {choices}, not {config.oversampling:g}")
    same = (one for one in predicted if one.config.storage == config.storage)
    raw = next((one for one in same if one.kind == "raw"), asked[0])
    return _option(asked[0], raw.prediction, config.oversampling, dim)


def _front(options: list[Option]) -> list[Option]:
    """Leave out what an earlier option equals or beats in everything."""
    kept: list[Option] = []
    for option in options:
        if not any(
            other.bytes_ram <= option.bytes_ram
            and other.bytes_disk <= option.bytes_disk
            and other.config.oversampling <= option.config.oversampling
            for other in kept
        ):
            kept.append(option)
    return kept


def _option(one: Predicted, raw: Prediction, oversampling: float, dim: int) -> Option:
    config = replace(one.config, oversampling=oversampling)
    return Option(
        kind=one.kind,
        config=config,
        recall=round(one.prediction.recall[oversampling], 4),
        recall_without_rescore=round(one.prediction.recall_without_rescore, 4),
        raw_recall=round(raw.recall[oversampling], 4),
        bytes_ram=config.bytes_ram(dim, one.distance),
        bytes_disk=config.bytes_disk(dim, one.distance),
        reason=_reason(one, raw, config, dim),
    )


def _reason(one: Predicted, raw: Prediction, config: Config, dim: int) -> str:
    parts = []
    if config.quantizer == "none":
        parts.append(f"{config.datatype} vectors without codes")
    else:
        nbytes = config.code_bytes(dim, one.distance)
        parts.append(
            f"{config.quantizer} codes of {config.bits:g} bits, {nbytes} bytes each, "
            f"find {config.oversampling:g} times the results, rescored from {config.datatype}"
        )
    gain = one.prediction.recall[config.oversampling] - raw.recall[config.oversampling]
    blind = one.prediction.recall_without_rescore - raw.recall_without_rescore
    if one.kind == "raw":
        parts.append("vectors as they are: no transform gains enough")
    else:
        what = "centred" if one.kind == "centre" else "centred and rotated"
        parts.append(f"vectors {what}: recall {gain:+.3f} after rescoring, {blind:+.3f} before")
    if config.datatype.startswith("turbo"):
        parts.append("no floats are kept")
    return "; ".join(parts)
