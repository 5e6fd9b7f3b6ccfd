"""``report.html`` in a real browser: nothing is said on its console, and mouse, keyboard, dark mode and phones work.

Needs Chromium and the Python package playwright of the extra ``dev``; without one of them the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oneshot.report.page import write_report

from .pages import EVIL, pareto_run, retrain_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; the extra dev has it")
BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium; CHROMIUM names one that is not on the PATH"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "all"
    pareto_run(folder / "a")
    retrain_run(folder / "b")
    return write_report(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Opened:
    """A page that was opened, and what it said on its console or asked of the network."""

    def __init__(self, browser: Any, file: Path, *, width: int = 1100, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def copied(self) -> str:
        return str(self.page.evaluate("navigator.clipboard.readText()"))


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Opened]:
    found = Opened(browser, page_file)
    yield found
    assert found.said == [] and [url for url in found.asked if not url.startswith(("file:", "data:"))] == []
    found.context.close()


def test_pointing_at_a_network_shows_its_values_and_a_click_copies_its_command(opened: Opened, page_file: Path) -> None:
    front, page = opened.page.locator(".front").first, opened.page
    front.locator("circle.f[data-i='1']").hover()
    assert "#1: error 20.00 %, latency 2.25 ms, macs 2.00 M" in front.locator(".what").inner_text()
    front.locator("circle.f[data-i='1']").click()
    command = f"oneshot pick {page_file.parent}/a --at-most latency=2.25 macs=2000000.0"
    assert front.locator(".what code").inner_text() == command and opened.copied() == command
    assert front.locator("tr.on").get_attribute("data-i") == "1"
    front.locator("circle[data-i='3']").hover()  # another one, for as long as the pointer is there
    assert "Not on the front" in front.locator(".what").inner_text()
    page.mouse.move(5, 5)
    assert front.locator(".what code").inner_text() == command
    front.locator("select").select_option("2")
    assert "macs" in (front.locator("svg").text_content() or "")


def test_everything_works_with_the_keyboard_alone(opened: Opened) -> None:
    page = opened.page
    page.evaluate("navigator.clipboard.writeText('before')")
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.closest('circle, tr, button, svg, select, a, summary')?.tagName ?? ''"
            )
        )
        if reached[-1] == "circle":
            break
    page.keyboard.press("Enter")
    assert opened.copied().startswith("oneshot pick ")
    assert reached[0].lower() == "a" and "select" in [tag.lower() for tag in reached]
    chart = page.locator(".lines svg").first
    chart.focus()
    page.keyboard.press("Home")
    assert "epoch 1: train 2" in page.locator(".lines .what").first.inner_text()
    page.keyboard.press("ArrowRight")
    assert "epoch 2: train 1" in page.locator(".lines .what").first.inner_text()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_curves_show_what_is_under_the_pointer(opened: Opened) -> None:
    chart = opened.page.locator(".lines svg").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    opened.page.mouse.move(box["x"] + 50, box["y"] + 60)
    assert "epoch 1: train 2" in opened.page.locator(".lines .what").first.inner_text()


def test_buttons_copy_the_commands_that_made_it(opened: Opened) -> None:
    made = opened.page.locator(".command", has_text="oneshot pareto --out run").first
    made.locator("button").click()
    assert opened.copied() == "oneshot pareto --out run" and made.locator("button").inner_text() == "Copied"


def test_evil_names_are_text(opened: Opened) -> None:
    assert opened.page.locator("td", has_text=EVIL).count() > 0  # and no dialog was opened, which is said above


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1100])
def test_the_page_fits_phones_and_dark_rooms(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, page_file, width=width, scheme=scheme)
    try:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        ink, paper = (
            opened.page.evaluate(f"getComputedStyle(document.body).{name}.match(/[\\d.]+/g).slice(0, 3).map(Number)")
            for name in ("color", "backgroundColor")
        )
        assert contrast(ink, paper) >= 7 and (sum(paper) < 200) == (scheme == "dark")
        texts = opened.page.evaluate(
            "[...document.querySelectorAll('.chart text')].map(t => t.getBoundingClientRect().height)"
        )
        assert texts and min(texts) >= 9  # pixels: charts are drawn anew for the width, not made smaller
        assert opened.said == []
    finally:
        opened.context.close()


def contrast(one: list[float], other: list[float]) -> float:
    """Contrast of two colours by WCAG 2."""

    def luminance(colour: list[float]) -> float:
        parts = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
