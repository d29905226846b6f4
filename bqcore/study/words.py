"""What statistics of a data set mean, in sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from bqcore.diagnosis import Diagnosis, gaussian_l1_ratio
from bqcore.study.coordinates import Coordinates

Level = Literal["good", "note", "warning"]

# Shares from which on a finding is worth a word: a mean below 2 % of the squared norm moves recall by less
# than the noise of its measurement, and norms within 1 % of each other order rows alike under every metric.
_MEAN_SHARE, _NORM_CV, _UNEVEN = 0.02, 0.01, 0.5
_FEW_EFFECTIVE = 0.25


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Parameters
    ----------
    topic : str
        A word or two.
    level : {"good", "note", "warning"}
    value : str
        The number it rests on, with its unit.
    text : str
        What follows from it.
    """

    topic: str
    level: Level
    value: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


def findings(diagnosis: Diagnosis, coordinates: Coordinates, n_dropped: tuple[int, int]) -> list[Finding]:
    """Say what was found, in the order in which codecs care.

    Parameters
    ----------
    diagnosis : Diagnosis
    coordinates : Coordinates
    n_dropped : tuple of int
        Rows of base and queries left out because they are not finite.

    Returns
    -------
    list of Finding
    """
    parts = [
        _rotation(diagnosis),
        _mean(diagnosis),
        _heterogeneity(diagnosis),
        _effective(diagnosis),
        _norms(diagnosis),
    ]
    if diagnosis.n_dead:
        parts.append(
            Finding(
                "dead coordinates",
                "note",
                f"{diagnosis.n_dead} of {diagnosis.dim}",
                "They hold no information. Codecs here never divide by a coordinate's own variance, so they "
                "do no harm; a basis that follows the variance spends no bits on them.",
            )
        )
    if len(coordinates.bimodal):
        parts.append(_bimodal(diagnosis, coordinates))
    if diagnosis.n_duplicate:
        parts.append(_duplicates(diagnosis))
    if diagnosis.n_zero:
        parts.append(_zeros(diagnosis))
    if any(n_dropped):
        parts.append(
            Finding(
                "invalid rows",
                "warning",
                f"{n_dropped[0]:,} rows, {n_dropped[1]:,} queries",
                "They hold NaN, inf or more than float32 can, and were left out here. Databases refuse them: "
                "leave them out of the load too.",
            )
        )
    return parts


def _rotation(diagnosis: Diagnosis) -> Finding:
    expected = gaussian_l1_ratio(max(1, diagnosis.dim - diagnosis.n_dead))
    value = f"l1 ratio {diagnosis.l1_ratio:.3f}, Gaussian {expected:.3f}"
    texts = {
        "rotate": "Rotate: values crowd around zero and a few are large; a rotation spreads them, and sign "
        "codes then keep more.",
        "keep": "Do not rotate: values are near plus or minus one size already, which is what sign codes "
        "store; a rotation would blur that.",
        "neutral": "A rotation neither gains nor loses much by this measure; the options below were measured "
        "both ways.",
    }
    return Finding("rotation", "note", value, texts[diagnosis.rotation])


def _mean(diagnosis: Diagnosis) -> Finding:
    value = f"{diagnosis.mean_share:.1%} of the squared norm"
    if diagnosis.mean_share < _MEAN_SHARE:
        return Finding("common mean", "good", value, "No need to centre: signs are balanced as they are.")
    text = (
        "Centre: the mean is common to all rows and tells none from another, but signs of uncentred "
        f"coordinates mostly repeat it (they carry {diagnosis.sign_entropy:.2f} bits each, of 1). "
        "Every codec here centres by itself."
    )
    return Finding("common mean", "warning" if diagnosis.mean_share > 0.2 else "note", value, text)


def _heterogeneity(diagnosis: Diagnosis) -> Finding:
    value = f"coefficient of variation {diagnosis.coordinate_cv:.2f}"
    if diagnosis.coordinate_cv < _UNEVEN:
        text = "Coordinates vary about alike: the same bits for each of them are well spent."
        return Finding("heterogeneity", "good", value, text)
    text = (
        "Coordinates vary unequally: codes of one size for all waste bits on the quiet ones. A rotation "
        "evens them out, and codecs that allocate bits by variance (saq) gain from it."
    )
    return Finding("heterogeneity", "note", value, text)


def _effective(diagnosis: Diagnosis) -> Finding:
    live = max(1, diagnosis.dim - diagnosis.n_dead)
    share = diagnosis.effective_dim / live
    value = f"{diagnosis.effective_dim:.0f} of {live}, intrinsic {diagnosis.intrinsic_dim:.0f}"
    if share < _FEW_EFFECTIVE:
        text = (
            "Few directions hold most of the variance: a basis that follows them and spends bits there "
            "(saq), or learned codewords (pq), beats one bit for each coordinate."
        )
    else:
        text = "The variance is spread over many directions: codes of all coordinates are the right tool."
    return Finding("effective dimension", "note", value, text)


def _norms(diagnosis: Diagnosis) -> Finding:
    value = f"mean {diagnosis.mean_norm:.4g}, coefficient of variation {diagnosis.norm_cv:.3f}"
    if diagnosis.norm_cv < _NORM_CV:
        text = "Norms are equal: l2, ip and cosine put rows in the same order."
        return Finding("norms", "good", value, text)
    texts = {
        "cosine": "Norms vary and cosine ignores them: vectors are normalised before anything is learned. "
        "If norms carry meaning in your data, cosine is the wrong metric.",
        "l2": "Norms vary and take part in the distance: codes store each one's residual norm.",
        "ip": "Norms vary, so that under inner product long rows win often. Keep ip where that is meant; "
        "where it is not, use cosine. Plain sign codes fail here, those with corrective factors do not.",
    }
    return Finding("norms", "warning" if diagnosis.metric == "ip" else "note", value, texts[diagnosis.metric])


def _bimodal(diagnosis: Diagnosis, coordinates: Coordinates) -> Finding:
    n = len(coordinates.bimodal)
    shown = ", ".join(str(i) for i in coordinates.bimodal[:8])
    text = (
        f"Their values lie in two heaps (coordinates {shown}{', ...' if n > 8 else ''}): one bit stores "
        "most of what they say, as long as no rotation mixes them with others."
    )
    return Finding("bimodal coordinates", "note", f"{n} of {diagnosis.dim}", text)


def _duplicates(diagnosis: Diagnosis) -> Finding:
    share = diagnosis.n_duplicate / diagnosis.n
    text = (
        "Rows equal to an earlier one share a code and a distance: which of them is returned is chance. "
        "Recall counts each of them as found."
    )
    level: Level = "warning" if share > 0.05 else "note"
    return Finding("duplicates", level, f"about {diagnosis.n_duplicate:,} ({share:.1%})", text)


def _zeros(diagnosis: Diagnosis) -> Finding:
    text = {
        "cosine": "A zero vector has no cosine: it was left out here, pgvector does not index it, and the "
        "Qdrant adapter wants --keep-zero to accept it.",
        "l2": "Allowed under l2, but usually a sign of missing embeddings.",
        "ip": "Allowed under ip, where they score 0 for every query; usually a sign of missing embeddings.",
    }[diagnosis.metric]
    return Finding("zero vectors", "warning", f"{diagnosis.n_zero:,}", text)
