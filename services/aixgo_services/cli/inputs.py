"""What a person says to an agent on the command line."""

from __future__ import annotations

import sys

from aixgo.errors import InvalidInput


def read_text(text: str) -> str:
    """`text` itself, or when it is `-` all of stdin, less its last line end. Raises InvalidInput for broken UTF-8."""
    if text != "-":
        return text
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InvalidInput("stdin is not UTF-8 text; convert it first") from error
