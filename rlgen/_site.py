"""How the documentation site shows code and links; for nbdev alone (`renderer` and `doc_procs` in pyproject.toml).

For the site nbdev runs the exported cells of a notebook in `__main__` and asks Python for their signatures. By itself
it would print `__main__.Settings`, take the type of a parameter from its default (`NoneType=None`), and leave out the
comments of a dataclass, whose source it looks for in a module. Here a signature is the text of the notebook.
"""
import ast
import inspect
import json
import posixpath
import re
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

from fastcore.nbio import NbCell, read_nb
from IPython import get_ipython
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor
from nbdev.processors import add_links
from nbdev.showdoc import showdoc_nm

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
DEFINITIONS = FUNCTIONS | ast.ClassDef
PAGES = {'CHANGELOG.md': '/site/changelog.qmd', 'CONTRIBUTING.md': '/site/contributing.qmd'}  # of files outside nbs/
IN_BROWSER = (  # pages that need no PyTorch; tools/lite.py makes their site, tests/test_lite.py runs them
    'start/one_decision', 'start/looking_ahead', 'start/learning_without_the_map', 'start/when_the_reward_is_wrong',
    'rldf/grammar', 'rldf/tabular', 'rldf/planning', 'rldf/black_box')
LIVE = '::: {.live-panel}\nThis panel is live when you run the notebook: [how to install it](/install.qmd).\n:::\n'

_private = re.compile(r'\[(`(?:\w+\.)*_\w+(?:\(\))?`)\]\([^)]*\)')  # a name with a link around it
_directives = re.compile(r'\A(?:#\|.*\n)+')  # of a cell of text, such as that of the README
_tag = re.compile(r'\\tag\{([^}]*)\}')
_link = re.compile(r'\[((?:[^][]|\[[^][]*\])*)\]\((?![a-z]+:|[#/])([^)\s#]+)([^)]*)\)')


def definition(
    symbol: Any,  # a function or a class, of a module or of a cell
) -> tuple[str, DEFINITIONS] | None:
    "The source that holds the definition of `symbol`, and the definition; OSError or TypeError if there is no source."
    if inspect.isclass(symbol) and symbol.__module__ == '__main__':  # Python knows no file of it, but IPython the cell
        for source in reversed(get_ipython().user_ns['In']):
            try:
                body = ast.parse(source).body
            except SyntaxError:
                continue
            for node in body:
                if isinstance(node, ast.ClassDef) and node.name == symbol.__name__:
                    return source, node
        return None
    source = dedent(inspect.getsource(inspect.unwrap(symbol)))
    found = ast.parse(source).body[0]
    return (source, found) if isinstance(found, DEFINITIONS) else None


def first_line(node: ast.stmt) -> int:
    "The line, counted from 1, on which a statement begins, decorators included."
    return min([node.lineno] + [decorator.lineno for decorator in getattr(node, 'decorator_list', [])])


def head(
    lines: list[str],   # of the source
    node: DEFINITIONS,  # a definition in it
    start: int,         # where to begin: its first line, or that of its decorators
) -> str:
    "A definition up to its body, comments behind its parameters included."
    body = node.body[0]
    stop = first_line(body) - 1
    before = lines[stop].encode()[:body.col_offset].decode()  # what stands on the same line, in `def f(x): return x`
    return '\n'.join(lines[start - 1:stop] + ([before] if before.strip() else [])).rstrip()


def signature(
    source: str,        # what holds the definition
    node: DEFINITIONS,  # the definition
) -> str:
    "What is needed to call a function or to make an object: of a class its fields, with comments, and its `__init__`."
    lines = source.splitlines()
    if not isinstance(node, ast.ClassDef):
        return dedent(head(lines, node, node.lineno))
    below = [child for child in node.body if isinstance(child, DEFINITIONS)]
    fields = [child for child in node.body[ast.get_docstring(node) is not None:] if child not in below]
    parts = [head(lines, node, first_line(node))]
    if fields and not isinstance(fields[0], ast.Pass):
        start = node.body[0].end_lineno or 0 if ast.get_docstring(node) else fields[0].lineno - 1
        stop = first_line(below[0]) - 1 if below else node.end_lineno or len(lines)
        parts += ['\n'.join(lines[start:stop]).strip('\n').rstrip()] if start < stop else []
    return '\n'.join(parts + [head(lines, child, child.lineno) for child in below if child.name == '__init__'])


def methods(node: DEFINITIONS) -> str:
    "A list of the public methods of a class, each with the anchor to which nbdev links its name."
    lines = []
    for child in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(child, FUNCTIONS) and not child.name.startswith('_'):
            child.args.defaults, child.args.kw_defaults = [], [None] * len(child.args.kwonlyargs)
            for argument in ast.walk(child.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
            is_property = any('property' in ast.unparse(decorator) for decorator in child.decorator_list)
            call = f'self.{child.name}' if is_property else f'{child.name}({ast.unparse(child.args)})'
            about = ' '.join((ast.get_docstring(child) or '').split('\n\n')[0].split())
            anchor = f'{node.name}.{child.name}'.lower()
            lines.append(f'- []{{#{anchor}}}`{call}`' + (f': {about}' if about else ''))
    return '\n'.join(lines)


class SourceRenderer:
    "What `show_doc` shows of a function or a class: its signature as it is written, its docstring, and its methods."

    def __init__(
        self,
        symbol: Any,              # the function or class
        name: str | None = None,  # to show instead of its own
        title_level: int = 3,     # of the heading
    ):
        symbol = symbol.fget if isinstance(symbol, property) else symbol
        full_name = getattr(symbol, '__qualname__', type(symbol).__name__)
        self.title = f'{"#" * title_level} {name or full_name}'
        module = getattr(symbol, '__module__', '__main__')
        self.full_name = full_name if module == '__main__' else f'{module}.{full_name}'
        try:
            found = definition(symbol)
        except (OSError, TypeError):
            found = None
        self.parts = []
        if found:
            self.parts = [f'```python\n{signature(*found)}\n```', ast.get_docstring(found[1]), methods(found[1])]

    def _repr_markdown_(self) -> str:
        source = NbdevLookup().code(self.full_name) if get_config().git_url else ''
        link = f'[source]({source}){{target="_blank" style="float:right; font-size:smaller"}}' if source else ''
        return '\n\n'.join(filter(None, ['---', link, self.title, *self.parts]))


class ShownSource(Processor):
    "Before a cell that is exported and shown, only the headings of what it defines: the rest is in its source."
    def begin(self):
        docs = {match[1]: cell for cell in self.nb.cells if getattr(cell, 'has_sd', False)
                for match in [re.search(r'^show_doc\((.*)\)$', cell.source, re.MULTILINE)]}
        for cell in [cell for cell in self.nb.cells if cell.cell_type == 'code' and 'exports' in cell.directives_]:
            defined = [node for node in ast.parse(cell.source).body if isinstance(node, DEFINITIONS)]
            headings = [docs[name] for name in map(showdoc_nm, defined) if name in docs]
            for heading in headings:
                self.nb.cells.remove(heading)
                for output in heading.outputs:
                    title, _, rest = ''.join(output['data']['text/markdown']).partition('```python')
                    anchors = ''.join(re.findall(r'\[\]\{#[^}]+\}', rest))
                    output['data']['text/markdown'] = title.removeprefix('---\n\n') + anchors
            at = self.nb.cells.index(cell)
            self.nb.cells[at:at] = headings


def shows_panel(cell: Any) -> bool:
    "Whether a cell shows live widgets: it has such an output, or it is skipped by nbconvert and ends with a name."
    if any('application/vnd.jupyter.widget-view+json' in output.get('data', {}) for output in cell.get('outputs', [])):
        return True
    lines = cell.source.rstrip().splitlines()
    return 'skip-execution' in cell.metadata.get('tags', []) and bool(lines) and lines[-1].isidentifier()


def static_outputs(cell: Any):
    """Makes HTML part of the page, and puts a line in the place of live widgets.

    For both Quarto would load scripts from other hosts.
    """
    if 'outputs' in cell:
        is_live = shows_panel(cell)
        cell.outputs = [output for output in cell.outputs
                        if 'application/vnd.jupyter.widget-view+json' not in output.get('data', {})]
        if is_live:
            cell.outputs.append({'output_type': 'display_data', 'metadata': {}, 'data': {'text/markdown': LIVE}})
        for output in cell.outputs:
            if html := output.get('data', {}).pop('text/html', None):
                output['data']['text/markdown'] = f'```{{=html}}\n{"".join(html).strip()}\n```\n'


def relinked(
    text: str,    # Markdown
    folder: str,  # where its file is, in the project
) -> str:
    "The text with links to files outside nbs/ as the site needs them: to its own page, to the repository, or none."
    config = get_config()

    def link(match):
        words, path, rest = match.groups()
        target = posixpath.normpath(posixpath.join(folder, path))
        if target.startswith('nbs/'):
            return match[0] if folder.startswith('nbs') else f'[{words}](/{target.removeprefix("nbs/")}{rest})'
        if target in PAGES:
            return f'[{words}]({PAGES[target]}{rest})'
        return f'[{words}]({config.git_url}/blob/{config.branch}/{target}{rest})' if config.git_url else words
    return _link.sub(link, text)


def below_title(notebook: Any) -> str:
    "What the cell with the title says below title and subtitle."
    text = next((cell.source for cell in notebook.cells
                 if cell.cell_type == 'markdown' and re.search(r'^# ', cell.source, re.MULTILINE)), '')
    below = re.split(r'^# [^\n]*\n?', text, maxsplit=1, flags=re.MULTILINE)[-1]
    return re.sub(r'\A\s*(?:> [^\n]*\n?)*', '', below).strip()


def without_number(
    page: str,  # path of a notebook in nbs/
) -> str:
    "The name of a page: start/one_decision."
    return re.sub(r'(^|/)\d+_', r'\1', page).removesuffix('.ipynb')


def run_links(
    page: str,             # path of a notebook in nbs/
    browser: bool,         # whether the site for the browser is made, too
    repository: str = '',  # address on GitHub, if any
    branch: str = 'main',
) -> str:                  # Markdown; empty if there is none
    "Links that open a page where its code runs: in the browser, and in Colab."
    links = []
    if browser and without_number(page) in IN_BROWSER:
        links.append(f'[Run in your browser]({"../" * page.count("/")}lite/notebooks/index.html?path={page})')
    if '//github.com/' in repository:
        path = repository.rstrip('/').removesuffix('.git').partition('//github.com/')[2]
        links.append(f'[Open in Colab](https://colab.research.google.com/github/{path}/blob/{branch}/nbs/{page}) '
                     f'(first run `%pip install git+https://github.com/{path}`)')
    return '::: {.run-links}\n' + ' · '.join(links) + '\n:::' if links else ''


class MendedLinks(Processor):
    """Mends what a notebook links to outside nbs/, and takes back the links of private names, which have no heading.

    It also brings back what stands below title and subtitle in the first cell: nbdev makes the title of the page from
    that cell, and drops the rest. Numbers of equations become part of the formulas: Pandoc reads no tag in them, and
    would show the formula as TeX.
    """
    def begin(self):
        path, config = Path(self.nb.path_).resolve(), get_config()
        self.folder = path.parent.relative_to(config.config_path.resolve()).as_posix()
        page = path.relative_to(config.nbs_path.resolve()).as_posix()
        browser = find_spec('jupyterlite_core') is not None  # or the link would lead nowhere
        links = run_links(page, browser, config.git_url, config.branch)
        if text := '\n\n'.join(filter(None, [links, below_title(read_nb(path))])):
            at = next((i for i, cell in enumerate(self.nb.cells)
                       if cell.cell_type != 'raw' and not cell.source.startswith('<!-- WARNING')), len(self.nb.cells))
            cell = NbCell(at, {'cell_type': 'markdown', 'metadata': {}, 'source': text})
            add_links(cell)
            self.nb.cells.insert(at, cell)

    def cell(self, cell):
        if cell.cell_type == 'markdown':
            text = _tag.sub(r'\\qquad \\text{(\1)}', _directives.sub('', cell.source))
            cell.source = _private.sub(r'\1', relinked(text, self.folder))
        for output in cell.get('outputs', []):
            if text := output.get('data', {}).get('text/markdown'):
                output['data']['text/markdown'] = _private.sub(r'\1', ''.join(text))


def project_page(
    name: str,  # of a Markdown file of the project
) -> str:
    "Its text as a page of the site: without its title, and in ASCII, since nbdev writes it in the system's encoding."
    text = (get_config().config_path/name).read_text(encoding='utf-8')
    return relinked(re.sub(r'\A# .*\n+', '', text), '').encode('ascii', 'xmlcharrefreplace').decode()


def front_page(
    *titles: str,  # of sections, of either level; "" is what stands before the first one
) -> str:
    "Sections of the front page, as a page of the site; in ASCII, too. ValueError if there is none of that title."
    notebook = json.loads((get_config().config_path/'nbs'/'index.ipynb').read_text(encoding='utf-8'))
    cells = [''.join(cell['source']) for cell in notebook['cells'] if cell['cell_type'] == 'markdown']
    text = '\n\n'.join(cell.removeprefix('#| export\n') for cell in cells[1:])
    found = {'': text.split('\n## ')[0]}
    for level in ('##', '###'):
        for part in re.split(rf'^{level} ', text, flags=re.MULTILINE)[1:]:
            title, _, body = part.partition('\n')
            found[title.strip()] = re.split(rf'^#{{1,{len(level)}}} ', body, flags=re.MULTILINE)[0]
    if missing := [title for title in titles if title not in found]:
        raise ValueError(f'The front page has no section {missing[0]!r}; it has {", ".join(filter(None, found))}.')
    parts = [(f'## {title}\n\n' if title and len(titles) > 1 else '') + found[title].strip() for title in titles]
    inside = _link.sub(r'[\1](nbs/\2\3)', '\n\n'.join(parts))
    return relinked(inside, '').encode('ascii', 'xmlcharrefreplace').decode()
