"""Measure the frontier of recall, bytes and time over codecs, bits, bases, centroids and rescoring tiers."""

from __future__ import annotations

from bqcore.tune.tune import Tuning, tune

__all__ = ["Tuning", "tune"]
