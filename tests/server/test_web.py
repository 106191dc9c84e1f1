"""The web page end to end, in headless Chromium against a server of its own.

A picture of every page is kept in the folder that CLEAVE_SCREENSHOTS names, `tests/.artifacts/web` by default. The
tests are skipped where Chromium, its driver or selenium is absent.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium drives the browser: pip install 'cleave[test]'")
pytest.importorskip("fastapi", reason="the server needs FastAPI: pip install 'cleave[api]'")

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from planner.view.figures import number
from specs.load import load_scenario, parse_scenario

ROOT = Path(__file__).parents[2]
PICTURES = Path(os.environ.get("CLEAVE_SCREENSHOTS") or ROOT / "tests" / ".artifacts" / "web")
ACCESSIBILITY = Path(__file__).parent / "accessibility.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
START_S, WAIT_S = 60, 30
DESKTOP, PHONE = (1440, 1000), (390, 844)
TALLEST = 6000
TOKEN = "a token of the tests"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Chromium and chromedriver are not on the path"
)

SCENARIO = """\
schema: cleave.scenario/1
cluster:
  pools:
    - {name: h200, gpu: h200-sxm-141gb, count: 16}
services:
  - name: chat
    model: Qwen/Qwen3-32B
    precision: fp8
    engine: vllm
    workload: {input_tokens: 1024, output_tokens: 256}
    slo: {ttft_ms: 1000, tpot_ms: 30}
objective: {maximize: throughput}
"""


# -- the server and the browser ---------------------------------------------------------------------------------------


def start(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    command = "import sys; from planner.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "serve", "--port", str(port), "--store", f"sqlite:///{folder}/jobs", *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    for _ in range(START_S * 10):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{address}healthz", timeout=1):
                return process, address
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    raise AssertionError(f"the server did not start within {START_S} s")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("CLEAVE_WEB_ADDRESS")  # a server that runs already, while the page is being worked on
    if given:
        yield given
        return
    process, found = start(tmp_path_factory.mktemp("store"))
    yield found
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options=options, service=Service(str(DRIVER))) as driver:
        yield driver


@pytest.fixture
def page(chrome: Chrome, address: str) -> Iterator["Page"]:
    found = Page(chrome, address)
    found.looks()
    found.open("")
    chrome.execute_script("localStorage.clear(); sessionStorage.clear()")
    found.open("")
    yield found
    worst = [entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    assert [message for message in worst if message not in found.expected] == []


class Page:
    """The page in the browser, and what a person does on it."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self.driver, self.address = driver, address
        self.expected: set[str] = set()

    def looks(self, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, fragment: str) -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.address}#{fragment}")

    def one(self, selector: str) -> WebElement:
        return self.until(lambda: self.driver.find_element(By.CSS_SELECTOR, selector), selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def button(self, text: str) -> WebElement:
        return self.until(lambda: next(each for each in self.all("button") if each.text.startswith(text)), text)

    def text(self, selector: str) -> str:
        return self.one(selector).text.replace("\u00a0", " ")

    def until(self, found: Callable[[], Any], what: str) -> Any:
        def tried(_: Chrome) -> Any:
            try:
                return found()
            except Exception:  # not there yet, or gone again
                return False

        return WebDriverWait(self.driver, WAIT_S, 0.05).until(tried, what)

    def write(self, text: str) -> None:
        """Replace the scenario at once; typing it would take seconds."""
        self.driver.execute_script(
            "const area = document.getElementById('scenario'); area.focus(); area.select();"
            "document.execCommand('insertText', false, arguments[0])",
            text,
        )

    def judged(self, verdict: str) -> None:
        self.until(lambda: self.all(f".verdict.{verdict}"), f"the scenario to be {verdict}")

    def picture(self, name: str) -> Path:
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], TALLEST), "scale": 1}
        data = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        path.write_bytes(b64decode(data["data"]))
        return path

    def module(self, name: str, function: str, argument: Any) -> Any:
        """Call a function, given as source over the module `it`, with an argument and return what it returns."""
        return self.driver.execute_async_script(
            "const [name, argument, done] = arguments;"
            "import(new URL(`web/${name}`, document.baseURI.split('#')[0]))"
            f".then((it) => done(({function})(argument)))",
            name,
            argument,
        )

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth"))

    def faults(self) -> list[str]:
        """What an accessibility check of the document finds."""
        return list(self.driver.execute_script(ACCESSIBILITY.read_text()))

    def planned(self, scenario: str = SCENARIO) -> None:
        self.write(scenario)
        self.judged("valid")
        self.one("#scenario").send_keys(Keys.CONTROL, Keys.ENTER)
        self.one(".headline")


# -- asking -----------------------------------------------------------------------------------------------------------


def test_an_example_is_loaded_checked_and_summed_up(page: Page) -> None:
    page.judged("valid")
    select = Select(page.one("#example"))
    names = [option.text for option in select.options]
    assert {"coding", "infeasible", "two-services"} <= set(names)
    select.select_by_visible_text("two-services")
    page.until(lambda: "two-services" in page.one("#live").get_attribute("textContent"), "the example")
    page.judged("valid")
    page.until(lambda: "h200" in page.text(".summary"), "the summary")
    assert [each.text for each in page.all(".summary h3")] == ["chat", "coding"]
    page.picture("scenario")
    assert page.faults() == []


def test_errors_stand_beside_their_lines(page: Page) -> None:
    page.write(SCENARIO.replace("ttft_ms: 1000", "ttft_ms: -5"))
    page.judged("invalid")
    line = SCENARIO[: SCENARIO.index("ttft_ms")].count("\n") + 1
    (marked,) = page.all(".gutter .wrong")
    assert marked.text == str(line)
    assert "must be greater than 0" in page.one(".ink .wrong .beside").text
    assert f"line {line}" in page.text("#errors")
    assert "services[0].slo.ttft_ms" in page.text("#errors")
    assert page.one("#scenario").get_attribute("aria-invalid") == "true"
    page.picture("scenario-error")
    assert page.faults() == []
    # A run is refused, and the way to the error is one key away.
    page.one("#scenario").send_keys(Keys.CONTROL, Keys.ENTER)
    page.until(lambda: "errors" in page.text(".trouble"), "the refusal")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    chosen = page.driver.execute_script(
        "const area = document.getElementById('scenario');"
        "return [document.activeElement === area, area.value.slice(area.selectionStart, area.selectionEnd)]"
    )
    assert chosen == [True, SCENARIO.splitlines()[line - 1].replace("1000", "-5")]
    page.write(SCENARIO)
    page.judged("valid")
    assert page.all(".errors li") == []


def test_a_very_long_line_is_left_uncoloured(page: Page) -> None:
    page.write("long: " + "'a" * 20_000)
    page.judged("invalid")
    assert page.all(".ink .is-string") == []
    page.write("short: 'a'")
    page.until(lambda: page.all(".ink .is-string"), "colours")


def test_text_that_is_no_yaml_and_no_text_at_all(page: Page) -> None:
    page.write("services: [")
    page.judged("invalid")
    assert "neither YAML nor JSON" in page.text("#errors")
    page.write(" ")
    page.until(lambda: page.all(".errors li") == [], "no errors")


def test_a_local_file_is_opened(page: Page, tmp_path: Path) -> None:
    page.judged("valid")
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO)
    page.one("#file").send_keys(str(path))
    page.until(lambda: page.one("#scenario").get_attribute("value") == SCENARIO, "the file's text")


def test_names_are_text_and_never_markup(page: Page) -> None:
    evil = "<img src=x onerror=window.entered=1>"
    page.write(SCENARIO.replace("Qwen/Qwen3-32B", evil).replace("fp8", evil))
    page.judged("invalid")
    assert evil in page.text(".ink")
    assert page.all("main img") == []
    assert page.driver.execute_script("return window.entered") is None


def test_the_keyboard_suffices(page: Page) -> None:
    page.judged("valid")
    body = page.one("body")
    seen: list[str] = []
    page.driver.execute_script("document.activeElement.blur()")
    for _ in range(30):
        body = page.driver.switch_to.active_element
        body.send_keys(Keys.TAB)
        now = page.driver.switch_to.active_element
        seen.append(now.get_attribute("id") or now.text.split("\n")[0] or now.tag_name)
        outline = page.driver.execute_script(
            "const style = getComputedStyle(document.activeElement.closest('.editor') || document.activeElement);"
            "return style.outlineStyle !== 'none' || style.boxShadow !== 'none'"
        )
        assert outline, f"no visible focus on {seen[-1]}"
        if seen[-1].startswith("Compare modes"):
            break
    order = ["skip", "example", "scenario", "gap", "time_limit_s", "what_if"]
    assert [name for name in seen if name in order] == order
    # Tab leaves the editor, and its text is as it was.
    assert page.one("#scenario").get_attribute("value").startswith("#")


def test_enter_keeps_the_indentation(page: Page) -> None:
    page.write("services:")
    page.one("#scenario").send_keys(Keys.ENTER, "- name: chat", Keys.ENTER, "x")
    assert page.one("#scenario").get_attribute("value") == "services:\n  - name: chat\n  x"


# -- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_from_the_question_to_its_files(page: Page, tmp_path: Path) -> None:
    page.driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.planned((ROOT / "examples" / "heterogeneous-pd.yaml").read_text())
    assert page.text(".headline .pill") == "optimal"
    assert "proven: no deployment is better by more than" in page.text(".headline")
    assert page.text("h1") == "assistant on 32 l40s, 8 h20"
    assert "met" in page.text(".limit.met")
    # It took several rounds to prove: the way there stays visible.
    assert "bound" in page.one("#convergence ~ .chart .canvas svg").get_attribute("aria-label")
    assert len(page.all("#convergence ~ .chart .canvas .incumbent .dots")) > 2
    # Every GPU is drawn once.
    page.one(".cluster")
    strips = page.all(".cluster .strip")
    assert sum(int(strip.get_attribute("data-gpus") or 0) for strip in strips) == 40
    assert len(page.all(".cluster .gpu-pool")) == 2
    page.one(".choices button").click()
    assert "GPU" in page.text(".placement .readout")
    assert page.all(".cluster.dimmed .strip.lit")
    page.one(".choices button").click()
    page.until(lambda: page.all(".targets button"), "the targets")
    for size, dark, name in ((DESKTOP, False, "plan"), (DESKTOP, True, "plan-dark"), (PHONE, False, "plan-phone")):
        page.looks(size, dark=dark)
        assert page.overflow() <= 0, name
        page.picture(name)
        assert page.faults() == [], name
    page.looks()
    page.button("plan.json").click()
    (path,) = page.until(lambda: list(tmp_path.glob("*.json")), "plan.json")
    plan = json.loads(path.read_text())
    assert (plan["schema"], plan["status"]) == ("cleave.plan/1", "optimal")
    page.one("[data-target=vllm]").click()
    (packed,) = page.until(lambda: list(tmp_path.glob("*.zip")), "the launch files")
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert archive.namelist()
    page.one("[data-target=sglang]").click()  # the plan is for vLLM
    page.until(lambda: "SGLang" in page.text("#download ~ .trouble"), "the refusal")
    page.expected |= {entry["message"] for entry in page.driver.get_log("browser") if "422" in entry["message"]}


def test_a_run_is_found_again_by_its_address_and_in_the_list(page: Page) -> None:
    page.planned()
    url, value = page.driver.current_url, page.text(".headline .value")
    assert "#/plans/" in url
    page.driver.refresh()
    page.until(lambda: page.text(".headline .value") == value, "the same plan after a reload")
    page.open("/runs")
    link = page.one("table a")
    assert link.get_attribute("href") == url
    assert value.split()[0] in page.text("table")
    page.picture("runs")
    assert page.faults() == []
    page.button("Clear this list").click()
    page.until(lambda: "No runs yet" in page.text("main"), "the empty list")
    page.open("/plans/00000000000000000000000000")
    page.until(lambda: "no run of this name" in page.text(".card.failed"), "the refusal")
    page.expected |= {entry["message"] for entry in page.driver.get_log("browser") if "404" in entry["message"]}


def test_progress_is_shown_and_a_run_can_be_cancelled(page: Page) -> None:
    page.one("#what_if").click()
    page.judged("valid")
    Select(page.one("#example")).select_by_value("aiconfigurator-qwen3-30b-a3b-512xh100")
    page.until(lambda: "512" in page.text(".summary"), "the summary")
    page.one("#scenario").send_keys(Keys.CONTROL, Keys.ENTER)
    page.until(lambda: page.text(".running .stage") not in ("", "waiting for the server"), "a stage")
    page.until(lambda: len(re.findall(r"\d", page.text(".running .tiles"))) > 2, "an incumbent and a bound")
    page.one(".running .canvas svg .line")
    assert "s of 60 s" in page.text(".clock")
    page.picture("progress")
    assert page.faults() == []
    page.button("Cancel").click()
    page.until(lambda: "was cancelled" in page.text(".card.cancelled"), "the end")


def test_infeasible_says_first_what_would_help(page: Page) -> None:
    page.planned((ROOT / "examples" / "infeasible.yaml").read_text())
    assert page.text(".headline .value") == "No deployment meets this scenario"
    assert "TTFT" in page.text(".remedies li")
    page.picture("infeasible")
    assert page.faults() == []
    page.button("Try it").click()
    page.judged("valid")
    needed = float(
        page.driver.execute_script("return /ttft_ms: ([\\d.]+)/.exec(document.getElementById('scenario').value)[1]")
    )
    assert needed > 100
    page.one("#scenario").send_keys(Keys.CONTROL, Keys.ENTER)
    page.until(lambda: page.text(".headline .pill") == "optimal", "a plan with the change")


# -- modes ------------------------------------------------------------------------------------------------------------


def test_modes_side_by_side(page: Page) -> None:
    page.write((ROOT / "examples" / "heterogeneous-afd.yaml").read_text())
    page.judged("valid")
    page.one("#scenario").send_keys(Keys.CONTROL, Keys.SHIFT, Keys.ENTER)
    page.one(".headline")
    assert "AFD" in page.text(".headline .value")
    assert [each.text for each in page.all(".mode h3")] == ["aggregated", "AFD"]
    assert "below" in page.text(".mode.aggregated")
    points = page.until(lambda: page.all("#pareto ~ .chart .point[tabindex]"), "the curves")
    page.driver.execute_script("arguments[0].focus()", points[0])
    assert "tokens/s per GPU at" in page.text(".chart .readout")
    page.picture("modes")
    page.looks(PHONE, dark=True)
    assert page.overflow() <= 0
    page.picture("modes-phone-dark")
    assert page.faults() == []
    page.looks()
    page.one(".mode.afd a").click()
    page.until(lambda: "AFD" in page.text("h1") and page.all(".cluster .strip"), "the plan of the mode")
    assert "AFD unit" in page.text(".choices")
    page.picture("plan-afd")
    assert page.faults() == []


# -- parts ------------------------------------------------------------------------------------------------------------


def test_numbers_read_as_in_the_terminal(page: Page) -> None:
    values = [0.0, 1.0, 1e-05, 0.000012345, 0.0123456, 0.09999, 0.1, 0.12346, 1.23456, 9.9996, 12.3456, 88.0, 99.996]
    values += [123.456, 999.96, 1000.4, 17232.3, 1450734.9, 6.314212590241209, -4.25, -0.01235]
    assert page.module("figures.js", "values => values.map(it.number)", values) == [number(value) for value in values]


def test_a_scenario_becomes_yaml_and_back(page: Page) -> None:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        scenario = load_scenario(path)
        dumped = scenario.model_dump(mode="json", by_alias=True)
        assert parse_scenario(page.module("yaml.js", "it.yaml", dumped)) == scenario, path.name


def test_colours_leave_the_text_as_it_is(page: Page) -> None:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        lines = path.read_text().split("\n")
        shown = page.module(
            "highlight.js",
            "lines => lines.map((line) => it.highlighted(line).map((n) => n.textContent ?? n).join(''))",
            lines,
        )
        assert shown == lines, path.name


def test_thousands_of_gpus_are_drawn(page: Page) -> None:
    nodes = 1000
    components = [
        {"name": name, "service": "s", "mode": "prefill_decode", "role": role, "pool": "h100", "unit": None}
        | {"instances": count, "instance_gpus": gpus}
        for name, role, count, gpus in (("s-prefill", "prefill", 1600, 2), ("s-decode", "decode", 500, 8))
    ]
    seats = [
        {"component": "s-prefill", "instance": i, "rank": 0, "node": i // 4, "gpus": [i % 4 * 2, i % 4 * 2 + 1]}
        for i in range(1600)
    ]
    seats += [
        {"component": "s-decode", "instance": i, "rank": 0, "node": 400 + i, "gpus": list(range(8))} for i in range(500)
    ]
    pool = {"name": "h100", "gpu": "h100-sxm-80gb", "gpu_name": "NVIDIA H100 SXM", "count": 8 * nodes}
    pool |= {"gpus_per_node": 8, "scale_up_domain": 8}
    drawn = """placement => {
        const start = performance.now();
        const view = it.placementView(placement);
        document.querySelector('main').replaceChildren(view);
        const folded = view.querySelectorAll('.domain').length;
        view.querySelector('.gpu-pool button').click();
        const gpus = (strip) => Number(strip.dataset.gpus);
        const drawn = [...view.querySelectorAll('.strip')].map(gpus).reduce((a, b) => a + b);
        return [folded, view.querySelectorAll('.domain').length, drawn, performance.now() - start];
    }"""
    folded, domains, gpus, ms = page.module(
        "placement.js", drawn, {"pools": [pool], "components": components, "seats": seats}
    )
    assert (folded, domains, gpus) == (3, nodes, 8 * nodes)
    assert ms < 5000
    page.picture("placement-large")


# -- who may ask, and what is asked of others -------------------------------------------------------------------------


def test_nothing_is_fetched_from_elsewhere(page: Page) -> None:
    page.judged("valid")
    names = page.driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(names) > 10
    assert [name for name in names if not name.startswith(page.address)] == []
    with urllib.request.urlopen(page.address, timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_without_the_server_the_text_stays(page: Page) -> None:
    page.judged("valid")
    page.driver.execute_cdp_cmd("Network.enable", {})
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **offline})
    try:
        page.write(SCENARIO)
        page.judged("unknown")
        assert "cannot be reached" in page.text("#errors")
        page.one("#scenario").send_keys(Keys.CONTROL, Keys.ENTER)
        page.until(lambda: page.text(".trouble"), "the refusal")
    finally:
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **offline})
    page.expected |= {e["message"] for e in page.driver.get_log("browser") if "DISCONNECTED" in e["message"]}
    page.one("#scenario").send_keys(Keys.CONTROL, Keys.ENTER)
    page.one(".headline")


def test_a_token_is_asked_for_once_and_kept(chrome: Chrome, tmp_path: Path) -> None:
    process, address = start(tmp_path, "--token", TOKEN)
    try:
        page = Page(chrome, address)
        page.looks()
        page.open("")
        page.one("dialog[open] input").send_keys("wrong", Keys.ENTER)
        page.until(lambda: "refused" in page.text("dialog[open] p"), "the refusal")
        page.picture("token")
        page.one("dialog[open] input").send_keys(TOKEN, Keys.ENTER)
        page.judged("valid")
        page.driver.refresh()
        page.judged("valid")
        assert page.all("dialog[open]") == []
    finally:
        process.terminate()
        process.wait(timeout=30)
