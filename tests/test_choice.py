"""Questions with several answers: each wrong one is explained, and nothing gives the right one away."""
import pytest

from rlgen.exercises.checks import Question, check_choice

QUESTION = Question("Who learns?", "The agent", "Only its policy changes.", {
    "The generator": "It is frozen.",
    "Perception": "It was trained before.",
})


@pytest.mark.parametrize("letter, said", [
    ("b", "Right: Only its policy changes."),
    (" B ", "Right: Only its policy changes."),
    ("a", "Not yet: It was trained before."),
    ("c", "Not yet: It is frozen."),
    ("", "Not yet: it is not answered yet. Put one of the letters a, b, c between the quotes."),
    ("d", "Not yet: 'd' is no answer. Choose one of the letters a, b, c."),
    ("ab", "Not yet: 'ab' is no answer."),
    (None, "Not yet: None is no answer."),
])
def test_every_answer_is_explained(letter, said, capsys):
    right = check_choice(QUESTION, letter)
    out = capsys.readouterr().out
    assert out.startswith(said) and out.count("\n") == 1
    assert right == said.startswith("Right")


def test_the_question_shows_no_answer_unfolded():
    shown, folded = QUESTION._repr_markdown_().split("<details>")
    for text in (repr(QUESTION), shown):
        places = [text.index(part) for part in ("Who learns?", "Perception", "The agent", "The generator")]
        assert places == sorted(places)  # the options are in alphabetical order
        assert not any(reason in text for reason in (QUESTION.why, *QUESTION.wrong.values()))
    assert all(reason in folded for reason in (QUESTION.why, *QUESTION.wrong.values()))


@pytest.mark.parametrize("wrong", [{}, {"The agent": "It is also wrong."}])
def test_a_question_needs_other_answers(wrong):
    with pytest.raises(ValueError, match="Give at least one other answer"):
        Question("Who learns?", "The agent", "Only its policy changes.", wrong)
