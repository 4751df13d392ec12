"""Figures show texts as they are written: two dollar signs in a prompt are no formula."""
import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from standins import Seeing, draw

from rlgen.envs.grid import World
from rlgen.experiments.rldf import RLDFSettings, save_figures, search_steps
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.plots import beside, heat_map, plain, short, strip, wrapped
from rlgen.runs import Run
from rlgen.widgets.panels import perception_figure
from rlgen.widgets.rldf import search_figure, trail_figure

ODD = "a ${ and a $_ of 1"  # as a formula it cannot be read
IMAGE = Image.new("RGB", (8, 8))
GRAMMAR = Grammar.from_string("""
    S -> 'a photo of' Price 'and' Thing
    Price -> '${ one' | '${ two'
    Thing -> '$_{ dog' | '$_{ cat' | '$_{ car'
""")


class Drawing:
    "Generates the image of a prompt of the grammar at once."
    settings = {"model": "drawing"}

    def generate(self, prompts, seeds, negative=None):
        return [draw(GRAMMAR.encode(prompt)) for prompt in prompts]


def shown(figure):
    "Draw a figure; the texts of its titles."
    figure.savefig(io.BytesIO())
    return [ax.get_title().replace(r"\$", "$") for ax in figure.axes]


def test_the_odd_text_is_no_formula():
    figure = Figure()
    figure.subplots().set_title(ODD)
    with pytest.raises(ValueError, match="Parse"):
        figure.savefig(io.BytesIO())


def test_a_text_is_shown_as_it_is_written():
    assert plain("no sign") == "no sign" and plain("$5") == r"\$5"
    assert wrapped("one two three", 8) == "one two\nthree" and short("a photo of $1 and $2") == r"\$1 and \$2"
    assert shown(strip([IMAGE], [ODD])) == [ODD]
    assert shown(beside(IMAGE, IMAGE, ODD))[1] == "found: a ${ and a $_ of 1"
    shown(heat_map(np.arange(6.), GRAMMAR, (0, 1)))


def test_figures_of_a_search_whose_words_have_dollar_signs(tmp_path):
    world, goal = World(GRAMMAR, Drawing(), Seeing()), draw((1, 2))
    for trace in search_steps(world, goal, RLDFSettings(reward="clip", max_steps=40, seed=1)):
        pass
    with Run.create(tmp_path / "run", {"seed": 1}, kind="search") as run:
        save_figures(run, trace)
    for name in ("trajectory", "curves", "found", "goal"):
        assert (tmp_path / "run/figures" / f"{name}.png").stat().st_size > 50
    shown(search_figure(trace))
    shown(trail_figure(trace.env, trace.states[:3], trace.rewards[:2]))
    percept = Percept(np.array([[0, 1]]), [np.eye(2)[:1], np.eye(3)[1:2]], np.ones((1, 4)))
    shown(perception_figure(IMAGE, percept, GRAMMAR))
