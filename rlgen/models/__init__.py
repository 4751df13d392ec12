"What maps prompts, images and texts to each other."
import lazy_loader

from rlgen.reproducibility import one_thread as _one_thread

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names stand in __init__.pyi

_one_thread()  # before any module here loads PyTorch
