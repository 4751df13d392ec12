"""The self-tests: each question stands unanswered on its page, is answered in the solutions, explains choices."""
import ast
import json
from pathlib import Path

import pytest

from rlgen.exercises import questions
from rlgen.exercises.checks import Question, check_choice

NBS = Path(__file__).resolve().parents[1]/"nbs"
NAMES = {id(value): name for name, value in vars(questions).items() if isinstance(value, Question)}
TRACKS = {
    "start/08_self_test": questions.START_QUESTIONS,
    "rldf/23_self_test": questions.RLDF_QUESTIONS,
    "preference/13_self_test": questions.PREFERENCE_QUESTIONS,
    "support/11_self_test": questions.SUPPORT_QUESTIONS,
    "generative/10_self_test": questions.GENERATIVE_QUESTIONS,
}
ALL = [question for asked in TRACKS.values() for question in asked]


def code(page: str) -> list[ast.Module]:
    cells = json.loads((NBS/page).read_text(encoding="utf-8"))["cells"]
    return [ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


def letters(page: str) -> dict[str, str]:
    "The letters that a page gives, by the name of the question."
    calls = [node for tree in code(page) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {call.args[0].id: call.args[1].value for call in calls
            if getattr(call.func, "id", "") == "check_choice" and isinstance(call.args[1], ast.Constant)}


def test_every_question_belongs_to_one_track():
    assert sorted(map(id, ALL)) == sorted(NAMES)


@pytest.mark.parametrize("page", TRACKS)
def test_a_page_asks_its_questions_in_their_order_and_answers_none(page):
    names = [NAMES[id(question)] for question in TRACKS[page]]
    assert letters(f"{page}.ipynb") == dict.fromkeys(names, "") and list(letters(f"{page}.ipynb")) == names
    shown = [tree.body[-1].value.id for tree in code(f"{page}.ipynb")
             if tree.body and isinstance(tree.body[-1], ast.Expr) and isinstance(tree.body[-1].value, ast.Name)]
    assert shown == names


@pytest.mark.parametrize("page", [page for page in TRACKS if page != "start/08_self_test"])
def test_the_solutions_answer_each_question(page, capsys):
    track, name = page.split("/")
    answers = letters(f"{track}/solutions/{name}.ipynb")
    assert all(check_choice(question, answers[NAMES[id(question)]]) for question in TRACKS[page])


@pytest.mark.parametrize("question", ALL, ids=lambda question: NAMES[id(question)])
def test_each_choice_has_a_reason_of_its_own(question, capsys):
    options = question.options
    assert len(options) >= 3
    assert [check_choice(question, letter) for letter in options] == [
        answer == question.right for answer, _ in options.values()
    ]
    said = capsys.readouterr().out.splitlines()
    assert len(set(said)) == len(options) and all(line.endswith(".") and len(line) > 30 for line in said)
    for line, (answer, reason) in zip(said, options.values(), strict=True):
        assert line.startswith("Right: " if answer == question.right else "Not yet: ") and reason in line
