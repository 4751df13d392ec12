"""Makes the site on which lessons run in a browser, with JupyterLite: nothing to install, no PyTorch, recorded images.

    python tools/lite.py FOLDER    such as _docs/lite, after nbdev-docs

tests/test_lite.py runs these lessons with the libraries below alone. The package is installed without its requirements
and without its models. Python in WebAssembly and the libraries are loaded by the reader's browser, from the hosts that
JupyterLite names.
Needs `pip install jupyterlite-core jupyterlite-pyodide-kernel`.
"""
import json
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rlgen._site import IN_BROWSER, without_number

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ('fastcore', 'gymnasium', 'ipywidgets', 'lazy-loader', 'matplotlib', 'nltk', 'numpy', 'pandas', 'pillow',
             'scipy', 'tqdm')
INSTALL = f'%pip install -q --no-deps rlgen\n%pip install -q {" ".join(LIBRARIES)}'


def lessons() -> list[str]:
    "The pages that run in a browser, with their numbers, in order."
    paths = [page.relative_to(ROOT/'nbs').as_posix() for page in (ROOT/'nbs').glob('*/*.ipynb')]
    found = {without_number(path): path for path in paths}
    return [found[page] for page in IN_BROWSER]


def wheel(folder: Path) -> None:
    "Build the package without its models into `folder`."
    with tempfile.TemporaryDirectory() as copy:
        for name in ('pyproject.toml', 'settings.ini', 'setup.py', 'README.md', 'LICENSE'):
            shutil.copy(ROOT/name, copy)
        shutil.copytree(ROOT/'rlgen', Path(copy)/'rlgen', ignore=shutil.ignore_patterns('weights', '__pycache__'))
        subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', folder, copy], check=True)


def for_browser(notebook: dict, page: str, pages: list[str]) -> dict:
    "A lesson that installs what it needs, with the kernel that is there and links to lessons that are."
    def link(match):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[2].partition('#')[0]))
        return match[0] if path in pages else match[1]
    cells = [cell for cell in notebook['cells'] if 'nbdev_export' not in ''.join(cell['source'])]
    for cell in cells:
        if cell['cell_type'] == 'markdown':
            cell['source'] = re.sub(r'\[([^][]*)\]\(((?![a-z]+:|#)[^)\s]+)\)', link, ''.join(cell['source']))
    first = {'cell_type': 'code', 'id': 'install', 'metadata': {}, 'execution_count': None, 'outputs': [],
             'source': INSTALL}
    kernel = {'name': 'python', 'display_name': 'Python (Pyodide)', 'language': 'python'}
    return {**notebook, 'cells': [first, *cells], 'metadata': {**notebook['metadata'], 'kernelspec': kernel}}


def main(out: str) -> int:
    "Make the site."
    with tempfile.TemporaryDirectory() as folder:
        lite, pages = Path(folder), lessons()
        (lite/'pypi').mkdir()
        wheel(lite/'pypi')
        for page in pages:
            notebook = json.loads((ROOT/'nbs'/page).read_text(encoding='utf-8'))
            target = lite/'files'/page
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(for_browser(notebook, page, pages), indent=1), encoding='utf-8')
        command = [sys.executable, '-m', 'jupyterlite_core', 'build', '--lite-dir', lite, '--contents', lite/'files',
                   '--output-dir', Path(out).resolve()]
        subprocess.run(command, cwd=lite, check=True)
    print(f'{len(pages)} lessons in {out}')
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
