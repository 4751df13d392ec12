"""Rewards for images that need no goal, their landscape, the search in the noise, and what is measured beside it."""
import math
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from rlgen import Grammar
from rlgen.exercises.generative import best_of_reference, check_best_of, check_peaks, check_perplexity, peak_count
from rlgen.experiments.image_evaluation import ImageEvaluation, climb_noise, held_out_stop, overoptimise, perplexity
from rlgen.experiments.rldf import RLDFSettings, load_world, search
from rlgen.models.loading import ModelSettings, load_generator, load_perception
from rlgen.models.prompt_policy import PromptPolicy
from rlgen.rewards.images import (
    IMAGE_REWARDS,
    Alignment,
    Compressibility,
    Discriminator,
    Diversity,
    ImageReward,
    Novelty,
    Sharpness,
    Sparse,
    Standardised,
    pairwise_distances,
)
from rlgen.rewards.landscape import DIRECTIONS, OpenGenerator, images_along, reward_landscape
from rlgen.rewards.semantic import weighted_sum
from rlgen.rewards.shaping import make_reward
from rlgen.scenes import render

GRAMMAR = Grammar.scenes()
STATES = GRAMMAR.sample(0, 12)
PROMPTS = [GRAMMAR.decode(state) for state in STATES]
RENDERS = [render(state, seed)[0] for seed, state in enumerate(STATES)]
FLAT = Image.new('RGB', (64, 64), 'grey')
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.fixture(scope='module')
def perception():
    return load_perception()


@pytest.fixture(scope='module')
def generator():
    return load_generator(ModelSettings(inference_steps=1, guidance=1.))


class Planes:
    "Embeds an image by its mean colour, as a direction."
    def embed_images(self, images):
        x = np.array([np.asarray(image.convert('RGB'), float).mean((0, 1)) + 1 for image in images])
        return x / np.linalg.norm(x, axis=1, keepdims=True)


def coloured(*names):
    return [Image.new('RGB', (8, 8), name) for name in names]


class Fixed:
    "A reward that gives what it was made with."
    def __init__(self, *values):
        self.given = values

    def __call__(self, images, prompts, goals):
        return list(self.given)


def test_compressibility_is_the_size_of_the_file_that_pillow_writes(tmp_path):
    for quality in (95, 50):
        RENDERS[0].save(tmp_path / 'a.jpg', quality=quality)
        expected = -(tmp_path / 'a.jpg').stat().st_size / 1000
        assert Compressibility(quality)([RENDERS[0]], PROMPTS[:1], [None]) == [expected]
    flat, some, noise = Compressibility()([FLAT, RENDERS[0], NOISE])
    assert flat > some > noise


def test_sharpness_is_the_variance_of_the_laplacian():
    y = np.asarray(RENDERS[0].convert('L'), float) / 255
    padded = np.pad(y, 1, mode='symmetric')
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * y
    assert Sharpness()(RENDERS[:1])[0] == pytest.approx(laplacian.var(), rel=1e-9)
    assert Sharpness()([FLAT])[0] == 0 < Sharpness()(RENDERS).min() < Sharpness()([NOISE])[0]


def test_the_mode_and_the_kind_of_an_image_do_not_matter():
    array = np.asarray(RENDERS[0])
    kinds = [RENDERS[0], RENDERS[0].convert('RGBA'), array, array / 255, torch.tensor(array).permute(2, 0, 1)]
    for reward in (Compressibility(), Sharpness()):
        assert len(set(reward(kinds))) == 1


def test_alignment_is_high_for_the_own_prompt_alone(perception):
    reward = Alignment(perception, GRAMMAR)
    own, others = reward(RENDERS, PROMPTS, [None] * 12), reward(RENDERS, PROMPTS[1:] + PROMPTS[:1])
    assert own.min() > .9 and (own > others).all() and ((0 <= others) & (others <= 1)).all()
    percept = perception.perceive(RENDERS[:1], GRAMMAR)
    by_hand = np.mean([p[0, label] for p, label in zip(percept.probabilities, GRAMMAR.encode(PROMPTS[0]), strict=True)])
    assert own[0] == pytest.approx(by_hand, abs=1e-5)


def test_a_discriminator_tells_apart_what_differs():
    reds, greens = coloured('#ff0000', '#ee1111', '#dd2200'), coloured('#00ff00', '#11ee11', '#00dd22')
    reward = Discriminator.fit(reds, greens, Planes())
    assert (reward(reds) > 0).all() and (reward(greens) < 0).all()
    assert reward.accuracy(coloured('#cc0011'), coloured('#00cc11')) == 1
    swapped = Discriminator.fit(greens, reds, Planes())
    assert swapped(reds) == pytest.approx(-reward(reds), abs=1e-6)
    equal = Discriminator.fit(reds, reds, Planes())
    assert equal(reds) == pytest.approx(0, abs=1e-6)


def test_diversity_is_what_an_image_adds():
    three_and_one = coloured('#ff0000', '#ff0000', '#ff0000', '#00ff00')
    for measure in ('distance', 'vendi'):
        *same, other = Diversity(Planes(), measure)(three_and_one)
        assert other > max(same) and np.ptp(same) == pytest.approx(0, abs=1e-9)
    x = Planes().embed_images(RENDERS)
    d = np.array([[1 - a @ b for b in x] for a in x])
    assert pairwise_distances(3 * x) == pytest.approx(d, abs=1e-9)
    assert Diversity(Planes())(RENDERS) == pytest.approx((d.sum(1) - d.diagonal()) / 11, abs=1e-9)


def test_novelty_falls_once_an_image_is_known():
    novelty = Novelty(Planes(), coloured('#ff0000', '#00ff00'))
    blue = coloured('#0000ff')
    before = novelty(blue)[0]
    novelty.add(blue)
    assert before > .9 and novelty(blue)[0] == pytest.approx(0, abs=1e-9)
    two = Novelty(Planes(), coloured('#ff0000', '#00ff00', '#0000ff'), neighbours=2)(blue)
    assert two[0] == pytest.approx(before / 2, abs=1e-6)


def test_each_term_of_a_sum_counts_in_its_own_deviations():
    four = RENDERS[:4]
    parts = [Standardised.fit(Fixed(*row), four) for row in ((-2, -2, -3, -3), (.01, .03, .01, .03))]
    assert sum(r(four) for r in parts) == pytest.approx([0, 2, -2, 0])
    total = weighted_sum(*[(1., Standardised.fit(r, RENDERS)) for r in (Compressibility(), Sharpness())])
    terms = total.terms(RENDERS, PROMPTS, [None] * 12)
    assert list(terms) == ['Compressibility', 'Sharpness']
    for values in terms.values():
        assert values.mean() == pytest.approx(0, abs=1e-9) and values.std() == pytest.approx(1)


def test_a_sparse_reward_is_a_threshold():
    assert Sparse(Fixed(.2, .5, .7), .5)(RENDERS[:3]).tolist() == [0, 1, 1]


@pytest.mark.parametrize('attempt, message', [
    (lambda: Compressibility(quality=0), 'quality is 0'),
    (lambda: Compressibility()(['a.png']), r'images\[0\] is a str'),
    (lambda: Sharpness()([RENDERS[0], np.full((8, 8, 3), np.nan)]), r'images\[1\] has pixels that are NaN'),
    (lambda: Sharpness()(np.zeros((2, 8, 8, 7))), r'images\[0\]'),
    (lambda: Alignment(None, GRAMMAR)(RENDERS[:2], PROMPTS[:1]), 'one prompt for each'),
    (lambda: Alignment(None, GRAMMAR)(RENDERS[:1]), 'one prompt for each'),
    (lambda: Alignment(None, GRAMMAR)(RENDERS[:1], ['a nice photo']), 'outside the grammar'),
    (lambda: Discriminator.fit(RENDERS[:1], RENDERS, Planes()), 'needs 2 images or more of each kind'),
    (lambda: Diversity(Planes(), 'entropy'), 'choose one of distance, vendi'),
    (lambda: Diversity(Planes())(RENDERS[:2]), 'give 3 or more, not 2'),
    (lambda: Novelty(Planes(), []), 'the archive has 0 images'),
    (lambda: Novelty(Planes(), RENDERS[:2], neighbours=3), 'neighbours is 3'),
    (lambda: Standardised.fit(Sharpness(), [FLAT, FLAT]), 'Sharpness has no spread over the 2'),
    (lambda: Standardised.fit(Fixed(1, math.nan), RENDERS[:2]), 'Fixed gave nan at index 1'),
    (lambda: Standardised(Fixed(1), 0., 1.)(RENDERS[:2]), r'shape \(1,\) for 2 images'),
    (lambda: Sparse(Fixed(math.inf), 1.)(RENDERS[:1]), 'Fixed gave inf'),
    (lambda: ImageReward()(RENDERS[:1]), 'use Compressibility'),
    (lambda: make_reward('compressable', None, GRAMMAR), 'compressible, sharp, aligned'),
    (lambda: RLDFSettings(reward='blurry'), 'compressible, sharp, aligned'),
])
def test_bad_input_gets_one_sentence(attempt, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        attempt()
    assert '\n' not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize('bad', [[math.nan], [1., 2.], [[1.]], None, ['a']])
def test_what_a_subclass_gives_is_checked(bad):
    class Mine(ImageReward):
        def values(self, images, prompts):
            return bad
    with pytest.raises(ValueError, match='Mine gave'):
        Mine()(RENDERS[:1])


def test_by_name(perception):
    for name, kind in zip(IMAGE_REWARDS, (Compressibility, Sharpness, Alignment), strict=True):
        assert isinstance(make_reward(name, perception, GRAMMAR), kind)
        assert isinstance(make_reward(f'shaped-{name}', perception, GRAMMAR).reward, kind)


def test_a_search_for_a_compressible_image_does_not_stop_at_a_goal(tmp_path):
    small = Grammar.from_string('S -> "a photo of" Frequency "dog and" Density "people in beach"\n'
                                'Frequency -> "one" | "many"\nDensity -> "no" | "one" | "many"')
    settings = RLDFSettings(small.text, 'enumeration', 'compressible', max_steps=6,
                            models=ModelSettings(inference_steps=1, guidance=1.))
    result = search(render('a photo of one dog and no people in beach', 0)[0], settings, tmp_path / 'run')
    assert not result.goal_reached and result.unique_generator_calls == 6 == result.steps
    world = load_world(settings)
    best = Compressibility()(world.images(range(6))).argmax()
    assert result.prompt == world.prompt(best)


def test_an_open_generator_gives_the_images_of_a_closed_one(generator):
    model = OpenGenerator(generator)
    opened = model.generate(model.embed(PROMPTS[:2]), model.noise([5, 6]))
    for mine, theirs in zip(opened, generator.generate(PROMPTS[:2], [5, 6]), strict=True):
        assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1
    guided = OpenGenerator(generator.generator.with_settings(guidance=3.))
    image, = guided.generate(guided.embed(PROMPTS[:1]), guided.noise([5]))
    expected, = generator.generator.with_settings(guidance=3.).generate(PROMPTS[:1], [5])
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).max() <= 1


def test_lines_begin_and_end_at_the_images_that_they_connect(generator):
    prompts, model = tuple(PROMPTS[:2]), OpenGenerator(generator)
    first, other_seed = generator.generate(PROMPTS[:1] * 2, [5, 6])
    other_prompt, = generator.generate(PROMPTS[1:2], [5])
    for direction, last in zip(DIRECTIONS, (other_seed, other_seed, other_prompt), strict=True):
        ends = images_along(model, direction, prompts, (5, 6), [0, 1])
        for mine, theirs in zip(ends, (first, last), strict=True):
            assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1, direction


def test_a_landscape_is_a_figure_with_a_line_for_each_reward(generator):
    rewards = {'a': Compressibility(), 'b': Sharpness()}
    figure = reward_landscape(generator, rewards, tuple(PROMPTS[:2]), points=5, shown=2)
    axes = figure.axes
    assert [ax.get_title() for ax in axes] == [f'{name} direction' for name in DIRECTIONS]
    values = np.array([[line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 5] for ax in axes])
    assert values.shape == (3, 2, 5) and values.min() == 0 and values.max() == pytest.approx(1)
    figure.savefig(BytesIO())


@pytest.mark.parametrize('attempt, message', [
    (lambda g: OpenGenerator(Planes()), 'Planes cannot be opened'),
    (lambda g: images_along(OpenGenerator(g), 'time', tuple(PROMPTS[:2]), (0, 1), [0]), 'noise, latent, prompt'),
    (lambda g: OpenGenerator(g).denoise(torch.zeros(2, 3, 4), torch.zeros(1, 4, 16, 16)), '2 prompts came with 1'),
    (lambda g: OpenGenerator(g).denoise(torch.zeros(1, 3, 4), torch.full((1, 4, 16, 16), math.nan)), 'NaN'),
    (lambda g: reward_landscape(g, {}, tuple(PROMPTS[:2]), points=3), 'points is 3'),
    (lambda g: reward_landscape(g, {'a': Fixed(1, 2)}, tuple(PROMPTS[:2]), points=5), r'shape \(2,\) for 5 images'),
    (lambda g: next(climb_noise(g, Fixed(math.nan), PROMPTS[:1])), 'Fixed gave nan'),
    (lambda g: next(climb_noise(g, Fixed(1, 2), PROMPTS[:1])), r'shape \(2,\) for 1 images'),
    (lambda g: next(climb_noise(g, Sharpness(), [])), '0 prompts'),
    (lambda g: next(climb_noise(g, Sharpness(), PROMPTS, step=0)), 'step 0'),
])
def test_bad_input_for_searches_gets_one_sentence(generator, attempt, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        attempt(generator)
    assert '\n' not in str(error.value)


@pytest.fixture(scope='module')
def climb(generator):
    return list(climb_noise(generator, Compressibility(), PROMPTS[:4], seed=3, rounds=3, children=2, step=.4))


def test_a_climb_never_falls_and_counts_its_images(climb, generator):
    assert [c.generations for c in climb] == [4, 12, 20, 28] and [c.round for c in climb] == [0, 1, 2, 3]
    rewards = np.array([c.rewards for c in climb])
    assert (np.diff(rewards, axis=0) >= 0).all() and (rewards[-1] > rewards[0]).any()
    for c in climb:
        assert Compressibility()(c.images) == pytest.approx(c.rewards)
    again = list(climb_noise(generator, Compressibility(), PROMPTS[:4], seed=3, rounds=1, children=2, step=.4))
    assert again[1].rewards.tolist() == climb[1].rewards.tolist()
    other = next(climb_noise(generator, Compressibility(), PROMPTS[:4], seed=4))
    assert other.rewards.tolist() != climb[0].rewards.tolist()


def test_each_prompt_climbs_by_itself(generator):
    class Second:
        "Only images of the second prompt differ."
        def __call__(self, images, prompts, goals):
            return Sharpness()(images) * [prompt == PROMPTS[1] for prompt in prompts]
    start, *_, end = climb_noise(generator, Second(), PROMPTS[:2], rounds=2, children=2)
    same = [np.array_equal(a, b) for a, b in zip(start.images, end.images, strict=True)]
    assert same == [True, False] and end.rewards[1] > start.rewards[1]


def test_the_evaluation_knows_renders_from_noise():
    evaluation = ImageEvaluation.load(RENDERS)
    good, bad = evaluation(RENDERS, PROMPTS), evaluation([NOISE] * 6 + [FLAT] * 6, PROMPTS)
    assert good['right, colour'] == good['right, grey'] == 1 and bad['right, colour'] == bad['right, grey'] == 0
    assert good['KID'] < .05 < bad['KID'] and good['diversity'] > 2 * bad['diversity']
    with pytest.raises(ValueError, match='give 4 or more'):
        evaluation(RENDERS[:2], PROMPTS[:2])


def test_the_evaluation_counts_what_is_said_or_all():
    strict = ImageEvaluation.load(RENDERS)
    named = replace(strict, named=True)
    dark = [render(f'{prompt}, rembrandt', seed)[0] for seed, prompt in enumerate(PROMPTS)]
    assert strict(dark, PROMPTS)['right, colour'] == 0 and named(dark, PROMPTS)['right, colour'] > .9
    for images, prompts in (([image.resize((32, 32)) for image in dark], PROMPTS), (dark, ['a sunset'] * len(dark))):
        assert set(named(images, prompts)) == {'KID', 'diversity'}


def test_what_is_measured_beside_a_climb(generator):
    rows = overoptimise(generator, Compressibility(), lambda images, prompts: {'n': len(images)}, PROMPTS[:2],
                        Sharpness(), measured=(0, 2), rounds=2, children=1)
    assert [row['round'] for row in rows] == [0, 2] and [row['n'] for row in rows] == [2, 2]
    assert [row['generations'] for row in rows] == [2, 6] and rows[0]['reward'] < 0


@pytest.mark.parametrize('scores, expected', [
    ([1., .95, .8, 1.], 1), ([1., 1.], 1), ([1., .5], 0), ([.5, .46, .45, .44], 2), ([0., 0.], 1)])
def test_the_held_out_stop(scores, expected):
    assert held_out_stop(scores) == expected


def test_perplexity_is_low_for_what_the_language_model_knows():
    policy = PromptPolicy.load('tiny', length=1)
    known, shuffled = perplexity([PROMPTS[0], ' '.join(reversed(PROMPTS[0].split()))], policy)
    assert 1 <= known < 10 < shuffled
    ids = torch.tensor([[policy.tokenizer.bos_token_id, *policy.encode(PROMPTS[0])]])
    with torch.no_grad():
        loss = policy.model(input_ids=ids, labels=ids).loss
    assert known == pytest.approx(loss.exp().item(), rel=1e-4)
    with pytest.raises(ValueError, match='too short'):
        perplexity([''], policy)


@pytest.mark.parametrize('check, wrong, hint', [
    (check_peaks, lambda values: int((np.diff(values) > 0).sum()), 'above both'),
    (check_perplexity, lambda p: float(-np.log(p).mean()), 'mean surprise'),
    (check_best_of, lambda values, n: values.mean(), 'best of 1'),
])
def test_checks_name_the_mistake(check, wrong, hint, capsys):
    assert not check(wrong)
    assert hint in capsys.readouterr().out


def test_the_references_of_the_checks_agree_with_counting():
    from itertools import combinations
    values = np.array([3., 1., 4., 1.5, 9.])
    for n in range(1, 6):
        assert best_of_reference(values, n) == pytest.approx(np.mean([max(c) for c in combinations(values, n)]))
    assert peak_count(np.array([0., 1., 0., 2., 2., 0., 3.])) == 1
