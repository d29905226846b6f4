"""SEARCH: the codes that a scan's candidates are rescored from."""

from __future__ import annotations

import numpy as np

from bqcore._ffi import Float32Array, _check
from bqcore._scan import NONE, Index, UInt32Array
from bqcore._scan_queries import Queries
from bqcore.rescore import Tier
from bqcore.scan_codecs import view
from bqcore.scan_layout import blocks_of, tier_layout


class ScanTier:
    """What candidates are rescored from: codes without blocks."""

    def __init__(self, tier: Tier) -> None:
        self.view = view(tier.codec)
        if self.view.model is None:
            raise ValueError(f"tier: expected codes of rabitq or saq, not of {tier.codec.codec}")
        blocks = blocks_of(self.view, tier.codes, tier_layout(self.view, tier.codes), 0)
        self.index = Index(blocks, None, self.view.model)
        self.rooms: list[Queries] = []

    def room(self) -> Queries:
        """Return room for one query that no thread is in; the caller brings it back."""
        try:
            return self.rooms.pop()
        except IndexError:
            return self.index.room(1, self.view.z_nbytes)

    def rescored(self, Q: Float32Array, candidates: UInt32Array, k: int) -> tuple[Float32Array, UInt32Array]:
        """Return distances and ids of the k best candidates, shape (n_queries, k), ids in uint32."""
        room = self.room()
        parts = []
        for i, listed in enumerate(candidates):
            _check(self.index.prepare(room, Q[i : i + 1], 0.0))
            parts.append(
                self.index.blocks.search_listed(room, k, np.ascontiguousarray(listed[listed != NONE]))
            )
        self.rooms.append(room)
        return np.concatenate([one[0] for one in parts]), np.concatenate([one[1] for one in parts])
