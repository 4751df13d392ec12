"""Sliding, presence of a concept, captions against a search: on the shipped models with few steps."""
import numpy as np
import pytest

from rlgen.envs.grid import SemanticGrid, World
from rlgen.experiments.applications import axis_control, captions_against_search, concept_probability, images_along_axis
from rlgen.experiments.rldf import RLDFSettings, search_once
from rlgen.grammar import Grammar
from rlgen.models.generator import Cached, Generator
from rlgen.models.perception import Perception
from rlgen.scenes import NOUNS, render
from rlgen.store import Store

@pytest.fixture(scope="module")
def world():
    return World(
        Grammar.scenes(weather=True),
        Cached(Generator.load("tiny", inference_steps=6, device="cpu"), Store(":memory:")),
        Perception.load("tiny", device="cpu"),
    )


def test_a_slide_changes_one_word_and_keeps_the_seed(world):
    start = world.grammar.encode("a photo of one car and one people in cloudy street")
    prompts, pictures = images_along_axis(world, start, "Weather", seed=4)
    assert prompts == [f"a photo of one car and one people in {w} street" for w in ("cloudy", "rainy", "snowy")]
    assert pictures[1].tobytes() == world.generator.generate([prompts[1]], [4])[0].tobytes()
    assert images_along_axis(world, start, 3, seed=4)[0] == prompts
    others = images_along_axis(world, start, "Weather", seed=5)[1]
    def gap(a, b):
        return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()
    assert gap(pictures[0], pictures[1]) < gap(pictures[0], others[0])  # the seed decides the layout


def test_control_is_measured_on_the_axis_and_beside_it(world):
    row = axis_control(world, "Weather", starts=3)
    assert row["axis"] == "Weather" and set(row) == {"axis", "follows", "Frequency", "Noun", "Density", "Scene"}
    assert row["follows"] >= .7 and row["Noun"] >= .7 and row["Scene"] >= .7


@pytest.mark.parametrize("axis", ["Colour", 17, -1])
def test_an_axis_that_is_not_there(world, axis):
    with pytest.raises(ValueError, match="There is no axis .* Frequency, Noun"):
        images_along_axis(world, [0] * 5, axis)


def test_presence_of_a_concept(world):
    pictures = [render(f"a photo of one {noun} and no people in beach", 3)[0] for noun in ("penguin", "bus")]
    with_, without = concept_probability(
        world.perception, pictures, [f"a photo of {n}" for n in ("penguin", *(n for n in NOUNS if n != "penguin"))]
    )
    assert with_ > .5 > without


def test_a_word_that_the_grammar_lacks_is_never_said(world):
    less = World(Grammar.scenes().without("Noun", "penguin"), world.generator, world.perception)
    goal = render("a photo of many penguin and no people in beach", 3)[0]
    assert "penguin" not in search_once(less, goal, RLDFSettings(agent="bandit"), budget=30)["prompt"]


def test_two_goals_want_what_either_shows(world):
    pair = [
        render("a photo of many cat and one people in beach", 1)[0],
        render("a photo of many bus and many people in beach", 2)[0],
    ]
    base = World(Grammar.scenes(), world.generator, world.perception)
    found = search_once(base, pair, RLDFSettings(agent="bandit"))["prompt"].split()
    assert found[3] == "many" and found[4] in ("cat", "bus") and found[6] in ("one", "many") and found[9] == "beach"
    env = SemanticGrid(base, pair)
    at = {base.prompt(s) for s in range(480) if env.state_values.distance(base.grammar.unindex(s)) == 0}
    assert at == {f"a photo of many {n} and {p} people in beach" for n in ("cat", "bus") for p in ("one", "many")}
    assert env.reset(seed=0)[1]["distance"] > 0


class Saying:
    def __init__(self, text):
        self.text = text

    def caption(self, image):
        return [self.text]


def test_captions_are_judged_by_what_is_drawn(world):
    base, truth = World(Grammar.scenes(), world.generator, world.perception), "a photo of one dog and no people in farm"
    goal = render(truth, 12)[0]
    rows = captions_against_search(
        base,
        Saying("a photo of one cat and no people in beach"),
        [(goal, truth)],
        RLDFSettings(agent="bandit"),
        evaluation_seeds=(1, 2),
    )
    by = {row["way"]: row for row in rows}
    assert (
        [by[w]["exact"] for w in ("caption", "read off", "search")] == [False, True, True] and by["search"]["calls"] > 0
    )
    assert (
        by["caption"]["right"].shape == (2, 4)
        and not by["caption"]["right"][:, 1].any()
        and by["read off"]["right"].mean() > .8
    )
