"""The page in a real browser: a question is typed, a reply's text and sound arrive, it can be stopped."""

import http.server
import io
import os
import shutil
import threading
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from omni_lab.chat import notebook

from .conftest import HOW

WANTED = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser(*more: str):
    """Headless Chromium with `more` arguments. Says what to install where there is none."""
    found = next((path for name in WANTED if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    assert found and driver, (
        "this test needs a browser: apt-get install chromium chromium-driver (or Chrome with chromedriver on the path)"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=760,900",
        "--autoplay-policy=no-user-gesture-required", *more,
    ):  # fmt: skip
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def test_a_question_is_typed_and_answered_aloud(served, tmp_path):
    page = browser()
    try:
        page.get(served.address)
        wait = WebDriverWait(page, 60)
        body = page.find_element(By.TAG_NAME, "body")
        wait.until(lambda _: body.get_attribute("data-ready") == "yes")
        assert [o.text for o in page.find_elements(By.CSS_SELECTOR, "#speaker option")] == ["Ada", "Ben"]
        Image.fromarray(np.full((56, 56, 3), 200, dtype=np.uint8)).save(tmp_path / "grey.png")
        page.find_element(By.ID, "file").send_keys(str(tmp_path / "grey.png"))
        page.find_element(By.ID, "words").send_keys("What <i>colour</i> is this?\n")
        wait.until(lambda _: body.get_attribute("data-replies") == "1")
        said = [e.get_attribute("textContent") for e in page.find_elements(By.CSS_SELECTOR, ".said")]
        assert said[0] == "[grey.png] What <i>colour</i> is this?", "the question is shown as it was typed"
        assert len(said) == 2 and said[1], said
        assert int(body.get_attribute("data-samples")) >= 24000 // 50
        assert "1 input processing" in page.find_element(By.ID, "account").get_attribute("textContent")
        keep_screenshot(page)
        last = page.find_elements(By.CSS_SELECTOR, ".said")[1]
        page.execute_script("show(arguments[0], '<think> dog <b></think>red')", last)
        thought, answer = last.find_elements(By.TAG_NAME, "span")
        assert (thought.text.strip(), thought.get_attribute("class")) == ("dog <b>", "thought")
        assert (answer.text, answer.get_attribute("class")) == ("red", "")
        page.find_element(By.ID, "words").send_keys("Again.\n")
        page.find_element(By.ID, "stop").click()
        wait.until(lambda _: body.get_attribute("data-replies") == "2")
        assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        page.quit()


def test_the_page_talks_inside_a_notebook_s_cell(model, tmp_path):
    class Notebook(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(shown[0]._repr_html_().encode())

        def log_message(self, *_):
            pass

    shown = []
    with (
        mock.patch("omni_lab.chat.notebook.display", shown.append),
        notebook.page(model, token="a&b", **HOW),
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Notebook) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser()
        try:
            page.get(f"http://localhost:{server.server_port}/")
            page.switch_to.frame(page.find_element(By.TAG_NAME, "iframe"))
            body = page.find_element(By.TAG_NAME, "body")
            WebDriverWait(page, 60).until(lambda _: body.get_attribute("data-ready") == "yes")
            assert page.execute_script("return document.featurePolicy.allowsFeature('microphone')")
            page.find_element(By.ID, "words").send_keys("Hello.\n")
            WebDriverWait(page, 60).until(lambda _: body.get_attribute("data-replies") == "1")
        finally:
            page.quit()
            server.shutdown()


def keep_screenshot(page):
    """Look at what is drawn: not one colour; kept where OMNI_LAB_SCREENSHOTS says."""
    data = page.get_screenshot_as_png()
    assert len(np.unique(np.asarray(Image.open(io.BytesIO(data)).convert("L")))) > 20
    if folder := os.environ.get("OMNI_LAB_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "chat.png").write_bytes(data)
