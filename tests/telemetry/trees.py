"""Holding the spans of one trace to the calls that they are of: each below the very span that it happened in."""

from __future__ import annotations

from collections.abc import Sequence

from tests.telemetry.receiver import Seen, orphans

_AGENT = "gen_ai.agent.name"
_PATH = "aixgo.agent.path"


def check_parents(spans: Sequence[Seen]) -> None:
    """Hold that nobody is an orphan, that there is one root, and that each span's parent is the one it must have."""
    assert orphans(spans) == []
    by_id = {span.span_id: span for span in spans}
    assert sum(not span.parent_id for span in spans) == 1
    for span in spans:
        above = by_id.get(span.parent_id)
        if span.name.startswith("invoke_agent "):
            _check_call(span, above, by_id)
        elif above is not None:
            _check_part(span, above)


def caller(span: Seen, by_id: dict[str, Seen]) -> Seen | None:
    """The agent's call that a span is part of."""
    above = by_id.get(span.parent_id)
    while above is not None and not above.name.startswith("invoke_agent "):
        above = by_id.get(above.parent_id)
    return above


def _check_call(span: Seen, above: Seen | None, by_id: dict[str, Seen]) -> None:
    """A call lies in the call of who made it: in its step or orchestration where there is one."""
    name, path = span.attributes[_AGENT], span.attributes[_PATH]
    assert span.name == f"invoke_agent {name}"
    made_by = caller(span, by_id)
    assert (made_by.attributes[_PATH] if made_by else "") == path.removesuffix(name).removesuffix("/")
    if above is not None and above.name.startswith("step."):
        assert above.attributes["agent"] == name
    elif made_by is not None and above is not None and above is not made_by:
        assert above.name.startswith("orchestration.")


def _check_part(span: Seen, above: Seen) -> None:
    """What an agent does lies in its call, in its own process."""
    assert span.resource == above.resource
    kind = span.name.split(".")[0].split(" ")[0]
    if kind == "step":
        assert above.name.startswith("orchestration.")
    elif kind == "orchestration":
        assert above.name == f"invoke_agent {span.attributes['orchestrator']}"
    elif kind == "chat":
        assert above.name == f"invoke_agent {span.attributes[_AGENT]}"
    elif kind == "execute_tool":
        assert above.name.startswith("invoke_agent ")
    else:
        raise AssertionError(f"{span.name} has no place in a trace")
