"""What every LLM provider does: complete, stream, and complete into a schema.

Owns the protocols and their records. A vendor's file implements Client and only maps; `metering.py` makes a Provider of
it, so that no vendor file and no agent counts tokens or repairs answers; `models.py` finds the provider of a model's
name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from aixgo.errors import InvalidInput
from aixgo.usage import NO_USAGE, Usage

Speaker = Literal["system", "user", "assistant", "tool"]
StopReason = Literal["stop", "length", "tool_calls", "refused", "other"]
SchemaT = TypeVar("SchemaT", bound=BaseModel)

DEFAULT_MAX_TOKENS = 1024
ELSEWHERE = "elsewhere"
"""The field of a ProviderRejected that another model may well answer: true."""
IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What both OpenAI and Anthropic document; Gemini takes all but GIF, and says so."""
MAX_IMAGE_BYTES = 5_000_000
"""Of one image: Anthropic's limit, the lowest."""
MAX_IMAGE_URL = 2048


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that the model wants called."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    reasoning: str = field(default="", repr=False)
    """What led to it, as the vendor wants it back with this turn: sealed, `vendor:...`; other vendors leave it out."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture to show to a model: its bytes and their media type, or the address where the vendor finds it.

    Raises InvalidInput for a picture that no vendor takes.
    """

    data: bytes = field(default=b"", repr=False)
    media_type: str = ""
    url: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if bool(self.data) == bool(self.url):
            raise InvalidInput("an image has either `data` or `url`")
        if self.media_type not in IMAGE_TYPES and (self.data or self.media_type):
            raise InvalidInput(
                f"`media_type` of an image is {self.media_type!r}; it is one of {', '.join(IMAGE_TYPES)}"
            )
        if len(self.data) > MAX_IMAGE_BYTES:
            raise InvalidInput(f"an image has {len(self.data)} bytes and {MAX_IMAGE_BYTES} are allowed; scale it down")
        if self.url and not (self.url.startswith(("https://", "http://")) and len(self.url) <= MAX_IMAGE_URL):
            raise InvalidInput(f"`url` of an image is an http(s) address of at most {MAX_IMAGE_URL} characters")

    @property
    def described(self) -> str:
        """What traces may say of it: its type and size, or its address without a query, which may have a key in it."""
        if self.data:
            return f"[image: {self.media_type}, {len(self.data)} bytes]"
        parts = urlsplit(self.url)
        return f"[image: {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}]"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation with a model. `tool_call_id` is the use that a `tool` turn answers.

    `images` are shown to the model with the text, in turns of the user.
    """

    role: Speaker
    content: str
    tool_uses: Sequence[ToolUse] = ()
    tool_call_id: str = ""
    images: Sequence[Image] = ()

    @property
    def described(self) -> str:
        """What traces may say of it: its text, and what its images are."""
        return "\n".join([*(image.described for image in self.images), *([self.content] if self.content else ())])


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool that the model may ask for; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """One token of a completion: what was taken, and the log probabilities of the likeliest tokens at that place."""

    text: str
    likeliest: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What to complete. `max_tokens` bounds the completion."""

    messages: Sequence[ChatMessage]
    model: str = ""
    """The vendor's own name, without the prefix; `Chat` fills it in."""
    temperature: float | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: Sequence[str] = ()
    tools: Sequence[ToolOffer] = ()
    schema: Mapping[str, Any] | None = None
    """A JSON schema that the completion must follow: natively where the vendor can, else by asking for it."""
    top_logprobs: int = 0
    """Ask for the log probabilities of so many tokens at each place; a vendor that has none leaves them out."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further parameters of the vendor's API, passed as they are."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model answered, and what it took. `tokens` is filled when log probabilities were asked for and known."""

    text: str
    model: str
    usage: Usage = NO_USAGE
    stop_reason: StopReason = "stop"
    tool_uses: Sequence[ToolUse] = ()
    tokens: Sequence[TokenChoice] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed completion. The last one carries `completion`, the whole of it."""

    text: str = ""
    completion: Completion | None = None


class Client(Protocol):
    """What a vendor's file writes: one request, one answer of the vendor. It honours cancellation at once.

    It raises ProviderError and its subclasses; an error that cost tokens carries them in `usage`. `Completion.usage`
    holds tokens only: metering counts the call and prices it.
    """

    vendor: str

    async def complete(self, request: CompletionRequest) -> Completion:
        """One completion."""
        ...

    def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """A completion in pieces; the last chunk carries the whole."""
        ...

    async def close(self) -> None:
        """Close connections and what was started."""
        ...


class Provider(Client, Protocol):
    """What agents hold: a Client that is metered, and completes into a schema by asking it again where needed."""

    async def complete_structured(
        self, request: CompletionRequest, schema: type[SchemaT]
    ) -> tuple[SchemaT, Completion]:
        """A completion that validates as `schema`; raises InvalidCompletion when the model cannot do it."""
        ...
