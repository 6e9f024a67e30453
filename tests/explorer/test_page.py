"""The page as a user has it, in a browser: every tab, and whom it asks."""

import io
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvicorn
from PIL import Image

from src.core.errors import UserError
from src.explore import explore
from src.explorer.opened import Opened
from src.explorer.page import application, listening
from tests.helpers.commands import config_of

CHROMIUM = shutil.which("chromium")
# One server and a browser, on machines that may be busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]


@pytest.fixture(scope="module")
def reached() -> Iterator[list[Any]]:
    """Every address that this process connects to."""
    addresses: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            method = getattr(socket.socket, name)

            def connect(self: socket.socket, address: Any, method: Any = method) -> Any:
                addresses.append(address)
                return method(self, address)

            patch.setattr(socket.socket, name, connect)
        yield addresses


@pytest.fixture(scope="module")
def url(runs: dict[str, Path], reached: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page of a GAN and a VAE side by side, whose cat finder takes the left half of a photo."""
    if not CHROMIUM:
        pytest.skip("there is no chromium")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    folder, models = str(tmp_path_factory.mktemp("page")), [Opened(str(run), "cpu") for run in runs.values()]
    app = application(models, folder)
    with listening("127.0.0.1", None) as sock, pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.explorer.tabs.find_square", lambda photo: (0, 0, photo.height))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


class Browser:
    """The page in Chromium; `asked` is every address that it asked for."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.asked, self.errors = page, list[str](), list[str]()
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(600_000)
        page.goto(url)
        page.get_by_role("tab", name="Draw").first.wait_for()

    def open(self, tab: str) -> Any:
        """Open a tab, which a narrow page hides in a menu, and return its panel."""
        chosen = self.page.get_by_role("tab", name=tab, exact=True)
        if not chosen.count() or not chosen.first.is_visible():
            self.page.locator(".overflow-menu > button").click()
            self.page.locator(".overflow-dropdown button", has_text=tab).click()
        else:
            chosen.first.click()
        return self.page.get_by_role("tabpanel").filter(visible=True)

    def pixels(self, image: Any) -> np.ndarray:
        """Return an image as the browser got it."""
        response = self.page.request.get(image.get_attribute("src"))
        with Image.open(io.BytesIO(response.body())) as opened:
            return np.asarray(opened.convert("RGB"))

    def changed(self, image: Any, before: str) -> str:
        """Wait until an image has another address, and return it."""
        self.wait_until(lambda: image.get_attribute("src") != before)
        return image.get_attribute("src")

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + 300
        while not happened():
            assert time.monotonic() < deadline, "it did not happen"
            self.page.wait_for_timeout(50)

    def move(self, slider: Any, value: float) -> None:
        """Move a slider as a user does."""
        slider.evaluate(
            "(slider, value) => {slider.value = value; for (const kind of ['input', 'change', 'pointerup'])"
            " slider.dispatchEvent(new Event(kind, {bubbles: true}))}",
            value,
        )


@pytest.fixture(params=[1280, 390], ids=["desktop", "telephone"])
def browser(request: pytest.FixtureRequest, url: str) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = Browser(chromium.new_page(viewport={"width": request.param, "height": 900}), url)
        yield opened
        assert opened.errors == []
        # Fonts and scripts too; what is no address is in the page.
        assert {urlsplit(address).hostname for address in opened.asked} <= {"127.0.0.1", None}
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= request.param
        chromium.close()


def test_every_tab_shows_what_it_says(
    browser: Browser, runs: dict[str, Path], reached: list[Any], tmp_path: Path
) -> None:
    page = browser.page
    models = [Opened(str(run), "cpu") for run in runs.values()]

    panel = browser.open("Draw")
    panel.get_by_label("Seed").fill("5")
    panel.get_by_label("Seed").press("Tab")
    command = panel.locator("textarea").first
    page.wait_for_function("[...document.querySelectorAll('textarea')].every(text => /seed=5/.test(text.value))")
    assert "num_images=16 seed=5 prior=normal temperature=1" in command.input_value()
    page.wait_for_function("document.querySelectorAll('.cats img').length >= 32")
    shown = browser.pixels(panel.locator(".cats img").nth(3))
    np.testing.assert_array_equal(shown, models[0].draw(5, 16, "mixture", 1.0)[3].permute(1, 2, 0))
    panel.locator(".cats button:has(img)").nth(3).click()
    panel.get_by_role("button", name="Keep the chosen").first.click()
    page.get_by_text("favorite 1 (seed 5, image 4)").first.wait_for()
    with page.expect_download() as download:
        panel.get_by_text("Save PNG").first.click()
    assert Image.open(download.value.path()).size == (8 * 34 + 2, 2 * 34 + 2)

    panel = browser.open("Directions")
    panel.get_by_text("Sorted:").nth(1).wait_for()
    image = panel.locator(".cat img").first
    before = image.get_attribute("src")
    browser.move(panel.locator("input[type=range]").nth(2), 2.5)
    browser.changed(image, before)
    latent = models[0].moved(models[0].latents(0)[0], [0, 0, 2.5, 0, 0, 0, 0, 0])
    expected = models[0].image(latent).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(browser.pixels(image) - expected).max() <= 1
    before = image.get_attribute("src")
    panel.get_by_role("button", name="Reset").first.click()
    browser.changed(image, before)
    assert panel.locator("input[type=range]").nth(2).input_value() == "0"
    before = image.get_attribute("src")
    panel.get_by_role("button", name="Random start").click()
    browser.changed(image, before)

    panel = browser.open("Between two cats")
    image = panel.locator(".cat img").first
    image.wait_for()
    panel.get_by_label("First cat").first.click()
    page.get_by_role("option", name="favorite 1").click()
    browser.move(panel.locator("input[type=range]").first, 0)
    # At its beginning the way is at the favorite.
    browser.wait_until(lambda: np.abs(browser.pixels(image).astype(int) - shown).max() <= 1)
    images = panel.locator(".cat img").count()
    panel.get_by_role("button", name="Make a film").first.click()
    browser.wait_until(lambda: panel.locator(".cat img").count() == images + 1)
    film = panel.locator(".cat img").nth(1)
    browser.wait_until(lambda: ".mp4" in panel.inner_html())
    with Image.open(io.BytesIO(page.request.get(film.get_attribute("src")).body())) as moving:
        assert moving.n_frames > 20  # type: ignore[attr-defined]
        assert moving.info["loop"] == 0

    panel = browser.open("My cat")
    photo = Image.effect_noise((200, 100), 60).convert("RGB")
    photo.save(tmp_path / "photo.png")
    panel.locator("input[type=file]").set_input_files(tmp_path / "photo.png")
    page.wait_for_function("[...document.querySelectorAll('input[type=range]')].some(slider => slider.max === '199')")
    sliders = panel.locator("input[type=range]")
    # The found box, 100 x 100 at the left edge, moved to the right by hand.
    assert [sliders.nth(number).input_value() for number in range(3)] == ["0", "0", "100"]
    browser.move(sliders.nth(0), 60)
    panel.get_by_role("button", name="Find this cat").click()
    panel.get_by_text("Below: projected, in 200 steps").wait_for()
    panel.get_by_text("Below: encoded").wait_for()
    seen = browser.pixels(panel.locator(".cat img").first)
    square = photo.crop((60, 0, 160, 100)).resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(seen, np.asarray(square))
    panel.get_by_role("button", name="Keep").first.click()
    page.get_by_text("favorite 2 (my cat)").first.wait_for()

    panel = browser.open("Nearest")
    panel.get_by_role("button", name="Look for").click()
    panel.get_by_text("Copies of a training image").nth(1).wait_for()
    assert panel.locator(".cats").first.locator("img").count() == 4 * 7

    panel = browser.open("Growing up")
    panel.get_by_text("After 96 images").nth(1).wait_for()
    image = panel.locator(".cats img").first
    before = image.get_attribute("src")
    browser.move(panel.locator("input[type=range]").first, 1)
    panel.get_by_text("After 32 images").nth(1).wait_for()
    browser.changed(image, before)

    # The process itself reached nobody else either.
    assert {address[0] for address in reached if isinstance(address, tuple)} <= {"127.0.0.1", "::1", "localhost"}


def test_taken_port_ends_in_a_sentence(runs: dict[str, Path]) -> None:
    with listening("127.0.0.1", None) as taken:
        port = taken.getsockname()[1]
        config = config_of(f"checkpoint={runs['gan']}", f"port={port}", "open=false", name="explore")
        with pytest.raises(UserError, match=f"can't serve at host=127.0.0.1 port={port}: .*; give another"):
            explore(**config)
