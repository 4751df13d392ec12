"""The walkthroughs: their exercises, their widgets, and the pure functions below the widgets.

Most tests walk in a world whose generator is the renderer and whose perception knows what was drawn; one walks in the
world of the shipped models, and one presses the buttons of a real kernel, as a browser would.
"""
import ast
import asyncio
import datetime
import html
import io
import json
import re
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rlgen import exercises
from rlgen.agents.tabular import epsilon_greedy
from rlgen.envs.grid import World, default_world
from rlgen.experiments.rldf import RLDFSettings, search_once, search_steps
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.scenes import render
from rlgen.widgets import rldf as widgets
from rlgen.widgets.panels import GoalPicker, pause, perception_figure, png
from rlgen.widgets.rldf import (
    SearchPanel,
    film,
    first_visits,
    result_figures,
    search_figure,
    search_summary,
    unfold,
    visit_map,
)

NBS = Path(__file__).resolve().parents[1]/'nbs'
LESSONS = sorted(path.relative_to(NBS) for path in NBS.glob('*/*.ipynb'))
SMALL = '''
S -> "a photo of" Frequency Noun "and" Density "people in" Scene
Frequency -> "one" | "many"
Noun -> "dog" | "cat" | "elephant"
Density -> "no" | "one" | "many"
Scene -> "farm" | "beach" | "street"
'''
GOAL = 'a photo of one cat and many people in beach'
LONG = RLDFSettings(agent='random', seed=163, max_steps=100_000)  # a walk of 538 steps, whatever is paid on the way


class Drawn:
    "A generator and a perception in one: draws scenes, and knows what it drew; other pictures are read as state 0."
    def __init__(self):
        self.truth = {}

    negative, batch_size = "", 32
    def generate(self, prompts, seeds, negative=None):
        pictures = [render(prompt, seed)[0] for prompt, seed in zip(prompts, seeds, strict=True)]
        self.truth.update((picture.tobytes(), prompt) for picture, prompt in zip(pictures, prompts, strict=True))
        return pictures

    def perceive(self, pictures, grammar):
        prompts = [self.truth.get(picture.tobytes()) for picture in pictures]
        encodings = np.array([grammar.encode(prompt) if prompt else grammar.unindex(0) for prompt in prompts])
        probabilities = [np.eye(n)[encodings[:, axis]] for axis, n in enumerate(grammar.nvec)]
        return Percept(encodings, probabilities, np.ones((len(pictures), 1), np.float32))


class SlowWorld(World):
    "A world in which every step takes a while."
    def prompt(self, state):
        time.sleep(.02)
        return super().prompt(state)


def drawn_world(grammar=SMALL, kind=World):
    "A world, and a goal that its perception can read."
    drawn = Drawn()
    return kind(Grammar.from_string(grammar), drawn, drawn), drawn.generate([GOAL], [5])[0]


@pytest.fixture
def panel():
    return SearchPanel(*drawn_world(), RLDFSettings(max_steps=500))


@pytest.fixture
def trace():
    for trace in search_steps(*drawn_world(), RLDFSettings(max_steps=300)):
        pass
    return trace


def is_png(image):
    "Whether an image widget shows a picture that can be decoded."
    return image.layout.display != 'none' and Image.open(io.BytesIO(image.value)).format == 'PNG'


# Exercises

def functions(notebook):
    "The functions that the cells of a notebook define, by name: how each is written."
    cells = [
        ''.join(cell['source'])
        for cell in json.loads(notebook.read_text(encoding="utf-8"))['cells']
        if cell['cell_type'] == 'code'
    ]
    trees = [ast.parse(re.sub('^%.*', '', cell, flags=re.MULTILINE)) for cell in cells]  # without IPython's commands
    return {node.name: ast.unparse(node) for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def stubs(lesson):
    "The functions that a lesson leaves to its reader."
    return {name: text for name, text in functions(NBS/lesson).items()
            if name.startswith('my_') and 'NotImplementedError' in text}


def made(text, name):
    "A function from how it is written."
    scope = {'np': np}
    exec(text, scope)
    return scope[name]


EXERCISES = [
    pytest.param(lesson, name, id=f'{lesson.as_posix()}-{name}') for lesson in LESSONS for name in stubs(lesson)
]


def test_there_are_exercises():
    assert {exercise.values[1] for exercise in EXERCISES} >= {'my_epsilon_greedy', 'my_shaping'}


@pytest.mark.parametrize('lesson, name', EXERCISES)
def test_every_stub_fails_its_check(lesson, name, capsys):
    check = getattr(exercises, name.replace('my_', 'check_'))
    assert not check(made(stubs(lesson)[name], name))
    assert 'not written yet' in capsys.readouterr().out


@pytest.mark.parametrize('lesson, name', EXERCISES)
def test_every_solution_passes_its_check(lesson, name, capsys):
    check = getattr(exercises, name.replace('my_', 'check_'))
    solution = functions(NBS/lesson.parent/'solutions'/lesson.name)[name]
    assert check(made(solution, name))
    assert capsys.readouterr().out.startswith('Right')
    stub = ast.parse(stubs(lesson)[name]).body[0]
    assert ast.unparse(ast.parse(solution).body[0].args) == ast.unparse(stub.args)


@pytest.mark.parametrize('choose, hint', [
    (lambda q, epsilon, rng: epsilon_greedy([-x for x in q], epsilon, rng), 'best action'),
    (lambda q, epsilon, rng: len(q), 'whole number'),
    (lambda q, epsilon, rng: None, 'whole number'),
    (lambda q, epsilon, rng: -1, 'whole number'),
    (lambda q, epsilon, rng: int(np.argmax(q)) if rng.random() >= epsilon else int(rng.integers(len(q))), 'ties'),
    (lambda q, epsilon, rng: epsilon_greedy(q, 0, rng), 'every action must be equally likely'),
    (lambda q, epsilon, rng: epsilon_greedy(q, epsilon**2, rng), 'equal share of epsilon'),
    (lambda q, epsilon, rng: epsilon_greedy(q, epsilon, np.random.default_rng()), 'from rng'),
    (lambda q, epsilon: 0, 'TypeError')])
def test_wrong_choices_get_a_hint(choose, hint, capsys):
    assert not exercises.check_epsilon_greedy(choose)
    assert hint in capsys.readouterr().out


@pytest.mark.parametrize('shape, hint', [
    (lambda before, after, discount, over: discount * after - before, 'end of the episode'),
    (lambda before, after, discount, over: before - discount * after * (not over), 'sign'),
    (lambda before, after, discount, over: discount * (after * (not over) - before), 'discount'),
    (lambda before, after, discount, over: after, 'equation 2'),
    (lambda before, after, discount, over: float('nan'), 'nan'),
    (lambda before, after, discount, over: None, 'a number')])
def test_wrong_shapings_get_a_hint(shape, hint, capsys):
    assert not exercises.check_shaping(shape)
    assert hint in capsys.readouterr().out


@pytest.mark.parametrize('path', sorted(NBS.rglob('*.ipynb')), ids=lambda path: path.relative_to(NBS).as_posix())
def test_no_widget_is_stored(path):
    """A stored widget is an error message in a notebook without its kernel:
    cells that show one are tagged skip-execution.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert 'widgets' not in notebook['metadata'], 'run nbconvert with --ExecutePreprocessor.store_widget_state=False'
    kinds = {
        kind for cell in notebook['cells'] for output in cell.get('outputs', []) for kind in output.get('data', {})
    }
    assert not any('jupyter.widget' in kind for kind in kinds)


# Pure functions

def test_interrupted_walk_is_the_same_walk():
    world, goal = drawn_world()
    for agent in ('q-learning', 'sarsa', 'random'):
        settings = RLDFSettings(agent=agent, max_steps=200, episode=30, seed=2)
        for trace in search_steps(world, goal, settings):
            pass
        assert (
            search_once(world, goal, settings)
            == {'prompt': trace.prompt, 'found': trace.found, 'steps': len(trace.states), 'calls': trace.calls[-1]}
        )


def test_figures(trace):
    world, goal = trace.env.state_values.world, trace.env.state_values.goal
    figures = [
        search_figure(trace),
        *result_figures(trace),
        visit_map(world.grammar, trace.states, trace.env.goal_state, 'title'),
        perception_figure(goal, world.perception.perceive([goal], world.grammar), world.grammar),
    ]
    assert len(figures) == 6
    for figure in figures:
        assert isinstance(figure, Figure)
        assert 1_000 < len(png(figure)) < 150_000
    assert trace.found and trace.prompt == GOAL and search_summary(trace).endswith(GOAL)


def test_figures_of_a_single_step_and_of_a_walk_that_found_nothing():
    for trace in search_steps(*drawn_world(), RLDFSettings(max_steps=1, seed=1)):
        pass
    assert not trace.found and len(trace.states) == 1
    assert all(isinstance(figure, Figure) for figure in (search_figure(trace), *result_figures(trace)))
    assert search_summary(trace).startswith('Not found in 1 steps')


def test_film_is_small(trace):
    text = film(trace, frames=3)
    assert text.count('data:image/jpeg') == 3 and len(text) < 100_000


def test_map_has_a_place_for_every_state():
    grammar = Grammar.from_string(SMALL)
    places = set(zip(*(x.tolist() for x in unfold(grammar, range(len(grammar)))), strict=True))
    assert len(places) == len(grammar) and max(places) == (2, 17)
    assert [x.item() for x in unfold(grammar, [grammar.index([1, 2, 0, 2])])] == [2, 11]
    single = Grammar.from_string('S -> "a" N\nN -> "cat" | "dog"')
    assert isinstance(visit_map(single, [0, 1, 1], 1), Figure)


def test_first_visits():
    assert first_visits([4, 4, 1, 4, 0]) == [0, 2, 4]


# The panel

def test_run_button_with_the_shipped_models():
    panel = SearchPanel(default_world(inference_steps=1), settings=RLDFSettings(max_steps=2))
    panel.run.click()
    assert is_png(panel.picker.image_slot) and is_png(panel.live) and all(map(is_png, panel.results))
    assert panel.trace.found or len(panel.trace.states) == 2
    assert html.escape(search_summary(panel.trace)) in panel.message.value
    assert panel.progress.value == len(panel.trace.states)


def test_run_button_finds_the_goal(panel):
    assert panel.live.layout.display == 'none'
    panel.run.click()
    assert panel.trace.found and GOAL in panel.message.value
    assert not panel.run.disabled and panel.stop.disabled
    first = panel.trace
    panel.seed.value = 1
    panel.run.click()
    assert panel.trace is not first and panel.trace.found


def test_controls_decide(panel):
    panel.agent.value, panel.reward.value, panel.epsilon.value, panel.max_steps.value, panel.seed.value = (
        'sarsa', 'clip', .35, 7, 3,
    )
    assert panel.chosen() == RLDFSettings(agent='sarsa', reward='clip', epsilon=.35, max_steps=7, seed=3)
    panel.run.click()
    assert panel.trace.found or len(panel.trace.states) == 7


def test_stop_button_and_second_click():
    async def pressed():
        panel = SearchPanel(*drawn_world(kind=SlowWorld), LONG)
        panel.run.click()
        task = panel.task
        panel.run.click()
        assert panel.task is task and panel.run.disabled and not panel.stop.disabled
        await asyncio.sleep(0)
        panel.stop.click()
        await asyncio.wait_for(task, 60)
        return panel
    panel = asyncio.run(pressed())
    assert 'Stopped' in panel.message.value and not panel.run.disabled and panel.stop.disabled
    assert 1 <= len(panel.trace.states) < 200 and all(map(is_png, (panel.live, *panel.results)))


def test_drawing_is_throttled(panel, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        widgets, 'search_figure', lambda trace: drawn.append(time.perf_counter()) or Figure(figsize=(1, 1))
    )
    panel.max_steps.value, panel.reward.value, panel.epsilon.value = 2000, 'multi', 0  # gets stuck: many quick steps
    start = time.perf_counter()
    panel.run.click()
    assert len(drawn) <= (time.perf_counter() - start) / pause(0) + 2
    assert pause(.1) == .5 and pause(1) == 4


@pytest.mark.parametrize(
    'error, told',
    [
        (ValueError('The reward is <b>odd</b>.\nTry another.'), 'The reward is &lt;b&gt;odd&lt;/b&gt;. Try another.'),
        (MemoryError(), 'MemoryError'),
    ],
)
def test_errors_become_a_sentence(panel, monkeypatch, error, told):
    def fail(*args):
        raise error
    monkeypatch.setattr(panel.world.generator, 'generate', fail)
    panel.run.click()
    assert told in panel.message.value and 'Traceback' not in panel.message.value
    assert not panel.run.disabled


def test_reward_that_does_not_fit_the_grammar():
    world, goal = drawn_world(grammar=SMALL.replace('Scene', 'Place'))
    panel = SearchPanel(world, goal)
    panel.run.click()
    assert 'Name one of these' in panel.message.value


# Goals

def content(picture, kind='PNG'):
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def upload(picker, name, data):
    picker.upload.value = ({'name': name, 'type': '', 'size': len(data), 'content': memoryview(data),
                            'last_modified': datetime.datetime.now(datetime.UTC)},)


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


HUGE = (
    b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b'IEND', b'')
)


@pytest.mark.parametrize('data', [b'', b'this is text', content(Image.effect_noise((64, 64), 9))[:900], HUGE])
def test_bad_uploads_are_told_in_one_sentence(data):
    picker = GoalPicker(*drawn_world())
    before, shown, words = picker.image, picker.image_slot.value, [slider.value for slider in picker.labels]
    upload(picker, '<i>.png', data)
    text = html.unescape(re.sub('<[^>]*>', '', picker.message.value))
    assert (
        text.startswith("'<i>.png'")
        and text.endswith('.')
        and 'Traceback' not in text
        and '<i>' not in picker.message.value
    )
    assert '#b00020' in picker.message.value
    assert picker.image is before and picker.image_slot.value == shown
    assert words == [slider.value for slider in picker.labels]


def test_upload_becomes_the_goal_and_moves_the_sliders():
    world, goal = drawn_world()
    picker = GoalPicker(world, goal)
    other = world.generator.generate(['a photo of many dog and no people in street'], [8])[0]
    for kind in ('PNG', 'BMP'):
        upload(picker, 'a file', content(other, kind))
        assert picker.image.tobytes() == other.tobytes()
        assert [slider.value for slider in picker.labels] == ['many', 'dog', 'no', 'street']
        assert 'many dog' in picker.message.value and is_png(picker.image_slot)
        picker.show(goal)


def test_sliders_draw_the_goal():
    world, goal = drawn_world()
    picker = GoalPicker(world, goal)
    assert [slider.value for slider in picker.labels] == ['one', 'cat', 'many', 'beach']
    picker.labels[1].value = 'elephant'
    assert (
        picker.image.tobytes() == render('a photo of one elephant and many people in beach', picker.seed)[0].tobytes()
    )


def test_sliders_of_a_grammar_that_is_not_drawn():
    world, goal = drawn_world()
    picker = GoalPicker(
        World(Grammar.from_string('S -> "a" Animal\nAnimal -> "cat" | "unicorn"'), world.generator, Drawn()), goal
    )
    picker.labels[0].value = 'unicorn'
    assert 'not a prompt that the renderer reads' in picker.message.value and picker.image is goal


# A real kernel

SETUP = '''
import sys
sys.path[:0] = {paths!r}
from test_walkthroughs import LONG, SearchPanel, SlowWorld, drawn_world
panel = SearchPanel(*drawn_world(kind=SlowWorld), LONG)
print(panel.run.model_id, panel.stop.model_id)
'''


def printed(client, code):
    "What code prints in a kernel."
    texts = []
    reply = client.execute_interactive(code, timeout=120, allow_stdin=False,
                                       output_hook=lambda message: texts.append(message['content'].get('text', '')))
    assert reply['content']['status'] == 'ok', reply['content'].get('traceback')
    return ''.join(texts).split()


@pytest.fixture(scope='module')
def kernel(tmp_path_factory):
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel(
        startup_timeout=120, cwd=str(tmp_path_factory.mktemp('kernel')), kernel_name='python3'
    )
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def new_thread(client):
    "A thread of the kernel for messages, as JupyterLab asks for one for all widgets: its name in their headers."
    client.control_channel.send(client.session.msg('create_subshell_request'))
    reply = client.get_control_msg(timeout=60)['content']
    return (
        {'subshell_id': reply['subshell_id']}
        if reply.get('status') == 'ok'
        else pytest.skip('this kernel has no subshells')
    )


@pytest.mark.parametrize('own_thread', [False, True])
def test_buttons_of_a_real_kernel(kernel, own_thread):
    "The stop button is heard while the walk goes on, also where JupyterLab gives widgets a thread of the kernel."
    run, stop = printed(kernel, SETUP.format(paths=[str(NBS.parent), str(Path(__file__).parent)]))
    header = new_thread(kernel) if own_thread else {}

    def click(button):
        message = kernel.session.msg(
            'comm_msg', {'comm_id': button, 'data': {'method': 'custom', 'content': {'event': 'click'}}}
        )
        message['header'] |= header
        kernel.shell_channel.send(message)

    def wait(expression):
        for _ in range(200):
            if printed(kernel, f'print({expression})') == ['True']:
                return
            time.sleep(.1)
        raise AssertionError(f'{expression} did not become true')

    click(run)
    wait('panel.trace is not None and panel.run.disabled and len(panel.live.value) > 0')
    click(stop)
    wait('not panel.run.disabled and "Stopped" in panel.message.value and all(image.value for image in panel.results)')


@pytest.mark.parametrize('read', [True, False])
def test_a_cell_says_that_a_model_is_loaded_if_somebody_reads_it(kernel, read):
    "A program that runs a notebook, such as nbconvert, lets no cell ask for anything; what it stores stays as it was."
    said = []

    def hear(message):
        if 'display' in message['header']['msg_type']:
            said.append((message['header']['msg_type'], message['content']['data']))
    code = 'from rlgen.models.loading import show_loading\nwith show_loading("generator tiny"): pass'
    reply = kernel.execute_interactive(code, timeout=120, allow_stdin=read, output_hook=hear)
    assert reply['content']['status'] == 'ok'
    line = [('display_data', {'text/plain': 'Loading the generator tiny ...'}),
            ('update_display_data', {'text/html': ''})]
    assert said == (line if read else [])
