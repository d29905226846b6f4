"""What each release of the Qdrant server can do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Self

from bqcore._validation import InputTypeError

#: First release with a feature, of the server and of qdrant-client: facts of their source and interfaces.
FEATURES: dict[str, tuple[int, int]] = {
    "uint8": (1, 9),
    "float16": (1, 11),
    "formula": (1, 14),
    "binary encodings": (1, 15),
    "collection metadata": (1, 16),
    "insert only": (1, 17),
    "turbo quantization": (1, 18),
    "turbo4": (1, 19),
    "memory placement": (1, 19),
    "turbo8": (1, 20),
    "turbo16": (1, 20),
    "turbo 8 bits": (1, 20),
}
#: Servers before this one lack what every configuration here needs.
OLDEST = (1, 15)


@dataclass(frozen=True, order=True)
class Version:
    """Release of a server, by its first two numbers: features come with minor releases.

    Parameters
    ----------
    major, minor : int
    of : str
        Whose release it is, for errors; releases compare by their numbers.
    """

    major: int
    minor: int
    of: str = field(default="a server", compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a version such as ``1.18.2`` or ``v1.19``.

        Raises
        ------
        TypeError, ValueError
            If it is not a version, or of a server before 1.15.
        """
        if not isinstance(text, str):
            raise InputTypeError(f"server_version: expected a str such as '1.18', not {text!r}")
        found = re.match(r"v?(\d+)\.(\d+)(?:[.\-+]|$)", text.strip())
        if found is None:
            raise ValueError(f"server_version: expected a version such as '1.18', not {text!r}")
        version = cls(int(found[1]), int(found[2]))
        if (version.major, version.minor) < OLDEST:
            raise ValueError(f"server_version: expected {OLDEST[0]}.{OLDEST[1]} or later, not {text}")
        return version

    def has(self, feature: str) -> bool:
        """Tell whether this release has a feature of `FEATURES`."""
        return (self.major, self.minor) >= FEATURES[feature]

    def check(self, *features: str) -> None:
        """Check that this release has features.

        Raises
        ------
        ValueError
            If it lacks one.
        """
        for feature in features:
            if not self.has(feature):
                major, minor = FEATURES[feature]
                raise ValueError(
                    f"{feature}: expected {self.of} of version {major}.{minor} or later, not {self}"
                )

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def client_version() -> Version:
    """Return the version of the installed qdrant-client, whose releases follow the server's."""
    return replace(Version.parse(version("qdrant-client")), of="qdrant-client")


def usable_version(server: Any) -> Version:
    """Return what can be used of a server, given its `VersionInfo`: no more than the client can ask for.

    Raises
    ------
    ValueError
        If either is older than 1.15.
    """
    return min(Version.parse(server.version), client_version())


#: The release whose engine qdrant-edge-py 0.9 carries.
EDGE = Version(1, 20)
