"""What the documents name is there: files, modules, classes, functions, other documents.

A name in backticks or in a drawing of `ARCHITECTURE.md` stands somewhere in the sources, so that a
reader who greps for it arrives; one that was renamed is found here.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("proto", "engine", "primary", "replica", "d1server", "d1client")
SOURCES = (*PACKAGES, "tests", "bench", "examples")

SPAN = re.compile(r"`([^`\n]+)`")
DRAWING = re.compile(r"```\n(.*?)```", re.DOTALL)
NAME_IN_DRAWING = re.compile(r"\b[A-Z]\w+\.\w+|\b[a-z]+_\w+|\b[A-Z][a-z]+[A-Z]\w+")
FILE = re.compile(r"[\w/-]+\.(?:py|md|toml)")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
WORD = re.compile(r"[A-Za-z_]\w+")


def texts() -> str:
    paths = [ROOT / "Makefile"]
    for folder in SOURCES:
        found = (ROOT / folder).rglob("*.py")
        paths += [path for path in found if "node_modules" not in path.parts]
    paths.remove(Path(__file__).resolve())
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


WORDS = frozenset(WORD.findall(texts()))


def named_in(document: str) -> Iterator[str]:
    yield from SPAN.findall(document)
    for drawing in DRAWING.findall(document):
        yield from NAME_IN_DRAWING.findall(drawing)


def is_there(name: str) -> bool:
    if FILE.fullmatch(name):
        return any((ROOT / folder / name).exists() for folder in ("", *PACKAGES))
    return WORDS.issuperset(WORD.findall(name))


def missing(document: str) -> list[str]:
    return sorted({name for name in named_in(document) if not is_there(name)})


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_what_a_document_names_is_there(name: str) -> None:
    assert not missing((ROOT / name).read_text(encoding="utf-8"))


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    documents += [*ROOT.glob("*/README.md"), *ROOT.glob("clients/*/README.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in LINK.findall(document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert not broken


def test_what_is_not_there_is_found() -> None:
    text = "`Writer.execute` of `primary/writer.py`, `Writer.exequte` of `primary/riter.py`"
    assert missing(text) == ["Writer.exequte", "primary/riter.py"]
    assert missing("```\n  Committer.write_nov\n    encode_prat\n```\n") == [
        "Committer.write_nov",
        "encode_prat",
    ]
