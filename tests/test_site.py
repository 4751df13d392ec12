"""The documentation site: what nbdev runs for it, its pages and links, its navigation and its reference.

Quarto is not needed: what Quarto would render is made by nbdev, on a copy, and looked at here.
"""
import ast
import json
import os
import posixpath
import re
import runpy
import shutil
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from fastcore.nbio import read_nb
from forks import Process
from site_pages import entries, page_markdown, search
from test_notebooks import NBS, NOTEBOOKS, ROOT, copy_project

from rlgen._site import LIVE, below_title, front_page

SETTINGS = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['tool']['nbdev']
FLAGS = SETTINGS['tst_flags'].split()  # of cells that the tests leave out
DIRECTIVE = re.compile(r'^[ \t]*#\|[ \t]*([\w-]+):?[ \t]*(.*)$', re.MULTILINE)
MAGIC = re.compile(r'^\s*[%!?]')
IMPORTS = ast.Import | ast.ImportFrom
LINK = re.compile(r'\]\(<?([^)>\s]+)|\b(?:href|src)="([^"]+)"|^ *\[[^]^\n][^]\n]*\]: +(\S+)', re.MULTILINE)
CODE = re.compile(r'^ *(```|~~~).*?^ *\1|(`+)(?!`).*?[^`]\2(?!`)', re.MULTILINE | re.DOTALL)
EXPLICIT = re.compile(r'\{#([^\s}]+)[^}]*\}|\b(?:id|name)="([^"]+)"')


def problem(
    source: str,  # of a code cell
) -> str:         # a sentence, or nothing
    """What keeps a cell off the site, or breaks the site.

    For the site nbdev runs, in a fresh shell, each exported cell, each cell with an import in it, and cells with
    `show_doc` or `#| exec_doc`; no other cell, so those have to do without what others define. It cannot parse a cell
    with a magic, and leaves it out with the imports that it holds. `#| slow` and its like mean nothing to it;
    `#| eval: false` does, and it knows its own `nbdev_export()`.
    """
    directives = {name: value for name, value in DIRECTIVE.findall(source)}
    exported = bool(directives.keys() & {'export', 'exports', 'exporti'})
    if directives.get('eval') == 'false' or 'nbdev_export()' in source:
        return ''
    try:
        body = ast.parse(source).body
    except SyntaxError:
        lines = [line for line in source.splitlines() if line.strip() and not line.strip().startswith('#')]
        if not any(MAGIC.match(line) for line in lines):
            return 'Its code cannot be parsed.'
        if lines[0].startswith('%%'):
            lines = [line for line in lines if re.match(r'\s*(import|from)\b', line)]
            return 'An import in a cell with a magic is left out.' if lines or exported else ''
        return '' if all(MAGIC.match(line) for line in lines) else 'A magic stands beside other code.'
    imports = any(isinstance(node, IMPORTS) for tree in body for node in ast.walk(tree))
    flags = directives.keys() & set(FLAGS)
    if flags and (imports or exported):
        why = 'is exported' if exported else 'has an import'
        return f'A cell flagged {min(flags)} is run for the site, because it {why}.'
    functions = [tree for tree in body if isinstance(tree, ast.FunctionDef) and not tree.decorator_list]
    # A function may import what it needs: for the site it is defined, not called.
    if imports and not exported and not all(isinstance(tree, IMPORTS) or tree in functions for tree in body):
        return 'An import stands beside other code.'
    return ''


def end_problem(
    sources: list[str],  # of all cells
) -> str:                # a sentence, or nothing
    "nbdev looks for the heading of a cell that is exported and shown in the cell behind it, and fails without one."
    shown = [source for source in sources if source.strip() and not
             {'hide', 'export', 'exporti', 'default_exp'} & {name for name, _ in DIRECTIVE.findall(source)}]
    if not shown or 'exports' not in [name for name, _ in DIRECTIVE.findall(shown[-1])]:
        return ''
    names = [node.name for node in ast.parse(shown[-1]).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    if any(not name.startswith('_') for name in names):
        return ''
    return 'The last cell that is shown is exported and defines no public function or class: let a text follow.'


@pytest.mark.parametrize('source, bad', [
    ('import os\nfrom pathlib import Path', False),
    ('#| hide\nimport os  # for paths', False),
    ('world = World()', False),
    ('import os\nworld = World()', True),
    ('def f():\n    import os', False),
    ('@cached\ndef f():\n    import os', True),
    ('if FULL:\n    import os', True),
    ('#| export\nimport os\nHERE = os.getcwd()', False),
    ('#| exports\ndef f():\n    import os', False),
    ('#| slow\nf()', False),
    ('#| slow\nimport os', True),
    ('#| gpu\n#| export\nX = 1', True),
    ('#| eval: false\nimport os\nf()', False),
    ('#| hide\nimport nbdev; nbdev.nbdev_export()', False),
    ('%matplotlib inline', False),
    ('# figures\n%matplotlib inline\n%config X = 1', False),
    ('%matplotlib inline\nimport os', True),
    ('import os\n%matplotlib inline', True),
    ('x = 1\n!ls', True),
    ('%%time\nf()', False),
    ('%%time\nimport os', True),
    ('x = (7\n    % 3)', False),
    ('def f(:', True)])
def test_cells_that_break_the_site_are_recognised(source, bad):
    assert bool(problem(source)) == bad


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_cells_are_fit_for_the_site(name):
    cells = json.loads((NBS/name).read_text(encoding='utf-8'))['cells']
    found = {i: problem(''.join(cell['source'])) for i, cell in enumerate(cells) if cell['cell_type'] == 'code'}
    found['end'] = end_problem([''.join(cell['source']) for cell in cells])
    assert {i: text for i, text in found.items() if text} == {}


@pytest.mark.parametrize('sources, bad', [
    (['#| exports\ndef f(): pass', '#| hide\nimport nbdev; nbdev.nbdev_export()'], False),
    (['#| exports\ndef _f(): pass', '#| hide\nimport nbdev; nbdev.nbdev_export()'], True),
    (['#| exports\nX = 1', '#| export\nY = 1'], True),
    (['#| exports\nX = 1', 'f()'], False),
    (['#| export\nX = 1'], False)])
def test_ends_that_break_the_site_are_recognised(sources, bad):
    assert bool(end_problem(sources)) == bad


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_formulas_are_written_with_one_backslash(name):
    cells = json.loads((NBS/name).read_text(encoding='utf-8'))['cells']
    text = '\n'.join(CODE.sub('', ''.join(cell['source'])) for cell in cells if cell['cell_type'] == 'markdown')
    assert re.findall(r'\$[^$\n]*?\\\\[a-z]{2,}[^$\n]*\$', text) == []


def test_everything_made_from_the_lessons_is_in_step():
    tool = runpy.run_path(str(ROOT/'tools'/'lessons.py'))
    order = tool['tracks'](NBS)
    assert tool['renames'](NBS, order) == {}, 'run tools/lessons.py'
    assert (NBS/'_quarto.yml').read_text(encoding='utf-8') == tool['quarto'](ROOT, order), 'run tools/lessons.py'
    pages = runpy.run_path(str(ROOT/'tools'/'reference.py'))['pages'](ROOT)
    assert {path.name: path.read_text(encoding='utf-8') for path in (NBS/'reference').glob('*')} == pages, \
        'run tools/lessons.py'


def leaves(item) -> list[str]:
    "The pages that a part of the sidebar names."
    if isinstance(item, str):
        return [item]
    return [leaf for entry in (item['contents'] if isinstance(item, dict) else item) for leaf in leaves(entry)]


def test_the_sidebar_names_every_page():
    sidebar = yaml.safe_load((NBS/'_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']
    reference = [path.relative_to(NBS).as_posix() for path in (NBS/'reference').glob('*.md')]
    made = [path.relative_to(NBS).as_posix().removesuffix('.py') for path in (NBS/'site').glob('*.qmd.py')]
    assert sorted(leaves(sidebar)) == sorted(NOTEBOOKS + reference + made)


def test_the_navbar_names_the_pages_for_people():
    navbar = yaml.safe_load((NBS/'_quarto.yml').read_text(encoding='utf-8'))['website']['navbar']
    targets = [item['href'] for item in navbar['left']]
    assert [item['text'] for item in navbar['left']] == ['Install', 'Learn', 'Guides', 'Reference', 'Results', 'About']
    assert [name for name in targets if not (NBS/name).exists() and not (NBS/f'{name}.py').exists()] == []
    made = {path.name.removesuffix('.py') for path in NBS.glob('*.qmd.py')}
    assert made <= set(targets), 'a page that nobody can find'


def test_pages_for_people_are_parts_of_the_front_page():
    learn, about = front_page('Start', 'RLDF: from an image to its prompt'), front_page('', 'Papers')
    assert learn.startswith('## Start\n') and '(/start/00_be_the_agent.ipynb)' in learn and '### ' not in learn
    assert about.startswith('`rlgen` is') and '## Papers' in about and '(/site/search.gif)' in about
    assert not re.search(r'\]\((?![a-z]+:|/)', learn + about) and (learn + about).isascii()
    with pytest.raises(ValueError, match="no section 'Prices'; it has Install, "):
        front_page('Prices')


def test_sections_are_ranked_as_the_search_ranks_them():
    rows = [('A', 'Start', 'how to begin, with PPO ' * 9), ('PPO', 'Loss', ''), ('A', 'The PPO loss', ''),
            ('A', 'B', '')]
    found = [{'page': str(i), 'title': title, 'section': section, 'text': text}
             for i, (title, section, text) in enumerate(rows)]
    assert [entry['page'] for entry in search(found, 'ppo')] == ['1', '2', '0']


def test_files_that_the_settings_name_exist():
    text = (NBS/'_quarto.yml').read_text(encoding='utf-8')
    files = re.findall(r'\bsite/[\w.]+', text.split('# lessons:')[0])
    assert len(files) > 4 and [name for name in files if not (NBS/name).exists()] == []


def process_notebooks():
    "What the command nbdev-proc-nbs does, in this process, with `rlgen` from the working tree."
    # Without a Quarto, nbdev would download one and install it.
    os.environ.update(PYTHONPATH=str(ROOT), IPYTHONDIR=str(Path('.ipython').resolve()),
                      PATH=f'{Path("bin").resolve()}{os.pathsep}{os.environ["PATH"]}')
    sys.path.insert(0, str(ROOT))
    from nbdev import config
    from nbdev.quarto import nbdev_proc_nbs
    config._load_toml = cache(config._load_toml)  # nbdev reads its settings for each cell, which takes most of the time
    nbdev_proc_nbs(n_workers=0)


def process(project: Path) -> tuple[int, str, str]:  # exit status, output, error stream
    "Processes the notebooks of `project`, with a Quarto that does nothing."
    quarto = project/'bin'/('quarto.bat' if os.name == 'nt' else 'quarto')
    quarto.parent.mkdir()
    quarto.write_text('' if os.name == 'nt' else '#!/bin/sh\n')
    quarto.chmod(0o755)
    return Process(process_notebooks, folder=project).wait()


def slug(heading: str) -> str:
    "The anchor that Pandoc gives a heading."
    text = re.sub(r'!?\[([^]]*)\]\([^)]*\)', r'\1', heading)
    text = re.sub(r'[^\w\s.-]', '', re.sub(r'\{[^}]*\}', '', text).replace('`', '').replace('*', ''))
    return re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', text.strip().lower())) or 'section'


def read_page(path: Path) -> tuple[str, set[str]]:
    "What a processed page says outside code, and the anchors in it."
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.ipynb':
        parts = []
        for cell in json.loads(text)['cells']:
            parts += [''.join(cell['source'])] if cell['cell_type'] == 'markdown' else []
            parts += [''.join(output['data']['text/markdown']) for output in cell.get('outputs', [])
                      if 'text/markdown' in output.get('data', {})]
        text = '\n\n'.join(parts)
    shown = re.sub(r'^ *(```|~~~).*?^ *\1.*?$', '', text, flags=re.MULTILINE | re.DOTALL)
    slugs = [slug(heading) for heading in re.findall(r'^#{1,6} +(.+?) *#*$', shown, re.MULTILINE)]
    anchors = {f'{name}-{n}' if (n := slugs[:i].count(name)) else name for i, name in enumerate(slugs)}
    return CODE.sub('', text), anchors | {a or b for a, b in EXPLICIT.findall(shown)}


def output_name(page: str) -> str:
    "The address of a page, as nbdev and Quarto give it."
    folder, name = posixpath.split(page)
    stem, suffix = posixpath.splitext(name)
    stem = re.sub(r'^\d+[a-zA-Z0-9]*_', '', stem.lower()) if suffix == '.ipynb' else stem
    return posixpath.join(folder, f'{stem}.html')


def dead_links(site: Path) -> list[str]:
    "The links of processed pages that lead nowhere."
    files = [path.relative_to(site).as_posix() for path in site.rglob('*') if path.is_file()]
    pages = {name: read_page(site/name) for name in files if name.endswith(('.ipynb', '.md', '.qmd'))}
    anchors = {address: found for name, (_, found) in pages.items() for address in (name, output_name(name))}
    dead = []
    for name, (text, _) in pages.items():
        for link in (a or b or c for a, b, c in LINK.findall(text)):
            if re.match(r'[a-z]+:', link):
                continue
            path, _, anchor = link.partition('#')
            folder = '/' if path.startswith('/') else posixpath.dirname(name)
            target = posixpath.normpath(posixpath.join(folder, path)).lstrip('/') if path else name
            if target not in anchors and target not in files:
                dead.append(f'{name}: {link}')
            elif anchor and anchor not in anchors.get(target, set()):
                dead.append(f'{name}: {link} (no such anchor)')
    return dead


def test_dead_links_are_found(tmp_path):
    (tmp_path/'a.md').write_text(
        '# A `b_c`, d!\n\n[]{#x.y}[1](b.md), [2](b.md#in-b), [3](#a-b_c-d), [4](#x.y), [5](b.html#in-b-1)\n'
        '[6](c.md), [7](b.md#nothing), [8](#in-b), `[9](c.md)`, [10](https://example.org/c), [11](/b.md)\n'
        '```\n[12](c.md)\n# Code\n```\n[13]: c.png\n')
    (tmp_path/'b.md').write_text('## In b\n## In b\n')
    assert dead_links(tmp_path) == ['a.md: c.md', 'a.md: b.md#nothing (no such anchor)',
                                    'a.md: #in-b (no such anchor)', 'a.md: c.png']


def test_the_site_is_processed_and_its_links_lead_somewhere(tmp_path):
    copy_project(tmp_path)
    for name in ('CHANGELOG.md', 'CONTRIBUTING.md'):
        shutil.copy(ROOT/name, tmp_path)
    status, _, err = process(tmp_path)
    assert status == 0, err[-5000:]
    assert 'Found cells containing imports' not in err
    site = tmp_path/'_proc'
    assert {path.relative_to(site).as_posix() for path in site.rglob('*.ipynb')} == set(NOTEBOOKS)
    assert (site/'site'/'changelog.qmd').exists() and (site/'404.qmd').exists()
    assert '__main__.' not in ''.join(path.read_text(encoding='utf-8') for path in site.rglob('*.ipynb'))
    assert dead_links(site) == []
    for name in NOTEBOOKS:  # nbdev makes the title of the first cell, and drops what stands below it
        text = below_title(read_nb(NBS/name))
        words = re.split(r'[^\w ]', text)[-1].strip() or max(re.split(r'[^\w ]', text), key=len)
        assert words in page_markdown(site/name)[1], f'{name} has lost "{words}"'
    found = entries(site)
    assert search(found, 'how to install')[0]['page'] == 'install.qmd'
    first = search(found, 'QLearning')[0]
    assert first['section'] == 'QLearning' and first['page'].endswith('_tabular.ipynb')
    assert search(found, 'SemanticGrid')[0]['title'] in ('SemanticGrid (environment)', 'The semantic grid')
    for path in [path for path in site.rglob('*') if path.suffix in ('.ipynb', '.md', '.qmd')]:
        front, text = page_markdown(path)
        assert str(front.get('title', '')).strip() and str(front.get('description', '')).strip(), path.name
        outside = re.sub(r'^ *(```+|~~~).*?^ *\1', '', text, flags=re.MULTILINE | re.DOTALL)
        assert re.findall(r'^# .*', outside, re.MULTILINE) == [], path.name
        assert re.findall(r'!\[\s*\]\([^)]*\)(?!\{alt="[^"])', text) == [], f'{path.name}: an image without alt text'


def test_the_site_shows_code_as_it_is_written(tmp_path):
    copy_project(tmp_path, only='index.ipynb')
    sources = ['#| default_exp small', '#| export\nfrom dataclasses import dataclass', '''#| export
@dataclass
class Settings:
    "What a run needs."
    steps: int = 10  # of the search
    name: str | None = None

class Walk:
    "A walk."
    def __init__(self, settings: Settings, seed=None):
        self.settings = settings

    def run(self, steps: int = 3) -> list[Settings]:
        "Runs it."''', '''#| exports
def walk(settings: Settings,  # what is needed
         seed=None) -> "Later":
    "Walks."

class Rest:
    def sit(self): pass''']
    cells = [{'cell_type': 'code', 'execution_count': None, 'id': f'c{i}', 'metadata': {}, 'outputs': [],
              'source': source} for i, source in enumerate(sources)]
    cells.append({'cell_type': 'markdown', 'id': 'm', 'metadata': {},
                  'source': '[a](../CHANGELOG.md), [b](../settings.ini), [`_c`](x.html#_c)'})
    html = {'output_type': 'display_data', 'metadata': {}, 'data': {'text/html': '<b>x</b>', 'text/plain': 'x'}}
    live = {'output_type': 'display_data', 'metadata': {}, 'data': {'application/vnd.jupyter.widget-view+json': {}}}
    tagged = {'tags': ['skip-execution']}
    cells += [{'cell_type': 'code', 'execution_count': None, 'id': f'p{i}', 'metadata': tagged, 'outputs': [],
               'source': source} for i, source in enumerate(['made = Panel()\nmade', 'made = Panel()'])]
    cells.append({'cell_type': 'markdown', 'id': 'e', 'metadata': {}, 'source': '$$a = b \\tag{3}$$'})
    cells.append({'cell_type': 'code', 'execution_count': None, 'id': 'o', 'metadata': {}, 'outputs': [html, live],
                  'source': 'walk()'})
    notebook = {'cells': cells, 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5}
    first = '# Small\n\n> A page\n\n**You need** $1\\tag{2}$ and a list:\n\n- one'
    cells.insert(0, {'cell_type': 'markdown', 'id': 'f', 'metadata': {}, 'source': first})
    (tmp_path/'nbs'/'00_small.ipynb').write_text(json.dumps(notebook), encoding='utf-8')
    for path in [*(tmp_path/'nbs').rglob('*.py'), tmp_path/'nbs'/'index.ipynb']:
        path.unlink()
    status, _, err = process(tmp_path)
    assert status == 0, err
    cells = json.loads((tmp_path/'_proc'/'00_small.ipynb').read_text(encoding='utf-8'))['cells']
    assert 'title: Small' in ''.join(cells[0]['source']) and 'description: A page' in ''.join(cells[0]['source'])
    assert ''.join(cells.pop(2)['source']) == '**You need** $1\\qquad \\text{(2)}$ and a list:\n\n- one'
    del cells[0]
    shown = [''.join(output['data'].get('text/markdown', '')).strip() or ''.join(cell['source'])
             for cell in cells for output in cell.get('outputs', []) or [{'data': {}}]]
    # Of hidden code the signature, docstring and methods; of code that is shown the headings, then the code.
    assert sorted(shown[1:3]) == [
        '---\n\n### Settings\n\n```python\n@dataclass\nclass Settings:\n    steps: int = 10  # of the search\n'
        '    name: str | None = None\n```\n\nWhat a run needs.',
        '---\n\n### Walk\n\n```python\nclass Walk:\n    def __init__(self, settings: Settings, seed=None):\n```\n\n'
        'A walk.\n\n- []{#walk.run}`run(self, steps)`: Runs it.']
    assert shown[3:5] == ['### walk', '### Rest\n\n[]{#rest.sit}'] and 'def walk(' in shown[5]
    assert shown[6] == '[a](/site/changelog.qmd), b, `_c`'
    assert shown[7:] == [LIVE.strip(), 'made = Panel()', '$$a = b \\qquad \\text{(3)}$$',
                         '```{=html}\n<b>x</b>\n```', LIVE.strip()]
