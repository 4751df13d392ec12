"""Makes the page on which agents learn in the browser, its still image, and the recording that the package ships.

    python tools/explorer.py            writes nbs/site/explorer.html, and explorer.webp beside it if there is Chromium
    python tools/explorer.py STORE      records the models that ship with the package anew before: recording.json

STORE is the file in which generated images are kept; 480 images take some minutes, and nothing if they are there.
"""
import json
import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from rlgen.envs.grid import default_goal
from rlgen.experiments.rldf import RLDFSettings, load_world
from rlgen.store import Store
from rlgen.widgets.explorer import table_page, world_table

ROOT = Path(__file__).resolve().parents[1]
SITE, RECORDING = ROOT/'nbs'/'site', ROOT/'rlgen'/'assets'/'recording.json'


def still(page: Path, image: Path) -> bool:
    "Save what the page shows after a few hundred steps; False where there is no Chromium or no Playwright."
    chromium = shutil.which('chromium')
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return False
    if chromium is None:
        return False
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        view = browser.new_page(viewport={'width': 1280, 'height': 850}, reduced_motion='reduce')
        view.goto(page.as_uri())
        view.wait_for_function('window.rlgen.app.runs')
        for _ in range(120):
            view.click('#step')
        shot = view.screenshot()
        browser.close()
    with Image.open(BytesIO(shot)) as shown:
        shown.convert('RGB').save(image, quality=80, method=6)
    return True


def record(store: str) -> None:
    "Write what the shipped models generate and perceive in each state."
    with Store(store) as images:
        world = load_world(RLDFSettings(), images)
        table = world_table(world, {'shipped image': default_goal()}, progress=True)
    RECORDING.write_text(json.dumps(table) + '\n', encoding='utf-8')


def main(store: str | None = None) -> int:
    "Write the files."
    if store:
        record(store)
    page = SITE/'explorer.html'
    page.write_text(table_page(json.loads(RECORDING.read_text(encoding='utf-8'))), encoding='utf-8')
    for made in (RECORDING, page):
        print(f'{made.name}: {made.stat().st_size / 1000:.0f} kB')
    image = SITE/'explorer.webp'
    shown = still(page, image)
    print(f'{image.name}: {image.stat().st_size / 1000:.0f} kB' if shown else 'No Chromium: no still image.')
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:2]))
