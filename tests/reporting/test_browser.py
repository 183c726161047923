"""The page in a real browser: Debian's Chromium, headless and without a network."""

from __future__ import annotations

import shutil
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from sfumato.release import read_certificate
from sfumato.reporting import write_report

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NARROW, WIDE = 360, 1280
VIEWS = (
    ("release", "light", NARROW),
    ("release", "light", WIDE),
    ("release", "dark", NARROW),
    ("release", "dark", WIDE),
    ("stamped", "dark", NARROW),
    ("stamped", "light", WIDE),
    ("evaluation", "light", NARROW),
    ("evaluation", "dark", WIDE),
)

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="needs Chromium and its driver: apt-get install chromium chromium-driver",
)

# Every element with text of its own against the nearest background that is painted behind it
# (WCAG 2.2, 1.4.3); large text needs less.
CONTRAST = """
const curve = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const weights = [.2126, .7152, .0722];
const luminance = (c) => c.reduce((sum, v, at) => sum + weights[at] * curve(v / 255), 0);
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
const poor = [];
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || element.closest("[aria-hidden=true], script, style, dialog:not([open])")) continue;
  const style = getComputedStyle(element);
  let behind = element, paint;
  do { paint = numbers(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }
  while (paint.length === 4 && paint[3] === 0 && behind);
  const [a, b] = [numbers(style.color), paint].map((c) => luminance(c.slice(0, 3)) + .05);
  const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
  const needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
  if (Math.max(a, b) / Math.min(a, b) < needed) poor.push(element.outerHTML.slice(0, 120));
}
return poor;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(
    request: pytest.FixtureRequest, hostile: Path, stamped: Path, metrics: Path, tmp_path: Path
) -> Path:
    """One of the three kinds of page, outside its release."""
    kind = getattr(request, "param", "release")
    return write_report(
        stamped if kind == "stamped" else hostile,
        metrics=metrics if kind == "evaluation" else None,
        out=tmp_path / f"{kind}.html",
    )


def show(browser: Chrome, page: Path, width: int = WIDE, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    browser.get(page.as_uri())


def keep_screenshot(browser: Chrome, name: str, whole: bool = True) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
    (ARTIFACTS / f"report-{name}.png").write_bytes(b64decode(taken["data"]))


@pytest.mark.parametrize(("page", "scheme", "width"), VIEWS, indirect=["page"])
def test_the_page_opens_complete_legible_and_without_a_horizontal_scroll(
    browser: Chrome, page: Path, scheme: str, width: int
) -> None:
    show(browser, page, width, scheme)
    keep_screenshot(browser, f"{page.stem}-{scheme}-{width}")
    assert browser.get_log("browser") == []  # a script or style that the policy refuses is in it
    images = browser.execute_script("return [...document.images].map((i) => i.naturalWidth)")
    assert set(images) == {28}
    assert len(images) == len(browser.find_elements(By.CSS_SELECTOR, ".pictures button")) + 1 > 30
    fetched = browser.execute_script(
        "return performance.getEntriesByType('resource').map((e) => e.name)"
    )
    assert all(name.startswith("data:") for name in fetched)
    root = browser.find_element(By.TAG_NAME, "html")
    assert int(root.get_property("scrollWidth")) <= int(root.get_property("clientWidth")) <= width
    assert browser.execute_script(CONTRAST) == []


def test_dark_and_light_differ(browser: Chrome, page: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        show(browser, page, scheme=scheme)
        colours.append(browser.find_element(By.TAG_NAME, "html").value_of_css_property("color"))
    assert colours[0] != colours[1]


def press(browser: Chrome, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def state(browser: Chrome) -> tuple[bool, str]:
    """Whether the dialog is open, and what the focused or the enlarged image says it is."""
    dialog: dict[str, Any] = browser.execute_script(
        "const d = document.querySelector('dialog'), f = document.activeElement;"
        "const i = (d.open ? d : f).querySelector('img');"
        "return {open: d.open, alt: i && i.alt, width: i && i.naturalWidth}"
    )
    assert dialog["width"] in (None, 28)
    return dialog["open"], dialog["alt"] or ""


def reaches(browser: Chrome, opened: bool, alt: str) -> bool:
    """Whether the page gets there: a dialog tells its page that it closed only a task later."""
    return bool(WebDriverWait(browser, 10).until(lambda _: state(browser) == (opened, alt)))


def test_an_image_is_enlarged_by_the_keyboard_alone(
    browser: Chrome, page: Path, hostile: Path
) -> None:
    show(browser, page)
    stops = browser.find_elements(By.CSS_SELECTOR, ".pictures button[tabindex='0']")
    assert len(stops) == len(browser.find_elements(By.CLASS_NAME, "pictures"))
    first, second, *_ = read_certificate(hostile)["classes"]
    for _ in range(20):
        press(browser, Keys.TAB)
        if state(browser)[1]:
            break
    assert reaches(browser, False, f"Synthetic image 1 of 10, class {first}")
    press(browser, Keys.TAB)  # one stop a class
    assert reaches(browser, False, f"Synthetic image 1 of 10, class {second}")
    press(browser, Keys.ARROW_RIGHT)
    assert reaches(browser, False, f"Synthetic image 2 of 10, class {second}")
    press(browser, Keys.ENTER)
    assert reaches(browser, True, f"Synthetic image 2 of 10, class {second}")
    keep_screenshot(browser, "dialog", whole=False)
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert reaches(browser, True, f"Synthetic image 4 of 10, class {second}")
    press(browser, Keys.ESCAPE)
    assert reaches(browser, False, f"Synthetic image 4 of 10, class {second}")  # focus is there
    ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert reaches(browser, False, f"Synthetic image 1 of 10, class {first}")


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_an_image_is_enlarged_by_the_mouse(browser: Chrome, page: Path, width: int) -> None:
    show(browser, page, width)
    browser.find_elements(By.CSS_SELECTOR, ".pictures button")[12].click()
    opened, alt = state(browser)
    assert opened and alt.startswith("Synthetic image 3 of 10")
    enlarged = browser.find_element(By.CSS_SELECTOR, "dialog img").rect
    assert min(448, width / 2) <= enlarged["width"] <= width
    assert enlarged["height"] == pytest.approx(enlarged["width"], abs=1)
    assert browser.execute_script(CONTRAST) == []
    browser.find_element(By.CSS_SELECTOR, "[data-step='-1']").click()
    assert state(browser)[1].startswith("Synthetic image 2 of 10")
    browser.find_element(By.CSS_SELECTOR, "[data-close]").click()
    WebDriverWait(browser, 10).until(lambda _: not state(browser)[0])


def test_a_private_page_stays_marked_on_paper(
    browser: Chrome, hostile: Path, metrics: Path, tmp_path: Path
) -> None:
    show(browser, write_report(hostile, metrics=metrics, out=tmp_path / "page.html"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    mark = browser.find_element(By.CLASS_NAME, "watermark")
    assert mark.is_displayed() and "NOT PRIVATE" in mark.text
    paper = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    ARTIFACTS.mkdir(exist_ok=True)
    (ARTIFACTS / "report-evaluation.pdf").write_bytes(b64decode(paper["data"]))
    assert b64decode(paper["data"]).startswith(b"%PDF")
