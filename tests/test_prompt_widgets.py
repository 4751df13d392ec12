"""The panel that tunes a prompt, and the plain functions below it.

Pictures are drawn by the renderer and compared pixel by pixel, so that no picture model is loaded;
the language model is the shipped one.
"""
import asyncio
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from test_panels import Drawn, told
from test_plots import overlaps, small_texts
from test_walkthroughs import content, is_png, upload

from rlgen.data.prompts import Pair, scene_pairs
from rlgen.envs.grid import World
from rlgen.experiments.preference import ONE_PAIR, make_prompt_policy, token_probabilities, tune_prompt_steps
from rlgen.grammar import Grammar
from rlgen.models.generator import Cached
from rlgen.plots import AGENT_COLOURS
from rlgen.rewards.similarity import Similarity
from rlgen.scenes import MODIFIERS, render
from rlgen.store import Store
from rlgen.widgets import preference as panels
from rlgen.widgets.preference import (
    OWN,
    PromptPanel,
    images_by_step,
    outcome,
    preferences,
    share_of_way,
    shipped_pairs,
    tuning_chart,
)

PIXELS = Similarity(None, pixels=True)
PAIR = scene_pairs('painting', 1, seed=1, min_modifiers=4)[0]
EVERY = ONE_PAIR.learning.sample_every  # steps from one writing of prompts to the next
AT_ONCE = ONE_PAIR.learning.samples_per_prompt
SHORT = replace(ONE_PAIR, max_steps=4 * EVERY)


class Lenient(Drawn):
    "Draws the modifiers that it knows, and overlooks all other words behind the scene."

    def draw(self, prompt, seed):
        scene, _, text = prompt.partition(', ')
        return super().draw(', '.join([scene, *(phrase for phrase in MODIFIERS if phrase in text)]), seed)


class Blank:
    "A generator that draws nothing."
    negative, batch_size = '', 32

    def generate(self, prompts, seeds, negative=None):
        return [Image.new('RGB', (8, 8))]*len(prompts)


def named(word):
    "A reward for naming a word."
    return lambda images, prompts, goals: np.array(
        [float(word in prompt.split(', ')[-1].split()) for prompt in prompts]
    )


def last(pair=PAIR, settings=SHORT, generator=None, reward=PIXELS):
    "A tuning to its end."
    for result in tune_prompt_steps(generator or Lenient(), reward, [pair], settings):
        pass
    return result


@pytest.fixture(scope='module')
def result():
    return last()


@pytest.fixture
def panel():
    drawn = Lenient()
    return PromptPanel(World(Grammar.scenes(), Cached(drawn, Store(':memory:')), drawn), PIXELS, SHORT)


# What may be written

def test_words_of_the_modifiers():
    policy = make_prompt_policy(replace(ONE_PAIR, length=3))
    words = {text.strip() for text in policy.decode(torch.nonzero(policy.allowed))}
    assert words - {','} == {piece for phrase in MODIFIERS for piece in phrase.replace('4k', '4 k').split()}
    assert policy.length == 3
    assert make_prompt_policy(replace(ONE_PAIR, vocabulary='all')).allowed.sum() > 300


@pytest.mark.parametrize(
    'settings, told',
    [
        ({'vocabulary': 'verbs'}, "no vocabulary 'verbs'; choose one of all, modifiers"),
        ({'max_steps': 0}, 'max_steps is 0'),
    ],
)
def test_settings_outside_their_ranges_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        replace(ONE_PAIR, **settings)


# A tuning

def test_tuning_grows_by_a_step_at_a_time():
    drawn = Cached(Lenient(), Store(':memory:'))
    for i, result in enumerate(tune_prompt_steps(drawn, PIXELS, [PAIR], SHORT), 1):
        times = -(-i // EVERY)
        assert all(len(part) == times for part in (result.means, result.best, result.calls, result.usual))
        assert result.calls[-1] == drawn.calls and result.steps == i
    assert i == SHORT.max_steps
    assert result.best == sorted(result.best) and all(a <= b for a, b in zip(result.means, result.best, strict=True))
    assert result.best[-1] == pytest.approx(result.reward_of(result.answer))
    assert result.calls[0] <= AT_ONCE  # the first prompts; both lines are not counted
    assert result.reward_of('') == result.seed_prompt_reward
    truth = drawn.generate([PAIR.prompt], [0])
    assert result.ground_truth_reward == pytest.approx(PIXELS(truth, [PAIR.prompt], PIXELS.target(PAIR.targets))[0])


def test_usual_text_is_the_one_written_most_often(result):
    texts = result.agent.policy.decode(torch.from_numpy(result.agent.replay_buffer[1][-AT_ONCE:]))
    assert texts.count(result.usual[-1]) == max(map(texts.count, texts))
    assert result.means[-1] == pytest.approx(np.mean([result.reward_of(text) for text in texts]))


def test_tuning_is_decided_by_its_seed(result):
    again, other = last(), last(settings=replace(SHORT, seed=1))
    assert (again.means, again.usual, again.calls) == (result.means, result.usual, result.calls)
    assert other.usual != result.usual


@pytest.mark.parametrize('length', [1, 2])
def test_tuning_learns_what_is_paid(length):
    settings = replace(ONE_PAIR, length=length, max_steps=30 * EVERY)
    result = last(settings=settings, generator=Blank(), reward=named('macabre'))
    assert np.mean(result.means[-10:]) > np.mean(result.means[:5]) + .3
    assert 'macabre' in result.agent.policy.decode(result.agent.policy.sample([PAIR.seed], greedy=True).ids)[0]
    assert 'macabre' in result.answer and result.best[-1] == 1


def test_pair_without_a_target_is_refused():
    with pytest.raises(ValueError, match='There is no target image'):
        next(tune_prompt_steps(Lenient(), PIXELS, [replace(PAIR, targets=())], SHORT))


def test_seed_prompt_that_is_too_long_is_refused():
    drawn = Lenient()
    with pytest.raises(ValueError, match='shorten it'):
        next(tune_prompt_steps(drawn, PIXELS, [replace(PAIR, seed='dog '*100)], SHORT))
    assert not drawn.calls


# Figures

def test_chart_shows_what_was_noted(result):
    figure = tuning_chart(result)
    target, best, rewards, calls = figure.axes
    assert (np.asarray(target.images[0].get_array()) == np.asarray(PAIR.targets[0])).all()
    assert (np.asarray(best.images[0].get_array()) == np.asarray(result.image(result.answer))).all()
    lines = {line.get_label(): line.get_ydata() for line in rewards.lines}
    assert list(lines['mean of the step']) == result.means and list(lines['best so far']) == result.best
    assert (
        set(lines['seed prompt alone']) == {result.seed_prompt_reward}
        and set(lines['ground truth']) == {result.ground_truth_reward}
    )
    assert list(calls.lines[0].get_ydata()) == result.calls
    mean, = (line for line in rewards.lines if line.get_label() == 'mean of the step')
    assert mean.get_color() == AGENT_COLOURS['soft-q']


def test_texts_of_the_figures_are_large_enough_and_apart(result):
    figures = [tuning_chart(result), images_by_step(result), preferences(result.policy, PAIR.seed, result.start)]
    assert [small_texts(figure) + overlaps(figure) for figure in figures] == [[]] * 3


def test_chart_of_one_step():
    assert isinstance(tuning_chart(last(settings=replace(SHORT, max_steps=1))), Figure)


def test_no_ground_truth_no_line():
    result = last(Pair(PAIR.seed, PAIR.seed, (), PAIR.targets))
    labels = [line.get_label() for line in tuning_chart(result).axes[2].lines]
    assert result.ground_truth_reward is None and 'ground truth' not in labels and 'seed prompt alone' in labels
    assert 'ground truth' not in outcome(result)
    titles = [ax.get_title() for ax in images_by_step(result).axes]
    assert not any('ground truth' in title for title in titles)


def test_pictures_by_step(result):
    shown = [ax.get_title().replace('\n', ' ') for ax in images_by_step(result, 3).axes if ax.images]
    assert shown[0] == f'seed prompt alone ({result.seed_prompt_reward:.3f})' and shown[-1] == 'target'
    assert [title[:7] for title in shown[1:4]] == ['step 1:', 'step 3:', 'step 4:']
    assert (
        shown[4].startswith('best of all: ')
        and shown[5] == f'ground truth ({result.ground_truth_reward:.3f})'
        and len(shown) == 7
    )
    before = result.task.unique_generator_calls
    images_by_step(result)
    assert result.task.unique_generator_calls == before  # looking costs no new picture


def test_chances_follow_the_likeliest_path(result):
    policy = result.agent.policy
    ids, now, then = token_probabilities(policy, PAIR.seed, result.start)
    assert ids.tolist() == policy.sample([PAIR.seed], greedy=True).ids[0].tolist() == now.argmax(1).tolist()
    count = int(policy.allowed.sum())
    assert (
        now.sum(1) == pytest.approx([1, 1], abs=1e-4)
        and then[:, policy.allowed.numpy()] == pytest.approx(np.full((2, count), 1 / count), abs=1e-3)
    )
    assert not now[:, ~policy.allowed.numpy()].any()


def test_preferences_show_before_and_after(result):
    policy = result.agent.policy
    ids, now, then = token_probabilities(policy, PAIR.seed, result.start)
    axes = preferences(policy, PAIR.seed, result.start, max_tokens=4).axes
    assert len(axes) == 2 and axes[1].get_title() == f'token 2, behind: {policy.decode([ids[0]])[0]}'
    for ax, after, before in zip(axes, now, then, strict=True):
        top = np.argsort(-after, kind='stable')[:4]
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(after[top])
        assert ax.lines[0].get_xdata() == pytest.approx(before[top])
        assert [text.get_text().rsplit(' ', 1)[0] for text in ax.texts] == policy.decode(top[:, None])


def test_many_tokens_stand_in_rows():
    result = last(settings=replace(ONE_PAIR, length=7, max_steps=1))
    drawn = [ax for ax in preferences(result.agent.policy, PAIR.seed, result.start).axes if ax.patches]
    assert len(drawn) == 7 and len({round(ax.get_position().y0, 3) for ax in drawn}) == 2


def test_share_of_the_way():
    assert [share_of_way(value, .4, .9) for value in (.4, .8, .9)] == pytest.approx([0, .8, 1])
    assert np.isnan(share_of_way(.5, .4, .4)) and np.isnan(share_of_way(.5, .4, None))


def test_outcome_says_what_was_found(result):
    said = outcome(result)
    assert said.startswith(f'4 steps, {result.calls[-1]} unique images. ') and repr(result.answer) in said
    share = share_of_way(result.best[-1], result.seed_prompt_reward, result.ground_truth_reward)
    assert f'{share:.0%} of the way' in said and '\n' not in said


# The panel

def test_shipped_pairs_have_targets_and_ground_truths():
    pairs = shipped_pairs()
    assert [name.split(':')[0] for name in pairs] == ['futuristic']*2 + ['art']*2 + ['painting']*2
    assert all(len(pair.targets) == 1 and len(pair.removed) == 4 for pair in pairs.values())


def test_run_button(panel):
    panel.run.click()
    assert is_png(panel.live) and all(map(is_png, panel.results))
    assert told(panel) == (outcome(panel.trace), False)
    assert panel.progress.value == panel.progress.max == 4 and not panel.run.disabled and panel.stop.disabled


def test_controls_decide(panel):
    panel.length.value, panel.vocabulary.value, panel.steps.value, panel.seed.value = 1, 'all', 2, 5
    panel.seed_prompt.value = 'a photo of one dog and no people in farm'
    pair, settings = panel.chosen()
    assert settings == replace(SHORT, length=1, vocabulary='all', max_steps=2 * EVERY, seed=5)
    assert pair.seed == 'a photo of one dog and no people in farm' and pair.removed
    panel.run.click()
    assert len(panel.trace.means) == 2 and panel.trace.agent.policy.length == 1 and panel.trace.pair == pair


def test_another_pair_brings_its_target_and_its_seed_prompt(panel):
    name = list(panel.shipped)[-1]
    panel.pair.value = name
    assert panel.seed_prompt.value == panel.shipped[name].seed and panel.pair.value == name
    assert panel.picker.image is panel.shipped[name].targets[0] and panel.chosen()[0] == panel.shipped[name]


def test_a_drawn_target_is_read_and_has_no_ground_truth(panel):
    panel.picker.style.value = ', macabre'
    pair, _ = panel.chosen()
    assert panel.pair.value == OWN and pair.removed == () and pair.targets == (panel.picker.image,)
    assert pair.seed == panel.world.grammar.decode([0, 0, 0, 0])  # so this perception reads what it has not drawn
    panel.run.click()
    assert panel.trace.ground_truth_reward is None and all(map(is_png, panel.results))


def test_an_opened_target_is_read(panel):
    picture = panel.world.perception.draw('a photo of many cat and no people in street', 8)
    upload(panel.picker, 'a file', content(picture))
    assert (panel.pair.value, panel.seed_prompt.value) == (OWN, 'a photo of many cat and no people in street')
    assert panel.chosen()[0].targets[0].tobytes() == picture.tobytes()


def test_a_file_that_is_no_picture_changes_nothing(panel):
    before = panel.chosen()
    upload(panel.picker, 'a file', b'text')
    assert panel.chosen() == before and re.search('a file', panel.picker.message.value)


def test_own_can_be_chosen_for_the_picture_that_is_there(panel):
    shown, words = panel.picker.image, panel.seed_prompt.value
    panel.pair.value = OWN
    pair, _ = panel.chosen()
    assert pair.targets == (shown,) and pair.seed == words and not pair.removed


@pytest.mark.parametrize(
    'words, sentence', [('', 'it must be a text with at least one word'), ('dog ' * 100, 'shorten it')]
)
def test_bad_seed_prompts_become_a_sentence(panel, words, sentence):
    panel.seed_prompt.value = words
    panel.run.click()
    said, red = told(panel)
    assert sentence in said and red and not panel.run.disabled


def test_results_do_not_stay_beside_another_target(panel):
    panel.steps.value = 1
    for change in (lambda: setattr(panel.pair, 'value', list(panel.shipped)[1]),
                   lambda: setattr(panel.picker.style, 'value', ', macabre')):
        panel.run.click()
        assert is_png(panel.live) and told(panel)[0]
        change()
        assert told(panel) == ('', False)
        assert {image.layout.visibility for image in (panel.live, *panel.results)} == {'hidden'}


def test_stop_button(panel):
    async def pressed():
        panel.steps.value = 10_000
        panel.run.click()
        await asyncio.sleep(0)
        panel.stop.click()
        await asyncio.wait_for(panel.task, 60)
    asyncio.run(pressed())
    assert 1 <= len(panel.trace.means) < 100 and told(panel)[0].startswith('Stopped. ')
    assert all(map(is_png, (panel.live, *panel.results)))


def test_errors_while_learning_become_a_sentence(panel, monkeypatch):
    def fail(t):
        raise MemoryError
    monkeypatch.setattr(panels, 'tuning_chart', fail)
    panel.run.click()
    assert told(panel) == ('MemoryError', True) and not panel.run.disabled


def test_target_as_the_renderer_draws_it():
    "A tuning with pictures of the renderer finds a manner by pixels."
    target = render('a photo of one dog and no people in farm, macabre', 3)[0]
    result = last(
        Pair(
            'a photo of one dog and no people in farm',
            'a photo of one dog and no people in farm, macabre',
            ('macabre',),
            (target,),
        ),
        replace(ONE_PAIR, length=1, max_steps=20 * EVERY),
    )
    assert result.answer == 'macabre' and result.best[-1] == pytest.approx(result.ground_truth_reward)


def test_the_lines_are_named_behind_their_ends_without_overlap(result):
    rewards = tuning_chart(result).axes[2]
    heights = sorted(text.get_position()[1] for text in rewards.texts)
    assert {text.get_text() for text in rewards.texts} == {line.get_label() for line in rewards.lines}
    assert min(np.diff(heights)) > .1 * (max(result.best) - result.seed_prompt_reward)
