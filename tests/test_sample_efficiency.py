"""Agents at equal budget, on a world that draws scenes itself, so that thousands of searches take seconds."""
import json

import numpy as np
import pytest

from rlgen.agents.blackbox import CoordinateBandit, RandomSearch
from rlgen.envs.grid import World
from rlgen.experiments import sample_efficiency
from rlgen.experiments.rldf import RLDFSettings, make_env_and_agent, search_once
from rlgen.experiments.sample_efficiency import (
    COMPARED_AGENTS,
    Case,
    DialectSettings,
    NoisyGenerator,
    RelabelledGenerator,
    compare_agents,
    dialect_curves,
    dialect_runs,
    dialect_scores,
    dialect_task,
    random_dialect,
    summary,
    when_feedback_helps,
)
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.runs import Run, find_runs
from rlgen.scenes import NOUNS, render

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


# --- the search that reading cannot win

def test_a_dialect_permutes_its_words():
    for seed in range(20):
        said = random_dialect(NOUNS, seed)
        assert set(said) == set(said.values()) == set(NOUNS) and all(a != b for a, b in said.items())
    assert random_dialect(NOUNS, 3) == random_dialect(NOUNS, 3) != random_dialect(NOUNS, 4)
    with pytest.raises(ValueError, match="two or more"):
        random_dialect(["dog"])


@pytest.mark.parametrize("seed", range(3))
def test_in_a_dialect_the_right_prompt_is_not_what_is_read(world, seed):
    env, truth = dialect_task(world, seed, DialectSettings(share=0))
    env.reset(seed=0)
    read = env.state_values.encoding
    right = world.grammar.encode(truth)
    assert (read != right).tolist() == [False, True, False, False]
    _, reward, terminated, *_ = env.step(read)
    assert reward == 3 and not terminated  # the noun is another one
    assert env.step(right)[1] == 4
    assert dialect_task(world, seed)[1] == truth != dialect_task(world, seed + 1)[1]


def test_wrong_images_come_on_top(world):
    env, _ = dialect_task(world, 0)
    clean, _ = dialect_task(world, 0, DialectSettings(share=0))
    rewards = [e.state_values.visit(range(480)) for e in (env, clean)]
    assert 25 <= np.sum(np.not_equal(*rewards)) <= 72


def test_a_dialect_needs_words_of_its_own_and_a_plain_reward(world):
    grammar = Grammar.from_string("""
        S -> "a" Colour Thing
        Colour -> "red" | "dark blue" | "green"
        Thing -> "cup" | "hat"
    """)
    with pytest.raises(ValueError, match="The longest axis, Colour, has labels of several words"):
        dialect_task(World(grammar, world.generator, world.perception), 0)
    with pytest.raises(ValueError, match="A shaped reward is for steps between neighbours"):
        dialect_task(world, 0, DialectSettings(reward="shaped-multi"))


@pytest.fixture
def drawn(world, monkeypatch):
    "Runs without models."
    monkeypatch.setattr(sample_efficiency, "load_world", lambda settings, store: world)


def test_runs_in_dialects_are_scored_from_their_folders(drawn, tmp_path):
    for agent in (CoordinateBandit, RandomSearch):
        dialect_runs(agent, tmp_path / agent.__name__, range(8))
    best, worst = dialect_scores(tmp_path)
    curves = dialect_curves(tmp_path)
    assert [best["agent"], worst["agent"]] == ["CoordinateBandit", "RandomSearch"]
    assert list(best) == ["agent", "runs", "score", "after 20", "after 40", "after 60"] and best["runs"] == 8
    assert best["score"].estimate == pytest.approx(curves["CoordinateBandit"].mean())
    assert curves["RandomSearch"].shape == (8, 60)
    assert best["score"].low > worst["score"].high and best["after 60"].estimate >= .6
    assert all(run.result["read_off"] != run.result["truth"] for run in find_runs(tmp_path))
    assert dialect_scores(tmp_path/"RandomSearch") == [worst]
    dialect_runs(RandomSearch, tmp_path / "again", range(2))
    for seed in range(2):
        first, again = (tmp_path/name/f"seed-{seed}"/"log.jsonl" for name in ("RandomSearch", "again"))
        assert first.read_bytes() == again.read_bytes()


class Stubborn(RandomSearch):
    "Asks once for each of two prompts, then for the first one again; answers with the last."
    def choose_action(self, state):
        return np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]][min(self.steps, 3)])


def test_the_cost_is_images_not_questions(drawn, tmp_path):
    dialect_runs(Stubborn, tmp_path / "a", [5], DialectSettings(budget=4))
    run, = find_runs(tmp_path)
    assert [row["unique_generator_calls"] for row in run.rows()] == [1, 2, 2, 2]
    lines = [row | {"right": right} for row, right in zip(run.rows(), (0, 0, 1, 1), strict=True)]
    (run.folder/"log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    assert dialect_curves(tmp_path)["a"].tolist() == [[False, True, True, True]]
    assert dialect_scores(tmp_path)[0]["score"] == "0.75"


def test_a_finished_run_is_kept_and_an_unfinished_one_begins_again(drawn, tmp_path):
    settings = DialectSettings(budget=5)
    dialect_runs(RandomSearch, tmp_path / "a", range(2), settings)
    done, cut = (tmp_path/"a"/f"seed-{seed}" for seed in range(2))
    whole, before = (cut/"log.jsonl").read_bytes(), (done/"log.jsonl").stat().st_mtime_ns
    (cut/"result.json").unlink()
    (cut/"log.jsonl").write_bytes(whole[:whole.index(b"\n") + 1])
    with pytest.raises(ValueError, match="seed-1 is not finished"):
        dialect_scores(tmp_path)
    dialect_runs(RandomSearch, tmp_path / "a", range(2), settings)
    assert (cut/"log.jsonl").read_bytes() == whole and (done/"log.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="agent"):
        dialect_runs(CoordinateBandit, tmp_path / "a", range(2), settings)


def test_what_cannot_be_compared_is_refused(drawn, tmp_path):
    dialect_runs(RandomSearch, tmp_path / "a", [0], DialectSettings(budget=2))
    dialect_runs(RandomSearch, tmp_path / "b", [0], DialectSettings(budget=3))
    with pytest.raises(ValueError, match="other settings than .*budget"):
        dialect_scores(tmp_path)
    Run.create(tmp_path / "c" / "other", {"seed": 0}).close()
    with pytest.raises(FileNotFoundError, match="holds no runs of dialect_runs"):
        dialect_scores(tmp_path / "c")
    for wrong in ({"budget": 0}, {"share": 2}):
        with pytest.raises(ValueError, match="must be"):
            DialectSettings(**wrong)
