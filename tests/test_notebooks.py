"""The notebooks: clean, in step with rlgen/ and README.md, runnable from top to bottom, fit to be read as they are.

What nbdev would change is found out on a copy; no test changes a file of the working tree.
"""
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from forks import Process

from rlgen._site import IN_BROWSER, without_number

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
NOTEBOOKS = sorted(
    path.relative_to(NBS).as_posix() for path in NBS.rglob('*.ipynb')
    if not any(part[0] in '._' for part in path.relative_to(NBS).parts))

# An absolute path of somebody's machine.
# Nothing that belongs to a relative path or to a host's name may stand before it.
ABSOLUTE = re.compile(r'(?<![\w.~-])/(?:home|root|tmp|work|Users|private|var/folders)/|[A-Za-z]:\\+Users')


def run_nbdev(
    project: Path,  # folder to work in
    command: str,   # name of the command, such as nbdev-export
) -> subprocess.CompletedProcess:
    "Runs one of nbdev's commands in `project`, with `rlgen` imported from the working tree."
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'IPYTHONDIR': str(project/'.ipython')}
    return subprocess.run([Path(sys.executable).with_name(command)], cwd=project, env=env,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)


def copy_project(
    target: Path,             # folder to copy into
    only: str | None = None,  # the one notebook to copy (default: all)
) -> Path:                    # `target`
    "Copies what nbdev needs of the project: its settings, and nbs/."
    for name in ('pyproject.toml', 'settings.ini'):
        shutil.copy(ROOT/name, target)
    skip = ['.*', '_proc', '_docs'] + (['*.ipynb'] if only else [])
    shutil.copytree(NBS, target/'nbs', symlinks=True, ignore=shutil.ignore_patterns(*skip))
    if only:
        shutil.copy(NBS/only, target/'nbs'/only)
    return target


def stored_text(notebook: dict) -> str:
    "All text in the stored outputs of a notebook, pictures left out."
    outputs = [output for cell in notebook['cells'] for output in cell.get('outputs', [])]
    texts = [output['text'] for output in outputs if 'text' in output]
    texts += [value for output in outputs for mime, value in output.get('data', {}).items()
              if not mime.startswith('image/') or mime == 'image/svg+xml']
    return '\n'.join(''.join(text) if isinstance(text, list) else json.dumps(text) for text in texts)


def python_files(folder: Path) -> dict[str, str]:
    "The text of every Python file below `folder`, by relative path."
    return {path.relative_to(folder).as_posix(): path.read_text(encoding='utf-8') for path in folder.rglob('*.py')}


def test_notebooks_are_clean(tmp_path):
    copy_project(tmp_path)
    result = run_nbdev(tmp_path, 'nbdev-clean')
    assert result.returncode == 0, result.stderr
    unclean = [name for name in NOTEBOOKS if (NBS/name).read_bytes() != (tmp_path/'nbs'/name).read_bytes()]
    assert not unclean, f'run nbdev-clean: {unclean}'


def test_exported_code_is_in_step(tmp_path):
    copy_project(tmp_path)
    # Exporting leaves an existing __init__.py alone, so those written by hand are given; all else must come out anew.
    for init in (ROOT/'rlgen').rglob('__init__.py'):
        target = tmp_path/'rlgen'/init.relative_to(ROOT/'rlgen')
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(init, target)
    result = run_nbdev(tmp_path, 'nbdev-export')
    assert result.returncode == 0, result.stderr
    exported, present = python_files(tmp_path/'rlgen'), python_files(ROOT/'rlgen')
    by_hand = {'_site.py'}  # how nbdev shows code on the site
    assert not present.keys() - exported.keys() - by_hand, 'modules that no notebook exports'
    assert not exported.keys() - present.keys(), 'run nbdev-export: modules are missing'
    differing = [name for name in exported if exported[name] != present[name]]
    assert not differing, f'run nbdev-export: {differing}'
    llms = [(root/'nbs'/'llms.txt').read_text(encoding='utf-8') for root in (tmp_path, ROOT)]
    assert llms[0] == llms[1], 'run nbdev-export: nbs/llms.txt'


def test_readme_is_in_step():
    readme = runpy.run_path(str(ROOT/'tools'/'readme.py'))['readme']
    assert (ROOT/'README.md').read_text(encoding='utf-8') == readme(NBS/'index.ipynb'), 'run tools/readme.py'


@pytest.fixture(scope='session')
def pictures(tmp_path_factory) -> str:
    "A store that the notebooks share which name it, so that none draws what another has drawn."
    folder = tmp_path_factory.getbasetemp()
    return str((folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder)/'pictures.sqlite')


def keep_images(pictures: str):
    """Shared generators take from a file what another notebook, such as a lesson with the same cells, has generated.
    Whoever asks them sees no difference: each counts what is new to itself.
    """
    from rlgen.models import loading
    from rlgen.models.generator import Cached
    from rlgen.store import Store
    load = loading._generator

    def kept(changed, **options):
        generator = load(changed, **options)
        if 'generate' not in vars(generator):
            parts = {name: getattr(generator, name) for name in ('settings', 'negative', 'batch_size', 'generate')}
            vars(generator)['generate'] = Cached(SimpleNamespace(**parts), Store(pictures)).generate
        return generator
    loading._generator = kept


def run_notebook(name: str, pictures: str):
    "What the command nbdev-test does, in this process, with `rlgen` imported from the working tree."
    os.environ.update(PYTHONPATH=str(ROOT), IPYTHONDIR=str(Path('.ipython').resolve()), RLGEN_STORE=pictures)
    sys.path.insert(0, str(ROOT))
    from nbdev.test import nbdev_test
    keep_images(pictures)
    nbdev_test(f'nbs/{name}')


# The others run without PyTorch, in test_lite.py.
@pytest.mark.parametrize('name', [name for name in NOTEBOOKS if without_number(name) not in IN_BROWSER])
def test_notebook_runs_from_top_to_bottom(name, tmp_path, pictures):
    project = copy_project(tmp_path, only=name)
    status, out, err = Process(run_notebook, name, pictures, folder=project).wait()
    assert status == 0 and 'Success.' in out + err, (out + err)[-5000:]


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_notebook_is_fit_to_be_read(name):
    assert (NBS/name).stat().st_size < 3_000_000
    notebook = json.loads((NBS/name).read_text(encoding='utf-8'))
    assert notebook['metadata'].get('kernelspec', {}).get('name') == 'python3', (
        'every Jupyter has a kernel of that name'
    )
    assert 'jupytext' not in notebook['metadata']
    errors = [output for cell in notebook['cells'] for output in cell.get('outputs', [])
              if output['output_type'] == 'error']
    assert not errors
    found = ABSOLUTE.search(stored_text(notebook))
    assert not found, f'a stored output holds an absolute path: {found}'


@pytest.mark.parametrize('text, bad', [
    ('saved to /''home/ann/runs', True), ("PosixPath('/""tmp/x/run')", True), ('file:///''Users/ann/a.png', True),
    ('C:\\''Users\\ann', True), ('nbs/tmp/run', False), ('../work/x', False), ('https://example.org/home/x', False)])
def test_absolute_paths_are_recognised(text, bad):
    assert bool(ABSOLUTE.search(text)) == bad


def test_every_lesson_is_listed():
    """The front page names every notebook but the solutions, which their lessons name, and none that does not exist;
    test_site.py says so of the sidebar."""
    front = ''.join(
        ''.join(cell['source']) for cell in json.loads((NBS / 'index.ipynb').read_text(encoding="utf-8"))['cells']
    )
    solutions = {name for name in NOTEBOOKS if '/solutions/' in name}
    assert set(re.findall(r'\]\(([\w/]+\.ipynb)\)', front)) == set(NOTEBOOKS) - solutions - {'index.ipynb'}
    for name in solutions:
        track, _, file = name.split('/')
        lesson = json.loads((NBS / track / file).read_text(encoding='utf-8'))
        assert f'](solutions/{file})' in ''.join(''.join(cell['source']) for cell in lesson['cells']), name


def test_importing_the_package_is_light():
    heavy = ['torch', 'torchvision', 'diffusers', 'transformers', 'open_clip', 'gymnasium', 'nltk', 'scipy',
             'matplotlib', 'ipywidgets']
    code = f'import sys, rlgen; print(rlgen.__file__, [name for name in {heavy} if name in sys.modules])'
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == f'{ROOT/"rlgen"/"__init__.py"} []', result.stderr
