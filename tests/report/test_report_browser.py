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
    assert column(page, 0) == NAMES[:-1]  # the last one is nowhere
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
    assert sorted(NAMES[:-1], key=str.lower)[-1] == column(page, 0)[-1]


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
    cut = f"getComputedStyle({layers}.querySelector('.right')).clipPath"
    assert page.run(cut) == "inset(0px 0px 0px 50%)"
    page.run(f"{layers}.querySelector('input').focus()")
    page.press("ArrowRight")
    assert page.run(cut) == "inset(0px 0px 0px 51%)"
    page.run(
        "const s = document.getElementById('right'); s.value = 'errors';"
        "s.dispatchEvent(new Event('change'))"
    )
    seen = (
        f"[...{layers}.querySelectorAll('figure')]"
        ".filter(f => getComputedStyle(f).visibility === 'visible').map(f => f.dataset.layer)"
    )
    assert page.run(seen) == ["image", "errors"]
    page.run(
        "const t = document.getElementById('left'); t.value = 'target';"
        "t.dispatchEvent(new Event('change'))"
    )
    assert page.run(seen) == ["image", "target", "errors"]  # the image lies below both
    assert page.run(cut.replace(".right", ".left")) == "inset(0px 49% 0px 0px)"


def test_masks_are_blended_over_the_image_as_far_as_wanted(page: Page) -> None:
    opacity = (
        "Object.fromEntries([...document.querySelectorAll('.card:first-child figure')]"
        ".map(f => [f.dataset.layer, getComputedStyle(f.querySelector('img')).opacity]))"
    )
    masks = ("target", "prediction", "errors")
    assert page.run(opacity) == {"image": "1", **dict.fromkeys(masks, "0.6")}
    page.run("document.getElementById('blend').focus()")
    page.press("ArrowRight")
    assert page.run(opacity) == {"image": "1", **dict.fromkeys(masks, "0.61")}
    assert page.run("document.getElementById('viewer-blend').value") == "61"


OPEN = "document.getElementById('viewer').open"
SHOWN = "document.querySelector('#view h3, #view b').textContent"
PLACE = "document.getElementById('place').textContent"


def test_images_enlarge_by_keyboard(page: Page) -> None:
    names = page.run("[...document.querySelectorAll('.card h3')].map(h => h.textContent)")
    page.run("document.querySelector('.card .enlarge').focus()")
    page.press("Enter")
    assert page.run(OPEN) and page.run(SHOWN) == names[0] and page.run(PLACE) == "1 of 6"
    width = "document.querySelector({!r}).getBoundingClientRect().width"
    assert page.run(width.format("#view .layers")) > 2 * page.run(width.format(".card .layers"))
    page.press("ArrowLeft")
    assert page.run(SHOWN) == names[0]  # there is none before the first
    page.press("ArrowRight")
    page.press("Enter")  # on the button with the arrow
    assert page.run(SHOWN) == names[2] and page.run(PLACE) == "3 of 6"
    # The arrow keys move a slider that has the focus, of the enlarged image too.
    page.run("document.querySelector('#view .layers input').focus()")
    page.press("ArrowRight")
    assert page.run(SHOWN) == names[2]
    cut = "document.querySelector('#view .layers').style.getPropertyValue('--cut')"
    assert page.run(cut) == "51%"
    page.press("Escape")
    assert not page.run(OPEN)
    card = "document.activeElement.closest('.card').querySelector('h3').textContent"
    assert page.run(card) == names[2]
    page.run("document.querySelectorAll('.layers input')[1].focus()")
    page.press("Enter")
    assert page.run(OPEN) and page.run(SHOWN) == names[1]
    assert page.problems == []


def test_a_click_enlarges_and_a_drag_compares(page: Page) -> None:
    slider = ".card:first-child .layers input"
    value = f"document.querySelector({slider!r}).value"
    page.drag(slider, 60)
    assert not page.run(OPEN)
    moved = int(page.run(value))
    assert moved > 55
    page.drag(slider)
    assert page.run(OPEN) and int(page.run(value)) == moved
    page.drag("#close")
    assert not page.run(OPEN)
    page.drag(".crops .triple")
    assert page.run(OPEN) and page.run(PLACE) == "1 of 1"
    # Its image lies below the masks there.
    assert page.run("document.querySelectorAll('#view .boxed img').length") == 5
    assert page.run("getComputedStyle(document.querySelector('#view img + img')).opacity") == "0.6"


def test_doubts_are_folded_with_their_numbers(page: Page) -> None:
    summary = "document.querySelector('details.fold summary').innerText"
    assert page.run(summary).startswith(f"labelled {NAMES[1]}: 1 region in 1 image, ")
    assert page.run(summary).endswith("; 1 shown")
    assert page.run("document.querySelector('.crops').checkVisibility()")
    page.drag("details.fold summary")
    assert not page.run("document.querySelector('.crops').checkVisibility()")


def test_points_of_plots_tell_their_names(page: Page) -> None:
    text = "document.querySelector('.plot output').textContent"
    assert page.run(text) == ""
    page.hover(".plot .point:nth-of-type(2) use")
    second = page.run(
        "document.querySelectorAll('.plot')[0].querySelectorAll('title')[1].textContent"
    )
    assert page.run(text) == second and second.startswith(f"{NAMES[1]}: IoU ")
    page.run("document.querySelector('.plot .point').focus()")
    assert page.run(text).startswith(f"{NAMES[0]}: IoU ")
    for _ in range(9):
        page.press("ArrowRight")
    assert page.run(text).startswith(f"{NAMES[3]}: IoU ")  # the last of the four in the masks
    assert page.run("document.querySelectorAll('.plot .point[tabindex=\"0\"]').length") == page.run(
        "document.querySelectorAll('.plot output').length"
    )


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


def test_nothing_is_cut_in_a_phones_enlarged_image(page: Page) -> None:
    page.resize(390, 800)
    for button in (".card .enlarge", ".crops .enlarge"):
        page.run(f"document.querySelector({button!r}).click()")
        assert page.run("viewer.scrollWidth") <= 390
        small = (
            "[...document.querySelectorAll('.viewer-bar button')]"
            ".map(b => b.getBoundingClientRect())"
            ".filter(b => Math.min(b.width, b.height) < 44).length"
        )
        assert page.run(small) == 0
        page.press("Escape")


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
