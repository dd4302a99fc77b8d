"""Reading documents from files: text, Markdown, HTML and PDF, one at a time, within limits.

Owns which files of a folder are documents and how each becomes text. What is left out is told, never silently dropped.
Below: the file system. Everything here blocks; `index.py` calls it in threads.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from aixgo.errors import ConfigError, LimitExceeded
from aixgo.retrieval.contract import Document

MAX_FILE_BYTES = 20 * 1024 * 1024
MAX_TEXT = 5_000_000
"""Characters of the text of one document."""
MAX_FILES = 20_000
"""Files of one folder, those in its folders included."""
MAX_PAGES = 5_000

_SNIFFED = 8192
_BREAKS = re.compile(
    r"address|article|aside|blockquote|br|d[dlt]|div|fig\w+|footer|form|h[1-6r]|header|li|main|nav|[ou]l|p|pre|section|t[adhr]\w*"
)
_PARAGRAPHS = re.compile(r"h[1-6]|p")
_UNSEEN = frozenset({"title", "script", "style", "template", "noscript", "svg"})


class Unreadable(Exception):
    """A file that gives no document; the message says why. It is told as Skipped and never leaves retrieval."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read. `name` is the source of its document: the folder as it was given, and the path in it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The files below one place. `scope` begins the name of all of them: what else the index has of it is gone."""

    scope: str
    sources: Sequence[Source]
    skipped: Sequence[Skipped] = field(default=())

    def covers(self, name: str) -> bool:
        """Whether a document of that name belongs to this place."""
        return name == self.scope or name.startswith(f"{self.scope.rstrip('/')}/")


def list_files(place: Path, base: Path = Path()) -> Listing:
    """The documents at `place`, a folder or one file, by name; a relative place is looked for in `base`. Hidden files
    and folders are passed over; links that lead out of the folder, and kinds of files that cannot be read, are skipped
    with a reason.

    Raises ConfigError when there is nothing at `place`, LimitExceeded for more than MAX_FILES files.
    """
    scope = PurePath(place).as_posix()
    top = base / place
    if top.is_file():
        return Listing(scope, (Source(top, scope),))
    if not top.is_dir():
        raise ConfigError(f"there is no folder or file {str(place)!r} in {base.resolve()}; name one, or its whole path")
    sources: list[Source] = []
    skipped: list[Skipped] = []
    root = top.resolve()
    for path in _walk(top):
        name = (place / path.relative_to(top)).as_posix()
        if path.suffix.lower() not in READERS:
            skipped.append(Skipped(name, f"files of kind {path.suffix or 'none'} are not read; {_known()} are"))
        elif not path.resolve().is_relative_to(root):
            skipped.append(Skipped(name, "it is a link that leads out of the folder"))
        else:
            sources.append(Source(path, name))
    return Listing(scope, sources, skipped)


def read(source: Source) -> Document:
    """The document of one file; raises Unreadable when it gives none: too large, binary, broken, or empty."""
    reader = READERS.get(source.path.suffix.lower(), _plain)
    try:
        size = source.path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise Unreadable(f"it has {size} bytes, and {MAX_FILE_BYTES} are read; split it")
        text = reader(source.path.read_bytes())
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror}") from error
    if not text.strip():
        raise Unreadable("it has no text")
    if len(text) > MAX_TEXT:
        raise Unreadable(f"it has {len(text)} characters of text, and {MAX_TEXT} are read; split it")
    return Document(source.name, text)


def _walk(place: Path) -> Iterator[Path]:
    count = 0
    for folder, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                continue
            count += 1
            if count > MAX_FILES:
                raise LimitExceeded(f"{str(place)!r} has more than {MAX_FILES} files; index its folders one by one")
            yield Path(folder) / name


def _known() -> str:
    return " ".join(READERS)


def _plain(data: bytes) -> str:
    if b"\0" in data[:_SNIFFED] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("it is binary")
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 text (byte {error.start}); convert it") from error


class _Page(HTMLParser):
    """The text that a reader of a page sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        if _BREAKS.fullmatch(tag):
            self.parts.append("\n\n" if _PARAGRAPHS.fullmatch(tag) else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        if _BREAKS.fullmatch(tag):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def _html(data: bytes) -> str:
    page = _Page()
    page.feed(_plain(data))
    page.close()
    lines = (" ".join(line.split()) for line in "".join(page.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _pdf(data: bytes) -> str:
    from io import BytesIO

    try:
        pypdf: Any = importlib.import_module("pypdf")
    except ImportError as error:
        raise ConfigError("PDF files need the pypdf package; install it with: pip install 'aixgo[rag]'") from error
    try:
        pages = pypdf.PdfReader(BytesIO(data)).pages
        texts = [page.extract_text() for page in itertools.islice(pages, MAX_PAGES + 1)]
    except Exception as error:  # a broken PDF makes pypdf raise anything, and the other files shall be read
        raise Unreadable(f"it is no PDF that can be read: {error}") from error
    if len(texts) > MAX_PAGES:
        raise Unreadable(f"it has more than {MAX_PAGES} pages; split it")
    return "\n\n".join(texts)


READERS: Mapping[str, Callable[[bytes], str]] = MappingProxyType(
    dict.fromkeys((".txt", ".md", ".markdown", ".rst", ".csv", ".json", ".yaml", ".yml"), _plain)
    | dict.fromkeys((".html", ".htm"), _html)
    | {".pdf": _pdf}
)
"""How files become text, by their suffix."""
