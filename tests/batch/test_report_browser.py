"""The page of a report in a real browser: sliders, order, filters, accessibility, and nothing asked of any network."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpudeblur.batch.folders import Outcome
from gpudeblur.batch.html_report import results_page, write_page
from gpudeblur.images.files import write_image, write_kernel

pytest.importorskip("jinja2")
selenium = pytest.importorskip("selenium", reason="a browser is driven by selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1100,900", "--force-device-scale-factor=1",
)  # fmt: skip
# WCAG 2: contrast of every text that is on the page, with the ratio that its size asks for.
CONTRAST = """
const channels = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const paper = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = channels(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;  // that of a tag over a picture: as if it were opaque
  }
  return [255, 255, 255];
};
const bad = [];
for (const element of document.querySelectorAll("body *")) {
  const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!hasText || ["SCRIPT", "STYLE", "OPTION"].includes(element.tagName)) continue;
  const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(paper(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) bad.push([element.tagName, element.textContent.trim().slice(0, 40), ratio]);
}
return bad;
"""
# Controls need a name, pictures a text, ids are there once.
UNNAMED = """
const named = (e) => (e.getAttribute("aria-label") || [...(e.labels || [])].map((l) => l.textContent).join("")
  || (e.tagName === "A" ? e.textContent : "")).trim();
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
return [
  ...[...document.querySelectorAll("input, select, a")].filter((e) => !named(e)).map((e) => e.outerHTML),
  ...[...document.images].filter((e) => !e.alt).map((e) => e.outerHTML.slice(0, 80)),
  ...ids.filter((id, i) => ids.indexOf(id) !== i),
];
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with an empty profile, which logs its network."""
    browser, server = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or server is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(server)
    with webdriver.Chrome(options=options, service=service) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures, from black to white; one failed, one is left out, and one has a name of markup."""
    folder = tmp_path_factory.mktemp("report")
    outcomes = []
    for number, name in enumerate(("a.png", "b.png", "<i>c & d.png", "e.png", "f.png")):
        before, after = folder / name, folder / f"sharp {name}"
        write_image(before, np.zeros((300, 400), np.uint8))
        write_image(after, np.full((300, 400), 255, np.uint8))
        outcome = Outcome(str(before), str(after), str(folder / "k.npy"), "written")
        outcomes.append(replace(outcome, confidence=0.2 * number, strength=1.0, gamma=2.2, seconds=10.0 - number))
    write_kernel(folder / "k.npy", np.eye(5) / 5)
    outcomes[3] = replace(outcomes[3], status="failed", error="image must not be <black>", confidence=None)
    outcomes.append(Outcome(str(folder / "notes.txt"), "", None, "left out", reason=".txt"))
    write_page(folder / "report.html", results_page(outcomes, {"version": "1", "command": "gpudeblur batch <in>"}))
    return folder / "report.html"


@pytest.fixture
def opened(driver: Any, page: Path) -> Any:
    driver.get(page.as_uri())
    return driver


def names(driver: Any) -> list[str]:
    """Of the pictures that are shown, in their order."""
    return [heading.text for heading in driver.find_elements(By.CSS_SELECTOR, "h2 bdi") if heading.is_displayed()]


def divider(driver: Any, card: Any) -> float:
    """Where the result begins, as a share of the width, by the pixels: those before are black, those after white."""
    from io import BytesIO

    from PIL import Image

    compare = card.find_element(By.CSS_SELECTOR, ".compare")
    pixels = np.asarray(Image.open(BytesIO(compare.screenshot_as_png)).convert("L"))
    return 1 - float((pixels[len(pixels) // 2] > 128).mean())


def choose(driver: Any, control: str, value: str) -> None:
    driver.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}))",
        control,
        value,
    )


def test_a_slider_moves_by_keys_mouse_and_touch(opened: Any) -> None:
    card = opened.find_elements(By.CSS_SELECTOR, "article[data-status=written]")[1]
    slider = card.find_element(By.CSS_SELECTOR, "input")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    assert divider(opened, card) == pytest.approx(0.5, abs=0.02)
    slider.send_keys(Keys.END)
    assert divider(opened, card) == pytest.approx(1, abs=0.02)
    slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 10)
    assert slider.get_attribute("value") == "10"
    assert divider(opened, card) == pytest.approx(0.1, abs=0.02)
    assert opened.switch_to.active_element == slider
    width = slider.size["width"]
    ActionChains(opened).move_to_element_with_offset(slider, -width // 4, 0).click().perform()
    assert divider(opened, card) == pytest.approx(0.25, abs=0.05)
    ActionChains(opened).move_to_element(slider).click_and_hold().move_by_offset(width // 4, 0).release().perform()
    assert divider(opened, card) == pytest.approx(0.75, abs=0.05)
    place = opened.execute_script("const r = arguments[0].getBoundingClientRect(); return [r.x, r.y, r.height]", slider)
    point = [{"x": place[0] + 0.4 * width, "y": place[1] + place[2] / 2}]
    for kind, points in (("touchStart", point), ("touchEnd", [])):
        opened.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert divider(opened, card) == pytest.approx(0.4, abs=0.05)


def test_order_and_filters(opened: Any) -> None:
    assert names(opened) == ["e.png", "a.png", "b.png", "<i>c & d.png", "f.png"]  # failed first, then by confidence
    choose(opened, "order", "rank:-1")
    assert names(opened) == ["f.png", "<i>c & d.png", "b.png", "a.png", "e.png"]
    choose(opened, "order", "seconds:-1")
    assert names(opened) == ["a.png", "b.png", "<i>c & d.png", "e.png", "f.png"]
    choose(opened, "order", "name:1")
    assert sorted(names(opened)) == sorted(["<i>c & d.png", "a.png", "b.png", "e.png", "f.png"])
    assert names(opened)[-1] == "f.png"
    limit = opened.find_element(By.ID, "limit")
    limit.send_keys(*[Keys.ARROW_LEFT] * 14)
    assert sorted(names(opened)) == ["a.png", "b.png", "e.png"]
    assert opened.find_element(By.ID, "count").text == "3 of 5 pictures"
    choose(opened, "status", "failed")
    assert names(opened) == ["e.png"]
    choose(opened, "limit", "1")
    choose(opened, "status", "")
    opened.find_element(By.ID, "name").send_keys("C & ")
    assert names(opened) == ["<i>c & d.png"]


def test_no_request_leaves_the_page(opened: Any, page: Path) -> None:
    urls = []  # without those of the empty page with which chromium begins
    for entry in opened.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent" and message["params"]["documentURL"] == page.as_uri():
            urls.append(message["params"]["request"]["url"])
    assert urls
    assert {url.partition(":")[0] for url in urls} <= {"file", "data"}
    assert opened.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_it(opened: Any, scheme: str) -> None:
    """Contrast, names of controls and pictures, focus that is seen, one heading above the others, a language."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened.execute_script("document.querySelector('details').open = true")
    assert opened.execute_script(CONTRAST) == []
    assert opened.execute_script(UNNAMED) == []
    assert opened.execute_script("return document.documentElement.lang") == "en"
    assert len(opened.find_elements(By.TAG_NAME, "h1")) == len(opened.find_elements(By.TAG_NAME, "main")) == 1
    visited = []
    for _ in range(6):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        visited.append(opened.switch_to.active_element)
        outline = "const e = arguments[0].closest('.compare') || arguments[0]; return getComputedStyle(e).outlineStyle"
        assert opened.execute_script(outline, visited[-1]) == "solid"
    assert [element.tag_name for element in visited] == ["summary", "select", "input", "select", "input", "a"]


def sides(driver: Any) -> list[tuple[float, float, float]]:
    """(left, width, height) on the screen of the pictures of the first card that has two."""
    script = """return [...document.querySelector("article:has(.after)").querySelectorAll(".compare img")]
      .map((image) => image.getBoundingClientRect()).map((place) => [place.left, place.width, place.height])"""
    return [tuple(place) for place in driver.execute_script(script)]


def test_phones_and_paper(opened: Any) -> None:
    """The page is as wide as a phone, pictures keep their aspect; on paper both pictures are side by side."""
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 360
        assert sides(opened) == [(20, 320, 240)] * 2
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        (left, *before), (right, *after) = sides(opened)
        assert before == after
        assert before[0] == pytest.approx(before[1] * 4 / 3, abs=1)
        assert right >= left + before[0]
        assert not opened.find_element(By.ID, "order").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
