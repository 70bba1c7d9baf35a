"""The report: what it gathers, and how its page works in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ajepa.cli import main
from ajepa.data.synthetic import write_esc50
from ajepa.eval.report import write_report
from ajepa.eval.report.answers import Answers, Spot, task_sections
from ajepa.eval.report.scores import accuracy_draws, rows
from ajepa.eval.report.sources import Found
from ajepa.eval.results.record import Record, read_records
from ajepa.eval.results.scores import interval
from ajepa.pages.rows import Clip, Row, Section, write_page

HOSTILE = '<img src=x onerror="document.title=1">'
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two models on synthetic sounds, one with a hostile name, and a run of eight steps."""
    folder = tmp_path_factory.mktemp("report")
    write_esc50(folder / "esc50", clips_per_class=10, classes=3, seconds=0.5)
    recipe = {
        "name": "tiny",
        "encoder": {"size": "ti", "width": 32, "depth": 2, "heads": 2},
        "objective": {"predictor": {"kind": "global", "depth": 1, "width": 32, "heads": 2}},
        "data": {"source": str(folder / "esc50"), "crop_seconds": 1.28},
        "optim": {"steps": 8, "batch_size": 4, "warmup_steps": 2},
        "run": {"out": str(folder / "run"), "log_every": 1, "accelerator": "cpu"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["pretrain", str(folder / "tiny.yaml")]) == 0
    content = {
        "models": {HOSTILE: "logmel", "trained": str(folder / "run")},
        "tasks": {"sounds": {"task": "esc10", "data": str(folder / "esc50")}},
        "protocols": {
            "knn": {},
            "noisy": {"protocol": "knn", "corrupt": ["noise:20dB", "noise:0dB", "telephone"]},
            "layers": {"protocol": "knn", "layer": "each"},
        },
        "baseline": HOSTILE,
    }
    (folder / "compare.yaml").write_text(yaml.safe_dump(content))
    command = ["compare", str(folder / "compare.yaml"), "--out", str(folder / "out")]
    assert main([*command, "--cache", str(folder / "cache")]) == 0
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    out = folder / "report.html"
    assert main(["report", f"first={folder / 'run'}", str(folder / "out"), "--out", str(out)]) == 0
    return out


def content_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert found
    return json.loads(found[1])


def test_the_page_says_what_the_records_say(page: Path, folder: Path) -> None:
    content, records = content_of(page), read_records(folder / "out" / "records.json")
    shown = [(row["model"], row["protocol"], row["layer"], row["score"]) for row in content["rows"]]
    assert shown == [(r.model, r.protocol, r.layer, r.score) for r in records]
    for section in content["tasks"]:
        for model in section["models"]:
            right = [
                answer in truth for answer, truth in zip(model["answers"], section["truth"], strict=True)
            ]
            assert right == model["right"]
            assert sum(right) / len(right) == pytest.approx(model["score"]), "folds of equal size"
        for pair in section["pairs"]:
            one, two = (section["models"][index]["right"] for index in pair["models"])
            assert pair["first"] == sum(a and not b for a, b in zip(one, two, strict=True))
    noise = {line["model"]: line["points"] for line in content["robustness"][0]["noise"]}
    for record in records:
        if record.corrupted:
            assert [point["score"] for point in noise[record.model]] == [
                one.score for one in record.corrupted if one.corruption.startswith("noise")
            ]
    assert {line["model"]: len(line["points"]) for line in content["layers"][0]["lines"]} == {"trained": 3}
    (run,) = content["runs"]
    assert run["name"] == "first" and ["finished", "yes"] in run["facts"]
    assert "loss" in {one["title"] for one in content["curves"]}
    view, tokens = content["views"][0], 8 * 8
    assert (
        view["grid"] == [8, 8]
        and len(view["similarity"]) == len(view["attention"]) == -(-(tokens**2) // 3) * 4
    )
    assert len(content["masks"]["first"]) == 11
    assert len(content["clips"]) == 30 and all(number is not None for number in content["maps"][0]["media"])


def test_the_page_is_self_contained_and_escapes_names(page: Path) -> None:
    text = page.read_text()
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#)[^"]', own), "nothing is fetched"
    assert HOSTILE not in text and len(text) < 15e6


def test_the_size_is_kept_and_what_is_left_out_is_said(folder: Path, tmp_path: Path) -> None:
    full = write_report([str(folder / "out")], tmp_path / "full.html", say=lambda _: None)
    assert not full
    most = (tmp_path / "full.html").stat().st_size / 1e6 - 0.05
    (note,) = write_report([str(folder / "out")], tmp_path / "a.html", megabytes=most, say=lambda _: None)
    assert "clips cannot be heard here: the page is limited to" in note
    assert (tmp_path / "a.html").stat().st_size <= most * 1e6
    places = content_of(tmp_path / "a.html")["tasks"][0]
    right = [model["right"] for model in places["models"]]
    differ = [
        number
        for number, pair in zip(places["media"], zip(*right, strict=True), strict=True)
        if len(set(pair)) > 1
    ]
    assert None not in differ, "clips on which models differ come first"


def answers(right: list[bool], groups: int = 0) -> Answers:
    count = len(right)
    return Answers(
        clips=tuple(Spot(f"{number}.wav", 0.0, None) for number in range(count)),
        splits=("test",) * count,
        groups=tuple(str(number % groups) if groups else "" for number in range(count)),
        truth=(("a",),) * count,
        labels=tuple(("a",) if one else ("b",) for one in right),
        right_by_seed=(tuple(right),),
    )


def found(model: str, its: Answers) -> Found:
    draws = accuracy_draws(its)
    score = sum(its.right_by_seed[0]) / len(its.clips)
    return Found(Record(model, model, "t", "linear", "linear", "accuracy", score, interval(draws)), Path())


def test_a_star_needs_more_than_the_interval_of_the_paired_difference() -> None:
    # Overlapping intervals, yet the better one is right wherever the other is: a paired difference tells.
    base = [place % 3 != 0 for place in range(150)]
    better = [right or place % 15 == 0 for place, right in enumerate(base)]
    luck = [not right if place in (0, 3, 4) else right for place, right in enumerate(base)]
    for other, starred in ((better, True), (luck, False)):
        its = {0: answers(base), 1: answers(other)}
        listed = [found(str(place), one) for place, one in its.items()]
        assert listed[0].record.interval and listed[1].record.interval
        assert listed[1].record.interval[0] < listed[0].record.interval[1]
        assert [row["best"] for row in rows(listed, its)] == [False, starred]
        # Without the answers only intervals apart from each other count.
        assert not any(row["best"] for row in rows(listed, {}))


def test_pairs_are_told_by_mcnemars_exact_test() -> None:
    one = answers([True] * 12 + [False] * 3 + [True] * 20)
    two = answers([False] * 12 + [True] * 3 + [True] * 20)
    (section,) = task_sections([found("a", one), found("b", two)], {0: one, 1: two})
    (pair,) = section["pairs"]
    # Twice the chance of 12 or more heads in 15 throws: 2 * (455 + 105 + 15 + 1) / 2**15.
    assert (pair["first"], pair["second"]) == (12, 3)
    assert pair["p"] == pytest.approx(2 * 576 / 2**15)
    assert section["models"][0]["classes"][0]["recall"] == pytest.approx(32 / 35)


def test_what_is_no_source_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 2
    assert "nothing to report; give the folder of a run" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "r.pdf")]) == 2
    assert "end the name in .html" in capsys.readouterr().err


def test_a_file_that_was_named_is_shown_or_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.wav").write_bytes(b"")
    line = ["report", str(folder / "run"), "--out", str(tmp_path / "r.html")]
    assert main([*line, "--audio", str(tmp_path / "no.wav")]) == 2
    assert "no.wav: 0 bytes; remove it" in capsys.readouterr().err


def test_a_run_that_has_just_begun_and_records_without_answers(folder: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "recipe.yaml").write_text((folder / "run" / "recipe.yaml").read_text())
    records = [replace(one, answers=(), features=()) for one in read_records(folder / "out" / "records.json")]
    (tmp_path / "bare.json").write_text(json.dumps([one.as_json() for one in records]))
    sources = [str(begun), str(tmp_path / "bare.json")]
    notes = write_report(sources, tmp_path / "r.html", say=lambda _: None)
    assert notes == ["The records keep no clips' answers: there are no errors to list."]
    content = content_of(tmp_path / "r.html")
    assert content["curves"] == content["tasks"] == [] and "similarity" not in content["views"][0]


# ---- In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=executable, args=flags)
        yield opened
        opened.close()


def opened(browser: Any, page: Path, **context: Any) -> tuple[Any, list[str]]:
    """The page in a tab, and its console errors."""
    tab = browser.new_page(**context)
    errors: list[str] = []
    tab.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(page.as_uri())
    return tab, errors


def test_tables_sort_masks_move_and_clips_play(browser: Any, page: Path) -> None:
    tab, errors = opened(browser, page, viewport={"width": 1280, "height": 900})
    models = lambda: [row.split("\t")[2] for row in tab.locator("#table tbody").inner_text().splitlines()]  # noqa: E731
    before = models()
    tab.get_by_role("button", name="Model", exact=True).click()
    assert models() == sorted(before, key=str.lower) != before
    tab.get_by_role("searchbox").fill("trained layers")
    assert {name.partition(" (")[0] for name in models()} == {"trained"}

    canvas = "document.getElementById('view-grid').toDataURL()"
    first = tab.evaluate(canvas)
    tab.get_by_label("Place in the curriculum").fill("10")
    assert "100% of the steps" in tab.locator("#view-text").inner_text() and tab.evaluate(canvas) != first
    tab.get_by_label("similarity").check()
    seen = tab.evaluate(canvas)
    tab.locator("#view-grid").press("ArrowRight")
    assert (
        tab.evaluate(canvas) != seen
        and "similarity to the patch at" in tab.locator("#view-text").inner_text()
    )

    tab.get_by_label("Show").select_option("all")
    tab.locator("#clips tbody button").first.click()
    tab.wait_for_function("document.getElementById('listen-audio').readyState >= 2")
    tab.wait_for_function("document.getElementById('listen-audio').currentTime > 0")
    tab.get_by_role("button", name="Close").click()

    tab.locator("#map").scroll_into_view_if_needed()
    tab.wait_for_function("document.querySelector('#map .main-svg') !== null")
    point = tab.evaluate(
        """(() => {
            const map = document.getElementById("map"), box = map.getBoundingClientRect();
            const { xaxis, yaxis } = map._fullLayout, one = map.data[0];
            return [box.left + xaxis._offset + xaxis.l2p(one.x[0]),
                    box.top + yaxis._offset + yaxis.l2p(one.y[0])];
        })()"""
    )
    tab.mouse.move(*point)
    tab.wait_for_timeout(300)
    tab.mouse.click(*point)
    tab.wait_for_function("!document.getElementById('listen').hidden")
    assert tab.title() != "1" and not errors, "a model's name was taken for HTML"


def test_all_charts_are_drawn_for_print(browser: Any, page: Path) -> None:
    """On a screen they wait until they come into view."""
    tab, errors = opened(browser, page, viewport={"width": 1280, "height": 900})
    missing = "[...document.querySelectorAll('.chart')].filter(one => !one.querySelector('.main-svg')).length"
    assert tab.evaluate(missing) > 3
    tab.pdf()
    assert tab.evaluate(missing) == 0 and not errors


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_for_assistive_technology(browser: Any, page: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab, errors = opened(browser, page, color_scheme=scheme, viewport={"width": 1280, "height": 900})
    tab.wait_for_timeout(500)
    found = axe.run(tab).response["violations"]
    serious = [
        (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
    ]
    assert not serious and not errors


def test_nothing_overflows_a_phone(browser: Any, page: Path) -> None:
    tab, errors = opened(browser, page, viewport={"width": 375, "height": 800})
    for section in tab.evaluate("[...document.querySelectorAll('section')].map(one => one.id)"):
        tab.evaluate(f"document.getElementById('{section}').scrollIntoView()")
        tab.wait_for_timeout(150)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    assert not errors


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rows_of_clips_play_and_fit_a_phone(browser: Any, folder: Path, tmp_path: Path, scheme: str) -> None:
    """The page of `ajepa similar` and `ajepa audit`."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    files = sorted((folder / "esc50" / "audio").iterdir())[:4]
    rows = [Row(("the same samples",), (Clip(str(one)), Clip(str(files[0]), 0.1, 0.3))) for one in files]
    rows.append(Row((HOSTILE,), (Clip("/no/such/" + 40 * "long_name_" + ".wav"),)))
    sections = [Section(title, "What it is.", ("what",), rows) for title in ("Copies", "Leaks")]
    write_page(tmp_path / "rows.html", "Audit of sounds", [("Clips", "4")], sections)
    tab, errors = opened(
        browser, tmp_path / "rows.html", color_scheme=scheme, viewport={"width": 375, "height": 800}
    )
    tab.locator("audio").first.evaluate("player => player.play()")
    tab.wait_for_function("document.querySelector('audio').currentTime > 0")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    found = axe.run(tab).response["violations"]
    assert not [one["id"] for one in found if one["impact"] in ("serious", "critical")]
    assert tab.title() == "Audit of sounds" and not errors
