"""Every way in which a call can end badly, and the gRPC code of each.

Owns the error tree. Knows nothing of gRPC beyond the numbers of its status codes; `aixgo.wire.status` carries errors
over the wire, so that a remote caller catches the same class as a local one.

    AixgoError                          UNKNOWN
    |-- InvalidInput                    INVALID_ARGUMENT     what the caller passed cannot be used
    |   |-- InvalidMessage                                   a payload or metadata that is not text, bytes or JSON
    |   `-- ConfigError                                      a setting or YAML file that cannot be used
    |-- AgentNotFound                   NOT_FOUND            no agent of that name was ever seen
    |-- AlreadyRegistered               ALREADY_EXISTS       the name is taken
    |-- NotSupported                    UNIMPLEMENTED        this runtime or agent does not do that
    |-- WrongState                      FAILED_PRECONDITION  right request, wrong moment (closed, not started)
    |-- Unauthenticated                 UNAUTHENTICATED      who calls is not known
    |-- PermissionDenied                PERMISSION_DENIED    who calls may not
    |-- Unavailable                     UNAVAILABLE          nobody there to do it now
    |   |-- AgentUnavailable                                 the name is known, but no instance is ready
    |   |-- InstanceDraining                                 that instance takes no new calls (never accepted)
    |   |-- InstanceLost                                     the connection broke while the call was out
    |   |-- StreamBroken                                     a stream ended without a terminal frame
    |   `-- RegistryUnavailable                              no control plane ever answered
    |-- DeadlineExceeded                DEADLINE_EXCEEDED    the deadline of the call tree passed
    |-- CallCancelled                   CANCELLED            the call was cancelled from the callee's side
    |-- LimitExceeded                   RESOURCE_EXHAUSTED   a limit stands in the way
    |   |-- DepthExceeded                                    too many calls inside calls, usually a cycle
    |   |-- BudgetExceeded                                   tokens or USD are spent
    |   |-- MessageTooLarge                                  a message over the size limit
    |   |-- MailboxFull                                      the receiver does not keep up
    |   `-- Overloaded                                       too many calls at once (never accepted)
    |-- InternalError                   INTERNAL             a defect of aixgo or of an unknown peer
    |-- AgentFailed                     UNKNOWN              the agent raised an exception of its own
    |-- InvalidReply                    INTERNAL             the agent returned something that is no Message
    |-- OrchestrationFailed             ABORTED              a pattern came to no result
    |   |-- AllMembersFailed                                 not one member succeeded
    |   |-- TooFewSucceeded                                  fewer members succeeded than were required
    |   |-- NoRoute                                          no route and no fallback for the category
    |   |-- NoAgreement                                      a vote or debate ended without a winner
    |   |-- HandoffRefused                                   an agent handed over to one that it may not
    |   |-- HandoffLoop                                      two agents hand over to each other without end
    |   `-- PlanFailed                                       a plan's step failed, and so did new plans
    |-- ToolError                       UNKNOWN              a tool or its server did not deliver
    `-- ProviderError                   UNKNOWN              an LLM vendor did not deliver
        |-- ProviderRejected            INVALID_ARGUMENT     the vendor refuses the request as it is
        |-- ProviderDenied              PERMISSION_DENIED    key missing, wrong, or without the right
        |-- RateLimited                 RESOURCE_EXHAUSTED   429
        |-- ProviderUnavailable         UNAVAILABLE          5xx, or no connection
        |-- ProviderTimeout             DEADLINE_EXCEEDED    the vendor did not answer in time
        `-- InvalidCompletion           INTERNAL             the model's answer does not fit the schema
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, ClassVar

from aixgo.usage import NO_USAGE, Usage


class Code(IntEnum):
    """The gRPC status codes (google.rpc.Code), by number."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class AixgoError(Exception):
    """The root of every error that aixgo raises.

    `message` says what went wrong and what to do. `agent_path` names the agents from the root of the call tree down to
    the one that failed; `usage` is what the failed call spent; both are written by the runtime. `fields` are the
    error's own data (a JSON object) and `retry_after` is in seconds. A subclass of yours, in any module, crosses the
    wire too: message and `fields` travel, and the remote caller catches your class if it has imported it, else
    the class here that has the same code.
    """

    code: ClassVar[Code] = Code.UNKNOWN
    accepted: bool = True
    """False: the callee refused before any agent saw the call, so another instance may be tried."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, fields: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.fields: dict[str, Any] = dict(fields or {})
        self.agent_path: tuple[str, ...] = ()
        self.usage: Usage = NO_USAGE

    def brief(self) -> dict[str, str]:
        """Its class and text, as they stand in metadata and in the fields of other errors."""
        return {"class": type(self).__name__, "message": str(self)}

    def __str__(self) -> str:
        return f"{self.message} (at {'/'.join(self.agent_path)})" if self.agent_path else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.message, self.retry_after, self.fields, self.agent_path, self.usage)


class InvalidInput(AixgoError):
    """What the caller passed cannot be used; the message names the field and the fix."""

    code = Code.INVALID_ARGUMENT


class InvalidMessage(InvalidInput):
    """A payload or metadata that is not text, bytes or JSON."""


class ConfigError(InvalidInput):
    """A setting or a YAML file that cannot be used; the message names file, line and the fix."""


class AgentNotFound(AixgoError):
    """No agent of that name was ever seen."""

    code = Code.NOT_FOUND


class AlreadyRegistered(AixgoError):
    """The name is taken in this runtime."""

    code = Code.ALREADY_EXISTS


class NotSupported(AixgoError):
    """This runtime or this agent does not do that."""

    code = Code.UNIMPLEMENTED


class WrongState(AixgoError):
    """The request is right and the moment is wrong: the runtime is closed, or was not started."""

    code = Code.FAILED_PRECONDITION


class Unauthenticated(AixgoError):
    """Who calls is not known."""

    code = Code.UNAUTHENTICATED


class PermissionDenied(AixgoError):
    """Who calls is known and may not do this."""

    code = Code.PERMISSION_DENIED


class Unavailable(AixgoError):
    """Nobody is there to do it now."""

    code = Code.UNAVAILABLE


class AgentUnavailable(Unavailable):
    """The name is known, but no instance of it is ready."""


class InstanceDraining(Unavailable):
    """That instance takes no new calls; the call was not accepted."""

    accepted = False


class InstanceLost(Unavailable):
    """The connection to the instance broke while the call was out; whether it was done is not known."""


class StreamBroken(Unavailable):
    """A stream ended without a terminal frame."""


class RegistryUnavailable(Unavailable):
    """No control plane ever answered, so no agent of other processes is known."""


class DeadlineExceeded(AixgoError):
    """The deadline of the call tree passed."""

    code = Code.DEADLINE_EXCEEDED


class CallCancelled(AixgoError):
    """The call was cancelled from the callee's side: its process is stopping, or someone used Cancel."""

    code = Code.CANCELLED


class LimitExceeded(AixgoError):
    """A limit stands in the way; the message says which one and where it is set."""

    code = Code.RESOURCE_EXHAUSTED


class DepthExceeded(LimitExceeded):
    """Too many calls inside calls; usually agents that call each other in a circle."""


class BudgetExceeded(LimitExceeded):
    """The tokens or the USD that the call was granted do not suffice."""


class MessageTooLarge(LimitExceeded):
    """A message over the size limit."""


class MailboxFull(LimitExceeded):
    """The receiver does not keep up; its mailbox takes nothing more for now."""


class Overloaded(LimitExceeded):
    """The instance has as many calls as it may have; the call was not accepted."""

    accepted = False


class InternalError(AixgoError):
    """A defect of aixgo, or a peer that answers what aixgo does not know."""

    code = Code.INTERNAL


class AgentFailed(AixgoError):
    """The agent raised an exception of its own; `fields["exception"]` names its class."""


class InvalidReply(AixgoError):
    """The agent returned something that is not a Message."""

    code = Code.INTERNAL


class OrchestrationFailed(AixgoError):
    """A pattern came to no result."""

    code = Code.ABORTED


class AllMembersFailed(OrchestrationFailed):
    """Not one member succeeded; `fields["errors"]` has class and message of each, by member."""


class TooFewSucceeded(OrchestrationFailed):
    """Fewer members succeeded than were required; `fields` have `succeeded`, `required` and `errors` by member."""


class NoRoute(OrchestrationFailed):
    """There is neither a route for the category nor a fallback."""


class NoAgreement(OrchestrationFailed):
    """A vote ended in a tie or without the agreement that was asked for; `fields["votes"]` has the weight by answer."""


class HandoffRefused(OrchestrationFailed):
    """An agent handed over to one that it may not hand over to, or that is not there; `fields` have both names."""


class HandoffLoop(OrchestrationFailed):
    """Two agents hand over to each other again and again; `fields["handoffs"]` has the last names."""


class PlanFailed(OrchestrationFailed):
    """A step of a plan failed and new plans did too; `fields` have the `step`, the `errors` and what is `done`."""


class ToolError(AixgoError):
    """A tool, or the server that has it, did not deliver."""


class ProviderError(AixgoError):
    """An LLM vendor did not deliver."""


class ProviderRejected(ProviderError):
    """The vendor refuses the request as it is: unknown model, prompt too long, content refused."""

    code = Code.INVALID_ARGUMENT


class ProviderDenied(ProviderError):
    """The vendor's key is missing, wrong, or has not the right."""

    code = Code.PERMISSION_DENIED


class RateLimited(ProviderError):
    """The vendor takes no more requests for now; `retry_after` says for how long, in seconds."""

    code = Code.RESOURCE_EXHAUSTED


class ProviderUnavailable(ProviderError):
    """The vendor answers with 5xx, or not at all."""

    code = Code.UNAVAILABLE


class ProviderTimeout(ProviderError):
    """The vendor did not answer in time."""

    code = Code.DEADLINE_EXCEEDED


class InvalidCompletion(ProviderError):
    """The model's answer does not fit the schema that was asked for, after all repairs."""

    code = Code.INTERNAL


def class_name(error: type[AixgoError]) -> str:
    """The name of an error class on the wire: bare for the classes of this module, `module:Class` for others."""
    return error.__name__ if error.__module__ == __name__ else f"{error.__module__}:{error.__qualname__}"


def find_class(name: str, code: int) -> type[AixgoError]:
    """The class that `class_name` named, else the most general one here with that code. It imports nothing."""
    for cls in _tree(AixgoError):
        if class_name(cls) == name:
            return cls
    return next((cls for cls in _tree(AixgoError) if cls.code == code and cls.__module__ == __name__), AixgoError)


def rebuild(
    cls: type[AixgoError],
    message: str,
    retry_after: float | None,
    fields: Mapping[str, Any],
    agent_path: tuple[str, ...],
    usage: Usage,
) -> AixgoError:
    """An error as it was on the other side. The constructor of a subclass is not run; only AixgoError's is."""
    error = cls.__new__(cls)
    AixgoError.__init__(error, message, retry_after=retry_after, fields=fields)
    error.agent_path, error.usage = agent_path, usage
    return error


def _tree(cls: type[AixgoError]) -> Iterator[type[AixgoError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _tree(sub)
