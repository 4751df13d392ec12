"""Rewards: the paper's equations on percepts made by hand, sums, and what shaping promises."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from rlgen.grammar import Grammar
from rlgen.interfaces import Percept, check_rewards
from rlgen.rewards.semantic import Clip, MultiSemantic, PartialSemantic, PerceptReward, weighted_sum
from rlgen.rewards.shaping import Shaped, make_reward, shaping_reward
from rlgen.rewards.similarity import Similarity, SimilarityTarget

GRAMMAR = Grammar.scenes()


class Eye:
    "Hands out percepts; stands in for a perception model, so that the arithmetic is tested alone."
    def __init__(self, percept):
        self.percept = percept

    def perceive(self, images, grammar):
        return self.percept


def percept(*encodings, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(len(encodings), 8)).astype(np.float32)
    return Percept(np.array(encodings), [], vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_multi_semantic_is_equations_2_to_4():
    goal, seen = percept([0, 7, 2, 1]), percept([0, 7, 2, 1], [1, 7, 2, 1], [0, 7, 2, 3], [1, 0, 0, 0])
    assert MultiSemantic(None, GRAMMAR)(seen, [""] * 4, goal).tolist() == [4, 3, 2, -1]
    assert (
        MultiSemantic(None, GRAMMAR, object_reward=2., scene_reward=5.)(seen, [""] * 4, goal).tolist() == [11, 9, 1, -5]
    )


def test_partial_semantic_is_equation_5():
    goal, seen = percept([0, 7, 2, 1]), percept([1, 0, 0, 1], [0, 7, 2, 3])
    assert PartialSemantic(None, GRAMMAR)(seen, ["", ""], goal).tolist() == [1, -1]
    assert PartialSemantic(None, GRAMMAR, scene="Noun")(seen, ["", ""], goal).tolist() == [-1, 1]


def test_clip_is_equation_6():
    goal, seen = percept([0, 0, 0, 0], seed=1), percept([0, 0, 0, 0], [0, 0, 0, 0], seed=2)
    expected = [
        float(a @ goal.embeddings[0] / np.linalg.norm(a) / np.linalg.norm(goal.embeddings[0]))
        for a in seen.embeddings.astype(float)
    ]
    np.testing.assert_allclose(Clip(None, GRAMMAR)(seen, ["", ""], goal), expected, atol=1e-6)
    assert Clip(None, GRAMMAR).best(goal) == pytest.approx(1, abs=1e-6)


def test_terms_add_up_and_are_named():
    goal, seen = percept([0, 7, 2, 1]), percept([0, 3, 2, 1], [1, 7, 0, 0])
    reward = weighted_sum(
        (.5, MultiSemantic(None, GRAMMAR)), (2, PartialSemantic(None, GRAMMAR)), (1, Clip(None, GRAMMAR))
    )
    terms = reward.terms(seen, ["", ""], goal)
    assert {"MultiSemantic.Noun", "PartialSemantic.Scene", "Clip.cosine"} <= terms.keys()
    np.testing.assert_allclose(sum(terms.values()), reward(seen, ["", ""], goal))


def test_pictures_are_looked_at_by_the_perception():
    seen = percept([0, 7, 2, 1])
    assert MultiSemantic(Eye(seen), GRAMMAR)(["a picture"], [""], seen).tolist() == [4]


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: weighted_sum(), "at least one"),
        (lambda: weighted_sum((float("nan"), Clip(None, GRAMMAR))), "finite weights"),
        (
            lambda: weighted_sum((1, Clip(None, GRAMMAR)), (1, Clip(None, Grammar.scenes(time=True)))),
            "share one perception and one grammar",
        ),
        (lambda: make_reward("dense", None, GRAMMAR), "choose one of multi, partial, clip"),
        (lambda: make_reward("multi", None, Grammar.domains()), "no axis 'Scene'"),
        (lambda: PerceptReward(None, GRAMMAR).score(None, None), "use MultiSemantic"),
    ],
)
def test_errors_are_sentences(make, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        make()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_no_number_is_an_error(bad):
    with pytest.raises(ValueError, match="Clip gave .* at index 1: "):
        check_rewards(np.array([0., bad]), "Clip")
    goal, seen = percept([0, 0, 0, 0]), percept([0, 0, 0, 0])
    seen.embeddings[0, 0] = bad
    with pytest.raises(ValueError, match="finite"):
        Clip(None, GRAMMAR)(seen, [""], goal)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.floats(0, 1))
def test_hints_telescope(potentials, discount):
    total = sum(
        discount**t * shaping_reward(a, b, discount)
        for t, (a, b) in enumerate(zip(potentials[:-1], potentials[1:], strict=True))
    )
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
        for _ in range(400):
            q[:5] = [[pay(s, t) + (0 if t == 5 else .9 * q[t].max()) for t in step[s]] for s in range(5)]
        return q[:5]
    with_hints = solve(lambda s, t: shaped.step(values[s], values[t], best, t == 5))
    potential = values[:5] - best
    np.testing.assert_allclose(with_hints + potential[:, None], solve(plain), atol=1e-9)


# ---- likeness to pictures and prompts ----

class Glance:
    """Embeds a picture as its mean colour, and a text as the numbers of three of its letters;
    both of length 1, as perception does.
    """
    def embed_images(self, images):
        return self._unit([np.asarray(p.convert("RGB"), float).mean((0, 1)) + 1e-9 for p in images])

    def embed_texts(self, texts):
        return self._unit([[text.count(c) + 1e-9 for c in "abc"] for text in texts])

    def _unit(self, rows):
        return (np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def plain(*colour, size=8):
    return Image.new("RGB", (size, size), colour)


def cosine(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def test_similarity_is_equation_4_on_embeddings():
    reward = Similarity(Glance())
    aim = reward.target([plain(100, 50, 0)])
    assert aim.prompt is None
    paid = reward([plain(100, 50, 0), plain(0, 0, 90), plain(30, 60, 90)], [""] * 3, aim)
    np.testing.assert_allclose(paid, [1, 0, cosine([30, 60, 90], [100, 50, 0])], atol=1e-6)
    assert paid.dtype == np.float64


def test_similarity_is_equation_4_on_pixels():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in "ab")
    reward = Similarity(None, pixels=True)  # and it needs no perception
    paid = reward([Image.fromarray(a), Image.fromarray(b)], ["", ""], reward.target([Image.fromarray(b)]))
    np.testing.assert_allclose(paid, [cosine(a.ravel().astype(float), b.ravel().astype(float)), 1], atol=1e-9)
    # pictures of other sizes; the same direction
    assert reward([plain(9, 9, 9, size=32)], [""], reward.target([plain(200, 200, 200, size=128)]))[0] == pytest.approx(
        1
    )
    assert reward([plain(0, 0, 0)], [""], reward.target([plain(5, 5, 5)]))[0] == 0  # black has no direction


def test_similarity_is_equation_5_on_prompts():
    reward = Similarity(Glance(), image=0., text=1.)
    aim = reward.target([], "aab")
    assert aim.image_directions is None
    np.testing.assert_allclose(
        reward([plain(0, 0, 0)] * 3, ["aab", "ccc", "abc"], aim), [1, 0, cosine([1, 1, 1], [2, 1, 0])], atol=1e-6
    )


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_similarity_is_the_weighted_sum_of_equation_6(image, text):
    if not (image or text): return
    reward = Similarity(Glance(), image=image, text=text)
    aim = reward.target([plain(10, 20, 0)], "ab")
    pictures, prompts = [plain(10, 0, 0), plain(0, 20, 5)], ["a", "abcc"]
    expected = [
        image * cosine(p, [10, 20, 0]) + text * cosine(q, [1, 1, 0])
        for p, q in (([10, 0, 0], [1, 0, 0]), ([0, 20, 5], [1, 1, 2]))
    ]
    np.testing.assert_allclose(reward(pictures, prompts, aim), expected, atol=1e-5)
    terms = reward.terms(pictures, prompts, aim)
    assert set(terms) == {name for name, weight in (("image", image), ("text", text)) if weight}
    np.testing.assert_allclose(sum(terms.values()), reward(pictures, prompts, aim))


def test_several_targets_are_averaged():
    reward = Similarity(Glance())
    aim = reward.target([plain(100, 0, 0), plain(0, 100, 0), plain(0, 0, 100)])
    assert reward([plain(70, 0, 0)], [""], aim)[0] == pytest.approx(1 / 3, abs=1e-6)


def test_each_picture_may_have_its_own_aim():
    reward = Similarity(Glance(), image=1., text=1.)
    aims = [reward.target([plain(9, 0, 0)], "a"), reward.target([plain(0, 9, 0), plain(0, 0, 9)], "b")]
    np.testing.assert_allclose(reward([plain(5, 0, 0), plain(0, 5, 0)], ["a", "a"], aims), [2, .5], atol=1e-6)
    np.testing.assert_allclose(reward([plain(5, 0, 0)] * 2, ["a", "b"], aims[0]), [2, 1], atol=1e-6)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: Similarity(None, image=0., text=0.), "one of them not 0"),
        (lambda: Similarity(None, image=float("nan")), "finite numbers"),
        (lambda: Similarity(None, text=float("inf")), "finite numbers"),
        (lambda: Similarity(Glance()).target([]), "no target image"),
        (lambda: Similarity(Glance(), text=1.).target([plain(1, 1, 1)], " "), "no ground-truth prompt"),
        (
            lambda: Similarity(Glance())([plain(1, 1, 1)] * 2, ["", ""], [SimilarityTarget(np.ones((1, 3)), None)]),
            "2 images came with 1 goals",
        ),
        (
            lambda: Similarity(Glance())([plain(1, 1, 1)], [""], SimilarityTarget(np.array([[np.nan, 0, 0]]), None)),
            "finite",
        ),
    ],
)
def test_similarity_refuses(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_similarity_with_the_shipped_model():
    from rlgen.models.perception import Perception
    from rlgen.scenes import render
    reward = Similarity(Perception.load("tiny"), text=1.)
    words = "a photo of one dog and no people in farm"
    target, alike, other = (
        render(prompt, seed)[0]
        for prompt, seed in ((words, 0), (words, 1), ("a photo of many fish and many people in beach", 2))
    )
    aim = reward.target([target], words)
    terms = reward.terms([target, alike, other], [words, words, "a photo of many fish and many people in beach"], aim)
    assert terms["image"][0] == pytest.approx(1, abs=1e-5) and terms["image"][0] > terms["image"][1] > terms["image"][2]
    assert terms["text"][0] == pytest.approx(1, abs=1e-5) and terms["text"][2] < terms["text"][1]
