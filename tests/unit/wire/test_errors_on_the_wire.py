"""Every error crosses the wire as itself: class, message, fields, path, usage, retry_after, accepted."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import grpc
import grpc.aio
import pytest
from aixgo import errors
from aixgo.errors import AixgoError, Code, class_name, find_class
from aixgo.usage import NO_USAGE, Usage
from aixgo.v1 import types_pb2 as pb
from aixgo.wire import status
from aixgo.wire.codec import MAX_ERROR_TEXT, decode_error, encode_error
from google.rpc.error_details_pb2 import RetryInfo
from hypothesis import given
from hypothesis import strategies as st

TRAILERS = 8 * 1024
"""Bytes of headers that gRPC takes in every language by default."""


class OutOfStock(errors.WrongState):
    """A user's own error, with a constructor of its own."""

    def __init__(self, item: str) -> None:
        super().__init__(f"no {item} left", fields={"item": item})


class Odd(AixgoError):
    """A user's error with a code that gRPC does not know."""

    code = 99  # pyright: ignore[reportAssignmentType]


def tree(cls: type[AixgoError] = AixgoError) -> Iterator[type[AixgoError]]:
    if cls.__module__ == errors.__name__:
        yield cls
    for sub in cls.__subclasses__():
        yield from tree(sub)


ALL = list(tree())


def rpc_error(error: AixgoError) -> grpc.aio.AioRpcError:
    """What a client gets when a server aborts with `error`."""
    made = status.to_status(error)
    trailers = grpc.aio.Metadata((status.DETAILS, made.SerializeToString()))
    return grpc.aio.AioRpcError(status.code_of(made.code), grpc.aio.Metadata(), trailers, made.message)


def bare(code: grpc.StatusCode, details: str | None = None, *trailers: tuple[str, Any]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details)


def trailer_bytes(error: AixgoError) -> int:
    """How HTTP/2 counts headers: name, value and 32 each; -bin values as base64, grpc-message percent-encoded."""
    made = status.to_status(error)
    message = sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in made.message.encode())
    details = -(-made.ByteSize() // 3) * 4
    return sum((len("grpc-status") + 2 + 32, len("grpc-message") + message + 32, len(status.DETAILS) + details + 32))


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_arrives_as_itself(cls: type[AixgoError]) -> None:
    error = errors.rebuild(
        cls,
        "what and why",
        1.5,
        {"n": 1, "deep": {"a": [None]}},
        ("root", "leaf"),
        Usage(3, 4, cost_usd=Decimal("0.10")),
    )
    sent = rpc_error(error)
    arrived = status.from_rpc(sent)
    assert type(arrived) is cls
    assert sent.code().value[0] == cls.code
    assert (arrived.message, arrived.retry_after, arrived.fields) == ("what and why", 1.5, error.fields)
    assert (arrived.agent_path, arrived.usage, arrived.accepted) == (error.agent_path, error.usage, cls.accepted)
    assert str(arrived) == "what and why (at root/leaf)"


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling(cls: type[AixgoError]) -> None:
    error = errors.rebuild(cls, "m", 0.5, {"a": 1}, ("x",), Usage(1))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.retry_after, copy.fields) == (cls, "m", 0.5, {"a": 1})
    assert (copy.agent_path, copy.usage) == (("x",), Usage(1))


def test_the_drawing_lists_exactly_the_classes_that_exist_with_parent_and_code() -> None:
    drawn: dict[str, tuple[str, str]] = {}
    parents = [""]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ((?:[|`]-- |\|   |    )*)([A-Z]\w+)\s\s+(?:([A-Z_]+)(?: |$))?", line)
        if found is None:
            continue
        level = len(found[1]) // 4
        parents[level + 1 :] = [found[2]]
        drawn[found[2]] = (parents[level], found[3] or drawn[parents[level]][1])
    assert drawn == {
        cls.__name__: ("" if cls is AixgoError else cls.__mro__[1].__name__, Code(cls.code).name) for cls in ALL
    }


def test_names_of_classes_are_unique() -> None:
    assert len({class_name(cls) for cls in ALL}) == len(ALL)


def test_every_code_of_ours_is_one_of_grpc() -> None:
    assert {code.value for code in Code} < {code.value[0] for code in grpc.StatusCode}


def test_a_users_error_arrives_as_its_class_without_running_its_constructor() -> None:
    arrived = status.from_rpc(rpc_error(OutOfStock("cups")))
    assert type(arrived) is OutOfStock
    assert (arrived.message, arrived.fields) == ("no cups left", {"item": "cups"})


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (Code.UNKNOWN, AixgoError), (Code.INVALID_ARGUMENT, errors.InvalidInput),
        (Code.NOT_FOUND, errors.AgentNotFound),
        (Code.UNAVAILABLE, errors.Unavailable), (Code.RESOURCE_EXHAUSTED, errors.LimitExceeded),
        (Code.INTERNAL, errors.InternalError), (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (Code.ABORTED, errors.OrchestrationFailed), (Code.PERMISSION_DENIED, errors.PermissionDenied), (11, AixgoError),
    ],
)  # fmt: skip
def test_a_class_that_is_not_known_here_falls_back_by_its_code(code: int, cls: type[AixgoError]) -> None:
    assert find_class("their.module:TheirError", code) is cls
    arrived = decode_error(pb.Error(code=code, message="m", error_class="their.module:TheirError"))
    assert type(arrived) is cls
    assert arrived.message == "m"


def test_accepted_travels_with_the_error_not_with_its_class() -> None:
    refused = errors.AgentNotFound("not here")
    refused.accepted = False
    passed_on = errors.Overloaded("below")
    passed_on.accepted = True
    assert not decode_error(encode_error(refused)).accepted
    assert decode_error(encode_error(passed_on)).accepted


def test_retry_after_is_a_retry_info_for_other_languages() -> None:
    made = status.to_status(errors.RateLimited("slow down", retry_after=2.25))
    info = RetryInfo()
    assert [detail.Unpack(info) for detail in made.details] == [False, True]
    assert info.retry_delay.ToMilliseconds() == 2250
    assert len(status.to_status(errors.RateLimited("slow down")).details) == 1


@pytest.mark.parametrize("letter", ["x", "%", "é", "漢", "😀", "\ud800", "\n"])
def test_the_longest_error_fits_into_the_trailers_of_every_language(letter: str) -> None:
    error = errors.rebuild(
        OutOfStock, letter * 100_000, 3600.0, {"a": letter * 700}, (letter * 128,) * 100,
        Usage(*[2**62] * 5, Decimal(10) ** 12, 2**62),
    )  # fmt: skip
    assert trailer_bytes(error) < TRAILERS
    for length in (100, 300, 600, 1_000):
        error.fields, error.message = {"a": letter * length}, letter * length
        assert trailer_bytes(error) < TRAILERS


def test_long_texts_are_cut_with_an_ellipsis_and_short_ones_are_not() -> None:
    assert encode_error(AixgoError("é" * 1024)).message == "é" * 1024
    cut = encode_error(AixgoError("é" * 1025)).message
    assert cut.endswith("…")
    assert len(cut.encode()) <= MAX_ERROR_TEXT


def test_fields_that_are_too_large_are_cut_and_what_is_no_json_becomes_text() -> None:
    assert decode_error(encode_error(AixgoError("m", fields={"a": "x" * 2000}))).fields == {"a": "x" * 197 + "…"}
    fields = decode_error(encode_error(AixgoError("m", fields={"a": {1, 2}, "b": object}))).fields
    assert fields == {"a": "{1, 2}", "b": "<class 'object'>"}


def test_a_long_path_keeps_its_ends() -> None:
    path = decode_error(
        encode_error(errors.rebuild(AixgoError, "m", None, {}, tuple(f"{n:0128}" for n in range(50)), NO_USAGE))
    )
    assert path.agent_path == (f"{0:0128}", "…", f"{49:0128}")


def test_text_that_is_no_unicode_crosses_as_question_marks() -> None:
    assert decode_error(encode_error(errors.AgentFailed("bad name: \udcff"))).message == "bad name: ?"


@given(
    st.text(),
    st.text(max_size=300),
    st.none() | st.floats(0.001, 1e6),
    st.dictionaries(st.text(max_size=9), st.text(max_size=99), max_size=3),
)
def test_any_error_can_be_sent(message: str, name: str, retry_after: float | None, fields: dict[str, str]) -> None:
    error = errors.rebuild(errors.AgentFailed, message, retry_after, fields, (name,), NO_USAGE)
    arrived = status.from_rpc(rpc_error(error))
    assert type(arrived) is errors.AgentFailed
    assert trailer_bytes(error) < TRAILERS
    if len(message) < 500 and message.isprintable():
        assert arrived.message == message


@pytest.mark.parametrize("fields", [b"{", b"[1]", b"\xff", b"null"])
def test_broken_fields_do_not_hide_the_error(fields: bytes) -> None:
    arrived = decode_error(pb.Error(code=5, message="m", error_class="AgentNotFound", fields=fields))
    assert type(arrived) is errors.AgentNotFound
    assert arrived.fields == {}


def test_broken_usage_does_not_hide_the_error() -> None:
    arrived = decode_error(pb.Error(code=5, error_class="AgentNotFound", usage=pb.Usage(cost_usd="much", llm_calls=1)))
    assert type(arrived) is errors.AgentNotFound
    assert arrived.usage.incomplete


def test_a_status_without_our_details_is_the_transports() -> None:
    assert status.from_rpc(bare(grpc.StatusCode.NOT_FOUND, "no")) is None
    foreign = status.Status(code=5, message="no")
    assert status.from_rpc(bare(grpc.StatusCode.NOT_FOUND, "no", (status.DETAILS, foreign.SerializeToString()))) is None
    assert status.from_rpc(bare(grpc.StatusCode.NOT_FOUND, "no", (status.DETAILS, b"\xff\xff\xff"))) is None


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.InstanceLost),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, errors.CallCancelled), (grpc.StatusCode.UNIMPLEMENTED, errors.NotSupported),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.LimitExceeded),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDenied), (grpc.StatusCode.DATA_LOSS, errors.InternalError),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidInput), (grpc.StatusCode.UNKNOWN, errors.InternalError),
    ],
)  # fmt: skip
def test_what_the_transport_says_is_typed_and_names_the_address(code: grpc.StatusCode, cls: type[AixgoError]) -> None:
    error = status.from_transport(bare(code, "why"), "box:1")
    assert type(error) is cls
    assert error.message == f"box:1: {code.name}: why"
    assert error.accepted


def test_a_connection_that_was_refused_was_never_accepted() -> None:
    refused = bare(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: refused")
    assert not status.from_transport(refused, "box:1").accepted
    assert status.from_transport(bare(grpc.StatusCode.UNAVAILABLE, "Socket closed"), "box:1").accepted


def test_a_message_over_grpcs_limit_says_how_to_raise_it() -> None:
    error = status.from_transport(bare(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max (5 vs. 4)"), "box:1")
    assert type(error) is errors.MessageTooLarge
    assert "max_message_bytes" in error.message


def test_a_code_that_grpc_does_not_know_is_unknown() -> None:
    assert status.code_of(99) is grpc.StatusCode.UNKNOWN
    assert rpc_error(Odd("m")).code() is grpc.StatusCode.UNKNOWN
