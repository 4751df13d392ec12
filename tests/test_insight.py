"""Panels that show what is inside: a table while it is learned, what one reward tells, a word that changes on the way.

Tables are learned on images that show their labels; only the tests of the denoising use the shipped generator.
"""
import html
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_hex
from PIL import Image
from standins import Drawing, goal_image, world_of
from test_plots import overlaps, small_texts
from test_walkthroughs import is_png

from rlgen.agents.tabular import QLearning
from rlgen.experiments.optimum import LearningSnapshot, learning_snapshots, solve
from rlgen.experiments.rldf import RLDFSettings, make_env_and_agent
from rlgen.experiments.search_limits import (
    agreement,
    best_question,
    bits_gained,
    goals_left,
    greedy_images,
    question_bits,
)
from rlgen.grammar import Grammar
from rlgen.models.generator import Generator
from rlgen.widgets import insight
from rlgen.widgets.insight import (
    ForkPanel,
    QuestionPanel,
    SnapshotPanel,
    fork_figure,
    fork_line,
    forked_images,
    goal_mosaic,
    goals_figure,
    rendered_thumbnails,
    right_decisions,
    snapshot_figure,
    snapshot_line,
    word_seen,
)
from rlgen.widgets.rldf import unfold

LEARNING = RLDFSettings(epsilon=.3, step_size=1.)
MOMENTS = (20, 200, 8000)


def told(panel):
    "What the line of a panel says."
    return html.unescape(re.sub('<[^>]+>', '', panel.message.value))


@pytest.fixture(scope='module')
def optimum():
    return solve(world_of(Drawing()), goal_image())


@pytest.fixture(scope='module')
def snapshots(optimum):
    return list(learning_snapshots(optimum, LEARNING, MOMENTS))


# A table while it is learned

@pytest.mark.parametrize('row, right', [
    ((7, 0, 0), True), ((0, 7, 0), True), ((1, 1, 0), True), ((2, 2, 3), False), ((0, 0, 0), False),
    ((5, 0, 5), False)])
def test_a_decision_is_right_if_every_preferred_action_is_optimal(row, right):
    q = np.array([[2., 2, 1]])
    assert right_decisions(np.array([row], float), q).tolist() == [right]


def test_snapshots_are_moments_of_one_run(optimum, snapshots):
    assert [snapshot.steps for snapshot in snapshots] == list(MOMENTS)
    known = optimum.env.state_values
    env, learner = make_env_and_agent(known.world, known.goal, LEARNING)
    assert isinstance(learner, QLearning)
    learner.learn(env, MOMENTS[-1])
    assert (snapshots[-1].table == learner.table).all()
    assert not (snapshots[0].table == snapshots[1].table).all()  # copies, not the table that goes on changing


def test_measures_of_snapshots(optimum, snapshots):
    away = np.arange(48) != optimum.env.goal_state
    for snapshot in snapshots:
        assert snapshot.gap.max_error == pytest.approx(np.abs(snapshot.table - optimum.q)[away].max())
    first, _, last = (snapshot.gap.summary()['arrives'] for snapshot in snapshots)
    assert first < .5 and last == 1
    assert right_decisions(snapshots[-1].table, optimum.q)[away].all()


def test_the_reward_is_that_of_the_optimum(optimum, snapshots):
    other, = learning_snapshots(optimum, RLDFSettings(epsilon=.3, step_size=1., reward='clip'), MOMENTS[:1])
    assert (other.table == snapshots[0].table).all()


def test_the_largest_error_is_a_pair_that_was_never_tried(optimum, snapshots):
    last = snapshots[-1]
    assert last.gap.max_error > last.gap.visited_error + .1
    error = np.delete(np.abs(last.table - optimum.q), optimum.env.goal_state, 0)
    assert np.delete(last.table, optimum.env.goal_state, 0).flat[error.argmax()] == 0


def parts(figure):
    "The axes of a figure by their titles' first words."
    return {ax.get_title().split()[0]: ax for ax in figure.axes if ax.get_title()}


def test_map_of_errors(optimum, snapshots):
    grammar, goal = optimum.env.grammar, optimum.env.goal_state
    wrong = ~right_decisions(snapshots[1].table, optimum.q) & (np.arange(48) != goal)
    assert 0 < wrong.sum() < 47
    figure = snapshot_figure(optimum, snapshots, 1)
    ax = next(ax for ax in figure.axes if ax.images)
    rows, columns = unfold(grammar, range(48))
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)[rows, columns]
    assert np.isnan(shown[goal]) and np.isnan(shown).sum() == 1
    expected = np.abs(snapshots[1].table - optimum.q).max(1)
    assert np.delete(shown, goal) == pytest.approx(np.delete(expected, goal))
    frames = {tuple(place) for place in ax.collections[0].get_offsets().astype(int).tolist()}
    assert frames == {(x, y) for x, y, framed in zip(columns, rows, wrong, strict=True) if framed}
    assert ax.get_title().startswith(f'{wrong.sum()} of 47 decisions wrong')


def test_signs_are_the_actions(optimum):
    "Scene is the longest axis, so its arrows are vertical; then I, Noun and P from the right to the left."
    table = np.zeros((48, 8))
    table[range(8), range(8)] = 1
    gap = LearningSnapshot(1, table, next(learning_snapshots(optimum, LEARNING, [1])).gap)
    ax = next(ax for ax in snapshot_figure(optimum, [gap], 0).axes if ax.images)
    rows, columns = unfold(optimum.env.grammar, range(48))
    signs = {(round(text.get_position()[0]), round(text.get_position()[1])): text.get_text() for text in ax.texts}
    assert [axis.name for axis in optimum.env.grammar.axes] == ['P', 'Noun', 'I', 'Scene']
    found = ''.join(signs[columns[state], rows[state]] for state in range(8))
    assert found == '⇥⇤⇒⇐→←↓↑'
    undecided = {state for state in range(8, 48) if signs.get((columns[state], rows[state])) == '?'}
    tied = ~np.isclose(optimum.q, optimum.q.max(1, keepdims=True)).all(1)
    assert undecided == set(np.flatnonzero(tied)[np.flatnonzero(tied) > 7]) - {optimum.env.goal_state}


def test_curves_beside_the_map(optimum, snapshots):
    axes = parts(snapshot_figure(optimum, snapshots, 2))
    largest, *_ = axes['error'].lines
    assert largest.get_xdata().tolist() == list(MOMENTS)
    assert largest.get_ydata() == pytest.approx([snapshot.gap.max_error for snapshot in snapshots])
    arrivals, now = axes['starts'].lines
    assert arrivals.get_ydata()[-1] == 100 and now.get_xdata() == [MOMENTS[2]] and now.get_ydata() == [100]
    assert small_texts(snapshot_figure(optimum, snapshots, 2)) == []


def test_moments_of_snapshots(optimum, snapshots):
    panel = SnapshotPanel(optimum, snapshots)
    assert [label for label, _ in panel.moment.options] == ['20', '200', '8,000']
    seen = set()
    for i, snapshot in enumerate(snapshots):
        panel.moment.value = i
        assert is_png(panel.image) and told(panel) == snapshot_line(snapshot)
        seen.add(panel.image.value)
    assert len(seen) == 3
    assert told(panel).startswith('After 8,000 steps') and 'arrives from 100% of the starts' in told(panel)


# What one reward tells

SIX = agreement([2, 3], [1, 1])  # one or many; dog, cat, fox


def test_goals_left_by_hand():
    left = goals_left(SIX, [0, 1], [1, 0])  # one dog: one label is right; one cat: none
    assert [np.flatnonzero(row).tolist() for row in left] == [[0, 1, 2, 3, 4, 5], [1, 2, 3], [3]]
    assert bits_gained(left) == pytest.approx([1, np.log2(3)])
    assert goals_left(SIX, [], []).tolist() == [[True] * 6]
    assert goals_left(SIX, [0, 0], [1, 2])[-1].sum() == 0  # two rewards that contradict each other


def test_bits_of_a_question_by_hand():
    "One dog: reward 2 for one goal of six, 1 for three, 0 for two."
    expected = np.log2(6) / 6 + np.log2(2) / 2 + np.log2(3) / 3
    assert question_bits(SIX, np.arange(6)) == pytest.approx([expected] * 6)
    assert question_bits(SIX, np.array([3])) == pytest.approx([0] * 6)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_a_question_tells_on_average_what_it_promises(nvec, data):
    rewards = agreement(nvec, data.draw(st.lists(st.integers(1, 3), min_size=len(nvec), max_size=len(nvec))))
    everything = range(len(rewards))
    possible = np.array(sorted(data.draw(st.sets(st.sampled_from(everything), min_size=1))))
    promised = question_bits(rewards, possible)
    for state in everything:
        counts = [(rewards[state, possible] == rewards[state, goal]).sum() for goal in possible]
        assert promised[state] == pytest.approx(np.mean(np.log2(len(possible) / np.array(counts))), abs=1e-12)
    if len(possible) == 1:
        assert best_question(rewards, possible) == possible[0]


def test_best_questions_find_each_goal_as_was_counted():
    rewards, images = agreement([2, 4, 3], [1, 1, 2]), greedy_images([2, 4, 3], [1, 1, 2])
    for goal in range(24):
        asked = []
        while goal not in asked:
            left = goals_left(rewards, asked, rewards[asked, goal])[-1]
            asked.append(best_question(rewards, np.flatnonzero(left)))
        assert len(asked) == images[goal]
        assert bits_gained(goals_left(rewards, asked, rewards[asked, goal])).sum() == pytest.approx(np.log2(24))


def small():
    return Grammar.from_string(
        'S -> "a photo of" Frequency Noun "and no people in" Scene\nFrequency -> "one" | "many"\n'
        'Noun -> "dog" | "cat" | "bus"\nScene -> "farm" | "beach"')


def test_contradicted_goals_turn_grey_and_pale():
    grammar, left = small(), np.arange(12) == 4
    images = rendered_thumbnails(grammar, 8)
    assert images.shape == (12, 8, 8, 3)
    mosaic = goal_mosaic(grammar, images, left)
    assert mosaic.shape == (3 * 8, 4 * 8, 3)
    for state, (y, x) in enumerate(zip(*unfold(grammar, range(12)), strict=True)):
        part = mosaic[8 * y:8 * y + 8, 8 * x:8 * x + 8]
        if left[state]:
            assert (part == images[state]).all()
        else:
            assert (part == part[..., :1]).all() and part.min() > 190


def test_figure_of_goals_tells_counts_and_bits():
    grammar, rewards = small(), agreement([2, 3, 2], [1, 1, 2])
    images, asked, goal = rendered_thumbnails(grammar, 8), [0, 5], 5
    figure = goals_figure(grammar, images, rewards, asked, rewards[asked, goal], lowest=-1)
    counts = goals_left(rewards, asked, rewards[asked, goal]).sum(1).tolist()
    above, below = figure.subfigs
    titles = [ax.get_title() for ax in above.axes if ax.images]
    assert titles == [f'reward {rewards[0, goal] - 1}', 'reward 3']
    assert [ax.texts[0].get_text().split('\n')[0] for ax in above.axes if ax.images] == [
        f'{counts[0]} → {counts[1]}', f'{counts[1]} → 1']
    title = next(ax for ax in below.axes if ax.images).get_title()
    assert title.startswith(f'1 of 12 goals left: {np.log2(12):.2f} bits gained, 0.00 missing')
    assert small_texts(figure) == []


def test_the_last_eight_images_are_shown():
    grammar, rewards = small(), agreement([2, 3, 2], [1, 1, 2])
    asked = list(range(10))
    figure = goals_figure(grammar, rendered_thumbnails(grammar, 8), rewards, asked, rewards[asked, 11])
    titles = [ax.get_title() for ax in figure.subfigs[0].axes]
    assert titles == [f'reward {rewards[state, 11]}' for state in range(2, 10)]


def test_questions_by_hand():
    panel = QuestionPanel(small(), [1, 1, 2], lowest=-1)
    rewards = agreement([2, 3, 2], [1, 1, 2])
    assert is_png(panel.image) and panel.possible.tolist() == list(range(12))
    panel.labels[0].value, panel.labels[1].value, panel.labels[2].value = 'many', 'cat', 'beach'
    before = panel.image.value
    for _ in range(2):
        panel.ask.click()  # a double click counts once
    state = 1 * 6 + 1 * 2 + 1
    assert (panel.asked, panel.heard) == ([state], [rewards[state, panel.goal]]) and panel.image.value != before
    agree = [goal for goal in range(12) if rewards[state, goal] == panel.heard[0]]
    assert panel.possible.tolist() == agree and panel.goal in agree
    told_bits, expected = np.log2(12 / len(agree)), question_bits(rewards, np.arange(12))[state]
    assert told(panel).startswith(f'a photo of many cat and no people in beach: reward {panel.heard[0] - 1}, '
                                  f'{told_bits:.2f} bits ({expected:.2f} on average')


@pytest.mark.parametrize('seed', range(4))
def test_best_questions_of_the_panel_find_the_goal(seed):
    panel = QuestionPanel(small(), [1, 1, 2], seed=seed)
    while panel.goal not in panel.asked:
        panel.propose()
        assert panel.state == best_question(panel.rewards, panel.possible)
        panel.hear()
    assert len(panel.asked) == greedy_images([2, 3, 2], [1, 1, 2])[panel.goal]
    assert told(panel).endswith(f'That is the goal, after {len(panel.asked)} images.')
    old = panel.goal
    for _ in range(2):
        panel.again.click()  # a double click counts once
    assert panel.asked == panel.heard == [] and len(panel.possible) == 12
    goals = {old, panel.goal}
    for _ in range(8):
        panel.begin()
        goals.add(panel.goal)
    assert len(goals) > 2


# A word that changes on the way

DOG, CAT = (f'a photo of one {noun} and no people in playground' for noun in ('dog', 'cat'))


@pytest.fixture(scope='module')
def generator():
    return Generator.load('tiny', inference_steps=4)


@pytest.fixture
def pipe(generator):
    return generator.pipe


@pytest.mark.parametrize('guidance', [1., 2.5])
@pytest.mark.parametrize('scheduler', ['ddim', 'dpm++', 'ddpm'])
def test_ends_of_a_fork_are_the_plain_images(generator, scheduler, guidance):
    generator = generator.with_settings(guidance=guidance, scheduler=scheduler)
    images = forked_images(generator.pipe, DOG, CAT, (0, 2, 3, 4), seed=7, steps=4, guidance=guidance)
    plain = generator.generate([CAT, CAT, DOG, DOG], [7] * 4)
    assert images[0].tobytes() == plain[0].tobytes() and images[3].tobytes() == plain[3].tobytes()
    assert len({image.tobytes() for image in images}) == 4


def test_a_fork_is_what_the_loop_by_hand_gives(pipe):
    from diffusers import DDIMScheduler
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    by_hand = []
    with torch.inference_mode():
        first, second = (pipe.encode_prompt(text, 'cpu', 1, False)[0] for text in (DOG, CAT))
        for k in range(5):
            latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
            pipe.scheduler.set_timesteps(4)
            for i, t in enumerate(pipe.scheduler.timesteps):
                v = pipe.unet(latent, t, first if i < k else second).sample
                latent = pipe.scheduler.step(v, t, latent).prev_sample
            pixels = pipe.vae.decode(latent / pipe.vae.config.scaling_factor).sample / 2 + .5
            by_hand.append((pixels.clamp(0, 1)[0].permute(1, 2, 0) * 255).round().numpy())
    images = forked_images(pipe, DOG, CAT, range(5), seed=3, steps=4)
    for image, pixels in zip(images, by_hand, strict=True):
        assert np.abs(np.asarray(image, float) - pixels).max() <= 1
    apart = np.abs(np.diff([np.asarray(image, float) for image in images], axis=0)).max((1, 2, 3))
    assert (apart > 2).all()  # so that another step would have been noticed


@pytest.mark.parametrize('k', [-1, 5])
def test_a_switch_outside_the_steps_is_refused(pipe, k):
    with pytest.raises(ValueError, match=f'after {k} steps is not possible; give numbers from 0 to 4'):
        forked_images(pipe, DOG, CAT, [0, k], steps=4)


@pytest.mark.parametrize('facts, seen', [
    ({'cat', 'playground'}, 'new'), ({'dog'}, 'old'), ({'cat', 'dog'}, 'new'), ({'bus'}, 'neither'),
    (set(), 'neither')])
def test_which_word_is_seen(facts, seen):
    assert word_seen(facts, 'cat', 'dog') == seen


ROWS = {'cat': [{'cat'}, {'bird'}, {'dog'}], 'farm': [{'farm'}, {'farm'}, {'farm'}]}
WORDS = {'cat': 'dog', 'farm': 'playground'}


def test_frames_say_what_is_seen():
    images = {new: [Image.new('RGB', (8, 8), (40 * k, 0, 0)) for k in range(3)] for new in ROWS}
    figure = fork_figure(images, ROWS, WORDS, (0, 5, 10))
    assert small_texts(figure) == overlaps(figure) == []
    axes = figure.axes
    assert [ax.get_title() for ax in axes] == ['k = 0', 'k = 5', 'k = 10', '', '', '']
    assert [ax.get_xlabel() for ax in axes] == ['cat', 'neither', 'dog', 'farm', 'farm', 'farm']
    assert [ax.get_ylabel() for ax in axes] == ['dog →\ncat', '', '', 'playground →\nfarm', '', '']
    frames = [(to_hex(ax.spines['left'].get_edgecolor()), ax.spines['left'].get_linestyle()) for ax in axes]
    assert frames[0] == frames[3] == frames[4] == frames[5] and len(set(frames[:3])) == 3
    assert len({line for _, line in frames[:3]}) == 3  # for who cannot tell the colours apart
    assert (np.asarray(axes[1].images[0].get_array())[0, 0] == (40, 0, 0)).all()


def test_line_on_forks():
    assert fork_line(ROWS, WORDS, (0, 5, 10)) == (
        'cat: last seen with the switch after 0 steps. farm: last seen with the switch after 10 steps.')
    assert fork_line({'cat': [{'dog'}]}, WORDS, [0]) == 'cat: never seen.'


@pytest.fixture
def calls(monkeypatch):
    "What the panel asks for, instead of images of a network."
    made = []

    def note(pipe, before, after, switches, seed, steps, guidance):
        made.append((before, after, list(switches), seed, steps, guidance))
        return [Image.new('RGB', (8, 8))] * len(switches)
    monkeypatch.setattr(insight, 'forked_images', note)
    return made


def fork_panel(sees=lambda images: [{'cat', 'farm'}] * len(images)):
    return ForkPanel(None, sees, DOG, WORDS, columns=3)


def test_nothing_is_generated_before_run(calls):
    panel = fork_panel()
    panel.seed.value, panel.steps.value, panel.new[1].value = 5, 8, True
    assert calls == [] and not panel.live.value
    panel.run.click()
    farm = 'a photo of one dog and no people in farm'
    assert calls == [(DOG, CAT, [0, 4, 8], 5, 8, 1.), (DOG, farm, [0, 4, 8], 5, 8, 1.)]
    assert is_png(panel.live) and not panel.run.disabled
    assert told(panel) == ('cat: last seen with the switch after 8 steps. '
                           'farm: last seen with the switch after 8 steps.')


def test_no_word_and_errors_become_a_sentence(calls):
    panel = fork_panel()
    panel.new[0].value = False
    panel.run.click()
    assert told(panel) == 'Choose at least one new word.' and calls == [] and not panel.live.value

    def fail(images):
        raise RuntimeError('out of memory')
    panel = fork_panel(fail)
    panel.run.click()
    assert told(panel) == 'out of memory' and not panel.run.disabled and not panel.live.value


def test_words_that_the_prompt_does_not_have():
    with pytest.raises(ValueError, match="has no word 'bus'"):
        ForkPanel(None, list, DOG, {'cat': 'bus'})


def test_fork_panel_with_the_shipped_generator(pipe):
    panel = ForkPanel(pipe, lambda images: [{'cat'}] + [{'dog'}] * (len(images) - 1), DOG, {'cat': 'dog'}, 4, columns=2)
    panel.run.click()
    assert is_png(panel.live) and told(panel) == 'cat: last seen with the switch after 0 steps.'
