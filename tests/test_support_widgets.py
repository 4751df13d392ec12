"""The panel of support sets, and the plain functions below it.

Pictures are of one colour and the classifier is a probe on their colour, so that no picture model is loaded.
"""
import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_panels import told
from test_plots import overlaps, small_texts
from test_support import CLASSES, Painter, data, real, scripted
from test_walkthroughs import is_png

from rlgen.data.labelled import Labelled, labelled_scenes
from rlgen.envs.support import SupportTask
from rlgen.experiments.support_arms import (
    PANEL_LEARNING,
    SupportSetTrace,
    compare_arms,
    cut,
    default_test,
    evaluate_arms,
    final_set,
    first_places,
    rollout,
    support_env,
    support_steps,
    train_ppo_steps,
)
from rlgen.models.classifier import Evaluation
from rlgen.plots import AGENT_COLOURS
from rlgen.statistics import mean_interval
from rlgen.widgets.support import (
    COMPARES,
    LEARNS,
    PANEL_ARMS,
    SupportPanel,
    arms_chart,
    compared,
    learning_chart,
    learnt,
    stand_chart,
    standing,
    support_steps_figure,
)

CAR, DOG, SHIP = range(3)


def told_above(panel):
    return told(type("", (), {"message": panel.line}))


def colours(n=4):
    chance = np.random.default_rng(5)
    colours = 30 + 60 * np.repeat(range(3), n)[:, None, None, None] + chance.integers(-29, 30, (3 * n, 16, 16, 3))
    return Labelled(colours.astype(np.uint8), np.repeat(range(3), n), CLASSES)


def is_shown(image):
    return image.layout.display != "none" and image.layout.visibility != "hidden"


def played(task, *actions):
    env = support_env(task, classes_by_need=False)
    env.reset()
    for action in actions:
        env.step(action)
    return env.sets[-1]


def finished(generator):
    for result in generator:
        pass
    return result


class Slow(Painter):
    def generate(self, prompts, seeds):
        time.sleep(.05)
        return super().generate(prompts, seeds)


@pytest.fixture(scope="module")
def taught():
    task = real()
    return task, finished(train_ppo_steps(task, 4))


@pytest.fixture
def panel():
    return SupportPanel(real(), colours(), episodes=2, n_sets=2)


# A set that grows

def test_filling_notes_every_step():
    f = played(scripted(), [0, CAR, DOG, SHIP], [1, SHIP, SHIP, SHIP], [0, CAR, DOG, SHIP])
    assert f.rewards == pytest.approx([.1 + .1, -.05 + .2, .35 + .6]) and f.total_reward == pytest.approx(.4 + .9)
    assert f.sizes.tolist() == [0, 4, 8, 10] and len(f.evaluations) == 4
    assert (
        [a.prompt for a in f.additions]
        == ["a photo of a car, dog, and ship", "a sketch of a ship, ship, and ship", "a photo of a car, dog, and ship"]
    )
    assert f.additions[2].image_seeds == (4, 5)  # goes on where the prompt's pictures ended


def test_every_episode_has_its_own_filling():
    task = real()
    env = support_env(task, classes_by_need=False)
    for _ in range(2):
        env.reset()
        env.step([0, CAR, CAR, CAR])
    assert [len(f.rewards) for f in env.sets] == [1, 1] and env.sets[0] is not env.sets[1]


def test_chart_shows_what_was_noted():
    f = played(scripted(), [0, CAR, DOG, SHIP], [1, SHIP, SHIP, SHIP])
    axes = [ax for ax in stand_chart(f).axes if ax.lines]
    accuracy, entropy, classes = axes
    assert list(accuracy.lines[0].get_xdata()) == [0, 4, 8] and list(accuracy.lines[0].get_ydata()) == [.5, .6, .55]
    assert list(entropy.lines[0].get_ydata()) == [1., .9, .7]
    assert (
        [bar.get_height() for bar in classes.patches] == [.55, 0, 1]
        and list(classes.lines[0].get_ydata()) == [.5, 0, 1]
    )
    shown = [ax for ax in stand_chart(f).axes if ax.images]
    assert len(shown) == 4 and (np.asarray(shown[0].images[0].get_array()) == f.additions[1].images[0]).all()
    assert shown[0].get_title(loc="left") == "step 2: a sketch of a ship, ship, and ship    reward +0.150"


def test_empty_set_has_a_chart_and_a_sentence():
    f = SupportSetTrace(scripted())
    assert isinstance(stand_chart(f), Figure) and standing(f) == "No images yet: accuracy 50.0%, entropy 1.00 nats."


def test_sentence_works_the_reward_out():
    f = played(scripted(), [0, CAR, CAR, CAR], [0, DOG, DOG, DOG])
    assert standing(f) == (
        "8 of 10 images: accuracy 55.0%, entropy 0.70 nats. "
        "Last reward: (0.550 - 0.600) - (0.700 - 0.900) = +0.150; all together +0.350."
    )


def test_sheet_has_a_row_for_each_step():
    f = played(scripted(), [0, CAR, DOG, SHIP], [1, SHIP, SHIP, SHIP], [0, DOG, DOG, DOG])
    rows = [ax.get_title(loc="left") for ax in support_steps_figure(f, 1).axes if ax.get_title(loc="left")]
    assert rows == ["2: a sketch of a ship, ship, and ship    +0.150", "3: a photo of a dog, dog, and dog    +0.950"]
    assert len([ax for ax in support_steps_figure(f, 1).axes if ax.images]) == 4 + 2
    assert len([ax for ax in support_steps_figure(f, 0, steps=1).axes if ax.images]) == 4
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"There is no step {wrong + 1}: the set has 3"):
            support_steps_figure(f, wrong)


# One loop

def test_the_loop_fills_one_set_after_the_other():
    env, chosen = support_env(real(), classes_by_need=False), []
    def rule(observation):
        chosen.append(observation)
        return [0, CAR, CAR, CAR]
    steps = support_steps(env, rule, 2)
    for count in range(1, 7):
        trace = next(steps)
        assert sum(len(s.rewards) for s in trace.sets) == len(chosen) == count and trace.n_images == 4 * count
    assert next(steps, None) is None and [s.sizes[-1] for s in trace.sets] == [12, 12]
    assert rollout(env, rule) is env.sets[-1] and len(env.sets) == 3
    with pytest.raises(ValueError, match="episodes is 0"):
        next(support_steps(env, rule, 0))

def test_the_loop_says_when_ppo_has_learned():
    steps = train_ppo_steps(real(), 4)
    updates = [trace.update and trace.update.update for trace in steps]
    assert updates == 6 * [None] + 7 * [1] + [2]  # two sets of three steps, and an item for each update

def test_every_set_is_tested_on_every_classifier_when_it_is_its_turn():
    asked = []
    def sets():
        for arm in ("a", "b", "a"):
            asked.append(arm)
            yield arm, [arm]
    steps = evaluate_arms(sets(), {"x": lambda s: s[0] + "x", "y": lambda s: s[0] + "y"}, 5)
    assert next(steps).results == {"x": {"a": ["ax"]}} and asked == ["a"]
    *_, c = steps
    assert c.results == {"x": {"a": ["ax", "ax"], "b": ["bx"]}, "y": {"a": ["ay", "ay"], "b": ["by"]}}
    assert c.n_tests == 6 and c.n_images == 5


# PPO

def test_learning_fills_sets(taught):
    task, run = taught
    assert (
        [f.sizes[-1] for f in run.sets] == [12] * 4
        and run.n_images == 48
        and run.agent.steps == 12
        and run.agent.updates == 2
    )
    assert run.best.total_reward == max(f.total_reward for f in run.sets)
    for f in run.sets:
        assert f.total_reward == pytest.approx(
            (f.evaluations[-1].accuracy - f.evaluations[0].accuracy)
            - (f.evaluations[-1].entropy - f.evaluations[0].entropy)
        )


def test_learning_is_decided_by_its_seed(taught):
    def prompts(run):
        return [a.prompt for f in run.sets for a in f.additions]
    assert prompts(finished(train_ppo_steps(real(), 4))) == prompts(taught[1])
    assert prompts(finished(train_ppo_steps(real(), 4, replace(PANEL_LEARNING, seed=1)))) != prompts(taught[1])


def test_learning_takes_one_step_each_time_that_it_is_asked():
    steps = train_ppo_steps(real(), 1000)
    for count in (1, 2, 3):
        assert sum(len(f.rewards) for f in next(steps).sets) == count


def test_errors_of_the_generator_are_raised():
    task = real()
    def fail(prompts, seeds):
        raise ValueError("The generator is out of paint.")
    task.generator.generate = fail
    with pytest.raises(ValueError, match="out of paint"):
        finished(train_ppo_steps(task, 2))
    for few in (0, 1):
        with pytest.raises(ValueError, match=f"episodes is {few}; it must be"):
            next(train_ppo_steps(task, few))


def test_an_odd_number_of_sets_is_not_exceeded():
    assert len(finished(train_ppo_steps(real(), 3)).sets) == 2


class Sketcher:
    "A classifier that learns from sketches alone, which the painter marks in the corner."
    def prepare(self, pictures):
        return np.asarray(pictures)

    def join(self, parts):
        return np.concatenate(parts)

    def state(self):
        return {}

    def fit(self, inputs, labels, val=None, start=None, seed=0):
        self.share = inputs[6:, 0, 0, 1].sum() / 12

    def evaluate(self, inputs, labels):
        return Evaluation(self.share, np.full(3, self.share), 1., 0., 3)


def test_ppo_comes_to_ask_for_what_helps():
    run = finished(train_ppo_steps(
        SupportTask(data(), data(1, 7), Painter(), Sketcher(), ("photo", "sketch"), per_step=4, max_images=12),
        60,
        replace(PANEL_LEARNING, learning_rate=5e-3),
    ))
    gains = [f.total_reward for f in run.sets]
    assert np.mean(gains[:6]) < .8 and np.mean(gains[-10:]) > .9  # by chance 0.5, at most 1
    assert "sketch" in final_set(run.agent, run.env.unwrapped.task).additions[0].prompt


def test_places_are_those_that_were_chosen():
    task = real()
    env = support_env(task)
    env.reset()
    for place in (2, 0, 1):
        env.step([0, place, 1, 1])
    assert first_places(env.sets).tolist() == [2, 0, 1]


def test_final_set_teaches_nothing(taught):
    task, run = taught
    before, chance = run.agent.state_dict()[0], run.agent.rng.bit_generator.state
    one, two = (final_set(run.agent, task, seed) for seed in (1, 2))
    assert (
        one.sizes[-1] == two.sizes[-1] == 12 and [a.prompt for a in one.additions] != [a.prompt for a in two.additions]
    )
    assert [a.prompt for a in one.additions] == [a.prompt for a in final_set(run.agent, task, 1).additions]
    assert len(run.sets) == 4 and run.agent.rng.bit_generator.state == chance
    assert all((before[k] == v).all() for k, v in run.agent.state_dict()[0].items())
    calls = task.unique_generator_calls
    assert final_set(run.agent, task, 1, n_images=5).sizes.tolist() == [0, 4, 5], "a hard cap, not whole steps"
    assert task.unique_generator_calls <= calls + 5


def test_learning_chart_and_sentence(taught):
    _, run = taught
    gains, accuracy, asked = learning_chart(run).axes
    assert list(gains.lines[0].get_ydata()) == [f.total_reward for f in run.sets] and len(accuracy.lines) == 4 + 1
    assert sum(bar.get_height() for bar in asked.patches) == pytest.approx(1)
    assert {line.get_color() for line in (*gains.lines, *accuracy.lines[:-1])} == {AGENT_COLOURS["ppo"]}
    figures = [learning_chart(run), stand_chart(run.best), support_steps_figure(run.best)]
    assert [small_texts(figure) + overlaps(figure) for figure in figures] == [[]] * 3
    assert learnt(run).startswith("48 images in 4 sets, ") and f"the best {run.best.total_reward:+.3f}" in learnt(run)


# Arms

def test_sets_of_a_number_of_pictures():
    task = real()
    actions = [[0, CAR, CAR, CAR], [1, DOG, DOG, DOG], [0, CAR, CAR, CAR]]
    same = played(task, *actions).additions
    assert [a.image_seeds for a in cut(same, 10)] == [(0, 1, 2, 3), (0, 1, 2, 3), (4, 5)]
    part = cut(same, 6)
    assert (
        [len(a.images) for a in part] == [4, 2]
        and (part[1].images == same[1].images[:2]).all()
        and len(same[1].image_seeds) == 4
    )


def test_arms_have_equal_numbers_of_pictures(taught):
    task, run = taught
    hand, seen = played(task, [0, CAR, CAR, CAR], [0, DOG, DOG, DOG]), []
    evaluated = task.evaluated
    task.evaluated = lambda additions: (
        seen.append(sum(len(a.image_seeds) for a in additions or ())) or evaluated(additions)
    )
    try:
        c = finished(compare_arms(task, colours(), hand, [run.agent], n_sets=3, n_images=7))
    finally:
        del task.evaluated
    assert (
        {arm: len(rows) for arm, rows in c.results["M"].items()} == dict(zip(PANEL_ARMS, (1, 3, 3, 1, 3), strict=True))
        and c.n_tests == 11
    )
    assert [n for n in seen if n % 4] == [7] * 13 and c.n_images == 7  # PPO's last steps, too, take no more
    assert (
        finished(compare_arms(task, colours(), hand, n_sets=2)).n_images == 8
        and finished(compare_arms(task, colours(), n_sets=2)).n_images == 12
    )


def test_arms_are_judged_on_the_test_set():
    task, test = real(), colours()
    hand = played(task, [0, CAR, CAR, CAR], [0, DOG, DOG, DOG], [0, SHIP, SHIP, SHIP])
    c = finished(compare_arms(task, test, hand, n_sets=2))
    task.evaluated(hand.additions)
    wanted = task.model.evaluate(task.model.prepare(test.images), test.labels)
    assert c.results["M"]["by hand"][0].accuracy == wanted.accuracy
    assert all(e.n_images == len(test) for rows in c.results["M"].values() for e in rows)
    assert np.mean([e.accuracy for e in c.results["M"]["class-balanced"]]) > c.results["M"]["pretrained"][0].accuracy


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"n_sets": 1}, "n_sets is 1"),
        ({"n_images": 0}, "n_images is 0; it must be 1 to 12"),
        ({"n_images": 13}, "must be 1 to 12"),
        ({"test": Labelled(np.zeros((2, 16, 16, 3), np.uint8), [0, 1], ("a", "b"))}, "other classes"),
        ({"test": data(2, size=8)}, "another size"),
    ],
)
def test_comparisons_that_cannot_be_made(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        next(compare_arms(real(), **{"test": colours()} | settings))


def test_chart_of_the_arms():
    c = finished(compare_arms(real(), colours(), n_sets=2))
    accuracy, entropy = arms_chart(c).axes
    assert (
        [label.get_text() for label in accuracy.get_yticklabels()]
        == ["pretrained (1)", "random (2)", "class-balanced (2)"]
    )
    assert (
        compared(c).startswith("Accuracy on 12 test images with 12 generated ones: pretrained ")
        and compared(c).count("+-") == 2
    )
    values = [e.accuracy for e in c.results["M"]["random"]]
    i = mean_interval(values)
    assert f"random {i.estimate:.1%} +- {i.high - i.estimate:.1%}" in compared(c)
    assert len(accuracy.collections) >= 2 and len(entropy.collections) >= 2, "an interval for each arm with two sets"
    assert small_texts(arms_chart(c)) == overlaps(arms_chart(c)) == []


def test_a_comparison_generates_no_more_than_it_may(taught):
    _, run = taught
    task = real()
    for _ in compare_arms(task, colours(), None, [run.agent], n_sets=2, n_images=5):
        assert task.unique_generator_calls <= 5 * 6


def test_test_pictures_are_others():
    task = type("", (), {"seed": 0, "classes": ("dog", "cat")})
    test, used = default_test(task, 3), labelled_scenes(7, seed=0, classes=("dog", "cat"))
    assert (
        test.counts.tolist() == [3, 3] and not {p.tobytes() for p in test.images} & {p.tobytes() for p in used.images}
    )
    with pytest.raises(ValueError, match="no scenes of 'ship'"):
        default_test(real())


# The panel

def press(panel, what):
    panel.what.value = what
    panel.run.click()


def test_add_button(panel):
    assert is_png(panel.chart) and told_above(panel)[0].startswith("No images yet") and not panel.leaf.value
    for control, value in zip(panel.action, (1, SHIP, CAR, DOG), strict=True):
        control.value = value
    panel.plus.click()
    assert [a.prompt for a in panel.hand.additions] == ["a sketch of a ship, car, and dog"]
    assert told_above(panel) == (standing(panel.hand), False) and is_png(panel.leaf)
    shown = panel.chart.value
    panel.add()
    assert panel.hand.sizes[-1] == 8 and panel.chart.value != shown and panel.first.max == 2
    panel.undo.click()
    assert panel.hand.sizes.tolist() == [0, 4] and panel.chart.value == shown and panel.first.max == 1
    panel.add()
    assert [a.image_seeds for a in panel.hand.additions] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_a_double_click_adds_once(panel):
    panel.plus.click()
    panel.plus.click()
    assert panel.hand.sizes[-1] == 4


def test_the_prompt_is_shown_before_it_is_added(panel):
    panel.action[1].value = SHIP
    assert told(type("", (), {"message": panel.spelled}))[0] == "Prompt: a photo of a ship, car, and car"


def test_a_step_can_be_taken_out_of_a_full_set(panel):
    for _ in range(3):
        panel.add()
    reward = panel.hand.rewards[-1]
    panel.undo.click()
    assert panel.hand.sizes[-1] == 8 and not panel.undo.disabled
    panel.add()
    assert panel.hand.sizes[-1] == 12 and panel.hand.rewards[-1] == pytest.approx(reward)
    panel.start_over()
    assert panel.undo.disabled
    panel.take_back()
    assert not panel.hand.rewards


def test_a_comparison_does_not_stay_beside_another_set(panel):
    press(panel, COMPARES)
    assert is_png(panel.live)
    panel.add()
    assert not is_shown(panel.live) and told(panel)[0] == ""


def test_full_set_says_so_and_can_be_begun_anew(panel):
    for _ in range(4):
        panel.add()
    assert (
        told_above(panel) == ("The set is full: 12 images. Start over, or compare it.", True)
        and panel.hand.sizes[-1] == 12
    )
    panel.anew.click()
    assert (
        not panel.hand.rewards
        and told_above(panel)[0].startswith("No images yet")
        and panel.leaf.layout.display == "none"
    )


def test_run_button_lets_ppo_learn(panel):
    press(panel, LEARNS)
    assert (
        told(panel) == (learnt(panel.taught), False) and panel.trace is panel.taught and len(panel.taught.sets) == 2
    )
    assert is_png(panel.live) and panel.progress.value == panel.progress.max == 24
    assert not (panel.run.disabled or panel.plus.disabled or panel.anew.disabled) and panel.stop.disabled
    panel.seed.value, panel.episodes.value = 7, 4
    first = panel.taught
    press(panel, LEARNS)
    assert panel.taught is not first and panel.taught.agent.settings.seed == 7 and len(panel.taught.sets) == 4


def test_browsing(panel):
    assert panel.which.options == ("by hand",) and panel.leaf.layout.display == "none"
    press(panel, LEARNS)
    assert panel.which.options == ("by hand", "PPO's best", "PPO's last")
    panel.which.value = "PPO's last"
    assert is_png(panel.leaf) and panel.first.max == 3
    shown = panel.leaf.value
    panel.first.value = 3
    assert panel.leaf.value != shown
    panel.which.value = "by hand"
    assert panel.leaf.layout.display == "none" and panel.first.value == 1


def test_run_button_compares(panel):
    press(panel, COMPARES)
    assert (
        set(panel.trace.results["M"]) == {"pretrained", "random", "class-balanced"}
        and told(panel) == (compared(panel.trace), False)
    )
    panel.add()
    press(panel, LEARNS)
    press(panel, COMPARES)
    assert (
        tuple(panel.trace.results["M"]) == PANEL_ARMS
        and panel.trace.n_images == 4
        and panel.progress.value == panel.progress.max == panel.trace.n_tests
    )


def test_stop_button_while_ppo_learns():
    async def pressed():
        task = real()
        task.generator = Slow()
        panel = SupportPanel(task, colours(), episodes=1000)
        panel.run.click()
        await asyncio.sleep(0)
        assert panel.run.disabled and panel.plus.disabled and panel.anew.disabled
        panel.stop.click()
        await asyncio.wait_for(panel.task, 60)
        return panel
    panel = asyncio.run(pressed())
    assert (
        told(panel)[0].startswith("Stopped. ")
        and not (panel.run.disabled or panel.plus.disabled)
        and 4 <= panel.taught.n_images < 1000
    )
    assert is_png(panel.live)
    panel.add()
    assert panel.hand.sizes[-1] == 4


@pytest.mark.parametrize(
    "error, sentence",
    [
        (ValueError("The paint is <b>out</b>.\nBuy more."), "The paint is <b>out</b>. Buy more."),
        (MemoryError(), "MemoryError"),
    ],
)
def test_errors_become_a_sentence(panel, monkeypatch, error, sentence):
    def fail(*args):
        raise error
    monkeypatch.setattr(panel.support.generator, "generate", fail)
    panel.add()
    assert told_above(panel) == (sentence, True) and not panel.hand.rewards
    for what in (LEARNS, COMPARES):
        press(panel, what)
        assert told(panel) == (sentence, True) and not panel.run.disabled and not panel.plus.disabled


def test_wrong_test_set_becomes_a_sentence():
    panel = SupportPanel(real(), data(2, size=8))
    press(panel, COMPARES)
    assert told(panel)[1] and "another size" in told(panel)[0]


def test_one_domain_alone():
    panel = SupportPanel(real(domains=("photo",)), colours(), episodes=2, n_sets=2)
    panel.add()
    assert panel.hand.additions[0].prompt == "a photo of a car, car, and car"
    press(panel, LEARNS)
    assert not told(panel)[1]
