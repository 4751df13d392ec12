"""The panels of the preference and the support track as a reader uses them: JupyterLab in headless Chromium.

Only the cells that the panels and their neighbours need are kept, and what they learn from is smaller.
"""
import pytest

WIDTHS = 1000, 1280, 1500
NAMELESS = """boxes => boxes.flatMap(box => [...box.querySelectorAll('input, select, textarea, img')])
    .filter(it => it.checkVisibility() && it.type !== 'file' && it.type !== 'submit')
    .filter(it => !it.labels?.length && !it.getAttribute('aria-label') && !it.alt && !it.title)
    .map(it => it.outerHTML.slice(0, 200))"""
SQUEEZED = """boxes => boxes.flatMap(box => [...box.querySelectorAll('input, select, button, img')])
    .filter(it => it.checkVisibility())
    .filter(it => it.tagName === 'IMG' ? it.width > it.naturalWidth : it.getBoundingClientRect().width < 60)
    .map(it => it.outerHTML.slice(0, 200))"""


def faults(panel):
    "What in a panel has no name, or a wrong one, or not its size, at three widths of the window."
    page, size = panel.page, panel.page.viewport_size
    wrong = panel.evaluate_all(NAMELESS) + ['null'] * panel.locator('[title=null]').count()
    for width in WIDTHS:
        page.set_viewport_size({'width': width, 'height': size['height']})
        wrong += panel.evaluate_all(SQUEEZED)
    page.set_viewport_size(size)
    return wrong


def choose(panel, name, option):
    panel.get_by_label(name, exact=True).select_option(option)


def press(panel, name):
    panel.get_by_role('button', name=name).click()


def wait_for(panel, text):
    panel.get_by_text(text).first.wait_for()


def distance(panel, text, image):
    "Pixels from the top of a button to the bottom of an image below it."
    top = panel.get_by_role('button', name=text).bounding_box()['y']
    shown = panel.locator('img:visible').nth(image).bounding_box()
    return shown['y'] + shown['height'] - top


def words_for_an_image(cell):
    "Whether a cell is kept, which then makes fewer images."
    if 'world, pairs = default_world()' in cell.source:
        cell.source = 'world, pairs = default_world(), shipped_pairs()\nreward = Similarity(world.perception)'
    if cell.source.startswith('pool = '):
        scenes = '[("dog", "farm"), ("bus", "beach"), ("boat", "beach"), ("cat", "street"), ("apple", "playground")]'
        cell.source = cell.source.replace(
            '[run.image(text) for _, text in list(run.task.known)[:60]]',
            f'[render(f"a photo of one {{a}} and no people in {{b}}", i)[0] for i, (a, b) in enumerate(4 * {scenes})]')
    words = 'from fastcore', 'default_world()', 'panel = ', 'pool = ', 'somebody = '
    return cell.cell_type == 'code' and (cell.source in ('panel', 'asking') or any(w in cell.source for w in words))


@pytest.fixture(scope='module')
def words(lab):
    notebook = lab.open('preference/09_words_for_an_image', keep=words_for_an_image)
    notebook.run(wait=False)
    line = notebook.page.get_by_text('Loading the generator tiny')
    line.wait_for()
    notebook.idle(600)
    assert line.count() == 0
    yield notebook
    notebook.close()


def cell_of(notebook, source):
    "The number of the cell that shows a panel."
    return [cell.source for cell in notebook.source.cells].index(source)


def test_answers_are_the_readers_alone(words):
    asking = words.output(cell_of(words, 'asking'))
    wait_for(asking, '0 answers so far')
    assert faults(asking) == []
    asking.get_by_role('button', name='left').dblclick()
    wait_for(asking, '1 answer so far')
    asking.get_by_role('button', name='right').focus()
    words.page.keyboard.press('Enter')
    wait_for(asking, '2 answers so far')
    words.run('somebody = ')
    assert words.python('len(asking.log.answers), len(somebody.log.answers)') == '(2, 15)'
    press(asking, 'Undo')
    wait_for(asking, '1 answer so far')
    press(asking, 'Start over')
    wait_for(asking, '0 answers so far')
    press(asking, 'one image')
    press(asking, 'up')
    wait_for(asking, '1 answer so far')
    assert words.failures() == []


def test_prompts_are_tuned(words):
    panel = words.output(cell_of(words, 'panel'))
    panel.scroll_into_view_if_needed()
    wait_for(panel, 'Read as: ')
    assert faults(panel) == [] and not panel.get_by_text('The kernel is busy').count()
    panel.get_by_role('button', name='Run').dblclick()
    wait_for(panel, ' of 40, up to ')
    press(panel, 'Stop')
    wait_for(panel, 'Stopped. ')
    assert distance(panel, 'Run', 1) < 400 and faults(panel) == []  # the button and the chart are on one screen
    assert panel.locator('img:visible').count() == 4
    choose(panel, 'target', 'an image of my own')
    choose(panel, 'style', 'macabre')
    panel.get_by_role('button', name='Open an image').wait_for()
    panel.locator('img:visible').nth(1).wait_for(state='hidden')  # no result of another target
    panel.get_by_label('seed prompt').fill('')
    panel.get_by_label('seed prompt').press('Enter')
    press(panel, 'Run')
    panel.get_by_role('alert').wait_for()
    assert 'at least one word' in panel.get_by_role('alert').inner_text()
    assert faults(panel) == [] and words.failures() == []


def images_for_a_classifier(cell):
    "Whether a cell is kept."
    words = 'import os', 'FULL = ', 'panel = ', 'weakest = '
    return cell.cell_type == 'code' and (cell.source == 'panel' or any(w in cell.source for w in words))


def test_a_set_is_filled(lab):
    notebook = lab.open('support/03_images_for_a_classifier', keep=images_for_a_classifier, dark=True)
    notebook.run()
    panel = notebook.output(cell_of(notebook, 'panel'))
    wait_for(panel, 'No images yet')
    assert faults(panel) == []
    choose(panel, 'label', 'bus')
    wait_for(panel, 'Prompt: a photograph of a bus, banana, and banana')
    panel.get_by_role('button', name='Add').dblclick()
    wait_for(panel, '2 of 20 images')
    press(panel, 'Undo')
    wait_for(panel, 'No images yet')
    press(panel, 'Add')
    wait_for(panel, '2 of 20 images')
    assert distance(panel, 'Add', 0) < 500
    notebook.run('weakest = ')
    assert notebook.python('panel.hand.sizes.tolist(), hand.additions[0].prompt == panel.hand.additions[0].prompt') == (
        '([0, 2], False)')
    panel.get_by_role('tab', name='your set').focus()
    notebook.page.keyboard.press('ArrowRight')
    notebook.page.keyboard.press('Enter')
    press(panel, 'Run')
    wait_for(panel, 'PPO fills sets: ')
    press(panel, 'Stop')
    wait_for(panel, 'Stopped. ')
    assert distance(panel, 'Run', 0) < 400 and faults(panel) == []
    panel.get_by_role('tab', name='images of a set').click()
    choose(panel, 'browse', "PPO's last")
    panel.locator('img:visible').wait_for()
    assert faults(panel) == [] and notebook.failures() == []
    notebook.restart()
    notebook.run()
    wait_for(panel, 'No images yet')
    assert panel.get_by_role('tab').count() == 3 and notebook.failures() == []
    notebook.close()
