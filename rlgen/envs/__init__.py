"Environments; importing this package registers them with Gymnasium."
import lazy_loader
from gymnasium.envs.registration import register

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names stand in __init__.pyi

register("rlgen/SemanticGrid-v0", entry_point="rlgen.envs.grid:SemanticGrid",
         vector_entry_point="rlgen.envs.grid:SemanticGridVector")
register("rlgen/SemanticChoice-v0", entry_point="rlgen.envs.grid:SemanticChoice")
register("rlgen/PromptTokens-v0", entry_point="rlgen.envs.tokens:PromptTokens")
register("rlgen/Schedule-v0", entry_point="rlgen.envs.schedule:Schedule",
         vector_entry_point="rlgen.envs.schedule:ScheduleVector")
register("rlgen/SupportSet-v0", entry_point="rlgen.envs.support:SupportSet")
register("rlgen/Latent-v0", entry_point="rlgen.envs.latent:Latent",
         vector_entry_point="rlgen.envs.latent:LatentVector")
