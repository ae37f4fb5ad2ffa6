"""Who may connect: the ZAP handler (ZeroMQ RFC 27) of one wire.

It runs in the wire's own poll loop, so there is no second thread that could die unseen and
leave the door as it was. Whatever goes wrong in it is a refusal and is reported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import zmq
from zmq.utils import z85

from splitfed.transport.sockets import ZAP_DOMAIN, Socket

ENDPOINT = "inproc://zeromq.zap.01"
ACCEPTED, REFUSED, BROKEN = b"200", b"400", b"500"
_FRAMES = 7
_REQUESTS_A_CALL = 64


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was answered to one connection.

    ``name`` is the roster name of an accepted key, ``key`` the refused one in Z85,
    ``defect`` what went wrong where it was neither.
    """

    address: str
    name: str | None = None
    key: str | None = None
    defect: Exception | None = None


class Authenticator:
    """Answers with the roster name of a key that is in ``allowed``, and refuses all others.

    Args:
        allowed: roster names by public key (32 bytes).
    """

    def __init__(self, context: zmq.Context[Socket], allowed: Mapping[bytes, str]) -> None:
        self._context = context
        self._allowed = allowed
        self.socket = self._bind()

    def _bind(self) -> Socket:
        socket = self._context.socket(zmq.REP)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(ENDPOINT)
        return socket

    def close(self) -> None:
        """In the thread that opened it."""
        self.socket.close(0)

    def answer(self) -> list[Verdict]:
        """Answers what is asked now. Never raises: an exception refuses and is returned."""
        verdicts: list[Verdict] = []
        for _ in range(_REQUESTS_A_CALL):
            try:
                request = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            address = request[3].decode("ascii", "replace") if len(request) > 3 else "?"
            try:
                name = self.judge(request)
                verdict = Verdict(address=address, name=name)
                if name is None:
                    verdict = Verdict(address=address, key=z85.encode(request[6]).decode("ascii"))
            except Exception as error:
                verdict = Verdict(address=address, defect=error)
            verdicts.append(verdict)
            try:
                self._reply(request, verdict)
            except Exception as error:
                # A handler that cannot answer keeps everybody out; a fresh one may do better.
                verdicts.append(Verdict(address=address, defect=error))
                with contextlib.suppress(zmq.ZMQError):
                    self.socket.close(0)
                    self.socket = self._bind()
        return verdicts

    def judge(self, request: Sequence[bytes]) -> str | None:
        """The roster name of the key in ``request``; None for a key that is not in it.

        Raises:
            ValueError: the request is not what libzmq asks about a CURVE connection.
        """
        if len(request) != _FRAMES:
            raise ValueError(f"a ZAP request of {len(request)} frames instead of {_FRAMES}")
        version, _, domain, _, _, mechanism, key = request
        if (version, domain, mechanism, len(key)) != (b"1.0", ZAP_DOMAIN, b"CURVE", 32):
            raise ValueError(
                f"a ZAP request of version {version!r}, domain {domain!r}, mechanism "
                f"{mechanism!r} and {len(key)} bytes of key"
            )
        return self._allowed.get(key)

    def _reply(self, request: Sequence[bytes], verdict: Verdict) -> None:
        identifier = request[1] if len(request) > 1 else b""
        status, text, user = REFUSED, b"not in the agreement", b""
        if verdict.defect is not None:
            status, text = BROKEN, b"the handler failed"
        elif verdict.name is not None:
            status, text, user = ACCEPTED, b"OK", verdict.name.encode("utf-8")
        self.socket.send_multipart([b"1.0", identifier, status, text, user, b""], zmq.NOBLOCK)
