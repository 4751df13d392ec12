"""The course: lessons in their frame and within their limits, figures with captions, links to glossary and bibliography
that resolve, and the words of the field where a reader looks first.
"""
import ast
import base64
import json
import re
import runpy
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
TRACKS = ('start', 'rldf', 'preference', 'support', 'generative')
NAMES = [path.relative_to(NBS).as_posix() for track in TRACKS for path in sorted((NBS/track).rglob('[0-9]*.ipynb'))]
SOLUTIONS = [name for name in NAMES if '/solutions/' in name]
SELF_TESTS = [name for name in NAMES if 'self_test' in name and name not in SOLUTIONS]
LESSONS = [name for name in NAMES if name not in SOLUTIONS + SELF_TESTS]
ALL = sorted(path.relative_to(NBS).as_posix() for path in NBS.rglob('*.ipynb')
             if not any(part[0] in '._' for part in path.relative_to(NBS).parts))

terms = runpy.run_path(str(ROOT/'tools'/'terms.py'))


@cache
def cells(name: str) -> list[dict]:
    "The cells of a notebook, each with its source as one text."
    found = json.loads((NBS/name).read_text(encoding='utf-8'))['cells']
    return [{**cell, 'source': ''.join(cell['source'])} for cell in found]


def markdown(notebook: list[dict]) -> list[str]:
    "The Markdown cells of a notebook."
    return [cell['source'] for cell in notebook if cell['cell_type'] == 'markdown']


def words(text: str) -> int:
    "How many words a reader reads in a Markdown text: links and HTML count as what they show."
    text = re.sub(r'!?\[([^][]*)\]\([^)]*\)', r'\1', re.sub(r'<[^>]+>', ' ', text))
    return len(re.findall(r'\S*\w\S*', text))


# --- the frame

HEAD = re.compile(r'# (?P<title>[^\n]+)\n\n> (?P<subtitle>[^\n]+)\n\n\*\*You will learn\*\* (?P<learn>[^\n]+)\n\n'
                  r'\*\*You need\*\* (?P<need>[^\n]+)\n\n\*\*Time\*\* (?P<time>[^\n]+?)\s*(?=\n|\Z)')
MINUTES = re.compile(r'(\d+|[a-z]+) minutes? to read\b.*\bto run on two CPU cores\b')
EXERCISE = re.compile(r'^\*\*(\d+) · [^*\n]+\*\* \((●{1,3}) (\d+) minutes?\)', re.MULTILINE)


def part(text: str, heading: str) -> str:
    "What stands under a heading of the second level."
    found = re.search(rf'^## {heading}[^\n]*\n(.*?)(?=^## |\Z)', text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ''


def frame_complaints(notebook: list[dict]) -> list[str]:
    "What a lesson lacks of the frame that all lessons have."
    texts = markdown(notebook)
    text, found = '\n\n'.join(texts), []
    head = HEAD.match(texts[0]) if texts else None
    if not head:
        return ['the first Markdown cell is not title, subtitle, "You will learn", "You need", "Time"']
    if len(head['subtitle']) > 110:
        found.append('the subtitle has more than 110 characters')
    if not MINUTES.search(head['time']):
        found.append('"Time" does not say minutes to read and what runs on two CPU cores')
    if '](' not in head['need'] and not re.search(r'[Nn]othing|[Nn]o |Python', head['need']):
        found.append('"You need" links to no lesson and does not say that nothing is needed')
    items = re.findall(r'^(?:- |\d+\. )', part(text, 'Recap'), re.MULTILINE)
    if not 3 <= len(items) <= 5:
        found.append(f'the recap has {len(items)} items, not 3 to 5')
    exercises = EXERCISE.findall(text)
    if not part(text, 'Exercises') or len(exercises) < 2:
        found.append(f'{len(exercises)} exercises of the form "**1 · Name** (●● 10 minutes)." under "## Exercises"')
    elif [int(number) for number, _, _ in exercises] != list(range(1, len(exercises) + 1)):
        found.append('the exercises are not numbered from 1 on')
    if not re.search(r'\]\((?:\.\./\w+/)?solutions/\w+\.ipynb', text):
        found.append('no link to the solutions')
    if not re.search(r'^\*\*Next\*\* .*\]\(', text, re.MULTILINE):
        found.append('no "**Next** [...](...)"')
    further = re.search(r'^\*\*Further reading\*\* ((?:[^\n]+\n?)+)', text, re.MULTILINE)
    if not further or not 2 <= len(re.findall(r'\]\(', further[1])) <= 6:
        found.append('no "**Further reading**" with two to five links')
    return found


def stubs(notebook: list[dict]) -> list[int]:
    "The cells in which a reader writes a function."
    return [i for i, cell in enumerate(notebook)
            if cell['cell_type'] == 'code' and re.search(r'raise NotImplementedError\("Exercise', cell['source'])]


def md(text):
    return {'cell_type': 'markdown', 'source': text}


FRAMED = [md('# Title\n\n> Subtitle\n\n**You will learn** to test.\n\n**You need** [this](a.ipynb).\n\n'
             '**Time** 10 minutes to read, one minute to run on two CPU cores.'),
          md('Text.\n\n## Recap\n\n- One.\n- Two.\n- Three.\n\n## Exercises\n\n**1 · A** (● 5 minutes). Do.'),
          md('**2 · B** (●● 10 minutes). Do more.\n\n[Solutions](solutions/00_a.ipynb)\n\n'
             '**Next** [b](01_b.ipynb): on.\n\n' '**Further reading** [a](x), [b](y).')]


@pytest.mark.parametrize('old, new, complaint', [
    ('**Time** 10 minutes', '10 minutes', 'first Markdown cell'),
    ('> Subtitle', '> ' + 'a' * 111, 'subtitle'),
    ('10 minutes to read', 'A while to read', '"Time"'),
    ('**You need** [this](a.ipynb)', '**You need** patience', '"You need"'),
    ('- Three.\n', '', 'recap has 2'),
    ('## Recap', '## Summary', 'recap has 0'),
    ('**2 · B** (●● 10 minutes)', '**B** (10 minutes)', '1 exercises'),
    ('**2 · B**', '**3 · B**', 'numbered'),
    ('[Solutions](solutions/00_a.ipynb)', '', 'solutions'),
    ('**Next** [b](01_b.ipynb)', '[b](01_b.ipynb)', 'Next'),
    ('[a](x), [b](y)', '[a](x)', 'Further reading')])
def test_what_a_frame_lacks_is_found(old, new, complaint):
    assert frame_complaints(FRAMED) == []
    broken = [md(cell['source'].replace(old, new)) for cell in FRAMED]
    assert broken != FRAMED
    assert len(found := frame_complaints(broken)) == 1 and complaint in found[0], found


@pytest.mark.parametrize('name', LESSONS)
def test_a_lesson_has_the_frame(name):
    assert frame_complaints(cells(name)) == []
    folder, file = name.split('/')
    assert (NBS/folder/'solutions'/file).exists()


@pytest.mark.parametrize('name', LESSONS)
def test_a_lesson_has_a_stub_with_its_check(name):
    notebook, found = cells(name), stubs(cells(name))
    assert found != []
    unchecked = [i for i in found if not any('check_' in cell['source'] for cell in notebook[i + 1:i + 3])]
    assert unchecked == []


@pytest.mark.parametrize('name', SOLUTIONS + SELF_TESTS)
def test_solutions_and_self_tests_say_what_they_are(name):
    assert re.match(r'# [^\n]+\n\n> [^\n]{1,150}(\n|\Z)', markdown(cells(name))[0])
    if name in SOLUTIONS:
        lesson = name.split('/')[-1]
        assert f'](../{lesson})' in '\n'.join(markdown(cells(name))), 'no link back to the lesson'


def test_each_track_has_a_self_test_of_five_questions():
    assert [name.split('/')[0] for name in SELF_TESTS] == list(TRACKS)
    for name in SELF_TESTS:
        assert sum(cell['source'].startswith('check_choice(') for cell in cells(name)) >= 5, name


@pytest.mark.parametrize('name', LESSONS)
def test_a_lesson_is_short(name):
    total = sum(words(text) for text in markdown(cells(name)))
    assert total <= (1600 if name.startswith('start/') else 3000)
    assert len(cells(name)) <= 60


def test_the_first_learning_updates_come_early():
    before, bandit = 0, None
    for name in LESSONS:
        for cell in cells(name):
            if cell['cell_type'] == 'markdown':
                before += words(cell['source'])
            elif 'Q[action] += (reward - Q[action])' in cell['source'] and bandit is None:
                bandit = before
            elif 'Q[s, a] += step_size * (target - Q[s, a])' in cell['source']:
                assert bandit < 2500 and before < 4000, (bandit, before)
                return
    raise AssertionError('no first update of Q-learning was found')


# --- figures

IMAGES = ('image/png', 'image/jpeg', 'image/svg+xml')


def figure_complaints(cell: dict) -> list[str]:
    "What is wrong with the stored images of a cell."
    outputs = [[''.join(data) for kind, data in output.get('data', {}).items() if kind in IMAGES]
               for output in cell.get('outputs', [])]
    images = [max(forms, key=len) for forms in outputs if forms]  # one image may be stored in several forms
    if not images:
        return ['a caption without an image'] if '#| fig-cap:' in cell['source'] else []
    try:
        lines = re.findall(r'^#\| ?(fig-(?:cap|alt): ".*")$', cell['source'], re.MULTILINE)
        said = yaml.safe_load('\n'.join(lines)) or {}
        if re.search(r'[\x00-\x1f]', ''.join(said.values())): raise yaml.YAMLError
    except yaml.YAMLError:  # such as "$\\alpha$": in double quotes a backslash has to be doubled
        return ['caption or alternative text is no YAML']
    found = [f'no #| {name}: "..."' for name in ('fig-cap', 'fig-alt') if len(said.get(name, '')) < 10]
    if len(images) > 1:
        found.append(f'{len(images)} images')
    sizes = [len(image) if image.lstrip().startswith('<') else len(base64.b64decode(image)) for image in images]
    return found + [f'an image of {size:,} bytes' for size in sizes if size > 61_440]  # 60 KB


def test_what_a_figure_lacks_is_found():
    png = {'data': {'image/png': base64.b64encode(b'x' * 100).decode(), 'text/plain': '<Figure>'}}
    source = '#| fig-cap: "What to see."\n#| fig-alt: "What is there."\nplot()'
    assert figure_complaints({'source': source, 'outputs': [png]}) == []
    assert figure_complaints({'source': 'print()', 'outputs': [{'data': {'text/plain': '1'}}]}) == []
    assert figure_complaints({'source': source}) == ['a caption without an image']
    assert figure_complaints({'source': 'plot()', 'outputs': [png]}) == [
        'no #| fig-cap: "..."', 'no #| fig-alt: "..."']
    assert figure_complaints({'source': source, 'outputs': [png, png]}) == ['2 images']
    large = {'data': {'image/png': base64.b64encode(b'x' * 100_000).decode()}}
    assert figure_complaints({'source': source, 'outputs': [large]}) == ['an image of 100,000 bytes']
    wrong = source.replace('What is there.', r'The step size $\\alpha$ falls.')
    assert figure_complaints({'source': wrong, 'outputs': [png]}) == []
    for symbol in (r'$\alpha$', r'$\gamma$'):
        wrong = source.replace('What is there.', f'The number {symbol} falls.')
        assert figure_complaints({'source': wrong, 'outputs': [png]}) == ['caption or alternative text is no YAML']


@pytest.mark.parametrize('name', NAMES)
def test_a_stored_image_has_caption_and_alternative_text(name):
    found = {i: figure_complaints(cell) for i, cell in enumerate(cells(name))}
    assert {i: complaints for i, complaints in found.items() if complaints} == {}


@pytest.mark.parametrize('path', sorted(NBS.rglob('[!_]*/*.svg')), ids=lambda path: path.name)
def test_a_diagram_is_small_and_says_what_it_shows(path):
    text = path.read_text(encoding='utf-8')
    assert len(text) < 40_000 and '<image' not in text and 'data:' not in text
    assert re.search(r'role="img" aria-label(="[^"]{20,}|ledby="(\w+)"[^>]*>\s*<title id="\2">[^<]{20,})', text)


# --- glossary and bibliography

LINK = re.compile(r'\]\((?:[\w./]*/)?\d+_(glossary|bibliography)\.ipynb#([\w-]+)\)')


def anchors(name: str) -> list[str]:
    "The anchors of a guide."
    return re.findall(r'<a id="([\w-]+)"', '\n'.join(terms['cells'](terms['page'](NBS, name))))


def cited() -> dict[tuple[str, str], str]:
    "Which entries of glossary and bibliography the pages link to, each with a page that does."
    return {match: name for name in ALL for text in markdown(cells(name)) for match in LINK.findall(text)}


def test_links_to_glossary_and_bibliography_resolve():
    known = {(page, anchor) for page in ('glossary', 'bibliography') for anchor in anchors(page)}
    assert len(known) > 150
    assert {link: name for link, name in cited().items() if link not in known} == {}


def test_the_bibliography_is_that_of_the_bib_file_and_is_cited():
    for name, text in terms['bibliography'](ROOT).items():
        assert (ROOT/name).read_text(encoding='utf-8') == text, 'run tools/lessons.py'
    keys = terms['references']((NBS/'guides'/'references.bib').read_text(encoding='utf-8'))
    assert sorted(keys) == sorted(anchors('bibliography'))
    assert sorted(keys.keys() - {key for page, key in cited() if page == 'bibliography'}) == []


def test_the_glossary_is_in_order():
    found = terms['glossary'](NBS)
    assert len(found) > 80 and len({term.name for term in found}) == len(found) == len(anchors('glossary'))
    spellings = [spelling.lower() for term in found for spelling in term.spellings]
    assert len(spellings) == len(set(spellings)), 'a spelling stands for two terms'
    titles = [term.title.lower().rstrip('.') for term in found]
    assert [term.name for term in found if not (NBS/term.lesson).is_file()] == []
    assert all(term.lesson for term in found) and titles == sorted(titles)


def test_the_first_use_of_each_term_is_linked():
    assert list(terms['linked_pages'](ROOT)) == [], 'run tools/terms.py'


TERMS = [terms['Term']('policy', ('policy', 'policies'), '', 'rldf/01_b.ipynb'),
         terms['Term']('policy-gradient', ('policy gradient',), '', ''), terms['Term']('mdp', ('MDP',), '', '')]


def linked(*texts: str, here: str = 'rldf/00_a.ipynb') -> list[str]:
    "The texts behind a first cell, with links to a glossary of three terms, each link written as [term]."
    result = terms['link_terms'](['# Policy'] + list(texts), here, TERMS, 'guides/02_glossary.ipynb')
    assert result[0] == '# Policy'
    return [re.sub(r'\(\.\./guides/02_glossary\.ipynb#[\w-]+\)', '', text) for text in result[1:]]


@pytest.mark.parametrize('text, expected', [
    ('A policy and a policy.', 'A [policy] and a policy.'),
    ('Policies and an MDP, no mdp', '[Policies] and an [MDP], no mdp'),
    ('the policy gradient, the\npolicy\ngradient', 'the [policy gradient], the\npolicy\ngradient'),
    ('a policy\ngradient of a **policy**', 'a [policy\ngradient] of a **[policy]**'),
    ('off-policy, policy-based, policy.py, policy/x', 'off-policy, policy-based, policy.py, policy/x'),
    ("the policy's value.", "the [policy]'s value."),
    ('# A policy\n\n> policy\n\n| policy |\n|---|\n\n    ## policy', '# A policy\n\n> policy\n\n| policy |\n|---|\n\n'
     '    ## [policy]'),
    ('`policy` ``a`policy`` $policy$ $$\npolicy\n$$', '`policy` ``a`policy`` $policy$ $$\npolicy\n$$'),
    ('costs $5 for a policy of $6', 'costs $5 for a [policy] of $6'),
    ('```\npolicy\n```\n~~~\npolicy\n~~~\n- policy', '```\npolicy\n```\n~~~\npolicy\n~~~\n- [policy]'),
    ('[a policy](x.ipynb), [policy][1], ![policy](p.png)\n\n[1]: policy.html', '[a policy](x.ipynb), [policy][1], '
     '![policy](p.png)\n\n[1]: policy.html'),
    ('<b>policy</b> <span title="policy">x</span> <!-- policy -->', '<b>policy</b> <span title="policy">x</span> '
     '<!-- policy -->'),
    ('<details><summary>Hint</summary>\n\nA policy.\n\n</details>\n\nA policy.', '<details><summary>Hint</summary>\n\n'
     'A policy.\n\n</details>\n\nA [policy].'),
    ('<div>\npolicy\n</div>\n\npolicy', '<div>\npolicy\n</div>\n\n[policy]'),
    ('Policy\n------\n\n**Next** policy\n\n**Further reading** policy', 'Policy\n------\n\n**Next** policy\n\n'
     '**Further reading** policy'),
    ('#| export\nA policy.', '#| export\nA policy.'),
    ('1. *policy*\n2. x', '1. *[policy]*\n2. x'),
    ('at https://policy.org/policy', 'at https://policy.org/policy')])
def test_terms_are_linked_in_running_text_alone(text, expected):
    assert linked(text) == [expected]


def test_a_term_is_linked_once_a_page_and_not_where_it_is_introduced():
    assert linked('A policy.', 'A policy, an MDP.') == ['A [policy].', 'A policy, an [MDP].']
    assert linked('A policy, an MDP.', here='rldf/01_b.ipynb') == ['A policy, an [MDP].']
    once = terms['link_terms'](['', 'A policy.', 'MDP'], 'rldf/00_a.ipynb', TERMS, 'guides/02_glossary.ipynb')
    assert once[1] == 'A [policy](../guides/02_glossary.ipynb#policy).'
    assert terms['link_terms'](once, 'rldf/00_a.ipynb', TERMS, 'guides/02_glossary.ipynb') == once
    by_hand = ['', 'A policy.', '[It](../guides/02_glossary.ipynb#policy).']
    assert terms['link_terms'](by_hand, 'rldf/00_a.ipynb', TERMS, 'guides/02_glossary.ipynb') == by_hand


def test_a_bib_file_is_read():
    text = ('% a comment\n@book{b2018,\n  author = {Bee, Ann and {The Team} and others},\n  title = {{A* {B}}},\n'
            '  publisher = {P},\n  year = {2018},\n  url = {https://e.org/(1)},\n}\n\n'
            '@misc{a2017a,\n  author = {Ay, B.},\n'
            '  title = {T},\n  year = {2017}\n}\n')
    found = terms['references'](text)
    assert list(found) == ['b2018', 'a2017a'] and found['a2017a']['title'] == 'T'
    assert terms['entry']('b2018', found['b2018']) == (
        '<a id="b2018"></a>Ann Bee, The Team et al. (2018). [*A\\* B*](https://e.org/%281%29). P.')
    for wrong in (text.replace('b2018', 'Bee18'), text.replace('title = {T}', 'title = "T"'),
                  text.replace('a2017a', 'b2018')):
        with pytest.raises(ValueError, match=r'^references\.bib'):
            terms['references'](wrong)


# --- words

NOT = {  # what style.md and the field's readers would rather not read, with what is meant instead
    r'\bpictures?\b': 'image',
    r'\bpa(?:id|y|ys|ying)\b(?! attention)': 'reward',
    r'\bworth\b': 'value',
    r'\bchances?\b': 'probability, random',
    r'\b(?:un)?luck(?:y)?\b|\bby lot\b': 'random',
    r'\b(?:player|rival|walker)s?\b': 'agent, policy, baseline',
    r'(?<!random )\bwalks?\b|\btrips?\b': 'episode, trajectory',
    r'\bcut off\b': 'truncated',
    r'\bjudged?\b|\bjudges\b': 'evaluator, classifier',
    r'\btastes?\b': 'preference',
    r'\bread straight off\b': 'zero-shot reading',
    r'\b(?:state|label) numbers?\b': 'state index, label index',
    r'\bclear of zero\b': 'the interval excludes zero',
    r'\b(?:generator|model|pipeline|diffusion)s? (?:\w+ )?(?:draws?|drew|drawn)\b': 'generate',
    r'\bpurse\b|\bdear(?:er|est)?\b|\bstranger\b': 'a plain word',
}
NOT_RE = {re.compile(expression, re.IGNORECASE): instead for expression, instead in NOT.items()}
ALLOWED = [  # reviewed uses
    r'weights/judges', r'random walks?', r'walk(?:s|ing|ed)? (?:a|the|all) (?:tree|folder)', r'`[^`]*`',
]


def slips(text: str) -> list[str]:
    "The expressions in a text that have a better one."
    for allowed in ALLOWED:
        text = re.sub(allowed, '', text)
    return [f'{match[0]!r}, better: {instead}' for expression, instead in NOT_RE.items()
            for match in expression.finditer(text)]


@pytest.mark.parametrize('text, number', [
    ('The picture is paid', 2), ('A random walk; `judge(x)`, weights/judges/a', 0), ('By chance a lucky walk', 3),
    ('the generator then draws', 1), ('drawn from the posterior', 0), ('pay attention', 0)])
def test_slips_are_found(text, number):
    assert len(slips(text)) == number


LABELLED = {'set_title', 'set_xlabel', 'set_ylabel', 'title', 'xlabel', 'ylabel', 'suptitle', 'text', 'annotate',
            'set_label'}
LABELS = {'title', 'xlabel', 'ylabel', 'label', 'name', 'titles', 'labels', 'x_label', 'y_label'}


def figure_texts(source: str) -> list[str]:
    "Captions and alternative texts of a cell, and the titles and labels that its code writes into figures."
    found = re.findall(r'^#\| ?fig-(?:cap|alt): "(.*)"$', source, re.MULTILINE)
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic
        return found
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, 'attr', getattr(call.func, 'id', ''))
        parts = call.args if name in LABELLED else []
        parts = [*parts, *(keyword.value for keyword in call.keywords if keyword.arg in LABELS)]
        found += [node.value for each in parts for node in ast.walk(each)
                  if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return found


def test_texts_of_figures_are_found():
    source = '#| fig-cap: "A cap."\nax.set_title(f"{n} runs")\nax.plot(x, label="line")\nax.set(xlabel="step")\nf("no")'
    assert figure_texts(source) == ['A cap.', ' runs', 'line', 'step']


def docstrings(path: Path) -> dict[str, str]:
    "The docstrings of the public names of a module."
    tree, found = ast.parse(path.read_text(encoding='utf-8')), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_'):
            found[f'{path.stem}.{node.name}'] = ast.get_docstring(node) or ''
    return found


def report(texts: dict[str, str]) -> dict[str, list[str]]:
    "The slips, by place."
    return {where: found for where, text in texts.items() if (found := slips(text))}


@pytest.mark.parametrize('name', NAMES)
def test_words_of_headings_and_figures(name):
    texts = {heading: heading for text in markdown(cells(name))
             for heading in re.findall(r'^(?:#{1,6} |> )(.+)$', text, re.MULTILINE)}
    texts |= {f'figure {i}: {text}': text for i, cell in enumerate(cells(name)) if cell['cell_type'] == 'code'
              for text in figure_texts(cell['source'])}
    assert report(texts) == {}


def test_words_of_docstrings():
    assert report({name: text for path in sorted((ROOT/'rlgen').rglob('*.py'))
                   for name, text in docstrings(path).items()}) == {}


def test_words_of_the_front_page():
    front = '\n'.join(markdown(cells('index.ipynb')))
    assert report({line: line for line in front.splitlines() if line.startswith(('#', '|', '>'))}) == {}
