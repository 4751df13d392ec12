"Environments; importing this registers them with Gymnasium."
from gymnasium.envs.registration import register

register("rlgen/SemanticGrid-v0", entry_point="rlgen.envs.grid:SemanticGrid", vector_entry_point="rlgen.envs.grid:SemanticGridVector")
register("rlgen/SemanticChoice-v0", entry_point="rlgen.envs.grid:SemanticChoice")
register("rlgen/PromptTokens-v0", entry_point="rlgen.envs.tokens:PromptTokens")
register("rlgen/SupportSet-v0", entry_point="rlgen.envs.support:SupportSet")
