"""The page in a real browser: a question is typed, a reply's text and sound arrive, it can be stopped."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

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


def keep_screenshot(page):
    """Look at what is drawn: not one colour; kept where OMNI_LAB_SCREENSHOTS says."""
    data = page.get_screenshot_as_png()
    assert len(np.unique(np.asarray(Image.open(io.BytesIO(data)).convert("L")))) > 20
    if folder := os.environ.get("OMNI_LAB_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "chat.png").write_bytes(data)
