"""Keeps the course in agreement with itself: numbers of lessons, links between them, and what is made from both.

    python tools/lessons.py                                 numbers every track without gaps, in its present order
    python tools/lessons.py move rldf/07_tabular rldf/05    moves a lesson, also to another track; the others make room

A new lesson is saved in its track without a number and moved to its place: `move rldf/my_lesson rldf/05`. The
solution of a lesson has its page's file name, in the folder `solutions` beside it, and follows it. Links and names of
lessons follow in notebooks, Markdown files, tests, tools and workflows. In the library, pages of one group are put side
by side. Then the navigation in `nbs/_quarto.yml`, the front page in README.md, the pages in `nbs/reference/` and the
bibliography are written anew. Nothing else changes: run `nbdev-export` after a move, since the modules name their
notebooks, and `python tools/terms.py`, which links terms to the glossary.
"""
import json
import posixpath
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TRACKS = {  # folders of nbs/ in reading order, with what the site calls them
    'start': 'Start',
    'rldf': 'The prompt behind an image (RLDF)',
    'preference': 'Preference prompts',
    'support': 'Support sets',
    'generative': 'Generative models',
    'guides': 'Guides',
    'library': 'Library',
}
GROUPS = {  # groups of the library, by the modules that their pages define; other pages join the page before them
    'Files and store': 'files interfaces store runs images data grammar_rules reproducibility',
    'Models': 'models',
    'Numbers and figures': 'statistics metrics plots agents',
    'Widgets': 'widgets',
    'Checks of exercises': 'exercises',
    'Clones and sets of images': 'clone experiments',
    'Training the models': 'training',
    'Speed': 'bench',
    'Command line': 'cli',
}
BEGIN, END = '  # lessons: written by tools/lessons.py, from here', '  # lessons: to here\n'

_lesson = re.compile(r'(?:(\d+)_)?([A-Za-z]\w*)', re.ASCII)
# A relative link of Markdown: in brackets, as [name]: path, or in HTML; and code, in which nothing is a link.
_link = re.compile(
    r'''(\]\(<?|^ *\[[^]^\n][^]\n]*\]: +|\b(?:href|src)=["'])(?![a-z]+:|[#/])([^)>\s"'#]+)''', re.MULTILINE)
_code = re.compile(r'^ *(```|~~~).*?^ *\1|(`+)(?!`).*?[^`]\2(?!`)', re.MULTILINE | re.DOTALL)


class Refused(Exception):
    "Something is not as the course has it; the message says what, in one sentence."


def tracks(
    nbs: Path,         # folder of the notebooks
    moving: str = '',  # a lesson that is moved; then others need no number either, and come last
) -> dict[str, list[str]]:  # for each track its lessons in order, as paths in `nbs`
    "The lessons as they stand."
    order, solutions = {track: [] for track in TRACKS}, []
    for path in sorted(nbs.rglob('*.ipynb')):
        name = path.relative_to(nbs).as_posix()
        *folder, file = name.split('/')
        if any(part[0] in '._' for part in name.split('/')) or name == 'index.ipynb':
            continue
        match = _lesson.fullmatch(file.removesuffix('.ipynb'))
        if not folder or folder[0] not in TRACKS or folder[1:] not in ([], ['solutions']):
            raise Refused(f'nbs/{name} is in no track: lessons are in nbs/TRACK/ or nbs/TRACK/solutions/, '
                          f'where TRACK is one of {", ".join(TRACKS)}.')
        if not match:
            raise Refused(f'nbs/{name} has to be called NN_name.ipynb, of letters, digits and underscores alone.')
        if not match[1] and not moving:
            raise Refused(f'nbs/{name} has no number: say `python tools/lessons.py move {name.removesuffix(".ipynb")} '
                          f'{folder[0]}/NN` to give it the place NN.')
        (solutions if folder[1:] else order[folder[0]]).append(name)
    pages = {name for names in order.values() for name in names}
    for name in solutions:
        if name.replace('/solutions/', '/') not in pages:
            raise Refused(f'nbs/{name} is the solution of no page, since nbs/{name.replace("/solutions/", "/")} '
                          'does not exist.')
    for names in order.values():
        names.sort(key=lambda name: (int(_lesson.fullmatch(posixpath.basename(name)[:-6])[1] or 999), name))
    order['library'] = grouped(nbs, order['library'])
    return order


def move(
    order: dict[str, list[str]],  # lessons of each track; changed in place
    lesson: str,                  # path in nbs/
    place: str,                   # track and number, such as rldf/05
):
    "Moves a lesson to a place."
    match = re.fullmatch(r'(\w+)/(\d+)', place.removeprefix('nbs/'))
    if not match or match[1] not in TRACKS:
        raise Refused(f'{place} is no place for a lesson: it is a track and a number, such as rldf/05, '
                      f'and the tracks are {", ".join(TRACKS)}.')
    source = next((names for names in order.values() if lesson in names), None)
    if source is None:
        raise Refused(f'There is no lesson nbs/{lesson}.')
    source.remove(lesson)
    target, number = order[match[1]], int(match[2])
    if number > len(target):
        raise Refused(f'The last place in {match[1]} is {match[1]}/{len(target):02}: numbers have no gaps.')
    target.insert(number, lesson)


def renames(
    nbs: Path,                    # folder of the notebooks
    order: dict[str, list[str]],  # lessons of each track in their new order
) -> dict[str, str]:              # new paths of the notebooks that get one, by their present paths
    "The new names of lessons and solutions."
    new = {}
    for track, names in order.items():
        pages = {}
        for number, old in enumerate(names):
            folder, file = posixpath.split(old)
            name = _lesson.fullmatch(file.removesuffix('.ipynb'))[2]
            if name.lower() in pages:
                raise Refused(f'nbs/{old} and nbs/{pages[name.lower()]} would be the same page of the site, '
                              f'{track}/{name.lower()}.html: call one of them otherwise.')
            pages[name.lower()] = old
            new[old] = f'{track}/{number:02}_{name}.ipynb'
            if (nbs/folder/'solutions'/file).exists():
                new[f'{folder}/solutions/{file}'] = f'{track}/solutions/{number:02}_{name}.ipynb'
    return {old: name for old, name in new.items() if old != name}


def mend(
    text: str,            # Markdown
    here: str,            # its file, as a path in the project
    new: dict[str, str],  # new paths in the project of the files that get one
    root: Path,           # the project
) -> str:
    "The text with its relative links, and the names of lessons elsewhere in it, as they have to be after the renaming."
    codes = [match.span() for match in _code.finditer(text)]
    folder, new_folder = posixpath.dirname(here), posixpath.dirname(new.get(here, here))
    parts, end = [], 0
    for match in _link.finditer(text):
        if any(start <= match.start() < stop for start, stop in codes):
            continue
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        stays = target not in new and (folder == new_folder or not (root/target).exists())
        path = match[2] if stays else posixpath.relpath(new.get(target, target), new_folder or '.')
        parts += [mend_names(text[end:match.start()], new), match[1], path]
        end = match.end()
    return ''.join([*parts, mend_names(text[end:], new)])


def mend_names(
    text: str,            # code, or what else is no link
    new: dict[str, str],  # new paths in the project of the notebooks that get one
) -> str:
    "The text with the names of lessons, such as rldf/05_grid, nbs/rldf/05_grid.ipynb or 05_grid, as they will be."
    if not new:
        return text
    stems: dict[str, set] = {}  # a name without its folder is mended if it means one lesson, which stays in its track
    for old, path in new.items():
        stems.setdefault(_stem(old), set()).add(_stem(path) if old.split('/')[1] == path.split('/')[1] else '')

    def mended(match):
        folder, stem = match[1] or '', match[2]
        if folder:
            path = new.get(f'nbs/{folder.removeprefix("nbs/")}{stem}.ipynb')
            if path is None:
                return match[0]
            path = path.removesuffix('.ipynb')
            return path if folder.startswith('nbs/') else path.removeprefix('nbs/')
        if not stem[0].isdigit():
            return stem  # a new page, often called as its module: this may mean the module
        return next(iter(stems[stem])) or stem if len(stems[stem]) == 1 else stem
    folders = f"(?:nbs/)?(?:{'|'.join(TRACKS)})/(?:solutions/)?"
    return re.sub(rf"(?<!\w)({folders})?({'|'.join(map(re.escape, sorted(stems)))})\b", mended, text)


def _stem(path: str) -> str:
    return posixpath.basename(path).removesuffix('.ipynb')


def naming(root: Path) -> list[Path]:
    "The files that may name a lesson; those of this tool, whose examples are no lessons, are left out."
    found = [*root.glob('*.md'), *(root/'nbs').rglob('*.*'), *(root/'rlgen').rglob('*.md'),
             *(root/'tests').rglob('*.py'), *(root/'tools').rglob('*.py'), *(root/'.github').rglob('*.yml')]
    return sorted(path for path in found if path.suffix in ('.ipynb', '.md', '.qmd', '.py', '.yml')
                  and path.name not in ('lessons.py', 'test_lessons_tool.py', '_quarto.yml')
                  and not any(part[0] in '._' and part != '.github' for part in path.relative_to(root).parts))


def mended_files(
    root: Path,           # the project
    new: dict[str, str],  # new paths in the project of the notebooks that get one
) -> dict[str, str]:      # new contents of the files that change, by their new paths
    "All files that link to or name a lesson which gets a new name, or that move themselves."
    files = {}
    for path in naming(root):
        here, text = path.relative_to(root).as_posix(), path.read_text(encoding='utf-8')
        if path.suffix == '.ipynb':
            notebook, before = json.loads(text), json.loads(text)
            for cell in notebook['cells']:
                source = ''.join(cell['source'])
                markdown = cell['cell_type'] == 'markdown'
                source = mend(source, here, new, root) if markdown else mend_names(source, new)
                cell['source'] = source.splitlines(keepends=True)
            if notebook != before:
                text = json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + '\n'  # as nbdev-clean does
                files[new.get(here, here)] = text
            continue
        mended = mend(text, here, new, root) if path.suffix in ('.md', '.qmd') else mend_names(text, new)
        if mended != text:
            files[new.get(here, here)] = mended
    return files


def rename(
    root: Path,           # the project
    new: dict[str, str],  # new paths in the project, by present paths
):
    "Renames files, in two steps because one may take the name of another; through git what git tracks."
    def git(*arguments):
        return subprocess.run(['git', *arguments], cwd=root, capture_output=True, text=True)
    try:
        tracked = set(git('ls-files', '-z').stdout.split('\0'))
    except FileNotFoundError:  # git is not installed
        tracked = set()
    steps = [(old, f'{name}.moving') for old, name in new.items()]
    steps += [(f'{name}.moving', name) for name in new.values()]
    through_git = {step for old, name in new.items() if old in tracked for step in [old, f'{name}.moving']}
    for old, name in steps:
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        if old not in through_git:
            (root/old).rename(root/name)
        elif (result := git('mv', old, name)).returncode:
            raise Refused(f'git does not move {old}: {result.stderr.strip()}')


def module(notebook: Path) -> str:
    "The module that a notebook defines, without the package's name; empty if it defines none."
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    found = [re.match(r'#\|\s*default_exp\s+(\S+)', ''.join(cell['source'])) for cell in cells]
    return next((match[1] for match in found if match), '')


def group_titles(
    nbs: Path,         # folder of the notebooks
    names: list[str],  # pages of the library, in order
) -> list[str]:        # the group of each
    "Which group of the library a page belongs to: that of its module, or that of the page before it."
    groups, titles = {name: title for title, names in GROUPS.items() for name in names.split()}, ['']
    for name in names:
        top = module(nbs/name).split('.')[0]
        if top and top not in groups:
            raise Refused(f'nbs/{name} defines {top}, which is in no group of the library: '
                          'add it to GROUPS in tools/lessons.py.')
        titles.append(groups.get(top, titles[-1]))
    return titles[1:]


def grouped(
    nbs: Path,         # folder of the notebooks
    names: list[str],  # pages of the library, in order
) -> list[str]:
    "The pages with those of a group side by side, groups in the order of their first pages."
    titles = group_titles(nbs, names)
    places = dict(zip(names, map(titles.index, titles), strict=True))
    return sorted(names, key=places.get)


def sections(
    nbs: Path,                    # folder of the notebooks
    order: dict[str, list[str]],  # lessons of each track
) -> list:                        # paths, and pairs of a title and such a list
    "What the sidebar shows."
    result = ['index.ipynb']
    for track, names in order.items():
        contents = names
        if track == 'library':
            pages = zip(group_titles(nbs, names), names, strict=True)
            contents = [(title, [name for _, name in pairs]) for title, pairs in groupby(pages, lambda pair: pair[0])]
        solved = [posixpath.join(track, 'solutions', posixpath.basename(name)) for name in names]
        solved = [name for name in solved if (nbs/name).exists()]
        if names:
            result.append((TRACKS[track], contents + ([('Solutions', solved)] if solved else [])))
    reference = sorted((path.relative_to(nbs).as_posix() for path in (nbs/'reference').glob('*.md')),
                       key=lambda name: (name != 'reference/index.md', name != 'reference/rlgen.md', name))
    site = sorted(path.relative_to(nbs).as_posix().removesuffix('.py') for path in (nbs/'site').glob('*.qmd.py'))
    return result + [(title, pages) for title, pages in (('Reference', reference), ('Project', site)) if pages]


def yaml_lines(contents: list, indent: int) -> list[str]:
    "The sidebar's contents as lines of YAML."
    lines = []
    for item in contents:
        if isinstance(item, str):
            lines.append(f'{" " * indent}- {item}')
        else:
            lines += [f'{" " * indent}- section: {json.dumps(item[0])}', f'{" " * indent}  contents:']
            lines += yaml_lines(item[1], indent + 4)
    return lines


def quarto(
    root: Path,                   # the project
    order: dict[str, list[str]],  # lessons of each track
) -> str:
    "The text of _quarto.yml, with the sidebar as the files are and the footer as settings.ini has it."
    text = (root/'nbs'/'_quarto.yml').read_text(encoding='utf-8')
    start, stop = text.find(BEGIN), text.find(END)
    if not 0 <= start < stop:
        raise Refused(f'_quarto.yml has lost one of the two lines between which this tool writes: '
                      f'"{BEGIN.strip()}" and "{END.strip()}".')
    config = ConfigParser(interpolation=None)
    config.read(root/'settings.ini', encoding='utf-8')
    about = config['DEFAULT']
    lines = [BEGIN, '  page-footer:', f'    left: "{about["lib_name"]} {about["version"]}"',
             f'    right: "Licence: {about["license"].replace(" AND ", " and ")}"',
             '  sidebar:', '    style: floating', '    collapse-level: 1', '    contents:']
    return text[:start] + '\n'.join(lines + yaml_lines(sections(root/'nbs', order), 6)) + '\n' + text[stop:]


def write(path: Path, text: str) -> bool:
    "Writes a text file unless it is so already; True if it was written."
    if path.exists() and path.read_text(encoding='utf-8') == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8', newline='\n')
    return True


def agree(
    root: Path,               # the project
    moved: str = '',          # a lesson to move, as a path in nbs/
    place: str = '',          # and where to
):
    "Puts everything in agreement; prints what it renames and writes."
    nbs = root/'nbs'
    order = tracks(nbs, moved)
    if moved:
        move(order, moved, place)
        order['library'] = grouped(nbs, order['library'])
    new = {f'nbs/{old}': f'nbs/{name}' for old, name in renames(nbs, order).items()}
    quarto(root, order)  # refuses what does not fit before anything has changed
    files = mended_files(root, new) if new else {}
    for old, name in sorted(new.items()):
        print(f'{old} -> {name}')
    rename(root, new)
    for name, text in files.items():
        write(root/name, text)
        print(f'{name}: links and names')
    order = tracks(nbs)
    made = {f'nbs/reference/{name}': text for name, text in runpy.run_path(
        str(ROOT/'tools'/'reference.py'))['pages'](root).items()}
    made['README.md'] = runpy.run_path(str(ROOT/'tools'/'readme.py'))['readme'](nbs/'index.ipynb')
    made |= runpy.run_path(str(ROOT/'tools'/'terms.py'))['bibliography'](root)
    for path in (nbs/'reference').glob('*.md'):
        if f'nbs/reference/{path.name}' not in made:
            path.unlink()
            print(f'nbs/reference/{path.name}: removed')
    for name, text in made.items():
        if write(root/name, text):
            print(f'{name}: written')
    if write(nbs/'_quarto.yml', quarto(root, order)):
        print('nbs/_quarto.yml: written')
    if new:
        print('Run nbdev-export: the modules name the notebooks they come from.')
        for line in still_named(root, new):
            print(line)


def still_named(
    root: Path,           # the project
    new: dict[str, str],  # new paths of the notebooks that got one, by their old paths
) -> list[str]:           # for each such place, what to say of it
    "Where an old name still stands: one that may mean two lessons, or a lesson that has left its track."
    stems = {_stem(old) for old in new} - {_stem(path) for path in new.values()}
    stems = {stem for stem in stems if stem[0].isdigit()}
    if not stems:
        return []
    old = re.compile(r'\b(' + '|'.join(sorted(stems)) + r')\b')
    return [f'{path.relative_to(root).as_posix()} still says {match[0]}: see whether it has to change.'
            for path in naming(root) for match in [old.search(path.read_text(encoding='utf-8'))] if match]


def main(
    arguments: list[str] | None = None,  # of the command line
    root: Path = ROOT,                   # the project
) -> int:                                # exit status
    "The command."
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        match arguments:
            case []:
                agree(root)
            case ['move', lesson, place]:
                agree(root, lesson.removeprefix('nbs/').removesuffix('.ipynb') + '.ipynb', place)
            case _:
                raise Refused('Say `python tools/lessons.py`, or `python tools/lessons.py move LESSON PLACE`, such as '
                              '`move rldf/07_tabular rldf/05`.')
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
