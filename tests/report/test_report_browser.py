"""The report in a real browser: without errors, and usable with mouse and keyboard."""

from collections.abc import Iterator

import pytest
from chromium import PROGRAM, Page
from report_pages import NAMES, report_data

from segkit.report.html.page import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="there is no chromium here (apt install chromium)"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("browser")
    write_report(folder / "report.html", report_data())
    with Page(folder / "report.html", folder / "home") as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Page:
    """The page as if just opened."""
    browser.resize(1200, 900)
    browser.reload()
    return browser


def column(page: Page, number: int) -> list[str]:
    """Texts of one column of the class table."""
    rows: list[str] = page.run(
        "[...document.querySelectorAll('#class-table tbody tr')]"
        f".map(row => row.cells[{number}].textContent.trim())"
    )
    return rows


def test_it_loads_without_errors_and_fetches_nothing(page: Page) -> None:
    assert page.run("document.querySelectorAll('img').length") > 6
    assert page.run("[...document.images].every(img => img.complete && img.naturalWidth > 0)")
    assert page.run("getComputedStyle(document.querySelector('.plot svg text')).fill")
    assert page.problems == []


def test_a_script_that_slipped_in_would_not_run(page: Page) -> None:
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{textContent: 'window.hacked = 1'}))"
    )
    assert page.run("window.hacked") is None
    assert any("Content Security Policy" in problem for problem in page.problems)
    page.problems.clear()


def test_the_table_sorts_by_mouse_and_by_keyboard(page: Page) -> None:
    assert column(page, 0) == NAMES
    page.run("document.querySelectorAll('#class-table th button')[1].click()")
    scores = [float(text) for text in column(page, 1)]
    assert scores == sorted(scores)
    page.run("document.querySelectorAll('#class-table th button')[1].focus()")
    page.press("Enter")
    assert [float(text) for text in column(page, 1)] == scores[::-1]
    heads = "[...document.querySelectorAll('#class-table thead th')].map(h => h.ariaSort)"
    assert page.run(heads)[:3] == [None, "descending", None]
    # What is not defined comes last both ways: "never" has no recall.
    for _ in range(2):
        page.run("document.querySelectorAll('#class-table th button')[3].click()")
        assert column(page, 4)[-1] == "-"
    page.run("document.querySelector('#class-table th button').click()")
    assert sorted(NAMES, key=str.lower)[-1] == column(page, 0)[-1]


def test_a_cell_tells_its_counts(page: Page) -> None:
    text = "document.getElementById('cell-text').textContent"
    page.hover("#matrix tbody tr:nth-child(2) td:nth-child(2)")
    counts = report_data().matrix
    told = page.run(text)
    assert told.startswith(f"true {NAMES[1]}, predicted {NAMES[0]}: {counts[1][0]:,} pixels, ")
    row, both = sum(counts[1]), sum(line[0] for line in counts)
    assert f"{100 * counts[1][0] / row:.2f} % of true" in told
    assert f"{100 * counts[1][0] / both:.2f} % of predicted" in told
    page.run("document.querySelector('#matrix td[tabindex=\"0\"]').focus()")
    page.press("ArrowRight")
    page.press("ArrowDown")
    assert page.run(text).startswith(f"true {NAMES[1]}, predicted {NAMES[1]}: {counts[1][1]:,} ")


def test_the_slider_moves_by_keyboard_and_shows_the_layers_that_were_chosen(page: Page) -> None:
    layers = "document.querySelector('.layers')"
    cut = f"getComputedStyle({layers}.querySelector('.left')).clipPath"
    assert page.run(cut) == "inset(0px 50% 0px 0px)"
    page.run(f"{layers}.querySelector('input').focus()")
    page.press("ArrowRight")
    assert page.run(cut) == "inset(0px 49% 0px 0px)"
    page.run(
        "const s = document.getElementById('right'); s.value = 'errors';"
        "s.dispatchEvent(new Event('change'))"
    )
    seen = (
        f"[...{layers}.querySelectorAll('figure')]"
        ".filter(f => getComputedStyle(f).visibility === 'visible').map(f => f.dataset.layer)"
    )
    assert page.run(seen) == ["image", "errors"]


def test_images_can_be_chosen(page: Page) -> None:
    choose = (
        "(value => { const s = document.getElementById('group'); s.value = value;"
        "s.dispatchEvent(new Event('change'));"
        "return [...document.querySelectorAll('.card:not([hidden]) h3')]"
        ".map(h => h.textContent); })"
    )
    shown = {group: page.run(f"{choose}('{group}')") for group in ("", "worst", "best", "class-1")}
    assert len(shown[""]) == 6
    assert shown["worst"] == shown[""][:3]
    assert shown["best"] == shown[""][:2:-1]
    assert len(shown["class-1"]) == 1


def test_every_control_is_reached_with_the_tab_key(page: Page) -> None:
    controls = "a, button, select, input, summary, [tabindex='0']"
    wanted = page.run(
        f"[...document.querySelectorAll({controls!r})].filter(e => e.checkVisibility()).length"
    )
    reached = set()
    for _ in range(wanted):
        page.press("Tab")
        reached.add(
            page.run(
                f"[...document.querySelectorAll({controls!r})].indexOf(document.activeElement)"
            )
        )
        outlined = (
            "(e => e.matches(':focus-visible') && [e, e.closest('.layers') ?? e]"
            ".some(x => getComputedStyle(x).outlineStyle !== 'none'))(document.activeElement)"
        )
        assert page.run(outlined)
    assert len(reached - {-1}) == wanted


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_no_width_needs_sideways_scrolling(page: Page, width: int) -> None:
    page.resize(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_dark_is_dark_and_text_can_be_read_on_it(page: Page) -> None:
    colors = {}
    for dark in (False, True):
        page.prefer(dark=dark)
        colors[dark] = [
            page.run(f"getComputedStyle(document.querySelector('{selector}')).{key}")
            for selector, key in (
                ("body", "backgroundColor"),
                ("body", "color"),
                (".plot svg text", "fill"),
                (".note", "color"),
                ("nav a", "color"),
            )
        ]
        paper, *inks = (luminance(color) for color in colors[dark])
        for ink in inks:
            assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5  # WCAG AA
    page.prefer(dark=False)
    assert luminance(colors[True][0]) < 0.02 < 0.9 < luminance(colors[False][0])


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG defines it."""
    channels = [int(part) / 255 for part in color.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_prints(page: Page) -> None:
    assert page.pdf().startswith(b"%PDF")
    assert page.problems == []
