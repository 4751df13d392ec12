"""JupyterLab and Notebook 7 in headless Chromium, for tests of what a reader sees and does (a plugin of conftest.py).

`lab` is for a module; the server behind it is for the process. Without Chromium, Playwright or JupyterLab the tests
are skipped. Copies of notebooks are opened, never those of nbs/. Nothing outside this machine is reached: a request
to another host is refused, and is an error of the notebook.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
QUIET = (  # what browsers and servers say by themselves
    'AudioContext', 'favicon', 'ResizeObserver loop', 'GPU stall due to ReadPixels', 'net::ERR_ABORTED',
    "(reading 'schema')", "Command 'filebrowser:open-path'")  # Notebook 7.6 without any notebook of ours
NOTEBOOK = """() => {
    for (const widget of window.jupyterapp?.shell?.widgets('main') ?? [])
        if (widget.content?.widgets && widget.sessionContext) return widget;
}"""


def chromium() -> str | None:
    "Where the system's Chromium is."
    return shutil.which('chromium') or shutil.which('google-chrome') or shutil.which('chrome')


class Notebook:
    "A notebook in a browser; a cell is counted from 0 among those of the notebook, or is named by words of its source."

    def __init__(self, page: Any, source: nbformat.NotebookNode):
        self.page, self.source = page, source
        self.messages: list[str] = []  # of the browser: errors of the console, of scripts, and requests to other hosts
        page.on('console', lambda message: message.type == 'error' and self._heard(message.text))
        page.on('pageerror', lambda error: self._heard(str(error)))

    def _heard(self, text: str) -> None:
        if not any(word in text for word in QUIET):
            self.messages.append(text)

    def js(self, code: str, argument: Any = None) -> Any:
        "What a function of JavaScript returns that takes the notebook's widget and an argument; promises are awaited."
        return self.page.evaluate(f'(argument) => ({code})(({NOTEBOOK})(), argument)', argument)

    def command(self, name: str, **arguments: Any) -> Any:
        "Execute a command of JupyterLab, such as `apputils:change-theme`, and wait for its end."
        self.page.evaluate('([name, arguments]) => window.jupyterapp.commands.execute(name, arguments).then(() => {})',
                           [name, arguments])

    def index(self, cell: int | str) -> int:
        "The number of a cell. ValueError if none, or more than one, has these words."
        if isinstance(cell, int):
            return cell
        found = [i for i, other in enumerate(self.source.cells) if cell in other.source]
        if len(found) != 1:
            raise ValueError(f'{len(found)} cells have {cell!r}; give words that one has.')
        return found[0]

    def cell(self, cell: int | str) -> Any:
        "The locator of a cell."
        return self.page.locator('.jp-Notebook-cell').nth(self.index(cell))

    def output(self, cell: int | str) -> Any:
        "The locator of what is below a cell, such as its panel; the still that a saved notebook shows is left out."
        return self.cell(cell).locator('.jp-OutputArea-child:not(:has(.rlgen-still))')

    def run(self, cell: int | str | None = None, wait: bool = True) -> None:
        "Run all cells, or one; without `wait` do not wait for its end."
        code = """async (widget, [i, wait]) => {
            const commands = window.jupyterapp.commands;
            if (i !== null) widget.content.activeCellIndex = i;
            const done = commands.execute(i === null ? 'notebook:run-all-cells' : 'notebook:run-cell');
            if (wait) await done;
        }"""
        self.js(code, [None if cell is None else self.index(cell), wait])

    def idle(self, seconds: float = 60) -> None:
        "Wait until the kernel has answered all."
        self.python('None', seconds)

    def python(self, expression: str, seconds: float = 60) -> str:
        "The repr of an expression in the kernel, or the error; it waits until cells before it are done."
        code = """async (widget, [expression, seconds]) => {
            const kernel = widget.sessionContext.session.kernel;
            const future = kernel.requestExecute(
                {code: '', silent: true, store_history: false, user_expressions: {it: expression}});
            const late = new Promise(resolve => setTimeout(() => resolve(null), 1000 * seconds));
            const reply = await Promise.race([future.done, late]);
            if (!reply) return 'the kernel does not answer';
            const it = reply.content.user_expressions.it;
            return it.status === 'ok' ? it.data['text/plain'] : `${it.ename}: ${it.evalue}`;
        }"""
        return self.js(code, [expression, seconds])

    def status(self) -> str:
        "Of the kernel: idle, busy, ..."
        return self.js('widget => widget.sessionContext.session.kernel.status')

    def interrupt(self) -> None:
        "Interrupt the kernel."
        self.js('widget => widget.sessionContext.session.kernel.interrupt()')

    def restart(self) -> None:
        "Restart the kernel; outputs stay."
        self.js('widget => widget.sessionContext.restartKernel()')

    def save(self) -> nbformat.NotebookNode:
        "Save it, and read what was saved."
        self.command('docmanager:save')
        path = self.js('widget => widget.context.path')
        return nbformat.read(self.folder/path, 4)

    def failures(self) -> list[str]:
        "Errors so far: of the browser, and of the kernel in the cells."
        return self.messages + self.kernel_failures()

    def kernel_failures(self) -> list[str]:
        "Errors, and what was written to standard error, in the cells."
        code = """widget => {
            const said = [];
            for (const cell of widget.content.widgets) for (const output of cell.model.outputs?.toJSON?.() ?? []) {
                if (output.output_type === 'error') said.push(`${output.ename}: ${output.evalue}`);
                if (output.output_type === 'stream' && output.name === 'stderr') said.push(output.text);
            }
            return said;
        }"""
        return [''.join(text) for text in self.js(code)]

    def close(self) -> None:
        "End the kernel, and close the page."
        self.js('async widget => { await widget.sessionContext.shutdown(); }')
        self.page.context.close()


class Lab:
    "A browser, and the server behind it."

    def __init__(self, browser: Any, address: str, token: str, folder: Path):
        self.browser, self.address, self.token, self.folder = browser, address, token, folder

    def open(
        self,
        name: str,                   # of the copy: a notebook of nbs/ such as "rldf/21_sliders", or a new name
        cells: Sequence[str] = (),   # code of a notebook of one's own, or cells that come after those that are kept
        keep: Callable[[nbformat.NotebookNode], bool] = lambda cell: True,  # which cells stay
        size: tuple[int, int] = (1280, 900),
        dark: bool = False,
        front: str = 'lab',          # or "notebook", Notebook 7
        kernel: bool = True,         # False: as it was saved, without one
    ) -> Notebook:
        "Open a copy of a notebook."
        path = NBS/f'{name}.ipynb'
        source = nbformat.read(path, 4) if path.exists() else nbformat.v4.new_notebook()
        source.cells = [cell for cell in source.cells if keep(cell)] + [nbformat.v4.new_code_cell(c) for c in cells]
        source.metadata.kernelspec = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
        copy = self.folder/f'{name}-{time.monotonic_ns()}.ipynb'
        copy.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(source, copy)
        return self.show(copy, source, size, dark, front, kernel)

    def show(
        self,
        copy: Path,                   # of a notebook, in the server's folder
        source: nbformat.NotebookNode,  # what is in it
        size: tuple[int, int] = (1280, 900), dark: bool = False, front: str = 'lab', kernel: bool = True,  # as above
    ) -> Notebook:
        "Show a notebook as it is on the disk."
        context = self.browser.new_context(viewport={'width': size[0], 'height': size[1]},
                                           color_scheme='dark' if dark else 'light')
        page = context.new_page()
        page.set_default_timeout(40_000)  # on a busy machine
        notebook = Notebook(page, source)
        notebook.folder = self.folder

        def refuse(route):
            notebook.messages.append(f'a request to another host: {route.request.url}')
            route.abort()
        context.route(re.compile(rf'^https?://(?!{re.escape(self.address.split("//")[1])}/)'), refuse)
        where = copy.relative_to(self.folder).as_posix()
        view = f'lab/workspaces/w{time.monotonic_ns()}/tree' if front == 'lab' else 'notebooks'
        page.goto(f'{self.address}/{view}/{where}?token={self.token}')
        page.wait_for_function(f'() => ({NOTEBOOK})()?.context.isReady && ({NOTEBOOK})().content.widgets.length')
        if kernel:
            notebook.js("""async widget => {
                await widget.sessionContext.ready;
                while (!widget.sessionContext.session?.kernel) await new Promise(resolve => setTimeout(resolve, 50));
                await widget.sessionContext.session.kernel.info;
            }""")
        if dark:
            notebook.command('apputils:change-theme', theme='JupyterLab Dark')
        return notebook


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='session')
def lab_server(tmp_path_factory) -> Iterator[tuple[str, str, Path]]:
    "JupyterLab (and Notebook 7, if it is installed) without a network: address, token, and the folder that it serves."
    pytest.importorskip('jupyterlab', reason='JupyterLab is not installed')
    pytest.importorskip('playwright.sync_api', reason='Playwright is not installed')
    if chromium() is None:
        pytest.skip('there is no Chromium on this machine')
    home = tmp_path_factory.mktemp('lab')
    shutil.copytree(NBS, home/'nbs', ignore=shutil.ignore_patterns('*.ipynb', '.*', '_*', 'site'))
    folders = {f'JUPYTER_{kind}_DIR': str(home/kind.lower()) for kind in ('CONFIG', 'DATA', 'RUNTIME')}
    folders |= {'JUPYTERLAB_SETTINGS_DIR': str(home/'settings'), 'JUPYTERLAB_WORKSPACES_DIR': str(home/'workspaces'),
                'IPYTHONDIR': str(home/'ipython'), 'MPLCONFIGDIR': str(home/'matplotlib'),
                'RLGEN_STORE': str(home/'store.sqlite'), 'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT/'tests')])}
    (home/'config'/'labconfig').mkdir(parents=True)
    page = {'disabledExtensions': {'@jupyterlab/apputils-extension:announcements': True}}  # news of jupyter.org
    (home/'config'/'labconfig'/'page_config.json').write_text(json.dumps(page))
    port, token = free_port(), 'tests'
    command = [sys.executable, '-m', 'jupyter', 'lab', '--no-browser', f'--ServerApp.root_dir={home/"nbs"}',
               f'--ServerApp.port={port}', '--ServerApp.port_retries=0', '--ServerApp.ip=127.0.0.1',
               f'--IdentityProvider.token={token}', '--allow-root', '--LabApp.extension_manager=readonly',
               '--LabApp.expose_app_in_browser=True', '--JupyterNotebookApp.expose_app_in_browser=True',
               '--LanguageServerManager.autodetect=False']
    with open(home/'log', 'wb') as log:
        server = subprocess.Popen(command, env=os.environ | folders, stdout=log, stderr=log, start_new_session=True)
    address, deadline = f'http://127.0.0.1:{port}', time.monotonic() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(f'{address}/api?token={token}', timeout=10).read()
                break
            except (urllib.error.URLError, OSError):
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f'JupyterLab does not start: {(home/"log").read_text()[-2000:]}')
                time.sleep(.1)
        yield address, token, home/'nbs'
    finally:
        server.send_signal(signal.SIGTERM)  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope='module')
def lab(lab_server) -> Iterator[Lab]:
    "JupyterLab in a browser. For a module: while Playwright runs, other tests of its process find an event loop."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=['--no-sandbox'])
        yield Lab(browser, *lab_server)
        browser.close()
