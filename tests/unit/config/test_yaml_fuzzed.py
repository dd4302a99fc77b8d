"""Whatever text comes as configuration, it is a Config or a ConfigError, at once, and runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from aixgo.config.document import MAX_MERGED, MAX_VALUES, MAX_VARIABLES
from aixgo.config.load import loads
from aixgo.config.problems import MAX_KEPT, MAX_SHOWN
from aixgo.config.schema import Config
from aixgo.errors import ConfigError
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = [
    file.read_bytes() for file in sorted((Path(__file__).parents[3] / "examples").glob("*/*.yaml")) if file.is_file()
]
PIECES = ("version: 2\n", "agents:", "name: a", "&a ", "*a", "<<: *a", "${A", "${A:-", "$${", "!x ", "|\n  x", ">\n  x")
MARKS = (
    "{",
    "}",
    "[",
    "]",
    ",",
    "? ",
    ": ",
    "- ",
    "---\n",
    "...\n",
    "\n",
    "  ",
    "\t",
    "'",
    '"',
    "\\x",
    "#",
    "\ufeff",
    "~",
)
TAGS = ("!!binary x", "!!python/object/apply:os.system ['true']", "%YAML 1.1\n", "!!python/name:os.system ", "!!set {}")
WORDS = st.sampled_from(PIECES + MARKS + TAGS)


def understood(content: str | bytes) -> Config | ConfigError:
    """What comes of it; anything else that is raised fails the test."""
    try:
        return loads(content)
    except ConfigError as error:
        return error


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(WORDS, st.text(max_size=8)), max_size=40).map("".join))
def test_any_text_of_pieces_of_yaml_is_a_config_or_an_error_with_a_reason(text: str) -> None:
    result = understood(text)
    assert isinstance(result, Config) or str(result)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_config_or_an_error_with_a_reason(content: bytes) -> None:
    result = understood(content)
    assert isinstance(result, Config) or str(result)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(EXAMPLES),
    st.lists(st.tuples(st.floats(0, 1), st.one_of(st.binary(max_size=4), WORDS.map(str.encode))), max_size=4),
)
def test_examples_that_something_was_put_into_are_a_config_or_an_error_with_a_reason(
    example: bytes, changes: list[tuple[float, bytes]]
) -> None:
    content = example
    for where, what in changes:
        at = int(where * len(content))
        content = content[:at] + what + content[at + len(what) // 2 :]
    result = understood(content)
    assert isinstance(result, Config) or str(result)


def entries(count: int) -> str:
    return ",".join(f"k{number}: 1" for number in range(count))


BOMBS = {
    "aliases of aliases": (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)),
        f"more than {MAX_VALUES} values",
    ),
    "a chain of aliases": (
        "x:\n- &a0 [x]\n" + "".join(f"- &a{number} [*a{number - 1}]\n" for number in range(1, 5_000)),
        f"more than {MAX_VALUES} values",
    ),
    "merges": (f"x: &a {{{entries(1_000)}}}\ny:\n" + "- {<<: *a}\n" * 20_000, f"merges more than {MAX_MERGED} entries"),
    "merges of a list": (
        f"x: &a {{{entries(1_000)}}}\ny: {{<<: [{','.join(['*a'] * 20_000)}]}}\n",
        f"merges more than {MAX_MERGED} entries",
    ),
    "variables that do not end": ("x: '" + "${A:-" * 150_000 + "'", f"more than {MAX_VARIABLES}"),
    "the same key again and again": ("a: 1\n" * 100_000, f"{MAX_KEPT - MAX_SHOWN} more"),
    "open brackets": ("[" * 500_000, "nested deeper"),
    "open braces": ("{a: " * 200_000, "nested deeper"),
    "one key of a megabyte": ("k" * 1_000_000 + ": 1", "YAML"),
    "code in tags": ("x:\n" + "- !!python/object/apply:os.abort []\n" * 20_000, "is not supported"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.timeout(60)
def test_a_bomb_is_refused_for_what_it_is(bomb: str) -> None:
    text, reason = BOMBS[bomb]
    with pytest.raises(ConfigError, match=reason) as caught:
        loads(text)
    assert len(str(caught.value)) < 20_000
    assert len(caught.value.fields.get("problems", [])) <= MAX_KEPT
