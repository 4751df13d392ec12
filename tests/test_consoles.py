"Consoles that lack letters, and shells that leave ~ as it is: the answer is the same, with other letters."
import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from standins import GRAMMAR

from rlgen.cli import main
from rlgen.runs import Run

NAME = "façade \u2192 \u732b 🐱"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    "A home folder, from which commands are given elsewhere."
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home" / "images").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "home" / "images" / f"{i}.png")
    return tmp_path / "home"


def answer(encoding: str, *typed: str) -> tuple[int, str, str]:
    "Exit status, output and error stream of a command on a console of an encoding; pytest's own stand-ins have UTF-8."
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        status = main(typed)
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    return status, out, err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8"])
def test_a_console_that_lacks_letters(encoding, tmp_path):
    with Run.create(tmp_path / NAME, {"seed": 0, "model": NAME}) as run:
        run.finish({"summary": NAME})
    status, out, err = answer(encoding, "runs", str(tmp_path), "--compare")
    assert (status, err) == (0, "") and "kind" in out and NAME.encode(encoding, "replace").decode(encoding) in out
    status, out, err = answer(encoding, "runs", str(tmp_path / "\u732b" / "\udcff"))
    assert (status, out) == (2, "") and err.startswith("rlgen: There is no folder") and err.count("\n") == 1


def test_a_search_and_its_bar_on_a_console_that_lacks_letters(home):
    (home / "grammar.cfg").write_text(GRAMMAR.replace("dog", "\u732b"), encoding="utf-8")
    typed = "search ~/images --grammar ~/grammar.cfg --inference-steps 1 --max-steps 3 --reward clip --out=~/out"
    status, out, err = answer("ascii", *typed.split())
    assert status == 0 and out.startswith("0.png: ") and "3/3" in err and "rlgen:" not in err
    assert (home / "out" / "prompts.csv").is_file() and not list(Path().iterdir())


def test_home_is_found_in_every_kind_of_option(home, capsys):
    Image.new("RGB", (8, 8)).save(home / "images" / "3.png")
    with pytest.warns(UserWarning, match="4 images are too few"):
        assert main(["compare", "~/images", "~/images", "again=~/images", "--out", "~/table.csv"]) == 0
    assert "again" in (home / "table.csv").read_text()
    with Run.create(home / "runs" / "one", {"seed": 0}) as run:
        run.finish({})
    assert main(["runs", "~/runs"]) == 0 and "one" in capsys.readouterr().out
    assert main(["search", "~/nowhere.png"]) == 2 and str(home / "nowhere.png") in capsys.readouterr().err
    assert not list(Path().iterdir())
