"""Names in SQL: quoted where they need it, and those that commands give to indexes."""

from __future__ import annotations

import re

# Words that cannot name a table or a column without quotes (appendix C of Postgres' manual).
_WORDS = """all analyse analyze and any array as asc asymmetric authorization binary both case cast check
    collate collation column concurrently constraint create cross current_catalog current_date current_role
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end
    except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into
    is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on
    only or order outer overlaps placing primary references returning right select session_user similar some
    symmetric system_user table tablesample then to trailing true union unique user using variadic verbose
    when where window with"""
RESERVED = frozenset(_WORDS.split())
_MOST_BYTES = 63  # what Postgres keeps of a name


def quote(identifier: str) -> str:
    """Quote an SQL name where it needs it."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", identifier) and identifier not in RESERVED:
        return identifier
    return '"' + identifier.replace('"', '""') + '"'


def last_part(written: str) -> str:
    """Return the last part of ``schema.name`` as SQL writes it."""
    found = re.search(r'(?:"(?:[^"]|"")*"|[^."]*)$', written)
    return written if found is None else found[0]


def bare(written: str) -> str:
    """Return the name that SQL means by the last part of ``schema.name``, quoted or not."""
    part = last_part(written)
    return part[1:-1].replace('""', '"') if part.startswith('"') else part.lower()


def index_name(table: str, column: str, bits: int) -> str:
    """Name an index of so many bits; at most 63 bytes.

    Parameters
    ----------
    table, column : str
        Without quotes.
    bits : {1, 2, 4, 8}
    """
    suffix = f"_bqhnsw{bits}"
    stem = f"{table}_{column}".encode()[: _MOST_BYTES - len(suffix)].decode(errors="ignore")
    return stem + suffix
