"""An LLM call as telemetry sees it: one span, the GenAI metrics of the same facts, and what was said in it.

Owns `operation`, which metering and embeddings (above) run a vendor's call inside: what they set on it becomes both;
and what models and their tools are asked and answer. Below it lie spans, metrics and content.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from aixgo.telemetry import content, metrics, spans
from aixgo.telemetry.spans import Span

if TYPE_CHECKING:
    from aixgo.llm.contract import ChatMessage, ToolUse

_TOKENS = {"gen_ai.usage.input_tokens": "input", "gen_ai.usage.output_tokens": "output"}
_COST = "cost.usd"


def operation(
    name: str, attributes: Mapping[str, Any], *, attach: bool = True, kind: spans.Kind = "client"
) -> AbstractContextManager[Span]:
    """A span around an LLM call, whose tokens, cost, time and error are counted as metrics too."""
    if not metrics.enabled():
        return spans.span(name, attributes, attach=attach, kind=kind)
    return _measured(name, attributes, attach=attach, kind=kind)


def asked(span: Span, messages: Sequence[ChatMessage]) -> None:
    """What a model is asked, if content is captured; of images only what they are."""
    policy = content.captured()
    if policy is not None and span.recording:
        span.set("gen_ai.input.messages", content.messages(policy, [(turn.role, turn.described) for turn in messages]))


def answered(span: Span, text: str, uses: Sequence[ToolUse] = ()) -> None:
    """What a model answered, the tools that it wants to use included, if content is captured."""
    policy = content.captured()
    if policy is None or not span.recording:
        return
    said = [("assistant", text)] if text or not uses else []
    said += [("assistant", f"{use.name}({content.json_text(dict(use.arguments))})") for use in uses]
    span.set("gen_ai.output.messages", content.messages(policy, said))


def tool_asked(span: Span, arguments: Mapping[str, Any]) -> None:
    """What a tool is called with, if content is captured."""
    policy = content.captured()
    if policy is not None and span.recording:
        span.set("gen_ai.tool.call.arguments", policy.kept(content.json_text(dict(arguments))))


def tool_answered(span: Span, output: str) -> None:
    """What a tool answered, if content is captured."""
    policy = content.captured()
    if policy is not None and span.recording:
        span.set("gen_ai.tool.call.result", policy.kept(output))


class _Measured(Span):
    """A span that remembers what metrics are made of."""

    __slots__ = ("_span", "cost", "seen", "tokens")

    def __init__(self, span: Span, attributes: Mapping[str, Any]) -> None:
        self._span = span
        self.seen = dict(attributes)
        self.tokens: dict[str, int] = {}
        self.cost: float | None = 0.0

    def set(self, key: str, value: Any) -> None:
        if key in _TOKENS:
            self.tokens[_TOKENS[key]] = value
        elif key == _COST:
            self.cost = value
        elif value is not None:
            self.seen[key] = value
        self._span.set(key, value)

    def fail(self, error: BaseException) -> None:
        self._span.fail(error)

    @property
    def recording(self) -> bool:
        return self._span.recording


@contextmanager
def _measured(name: str, attributes: Mapping[str, Any], *, attach: bool, kind: spans.Kind) -> Generator[Span]:
    begun = perf_counter()
    failed = ""
    measured = _Measured(Span(), attributes)
    try:
        with spans.span(name, attributes, attach=attach, kind=kind) as span:
            measured = _Measured(span, attributes)
            yield measured
    except BaseException as error:
        failed = metrics.outcome(error)
        raise
    finally:
        metrics.llm_ended(measured.seen, measured.tokens, measured.cost, perf_counter() - begun, failed)
