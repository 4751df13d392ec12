"""The page on which agents learn in the browser: its table, its file, and what it computes in headless Chromium.

The page of the tests is made of images that show their labels; the one of the site is opened as it is stored.
"""
import base64
import html
import json
import re
import shutil
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from standins import Drawing, Seeing, goal_image, world_of

from rlgen.agents.blackbox import best_sums, label_posterior
from rlgen.agents.planning import DynaQ, value_iteration
from rlgen.agents.tabular import QLearning, Sarsa
from rlgen.envs.grid import SemanticGrid, StateValues, World
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.rewards.shaping import make_reward
from rlgen.widgets import explorer
from rlgen.widgets.explorer import build, embed, explorer_page, prompt_pieces, sprite_sheet, world_table

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT/'nbs'/'site'/'explorer.html'
NO_SCENE = Grammar.from_string('S -> "a" Noun "," Style\nNoun -> "dog" | "cat" | "car"\nStyle -> "old" | "new"')


class SeeingBadly(Seeing):
    "Reads some images wrong, always the same ones."
    def perceive(self, images, grammar):
        percept = super().perceive(images, grammar)
        labels = percept.encodings.copy()
        wrong = labels.sum(1) % 5 == 4
        labels[wrong, 1] = (labels[wrong, 1] + 1) % grammar.nvec[1]
        return Percept(labels, percept.probabilities, percept.embeddings)


class Grey:
    "Generates the same image for every prompt of any grammar."
    def generate(self, prompts, seeds, negative=None):
        return [Image.new('RGB', (len(seeds), 1)) for _ in prompts]


class Blind:
    "Reads the same in every image, whatever the grammar."
    def perceive(self, images, grammar):
        n = len(images)
        return Percept(np.zeros((n, len(grammar.nvec)), np.int64), [np.full((n, k), 1 / k) for k in grammar.nvec],
                       np.tile(np.array([[1., 0.]], np.float32), (n, 1)))


def world():
    made = world_of(Drawing())
    made.perception = SeeingBadly()
    return made


def numbers(text, dtype, columns):
    return np.frombuffer(base64.b64decode(text), dtype).reshape(-1, columns)


# ---- Without a browser

def test_the_table_holds_what_perception_reads():
    here = world()
    table, percepts = world_table(here, {'mine': goal_image()}), here.perceive(range(48))
    assert [axis['labels'][1] for axis in table['axes']] == ['a photo of many', 'cat', 'and some people in', 'beach']
    assert (table['scene'], table['goals'], table['first'], table['width']) == (3, ['mine'], 48, 8)
    encodings = numbers(table['encodings'], '<u2', 4)
    assert (encodings[:48] == [p.encodings[0] for p in percepts]).all()
    assert (encodings[48] == here.read([goal_image()]).encodings[0]).all()
    assert (numbers(table['probabilities'], 'u1', 11).sum(1) == 4 * 255).all()  # sure of each axis
    embeddings = numbers(table['embeddings'], '<f2', 8).astype(float)
    exact = np.concatenate([p.embeddings for p in percepts])
    assert np.abs(embeddings[:48] @ embeddings[:48].T - exact @ exact.T).max() < 1e-3


def test_the_sprite_sheet_holds_each_image_in_its_place():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
    file, columns = sprite_sheet([Image.new('RGB', (40, 20), colour) for colour in colours], size=16)
    with Image.open(BytesIO(file)) as sheet:
        assert (sheet.format, sheet.size, columns) == ('WEBP', (48, 32), 3)
        for i, colour in enumerate(colours):
            seen = sheet.convert('RGB').getpixel((i % 3 * 16 + 8, i // 3 * 16 + 8))
            assert np.abs(np.subtract(seen, colour)).max() < 12


def test_a_page_is_one_file_that_asks_for_nothing(tmp_path):
    path = build(world(), tmp_path/'new'/'page.html', title='Cats & <dogs>')
    text = path.read_text(encoding='utf-8')
    assert '<title>Cats &amp; &lt;dogs&gt;</title>' in text and '<html lang="en">' in text
    assert not re.search(r'https?:|//cdn|@import|\{\{|\bimport\(|fetch\(|XMLHttpRequest|localStorage', text)
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)=', text)
    assert '48 prompts' in text
    assert explorer_page(world(), title='Cats & <dogs>') == text  # the same bytes again


def test_no_label_ends_the_script():
    grammar = Grammar.from_string('S -> "a" Noun\nNoun -> "</script><b>" | "dog"')
    page = explorer_page(World(grammar, Grey(), Blind()))
    assert page.count('</script>') == 2
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    assert json.loads(data)['axes'][0]['labels'][0] == '</script><b>'


def test_a_world_without_a_scene_has_none():
    table = world_table(World(NO_SCENE, Grey(), Blind()))
    assert (table['scene'], table['first'], table['pieces']) == (None, 3, ['a', 0, ',', 1])
    assert world_table(World(NO_SCENE, Grey(), Blind()), scene='Style')['scene'] == 1
    assert prompt_pieces(Grammar.domains()) == ['a', 0, 'of a', 1, ',', 2, ', and', 3]


@pytest.mark.parametrize('make, message', [
    (lambda path: build(World(Grammar.scenes(style=True, colour=True), Grey(), Blind()), path),
     'The grammar has 12,000 states, and one page holds at most 5,000'),
    (lambda path: build(world(), path, {'mine': 'goal.png'}), "the goal 'mine'"),
    (lambda path: sprite_sheet([goal_image()] * 4, size=9000), 'use size=8191 or less'),
    (lambda path: build(world(), path.parent/'page.html'/'deeper.html'), 'page.html'),
])
def test_what_cannot_be_made_is_said_in_a_sentence(tmp_path, make, message):
    (tmp_path/'page.html').write_text('as before')
    with pytest.raises((ValueError, TypeError, OSError), match=re.escape(message)) as error:
        make(tmp_path/'page.html')
    assert '\n' not in str(error.value)
    assert (tmp_path/'page.html').read_text() == 'as before'


def test_a_page_shows_in_a_notebook(tmp_path):
    path = build(world(), tmp_path/'page.html')
    text = path.read_text(encoding='utf-8')
    for page in (path, str(path), text):
        shown = embed(page, height=500).data
        assert html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]) == text
        assert 'height="500"' in shown and 'title="' in shown


def test_the_page_of_the_site_is_small_and_of_the_present_scripts():
    text = STORED.read_text(encoding='utf-8')
    assert STORED.stat().st_size < 2_000_000
    folder = files('rlgen')/'assets'/'explorer'
    for name in ('explorer.css', *explorer.SCRIPTS):
        assert (folder/name).read_text(encoding='utf-8').strip() in text, f'{name} has changed: run tools/explorer.py'
    still = STORED.with_suffix('.webp')
    assert still.stat().st_size < 150_000


# ---- In the browser

@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api', reason='the tests in a browser need Playwright')
    chromium = shutil.which('chromium')
    if chromium is None:
        pytest.skip('the tests in a browser need Chromium')
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield started
        started.close()


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return build(world(), tmp_path_factory.mktemp('explorer')/'page.html', {'mine': goal_image()})


@pytest.fixture(scope='module')
def compute(browser, made):
    "Calls a function of JavaScript in a page that stands still; numbers travel as JSON, which is exact."
    page = browser.new_page(reduced_motion='reduce')
    page.goto(made.as_uri())
    page.wait_for_function('window.rlgen.app.runs')
    yield lambda function, *arguments: json.loads(
        page.evaluate(f'(text) => JSON.stringify(({function})(...JSON.parse(text)))', json.dumps(arguments)))
    page.close()


@pytest.fixture
def opened(browser):
    "Opens pages of its own; at the end none of them may have said anything or asked for anything."
    pages, heard = [], []

    def go(path, **settings):
        page = browser.new_page(**{'reduced_motion': 'reduce'} | settings)
        pages.append(page)
        page.on('console', lambda message: heard.append(message.text))
        page.on('pageerror', lambda error: heard.append(str(error)))
        page.on('request', lambda request: request.url.startswith(('file:', 'data:')) or heard.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function('window.rlgen.app.runs')
        return page

    yield go
    for page in pages:
        page.close()
    assert not heard


class NotingSarsa(Sarsa):
    "Notes the next action of each step, which no record of a step holds."
    def td_error(self, state, action, reward, discount, next_state):
        error, action = super().td_error(state, action, reward, discount, next_state)
        self.noted = action
        return error, action


LEARN = """(kind, states, actions, options, rows) => {
    const agent = new rlgen[kind](states, actions, options, rlgen.makeRandom(0));
    const errors = rows.map((row) => agent.learn(...row));
    return [Array.from(agent.table), errors, Array.from(agent.visits)];
}"""


@pytest.mark.parametrize('reward', ['multi', 'shaped-multi', 'shaped-clip'])
@pytest.mark.parametrize('kind, cls, options', [
    ('QLearning', QLearning, {'step_size': .3, 'epsilon': .2}),
    ('Sarsa', NotingSarsa, {'step_size': .3, 'epsilon': .2}),
    ('DynaQ', DynaQ, {'epsilon': 0., 'initial_q': 5., 'persistent': True, 'locality': .5}),
])
def test_a_golden_trace_gives_the_tables_of_python(compute, reward, kind, cls, options):
    here = world()
    env = SemanticGrid(here, goal_image(), make_reward(reward, here.perception, here.grammar), max_steps=40)
    agent = cls(env.observation_space, env.action_space, discount=.9, seed=1, **options)
    rows, errors = [], []
    for step in agent.learn_steps(env, 1500):
        states = [here.grammar.index(state) for state in (step.observation, step.next_observation)]
        row = [states[0], int(step.action), step.reward, step.terminated, states[1]]
        rows.append([*row, agent.noted] if kind == 'Sarsa' else row)
        errors.append(step.td_error)
    assert len(agent.returns) > 10
    assert any(row[3] for row in rows) or reward == 'multi'  # in the trap no episode terminates
    settings = {'discount': .9, 'stepSize': .3, 'epsilon': .2}
    table, told, visits = compute(LEARN, kind, 48, 8, settings, rows)
    assert np.abs(np.reshape(table, (48, 8)) - agent.table).max() < 1e-9
    assert np.abs(np.subtract(told, errors)).max() < 1e-9
    assert (np.reshape(visits, (48, 8)) == agent.visits).all()


def test_rewards_values_and_ends_are_those_of_python_for_every_goal(compute):
    here = world()
    goals = [*here.images(range(48)), goal_image()]
    for name in ('multi', 'partial', 'clip', 'shaped-multi', 'shaped-clip'):
        plain, shaped = name.removeprefix('shaped-'), name.startswith('shaped-')
        found = compute("""(reward, shaped) => Array.from({ length: 49 }, (_, goal) => {
            const task = rlgen.makeTask(rlgen.world, goal, reward, shaped, 0.9);
            return [task.goalState, task.best, Array.from(task.values), Array.from(task.rewards), Array.from(task.next),
                Array.from(task.terminated), Array.from(rlgen.valueIteration(task))];
        })""", plain, shaped)
        few = slice(None, None, 1 if name == 'shaped-multi' else 6)
        for goal, (state, best, values, rewards, ahead, over, q) in zip(goals[few], found[few], strict=True):
            env = SemanticGrid(here, goal, make_reward(name, here.perception, here.grammar))
            next_states, exact, terminated = env.model()
            assert state == env.goal_state
            assert (np.reshape(ahead, (48, 8)) == next_states).all()
            assert (np.reshape(over, (48, 8)) == terminated).all()
            known = env.state_values
            near = 1e-3 if plain == 'clip' else 1e-12
            assert np.abs(np.subtract(values, [known.values[s] for s in range(48)])).max() < near
            assert not shaped or abs(best - known.best) < near
            near = 2e-3 if plain == 'clip' else 1e-12  # a shaped reward has two values in it
            assert np.abs(np.reshape(rewards, (48, 8)) - exact).max() < near
            optimal = value_iteration(next_states, exact, terminated, .9)
            assert np.abs(np.reshape(q, (48, 8)) - optimal).max() < (2e-2 if plain == 'clip' else 1e-9)
            if shaped:  # the optimal policy of the page ends where it should, from everywhere
                place, chosen = np.arange(48), np.reshape(q, (48, 8)).argmax(1)
                for _ in range(12):
                    place = np.where(place == state, place, next_states[place, chosen[place]])
                assert (place == env.goal_state).all()


def test_the_posterior_of_the_bandit_is_that_of_python(compute):
    rng, nvec = np.random.default_rng(0), np.array([2, 3, 2, 4])
    for count in (0, 1, 2, 25):
        encodings, rewards = rng.integers(nvec, size=(count, 4)), rng.integers(-1, 5, count).astype(float)
        mean, covariance = label_posterior(encodings, rewards, nvec, .15)
        found = compute('rlgen.labelPosterior', encodings.tolist(), rewards.tolist(), nvec.tolist())
        assert np.abs(np.subtract(found['mean'], mean)).max() < 1e-9
        assert np.abs(np.subtract(found['covariance'], covariance)).max() < 1e-9
    scores = [rng.integers(4, size=n).astype(float).tolist() for n in nvec]
    assert compute('rlgen.bestSums', scores, 20) == best_sums(scores, 20).tolist()


def test_prompts_and_moves_are_those_of_the_grammar(compute):
    for grammar in (world().grammar, NO_SCENE):
        data = world_table(World(grammar, Grey(), Blind()))
        prompts, moves = compute("""(data) => {
            const world = new rlgen.World(data), states = Array.from({ length: world.states }, (_, state) => state);
            return [states.map((state) => world.prompt(state)),
                states.map((state) => Array.from({ length: world.actions }, (_, action) => world.move(state, action)))];
        }""", data)
        assert prompts == [grammar.decode(state) for state in grammar]
        values = StateValues(World(grammar, Grey(), Blind()), goal_image(), make_reward('clip', Blind(), grammar))
        env = SemanticGrid(values.world, goal_image(), values.reward)
        assert moves == env.model()[0].tolist()


@pytest.mark.parametrize('kind', ['q-learning', 'sarsa', 'dyna-q', 'bandit', 'zero-shot'])
def test_each_agent_reaches_every_goal(compute, kind):
    found = compute("""(kind) => Array.from({ length: 49 }, (_, goal) => {
        const task = rlgen.makeTask(rlgen.world, goal, "multi", true, 0.9);
        const run = new rlgen.Run(task, kind, { epsilon: 0.1, stepSize: 0.3, discount: 0.9 }, goal);
        while (!run.firstFound && run.steps < 20000 && !run.done) run.step();
        return run.firstFound && run.calls === run.seen.reduce((a, b) => a + b) ? run.calls : 0;
    })""", kind)
    assert min(found) >= 1 and max(found) <= 48


def test_the_page_starts_by_itself_unless_motion_is_unwanted(opened):
    playing = opened(STORED, reduced_motion='no-preference')
    playing.wait_for_function('rlgen.app.runs[0].steps > 2')
    assert playing.get_by_role('button', name='Pause').is_visible()
    waiting = opened(STORED)
    assert waiting.evaluate('rlgen.app.runs[0].steps') == 0
    waiting.get_by_role('button', name='Step').click()
    assert waiting.evaluate('rlgen.app.runs[0].steps') == 1
    waiting.get_by_role('button', name='Play').click()
    waiting.wait_for_function('rlgen.app.runs[0].steps > 2')
    waiting.get_by_role('button', name='Reset').click()
    assert waiting.evaluate('rlgen.app.runs[0].steps') == 0


def test_every_control_has_a_name_and_does_what_it_says(opened):
    page = opened(STORED)
    for role in ('button', 'slider', 'combobox', 'checkbox', 'radio'):
        count = page.get_by_role(role).count()
        assert count and page.get_by_role(role, name=re.compile(r'\w')).count() == count
    page.get_by_role('slider', name='Epsilon').fill('0.5')
    page.get_by_role('slider', name='Discount').fill('0.5')
    page.get_by_role('combobox', name='Agent').select_option('SARSA')
    page.get_by_role('combobox', name='Race against').select_option('Coordinate bandit')
    page.get_by_role('combobox', name='Reward').select_option('CLIP cosine')
    page.get_by_role('checkbox', name='shaped').uncheck()
    page.get_by_role('combobox', name='Goal: Noun').select_option('cat')
    app = page.evaluate('({...rlgen.app, runs: rlgen.app.runs.map((run) => run.kind), task: rlgen.app.task.goalState})')
    assert (app['epsilon'], app['discount'], app['reward'], app['shaped']) == (.5, .5, 'clip', False)
    assert app['runs'] == ['sarsa', 'bandit']
    grammar = Grammar.scenes()
    assert grammar.decode(grammar.unindex(app['goal'])) == 'a photo of one cat and many people in playground'
    page.get_by_role('button', name='Random').click()
    page.get_by_role('button', name='Step').click()
    assert page.evaluate('rlgen.app.runs.map((run) => run.steps)') == [1, 1]
    assert page.locator('#card-1').is_visible()


def test_the_map_answers_to_the_keyboard_and_to_the_mouse(opened):
    page, grammar = opened(STORED, viewport={'width': 1280, 'height': 900}), Grammar.scenes()
    board, goal = page.get_by_role('application'), 'rlgen.app.goal'
    board.focus()
    for key in ('ArrowUp', 'ArrowLeft', 'PageUp'):
        page.keyboard.press(key)
    place = grammar.decode(grammar.unindex(page.evaluate('rlgen.app.cursor')))
    assert place == 'a photo of one cactus and one people in beach'
    assert page.locator('#cursor').text_content().startswith(place)
    page.keyboard.press('Enter')
    assert grammar.decode(grammar.unindex(page.evaluate(goal))) == place
    board.hover(position={'x': 150, 'y': 200})
    assert page.locator('#peek').is_visible()
    state = page.evaluate('rlgen.app.cursor')
    board.click(position={'x': 150, 'y': 200})
    assert page.evaluate(goal) == state != grammar.index(grammar.encode(place))


def test_the_tour_shows_the_trap_and_its_repair(opened):
    page = opened(STORED)
    page.get_by_role('button', name='Guided tour').click()
    for step in range(1, 7):
        assert page.locator('#tour-count').text_content() == f'Step {step} of 6'
        assert page.evaluate('document.activeElement.id') == 'tour-title'
        if step > 4:  # sixty steps from where the tour has put the agent
            page.evaluate('for (let i = 0; i < 60; i++) rlgen.app.runs[0].step()')
            last, found = page.evaluate('[rlgen.app.runs[0].trail.slice(-20), rlgen.app.runs[0].lastLength]')
            if step == 5:
                assert 'Return 4' in page.locator('#tour-text').text_content()
                assert '= 30' in page.locator('#tour-text').text_content()
                assert len(last) == 20 and len(set(last)) <= 3
            else:
                assert found < 30
        page.get_by_role('button', name='Finish' if step == 6 else 'Next').click()
    assert page.locator('#tour').is_hidden()
    assert page.evaluate('document.activeElement.id') == 'tour-open'


def test_whoever_meets_the_trap_is_told_why(opened):
    page = opened(STORED)
    page.get_by_role('checkbox', name='shaped').uncheck()
    page.get_by_role('combobox', name='Agent').select_option('Dyna-Q')
    page.evaluate('for (let i = 0; i < 4000 && !rlgen.app.runs[0].pacing; i++) rlgen.app.runs[0].step()')
    page.get_by_role('button', name='Step').click()
    page.get_by_role('button', name='Why does it stop here?').click()
    assert 'Two plans' in page.locator('#tour-text').text_content()
    assert page.evaluate('rlgen.app.agents[0]') == 'dyna-q'


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 800, 1280])
def test_nothing_is_wider_than_the_screen(opened, width, scheme):
    page = opened(STORED, viewport={'width': width, 'height': 844}, color_scheme=scheme)
    page.get_by_role('combobox', name='Race against').select_option('Q-learning')
    page.evaluate('for (let i = 0; i < 300; i++) rlgen.app.runs.forEach((run) => run.step())')
    page.get_by_role('button', name='Step').click()
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]") < 100
    assert dark == (scheme == 'dark')


@pytest.mark.parametrize('grammar', [NO_SCENE, Grammar.from_string('S -> "a" Noun\nNoun -> "dog" | "cat"'),
                                     Grammar.scenes(weather=True, time=True)])
def test_worlds_of_other_shapes_open_too(opened, tmp_path, grammar):
    page = opened(build(World(grammar, Grey(), Blind()), tmp_path/'page.html', size=8))
    for _ in range(3):
        page.get_by_role('button', name='Step').click()
    has_scene = page.evaluate('rlgen.world.scene !== null')
    assert page.locator('#reward option').count() == (3 if has_scene else 1)
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
