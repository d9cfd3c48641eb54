"""What do the pages look like? Takes pictures of all of them in headless Chromium, wide and narrow, light and dark.

    python -m tests.benchmarks.screenshots --workspace runs/demo [--experiment FILE] [--folder screenshots]

The workspace holds a finished run (`make pipeline`). The pictures are `<page>-<width>-<scheme>.png`: the report of the
youngest evaluation, a page of mixtures (`make listen`), MLflow's page of runs and the report in its artifact pane, and
`flowse demo` with the example recording enhanced. Beside them, a line says what is cut or too faint, if anything is.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.tracking import runs_page
from pipelines.engine.workspace import open_stage, output_folders
from tests.browser import chromium, low_contrasts, upload

ROOT = Path(__file__).parents[2]
SIZES = ((1280, 900), (390, 844))
SCHEMES = ("light", "dark")


@contextmanager
def served(words: list[str], port: int) -> Iterator[str]:
    """Run a server of this program until its page answers; yield its address."""
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *words, "--port", str(port)]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=10).close()
                break
            except OSError:
                if server.poll() is not None:
                    sys.exit(f"{' '.join(words)} ended with code {server.returncode}")
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, 15)  # MLflow's server has workers of its own
        server.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def take(folder: Path, name: str, address: str, ready: Callable[[Any], Any], whole: bool = True) -> None:
    """Take the pictures of a page.

    Args:
        folder: Where the pictures go.
        name: Of the page.
        address: Of the page.
        ready: Called with the open page; returns when it shows what the picture should show.
        whole: The whole page, and not only what fits into the window.
    """
    for width, height in SIZES:
        for scheme in SCHEMES:
            with chromium() as browser:  # of its own: a page is not to find what another one has left
                tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                tab.set_default_timeout(120_000)
                if name.startswith("mlflow"):  # it keeps a choice of its own of light or dark
                    dark = str(scheme == "dark").lower()
                    tab.add_init_script(f"localStorage.setItem('_mlflow_dark_mode_toggle_enabled', '{dark}')")
                tab.goto(address, wait_until="domcontentloaded")
                ready(tab)
                tab.wait_for_timeout(500)
                picture = folder / f"{name}-{width}-{scheme}.png"
                tab.screenshot(path=str(picture), full_page=whole)
                too_wide = tab.evaluate("document.documentElement.scrollWidth") - width
                faint = low_contrasts(tab, "main *", 4.5) if address.startswith("file:") else []
                print(f"{picture.name}: {max(0, too_wide)} px cut, {len(faint)} texts below a contrast of 4.5", *faint)


def enhance_the_example(tab: Any) -> None:
    """Upload the example recording to the page of `flowse demo` and wait for what it becomes."""
    upload(tab, ROOT / "docs" / "example" / "noisy.wav")
    tab.get_by_role("button", name="Enhance", exact=True).click()
    tab.locator("img[src*='/file=']").nth(1).wait_for()


def report_of(workspace: Path) -> tuple[Path, str | None]:
    """Return the report of the youngest finished evaluation, and its MLflow run."""
    for folder in reversed(output_folders(workspace, "evaluate")):
        if (finished := open_stage(folder)) is not None:
            return finished.file("report.html"), finished.record.mlflow_run
    sys.exit(f"{workspace} holds no finished evaluation; make pipeline first")


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True, help="a workspace with a finished run")
    parser.add_argument("--experiment", type=Path, default=ROOT / "configs/experiment/demo.yaml", help="what made it")
    parser.add_argument(
        "--folder", type=Path, default=Path("screenshots"), help="of the pictures (default: %(default)s)"
    )
    parser.add_argument("--only", nargs="*", default=("report", "listen", "mlflow", "demo"), help="these pages alone")
    arguments = parser.parse_args()
    workspace, folder = arguments.workspace.resolve(), arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    where = ["--workspace", str(workspace), "--experiment", str(arguments.experiment.resolve())]
    report, run = report_of(workspace)
    try:
        if "report" in arguments.only:
            take(folder, "report", report.as_uri(), lambda tab: tab.locator("#list").wait_for())
        if "listen" in arguments.only:
            page = folder / "listen.html"
            words = [sys.executable, "-m", "pipelines", "listen", *where, "--count", "6", "--output", str(page)]
            subprocess.run(words, cwd=ROOT, check=True)
            take(folder, "listen", page.as_uri(), lambda tab: tab.locator("#list").wait_for())
        if "mlflow" in arguments.only:
            with served(["-m", "pipelines", "ui", *where], free_port()) as address:
                runs = experiment_page(address, run)
                take(folder, "mlflow", runs, lambda tab: tab.locator("a[href*='runs/']").first.wait_for(), False)
                if run:
                    pane = f"{runs.partition('?')[0]}/{run}/artifacts/report.html?workflowType=machine_learning"
                    frame = "iframe.mlflow-html-iframe"
                    take(folder, "mlflow-report", pane, lambda tab: tab.locator(frame).wait_for(), False)
        if "demo" in arguments.only:
            with served(["-m", "flowse", "demo", "--no-browser"], free_port()) as address:
                take(folder, "demo", address, enhance_the_example)
    except pytest.skip.Exception as skipped:
        sys.exit(f"no pictures: {skipped.msg}")


def experiment_page(address: str, run: str | None) -> str:
    """Return the address of MLflow's page of the runs of the experiment that a run is in, as `make ui` opens it."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_run(run).info.experiment_id if run else "1"
    return runs_page(address, address, client.get_experiment(experiment).name)


if __name__ == "__main__":
    main()
