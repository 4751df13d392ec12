"Speed, measured: `rlgen bench`."
import lazy_loader

from . import images, learners, steps  # noqa: F401, their measurements register themselves

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names stand in __init__.pyi
