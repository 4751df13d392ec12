"""Makes the animation of the front page: one search, image by image, on the models that ship with the package.

    python tools/animation.py [FILE]    writes nbs/site/search.gif, or FILE; half a minute
"""
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rlgen.envs.grid import default_goal
from rlgen.experiments.rldf import RLDFSettings, load_world, search_steps
from rlgen.plots import CHANGED, changed_words

ROOT = Path(__file__).resolve().parents[1]
SIDE, EDGE, LINE = 192, 16, 26  # of an image, a margin and a line of text, in pixels
SAME = '#333333'


def frame(
    goal: Image.Image,
    image: Image.Image,
    prompt: str,
    before: str,   # the prompt of the frame before, whose words are not marked
    caption: str,
) -> Image.Image:  # RGB, both images side by side above the prompt
    "One frame; words that are new in the prompt have another colour and a line below."
    canvas = Image.new('RGB', (2 * SIDE + 3 * EDGE, SIDE + 3 * LINE + 2 * EDGE), 'white')
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for k, (title, shown) in enumerate((('goal', goal), (caption, image))):
        left = EDGE + k * (SIDE + EDGE)
        draw.text((left, EDGE // 2), title, fill=SAME, font=font)
        canvas.paste(shown.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, EDGE // 2 + LINE))
    left = EDGE
    new = changed_words(prompt, before)
    for word, changed in list(zip(prompt.split(), new, strict=True))[3:]:  # without "a photo of"
        draw.text((left, SIDE + EDGE + LINE + 6), word, fill=CHANGED if changed else SAME, font=font)
        if changed:
            below = SIDE + EDGE + 2 * LINE - 1
            draw.line((left, below, left + draw.textlength(word, font=font), below), fill=CHANGED, width=2)
        left += round(draw.textlength(word + ' ', font=font))
    return canvas


def main(path: Path) -> int:
    "Write the animation."
    goal, settings = default_goal(), RLDFSettings(agent='posterior', reward='multi', seed=4)
    frames, before = [], None
    for trace in search_steps(load_world(settings), goal, settings):
        prompt = trace.env.state_values.world.prompt(trace.states[-1])
        caption = f'image {trace.calls[-1]}, reward {trace.rewards[-1]:.0f}' + (', found' if trace.found else '')
        frames.append(frame(goal, trace.images(trace.states[-1:])[0], prompt, before or prompt, caption))
        before = prompt
    few = [image.quantize(64, dither=Image.Dither.NONE) for image in frames]
    few[0].save(path, save_all=True, append_images=few[1:], duration=[900] * (len(few) - 1) + [4000], loop=0)
    print(f'{path.name}: {len(few)} frames, {path.stat().st_size / 1000:.0f} kB')
    return 0


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT/'nbs'/'site'/'search.gif'))
