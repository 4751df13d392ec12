"""The panel of fine-tuning, and the plain functions below it. The reward is brightness, so that it costs nothing."""
import asyncio
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_finetune import SMALL, brightness
from test_panels import told
from test_plots import overlaps, small_texts
from test_walkthroughs import is_png

from rlgen.experiments.finetune import TASKS, finetune_steps
from rlgen.widgets.finetune import (
    PENALTIES,
    WATCHED,
    FinetunePanel,
    finetuning_chart,
    held_out_measure,
    side_by_side,
    tuning_outcome,
)

SCENES = [{"images": 0, "reward": -2.5, "KID": .1, "right, colour": 1., "right, grey": .75},
          {"images": 32, "reward": -2., "KID": .2, "right, colour": .5, "right, grey": .25}]
OTHERS = [{"images": 0, "reward": 1., "KID": .125}, {"images": 8, "reward": 2., "KID": .25}]
PROMPTS = [f"a photo of many butterfly and one people in {scene}" for scene in ("playground", "street") * 4]


def plain(n, start=0):
    return [Image.new("RGB", (16, 16), (20 * i + start,) * 3) for i in range(n)]


def shown(image):
    return image.layout.display != "none" and image.layout.visibility != "hidden"


# ---- plain functions ----

def test_what_is_held_out():
    assert held_out_measure(SCENES) == ("images all right, %", {"colour": [100, 50], "grey": [75, 25]})
    assert held_out_measure(OTHERS) == ("KID", {"KID": [.125, .25]})


def test_the_sentence_tells_both_measures():
    assert tuning_outcome(SCENES) == (
        "32 images: reward -2.5 -> -2; all right by colour 100 -> 50 %; all right by grey 75 -> 25 %."
    )
    assert tuning_outcome(OTHERS) == "8 images: reward 1 -> 2; KID 0.125 -> 0.25."


@pytest.mark.parametrize("evaluations", [SCENES, OTHERS, SCENES[:1]])
def test_chart_shows_curves_and_images(evaluations):
    trace = SimpleNamespace(evaluations=evaluations, images=plain(6, 100))
    figure = finetuning_chart(trace, plain(6))
    assert small_texts(figure) == overlaps(figure) == []
    reward, held_out, *images = figure.axes
    assert list(reward.lines[0].get_ydata()) == [row["reward"] for row in evaluations]
    assert [list(line.get_ydata()) for line in held_out.lines] == [*held_out_measure(evaluations)[1].values()]
    values = [np.asarray(ax.images[0].get_array()).max() for ax in images]
    assert values == [0, 20, 40, 60, 100, 120, 140, 160]  # the frozen model's above


def test_images_stand_side_by_side():
    figure = side_by_side(plain(8), plain(8, 100), PROMPTS)
    assert small_texts(figure) == overlaps(figure) == []
    assert len(figure.axes) == 12 and figure.axes[0].get_title().startswith("many butterfly")
    assert [np.asarray(ax.images[0].get_array()).max() for ax in figure.axes[::6]] == [0, 100]
    assert len(side_by_side(plain(2), plain(2)).axes) == 4


# ---- the panel ----

@pytest.fixture(scope="module")
def measures():
    "Of three updates without a panel."
    *_, trace = finetune_steps(replace(SMALL, budget=12), brightness)
    return trace.evaluations


async def until_stopped(panel, updates):
    "Press the button, press stop after so many updates, and wait."
    panel.run.click()
    while panel.trace is None or panel.trace.agent.steps < updates:
        await asyncio.sleep(.01)
    panel.stop.click()
    await panel.task


def test_run_button(measures):
    panel = FinetunePanel(SMALL, brightness)
    assert panel.task_name.options == (("your own", "compressible"),)
    panel.run.click()
    trace = panel.trace
    assert trace.evaluations == measures[:3] and [row["images"] for row in measures] == [0, 4, 8, 12]
    assert told(panel) == (tuning_outcome(trace.evaluations), False) and panel.progress.value == panel.progress.max == 8
    assert is_png(panel.live) and is_png(panel.results[0])
    assert [i.tobytes() for i in panel.frozen] == [i.tobytes() for i in trace.sample(frozen=True)]
    assert [i.tobytes() for i in panel.frozen] != [i.tobytes() for i in trace.images]


def test_a_stopped_run_goes_on_where_it_was(measures):
    panel = FinetunePanel(replace(SMALL, budget=12), brightness)
    asyncio.run(until_stopped(panel, 1))
    trace = panel.trace
    said, wrong = told(panel)
    assert said.startswith("Stopped. 4 images") and said.endswith("Run goes on, Reset goes back.") and not wrong
    assert trace.agent.images == 4 and shown(panel.results[0])
    panel.run.click()
    assert panel.trace is trace and trace.evaluations == measures


def test_reset_and_other_settings_go_back_to_the_frozen_model():
    panel = FinetunePanel(replace(SMALL, budget=12), brightness)
    asyncio.run(until_stopped(panel, 1))
    first = panel.trace
    panel.anew.click()
    assert told(panel)[0].startswith("Reset") and not shown(panel.live) and panel.progress.value == 0
    panel.budget.value = 8
    asyncio.run(until_stopped(panel, 1))
    assert panel.trace is not first and panel.trace.evaluations[0] == first.evaluations[0]
    panel.penalty.value = PENALTIES["strong (1)"]
    assert panel.steps is None and not shown(panel.results[0]) and panel.chosen().learning.kl == 1


def test_reset_stops_what_is_under_way():
    panel = FinetunePanel(replace(SMALL, budget=4000), brightness)

    async def pressed():
        panel.run.click()
        while panel.trace is None:
            await asyncio.sleep(.01)
        panel.anew.click()
        assert told(panel)[0] == "Stopping after this step; press Reset again then."
        await panel.task
    asyncio.run(pressed())
    assert panel.trace.agent.images < 400 and panel.steps is not None


def test_errors_become_a_sentence():
    panel = FinetunePanel(SMALL, lambda images, prompts, goals: [np.nan] * len(images))
    panel.run.click()
    assert told(panel)[1] and "finite" in told(panel)[0] and not panel.run.disabled


def test_what_the_controls_show_at_first():
    panel = FinetunePanel()
    assert panel.chosen() == WATCHED and panel.task_name.options == tuple(TASKS)
    odd = replace(WATCHED, learning=replace(WATCHED.learning, kl=.2))
    assert FinetunePanel(odd).chosen() == odd
    own = replace(WATCHED, reward="module:function")
    assert FinetunePanel(own).task_name.options == ("module:function",)
