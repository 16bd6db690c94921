"""Every paper can be cited."""

import pytest
from command import exit_code

from equispike.report.bibliography import METHODS, PAPERS, bibtex, page, papers_of


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Standard output of a command that succeeds, and the one line of one that does not."""
    code = exit_code(*arguments)
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_bibtex_of_all_papers_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    for key, paper in PAPERS.items():
        text = bibtex(key)
        assert text.count("{") == text.count("}")
        assert all(paper[part] in text for part in ("title", "year", "doi", "author"))
        assert paper["note"] not in text
        assert paper["title"] in page()
    assert set(METHODS) >= {"datanorm", "modelnorm", "spikenorm", "rmp", "ratenorm", "poisson"}
    assert papers_of(["rmp", "RMP(scale=0.8)"]) == ("han2020",)
    shown = run(capsys, "cite", "rmp", "spikenorm")
    assert shown.startswith("@article{sengupta2019,")
    assert "@inproceedings{han2020," in shown
    assert "stdp: no method has this name" in run(capsys, "cite", "stdp")
