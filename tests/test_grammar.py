"""The grammar: what the two shipped ones spell, what random ones keep to, what is refused and in which words."""
import copy
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from rlgen.grammar import Grammar
from rlgen.grammar_rules import Axis

# The rules of RLDF, section 3, in the order and with the words that the paper prints.
PAPER = '''
S -> P NP A DP I LC
P -> "a photo of"
NP -> Frequency NOM
Frequency -> "one" | "many"
DP -> Density PM
Density -> "no" | "one"
NOM -> Noun
Noun -> "banana" | "monkey" | "dog"
LC -> Scene
Scene -> "farm" | "playground"
PM -> H
H -> "people"
A -> F
F -> "and"
I -> C
C -> "in"
'''
CAR = 'S -> "a" Colour Noun\nColour -> "red" | "green" | "blue"\nNoun -> "car" | "boat"'

quick = settings(deadline=None, max_examples=80)


def words_of(prompt):
    "The words of a prompt, found in another way than the module finds them."
    for mark in ',.;:!?':
        prompt = prompt.replace(mark, f' {mark} ')
    return prompt.casefold().split()


VARIED = ['a', 'b', 'c', 'red', 'Art', '4k', ',', "it's", '100%', 'still-life']
FEW = ['a', 'b']  # labels often begin one another, and about one grammar in eight is ambiguous


@st.composite
def written_grammars(draw, vocabulary):
    "CFG text, and what it should mean: a list of fixed phrases (str) and of label lists."
    phrases = st.lists(st.sampled_from(vocabulary), min_size=1, max_size=3).map(' '.join)
    label_lists = st.lists(phrases, min_size=2, max_size=4, unique_by=lambda label: tuple(words_of(label)))
    rules, meaning, items = [], [], []
    names = (f'N{i}' for i in itertools.count())

    def write_choice(labels):
        "Rules for one axis, as a random vocabulary tree."
        name, cut = next(names), draw(st.integers(0, len(labels)))
        if cut in (0, len(labels)):
            rules.append(f'{name} -> ' + ' | '.join(f'"{label}"' for label in labels))
        else:
            branches = [write_choice(labels[:cut]) if cut > 1 else f'"{labels[0]}"',
                        write_choice(labels[cut:]) if len(labels) - cut > 1 else f'"{labels[-1]}"']
            rules.append(f'{name} -> ' + ' | '.join(branches))
        return name

    for _ in range(draw(st.integers(1, 4))):
        if meaning and draw(st.booleans()):
            meaning.append(draw(phrases))
            items.append(f'"{meaning[-1]}"')
        else:
            meaning.append(draw(label_lists))
            items.append(write_choice(meaning[-1]))
        if draw(st.booleans()):  # a name in between, as in NOM -> Noun
            name = next(names)
            rules.append(f'{name} -> {items[-1]}')
            items[-1] = name
    return '\n'.join(['S -> ' + ' '.join(items), *draw(st.permutations(rules))]), meaning


def spelled(meaning):
    "All prompts of a meaning as tuples of words, in order."
    parts = [[piece] if isinstance(piece, str) else piece for piece in meaning]
    return [tuple(words_of(' '.join(said))) for said in itertools.product(*parts)]


@st.composite
def grammars(draw):
    "A random grammar that is not ambiguous."
    text, meaning = draw(written_grammars(VARIED))
    prompts = spelled(meaning)
    assume(len(set(prompts)) == len(prompts))
    return Grammar.from_string(text)


def states(grammar):
    return st.tuples(*(st.integers(0, n - 1) for n in grammar.nvec.tolist()))


# ---------------------------------------------------------------- the shipped grammars

def test_scenes_has_480_states_and_the_axes_of_the_paper():
    grammar = Grammar.scenes()
    assert [axis.name for axis in grammar.axes] == ['Frequency', 'Noun', 'Density', 'Scene']
    assert grammar.nvec.tolist() == [2, 20, 3, 4] and grammar.nvec.dtype == np.int64
    assert grammar.n_states == len(grammar) == len(set(map(grammar.decode, grammar))) == 480
    assert grammar.decode([0, 0, 0, 0]) == 'a photo of one banana and no people in farm'
    assert grammar.axes[1].labels == (
        'banana', 'apple', 'watermelon', 'mushroom', 'flower', 'tree', 'cactus', 'dog', 'monkey', 'cat', 'elephant',
        'penguin', 'fish', 'butterfly', 'bus', 'car', 'boat', 'rocket', 'umbrella', 'clock')


def test_weather_and_time_make_4320_states():
    grammar = Grammar.scenes(weather=True, time=True)
    assert grammar.n_states == len(set(map(grammar.decode, grammar))) == 4320
    assert grammar.encode('a photo of many dog and one people in rainy farm at night').tolist() == [1, 7, 1, 1, 0, 2]


@pytest.mark.parametrize('options, prompt', [
    ({'weather': True}, 'a photo of one dog and no people in rainy farm'),
    ({'time': True}, 'a photo of one dog and no people in farm at night'),
    ({'activity': True}, 'a photo of one dog and many people cycling in farm'),
    ({'diversity': True}, 'a photo of one dog and one old dark women in farm'),
    ({'activity': True, 'diversity': True}, 'a photo of one dog and one old dark women cycling in farm'),
    ({'weather': True, 'time': True, 'activity': True, 'diversity': True},
     'a photo of one dog and many young pale men cooking in snowy street at dawn')])
def test_options_of_scenes(options, prompt):
    grammar = Grammar.scenes(**options)
    assert grammar.decode(grammar.encode(prompt)) == prompt
    density = next(axis for axis in grammar.axes if axis.name == 'Density')
    assert ('no' in density.labels) == (not options.get('activity') and not options.get('diversity'))


@pytest.mark.parametrize('options', list(itertools.product([False, True], repeat=6)))
def test_every_combination_of_options_can_be_read_back(options):
    grammar = Grammar.scenes(*options)
    weather, time_, activity, diversity, style, colour = options
    assert (
        grammar.n_states
        == 2
        * 20
        * (2 if activity or diversity else 3)
        * 4
        * 3**weather
        * 3**time_
        * 4**activity
        * 18**diversity
        * 5**style
        * 5**colour
    )
    assert Grammar.from_string(grammar.text, limit=10_000_000) == grammar
    for state in grammar.sample(seed=0, n=20):
        assert grammar.encode(grammar.decode(state)).tolist() == state.tolist()


def test_domains_has_40000_states_and_no_space_before_a_comma():
    grammar = Grammar.domains()
    assert [axis.name for axis in grammar.axes] == ['Domain', 'First', 'Second', 'Third']
    assert grammar.nvec.tolist() == [5, 20, 20, 20] and grammar.n_states == 40_000
    assert grammar.axes[0].labels == ('photograph', 'painting', 'still-life', 'image', 'digital image')
    prompt = 'a digital image of a dog, cat, and dog'
    assert grammar.decode(grammar.encode(prompt)) == prompt
    for other in ('A Digital IMAGE of a dog , cat ,and dog', '  a digital\timage of a dog,cat,and  dog\n'):
        assert grammar.encode(other).tolist() == grammar.encode(prompt).tolist()


def test_the_rules_of_the_paper_as_printed():
    grammar = Grammar.from_string(PAPER)
    assert [axis.name for axis in grammar.axes] == ['Frequency', 'Noun', 'Density', 'Scene']
    assert grammar.n_states == 2 * 3 * 2 * 2
    assert grammar.labels([1, 2, 0, 1]) == {'Frequency': 'many', 'Noun': 'dog', 'Density': 'no', 'Scene': 'playground'}
    assert grammar.decode([1, 2, 0, 1]) == 'a photo of many dog and no people in playground'


# ---------------------------------------------------------------- what every grammar keeps to

@settings(quick, max_examples=300)
@given(written_grammars(VARIED) | written_grammars(FEW))
def test_a_grammar_means_what_is_written_or_is_refused_as_ambiguous(written):
    text, meaning = written
    prompts = spelled(meaning)
    if len(set(prompts)) < len(prompts):
        with pytest.raises(ValueError, match='two readings'):
            Grammar.from_string(text)
    else:
        grammar = Grammar.from_string(text)
        assert [words_of(label) for axis in grammar.axes for label in axis.labels] \
            == [words_of(label) for piece in meaning if not isinstance(piece, str) for label in piece]
        assert [tuple(words_of(grammar.decode(state))) for state in grammar] == prompts


@quick
@given(st.data())
def test_encode_undoes_decode(data):
    grammar = data.draw(grammars())
    state = data.draw(states(grammar))
    prompt = grammar.decode(state)
    assert prompt == prompt.strip() and '  ' not in prompt and ' ,' not in prompt
    assert tuple(grammar.encode(prompt)) == state
    assert grammar.encode(prompt).dtype == np.int64
    spaced = (
        '  '
        + re.sub(r'\s|(?=,)', lambda _: data.draw(st.sampled_from([' ', '   ', '\n', '\t '])), prompt).upper()
        + ' '
    )
    assert tuple(grammar.encode(spaced)) == state


@quick
@given(st.data())
def test_index_counts_the_states_in_order(data):
    grammar = data.draw(grammars())
    every = [tuple(state) for state in grammar]
    assert every == list(itertools.product(*map(range, grammar.nvec)))
    assert [grammar.index(state) for state in every] == list(range(grammar.n_states))
    assert [tuple(grammar.unindex(i)) for i in range(grammar.n_states)] == every
    state = data.draw(states(grammar))
    assert grammar.index(state) == np.ravel_multi_index(state, grammar.nvec)


@quick
@given(st.data())
def test_distance_is_a_metric(data):
    grammar = data.draw(grammars())
    a, b, c = (data.draw(states(grammar)) for _ in range(3))
    assert grammar.distance(a, b) == np.abs(np.subtract(a, b)).sum() == grammar.distance(b, a) >= 0
    assert (grammar.distance(a, b) == 0) == (a == b)
    assert grammar.distance(a, c) <= grammar.distance(a, b) + grammar.distance(b, c)


@quick
@given(st.data())
def test_neighbours_are_all_states_one_step_away_and_mutual(data):
    grammar = data.draw(grammars())
    state = data.draw(states(grammar))
    near = [tuple(other) for other in grammar.neighbours(state)]
    assert len(near) == len(set(near))
    assert set(near) == {tuple(other) for other in grammar if grammar.distance(state, other) == 1}
    assert all(state in [tuple(back) for back in grammar.neighbours(other)] for other in near)


@quick
@given(st.data())
def test_sampling_is_decided_by_the_seed(data):
    grammar, seed, n = data.draw(grammars()), data.draw(st.integers(0, 2**32)), data.draw(st.integers(0, 20))
    drawn = grammar.sample(seed, n)
    assert drawn.shape == (n, len(grammar.axes)) and drawn.dtype == np.int64
    assert (drawn >= 0).all() and (drawn < grammar.nvec).all()
    assert np.array_equal(drawn, grammar.sample(seed, n))
    assert grammar.sample(seed).shape == (len(grammar.axes),)


@quick
@given(st.data())
def test_an_ordered_grammar_spells_the_same_prompts(data):
    grammar = data.draw(grammars())
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    ordered = grammar.ordered_by(lambda labels: rng.normal(size=(len(labels), 3)))
    assert [axis.name for axis in ordered.axes] == [axis.name for axis in grammar.axes]
    assert sorted(map(ordered.decode, ordered)) == sorted(map(grammar.decode, grammar))
    assert Grammar.from_string(ordered.text) == ordered


@quick
@given(
    st.text()
    | st.lists(
        st.sampled_from(['S', 'A', '->', '|', '"a"', "'b'", '"', '\n', '\\', '#', '%start', '']), max_size=12
    ).map(' '.join)
)
def test_any_text_is_a_grammar_or_refused_with_a_sentence(text):
    try:
        grammar = Grammar.from_string(text)
    except ValueError as error:
        assert str(error).endswith('.')
    else:
        assert grammar.encode(grammar.decode([0] * len(grammar.axes))).tolist() == [0] * len(grammar.axes)


@quick
@given(
    st.lists(
        st.sampled_from(words_of('a photo of one many banana and no people in farm , beach bnana')), max_size=12
    ).map(' '.join)
    | st.text()
)
def test_any_text_is_a_prompt_or_refused_with_a_sentence(prompt):
    grammar = Grammar.scenes()
    try:
        state = grammar.encode(prompt)
    except ValueError as error:
        assert str(error).endswith('.')
    else:
        assert words_of(grammar.decode(state)) == words_of(prompt)


def test_an_object_is_its_text():
    one, same, other = Grammar.from_string(CAR), Grammar.from_string(CAR), Grammar.from_string(CAR + ' | "bus"')
    assert one == same and hash(one) == hash(same) and one != other and one != CAR
    assert one.text == CAR
    assert copy.deepcopy(one) == one and copy.deepcopy(one).decode([2, 0]) == 'a blue car'
    assert repr(one) == "Grammar(6 states: Colour 3 x Noun 2; the first is 'a red car')"
    with pytest.raises(ValueError):
        one.nvec[0] = 7


# ---------------------------------------------------------------- notation

def test_comments_quotes_and_rules_in_several_lines():
    grammar = Grammar.from_string(
        '# cars\n\nS -> "a" \\\n  Noun\nNoun -> "car"\n# boats\nNoun -> \'boat\' | "dog\'s  toy"\n'
    )
    assert grammar.axes == (Axis('Noun', ('car', 'boat', "dog's toy")),)


def test_alternatives_on_the_next_line_and_comments_behind_a_rule():
    grammar = Grammar.from_string("""
        S -> "a" Colour Noun  # the start
        Colour -> "red"       # a "warm" one
                | "green"

                | "blue #1"   # not a comment: it is quoted
        Noun ->
            'car' |
            "boat"
    """)
    assert grammar.axes == (Axis('Colour', ('red', 'green', 'blue #1')), Axis('Noun', ('car', 'boat')))
    with pytest.raises(ValueError, match='Line 4 of the grammar is malformed'):
        Grammar.from_string('S -> "a" Noun\nNoun -> "car"\n  | "boat"\nMore -> "x')


def test_letters_are_compared_in_their_normal_form():
    one, two = 'caf\u00e9', 'cafe\u0301'
    grammar = Grammar.from_string(f'S -> "a" Place\nPlace -> "{one}" | "bar"')
    assert grammar.encode(f'a {two}').tolist() == [0]
    with pytest.raises(ValueError, match='more than once'):
        Grammar.from_string(f'S -> "a" Place\nPlace -> "{one}" | "bar" | "{two}"')


@pytest.mark.parametrize('text', [
    '\n'.join(f'N{i} -> N{i + 1}' for i in range(5000)) + '\nN5000 -> "a" | "b"',
    '\n'.join(f'N{i} -> N{(i + 1) % 5000}' for i in range(5000)),
    'S -> "' + 'a ' * 200_000 + '" N\nN -> "b" | "c"',
], ids=['chain', 'ring', 'terminal'])
def test_thousands_of_rules_are_read_or_refused_with_a_sentence(text):
    try:
        assert Grammar.from_string(text).n_states == 2
    except ValueError as error:
        assert len(str(error)) < 600


def test_start_directive():
    assert Grammar.from_string('Noun -> "car" | "boat"\n%start S\nS -> "a" Noun').decode([1]) == 'a boat'


def test_labels_of_several_words_and_with_commas():
    grammar = Grammar.from_string(
        'S -> "a dog" Style "," Place "."\nStyle -> ", highly detailed" | ", earth art" | "in 4k"\n'
        'Place -> "New York" | "new  jersey"'
    )
    assert grammar.decode([1, 0]) == 'a dog, earth art, New York.'
    assert grammar.decode([2, 1]) == 'a dog in 4k, new jersey.'
    assert grammar.encode('A DOG ,Earth  Art , new york .').tolist() == [1, 0]


def test_a_label_that_begins_another_is_fine_where_no_prompt_has_two_readings():
    grammar = Grammar.from_string(
        'S -> "a" Style "of" Noun\nStyle -> "digital" | "digital art" | "digital art piece"\nNoun -> "art" | "art deco"'
    )
    assert [grammar.encode(grammar.decode(state)).tolist() for state in grammar] == [
        state.tolist() for state in grammar
    ]


def test_one_name_used_several_times_gives_several_axes():
    grammar = Grammar.from_string(
        'S -> "a" Noun "," Noun_2 "," Noun "and" More\nMore -> Noun\nNoun -> "dog" | "cat"\nNoun_2 -> "bus" | "car"'
    )
    assert [axis.name for axis in grammar.axes] == ['Noun', 'Noun_2', 'Noun_3', 'Noun_4']
    assert grammar.decode([0, 0, 1, 0]) == 'a dog, bus, cat and dog'
    assert grammar.labels([0, 0, 1, 0])['Noun_3'] == 'cat'


def test_a_vocabulary_tree_is_one_axis_in_depth_first_order():
    grammar = Grammar.from_string(
        'S -> Noun "!"\nNoun -> Food | "stone" | Pet\nFood -> Fruit | "bread"\nFruit -> "pear" | "fig"\n'
        'Pet -> Dog | "cat"\nDog -> Size "dog"\nSize -> "big"'
    )
    assert grammar.axes == (Axis('Noun', ('pear', 'fig', 'bread', 'stone', 'big dog', 'cat')),)


def test_the_start_may_be_the_only_axis():
    assert Grammar.from_string('S -> "dog" | "cat"').axes == (Axis('S', ('dog', 'cat')),)


def test_from_file(tmp_path):
    path = tmp_path/'cars.cfg'
    path.write_bytes(b'\xef\xbb\xbf' + CAR.replace('\n', '\r\n').encode())
    assert Grammar.from_file(path).decode([2, 0]) == 'a blue car'
    path.write_text('S -> "a')
    with pytest.raises(ValueError, match=r'cars\.cfg: Line 1 of the grammar is malformed'):
        Grammar.from_file(path)
    path.write_bytes(b'\xff\xfe\x00S')
    with pytest.raises(ValueError, match='not a text file in UTF-8'):
        Grammar.from_file(str(path))
    with pytest.raises(FileNotFoundError, match='There is no grammar file'):
        Grammar.from_file(tmp_path/'missing.cfg')


# ---------------------------------------------------------------- grammars that are refused

@pytest.mark.parametrize(
    'text, said',
    [
        ('S -> "a" Noun\n\nNoun -> "dog" | "cat', ['Line 3', 'malformed', 'Unterminated string', 'Noun -> "dog"']),
        ('S "a" Noun\nNoun -> "dog" | "cat"', ['Line 1', 'Expected an arrow']),
        ('S -> "a" Noun\nNoun -> ("dog" | "cat")', ['Line 2', 'malformed']),
        ('%begin S\nS -> "dog" | "cat"', ['Line 1', 'Bad directive']),
        ('S -> "dog" | "cat"\nNoun -> "a" \\\n', ['Line 2', 'backslash']),
        ('', ['no rules']),
        ('# nothing\n\n', ['no rules']),
        ('S -> "a" Noun', ['S (line 1) uses Noun, which no rule defines']),
        ('S -> NP\nNP -> Frequency\nFrequency -> one | many', ['Frequency (line 3) uses one', '"one"', 'quotes']),
        ('%start Noun\nS -> "dog" | "cat"', ['%start', 'Noun']),
        ('S -> "dog" | "cat"\n\nVerb -> "runs" | "sits"', ['Verb (line 3) cannot be reached from S']),
        ('S -> "a" Noun\nNoun -> "dog" | Noun "and" Noun', ['Noun (line 2) is recursive', 'Noun -> Noun']),
        ('S -> A\nA -> "x" B\nB -> "y" | C\nC -> "z" A', ['recursive', 'A -> B -> C -> A']),
        ('S -> "a photo of" Noun\nNoun -> "dog"', ['no axis', 'a photo of dog']),
        ('S -> "a" Noun\nNoun -> "dog" | " DOG "', ['Axis Noun', 'one label only']),
        ('S -> "a" Noun\nNoun -> "dog" | "cat" | "dog"', ['Axis Noun', "'dog' more than once"]),
        (
            'S -> "a" Noun\nNoun -> Pet | Wild\nPet -> "dog" | "cat"\nWild -> "fox" | "Dog"',
            ['Axis Noun', "'dog' more than once"],
        ),
        (
            'S -> Colour Noun | Noun\nColour -> "red" | "blue"\nNoun -> "car" | "bus"',
            ['S (line 1)', 'structures', 'Colour Noun'],
        ),
        (
            'S -> "a" Noun\nNoun -> "red" Thing | "blue" Thing\nThing -> "car" | "bus"',
            ['Noun (line 2)', 'structures', 'Thing'],
        ),
        ('S -> Noun Scene\nNoun -> "dog" | "cat"\nScene -> "farm" |', ['Scene (line 3)', 'empty alternative']),
        ('S -> Noun Scene\nNoun -> "dog" | "cat"\nScene -> "farm" | " "', ['Scene (line 3)', 'empty alternative']),
        ('S -> Noun Scene\nNoun -> "dog" | "cat"\nScene ->', ['Scene (line 3)', 'empty alternative']),
        (
            'S -> Style Thing\nStyle -> "digital" | "digital art"\nThing -> "art gallery" | "gallery"',
            [
                "'digital art gallery' has two readings",
                "Style 'digital' + Thing 'art gallery'",
                "Style 'digital art' + Thing 'gallery'",
            ],
        ),
        ('S -> "my" A B C\nA -> "x" | "x y"\nB -> "y x" | "x"\nC -> "y" | "x y"', ['two readings']),
    ],
)
def test_refused_grammars(text, said):
    with pytest.raises(ValueError) as refusal:
        Grammar.from_string(text)
    message = str(refusal.value)
    assert all(part in message for part in said), message
    assert message.endswith('.') and '\n' not in message


def test_a_grammar_must_be_text():
    with pytest.raises(TypeError, match='not NoneType'):
        Grammar.from_string(None)


def test_limit_of_states():
    with pytest.raises(ValueError, match='6 states, and the limit is 5'):
        Grammar.from_string(CAR, limit=5)
    assert Grammar.from_string(CAR, limit=6).n_states == 6
    axes = ' '.join(f'N{i}' for i in range(7))
    ten = '"' + '" | "'.join('abcdefghij') + '"'
    with pytest.raises(ValueError, match='10,000,000 states, and the limit is 1,000,000'):
        Grammar.from_string(f'S -> {axes}\n' + '\n'.join(f'N{i} -> {ten}' for i in range(7)))


@pytest.mark.parametrize('last, said', [('"a" | "b"', r'10\^18 or more states'), ('"a"', 'more than 10,000,000 words')])
def test_rules_that_explode_are_refused_at_once(last, said):
    doubling = '\n'.join(f'A{i} -> A{i + 1} A{i + 1}' for i in range(60))
    with pytest.raises(ValueError, match=said):
        Grammar.from_string(f'S -> A0 B\nB -> "x" | "y"\n{doubling}\nA60 -> {last}')


def test_an_axis_on_its_own():
    assert Axis('Noun', ('dog', 'cat')) == Axis('Noun', ('dog', 'cat'))
    for labels in [('dog',), (), ('dog', 'Dog')]:
        with pytest.raises(ValueError, match='one label only|two different labels'):
            Axis('Noun', labels)
    with pytest.raises(AttributeError):
        Axis('Noun', ('dog', 'cat')).name = 'Verb'


# ---------------------------------------------------------------- prompts and encodings that are refused

@pytest.mark.parametrize(
    'prompt, said',
    [
        (
            'a photo of one bananna and no people in farm',
            ["'bananna', word number 5", "takes 'banana'", 'axis Noun', '16 others'],
        ),
        ('a picture of one banana and no people in farm', ["'picture', word number 2", "takes 'photo' here"]),
        ('a photo of one banana and no people in', ['ends too early', "'farm'", 'axis Scene']),
        ('', ['ends too early', "'a'"]),
        ('a photo of one banana and no people in farm, 4k', ["should end before ','", 'word number 11']),
        (
            'a photo of one banana and three people in farm',
            ["'three', word number 7", "'no'", "'one'", "'many'", 'axis Density'],
        ),
    ],
)
def test_a_prompt_outside_the_language_names_its_word_and_the_nearest_ones(prompt, said):
    with pytest.raises(ValueError) as refusal:
        Grammar.scenes().encode(prompt)
    assert all(part in str(refusal.value) for part in said), str(refusal.value)


def test_the_furthest_reading_is_blamed():
    grammar = Grammar.from_string('S -> "a" Style "dog"\nStyle -> "digital" | "digital oil painted" | "chalk"')
    with pytest.raises(ValueError, match="'cat', word number 4, .* takes 'painted'"):
        grammar.encode('a digital oil cat')
    with pytest.raises(ValueError, match="'cat', word number 3, .* takes 'oil', 'dog'|'dog', 'oil'"):
        grammar.encode('a digital cat')


def test_a_prompt_must_be_text():
    with pytest.raises(TypeError, match='not list'):
        Grammar.scenes().encode([0, 0, 0, 0])


@pytest.mark.parametrize(
    'encoding',
    [
        [0, 0, 0],
        [0, 0, 0, 0, 0],
        [2, 0, 0, 0],
        [0, 0, 0, -1],
        [0., 0., 0., 0.],
        np.zeros((1, 4), int),
        np.zeros(4),
        np.int64(3),
        None,
        'abcd',
        [],
    ],
)
@pytest.mark.parametrize('method', ['decode', 'labels', 'index', 'neighbours'])
def test_an_encoding_outside_the_grid_is_refused(method, encoding):
    with pytest.raises(
        ValueError, match='no encoding of this grammar, which takes 4 whole numbers from 0: Frequency below 2'
    ):
        getattr(Grammar.scenes(), method)(encoding)


@pytest.mark.parametrize('index', [-1, 480])
def test_a_number_outside_the_range_is_refused(index):
    with pytest.raises(ValueError, match='states 0 to 479'):
        Grammar.scenes().unindex(index)


def test_encodings_may_be_arrays_lists_or_tuples():
    grammar = Grammar.scenes()
    for encoding in (
        [1, 2, 0, 3],
        (1, 2, 0, 3),
        np.array([1, 2, 0, 3]),
        np.array([1, 2, 0, 3], dtype=np.uint8),
        list(np.array([1, 2, 0, 3])),
    ):
        assert grammar.index(encoding) == 267 and type(grammar.index(encoding)) is int
        assert grammar.decode(encoding) == 'a photo of many watermelon and no people in street'


# ---------------------------------------------------------------- an order from embeddings

def neighbour_distance(axis, embed):
    "Sum of the distances between neighbouring labels."
    return np.linalg.norm(np.diff(embed(axis.labels), axis=0), axis=1).sum()


def test_ordered_by_puts_near_vectors_side_by_side():
    place = {'park': 8, 'platform': 1, 'garden': 9, 'street': 3, 'forest': 10}
    embed = lambda labels: np.array([[place[label], 0] for label in labels], dtype=np.float32)
    grammar = Grammar.from_string('S -> "a photo of a" Scene\nScene -> ' + ' | '.join(f'"{scene}"' for scene in place))
    ordered = grammar.ordered_by(embed)
    assert ordered.axes == (Axis('Scene', ('platform', 'street', 'park', 'garden', 'forest')),)
    assert neighbour_distance(grammar.axes[0], embed) == 28 and neighbour_distance(ordered.axes[0], embed) == 9
    assert ordered.ordered_by(embed) == ordered and ordered != grammar


def test_ordered_by_is_best_among_the_orders_of_the_tree():
    points = dict(zip('abcdef', np.random.default_rng(3).normal(size=(6, 2)), strict=True))
    embed = lambda labels: np.array([points[label] for label in labels])
    ordered = Grammar.from_string('S -> "a" | "b" | "c" | "d" | "e" | "f"').ordered_by(embed)
    from scipy.cluster.hierarchy import linkage
    groups = {i: {label} for i, label in enumerate('abcdef')}
    for i, (left, right, *_) in enumerate(linkage(embed('abcdef'), 'average')):
        groups[6 + i] = groups[int(left)] | groups[int(right)]
    together = lambda order: all(
        ''.join(sorted(group)) in {''.join(sorted(order[i:i + len(group)])) for i in range(6)}
        for group in groups.values()
    )
    best = min(
        neighbour_distance(Axis('S', order), embed) for order in itertools.permutations('abcdef') if together(order)
    )
    assert together(ordered.axes[0].labels)
    assert neighbour_distance(ordered.axes[0], embed) == pytest.approx(best)


def test_ordered_by_writes_names_and_quotes_so_that_they_can_be_read():
    text = (
        '''S_ -> S "it's" 'a "big"' Noun Noun\nS -> "very" | "not"\n'''
        '''Noun -> "dog's" ', "so"' | "16:9 ," '"cat"' "'s" | 'cat' '''
    )
    grammar = Grammar.from_string(text)
    ordered = grammar.ordered_by(lambda labels: [[len(label)] for label in labels])
    assert [axis.name for axis in ordered.axes] == ['S', 'Noun', 'Noun_2']
    assert sorted(map(ordered.decode, ordered)) == sorted(map(grammar.decode, grammar))
    assert (
        ordered.decode(ordered.encode('very it\'s a "big" dog\'s, "so" 16:9, "cat" \'s'))
        == 'very it\'s a "big" dog\'s, "so" 16:9, "cat" \'s'
    )


@pytest.mark.parametrize(
    'embed',
    [
        lambda labels: np.zeros(len(labels)),
        lambda labels: np.zeros((len(labels) + 1, 3)),
        lambda labels: np.full((len(labels), 3), np.nan),
        lambda labels: np.zeros((len(labels), 0)),
    ],
)
def test_ordered_by_refuses_what_is_no_embedding(embed):
    with pytest.raises(ValueError, match=r'finite numbers of shape \[3, d\] for the 3 labels of axis Colour'):
        Grammar.from_string(CAR).ordered_by(embed)


def test_iteration_is_lazy():
    grammar = Grammar.domains()
    first = next(iter(grammar))
    assert first.tolist() == [0, 0, 0, 0]
    assert sum(1 for _ in grammar) == len(grammar)
    big = Grammar.from_string(
        'S -> ' + ' '.join(f'N{i}' for i in range(40)) + '\n' + '\n'.join(f'N{i} -> "a" | "b"' for i in range(40)),
        limit=2**40,
    )
    assert big.n_states == len(big) == 2**40 == math.prod(big.nvec.tolist())
    assert next(iter(big)).sum() == 0
    assert big.index([1] * 40) == 2**40 - 1 and big.unindex(2**40 - 1).tolist() == [1] * 40


def test_a_thousand_labels_are_read():
    grammar = Grammar.from_string(
        'S -> "a photo of a" Noun "and a" Noun\nNoun -> ' + ' | '.join(f'"thing number {i}"' for i in range(1000))
    )
    prompt = 'a photo of a thing number 999 and a thing number 998'
    assert grammar.encode(prompt).tolist() == [999, 998]


def test_without_drops_labels_and_nothing_else():
    grammar, less = Grammar.scenes(), Grammar.scenes().without('Noun', 'penguin', 'dog')
    assert less.n_states == 432 and not {'penguin', 'dog'} & set(less.axes[1].labels)
    assert (
        set(map(less.decode, less))
        == {p for p in map(grammar.decode, grammar) if 'penguin' not in p and 'dog' not in p}
    )
    for arguments, sentence in (
        (('Animal', 'dog'), "no axis 'Animal'"),
        (('Noun', 'unicorn'), "no label 'unicorn'"),
        (('Frequency', 'one'), 'one label only'),
    ):
        with pytest.raises(ValueError, match=sentence):
            grammar.without(*arguments)
