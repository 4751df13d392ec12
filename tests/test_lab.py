"""Panels as a reader uses them, in JupyterLab and Notebook 7: every button, wrong files, wrong input, interrupts.

Images are the renderer's, read by a perception that knows what was rendered, so a kernel is ready in two seconds;
the lessons themselves are run by tests/test_notebooks.py.
"""
import re
import time

import pytest
from PIL import Image

SETUP = '''
import time
import ipywidgets, numpy as np, psutil
from IPython.display import HTML
from rlgen.envs.grid import SemanticGrid, World
from rlgen.experiments.rldf import RLDFSettings, search_steps
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.rewards.semantic import MultiSemantic
from rlgen.scenes import read_prompt, render
from rlgen.widgets.panels import WalkPanel
from rlgen.widgets.play import PlayPanel
from rlgen.widgets.rldf import SearchPanel, film

class Scenes:
    "Generates images with the renderer and reads what it rendered; all else is read as the first labels."
    settings, seconds = {"model": "scenes"}, 0.
    def __init__(self): self.known = {}
    def generate(self, prompts, seeds, negative=None):
        time.sleep(self.seconds * len(prompts))
        images = [render(prompt, seed)[0] for prompt, seed in zip(prompts, seeds)]
        self.known |= {image.tobytes(): prompt for image, prompt in zip(images, prompts)}
        return images
    def perceive(self, images, grammar):
        found = [read_prompt(self.known[i.tobytes()]) if i.tobytes() in self.known else {} for i in images]
        labels = np.array([[axis.labels.index(read.get(axis.name, axis.labels[0])) for axis in grammar.axes]
                           for read in found])
        sure = [np.eye(n)[labels[:, i]] for i, n in enumerate(grammar.nvec)]
        return Percept(labels, sure, np.ones((len(images), 1)))

scenes = Scenes()
world = World(Grammar.scenes(), scenes, scenes)
goal, = scenes.generate(["a photo of one dog and many people in playground"], [1])
'''
SEARCH = 'panel = SearchPanel(world, goal, RLDFSettings(seed=12, max_steps=3000, epsilon=1., reward="multi"))\npanel'
PLAY = ('playing = PlayPanel(SemanticGrid(world, goal, MultiSemantic(scenes, world.grammar)), show_goal=True, seed=3)\n'
        'playing')
FILM = ('for trace in search_steps(world, goal, RLDFSettings(seed=12, max_steps=40)): pass\n'
        'HTML(film(trace, frames=3))')
BUSY = 'time.sleep(2)'
CELLS = [SETUP, SEARCH, PLAY, FILM, BUSY]

NAMELESS = """() => [...document.querySelectorAll('.jp-OutputArea input, .jp-OutputArea select, .jp-OutputArea button,'
    + '.jp-OutputArea img, .jp-OutputArea [role=slider]')]
    .filter(it => it.offsetParent && !it.labels?.[0]?.textContent.trim() && !it.textContent.trim()
        && !it.getAttribute('aria-label') && !it.title && !it.alt)
    .map(it => it.outerHTML.slice(0, 200))"""
SQUEEZED = """() => [...document.querySelectorAll('.jp-OutputArea select, .jp-OutputArea input[type=number],'
    + '.jp-OutputArea .widget-label')]
    .filter(it => it.offsetParent && it.textContent.trim() !== ''
        && (it.matches('select, input') ? it.clientWidth < 90 : it.scrollWidth > it.clientWidth + 1))
    .map(it => `${it.clientWidth}: ${it.outerHTML.slice(0, 120)}`)"""
STRETCHED = """() => [...document.querySelectorAll('.jp-OutputArea .widget-image')].filter(it => it.naturalWidth
    && (it.width > it.naturalWidth || Math.abs(it.width / it.height - it.naturalWidth / it.naturalHeight) > .05))
    .map(it => `${it.naturalWidth} x ${it.naturalHeight} shown as ${it.width} x ${it.height}`)"""
CONTRAST = """it => {
    const light = colour => { const [r, g, b] = colour.match(/[0-9.]+/g).map(v => v / 255)
        .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
    const style = getComputedStyle(it), pair = [light(style.color), light(style.backgroundColor)];
    return (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
}"""


def until(notebook, expression, wanted='True'):
    "Wait for a value in the kernel."
    deadline = time.monotonic() + 120
    while (found := notebook.python(expression)) != wanted:
        assert time.monotonic() < deadline, f'{expression} is {found}'
        time.sleep(.1)


@pytest.fixture(scope='module')
def notebook(lab):
    "The panels in JupyterLab after Run All; what they say while the kernel is busy is gone (test_panels.py sees it)."
    notebook = lab.open('panels', CELLS)
    notebook.run(wait=False)
    notebook.idle(300)
    notebook.output(SEARCH).get_by_text('answers as soon as').wait_for(state='hidden')
    yield notebook
    notebook.close()


@pytest.fixture
def panel(notebook):
    "The search panel, at rest; its images take a while."
    notebook.python('(panel.halt(), setattr(scenes, "seconds", .1), world.percepts.clear())')
    until(notebook, 'WalkPanel.under_way is None')
    yield notebook.output(SEARCH)
    assert notebook.failures() == []
    areas = notebook.js('(widget, i) => widget.content.widgets[i].outputArea.widgets.length', 1)
    assert areas == 2  # the panel and its still: nothing piled up


def button(panel, name):
    "A button by the whole of its words; an icon before them is a character, too."
    return panel.get_by_role('button', name=re.compile(rf'^\W*{re.escape(name)}$'))


def test_every_control_has_a_name_and_room(notebook):
    page = notebook.page
    assert page.evaluate(NAMELESS) == []
    assert page.locator('.jp-OutputArea [title="null"]:visible').count() == 0
    for width in (1500, 1280, 1000):
        page.set_viewport_size({'width': width, 'height': 900})
        assert page.evaluate(SQUEEZED) == [], width
        assert page.evaluate(STRETCHED) == [], width
    page.set_viewport_size({'width': 1280, 'height': 900})


def test_started_twice_stopped_and_started_again(notebook, panel):
    run, stop = button(panel, 'Run'), button(panel, 'Stop')
    run.dblclick()
    panel.get_by_text(re.compile(r'Searching: \d+ of 3000, up to')).wait_for()
    assert run.is_disabled() and panel.locator('.progress-bar').is_visible()
    panel.get_by_label('Noun').first.select_option('cat')  # another goal, while it runs
    panel.get_by_text('goes on with the settings').wait_for()
    stop.click()
    panel.get_by_text('Stopp').first.wait_for()
    panel.get_by_text('Stopped. ').wait_for()
    assert notebook.python('1 + 1') == '2' and stop.is_disabled()
    top = run.bounding_box()['y']
    shown = panel.locator('img:visible').count()
    assert notebook.page.evaluate(STRETCHED) == []
    run.click()
    panel.get_by_text('Searching').wait_for()
    assert abs(run.bounding_box()['y'] - top) < 2  # the page does not jump
    stop.click()
    panel.get_by_text('Stopped. ').wait_for()
    assert panel.locator('img:visible').count() == shown and abs(run.bounding_box()['y'] - top) < 2
    panel.get_by_label('Noun').first.select_option('dog')
    until(notebook, 'panel.live.layout.visibility', "'hidden'")  # what was found for another goal


def test_an_interrupt_and_another_run_of_the_cell_stop_a_search(notebook, panel):
    button(panel, 'Run').click()
    panel.get_by_text('Searching: ').wait_for()
    assert notebook.status() == 'idle'
    notebook.interrupt()
    panel.get_by_text('Stopped. ').wait_for()
    button(panel, 'Run').click()
    panel.get_by_text('Searching: ').wait_for()
    notebook.run(SEARCH)
    until(notebook, 'WalkPanel.under_way is None')
    assert notebook.python('panel.trace is None') == 'True'  # the panel is a new one
    button(panel, 'Run').click()
    panel.get_by_text('Searching: ').wait_for()


def test_single_steps_a_step_back_and_a_state_by_keyboard(notebook, panel):
    step = button(panel, 'Step')
    step.focus()
    notebook.page.keyboard.press('Enter')
    button(panel, 'Go on').wait_for()
    assert notebook.python('len(panel.trace.states)') == '1'
    notebook.page.keyboard.press('Enter')
    until(notebook, 'len(panel.trace.states)', '2')
    button(panel, 'Look').press('Space')
    panel.get_by_title(re.compile('The image of a photo of')).wait_for()
    button(panel, 'Stop').press('Space')
    panel.get_by_text('Stopped. ').wait_for()
    before = notebook.python('hash(panel.live.value)')
    back = panel.get_by_label('back to step')
    back.fill('1')
    back.press('Enter')
    until(notebook, f'hash(panel.live.value) != {before}')
    panel.get_by_label('preset').select_option('random steps')
    until(notebook, 'panel.agent.value', "'random'")


def test_a_cell_of_the_map_shows_its_state(notebook, panel):
    notebook.python('(setattr(scenes, "seconds", 0), setattr(panel.max_steps, "value", 40))')
    button(panel, 'Run').click()
    until(notebook, 'WalkPanel.under_way is None and panel.trace is not None')
    panel.get_by_role('button', name='Map of all states').press('Enter')
    cells = panel.locator('.widget-gridbox button')
    cells.nth(479).wait_for(state='attached')
    assert cells.nth(479).bounding_box()['width'] >= 24  # pixels that a finger hits
    for press in (lambda cell: cell.click(), lambda cell: cell.press('Enter')):  # the goal's, by mouse and by keyboard
        notebook.python('panel.map.lists[1].__setattr__("index", 0)')
        press(panel.get_by_title('a photo of one dog and many people in playground', exact=True))
        until(notebook, 'panel.map.state == panel.trace.env.goal_state')
    panel.get_by_title('The image of a photo of one dog and many people in playground').wait_for()
    assert notebook.python('panel.place.layout.display') == "''"
    assert len(set(cells.evaluate_all('them => them.map(it => it.style.backgroundColor)'))) > 2  # values
    assert notebook.page.evaluate(NAMELESS) == []
    panel.get_by_role('button', name='Map of all states').press('Enter')


def test_files(notebook, panel, tmp_path):
    Image.new('RGB', (64, 64), 'navy').save(tmp_path/'good.png')
    (tmp_path/'bad.png').write_text('no image')

    def choose(name):
        with notebook.page.expect_file_chooser() as chooser:
            panel.get_by_role('button', name='Open an image').click()
        chooser.value.set_files(tmp_path/name)
    choose('bad.png')
    error = panel.get_by_role('alert')
    error.wait_for()
    assert 'bad.png' in error.inner_text() and error.evaluate(CONTRAST) >= 4.5
    for _ in range(2):  # the same file can be opened again
        choose('good.png')
        panel.get_by_text('Read as:').wait_for()
        until(notebook, 'panel.picker.image.getpixel((0, 0))', '(0, 0, 128)')
        notebook.python('panel.picker.show(goal)')
    (tmp_path/'large.png').write_bytes(bytes(12_000_000))  # more than Jupyter sends: it never arrives
    choose('large.png')
    path = panel.get_by_label('path')
    path.fill(str(tmp_path/'good.png'))
    path.press('Enter')
    until(notebook, 'panel.picker.image.size', '(64, 64)')
    notebook.python('panel.picker.show(goal)')
    choose('good.png')  # the button is not dead
    until(notebook, 'panel.picker.image.size', '(64, 64)')
    path.fill(str(tmp_path/'none.png'))
    path.press('Enter')
    until(notebook, "'does not exist' in panel.picker.message.value")


def test_ten_runs_need_no_more_memory_than_two(notebook, panel):
    notebook.python('(setattr(scenes, "seconds", 0), setattr(panel.max_steps, "value", 5))')
    used = []
    for _ in range(10):
        notebook.python('panel.run.click()')
        until(notebook, 'WalkPanel.under_way is None')
        used.append([int(notebook.python(text)) for text in (
            'len(ipywidgets.widgets.widget._instances)', 'psutil.Process().memory_info().rss')])
    assert used[-1][0] == used[1][0] and used[-1][1] - used[1][1] < 30e6
    assert notebook.python('len(panel.past)') == '6'


def test_the_reader_plays_and_the_film_needs_no_network(notebook):
    play = notebook.output(PLAY)
    play.get_by_text('0 steps, 1 images').wait_for()
    button(play, 'Noun +').click()
    play.get_by_text('1 steps, 2 images').wait_for()
    button(play, 'New start').click()
    play.get_by_text('0 steps').wait_for()
    film = notebook.output(FILM)
    assert film.get_by_role('slider', name='Frame').count() == 1
    assert film.get_by_role('button', name='Next frame').inner_text() == '›'
    small = film.locator('img').evaluate('it => it.width / it.naturalWidth')
    assert small * 9 >= 9  # pixels of its smallest labels
    assert notebook.failures() == []


def test_restart_and_run_again(notebook):
    notebook.restart()
    notebook.run()
    panel = notebook.output(SEARCH)
    notebook.python('setattr(panel.max_steps, "value", 3)')
    button(panel, 'Run').click()
    panel.get_by_text('ound in').wait_for()
    assert notebook.failures() == []


def test_notebook_7_in_the_dark(lab):
    pytest.importorskip('notebook', reason='Notebook 7 is not installed')
    notebook = lab.open('panels', CELLS[:2], front='notebook', dark=True)
    notebook.run()
    notebook.python('setattr(scenes, "seconds", .1)')  # else the search ends before anybody can stop it
    panel = notebook.output(SEARCH)
    button(panel, 'Run').click()
    panel.get_by_text('Searching: ').wait_for()
    button(panel, 'Stop').click()
    panel.get_by_text('Stopped. ').wait_for()
    notebook.python('panel.picker.path.__setattr__("value", "none.png")')
    error = panel.get_by_role('alert')
    error.wait_for()
    assert error.evaluate(CONTRAST) >= 4.5
    assert notebook.kernel_failures() == []  # Notebook 7 writes errors of its own to the console
    notebook.close()


OTHERS = '''from rlgen.experiments.optimum import learning_snapshots, solve
from rlgen.widgets import insight
from rlgen.widgets.rldf import AblationPanel, SliderPanel
Scenes.zero_shot = lambda self, images, texts: np.tile(np.eye(len(texts))[0], (len(images), 1))
def forked_images(pipe, before, after, switches, seed, steps, guidance):
    time.sleep(.3)
    return [render(before if k else after, seed)[0] for k in switches]
insight.forked_images = forked_images  # without PyTorch
optimum = solve(world, goal, "shaped-multi")
snapshots = list(learning_snapshots(optimum, RLDFSettings(epsilon=.3, step_size=1.), (20, 200)))
words = {"cat": "dog", "farm": "playground"}
first = "a photo of one dog and no people in playground"'''
PANELS = {
    'sliders': 'SliderPanel(world, "base")',
    'forgetting': 'AblationPanel(world, goal, "penguin", RLDFSettings(agent="bandit"), budget=60)',
    'moments': 'insight.SnapshotPanel(optimum, snapshots)',
    'questions': 'insight.QuestionPanel(world.grammar, [1, 1, 1, 2], lowest=-1)',
    'forks': 'insight.ForkPanel(None, lambda images: [{"cat"}] * len(images), first, words)',
}


@pytest.fixture(scope='module')
def other_panels(lab):
    "The panels that have not been opened above, in JupyterLab."
    cells = [f'{name} = {made}\n{name}' for name, made in PANELS.items()]
    notebook = lab.open('others', [SETUP, OTHERS, *cells])
    notebook.run()
    yield notebook
    notebook.close()


@pytest.fixture
def others(other_panels):
    yield other_panels
    assert other_panels.failures() == []


def panel_of(notebook, name):
    "The locator of a panel, whose kernel answers."
    panel = notebook.output(f'{name} = {PANELS[name]}')
    panel.get_by_text('answers as soon as').wait_for(state='hidden')
    return panel


def choose_below(notebook, control):
    "Choose what is below in a list, with the keyboard."
    control.focus()
    for key in ('Space', 'ArrowDown', 'Enter'):  # a closed list leaves the arrow keys to JupyterLab
        notebook.page.keyboard.press(key)


def test_other_panels_have_names_and_room(others):
    assert others.page.evaluate(NAMELESS) == []
    for width in (1500, 1000, 700):
        others.page.set_viewport_size({'width': width, 'height': 900})
        assert others.page.evaluate(SQUEEZED) == others.page.evaluate(STRETCHED) == [], width


def test_lists_of_sliders_moments_and_questions_by_keyboard(others):
    sliders, moments, questions = (panel_of(others, name) for name in ('sliders', 'moments', 'questions'))
    choose_below(others, sliders.get_by_label('Noun'))
    sliders.get_by_text('a photo of one apple').wait_for()
    button(sliders, 'Slide along it').press('Enter')
    sliders.get_by_text('4 of the 4 labels of Scene').wait_for()
    choose_below(others, moments.get_by_label('after how many steps'))
    moments.get_by_text('After 200 steps').wait_for()
    others.python('questions.labels[1].__setattr__("index", 3)')
    button(questions, 'Best question').press('Enter')
    until(others, 'questions.labels[1].index == 3', 'False')
    button(questions, 'Ask for it').dblclick()
    questions.get_by_text('on average over the goals').wait_for()
    assert others.python('len(questions.asked)') == '1'


def test_forgetting_goes_on_with_its_settings(others):
    panel = panel_of(others, 'forgetting')
    others.python('setattr(scenes, "seconds", .2)')
    button(panel, 'Run').dblclick()
    panel.get_by_text(re.compile(r'Searching: \d+ of 60')).wait_for()
    panel.get_by_label('forbidden').select_option('cat')
    panel.get_by_text('with the settings that it began with').wait_for()
    button(panel, 'Stop').click()
    panel.get_by_text('penguin: 100.0% likely').wait_for()
    panel.get_by_label('forbidden').select_option('bus')
    until(others, 'forgetting.results[0].layout.visibility', "'hidden'")  # what became of another word


def test_words_of_forks_by_keyboard_and_an_error(others):
    panel = panel_of(others, 'forks')
    panel.get_by_label('playground → farm').press('Space')
    button(panel, 'Run').press('Enter')
    panel.get_by_text('farm: never seen.').wait_for()
    for word in ('dog → cat', 'playground → farm'):
        panel.get_by_label(word).press('Space')
    button(panel, 'Run').press('Enter')
    panel.get_by_role('alert').wait_for()
    assert 'at least one new word' in panel.get_by_role('alert').inner_text()


def test_a_saved_notebook_shows_the_panel_as_it_was(lab, other_panels):
    "Opened again, when the kernel is a new one: figures, and no error of a widget whose kernel is gone."
    panel = panel_of(other_panels, 'sliders')
    button(panel, 'Slide along it').click()
    panel.get_by_text('4 of the 4 labels of Scene').wait_for()
    other_panels.page.wait_for_timeout(1500)  # the still follows
    assert other_panels.page.locator('.rlgen-still:visible').count() == 0
    source = other_panels.save()
    other_panels.restart()
    again = lab.show(other_panels.folder/other_panels.js('widget => widget.context.path'), source, kernel=False)
    still = again.cell('sliders = ').locator('.rlgen-still')
    still.get_by_text('The panel as it was').wait_for()
    assert still.locator('img').count() == 2 and still.get_by_text('4 of the 4 labels of Scene').is_visible()
    again.page.get_by_text(re.compile('Error displaying|Loading widget')).first.wait_for(state='hidden')
    assert [text for text in again.messages if 'widget model not found' not in text] == []
    again.page.context.close()


def test_a_stored_lesson_shows_figures_without_a_kernel(lab):
    "Where a panel will be there are figures, and no error of a widget whose kernel is gone."
    notebook = lab.open('rldf/21_sliders', kernel=False)
    assert notebook.page.get_by_text('Error displaying widget').count() == 0
    notebook.page.locator('.jp-OutputArea img').nth(3).wait_for(state='attached')
    assert notebook.messages == []
    notebook.page.context.close()
