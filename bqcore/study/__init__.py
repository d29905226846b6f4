"""What quantization will do to a data set, and what to set: the study behind `bqcore advise`."""

from __future__ import annotations

from bqcore.study.engines import Places
from bqcore.study.result import Study
from bqcore.study.source import Origin, Source, array_source, read_source
from bqcore.study.study import study

__all__ = ["Origin", "Places", "Source", "Study", "array_source", "read_source", "study"]
