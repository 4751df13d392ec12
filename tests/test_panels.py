"""The panel of sliders and the panel that forgets a concept, and the pure functions below them.

Most tests use a generator that is the renderer, behind a store, and a perception that knows what was drawn.
"""
import asyncio
import html
import itertools
import re
import signal
import time

import ipywidgets as widgets
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from test_plots import overlaps, small_texts
from test_walkthroughs import SMALL, content, is_png, upload

from rlgen.envs.grid import World, default_world
from rlgen.experiments.applications import ablation, forbidden, wordings
from rlgen.experiments.rldf import AGENTS, RLDFSettings, search_once, search_steps
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.models.generator import Cached
from rlgen.scenes import MODIFIERS, NOUNS, read_prompt, render
from rlgen.store import Store
from rlgen.widgets.panels import (
    GoalPicker,
    WalkPanel,
    interrupts,
    named,
    perception_figure,
    png,
    show_message,
    time_left,
    until_heard,
)
from rlgen.widgets.rldf import (
    OPTIONS,
    PRESETS,
    AblationPanel,
    SearchPanel,
    SliderPanel,
    aftermath,
    change,
    followed,
    forgotten,
    held_and_changing,
    runs_figure,
    state_figure,
    until,
)

BASE = Grammar.scenes()
PENGUINS = 'a photo of many penguin and one people in beach'


class Drawn:
    """Generator and perception in one: draws scenes, notes every call, and knows what it drew;
    all else is read as state 0.
    """
    settings, negative, batch_size = {'model': 'drawn'}, '', 32

    def __init__(self):
        self.truth, self.calls, self.seconds = {}, [], 0

    def generate(self, prompts, seeds, negative=None):
        time.sleep(self.seconds)
        self.calls += zip(prompts, seeds, strict=True)
        return [self.draw(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def draw(self, prompt, seed):
        "A picture whose content perception will know."
        picture = render(prompt, seed)[0]
        self.truth[picture.tobytes()] = prompt
        return picture

    def perceive(self, pictures, grammar):
        "The first label where the grammar has no word for what is there."
        known = [
            read_prompt(self.truth[picture.tobytes()]) if picture.tobytes() in self.truth else {}
            for picture in pictures
        ]
        encodings = np.array([[axis.labels.index(label) if (label := truth.get(axis.name)) in axis.labels else 0
                               for axis in grammar.axes] for truth in known])
        probabilities = [np.eye(n)[encodings[:, axis]] for axis, n in enumerate(grammar.nvec)]
        return Percept(encodings, probabilities, np.ones((len(pictures), 1), np.float32))

    def zero_shot(self, pictures, texts):
        "Sure of the text that was drawn, if it is among them."
        scores = np.array(
            [[10. * (text == self.truth.get(picture.tobytes())) for text in texts] for picture in pictures]
        )
        return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


@pytest.fixture
def drawn():
    return Drawn()


@pytest.fixture
def world(drawn):
    return World(BASE, Cached(drawn, Store(':memory:')), drawn)


def told(panel):
    "What a panel's line says, and whether in red."
    return html.unescape(re.sub('<[^>]*>', '', panel.message.value)), '#b00020' in panel.message.value


def broken(error):
    def fail(*args, **kwargs):
        raise error
    return fail


ERRORS = [
    (ValueError('The picture is <b>odd</b>.\nTry another.'), 'The picture is <b>odd</b>. Try another.'),
    (MemoryError(), 'MemoryError'),
]


# Sliders: pure functions

def bars(figure, axis):
    "Labels and colours of the bars of one axis."
    ax = figure.axes[1 + axis]
    colours = {text.get_text(): to_hex(bar.get_facecolor()) for text, bar in zip(ax.texts, ax.patches, strict=True)}
    return colours, ax.get_title()


def test_bars_tell_whether_a_picture_follows(drawn):
    picture = drawn.draw(PENGUINS, 1)
    percept = drawn.perceive([picture], BASE)
    asked = BASE.encode('a photo of many clock and one people in beach')
    figure = perception_figure(picture, percept, BASE, asked=asked)
    scene, title = bars(figure, 3)
    assert title == 'Scene\nas asked' and scene['beach'] == to_hex('tab:green') and scene['farm'] == to_hex('silver')
    noun, title = bars(figure, 1)
    # shown, though it is the last of twenty
    assert title == 'Noun\nnot as asked' and noun['clock'] == to_hex('tab:orange')
    assert noun['penguin'] == to_hex('silver') and len(noun) == 4
    assert set(bars(perception_figure(picture, percept, BASE), 1)[0].values()) == {to_hex('tab:blue')}


def test_bars_of_twelve_axes_stand_in_two_rows(drawn):
    grammar = Grammar.scenes(**dict.fromkeys(OPTIONS['all'], True))
    picture = drawn.draw(grammar.decode([0] * 12), 1)
    figure = perception_figure(picture, drawn.perceive([picture], grammar), grammar, asked=[0] * 12)
    assert small_texts(figure) == overlaps(figure) == []
    assert len(figure.axes) == 13 and len({round(ax.get_position().y0, 3) for ax in figure.axes[1:]}) == 2
    assert figure.get_figwidth() == 11 and len(png(figure)) < 100_000


def test_sentence_on_what_follows(drawn):
    percept = drawn.perceive([drawn.draw(PENGUINS, 1)], BASE)
    assert followed(percept, BASE.encode(PENGUINS), BASE) == f'{PENGUINS}: read as asked on 4 of 4 axes.'
    other = 'a photo of many penguin and no people in farm'
    assert followed(percept, BASE.encode(other), BASE) == (
        f'{other}: read as asked on 2 of 4 axes; Density is read as one (100%), not no (0%); '
        'Scene is read as beach (100%), not farm (0%).'
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 255), min_size=2, max_size=6))
def test_change_is_a_mean_of_steps(greys):
    pictures = [Image.new('RGB', (3, 2), (grey,) * 3) for grey in greys]
    assert change(pictures) == pytest.approx(np.mean([abs(a - b) for a, b in itertools.pairwise(greys)]))


def test_slide_with_the_seed_held_and_changing(world, drawn):
    figure = held_and_changing(world, BASE.encode(PENGUINS), 'Scene', seed=7)
    prompts = [PENGUINS.replace('beach', scene) for scene in ('farm', 'beach', 'playground', 'street')]
    assert drawn.calls == [(p, 7) for p in prompts] + [(p, 7 + i) for i, p in enumerate(prompts) if i]
    labels = [ax.texts[0].get_text() for ax in figure.axes[4:]]
    assert len(figure.axes) == 8 and labels == ['farm', 'beach', 'playground', 'street']
    held, changing = (
        [np.asarray(ax.images[0].get_array()) for ax in row] for row in (figure.axes[:4], figure.axes[4:])
    )
    assert (held[0] == changing[0]).all() and (held[1] != changing[1]).any()


def test_long_axes_are_shown_in_part_and_unknown_ones_are_refused(world):
    assert len(held_and_changing(world, [0] * 4, 'Noun').axes) == 16
    with pytest.raises(ValueError, match='There is no axis .Weather.'):
        held_and_changing(world, [0] * 4, 'Weather')


# Sliders: the panel

def test_each_slider_draws_once_when_it_is_let_go_of(world, drawn):
    panel = SliderPanel(world, 'weather', 'a photo of one car and one people in cloudy street', seed=5)
    assert drawn.calls == [('a photo of one car and one people in cloudy street', 5)] and is_png(panel.image)
    assert [slider.description for slider in panel.sliders] == ['Frequency', 'Noun', 'Density', 'Weather', 'Scene']
    first = panel.image.value
    panel.sliders[3].value = 'snowy'
    assert drawn.calls[1:] == [('a photo of one car and one people in snowy street', 5)]
    assert panel.image.value != first and told(panel) == (f'{panel.prompt}: read as asked on 5 of 5 axes.', False)
    panel.sliders[3].value = 'cloudy'
    assert len(drawn.calls) == 2 and panel.image.value == first  # seen before
    panel.seed.value = 6
    assert drawn.calls[2:] == [('a photo of one car and one people in cloudy street', 6)]
    panel.go('a photo of many cat and no people in rainy farm')
    assert drawn.calls[3:] == [('a photo of many cat and no people in rainy farm', 6)]


def test_other_axes_keep_the_labels_that_they_share(world, drawn):
    panel = SliderPanel(world, 'weather', 'a photo of many cat and no people in rainy beach')
    panel.options.value = 'activity'
    assert panel.prompt == 'a photo of many cat and one people playing in beach'  # nobody can play if there is nobody
    panel.options.value = 'all'
    assert len(panel.sliders) == len(panel.column.children) == 12 and 'many cat' in panel.prompt
    assert panel.axis.options == tuple(axis.name for axis in panel.grammar.axes)
    panel.options.value = 'base'
    assert panel.prompt == 'a photo of many cat and one people in beach'
    assert len(drawn.calls) == len(set(drawn.calls)) == 4 and is_png(panel.image)


@pytest.mark.parametrize('options', OPTIONS)
def test_every_list_of_axes_can_be_drawn(world, options):
    panel = SliderPanel(world, options)
    assert (
        told(panel) == (f'{panel.prompt}: read as asked on {len(panel.sliders)} of {len(panel.sliders)} axes.', False)
    )


def test_slide_button_draws_only_what_is_new(world, drawn):
    panel = SliderPanel(world, 'time', 'a photo of one car and one people in street at noon', seed=5)
    panel.axis.value = 'Time'
    panel.run.click()
    assert is_png(panel.strips) and not panel.run.disabled
    assert len(drawn.calls) == len(set(drawn.calls)) == 5  # three of the slide, one of them seen; two with new seeds
    shown = panel.strips.value
    panel.run.click()
    assert len(drawn.calls) == 5 and panel.strips.value == shown


@pytest.mark.parametrize('error, sentence', ERRORS)
def test_errors_of_sliders_become_a_sentence(world, drawn, monkeypatch, error, sentence):
    panel = SliderPanel(world, 'base')
    with monkeypatch.context() as patch:
        patch.setattr(drawn, 'generate', broken(error))
        panel.sliders[1].value = 'cat'
        assert told(panel) == (sentence, True) and panel.image.layout.display == 'none'
        panel.run.click()
        assert told(panel) == (sentence, True) and panel.strips.layout.display == 'none' and not panel.run.disabled
    with monkeypatch.context() as patch:
        patch.setattr(drawn, 'perceive', broken(error))
        panel.sliders[1].value = 'dog'
        assert told(panel) == (sentence, True)
    panel.sliders[1].value = 'cat'
    assert told(panel)[1] is False and is_png(panel.image)


def test_a_prompt_of_another_grammar_is_refused(world):
    with pytest.raises(ValueError, match='rainy'):
        SliderPanel(world, 'base', 'a photo of one dog and no people in rainy farm')
    panel = SliderPanel(world, 'base')
    with pytest.raises(ValueError, match='rainy'):
        panel.go('a photo of one dog and no people in rainy farm')
    panel.sliders[1].value = 'cat'
    assert 'cat' in told(panel)[0]


# Forgetting: pure functions

def test_what_can_be_forbidden():
    for noun in NOUNS:
        grammar, axis = forbidden(BASE, noun)
        assert axis == 'Noun' and grammar.n_states == 456 and noun not in grammar.axes[1].labels
    for style in MODIFIERS:
        assert forbidden(BASE, style) == (BASE, None)
    assert forbidden(Grammar.scenes(style=True), 'rembrandt')[1] == 'Style'


@pytest.mark.parametrize('grammar, concept, reason', [
    (BASE, 'one', 'label of one axis .it is one of 2.'), (BASE, 'unicorn', 'cannot be forbidden'),
    (Grammar.domains(), 'penguin', 'it is one of 3'), (BASE, 'no', 'two different labels')])
def test_what_cannot_be_forbidden(grammar, concept, reason):
    grammar = grammar if concept != 'no' else Grammar.from_string('S -> "a" N "dog"\nN -> "no" | "one"')
    with pytest.raises(ValueError, match=reason) as caught:
        forbidden(grammar, concept)
    assert '\n' not in str(caught.value)


@settings(deadline=None)
@given(st.integers(0, len(BASE) - 1), st.sampled_from(NOUNS))
def test_wordings_of_a_noun_change_one_word(state, noun):
    prompt = BASE.decode(BASE.unindex(state))
    texts, names = wordings(BASE, prompt, noun)
    assert names[0] == noun and sorted(names) == sorted(NOUNS) and prompt in texts
    words = prompt.split()
    assert texts == [' '.join([*words[:4], name, *words[5:]]) for name in names]


def test_wordings_of_a_style():
    texts, names = wordings(BASE, PENGUINS, 'astral')
    assert texts[:2] == [f'{PENGUINS}, astral', PENGUINS] and names[:2] == ['astral', 'no style']
    assert len(set(texts)) == len(names) == 13
    assert all(read_prompt(text)['Noun'] == 'penguin' for text in texts)


def test_ablation_of_a_noun(world, drawn):
    result = ablation(world, drawn.draw(PENGUINS, 3), 'penguin', 'a photo of many fish and no people in beach')
    assert (
        result.prompts
        == (PENGUINS, 'a photo of many fish and no people in beach', 'a photo of many penguin and no people in beach')
    )
    assert drawn.calls == [(prompt, 80_000) for prompt in result.prompts[1:]]  # with the same noise
    assert result.likely.shape == (3, 20) and result.likely.sum(1) == pytest.approx(1)
    assert [result.names[i] for i in result.likely.argmax(1)] == ['penguin', 'fish', 'penguin']
    assert result.kept == [('Frequency', 'many', 'many'), ('Density', 'one', 'no'), ('Scene', 'beach', 'beach')]
    assert (
        aftermath(result).startswith('penguin: 99.9% likely in the goal, 0.0% in what was found')
        and '2 of 3 other axes kept' in aftermath(result)
    )
    figure = forgotten(result)
    assert isinstance(figure, Figure) and 1_000 < len(png(figure)) < 100_000
    assert small_texts(figure) == overlaps(figure) == []
    text = figure.axes[3].texts[0].get_text()
    assert 'Density: one, now no' in text and 'Scene: beach, kept' in text and 'Noun' not in text
    assert (
        figure.axes[4].texts[0].get_text() == 'penguin 99.9%' and figure.axes[5].texts[1].get_text().startswith('fish')
    )


def test_ablation_of_a_style(world, drawn):
    result = ablation(world, drawn.draw(f'{PENGUINS}, rembrandt', 3), 'rembrandt', PENGUINS)
    assert result.prompts == (PENGUINS, PENGUINS, f'{PENGUINS}, rembrandt')
    assert [result.names[i] for i in result.likely.argmax(1)] == ['rembrandt', 'no style', 'rembrandt']
    assert len(result.kept) == 4 and all(a == b for _, a, b in result.kept)
    assert 'Noun: penguin, kept' in forgotten(result).axes[3].texts[0].get_text()


def test_a_walk_ends_with_its_budget(world, drawn):
    goal = drawn.draw(PENGUINS, 3)
    for trace in search_steps(world, goal, RLDFSettings(agent='random', seed=1), budget=9):
        pass
    assert not trace.found and trace.calls[-1] == 9


@pytest.mark.parametrize('agent', AGENTS)
def test_a_walk_of_every_agent_is_its_search(world, drawn, agent):
    goal, chosen = drawn.draw(PENGUINS, 3), RLDFSettings(agent=agent, reward='multi', seed=2, max_steps=150)
    for trace in search_steps(world, goal, chosen, budget=60):
        pass
    assert (
        search_once(world, goal, chosen, budget=60)
        == {'prompt': trace.prompt, 'found': trace.found, 'steps': len(trace.states), 'calls': trace.calls[-1]}
    )


# Forgetting: the panel

def panel_of(world, goal, **changes):
    return AblationPanel(world, goal, **{'settings': RLDFSettings(agent='bandit'), 'budget': 456} | changes)


def test_run_button_forgets_a_noun(world, drawn):
    panel = panel_of(world, drawn.draw(PENGUINS, 3))
    panel.run.click()
    assert is_png(panel.live) and is_png(panel.results[0]) and not panel.run.disabled and panel.stop.disabled
    # the first label: it has no word
    assert panel.trace.found and panel.result.prompts[1] == PENGUINS.replace('penguin', 'banana')
    assert told(panel) == (f'Found in {len(panel.trace.states)} steps, {panel.trace.calls[-1]} unique generator calls: '
                           f'{panel.trace.prompt}. {aftermath(panel.result)}', False)
    # the one that was asked for by name
    assert [prompt for prompt, _ in drawn.calls if 'penguin' in prompt] == [PENGUINS]
    assert panel.progress.value == panel.trace.calls[-1] and panel.progress.max == 456


def test_run_button_forgets_a_style(world, drawn):
    panel = panel_of(world, drawn.draw(f'{PENGUINS}, rembrandt', 3), concept='rembrandt')
    panel.run.click()
    assert panel.result.prompts[1:] == (PENGUINS, f'{PENGUINS}, rembrandt')
    assert [prompt for prompt, _ in drawn.calls if 'rembrandt' in prompt] == [f'{PENGUINS}, rembrandt']


def test_a_second_run_draws_nothing_anew(world, drawn):
    panel = panel_of(world, drawn.draw(PENGUINS, 3), budget=40)
    panel.run.click()
    assert panel.trace.calls[-1] <= 40 and len(drawn.calls) == len(set(drawn.calls)) <= 42
    before, shown = len(drawn.calls), panel.results[0].value
    panel.run.click()
    assert len(drawn.calls) == before and panel.results[0].value == shown
    panel.seed.value, panel.concept.value, panel.budget.value = 1, 'dog', 3
    panel.run.click()
    assert panel.result.concept == 'dog' and panel.trace.calls[-1] == 3 and len(drawn.calls) == len(set(drawn.calls))


def test_list_of_concepts(world):
    panel = panel_of(world, None)
    assert set(panel.concept.options) == {*NOUNS, *MODIFIERS}
    assert [label for label, _ in panel.picker.style.options] == ['none', *MODIFIERS]
    styled = World(Grammar.scenes(style=True), world.generator, world.perception)
    panel = panel_of(styled, None)
    assert 'rembrandt' not in panel.concept.options and 'astral' in panel.concept.options
    with pytest.raises(ValueError, match='.unicorn. cannot be forbidden'):
        panel_of(world, None, concept='unicorn')


def test_goals_in_a_style(world):
    picker = GoalPicker(world, styles=MODIFIERS)
    plain = render(world.grammar.decode([slider.index for slider in picker.labels]), picker.seed)[0]
    picker.style.value = ', earth art'
    assert (
        picker.image.tobytes()
        == render(world.grammar.decode([slider.index for slider in picker.labels]) + ', earth art', picker.seed)[
            0
        ].tobytes()
    )
    picker.style.value = ''
    assert picker.image.tobytes() == plain.tobytes()
    assert GoalPicker(world).style not in GoalPicker(world).controls.children[0].children


def test_opened_goal_is_the_one_that_is_searched_for(world, drawn):
    panel = panel_of(world, None, concept='dog', budget=30)
    goal = drawn.draw(PENGUINS, 3)
    upload(panel.picker, 'a goal', content(goal))
    panel.run.click()
    assert panel.result.images[0].tobytes() == goal.tobytes() and panel.result.prompts[0] == PENGUINS


@pytest.mark.parametrize('error, sentence', ERRORS)
def test_errors_of_a_search_become_a_sentence(world, drawn, monkeypatch, error, sentence):
    panel = panel_of(world, drawn.draw(PENGUINS, 3))
    monkeypatch.setattr(drawn, 'generate', broken(error))
    panel.run.click()
    assert told(panel) == (sentence, True) and not panel.run.disabled and panel.results[0].layout.display == 'none'


def test_two_nouns_are_too_few(drawn):
    two = Grammar.from_string(SMALL.replace('"dog" | "cat" | "elephant"', '"dog" | "cat"'))
    panel = panel_of(World(two, Cached(drawn, Store(':memory:')), drawn), None, concept='rembrandt')
    panel.concept.value = 'dog'
    panel.run.click()
    assert told(panel)[1] and 'needs two different labels' in told(panel)[0] and not drawn.calls


def test_stop_button(world, drawn):
    async def pressed():
        panel = panel_of(world, drawn.draw(PENGUINS, 3), settings=RLDFSettings(agent='random'))
        drawn.seconds = .05
        panel.run.click()
        task = panel.task
        panel.run.click()
        assert panel.task is task and panel.run.disabled and not panel.stop.disabled
        await asyncio.sleep(0)
        panel.stop.click()
        await asyncio.wait_for(task, 60)
        return panel
    panel = asyncio.run(pressed())
    assert told(panel)[0].startswith('Stopped. ') and panel.result is not None and is_png(panel.results[0])
    assert panel.trace.calls[-1] < 100


# What all panels share; tests/test_lab.py sees it in a browser

def light(colour):
    "Relative luminance of #rrggbb."
    values = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.dot([.2126, .7152, .0722], [v / 12.92 if v <= .03928 else ((v + .055) / 1.055) ** 2.4 for v in values])


def test_errors_can_be_read_on_any_page():
    line = widgets.HTML()
    show_message(line, 'wrong', wrong=True)
    text, ground = map(light, re.findall('#[0-9a-f]{6}', line.value))
    assert (ground + .05) / (text + .05) > 4.5 and 'role="alert"' in line.value
    show_message(line, 'right')
    assert 'background' not in line.value and 'role="status"' in line.value


def test_controls_get_names_that_are_not_cut(world):
    def all_of(box):
        return [box, *(deep for child in getattr(box, 'children', ()) for deep in all_of(child))]
    for panel in (SearchPanel(world), SliderPanel(world, 'all'), AblationPanel(world)):
        for control in all_of(panel.box):
            assert not hasattr(control, 'description') or control.tooltip is not None, control
            assert not isinstance(control, widgets.SelectionSlider | widgets.IntSlider | widgets.FloatSlider)
    assert named(widgets.IntText(tooltip='mine', description='theirs')).tooltip == 'mine'


def test_time_left():
    cases = {(0, 10, 5.): '', (5, 10, 5.): '5 s', (1, 300, 1.): '5 min', (10, 10, 3.): '0 s'}
    assert all(time_left(*given) == words for given, words in cases.items())


def test_a_panel_says_that_the_kernel_is_busy():
    async def made():
        line = widgets.HTML('what stood there')
        until_heard(line, 'busy', every=.01)
        time.sleep(.05)  # a cell
        await asyncio.sleep(.001)
        before = line.value
        for _ in range(500):
            if 'busy' not in line.value: break
            await asyncio.sleep(.01)
        return before, line.value
    before, after = asyncio.run(made())
    assert 'busy' in before and after == 'what stood there'
    line = widgets.HTML()
    until_heard(line)
    assert line.value == ''  # no event loop: nothing to wait for


def test_an_interrupt_stops_a_search(world, drawn):
    async def interrupted():
        panel = panel_of(world, drawn.draw(PENGUINS, 3), settings=RLDFSettings(agent='random'))
        drawn.seconds = .02
        panel.run.click()
        await asyncio.sleep(.1)
        signal.raise_signal(signal.SIGINT)
        assert panel.stop.disabled and panel.stop.description == 'Stopping' and 'Stopping' in told(panel)[0]
        await asyncio.wait_for(panel.task, 60)
        return panel
    before = signal.getsignal(signal.SIGINT)
    panel = asyncio.run(interrupted())
    assert told(panel)[0].startswith('Stopped. ') and panel.stop.description == 'Stop'
    assert WalkPanel.under_way is None and signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError), interrupts(lambda: None):
        1 / 0  # noqa: B018 (an error on purpose)
    assert signal.getsignal(signal.SIGINT) is before


def test_there_is_one_run_at_a_time(world, drawn):
    async def two():
        first, second = (panel_of(world, drawn.draw(PENGUINS, 3), settings=RLDFSettings(agent='random')) for _ in '12')
        drawn.seconds = .02
        first.run.click()
        await asyncio.sleep(.1)
        second.run.click()
        await asyncio.wait_for(first.task, 60)
        assert WalkPanel.under_way is second and told(first)[0].startswith('Stopped. ')
        panel_of(world, None)  # as when a cell is run again
        await asyncio.wait_for(second.task, 60)
        assert told(second)[0].startswith('Stopped. ')
    asyncio.run(two())


def test_single_steps(world, drawn):
    async def stepped():
        panel = SearchPanel(world, drawn.draw(PENGUINS, 3), RLDFSettings(seed=1, max_steps=30))
        for steps in (1, 2, 3):
            panel.step.click()
            while panel.run.description != 'Go on' or len(panel.trace.states) < steps:
                await asyncio.sleep(.01)
            assert len(panel.trace.states) == steps
            panel.run.description = 'Run'
        panel.run.click()
        await asyncio.wait_for(panel.task, 60)
        return panel
    panel = asyncio.run(stepped())
    assert panel.trace.found or len(panel.trace.states) == 30
    assert not panel.run.disabled and panel.run.description == 'Run'


def test_a_search_is_looked_at_again(world, drawn):
    panel = SearchPanel(world, drawn.draw(PENGUINS, 3), RLDFSettings(seed=1, max_steps=40))
    panel.guess.value = 7
    panel.run.click()
    assert told(panel)[0].endswith('Your guess was 7 images.') and panel.at.value == len(panel.trace.states)
    end = panel.live.value
    panel.at.value = 3
    assert panel.live.value != end and until(panel.trace, 3).calls == panel.trace.calls[:3]
    panel.map.look.click()
    assert is_png(panel.place) and 'The image of' in panel.place.tooltip
    for i, preset in enumerate(PRESETS):
        panel.preset.value = preset
        panel.run.click()
        assert not told(panel)[1], told(panel)
        panel.map.look.click()
        assert len(panel.past) == min(6, i + 2) and is_png(panel.results[3])
    assert panel.agent.value == 'posterior'
    for figure in (state_figure(panel.trace, 5), runs_figure(panel.past)):
        assert small_texts(figure) == overlaps(figure) == []


def test_what_was_found_for_another_goal_is_hidden(world, drawn):
    panel = panel_of(world, drawn.draw(PENGUINS, 3), budget=20)
    panel.run.click()
    assert panel.results[0].layout.visibility == 'visible'
    panel.picker.show(drawn.draw(PENGUINS, 4))
    assert {image.layout.visibility for image in (panel.live, *panel.results)} == {'hidden'} and told(panel)[0] == ''
    panel.run.click()
    assert panel.results[0].layout.visibility == 'visible'


def test_a_path_is_typed_in_place_of_an_upload(world, drawn, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    picker, goal = GoalPicker(world), drawn.draw(PENGUINS, 4)
    goal.save(tmp_path / "large.png")
    row, hint = picker.controls.children
    assert picker.path in row.children and "10 MB" in hint.value
    picker.path.value = ' "~/large.png" '
    assert picker.image.tobytes() == goal.tobytes() and told(picker) == ("Read as: " + PENGUINS, False)
    assert picker.path.value == ""
    picker.path.value = "~/none.png"
    assert told(picker) == (f"'{tmp_path}/none.png' does not exist: check the path.", True)
    assert picker.image.tobytes() == goal.tobytes() and picker.path.value == "~/none.png"


def test_the_same_file_can_be_uploaded_again(world, drawn):
    picker, goal = GoalPicker(world), drawn.draw(PENGUINS, 4)
    for _ in range(2):
        upload(picker, "a goal", content(goal))
        assert picker.image.tobytes() == goal.tobytes() and picker.upload.value == ()
        picker.labels[0].value = next(text for text in BASE.axes[0].labels if text != picker.labels[0].value)


def test_panels_with_the_shipped_models():
    world = default_world(inference_steps=1)
    panel = SliderPanel(world, 'base')
    calls = world.generator.calls
    panel.sliders[3].value = 'street'
    assert world.generator.calls == calls + 1 and is_png(panel.image) and not told(panel)[1]
    panel = panel_of(world, None, concept='dog', budget=3)
    panel.run.click()
    assert not told(panel)[1], told(panel)
    assert is_png(panel.results[0]) and panel.result.likely.sum(1) == pytest.approx(1)
    assert 'dog' not in panel.result.prompts[1] and 'dog' in panel.result.prompts[2]


def test_a_new_panel_says_that_the_kernel_is_busy_until_it_is_not():
    from rlgen.widgets.panels import until_heard

    async def after_the_cells():
        line = widgets.HTML('ready')
        until_heard(line, every=.01)
        said = line.value
        await asyncio.sleep(.3)
        return said, line.value
    said, then = asyncio.run(after_the_cells())
    assert 'The kernel is busy' in said and then == 'ready'
