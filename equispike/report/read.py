"""Run files, as ``evaluate --json``, ``sweep`` and ``demo`` write them: read, checked, never trusted."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from equispike.errors import FileError
from equispike.files.store import Store, is_store
from equispike.results import FORMAT, VERSION, documents

Document = dict[str, Any]
REMEDY = "Give files that 'equispike evaluate --json', 'equispike sweep' or 'equispike demo' wrote"


def read_runs(paths: Sequence[Path]) -> list[tuple[Document, Path]]:
    """The documents in these files, or in ``results.json`` of these folders, each with where it comes from.

    A file of ``equispike sweep`` holds a document for each network and images.

    Raises:
        FileError: a file is missing, empty, truncated, of another kind or another version.
    """
    if not paths:
        raise FileError(f"no run files. {REMEDY}")
    files = [path / "results.json" if os.path.isdir(path) else path for path in paths]
    found = [(content, file) for file in files for content in _contents(file)]
    return [(_checked(content, file), file) for content, file in found]


def _contents(path: Path) -> Sequence[object]:
    return documents(Store(path)) if is_store(path) else [_read(path)]


def _read(path: Path) -> object:
    if not os.path.isfile(path):  # a device would be read without end
        raise FileError(f"{path}: no such file. {REMEDY}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}. {REMEDY}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: is no text. {REMEDY}") from error
    if not text.strip():
        raise FileError(f"{path}: is empty. Run the evaluation again")
    try:
        content: object = json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: is not JSON, or is cut off: {error}. {REMEDY}") from error
    return content


def _refused(word: str) -> object:
    raise ValueError(f"{word} is no number")


def _checked(content: object, path: Path) -> Document:
    document = cast("Document", content) if isinstance(content, dict) else {}
    if document.get("format") != FORMAT:
        raise FileError(f"{path}: is no run file. {REMEDY}")
    if document.get("version") != VERSION:
        raise FileError(
            f"{path}: has version {document.get('version')}; this release reads {VERSION}. Run the evaluation again"
        )
    return document
