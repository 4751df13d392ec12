"""The search and its command: what is found, what it costs, killed and resumed, and bad input."""
import csv
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forks import rlgen
from PIL import Image
from standins import Drawing, goal_image, world_of

from rlgen.cli import main
from rlgen.experiments import rldf
from rlgen.experiments.rldf import (
    RLDFSettings,
    load_world,
    make_env_and_agent,
    search,
    search_folder,
    search_once,
    search_steps,
)
from rlgen.experiments.sample_efficiency import compare_agents, summary
from rlgen.grammar import Grammar
from rlgen.models.loading import ModelSettings
from rlgen.runs import Run
from rlgen.scenes import render
from rlgen.store import Store

FAST_MODELS = ModelSettings(inference_steps=2)
QUICK = RLDFSettings(models=FAST_MODELS)
GOAL = "a photo of one dog and many people in playground"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "One store for all tests of this file, so that a state is drawn once."
    return tmp_path_factory.mktemp("store") / "pictures.sqlite"


def test_finds_the_shipped_goal(tmp_path, pictures):
    result = search(settings=QUICK, out=tmp_path / "run", store=pictures)
    assert result.goal_reached and result.prompt == result.zero_shot_prompt == GOAL
    assert Grammar.scenes().decode(result.encoding) == GOAL
    rows = Run(tmp_path / "run").rows()
    assert [r["step"] for r in rows] == list(range(1, result.steps + 1)) and rows[-1]["distance"] == 0
    assert rows[-1]["unique_generator_calls"] == result.unique_generator_calls <= 480
    assert json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["prompt"] == GOAL
    assert (
        {p.name for p in (tmp_path / "run" / "figures").iterdir()}
        == {"trajectory.png", "curves.png", "found.png", "goal.png"}
    )
    again = search(settings=QUICK, out=tmp_path / "run", store=pictures)
    other = search(settings=QUICK, out=tmp_path / "other", store=pictures)
    assert again.generator_calls == other.generator_calls == 0
    assert (
        again.steps == other.steps == result.steps
        and again.unique_generator_calls == other.unique_generator_calls == result.unique_generator_calls
    )
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == (tmp_path / "other" / "log.jsonl").read_bytes()


@pytest.mark.parametrize("agent", ["sarsa", "random"])
def test_other_agents_walk_too(tmp_path, pictures, agent):
    result = search(
        settings=replace(QUICK, agent=agent, max_steps=60), out=tmp_path / "run", store=pictures
    )
    assert result.goal_reached or result.steps == 60


def test_not_found_gives_the_best_paid_prompt(tmp_path, pictures):
    result = search(settings=replace(QUICK, max_steps=3), out=tmp_path / "run", store=pictures)
    assert not result.goal_reached and result.steps == 3 and "highest reward" in str(result)
    assert (
        result.prompt
        in {Grammar.scenes().decode(Grammar.scenes().unindex(r["state"])) for r in Run(tmp_path / "run").rows()}
        | {result.prompt}
    )


@pytest.fixture(scope="module")
def world(pictures):
    with Store(pictures) as store:
        yield load_world(QUICK, store)


@pytest.mark.parametrize("agent", rldf.AGENTS)
def test_the_steps_of_a_search_are_those_of_a_run_folder(world, tmp_path, pictures, agent):
    goal, settings = rldf.load_goal()[0], replace(QUICK, agent=agent, max_steps=120, seed=3)
    result = search(goal, settings, tmp_path / "run", pictures)
    for i, trace in enumerate(search_steps(world, goal, settings), 1):
        assert len(trace.states) == len(trace.rewards) == len(trace.distances) == len(trace.calls) == i
    rows = Run(tmp_path / "run").rows()
    assert trace.states == [row["state"] for row in rows] and trace.rewards == [row["reward"] for row in rows]
    assert trace.distances == [row["distance"] for row in rows]
    assert trace.calls == [row["unique_generator_calls"] for row in rows]
    assert (trace.prompt, trace.found, i) == (result.prompt, result.goal_reached, result.steps)
    # in one call of `learn`
    env, player = make_env_and_agent(world, goal, settings)
    player.learn(env, settings.max_steps, callback=lambda step: step.info["at_goal"])
    assert player.steps == i and env.state_values.unique_generator_calls == trace.calls[-1]
    assert search_once(world, goal, settings)["calls"] == trace.calls[-1]


def test_a_search_may_be_left_and_resumed_anywhere(world, tmp_path):
    goal, settings = rldf.load_goal()[0], replace(QUICK, agent="random", seed=1, max_steps=250)
    whole = [trace for trace in search_steps(world, goal, settings)][-1]
    with Run.create(tmp_path / "run", {"seed": 0}) as run:
        for trace in search_steps(world, goal, settings, run=run):
            if len(trace.states) == 130: break
    with Run.create(tmp_path / "run", {"seed": 0}) as run:
        resumed = search_steps(world, goal, settings, run=run)
        assert len(next(resumed).states) == 100  # the last episode that was finished
        trace = [trace for trace in resumed][-1]
    assert (trace.states, trace.rewards, trace.calls) == (whole.states, whole.rewards, whole.calls)


def test_a_budget_ends_a_search(world):
    for trace in search_steps(world, rldf.load_goal()[0], replace(QUICK, agent="random"), budget=7):
        pass
    assert trace.calls[-1] == 7


def brightness(images, prompts, goals):
    "How bright images are."
    assert len(images) == len(prompts) == len(goals)
    return [float(np.asarray(image).mean()) for image in images]


@pytest.mark.parametrize("agent", ["q-learning", "bandit"])
def test_a_reward_of_ones_own(world, tmp_path, pictures, agent):
    settings = replace(QUICK, agent=agent, max_steps=30)
    result = search(settings=settings, out=tmp_path / "run", store=pictures, reward=brightness)
    rows = Run(tmp_path / "run").rows()
    seen = {row["state"]: row["reward"] for row in rows}
    state = world.grammar.index(result.encoding)
    assert result.goal_reached or seen.get(state, 255) >= max(seen.values())
    assert rows[0]["reward"] == pytest.approx(brightness(world.images([rows[0]["state"]]), [""], [None])[0])
    assert Run(tmp_path / "run").config["reward"] == "brightness"
    with pytest.raises(ValueError, match="another config"):
        search(settings=settings, out=tmp_path / "run", store=pictures)
    found = search_once(world, rldf.load_goal()[0], settings, reward=brightness)
    assert found["prompt"] == result.prompt


def test_a_reward_by_module_and_function(world, tmp_path, monkeypatch):
    (tmp_path / "rewards_of_a_test.py").write_text("def brightness(images, prompts, goals): return [0.] * len(images)")
    monkeypatch.chdir(tmp_path)
    settings = replace(QUICK, reward="rewards_of_a_test:brightness", max_steps=3)
    assert search_steps(world, rldf.load_goal()[0], settings).__next__().rewards == [0.]
    with pytest.raises(ValueError, match="no_such_module"):
        search_once(world, rldf.load_goal()[0], replace(settings, reward="no_such_module:brightness"))


def test_the_models_of_the_settings_are_loaded(tmp_path, pictures, monkeypatch):
    asked = []
    def load(models, store=None):
        asked.append(models)
        raise ConnectionError("no server")
    monkeypatch.setattr(rldf, "load_generator", load)
    models = ModelSettings("openai:some-model", device="cpu")
    with pytest.raises(ConnectionError):
        search(settings=replace(QUICK, models=models), out=tmp_path / "run", store=pictures)
    from rlgen.experiments.training_statistics import run_training_statistics
    with pytest.raises(ConnectionError):
        run_training_statistics(tmp_path / "table", settings=RLDFSettings(models=models), progress=False)
    assert asked == [models] * 2


def test_another_config_is_refused(tmp_path, pictures):
    search(settings=replace(QUICK, max_steps=2), out=tmp_path / "run", store=pictures)
    with pytest.raises(ValueError, match="another config: .*steps"):
        search(settings=replace(QUICK, max_steps=4), out=tmp_path / "run", store=pictures)


def test_killed_search_resumes_to_the_same_result(tmp_path, pictures):
    settings = ["--inference-steps", "2", "--agent", "random", "--max-steps", "450", "--store", pictures, "--seed", "1"]
    def begin(name):
        return rlgen("search", *settings, "--out", name, "--json", folder=tmp_path)
    status, whole, err = begin("whole").wait()
    assert status == 0, err
    killed = begin("killed")
    log, deadline = tmp_path / "killed" / "log.jsonl", time.time() + 120
    least = min(120, json.loads(whole.splitlines()[-1])["steps"] // 2)
    while time.time() < deadline and killed.process.is_alive() and (
        not log.exists() or log.read_bytes().count(b"\n") < least
    ):
        time.sleep(.002)
    killed.process.kill()
    killed.wait()
    status, resumed, err = begin("killed").wait()
    assert status == 0, err
    a, b = (json.loads(out.splitlines()[-1]) for out in (whole, resumed))
    assert (
        {k: a[k] for k in ("prompt", "goal_reached", "steps", "episodes", "unique_generator_calls")}
        == {k: b[k] for k in ("prompt", "goal_reached", "steps", "episodes", "unique_generator_calls")}
    )
    assert log.read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    (first, _), (second, _) = (Run(tmp_path / n).load_checkpoint("walk") for n in ("whole", "killed"))
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_a_folder_becomes_a_table(tmp_path, pictures):
    folder = tmp_path / "goals"
    folder.mkdir()
    truth = "a photo of many cat and no people in beach"
    render(truth, seed=3)[0].save(folder / "a.png")
    (folder / "b.png").write_text("text")
    rows = search_folder(folder, QUICK, tmp_path / "out", pictures)
    table = list(csv.DictReader(open(tmp_path / "out" / "prompts.csv")))
    assert (
        [r["file"] for r in table] == ["a.png", "b.png"]
        and table[0]["goal_reached"] == "True"
        and table[1]["error"]
        and rows[1]["prompt"] == ""
    )
    assert (
        main(
            ["search", str(folder), "--inference-steps", "2", "--out", str(tmp_path / "out"), "--store", str(pictures)]
        )
        == 1
    )


def test_own_grammar(tmp_path, capsys):
    text = (
        'S -> P Noun I Scene\nP -> "a photo of one"\nNoun -> "dog" | "cat" | "car"\nI -> "and no people in"\nScene '
        '-> "farm" | "beach"\n'
    )
    (tmp_path / "own.cfg").write_text(text)
    command = ["search", "--grammar", tmp_path / "own.cfg", "--inference-steps", 2, "--out", tmp_path / "run", "--json"]
    assert main([*map(str, command)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (
        found["goal_reached"]
        and found["prompt"].startswith("a photo of one dog and no people in ")
        and found["unique_generator_calls"] <= 6
    )


def test_json_is_the_last_line(tmp_path, pictures, capsys):
    command = ["search", "--inference-steps", 2, "--store", pictures, "--out", tmp_path / "run", "--json"]
    assert main([*map(str, command)]) == 0
    assert (
        {"prompt", "goal_reached", "generator_calls", "steps", "seconds"}
        <= json.loads(capsys.readouterr().out.splitlines()[-1]).keys()
    )


def bad_inputs(folder: Path):
    (folder / "text.png").write_text("this is text")
    Image.effect_noise((64, 64), 50).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:900])
    (folder / "bad.cfg").write_text("S -> -> NP\n")
    (folder / "empty").mkdir()
    return {
        "missing file": (["search", folder / "none.png"], "none.png"),
        "text named .png": (["search", folder / "text.png"], "text.png"),
        "truncated picture": (["search", folder / "cut.png"], "cut.png"),
        "empty folder": (["search", folder / "empty"], "no images"),
        "unknown model": (["search", "--model", "no-such-model"], "no-such-model"),
        "model on an unreachable hub": (["search", "--model", "nobody/nothing"], "nobody/nothing"),
        "unknown perception": (["search", "--perception", "no-such-model"], "no-such-model"),
        "unknown agent": (["search", "--agent", "dqn"], "choose one of q-learning"),
        "unknown reward": (["search", "--reward", "dense"], "choose one of multi"),
        "zero steps": (["search", "--max-steps", "0"], "max_steps is 0"),
        "epsilon above 1": (["search", "--epsilon", "2"], "between 0 and 1"),
        "negative seed": (["search", "--seed", "-1"], "seed is -1"),
        "unwritable folder": (["search", "--out", folder / "text.png" / "run"], "text.png"),
        "missing grammar": (["search", "--grammar", folder / "none.cfg"], "none.cfg"),
        "malformed grammar": (["search", "--grammar", folder / "bad.cfg"], "line 1"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing file", "text named .png", "truncated picture", "empty folder", "unknown model",
        "model on an unreachable hub", "unknown perception", "unknown agent", "unknown reward", "zero steps",
        "epsilon above 1", "negative seed", "unwritable folder", "missing grammar", "malformed grammar",
    ],
)
def test_bad_input_gives_one_sentence(tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, sentence = bad_inputs(tmp_path)[case]
    status = main([*map(str, arguments)] + ([] if "--out" in arguments else ["--out", str(tmp_path / "run")]))
    out, err = capsys.readouterr()
    assert status == 2 and sentence.lower() in err.lower() and "Traceback" not in err
    assert (
        len([line for line in err.splitlines() if line.startswith("rlgen: ")]) == 1
        and err.splitlines()[-1].startswith("rlgen: ")
    )


def test_bad_options_and_help_need_no_models():
    code = (
        "import sys; from rlgen.cli import main; print(main(['search', '--max-steps', 'many']), "
        "main(['search', '--help']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "2 0 False" and "--perception" in done.stdout


@pytest.mark.parametrize(
    "change",
    [
        {"agent": "dqn"},
        {"reward": "dense"},
        {"max_steps": 0},
        {"episode": 0},
        {"seed": -1},
        {"epsilon": 1.5},
        {"discount": -1},
        {"step_size": 2},
    ],
)
def test_settings_are_checked(change):
    with pytest.raises(
        ValueError, match=next(iter(change)) if next(iter(change)) not in ("agent", "reward") else "choose one of"
    ):
        RLDFSettings(**change)


def test_comparison_holds_every_player_to_the_same_goals(pictures):
    grammar = Grammar.from_string(
        'S -> P Noun I Scene\nP -> "a photo of one"\nNoun -> "dog" | "cat" | "car"\nI -> "and no people in"\nScene '
        '-> "farm" | "beach"\n'
    )
    world = load_world(replace(QUICK, grammar=grammar.text), Store(":memory:"))
    goals = [
        (render(t, seed=9)[0], t)
        for t in ("a photo of one dog and no people in farm", "a photo of one car and no people in beach")
    ]
    rows = compare_agents(world, goals, seeds=range(2), settings=RLDFSettings(max_steps=200))
    table = {row["agent"]: row for row in summary(rows)}
    assert (
        table["read off"]["calls"] == 0
        and table["enumeration"]["calls"] <= 6
        and table["random search"]["searches"] == 4
    )
    assert table["Q-learning, shaped"]["exact"] == table["read off"]["exact"] == 1
    assert all(0 < row["calls"] <= 6 for row in rows if row["agent"] != "read off")
    assert search_once(world, goals[0][0], RLDFSettings(seed=1)) == search_once(
        world, goals[0][0], RLDFSettings(seed=1)
    )


# ---- learning: the same goal again and again ----

@pytest.mark.parametrize('agent', ['q-learning', 'sarsa'])
def test_repeated_episodes_get_shorter(agent):
    "After learning, episodes are nearly as short as the mean distance of the starts (3.6); at first they are not."
    settings = RLDFSettings(agent=agent, step_size=.5)
    env, learner = make_env_and_agent(world_of(Drawing()), goal_image(), settings)
    learner.learn(env, 6000)
    assert np.mean(learner.lengths[:20]) > 2 * np.mean(learner.lengths[-200:])
    assert np.mean(learner.lengths[-200:]) < 6


def test_agents_without_a_rule_do_not_get_faster():
    env, agent = make_env_and_agent(world_of(Drawing()), goal_image(), RLDFSettings(agent='random'))
    agent.learn(env, 6000)
    assert np.mean(agent.lengths[-60:]) > 15 and not agent.table.any()
