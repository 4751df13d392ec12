"""Writes README.md from nbs/index.ipynb, without Quarto.

The front page is a notebook in nbs/, so its links are relative to that folder; in the README they are relative to the
folder above. Apart from that the README is nbconvert's Markdown of the cells that are not hidden.
"""
import posixpath
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parents[1]
_directive = re.compile(r'^#\|.*\n?', re.MULTILINE)
_hidden = re.compile(r'^#\|\s*(hide|include:\s*false)\s*$', re.MULTILINE)
_page = re.compile(r'<iframe src="([^"]+)\.html" title="([^"]+)"')
_link = re.compile(r'(?<=\]\()(?![a-z]+:|[#/])([^)\s]+)')


def readme(
    notebook: Path,  # the front page
) -> str:            # its Markdown, with links as seen from the folder above the notebook's
    "The text of README.md; ValueError if a stored output is a picture, which a README cannot hold."
    nb = nbformat.read(notebook, as_version=4)
    nb.cells = [cell for cell in nb.cells if cell.cell_type != 'code' or not _hidden.search(cell.source)]
    for cell in nb.cells:
        cell.source = _directive.sub('', cell.source)
        if cell.cell_type == 'raw':  # HTML for the site alone: of a page in it a README shows the still image
            (page, title), = _page.findall(cell.source)
            cell.source = f'\n[![{title}]({page}.webp)]({page}.html)\n'
    text, resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get('outputs'):
        raise ValueError(f"{notebook.name} stores a picture as an output. Save it as a file beside the notebook and "
                         "show it with a Markdown link, so that the README can show it too.")
    folder = notebook.parent.name
    text = _link.sub(lambda m: posixpath.normpath(posixpath.join(folder, m[1])), text)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


if __name__ == '__main__':
    (root/'README.md').write_text(readme(root/'nbs'/'index.ipynb'), encoding='utf-8')
