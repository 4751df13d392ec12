"""Agents at equal budget, on a world that draws scenes itself, so that thousands of searches take seconds."""
import numpy as np
import pytest

from rlgen.envs.grid import World
from rlgen.experiments.rldf import RLDFSettings, make_env_and_agent, search_once
from rlgen.experiments.sample_efficiency import (
    COMPARED_AGENTS,
    Case,
    NoisyGenerator,
    RelabelledGenerator,
    compare_agents,
    summary,
    when_feedback_helps,
)
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.scenes import render

class Drawn:
    "A generator and a perception in one: draws scenes, and knows what it drew."
    settings, negative, batch_size = {"model": "drawn"}, "", 32

    def __init__(self):
        self.truth, self.calls = {}, 0

    def generate(self, prompts, seeds, negative=None):
        self.calls += len(prompts)
        pictures = [render(p, s)[0] for p, s in zip(prompts, seeds, strict=True)]
        self.truth.update((picture.tobytes(), p) for picture, p in zip(pictures, prompts, strict=True))
        return pictures
    def perceive(self, images, grammar):
        encodings = np.array([grammar.encode(self.truth[i.tobytes()]) for i in images])
        one_hot = [np.eye(n)[e] for n, e in zip(grammar.nvec, encodings.T, strict=True)]
        embeddings = np.concatenate(one_hot, 1) / np.sqrt(len(grammar.nvec))
        return Percept(encodings, one_hot, embeddings.astype(np.float32))


@pytest.fixture(scope="module")
def world():
    drawn = Drawn()
    return World(Grammar.scenes(), drawn, drawn)


def goals(world, n, seed=0):
    texts = [world.grammar.decode(e) for e in world.grammar.sample(seed, n)]
    return [(world.generator.generate([text], [90_000 + i])[0], text) for i, text in enumerate(texts)]


def test_every_player_plays_within_its_budget(world):
    rows = compare_agents(world, goals(world, 2), seeds=range(1), budget=40, settings=RLDFSettings(max_steps=400))
    assert (
        {row["agent"] for row in rows} == {*COMPARED_AGENTS, "read off"} and len(rows) == 2 * (len(COMPARED_AGENTS) + 1)
    )
    assert all(row["calls"] <= 41 for row in rows)  # a walker pays for its start and its first step at once
    assert all(row["exact"] == row["found"] for row in rows if row["agent"] != "read off" and row["found"])
    assert all(row["exact"] and row["calls"] == 0 for row in rows if row["agent"] == "read off")


def test_the_promised_medians(world):
    """At most 20 unique pictures for the best agent and 100 for the best tabular one,
    on this world and fewer goals than in the lesson.
    """
    few = {name: COMPARED_AGENTS[name] for name in ("bandit, multi", "Dyna-Q, shaped", "random search")}
    table = {row["agent"]: row for row in summary(compare_agents(world, goals(world, 15), seeds=range(2), agents=few))}
    assert (
        table["bandit, multi"]["calls"] <= 20
        and table["Dyna-Q, shaped"]["calls"] <= 100 < table["random search"]["calls"]
    )
    assert all(row["found"] == row["exact"] == 1 for row in table.values())


def test_enumeration_names_every_state_and_random_search_half(world):
    goal = goals(world, 1)[0][0]
    few = {name: COMPARED_AGENTS[name] for name in ("enumeration", "random search")}
    rows = compare_agents(world, [(goal, "")], seeds=range(30), agents=few)
    index = next(row["calls"] for row in rows if row["agent"] == "enumeration") - 1
    assert index == world.grammar.index(world.perception.perceive([goal], world.grammar).encodings[0])
    assert 150 < np.mean([row["calls"] for row in rows if row["agent"] == "random search"]) < 330


def test_choosers_are_paid_the_plain_reward(world):
    goal = goals(world, 1)[0][0]
    for agent in ("bandit", "evolution", "random-search", "enumeration", "gradient"):
        env, _ = make_env_and_agent(world, goal, RLDFSettings(agent=agent, reward="shaped-multi"))
        env.reset(seed=0)
        assert env.step(env.state_values.encoding)[1] == 4


def test_play_is_deterministic_and_its_budget_is_kept(world):
    goal = goals(world, 1)[0][0]
    for agent in ("dyna-q", "bandit", "evolution"):
        runs = [search_once(world, goal, RLDFSettings(agent=agent, seed=3), budget=10) for _ in range(2)]
        assert runs[0] == runs[1] and runs[0]["calls"] <= 11


def test_careless_is_wrong_in_its_share_and_always_the_same(world):
    careless = NoisyGenerator(world.generator, world.grammar, .1, seed=1)
    prompts = [world.prompt(s) for s in range(480)]
    drawn = [careless.substitute(p, s) for s, p in enumerate(prompts)]
    assert drawn == [careless.substitute(p, s) for s, p in enumerate(prompts)]
    assert 25 <= sum(a != b for a, b in zip(prompts, drawn, strict=True)) <= 72
    assert careless.settings != world.generator.settings
    assert (
        [p.tobytes() for p in careless.generate(prompts[:5], range(5))]
        == [render(d, s)[0].tobytes() for s, d in enumerate(drawn[:5])]
    )
    assert [NoisyGenerator(world.generator, world.grammar, 0).substitute(p, 0) for p in prompts] == prompts
    with pytest.raises(ValueError, match="between 0 and 1"):
        NoisyGenerator(world.generator, world.grammar, 2)


def test_feedback_beats_reading_a_dialect(world):
    """The generator draws a cat for 'dog': reading the goal gives the wrong word, seeing drawings the right one."""
    swapped = World(world.grammar, RelabelledGenerator(world.generator, {"dog": "cat", "cat": "dog"}), world.perception)
    truth = "a photo of one dog and no people in farm"
    goal = world.generator.generate([truth.replace("dog", "cat")], [5])[0]
    def wish(images, prompts, goals):
        seen = [world.perception.perceive([i], world.grammar).embeddings[0] for i in [*images, goals[0]]]
        return np.array(seen[:-1]) @ seen[-1]
    rows = when_feedback_helps(Case("dialect", swapped, goal, wish, truth), seeds=range(2))
    best = {row["agent"]: row for row in rows}
    assert not best["read off"]["exact"] and best["read off"]["reward"] == pytest.approx(.75)
    assert best["bandit"]["exact"] and best["bandit"]["reward"] == pytest.approx(1) and best["bandit"]["calls"] <= 60
    assert best["enumeration"]["exact"] and best["enumeration"]["calls"] == 480
