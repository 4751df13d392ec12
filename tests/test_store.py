"""The store and run folders: several processes, killed ones, damaged files, and what comes back bit for bit."""
import ast
import codecs
import csv
import inspect
import json
import os
import pickle
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from refusals import refused

import rlgen.store
from rlgen.agents.base import random_state, set_random_state
from rlgen.files import atomic_write, first_line, load_arrays, save_arrays, write_csv, write_json
from rlgen.runs import Run
from rlgen.store import Store, canonical_json, content_key, reading_from

ROOT = Path(__file__).parents[1]
# Time says nothing about right or wrong on a machine that is busy with other things.
calmly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def picture(seed: int, size: tuple = (64, 64)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def start(code: str, *args) -> subprocess.Popen:
    "Another Python that runs `code`, with what these tests use already imported."
    header = (
        "import os, sys, time\nfrom pathlib import Path\nsys.path.insert(0, "
        f"{str(Path(__file__).parent)!r})\nfrom test_store import *\n"
    )
    return subprocess.Popen([sys.executable, "-c", header + code, *map(str, args)], env=ENV, cwd=ROOT, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run_in_step(code: str, *args: tuple) -> None:
    "One process for each of `args`; all begin when the slowest has imported what it needs, at the time `go`."
    code = "print('ready', flush=True)\ngo = float(sys.stdin.readline())\nwhile time.time() < go: pass\n" + code
    processes = [start(code, *one) for one in args]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    go = time.time() + .1
    for process in processes:
        print(go, file=process.stdin, flush=True)
    for process in processes:
        finish(process)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def check_integrity(path):
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 600
    return text


# Content keys

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)
some_settings = st.dictionaries(st.text(), plain, max_size=5)


def same(a, b) -> bool:
    "Equal in type too (1 is not True), and 0.0 is not -0.0."
    if type(a) is not type(b): return False
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list): return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


@calmly
@given(some_settings, st.randoms(use_true_random=False))
def test_key_does_not_depend_on_order(given_settings, shuffler):
    items = list(given_settings.items())
    shuffler.shuffle(items)
    assert content_key(**dict(items)) == content_key(**given_settings)


@calmly
@given(some_settings, some_settings)
def test_key_differs_exactly_where_settings_do(a, b):
    assert (content_key(**a) == content_key(**b)) == same(a, b)


@calmly
@given(some_settings, st.text(), plain, plain)
def test_key_sees_a_change_in_one_setting(base, name, one, other):
    assert (content_key(**{**base, name: one}) == content_key(**{**base, name: other})) == same(one, other)


@calmly
@given(some_settings)
def test_key_survives_a_trip_through_json(given_settings):
    assert content_key(**json.loads(json.dumps(given_settings))) == content_key(**given_settings)


def test_key_is_the_same_in_every_release():
    "Keys written today must be found tomorrow: change this only together with the store's version."
    key = content_key(prompt="a photo of one cat", negative=None, seed=3, guidance=7.5, size=(64, 64), latin="é")
    assert key == "ee3a5a22cf243e999864cadc08f5e41ec4f201829dd898608017d74786feb029"


@pytest.mark.parametrize(
    "value, says",
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ([1, [float("nan")]], r"x\[1\]\[0\]"),
        ({1: 2}, "the key 1"),
        ({"a": {"b": {3}}}, r"x\.a\.b is of type set"),
        (b"bytes", "bytes"),
        (np.int64(3), "int64"),
        (np.zeros(2), "ndarray"),
        (object(), "object"),
        (1 + 2j, "complex"),
        (Path("a"), "Path"),
    ],
)
def test_key_refuses_what_has_no_single_form(value, says):
    with pytest.raises(ValueError, match=says) as error:
        content_key(x=value)
    one_sentence(error)


def test_canonical_json_refuses_keys_that_are_not_text():
    with pytest.raises(ValueError, match="the key 1"):
        canonical_json({1: 2, "1": 3})


# Pictures in and out

@calmly
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_pictures_come_back_pixel_for_pixel(pixels):
    with Store(":memory:") as store:
        store.put("key", Image.fromarray(pixels))
        got = store.get("key")
    assert got.mode == "RGB" and np.array_equal(np.asarray(got), pixels)


def test_get_gives_each_caller_a_picture_of_their_own(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    store.put("key", picture(0))
    store.get("key").paste((0, 0, 0), (0, 0, 64, 64))
    assert store.get("key") == picture(0)


def test_first_picture_under_a_key_stays_until_discarded(tmp_path):
    store = Store(tmp_path / "deep" / "down" / "store.sqlite")
    store.put("key", picture(0), {"seed": 0})
    store.put("key", picture(1), {"seed": 1})
    assert store.get("key") == picture(0) and store.meta("key") == {"seed": 0} and len(store) == 1
    store.discard("key")
    assert store.get("key") is None and "key" not in store and store.meta("key") is None and len(store) == 0
    store.put("key", picture(1))
    assert store.get("key") == picture(1) and store.meta("key") is None


def test_many_keeps_order_and_gaps(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    store.put_many(["b", "a", "b"], [picture(1), picture(0), picture(2, (3, 5))], [{"n": 1}, None, {"n": 2}])
    assert store.get_many(["a", "none", "b", "a"]) == [picture(0), None, picture(1), picture(0)]
    assert list(store) == ["b", "a"]
    store.put_many([], [])
    with Store(tmp_path / "store.sqlite") as again:
        assert again.get("a") == picture(0)


def test_many_are_looked_up_in_one_query():
    "Equal to one by one, each an image of its own, and a query for each 30,000 keys."
    store = Store(":memory:")
    keys = [f"{i:05}" for i in range(30_001)]
    store.put_many(keys[::2], [picture(i % 3, (2, 1)) for i in range(len(keys[::2]))])
    asked, queries = [keys[4], "none", keys[0], keys[4], keys[1]], []
    one_by_one = [store.get(key) for key in asked]
    store._db.set_trace_callback(queries.append)
    found = store.get_many(asked)
    assert len(queries) == 1 and found == one_by_one and [f is None for f in found] == [False, True, False, False, True]
    found[0].putpixel((0, 0), (1, 2, 3))
    assert found[3] == one_by_one[3]
    queries.clear()
    assert [f is not None for f in store.get_many(keys)] == [i % 2 == 0 for i in range(30_001)] and len(queries) == 2
    queries.clear()
    assert store.get_many([]) == [] and not queries


def test_cached_images_come_in_one_query():
    from rlgen.models.generator import Cached

    class Painter:
        settings = {"model": "painter"}

        def generate(self, prompts, seeds):
            return [picture(s, (2, 2)) for s in seeds]

    store, queries = Store(":memory:"), []
    cached = Cached(Painter(), store)
    first = cached.generate(["a"] * 100, range(100))
    store._db.set_trace_callback(queries.append)
    assert cached.generate(["a"] * 100, range(100)) == first and len(queries) == 1


def test_iteration_goes_on_while_others_write(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    keys, dot = [f"{i:04}" for i in range(2500)], picture(0, (1, 1))
    store.put_many(keys, [dot] * 2500)
    walk = iter(store)
    head = [next(walk) for _ in range(5)]
    store.put("late", dot)
    assert head + list(walk) == keys + ["late"]


@pytest.mark.parametrize("image, says", [
    (Image.new("RGBA", (2, 2)), "RGBA"), (Image.new("L", (2, 2)), "mode L"), (np.zeros((2, 2, 3), np.uint8), "ndarray"),
    (None, "NoneType")])
def test_put_refuses_other_pictures_and_then_keeps_none(tmp_path, image, says):
    store = Store(tmp_path / "store.sqlite")
    with pytest.raises(ValueError, match=says) as error:
        store.put_many(["good", "bad"], [picture(0), image])
    one_sentence(error)
    assert len(store) == 0


def test_put_refuses_bad_keys_notes_and_counts():
    store = Store(":memory:")
    with pytest.raises(ValueError, match="not 3"):
        store.put(3, picture(0))
    with pytest.raises(ValueError, match="reward is nan"):
        store.put("key", picture(0), {"reward": float("nan")})
    with pytest.raises(ValueError, match="2 keys, 1 images"):
        store.put_many(["a", "b"], [picture(0)])
    assert len(store) == 0


def test_closed_store_says_so(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        store.put("key", picture(0))
    store.close()
    with pytest.raises(ValueError, match="is closed") as error:
        store.get("key")
    one_sentence(error)
    assert [file.name for file in tmp_path.iterdir()] == ["store.sqlite"]  # the log was moved over and removed


def test_store_is_found_again_after_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("store.sqlite")
    monkeypatch.chdir("/")
    store._hang_up()
    store.put("key", picture(0))
    assert (tmp_path / "store.sqlite").exists()


# Several threads and processes

def test_threads_share_a_store(tmp_path):
    store, failures = Store(tmp_path / "store.sqlite"), []

    def work(first):
        try:
            for i in range(first, first + 60):
                store.put(str(i), picture(i, (8, 8)))
                assert store.get(str(i)) == picture(i, (8, 8))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 30, 60, 90)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(store) == 150


def test_two_processes_write_at_once(tmp_path):
    "Both make the file, and half of their keys are the same."
    code = """
with Store(sys.argv[1]) as store:
    for i in range(int(sys.argv[2]), int(sys.argv[2]) + 400): store.put(str(i), picture(i), {"seed": i})
"""
    path = tmp_path / "store.sqlite"
    run_in_step(code, (path, 0), (path, 200))
    with Store(path) as store:
        assert set(store) == {str(i) for i in range(600)} and len(store) == 600
        assert all(store.get(str(i)) == picture(i) and store.meta(str(i)) == {"seed": i} for i in range(600))
    check_integrity(path)


def test_new_files_opened_by_several_processes_in_step(tmp_path):
    code = """
for i in range(20):
    while time.time() < go + .06 * i: pass
    with Store(f"{sys.argv[1]}/{i}.sqlite") as store: store.put(sys.argv[2], picture(0))
"""
    run_in_step(code, *((tmp_path, name) for name in "abcd"))
    for i in range(20):
        with Store(tmp_path / f"{i}.sqlite") as store:
            assert sorted(store) == list("abcd")


def test_opening_tries_again_while_another_process_makes_the_file(tmp_path, monkeypatch):
    connect, refusals = rlgen.store._connect, [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_SNAPSHOT]

    def refuse(path, *args, **options):
        if not refusals: return connect(path, *args, **options)
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = refusals.pop()
        raise error

    monkeypatch.setattr(rlgen.store, "_connect", refuse)
    Store(tmp_path / "store.sqlite").put("key", picture(0))
    assert not refusals and len(Store(tmp_path / "store.sqlite")) == 1


# File systems without shared memory, or without locks

MESSAGES = [
    ("locking protocol", sqlite3.SQLITE_PROTOCOL), ("database is locked", sqlite3.SQLITE_BUSY),
    ("disk I/O error", sqlite3.SQLITE_IOERR_LOCK),
]


@pytest.fixture
def stand_in(monkeypatch):
    "Call it with a message, its code, and what a statement has to have in it to be refused."
    connect = sqlite3.connect
    monkeypatch.setattr(rlgen.store, "_PATIENCE", -1)

    def refuse(message, code, *words):
        class Difficult(sqlite3.Connection):
            def execute(self, sql, *args):
                if any(word in sql for word in words):
                    error = sqlite3.OperationalError(message)
                    error.sqlite_errorcode = code
                    raise error
                return super().execute(sql, *args)

        def difficult(path, *args, **options):
            return connect(path, *args, **options, **({} if path == ":memory:" else {"factory": Difficult}))

        monkeypatch.setattr(sqlite3, "connect", difficult)

    return refuse


def journal(path) -> str:
    db = sqlite3.connect(path)
    mode = db.execute("PRAGMA journal_mode").fetchone()[0]
    db.close()
    return mode


@pytest.mark.parametrize("message, code", MESSAGES)
def test_without_a_write_ahead_log_there_is_a_rollback_journal(tmp_path, stand_in, message, code):
    stand_in(message, code, "WAL")
    with pytest.warns(UserWarning) as said:
        store = Store(tmp_path / "store.sqlite")
    assert len(said) == 1 and re.search(rf"no write-ahead log \({message}\).*\.$", str(said[0].message))
    assert said[0].filename == __file__
    store.put("key", picture(0))
    with Store(tmp_path / "store.sqlite") as again:  # without a second warning
        assert again.get("key") == picture(0)
        again.put("other", picture(1))
    assert store.get("other") == picture(1)
    store.close()
    assert journal(tmp_path / "store.sqlite") == "delete"
    assert [file.name for file in tmp_path.iterdir()] == ["store.sqlite"]
    check_integrity(tmp_path / "store.sqlite")


@pytest.mark.parametrize("message, code", MESSAGES)
def test_without_locks_the_run_goes_on_in_memory(tmp_path, stand_in, message, code):
    stand_in(message, code, "SELECT", "PRAGMA")
    with pytest.warns(UserWarning) as said:
        store = Store(tmp_path / "store.sqlite")
    assert len(said) == 1 and re.search(rf"\({message}\): images are kept in memory.*\.$", str(said[0].message))
    store.put("key", picture(0))
    assert store.path == ":memory:" and pickle.loads(pickle.dumps(store)).get("key") == picture(0)


def test_other_errors_are_no_reason_to_go_on_without_the_file(tmp_path, stand_in):
    for message, code in ("database or disk is full", sqlite3.SQLITE_FULL), ("readonly", sqlite3.SQLITE_READONLY):
        stand_in(message, code, "WAL")
        with pytest.raises(OSError, match=message) as error:
            Store(tmp_path / "store.sqlite")
        one_sentence(error)


@pytest.mark.parametrize("old", [False, True])
def test_shared_memory_that_cannot_be_made(tmp_path, old):
    "A link to nowhere lies where SQLite wants its shared memory: a real failure, of a new file and of one with a log."
    path = tmp_path / "store.sqlite"
    if old:
        with Store(path) as store:
            store.put("old", picture(0))
        assert journal(path) == "wal"
    (tmp_path / "store.sqlite-shm").symlink_to(tmp_path / "nowhere" / "x")
    with pytest.warns(UserWarning, match="no write-ahead log .unable to open database file."):
        store = Store(path)
    store.put("new", picture(1))
    store.close()
    with Store(path) as store:
        assert list(store) == ["old", "new"][not old:] and store.get("new") == picture(1)
    assert journal(path) == "delete"
    check_integrity(path)


def test_two_processes_write_at_once_with_a_rollback_journal(tmp_path):
    "Neither can have a log; both make the file, and half of their keys are the same."
    code = """
import warnings
warnings.simplefilter("ignore")
with Store(sys.argv[1]) as store:
    for i in range(int(sys.argv[2]), int(sys.argv[2]) + 60): store.put(str(i), picture(i), {"seed": i})
"""
    path = tmp_path / "store.sqlite"
    (tmp_path / "store.sqlite-shm").symlink_to(tmp_path / "nowhere" / "x")
    run_in_step(code, (path, 0), (path, 30))
    with Store(path) as store:
        assert set(store) == {str(i) for i in range(90)} and len(store) == 90
        assert all(store.get(str(i)) == picture(i) and store.meta(str(i)) == {"seed": i} for i in range(90))
    check_integrity(path)


# Stores that are only read

def traces(folder: Path) -> dict:
    "All that a folder has in it, and when it was changed."
    files = [folder, *sorted(folder.rglob("*"))]
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes() if file.is_file() else b"") for file in files}


@pytest.fixture
def teacher(tmp_path) -> Path:
    "A store with three images, closed."
    with Store(tmp_path / "teacher" / "class #1, 100%?.sqlite") as store:
        store.put_many(["a", "b", "c"], [picture(0), picture(1), picture(2)], [{"seed": i} for i in range(3)])
    return store.path


def test_another_store_lies_under_ones_own(tmp_path, teacher):
    before = traces(teacher.parent)
    with Store(tmp_path / "second.sqlite") as second:
        second.put_many(["c", "d"], [picture(8), picture(3)])
    with Store(tmp_path / "own.sqlite", [teacher, tmp_path / "second.sqlite"]) as own:
        own.put("b", picture(9), {"own": True})
        found = own.get_many(["d", "c", "b", "a", "none", "a"])
        assert found == [picture(3), picture(2), picture(9), picture(0), None, picture(0)]
        found[3].putpixel((0, 0), (1, 2, 3))
        assert found[5] == own.get("a") == picture(0)
        assert [key in own for key in "abcdn"] == [True] * 4 + [False]
        assert own.meta("a") == {"seed": 0} and own.meta("b") == {"own": True} and own.meta("d") is None
        assert list(own) == ["b"] and len(own) == 1
        own.discard("b")
        assert own.get("b") == picture(1)
        own.discard("b")
        assert own.get("b") == picture(1)
        again = pickle.loads(pickle.dumps(own))
        assert again.get("d") == picture(3)
        again.close()
    with pytest.raises(ValueError, match="closed"):
        own.get("a")
    assert traces(teacher.parent) == before


def test_a_store_that_is_read_cannot_be_written_to(tmp_path, teacher):
    own = Store(":memory:", [teacher])
    assert own.get("a") == picture(0)
    db = own._others[0]._db
    for statement in "DELETE FROM pictures", "PRAGMA user_version = 1", "CREATE TABLE x (y)":
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute(statement)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_file_in_a_read_only_folder(tmp_path, teacher):
    teacher.chmod(0o444)
    teacher.parent.chmod(0o555)
    try:
        with Store(tmp_path / "own.sqlite", [teacher]) as own:
            assert own.get("a") == picture(0)
    finally:
        teacher.parent.chmod(0o755)


def test_a_store_that_still_grows(tmp_path):
    "What its owner's log holds is seen when it is moved over; until then the folder is left alone, too."
    path = tmp_path / "teacher" / "store.sqlite"
    owner = Store(path)
    with pytest.raises(ValueError, match="still empty: let the run that fills it end") as error:
        Store(":memory:", [path])
    one_sentence(error)
    owner.put("a", picture(0))
    owner._run("PRAGMA wal_checkpoint")
    with Store(":memory:", [path]) as own:
        before = traces(path.parent)
        assert own.get("a") == picture(0) and own.get("b") is None
        assert traces(path.parent) == before
        owner.put("b", picture(1))
        assert own.get("b") in (None, picture(1))
        owner.close()
        assert own.get_many(["a", "b"]) == [picture(0), picture(1)]


def test_what_is_damaged_in_another_store_counts_as_missing(tmp_path, teacher):
    db = sqlite3.connect(teacher)
    db.execute("UPDATE pictures SET crc = crc + 1 WHERE key = 'a'")
    db.commit()
    db.close()
    own = Store(":memory:", [teacher])
    assert own.get_many(["a", "b"]) == [None, picture(1)]
    for change in lambda: teacher.write_bytes(b"no store " * 3000), teacher.unlink:
        with Store(":memory:", [teacher]) as own:
            change()
            with pytest.warns(UserWarning, match="what it had is generated again") as said:
                assert own.get("b") is None
            assert own.get("c") is None and len(said) == 1
        if teacher.exists():
            with Store(tmp_path / "other.sqlite") as store:
                store.put("b", picture(1))
            os.replace(tmp_path / "other.sqlite", teacher)


def test_a_bad_file_to_read_from_is_refused(tmp_path, teacher):
    (tmp_path / "text.sqlite").write_text("Dear store, I am no database. " * 40)
    (tmp_path / "empty.sqlite").touch()
    db = sqlite3.connect(tmp_path / "foreign.sqlite")
    db.execute("CREATE TABLE bookmarks (url)")
    db.close()
    for name, says in {
        "none.sqlite": "no store", "text.sqlite": "no store of images", "empty.sqlite": "still empty",
        "foreign.sqlite": "another program", "": "your right to read it",
    }.items():
        with pytest.raises((ValueError, OSError), match=says) as error:
            Store(tmp_path / "own.sqlite", [teacher, tmp_path / name])
        assert str(tmp_path / name) in one_sentence(error)
    assert not (tmp_path / "own.sqlite").exists()
    with pytest.raises(ValueError, match="cannot lie under itself"):
        Store(teacher, [teacher])


def test_stores_in_a_block_read_from_others(tmp_path, teacher):
    with reading_from([teacher]):
        own, alone = Store(":memory:"), Store(":memory:", [])
    assert "a" in own and "a" not in alone and "a" not in Store(":memory:")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_store_that_is_read_survives_a_fork(teacher):
    code = """
store = Store(":memory:", [sys.argv[1]])
assert store.get("a") == picture(0)
if (child := os.fork()) == 0: os._exit(0 if store.get("b") == picture(1) else 1)
assert os.waitpid(child, 0)[1] == 0 and store.get("c") == picture(2)
"""
    finish(start(code, teacher))


def test_a_hit_in_another_store_is_no_call_of_the_generator(tmp_path):
    from rlgen.models.generator import Cached

    class Painter:
        settings = {"model": "painter"}

        def generate(self, prompts, seeds):
            return [picture(s, (2, 2)) for s in seeds]

    with Store(tmp_path / "teacher.sqlite") as store:
        Cached(Painter(), store).generate(["a"] * 3, range(3))
    cached = Cached(Painter(), Store(tmp_path / "own.sqlite", [tmp_path / "teacher.sqlite"]))
    assert cached.generate(["a"] * 5, range(5)) == [picture(s, (2, 2)) for s in range(5)]
    assert (cached.calls, cached.hits, len(cached.store)) == (2, 3, 2)


@pytest.mark.parametrize("many", [False, True])
def test_killed_writer_loses_nothing_that_was_committed(tmp_path, many):
    code = """
store, i = Store(sys.argv[1]), 0
while True:
    keys = [f"{i}-{j}" for j in range(20)]
    if sys.argv[2] == "True": store.put_many(keys, [picture(i)] * 20)
    else:
        for key in keys: store.put(key, picture(i))
    print(i, flush=True)
    i += 1
"""
    path = tmp_path / "store.sqlite"
    for _ in range(3):
        path.unlink(missing_ok=True)
        process = start(code, path, many)
        committed = [int(process.stdout.readline()) for _ in range(10)]
        process.send_signal(signal.SIGKILL)
        rest = process.communicate(timeout=60)[0]
        committed += [int(line) for line in rest.split("\n")[:-1]]
        assert process.returncode == -signal.SIGKILL
        with Store(path) as store:
            keys = list(store)
            assert {f"{i}-{j}" for i in committed for j in range(20)} <= set(keys)
            assert all(store.get(key) == picture(int(key.split("-")[0])) for key in keys)
            if many:
                assert len(keys) % 20 == 0  # a batch is there whole or not at all
            store.put("after", picture(0))
        check_integrity(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_store_survives_a_fork(tmp_path):
    """The parent leaves first and another process comes:
    with an inherited connection the child's pictures would be lost.
    """
    code = """
store = Store(sys.argv[1])
store.put("before", picture(0))
if os.fork() == 0:
    for i in range(300):
        store.put(f"child {i}", picture(i, (16, 16)))
        time.sleep(.002)
    assert store.get("before") == picture(0)
    Path(sys.argv[2]).write_text("done")
    os._exit(0)
for i in range(50): store.put(f"parent {i}", picture(i, (16, 16)))
store.close()
os._exit(0)
"""
    path, done = tmp_path / "store.sqlite", tmp_path / "done"
    process = start(code, path, done)
    assert process.wait(timeout=60) == 0
    while not done.exists():
        with Store(path) as visitor:
            visitor.put(f"visitor {time.time()}", picture(0))
        time.sleep(.01)
    assert "Error" not in process.communicate(timeout=60)[1]
    with Store(path) as store:
        assert all(store.get(f"child {i}") == picture(i, (16, 16)) for i in range(300))
        assert all(store.get(f"parent {i}") == picture(i, (16, 16)) for i in range(50))
    check_integrity(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_store_in_memory_is_copied_by_a_fork():
    code = """
store = Store(":memory:")
store.put("before", picture(0))
if (child := os.fork()) == 0:
    store.put("child", picture(1))
    os._exit(0 if store.get("before") == picture(0) and len(store) == 2 else 1)
assert os.waitpid(child, 0)[1] == 0 and len(store) == 1
"""
    finish(start(code))


# Bad files

@pytest.mark.parametrize("where", ["file.txt/store.sqlite", "file.txt/deeper/store.sqlite", "folder"])
def test_store_that_cannot_be_made_says_so(tmp_path, where):
    (tmp_path / "file.txt").write_text("a file, where a folder is needed")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="can be written") as error:
        Store(tmp_path / where)
    assert str(tmp_path) in one_sentence(error)


def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_text("not a database " * 100)
    with pytest.raises(ValueError, match="damaged, or is no store") as error:
        Store(path)
    assert str(path) in one_sentence(error) and path.read_text(encoding="utf-8") == "not a database " * 100


def test_database_of_another_program_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another program") as error:
        Store(path)
    one_sentence(error)
    assert path.read_bytes() == before


def test_store_of_a_newer_release_is_refused(tmp_path):
    path = tmp_path / "store.sqlite"
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 3")
    db.close()
    with pytest.raises(ValueError, match="newer release .* version 3") as error:
        Store(path)
    one_sentence(error)


@pytest.mark.parametrize("change", [
    "pixels = substr(pixels, 1, 100) || x'00' || substr(pixels, 102)", "pixels = substr(pixels, 1, 99)",
    "pixels = 'text'", "width = 32, height = 128", "width = 'wide'", "crc = crc + 1", "key = 'key', crc = 0"])
def test_damaged_row_is_an_error_and_can_be_discarded(tmp_path, change):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.put_many(["key", "other"], [picture(0), picture(1)])
    db = sqlite3.connect(path)
    db.execute(f"UPDATE pictures SET {change} WHERE key = 'key'")
    db.commit()
    db.close()
    with Store(path) as store:
        with pytest.raises(ValueError, match="damaged: store.discard") as error:
            store.get("key")
        one_sentence(error)
        assert store.get("other") == picture(1)
        store.discard("key")
        store.put("key", picture(0))
        assert store.get("key") == picture(0)


def test_rows_that_changed_places_are_seen(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.put_many(["a", "b"], [picture(0), picture(1)])
    db = sqlite3.connect(path)
    for old, new in ("a", "c"), ("b", "a"), ("c", "b"):
        db.execute("UPDATE pictures SET key = ? WHERE key = ?", (new, old))
    db.commit()
    db.close()
    with Store(path) as store, pytest.raises(ValueError, match="damaged"):
        store.get("a")


def test_a_file_with_any_part_overwritten_never_gives_a_wrong_picture(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.put_many([str(i) for i in range(6)], [picture(i) for i in range(6)])
    whole, rng, errors = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(whole)
        at = int(rng.integers(len(whole) - 64))
        damaged[at:at + 64] = rng.bytes(64)
        if rng.random() < .2:
            damaged = damaged[:at]
        path.write_bytes(damaged)
        try:
            with Store(path) as store:
                for i in range(6):
                    assert store.get(str(i)) in (None, picture(i))
        except (ValueError, OSError) as error:
            errors += 1
            assert "\n" not in str(error) and str(path) in str(error)
    assert errors > 30


# Atomic writes

def test_atomic_write_leaves_the_old_file_when_the_block_raises(tmp_path):
    path = tmp_path / "new" / "file"
    for interrupt in RuntimeError, KeyboardInterrupt, SystemExit:
        with pytest.raises(interrupt):
            with atomic_write(path) as file:
                file.write(b"half")
                raise interrupt
        assert list(path.parent.iterdir()) == []
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(RuntimeError):
        with atomic_write(path) as file:
            file.write(b"new")
            raise RuntimeError
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_atomic_write_leaves_the_old_file_when_the_disk_fails(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"old")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(OSError, match="disk full"):
            with atomic_write(path) as file:
                file.write(b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_atomic_write_gives_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic") as file:
        file.write(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_arrays_with_a_note_come_back_and_are_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.safetensors"
    arrays = {"t": np.eye(3)[:, ::2], "n": np.array(7), "yes": np.array([True])}
    save_arrays(path, arrays, {"seed": np.int64(3), "names": ["dog"]})
    found, note = load_arrays(path)
    assert note == {"seed": 3, "names": ["dog"]} and found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name], array) and found[name].dtype == array.dtype
        assert found[name].shape == array.shape
    before = path.read_bytes()
    save_arrays(path, arrays, {"seed": 3, "names": ["dog"]})
    assert path.read_bytes() == before  # the same contents are the same bytes
    refused(lambda: save_arrays(path, {"words": np.array(["dog"])}, {}), "words")
    refused(lambda: save_arrays(path, arrays, {"loss": float("nan")}), "note")
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_arrays(path, {}, {})
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_files_that_hold_no_arrays_with_a_note_say_so(tmp_path):
    from safetensors.numpy import save_file
    refused(lambda: load_arrays(tmp_path / "none"), "none", kind=FileNotFoundError)
    refused(lambda: load_arrays(tmp_path), "no file", kind=FileNotFoundError)
    save_arrays(tmp_path / "a", {"x": np.ones(9)}, {})
    whole = (tmp_path / "a").read_bytes()
    for damaged in (b"", b"junk", whole[:20], whole[:-1]):
        (tmp_path / "a").write_bytes(damaged)
        refused(lambda: load_arrays(tmp_path / "a"), "damaged")
    save_file({"x": np.ones(9)}, tmp_path / "foreign")
    refused(lambda: load_arrays(tmp_path / "foreign"), "no arrays with a note")


def test_a_flipped_bit_anywhere_is_a_sentence(tmp_path):
    path = tmp_path / "a.safetensors"
    save_arrays(path, {"x": np.arange(3.), "n": np.array(7), "none": np.zeros((0, 2))}, {"seed": 3, "words": ["dog"]})
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1:])
        refused(lambda: load_arrays(path, "make it anew"), str(path), "make it anew")


def test_files_without_a_checksum_are_read(tmp_path):
    "As all were at first, and as other writers of safetensors make them."
    from safetensors.numpy import save_file
    save_file({"x": np.ones(9)}, tmp_path / "old", {"rlgen": '{"seed": 3}\n'})
    arrays, note = load_arrays(tmp_path / "old")
    assert arrays["x"].tolist() == [1.] * 9 and note == {"seed": 3}


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n  No such   layer.\nTraceback: ...")) == "No such layer"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt" and first_line("all is well") == "all is well"
    assert len(long := first_line("word " * 50)) <= 120 and long.endswith("word ...")
    assert len(first_line("x" * 500)) <= 120


def test_write_csv_is_read_back_and_fails_without_a_trace(tmp_path):
    path, rows = tmp_path / "table.csv", [{"prompt": 'a "dog", a bus\nand snow', "n": 1}, {"n": 2, "prompt": "Straße"}]
    write_csv(path, rows)
    with open(path, newline="", encoding="utf-8-sig") as file:
        back = list(csv.DictReader(file))
    assert back == [{"prompt": r["prompt"], "n": str(r["n"])} for r in rows]
    for bad in ([], [{"a": 1}, {"b": 1}], [{"a": 1}, {"a": 1, "b": 1}]):
        with pytest.raises(ValueError, match="table.csv"):
            write_csv(path, bad)
        assert path.read_bytes().startswith(codecs.BOM_UTF8 + b"prompt,n") and list(tmp_path.iterdir()) == [path]

def test_write_json_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"encoding": np.arange(3), "found": np.bool_(True)})
    for bad in {"x": float("nan")}, {"x": np.array([np.inf])}, {"x": object()}, {(1, 2): 3}:
        with pytest.raises(ValueError, match="result.json") as error:
            write_json(path, bad)
        one_sentence(error)
    assert json.loads(path.read_text(encoding="utf-8")) == {"encoding": [0, 1, 2], "found": True}


# Random states

@pytest.mark.parametrize(
    "kind", [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]
)
def test_numpy_generators_go_on_where_they_were(kind):
    rng, other = np.random.Generator(kind(1)), np.random.Generator(kind(2))
    rng.integers(0, 9, 3, dtype=np.uint32)  # leaves half of a 64-bit draw waiting
    set_random_state(other, json.loads(json.dumps(random_state(rng))))
    assert random_state(rng) == random_state(other)
    for draw in (
        lambda r: r.integers(0, 9, 5, dtype=np.uint32),
        lambda r: r.normal(size=700),
        lambda r: r.permutation(9),
    ):
        assert np.array_equal(draw(rng), draw(other))


def test_python_generator_goes_on_where_it_was():
    rng, other = random.Random(1), random.Random(2)
    rng.gauss(0, 1)  # leaves the second of a pair waiting
    set_random_state(other, json.loads(json.dumps(random_state(rng))))
    assert [rng.gauss(0, 1) for _ in range(700)] == [other.gauss(0, 1) for _ in range(700)]


def test_random_state_refuses_other_things():
    with pytest.raises(ValueError, match="RandomState") as error:
        random_state(np.random.RandomState(0))
    one_sentence(error)
    state = random_state(np.random.default_rng(0))
    for other in np.random.Generator(np.random.MT19937(0)), random.Random(0):
        with pytest.raises(ValueError, match="kind PCG64") as error:
            set_random_state(other, state)
        one_sentence(error)


# Run folders

CONFIG = {"seed": 0, "agent": "q-learning", "grid": [2, 20, 3, 4], "epsilon": .1}


def test_run_is_opened_again_with_the_same_config(tmp_path):
    folder = tmp_path / "some" / "run"
    first = Run.create(folder, CONFIG)
    again = Run.create(folder, dict(reversed({**CONFIG, "grid": (2, 20, 3, 4)}.items())))
    assert first.config == again.config == Run(folder).config == CONFIG
    assert first.versions["python"] == sys.version.split()[0] and first.versions["numpy"] == np.__version__


@pytest.mark.parametrize(
    "change, named",
    [
        ({"epsilon": .2}, ["epsilon (0.1 there, 0.2 here)"]),
        ({"seed": 1, "agent": "sarsa"}, ["agent", "seed (0 there, 1 here)"]),
        ({"extra": "x" * 500}, ["extra (missing there"]),
        ({"epsilon": None}, ["epsilon"]),
        ({"seed": True}, ["seed"]),
    ],
)
def test_run_refuses_another_config_and_names_what_differs(tmp_path, change, named):
    Run.create(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="another config") as error:
        Run.create(tmp_path, {**CONFIG, **change})
    text = one_sentence(error)
    assert all(name in text for name in named) and "grid" not in text
    assert Run(tmp_path).config == CONFIG


def test_run_refuses_a_config_without_seed_or_without_json_form(tmp_path):
    with pytest.raises(ValueError, match="seed") as error:
        Run.create(tmp_path / "run", {"agent": "random"})
    one_sentence(error)
    with pytest.raises(ValueError, match="device") as error:
        Run.create(tmp_path / "run", {"seed": 0, "device": object()})
    one_sentence(error)
    assert not (tmp_path / "run").exists()


def test_run_refuses_folders_that_are_not_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run") as error:
        Run(tmp_path)
    one_sentence(error)
    (tmp_path / "log.jsonl").write_text("precious notes\n")
    with pytest.raises(ValueError, match="is no run") as error:
        Run.create(tmp_path, CONFIG)
    one_sentence(error)
    with pytest.raises(OSError, match="can be written") as error:
        Run.create(tmp_path / "log.jsonl" / "run", CONFIG)
    one_sentence(error)
    for text in "{", "[]", '{"config": 3}', "\xff":
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="config.json is damaged") as error:
            Run.create(tmp_path, CONFIG)
        one_sentence(error)
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == "precious notes\n"


def test_run_warns_about_other_versions(tmp_path):
    Run.create(tmp_path, CONFIG)
    about = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    about["versions"]["numpy"] = "1.0"
    write_json(tmp_path / "config.json", about)
    with pytest.warns(UserWarning, match='numpy \\("1.0" there'):
        Run.create(tmp_path, CONFIG)


def test_log_is_repaired_wherever_it_was_cut(tmp_path):
    run = Run.create(tmp_path, CONFIG)
    rows = [{"step": 0, "prompt": "a cat\nin \u2028 farm"}, {"step": 1, "encoding": [0, 1]}]
    for row in rows:
        run.log(**row)
    whole = (tmp_path / "log.jsonl").read_bytes()
    ends = [0, whole.index(b"\n") + 1, len(whole)]
    for cut in range(len(whole) + 1):
        (tmp_path / "log.jsonl").write_bytes(whole[:cut])
        left = rows[:sum(end <= cut for end in ends) - 1]
        with Run(tmp_path) as again:
            # looking changes nothing
            assert again.rows() == left and (tmp_path / "log.jsonl").read_bytes() == whole[:cut]
            again.log(step="next")
            assert again.rows() == left + [{"step": "next"}]


def test_log_refuses_what_json_cannot_hold_and_stays_whole(tmp_path):
    with Run.create(tmp_path, CONFIG) as run:
        run.log(step=np.int64(0), reward=np.float32(.5), goal=np.bool_(False), position=np.arange(2))
        for bad in float("nan"), np.float32("inf"), [1., float("nan")], np.array([np.nan]), object():
            with pytest.raises(ValueError, match="a line of the log") as error:
                run.log(step=1, reward=bad)
            one_sentence(error)
        run.log(step=2)
    assert run.rows() == [{"step": 0, "reward": .5, "goal": False, "position": [0, 1]}, {"step": 2}]


def test_damaged_line_in_the_middle_of_a_log_is_named(tmp_path):
    Run.create(tmp_path, CONFIG)
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n{"ste\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON") as error:
        Run(tmp_path).rows()
    one_sentence(error)


numbers = st.sampled_from([
    np.bool_,
    np.int8,
    np.uint8,
    np.int16,
    np.int32,
    np.int64,
    np.uint64,
    np.float16,
    np.float32,
    np.float64,
    np.dtype(">f8"),
    np.dtype(">i4"),
])


@calmly
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        hnp.arrays(numbers, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)),
        max_size=4,
    ),
    some_settings,
)
def test_checkpoint_comes_back_bit_for_bit(tmp_path_factory, arrays, meta):
    run = Run.create(tmp_path_factory.mktemp("run"), CONFIG)
    run.save_checkpoint("last", arrays, meta)
    run.close()
    got, got_meta = Run(run.folder).load_checkpoint("last")
    assert got.keys() == arrays.keys() and same(got_meta, meta)
    for name, array in arrays.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert (
            got[name].dtype == native.dtype
            and got[name].shape == array.shape
            and got[name].tobytes() == native.tobytes()
        )


def test_checkpoint_keeps_arrays_that_do_not_lie_in_order(tmp_path):
    table = np.arange(24.).reshape(2, 3, 4)
    arrays = {
        "transposed": table.T,
        "strided": table[:, ::2],
        "fortran": np.asfortranarray(table[0]),
        "backwards": table[::-1],
    }
    with Run.create(tmp_path, CONFIG) as run:
        run.save_checkpoint("last", arrays, {})
    got, _ = run.load_checkpoint("last")
    for name, array in arrays.items():
        assert np.array_equal(got[name], array)
    got["transposed"][0] = 7  # a copy, which may be written to


def test_checkpoint_refuses_what_it_cannot_hold_and_keeps_the_last_one(tmp_path, monkeypatch):
    run = Run.create(tmp_path, CONFIG)
    run.save_checkpoint("last", {"q": np.ones(3)}, {"step": 1})
    for array in np.array(["text"]), np.array([object()]), np.array([1j]):
        with pytest.raises(ValueError, match="array 'q'") as error:
            run.save_checkpoint("last", {"q": array}, {})
        one_sentence(error)
    with pytest.raises(ValueError, match="the note of") as error:
        run.save_checkpoint("last", {}, {"loss": float("nan")})
    for name in "", "../last", "a/b", "/last":
        with pytest.raises(ValueError, match="A checkpoint is called"):
            run.save_checkpoint(name, {}, {})
    with monkeypatch.context() as patched:
        patched.setattr("safetensors.numpy.save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.save_checkpoint("last", {"q": np.zeros(3)}, {})
    arrays, meta = run.load_checkpoint("last")
    assert meta == {"step": 1} and arrays["q"].sum() == 3
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["last.safetensors"]


def test_missing_and_damaged_checkpoints_say_so(tmp_path):
    run = Run.create(tmp_path, CONFIG)
    with pytest.raises(FileNotFoundError, match="those there: none") as error:
        run.load_checkpoint("last")
    one_sentence(error)
    run.save_checkpoint("best", {"q": np.ones(300)}, {})
    with pytest.raises(FileNotFoundError, match="those there: best"):
        run.load_checkpoint("last")
    path = tmp_path / "checkpoints" / "best.safetensors"
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"junk",
        whole[:100],
        whole[:-1],
        b"\xff" * len(whole),
        whole.replace(b"log_bytes", b"lag_bytes"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="best.safetensors is damaged") as error:
            run.load_checkpoint("best")
        one_sentence(error)


def test_resume_cuts_the_log_back(tmp_path):
    run = Run.create(tmp_path, CONFIG)
    for step in range(10):
        run.log(step=step)
        if step == 5:
            run.save_checkpoint("last", {"q": np.full(2, step)}, {"step": step + 1})
    arrays, meta = run.resume("last")
    assert (
        arrays["q"].tolist() == [5, 5] and meta == {"step": 6} and [row["step"] for row in run.rows()] == list(range(6))
    )
    run.log(step=6)
    with open(tmp_path / "log.jsonl", "ab") as file:
        file.write(b'{"st')
    again = Run(tmp_path)
    assert again.resume("last")[1] == {"step": 6} and len(again.rows()) == 6
    assert again.resume("no such one") is None and again.rows() == []


@pytest.mark.parametrize("log", [b"", b'{"step": 0}\n', b'{"step": 0, "x": 12345678901234567890}\n'])
def test_resume_refuses_a_log_that_does_not_fit(tmp_path, log):
    with Run.create(tmp_path, CONFIG) as run:
        for step in range(3):
            run.log(step=step)
        run.save_checkpoint("last", {}, {})
    (tmp_path / "log.jsonl").write_bytes(log)
    with pytest.raises(ValueError, match="does not fit the checkpoint") as error:
        Run(tmp_path).resume("last")
    one_sentence(error)


WALK = """
folder, pause = Path(sys.argv[1]), float(sys.argv[2])
run, rng, table, first = Run.create(folder, {"seed": 3}), np.random.default_rng(3), np.zeros(7), 0
if found := run.resume("last"):
    table, first = found[0]["table"], found[1]["step"]
    set_random_state(rng, found[1]["rng"])
for step in range(first, 200):
    table[rng.integers(7)] += rng.normal()
    run.log(step=step, table=table)
    if step % 9 == 8: run.save_checkpoint("last", {"table": table}, {"step": step + 1, "rng": random_state(rng)})
    time.sleep(pause)
run.save_checkpoint("last", {"table": table}, {"step": 200, "rng": random_state(rng)})
"""


def test_killed_run_ends_like_an_unbroken_one(tmp_path):
    finish(start(WALK, tmp_path / "unbroken", 0))
    log = tmp_path / "killed" / "log.jsonl"
    for lines in 0, 40, 90, 130:  # killed soon after so many steps
        process = start(WALK, tmp_path / "killed", .005)
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= lines):
            time.sleep(.002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    finish(start(WALK, tmp_path / "killed", 0))
    for name in "log.jsonl", "checkpoints/last.safetensors", "config.json":
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_figures_are_written(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    run = Run.create(tmp_path, CONFIG)
    for name, drawing in ("curve", figure), ("strip", picture(0)):
        assert run.save_figure(name, drawing) == tmp_path / "figures" / f"{name}.png"
        Image.open(tmp_path / "figures" / f"{name}.png").verify()
    assert Image.open(tmp_path / "figures" / "strip.png").convert("RGB") == picture(0)


@pytest.mark.parametrize("name", ["../x", "../../x", "{tmp}/x", "", ".", "..", "a/b", "C:", "C:\\x", "a\0b", "x" * 300])
def test_a_name_writes_nothing_outside_of_the_run_folder(tmp_path, name):
    run, name = Run.create(tmp_path / "deep" / "run", CONFIG), name.replace("{tmp}", str(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    for call in (
        lambda: run.save_figure(name, picture(0)), lambda: run.save_checkpoint(name, {"x": np.zeros(2)}, {}),
        lambda: run.load_checkpoint(name), lambda: run.resume(name), lambda: run.has_checkpoint(name),
        lambda: run.reading_checkpoint(name),
    ):
        refused(call, "is called", "cannot be the name of a file")
    assert sorted(tmp_path.rglob("*")) == before


# What the module may not do

def test_nothing_is_pickled_or_evaluated():
    tree = ast.parse(inspect.getsource(rlgen.store))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "torch", "dbm"}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}


def test_import_brings_no_heavy_library():
    code = (
        "import sys, rlgen.store; print(*{'torch', 'diffusers', 'transformers', 'matplotlib', "
        "'scipy'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], env=ENV, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == ""
