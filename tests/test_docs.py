"""The pages build without a warning. Their examples are run by pytest itself (testpaths, --doctest-glob)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")
pytest.importorskip("furo")

ROOT = Path(__file__).parents[1]


def test_pages_build_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path / "html")]
    built = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "html" / "index.html").is_file()
    names = re.findall(r"^   (equispike\S+)$", (ROOT / "docs/reference.md").read_text("utf-8"), re.MULTILINE)
    assert len(names) > 100
    for name in names:  # a page of its own, with a permanent link and the source
        page = (tmp_path / "html/api" / f"{name}.html").read_text("utf-8")
        assert f'class="headerlink" href="#{name}"' in page, name
        assert "viewcode-link" in page, name


def test_files_that_pages_name_exist() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for word in page.read_text(encoding="utf-8").split("`"):
            if word.startswith(("equispike/", "tests/", "experiments/", "benchmarks/")) and " " not in word:
                assert (ROOT / word).exists(), f"{page.name}: {word}"
