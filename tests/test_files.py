"""Names that lead nowhere else, what is said about damaged files and full disks, and folders with one owner."""
import errno
import json
import os
import signal
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from filelock import FileLock
from hypothesis import given, settings, strategies as st
from refusals import refused

import rlgen.files
from rlgen.files import (
    atomic_write,
    check_name,
    claim,
    file_names,
    fits,
    from_plain,
    read_json,
    reading,
    remove_drafts,
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
