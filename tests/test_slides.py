"""Slides are made from the lessons as they are."""
import json
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOL = runpy.run_path(str(ROOT / "tools/slides.py"))
LESSON = ROOT / "nbs/start/01_one_decision.ipynb"


def test_a_lesson_becomes_slides(tmp_path):
    before = LESSON.read_bytes()
    assert TOOL["main"]([str(tmp_path / "out"), str(LESSON)]) == 0
    page = (tmp_path / "out/01_one_decision.slides.html").read_text(encoding="utf-8")
    texts = ["".join(cell["source"]) for cell in json.loads(before)["cells"] if cell["cell_type"] == "markdown"]
    headings = sum(len(re.findall(r"^##? ", text, re.MULTILINE)) for text in texts)
    assert page.count("<section>\n<section>") + page.count("<section><section>") == headings > 5
    assert page.count("<section") > 2 * headings  # and more below them
    assert 'src="data:image/' in page and "Reveal.initialize" in page
    shown = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert ".ipynb" not in shown and "import" not in re.sub("<[^>]+>", "", shown).split()
    assert LESSON.read_bytes() == before


def test_texts_are_divided():
    long = "\n\n".join(["word " * 70] * 3)
    text = f"# Title\n\nA [link](a.ipynb), [kept](https://a.b), ![image](a.svg).\n\n## Next\n\n{long}"
    first, *rest = TOOL["parts"](text)
    assert first.strip() == "# Title\n\nA link, [kept](https://a.b), ![image](a.svg)."
    assert [part.split()[:2] for part in rest] == [["##", "Next"], ["word", "word"], ["word", "word"]]


def test_a_formula_stays_with_the_text_that_announces_it():
    text = "## Heading\n\n" + "word " * 115 + "so that:\n\n$$a = b + c + d + e.$$\n\nMore."
    assert [part.endswith("$$\n\n") for part in TOOL["parts"](text)] == [True, False]


def test_without_a_folder_it_says_how(capsys):
    assert TOOL["main"]([]) == 2 and "slides.py FOLDER" in capsys.readouterr().out
