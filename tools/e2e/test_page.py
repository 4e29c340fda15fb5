"""The live page in a browser: a real router, a verifier that also says what would break a careless page, a drafter."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium, emulate, missing, until
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from tiny_target import make_tiny_target

from paceline.cli.stack import Service, Stack

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "\u202e&lt;${alert(1)}",
]
PROMPT = "Say it again. </script><b>Again</b>"
SHARED = "a token that all share"
TOKENS = 120

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@dataclass
class Deployment:
    url: str
    verifier: Service


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("stack")
    with Stack(folder) as stack:
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed", "--http", "127.0.0.1:0")
        stack.wait("router")
        router = stack.services["router"]
        model = make_tiny_target(folder / "tiny", favourites=HOSTILE)
        announce = ("--router", router.address)
        verifier = stack.start("verifier", "verifier", "--model", str(model), "--drafting", "always", *announce)
        stack.start("suffix", "drafter", "--name", "suffix", "--strategies", "suffix", *announce)
        stack.wait(timeout_s=240.0)
        stack.wait_connected(router.address, ["suffix"])
        url = f"http://{router.http}/"
        said(url)  # the drafter remembers it
        yield Deployment(url, verifier)


class Page:
    """What a person does with the page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def js(self, program: str, *arguments: Any) -> Any:
        return self.driver.execute_script(program, *arguments)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.js(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
        )
        return found

    def open(self, url: str) -> None:
        self.driver.get(url)
        until(lambda: len(self.all("#drafters option")) > 2, "the drafters on offer")

    def set(self, field: str, value: object) -> None:
        self.find(f"#{field}").clear()
        self.find(f"#{field}").send_keys(str(value))

    def point_at(self, selector: str) -> WebElement:
        """The first of these that is in one piece, so that its middle is its own."""
        whole = """return [...document.querySelectorAll(arguments[0])].find((e) => {
            const {width, height, left, top} = e.getBoundingClientRect();
            return document.elementFromPoint(left + width / 2, top + height / 2) === e; })"""
        found: WebElement = self.js(whole, selector)
        ActionChains(self.driver).move_to_element(found).perform()
        return found

    def click(self, selector: str) -> None:
        """After scrolling there, as a person would."""
        self.js("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()

    def ask(self, prompt: str = PROMPT, most: int = TOKENS) -> None:
        self.set("most", most)
        self.find("#prompt").send_keys(prompt)
        self.click("#send")

    def answered(self, count: int = 1) -> None:
        until(lambda: len(self.all("article[aria-busy=false]")) == count, "the answer")
        assert self.texts(".problem") == []

    def answer(self) -> str:
        """The text on the page, without what comes after its end."""
        return "".join(self.texts("article:last-of-type .token:not(.beyond)"))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def screenshot(self, name: str) -> None:
        folder = Path(os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR") or os.environ["PYTEST_TMP"])
        self.driver.save_screenshot(str(folder / name))


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager[webdriver.Chrome]]:
    return lambda: chromium(tmp_path_factory.mktemp("chromium"))


@pytest.fixture(scope="module")
def opened(browse: Callable[[], AbstractContextManager[webdriver.Chrome]]) -> Iterator[Page]:
    with browse() as driver:
        yield Page(driver)


@pytest.fixture
def page(opened: Page, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """The page as it is when it has just been opened; nothing may be complained of in the end."""
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path))
    opened.complaints()
    emulate(opened.driver)
    opened.open(deployment.url)
    yield opened
    assert opened.complaints() == []


def said(url: str, prompt: str = PROMPT, most: int = TOKENS, seed: int = 1, **wish: Any) -> str:
    """The answer of the API itself."""
    with urllib.request.urlopen(f"{url}v1/models") as reply:
        model = json.load(reply)["data"][0]["id"]
    messages = [{"role": "user", "content": prompt}]
    body = {
        "model": model,
        "messages": messages,
        "temperature": 0.7,
        "seed": seed,
        "max_tokens": most,
        "paceline": wish,
    }
    request = urllib.request.Request(
        f"{url}v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        text: str = json.load(reply)["choices"][0]["message"]["content"]
    return text


def test_an_answer_arrives_in_steps_and_in_colours_and_is_that_of_the_api(page: Page, deployment: Deployment) -> None:
    page.js("""window.seen = []; new MutationObserver(() => seen.push(document.querySelectorAll(".step .token").length))
        .observe(document.getElementById("turns"), {childList: true, subtree: true})""")
    page.ask()
    page.answered()
    counts = page.js("return [...new Set(seen)]")
    assert len(counts) > 5, "it came in parts"
    assert max(now - before for before, now in pairwise(counts)) > 1, "steps brought several tokens"
    text = said(deployment.url, speculation=False)
    assert page.answer() == text
    assert [one for one in HOSTILE if one in text], "the model says what a careless page would take for markup"
    assert len(page.all(".text .token.s0")) > 5
    assert len(page.all(".text .token.own")) > 2
    own, suffix = (float(re.findall(r"([\d.]+) %", key)[0]) for key in page.texts(".legend li"))
    assert page.texts(".legend li")[1].startswith("suffix ")
    assert own + suffix == pytest.approx(100.0, abs=1.0)
    assert page.texts(".asked") == [PROMPT]
    assert page.all("article script, article img, article b:not(.figures b), .node image") == []
    assert float(page.texts(".figures b")[0]) > 1.0


def test_pointing_at_a_token_shows_what_else_it_could_have_been_and_the_tree_of_its_step(page: Page) -> None:
    page.ask()
    page.answered()
    token = page.point_at(".text .token.s0")
    until(lambda: "chosen" in str(token.get_attribute("class")), "the token to be chosen")
    (row,) = page.all(".top .taken")
    assert row.text.splitlines()[0] == page.find("#inspector code").text
    shares = [float(re.findall(r"([\d.]+) %", text)[0]) for text in page.texts(".top span:last-child")]
    assert 5 <= len(shares) <= 6, "the likeliest, and the token if it isn't one of them"
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 100.5
    assert "guessed by suffix" in page.find("#inspector").text
    kept, step = page.all(".tree .node.kept"), page.all(".step.with .token")
    assert len(kept) == len(step) + 1, "the token before, and those of the step"
    assert len(page.all(".tree .node.here")) == 1
    assert len(page.all(".tree .node")) == len(page.all(".tree .edge")) + 1
    column = page.all(".strip g.with rect")
    assert len(column) == len(step)
    page.point_at(".text .token.own")
    until(lambda: "the model itself" in page.find("#inspector p").text, "the model's own")
    page.screenshot("page.png")


def test_the_same_without_speculation_is_identical(page: Page) -> None:
    page.ask()
    page.answered()
    page.click(".again")
    until(lambda: page.texts(".verdict p"), "a verdict")
    assert page.find(".verdict p").text.startswith("Identical text. ")
    assert float(re.findall(r"([\d.]+) ×", page.find(".verdict p").text)[0]) > 0
    assert [float(text.removesuffix(" s")) > 0 for text in page.texts(".race li > span:last-child")] == [True, True]


def test_a_conversation_goes_on_where_it_was_and_drafters_can_be_chosen(page: Page) -> None:
    names = page.texts("#drafters option")
    assert names == ["the router chooses (fixed)", "none", "suffix"]
    page.ask(most=10)
    page.answered()
    page.find("#drafters").send_keys("none")
    page.ask("And again", most=30)
    page.answered(2)
    last = page.all("article")[-1]
    assert last.find_elements(By.CSS_SELECTOR, ".text .token.s0") == []
    assert len(last.find_elements(By.CSS_SELECTOR, ".text .token.own")) == len(
        last.find_elements(By.CSS_SELECTOR, ".text .token")
    )
    page.find("#new").click()
    assert page.all("article") == []


def test_with_the_keyboard_alone(page: Page, deployment: Deployment) -> None:
    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    def focused() -> str:
        value: str = page.js("return document.activeElement.id || document.activeElement.className || ''")
        return value

    def send() -> None:
        ActionChains(page.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()

    assert focused() == "prompt", "one can type at once"
    page.js("document.getElementById('most').value = 12")
    press("Hello")
    send()
    page.answered()
    for _ in range(12):
        if "token" in focused():
            break
        ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert "token" in focused(), "the answer is one stop on the way"
    press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    chosen = page.js("return [...document.querySelectorAll('.text .token')].indexOf(document.activeElement)")
    assert chosen == 2
    assert page.find(".chosen") == page.driver.switch_to.active_element
    reached = set()
    for _ in range(30):
        press(Keys.TAB)
        reached.add(focused())
    assert {
        "again",
        "save",
        "prompt",
        "send",
        "model",
        "drafters",
        "temperature",
        "seed",
        "most",
    } <= reached
    page.find("#prompt").send_keys("more")
    deployment.verifier.process.send_signal(signal.SIGSTOP)  # so that it can't be faster than Escape
    try:
        send()
        until(lambda: page.all("article[aria-busy=true]"), "the second answer")
        assert page.find("#stop").is_displayed()
        press(Keys.ESCAPE)
        until(lambda: page.texts(".problem") == ["Stopped."], "its end")
    finally:
        deployment.verifier.process.send_signal(signal.SIGCONT)
    assert not page.find("#stop").is_displayed()
    assert page.find("#prompt").get_attribute("value") == "more", "one can try again"


CONTRAST = """
const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgb = (...layers) => {
  for (const layer of layers) { context.fillStyle = layer; context.fillRect(0, 0, 1, 1); }
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (colour) => colour.map((one) => one / 255)
  .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
  .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
const style = (selector) => getComputedStyle(document.querySelector(selector));
const card = style("article").backgroundColor;
const found = {card: rgb(card), hint: ratio(rgb(style(".hint").color), rgb(card)), tokens: []};
const token = document.querySelector(".text .token");
for (let slot = 0; slot < 8; slot++) {
  token.className = `token s${slot}`;
  const {backgroundColor, color, borderBottomColor, borderBottomStyle} = getComputedStyle(token);
  found.tokens.push([ratio(rgb(card, backgroundColor), rgb(color)), ratio(rgb(card), rgb(borderBottomColor)),
    String(rgb(borderBottomColor)), borderBottomStyle]);
}
return found;
"""


def test_it_is_legible_by_day_and_by_night(page: Page) -> None:
    page.ask(most=20)
    page.answered()
    cards = []
    for scheme in ("light", "dark"):
        emulate(page.driver, scheme)
        found = page.js(CONTRAST)
        cards.append(sum(found["card"]))
        assert found["hint"] >= 4.5
        for text, line, _, _ in found["tokens"]:
            assert text >= 4.5
            assert line >= 3.0, "WCAG's bound for what isn't text"
        assert len({colour for _, _, colour, _ in found["tokens"]}) == 8
        assert len({style for _, _, _, style in found["tokens"]}) == 4, "told apart without colours, too"
        page.screenshot(f"page-{scheme}.png")
    assert cards[0] > 600 > 200 > cards[1]


def test_on_a_narrow_screen_nothing_is_cut_off(page: Page) -> None:
    emulate(page.driver, width=360, height=740)
    page.ask()
    page.answered()
    page.click(".again")
    until(lambda: page.texts(".verdict p"), "a verdict")
    assert page.js("return document.documentElement.scrollWidth") == 360
    wide = page.js("""return [...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, svg, option"))
        .filter((e) => e.getBoundingClientRect().right > 360.5).map((e) => e.outerHTML.slice(0, 80))""")
    assert wide == []
    page.screenshot("page-narrow.png")


def test_a_saved_replay_plays_alone(page: Page, browse: Callable[[], AbstractContextManager[webdriver.Chrome]]) -> None:
    page.ask()
    page.answered()
    text = page.answer()
    page.click(".again")
    until(lambda: page.texts(".verdict p"), "a verdict")
    page.click(".save")
    folder = Path(page.driver.capabilities["chrome"]["userDataDir"]).parent / "downloads"
    until(lambda: list(folder.glob("*.html")), "the file")
    (saved,) = folder.glob("*.html")
    with browse() as driver:
        replay = Page(driver)
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        driver.get(saved.as_uri())
        both = [text, text]
        columns = """return [...document.querySelectorAll(".stage section")].map((section) =>
            [...section.querySelectorAll(".token:not(.beyond)")].map((token) => token.textContent).join(""))"""
        until(lambda: replay.js(columns) == both, "the end of the replay")
        again = replay.js(f"document.querySelector('.main').click(); {columns}")  # at once, before it plays on
        assert again == ["", ""], "it begins anew"
        assert replay.js(f"document.querySelector('.main + button').click(); {columns}") == both, "and can be cut short"
        assert replay.all(".stage script, .stage img") == []
        assert len(replay.all("section:first-child .token.s0")) > 5
        assert replay.texts(".asked") == [PROMPT]
        replay.point_at(".text .token.s0")
        until(lambda: replay.all(".tree .node.here"), "its tree")
        assert replay.js("return performance.getEntriesByType('resource').length") == 0
        assert replay.complaints() == []
        replay.driver.save_screenshot(str(saved.with_suffix(".png")))


def test_the_page_asks_for_a_token_and_keeps_it_to_itself(
    browse: Callable[[], AbstractContextManager[webdriver.Chrome]], tmp_path: Path
) -> None:
    with Stack(tmp_path, {"PACELINE_TOKEN": SHARED}) as stack, browse() as driver:
        router = stack.start("router", "router", "--state", "memory:", "--http", "127.0.0.1:0")
        stack.wait()
        page = Page(driver)
        driver.get(f"http://{router.http}/")
        until(lambda: page.find("#door").is_displayed(), "the question")
        page.find("#token").send_keys("wrong" + Keys.ENTER)
        until(lambda: page.find("#door").is_displayed() and not page.find("#token").get_attribute("value"), "it again")
        page.find("#token").send_keys(SHARED + Keys.ENTER)
        until(lambda: page.find("#standing").text.startswith("Router "), "the status")
        assert page.js("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert SHARED not in page.js("return document.documentElement.outerHTML + location.href")
