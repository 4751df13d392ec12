"""Links the words of the course: terms to the glossary, and the bibliography from references.bib.

    python tools/terms.py    links the first use of each term on each page of a track to its entry in the glossary

An entry of nbs/guides/NN_glossary.ipynb is a paragraph that begins with an anchor, which holds the spellings by which
the term is found, separated by bars, and names the lesson that introduces it:

    <a id="policy" data-spellings="policy|policies"></a>**Policy** ($\\pi$). What it is. Lesson: [...](../start/...).

A term is linked once a page, where it is first used in running text: not in the first cell, headings, code, formulas,
links, tables, quotations, HTML, and not on the page that introduces it, nor in self-tests. What is linked stays as it
is, so a second run changes nothing. Longer spellings win: in "policy gradient" no "policy" is seen.

`bibliography` gives the page of nbs/guides/references.bib; `python tools/lessons.py` writes it.
"""
import json
import posixpath
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRACKS = ('start', 'rldf', 'preference', 'support', 'generative')  # whose pages link to the glossary
MARK = '<!-- written from references.bib by tools/lessons.py -->'  # the first line of the cell that is written

_entry = re.compile(r'^<a id="([\w-]+)" data-spellings="([^"]+)"></a>\*\*(.+?)\*\*(.*?)(?=\n\n|\Z)',
                    re.MULTILINE | re.DOTALL)
_lesson = re.compile(r'Lesson: \[[^]]+\]\(\.\./([^)]+)\)')
_space = r'(?:[ \t]+|[ \t]*\n[ \t]*)'  # within a paragraph a term may go on in the next line
# What is no running text. Earlier alternatives win, so code and formulas hide what looks like a link in them.
_hidden = re.compile('|'.join([
    r'^[ \t]*(?P<fence>```|~~~).*?(?:^[ \t]*(?P=fence)|\Z)',                # a block of code
    r'(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)',                          # code in a line
    r'\$\$.*?\$\$', r'(?<![\\$])\$(?![\s$])(?:\\.|[^$\\])*?(?<!\s)\$(?!\d)',  # formulas
    r'<!--.*?-->', r'<details\b.*?(?:</details>|\Z)',
    r'^[ \t]*</?[A-Za-z][^\n]*(?:\n(?![ \t]*\n)[^\n]*)*',                   # HTML from the start of a line on
    r'<(?P<tag>a|b|i|em|strong|code|kbd|sub|sup|span)\b[^>]*>.*?</(?P=tag)>', r'<[^>\n]+>',
    r'!?\[(?:[^][]|\[[^]]*\])*\](?:\([^)]*\)|\[[^]]*\])?',                  # links, images, footnotes
    r'^[ \t]*\[[^]\n]+\]:[^\n]*',                                           # where they lead
    r'^[ \t]{0,3}#{1,6}[ \t][^\n]*', r'^[^\n]+\n[ \t]{0,3}(?:=+|-{2,})[ \t]*$',  # headings
    r'^[ \t]*\|[^\n]*', r'^[ \t]*>[^\n]*', r'^[ \t]*:::[^\n]*',             # tables, quotations, divisions
    r'^(?:\*\*(?:Next|Further reading)\*\*)[^\n]*(?:\n(?![ \t]*\n)[^\n]*)*',
    r'https?://\S+']), re.MULTILINE | re.DOTALL)


@dataclass
class Term:
    "An entry of the glossary."
    name: str                   # its anchor
    spellings: tuple[str, ...]  # by which it is found
    title: str                  # as the entry shows it
    lesson: str                 # that introduces it, as a path in nbs/; empty if there is none


def page(nbs: Path, name: str) -> Path | None:
    "The guide with this name, whatever its number is; None if there is none."
    return next(iter(sorted((nbs/'guides').glob(f'[0-9]*_{name}.ipynb'))), None)


def cells(path: Path) -> list[str]:
    "The Markdown cells of a notebook."
    return [''.join(cell['source']) for cell in json.loads(path.read_text(encoding='utf-8'))['cells']
            if cell['cell_type'] == 'markdown']


def glossary(nbs: Path) -> list[Term]:
    "The entries of the glossary, in their order."
    path, found = page(nbs, 'glossary'), []
    for name, spellings, title, text in _entry.findall('\n\n'.join(cells(path))) if path else []:
        lesson = _lesson.search(text)
        found.append(Term(name, tuple(spellings.split('|')), title, lesson[1].split('#')[0] if lesson else ''))
    return found


def pattern(terms: list[Term]) -> re.Pattern:
    "Finds every spelling as a whole word; each one's first letter may be a capital. Longer ones win."
    known = sorted({spelling for term in terms for spelling in term.spellings}, key=len, reverse=True)
    words = []
    for spelling in known:
        first, *rest = spelling.split(' ')
        first = f'[{first[0].upper()}{first[0]}]{re.escape(first[1:])}' if first[0].islower() else re.escape(first)
        words.append(_space.join([first, *map(re.escape, rest)]))
    return re.compile(r'(?<![\w\-/.])(?:' + '|'.join(words) + r')(?![\w\-/]|\.\w)')


def link_terms(
    texts: list[str],           # Markdown cells of a page, in order
    here: str,                  # the page, as a path in nbs/
    terms: list[Term],          # of the glossary
    target: str,                # the glossary's page, as a path in nbs/
) -> list[str]:                 # the cells with links
    "The cells of a page, with the first use of each term linked. The first cell, with title and frame, stays as it is."
    path = posixpath.relpath(target, posixpath.dirname(here))
    whole = '\n'.join(texts)
    done = {term.name for term in terms if f'({path}#{term.name})' in whole or term.lesson == here}
    names = {spelling.lower(): term.name for term in terms for spelling in term.spellings}
    find = pattern(terms) if terms else None

    def linked(match: re.Match) -> str:
        name = names[' '.join(match[0].split()).lower()]
        if name in done:
            return match[0]
        done.add(name)
        return f'[{match[0]}]({path}#{name})'

    result = texts[:1]
    for text in texts[1:]:
        if not find or text.startswith('#|'):
            result.append(text)
            continue
        parts, at = [], 0
        for hidden in _hidden.finditer(text):
            parts += [find.sub(linked, text[at:hidden.start()]), hidden[0]]
            at = hidden.end()
        result.append(''.join([*parts, find.sub(linked, text[at:])]))
    return result


def linked_pages(root: Path) -> dict[str, str]:
    "The notebooks that change, by their paths in the project, as nbdev-clean would write them."
    nbs, changed = root/'nbs', {}
    terms, target = glossary(nbs), page(nbs, 'glossary')
    for path in sorted(path for track in TRACKS for path in (nbs/track).glob('[0-9]*.ipynb')):
        if 'self_test' in path.name:  # its questions ask what words mean
            continue
        notebook = json.loads(path.read_text(encoding='utf-8'))
        markdown = [cell for cell in notebook['cells'] if cell['cell_type'] == 'markdown']
        before = [''.join(cell['source']) for cell in markdown]
        here = path.relative_to(nbs).as_posix()
        if (after := link_terms(before, here, terms, f'guides/{target.name}') if terms else before) != before:
            for cell, text in zip(markdown, after, strict=True):
                cell['source'] = text.splitlines(keepends=True)
            changed[path.relative_to(root).as_posix()] = json.dumps(
                notebook, sort_keys=True, indent=1, ensure_ascii=False) + '\n'
    return changed


def references(text: str) -> dict[str, dict[str, str]]:
    "The entries of a BibTeX file: fields by name, and the kind of entry as `kind`. ValueError for what is no entry."
    found = {}
    for block in re.split(r'^(?=@)', text, flags=re.MULTILINE)[1:]:
        head = re.match(r'@(\w+)\{([a-z]+\d{4}[a-z]?),\n', block)
        fields = re.findall(r'^  (\w+) = \{(.*)\},?$', block, re.MULTILINE)
        lines = [line for line in block.splitlines()[1:] if line.strip() not in ('', '}') and line[0] != '%']
        if not head or len(fields) != len(lines) or not block.rstrip().split('\n%')[0].rstrip().endswith('}'):
            raise ValueError(f'references.bib: an entry is a head such as "@article{{sutton2018,", a line such as '
                             f'"  year = {{2018}}," for each field, and a line "}}"; this is not: {block[:60]!r}.')
        if head[2] in found:
            raise ValueError(f'references.bib has two entries {head[2]}: give the second one a letter.')
        found[head[2]] = {'kind': head[1], **dict(fields)}
    return found


def entry(key: str, fields: dict[str, str]) -> str:
    "An entry of the bibliography in Markdown, with its anchor."
    def plain(text):
        return text.replace('{', '').replace('}', '').replace('--', '–').replace('*', '\\*')
    authors = ', '.join('et al.' if name == 'others' else ' '.join(reversed(plain(name).split(', ', 1)))
                        for name in fields['author'].split(' and ')).replace(', et al.', ' et al.')
    title = f'*{plain(fields["title"])}*'
    if url := fields.get('url', '').replace('(', '%28').replace(')', '%29'):
        title = f'[{title}]({url})'
    where = [fields[name] for name in ('journal', 'booktitle', 'publisher', 'school', 'institution', 'howpublished')
             if name in fields]
    where += [f'{fields["volume"]}'] if 'volume' in fields else []
    where += [f'pages {fields["pages"]}'] if 'pages' in fields else []
    return f'<a id="{key}"></a>{authors} ({fields["year"]}). {title}. {plain(", ".join(where))}.'


def bibliography(root: Path) -> dict[str, str]:
    "The notebook of the bibliography, by its path in the project, with its list as references.bib has it."
    path, source = page(root/'nbs', 'bibliography'), root/'nbs'/'guides'/'references.bib'
    if path is None or not source.exists():
        return {}
    found = references(source.read_text(encoding='utf-8'))
    order = sorted(found, key=lambda key: (found[key]['author'].strip('{').lower(), found[key]['year'], key))
    text = f'{MARK}\n\n' + '\n\n'.join(entry(key, found[key]) for key in order)
    notebook = json.loads(path.read_text(encoding='utf-8'))
    for cell in notebook['cells']:
        if ''.join(cell['source']).startswith(MARK):
            cell['source'] = text.splitlines(keepends=True)
    text = json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + '\n'
    return {path.relative_to(root).as_posix(): text}


def main(root: Path = ROOT) -> int:
    "Links the terms of all pages; prints which pages change."
    for name, text in linked_pages(root).items():
        (root/name).write_text(text, encoding='utf-8', newline='\n')
        print(f'{name}: terms')
    return 0


if __name__ == '__main__':
    sys.exit(main())
