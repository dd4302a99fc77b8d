"""Router: a classifier says what a message is about, a route says who answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, ClassVar, Self

from pydantic import Field

from aixgo.asked import for_members
from aixgo.errors import InvalidReply, NoRoute
from aixgo.message import Message
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator, name_of
from aixgo.orchestration.checks import check_share
from aixgo.orchestration.reading import MemberField, PatternConfig, only_named


class RouterConfig(PatternConfig):
    """`config:` of a router."""

    classifier: MemberField = Field(description="The agent that names a category.")
    routes: dict[str, MemberField] = Field(min_length=1, description="Category -> agent.")
    fallback: MemberField | None = Field(
        default=None, description="Answers what has no route or too little confidence."
    )
    threshold: float = Field(default=0.0, ge=0.0, le=1.0, description="The confidence that a route needs.")


class Router(Orchestrator):
    """Calls `classifier`, then the agent that `routes` names for the category it answers.

    The classifier's reply has the category in its metadata (`category`, and `confidence` from 0 to 1 if it knows), as
    the ready classifier's does; else its text is the category. `fallback` answers what has no route, and what
    the classifier is less sure of than `threshold`; without one that raises NoRoute. The reply is the chosen agent's,
    with the metadata `routed_to`, `category`, `confidence`.
    """

    pattern: ClassVar[str] = "router"
    Config = RouterConfig

    def __init__(
        self,
        name: str,
        classifier: Member,
        routes: Mapping[str, Member],
        *,
        fallback: Member | None = None,
        threshold: float = 0.0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        last = () if fallback is None else (fallback,)
        super().__init__(name, (classifier, *routes.values(), *last), limits=limits)
        self._classifier = classifier
        self._routes = dict(routes)
        self._fallback = fallback
        self._threshold = check_share(f"threshold of router {name!r}", threshold)

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: RouterConfig, limits: Limits) -> Self:
        members = (config.classifier, *config.routes.values(), config.fallback)
        only_named(name, agents, members, "classifier, routes, fallback")
        return cls(
            name,
            config.classifier,
            config.routes,
            fallback=config.fallback,
            threshold=config.threshold,
            limits=limits,
        )

    @property
    def agent_count(self) -> int:
        """How many agents it may call; one that answers several routes is counted once."""
        return len(self.agents)

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        span = calls.span
        span.set("route_count", len(self._routes))
        started = perf_counter()
        verdict = await calls.call(self._classifier, for_members(message))
        span.set("router.classify_latency_ms", _ms_since(started))
        category, confidence = self._category(verdict), verdict.metadata.get("confidence")
        span.set("router.category", category)
        if isinstance(confidence, (int, float)):
            span.set("router.confidence", float(confidence))
        target, fell_back = self._choose(category, confidence)
        span.set("router.used_fallback", fell_back)
        span.set("router.target_agent", name_of(target))
        started = perf_counter()
        reply = await calls.call(target, message)
        span.set("router.route_latency_ms", _ms_since(started))
        return reply.with_metadata(routed_to=name_of(target), category=category, confidence=confidence)

    def _category(self, verdict: Message) -> str:
        category = verdict.metadata.get("category", verdict.payload)
        if not isinstance(category, str) or not category:
            raise InvalidReply(
                f"classifier {name_of(self._classifier)!r} named no category;"
                " put it into the metadata as `category`, or answer with its name"
            )
        return category.strip()

    def _choose(self, category: str, confidence: Any) -> tuple[Member, bool]:
        target = self._routes.get(category)
        sure = not isinstance(confidence, (int, float)) or confidence >= self._threshold
        if target is not None and sure:
            return target, False
        if self._fallback is not None:
            return self._fallback, True
        if target is not None:
            raise NoRoute(
                f"category {category!r} has confidence {confidence} and {self._threshold} is needed; add a fallback",
                fields={"category": category},
            )
        raise NoRoute(
            f"no route for category {category!r}; routes: {', '.join(self._routes)}; add one, or a fallback",
            fields={"category": category},
        )


def _ms_since(started: float) -> int:
    return int((perf_counter() - started) * 1000)
