"""What needs a GPU: Stable Diffusion 1.4's exact shape with random weights,
through the real loading code and the whole search. One test is for any machine: that the shape is the right one.
"""
import pytest
import torch

from rlgen.grammar import Grammar

def parts():
    "The three networks of SD 1.4 as its config files describe them, randomly initialised."
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel
    down, up = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    return {
        "unet": UNet2DConditionModel(
            sample_size=64,
            in_channels=4,
            out_channels=4,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=768,
            down_block_types=down,
            up_block_types=up,
        ),
        "vae": AutoencoderKL(
            sample_size=512,
            latent_channels=4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
        )),
    }


def test_the_shape_is_the_published_one():
    with torch.device("meta"):
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts().items()}
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_search_on_the_shape_of_stable_diffusion_14(tmp_path):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    from rlgen.experiments.rldf import RLDFSettings, search
    from rlgen.models.loading import ModelSettings
    from rlgen.training.loop import new_tokenizer
    torch.manual_seed(0)
    with torch.device("cuda"):
        made = {name: part.half() for name, part in parts().items()}
    tokenizer = new_tokenizer()
    tokenizer.model_max_length = 77
    scheduler = DPMSolverMultistepScheduler(beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear")
    StableDiffusionPipeline(
        **made,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path / "sd14")
    grammar = Grammar.from_string(
        'S -> "a photo of one" Noun "and no people in" Scene\nNoun -> "dog" | "cat" | "bus"\nScene -> "farm" | "beach"'
    )
    result = search(
        settings=RLDFSettings(
            grammar.text, max_steps=30, models=ModelSettings(str(tmp_path / "sd14"), inference_steps=20)
        ),
        out=tmp_path / "run",
    )
    assert 1 <= result.generator_calls <= grammar.n_states
