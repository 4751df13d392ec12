"""Rewards: the paper's equations on percepts made by hand, sums, and what shaping promises."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from rlgen.grammar import Grammar
from rlgen.perception import Percept
from rlgen.rewards import Clip, MultiSemantic, PartialSemantic, Reward, Shaped, finite, make_reward, shaping, weighted_sum

GRAMMAR = Grammar.scenes()


class Eye:
    "Hands out percepts; stands in for a perception model, so that the arithmetic is tested alone."
    def __init__(self, percept): self.percept = percept
    def perceive(self, images, grammar): return self.percept


def percept(*encodings, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(len(encodings), 8)).astype(np.float32)
    return Percept(np.array(encodings), [], vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_multi_semantic_is_equations_2_to_4():
    goal, seen = percept([0, 7, 2, 1]), percept([0, 7, 2, 1], [1, 7, 2, 1], [0, 7, 2, 3], [1, 0, 0, 0])
    assert MultiSemantic(None, GRAMMAR)(seen, [""] * 4, goal).tolist() == [4, 3, 2, -1]
    assert MultiSemantic(None, GRAMMAR, objects=2., scene_pay=5.)(seen, [""] * 4, goal).tolist() == [11, 9, 1, -5]


def test_partial_semantic_is_equation_5():
    goal, seen = percept([0, 7, 2, 1]), percept([1, 0, 0, 1], [0, 7, 2, 3])
    assert PartialSemantic(None, GRAMMAR)(seen, ["", ""], goal).tolist() == [1, -1]
    assert PartialSemantic(None, GRAMMAR, scene="Noun")(seen, ["", ""], goal).tolist() == [-1, 1]


def test_clip_is_equation_6():
    goal, seen = percept([0, 0, 0, 0], seed=1), percept([0, 0, 0, 0], [0, 0, 0, 0], seed=2)
    expected = [float(a @ goal.embeddings[0] / np.linalg.norm(a) / np.linalg.norm(goal.embeddings[0])) for a in seen.embeddings.astype(float)]
    np.testing.assert_allclose(Clip(None, GRAMMAR)(seen, ["", ""], goal), expected, atol=1e-6)
    assert Clip(None, GRAMMAR).best(goal) == pytest.approx(1, abs=1e-6)


def test_terms_add_up_and_are_named():
    goal, seen = percept([0, 7, 2, 1]), percept([0, 3, 2, 1], [1, 7, 0, 0])
    reward = weighted_sum((.5, MultiSemantic(None, GRAMMAR)), (2, PartialSemantic(None, GRAMMAR)), (1, Clip(None, GRAMMAR)))
    terms = reward.terms(seen, ["", ""], goal)
    assert {"MultiSemantic.Noun", "PartialSemantic.Scene", "Clip.cosine"} <= terms.keys()
    np.testing.assert_allclose(sum(terms.values()), reward(seen, ["", ""], goal))


def test_pictures_are_looked_at_by_the_perception():
    seen = percept([0, 7, 2, 1])
    assert MultiSemantic(Eye(seen), GRAMMAR)(["a picture"], [""], seen).tolist() == [4]


@pytest.mark.parametrize("make, sentence", [
    (lambda: weighted_sum(), "at least one"),
    (lambda: weighted_sum((float("nan"), Clip(None, GRAMMAR))), "finite weights"),
    (lambda: weighted_sum((1, Clip(None, GRAMMAR)), (1, Clip(None, Grammar.scenes(time=True)))), "share one perception and one grammar"),
    (lambda: make_reward("dense", None, GRAMMAR), "choose one of multi, partial, clip"),
    (lambda: make_reward("multi", None, Grammar.domains()), "no axis 'Scene'"),
    (lambda: Reward(None, GRAMMAR).score(None, None), "use MultiSemantic"),
])
def test_errors_are_sentences(make, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence): make()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_no_number_is_an_error(bad):
    with pytest.raises(ValueError, match="picture 1 of its batch"): finite(np.array([0., bad]), "Clip")
    goal, seen = percept([0, 0, 0, 0]), percept([0, 0, 0, 0])
    seen.embeddings[0, 0] = bad
    with pytest.raises(ValueError, match="finite"): Clip(None, GRAMMAR)(seen, [""], goal)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.floats(0, 1))
def test_hints_telescope(potentials, discount):
    total = sum(discount ** t * shaping(a, b, discount) for t, (a, b) in enumerate(zip(potentials, potentials[1:])))
    assert total == pytest.approx(discount ** (len(potentials) - 1) * potentials[-1] - potentials[0], abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_shaping_keeps_the_best_policy(seed):
    "Ng, Harada and Russell (1999), theorem 1, by exact values on a random walk in six states with the goal at one end."
    rng = np.random.default_rng(seed)
    values, best, shaped = rng.uniform(-2, 4, 6), 4., Shaped(None, discount=.9)
    step = rng.integers(0, 6, (5, 3))
    step[:, 0] = np.arange(1, 6)
    plain = lambda s, t: -shaped.step_cost + shaped.bonus * (t == 5)
    def solve(pay):
        q = np.zeros((6, 3))
        for _ in range(400): q[:5] = [[pay(s, t) + (0 if t == 5 else .9 * q[t].max()) for t in step[s]] for s in range(5)]
        return q[:5]
    with_hints = solve(lambda s, t: shaped.step(values[s], values[t], best, t == 5))
    potential = values[:5] - best
    np.testing.assert_allclose(with_hints + potential[:, None], solve(plain), atol=1e-9)
