"""Pairs of prompts: whole phrases, clean punctuation, counts on the real extract, streaming, bad input,
scenes with true targets.
"""
import csv
import math
import re
import subprocess
import sys
import warnings
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings, strategies as st
from PIL import Image
from refusals import refused

from rlgen.data import prompts
from rlgen.data.prompts import (
    CATEGORIES,
    GAP,
    MODIFIER_FILES,
    Pair,
    Phrases,
    close_gaps,
    draw_targets,
    letter_tree,
    make_pair,
    open_prompts,
    read_modifiers,
    read_rows,
    scene_pairs,
    split,
)
from rlgen.grammar import Grammar
from rlgen.scenes import MODIFIERS, read_prompt, render

ROOT = Path(__file__).resolve().parents[1]
OPEN_PROMPTS = ROOT.parent / "shared" / "data" / "open-prompts"
real = pytest.mark.skipif(not (OPEN_PROMPTS / "1k.csv").is_file(), reason="open-prompts is not beside the repository")
FUTURE = CATEGORIES["futuristic"]
GOOD = "a dog, 4k, artstation, octane render"
quick = settings(max_examples=300, deadline=None)


def write(path, rows, header=("prompt", "raw_data")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


# Pairs

def test_a_pair_is_frozen_hashable_and_has_words():
    pair = Pair("a dog", "a dog, 4k", ("4k",), (Image.new("RGB", (4, 4)),))
    assert len({pair, replace(pair)}) == 1
    with pytest.raises(FrozenInstanceError):
        pair.seed = "a cat"
    for seed, prompt, name in (
        (" ", "a dog", "seed"),
        ("a dog", "", "prompt"),
        ("a dog", ", ,", "prompt"),
        (None, "a dog", "seed"),
    ):
        with pytest.raises(ValueError, match=f"The {name} of a pair is .* at least one word"):
            Pair(seed, prompt, ())


def test_categories_are_table_1():
    assert CATEGORIES == {
        "futuristic": ("highly detailed", "octane render", "artstation", "4k"),
        "art": ("astral", "bismuth", "dendritic", "earth art"),
        "painting": ("john harris", "macabre", "rembrandt", "dramatic lighting"),
    }
    assert sorted(sum(CATEGORIES.values(), ())) == sorted(MODIFIERS) and MODIFIER_FILES.keys() == CATEGORIES.keys()


# Whole phrases

@pytest.mark.parametrize(
    "text, found",
    [
        ("art", ("art",)),
        ("ART", ("art",)),
        ("artstation", ()),
        ("smart", ()),
        ("art_deco", ()),
        ("art-like", ()),
        ("pop-art", ()),
        ("art's", ()),
        ("art’s", ()),
        ("#art", ()),
        ("@art", ()),
        ("art.com", ()),
        ("art,art deco", ("art", "art deco")),
        ("(art)", ("art",)),
        ("art.", ("art",)),
        ("art. deco", ("art",)),
        ("art - deco", ("art deco",)),
        ("Art  Deco art", ("art deco", "art")),
        ("art\ndeco", ("art deco",)),
        ("24k", ()),
        ("4k!!!", ("4k",)),
        ("h.r. giger, c++", ("h.r. giger", "c++")),
        ("hXrX giger", ()),
        ("post-apocalyptic", ("post-apocalyptic",)),
        ("post apocalyptic", ("post-apocalyptic",)),
        ("naïve art", ("naïve art",)),
        ("äart", ()),
        ("a" + "\0" + "art", ("art",)),
    ],
)
def test_whole_phrases(text, found):
    phrases = Phrases(["art", "art deco", "4k", "h.r. giger", "c++", "post-apocalyptic", "naïve art"])
    assert phrases.found(text) == found
    assert (GAP in phrases.cut(text.replace(GAP, " "))) == bool(found)


words = st.text("abé1", min_size=1, max_size=3)


@given(
    st.lists(st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8), st.lists(words, max_size=8)
)
@quick
def test_found_is_what_a_plain_search_finds(phrases, tokens):
    "Against the slow way: at each word the longest phrase that begins there, left to right."
    keys, found, i = [p.split() for p in phrases], [], 0
    while i < len(tokens):
        here = [key for key in keys if tokens[i:i + len(key)] == key]
        if not here:
            i += 1
            continue
        best = max(here, key=len)
        found.append(" ".join(best))
        i += len(best)
    assert Phrases(phrases).found(" ".join(tokens)) == tuple(dict.fromkeys(found))


def test_the_tree_prefers_the_longest():
    assert (
        re.fullmatch(letter_tree(["a", "a b", "a b c"]), "a b c")
        and re.match(letter_tree(["a", "a b"]), "a b c")[0] == "a b"
    )


def test_bad_lists_of_phrases():
    with pytest.raises(ValueError, match="list of phrases is empty"):
        Phrases([" ", ""])
    with pytest.raises(TypeError, match="one text, 'artstation': give a list"):
        Phrases("artstation")
    with pytest.raises(ValueError, match="has 5000 characters and is no phrase: give one modifier a line"):
        Phrases(["x" * 5000])


# Clean punctuation

@pytest.mark.parametrize(
    "text, clean",
    [
        ("a dog, _, b", "a dog, b"),
        ("_, a dog", "a dog"),
        ("a dog, _", "a dog"),
        ("a _ dog", "a dog"),
        ("a dog , _ , b", "a dog, b"),
        ("a dog. _, _. b", "a dog. b"),
        ("a dog, _.", "a dog."),
        ("a dog (_), b", "a dog, b"),
        ("a dog ((_, _)) b", "a dog b"),
        ("(_, b)", "(b)"),
        ("(b, _)", "(b)"),
        ("a [_] {_}, b", "a, b"),
        ('a "_", b', "a, b"),
        ('"a" _ "b"', '"a" "b"'),
        ('"_, a"', '"a"'),
        ('"a, _"', '"a"'),
        ("a - _ - b", "a - b"),
        ("a | _ | b", "a | b"),
        ("a/_", "a"),
        ("_/_, a", "a"),
        ("a: _, b", "a, b"),
        ("a; _, b", "a; b"),
        ("a,, b, , c,", "a, b, c"),
        ("a, () b", "a, b"),
        ("_", ""),
        (" ,_. ", ""),
        ("a... _, b", "a... b"),
        ("a! _", "a!"),
        ("f/1.7 _ -n 9", "f/1.7 -n 9"),
        ("by _ and _, c", "by and, c"),
        ("untouched  text - (here) ...", "untouched  text - (here) ..."),
    ],
)
def test_gaps_are_closed(text, clean):
    assert close_gaps(text.replace("_", GAP)) == clean


def check_clean(text):
    assert text == text.strip() and not text.endswith(",") and not text.startswith(",")
    assert not re.search(r",\s*,|[(\[{][\s,]*[)\]}]", text) and GAP not in text and close_gaps(text) == text


@given(st.text("ab ,.;:|/&+-()[]{}\"'“”!?\0\n1", max_size=40))
@example("(\0:\0)").via("a colon alone in brackets")
@settings(max_examples=3000, deadline=None)
def test_any_text_comes_out_clean_with_its_words(text):
    clean = close_gaps(text)
    check_clean(clean)
    assert re.findall(r"\w+", clean) == re.findall(r"\w+", text)


piece = st.sampled_from([
    "a dog", "of", "sharp focus", "Highly Detailed", "4k", "octane-render", "artstation", "artstationHQ", "24k",
    "f/1.7", "mucha",
])
mark = st.sampled_from([", ", " ", ",", ". ", " - ", " (", ") ", "; ", " and ", ",,", " | ", ' "', '" ', ", ("])


@given(st.lists(st.tuples(piece, mark), min_size=1, max_size=10))
@quick
def test_removing_phrases_leaves_the_other_words_in_order(parts):
    "The words are known from how the prompt was made, not from the code that is tested."
    prompt = "".join(text + after for text, after in parts)
    names = {
        "Highly Detailed": "highly detailed",
        "4k": "4k",
        "octane-render": "octane render",
        "artstation": "artstation",
    }
    kept = re.findall(r"\w+", "".join((" " if text in names else text) + after for text, after in parts))
    removed = tuple(dict.fromkeys(names[text] for text, _ in parts if text in names))
    pair = make_pair(prompt, Phrases(FUTURE), min_modifiers=0)
    if not kept:
        assert pair is None
        return
    check_clean(pair.seed)
    assert re.findall(r"\w+", pair.seed) == kept and pair.removed == removed and pair.prompt == prompt.strip()
    assert Phrases(FUTURE).found(pair.seed) == ()


def test_a_long_hostile_prompt_takes_no_time():
    for text in ("," * 100_000, "(" * 3000 + GAP + ")" * 3000, (GAP + ", ") * 30_000, " - " * 30_000 + GAP):
        check_clean(close_gaps("a" + text))


# Lists of modifiers

def test_lists_are_read_once_each(tmp_path):
    (tmp_path / "styles").mkdir()
    (tmp_path / "styles" / "futuristic.txt").write_text(
        "\ufeffHighly  Detailed\r\n\r\n4k \r\n—4K,\r\n", encoding="utf-8"
    )
    (tmp_path / "a.txt").write_text("child’s drawing\n4k", encoding="utf-8")
    assert read_modifiers(tmp_path, "futuristic") == ("highly detailed", "4k") == read_modifiers(tmp_path / "styles")
    assert read_modifiers(tmp_path) == ("child’s drawing", "4k", "highly detailed")
    assert read_modifiers([tmp_path / "styles", tmp_path / "a.txt"]) == ("highly detailed", "4k", "child’s drawing")


def test_bad_lists(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="empty.txt holds no modifier"):
        read_modifiers(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="holds no modifier"):
        read_modifiers([])
    with pytest.raises(FileNotFoundError, match="There is no .*painting.txt: name a text file"):
        read_modifiers(tmp_path, "painting")
    with pytest.raises(ValueError, match="no category 'sculpture': choose one of futuristic, art, painting"):
        read_modifiers(tmp_path, "sculpture")


# The real extract

COUNTS = {"futuristic": 263, "art": 73, "painting": 9}


@real
@pytest.mark.parametrize("category", CATEGORIES)
def test_counts_on_the_extract(category):
    modifiers = read_modifiers(OPEN_PROMPTS / "modifiers", category)
    assert set(CATEGORIES[category]) <= set(modifiers)
    with warnings.catch_warnings(action="error"):
        pairs = open_prompts(OPEN_PROMPTS / "1k.csv", modifiers, max_pairs=math.inf)
    assert len(pairs) == COUNTS[category]
    # The same rule said plainly: one expression for each phrase, longer phrases first; they must agree on who is in.
    with open(OPEN_PROMPTS / "1k.csv", newline="", encoding="utf-8") as file:
        prompts = {row["prompt"] for row in csv.DictReader(file)}
    plain = set()
    for prompt in prompts:
        rest, found = prompt.lower(), set()
        for phrase in sorted(modifiers, key=len, reverse=True):
            words = r"[\s-]+".join(map(re.escape, re.split(r"[\s-]+", phrase)))
            rest, n = re.subn(rf"(?<![\w@#-]){words}(?![\w-]|['’.]\w)", "\0", rest)
            found |= {phrase} if n else set()
        if len(found) >= 3:
            plain.add(prompt.strip())
    assert {pair.prompt for pair in pairs} <= plain
    # overlapping phrases may be counted otherwise
    assert len({" ".join(prompt.lower().split()) for prompt in plain}) - len(pairs) <= 2
    for pair in pairs:
        check_clean(pair.seed)
        assert len(pair.removed) >= 3 and set(pair.removed) <= set(modifiers) and pair.targets == ()
        left = iter(re.findall(r"\w+", pair.prompt))
        assert all(word in left for word in re.findall(r"\w+", pair.seed)), (
            "the seed's words stand in the prompt, in order"
        )
    assert pairs == open_prompts(OPEN_PROMPTS / "1k.csv", modifiers, max_pairs=math.inf)
    assert pairs[:5] == open_prompts(OPEN_PROMPTS / "1k.csv", modifiers, max_pairs=5)
    if len(pairs) > 9:
        train, test = split(pairs)
        assert len(train) == pytest.approx(.8 * len(pairs), abs=5)


# Streaming

def test_it_stops_when_it_has_enough(tmp_path, monkeypatch):
    "A file that goes on for ever would never be read to its end."
    def endless(path, columns, errors):
        for i in range(10 ** 12):
            asked.append(i)
            yield i + 1, f"dog {i}, 4k, artstation, octane render" if i % 2 else "a cat", "{}"
    asked = []
    monkeypatch.setattr(prompts, "read_rows", endless)
    assert (
        [p.seed for p in open_prompts("endless.csv", FUTURE, max_pairs=3)] == ["dog 1", "dog 3", "dog 5"]
        and len(asked) == 6
    )


def test_a_large_file_is_never_held_whole(tmp_path):
    path = tmp_path / "big.csv"
    with open(path, "w") as file:
        file.write("prompt,raw_data\n")
        row = f'a cat,"{{""x"": ""{"y" * 2000}""}}"\n'
        for _ in range(300):
            file.write(row * 100)
        file.write(f'"{GOOD}",{{}}\n')
    assert path.stat().st_size > 60e6
    code = (
        "import resource, sys; from rlgen.data.prompts import open_prompts; peak = lambda: "
        f"resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak(); print(open_prompts({str(path)!r}, "
        f"{FUTURE!r})[0].seed, (peak() - before) * (1 if sys.platform == 'darwin' else 1024) < 20e6)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[0] == "a dog True"


def test_duplicates_count_once_and_the_order_is_the_files(tmp_path):
    path = write(
        tmp_path / "p.csv",
        [
            ("cat 4k artstation octane render", "{}"),
            (GOOD, "{}"),
            (f" {GOOD.upper()}", "{}"),
            ("4k, artstation, octane render", "{}"),
            (GOOD.replace("4k", "highly detailed"), "{}"),
        ],
    )
    assert (
        [(p.seed, p.removed[0]) for p in open_prompts(path, FUTURE)]
        == [("cat", "4k"), ("a dog", "4k"), ("a dog", "highly detailed")]
    )


# Bad files

def test_a_file_without_the_columns(tmp_path):
    for header, words in (
        (("prompt", "data"), "has no column raw_data; its first line is 'prompt,data'"),
        (("a",), "no column prompt and no column raw_data"),
    ):
        with pytest.raises(ValueError, match=words):
            open_prompts(write(tmp_path / "p.csv", [(GOOD, "{}")], header), FUTURE)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="no column prompt"):
        open_prompts(tmp_path / "empty.csv", FUTURE)
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(
            FileNotFoundError, match="There is no file .*: name a CSV file with the columns prompt, raw_data"
        ):
            open_prompts(path, FUTURE)


def test_other_columns_and_orders_do(tmp_path):
    path = write(tmp_path / "p.csv", [("1", "{}", GOOD)], ("id", "raw_data", "prompt"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_prompts(path, FUTURE)[0].seed == "a dog"


BEAR = "ein Bär, 4k, artstation, octane render"  # as Excel may save it

@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_of_any_spreadsheet_are_read(tmp_path, encoding, mark):
    path = tmp_path / "p.csv"
    rows = [("prompt", "raw_data"), (f'"{BEAR}"', "{}"), (f'"{GOOD}"', "{}")]
    path.write_bytes("".join(f"{mark.join(row)}\r\n" for row in rows).encode(encoding))
    with warnings.catch_warnings(record=True, action="always") as said:
        assert [pair.seed for pair in open_prompts(path, FUTURE)] == ["ein Bär", "a dog"]
    assert ["Windows-1252" in str(w.message) for w in said] == [True] * (encoding == "cp1252")


def test_a_table_that_is_cut_off_in_the_middle_of_a_letter(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(f'prompt,raw_data\n"{GOOD}",{{}}\n"a cat'.encode("utf-16")[:-1])
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert [pair.seed for pair in open_prompts(path, FUTURE)] == ["a dog"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_modifiers_of_any_editor_are_read(tmp_path, encoding, monkeypatch):
    (tmp_path / "a.txt").write_bytes("Düster\r\n4K\r\n".encode(encoding))
    for hidden in ("._a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "__MACOSX/._a.txt"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"\0\5\x16\7 resource fork")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with warnings.catch_warnings(record=True, action="always") as said:
        assert read_modifiers("~") == read_modifiers("~/a.txt") == ("düster", "4k")
    assert bool(said) == (encoding == "cp1252")


def test_an_image_is_no_list_of_modifiers(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with warnings.catch_warnings(action="ignore"):
        refused(lambda: read_modifiers(tmp_path), "a.txt", "one modifier a line")


def test_broken_rows_are_counted_and_the_rest_is_used(tmp_path):
    path = write(
        tmp_path / "p.csv",
        [
            ("a", '{"seed": 1'),
            (GOOD, "no JSON"),
            ("short",),
            ("x", "{}", "long"),
            ("huge", "y" * 200_000),
            (GOOD, "{}"),
        ],
    )
    path.write_bytes(path.read_bytes() + b'"\xff cat, 4k, artstation, octane render",{}\r\n')
    with pytest.warns(UserWarning) as said:
        pairs = open_prompts(path, FUTURE)
    assert [p.seed for p in pairs] == ["a dog", "ÿ cat"]
    assert [str(w.message) for w in said] == [
        f"{path} is not in UTF-8, so it is read as Windows-1252: if letters are wrong, save it again in UTF-8.",
        "5 of 7 rows of p.csv were left out; the first is row 1, which is not JSON in raw_data.",
    ]
    bad = []
    with pytest.warns(UserWarning, match="Windows-1252"):
        assert [n for n, *_ in read_rows(path, ("prompt",), bad)] == [1, 2, 6, 7]
    assert (
        [n for n, _ in bad] == [3, 4, 5]
        and "has 1 columns" in bad[0][1]
        and "has 3 columns" in bad[1][1]
        and "field larger" in bad[2][1]
    )


def test_a_file_of_broken_rows_alone(tmp_path):
    for rows in ([], [("a", "{"), ("b",)]):
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(ValueError, match="p.csv has no row that can be used"),
        ):
            open_prompts(write(tmp_path / "p.csv", rows), FUTURE)


def test_nothing_matches_and_not_enough_matches(tmp_path):
    path = write(tmp_path / "p.csv", [("a dog, 4k, artstation", "{}"), ("a cat", "{}")])
    with pytest.raises(
        ValueError, match=r"None of the 4 modifiers \(astral, bismuth, dendritic, ...\) occurs in the 2 rows of p.csv"
    ):
        open_prompts(path, CATEGORIES["art"])
    with pytest.raises(
        ValueError, match="makes a pair: it must hold 3 of the 4 modifiers, where the most in one prompt is 2"
    ):
        open_prompts(path, FUTURE)
    assert open_prompts(path, FUTURE, min_modifiers=2)[0].seed == "a dog"
    for kwargs in ({"max_pairs": 0}, {"min_modifiers": 0}):
        with pytest.raises(ValueError, match="both must be 1 or more"):
            open_prompts(path, FUTURE, **kwargs)


# Split

@given(st.lists(st.integers(0, 30), min_size=8, max_size=60), st.integers(0, 5), st.sampled_from([.5, .8]))
@quick
def test_a_split_is_disjoint_complete_and_reproducible(numbers, seed, share):
    assume(len(set(numbers)) > 4 and max(map(numbers.count, numbers)) <= .2 * len(numbers))
    pairs = [Pair(f"dog {n}", f"dog {n}, {i}", ()) for i, n in enumerate(numbers)]
    try:
        train, test = split(pairs, seed, share)
    except ValueError:
        assert len(set(numbers)) < 10
        return
    assert (train, test) == split(iter(pairs), seed, share)
    assert not {p.seed for p in train} & {p.seed for p in test}
    assert sorted(train + test, key=pairs.index) == pairs and train == sorted(train, key=pairs.index)
    assert 0 <= len(train) - round(share * len(pairs)) < max(map(numbers.count, numbers))


def test_a_split_is_80_to_20_and_its_seed_matters():
    pairs = scene_pairs("art", 20)
    splits = [split(pairs, seed) for seed in range(5)]
    assert all((len(train), len(test)) == (16, 4) for train, test in splits)
    assert len({tuple(test) for _, test in splits}) > 1


@pytest.mark.parametrize(
    "seeds, share",
    [([], .8), ("a", .8), ("ab", .8), ("aaaaaa", .8), ("abcdef", 0), ("abcdef", 1), ("abcdef", math.nextafter(1, 0))],
)
def test_no_side_of_a_split_is_empty(seeds, share):
    with pytest.raises(ValueError, match="one side would be empty. Give more pairs, or another share"):
        split([Pair(s, s, ()) for s in seeds], share=share)


# Scenes

@pytest.mark.parametrize("category", CATEGORIES)
def test_scene_pairs_are_what_they_say(category):
    grammar, pairs = Grammar.scenes(), scene_pairs(category, 100, targets=2)
    assert len({p.seed for p in pairs}) == 100 == len({p.prompt for p in pairs})
    for pair in pairs:
        encoding = grammar.encode(pair.seed)  # refuses what is no base prompt
        labels = read_prompt(pair.prompt)
        assert labels == {**grammar.labels(encoding), "modifiers": pair.removed}
        assert pair.prompt == ", ".join([pair.seed, *pair.removed])
        assert len({*pair.removed}) == len(pair.removed) in (3, 4) and {*pair.removed} <= {*CATEGORIES[category]}
        assert len(pair.targets) == 2 and all(t.size == (64, 64) and t.mode == "RGB" for t in pair.targets)
        assert make_pair(pair.prompt, Phrases(CATEGORIES[category])) == replace(pair, targets=())
    assert {len(p.removed) for p in pairs} == {3, 4} and len({p.removed for p in pairs}) > 20


def test_targets_are_renders_of_the_whole_prompt_with_unseen_seeds(monkeypatch):
    drawn = []
    def spy(prompt, seed):
        drawn.append((prompt, seed))
        return render(prompt, seed)
    monkeypatch.setattr(prompts, "render", spy)
    pairs = scene_pairs("painting", 5, seed=3, targets=3)
    assert [prompt for prompt, _ in drawn] == [p.prompt for p in pairs for _ in range(3)]
    seeds = [seed for _, seed in drawn]
    assert len({*seeds}) == 15 and 0 <= min(seeds) and max(seeds) < 1_000_000
    pictures = [t for p in pairs for t in p.targets]
    assert all(picture.tobytes() == render(*args)[0].tobytes() for picture, args in zip(pictures, drawn, strict=True))


def test_scene_pairs_come_again():
    pairs = scene_pairs("art", 6, seed=1)
    assert pairs == scene_pairs("art", 6, seed=1) != scene_pairs("art", 6, seed=2)
    assert [p.seed for p in pairs] != [p.seed for p in scene_pairs("painting", 6, seed=1)]
    assert len({p.seed for p in scene_pairs("futuristic", 480, min_modifiers=1, max_modifiers=1)}) == 480


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"category": "sculpture"}, "no category 'sculpture'"),
        ({"n": 0}, "n is 0: there can be 1 to 480 pairs"),
        ({"n": 481}, "n is 481"),
        ({"targets": 0}, "at least one target"),
        ({"min_modifiers": 0}, "has 4 modifiers"),
        ({"max_modifiers": 5}, "has 4 modifiers"),
        ({"min_modifiers": 4, "max_modifiers": 3}, "give 1 <= min_modifiers <= max_modifiers <= 4"),
    ],
)
def test_scene_pairs_outside_the_ranges(kwargs, words):
    with pytest.raises(ValueError, match=words):
        scene_pairs(**{"category": "art", "n": 2} | kwargs)


# Targets by a generator

class Painter:
    "Draws an image of one colour for each prompt and seed, and remembers what it was asked."
    def generate(self, prompts, seeds):
        self.asked = list(zip(prompts, seeds, strict=True))
        return [Image.new("RGB", (2, 2), (len(prompt), seed, 0)) for prompt, seed in self.asked]


def test_targets_are_drawn_from_the_ground_truth():
    painter, pairs = Painter(), [Pair("a", "a, 4k", ("4k",)), Pair("b", "b, macabre", ("macabre",))]
    drawn = draw_targets(pairs, painter, np.array([3, 5]))
    assert painter.asked == [("a, 4k", 3), ("a, 4k", 5), ("b, macabre", 3), ("b, macabre", 5)]
    assert (
        [[t.getpixel((0, 0)) for t in pair.targets] for pair in drawn]
        == [[(5, 3, 0), (5, 5, 0)], [(10, 3, 0), (10, 5, 0)]]
    )
    assert [replace(pair, targets=()) for pair in drawn] == pairs and pairs[0].targets == ()
    for bad in (([], [1]), (pairs, [])):
        with pytest.raises(ValueError, match="a target needs at least one of both"):
            draw_targets(bad[0], painter, bad[1])


def test_importing_is_light():
    code = (
        "import sys, rlgen.data.prompts; print([name for name in ('torch', 'diffusers', "
        "'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"
