"""The panel that asks a person about pictures, driven by its buttons, and the pure functions below it.

No model: embeddings are given.
"""
import html
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure
from PIL import Image

from rlgen.images import image_hash
from rlgen.rewards.preference import Answer, AnswerLog, RewardModel, pca_features
from rlgen.widgets import panels, preference as widgets
from rlgen.widgets.preference import PreferencePanel, answered, learn_from, liked, progress_of, shown

N = 8
PICTURES = [Image.new('RGB', (8, 8), (30 * i, 0, 255 - 30 * i)) for i in range(N)]
# the first number is what counts
EMBEDDINGS = np.column_stack([np.arange(N) / N, np.random.default_rng(0).normal(size=(N, 3)) * .1])
NAMES = [image_hash(picture) for picture in PICTURES]


def told(line):
    return html.unescape(re.sub('<[^>]*>', '', line.value)), '#b00020' in line.value


def panel_of(**changes):
    return PreferencePanel(**{'images': PICTURES, 'embeddings': EMBEDDINGS} | changes)


def reply(panel):
    "Answer as a person who likes red."
    a, b = panel.question
    panel.answer(int(a >= N // 2 if b < 0 else a > b))


# Pure functions

def test_a_picture_is_named_by_its_pixels():
    assert len({*NAMES}) == N and all(re.fullmatch('[0-9a-f]{16}', name) for name in NAMES)
    assert image_hash(PICTURES[3].convert('RGBA')) == NAMES[3] == image_hash(PICTURES[3].copy())
    assert image_hash(Image.new('RGB', (2, 8))) != image_hash(Image.new('RGB', (8, 2)))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.one_of(
        st.tuples(st.sampled_from('abcd'), st.none(), st.sampled_from([0, 1, None])),
        st.tuples(st.sampled_from('abcd'), st.sampled_from('wxyz'), st.sampled_from([0, .5, 1, None])),
    )),
    st.permutations('abwx'),
)
def test_answers_by_number(rows, names):
    known = [row for row in rows if row[0] in 'ab' and (row[1] or 'w') in 'wx']
    a, b, values = answered([Answer(*row) for row in rows], names)
    assert [names[i] for i in a] == [row[0] for row in known]
    assert [None if i < 0 else names[i] for i in b] == [row[1] for row in known]
    assert [None if np.isnan(v) else v for v in values] == [row[2] for row in known]


def test_skipped_answers_teach_nothing():
    model, other = (RewardModel(pca_features(EMBEDDINGS)) for _ in range(2))
    learn_from(model, EMBEDDINGS, np.array([0, 1]), np.array([5, 6]), np.array([0, np.nan]))
    assert (model.W == other.fit(EMBEDDINGS, [0], [5], [0]).W).all() and model.answers == 1
    assert progress_of(model, EMBEDDINGS, np.array([0, np.nan])).startswith('1 answer so far, 1 skipped. ')


def test_liked_shows_the_best_first():
    figure = liked(PICTURES, np.array([0, 5, 1, 4, 2, 3, -1, -2.]), max_images=3)
    assert isinstance(figure, Figure) and [ax.get_title() for ax in figure.axes] == ['+5.00', '+4.00', '+3.00']
    assert (figure.axes[0].images[0].get_array()[0, 0] == (30, 0, 225)).all()
    assert len(liked(PICTURES[:1], np.zeros(1)).axes) == 1


def test_small_pictures_are_enlarged():
    from io import BytesIO
    assert Image.open(BytesIO(shown(Image.new('RGB', (64, 32))))).size == (192, 96)
    assert Image.open(BytesIO(shown(Image.new('L', (500, 300))))).size == (500, 300)


# The panel

def test_clicks_are_answers_and_the_taste_is_learnt(tmp_path):
    panel = panel_of(path=tmp_path / 'answers')
    assert panel.left.value and panel.right.value and told(panel.message)[0].startswith('0 answers so far. ')
    for n in range(12):
        question = panel.question
        reply(panel)
        last = json.loads((tmp_path / 'answers').read_text(encoding="utf-8").splitlines()[-1])
        assert last == [NAMES[question[0]], NAMES[question[1]], int(question[0] > question[1])]  # at once
        assert panel.model.answers == n + 1 == len(panel.log.answers)
    assert np.corrcoef(panel.model.score(EMBEDDINGS), np.arange(N))[0, 1] > .8
    assert len({frozenset((a, b)) for a, b, _ in panel.log.answers}) == 12 and panel.best.value


def test_every_button_says_what_is_on_it():
    panel = panel_of()
    for name, value in (('left', 1), ('right', 0), ('equal', .5)):
        a, b = panel.question
        panel.prefer[name].click()
        assert panel.log.answers[-1] == (NAMES[a], NAMES[b], value)
    a, b = panel.question
    panel.skip.click()
    assert panel.log.answers[-1] == (NAMES[a], NAMES[b], None) and {*panel.question} != {a, b}
    assert panel.model.answers == 3 and '1 skipped' in told(panel.message)[0]


def test_thumbs():
    panel = panel_of()
    panel.mode.value = 'one image'
    assert (
        panel.right.layout.display == 'none'
        and [b.description for b in panel.buttons.children] == ['up', 'down', 'skip', 'Undo', 'Start over']
    )
    a, b = panel.question
    assert b == -1
    panel.thumbs['up'].click()
    assert panel.log.answers == [(NAMES[a], None, 1)] and panel.question[0] != a
    panel.mode.value = 'two images'
    assert panel.right.layout.display == '' and panel.question[1] >= 0
    assert [b.description for b in panel.buttons.children] == ['left', 'equal', 'right', 'skip', 'Undo', 'Start over']


def test_a_session_goes_on_where_it_stopped(tmp_path):
    whole, parts = panel_of(path=tmp_path / 'a'), panel_of(path=tmp_path / 'b')
    for _ in range(10):
        reply(whole)
    for _ in range(5):
        reply(parts)
        with open(tmp_path / 'b', 'ab') as file:
            file.write(b'["cut')
        parts = panel_of(path=tmp_path / 'b')
        reply(parts)
    assert parts.log.answers == whole.log.answers and parts.question == whole.question
    assert (parts.model.W == whole.model.W).all()
    order = [3, 1, 2, 0, 7, 6, 5, 4]  # pictures in another order are the same pictures
    other = panel_of(path=tmp_path / 'b', images=[PICTURES[i] for i in order], embeddings=EMBEDDINGS[order])
    assert other.model.answers == 10
    np.testing.assert_allclose(other.model.score(EMBEDDINGS), whole.model.score(EMBEDDINGS), atol=1e-6)


def test_when_all_was_asked():
    panel = panel_of(images=PICTURES[:3], embeddings=EMBEDDINGS[:3])
    for _ in range(3):
        reply(panel)
    assert 'Every pair of the 3 images was asked' in told(panel.error)[0] and panel.left.layout.display == 'none'
    assert all(button.disabled for button in panel.buttons.children[:-2])
    panel.skip.click()
    assert len(panel.log.answers) == 3
    panel.mode.value = 'one image'
    assert told(panel.error)[0] == '' and not panel.skip.disabled
    reply(panel)
    assert len(panel.log.answers) == 4


def test_an_answer_that_cannot_be_written_keeps_the_question(monkeypatch):
    panel, question = panel_of(), None

    def full(*args):
        raise OSError('No space\nleft <here>')
    question = panel.question
    with monkeypatch.context() as patch:
        patch.setattr(AnswerLog, 'add', full)
        panel.prefer['left'].click()
    assert (
        told(panel.error) == ('No space left <here>', True) and panel.question == question and panel.model.answers == 0
    )
    panel.answer(1)
    assert told(panel.error) == ('', False) and panel.model.answers == 1


def test_a_double_click_answers_once(monkeypatch):
    panel, now = panel_of(), [100.]
    monkeypatch.setattr(panels.time, 'monotonic', lambda: now[0])
    panel.prefer['left'].click()
    panel.prefer['left'].click()
    assert panel.model.answers == 1
    now[0] += 1
    panel.prefer['left'].click()
    assert panel.model.answers == 2


@pytest.mark.parametrize('path', [None, 'answers'])
def test_answers_can_be_taken_back(tmp_path, path):
    panel, asked = panel_of(path=path and tmp_path/path), []
    assert panel.undo.disabled and panel.anew.disabled
    for _ in range(3):
        asked.append(panel.question)
        reply(panel)
    answers, W = [*panel.log.answers], panel.model.W
    panel.undo.click()
    assert panel.question == asked[2] and panel.log.answers == answers[:2] and panel.model.answers == 2
    reply(panel)
    assert panel.log.answers == answers and (panel.model.W == W).all()
    panel.anew.click()
    assert panel.question == asked[0] and not panel.log.answers and panel.anew.disabled and not panel.undo.disabled
    panel.take_back()
    assert panel.log.answers == answers and (panel.model.W == W).all()
    if path:
        assert AnswerLog(tmp_path/path).answers == answers


def test_starting_over_keeps_what_was_said_about_other_images(tmp_path):
    log = AnswerLog(tmp_path/'answers')
    log.add('elsewhere', None, 1)
    panel = panel_of(path=tmp_path/'answers')
    reply(panel)
    panel.anew.click()
    assert AnswerLog(tmp_path/'answers').answers == [('elsewhere', None, 1)]
    assert panel_of(path=tmp_path/'answers').undo.disabled is True
    panel.undo.click()
    assert [answer.a == 'elsewhere' for answer in AnswerLog(tmp_path/'answers').answers] == [True, False]


def test_what_cannot_be_taken_back_stays(tmp_path, monkeypatch):
    panel = panel_of(path=tmp_path/'answers')
    reply(panel)

    def full(path):
        raise OSError('No space left')
    monkeypatch.setattr(widgets, 'atomic_write', full)
    for button in (panel.undo, panel.anew):
        button.click()
        assert told(panel.error) == ('No space left', True) and panel.model.answers == 1


def test_bad_pools_are_refused(tmp_path):
    with pytest.raises(ValueError, match='1 different'):
        panel_of(images=[PICTURES[0]] * 3, embeddings=EMBEDDINGS[:3])
    with pytest.raises(ValueError, match='8 images came with 3'):
        panel_of(embeddings=EMBEDDINGS[:3])
    (tmp_path / 'bad').write_text('hello\n')
    with pytest.raises(ValueError, match='Line 1'):
        panel_of(path=tmp_path / 'bad')
    double = panel_of(images=[PICTURES[0], *PICTURES], embeddings=np.vstack([EMBEDDINGS[:1], EMBEDDINGS]))
    assert double.names == NAMES
