"The preference experiment: the same run after a kill, agents at equal budgets, one's own images, bad input."
import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from rlgen import cli
from rlgen.agents.softq import SoftQSettings
from rlgen.agents.token_search import EvolvedTokens, RandomTokens, modifier_texts
from rlgen.data.prompts import CATEGORIES
from rlgen.envs.tokens import TokenTask
from rlgen.experiments import preference
from rlgen.experiments.preference import (
    PREFERENCE_LEARNING,
    PROMPT_AGENTS,
    PreferenceResult,
    PreferenceSettings,
    load_pairs,
    load_preference_result,
    own_pairs,
    tune_prompt,
    tune_prompt_steps,
)
from rlgen.models.loading import ModelSettings, load_generator, load_perception
from rlgen.models.prompt_policy import PromptPolicy
from rlgen.rewards.similarity import Similarity
from rlgen.runs import Run
from rlgen.scenes import render
from rlgen.store import Store

SMALL = PreferenceSettings(
    budget=40, pairs=10, evaluated=2, evaluate_every=1, length=2, models=ModelSettings(inference_steps=2)
)

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store") / "pictures.sqlite"

def same(a: PreferenceResult, b: PreferenceResult):
    return replace(a, seconds=0., folder="") == replace(b, seconds=0., folder="")

@pytest.mark.parametrize("agent", PROMPT_AGENTS)
def test_an_agent_spends_its_budget_and_is_tested_on_held_out_pairs(agent, tmp_path, store):
    result = tune_prompt(replace(SMALL, agent=agent), tmp_path / "run", store)
    train, test = load_pairs(SMALL, None)
    assert SMALL.budget - 8 < result.unique_generator_calls <= SMALL.budget
    assert (
        [len(result.held_out[kind][arm]) for kind in ("image", "text") for arm in ("seed", "learned", "truth")]
        == [len(test)] * 6
    )
    assert result.examples == [f"{p.seed}, {result.prompt}" for p in test]
    assert not {p.seed for p in train} & {p.seed for p in test}
    assert all(-1 <= x <= 1 + 1e-6 for kind in result.held_out.values() for arm in kind.values() for x in arm)
    assert (tmp_path / "run" / "figures" / "examples.png").exists()
    assert same(load_preference_result(tmp_path / "run"), result)

@pytest.mark.parametrize("agent", ["soft-q", "evolution", "modifiers"])
@pytest.mark.parametrize("after", [2, 5])
def test_a_killed_run_goes_on_to_the_same_result(agent, after, tmp_path, store, monkeypatch):
    settings = replace(SMALL, agent=agent, budget=60)
    whole = tune_prompt(settings, tmp_path / "whole", store)
    steps = tune_prompt_steps
    def killed(*arguments, **more):
        for i, trace in enumerate(steps(*arguments, **more), 1):
            yield trace
            if i == after: raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(preference, "tune_prompt_steps", killed)
        tune_prompt(settings, tmp_path / "killed", store)
    assert load_preference_result(tmp_path / "killed") is None
    resumed = tune_prompt(settings, tmp_path / "killed", store)
    assert same(whole, resumed)
    assert Run(tmp_path / "whole").rows() == Run(tmp_path / "killed").rows()

def test_a_list_that_was_killed_goes_on_behind_its_checkpoint(tmp_path, store, monkeypatch):
    settings, asked, score = replace(SMALL, agent="modifiers", budget=60, evaluate_every=2), [], TokenTask.score
    def dying(task, rows, texts):
        asked.append(texts[0])
        if len(asked) == 6: raise KeyboardInterrupt
        return score(task, rows, texts)
    monkeypatch.setattr(TokenTask, "score", dying)
    with pytest.raises(KeyboardInterrupt):
        tune_prompt(settings, tmp_path / "run", store)
    tune_prompt(settings, tmp_path / "run", store)
    assert asked[6] == asked[4] and len(set(asked[:6])) == 6

def test_the_steps_of_a_tuning_are_those_of_a_run_folder(tmp_path, store):
    result = tune_prompt(SMALL, tmp_path / "run", store)
    with Store(store) as images:
        generator, reward = load_generator(SMALL.models, images), Similarity(load_perception(SMALL.models))
        for trace in tune_prompt_steps(generator, reward, load_pairs(SMALL, generator)[0], SMALL):
            assert len(trace.means) == len(trace.best) == len(trace.calls) == len(trace.usual) <= trace.steps
    assert (trace.best_text, trace.best_score) == (result.prompt, result.score) == (trace.answer, trace.best_score)
    rows = Run(tmp_path / "run").rows()
    assert (trace.means, trace.calls) == ([r["reward"] for r in rows], [r["unique_generator_calls"] for r in rows])
    assert (trace.best, trace.usual) == ([r["best_reward"] for r in rows], [r["usual"] for r in rows])
    assert trace.task.unique_generator_calls == result.unique_generator_calls

def test_a_resumed_run_begins_with_its_trace(tmp_path, store):
    with Store(store) as images:
        generator, reward = load_generator(SMALL.models, images), Similarity(load_perception(SMALL.models))
        pairs = load_pairs(SMALL, generator)[0]
        run = Run.create(tmp_path / "run", {"seed": 0})
        for trace in tune_prompt_steps(generator, reward, pairs, SMALL, run=run):
            pass
        first = next(tune_prompt_steps(generator, reward, pairs, SMALL, run=run))
    kept = len(first.means)
    assert kept and first.steps % SMALL.learning.sample_every == 0
    for name in ("means", "best", "calls", "usual"):
        assert getattr(first, name) == getattr(trace, name)[:len(getattr(first, name))]

@pytest.mark.parametrize("agent", ["soft-q", "modifiers"])
def test_a_reward_of_ones_own(agent, tmp_path, store):
    def length(images, prompts, goals):
        assert len(images) == len(prompts) == len(goals)
        return [float(len(prompt)) for prompt in prompts]
    settings = replace(SMALL, agent=agent)
    result = tune_prompt(settings, tmp_path / "run", store, reward=length)
    assert result.score > 40 and "length" in Run(tmp_path / "run").config["reward"]
    with pytest.raises(ValueError, match="reward"):
        tune_prompt(settings, tmp_path / "run", store)

def test_the_models_of_the_settings_are_loaded(tmp_path, store, monkeypatch):
    asked = []
    def load(models, images):
        asked.append(models)
        raise ConnectionError("no server")
    monkeypatch.setattr(preference, "load_generator", load)
    models = ModelSettings("openai:some-model", device="cpu")
    with pytest.raises(ConnectionError):
        tune_prompt(replace(SMALL, models=models), tmp_path / "run", store)
    assert asked == [models]

def test_a_run_needs_an_end():
    with pytest.raises(ValueError, match="budget and max_steps"):
        replace(SMALL, budget=None)
    for change in ({"budget": None, "max_steps": 7}, {"max_steps": 7}):
        assert replace(SMALL, **change).max_steps == 7

def test_a_finished_run_is_not_run_again(tmp_path, store, monkeypatch):
    first = tune_prompt(SMALL, tmp_path / "run", store)
    monkeypatch.setattr(
        preference, "load_generator", lambda *a: pytest.fail("the generator was loaded for a finished run")
    )
    assert tune_prompt(SMALL, tmp_path / "run", store) == first

def test_a_folder_of_another_run_is_refused(tmp_path, store):
    tune_prompt(SMALL, tmp_path / "run", store)
    with pytest.raises(ValueError, match="length"):
        tune_prompt(replace(SMALL, length=3), tmp_path / "run", store)

def test_learned_beats_the_seed_prompt_where_the_words_are_given(tmp_path, store):
    result = tune_prompt(
        replace(SMALL, vocabulary="modifiers", budget=150, pairs=20, evaluated=4, models=ModelSettings()),
        tmp_path / "run",
        store,
    )
    assert result.mean("learned") > result.mean("seed") + .1
    assert 0 < result.share

def test_two_seeds_differ_and_one_seed_does_not(tmp_path, store):
    a, b, c = (
        tune_prompt(replace(SMALL, seed=s), tmp_path / name, store) for s, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert same(a, b)
    assert Run(a.folder).rows() != Run(c.folder).rows()

def test_the_share_of_the_way():
    result = PreferenceResult(
        "x", 0., 1, {"image": {"seed": [.2, .4], "learned": [.5, .6], "truth": [.8, .9]}}, ["a, x"], 0., ""
    )
    assert result.share == pytest.approx((.55 - .3) / (.85 - .3))

def test_random_and_evolution_write_only_what_may_be_written():
    policy = PromptPolicy.load("tiny", length=3, actions=[267, 730, 733, 738])
    wanted = np.array([730, 733, 738])
    for Agent in (RandomTokens, EvolvedTokens):
        agent = Agent(
            policy,
            lambda rows, ids: (ids == wanted).sum(1) + 0.,
            ["a photo"],
            SoftQSettings(new_prompts=1, samples_per_prompt=16),
        )
        agent.learn(12, evaluate_every=3)
        assert set(np.unique(agent.replay_buffer[1])) <= {267, 730, 733, 738}
        last = agent.replay_buffer[2][-32:].mean()
        assert (last > 1.6) if Agent is EvolvedTokens else (last < 1.4)  # chance is .75
        assert agent.best_score == agent.replay_buffer[2].max()

def test_modifier_texts_fit_and_are_all_there():
    policy = PromptPolicy.load("tiny", length=2)
    texts = list(modifier_texts(policy, ["astral", "bismuth", "john harris", "4k"]))
    assert texts == ["astral", "bismuth", "john harris", "4k", "astral bismuth", "bismuth astral"]
    assert not list(modifier_texts(PromptPolicy.load("tiny", length=1), ["john harris"]))

def test_ones_own_picture(tmp_path, store):
    path = tmp_path / "liked.png"
    render("a photo of one dog and no people in farm, rembrandt", 5)[0].save(path)
    pairs = own_pairs("a photo of one dog and no people in farm", [path])
    result = tune_prompt(
        replace(
            SMALL,
            vocabulary="modifiers",
            models=ModelSettings(),
            budget=60,
            learning=replace(PREFERENCE_LEARNING, new_prompts=1, samples_per_prompt=16),
        ),
        tmp_path / "run",
        store,
        pairs,
    )
    assert result.mean("learned") > result.mean("seed") and "ground truth" not in str(result)
    with pytest.raises(ValueError, match="target image"):
        own_pairs("a photo", [])

def test_several_targets_and_several_seeds(tmp_path, store):
    pictures = [render("a photo of one dog and no people in farm, rembrandt", seed)[0] for seed in (5, 6)]
    result = tune_prompt(
        replace(
            SMALL,
            images_per_prompt=2,
            budget=40,
            learning=replace(PREFERENCE_LEARNING, new_prompts=1, samples_per_prompt=4),
        ),
        tmp_path / "run",
        store,
        own_pairs("a photo of one dog and no people in farm", pictures),
    )
    assert 30 <= result.unique_generator_calls <= 40 and result.unique_generator_calls % 2 == 0

@pytest.fixture
def open_csv(tmp_path):
    "A CSV like open-prompts with twelve prompts, half of them with three modifiers, and its folder of lists."
    from rlgen.data.prompts import MODIFIER_FILES
    folder = tmp_path / "modifiers"
    for names in MODIFIER_FILES.values():
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("rembrandt\nmacabre\njohn harris\n")
    with open(tmp_path / "prompts.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "raw_data"))
        for noun in ("dog", "cat", "bus", "car", "boat", "fish"):
            writer.writerow((f"a photo of one {noun} and no people in farm, rembrandt, macabre, john harris", "{}"))
            writer.writerow((f"a photo of one {noun} and no people in street, rembrandt", "{}"))
    return tmp_path / "prompts.csv", folder

def test_open_prompts_from_a_csv(open_csv, tmp_path, store):
    path, folder = map(str, open_csv)
    result = tune_prompt(
        replace(SMALL, csv=path, modifiers=folder, min_modifiers=3, vocabulary="modifiers"), tmp_path / "run", store
    )
    assert len(result.examples) == 1  # six pairs, one in five is held out
    assert result.mean("truth", "text") == pytest.approx(1., abs=1e-5)

def test_bad_settings_are_sentences(open_csv):
    for change, word in (
        ({"category": "sculpture"}, "category"),
        ({"agent": "dqn"}, "agent"),
        ({"vocabulary": "few"}, "vocabulary"),
        ({"budget": 0}, "budget"),
        ({"length": 0}, "length"),
        ({"csv": "x.csv"}, "modifiers"),
        ({"pairs": 1}, "pairs"),
    ):
        with pytest.raises(ValueError, match=word):
            replace(SMALL, **change)

@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--category", "sculpture"), "choose one of"),
        (("nowhere.png",), "belong together"),
        (("--prompt", "a photo"), "belong together"),
        (("nowhere.png", "--prompt", "a photo"), "nowhere.png"),
        (("--csv", "nowhere.csv"), "modifiers"),
        (("--budget", "0"), "budget"),
        (("--image", "0"), "weights"),
        (("--model", "./nowhere"), "nowhere"),
        (("--language-model", "./nowhere"), "nowhere"),
        (("--length", "40"), "shorten"),
    ],
)
def test_the_command_line_answers_bad_input_with_one_sentence(arguments, says, tmp_path, capsys, store):
    status = cli.main(
        ["prefer", *arguments, "--out", str(tmp_path / "run"), "--store", str(store), "--inference-steps", "2"]
    )
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rlgen: ")]
    assert status == 2 and len(err) == 1 and says in err[0]

def test_a_csv_without_the_columns_and_lists_in_which_nothing_matches(open_csv, tmp_path, capsys, store):
    path, folder = open_csv
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    other = tmp_path / "other"
    for file in folder.rglob("*.txt"):
        (other / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (other / file.relative_to(folder)).write_text("cubism\n")
    for csv_path, lists, says in ((wrong, folder, "prompt"), (path, other, "modifier")):
        status = cli.main([
            "prefer",
            "--csv",
            str(csv_path),
            "--modifiers",
            str(lists),
            "--out",
            str(tmp_path / f"run{says}"),
            "--store",
            str(store),
        ])
        err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rlgen: ")]
        assert status == 2 and len(err) == 1 and says in err[0]

def test_the_command_line_prints_json(tmp_path, capsys, store):
    status = cli.main([
        "prefer",
        "--length",
        "2",
        "--budget",
        "30",
        "--pairs",
        "10",
        "--inference-steps",
        "2",
        "--out",
        str(tmp_path / "run"),
        "--store",
        str(store),
        "--json",
    ])
    out = capsys.readouterr().out.splitlines()
    assert status == 0 and json.loads(out[-1])["prompt"] in out[0]

def test_every_category_has_pairs_whose_prompts_the_generator_reads_whole():
    from rlgen.models.generator import Generator
    generator = Generator.load("tiny", inference_steps=1)
    for category in CATEGORIES:
        for part in load_pairs(replace(PreferenceSettings(), category=category), None):
            assert not any(generator.overflow(p.prompt) for p in part)
