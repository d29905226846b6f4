"""Learned binary codes: signs under a linear decoder, chosen by flips."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqcore import _kernels
from bqcore._validation import Float32Array, Float64Array, InputTypeError, check_int, check_random_state
from bqcore.residual_codec import ResidualCodec, UInt8Array

#: Rows that the decoder is trained on at most, at up to 512 code bits; encoding them costs n_bits**2 each.
TRAINING_ROWS = 20_000
_FULL_TRAINING_BITS = 512
# Two thirds of the rounds see a quarter of the rows where that is enough of them: half the time, and the last
# rounds make up for it.
_EARLY_PART = 4
_EARLY_ROWS_PER_BIT = 8
# The advisor leaves longer codes to others: time grows with the square of the bits.
_MAX_ADVISED_BITS = 1024
#: Passes over the signs of a code; most codes need fewer than ten.
MAX_SWEEPS = 20
# Damping of the decoder's step and of the encoder's start, as parts of the mean diagonal: the second is what
# starts nearest to the end of the flips, and is flat between .1 and .3.
_STEP_RIDGE = 1e-3
_START_RIDGE = 0.2


class LearnedBinary(ResidualCodec):
    """Sign codes s of n_bits = round(bits * dim) bits that stand for a residual o as f W's.

    W, shape (n_bits, dim), is learned; it is folded into the query once (q' = W q), so that an estimate
    costs what that of any sign code costs: <o, q> ~ f <s, q'>. The factor f = |o|^2 / <o, W's> leaves no
    error along o, which makes the estimate unbiased over directions of the query; what is left,
    |o|^2 (1 / cos^2 - 1), is least for the code of the largest cos = <o, W's> / (|o| |W's|). With g = W o and
    G = W W', a sign is flipped when <g, s>^2 / s'Gs grows.

    Training alternates between codes (flips) and decoder (least squares, with a free scale a for each vector)
    and never raises sum |o - a W's|^2.

    Parameters
    ----------
    bits : float, default 1
        Code bits per dimension, above 0 up to 8; more than one makes the code overcomplete.
    metric : {"l2", "ip", "cosine"}, default "l2"
    centroids : int, default 1
        Residuals are taken to the nearest of so many; 0 takes the origin.
    iterations : int, default 9
        Rounds of training.
    factors : {"float32", "bfloat16", "uint8"}, default "float32"
        How each of the two factors is stored.
    random_state : int, default 0

    Attributes
    ----------
    centroids_ : ndarray of float32, shape (n_lists, dim)
    decoder_ : ndarray of float32, shape (n_bits, dim)
        W.
    encoder_ : ndarray of float32, shape (n_bits, dim)
        (W W' + r I)^-1 W, whose signs the flips start from.
    losses_ : list of float
        sum |o - a W's|^2 / sum |o|^2 after each half step on all training rows: decoder, codes, decoder, ...

    References
    ----------
    Dai, Guo, Kumar, He & Song, "Stochastic Generative Hashing", ICML 2017, section 3 (binary codes with a
    linear decoder, of which inner products are taken); the code's choice under an unbiased factor is
    Gao & Long, "RaBitQ", SIGMOD 2024, equation 8, for W = I.
    """

    codec: ClassVar[str] = "learned_binary"
    idea: ClassVar[str] = "bits with a learned linear decoder"
    trains_slowly: ClassVar[bool] = True

    n_bits_: int
    decoder_: Float32Array
    encoder_: Float32Array
    losses_: list[float]

    def __init__(
        self,
        bits: float = 1,
        metric: str = "l2",
        centroids: int = 1,
        iterations: int = 9,
        factors: str = "float32",
        random_state: int = 0,
    ) -> None:
        self.bits = bits
        self.metric = metric
        self.centroids = centroids
        self.iterations = iterations
        self.factors = factors
        self.random_state = random_state

    @classmethod
    def settings(cls, dim: int, n: int, nbytes: int) -> list[dict[str, Any]]:
        """Return what fills `nbytes`, with one list and with 256; overcomplete codes lose to `SAQ`."""
        found: list[dict[str, Any]] = []
        for lists in (1, 256):
            n_bits = 8 * (nbytes - 2 - (lists > 1))
            if 0 < n_bits <= min(1.25 * dim, _MAX_ADVISED_BITS) and n >= 16 * lists:
                found.append({"bits": n_bits / dim, "centroids": lists, "factors": "uint8"})
        return found

    def _fit(self, X: Float32Array) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, Real):
            raise InputTypeError(f"bits: expected a number, not {self.bits!r}")
        if not 0 < self.bits <= 8:
            raise ValueError(f"bits: expected a number above 0 and up to 8, not {self.bits}")
        check_int(self.iterations, name="iterations", low=1)
        check_random_state(self.random_state)
        self.n_bits_ = max(1, round(float(self.bits) * self.dim_))
        super()._fit(X)

    def _train(self, residuals: Float32Array) -> None:
        rng = np.random.default_rng(self.random_state)
        share = min(1.0, (_FULL_TRAINING_BITS / self.n_bits_) ** 2)
        n = min(len(residuals), max(2 * self.n_bits_, int(TRAINING_ROWS * share)))
        rows = residuals[np.sort(rng.choice(len(residuals), n, replace=False))]
        # Random directions of the data's own covariance: axes of no variance get no bits.
        directions: Float32Array = rng.standard_normal((self.n_bits_, n)).astype(np.float32) @ rows
        decoder = np.zeros((self.n_bits_, self.dim_))
        self.losses_ = []
        rounds = self.iterations if rows.any() else 0
        early, few = rounds * 2 // 3, n // _EARLY_PART
        if few >= _EARLY_ROWS_PER_BIT * self.n_bits_:
            part = rows[rng.choice(n, few, replace=False)]
            decoder = self._alternate(part, part @ directions.T, decoder, early)
            rounds -= early
        directions = self.encoder_ if decoder.any() else directions
        decoder = self._alternate(rows, rows @ directions.T, decoder, rounds)
        self._set_decoder(decoder)

    def _alternate(
        self, rows: Float32Array, start: Float32Array, decoder: Float64Array, rounds: int
    ) -> Float64Array:
        """Train on rows, first codes from the signs of `start` (n, n_bits); return W and set the losses."""
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        total = squares.sum()
        if decoder.any():
            signs, gs, sgs = self._nearest_codes(rows @ self.decoder_.T, start)
            scales = _scales(gs, sgs)
        else:
            signs, scales = np.where(start > 0, np.int8(1), np.int8(-1)), np.sqrt(squares / self.n_bits_)
        self.losses_ = []
        for _ in range(rounds):
            decoder = _decoder_step(rows, signs, scales, decoder)
            self.losses_.append(float(_loss(rows, signs, scales, decoder) / total))
            self._set_decoder(decoder)
            signs, gs, sgs = self._nearest_codes(rows @ self.decoder_.T, rows @ self.encoder_.T, signs)
            scales = _scales(gs, sgs)
            self.losses_.append(float(_loss(rows, signs, scales, decoder) / total))
        return decoder

    def _set_decoder(self, decoder: Float64Array) -> None:
        self.decoder_ = decoder.astype(np.float32)
        gram = decoder @ decoder.T
        ridge = _START_RIDGE * np.trace(gram) / self.n_bits_ or 1.0
        gram[np.diag_indices(self.n_bits_)] += ridge
        self.encoder_ = np.linalg.solve(gram, decoder).astype(np.float32)
        self._gram = _kernels.matmul(self.decoder_, self.decoder_)

    def _nearest_codes(
        self,
        g: Float32Array,
        start: Float32Array,
        known: npt.NDArray[np.int8] | None = None,
    ) -> tuple[npt.NDArray[np.int8], Float64Array, Float64Array]:
        """Return signs, <g,s> and s'Gs of each row, from the signs of `start` or, if better, the codes known.

        Parameters
        ----------
        g, start : ndarray of float32, shape (n, n_bits)
            Rows times decoder and encoder.
        known : ndarray of int8, shape (n, n_bits), optional
        """
        signs = np.where(start > 0, np.int8(1), np.int8(-1))
        gs, sgs = _kernels.flip(self._gram, g, signs, MAX_SWEEPS)
        if known is None:
            return signs, gs, sgs
        known = known.copy()
        known_gs, known_sgs = _kernels.flip(self._gram, g, known, MAX_SWEEPS)
        kept = (known_gs > 0) & ~((gs > 0) & (gs**2 * known_sgs > known_gs**2 * sgs))
        pick = kept[:, np.newaxis]
        return np.where(pick, known, signs), np.where(kept, known_gs, gs), np.where(kept, known_sgs, sgs)

    def _restore(self) -> None:
        self._gram = _kernels.matmul(self.decoder_, self.decoder_)
        super()._restore()

    @property
    def code_nbytes(self) -> int:
        """Bytes of one packed code: ceil(n_bits / 8)."""
        return -(-self.n_bits_ // 8)

    def _quantize(self, residuals: Float32Array) -> tuple[UInt8Array, Float64Array]:
        # The kernel's products of a row do not depend on the rows beside it, as BLAS's do.
        g, start = (_kernels.matmul(residuals, matrix) for matrix in (self.decoder_, self.encoder_))
        signs, gs, _ = self._nearest_codes(g, start)
        squares = np.einsum("ij,ij->i", residuals, residuals, dtype=np.float64)
        f = np.divide(squares, gs, out=np.zeros(len(gs)), where=gs > 0)
        return np.packbits(signs > 0, axis=1, bitorder="little"), f

    def _values(self, packed: UInt8Array) -> Float32Array:
        values = np.unpackbits(packed, axis=1, count=self.n_bits_, bitorder="little").astype(np.float32)
        values *= 2
        values -= 1
        return values

    def _fold(self, Q: Float32Array) -> Float32Array:
        return _kernels.matmul(Q, self.decoder_)

    def _unfold(self, values: Float32Array) -> Float32Array:
        return values @ self.decoder_


def _scales(gs: Float64Array, sgs: Float64Array) -> Float64Array:
    """Return the a of least |o - a W's|, not below 0, shape (n,)."""
    return np.divide(gs, sgs, out=np.zeros(len(gs)), where=(gs > 0) & (sgs > 0))


def _decoder_step(
    residuals: Float32Array,
    signs: npt.NDArray[np.int8],
    scales: Float64Array,
    decoder: Float64Array,
) -> Float64Array:
    """Return the W that minimises sum |o - a W's|^2 + r |W - decoder|^2.

    The ridge holds directions that no code tells apart; about the last decoder, it cannot raise the loss.
    """
    S = signs.astype(np.float32) * scales[:, np.newaxis].astype(np.float32)
    normal = (S.T @ S).astype(np.float64)
    right = (S.T @ residuals).astype(np.float64) - normal @ decoder
    normal[np.diag_indices(len(normal))] += _STEP_RIDGE * np.trace(normal) / len(normal) or 1.0
    return np.asarray(decoder + np.linalg.solve(normal, right), dtype=np.float64)


def _loss(
    residuals: Float32Array,
    signs: npt.NDArray[np.int8],
    scales: Float64Array,
    decoder: Float64Array,
) -> float:
    decoded = signs.astype(np.float32) @ decoder.astype(np.float32)
    decoded *= scales[:, np.newaxis].astype(np.float32)
    decoded -= residuals
    return float(np.einsum("ij,ij->", decoded, decoded, dtype=np.float64))


def score_aware_signs(
    X: Float32Array,
    eta: float = 1.0,
    *,
    query_covariance: Float64Array | None = None,
    factor: float | None = None,
) -> npt.NDArray[np.int8]:
    """Sign codes by the plain score-aware flip rule, without a learned decoder.

    A sign is flipped, starting from sign(x), while the score-aware loss e'Ce + (eta - 1) <e, x>^2 / |x|^2 of
    the error e = x - f s falls. The unbiased factor f = |x|^2 / <x, s> sets <e, x> = 0 for every code: eta
    drops out, and |e|^2 is least for the largest <x, s>, so that under C = I the rule changes nothing. It
    changes codes only where vectors share a factor that is too large for them, or under queries that are not
    isotropic.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
    eta : float, default 1
        Weight of the error along x, at least 0.
    query_covariance : ndarray of float64, shape (dim, dim), optional
        C; identity unless given.
    factor : float, optional
        f, the same for all vectors; the unbiased one of every code unless given.

    Returns
    -------
    ndarray of int8, shape (n, dim)
        +1 and -1; the sign of 0 is -1.

    References
    ----------
    Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020, theorem
    3.2 (the loss).
    """
    dim = X.shape[1]
    C = np.eye(dim) if query_covariance is None else query_covariance
    out = np.where(X > 0, np.int8(1), np.int8(-1))
    for x, s in zip(np.asarray(X, dtype=np.float64), out, strict=True):
        squared = x @ x
        if squared == 0:
            continue
        M = C + (eta - 1) * np.outer(x, x) / squared
        mx, xmx = M @ x, x @ M @ x
        ms = M @ s
        while True:
            xs = x @ s - 2 * np.append(s * x, 0)  # of every code one flip away, and of the code itself
            xms = mx @ s - 2 * np.append(s * mx, 0)
            sms = s @ ms - 4 * np.append(s * ms - np.diagonal(M), 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                f = squared / xs if factor is None else factor
                losses = np.where(xs > 0, xmx - 2 * f * xms + f * f * sms, np.inf)
            best = int(np.argmin(losses))
            if not losses[best] < losses[dim] - 1e-12 * xmx:
                break
            s[best] *= -1
            ms += 2 * s[best] * M[:, best]
    return out
