"""What came of hostile input: tries and answers of each attack, and which of them break a promise.

Above: `raw_attacks.py`, `rpc_attacks.py` and `tls_attacks.py`, which note outcomes, and `hostile.py`, which judges.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import grpc
import grpc.aio
from aixgo.wire.status import DETAILS

LEAKS = ("Traceback", 'File "', "<class ", "Exception calling", "Unexpected ", "object at 0x", "servicer method")
"""Parts of texts that only come out of a program's insides."""
OWN_SIDE = "Internal error from Core"
"""What grpc.aio says on the caller's side when a stream ends while it writes: no answer of the other side."""
UNTYPED = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS)


@dataclass
class Outcomes:
    """Of one attack on one port. `unexpected` are those that break a promise; `forbidden`: so does any answer."""

    attack: str
    port: str
    tries: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    unexpected: Counter[str] = field(default_factory=Counter[str])
    forbidden: bool = False

    def note(self, answer: str) -> None:
        """One try has ended in this way, as it may."""
        if self.forbidden and answer == "answered":
            self.wrong("it was answered")
            return
        self.tries += 1
        self.answers[answer] += 1

    def wrong(self, what: str) -> None:
        """One try has ended as none may."""
        self.tries += 1
        self.unexpected[what[:200]] += 1

    def refused(self, error: grpc.aio.AioRpcError) -> None:
        """An RPC has ended with a status: typed, unless it is one of those that say nothing, or its text leaks."""
        code, text = error.code(), error.details() or ""
        by_aixgo = any(key == DETAILS for key, _ in error.trailing_metadata() or ())
        if text == OWN_SIDE:
            self.note("ended while it was written")
        elif code in UNTYPED or any(leak in text for leak in LEAKS):
            self.wrong(f"{code.name}: {text}")
        else:
            self.note(code.name if by_aixgo else f"{code.name} by gRPC")


class Book:
    """The outcomes of all attacks, by attack and port."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], Outcomes] = {}

    def of(self, attack: str, port: str) -> Outcomes:
        """Those of an attack on a port; new ones when there are none."""
        return self._all.setdefault((attack, port), Outcomes(attack, port))

    @property
    def all(self) -> list[Outcomes]:
        """All of them, by port and attack."""
        return sorted(self._all.values(), key=lambda one: (one.port, one.attack))
