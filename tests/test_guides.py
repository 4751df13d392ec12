"""The snippets of the guides run as they stand, each alone, and are short."""
import base64
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

PAGE = Path(__file__).parents[1] / "nbs" / "guides" / "00_bring_your_own.ipynb"


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
    Image.new("RGB", (64, 64), (90, 90, 90)).save(file, "PNG")
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
        None, "A reward", "A generator: a function", "A generator: a served model", "A perception model",
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
    if title == "A generator: a served model":
        assert names["world"].images([0])[0].getpixel((0, 0)) == (90, 90, 90)
    if title == "Labelled images":
        assert names["info"]["size"] == 2 and names["data"].counts.tolist() == [5, 5, 5]
    if title == "An agent: a subclass":
        assert names["agent"].steps == 10
