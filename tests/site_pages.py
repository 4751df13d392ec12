"""Pages of the site as Quarto would show them, as near as Pandoc, our style sheet and a few lines of CSS come to it.

Quarto runs in the public workflow alone. It gives Pandoc the text that `page_markdown` makes, and puts the theme cosmo
or darkly (Bootstrap) around the result. Approximated here: widths of the columns, sizes of the text and of the margins,
and the places of navbar and sidebar. Ours, and as they are: nbs/site/*.scss, nbs/site/scroll.html, the navbar's
colours.
"""
import base64
import html
import json
import re
from functools import cache
from pathlib import Path

import yaml

SITE = Path(__file__).resolve().parents[1]/'nbs'/'site'
THEMES = {'light': ('#ffffff', '#373a3c'), 'dark': ('#222222', '#ffffff')}  # cosmo and darkly: background, text

BASE = '''
html { font-size: 17px } body { margin: 0; line-height: 1.5; overflow-wrap: break-word }
.navbar { position: sticky; top: 0; padding: .5rem 1rem; display: flex; flex-wrap: wrap; gap: .5rem 1rem; z-index: 9 }
.navbar a { color: inherit; text-decoration: none }
#columns { display: grid; grid-template-columns: 1fr; gap: 2rem; padding: 0 .75rem }
#sidebar { display: none }
@media (min-width: 992px) {
  #columns { grid-template-columns: 250px minmax(0, 850px) 1fr; padding: 0 1.5rem } #sidebar { display: block } }
main { min-width: 0 }
img, video, svg { max-width: 100%; height: auto }
pre { margin: 0 0 1em; padding: .4em; overflow: auto; font-size: .875em; font-family: monospace }
pre.sourceCode > code.sourceCode { white-space: pre-wrap } /* code-overflow: wrap */
table { border-collapse: collapse; width: 100%; margin-bottom: 1rem } td, th { padding: .5rem; text-align: left }
figure { margin: 0 0 1rem }
'''


@cache
def settings() -> dict:
    "Those of the site."
    return yaml.safe_load((SITE.parent/'_quarto.yml').read_text(encoding='utf-8'))


def plain_css(name: str) -> str:
    "The rules of one of our style sheets, with its variables filled in, as CSS; a browser knows nesting."
    defaults, _, rules = (SITE/name).read_text(encoding='utf-8').partition('/*-- scss:rules --*/')
    text = re.sub(r'^\s*//.*$', '', defaults + rules, flags=re.MULTILINE)
    values = {key: value for key, value in re.findall(r'^\s*(\$[\w-]+):\s*([^;]+?)(?:\s*!default)?;', text, re.M)}
    text = re.sub(r'^\s*\$[\w-]+:[^;]+;', '', text, flags=re.MULTILINE)
    return re.sub(r'\$[\w-]+', lambda match: values[match[0]], text)


def variables(scheme: str) -> dict[str, str]:
    "The values that our style sheets give to Bootstrap's variables."
    found = {}
    for name in settings()['format']['html']['theme'][scheme][1:]:
        text = re.sub(r'//.*', '', (SITE/Path(name).name).read_text(encoding='utf-8'))
        found |= dict(re.findall(r'^\$([\w-]+):\s*([^;]+?);', text, re.MULTILINE))
    return found


def style(scheme: str) -> str:
    "The style sheet of a page: light or dark."
    background, text = THEMES[scheme]
    ours, navbar = variables(scheme), settings()['website']['navbar']
    rules = [BASE, f'body {{ background: {background}; color: {text}; font-family: {ours["font-family-sans-serif"]} }}',
             f'.navbar {{ background: {navbar["background"]}; color: {navbar["foreground"]} }}',
             f'h1 {{ font-size: {ours["h1-font-size"]} }} h2 {{ font-size: {ours["h2-font-size"]} }}',
             f'h3 {{ font-size: {ours["h3-font-size"]} }} a {{ color: {ours["link-color"]} }}',
             f'pre {{ background: {ours["code-block-bg"]} }} :not(pre) > code {{ color: {ours["code-color"]} }}']
    rules += [plain_css(Path(name).name) for name in settings()['format']['html']['theme'][scheme][1:]]
    return '\n'.join(rules)


def directives(source: str) -> tuple[dict[str, str], str]:
    "The directives of a cell, and its code without them."
    found = dict(re.findall(r'^#\|\s*([\w-]+):\s*(.*)$', source, re.MULTILINE))
    return found, re.sub(r'^#\|.*\n?', '', source, flags=re.MULTILINE)


def output_markdown(output: dict, options: dict[str, str]) -> str:
    "An output as Quarto gives it to Pandoc."
    data = {kind: ''.join(value) for kind, value in output.get('data', {}).items()}
    if 'text/markdown' in data:
        return data['text/markdown']
    for kind in ('image/png', 'image/jpeg'):
        if kind in data:
            caption, alt = (json.loads(options.get(name, '""')) for name in ('fig-cap', 'fig-alt'))
            source = f'data:{kind};base64,{"".join(data[kind].split())}'
            return f'![{caption}]({source}){{alt={json.dumps(alt)}}}'
    text = data.get('text/plain', ''.join(output.get('text', '')) or '\n'.join(output.get('traceback', [])))
    return f'````{{.output}}\n{text.rstrip()}\n````' if text.strip() else ''


def page_markdown(path: Path) -> tuple[dict, str]:
    "The front matter of a processed page and its text, outputs included, as Quarto gives it to Pandoc."
    text = path.read_text(encoding='utf-8')
    if path.suffix != '.ipynb':
        _, front, text = text.split('---\n', 2)
        return yaml.safe_load(front), text
    first, *cells = json.loads(text)['cells']
    parts = []
    for cell in cells:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(source)
        elif cell['cell_type'] == 'code':
            options, code = directives(source)
            if code.strip() and options.get('echo') != 'false':
                parts.append(f'````{{.python .cell-code}}\n{code.rstrip()}\n````')
            parts += [output_markdown(output, options) for output in cell.get('outputs', [])]
    return yaml.safe_load(''.join(first['source']).strip().strip('-')), '\n\n'.join(filter(None, parts))


@cache
def page_body(path: Path) -> str:
    "What Pandoc makes of a processed page."
    import pypandoc
    text = page_markdown(path)[1].replace('){fig-alt=', '){alt=')
    images = list(dict.fromkeys(re.findall(r'data:image/[^\s"\\)]+', text)))  # Pandoc would take seconds to read them
    for k, image in enumerate(images):
        text = text.replace(image, f'stored-{k}-.png')
    body = pypandoc.convert_text(text, 'html5', format='markdown', extra_args=['--mathml'])
    return re.sub(r'stored-(\d+)-\.png', lambda match: images[int(match[1])], body)


def page_html(
    path: Path,             # a processed page
    scheme: str = 'light',  # or dark
    extra: str = '',        # more CSS, before ours
) -> str:
    "The page as HTML that needs no other file."
    front, _ = page_markdown(path)

    def inlined(match):
        file = path.parent/match[1]
        if not file.exists():
            return match[0]
        kind = {'.svg': 'svg+xml', '.jpg': 'jpeg'}.get(file.suffix, file.suffix[1:])
        return f'src="data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"'
    body = re.sub(r'src="(?!data:|https?:)([^"]+)"', inlined, page_body(path))
    title, about = (html.escape(str(front.get(key, ''))) for key in ('title', 'description'))
    entries = ''.join(f'<a href="{item.get("href", "#")}">{item.get("text", "")}</a>'
                      for item in settings()['website']['navbar'].get('left', []))
    return f'''<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title} – rlgen</title>
<meta name="description" content="{about}"><meta name="viewport" content="width=device-width, initial-scale=1">
<style>{extra}{style(scheme)}</style></head><body class="quarto-{scheme}">
<header><nav class="navbar" aria-label="site"><a class="navbar-brand" href="#">rlgen</a>{entries}</nav></header>
<div id="columns"><div id="sidebar"></div><main class="content" id="quarto-document-content">
<header id="title-block-header"><h1 class="title">{title}</h1><p class="description">{about}</p></header>
{body}</main></div>{(SITE/"scroll.html").read_text(encoding="utf-8")}</body></html>'''


def entries(site: Path) -> list[dict[str, str]]:
    "What the site's search knows: the title, heading and text of each section of processed pages."
    found = []
    for path in sorted(path for path in site.rglob('*') if path.suffix in ('.ipynb', '.md', '.qmd')):
        front, text = page_markdown(path)
        text = re.sub(r'data:image\S+', '', text)
        first, *rest = re.split(r'^#{1,6} +(.+?)(?: *\{.*\})?$', text, flags=re.MULTILINE)
        for section, body in zip(['', *rest[::2]], [first, *rest[1::2]], strict=True):
            found.append({'page': path.relative_to(site).as_posix(), 'title': str(front['title']),
                          'section': re.sub(r'[`*]', '', section), 'text': body})
    return found


def search(
    found: list[dict[str, str]],  # as `entries` gives them
    query: str,
) -> list[dict[str, str]]:        # the best first
    """The sections that contain a query, in the order in which the site's search shows them.

    Quarto searches with Fuse.js: title and heading have the weight 20, the text 10, and a field counts the more the
    fewer words it has, and most if the query is all that it says. Misspelt words, which it finds, too, are left out.
    """
    def score(entry):
        weights = {'title': .4, 'section': .4, 'text': .2}
        matching = [name for name in weights if query.lower() in entry[name].lower()]
        whole = {name: 36 if query.lower() == entry[name].lower() else 7 for name in matching}
        return -sum(whole[name] * weights[name] / len(entry[name].split()) ** .5 for name in matching)
    return sorted((entry for entry in found if score(entry) < 0), key=score)
