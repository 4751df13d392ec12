"""Names that lead nowhere else, what is said about damaged files and full disks, and folders with one owner."""
import errno
import json
import os
import signal
import subprocess
import sys
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings, strategies as st
from refusals import refused

import rlgen.files
from rlgen.files import (
    atomic_write,
    check_name,
    claim,
    csv_rows,
    expand_argument,
    file_names,
    fits,
    from_plain,
    load_arrays,
    read_csv,
    read_json,
    read_text,
    reading,
    remove_drafts,
    save_arrays,
    text_lines,
    to_path,
    waiting,
    write_csv,
    write_json,
    writing,
)

BAD_NAMES = (
    "", ".", "..", "../x", "a/b", "/etc/passwd", "C:\\x", "a\\b", "a:b", "CON", "con", "nul.png", "COM1", "lpt9.tar.gz",
    "AUX .txt", "a.", "a ", " a", ".hidden", "a\nb", "a\0b", "a?", "a*", 'a"', "<a>", "a|b", "\udcff", "x" * 201,
    "é" * 101,
)


# Names

@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_elsewhere_or_that_windows_refuses(name):
    refused(lambda: check_name(name, "A figure"), "A figure is called")
    made = file_names([name])[name]
    assert check_name(made, "A class") == made

@pytest.mark.parametrize(
    "name", ["curves", "a b", "jack-o'-lantern", "x" * 200, "St. Bernard", "Ünïcode", "console", "com10"]
)
def test_a_good_name_stays(name):
    assert check_name(name, "A figure") == name

@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=90) | st.sampled_from(BAD_NAMES), max_size=8, unique=True))
def test_names_made_from_any_texts_are_good_and_different(texts):
    names = file_names(texts)
    assert list(names) == texts and all(check_name(name, "A class") for name in names.values())
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names.values()}) == len(texts)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    "A home folder of one's own."
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"

def test_home_is_found_in_every_reader_and_writer(home):
    assert to_path("~") == home and to_path(Path("~/a/b")) == home / "a" / "b" and to_path("a~/~") == Path("a~/~")
    write_json("~/new/a.json", {"a": 1})
    write_csv("~/new/a.csv", [{"a": "1"}])
    save_arrays("~/new/a.safetensors", {"a": np.arange(2)}, {})
    assert sorted(file.name for file in (home / "new").iterdir()) == ["a.csv", "a.json", "a.safetensors"]
    assert read_json("~/new/a.json", "") == {"a": 1} and read_csv("~/new/a.csv") == [{"a": "1"}]
    assert load_arrays("~/new/a.safetensors")[0]["a"].tolist() == [0, 1]
    with claim("~/mine"):
        assert (home / "mine").is_dir()

@pytest.mark.parametrize("typed", [
    "~", "~/a b/c", "--out=~/x", "name=~/x", "--references=name=~/x", "~/k=v/x", "~/two\nlines",
])
def test_home_is_found_in_arguments(home, typed):
    assert expand_argument(typed) == typed.replace("~", str(home), 1)

@pytest.mark.parametrize("typed", [
    "", "a ~ b", "~ 3 dogs", "a photo of ~/x", "a/b=~/x", "~~", "~nobody-of-this-name/x", "--prompt=a, ~/x", "x~",
])
def test_other_arguments_stay(home, typed):
    assert expand_argument(typed) == typed

def test_a_name_of_full_length_is_written(tmp_path):
    for name in ("x" * 255, "\u732b" * 85, "e\u0301" * 85):
        write_json(tmp_path / name, {"a": 1})
        assert [file.name for file in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()
    refused(lambda: write_json(tmp_path / ("x" * 256), {"a": 1}), "Cannot write", "too long", kind=OSError)
    assert not list(tmp_path.iterdir())


# Text of any encoding

TEXT = "Bär\r\n\u732b\n\nend\u2028x"

@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_is_read_in_any_unicode(tmp_path, encoding):
    (tmp_path / "a").write_bytes(TEXT.encode(encoding))
    assert list(text_lines(tmp_path / "a")) == ["Bär\r\n", "\u732b\n", "\n", "end\u2028x"]
    assert read_text(tmp_path / "a") == TEXT.replace("\r", "")

@given(st.lists(st.text("ab\r\n", max_size=9)).map("".join))
def test_lines_end_as_those_of_python_do(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(text.encode())
    with open(path, newline="", encoding="utf-8") as file:
        assert list(text_lines(path)) == list(file)
    assert read_text(path) == path.read_text(encoding="utf-8")

def test_other_bytes_are_read_as_windows_does_with_one_warning(tmp_path):
    (tmp_path / "a").write_bytes("Bär\nEl\u2019\u20ac\ngr\u00fcn".encode("cp1252"))
    with pytest.warns(UserWarning) as said:
        assert read_text(tmp_path / "a") == "Bär\nEl\u2019\u20ac\ngr\u00fcn"
    (message,) = (str(warning.message) for warning in said)
    assert "a is not in UTF-8" in message and "Windows-1252" in message
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfB\xe4r")  # a mark that promises too much
    with pytest.warns(UserWarning, match="Windows-1252"):
        assert read_text(tmp_path / "a") == "Bär"

def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"GIF89a\0\0")
    refused(lambda: read_text(tmp_path / "a"), "no text file")
    (tmp_path / "a").write_bytes("Bär".encode("utf-16")[:-1])
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "a")

@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_of_any_spreadsheet(tmp_path, encoding, mark):
    text = f'file{mark}prompt\r\na.png{mark}"a{mark} ""Bär"""\r\n\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    with warnings.catch_warnings(action="ignore"):
        assert read_csv(tmp_path / "a.csv") == [{"file": "a.png", "prompt": f'a{mark} "Bär"'}]
        assert next(csv_rows(tmp_path / "a.csv")) == ["file", "prompt"]

@pytest.mark.parametrize("line, mark", [("sep=;", ";"), ('"sep=,"', ","), ("SEP=|", "|"), ("sep=\t", "\t")])
def test_the_line_with_which_excel_names_the_mark(tmp_path, line, mark):
    (tmp_path / "a.csv").write_text(f'{line}\nfile{mark}"a,,, b;;; c"\na.png{mark}1\n')
    assert read_csv(tmp_path / "a.csv") == [{"file": "a.png", "a,,, b;;; c": "1"}]


def test_tables_that_are_none(tmp_path):
    (tmp_path / "a.csv").write_text("")
    assert read_csv(tmp_path / "a.csv") == []
    (tmp_path / "a.csv").write_text("a,b\n1,2,3\n")
    with pytest.raises(ValueError, match="a row has 3 columns, and the header 2"):
        read_csv(tmp_path / "a.csv")


# Errors

def broken(code: int):
    raise OSError(code, os.strerror(code))

@pytest.mark.parametrize("code, words", [
    (errno.ENOSPC, ["The disk is full", "x.json", "intact"]),
    (errno.EROFS, ["Cannot write", "x.json", "Read-only"]),
    (errno.EACCES, ["Cannot write", "x.json", "denied"]),
])
def test_a_disk_that_takes_nothing_is_named(tmp_path, monkeypatch, code, words):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "fsync", lambda file: broken(code))
    kind = type(OSError(code, ""))
    refused(lambda: write_json(path, {"a": 2}), *words, kind=kind)
    refused(lambda: write_csv(path, [{"a": 2}]), *words, kind=kind)
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["x.json"]

def test_a_file_that_the_block_reads_keeps_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), atomic_write(tmp_path / "x"):
        open(tmp_path / "b" / "other")

@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_is_named(code):
    def read():
        with reading("x.json", "make it again"):
            broken(code)
    refused(read, "Cannot read x.json", kind=type(OSError(code, "")))

@pytest.mark.parametrize("damage", [
    b"", b"{", b"[1]", b"null", b"\xff\xfe\xfa", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}", b"\x00" * 9,
])
def test_a_damaged_file_of_json_is_named(tmp_path, damage):
    (tmp_path / "x.json").write_bytes(damage)
    refused(lambda: read_json(tmp_path / "x.json", "make it again"), "x.json is damaged", "make it again")
    refused(lambda: read_json(tmp_path / "y.json", "make it again"), "no file", "y.json", kind=FileNotFoundError)

@pytest.mark.parametrize("value, hint, good", [
    (1, int, True), (True, int, False), (1, float, True), (True, float, False), ("a", float, False),
    (None, int | None, True),
    ([1, 2], list[int], True), ([1, "a"], list[int], False), ({"a": {"b": .5}}, dict[str, dict[str, float]], True),
    ({"a": .5}, dict[str, dict[str, float]], False), ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False),
    (True, bool, True), (object(), Any, True), ([], list, True), ({}, list, False),
])
def test_values_fit_their_annotations(value, hint, good):
    assert fits(value, hint) == good

def test_a_dataclass_comes_back_from_json():
    @dataclass
    class Found:
        name: str
        places: list[int]
        later: int = 0
    assert from_plain(Found, {"name": "a", "places": [1], "more": 2}) == Found("a", [1])
    with pytest.raises(TypeError, match="places"):
        from_plain(Found, {"name": "a", "places": 1})
    with pytest.raises(KeyError):
        from_plain(Found, {"name": "a"})

def test_names_that_are_no_utf_8_are_written(tmp_path):
    write_csv(tmp_path / "x.csv", [{"file": "caf\udce9.png"}])
    assert (tmp_path / "x.csv").read_text(encoding="utf-8").splitlines() == ["file", r"caf\udce9.png"]


# Drafts

def test_the_drafts_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    others = {".b.json.tmp", "b.json.0123abcd.tmp", ".a.json.0123ABCD.tmp"}
    for name in (".a.json.0123abcd.tmp", ".b.json.0123abcd.tmp", *others):
        (tmp_path / name).touch()
    remove_drafts(tmp_path, "a.json")
    assert {p.name for p in tmp_path.iterdir()} == others | {".b.json.0123abcd.tmp"}
    remove_drafts(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == others
    remove_drafts(tmp_path / "nowhere")


# One owner

HOLD = """
import sys
from rlgen.files import claim, waiting
with waiting(len(sys.argv) > 2):
    mine = claim(sys.argv[1])
print("mine", flush=True)
sys.stdin.readline()
"""

def holder(folder, *wait) -> subprocess.Popen:
    "Another process that claims a folder, and keeps it until it is told to end."
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )

def test_another_process_is_named_until_it_is_killed(tmp_path):
    with holder(tmp_path / "run") as first:
        assert first.stdout.readline() == "mine\n"
        since = json.loads((tmp_path / "run" / ".owner.json").read_text())["since"]
        for _ in range(2):
            message = refused(lambda: claim(tmp_path / "run"), f"process {first.pid}", since, "--wait", kind=OSError)
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL and (tmp_path / "run" / ".owner.json").exists()
    with claim(tmp_path / "run"):  # what the dead one noted counts for nothing
        assert json.loads((tmp_path / "run" / ".owner.json").read_text())["process"] == os.getpid()
    assert not (tmp_path / "run" / ".owner.json").exists() and str(tmp_path) in message

def test_one_that_waits_goes_on_when_the_first_lets_go(tmp_path):
    with claim(tmp_path):
        second = holder(tmp_path, "wait")
        owner = f"process {os.getpid()}, since {since_of(tmp_path)}"
        assert second.stderr.readline() == f"waiting for {owner}, which has {tmp_path}\n"
        assert second.poll() is None
    assert second.stdout.readline() == "mine\n"
    assert second.communicate("\n")[1] == "" and second.returncode == 0

def since_of(folder) -> str:
    return json.loads((folder / ".owner.json").read_text())["since"]

def test_the_same_process_gets_it_again_and_the_last_hold_counts(tmp_path):
    other = FileLock(tmp_path / ".lock")
    with claim(tmp_path / ".." / tmp_path.name) as first:
        second = claim(tmp_path)
        first.release()
        first.release()
        assert cannot(other)
        third = claim(tmp_path)
        del second
        assert cannot(other)
        third.release()
        assert not cannot(other)

def cannot(lock) -> bool:
    "Whether a lock is taken by somebody else."
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return True
    lock.release()
    return False

def test_a_hold_that_nobody_refers_to_ends(tmp_path):
    mine = claim(tmp_path)
    assert cannot(other := FileLock(tmp_path / ".lock"))
    del mine
    assert not cannot(other)

def test_an_interrupt_on_the_way_leaves_it_to_the_same_process(tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(rlgen.files, "_Held", stop)
        with pytest.raises(KeyboardInterrupt) as kept:  # with its traceback, as a notebook keeps it
            claim(tmp_path)
    with claim(tmp_path):
        assert kept and cannot(FileLock(tmp_path / ".lock"))
    assert not cannot(FileLock(tmp_path / ".lock"))

@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_has_nothing_of_its_parents_hold(tmp_path):
    with claim(tmp_path):
        if (child := os.fork()) == 0:
            try:
                claim(tmp_path)
            except OSError as error:
                os._exit(0 if f"process {os.getppid()}" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert (tmp_path / ".owner.json").exists() and cannot(FileLock(tmp_path / ".lock"))

def test_an_owner_who_left_no_note_is_another_process(tmp_path):
    with FileLock(tmp_path / ".lock"):
        for note in (None, "{", "[]", "{}"):
            if note:
                (tmp_path / ".owner.json").write_text(note)
            refused(lambda: claim(tmp_path), "in use by another process", kind=OSError)
            with waiting(False):
                refused(lambda: claim(tmp_path), "in use by another process", kind=OSError)

def test_parts_of_a_folder_have_owners_of_their_own(tmp_path):
    with claim(tmp_path, "-1-of-2"), FileLock(tmp_path / ".lock-2-of-2"):
        refused(lambda: claim(tmp_path, "-2-of-2"), "in use", kind=OSError)
        claim(tmp_path).release()

def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(FileLock, "acquire", lambda self, timeout=None: broken(errno.EROFS))
    refused(lambda: claim(tmp_path), "Cannot write", ".lock", kind=OSError)
    (tmp_path / "file").write_text("")
    refused(lambda: claim(tmp_path / "file"), "Cannot make the folder", kind=OSError)
    with pytest.raises(OSError, match="of its own"), writing(Path("x")):
        raise OSError("A sentence of its own.")
