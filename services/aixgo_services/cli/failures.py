"""Exit codes, and how an error is told to a script.

Above: `main.py`. Imports nothing of aixgo until something has failed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aixgo.errors import AixgoError


class Exit(IntEnum):
    """What the exit codes of `aixgo` mean."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    DEADLINE = 4
    INTERRUPTED = 130


def exit_code(error: AixgoError) -> Exit:
    """The exit code of an error. What an agent raised during a call (it has a path) is never wrong usage."""
    from aixgo import errors  # only after a failure

    if error.code is errors.Code.DEADLINE_EXCEEDED:
        return Exit.DEADLINE
    if isinstance(error, (errors.Unavailable, errors.AgentNotFound)):
        return Exit.UNAVAILABLE
    usage = (errors.InvalidInput, errors.WrongState, errors.AlreadyRegistered, errors.NotSupported)
    return Exit.USAGE if isinstance(error, usage) and not error.agent_path else Exit.FAILED


def failure(error: AixgoError) -> dict[str, Any]:
    """An error as a JSON object: `error` (its class), `message`, `code`; and where there is something to say of it
    `agent_path`, `retry_after`, `fields`, and `usage`, what was spent until then.
    """
    from aixgo.errors import class_name  # only after a failure
    from aixgo.usage import NO_USAGE

    from aixgo_services.cli.output import usage_json

    told: dict[str, Any] = {"error": class_name(type(error)), "message": error.message, "code": error.code.name}
    if error.agent_path:
        told["agent_path"] = list(error.agent_path)
    if error.retry_after is not None:
        told["retry_after"] = error.retry_after
    if error.fields:
        told["fields"] = error.fields
    if error.usage != NO_USAGE:
        told["usage"] = usage_json(error.usage)
    return told


def failure_json(error: AixgoError) -> str:
    """`failure` as one line."""
    import json  # only after a failure

    return json.dumps(failure(error), default=str)
