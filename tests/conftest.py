"""What holds for every test: one thread, no chance, nobody outside this machine."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

# Before torch is imported; child processes inherit them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import torch
import zmq

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "deterministic",
    derandomize=True,  # the same examples in every run: a failure is never a coincidence
    database=None,
    deadline=None,  # no verdict depends on how busy the machine is
    print_blob=True,
)
hypothesis.settings.load_profile("deterministic")


PROCESSES = ("faults", "run")
"""Folders whose tests start processes, and take most of the time."""


def pytest_configure(config: pytest.Config) -> None:
    """With several workers, files are handed out as :func:`pytest_collection_modifyitems` has
    them. xdist's own order is by the number of tests: a file with four tests, each of ten
    seconds, would come last, and all other workers would wait for it."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts processes first; otherwise the order stays."""
    items.sort(key=lambda item: item.path.parent.name not in PROCESSES)


class OutsideWorld(AssertionError):
    """A test tried to reach beyond this machine."""


def is_loopback(host: object) -> bool:
    """True for what cannot leave this machine: loopback addresses and local names."""
    text = host.decode() if isinstance(host, bytes) else str(host)
    if text in ("", "localhost", "None"):
        return True
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse(event: str, host: object) -> None:
    raise OutsideWorld(f"{event} to {host!r}: tests talk to 127.0.0.1 only")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Python's own sockets, whoever opened them."""
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and not is_loopback(address[0]):
            _refuse(event, address)
    elif event == "socket.getaddrinfo" and not is_loopback(arguments[0]):
        _refuse(event, arguments[0])


sys.addaudithook(_audit)


@pytest.fixture(autouse=True, scope="module")
def switches_put_back() -> Iterator[None]:
    """Parties that run in threads of one test at once put torch's switches back in any order."""
    memory: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    yield
    torch.set_deterministic_debug_mode(before[0])
    memory.fill_uninitialized_memory = before[1]


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeroMQ opens sockets without Python's knowledge, so its two doors are watched here."""
    for door in ("bind", "connect"):
        original = getattr(zmq.Socket, door)

        def guarded(
            self: zmq.Socket[Any], address: str, *rest: Any, _original: Any = original
        ) -> Any:
            parts = urlsplit(str(address))
            # "tcp://*:0" as well: a test has no business on other interfaces.
            if parts.scheme == "tcp" and not is_loopback(parts.hostname or "*"):
                _refuse("zmq", address)
            return _original(self, address, *rest)

        monkeypatch.setattr(zmq.Socket, door, guarded)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of this run only: no test passes because of what an earlier run left behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
