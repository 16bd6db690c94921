"""The report: what a page holds, what is refused, and the page itself in a browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Page, browser, installed
from command import exit_code
from torch import nn

import equispike as es
from equispike.analysis.closer import look_closer
from equispike.errors import FileError
from equispike.report.data import _provenance, page_data, serves
from equispike.report.page import in_script, write_report
from equispike.report.read import read_runs
from equispike.results import Result, document, write_json
from equispike.zoo.data import load

T = 20
NASTY = "</script><script>throw 1</script><!-- \u2028 &amp; {{style}}"
METHODS = (es.DataNorm(99.9), es.Constant()), (es.DataNorm(80.0), es.Constant()), (es.DataNorm(99.9), es.Poisson())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three conversions of a small random network, with a name that tries to break out of its place."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(294, 10)
    )
    digits = load("mnist-sample")
    test, calibration = digits.test.take(40), digits.train.take(8).floats()
    results: list[Result] = []
    for method, coder in METHODS:
        network = es.convert(model, calibration, method)
        evaluation = es.evaluate(network, test.batches(20), T, coder)
        closer = look_closer(network, evaluation, test, coder)
        results.append(Result(network, coder, evaluation, closer, test.labels))
    path = tmp_path_factory.mktemp("report") / "results.json"
    write_json(path, document(results, NASTY, test.name, test.classes, device="cpu"))
    return path


def changed(made: Path, tmp_path: Path, **fields: Any) -> Path:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
    path.write_text(json.dumps(json.loads(made.read_text()) | fields))
    return path


def test_every_number_of_a_run_is_that_of_its_file(made: Path) -> None:
    page = page_data(read_runs([made]))
    filed = json.loads(made.read_text())["runs"]
    assert page["steps"] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    assert [run["label"] for run in page["runs"]] == ["DataNorm(99.9)", "DataNorm(80)", "DataNorm(99.9), poisson"]
    for run, source in zip(page["runs"], filed, strict=True):
        for n, t in enumerate(page["steps"]):
            assert run["accuracy"][n] == source["accuracy"][t - 1]
            assert run["rate"][n] == source["spike_rate"][t - 1]
            spikes = sum(layer["spikes"][n] for layer in run["layers"])
            assert run["spikes"][n] == pytest.approx(spikes)
            neurons = sum(layer["neurons"] for layer in run["layers"])
            assert run["rate"][n] == pytest.approx(100 * spikes / (neurons * t), rel=1e-3, abs=1e-4)
        assert run["spikes"][-1] == pytest.approx(sum(source["spikes_per_image"].values()), rel=1e-4)
        joules = run["energy"][0]
        additions = sum(row["additions"][-1] for row in run["operations"])
        analog = sum(row["analog_macs"] for row in run["operations"])
        assert joules["spiking"][-1] == pytest.approx(additions * 0.9e-12 + analog * 4.6e-12, rel=1e-3)
        assert joules["trained"] == pytest.approx(sum(row["macs"] for row in run["operations"]) * 4.6e-12)
    constant, _, poisson = page["runs"]
    assert sum(row["analog_macs"] for row in constant["operations"]) > 0
    assert sum(row["analog_macs"] for row in poisson["operations"]) == 0  # its input spikes: additions instead
    assert constant["operations"][0]["additions"][-1] == 0 < poisson["operations"][0]["additions"][-1]


def test_the_front_is_what_no_other_point_beats(made: Path) -> None:
    page = page_data(read_runs([made]))
    for cost, (front,) in enumerate(page["fronts"]):
        points = [
            (run["energy"][cost]["spiking"][n], run["accuracy"][n])
            for run in page["runs"]
            for n in range(len(run["steps"]))
        ]
        on_it = [(page["runs"][r]["energy"][cost]["spiking"][s], page["runs"][r]["accuracy"][s]) for r, s in front]
        unbeaten = {p for p in points if not any(e <= p[0] and a >= p[1] and (e, a) != p for e, a in points)}
        assert set(on_it) == unbeaten
        assert on_it == sorted(on_it)


def test_runs_of_different_networks_share_a_page_that_says_so(made: Path, tmp_path: Path) -> None:
    other = changed(made, tmp_path, network="another", images=7)
    page = page_data(read_runs([made, other]))
    assert page["mixed"] == ["networks", "numbers of images"]
    assert len(page["fronts"][0]) == 2
    assert [run["label"] for run in page["runs"]][-1] == "another: DataNorm(99.9), poisson"
    same = page_data(read_runs([made, made]))
    assert same["mixed"] == []
    assert same["runs"][3]["label"] == "DataNorm(99.9) (2)"


def test_what_is_no_run_file_is_refused_by_name(made: Path, tmp_path: Path) -> None:
    text = made.read_text()
    bad = {
        "empty": ("", "is empty"),
        "cut": (text[: len(text) // 2], "is not JSON, or is cut off"),
        "deep": ("[" * 100_000, "is not JSON, or is cut off"),
        "foreign": ("[1, 2]", "is no run file"),
        "newer": (json.dumps(json.loads(text) | {"version": 99}), "has version 99"),
        "hollow": (json.dumps({"format": "equispike.results", "version": 1}), "does not hold the results"),
        "none": (json.dumps(json.loads(text) | {"runs": []}), "holds no runs"),
        "odd": (json.dumps(json.loads(text) | {"runs": [{"steps": "x"}]}), "does not hold the results"),
        "number": (json.dumps(json.loads(text) | {"network": 3}), "does not hold the results"),
        "surrogate": (json.dumps(json.loads(text) | {"network": "\ud800"}), "does not hold the results"),
        "constant": (json.dumps(json.loads(text) | {"classes": float("nan")}), "is not JSON, or is cut off: NaN"),
        "endless": (
            json.dumps(json.loads(text) | {"date": 7}).replace('date": 7', 'date": 1e999'),
            "does not hold the results",
        ),
    }
    out = tmp_path / "report.html"
    for name, (content, reason) in bad.items():
        path = tmp_path / f"{name}.json"
        path.write_text(content)
        with pytest.raises(FileError, match=f"{name}.json: {reason}"):
            write_report([path], out)
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff")
    for path, reason in ((tmp_path / "picture.json", "is no text"), (tmp_path / "missing", "no such file")):
        with pytest.raises(FileError, match=reason):
            write_report([path], out)
    with pytest.raises(FileError, match="no run files"):
        write_report([], out)
    assert not out.exists()


def test_a_page_stands_alone_and_nothing_breaks_out_of_its_data(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert write_report([made.parent], out) == 3  # a folder holds results.json
    page = out.read_text()
    assert len(page) < 2_000_000
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert page.count("</script>") == 2
    assert "throw 1" in page
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in block
    assert json.loads(block)["runs"][0]["network"] == NASTY
    assert json.loads(in_script({"a": NASTY})) == {"a": NASTY}


def test_a_page_that_would_be_too_large_leaves_out_examples(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report([made], tmp_path / "whole.html")
    whole = (tmp_path / "whole.html").stat().st_size
    monkeypatch.setattr("equispike.report.page.LARGEST_PAGE", whole - 1)
    write_report([made], tmp_path / "less.html")
    runs = json.loads((tmp_path / "less.html").read_text().partition('id="data">')[2].partition("</script>")[0])["runs"]
    assert [bool(run["examples"]) for run in runs] == [True, True, False]
    assert runs[-1]["examples_left_out"]


def test_a_run_that_stopped_early_has_no_closer_look_and_still_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--images", "6", "--timesteps", "4", "--stop", "2", "--json", str(tmp_path / "r.json")]
    assert exit_code("evaluate", "mnist-cnn", *options) == 0
    assert exit_code("report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html")) == 0
    assert "r.html: 1 run." in capsys.readouterr().out
    assert '"network":"mnist-cnn"' in (tmp_path / "r.html").read_text()
    assert exit_code("report", str(tmp_path / "none.json"), "--out", str(tmp_path / "s.html")) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_colours_can_be_told_from_their_background() -> None:
    """WCAG 2.2, level AA: 4.5 to 1 for text, 3 to 1 for lines, in light and in dark."""
    style = (Path(es.__file__).parent / "report/page.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]+)", block))
        for name, colour in colours.items():
            least = {"paper": 0, "panel": 0, "rule": 0}.get(name, 3 if re.fullmatch(r"c\d", name) else 4.5)
            for ground in ("paper", "panel"):
                assert contrast(colour, colours[ground]) >= least, (name, ground)


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.fixture(scope="module")
def opened(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, dict[str, Any], Path]]:
    if installed() is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    folder = tmp_path_factory.mktemp("browser")
    out = folder / "report.html"
    write_report([made], out)
    with browser(folder / "profile") as page:
        page.open(out)
        yield page, json.loads(made.read_text()), out


def run_classes(filed: dict[str, Any]) -> list[str]:
    return [str(name) for name in filed["classes"]]


def cells(page: Page, table: int = 0) -> list[list[str]]:
    """Text of a table's body."""
    rows = f"[...document.querySelectorAll('table')[{table}].tBodies[0].rows]"
    return page.run(f"{rows}.map((row) => [...row.cells].map((cell) => cell.textContent))")


def moved(page: Page, step: int) -> None:
    """Set the slider to a step, as a hand would."""
    page.run(
        f"slider.value = STEPS.indexOf({step}); slider.dispatchEvent(new Event('input', {{bubbles: true}})); undefined"
    )
    page.frames()


def test_the_slider_moves_the_numbers_to_those_of_the_file(opened: tuple[Page, dict[str, Any], Path]) -> None:
    page, filed, _ = opened
    for step in (20, 1, 8):
        moved(page, step)
        assert page.run("document.getElementById('step').textContent") == str(step)
        assert f"After {step} step" in page.run("document.getElementById('sentence').textContent")
        for row, run in zip(cells(page), filed["runs"], strict=True):
            accuracy = run["accuracy"][step - 1]
            assert row[3] == f"{100 * accuracy:.2f}"
            assert float(row[5].replace("−", "-")) == pytest.approx(
                100 * (accuracy - run["trained_accuracy"]), abs=0.0051
            )
            assert row[6] == f"{run['spike_rate'][step - 1]:.2f}"
        energies = [row[1] for row in cells(page, 2)]
        place = filed["runs"][0]["steps"].index(step)
        for shown, run in zip(energies, filed["runs"], strict=True):
            size = {"µJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12}[shown.split()[1]]
            assert float(shown.split()[0]) * size == pytest.approx(run["energy"][0]["spiking"][place], rel=6e-3)
    assert page.problems == []


def test_the_keyboard_moves_the_slider_sorts_and_plays(opened: tuple[Page, dict[str, Any], Path]) -> None:
    page, _, _ = opened
    page.run("slider.focus()")
    page.press("Home")
    assert page.run("T()") == 1
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.run("T()") == 3
    page.press("End")
    assert page.run("[T(), slider.getAttribute('aria-valuetext')]") == [20, "20 steps"]
    page.run("document.querySelectorAll('table')[0].querySelectorAll('th button')[6].focus()")
    page.press("Enter")
    rates = [float(row[6]) for row in cells(page)]
    assert rates == sorted(rates, reverse=True)
    assert page.run("document.querySelectorAll('table')[0].querySelectorAll('th')[6].ariaSort") == "descending"
    page.press("Enter")
    assert [float(row[6]) for row in cells(page)] == rates[::-1]
    page.run("play.focus()")
    page.press(" ")
    at, text = page.run("[state.at, play.textContent]")
    assert (at < 5, text) == (True, "Stop")  # from the end it starts anew; ticks may have passed
    page.press(" ")
    assert page.run("play.textContent") == "Play"
    assert page.run("state.at") < len(page.run("STEPS")) - 1
    assert page.problems == []


def test_figures_are_drawn_named_and_saved_on_their_own(opened: tuple[Page, dict[str, Any], Path]) -> None:
    page, filed, _ = opened
    moved(page, 8)
    titles = page.run("[...document.querySelectorAll('figure')].map((f) => f.querySelector('svg').ariaLabel)")
    assert titles[:2] == ["Accuracy", "Spike rate"]
    assert len(titles) == 10
    assert page.run("document.querySelectorAll('path.line').length") > 20
    saved = "let kept; URL.createObjectURL = (blob) => { kept = blob; return '#'; };"
    text = page.run(f"(() => {{ {saved} saveSvg(document.querySelector('figure svg'), 'x'); return kept.text(); }})()")
    assert text.startswith("<svg")
    assert "var(--" not in re.sub(r'(stroke|fill)="[^"]*"', "", text)
    assert "DataNorm(99.9)" in text
    assert page.run("document.querySelectorAll('.example').length") == len(filed["runs"][0]["closer"]["examples"])
    assert page.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.problems == []


def test_a_bar_that_would_leave_the_others_no_length_is_cut_and_says_so(
    opened: tuple[Page, dict[str, Any], Path],
) -> None:
    page, _, _ = opened
    assert page.run("[scaleOf([100, 3, 2, 2, 1]), scaleOf([4, 3, 2, 2, 1]), scaleOf([100, 3])]") == [9, 4, 100]
    rows = "[100, 3, 2, 2, 1].map((v) => ({ name: 'layer', values: [v] }))"
    options = f"{{ rows: {rows}, series: [{{ name: 'a', n: 0 }}], format: String, title: 't', mark: () => 0 }}"
    chart = f"barChart(400, {options}).svg"
    assert page.run(f"{chart}.querySelectorAll('.cut').length") == 1
    assert "100" in page.run(f"{chart}.textContent")
    widths = page.run(f"[...{chart}.querySelectorAll('rect')].map((bar) => Number(bar.getAttribute('width')))")
    assert widths[0] == max(widths)
    assert widths[1] == pytest.approx(widths[0] / 3)


def test_the_confusion_matrix_and_the_rates_are_those_of_the_run(opened: tuple[Page, dict[str, Any], Path]) -> None:
    page, filed, _ = opened
    page.run("state.run = 0; refresh()")
    page.frames()
    run = filed["runs"][0]
    for kind, share in (("spiking", run["accuracy"][-1]), ("trained", run["trained_accuracy"])):
        found = torch.tensor(run["confusion"][kind])
        assert (found.shape, float(found.sum()), float(found.diag().sum())) == ((10, 10), 40, pytest.approx(40 * share))
    cells = "[...document.querySelectorAll('svg[aria-label=\"Confusion matrix\"] rect')].map((r) => r.textContent)"
    said = page.run(cells)
    assert len(said) == 100
    counts = torch.tensor(run["confusion"]["spiking"]).flatten().tolist()
    assert all(f": {n:g} as spikes" in text for n, text in zip(counts, said, strict=True))
    names = "[...document.querySelectorAll('svg[aria-label=\"Confusion matrix\"] text[text-anchor=end]')]"
    assert page.run(f"{names}.map((t) => t.textContent)") == run_classes(filed)
    pairs = run["closer"]["layers"]["1"]["pairs"]
    assert 0 < len(pairs) <= 150
    assert pairs == sorted(pairs, key=lambda pair: pair[0])
    assert all(0 <= rate <= 1 and (wanted or rate) for wanted, rate in pairs)
    shown = page.run("document.querySelectorAll('svg[aria-label^=\"Trained activation\"] circle[fill-opacity]').length")
    assert shown == sum(len(layer["pairs"]) for layer in run["closer"]["layers"].values())
    links = page.run(
        "[...document.querySelectorAll('#contents a')].map((a) => document.querySelector(a.hash) !== null)"
    )
    assert links == [True] * page.run("document.querySelectorAll('section').length")
    assert page.problems == []


def test_many_runs_are_told_apart_by_their_settings(made: Path, tmp_path: Path) -> None:
    page = page_data(read_runs([made]))
    assert [(setting["name"], setting["values"]) for setting in page["settings"]] == [
        ("input", ["constant", "poisson"]),
        ("percentile", ["80", "99.9"]),
    ]  # fmt: skip
    if installed() is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    others = [changed(made, tmp_path, data=f"mnist-sample/{part}") for part in ("a", "b", "c")]
    write_report([made, *others], tmp_path / "many.html")
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "many.html")
        lines = """(s) => s.querySelectorAll('path.line[stroke^="var(--c"]').length"""
        drawn = f"[...document.querySelectorAll('svg[aria-label=Accuracy] > svg')].map({lines})"
        assert page.run("SETTINGS.map((setting) => setting.name)") == ["data", "input", "percentile"]
        assert page.run(drawn) == [8, 4]
        assert page.run("[...document.querySelectorAll('.row select')].slice(0, 2).map((s) => s.value)") == ["0", "1"]
        page.run("state.beside = 2; refresh()")
        assert page.run(drawn) == [4, 8]
        page.run("find.value = 'poisson'; find.dispatchEvent(new Event('input')); undefined")
        assert page.run(drawn) == [4]  # no chart for a value that no run has
        page.run("state.beside = -1; refresh()")
        assert page.run("document.querySelectorAll('svg[aria-label=Accuracy] path.line').length") >= 4
        page.open(tmp_path / "many.html", width=390, height=844)
        assert page.run("document.documentElement.scrollWidth") == 390
        assert page.problems == []


def test_a_filter_leaves_the_runs_that_have_its_words(opened: tuple[Page, dict[str, Any], Path]) -> None:
    page, _, _ = opened
    for words, count in (("80", 1), ("99.9 poisson", 1), ("datanorm", 3), ("nothing like it", 3), ("", 3)):
        page.run(f"find.value = {words!r}; find.dispatchEvent(new Event('input')); undefined")
        page.frames()
        assert len(cells(page)) == count
    assert page.problems == []


def test_a_copied_table_is_read_by_programs(opened: tuple[Page, dict[str, Any], Path]) -> None:
    page, _, _ = opened
    page.run("navigator.clipboard.writeText = async (text) => { window.kept = text; }; undefined")
    page.run("[...document.querySelectorAll('button.quiet')].find((b) => b.textContent === 'Copy table').click()")
    header, *rows = (line.split("\t") for line in page.run("window.kept").split("\n"))
    assert [len(row) for row in rows] == [len(header)] * 3
    for row in rows:
        assert not any("\u2212" in cell or re.search(r"\d,\d{3}", cell) for cell in row)
        float(row[header.index("change, points")])


def test_a_phone_shows_all_of_it_in_dark_too_without_scrolling_sideways(
    opened: tuple[Page, dict[str, Any], Path], made: Path
) -> None:
    page, _, out = opened
    wide = out.with_name("wide.html")
    write_report([made, changed(made, out.parent, network="a network whose name is longer than a phone is wide")], wide)
    for path in (wide, out):
        page.open(path, width=390, height=844, prefers_color_scheme="dark")
        assert page.run("document.documentElement.scrollWidth") == 390
        assert "[object" not in page.run("document.body.innerText")
        assert page.run("document.querySelectorAll('p.warn').length") == (path == wide)
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    assert page.run("document.querySelectorAll('ul.legend').length") > 0
    assert page.printed().startswith(b"%PDF")
    assert page.problems == []


def test_a_long_name_pushes_no_number_off_the_page(opened: tuple[Page, dict[str, Any], Path]) -> None:
    page, _, out = opened
    page.open(out, width=1280, height=900)
    page.run("document.querySelector('tbody td').textContent = 'DataNorm(97, per_channel=True), '.repeat(8); undefined")
    hidden = page.run("[...document.querySelectorAll('.scroll')].map((s) => s.scrollWidth - s.clientWidth)")
    assert len(hidden) > 2
    assert max(hidden) <= 0


def test_a_page_says_which_split_which_unit_and_how_each_network_came_about(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 10))
    digits = load("mnist-sample")
    results: list[Result] = []
    for images in (4, 40):
        network = es.convert(model, digits.train.take(images).floats())
        for bits in (None, 8):
            made = network if bits is None else es.quantize(network, bits)
            found = es.evaluate(made, digits.validation.take(20).batches(20), 4)
            results.append(Result(made, es.Constant(), found))
    write_json(tmp_path / "r.json", document(results, "small", digits.validation.name, digits.validation.classes))
    page = page_data(read_runs([tmp_path / "r.json"]))
    assert {run["split"] for run in page["runs"]} == {"validation"}
    assert [run["unit"] for run in page["runs"][:2]] == ["units of the trained activation", "steps of its integers"]
    assert [run["provenance"]["calibration images"] for run in page["runs"]] == ["4", "4", "40", "40"]
    assert page["runs"][0]["provenance"]["method"] == "DataNorm(percentile=99, per_channel=True)"
    assert [run["label"] for run in page["runs"]] == [
        f"DataNorm(99, per_channel=True), v_init 0.5{bits}, calibrated on {images}"
        for images in (4, 40)
        for bits in ("", ", 8 bits")
    ]
    assert {"date", "command", "processor", "versions", "threads"} <= set(page["made"][0])
    for run in page["runs"]:
        assert all(low <= share <= high for (low, high), share in zip(run["interval"], run["accuracy"], strict=True))
    html = (write_report([tmp_path / "r.json"], tmp_path / "r.html"), (tmp_path / "r.html").read_text())[1]
    assert "test images" not in html.partition("<script>")[2].lower()


def test_a_run_says_whether_its_network_was_made_for_some_steps() -> None:
    images = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    plain, chosen = es.convert(model, images), es.convert(model, images, timesteps=5)
    corrected = es.convert(model, images, es.DataNorm(), correct=[es.StepBias(7)])
    told = [serves(json.loads(json.dumps(network.provenance))) for network in (plain, chosen, corrected)]
    assert told == ["one network at every T", "calibrated for T = 5", "calibrated for T = 7"]
    words = _provenance({"coder": {"name": "Constant"}, "provenance": json.loads(json.dumps(chosen.provenance))})
    assert "timesteps 5, fitted 9, held out 3" in words["chosen"]
    assert not any(set("[{'") & set(text) for text in words.values())  # words, not Python's data


def test_small_thresholds_are_not_written_as_zero() -> None:
    digits = load("mnist-sample")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 6), nn.ReLU(), nn.Linear(6, 10))
    with torch.no_grad():
        for parameter in model[1].parameters():
            parameter.mul_(1e-9)
    network = es.convert(model, digits.train.take(8).floats())
    run = Result(network, es.Constant(), es.evaluate(network, digits.test.take(4).batches(4), 4)).to_json()
    (written,), (true,) = run["thresholds"].values(), network.thresholds.values()
    assert written == pytest.approx(true.flatten().tolist(), rel=1e-6)
