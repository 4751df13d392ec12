"""A text-to-image model turns a prompt into a picture. `rlgen` asks the question the other way round: **I have a
picture. Which prompt gives pictures like it?** An agent looks for the answer by trial and error. It changes the
prompt a step at a time, has the model draw what the new prompt says, sees how much closer the drawing comes to
the picture, and learns from that. The model itself is never trained: it is frozen, and its prompt is the only
handle. And a second question: **I have a prompt, and pictures that I like. Which words must I add?**

Every module of the package is written as a lesson in a notebook, and the notebooks need no GPU, no account and
no network: `rlgen` ships its own small Stable Diffusion, its own small CLIP, a small language model and a small
captioner, trained from scratch on scenes that its own renderer draws. They are real models in the usual formats
of `diffusers` and `open_clip`, so the same code runs on a full-size model."""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names stand in __init__.pyi
