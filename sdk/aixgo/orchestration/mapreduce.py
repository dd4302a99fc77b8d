"""MapReduce: an input is split into items, one agent maps each of them at the same time, and the results become one.

Owns splitting without an agent (pure functions), the fate of items that fail, and the order of results. Below: base.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, cast, get_args

from pydantic import BaseModel, Field, WithJsonSchema, model_validator

from aixgo.asked import HANDOFFS, for_members
from aixgo.conversation import KEY as CONVERSATION
from aixgo.errors import AixgoError, AllMembersFailed, InvalidInput, InvalidReply, LimitExceeded
from aixgo.message import JSON, Message
from aixgo.orchestration.asking import ask, read_answer
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator, name_of
from aixgo.orchestration.checks import check_count, check_word
from aixgo.orchestration.failures import in_words
from aixgo.orchestration.reading import MemberField, PatternConfig, only_named
from aixgo.runtime.contract import Outcome, Outcomes

Split: TypeAlias = Literal["auto", "lines", "paragraphs", "items"]
LIST, JOIN = "list", "join"
_SPLITTING, _REDUCING = 1, 3
"""The numbers of their steps; mapping, the second step, has a call for each item instead of one."""
_BLANK_LINES = re.compile(r"\n\s*\n")


class Items(BaseModel):
    """A splitter's answer. A plain JSON list is taken as well; items may be any JSON values."""

    items: Annotated[
        list[Any],
        WithJsonSchema({"type": "array", "items": {"type": "string"}}),
        Field(description="The parts, in order."),
    ]

    @model_validator(mode="before")
    @classmethod
    def _plain_list(cls, given: Any) -> Any:
        return {"items": cast("list[Any]", given)} if isinstance(given, list) else given


class MapReduceConfig(PatternConfig):
    """`config:` of a map-reduce."""

    mapper: MemberField = Field(description="The agent that is called once for each item.")
    reducer: MemberField = Field(
        default=LIST, description="list: the JSON list of results; join: their texts; else the agent that reduces them."
    )
    splitter: MemberField | None = Field(default=None, description="The agent that splits; without one, see split.")
    split: Split = Field(
        default="auto",
        description="How to split without an agent: items (of a JSON list), paragraphs, lines; auto: the first that"
        " there are.",
    )
    separator: str = Field(default="\n", description="What stands between two texts that are joined.")
    concurrency: int = Field(default=8, ge=1, description="How many items are mapped at once.")
    on_error: Literal["stop", "skip"] = Field(
        default="stop", description="stop: the first item that fails ends it; skip: go on without that item."
    )
    max_items: int = Field(default=1000, ge=1, description="How many items an input may have.")


class MapReduce(Orchestrator):
    """Splits the input, calls `mapper` once for each item, at most `concurrency` at the same time, and reduces the
    results, which stay in the order of the items.

    `splitter` answers the items as a JSON list, or as {"items": [...]}. Without one `split` says how: "items" takes
    those of a JSON list (also one that is written as text), "paragraphs" what blank lines part, "lines" the lines that
    are not blank; "auto" the first of these three that there are, and other JSON values as one item.

    The mapper's request has the item as payload and adds `index` (from 0) and `item_count` to the request's metadata.
    It belongs to no session: items neither see nor become turns of one. With several replicas of the mapper they share
    the items. With `on_error="stop"` the first failure cancels the others and is raised, with `fields["index"]`; with
    "skip" it goes on, items that are not done shortly before its deadline fail too, and AllMembersFailed is raised when
    no item succeeded. A spent budget and depth end it always.

    `reducer` "list" makes a JSON list of the payloads, "join" one text with `separator` in between; an agent gets that
    list as payload and the metadata `map_results`, [{index, payload, metadata}]. Metadata: `item_count`; when some
    failed `failed_items`, [{index, class, message}]. Raises LimitExceeded for more items than `max_items`, and
    InvalidInput for none.
    """

    pattern: ClassVar[str] = "mapreduce"
    Config = MapReduceConfig

    def __init__(
        self,
        name: str,
        mapper: Member,
        *,
        reducer: Member = LIST,
        splitter: Member | None = None,
        split: Split = "auto",
        separator: str = "\n",
        concurrency: int = 8,
        on_error: Literal["stop", "skip"] = "stop",
        max_items: int = 1000,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._reducer = None if reducer in (LIST, JOIN) else reducer
        members = (splitter, mapper, self._reducer)
        super().__init__(name, [member for member in members if member is not None], limits=limits)
        self._mapper, self._splitter = mapper, splitter
        self._split: Split = check_word(f"split of mapreduce {name!r}", split, get_args(Split))
        self._separator = separator if reducer == JOIN else None
        self._concurrency = check_count(f"concurrency of mapreduce {name!r}", concurrency)
        self._skips = check_word(f"on_error of mapreduce {name!r}", on_error, ("stop", "skip")) == "skip"
        self._max_items = check_count(f"max_items of mapreduce {name!r}", max_items)

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: MapReduceConfig, limits: Limits) -> Self:
        only_named(name, agents, (config.splitter, config.mapper, config.reducer), "splitter, mapper, reducer")
        return cls(
            name,
            config.mapper,
            reducer=config.reducer,
            splitter=config.splitter,
            split=config.split,
            separator=config.separator,
            concurrency=config.concurrency,
            on_error=config.on_error,
            max_items=config.max_items,
            limits=limits,
        )

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        items = await self._items(message, calls)
        calls.span.set("mapreduce.items", len(items))
        outcomes = await self._mapped(message, items, calls)
        failed = [_failure(index, each.error) for index, each in enumerate(outcomes) if each.error is not None]
        calls.span.set("mapreduce.failed", len(failed))
        if len(failed) == len(items):
            raise _all_failed(failed)
        reply = await self._reduced(message, outcomes, calls)
        reply = reply.with_metadata(item_count=len(items))
        return reply.with_metadata(failed_items=failed) if failed else reply

    async def _items(self, message: Message, calls: MemberCalls) -> Sequence[JSON]:
        if self._splitter is not None:
            answer, _ = await ask(calls, self._splitter, message, Items, number=_SPLITTING)
            items, source = answer.items, f"splitter {name_of(self._splitter)!r} found"
        else:
            items, source = split(message, self._split), "the input has"
        if not items:
            raise InvalidInput(f"{source} no items for mapreduce {self.name!r}; send at least one")
        if len(items) > self._max_items:
            raise LimitExceeded(
                f"{source} {len(items)} items for mapreduce {self.name!r}, and max_items allows {self._max_items};"
                " send fewer, or raise max_items",
                fields={"limit": self._max_items},
            )
        return items

    async def _mapped(self, message: Message, items: Sequence[JSON], calls: MemberCalls) -> Outcomes:
        """The outcome of each item; raises the first error that ends it all."""
        ending: list[AixgoError] = []

        def ended(outcomes: Sequence[Outcome]) -> bool:
            error = outcomes[-1].error
            if error is not None and (not self._skips or calls.fatal(error)):
                ending.append(error)
            return bool(ending)

        shared = self._item_metadata(message) | {"item_count": len(items)}
        work = [
            (self._mapper, Message(item, shared | {"index": index}, session_id=message.session_id))
            for index, item in enumerate(items)
        ]
        outcomes = await calls.scatter(work, concurrency=self._concurrency, enough=ended)
        if not self._skips:  # what was not done in time has an error that nobody was told of
            ending += [each.error for each in outcomes if each.error is not None]
        if ending:
            at = next(index for index, outcome in enumerate(outcomes) if outcome.error is ending[0])
            ending[0].fields.setdefault("index", at)
            calls.span.set("mapreduce.failed", 1)
            raise ending[0]
        return outcomes

    def _item_metadata(self, message: Message) -> dict[str, Any]:
        """The request's metadata for an item; what it asks of the reply is for the reducer, if that is an agent."""
        passed_on = message.without_metadata(HANDOFFS) if self._reducer is None else for_members(message)
        # A conversation, be it an empty one, keeps agents with a memory from holding the session for each item.
        return {CONVERSATION: [], **passed_on.metadata}

    async def _reduced(self, message: Message, outcomes: Outcomes, calls: MemberCalls) -> Message:
        if self._separator is not None:
            text = self._separator.join(reply.text for reply in outcomes.results)
            return Message(text, session_id=message.session_id)
        results = [_result(index, each.message) for index, each in enumerate(outcomes) if each.message is not None]
        merged = Message([result["payload"] for result in results], session_id=message.session_id)
        if self._reducer is None:
            return merged
        request = merged.with_metadata(**dict(message.metadata), map_results=results)
        return await calls.step(_REDUCING, self._reducer, request)


def split(message: Message, how: Split) -> Sequence[JSON]:
    """The items of a message without the help of an agent. Raises InvalidInput when it cannot be split so."""
    payload = message.payload
    if how == "items" or (how == "auto" and _looks_like_list(message)):
        found = _listed(message)
        if found is not None:
            return found
        if how == "items":
            raise InvalidInput(f"split: items needs a JSON list, and the payload is {message.text[:80]!r}; send a list")
    if not isinstance(payload, (str, bytes)):
        if how == "auto":
            return [] if payload is None else [payload]
        raise InvalidInput(f"split: {how} needs text, and the payload is a {type(payload).__name__}; use items or auto")
    text = message.text.replace("\r\n", "\n")
    paragraphs = [part.strip("\n") for part in _BLANK_LINES.split(text) if part.strip()]
    if how == "paragraphs" or (how == "auto" and len(paragraphs) > 1):
        return paragraphs
    return [line for line in text.split("\n") if line.strip()]


def _looks_like_list(message: Message) -> bool:
    payload = message.payload
    return isinstance(payload, list) or (isinstance(payload, (str, bytes)) and message.text.lstrip()[:1] == "[")


def _listed(message: Message) -> Sequence[JSON] | None:
    """The items of a message that is a JSON list, or has one under `items`; None for others."""
    try:
        return read_answer(message, Items).items
    except InvalidReply:
        return None


def _failure(index: int, error: AixgoError) -> dict[str, Any]:
    return {"index": index, **error.brief()}


def _all_failed(failed: Sequence[Mapping[str, Any]]) -> AllMembersFailed:
    errors = {str(each["index"]): {"class": each["class"], "message": each["message"]} for each in failed}
    return AllMembersFailed(f"all {len(failed)} items failed: {in_words(errors)}", fields={"errors": errors})


def _result(index: int, reply: Message) -> dict[str, Any]:
    return {"index": index, "payload": reply.json, "metadata": dict(reply.metadata)}
