"""Drive the explorers of labs in a real JupyterLab: `python -m tests.browser.explorers 05 07 --out build/explorers`.

Each lab runs at smoke scale in a kernel that JupyterLab started; then one control of each explorer is moved in headless
Chromium, and the picture must change. A screenshot of each explorer is kept. Where a lab asks for one's voice, a
microphone that beeps is recorded, and must be heard. No test of `make test`, which does without
JupyterLab: `make browser-all` runs it over all labs.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from omni_lab.lab import build
from tests.chat.test_browser import browser

ROOT = Path(__file__).parents[2]
PATIENCE = 900  # s that all cells of a lab may take on a busy machine
SETTINGS = {"@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"}}  # all cells drawn
NOTEBOOK = "const cells = window.jupyterapp.shell.currentWidget.content.widgets;"
# Code cells still to run, and errors shown.
STATE = f"""{NOTEBOOK}
const code = cells.filter(c => c.model.type === 'code');
const left = code.filter(c => c.model.executionState === 'running' || c.model.executionCount === null).length;
const failed = code.flatMap(c => c.model.outputs.toJSON()).filter(o => o.output_type === 'error');
return [left, failed.map(o => o.ename + ': ' + o.evalue)];
"""
# An explorer is a box of controls with a picture beneath them. Asked for anew each time: outputs are replaced.
EXPLORERS = f"{NOTEBOOK} return [...cells.keys()].filter(i => cells[i].node.querySelector('.widget-vbox img'));"
RECORDER = "button[id^=omni-lab-recorder]"
BEEPS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a microphone, and leave to use it
BOX = f"{NOTEBOOK} const box = cells[arguments[0]].node.querySelector('.widget-vbox');"


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A JupyterLab over `folder`, where somebody is at the controls: its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, content in SETTINGS.items():
        path = folder / "settings" / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    told = {"OMNI_LAB_SCALE": "smoke", "PYTHONPATH": str(ROOT), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    environment = {k: v for k, v in os.environ.items() if k != "OMNI_LAB_HEADLESS"} | told
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        f"--notebook-dir={folder}",
        "--IdentityProvider.token=", "--expose-app-in-browser", "--LabApp.news_url=None",
    ]  # fmt: skip
    with open(folder / "jupyterlab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            if server.poll() is not None:
                raise RuntimeError(f"JupyterLab ended: {(folder / 'jupyterlab.log').read_text()[-500:]}")
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(300)  # it ends its kernels first


def run_all(page: WebDriver, address: str, name: str) -> None:
    """Open a notebook and run all its cells; raises AssertionError for a cell that fails."""
    page.get(f"{address}/lab/tree/{name}?reset")
    wait = WebDriverWait(page, PATIENCE, 1)
    wait.until(lambda p: p.find_elements(By.CSS_SELECTOR, ".jp-NotebookPanel .jp-CodeCell"))
    idle = "return window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    wait.until(lambda p: p.execute_script(idle))
    page.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    wait.until(lambda p: p.execute_script(STATE)[0] == 0 or p.execute_script(STATE)[1])
    failed = page.execute_script(STATE)[1]
    assert not failed, f"{name}: {failed[0]}"
    wait.until(lambda p: p.execute_script(idle))


def move(page: WebDriver, cell: int) -> tuple[str, bytes]:
    """Move the first slider of the explorer in a cell, or choose another option; its name, and a screenshot.

    The picture must change."""
    box: WebElement = page.execute_script(f"{BOX} box.scrollIntoView({{block: 'center'}}); return box", cell)
    source = f"{BOX} return box.querySelector('img')?.src"
    before = page.execute_script(source, cell)
    handles = box.find_elements(By.CSS_SELECTOR, ".noUi-handle")
    if handles:
        control = handles[0].find_element(By.XPATH, "ancestor::*[contains(@class, 'widget-slider')]")
        top = float(handles[0].get_attribute("aria-valuenow")) >= float(handles[0].get_attribute("aria-valuemax"))
        handles[0].send_keys(Keys.ARROW_LEFT if top else Keys.ARROW_RIGHT)
    else:
        control = box.find_element(By.CSS_SELECTOR, ".widget-dropdown")
        Select(control.find_element(By.TAG_NAME, "select")).select_by_index(1)
    label = control.find_element(By.CSS_SELECTOR, ".widget-label").text
    wait = WebDriverWait(page, 120, 0.5)
    wait.until(lambda p: p.execute_script(source, cell) not in (None, before), f"{label!r}: no new picture")
    return label, page.execute_script(f"{BOX} return box", cell).screenshot_as_png


def record(page: WebDriver) -> bytes:
    """Record two seconds of the beeping microphone; a player with them must appear beneath. A screenshot."""
    button = page.find_element(By.CSS_SELECTOR, RECORDER)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    cell = button.find_element(By.XPATH, "ancestor::*[contains(@class, 'jp-CodeCell')]")
    button.click()
    wait = WebDriverWait(page, 120, 0.5)
    wait.until(lambda _: button.text == "Stop", "the recorder does not start")
    time.sleep(2)
    button.click()
    wait.until(lambda _: cell.find_elements(By.CSS_SELECTOR, ".widget-vbox audio"), "the recording was not heard")
    return cell.screenshot_as_png


def drive(labs: list[str], out: Path) -> int:
    """Every explorer of the labs; returns how many were moved."""
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = build.lab_sources(ROOT, labs)
        for source in sources:
            build.write_notebook(folder / f"{source.stem}.ipynb", build.notebook(source, solved=True))
        with jupyterlab(folder) as address:
            page = browser(*BEEPS)
            page.set_window_size(1100, 1000)
            try:
                for source in sources:
                    run_all(page, address, f"{source.stem}.ipynb")
                    found = page.execute_script(EXPLORERS)
                    assert found, f"{source.stem}: no explorer in sight"
                    for number, cell in enumerate(found, 1):
                        moved, picture = move(page, cell)
                        (out / f"{source.stem}_{number}.png").write_bytes(picture)
                        print(f"{source.stem}: explorer {number} of {len(found)}, moved {moved!r}", flush=True)
                    count += len(found)
                    if page.find_elements(By.CSS_SELECTOR, RECORDER):
                        (out / f"{source.stem}_recorder.png").write_bytes(record(page))
                        print(f"{source.stem}: a voice was recorded", flush=True)
                    page.execute_script("window.jupyterapp.commands.execute('kernelmenu:shutdown')")
            finally:
                page.quit()
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labs", nargs="*", help="labs such as 05; none: all")
    parser.add_argument("--out", type=Path, default=Path("build/explorers"), help="folder for the screenshots")
    asked = parser.parse_args()
    print(f"{drive(asked.labs, asked.out)} explorers work")
