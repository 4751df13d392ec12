"""Prompts instead of pictures: bytes are counted as they are written, codecs keep to their budget,
files come back or are refused.
"""
import json
import math
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from rlgen.experiments.compression import (
    CODECS,
    QUALITIES,
    SIDES,
    Codebook,
    best_seeds,
    break_even,
    bytes_to_match,
    closest_prompt,
    codec_curve,
    compress,
    decompress,
    encoded_versions,
    fit,
    folder_sizes,
    generate_all,
    pack,
    packed_size,
    pairwise_similarity,
    read_off,
    reconstruction_quality,
    scan_bytes,
    squared_error,
    unpack,
    write,
)
from rlgen.grammar import Grammar
from rlgen.models.generator import Cached, Generator
from rlgen.models.perception import Perception
from rlgen.scenes import NOUNS, render
from rlgen.store import Store

TEXTS = [
    "a photo of one dog and no people in farm",
    "a photo of many boat and one people in beach",
    "a photo of one cactus and many people in street",
]


@pytest.fixture(scope="module")
def pictures():
    return [render(text, 640_000 + i)[0] for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def perception():
    return Perception.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def generator():
    return Cached(Generator.load("tiny", inference_steps=4, device="cpu"), Store(":memory:"))


class Painter:
    "Draws each prompt as one colour that the seed decides, so that the best seed is known."
    settings, negative, batch_size = {"model": "paint", "steps": 1}, "", 8

    def generate(self, prompts, seeds, negative=None):
        return [Image.new("RGB", (8, 8), (40 * s, 40 * s, 40 * s)) for s in seeds]


# numbers

@settings(deadline=None)
@given(st.data(), st.integers(2, 10**7))
def test_numbers_come_back(data, base):
    numbers = data.draw(st.lists(st.integers(0, base - 1), max_size=40))
    packed = pack(numbers, base)
    assert unpack(packed, len(numbers), base) == numbers
    assert len(packed) == packed_size(len(numbers), base) == pytest.approx(len(numbers) * math.log2(base) / 8, abs=1)


def test_sizes_by_hand():
    assert [packed_size(1, n) for n in (2, 256, 257, 480, 65_536, 65_537)] == [1, 1, 2, 2, 2, 3]
    assert packed_size(60, 480) == math.ceil(60 * math.log2(480) / 8) == 67 and packed_size(0, 480) == 0
    assert (
        packed_size(np.int64(60), np.int64(480)) == 67
        and unpack(pack(np.arange(400, 460), np.int64(480)), 60, np.int64(480)) == list(range(400, 460))
    )


def test_numbers_that_do_not_fit():
    with pytest.raises(ValueError, match="480 cannot be a digit"):
        pack([480], 480)
    with pytest.raises(ValueError, match="-1 cannot be a digit"):
        pack([-1], 480)
    with pytest.raises(ValueError, match="3 bytes are not 1 numbers"):
        unpack(b"abc", 1, 480)
    with pytest.raises(ValueError, match="more than 1 numbers"):
        unpack(b"\xff\xff", 1, 480)
    with pytest.raises(ValueError, match="base 2 or more"):
        packed_size(1, 1)


def test_a_codebook_counts_its_grammars_one_after_the_other():
    book = Codebook([Grammar.scenes(), Grammar.scenes(style=True)])
    assert book.n_states == 480 + 2400 and "2,880" in repr(book)
    rng = np.random.default_rng(0)
    for number in [0, 479, 480, 2879, *rng.integers(0, 2880, 50).tolist()]:
        assert book.number(book.prompt(number)) == number
    assert len({book.prompt(i) for i in range(book.n_states)}) == book.n_states
    with pytest.raises(ValueError, match="has no number.*outside the grammar"):
        book.number("a photo of one dragon and no people in farm")
    for number in (-1, 2880):
        with pytest.raises(ValueError, match="codebook has 0 to 2,879"):
            book.prompt(number)
    with pytest.raises(ValueError, match="at least one grammar"):
        Codebook([])


# codecs

@pytest.mark.parametrize("codec", CODECS)
def test_what_counts_is_what_is_written(codec, pictures):
    for side, quality in ((64, 60), (16, 3), (1, 1)):
        data, size = write(pictures[0], codec, side, quality)
        assert max(Image.open(BytesIO(data)).size) == side
        assert size == len(data) if codec != "JPEG, bare" else 1 < size < len(data)
    assert pictures[0].size == (64, 64)


def test_the_bare_reading_counts_the_scan_alone(pictures):
    data, size = write(pictures[0], "JPEG, bare", 64, 60)
    start = data.index(b"\xff\xda")  # the scan header: length 12 for three colours
    assert size - 1 == scan_bytes(data) == len(data) - 2 - (start + 2 + 12) and data.endswith(b"\xff\xd9")
    shallow, deep = (write(pictures[0], "JPEG, bare", 64, q) for q in (5, 90))
    assert len(deep[0]) - deep[1] == len(shallow[0]) - shallow[1]  # tables and headers are always as long


def test_a_shape_that_is_not_square():
    assert Image.open(BytesIO(write(Image.new("RGB", (80, 20)), "JPEG", 8, 5)[0])).size == (8, 2)
    assert Image.open(BytesIO(write(Image.new("RGB", (80, 20)), "WebP", 1, 5)[0])).size == (1, 1)
    assert {v.image.size for v in encoded_versions(Image.new("RGB", (40, 20)), "JPEG")} == {(40, 20)}
    with pytest.raises(ValueError, match="no codec 'GIF'; choose one of JPEG"):
        write(Image.new("RGB", (4, 4)), "GIF", 4, 5)


@pytest.mark.parametrize("codec", CODECS)
def test_the_search_takes_the_largest_that_is_not_above_the_budget(codec, pictures):
    found = encoded_versions(pictures[1], codec)
    assert len(found) == len(SIDES) * len(QUALITIES) and [v.size for v in found] == sorted(v.size for v in found)
    for budget in (2, 10, 40, 150, 290, 350, 600, 5000):
        v = fit(found, budget)
        allowed = [w for w in found if w.size <= budget]
        if not allowed:
            assert v is found[0] and v.size > budget
        else:
            assert v.size <= budget
            assert v.size == max(w.size for w in allowed if w.side == v.side)
            assert v.error <= min(
                max((w for w in allowed if w.side == side), key=lambda w: (w.size, w.error)).error
                for side in {w.side for w in allowed}
            )
        assert v.error == pytest.approx(squared_error(pictures[1], v.image))
        assert write(pictures[1], codec, v.side, v.quality) == (v.data, v.size)


def test_more_bytes_are_nearer_and_headers_set_a_floor(pictures):
    for codec in CODECS:
        found = encoded_versions(pictures[2], codec)
        errors = [fit(found, b).error for b in (2, 400, 1500)]
        assert errors[0] > errors[1] > errors[2]
    assert (
        min(v.size for v in encoded_versions(pictures[2], "JPEG"))
        > 250
        > 20
        > min(v.size for v in encoded_versions(pictures[2], "JPEG, bare"))
    )


def test_curves_say_which_budgets_are_kept(pictures, perception):
    rows = codec_curve(pictures, TEXTS, "JPEG", (100, 900), perception, {})
    assert not rows[0]["fits"].any() and rows[1]["fits"].all() and (rows[0]["bytes"] > 100).all()
    assert rows[1]["PSNR"].mean() > rows[0]["PSNR"].mean() + 3 and rows[1]["CLIP"].mean() > rows[0]["CLIP"].mean() + .2
    assert bytes_to_match(rows, "PSNR", rows[1]["PSNR"].mean()) == rows[1]["bytes"].mean()
    assert bytes_to_match(rows, "PSNR", rows[0]["PSNR"].mean()) == rows[0]["bytes"].mean()
    assert bytes_to_match(rows, "PSNR", 97) == math.inf


# what is measured

def test_measures_of_the_same_and_of_others(pictures, perception):
    from importlib.resources import files

    from rlgen.models.evaluators import load_evaluators
    judges = load_evaluators(files("rlgen") / "weights" / "judges")
    same = reconstruction_quality(pictures, pictures, TEXTS, perception, judges)
    other = reconstruction_quality(pictures, pictures[1:] + pictures[:1], TEXTS, perception, judges)
    assert same.keys() == {"CLIP", "pixels", "PSNR", "colour evaluator", "grey evaluator"}
    assert np.allclose(same["CLIP"], 1, atol=1e-5) and np.allclose(same["pixels"], 1) and (same["PSNR"] > 90).all()
    assert same["colour evaluator"].mean() > .9 > .6 > other["colour evaluator"].mean()
    assert (other["CLIP"] < .9).all() and (other["PSNR"] < 20).all()


def test_psnr_by_hand(perception):
    black, grey = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), (51, 51, 51))
    assert squared_error(black, grey) == 51 ** 2
    assert (
        reconstruction_quality([black], [grey], TEXTS[:1], perception, {})["PSNR"][0]
        == pytest.approx(20 * math.log10(5))
    )


def test_a_perfect_reader_and_the_best_seed(pictures, perception):
    assert read_off(pictures, perception, Codebook([Grammar.scenes()])) == TEXTS
    drawings = generate_all(["a"] * 2, Painter(), range(5))
    assert len(drawings) == 5 and len(drawings[0]) == 2
    goals = [Image.new("RGB", (8, 8), (c, c, c)) for c in (81, 200)]
    assert best_seeds(goals, drawings, None).tolist() == [2, 4]
    chosen = best_seeds(pictures, [pictures[1:] + pictures[:1], pictures], perception)
    assert chosen.tolist() == [1, 1, 1]
    assert np.allclose(pairwise_similarity(pictures, pictures, perception), 1, atol=1e-5)


def test_modifiers_are_read_among_several_grammars(perception):
    texts = [TEXTS[0], TEXTS[1] + ", rembrandt", TEXTS[2] + ", astral"]
    rare = [noun for noun in NOUNS if noun not in ("dog", "boat", "cactus")]  # few states, so that the test is quick
    book = Codebook(
        [g.without("Noun", *rare) for g in (Grammar.scenes(), Grammar.scenes(style=True), Grammar.scenes(colour=True))]
    )
    assert read_off([render(t, 641_000 + i)[0] for i, t in enumerate(texts)], perception, book) == texts


def test_a_search_looks_at_no_more_than_its_budget(pictures, perception):
    from rlgen.envs.grid import World
    class Counting:
        settings, negative, batch_size, seen = {}, "", 8, set()
        def generate(self, prompts, seeds, negative=None):
            self.seen |= set(prompts)
            return [render(p, s)[0] for p, s in zip(prompts, seeds, strict=True)]
    generator = Counting()
    prompt = closest_prompt(pictures[0], World(Grammar.scenes(), generator, perception), budget=40)
    assert prompt == TEXTS[0] and prompt in generator.seen and len(generator.seen) <= 40


def test_a_folder_is_counted_in_one_file():
    book = Codebook([Grammar.scenes()])
    prompts = [book.prompt(i) for i in range(0, 480, 7)]
    sizes = folder_sizes(prompts, book)
    assert sizes["text"] == sum(map(len, prompts)) + len(prompts) - 1
    assert sizes["numbers"] == packed_size(len(prompts), 480) == len(pack([book.number(p) for p in prompts], 480))
    assert sizes["numbers"] < sizes["text, zlib, dictionary not counted"] < sizes["text, zlib"] < sizes["text"]
    assert sizes["text, zlib, dictionary counted"] > sizes["text, zlib, dictionary not counted"]
    with pytest.raises(ValueError, match="has no number"):
        folder_sizes(["a dog"], book)


def test_break_even():
    assert break_even(1000, 2, 12) == 100 and break_even(1001, 2, 12) == 101
    n = break_even(14_000_000, 1.5, 420)
    assert 14_000_000 + 1.5 * n <= 420 * n and 14_000_000 + 1.5 * (n - 1) > 420 * (n - 1)
    assert break_even(1, 5, 5) == break_even(1, 6, 5) == math.inf


# the file

def test_a_file_comes_back_as_the_same_drawings(tmp_path, pictures, generator, perception):
    path = tmp_path / "new" / "pictures.json"
    size = compress(pictures, path, generator, perception, images_per_prompt=2)
    assert size == path.stat().st_size
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["prompts"] == TEXTS and set(stored["seeds"]) <= {0, 1} and stored["generator"] == generator.settings
    back = decompress(path, generator)
    drawings = generate_all(TEXTS, generator, (0, 1))
    best = np.max([pairwise_similarity(pictures, d, perception) for d in drawings], axis=0)
    assert np.allclose(pairwise_similarity(pictures, back, perception), best, atol=1e-5)
    assert (
        [b.tobytes() for b in back]
        == [b.tobytes() for b in Cached(generator.generator, Store(":memory:")).generate(TEXTS, stored["seeds"])]
    )


def test_pictures_from_files_and_another_reader(tmp_path, pictures, perception):
    pictures[0].save(tmp_path / "a.png")
    seen = []
    def read(images):
        seen.extend(images)
        return ["anything at all"] * len(images)
    size = compress([tmp_path / "a.png", pictures[1]], tmp_path / "x.json", Painter(), perception, read=read)
    assert [s.tobytes() for s in seen] == [p.tobytes() for p in pictures[:2]]
    assert len((tmp_path / "x.json").read_bytes()) == size and len(decompress(tmp_path / "x.json", Painter())) == 2
    compress(tmp_path / "a.png", tmp_path / "one.json", Painter(), perception, read=read)
    assert len(json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))["prompts"]) == 1


def test_what_compress_refuses(tmp_path, pictures, perception):
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match="There is no image to compress"):
        compress([], path, Painter(), perception)
    with pytest.raises(ValueError, match="images_per_prompt is 0"):
        compress(pictures, path, Painter(), perception, images_per_prompt=0)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        compress([tmp_path / "none.png"], path, Painter(), perception)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="does not hold an image"):
        compress([tmp_path / "bad.png"], path, Painter(), perception)
    with pytest.raises(ValueError, match="1 prompts for 3 images"):
        compress(pictures, path, Painter(), perception, read=lambda images: ["one"])
    assert not path.exists()


def test_another_generator_is_refused(tmp_path, pictures, perception):
    path = tmp_path / "x.json"
    compress(pictures, path, Painter(), perception)
    other = Painter()
    for change in ({"steps": 2}, {"model": "oil"}, {"guidance": 3.}):
        other.settings = Painter.settings | change
        with pytest.raises(ValueError, match=f"made for another generator.*{next(iter(change))}"):
            decompress(path, other)
    other.settings, other.negative = Painter.settings, "ugly"
    with pytest.raises(ValueError, match="negative '', not 'ugly'"):
        decompress(path, other)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"\xff\xfe\x00", "is not JSON"),
        (b"", "is not JSON"),
        (b'{"kind": "pictures as pro', "cut short"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1, 2]", "another kind"),
        (b'{"prompts": ["a"], "seeds": [1]}', "another kind"),
        (b'{"kind": "pictures as prompts", "version": 2}', "version 2"),
        (b'{"kind": "pictures as prompts", "version": 1}', "damaged"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, sentence):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        decompress(tmp_path / "x.json", Painter())


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [0]},
        {"seeds": [0, 1, -1]},
        {"seeds": [0, True, 2]},
        {"seeds": [0, 1, .5]},
        {"seeds": [0, 1, 2**63]},
        {"prompts": ["a", "b", 3]},
        {"prompts": "abc"},
        {"prompts": [], "seeds": []},
        {"generator": None},
    ],
)
def test_damaged_files_are_refused(tmp_path, change):
    good = {
        "kind": "pictures as prompts",
        "version": 1,
        "generator": Painter.settings,
        "negative": "",
        "prompts": ["a", "b", "c"],
        "seeds": [0, 1, 2],
    }
    (tmp_path / "x.json").write_text(json.dumps(good))
    assert len(decompress(tmp_path / "x.json", Painter())) == 3
    (tmp_path / "x.json").write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match="is damaged"):
        decompress(tmp_path / "x.json", Painter())


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        decompress(tmp_path / "none.json", Painter())
    with pytest.raises(ValueError, match="cannot be read"):
        decompress(tmp_path, Painter())
