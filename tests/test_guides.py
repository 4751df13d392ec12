"""The guides: snippets run as they stand, each alone, and are short; commands have the options that they are shown
with; every published table is listed.
"""
import base64
import io
import json
import re
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from rlgen import cli

NBS = Path(__file__).parents[1] / "nbs"
PAGE = NBS / "guides" / "00_bring_your_own.ipynb"


def markdown(page):
    "The text of a page, without code cells."
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def snippets():
    "The code cells of each section of the page; under None those before the first one, which are imports."
    found, title = {None: []}, None
    for cell in json.loads(PAGE.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for heading in re.findall(r"^## (.*)", text, re.MULTILINE):
                title = heading
                found[title] = []
        elif not text.startswith("#|"):
            found[title].append(text)
    return found


SNIPPETS = snippets()


@pytest.fixture
def server():
    "A server of OpenAI's images API that gives one grey image to everybody."
    file = io.BytesIO()
    Image.new("RGB", (512, 512), (90, 90, 90)).save(file, "PNG")
    body = json.dumps({"created": 0, "data": [{"b64_json": base64.b64encode(file.getvalue()).decode()}]}).encode()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/v1"
    served.shutdown()


def test_there_are_all_that_were_promised():
    assert list(SNIPPETS) == [
        None, "An image", "A reward", "A generator: a function", "A generator: a served model", "A perception model",
        "A grammar, and the order of its words", "An agent: a subclass", "An agent: Stable-Baselines3",
        "An agent: a loop of your own", "Labelled images",
    ]


@pytest.mark.parametrize("title", [t for t in SNIPPETS if t])
def test_a_snippet_runs_alone_and_is_short(title, server, monkeypatch):
    for name, value in {"OPENAI_BASE_URL": server, "OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    names = {"__name__": "snippet"}
    for text in SNIPPETS[None]:
        exec(text, names)
    if title == "A grammar, and the order of its words":
        exec(SNIPPETS["A reward"][0].split("\n\n")[0], names)  # its reward is that of the first section
    for text in SNIPPETS[title]:
        assert len([line for line in text.splitlines() if line.strip()]) <= 10, text
        exec(text, names)
    if title == "An image":
        assert names["result"].goal_reached and names["result"].prompt == "a photo of one dog and no people in beach"
        assert names["mine"] @ names["found"] > .9
    if title == "A generator: a served model":
        assert names["world"].images([0])[0].getpixel((0, 0)) == (90, 90, 90)
    if title == "Labelled images":
        assert names["info"]["size"] == 2 and names["data"].counts.tolist() == [5, 5, 5]
    if title == "An agent: a subclass":
        assert names["agent"].steps == 10


def test_a_photograph_is_reached_and_not_like_what_was_found():
    names = {"photo": Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False))}
    text = SNIPPETS["An image"][0]
    scene = text.splitlines()[1].partition(".save")[0]
    assert scene.startswith("render(")
    for part in (*SNIPPETS[None], text.replace(scene, "photo")):
        exec(part, names)
    assert names["result"].goal_reached
    assert names["mine"] @ names["found"] < .6


COMMAND = re.compile(rf"\brlgen ((?:{'|'.join(cli.COMMANDS)})\b[^`&;'\n]*)")
SHOWN = sorted({
    command.strip() for page in (NBS / "guides").glob("*.ipynb") for command in COMMAND.findall(markdown(page))
    if "--help" not in command
})


class Parsed(BaseException):
    "The options of a command were understood."


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_has_the_options_that_it_is_shown_with(command, monkeypatch):
    parse = cli.parse

    def only_parse(*given):
        parse(*given)
        raise Parsed

    monkeypatch.setattr(cli, "parse", only_parse)
    with pytest.raises(Parsed):
        cli.main(shlex.split(command))


def test_every_published_table_is_listed_with_a_command_that_makes_it():
    page, = (NBS / "guides").glob("*reproduce_a_table.ipynb")
    text = markdown(page)
    files = {file.relative_to(NBS).as_posix() for file in NBS.glob("*/*.csv")}
    assert files and files == set(re.findall(r"`(\w+/\w+\.csv)`", text))
    commands = [line for line in text.splitlines() if " nbdev-test " in line]
    made = {}
    for command in commands:
        assert "RLGEN_FULL=1 " in command, command
        lesson = NBS.parent / command.split()[-1]
        made[lesson] = lesson.read_text(encoding="utf-8")
        assert "RLGEN_FULL" in made[lesson], lesson
    for name in files:
        assert any(lesson.parent.name == name.split("/")[0] and name.split("/")[1] in source
                   for lesson, source in made.items()), name


def test_every_page_that_has_a_full_run_is_named():
    page, = (NBS / "guides").glob("*reproduce_a_table.ipynb")
    named = set(re.findall(r"nbs/(\w+/\w+\.ipynb)", markdown(page)))
    full = {lesson.relative_to(NBS).as_posix() for lesson in NBS.glob("*/*.ipynb")
            if 'environ.get(\\"RLGEN_FULL' in lesson.read_text(encoding="utf-8")}
    assert named == full


def test_every_command_of_nbdev_test_is_one():
    from inspect import signature

    from nbdev.test import nbdev_test
    options = {name.replace("_", "-") for name in signature(nbdev_test).parameters} - {"path"}
    lines = [line for page in NBS.glob("*/*.ipynb") for line in markdown(page).splitlines()]
    commands = [line for line in lines if " nbdev-test " in line]
    assert len(commands) > 10
    for command in commands:
        words = shlex.split(command)[shlex.split(command).index("nbdev-test") + 1:]
        assert {word[2:] for word in words if word.startswith("--")} <= options, command
        assert (NBS.parent / words[-1]).is_file() and "--cell-timeout 0" in command, command
