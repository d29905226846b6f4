"""Servers in containers: an image that `make docker-image` built, run by testcontainers."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

IMAGE_VARIABLE = "BQCORE_TEST_IMAGE"
#: With 1, a missing engine or image is a failure instead of a reason to skip.
REQUIRED_VARIABLE = "REQUIRE_DOCKER"
# The image that removes forgotten containers comes from a registry, which need not be within reach.
# testcontainers reads this when it is first imported, which tests of Qdrant may do too: so it is set early.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")


def image() -> str | None:
    """Image that all tests shall run on, if one is named."""
    return os.environ.get(IMAGE_VARIABLE) or None


@dataclass(frozen=True)
class Running:
    """A server in a container.

    Parameters
    ----------
    dsn : str
        Of the superuser.
    container : str
        Id of the container.
    """

    dsn: str
    container: str


def docker(*arguments: str, check: bool = True) -> str:
    """Run the program docker; what it printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return (done.stdout + done.stderr).strip()


def skip(reason: str) -> None:
    """Skip a test, unless REQUIRE_DOCKER=1 forbids it."""
    if os.environ.get(REQUIRED_VARIABLE) == "1":
        pytest.fail(f"{REQUIRED_VARIABLE}=1, but {reason}")
    pytest.skip(reason)


def missing(name: str) -> str | None:
    """Why no container of an image can be had, None if one can."""
    try:
        done = subprocess.run(
            ["docker", "image", "inspect", name], capture_output=True, text=True, timeout=20, check=False
        )
    except FileNotFoundError:
        return "there is no program docker"
    except subprocess.TimeoutExpired:
        return "no Docker engine answers within 20 s"
    if done.returncode == 0:
        return None
    return f"docker image inspect {name}: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}"


@contextlib.contextmanager
def postgres(name: str) -> Iterator[Running]:
    """Run a server from an image."""
    if reason := missing(name):
        skip(reason)
    from testcontainers.community.postgres import PostgresContainer

    # A parallel build takes its memory from /dev/shm, of which a container has 64 MB by itself.
    # A killed run leaves its container: docker rm -f $(docker ps -aq --filter label=bqcore=test)
    container = PostgresContainer(name, username="postgres", dbname="postgres", driver=None)
    with container.with_kwargs(shm_size="1g", labels={"bqcore": "test"}):
        yield Running(container.get_connection_url(), container.get_wrapped_container().id)
