"""The project's own files: one place of metadata, commands that agree, no traces of a machine, weights fit to ship."""
import importlib
import json
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest
import setuptools
from test_notebooks import ABSOLUTE

import rlgen

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT/'rlgen'/'weights'
needs_weights = pytest.mark.skipif(not WEIGHTS.exists(), reason='the weights are not there yet')


@pytest.fixture
def config():
    "The metadata, as settings.ini states it."
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


def setup_arguments(monkeypatch, folder: Path) -> dict:
    "What setup.py in `folder` passes to setuptools."
    arguments = {}
    with monkeypatch.context() as patch:
        patch.setattr(setuptools, 'setup', lambda **kwargs: arguments.update(kwargs))
        runpy.run_path(str(folder/'setup.py'))
    return arguments


def project_files() -> list[Path]:
    "The files that git tracks, or would track."
    if not (ROOT/'.git').exists():
        pytest.skip('not a git checkout')
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split('\0')
    return [ROOT/name for name in listed if name and (ROOT/name).is_file()]


def test_setup_reads_settings(monkeypatch, tmp_path):
    for name in ('setup.py', 'README.md'):
        shutil.copy(ROOT/name, tmp_path)
    text = (ROOT/'settings.ini').read_text(encoding='utf-8')
    text = re.sub(r'^version = .*$', 'version = 9.8.7', text, flags=re.MULTILINE)
    text = text.replace('\nrequirements =\n', '\nrequirements =\n    made-up>=1\n')
    (tmp_path/'settings.ini').write_text(text, encoding='utf-8')
    arguments = setup_arguments(monkeypatch, tmp_path)
    assert arguments['version'] == '9.8.7'
    assert arguments['install_requires'][0] == 'made-up>=1'


def test_setup_sets_every_dynamic_field(monkeypatch):
    project = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert project.keys() == {'name', 'dynamic'}
    argument = {
        'authors': 'author', 'dependencies': 'install_requires', 'entry-points': 'entry_points',
        'license': 'license_expression', 'optional-dependencies': 'extras_require', 'readme': 'long_description',
        'requires-python': 'python_requires', 'scripts': 'entry_points'}
    arguments = setup_arguments(monkeypatch, ROOT)
    assert arguments['name'] == project['name']
    for field in project['dynamic']:
        assert arguments[argument.get(field, field)], field


def test_metadata_agree(config):
    assert rlgen.__version__ == config['version']
    assert f"\n## {config['version']}" in (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')
    assert f"\nversion: {config['version']}\n" in (ROOT/'CITATION.cff').read_text(encoding='utf-8')
    assert 'Apache License' in (ROOT/'LICENSE').read_text(encoding='utf-8')


def test_installed_metadata_agree(config):
    try:
        installed = metadata.distribution('rlgen')
    except metadata.PackageNotFoundError:
        pytest.skip('rlgen is not installed here')
    assert installed.version == config['version']
    scripts = {point.name: point.value for point in installed.entry_points if point.group == 'console_scripts'}
    assert scripts == {'rlgen': 'rlgen.cli:main'}
    assert {'dev', 'ray', 'remote'} <= set(installed.metadata.get_all('Provides-Extra'))


def test_commands_agree():
    "What the README tells a newcomer to run is what the checks run."
    commands = re.findall(r'^python3 -m venv .*$', (ROOT/'README.md').read_text(encoding='utf-8'), re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith('rlgen search') and commands[1].endswith('pytest')
    assert (ROOT/'.ci'/'run').read_text(encoding='utf-8').splitlines()[-1] == commands[1]
    assert (ROOT/'.ci'/'run').stat().st_mode & 0o111


def test_no_trace_of_a_machine():
    host = socket.gethostname().split('.')[0]
    # A host called "notebook" would be found everywhere; one with a number in its name is no ordinary word.
    name = re.compile(rf'\b{re.escape(host)}\b') if re.search(r'\d', host) and len(host) > 5 else None
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding='utf-8')
        except UnicodeDecodeError:
            continue
        if path.suffix == '.ipynb':  # stored pictures are base64, in which any short word turns up
            text = '\n'.join(''.join(cell['source']) for cell in json.loads(text)['cells'])
        found += [f'{path.relative_to(ROOT)}: {match[0]}' for pattern in (ABSOLUTE, name) if pattern
                  for match in pattern.finditer(text)]
    # The tests of the pattern itself hold examples of what it must find.
    assert [line for line in found if not line.startswith('tests/test_notebooks.py')] == []


def texts_with_paths() -> dict[str, str]:
    "What a reader or a user is told, by file: pages, cards, and the code with its messages and docstrings."
    files = [*ROOT.glob('*.md'), *(ROOT/'rlgen').rglob('*.md'), *(ROOT/'rlgen').rglob('*.py')]
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding='utf-8') for path in files}
    for path in (ROOT/'nbs').rglob('*.ipynb'):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        texts[str(path.relative_to(ROOT))] = '\n'.join(''.join(cell['source']) for cell in cells)
    return texts


def stands_for_something(path: str) -> bool:
    "Whether a dotted path is a module of the package, or a name in one."
    module, *names = path.split('.')
    found = importlib.import_module(module)
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError:
            try:
                found = importlib.import_module(f'{found.__name__}.{name}')
            except (ImportError, AttributeError):
                return False
    return True


def test_paths_in_texts_lead_somewhere():
    paths, pages = {}, {}
    for where, text in texts_with_paths().items():
        for path in re.findall(r'(?<![\w./"\'-])rlgen(?:\.[A-Za-z_]\w*)+', text):
            paths.setdefault(path, where)
        for page in re.findall(r'\bnbs/[\w/]+\.ipynb', text):
            pages.setdefault(page, where)
    assert len(paths) > 50 and len(pages) > 50
    assert {page: where for page, where in pages.items() if not (ROOT/page).is_file()} == {}
    assert {path: where for path, where in paths.items() if not stands_for_something(path)} == {}


def test_installing_copies_weights_and_assets(tmp_path):
    subprocess.run([sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', tmp_path], cwd=ROOT, check=True,
                   capture_output=True)
    wanted = {path.relative_to(ROOT) for folder in ('weights', 'assets')
              for path in (ROOT/'rlgen'/folder).rglob('*') if path.is_file()}
    assert {path for path in wanted if not (tmp_path/path).exists()} == set()
    assert (tmp_path/'rlgen'/'__init__.py').exists()


@needs_weights
def test_weights_are_small_and_safe():
    files = [path for path in WEIGHTS.rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 38_000_000
    unsafe = {'.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle', '.npy', '.npz', '.h5', '.onnx', '.msgpack', '.py'}
    assert [path.name for path in files if path.suffix in unsafe] == []


@needs_weights
def test_every_model_has_a_card_and_half_precision_weights():
    models = [path for path in WEIGHTS.iterdir() if path.is_dir()]
    assert models
    for model in models:
        assert (model/'README.md').stat().st_size > 200, f'{model.name} has no model card'
        weights = list(model.rglob('*.safetensors'))
        assert weights, f'{model.name} has no weights'
        for path in weights:
            with path.open('rb') as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), 'little')))
            kinds = {entry['dtype'] for name, entry in header.items() if name != '__metadata__'}
            assert not kinds & {'F32', 'F64'}, f'{path.relative_to(ROOT)} is not in half precision'
