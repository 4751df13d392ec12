"""Lessons without PyTorch: they run with the libraries of a browser, on the recorded world."""
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from rlgen._site import IN_BROWSER, run_links
from rlgen.envs import grid
from rlgen.envs.grid import World, default_goal, default_world
from rlgen.grammar import Grammar
from rlgen.models.recording import Recording, load_recording
from rlgen.widgets.explorer import table_page

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT/'rlgen'/'assets'/'recording.json'
LITE = runpy.run_path(str(ROOT/'tools'/'lite.py'))
LESSONS = LITE['lessons']()


@pytest.mark.parametrize('page', LESSONS)
def test_lessons_run_without_torch(page):
    "In a process that finds no other library; its modules are imported there, too."
    command = [sys.executable, ROOT/'tests'/'without_torch.py', ','.join(LITE['LIBRARIES']), page]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.endswith(f'ran {page}\n'), result.stdout[-3000:] + result.stderr


@pytest.mark.parametrize('name, there', [
    ('numpy', True), ('scipy', True), ('ipywidgets', True), ('zipfile', True), ('torch', False), ('safetensors', False),
    ('sqlite3', False), ('transformers', False), ('sklearn', False)])
def test_only_the_libraries_of_a_browser_are_found(name, there):
    finder = runpy.run_path(str(ROOT/'tests'/'without_torch.py'))['Finder'](list(LITE['LIBRARIES']))
    assert (finder.find_spec(name) is not None) == there


def test_the_page_of_the_explorer_is_what_the_recording_makes():
    page = (ROOT/'nbs'/'site'/'explorer.html').read_text(encoding='utf-8')
    assert page == table_page(json.loads(TABLE.read_text(encoding='utf-8'))), 'run tools/explorer.py'
    assert TABLE.stat().st_size < 2_000_000


def test_the_recording_gives_what_was_recorded():
    recording = load_recording()
    world = World(recording.grammar, recording, recording)
    states = range(world.grammar.n_states)
    percepts = world.perceive(states)
    read = np.array([world.grammar.index(percept.encodings[0]) for percept in percepts])
    assert (read == np.arange(480)).mean() > .9  # perception errs now and then
    assert all(np.allclose([axis.sum() for axis in percept.probabilities], 1) for percept in percepts)
    assert np.allclose([np.linalg.norm(percept.embeddings) for percept in percepts], 1, atol=1e-5)
    assert world.images([7])[0].size == (64, 64) and 'Recording' in repr(recording)
    goal = world.read([default_goal()])
    assert world.grammar.decode(goal.encodings[0]) == 'a photo of one dog and many people in playground'


def test_what_is_not_in_the_recording_is_refused():
    recording = load_recording()
    prompt = recording.grammar.decode(recording.grammar.unindex(5))
    refused(lambda: recording.generate([prompt], [6]), 'not in the recording', 'world.images')
    refused(lambda: recording.generate([prompt], [5], 'blurred'), 'not in the recording')
    refused(lambda: recording.generate(['a dog'], [0]), "'a dog'")
    refused(lambda: recording.perceive([Image.new('RGB', (64, 64))], recording.grammar), 'Image 0')
    refused(lambda: recording.perceive([], Grammar.domains()), 'another grammar')
    refused(lambda: Recording(json.loads(TABLE.read_text()), recording.grammar), '481 images')


def test_without_torch_the_world_is_a_recording_and_says_so(monkeypatch):
    monkeypatch.setattr(grid, 'find_spec', lambda name: None)
    with pytest.warns(UserWarning, match='a recording of the models'):
        world = default_world()
    assert world.generator is load_recording()
    refused(lambda: default_world(inference_steps=5), 'inference_steps is 5')


def test_links_open_a_page_where_its_code_runs():
    page = 'start/01_one_decision.ipynb'
    assert run_links(page, browser=False) == run_links('start/05_from_noise_to_image.ipynb', browser=True) == ''
    assert '(../lite/notebooks/index.html?path=start/01_one_decision.ipynb)' in run_links(page, browser=True)
    colab = run_links('rldf/07_rldf.ipynb', True, 'https://github.com/ann/rlgen/', 'main')
    assert '(https://colab.research.google.com/github/ann/rlgen/blob/main/nbs/rldf/07_rldf.ipynb)' in colab
    assert 'pip install git+https://github.com/ann/rlgen' in colab and 'lite' not in colab
    assert run_links(page, False, 'https://gitlab.com/ann/rlgen') == ''


def test_lessons_for_the_browser_install_themselves():
    assert len(LESSONS) == len(IN_BROWSER)
    for page in LESSONS:
        notebook = json.loads((ROOT/'nbs'/page).read_text(encoding='utf-8'))
        made = LITE['for_browser'](notebook, page, LESSONS)
        cells = made['cells']
        assert made['metadata']['kernelspec']['name'] == 'python'  # of Pyodide; another one opens a dialog
        assert cells[0]['source'].startswith('%pip install -q --no-deps rlgen\n')
        assert not any('nbdev_export' in ''.join(cell['source']) for cell in cells)
        text = '\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown')
        for link in re.findall(r'\]\((?![a-z]+:|#)([\w./]+\.\w+)', text):
            assert (ROOT/'nbs'/page).parent.joinpath(link).resolve().relative_to(ROOT/'nbs').as_posix() in LESSONS
