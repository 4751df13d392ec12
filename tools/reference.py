"""Writes the API reference, nbs/reference/*.md: a page for each package of rlgen/, and one for its other modules.

A page lists the public names of its modules, each with the first paragraph of its docstring and a link to the lesson
that documents it. The modules are read, not imported. `python tools/lessons.py` runs this too. The pages of the
environments, env-*.md, are from tools/environments.py; here they are only listed.
"""
import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_comment = re.compile(r'^[^\'"#]*#\s*(.*)$')  # behind a line without strings


def lessons(nbs: Path) -> dict[str, tuple[str, str]]:
    "The notebook of each module, as a path in `nbs`, and its title, by the module's name without the package's."
    found = {}
    for path in sorted(nbs.rglob('*.ipynb')):
        if any(part[0] in '._' for part in path.relative_to(nbs).parts):
            continue
        sources = [''.join(cell['source']) for cell in json.loads(path.read_text(encoding='utf-8'))['cells']]
        titles = [source.split('\n')[0][2:].strip() for source in sources if source.startswith('# ')] + [path.stem]
        for source in sources:
            if match := re.match(r'#\|\s*default_exp\s+(\S+)', source):
                found[match[1]] = path.relative_to(nbs).as_posix(), titles[0]
    return found


def cell(text: str) -> str:
    "A text as one line, without what would end a cell of a table or begin a tag."
    return ' '.join(text.split()).replace('|', '\\|').replace('<', '\\<')


def about(node: ast.AST) -> str:
    "The first paragraph of a docstring."
    return cell((ast.get_docstring(node) or '').split('\n\n')[0])


def names(
    source: str,  # of a module
) -> dict[str, tuple[str, bool]]:  # what is said of each name, and whether the lesson has a heading for it
    "What a module offers: the names in its `__all__`, as the source orders them, and the methods with a docstring."
    lines, public, found, methods = source.splitlines(), [], {}, {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if any(ast.unparse(decorator).startswith('patch') for decorator in node.decorator_list):
                methods.setdefault(ast.unparse(node.args.args[0].annotation), []).append(node)
            else:
                found[node.name] = about(node), True
                members = node.body if isinstance(node, ast.ClassDef) else []
                methods.setdefault(node.name, []).extend(
                    child for child in members if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            comment = _comment.match(lines[node.lineno - 1])
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    found.setdefault(ast.unparse(name), (cell(comment[1]) if comment else '', False))
                    if ast.unparse(name) == '__all__':
                        public = ast.literal_eval(node.value)
    result = {}
    for name in sorted(public, key=list(found).index):
        result[name] = found[name]
        for node in methods.get(name, []):
            if not node.name.startswith('_') and about(node):
                result[f'{name}.{node.name}'] = about(node), True
    return result


def page(
    title: str,                             # of the page
    summary: str,                           # a sentence on the package, or nothing
    modules: dict[str, Path],               # files, by the modules' names without the package's
    notebooks: dict[str, tuple[str, str]],  # notebooks and their titles, by the same names
) -> str:
    "The page of a package."
    described = f'{title}: {summary[:1].lower()}{summary[1:]}' if summary else f'{title}: its public names'
    lines = ['---', f'title: {title}', f'description: {json.dumps(described)}', '---', '',
             *([summary, ''] if summary else [])]
    for module, path in modules.items():
        source = path.read_text(encoding='utf-8')
        lesson, lesson_title = notebooks.get(module, ('', ''))
        text = about(ast.parse(source))
        lines += [f'## rlgen.{module}', '', *([f'{text.rstrip(".")}.', ''] if text else [])]
        lines += [f'Lesson: [{lesson_title}](../{lesson})', ''] if lesson else []
        rows = []
        for name, (line, heading) in names(source).items():
            anchor = f'#{name.lower()}' if heading else ''
            rows.append(f'| [`{name}`](../{lesson}{anchor}) | {line} |' if lesson else f'| `{name}` | {line} |')
        lines += ['| name | |', '|---|---|', *rows, ''] if rows else []
    return '\n'.join(lines).rstrip() + '\n'


def pages(
    root: Path,       # the project
) -> dict[str, str]:  # texts, by the names of the files in nbs/reference/
    "The whole reference."
    package, notebooks = root/'rlgen', lessons(root/'nbs')
    result = {}
    rows = ['---', 'title: API reference', 'description: The public names of the package, by module', '---', '',
            'The public names of the package, by module.', '', '| package | | modules |', '|---|---|---|']
    for folder in [package] + sorted(path.parent for path in package.glob('*/__init__.py')):
        modules = {'.'.join(path.relative_to(package).with_suffix('').parts): path
                   for path in sorted(folder.glob('*.py')) if not path.name.startswith('_')}
        if modules:
            title = '.'.join(folder.relative_to(root).parts)
            summary = 'Modules that are in no package.'
            if folder != package:
                summary = about(ast.parse((folder/'__init__.py').read_text(encoding='utf-8')))
            result[f'{folder.name}.md'] = page(title, summary, modules, notebooks)
            listed = ', '.join(f'`{module.split(".")[-1]}`' for module in modules)
            rows.append(f'| [{title}]({folder.name}.md) | {summary} | {listed} |')
    environments = sorted((root/'nbs'/'reference').glob('env-*.md'))
    rows += ['', '## Environments', '', '| environment | |', '|---|---|'] if environments else []
    for path in environments:
        result[path.name] = path.read_text(encoding='utf-8')
        head = dict(line.split(': ', 1) for line in result[path.name].split('\n---\n')[0].splitlines()[1:])
        rows.append(f'| [{json.loads(head["title"])}]({path.name}) | {json.loads(head["description"])} |')
    return {'index.md': '\n'.join(rows) + '\n'} | result


def main():
    "Writes the pages."
    folder = ROOT/'nbs'/'reference'
    folder.mkdir(exist_ok=True)
    for name, text in pages(ROOT).items():
        (folder/name).write_text(text, encoding='utf-8', newline='\n')


if __name__ == '__main__':
    main()
