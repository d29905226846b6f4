"""Codes in plain SQL for servers where only pgvector can be installed: functions in a schema ``bqcore``.

`install` puts them there, `model` translates models between SQL and `bqcore.RaBitQ`, `columns` encodes on the
client and copies codes into the columns.
"""

from .install import SQL_VERSION, SqlInstallReport, install, script, uninstall

__all__ = ["SQL_VERSION", "SqlInstallReport", "install", "script", "uninstall"]
