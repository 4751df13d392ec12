"""`rlgen` is a course and a library on how reinforcement learning and image generators work together: an agent that
finds **the prompt behind an image**, a language model that learns **the words for images that you like**, PPO that
chooses **the images that a classifier needs**, and rewards that **change the generator itself**.

Everything runs on a laptop, offline. The package ships its own small Stable Diffusion, CLIP, language model and
captioner, trained from scratch on rendered scenes. They are real models in the usual formats of `diffusers`,
`transformers` and `open_clip`, so the same code runs on a full-size model: say `"CompVis/stable-diffusion-v1-4"`
instead of `"tiny"`."""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names stand in __init__.pyi
