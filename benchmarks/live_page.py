"""Speed of the page that `alphabar export bundled --to page.html` writes, in headless Chromium on this machine.

    python benchmarks/live_page.py --opens 7     # a minute on a quiet machine

Every time a new browser opens the page, waits until all cores draw, and draws 16 images three times. Prints medians over the
openings: seconds from opening to the first image of 5 network calls, images of 5 calls a second, and the processor time of both.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from alphabar.core.machine import machine
from alphabar.report.live_page import write_live
from alphabar.training.checkpoint import load_model

ROUNDS, IMAGES = 3, 16
IDLE = "alphabarLive.state.queue.length === 0 && alphabarLive.state.workers.every((w) => w.loaded && !w.busy)"


def processor_seconds() -> float:
    """Processor time of the processes that this one started, and of theirs (Linux)."""
    parent: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parent[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ours(process: int) -> bool:
        while process in parent and process != os.getpid():
            process = parent[process]
        return process == os.getpid()

    return sum(spent for process, spent in seconds.items() if process != os.getpid() and ours(process))


def wait_until_idle(tab: Any) -> None:
    while not tab.evaluate(IDLE):  # the policy of the page forbids wait_for_function
        tab.wait_for_timeout(20)


def opened(playwright: Any, page: Path, chromium: str) -> dict[str, float]:
    """What one opening of the page measures."""
    before = processor_seconds()
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"])
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("[data-first]")
    first = processor_seconds() - before
    tab.wait_for_selector("[data-ready]")
    rates = []
    for round_ in range(ROUNDS + 1):  # the first one warms the other cores up
        wait_until_idle(tab)
        before = processor_seconds() if round_ == 1 else before
        tab.locator("#more").click()
        tab.wait_for_selector("#tiles[aria-busy=false]")
        rates.append(float(tab.evaluate("document.documentElement.dataset.rate")))
    wait_until_idle(tab)
    found = {
        "first_image_s": int(tab.evaluate("document.documentElement.dataset.first")) / 1000,
        "first_image_cpu_s": first,
        "images_per_s": statistics.median(rates[1:]),
        "image_cpu_s": (processor_seconds() - before) / ROUNDS / (IMAGES + 1),  # with the one between two images
    }
    browser.close()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opens", type=int, default=7)
    parser.add_argument("--run", default="bundled", help="a run, as for alphabar export")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page, _ = write_live(load_model(args.run), Path(folder) / "page.html", "Speed")
        rows = [opened(playwright, page, args.chromium) for _ in range(args.opens)]
        print(json.dumps({"machine": machine(), "load": os.getloadavg(), "MB": page.stat().st_size / 1e6, "rows": rows}))
    for name in rows[0]:
        values = sorted(row[name] for row in rows)
        print(f"{name}: median {statistics.median(values):.3g} ({values[0]:.3g} to {values[-1]:.3g}), {len(values)} openings")
