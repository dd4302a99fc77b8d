"""Files become documents; what cannot is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from aixgo import errors
from aixgo.retrieval import loading
from aixgo.retrieval.loading import Source, Unreadable, list_files, read

PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj
4 0 obj<</Length 42>>stream
BT /F 12 Tf 10 10 Td (Paid vacation) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R>>
startxref
0
%%EOF"""


def document(tmp_path: Path, name: str, data: bytes) -> str:
    path = tmp_path / name
    path.write_bytes(data)
    return read(Source(path, name)).text


def test_a_folder_gives_its_documents_by_name_and_tells_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("docs/b.md", "docs/a/c.txt", "docs/.git/x.md", "docs/.hidden.md", "docs/logo.png", "secret.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "docs" / "out.md").symlink_to(tmp_path / "secret.md")
    listing = list_files(Path("./docs/"))
    assert [source.name for source in listing.sources] == ["docs/b.md", "docs/a/c.txt"]
    assert {one.path: one.reason.split()[0:3] for one in listing.skipped} == {
        "docs/logo.png": ["files", "of", "kind"],
        "docs/out.md": ["it", "is", "a"],
    }
    assert listing.covers("docs/gone.md")
    assert not listing.covers("docs2/gone.md")


def test_nothing_there_is_a_config_error():
    with pytest.raises(errors.ConfigError, match="nowhere"):
        list_files(Path("nowhere"))


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loading, "MAX_FILES", 1)
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("x")
    with pytest.raises(errors.LimitExceeded, match="more than 1 files"):
        list_files(tmp_path)


def test_html_gives_what_a_reader_sees(tmp_path: Path):
    page = (
        b"<head><title>t</title><style>p{}</style><body><h1>Leave</h1><p>25 days&nbsp;a <b>year</b><script>x()</script>"
    )
    assert document(tmp_path, "a.html", page) == "Leave\n\n25 days a year"


def test_pdf_gives_its_text(tmp_path: Path):
    assert "Paid vacation" in document(tmp_path, "a.pdf", PDF)


def test_utf_16_and_byte_order_marks_are_read(tmp_path: Path):
    assert document(tmp_path, "a.txt", "\ufeffgrün".encode()) == "grün"
    assert document(tmp_path, "a.txt", "grün".encode("utf-16")) == "grün"


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.txt", b"\x00\x01\x02", "binary"),
        ("a.txt", b"gr\xfcn", "not UTF-8"),
        ("a.txt", b" \n", "no text"),
        ("a.pdf", b"no pdf", "no PDF"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, data: bytes, why: str):
    with pytest.raises(Unreadable, match=why):
        document(tmp_path, name, data)


def test_a_file_or_text_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loading, "MAX_TEXT", 5)
    with pytest.raises(Unreadable, match="6 characters"):
        document(tmp_path, "a.txt", b"123456")
    monkeypatch.setattr(loading, "MAX_FILE_BYTES", 5)
    with pytest.raises(Unreadable, match="6 bytes"):
        document(tmp_path, "a.txt", b"123456")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(Unreadable, match="cannot be read"):
        read(Source(path, "a.txt"))


def test_pdf_without_its_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'aixgo\[rag\]'"):
        document(tmp_path, "a.pdf", PDF)
