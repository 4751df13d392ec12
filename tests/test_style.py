"""How code looks: ruff, one statement a line, short files, the order of imports, types (see CONTRIBUTING.md)."""
import ast
import io
import os
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for path in (ROOT/'rlgen').rglob('*.py') if path.name != '_modidx.py')
TESTS = sorted((ROOT/'tests').glob('*.py'))
MAX_LINES, MAX_COLUMNS = 600, 120
LEAVE = (ast.Return, ast.Raise, ast.Continue, ast.Break)


def logical_lines(
    text: str,        # of a Python file
) -> dict[int, int]:  # number of a line -> number of the line in which its logical line begins
    "Which lines of the file belong together because a bracket or a string runs on, without comments and empty lines."
    starts, first = {}, None
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in ignored:
            continue
        if first is None:
            first = token.start[0]
        if token.type == tokenize.NEWLINE:
            starts.update(dict.fromkeys(range(first, token.start[0] + 1), first))
            first = None
    return starts


def is_guard(
    statements: list[ast.stmt],  # those that share a line, in their order
) -> bool:                       # whether they are a condition, and one statement that leaves or yields if it holds
    "`if x is None: return y` may stand in one line, without an `else`."
    if len(statements) != 2 or not isinstance(statements[0], ast.If):
        return False
    guard, body = statements
    yields = isinstance(body, ast.Expr) and isinstance(body.value, (ast.Yield, ast.YieldFrom))
    return guard.body == [body] and not guard.orelse and (yields or isinstance(body, LEAVE))


def is_stub(
    statements: list[ast.stmt],  # those that share a line, in their order
) -> bool:                       # whether they are a function without a body
    "`def act(self, observation): ...` may stand in one line, as in a protocol."
    if len(statements) != 2 or not isinstance(statements[0], (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    function, body = statements
    ellipsis = isinstance(body, ast.Expr) and isinstance(body.value, ast.Constant) and body.value.value is ...
    return ellipsis and function.body == [body]


def crowded(
    text: str,   # of a Python file
) -> list[int]:  # numbers of the lines that hold more than one statement and are neither guard nor stub
    "The lines to divide."
    starts, lines = logical_lines(text), text.split('\n')
    shared: dict[int, list[ast.stmt]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            shared.setdefault(starts[node.lineno], []).append(node)
    found = []
    for number, statements in shared.items():
        statements.sort(key=lambda node: (node.lineno, node.col_offset))
        first = statements[0]
        before = lines[first.lineno - 1].encode()[:first.col_offset].strip()  # an offset of `ast` counts bytes
        # No statement of its own, but in front of one: `else:`, `try:`, `except ...:`, `finally:`, `case ...:`.
        alone = len(statements) == 1 and not before and first.lineno == number
        guard = is_guard(statements) and not lines[number - 1].lstrip().startswith('elif')
        if not (alone or guard or is_stub(statements)):
            found.append(number)
    return sorted(found)


def too_long(
    text: str,   # of a module
) -> list[int]:  # numbers of the lines that are too long, besides the list of names that nbdev writes
    "What ruff's E501 is for tests."
    return [number for number, line in enumerate(text.split('\n'), 1)
            if len(line) > MAX_COLUMNS and not line.startswith('__all__ = [')]


def relative(path: Path) -> str:
    "The path of a file of the project from its root, with `/`."
    return path.relative_to(ROOT).as_posix()


def run(*words: str) -> tuple[int, str]:
    "Runs a program at the root of the project; its exit status and output."
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, encoding='utf-8',
                          env={**os.environ, 'PYTHONUTF8': '1', 'NO_COLOR': '1', 'COLUMNS': '120'})
    return done.returncode, f'{done.stdout}{done.stderr}'


@pytest.mark.parametrize('text', [
    'x = 1',
    'x = [1,\n     2]\ny = 2',
    'x = """a; b\nif c: d"""',
    'x = 1  # a; b',
    'é = "é; ü"',
    'f = lambda: 1',
    'def f(x):\n    if x is None: return 1\n    return 2',
    'def f(x):\n    if x is None: return\n    if x: raise ValueError("a"\n                           "b")',
    'for x in y:\n    if x: continue\n    if not x: break',
    'def f():\n    if x: yield 1\n    if y: yield from z\n    if w: yield',
    'def f(x):\n    if (x is None\n            or x == 1): return 1',
    'class A(Protocol):\n    def f(self): ...\n    async def g(self): ...\n    x: int',
    'class A(Protocol):\n    @property\n    def f(\n        self,  # me\n    ) -> int: ...',
    'if x:\n    y = 1\nelif z:\n    y = 2\nelse:\n    y = 3',
    'try:\n    f()\nexcept E:\n    g()\nelse:\n    h()\nfinally:\n    i()',
    '@decorated\nclass A:\n    "a"\n\n    @b\n    def f(self):\n        "c"',
    'match x:\n    case 1:\n        y = 1',
    'x = 1 if y else 2',
    'x = \\\n    1',
    'f(lambda: 1, [x for x in y if z])',
])
def test_one_statement_a_line_is_accepted(text):
    assert crowded(text) == []


@pytest.mark.parametrize('text, lines', [
    ('x = 1; y = 2', [1]),
    ('x = [1,\n     2]; y = 2', [1]),
    ('é = 1; y = 2', [1]),
    ('if x: y = 1', [1]),
    ('if x: f()', [1]),
    ('if x: pass', [1]),
    ('if x: import y', [1]),
    ('def f(x):\n    if x: return 1\n    else: return 2', [2, 3]),
    ('def f(x):\n    if x: return 1\n    elif y:\n        return 2', [2]),
    ('def f(x):\n    if x:\n        y = 1\n    elif y: return 2', [4]),
    ('def f(x):\n    if x:\n        y = 1\n    else: y = 2', [4]),
    ('def f(x):\n    if x: y = 1; return y', [2]),
    ('class A: pass', [1]),
    ('class A: ...', [1]),
    ('def f(): return 1', [1]),
    ('def f(): "says"', [1]),
    ('def f(): pass', [1]),
    ('def f(\n    x,\n): return 1', [1]),
    ('async def f(): await g()', [1]),
    ('for x in y: f(x)', [1]),
    ('for x in y: ...', [1]),
    ('for x in y:\n    f(x)\nelse: g()', [3]),
    ('while x: f()', [1]),
    ('with a as b: f(b)', [1]),
    ('with a as b: raise c', [1]),
    ('try: f()\nexcept E: g()\nfinally: h()', [1, 2, 3]),
    ('try: import a\nexcept E:\n    pass', [1]),
    ('try:\n    f()\nexcept E: raise F', [3]),
    ('match x:\n    case 1: y = 1\n    case _: y = [1,\n                 2]', [2, 3]),
    ('x = 1\n\n# one\nif x: y = 1  # two', [4]),
])
def test_several_statements_in_a_line_are_found(text, lines):
    assert crowded(text) == lines


@pytest.mark.parametrize('text, starts', [
    ('x = 1\n\n# why\ny = 2\n', {1: 1, 4: 4}),
    ('x = [\n    1,\n]\ny = 2', {1: 1, 2: 1, 3: 1, 4: 4}),
    ('if x:\n    """a\n    b"""\n', {1: 1, 2: 2, 3: 2}),
    ('# only a comment\n', {}),
])
def test_logical_lines(text, starts):
    assert logical_lines(text) == starts


def test_long_lines_are_found():
    fits, long = 'x' * MAX_COLUMNS, 'x' * (MAX_COLUMNS + 1)
    assert too_long(f'{fits}\n{long}\n__all__ = [{long}\n    {long}\n') == [2, 4]


def test_modules_and_tests_are_seen():
    assert {'rlgen/__init__.py', 'rlgen/grammar.py', 'rlgen/agents/tabular.py'} <= set(map(relative, MODULES))
    assert 'tests/test_style.py' in map(relative, TESTS)


def test_each_line_holds_one_statement():
    "Besides guards, such as `if x is None: return y`, and functions whose body is `...`."
    found = []
    for path in MODULES + TESTS:
        text = path.read_text(encoding='utf-8')
        lines = text.split('\n')
        found += [f'{relative(path)}:{number}: {lines[number - 1].strip()}' for number in crowded(text)]
    assert not found, f'{len(found)} lines hold several statements:\n' + '\n'.join(found)


def test_lines_are_short():
    found = [f'{relative(path)}:{number}: more than {MAX_COLUMNS} columns'
             for path in MODULES for number in too_long(path.read_text(encoding='utf-8'))]
    assert not found, f'{len(found)} lines are too long:\n' + '\n'.join(found)


def test_no_module_is_too_long():
    lengths = {relative(path): len(path.read_text(encoding='utf-8').splitlines()) for path in MODULES}
    found = [f'{path}:{n}: more than {MAX_LINES} lines' for path, n in lengths.items() if n > MAX_LINES]
    assert not found, '\n' + '\n'.join(found)


def private_imports(
    text: str,    # of a module
) -> list[str]:   # names with one underscore in front that it takes from another module
    "Names that another module keeps for itself."
    found = [name.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) for name in node.names]
    return [name for name in found if name.startswith('_') and not name.startswith('__')]


def test_private_imports_are_found():
    text = 'from .a import b, _c\nfrom x import __version__\ndef f():\n    from ..y import _z as z\n    import _thread'
    assert private_imports(text) == ['_c', '_z']


def test_no_module_takes_a_private_name_of_another():
    found = {relative(path): names for path in MODULES if (names := private_imports(path.read_text(encoding='utf-8')))}
    assert not found, f'make these names public, or move what needs them: {found}'


def test_ruff_finds_nothing():
    options = ('--no-cache', '--output-format', 'concise')
    status, output = run(sys.executable, '-m', 'ruff', 'check', *options, 'rlgen', 'tests')
    assert status == 0, f'ruff check:\n{output}'


def test_notebooks_use_no_name_that_is_not_there():
    "Cells that are not exported, too: some of them run only with RLGEN_FULL, or in the slow tests."
    options = ('--isolated', '--no-cache', '--output-format', 'concise', '--select', 'F821')
    status, output = run(sys.executable, '-m', 'ruff', 'check', *options, 'nbs')
    assert status == 0, f'ruff check nbs:\n{output}'


def test_imports_point_one_way():
    "The contracts stand in pyproject.toml."
    program = shutil.which('lint-imports', path=str(Path(sys.executable).parent))
    assert program, "lint-imports is missing: pip install -e '.[dev]'"
    status, output = run(program, '--no-cache', '--no-logo')
    assert status == 0, f'lint-imports:\n{output}'


def test_types_agree():
    "With the settings of pyproject.toml."
    status, output = run(sys.executable, '-m', 'mypy', '--cache-dir', os.devnull)
    assert status == 0, f'mypy:\n{output}'
