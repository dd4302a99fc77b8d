"""YAML syntax: what is read, with which lines, and how broken text is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from aixgo.config.document import MAX_BYTES, MAX_NESTING, Document, parse_document, read_document
from aixgo.config.load import loads
from aixgo.config.schema import Config
from aixgo.errors import ConfigError
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = Path("mesh.yaml")


def parsed(text: str, **variables: str) -> Document:
    return parse_document(PATH, text.encode(), variables)


def config_or_error(content: str | bytes) -> Config | ConfigError:
    try:
        return loads(content)
    except ConfigError as error:
        return error


def refusal(text: str | bytes, **variables: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_document(PATH, text.encode() if isinstance(text, str) else text, variables)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("1_000", "1_000"),
        ("|\n  two\n  lines", "two\nlines"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object):
    data = parsed(f"key: {text}").data
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


def test_keys_are_always_text():
    assert parsed("{yes: 1, 2: 3, null: 4}").data == {"yes": 1, "2": 3, "null": 4}


def test_every_value_knows_its_line():
    document = parsed("a:\n  - x\n  - b: |\n      text\n    c: 1\n")
    assert document.line(("a",)) == 1
    assert document.line(("a", 1, "b")) == 3
    assert document.line(("a", 1, "c")) == 5
    assert document.line(("a", 1, "missing", "deeper")) == 3


def test_variables_are_filled_in_and_typed_after_that():
    text = "port: ${PORT}\nname: 'x-${NAME:-none}'\nempty: ${EMPTY:-used}\nliteral: $${NAME} costs $5"
    data = parsed(text, PORT="80", EMPTY="").data
    assert data == {"port": 80, "name": "x-none", "empty": "used", "literal": "${NAME} costs $5"}


def test_a_variable_cannot_add_structure():
    assert parsed("a: ${X}", X="1\nb: 2").data == {"a": "1\nb: 2"}


def test_an_unset_variable_is_named_with_its_line():
    message = refusal("a: 1\nb: ${TOKEN}\nc: ${OTHER}\n")
    assert message.splitlines() == [
        "mesh.yaml:2: ${TOKEN} is not set; set it, add it to .env, or write ${TOKEN:-default}",
        "mesh.yaml:3: ${OTHER} is not set; set it, add it to .env, or write ${OTHER:-default}",
    ]


def test_a_malformed_variable_is_refused():
    assert "mesh.yaml:1: write ${NAME}" in refusal("a: ${not a name}")


def test_anchors_and_merges_work():
    data = parsed(
        "base: &b {model: m, role: llm}\none: {<<: *b, role: x}\ntwo: {<<: [*b, {more: 1}]}\nthree: *b\n"
    ).data
    assert data["one"] == {"role": "x", "model": "m"}
    assert data["two"] == {"model": "m", "role": "llm", "more": 1}
    assert data["three"] == data["base"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "mesh.yaml:3: 'a' stands twice (first in line 1); remove one"),
        ("", "mesh.yaml: the file is empty"),
        ("# nothing\n", "mesh.yaml: the file is empty"),
        ("a: 1\n---\nb: 2\n", "mesh.yaml:2: a second document begins here"),
        ("a: [1\n", "this is not YAML"),
        ("a: *x\n", "mesh.yaml:1: the alias *x comes before the end of its anchor"),
        ("a: &a [*a]\n", "the alias *a comes before the end of its anchor"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", "mesh.yaml:2: the tag"),
        ("[a]: 1\n", "mesh.yaml:1: a key must be text"),
        ("a: {<<: 3}\n", "mesh.yaml:1: `<<` merges mappings"),
        ("[" * 60 + "]" * 60, f"nested deeper than {MAX_NESTING} levels"),
        ("a: 1\nb: \x07\n", "mesh.yaml:2: this is not YAML"),
        (b"a: 1\nb: \xff\n", "mesh.yaml:2: this is not UTF-8 text"),
        (b"#" * (MAX_BYTES + 1), "the file is larger than 1024 KiB"),
    ],
)
def test_broken_text_is_refused_with_its_line(text: str | bytes, told: str):
    assert told in refusal(text)


def test_a_bomb_of_aliases_is_refused():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    assert "use fewer aliases" in refusal(bomb)


def test_a_million_opening_brackets_are_refused_without_deep_recursion():
    assert "nested deeper" in refusal("[" * 1_000_000)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no such file"):
        read_document(tmp_path / "none.yaml", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_document(tmp_path, {})


WORDS = st.sampled_from(
    ["version", "agents", "orchestration", "name", "role", "llm", "2", "a", ": ", "\n", "  ", "- ", "{", "}", "[", "]",
     "&x ", "*x", "<<", "!!", "|", ">", "'", '"', "${", "}", "$${A}", "---", "#", "\t", "?", "é", "\u2028", "\ud800"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(WORDS).map("".join)))
def test_any_text_is_a_config_or_a_config_error(text: str):
    found = config_or_error(text)
    assert isinstance(found, Config) or found.message


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_any_bytes_are_a_config_or_a_config_error(content: bytes):
    found = config_or_error(content)
    assert isinstance(found, Config) or found.message
