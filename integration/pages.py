"""Pages of a bqhnsw index in a file, for tests that damage them: pgvector's layout, version 1, and ours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = 8192
PAGE_HEADER = 24
ELEMENT, NEIGHBOURS = 1, 2
#: Offsets within an element tuple.
LEVEL, DELETED, VERSION, HEAP_TIDS, NEIGHBOUR_TID, CODE = 1, 2, 3, 4, 64, 72
#: Offsets within a code: length word, dimensions, tag, kind, factors, packed levels.
CODE_DIM, CODE_TAG, CODE_KIND, CODE_FACTORS, CODE_LEVELS = 4, 6, 7, 8, 16
#: Offset of the links within a list of neighbours, and bytes of each.
LINKS, TID = 4, 6
#: Offsets on the metapage: pgvector's struct follows the page header.
META_MAGIC, META_VERSION, META_DIM, META_M = (PAGE_HEADER + i for i in (0, 4, 8, 12))
META_ENTRY, META_ENTRY_OFFSET, META_ENTRY_LEVEL, META_INSERT = (PAGE_HEADER + i for i in (16, 20, 22, 24))
TRAILER = 1024
NEXT, PAGE_ID = PAGE - 8, PAGE - 2
HNSW_PAGE, MODEL_PAGE = 0xFF90, 0xBC01


@dataclass(frozen=True)
class Item:
    """An item of a page."""

    block: int
    offset: int
    at: int  # in the file
    length: int
    pointer: int  # line pointer, in the file


class IndexFile:
    """The main fork of an index, changed in memory until `write`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = bytearray(path.read_bytes())

    def write(self) -> None:
        """Put the changes into the file."""
        self.path.write_bytes(self.data)

    def get(self, kind: str, at: int) -> int:
        """Read a number in struct's notation."""
        return int(struct.unpack_from("<" + kind, self.data, at)[0])

    def put(self, kind: str, at: int, value: float) -> None:
        """Write a number in struct's notation."""
        struct.pack_into("<" + kind, self.data, at, value)

    def tid(self, at: int) -> tuple[int, int]:
        """Read a tuple identifier."""
        high, low, offset = struct.unpack_from("<3H", self.data, at)
        return high << 16 | low, offset

    def put_tid(self, at: int, block: int, offset: int) -> None:
        """Write a tuple identifier."""
        struct.pack_into("<3H", self.data, at, block >> 16, block & 0xFFFF, offset)

    def pages(self, page_id: int) -> list[int]:
        """Blocks of a kind of page."""
        blocks = range(len(self.data) // PAGE)
        return [block for block in blocks if self.get("H", block * PAGE + PAGE_ID) == page_id]

    def items(self, kind: int) -> Iterator[Item]:
        """Items of a type."""
        for block in self.pages(HNSW_PAGE)[1:]:
            start = block * PAGE
            lower = self.get("H", start + 12)
            for i in range((lower - PAGE_HEADER) // 4):
                pointer = start + PAGE_HEADER + 4 * i
                word = self.get("I", pointer)
                at = start + (word & 0x7FFF)
                if self.data[at] == kind:
                    yield Item(block, i + 1, at, word >> 17, pointer)

    def neighbours(self, element: Item) -> Item:
        """List of an element's neighbours."""
        wanted = self.tid(element.at + NEIGHBOUR_TID)
        return next(item for item in self.items(NEIGHBOURS) if (item.block, item.offset) == wanted)
