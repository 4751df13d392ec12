"""What a person likes, learnt from answers: the log, the lens, the model, the questions,
and a simulated taste that is recovered.

Pictures are rendered, which takes a millisecond; the shipped CLIP model embeds them.
"""
import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from rlgen.experiments.feedback import SimulatedPerson, facts_of, pool_prompts, simulate_answers
from rlgen.models.perception import Perception
from rlgen.rewards.preference import (
    AnswerLog,
    FeatureMap,
    PreferenceReward,
    RewardModel,
    logistic,
    next_pair,
    next_thumb,
    pca_features,
    rows_of,
    text_aligned_features,
)
from rlgen.scenes import render
from rlgen.statistics import rank_correlation

MARIA = SimulatedPerson({'rembrandt': 2, 'dramatic lighting': 1, 'night': 1.5, 'bus': -2, 'many people': -1})


@pytest.fixture(scope='module')
def world():
    "Prompts, images, perception, and embeddings of 350 rendered images and of their prompts."
    prompts = pool_prompts(350, seed=2)
    pictures = [render(prompt, i)[0] for i, prompt in enumerate(prompts)]
    perception = Perception.load('tiny')
    return prompts, pictures, perception, perception.embed_images(pictures), perception.embed_texts(prompts)


# Answers

answers = st.one_of(
    st.tuples(st.text(min_size=1), st.text(min_size=1), st.sampled_from([0, .5, 1, None])).filter(
        lambda t: t[0] != t[1]
    ),
    st.tuples(st.text(min_size=1), st.none(), st.sampled_from([0, 1, None])),
)


@settings(deadline=None, max_examples=30)
@given(st.lists(answers, max_size=6), st.integers(1, 40))
def test_answers_survive_a_cut(tmp_path_factory, given_answers, cut):
    path = tmp_path_factory.mktemp('log') / 'deep' / 'answers.jsonl'
    log = AnswerLog(path)
    for answer in given_answers:
        log.add(*answer)
    assert AnswerLog(path).answers == [tuple(a) for a in given_answers]
    if given_answers:
        data = path.read_bytes()
        last = len(data.splitlines()[-1]) + 1
        path.write_bytes(data[:len(data) - min(cut, last)])
        again = AnswerLog(path)
        assert again.answers == [tuple(a) for a in given_answers[:-1]]
        again.add('x', None, 1)
        assert AnswerLog(path).answers == [*(tuple(a) for a in given_answers[:-1]), ('x', None, 1)]


@pytest.mark.parametrize(
    'answer', [('a', 'a', 1), ('a', 'b', 2), ('a', None, .5), (3, 'b', 1), ('a', 'b', 'yes'), ('a', 'b', float('nan'))]
)
def test_what_is_no_answer(answer, tmp_path):
    log = AnswerLog(tmp_path / 'log')
    with pytest.raises(ValueError) as caught:
        log.add(*answer)
    assert '\n' not in str(caught.value) and not log.answers and not log.path.exists()


@pytest.mark.parametrize('line', [b'{}\n', b'["a","b"]\n', b'[1,2,3]\n', b'\xff\n', b'null\n', b'\n'])
def test_damaged_log_is_refused(line, tmp_path):
    path = tmp_path / 'log'
    path.write_bytes(json.dumps(['a', 'b', 1]).encode() + b'\n' + line)
    with pytest.raises(ValueError, match='Line 2'):
        AnswerLog(path)


# The model

def test_logistic_is_the_optimum_and_its_precision_the_curvature():
    rng = np.random.default_rng(0)
    rows, values = rng.normal(size=(30, 4)), rng.choice([0, .5, 1], 30)

    def loss(w):
        x = rows @ w
        return (values * np.logaddexp(0, -x) + (1 - values) * np.logaddexp(0, x)).sum() + .35 * w @ w
    w, H, evidence = logistic(rows, values, .7)
    best = minimize(loss, np.zeros(4), tol=1e-12)
    np.testing.assert_allclose(w, best.x, atol=1e-4)
    np.testing.assert_allclose(logistic(rows, values, .7, np.full(4, 2.))[0], w, atol=1e-7)
    e = 1e-4 * np.eye(4)
    numeric = [[(loss(w + a + b) - loss(w + a - b) - loss(w - a + b) + loss(w - a - b)) / 4e-8 for b in e] for a in e]
    np.testing.assert_allclose(H, numeric, rtol=1e-3, atol=1e-3)


def test_evidence_is_the_integral():
    rows, values = np.array([[1.], [2.], [-1.]]), np.array([1., 1., 1.])
    grid = np.linspace(-15, 15, 60_001)
    x = rows * grid
    density = np.exp(-np.logaddexp(0, -x).sum(0) - .5 * 2. * grid ** 2) * np.sqrt(2. / (2 * np.pi))
    assert logistic(rows, values, 2.)[2] == pytest.approx(np.log(density.sum() * (grid[1] - grid[0])), abs=.05)


def test_rows_of_comparisons_and_thumbs():
    z = np.array([[1., 2.], [5., 7.]])
    assert rows_of(z, np.array([0, 1]), np.array([1, -1])).tolist() == [[-4, -5, 0], [5, 7, -1]]


def test_answers_move_scores_and_order_does_not_matter(world):
    *_, e, _ = world
    lens = pca_features(e)
    a, b, v = [0, 1, 2, 3], [1, 2, -1, -1], [1, .5, 1, 0]
    model = RewardModel(lens).fit(e, a, b, v)
    u = model.score(e)
    assert u[0] > u[1] and u[2] > model.w[-1] > u[3]
    assert (RewardModel(lens).fit(e, a, b, v).W == model.W).all()
    swapped = RewardModel(lens).fit(e, b[:2] + a[2:], a[:2] + b[2:], [0, .5, 1, 0])
    np.testing.assert_allclose(swapped.score(e), u, atol=1e-7)
    assert .5 <= model.certainty(e) <= 1
    assert (model.disagreement(e, np.arange(5), np.arange(1, 6)) > 0).all()


def test_more_answers_make_the_members_agree(world):
    prompts, _, _, e, t = world
    u, model, chance = MARIA.utility(prompts), RewardModel(text_aligned_features(e, t)), np.random.default_rng(0)
    a, b = chance.integers(350, size=(2, 400))
    spread = []
    for n in (0, 40, 400):
        model.fit(e, a[:n], b[:n], (u[a] > u[b])[:n] + .5 * (u[a] == u[b])[:n])
        spread.append(model.disagreement(e, *chance.integers(350, size=(2, 500))).mean())
    assert spread[0] > spread[1] > spread[2] and model.certainty(e) > .8


def test_model_on_disk(world, tmp_path):
    *_, e, _ = world
    model = RewardModel(pca_features(e), members=8, seed=3).fit(e, [0, 1], [1, -1], [1, 0])
    model.save(tmp_path / 'm.safetensors')
    again = RewardModel.load(tmp_path / 'm.safetensors')
    assert (
        (again.score(e) == model.score(e)).all() and (again.members(e) == model.members(e)).all() and again.answers == 2
    )
    assert (again.fit(e, [0], [1], [0]).W == model.fit(e, [0], [1], [0]).W).all()
    with pytest.raises(FileNotFoundError, match='nowhere'):
        RewardModel.load(tmp_path / 'nowhere')
    for content in (b'', b'x' * 100, (tmp_path / 'm.safetensors').read_bytes()[:-9]):
        (tmp_path / 'bad').write_bytes(content)
        with pytest.raises(ValueError, match='damaged, or a file of another kind'):
            RewardModel.load(tmp_path / 'bad')


@pytest.mark.parametrize(
    'make, reason',
    [
        (lambda: pca_features(np.ones((5, 3))), 'same embedding'),
        (lambda: pca_features(np.ones(5)), 'shape'),
        (lambda: pca_features(np.ones((1, 5))), '2 images'),
        (lambda: text_aligned_features(np.eye(4), np.ones((4, 2))), 'same embedding'),
        (lambda: text_aligned_features(np.eye(4), np.eye(3)), '3 texts'),
        (lambda: RewardModel(FeatureMap(np.zeros(2), np.eye(2)), members=1), 'members'),
        (lambda: RewardModel(FeatureMap(np.zeros(2), np.eye(2))).fit(np.eye(2), [0], [1], [2.]), '0 to 1'),
        (lambda: RewardModel(FeatureMap(np.zeros(2), np.eye(2))).fit(np.eye(2), [0], [1, 1], [1.]), 'second one'),
    ],
)
def test_bad_input_is_told_in_a_sentence(make, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        make()
    assert '\n' not in str(caught.value)


def test_lens_has_unit_size_and_reads_texts(world):
    prompts, _, _, e, t = world
    lens = text_aligned_features(e[:250], t[:250])
    for z in (pca_features(e)(e), pca_features(e, max_features=3)(e), lens(e[:250])):
        assert (z ** 2).sum(1).mean() == pytest.approx(1) and np.abs(z.mean(0)).max() < 1e-5
    night = np.array(['night' in p for p in prompts])
    best = max(abs(rank_correlation(z, night[250:])) for z in lens(e[250:]).T)
    assert best > .6  # some feature tells night from day in pictures that the lens has not seen


# Questions

def test_pairs_are_asked_once_until_none_is_left():
    e, model, chance, asked = np.eye(4), RewardModel(pca_features(np.eye(4))), np.random.default_rng(0), []
    for _ in range(6):
        asked.append(next_pair(model, e, chance, asked))
    assert {frozenset(p) for p in asked} == {frozenset((i, j)) for i in range(4) for j in range(i)}
    with pytest.raises(ValueError, match='Every pair of the 4'):
        next_pair(model, e, chance, asked)
    assert sorted([next_thumb(model, e, range(i)) for i in range(4)])[-1] == 3
    with pytest.raises(ValueError, match='Every one of the 4'):
        next_thumb(model, e, range(4))


def test_next_pair_is_where_the_members_differ_most():
    rng = np.random.default_rng(0)
    e = rng.normal(size=(12, 5))
    model = RewardModel(pca_features(e)).fit(e, [0, 1, 2], [3, 4, 5], [1, 0, 1])
    a, b = next_pair(model, e, rng, [(0, 3)])
    i, j = np.triu_indices(12, 1)
    left = ~((i == 0) & (j == 3))
    assert model.disagreement(e, [a], [b])[0] == pytest.approx(model.disagreement(e, i[left], j[left]).max())
    assert len({frozenset(next_pair(model, e, rng, active=False)) for _ in range(60)}) > 20


# The simulated person

def test_facts_and_utility():
    prompt = 'a photo of one bus and many people playing in rainy street at night, rembrandt'
    assert facts_of(prompt) == {'rembrandt', 'bus', 'street', 'rainy', 'night', 'playing', 'many people', 'one objects'}
    assert MARIA.utility([prompt, {'bus'}, set()]).tolist() == [.5, -2, 0]
    with pytest.raises(ValueError, match='not a prompt that the renderer reads'):
        MARIA.utility(['hello'])


def test_person_errs_as_bradley_and_terry_say():
    chance = np.random.default_rng(0)
    for d in (-1, 0, .5):
        assert np.mean([MARIA.answer(d, 0., chance) for _ in range(3000)]) == pytest.approx(expit(2 * d), abs=.03)
    bar = SimulatedPerson({}, threshold=1.)
    assert np.mean([bar.answer(0., None, chance) for _ in range(3000)]) == pytest.approx(expit(-2.), abs=.03)


def test_taste_is_recovered_within_sixty_answers(world):
    prompts, pictures, perception, e, t = world
    u, lens = MARIA.utility(prompts), text_aligned_features(e[:250], t[:250])
    reached, thumbs = [], []
    for seed in range(3):
        for found, half in ((reached, False), (thumbs, True)):
            model = RewardModel(lens, seed=seed)
            for _ in islice(simulate_answers(MARIA, model, e[:250], u[:250], seed, thumbs=half), 60):
                pass
            found.append(rank_correlation(model.score(e[250:]), u[250:]))
    assert np.mean(reached) >= .8 and min(reached) > .7, reached
    assert np.mean(thumbs) > .7, thumbs
    reward = PreferenceReward(model, perception)
    np.testing.assert_allclose(reward(pictures[:5], prompts[:5], None), model.score(e[:5]), atol=1e-4)


def test_interviews_repeat(world):
    prompts, _, _, e, t = world
    u, lens = MARIA.utility(prompts), text_aligned_features(e, t)
    one, two = (
        list(islice(simulate_answers(MARIA, RewardModel(lens), e, u, 5, thumbs=True), 12))
        for _ in range(2)
    )
    assert one == two and [b < 0 for _, b, _ in one] == [False, True] * 6
    assert len({frozenset(p[:2]) for p in one}) == 12
