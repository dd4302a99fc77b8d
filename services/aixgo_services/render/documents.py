"""Documents as YAML text that is the same for the same documents, for files that are kept under version control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import yaml

Document: TypeAlias = "dict[str, Any]"
"""One YAML document: only dicts, lists, strings, numbers and booleans, in the order in which they are written."""


def to_yaml(documents: Iterable[Mapping[str, Any]], *, header: str = "") -> str:
    """The documents one after another; `header` is text that is put before them as comments."""
    comments = "".join(f"# {line}\n" for line in header.splitlines())
    texts = (
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120) for document in documents
    )
    return comments + "---\n".join(texts)


class _Dumper(yaml.SafeDumper):
    def represent_scalar(self, tag: str, value: Any, style: str | None = None) -> yaml.ScalarNode:
        """Text of several lines as a block."""
        block = isinstance(value, str) and "\n" in value
        untyped: Any = super()
        return untyped.represent_scalar(tag, value, style="|" if block else style)

    def ignore_aliases(self, data: Any) -> bool:
        """Never an anchor: every object stands where it is read."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Entries of a list stand under their key, indented."""
        del indentless
        super().increase_indent(flow, False)
