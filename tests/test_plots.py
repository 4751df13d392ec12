"""Figures: texts as they are written and large enough, the word that changed, one colour for each agent."""
import ast
import io
import itertools
import json
import re
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib import rc_context, rcParams, rcParamsDefault
from matplotlib.colors import is_color_like, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.offsetbox import AnnotationBbox
from matplotlib.text import Text
from PIL import Image
from standins import Seeing, draw

from rlgen import plots
from rlgen.envs.grid import World
from rlgen.experiments.rldf import AGENTS, RLDFSettings, save_figures, search_steps
from rlgen.experiments.training_statistics import plot_distances
from rlgen.grammar import Grammar
from rlgen.interfaces import Percept
from rlgen.plots import (
    AGENT_COLOURS,
    CHANGED,
    beside,
    changed_words,
    curves,
    font_with,
    heat_map,
    line_panels,
    plain,
    short,
    strip,
    wrapped,
)
from rlgen.runs import Run
from rlgen.widgets.panels import perception_figure
from rlgen.widgets.play import trail_figure
from rlgen.widgets.rldf import held_and_changing, result_figures, search_figure, visit_map

ROOT = Path(__file__).resolve().parents[1]

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


def texts(figure):
    "Every text that is drawn in a figure, with its box in pixels."
    drawn, original = {}, Text.draw  # a layout may draw a text before it is in its place

    def note(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            drawn[self] = self.get_window_extent(renderer)
        return original(self, renderer, *args, **kwargs)

    with patch.object(Text, "draw", note):
        figure.savefig(io.BytesIO())
    return list(drawn.items())


def small_texts(figure):
    "Texts of less than 9 points, or less than 9 pixels high where a figure has few pixels to the inch."
    return [(text.get_text(), text.get_fontsize()) for text, _ in texts(figure)
            if text.get_fontsize() < 9 or text.get_fontsize() * figure.dpi / 72 < 9]


def overlaps(figure):
    "Pairs of upright texts that overlap by more than a pixel."
    boxes = [(text.get_text(), box) for text, box in texts(figure) if text.get_rotation() == 0]
    return [(a, b) for (a, p), (b, q) in itertools.combinations(boxes, 2)
            if min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1]


def test_the_odd_text_is_no_formula():
    figure = Figure()
    figure.subplots().set_title(ODD)
    with pytest.raises(ValueError, match="Parse"):
        figure.savefig(io.BytesIO())


def test_a_text_is_shown_as_it_is_written():
    assert plain("no sign") == "no sign" and plain("$5") == r"\$5"
    assert wrapped("one two three", 8) == "one two\nthree" and short("a photo of $1 and $2") == r"\$1 and \$2"
    assert shown(strip([IMAGE], [ODD])) == [ODD]
    assert captions(strip([IMAGE], [ODD], path=True)) == [[(word, False) for word in ODD.split()]]
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


# The word that changed

def captions(figure):
    "For each image of a strip its words, and whether each is highlighted."
    found = []
    for ax in figure.axes:
        box = next((each for each in ax.artists if isinstance(each, AnnotationBbox)), None)
        words = [text for text in box.findobj(Text) if text.get_text()] if box else []
        for text in words:  # bold for those who see no colours
            assert (text.get_color() == CHANGED) == (text.get_fontweight() == "bold")
        found.append([(text.get_text().replace(r"\$", "$"), text.get_color() == CHANGED) for text in words])
    return found


@pytest.mark.parametrize("caption, before, changed", [
    ("one dog and no people", "one dog and no people", []),
    ("many dog and no people", "one dog and no people", [0]),
    ("one dog and one people", "many dog and one people", [0]),
    ("one dog and many people", "one dog and one people", [3]),
    ("reward 2: one cat", "reward 1: one dog", [3]),
    ("one dog", "goal", []),
    ("one dog", "", []),
    ("a ${ dog", "a $_ dog", [1]),
    ("snowy farm", "farm", [0])])
def test_words_that_changed(caption, before, changed):
    assert np.flatnonzero(changed_words(caption, before)).tolist() == changed


def test_a_strip_highlights_the_word_that_changed():
    prompts = ["1: a ${ dog", "2: a $_ dog", "3: a $_ cat"]
    figure = strip([IMAGE] * 3, prompts, path=True)
    assert [[word for word, new in words if new] for words in captions(figure)] == [[], ["$_"], ["cat"]]
    assert [" ".join(word for word, _ in words) for words in captions(figure)] == prompts
    assert shown(strip([IMAGE] * 3, prompts)) == prompts  # not a path: plain titles


@pytest.mark.parametrize("columns", [4, 8])
def test_captions_of_a_path_do_not_touch(columns):
    grammar, rng = Grammar.scenes(), np.random.default_rng(0)
    prompts = [grammar.decode([i % 2, i % 20, 2 - i % 3, rng.integers(4)]) for i in range(24)]
    captions = [f"reward −{i}: {prompt.removeprefix('a photo of ')}" for i, prompt in enumerate(prompts)]
    figure = strip([IMAGE] * 24, captions, columns, path=True)
    found = texts(figure)
    assert len(found) > 150 and overlaps(figure) == [] and small_texts(figure) == []
    boxes = dict(found)
    for ax, neighbour in itertools.pairwise(figure.axes):
        if ax.get_position().x0 > neighbour.get_position().x0: continue  # the next row
        own, other = ([boxes[text] for text in each.findobj(Text) if text in boxes] for each in (ax, neighbour))
        assert max(box.x1 for box in own) < min(box.x0 for box in other)
    assert min(box.y0 for box in boxes.values()) >= 0
    assert min(box.x0 for box in boxes.values()) >= -1
    assert max(box.x1 for box in boxes.values()) <= figure.bbox.width + 1


# Sizes

def test_small_texts_and_overlaps_are_found():
    figure = Figure(figsize=(3, 2), dpi=80)
    ax = figure.subplots()
    ax.set_title("small", fontsize=8)
    ax.text(.3, .5, "one text")
    ax.text(.3, .52, "another")
    assert [text for text, _ in small_texts(figure)] == ["small"]
    assert overlaps(figure) == [("one text", "another")]
    ax.set_axis_off()
    assert len(texts(figure)) == 3  # no ticks
    figure.set_dpi(60)
    assert len(small_texts(figure)) == 3  # 10 points are 8.3 pixels here


@pytest.fixture(scope="module")
def trace():
    world = World(GRAMMAR, Drawing(), Seeing())
    for trace in search_steps(world, draw((1, 2)), RLDFSettings(reward="clip", max_steps=40, seed=1)):
        pass
    return trace


def test_texts_of_search_figures_are_large_enough_and_apart(trace):
    world, goal = trace.env.state_values.world, trace.env.state_values.goal
    runs = {f"run {i}": (np.arange(30), np.arange(30.)) for i in range(2)}
    figures = [
        search_figure(trace),
        *result_figures(trace),
        trail_figure(trace.env, trace.states[:6], trace.rewards[:5], True),
        visit_map(GRAMMAR, trace.states, 0, "visits"),
        held_and_changing(world, [0, 0], "Thing"),
        perception_figure(goal, Seeing().perceive([goal], GRAMMAR), GRAMMAR, asked=[0, 0]),
        curves(np.arange(9), np.arange(9), np.arange(9)),
        line_panels({"reward": runs, "distance": runs}, "calls"),
        beside(IMAGE, IMAGE, "one dog and many people in playground"),
        heat_map(np.arange(6.), GRAMMAR, (0, 1), title="values"),
    ]
    assert [small_texts(figure) for figure in figures] == [[]] * len(figures)
    assert [overlaps(figure) for figure in figures] == [[]] * len(figures)


def code():
    "The code cells of all pages, by page and index."
    for path in sorted((ROOT/"nbs").rglob("[0-9]*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] == "code":
                yield f"{path.relative_to(ROOT/'nbs').as_posix()} [{i}]", "".join(cell["source"])


def sizes(source):
    "Sizes of texts that code asks for."
    return [float(size) for size in re.findall(r"\b(?:fontsize|labelsize|title_fontsize)=([\d.]+)", source)]


def test_no_page_asks_for_small_texts():
    assert sizes('ax.set_title("a", fontsize=8)\nax.tick_params(labelsize=11)') == [8, 11]
    assert {place: found for place, source in code() if (found := [size for size in sizes(source) if size < 9])} == {}


# One colour for each agent

SEEN_BY = (  # what most people see, and those without red or without green cones (Machado et al. 2009), linear RGB
    np.eye(3),
    [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
    [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
)


def linear(colour):
    "Linear RGB, 0 to 1."
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= .04045, rgb / 12.92, ((rgb + .055) / 1.055) ** 2.4)


def lab(rgb):
    "CIELAB of a linear RGB."
    xyz = np.array([[.4124, .3576, .1805], [.2126, .7152, .0722], [.0193, .1192, .9505]]) @ np.clip(rgb, 0, 1)
    x, y, z = np.cbrt(xyz / [.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a, b):
    "Contrast of two colours as WCAG counts it, 1 to 21."
    low, high = sorted(linear(c) @ [.2126, .7152, .0722] for c in (a, b))
    return (high + .05) / (low + .05)


def test_colours_of_agents_can_be_told_apart_on_white_and_on_dark():
    for (a, one), (b, other) in itertools.combinations(AGENT_COLOURS.items(), 2):
        far = [np.linalg.norm(lab(eye @ linear(one)) - lab(eye @ linear(other))) for eye in map(np.array, SEEN_BY)]
        assert min(far) > 12 or a.startswith("random") and b.startswith("random"), (a, b, far)
    assert all(contrast(colour, ground) > 2 for colour in AGENT_COLOURS.values() for ground in ("white", "#222222"))
    assert contrast(CHANGED, "white") > 4.5


def test_every_agent_of_a_search_has_a_colour():
    assert set(AGENTS) - {"enumeration"} <= set(AGENT_COLOURS)


def test_curves_of_agents_have_their_colours():
    rows = [{"agent": agent, "reward": "multi", "epsilon": .1, "steps": 30, "distances": list(range(30))}
            for agent in ("q-learning", "sarsa", "random") for _ in range(2)]
    lines = {line.get_label(): to_hex(line.get_color()) for ax in plot_distances(rows).axes for line in ax.lines}
    assert lines == {agent: AGENT_COLOURS[agent].lower() for agent in ("q-learning", "sarsa", "random")}


NAMES = {re.sub(r"\W", "", name) for name in AGENT_COLOURS} | {
    "randomagent", "randomwalk", "randomtokens", "coordinatebandit", "posteriorsearch", "evolvedtokens",
    "diffusiongradient"}


def named_colours(source):
    "Agents for which code names a colour by hand: in a table, in a tuple, or as label and colour of a line."
    try:
        tree = ast.parse(re.sub(r"(?m)^%.*$", "", source))
    except SyntaxError:
        return []

    def constant(node, test):
        return isinstance(node, ast.Constant) and isinstance(node.value, str) and test(node.value)

    def agent(text):
        return re.sub(r"\W", "", text.partition(",")[0].lower()) in NAMES

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        elif isinstance(node, ast.Tuple | ast.List):
            pairs = list(itertools.permutations(node.elts, 2))
        elif isinstance(node, ast.Call):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            pairs = [(given.get("label"), given.get("color"))]
        else:
            continue
        found += [a.value for a, b in pairs if constant(a, agent) and constant(b, is_color_like)]
    return found


def test_no_page_names_a_colour_for_an_agent():
    assert named_colours('{"Q-learning, multi": "tab:blue", "other": "red"}') == ["Q-learning, multi"]
    loop = 'for a, b, c in (("Sarsa", "C1", -2), ("x", "C0", 1)): ax.plot(a, label="PPO", color="k")'
    assert sorted(named_colours(loop)) == ["PPO", "Sarsa"]
    assert named_colours('AGENT_COLOURS["sarsa"], ("sarsa", -22), {"random": (1, "r")}') == []
    table = "AGENT_COLOURS = {"
    assert {place: found for place, source in code() if table not in source and (found := named_colours(source))} == {}


def test_letters_get_a_font_that_has_them_or_are_named(monkeypatch):
    font_with.cache_clear()
    own = [font for font in fontManager.ttflist if "matplotlib" in font.fname]  # the same on every machine
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(plots, "_BOXES", set())
    with rc_context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        plain("Straße, größer, 5 µm")
        assert rcParams["font.family"] == rcParamsDefault["font.family"], "nothing to do"
        figure = strip([IMAGE] * 2, [plain("dog"), plain("\u2329dog\u232a")])  # brackets that STIX has
        assert rcParams["font.family"][-1] == "STIXGeneral"
        figure.savefig(io.BytesIO())
    with rc_context(), pytest.warns(UserWarning) as told:
        strip([IMAGE] * 2, ["one \u72d7", "two \u72d7 \u732b"]).savefig(io.BytesIO())
    assert ["No installed font has '\u72d7'" in str(warning.message) for warning in told] == [True], "once, in all"
    font_with.cache_clear()
