"""Uses of tools as vendors write them: JSON text that has to become the arguments of a ToolUse.

Pure, no I/O. Above: the mappings of vendors' formats.
"""

from __future__ import annotations

from aixgo.errors import InvalidCompletion, InvalidMessage
from aixgo.llm.contract import ToolUse
from aixgo.message import from_json
from aixgo.usage import Usage


def tool_use(spent: Usage, id_: str, name: str, arguments: str, reasoning: str = "") -> ToolUse:
    """The use of a tool; raises InvalidCompletion, which carries what was `spent`, when `arguments` are no object."""
    try:
        parsed = from_json(arguments.encode()) if arguments else {}
    except InvalidMessage as error:
        raise unusable(spent, name, str(error)) from error
    if not isinstance(parsed, dict):
        raise unusable(spent, name, "they are no JSON object")
    return ToolUse(id_, name, parsed, reasoning)


def unusable(spent: Usage, name: str, why: str) -> InvalidCompletion:
    """The error for a use of tool `name` that nobody can read."""
    broken = InvalidCompletion(f"the model calls tool {name!r} with arguments that cannot be used: {why}")
    broken.usage = spent
    return broken
