"""Runs pages where only the libraries of a browser can be imported; a script for tests/test_lite.py.

    python without_torch.py LIBRARY,... PAGE ...    imports the module that each page exports, and runs its cells

As in a browser, there is no PyTorch, no SQLite, and neither threads nor other processes.
"""
import json
import re
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def plain(name: str) -> str:
    "The name of a distribution as it is compared."
    return re.sub(r'[-_.]+', '-', name).lower()


def with_requirements(names: list[str]) -> set[str]:
    "Distributions, and all that they require."
    found, waiting = set(), [*names]
    while waiting:
        name = plain(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            needed = requires(name) or []
        except PackageNotFoundError:  # required elsewhere, such as on Windows
            continue
        waiting += [re.match(r'[\w.-]+', need)[0] for need in needed if 'extra ==' not in need]
    return found - {'psutil'}  # IPython does without in a browser


class Finder:
    "Finds modules as PathFinder does, but none of other distributions."
    def __init__(self, libraries: list[str]):
        there = with_requirements(libraries) | {'rlgen'}
        self.hidden = {'sqlite3', '_sqlite3', *(module for module, owners in packages_distributions().items()
                                                if not there & {*map(plain, owners)})}

    def find_distributions(self, *context):
        return PathFinder.find_distributions(*context)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition('.')[0] in self.hidden else PathFinder.find_spec(name, path, target)


def refuse(*args, **options):
    raise RuntimeError('There are no threads and no processes.')


def cells_of(page: Path) -> list[str]:
    "The code cells that a reader runs."
    cells = [''.join(cell['source']) for cell in json.loads(page.read_text(encoding='utf-8'))['cells']
             if cell['cell_type'] == 'code']
    return [cell for cell in cells if not re.search(r'^#\| *(slow|gpu|default_exp)|nbdev_export', cell, re.MULTILINE)]


def main(libraries: str, *pages: str) -> int:
    "Run pages."
    sys.path.insert(0, str(ROOT))
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Finder(libraries.split(','))]
    import subprocess
    import threading
    from importlib import import_module

    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell.instance()
    shell.enable_gui = lambda gui=None: None  # as a kernel's
    threading.Thread.start = subprocess.Popen.__init__ = refuse
    for page in pages:
        shell.reset()
        exported = re.search(r'#\| default_exp ([\w.]+)', (ROOT/'nbs'/page).read_text(encoding='utf-8'))
        if exported:
            import_module(f'rlgen.{exported[1]}')
        for cell in cells_of(ROOT/'nbs'/page):
            if not shell.run_cell(cell).success:
                print(f'{page} cannot run without PyTorch. This cell stopped:\n\n{cell}', file=sys.stderr)
                return 1
        print('ran', page)
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
