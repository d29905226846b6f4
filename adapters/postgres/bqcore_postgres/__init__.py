"""Postgres adapter of bqcore: build and install the extension, run a private server, measure indexes.

The modules are `install` (compile the C extension), `embedded` (a throw-away server from PyPI), `candidates`
and `measure` (shared by demo and benchmarks). Drivers are imported when they are first needed.
"""

from .embedded import EmbeddedServer, embedded_pg_config
from .install import InstallReport, build, find_pg_config, source_dir

__all__ = [
    "EmbeddedServer",
    "InstallReport",
    "build",
    "embedded_pg_config",
    "find_pg_config",
    "source_dir",
]
