"""How the documentation site shows code and links; for nbdev alone (`renderer` and `doc_procs` in pyproject.toml).

For the site nbdev runs the exported cells of a notebook in `__main__` and asks Python for their signatures. By itself
it would print `__main__.Settings`, take the type of a parameter from its default (`NoneType=None`), and leave out the
comments of a dataclass, whose source it looks for in a module. Here a signature is the text of the notebook.
"""
import ast
import inspect
import posixpath
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

from IPython import get_ipython
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor
from nbdev.showdoc import showdoc_nm

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
DEFINITIONS = FUNCTIONS | ast.ClassDef
PAGES = {'CHANGELOG.md': '/site/changelog.qmd', 'CONTRIBUTING.md': '/site/contributing.qmd'}  # of files outside nbs/

_private = re.compile(r'\[(`(?:\w+\.)*_\w+(?:\(\))?`)\]\([^)]*\)')  # a name with a link around it
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


def static_outputs(cell: Any):
    "Leaves out live widgets, and makes HTML part of the page: for both Quarto would load scripts from other hosts."
    if 'outputs' in cell:
        cell.outputs = [output for output in cell.outputs
                        if 'application/vnd.jupyter.widget-view+json' not in output.get('data', {})]
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


class MendedLinks(Processor):
    "Mends what a notebook links to outside nbs/, and takes back the links of private names, which have no heading."
    def begin(self):
        self.folder = Path(self.nb.path_).resolve().parent.relative_to(get_config().config_path.resolve()).as_posix()

    def cell(self, cell):
        if cell.cell_type == 'markdown':
            cell.source = _private.sub(r'\1', relinked(cell.source, self.folder))
        for output in cell.get('outputs', []):
            if text := output.get('data', {}).get('text/markdown'):
                output['data']['text/markdown'] = _private.sub(r'\1', ''.join(text))


def project_page(
    name: str,  # of a Markdown file of the project
) -> str:
    "Its text as a page of the site: without its title, and in ASCII, since nbdev writes it in the system's encoding."
    text = (get_config().config_path/name).read_text(encoding='utf-8')
    return relinked(re.sub(r'\A# .*\n+', '', text), '').encode('ascii', 'xmlcharrefreplace').decode()
