"""Limits of any search against exhaustive search on tiny grids, and agents against the limits."""
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete

from rlgen.agents.goal_posterior import PosteriorSearch, goal_log_posterior, weight_prior
from rlgen.experiments.search_limits import FormulaSearch, agreement, greedy_images, search_limit, step_limit

def best_images(nvec, answer):
    "Expected images of the best search of all: every question is tried for every set of goals that may be left."
    states = tuple(product(*map(range, nvec)))

    @lru_cache(None)
    def total(possible):  # images summed over the goals of the set
        best = np.inf
        for state in states:
            parts = {}
            for goal in possible:
                if goal != state:
                    parts.setdefault(answer(state, goal), []).append(goal)
            if len(parts) == 1 and len(*parts.values()) == len(possible):
                continue  # nothing is learned
            best = min(best, len(possible) + sum(total(tuple(part)) for part in parts.values()))
        return best
    return total(states) / len(states)


def which(state, goal):
    return tuple(a == b for a, b in zip(state, goal, strict=True))


@pytest.mark.parametrize('nvec', [(2,), (5,), (2, 2), (2, 3), (3, 3), (2, 2, 2)])
def test_the_limit_is_what_the_best_search_needs(nvec):
    assert search_limit(nvec) == pytest.approx(best_images(nvec, which))


@pytest.mark.parametrize('nvec', [(2, 2), (2, 3), (3, 3), (2, 2, 2)])
def test_one_number_lies_between_the_limit_and_the_greedy_searcher(nvec):
    best = best_images(nvec, lambda state, goal: sum(which(state, goal)))
    images = greedy_images(nvec, [1] * len(nvec))
    assert search_limit(nvec) - 1e-12 <= best <= images.mean() + 1e-12 <= 1.1 * best
    assert images.min() == 1 and len(images) == np.prod(nvec)


def test_the_greedy_searcher_tells_all_goals_apart():
    "The published means; with one number an image the 480 goals cost hardly more than the limit."
    images = greedy_images([2, 20, 3, 4], [1, 1, 1, 2])
    assert images.mean() == pytest.approx(5169 / 480) and images.max() == 20
    assert search_limit([2, 20, 3, 4]) == pytest.approx(10.652, abs=1e-3)
    assert search_limit([2, 20, 3, 3, 4, 3]) == pytest.approx(10.672, abs=1e-3)


def test_agreement_counts_shared_labels():
    shared = agreement([2, 3], [1, 2])
    assert shared[0].tolist() == [3, 1, 1, 2, 0, 0] and (shared == shared.T).all()


def stepping(nvec):
    "Expected images of the best agent that moves one label at a time and is told which labels are right."
    states = tuple(product(*map(range, nvec)))
    neighbours = {a: [b for b in states if sum(abs(x - y) for x, y in zip(a, b, strict=True)) == 1] for a in states}

    @lru_cache(None)
    def total(visited, possible):  # further images, summed over the goals of the set
        best = np.inf
        for state in {b for a in visited for b in neighbours[a]} - set(visited):  # going back is free
            parts = {}
            for goal in possible:
                if goal != state:
                    parts.setdefault(which(state, goal), []).append(goal)
            best = min(best, len(possible) + sum(
                total(tuple(sorted((*visited, state))), tuple(part)) for part in parts.values()))
        return best
    costs = []
    for start in states:
        parts = {}
        for goal in states:
            if goal != start:
                parts.setdefault(which(start, goal), []).append(goal)
        costs.append(sum(total((start,), tuple(part)) for part in parts.values()) / (len(states) - 1))
    return 1 + np.mean(costs)


@pytest.mark.parametrize('nvec', [(2,), (4,), (2, 2), (2, 3)])
def test_the_limit_of_steps_is_what_the_best_stepping_agent_needs(nvec):
    assert step_limit(nvec) == pytest.approx(stepping(nvec))


# ---- agents ----

NVEC = np.array([2, 20, 3, 4])


def images(agent, goal, reward, most=400):
    "How many images an agent asks for until it names the goal, and what it asked for."
    while len(agent.memory) < most:
        encoding = tuple(agent.propose())
        if encoding == tuple(goal):
            return len(agent.memory) + 1
        assert encoding not in agent.memory
        agent.memory[encoding] = reward(np.array(encoding), goal)
    raise AssertionError('not found')


def semantic(encoding, goal):
    return float((encoding == goal) @ np.array([1, 1, 1, 2]) - 1)


def test_the_posterior_agent_is_near_the_greedy_searcher():
    found = []
    for i, goal in enumerate(np.random.default_rng(0).permutation(np.indices(NVEC).reshape(4, -1).T)[:80]):
        found.append(images(PosteriorSearch(None, MultiDiscrete(NVEC), best_reward=4., seed=i), goal, semantic))
    assert np.mean(found) <= 1.15 * greedy_images(NVEC, [1, 1, 1, 2]).mean()


def test_the_unit_of_the_reward_does_not_matter():
    goal = np.array([1, 11, 0, 3])
    agents = [PosteriorSearch(None, MultiDiscrete(NVEC), best_reward=best, seed=5) for best in (4., -1000 + 7 * 4.)]
    images(agents[0], goal, semantic)
    images(agents[1], goal, lambda e, g: 7 * semantic(e, g) - 1000)
    assert list(agents[0].memory) == list(agents[1].memory)


def test_wrong_images_do_not_mislead_it_for_ever():
    rng = np.random.default_rng(1)
    for seed in range(6):
        goal = rng.integers(NVEC)
        def noisy(encoding, goal):
            return semantic(rng.integers(NVEC) if rng.random() < .2 else encoding, goal)
        assert images(PosteriorSearch(None, MultiDiscrete(NVEC), 4., seed=seed), goal, noisy) <= 120


def test_a_reward_that_says_nothing_is_survived():
    found = images(PosteriorSearch(None, MultiDiscrete([2, 3, 2]), seed=0), np.array([1, 2, 1]), lambda e, g: 0., 13)
    assert found <= 12


def test_large_grids_are_searched_by_climbing():
    nvec, goal = np.full(8, 6), np.array([5, 0, 3, 2, 2, 4, 1, 0])  # 1.7 million states
    agent = PosteriorSearch(None, MultiDiscrete(nvec), best_reward=8., seed=0)
    assert images(agent, goal, lambda e, g: float((e == g).sum())) <= 40


def test_goals_that_explain_the_rewards_are_more_probable():
    asked = np.array([(0, 0), (0, 1), (1, 2), (1, 0)])
    goals = np.indices((2, 3)).reshape(2, -1).T
    log = goal_log_posterior(asked, [1., 2., 0., 0.], goals, np.array([2, 3]), best_reward=2.)
    assert tuple(goals[log.argmax()]) == (0, 1)
    assert weight_prior(3).shape == (4, 4) and (np.linalg.eigvalsh(weight_prior(3)) > 0).all()


def test_the_searcher_that_knows_the_formula_rules_goals_out():
    for seed in range(10):
        goal = np.random.default_rng(seed + 100).integers(NVEC)
        agent = FormulaSearch(None, MultiDiscrete(NVEC), [1, 1, 1, 2], lowest=-1., seed=seed)
        assert images(agent, goal, semantic) <= 22


@pytest.mark.parametrize('change, said', [
    ({'novelty': -1}, 'novelty is -1'), ({'novelty': np.nan}, 'novelty'), ({'best_reward': np.inf}, 'best_reward')])
def test_bad_settings_are_a_sentence(change, said):
    with pytest.raises(ValueError, match=said):
        PosteriorSearch(None, MultiDiscrete(NVEC), **change)
    with pytest.raises(ValueError, match='wrong is 1'):
        FormulaSearch(None, MultiDiscrete(NVEC), [1, 1, 1, 2], wrong=1)
    with pytest.raises(ValueError, match='MultiDiscrete'):
        PosteriorSearch(None, Box(0, 1))
