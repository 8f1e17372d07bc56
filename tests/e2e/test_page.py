"""The status page in a real browser: loads without errors, updates, explains faults, and shows no address."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edm.kernel.jit import JIT_DISABLED
from support import golden
from support.daemon import Daemon, running
from support.golden import daemon_settings as settings
from support.processes import find, need, wait_until
from support.small_disk import small_disk

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(JIT_DISABLED, reason="the daemon is tested with JIT")]

WIDE, PHONE = (1300, 1400), (390, 844)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_ADDRESS = re.compile(
    r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])|[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){3,7}", re.IGNORECASE
)


class Page:
    """The status page of a daemon, open in Chromium."""

    def __init__(self, driver: Any, daemon: Daemon, pictures: Path) -> None:
        self.driver = driver
        self.daemon = daemon
        self.pictures = pictures
        driver.get(f"http://127.0.0.1:{daemon.metrics_port}/")

    def text(self, element: str) -> str:
        return str(
            self.driver.execute_script("return document.getElementById(arguments[0]).textContent", element)
        )

    def wait_for(self, element: str, holds: Callable[[str], bool]) -> str:
        wait_until(lambda: holds(self.text(element)), lambda: f"{element} shows {self.text(element)!r}", 60)
        return self.text(element)

    def picture(self, name: str) -> Path:
        """Make a picture of what the window shows; it is never one colour only."""
        path = self.pictures / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        assert path.stat().st_size > 10_000
        return path

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def addresses(self) -> set[str]:
        """Return what looks like an address in the whole document, other than where the page itself is."""
        html = self.driver.execute_script("return document.documentElement.outerHTML")
        return set(_ADDRESS.findall(html))


@contextmanager
def browser(size: tuple[int, int] = WIDE) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    need("chromium", "chromedriver")
    options = selenium.ChromeOptions()
    for flag in _FLAGS:
        options.add_argument(flag)
    options.binary_location = str(find("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=Service(str(find("chromedriver"))))
    try:
        driver.set_window_size(*size)
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def driver() -> Iterator[Any]:
    with browser() as driver:
        yield driver


def test_it_loads_cleanly_and_updates(tmp_path: Path, driver: Any) -> None:
    with running(tmp_path / "run", **settings(tmp_path)) as daemon:
        page = Page(driver, daemon, tmp_path)
        assert page.wait_for("summary", lambda text: "well" in text) == "All is well."
        assert "0 since the start" in page.text("rate")
        daemon.send(golden.frames("unbound"))
        page.wait_for("rate", lambda text: "60,000 since the start, 0 lost" in text)
        assert "session row" in page.text("fates")
        daemon.rotate()
        page.wait_for("intervals", lambda text: "✔ closed" in text)
        driver.find_element("id", "step-1").click()
        page.wait_for("chart-text", lambda text: "five minutes" in text)
        assert driver.find_elements("css selector", "#chart path")
        assert page.errors() == []
        assert page.addresses() == set()
        page.picture("wide")


def test_it_fits_a_phone_and_dark_rooms_and_keyboards(tmp_path: Path, driver: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    with running(tmp_path / "run", **settings(tmp_path)) as daemon:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 1, "mobile": True},
        )
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        page = Page(driver, daemon, tmp_path)
        page.wait_for("summary", lambda text: "well" in text)
        width = driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= PHONE[0]
        colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", colour)[:3])) < 150, colour
        # Tab by tab through all that can be used, which is named for a screen reader.
        names = []
        for _ in range(12):
            driver.switch_to.active_element.send_keys(Keys.TAB)
            names.append(
                driver.switch_to.active_element.text or driver.switch_to.active_element.accessible_name
            )
        assert "Last five minutes, by second" in names
        assert all(
            section.accessible_name for section in driver.find_elements("css selector", "main section")
        )
        assert page.errors() == []
        page.picture("phone")


def test_a_broken_list_and_an_absent_broker_are_told_in_words(tmp_path: Path, driver: Any) -> None:
    clients = tmp_path / "clients"
    clients.write_text("192.0.2.0/24\n")
    with Daemon(tmp_path / "run", **settings(tmp_path, ignored_client_ips_file=clients)) as daemon:
        page = Page(driver, daemon, tmp_path)
        page.wait_for("summary", lambda text: "well" in text)
        clients.write_text("198.51.100.77 is no prefix\n")
        daemon.process.send_signal(signal.SIGHUP)
        found = page.wait_for("findings", lambda text: "reload" in text)
        assert "The last reload failed for ignored_client_ips: the old state stays in use." in found
        page.wait_for("reloads", lambda text: "failed in part" in text)
        assert "198.51.100.77" not in driver.page_source
        assert page.addresses() == set()
        page.picture("broken-list")


def test_a_full_disk_is_told_in_words(tmp_path: Path, driver: Any) -> None:
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        more = {"data_dir": disk.data, "disk_min_free_bytes": 8 << 20}
        with Daemon(tmp_path / "run", **settings(tmp_path, **more)) as daemon:
            page = Page(driver, daemon, tmp_path)
            page.wait_for("summary", lambda text: "well" in text)
            daemon.send(golden.frames("unbound")[:20_000])
            disk.fill()
            page.wait_for("summary", lambda text: "Something is wrong" in text)
            found = page.wait_for("findings", lambda text: "disk" in text)
            assert "Make room" in found
            status, answer = daemon.http("GET", "/readyz")
            assert status == 503
            assert {reason["code"] for reason in json.loads(answer)["reasons"]} <= {
                "disk-shedding",
                "disk-full",
                "interval-late",
            }
            page.picture("full-disk")
            disk.clear()
            page.wait_for("summary", lambda text: "Something is wrong" not in text)


def test_a_daemon_that_is_gone_is_told(tmp_path: Path, driver: Any) -> None:
    with Daemon(tmp_path / "run", **settings(tmp_path)) as daemon:
        page = Page(driver, daemon, tmp_path)
        page.wait_for("summary", lambda text: "well" in text)
        daemon.kill()
        found = page.wait_for("summary", lambda text: "does not answer" in text)
        assert "The numbers below are of" in found
        page.picture("gone")
