"""Bytes and cost of options at sizes that people ask about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

#: Rows that bytes are told for.
ROWS = (1_000_000, 100_000_000, 1_000_000_000)
#: US dollars per GB (10^9 bytes) and month: what memory-optimised instances and provisioned SSDs of the large
#: clouds come to, rounded. They differ by a factor of two between providers: give your own.
RAM_PRICE, DISK_PRICE = 3.0, 0.10
#: A graph's links at m = 16, in bytes per vector, where no database says its own: 32 ids of 4 bytes at the
#: base, and 16 of them for one in 15 vectors above it, with their counts.
GRAPH_BYTES = 140


@dataclass(frozen=True)
class Store:
    """What one way to keep vectors takes for a row.

    Parameters
    ----------
    name : str
    ram_bytes, disk_bytes : int
        In memory, and on disk.
    """

    name: str
    ram_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Scale:
    """A store at a number of rows.

    Parameters
    ----------
    store : str
    rows : int
    ram_bytes, disk_bytes : int
    cost : float
        US dollars a month.
    """

    store: str
    rows: int
    ram_bytes: int
    disk_bytes: int
    cost: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


def scales(
    stores: Iterable[Store],
    *,
    rows: Iterable[int] = ROWS,
    ram_price: float = RAM_PRICE,
    disk_price: float = DISK_PRICE,
) -> list[Scale]:
    """Return every store at every number of rows.

    Parameters
    ----------
    stores : iterable of Store
    rows : iterable of int, default 1 million, 100 million, 1 billion
    ram_price, disk_price : float
        US dollars per 10^9 bytes and month.

    Returns
    -------
    list of Scale
        By store, then rows.

    Raises
    ------
    ValueError
        If a price is negative.
    """
    for name, price in (("ram_price", ram_price), ("disk_price", disk_price)):
        if not price >= 0:
            raise ValueError(f"{name}: expected a price of at least 0, not {price}")
    sizes = tuple(rows)
    return [
        Scale(
            store.name,
            n,
            n * store.ram_bytes,
            n * store.disk_bytes,
            round(n * (store.ram_bytes * ram_price + store.disk_bytes * disk_price) / 1e9, 2),
        )
        for store in stores
        for n in sizes
    ]


def size_text(nbytes: float) -> str:
    """Write bytes with the unit that suits them, e.g. ``45 GB`` (powers of ten)."""
    for unit, value in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= 0.9995 * value:
            return f"{nbytes / value:.3g} {unit}"
    return f"{nbytes:.0f} B"
