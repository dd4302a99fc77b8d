"""Which agents an orchestration calls, wherever its YAML names them.

Patterns name members under `agents:`, and most under `config:` too (a router's classifier, routes and fallback, a
parallel's aggregator). Owns that knowledge for the checks of `load.py` and for `build.py`, both above.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from aixgo.config.schema import PatternSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aixgo.config.document import Location

_RESERVED: Mapping[tuple[str, str], frozenset[str]] = {
    ("parallel", "aggregator"): frozenset({"merge"}),
    ("mapreduce", "reducer"): frozenset({"list", "join"}),
}
"""Words that may stand in place of an agent's name."""

_IN_CONFIG: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "debate": (("moderator",), ("fallback",)),
    "ensemble": (("judge",), ("fallback",)),
    "hierarchical": (("manager",), ("managers",), ("teams", "*")),
    "mapreduce": (("splitter",), ("mapper",), ("reducer",)),
    "parallel": (("aggregator",),),
    "planning": (("planner",), ("synthesizer",)),
    "rag": (("retriever",), ("generator",), ("rewriter",), ("reranker",)),
    "reflection": (("generator",), ("critic",)),
    "router": (("classifier",), ("routes", "*"), ("fallback",)),
    "supervisor": (("supervisor",),),
}
"""Where in `config:` a pattern names members; `*` stands for every key. A list there is a list of members."""

Raw: TypeAlias = Any
"""A member as it stands in `config:`: a name, or a mapping that is a pattern."""


def config_members(spec: PatternSpec) -> Iterator[tuple[Location, Raw]]:
    """The members under `config:`, each with its place below the pattern."""
    for keys in _IN_CONFIG.get(spec.pattern, ()):
        reserved = _RESERVED.get((spec.pattern, keys[0]), frozenset())
        for location, value in _at(spec.config, keys, ("config",)):
            if value is not None and not (isinstance(value, str) and value in reserved):
                yield location, value


def with_config_members(spec: PatternSpec, replaced: Callable[[Location, Raw], Any]) -> dict[str, Any]:
    """A copy of `config:` whose members are what `replaced` makes of them."""
    config = _copied(spec.config)
    for location, value in config_members(spec):
        *above, last = location[1:]
        holder: Any = config
        for key in above:
            holder = holder[key]
        holder[last] = replaced(location, value)
    return config


def called_names(spec: PatternSpec) -> Iterator[str]:
    """The names that a pattern calls, those of the patterns written inside it included."""
    raw = (*spec.agents, *(value for _, value in config_members(spec)))
    for member in raw:
        if isinstance(member, str):
            yield member
        elif isinstance(member, PatternSpec):
            yield from called_names(member)
        else:
            yield from called_names(PatternSpec.model_validate(member))


def _at(value: Any, keys: tuple[str, ...], location: Location) -> Iterator[tuple[Location, Raw]]:
    if not keys and isinstance(value, list):
        for index, each in enumerate(cast("list[Any]", value)):
            yield (*location, index), each
    elif not keys:
        yield location, value
    elif isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        for key in entries if keys[0] == "*" else (keys[0],):
            if key in entries:
                yield from _at(entries[key], keys[1:], (*location, key))


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in cast("Mapping[str, Any]", value).items()}
    return [_copied(each) for each in cast("list[Any]", value)] if isinstance(value, list) else value
