"""How pages of the site look in a browser: nothing wider than a phone, contrast, names for controls, axe-core.

The pages go through nbdev's steps and ours, but not through those that run code, which take minutes: what is missing
are signatures of hidden functions, which are blocks of code as others. tests/site_pages.py says what is approximated.
"""
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from fastcore.nbio import write_nb
from nbdev import config
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults
from site_pages import SITE, THEMES, page_html, page_markdown, plain_css, settings, style, variables
from test_notebooks import NBS, NOTEBOOKS

from rlgen import _site

WIDTHS = (1400, 390)
PAGES = [  # one of each kind: films, wide tables, panels, equations, long code, long output, the reference
    'index.ipynb', *(name for name in NOTEBOOKS if re.search(
        r'^(start/00|start/03|rldf/05|rldf/15|rldf/16|rldf/22|preference/04|support/03|support/07|'
        r'guides/01|guides/04|guides/05|library/15|library/20|library/26)_', name)),
    'reference/index.md', 'reference/agents.md', *(f'reference/{path.name}' for path in
                                                   sorted((NBS/'reference').glob('env-*.md'))), '404.qmd']
DARK = ('index.ipynb', 'start/00_be_the_agent.ipynb', 'reference/agents.md')  # also looked at on a dark page

AXE = ('index.ipynb, light', 'index.ipynb, dark', 'start/00_be_the_agent.ipynb, light',  # axe-core takes seconds a page
       'start/00_be_the_agent.ipynb, dark', 'reference/env-semantic-grid.md, light')


def processed(
    name: str,     # of a page in nbs/
    target: Path,  # folder to write it into
) -> Path:
    "A page after nbdev's steps and ours, but for those that run its code."
    path = target/name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != '.ipynb':
        return Path(shutil.copy(NBS/name, path))
    skipped = ('add_show_docs', 'clean_show_doc', 'exec_show_docs', 'mv_exports')
    steps = [step for step in FilterDefaults().base_procs() if step.__name__ not in skipped]
    processor = NBProcessor(NBS/name, [*steps, _site.static_outputs, _site.MendedLinks], rm_directives='quarto')
    processor.process()
    write_nb(processor.nb, path)
    return path


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> dict[str, Path]:
    "The pages, processed, by name."
    folder = tmp_path_factory.mktemp('site')
    shutil.copytree(NBS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.ipynb', '*.md', '*.py', '.*'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, '_load_toml', cache(config._load_toml))  # nbdev reads its settings for each cell
        return {name: processed(name, folder) for name in PAGES}


@pytest.fixture(scope='module')
def browser():
    "Chromium, the system's."
    sync_api = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed')
    path = shutil.which('chromium') or shutil.which('google-chrome') or shutil.which('chrome')
    if path is None:
        pytest.skip('there is no Chromium on this machine')
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def written(site) -> dict[str, Path]:
    "The pages as HTML, light and dark."
    pytest.importorskip('pypandoc', reason='pypandoc-binary is not installed')
    return {f'{name}, {scheme}': write(path, scheme) for name, path in site.items() for scheme in THEMES
            if scheme == 'light' or name in DARK}


def write(path: Path, scheme: str) -> Path:
    "Writes the HTML of a processed page beside it."
    target = path.with_name(f'{path.name}.{scheme}.html')
    target.write_text(page_html(path, scheme), encoding='utf-8')
    return target


def channels(colour: str) -> list[float]:
    "Red, green and blue, 0 to 1."
    digits = colour.lstrip('#')
    digits = ''.join(2 * digit for digit in digits) if len(digits) == 3 else digits
    return [int(digits[i:i + 2], 16) / 255 for i in (0, 2, 4)]


def contrast(first: str, second: str) -> float:
    "The contrast ratio of two colours (WCAG 2.2), 1 to 21."
    weights = (.2126, .7152, .0722)
    luminances = [sum(weight * (c / 12.92 if c <= .04045 else ((c + .055) / 1.055) ** 2.4)
                      for weight, c in zip(weights, channels(colour), strict=True)) for colour in (first, second)]
    return (max(luminances) + .05) / (min(luminances) + .05)


def test_contrast_is_that_of_the_standard():
    assert contrast('#fff', '#000000') == pytest.approx(21)
    assert contrast('#ffffff', '#2780e3') == pytest.approx(3.9, abs=.1)  # the theme's own navbar fails
    assert contrast('#777777', '#ffffff') == pytest.approx(4.48, abs=.01)


def test_the_navbar_and_the_text_can_be_read():
    navbar = settings()['website']['navbar']
    assert contrast(navbar['background'], navbar['foreground']) >= 4.5
    for scheme, (background, text) in THEMES.items():
        ours = variables(scheme)
        for colour in (text, ours['link-color'], ours['code-color'], ours['footer-fg']):
            for behind in (background, ours['code-block-bg']):
                assert contrast(colour, behind) >= 4.5, (scheme, colour, behind)


def test_style_sheets_need_no_other_host():
    sheets = [name for names in settings()['format']['html']['theme'].values() for name in names[1:]]
    texts = [(NBS/name).read_text(encoding='utf-8') for name in sheets] + [(SITE/'scroll.html').read_text()]
    assert not any(re.search(r'@import|https?:|url\(', text) for text in texts)
    assert all(style(scheme).count('{') == style(scheme).count('}') for scheme in THEMES)


def test_variables_are_filled_in():
    assert '$' not in plain_css('theme.scss') and 'font-family-sans-serif' not in plain_css('theme.scss')


def test_pages_have_a_title_a_description_one_heading_and_texts_for_images(site):
    for name, path in site.items():
        front, text = page_markdown(path)
        assert str(front.get('title', '')).strip() and str(front.get('description', '')).strip(), name
        outside = re.sub(r'^ *(```+|~~~).*?^ *\1', '', text, flags=re.MULTILINE | re.DOTALL)
        assert re.findall(r'^# .*', outside, re.MULTILINE) == [], f'{name} has a second heading of the first level'
        assert re.findall(r'!\[\s*\]\([^)]*\)(?!\{alt="[^"])', text) == [], f'{name} has an image without alt text'
        assert [tag for tag in re.findall(r'<img [^>]*>', text) if not re.search(r'alt="[^"]', tag)] == [], name


def test_the_first_cell_is_whole(site):
    for name in [name for name in site if name.startswith(('start/', 'guides/'))]:
        text = page_markdown(site[name])[1]
        assert len(text) > 1000 and '#| ' not in re.sub(r'```.*?```', '', text, flags=re.DOTALL)
    assert '**You will learn**' in page_markdown(site['start/00_be_the_agent.ipynb'])[1]


def test_films_load_nothing_and_their_controls_have_names(site):
    films = {name: text for name, path in site.items() if 'class="animation"' in (text := page_markdown(path)[1])}
    assert films
    for text in films.values():
        assert 'font-awesome' not in text and 'class="fa ' not in text
        assert all('aria-label="' in tag for tag in re.findall(r'<(?:button|input type="range")[^>]*>', text))
        assert all('aria-label="' in tag for tag in re.findall(r'<input [^>]*type="range"[^>]*>', text))


def test_a_line_stands_under_each_panel():
    found = 0
    for name in NOTEBOOKS:
        cells = NBProcessor(NBS/name, []).nb.cells
        for cell in (cell for cell in cells if cell.cell_type == 'code'):
            if _site.shows_panel(cell):
                found += 1
                _site.static_outputs(cell)
                shown = [''.join(output.get('data', {}).get('text/markdown', '')) for output in cell.outputs]
                assert _site.LIVE in shown, name
            elif 'skip-execution' not in cell.metadata.get('tags', []):
                assert not re.search(r'^\w+\.box$', cell.source.strip().split('\n')[-1]), f'{name}: {cell.source}'
    assert found > 10
    assert (NBS/'install.qmd.py').exists() and '(/install.qmd)' in _site.LIVE


def test_formulas_become_mathml(written):
    for name, path in written.items():
        raw = re.findall(r'<span class="math[^>]*>(?!<math)[^<]*', path.read_text(encoding='utf-8'))
        assert raw == [], f'{name}: Pandoc cannot read a formula, so the page shows its TeX'


MEASURED = """async () => {
  for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);  // a new width is noticed
  const scrolls = e => { for (let p = e.parentElement; p.tagName != 'HTML'; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return true; return false; };
  const name = e => e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 60);
  const wide = [...document.querySelectorAll('main *')].filter(
    e => e.getBoundingClientRect().width && e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e));
  const boxes = [...document.querySelectorAll('main pre, main .scrolls')].filter(e => e.scrollWidth > e.clientWidth);
  return {page: document.scrollingElement.scrollWidth, wide: wide.map(name),
    cut: boxes.filter(e => e.matches('.sourceCode')).map(name),
    hidden: boxes.filter(e => !['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).map(name),
    unreachable: boxes.filter(e => e.tabIndex != 0 || !e.getAttribute('aria-label')).map(name)}; }"""


def test_nothing_is_wider_than_the_page_or_cut_off(written, browser):
    page, problems = browser.new_page(), {}
    for name, path in written.items():
        page.goto(path.as_uri())
        for width in WIDTHS:
            page.set_viewport_size({'width': width, 'height': 900})
            found = page.evaluate(MEASURED)
            if found.pop('page') > width or any(found.values()):
                problems[f'{name}, {width} px'] = {key: value[:3] for key, value in found.items() if value}
    page.close()
    assert problems == {}


def test_axe_finds_nothing_serious(written, browser):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='axe-playwright-python is not installed')
    page, problems = browser.new_page(viewport={'width': 390, 'height': 900}), {}
    asked = []
    page.route('http*://**/*', lambda route: (asked.append(route.request.url), route.abort()))
    for name in AXE:
        page.goto(written[name].as_uri())
        found = axe.Axe().run(page, options={'resultTypes': ['violations']}).response['violations']
        serious = [f'{rule["id"]}: {rule["nodes"][0]["html"][:120]}' for rule in found
                   if rule['impact'] in ('critical', 'serious')]
        if serious:
            problems[name] = serious
    page.close()
    assert problems == {} and asked == []


def test_diagrams_and_columns_have_the_room_that_they_need(written, browser):
    page = browser.new_page(viewport={'width': 390, 'height': 900})
    page.goto(written['index.ipynb, light'].as_uri())
    diagram = page.get_by_label('Diagram, scrolls').locator('img')
    assert diagram.count() == 1 and diagram.bounding_box()['width'] > 600  # else its words are of 5 pixels
    page.set_viewport_size({'width': 1400, 'height': 900})
    heads = page.locator('table:has(th:text-is("what it is about"))').first.locator('th')
    lesson, module, about = heads.evaluate_all('cells => cells.map(cell => cell.clientWidth)')
    page.close()
    assert about > lesson > module  # those of the start track have no module
