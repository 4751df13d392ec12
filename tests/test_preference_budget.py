"A budget is a hard cap for every agent: what cannot be afforded is not begun, and what is left is small."
import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rlgen.agents.softq import MAX_CANDIDATES
from rlgen.data.prompts import Pair
from rlgen.experiments.preference import PROMPT_AGENTS, PreferenceSettings, make_prompt_policy, tune_prompt_steps
from rlgen.runs import Run

PAIRS = [Pair(f"a photo of {n} dogs", f"a photo of {n} dogs, macabre", ("macabre",)) for n in range(10)]


class Counted:
    "Generates nothing, and counts the different images that it was asked for."
    def __init__(self):
        self.asked = set()

    def generate(self, prompts, seeds):
        self.asked |= set(zip(prompts, seeds, strict=True))
        return [Image.new("RGB", (2, 2)) for _ in prompts]


def letters(images, prompts, goals):
    return [prompt.count("a") / 10 for prompt in prompts]


def tune(generator=None, run=None, **changes):
    "The last trace of a tuning."
    settings = PreferenceSettings(**({"length": 2, "vocabulary": "modifiers"} | changes))
    policy = make_prompt_policy(settings)
    for trace in tune_prompt_steps(generator or Counted(), letters, PAIRS, settings, policy, run):
        assert settings.budget is None or trace.task.unique_generator_calls <= settings.budget
    return trace


@pytest.mark.parametrize("agent", PROMPT_AGENTS)
@pytest.mark.parametrize("budget", [33, 47, 64, 97, 130])
@pytest.mark.parametrize("images_per_prompt", [1, 3])
def test_a_budget_is_a_hard_cap_and_is_spent(agent, budget, images_per_prompt):
    generator = Counted()
    trace = tune(generator, agent=agent, budget=budget, images_per_prompt=images_per_prompt, length=3, evaluated=4)
    calls = trace.task.unique_generator_calls
    assert calls == len(generator.asked) <= budget
    # what is left would not do for one more prompt and for the evaluation that has to follow it
    candidate = 4 * images_per_prompt
    assert budget - calls < candidate * min(MAX_CANDIDATES, budget // 2 // candidate) + images_per_prompt
    assert trace.evaluated and trace.answer == trace.best_text != ""


@pytest.mark.parametrize("agent", ["soft-q", "random", "evolution"])
def test_a_budget_that_cannot_hold_an_evaluation_is_spent_on_prompts(agent):
    trace = tune(agent=agent, budget=10, evaluated=8)
    assert not trace.evaluated and trace.task.unique_generator_calls == 10
    assert trace.reward_of(trace.answer) == trace.best[-1] == max(trace.task.known.values())
    with pytest.raises(ValueError, match="too small for 8 pairs"):
        tune(agent="modifiers", budget=7, evaluated=8)
    trace = tune(agent=agent, budget=26, evaluated=8)  # one candidate can be tried, and is
    assert trace.evaluated and trace.task.unique_generator_calls <= 26


@pytest.mark.parametrize("agent", PROMPT_AGENTS)
def test_without_a_budget_all_is_as_it_is_with_more_than_enough(agent):
    free, rich = (tune(agent=agent, budget=budget, max_steps=9, evaluated=2) for budget in (None, 10_000))
    assert (free.means, free.calls, free.best_text) == (rich.means, rich.calls, rich.best_text)


@pytest.mark.parametrize("agent", ["soft-q", "random", "evolution"])
def test_the_last_prompts_are_evaluated_however_a_run_ends(agent):
    for change in ({"max_steps": 7, "budget": None}, {"budget": 40}):
        trace = tune(agent=agent, evaluated=2, evaluate_every=50, **change)
        assert trace.evaluated and trace.agent.seen == trace.agent.stored


@pytest.mark.parametrize("agent", ["soft-q", "random", "evolution"])
def test_equal_budgets_for_the_same_settings(agent):
    "No agent gets a step or an evaluation more than another: both are a part of one budget."
    calls = [tune(agent=agent, budget=90, length=5, vocabulary="all", seed=seed).calls[-1] for seed in range(2)]
    assert all(90 - 8 * MAX_CANDIDATES < n <= 90 for n in calls)


@pytest.mark.parametrize("agent", ["soft-q", "evolution"])
def test_a_killed_run_spends_no_more(agent, tmp_path):
    "Resumed behind each of its checkpoints, a run ends as the unbroken one does."
    changes = {"agent": agent, "budget": 75, "length": 3, "evaluated": 2, "evaluate_every": 1}
    whole = tune(run=Run.create(tmp_path / "whole", {"seed": 0}), **changes)
    settings = PreferenceSettings(vocabulary="modifiers", **changes)
    for steps in (4, 8):
        run = Run.create(tmp_path / f"{steps}", {"seed": 0})
        begun = tune_prompt_steps(Counted(), letters, PAIRS, settings, run=run)
        for _ in itertools.islice(begun, steps):
            pass
        run.close()
        trace = tune(run=Run.create(tmp_path / f"{steps}", {"seed": 0}), **changes)
        assert (trace.calls, trace.means, trace.best_score) == (whole.calls, whole.means, whole.best_score)
        assert trace.task.generated == whole.task.generated


def test_what_no_budget_can_pay_is_a_sentence():
    with pytest.raises(ValueError, match="a single prompt takes 3 images"):
        PreferenceSettings(budget=2, images_per_prompt=3)
    settings = PreferenceSettings()
    with pytest.raises(ValueError, match="new_prompts is 0"):
        replace(settings, learning=replace(settings.learning, new_prompts=0))


def test_a_smaller_step():
    "`max_new` cuts a step short, and changes nothing if the step is not that long."
    for agent in ("soft-q", "random", "evolution"):
        def start(agent=agent):
            settings = PreferenceSettings(vocabulary="modifiers", length=2)
            policy = make_prompt_policy(settings)
            return PROMPT_AGENTS[agent](policy, lambda rows, ids: ids.sum(1) / 1000., ["a dog", "a cat"],
                                        replace(settings.learning, new_prompts=2))
        for given, written in ((3, 3), (8, 8), (100, 8), (None, 8)):
            update = start().step(given)
            assert len(update.rows) == len(update.ids) == len(update.rewards) == written
        for a, b in zip(start().step(100)[4:6], start().step()[4:6], strict=True):
            np.testing.assert_array_equal(a, b)
