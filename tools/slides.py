"""Writes the lessons of the start track as slides, one HTML page each, from the notebooks as they are.

    python tools/slides.py FOLDER                                   all lessons of the start track
    python tools/slides.py FOLDER nbs/rldf/04_shaping.ipynb ...     these instead

Nothing is executed: stored outputs are shown. A slide begins at each heading; the texts, figures and longer code
under it go down from it. Imports are left out, and links to other lessons become plain text. The pages load reveal.js
and MathJax from the network. `jupyter nbconvert --to slides` alone puts a whole notebook on one slide, since the
cells hold no marks for slides (nbdev-clean removes them); so the marks are made here.
"""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

START = Path(__file__).resolve().parents[1]/'nbs'/'start'
WORDS = 120  # on one slide; a longer text is divided between its paragraphs


def parts(text: str) -> list[str]:
    """A text of Markdown in slides: a new one at each heading, and before a paragraph that would make it too long,
    unless the one before announces it with a colon.
    """
    text = re.sub(r'(?<!!)\[([^]]+)\]\((?!https?:)[^)]+\)', r'\1', text)  # slides lie alone: no links to other pages
    found = ['']
    for block in re.split(r'\n\n(?=\S)', text.strip()):
        too_long = len((found[-1] + block).split()) > WORDS and not found[-1].endswith(':\n\n')
        if re.match(r'##? ', block) or too_long:
            found.append('')
        found[-1] += block + '\n\n'
    return [part for part in found if part]


def marked(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    "A notebook whose cells say where slides begin."
    cells = []
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            for part in parts(cell.source):
                cells.append(nbformat.v4.new_markdown_cell(part))
                kind = 'slide' if re.match(r'##? ', part) else 'subslide'
                cells[-1].metadata.slideshow = {'slide_type': kind}
            continue
        lines = [line for line in cell.source.splitlines() if not line.startswith('#|')]
        setup = all(re.match(r'(import|from|%|[ )])|$', line) for line in lines)
        if setup and not cell.outputs or '#| hide' in cell.source: continue
        cell.source = '\n'.join(lines).strip()
        image = any(output.output_type == 'display_data' for output in cell.outputs)
        cell.metadata.slideshow = {'slide_type': 'subslide' if image or len(lines) > 8 else '-'}
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells, metadata=nb.metadata)


def slides(path: Path) -> str:
    "The page of one notebook."
    exporter = SlidesExporter(reveal_scroll=True, reveal_number='c/t', exclude_input_prompt=True,
                              exclude_output_prompt=True, embed_images=True)
    page, _ = exporter.from_notebook_node(marked(nbformat.read(path, as_version=4)),
                                          {'metadata': {'name': path.stem, 'path': str(path.parent)}})
    return page


def main(
    arguments: list[str],  # a folder, and notebooks
) -> int:                  # exit status
    "The command."
    if not arguments or arguments[0].startswith('-'):
        print(__doc__)
        return 2
    folder, *chosen = map(Path, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    for path in chosen or sorted(START.glob('*.ipynb')):
        target = folder/f'{path.stem}.slides.html'
        target.write_text(slides(path), encoding='utf-8')
        print(target)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
