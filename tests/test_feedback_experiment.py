"""Tuning a policy to a learned preference: what is read in images, the run, the held-out model.

Images are rendered; no diffusion.

The generator of these tests understands "prompt, words":
it renders the prompt in the looks and at the hour that the words name.
"""
import numpy as np
import pytest
import torch

from rlgen.experiments.feedback import (
    FEEDBACK_VOCABULARY,
    SEED_PROMPTS,
    Checkpoint,
    FeedbackTask,
    SimulatedPerson,
    facts_of,
    fit_to_answers,
    kept,
    new_policy,
    pool_prompts,
    select_checkpoint,
    tune_to_reward_model,
)
from rlgen.models.evaluators import load_evaluator, seen
from rlgen.models.perception import Perception
from rlgen.rewards.preference import RewardModel, pca_features, text_aligned_features
from rlgen.scenes import MODIFIERS, NOUNS, TIMES, render

MARIA = SimulatedPerson({'rembrandt': 2, 'dramatic lighting': 1, 'night': 1.5, 'bus': -2, 'many people': -1})


class Drawing:
    negative, batch_size, settings = '', 32, {'model': 'drawing'}

    def generate(self, prompts, seeds, negative=None):
        return [self.draw(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def draw(self, prompt, seed):
        scene, _, text = prompt.partition(', ')
        words = text.replace(',', ' ').split()
        hour = next((word for word in words if word in TIMES), None)
        nouns = [word for word in words if word in NOUNS]
        if nouns:
            said = scene.split()
            scene = ' '.join([*said[:4], nouns[-1], *said[5:]])
        looks = [word for word in dict.fromkeys(words) if word in MODIFIERS]
        return render(
            scene + (f' at {hour}' if hour and ' at ' not in scene else '') + ''.join(f', {look}' for look in looks),
            seed,
        )[0]


@pytest.fixture(scope='module')
def studio():
    return FeedbackTask(Drawing(), Perception.load('tiny'), load_evaluator(), MARIA)


@pytest.fixture(scope='module')
def pool(studio):
    prompts = pool_prompts(200, seed=2)
    e = studio.perception.embed_images([render(prompt, i)[0] for i, prompt in enumerate(prompts)])
    return e, text_aligned_features(e, studio.perception.embed_texts(prompts)), MARIA.utility(prompts)


def test_judge_reads_what_is_drawn(studio):
    prompts = pool_prompts(60, seed=5) + ['a photo of one dog and many people playing in rainy farm at night, macabre']
    found = seen([render(prompt, 9)[0] for prompt in prompts], studio.evaluator)
    right = [len(facts & facts_of(p)) / len(facts_of(p)) for facts, p in zip(found, prompts, strict=True)]
    assert np.mean(right) > .9 and np.corrcoef(MARIA.utility(found), MARIA.utility(prompts))[0, 1] > .9
    assert {'rainy', 'night', 'macabre', 'dog', 'many people'} <= found[-1]


def test_what_is_kept():
    prompt = 'a photo of one cat and no people in farm'
    assert kept([facts_of(prompt), {'cat', 'farm'}, set()], [prompt] * 3).tolist() == [1, .5, 0]
    with pytest.raises(ValueError):
        kept([set()], [prompt] * 2)


def test_policy_writes_the_words():
    policy = new_policy(2, 0)
    assert {policy.decode([[i]])[0] for i in policy.allowed.nonzero()[:, 0].tolist()} == set(FEEDBACK_VOCABULARY)
    assert len(policy.encode(' ' + FEEDBACK_VOCABULARY[0])) == 1


def test_tuning_pleases_the_person(studio, pool):
    e, lens, u = pool
    model = fit_to_answers(MARIA, lens, e, u, 60, 0)
    run = tune_to_reward_model(studio, model, seed=0, steps=60, checkpoint_every=20)
    assert [c.steps for c in run] == [0, 20, 40, 60] and run[0].texts == [''] * 4
    assert run[-1].learned.mean() > run[0].learned.mean() and run[-1].true.mean() > run[0].true.mean() + .5
    again = tune_to_reward_model(studio, model, seed=0, steps=20, checkpoint_every=20)
    assert again[-1].texts == run[1].texts and (again[-1].learned == run[1].learned).all()


def test_a_price_on_leaving_the_language_model_brings_its_words(studio, pool):
    model, policy = RewardModel(pool[1]), new_policy(2, 0)  # nobody was asked, so every picture is worth the same

    def likely(texts):
        ids = torch.tensor([policy.encode(' ' + text) for text in texts])
        return (
            torch.log_softmax(policy.prior(policy.states(SEED_PROMPTS, ids)), -1)
            .gather(-1, ids[..., None])
            .sum()
            .item()
        )
    free, priced = (
        tune_to_reward_model(studio, model, seed=0, kl=kl, steps=60, checkpoint_every=60)[-1] for kl in (0., 2.)
    )
    assert likely(priced.texts) > likely(free.texts) + 2


def test_the_held_out_model_selects_by_its_own_scores():
    e = np.eye(3)
    model = RewardModel(pca_features(e)).fit(e, [1, 1], [0, 2], [1, 1])
    run = [Checkpoint(i, ['x'], np.array([float(i)]), np.zeros(1), np.ones(1), e[i:i + 1]) for i in range(3)]
    assert select_checkpoint(run, model).steps == 1
