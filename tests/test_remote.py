"""The remote generator, against a server that really speaks HTTP and fails in every way that we could think of."""
import base64
import json
import logging
import socket
import struct
import sys
import threading
import time
import warnings
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

import rlgen.models.served
from rlgen.envs.grid import World
from rlgen.experiments.rldf import RLDFSettings, search_once, search_steps
from rlgen.grammar import Grammar
from rlgen.interfaces import Refused
from rlgen.models.generator import Cached
from rlgen.models.perception import Perception
from rlgen.models.served import OPENAI, RemoteGenerator, download_image, server_address
from rlgen.runs import Run
from rlgen.scenes import render
from rlgen.store import Store

KEY = "sk-not-a-real-key-0123456789"
PROMPT = "a photo of one dog and no people in farm"


def png(image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def entry(**fields):
    return {"created": 0, "data": [fields]}


def b64(data: bytes) -> dict:
    return entry(b64_json=base64.b64encode(data).decode())


def huge_png(side: int) -> bytes:
    "A PNG of one pixel that claims to have side x side."
    data, size = bytearray(png(Image.new("RGB", (1, 1)))), struct.pack(">II", side, side)
    data[16:24], data[29:33] = size, struct.pack(">I", zlib.crc32(b"IHDR" + size + bytes(data[24:29])))
    return bytes(data)


class Server:
    """An images API that draws with `render`.

    `script` holds the answers to give first: a status with a message, a body, or a dictionary with status, headers,
    body and wait. `requests` keeps (method, path, headers, body).
    """
    def __init__(self):
        self.requests, self.script, self.end = [], [], threading.Event()
        self.refuses = None  # a word that its moderation does not let pass
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(("POST", self.path, self.headers, json.loads(body)))
                if outer.refuses and outer.refuses in json.loads(body)["prompt"]:
                    outer.script = [{"status": 400, "body": {"error": {"message": "No", "code": "moderation_blocked"}}}]
                self.reply(
                    lambda: b64(png(
                        render(json.loads(body)["prompt"], seed=json.loads(body).get("seed", len(outer.requests)))[
                            0
                        ]
                    ))
                )

            def do_GET(self):
                outer.requests.append(("GET", self.path, self.headers, None))
                self.reply(lambda: png(render(PROMPT, seed=0)[0]))

            def reply(self, usual):
                answer = outer.script.pop(0) if outer.script else {}
                if isinstance(answer, int):
                    answer = {"status": answer, "body": {"error": {"message": f"This is a {answer}."}}}
                outer.end.wait(answer.get("wait", 0))
                body = answer["body"] if "body" in answer else usual()
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                try:
                    self.send_response(answer.get("status", 200))
                    for name, value in (
                        {"Content-Type": "application/json", "Content-Length": str(len(data))}
                        | answer.get("headers", {})
                    ).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client has lost its patience

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": .01}, daemon=True).start()

    def generator(self, **more) -> RemoteGenerator:
        return RemoteGenerator(**{"model": "some-model", "size": "64x64", "base_url": self.root + "/v1"} | more)

    def close(self):
        self.end.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def naps(monkeypatch):
    "What would have been slept, in seconds; nobody sleeps in these tests."
    found = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def failure(kind, generator, prompt=PROMPT) -> str:
    """The sentence of an error: of exactly this kind, on one line, without the key,
    and with nothing of the client's in its traceback.
    """
    with pytest.raises(kind) as caught:
        generator.generate([prompt], [0])
    text = str(caught.value)
    assert type(caught.value) is kind and text.endswith(".") and "\n" not in text and len(text) < 700
    assert (
        KEY not in text
        and (caught.value.__cause__ is None and caught.value.__suppress_context__ or caught.value.__context__ is None)
    )
    return text


# What is sent and what comes back

def test_a_picture_and_the_request_for_it(server):
    picture = server.generator(quality="low").generate([PROMPT], [3])[0]
    assert type(picture) is Image.Image and picture.mode == "RGB" and picture.size == (64, 64)
    assert picture.tobytes() == render(PROMPT, seed=1)[0].tobytes()
    [(method, path, headers, body)] = server.requests
    assert (method, path) == ("POST", "/v1/images/generations") and headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "some-model",
        "prompt": PROMPT,
        "n": 1,
        "size": "64x64",
        "quality": "low",
        "response_format": "b64_json",
    }


def test_a_request_for_each_picture_in_order(server):
    prompts = [PROMPT, PROMPT.replace("dog", "cat"), "a painting of a cat, rocket, and tree"]
    pictures = server.generator().generate(prompts, range(3))
    assert [r[3]["prompt"] for r in server.requests] == prompts and all("quality" not in r[3] for r in server.requests)
    assert [p.tobytes() for p in pictures] == [render(p, seed=i + 1)[0].tobytes() for i, p in enumerate(prompts)]
    assert server.generator().generate([], []) == []


def test_a_picture_by_address_comes_without_the_key(server):
    server.script = [{"body": entry(url=f"{server.root}/pictures/1.png?signature=abc")}]
    assert server.generator().generate([PROMPT], [0])[0].tobytes() == render(PROMPT, seed=0)[0].tobytes()
    method, path, headers, _ = server.requests[1]
    assert (method, path) == ("GET", "/pictures/1.png?signature=abc") and "Authorization" not in headers


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1"])
def test_any_mode_becomes_rgb(server, mode):
    server.script = [{"body": b64(png(Image.new(mode, (64, 64))))}]
    assert server.generator().generate([PROMPT], [0])[0].mode == "RGB"


def test_extensions_send_seed_and_negative_prompt(server):
    generator = server.generator(extensions=True)
    generator.generate([PROMPT], [41], negative="fog")
    generator.generate([PROMPT], [42])
    first, second = (r[3] for r in server.requests)
    assert (
        (first["seed"], first["negative_prompt"]) == (41, "fog")
        and second["seed"] == 42
        and "negative_prompt" not in second
    )


def test_negative_prompt_without_extensions_is_refused(server):
    with pytest.raises(ValueError, match="extensions=True"):
        server.generator().generate([PROMPT], [0], negative="fog")
    assert server.requests == []
    server.generator().generate([PROMPT], [0], negative="")


@pytest.mark.parametrize("status", [400, 422])
def test_response_format_is_left_out_once_refused(server, status):
    server.script = [{
        "status": status,
        "body": {"error": {"message": "Unknown parameter: 'response_format'.", "param": "response_format"}},
    }]
    generator = server.generator()
    generator.generate([PROMPT] * 3, range(3))
    assert ["response_format" in r[3] for r in server.requests] == [True, False, False, False]


def test_response_format_is_left_out_but_once(server):
    server.script = [{"status": 400, "body": {"error": {"message": "No response_format, please."}}}] * 2
    assert "refuses" in failure(ValueError, server.generator())
    assert len(server.requests) == 2


# Faults that pass

def test_waits_as_long_as_the_server_says(server, naps):
    server.script = [
        {"status": 429, "headers": {"Retry-After": "7"}, "body": {}},
        {"status": 429, "headers": {"Retry-After": "31"}, "body": {}},
    ]
    server.generator().generate([PROMPT], [0])
    assert naps == [7, 31] and len(server.requests) == 3


def test_waits_longer_and_longer_with_jitter(server, naps):
    server.script = [500, 502, 503, 504, 529]
    server.generator().generate([PROMPT], [0])
    assert len(server.requests) == 6
    for nap, longest in zip(naps, (.5, 1, 2, 4, 8), strict=True):
        assert .75 * longest <= nap <= longest
    assert len({nap / longest for nap, longest in zip(naps, (.5, 1, 2, 4, 8), strict=True)}) > 1


@pytest.mark.parametrize("header", ["1e9", "-5", "nan", "inf", "soon", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_no_wait_is_longer_than_two_minutes(server, naps, header):
    server.script = [{"status": 429, "headers": {"Retry-After": header}, "body": {}}]
    try:
        server.generator().generate([PROMPT], [0])
    except ConnectionError:
        pass  # new versions of the client give up at once where they are told to wait for days
    assert all(0 <= nap <= 120 for nap in naps)


def test_every_picture_has_its_own_retries(server):
    server.script = [500, 500, {}, 500, 500, {}]
    server.generator(retries=2).generate([PROMPT] * 2, [0, 1])
    assert len(server.requests) == 6


def test_silence_is_asked_again(server):
    server.script = [{"wait": 20}]
    assert server.generator(timeout=.3).generate([PROMPT], [0])[0].size == (64, 64)
    assert len(server.requests) == 2


CHAFF = {
    "no data": {"created": 0},
    "empty data": {"created": 0, "data": []},
    "null": entry(b64_json=None, url=None),
    "no picture": entry(revised_prompt="a dog"),
    "a list": [1, 2],
    "a number": entry(b64_json=5),
    "broken base64": entry(b64_json="iVBORw0KGgo$$$"),
    "other letters": entry(b64_json="é"),
    "text, not a picture": b64(b"I am a picture, believe me."),
    "not JSON": b"<html>Welcome</html>",
    "nothing": b"",
    "not UTF-8": b"\xff\xfe{",
    "a file": entry(url="file:///etc/hosts"),
    "an address in data:": entry(url="data:image/png;base64,iVBORw0KGgo="),
    "a cut picture": b64(png(render(PROMPT, seed=0)[0])[:700]),
    "a huge picture": b64(huge_png(60_000)),
    "a larger one": b64(huge_png(14_200)),
}


@pytest.mark.parametrize("case", CHAFF)
def test_a_broken_answer_is_not_billed_twice(server, naps, case):
    server.script = [{"body": CHAFF[case]}]
    generator, store = server.generator(), Store(":memory:")
    said = failure(ConnectionError, Cached(generator, store))
    assert PROMPT in said and "not repeated" in said and len(server.requests) == 1 and naps == [] and len(store) == 0
    assert generator.generate([PROMPT], [0])[0].size == (64, 64) and len(server.requests) == 2  # asked for by hand


def test_a_huge_picture_is_refused_before_it_is_decoded(server, monkeypatch):
    server.script = [{"body": b64(huge_png(14_200))}]
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert "pixels" in failure(ConnectionError, server.generator(retries=0))


def test_one_budget_for_requests_and_downloads(server):
    address = {"body": entry(url=f"{server.root}/1.png")}
    server.script = [500, address, 503, 404, 500, 429]
    assert "status 500" in failure(ConnectionError, server.generator(retries=3))
    assert [r[0] for r in server.requests] == ["POST", "POST", "GET", "GET", "GET"]


@pytest.mark.parametrize("size", [(100, 30), (30, 100), (128, 128), (63, 64), (1, 1)])
def test_an_image_of_another_size_is_scaled_with_a_word(server, size):
    server.script = [{"body": b64(png(Image.new("RGB", size, (9, 99, 199))))}]
    store = Store(":memory:")
    cached = Cached(server.generator(), store)
    with pytest.warns(UserWarning, match=f"sends images of {size[0]}x{size[1]} where 64x64 was asked for"):
        image = cached.generate([PROMPT], [0])[0]
    assert image.size == (64, 64) and image.getcolors() == [(64 * 64, (9, 99, 199))]
    assert Cached(server.generator(), store).generate([PROMPT], [0])[0].size == (64, 64) and len(server.requests) == 1


def test_the_middle_of_a_wide_image_is_kept(server):
    wide = Image.new("RGB", (128, 64))
    wide.paste((255, 255, 255), (32, 0, 96, 64))
    server.script = [{"body": b64(png(wide))}]
    with pytest.warns(UserWarning, match="cropped"):
        assert server.generator().generate([PROMPT], [0])[0].getcolors() == [(64 * 64, (255, 255, 255))]


def test_auto_takes_any_size_without_a_word(server, recwarn):
    server.script = [{"body": b64(png(Image.new("RGB", (100, 30))))}]
    assert server.generator(size="auto").generate([PROMPT], [0])[0].size == (100, 30)
    server.generator().generate([PROMPT], [0])
    assert not recwarn.list


PNG = png(render(PROMPT, seed=5)[0])
TEXT = base64.b64encode(PNG).decode()


@pytest.mark.parametrize("fields", [
    {"b64_json": f"data:image/png;base64,{TEXT}"},
    {"url": f"data:image/png;base64,{TEXT}"},
    {"url": f" DATA:;base64,{TEXT}\n"},
    {"url": "data:image/png," + quote(PNG)},
    {"b64_json": "", "url": f"data:image/png;base64,{TEXT}"},
    {"b64_json": TEXT.rstrip("=")},
    {"b64_json": "\n".join(TEXT[i:i + 76] for i in range(0, len(TEXT), 76))},
])
def test_the_image_in_the_answer_itself_however_it_is_written(server, fields):
    server.script = [{"body": entry(**fields)}]
    assert server.generator().generate([PROMPT], [0])[0].tobytes() == render(PROMPT, seed=5)[0].tobytes()
    assert len(server.requests) == 1


# Pictures by address

def test_a_failed_download_is_tried_again_without_drawing_again(server):
    address = entry(url=f"{server.root}/1.png")
    server.script = [{"body": address}, 503, 404, {}]
    server.generator().generate([PROMPT], [0])
    assert [r[0] for r in server.requests] == ["POST", "GET", "GET", "GET"]
    server.requests.clear()
    server.script = [{"body": address}] + [404] * 9
    said = failure(ConnectionError, server.generator(retries=2))
    assert [r[0] for r in server.requests] == ["POST", "GET", "GET", "GET"] and "404" in said and "1.png" not in said


def test_a_download_that_hangs_is_cut_off(server):
    server.script = [{"wait": 20}]
    with pytest.raises(OSError, match="cannot be"):
        download_image(f"{server.root}/1.png", timeout=.3)


def test_a_download_that_is_too_large_is_refused(server, monkeypatch):
    monkeypatch.setattr(rlgen.models.served, "MAX_BYTES", 2 ** 20)
    server.script = [{"body": b"x" * (2 ** 20 + 1)}]
    with pytest.raises(ValueError, match="more than 1 MiB"):
        download_image(f"{server.root}/1.png", timeout=5)
    server.script = [{"body": b"x" * 2 ** 20}]
    assert len(download_image(f"{server.root}/1.png", timeout=5)) == 2 ** 20


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://127.0.0.1/x", "data:,x", "", "//x", "http//x"])
def test_only_http_is_downloaded(url):
    with pytest.raises(ValueError, match="http"):
        download_image(url, timeout=1)


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://127.0.0.1:x/", "http://127.0.0.1/a b\r\nX: y", "http://127.0.0.1:1/1.png"]
)
def test_bad_addresses_are_failed_downloads(url):
    with pytest.raises(OSError) as caught:
        download_image(url, timeout=1)
    assert url.removeprefix("http://") == "" or url not in str(caught.value)


def test_no_redirect_leads_out_of_http(server):
    for target in ("file:///etc/hosts", "ftp://127.0.0.1:1/x"):
        server.script = [{"status": 302, "headers": {"Location": target}, "body": b""}]
        with pytest.raises(OSError) as caught:
            download_image(f"{server.root}/1.png", timeout=1)
        assert target not in str(caught.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "url", "b64_json", "created"]) | st.text(max_size=3), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(
    values
    | st.fixed_dictionaries({
        "data": st.lists(
            st.dictionaries(st.sampled_from(["url", "b64_json"]), values, max_size=2), min_size=1, max_size=2
        )
    })
)
def test_whatever_is_answered_is_a_picture_or_a_known_error(answer):
    try:
        assert isinstance(rlgen.models.served._open(SimpleNamespace(json=lambda: answer), timeout=.1), Image.Image)
    except (ValueError, OSError):
        pass


# Faults that stay

def test_a_broken_server_is_given_up(server, naps):
    server.script = [500] * 20
    said = failure(ConnectionError, server.generator(retries=3))
    assert "status 500" in said and "This is a 500" in said and "asked 4 times" in said and "try again later" in said
    assert len(server.requests) == 4 and len(naps) == 3
    assert "asked once" in failure(ConnectionError, server.generator(retries=0)) and len(naps) == 3


def test_too_many_requests(server):
    server.script = [429] * 3
    said = failure(ConnectionError, server.generator(retries=2))
    assert "no more requests now" in said and "asked 3 times" in said and "credit" in said


def test_a_silent_server_is_given_up(server):
    server.script = [{"wait": 20}] * 2
    said = failure(ConnectionError, server.generator(timeout=.2, retries=1))
    assert "silent for 0.2 s" in said and "asked 2 times" in said and "longer timeout" in said


def test_nobody_there(naps):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    said = failure(ConnectionError, RemoteGenerator("m", base_url=address, retries=2))
    assert (
        address in said
        and "cannot be reached" in said
        and "refused" in said
        and "asked 3 times" in said
        and len(naps) == 2
    )
    assert (
        "cannot be reached"
        in failure(ConnectionError, RemoteGenerator("m", base_url="http://no-such-host.invalid/v1", retries=0))
    )


def test_a_connection_that_breaks_off_is_asked_again(server):
    server.script = [{"headers": {"Content-Length": "999"}, "body": b"{"}]
    assert server.generator(timeout=2.).generate([PROMPT], [0])[0].size == (64, 64)


@pytest.mark.parametrize("status", [401, 403])
def test_a_bad_key(server, status):
    server.script = [{"status": status, "body": {"error": {"message": f"Incorrect API key provided: {KEY}."}}}]
    said = failure(PermissionError, server.generator())
    assert "OPENAI_API_KEY" in said and "***" in said and len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Your request was rejected by the safety system."}},
        {"detail": "Your request was rejected by the safety system."},
        b"Your request was rejected by the safety system.",
        {"error": "Your request was rejected by the safety system."},
    ],
)
def test_a_refused_prompt_is_not_asked_again(server, naps, body):
    server.script = [{"status": 400, "body": body}]
    said = failure(Refused, server.generator())
    assert PROMPT in said and "rejected by the safety system" in said and "status 400" in said
    assert len(server.requests) == 1 and naps == []


@pytest.mark.parametrize("status, code, message", [
    (400, "moderation_blocked", "Your request was rejected."),
    (400, "content_policy_violation", "No."),
    (400, "contentFilter", "Your task failed."),
    (403, "content_moderation", "Your request was flagged."),
    (422, None, "NSFW content detected."),
])
def test_moderation_is_known_by_code_or_words(server, status, code, message):
    server.script = [{"status": status, "body": {"error": {"message": message, "code": code}}}]
    assert f"status {status}" in failure(Refused, server.generator())


@pytest.mark.parametrize("kind, status, code, message", [
    (ValueError, 400, "billing_hard_limit_reached", "Billing hard limit has been reached."),
    (ValueError, 400, "invalid_value", "Invalid value: '64x64'. Supported values are: '1024x1024'."),
    (PermissionError, 403, None, "Your organization must be verified to use the model."),
    (PermissionError, 401, None, "Our safety system does not know this key."),
    (ConnectionError, 500, None, "The moderation service is down."),
    (ConnectionError, 429, "rate_limit_exceeded", "Too many requests to the moderation service."),
])
def test_other_faults_are_no_moderation(server, kind, status, code, message):
    server.script = [{"status": status, "body": {"error": {"message": message, "code": code}}}]
    failure(kind, server.generator(retries=0))


def test_a_refused_prompt_leaves_the_other_images_of_the_batch(server):
    blocked = {"status": 400, "body": {"error": {"message": "No.", "code": "moderation_blocked"}}}
    server.script = [{}, blocked, {}, blocked]
    with pytest.raises(Refused) as caught:
        server.generator().generate([PROMPT, "one", PROMPT, "two"], range(4))
    assert [image is None for image in caught.value.images] == [False, True, False, True]
    assert list(caught.value.reasons) == [1, 3] and len(server.requests) == 4
    assert caught.value.images[2].tobytes() == render(PROMPT, seed=3)[0].tobytes()
    server.script = [blocked, 401]
    with pytest.raises(PermissionError):  # what stops everything is not hidden by what is refused
        server.generator().generate(["one", PROMPT], range(2))


def test_long_things_are_cut_in_sentences(server):
    server.script = [{"status": 400, "body": ("no " * 9999 + KEY).encode()}]
    assert len(failure(ValueError, server.generator(), prompt=PROMPT + ", astral" * 999)) < 700


def test_an_unknown_model_and_a_wrong_path(server):
    server.script = [{"status": 404, "body": {"error": {"message": "The model does not exist."}}}]
    said = failure(ValueError, server.generator(model="no-such-model"))
    assert "'no-such-model'" in said and f"{server.root}/v1" in said and len(server.requests) == 1


# Keys, addresses and options

def test_no_key(server, monkeypatch):
    for value in (None, "", "  "):
        if value is None:
            monkeypatch.delenv("OPENAI_API_KEY")
        else:
            monkeypatch.setenv("OPENAI_API_KEY", value)
        with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
            server.generator().generate([PROMPT], [0])
    assert server.requests == []


@pytest.mark.parametrize("bad", [f"{KEY}\nX-Evil: 1", f"{KEY} x", f"{KEY}é", f"{KEY}\x7f"])
def test_a_malformed_key_is_not_quoted(server, monkeypatch, bad):
    monkeypatch.setenv("OPENAI_API_KEY", bad)
    assert "copy it again" in failure(ValueError, server.generator())
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")  # what a file of a key often has around it
    server.generator().generate([PROMPT], [0])


def test_the_key_is_nowhere(server, caplog):
    caplog.set_level(logging.DEBUG)
    generator = server.generator()
    server.script = [500]
    generator.generate([PROMPT], [0])
    store = Store(":memory:")
    Cached(generator, store).generate([PROMPT], [0])
    seen = [
        repr(generator),
        str(generator.settings),
        repr(vars(generator)),
        caplog.text,
        *(str(store.meta(k)) for k in store),
    ]
    assert caplog.text and KEY not in "".join(seen)
    assert repr(generator) == f"RemoteGenerator(some-model, 64x64, at {server.root}/v1)"


def test_without_the_package_openai(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"pip install rlgen\[remote\]"):
        server.generator().generate([PROMPT], [0])


def test_where_the_address_comes_from(monkeypatch):
    assert server_address() == OPENAI == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8080/v1/")
    assert RemoteGenerator("m").settings["server"] == "http://localhost:8080/v1"
    assert RemoteGenerator("m", base_url="http://[::1]:9/v1").settings["server"] == "http://[::1]:9/v1"


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8080", "ftp://x/v1", "http://", "http://ann:secret@x/v1", "http://secret@x/v1",
        "http://x/v1?key=secret", "http://x/v1#secret", "http://x:99999/v1", "http://x:y/v1", "http://[::1/v1",
        "http://a b/v1", "/v1",
    ],
)
def test_bad_addresses_are_refused_and_not_quoted(address):
    with pytest.raises(ValueError, match="no plain address") as caught:
        RemoteGenerator("m", base_url=address)
    assert "secret" not in str(caught.value) and caught.value.__context__ is None


@pytest.mark.parametrize(
    "change",
    [
        {"model": ""},
        {"model": None},
        {"size": "512"},
        {"size": "0x0"},
        {"size": 512},
        {"size": "512 x 512"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"retries": -1},
        {"retries": 1.5},
        {"retries": True},
    ],
)
def test_options_are_checked(change):
    with pytest.raises(ValueError, match=f"^{next(iter(change))} is "):
        RemoteGenerator(**{"model": "m"} | change)


def test_prompts_and_seeds_are_checked(server):
    generator = server.generator()
    for prompts, seeds in (([PROMPT], [0, 1]), ([PROMPT], [-1]), ([PROMPT], [2 ** 63])):
        with pytest.raises(ValueError):
            generator.generate(prompts, seeds)
    for prompts in (PROMPT, [5]):
        with pytest.raises(TypeError):
            generator.generate(prompts, [0])
    assert server.requests == []


# With a store, and in the rest of the package

def test_a_stored_picture_costs_no_request(server, tmp_path, monkeypatch):
    path = tmp_path / "pictures.sqlite"
    with Store(path) as store:
        cached = Cached(server.generator(), store)
        first = cached.generate([PROMPT, PROMPT, PROMPT], [0, 1, 0])
        assert (cached.calls, cached.hits, len(server.requests)) == (2, 1, 2)
    monkeypatch.delenv("OPENAI_API_KEY")  # whoever has the pictures needs no key and no client
    monkeypatch.setitem(sys.modules, "openai", None)
    with Store(path) as store:
        again = Cached(server.generator(), store).generate([PROMPT, PROMPT], [0, 1])
    assert len(server.requests) == 2 and [p.tobytes() for p in again] == [p.tobytes() for p in first[:2]]


def test_whatever_decides_a_picture_is_in_its_key(server):
    def key(negative=None, seed=0, prompt=PROMPT, **more):
        return Cached(server.generator(**more), Store(":memory:")).key(prompt, seed, negative)
    keys = [
        key(),
        key(model="other"),
        key(size="128x128"),
        key(quality="low"),
        key(base_url="http://other/v1"),
        key(extensions=True),
        key(seed=1),
        key(prompt="x"),
        key("fog", extensions=True),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(timeout=5, retries=0) == key("") == key(base_url=server.root + "/v1/")


def test_what_was_drawn_before_a_failure_is_kept(server):
    store = Store(":memory:")
    cached = Cached(server.generator(retries=1), store)
    server.script = [{}, {}, 500, 500]
    with pytest.raises(ConnectionError):
        cached.generate([PROMPT] * 4, range(4))
    assert len(store) == cached.calls == 2
    cached.generate([PROMPT] * 4, range(4))
    assert cached.calls == 4 and len(server.requests) == 6


SIX = Grammar.from_string(
    'S -> P Noun I Scene\nP -> "a photo of one"\nNoun -> "dog" | "cat" | "car"\nI -> "and no people in"\nScene '
    '-> "farm" | "beach"\n'
)


def test_a_search_on_a_remote_world(server):
    grammar = SIX
    world = World(grammar, Cached(server.generator(), Store(":memory:")), Perception.load("tiny", device="cpu"))
    seen = [grammar.decode(percept.encodings[0]) for percept in world.perceive(range(len(grammar)))]
    assert seen == [world.prompt(i) for i in range(len(grammar))] and len(server.requests) == 6
    for truth in seen:
        played = search_once(world, render(truth, seed=99)[0], RLDFSettings(max_steps=300))
        assert played["found"] and played["prompt"] == truth
    assert len(server.requests) == 6 == world.generator.calls
    assert (np.asarray(world.images([0])[0]) == np.asarray(render(seen[0], seed=1)[0])).all()


def test_a_search_goes_on_past_a_refused_prompt_and_is_resumed(server, tmp_path):
    server.refuses = "cat"  # stands between dog and car, so that the search has to go through it

    def run(stop=None):
        opened = Run.create(tmp_path / "run", {"seed": 0}, kind="search")
        with Store(tmp_path / "images.sqlite") as store, opened:
            world = World(SIX, Cached(server.generator(), store), Perception.load("tiny", device="cpu"))
            goal = render("a photo of one car and no people in beach", seed=99)[0]
            settings = RLDFSettings(agent="q-learning", max_steps=300)
            for trace in search_steps(world, goal, settings, run=opened):
                if len(trace.states) == stop: break
            return trace

    with pytest.warns(UserWarning, match="takes such a state for the worst") as told:
        run(20)
    assert len([w for w in told if "refuses it with status 400" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = run()
    asked = Counter(request[3]["prompt"] for request in server.requests)
    refused = [trace.env.state_values.world.prompt(s) for s in trace.env.state_values.refused]
    assert trace.found or len(trace.states) == 300  # to its end
    assert refused and all("cat" in prompt for prompt in refused)
    assert max(asked[prompt] for prompt in asked if "cat" not in prompt) == 1 and max(asked.values()) <= 2
