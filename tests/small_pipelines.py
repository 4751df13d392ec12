"""Random pipelines of diffusers, one small copy of each class, built here: nothing is fetched.

`build` makes one; `CHANGES` are what a call needs beside its defaults so that the image stays small.
"""
import diffusers as d
import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ["<pad>", "</s>", "<s>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>",
           "<|video_pad|>"]
WORDS = "a photo of one dog cat painting rocket and tree very red blue many beach no some people in farm".split()
VOCABULARY = 256 + len(SPECIAL)
CHAT = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def tokenizer(limit=77, begin=True):
    "A token for each byte, and the special ones."
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return _fast(made, limit, begin)


def words(limit):
    "A token for each word of the tests' prompts, and one for all others: for long instructions."
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL, *WORDS])}, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return _fast(made, limit, True)


def _fast(made, limit, begin):
    made.add_special_tokens(SPECIAL)
    if begin:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)])
    fast = t.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", bos_token="<s>", model_max_length=limit)
    fast.chat_template = CHAT
    return fast


def text(**changes):
    "Settings of a text encoder."
    return {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2} | changes


def clip(cls=None, **changes):
    return (cls or t.CLIPTextModel)(t.CLIPTextConfig(**text(projection_dim=16, max_position_embeddings=77, **changes)))


def t5(cls=None, width=16):
    kind = cls or t.T5EncoderModel
    config = kind.config_class(vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
                               pad_token_id=0, eos_token_id=1)
    return kind(config)


def qwen3(cls=None, layers=2):
    return (cls or t.Qwen3Model)(t.Qwen3Config(**text(
        num_hidden_layers=layers, num_key_value_heads=2, head_dim=8, max_position_embeddings=2048)))


def qwen3_vl(cls=None, layers=2):
    config = t.Qwen3VLConfig(
        text_config=text(num_hidden_layers=layers, num_key_value_heads=2, head_dim=8,
                         rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}),
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
                       "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        image_token_id=5, video_token_id=8, vision_start_token_id=6, vision_end_token_id=7)
    return (cls or t.Qwen3VLModel)(config)


def qwen3_processor():
    return t.Qwen3VLProcessor(
        image_processor=t.Qwen2VLImageProcessor(patch_size=16, merge_size=2), tokenizer=tokenizer(2048, False),
        video_processor=t.Qwen3VLVideoProcessor(patch_size=16, merge_size=2), chat_template=CHAT)


def gemma(cls):
    return cls(cls.config_class(**text(num_hidden_layers=1, num_key_value_heads=2, head_dim=8,
                                       max_position_embeddings=2048)))


def vae(latents=4, levels=2, **changes):
    return d.AutoencoderKL(
        block_out_channels=(8,) * levels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=1, latent_channels=latents, norm_num_groups=4,
        sample_size=32, **changes)


def flow_vae(latents=4, levels=1):
    return vae(latents, levels, use_quant_conv=False, use_post_quant_conv=False, shift_factor=.06, scaling_factor=1.5)


def qwen_vae():
    return d.AutoencoderKLQwenImage(base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1,
                                    temperal_downsample=[False, True], latents_mean=[0.] * 4, latents_std=[1.] * 4)


def flow(**changes):
    return d.FlowMatchEulerDiscreteScheduler(**changes)


def ddim():
    return d.DDIMScheduler(beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear", clip_sample=False,
                           set_alpha_to_one=False, steps_offset=1)


def unet(**changes):
    return d.UNet2DConditionModel(**{
        "sample_size": 16, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16, "attention_head_dim": 2} | changes)


BUILDERS = {}  # name of a class -> function that builds one


def builds(*names):
    "Names the classes that a function builds."
    def put(function):
        BUILDERS.update(dict.fromkeys(names, function))
        return function
    return put


@builds("StableDiffusionPipeline", "StableDiffusionPAGPipeline", "LatentConsistencyModelPipeline")
def stable_diffusion(cls):
    lcm = cls is d.LatentConsistencyModelPipeline
    return cls(vae=vae(), text_encoder=clip(), tokenizer=tokenizer(), unet=unet(time_cond_proj_dim=8 if lcm else None),
               scheduler=d.LCMScheduler() if lcm else ddim(), safety_checker=None, feature_extractor=None,
               requires_safety_checker=False)


@builds("StableDiffusionXLPipeline", "StableDiffusionXLPAGPipeline")
def stable_diffusion_xl(cls):
    return cls(
        vae=vae(), text_encoder=clip(), text_encoder_2=clip(t.CLIPTextModelWithProjection), tokenizer=tokenizer(),
        tokenizer_2=tokenizer(), scheduler=d.EulerDiscreteScheduler(timestep_spacing="leading"),
        unet=unet(addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 1),
                  projection_class_embeddings_input_dim=8 * 6 + 16, cross_attention_dim=32))


@builds("StableDiffusion3Pipeline", "StableDiffusion3PAGPipeline")
def stable_diffusion_3(cls):
    transformer = d.SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        caption_projection_dim=16, joint_attention_dim=32, pooled_projection_dim=32, out_channels=4)
    return cls(transformer=transformer, scheduler=flow(), vae=flow_vae(), tokenizer=tokenizer(),
               tokenizer_2=tokenizer(),
               tokenizer_3=tokenizer(512), text_encoder=clip(t.CLIPTextModelWithProjection),
               text_encoder_2=clip(t.CLIPTextModelWithProjection), text_encoder_3=t5(width=32))


@builds("IFPipeline")
def deepfloyd(cls):
    net = unet(
        in_channels=3, out_channels=6, block_out_channels=(32, 32), norm_num_groups=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        encoder_hid_dim=16, cross_attention_dim=32, attention_head_dim=4, addition_embed_type="text",
        addition_embed_type_num_heads=2, cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift",
        act_fn="gelu")
    scheduler = d.DDPMScheduler(beta_schedule="squaredcos_cap_v2", thresholding=True, variance_type="learned_range")
    return cls(tokenizer=tokenizer(512), text_encoder=t5(), unet=net, scheduler=scheduler, safety_checker=None,
               feature_extractor=None, watermarker=None, requires_safety_checker=False)


@builds("HunyuanDiTPipeline", "HunyuanDiTPAGPipeline")
def hunyuan(cls):
    bert = t.BertModel(t.BertConfig(**text(num_hidden_layers=1)))
    transformer = d.HunyuanDiT2DModel(
        sample_size=4, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        hidden_size=16, cross_attention_dim=16, cross_attention_dim_t5=16, pooled_projection_dim=16,
        text_len=77, text_len_t5=256)
    return cls(vae=vae(levels=4), text_encoder=bert, tokenizer=tokenizer(), transformer=transformer,
               scheduler=d.DDPMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
               text_encoder_2=t5(), tokenizer_2=tokenizer(256))


def movq(levels=2):
    return d.VQModel(
        block_out_channels=[32] * levels, latent_channels=4, norm_num_groups=4, norm_type="spatial",
        down_block_types=["DownEncoderBlock2D"] * (levels - 1) + ["AttnDownEncoderBlock2D"], num_vq_embeddings=12,
        up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * (levels - 1), vq_embed_dim=4)


def kandinsky_unet(**changes):
    return unet(
        out_channels=8, block_out_channels=(32, 32), norm_num_groups=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", encoder_hid_dim=16, attention_head_dim=4,
        resnet_time_scale_shift="scale_shift", **changes)


def kandinsky_prior():
    prior = d.PriorTransformer(num_attention_heads=2, attention_head_dim=8, embedding_dim=16, num_layers=1)
    prior.clip_std = torch.nn.Parameter(torch.ones_like(prior.clip_std))
    vision = t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(
        hidden_size=16, image_size=32, projection_dim=16, intermediate_size=16, num_attention_heads=2,
        num_hidden_layers=1, patch_size=16))
    return {
        "prior_prior": prior, "prior_image_encoder": vision, "prior_text_encoder": clip(t.CLIPTextModelWithProjection),
        "prior_tokenizer": tokenizer(), "prior_image_processor": t.CLIPImageProcessor(crop_size=32, size=32),
        "prior_scheduler": d.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample",
                                             num_train_timesteps=1000, clip_sample=True, clip_sample_range=10.)}


@builds("KandinskyCombinedPipeline")
def kandinsky(cls):
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
    encoder = MultilingualCLIP(MCLIPConfig(numDims=16, transformerDimensions=16, **text(num_hidden_layers=1)))
    return cls(text_encoder=encoder, tokenizer=tokenizer(), scheduler=ddim(), movq=movq(),
               unet=kandinsky_unet(addition_embed_type="text_image", encoder_hid_dim_type="text_image_proj"),
               **kandinsky_prior())


@builds("KandinskyV22CombinedPipeline")
def kandinsky_2_2(cls):
    return cls(unet=kandinsky_unet(addition_embed_type="image", encoder_hid_dim_type="image_proj"), scheduler=ddim(),
               movq=movq(), **kandinsky_prior())


@builds("Kandinsky3Pipeline")
def kandinsky_3(cls):
    net = d.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(32, 32), cross_attention_dim=4, encoder_hid_dim=16)
    return cls(tokenizer=tokenizer(128), text_encoder=t5(), unet=net, movq=movq(4),
               scheduler=d.DDPMScheduler(beta_schedule="squaredcos_cap_v2", steps_offset=1))


@builds("WuerstchenCombinedPipeline")
def wuerstchen(cls):
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenDiffNeXt, WuerstchenPrior
    prior = WuerstchenPrior(c_in=2, c=8, depth=1, c_cond=16, c_r=8, nhead=2)
    decoder = WuerstchenDiffNeXt(c_cond=16, c_hidden=[16], nhead=[2], blocks=[1], level_config=["CTA"], clip_embd=16,
                                 effnet_embd=2, inject_effnet=[True])
    return cls(tokenizer=tokenizer(), text_encoder=clip(), decoder=decoder, scheduler=d.DDPMWuerstchenScheduler(),
               vqgan=PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=8, embed_dim=16), prior_tokenizer=tokenizer(),
               prior_text_encoder=clip(), prior_prior=prior, prior_scheduler=d.DDPMWuerstchenScheduler())


@builds("StableCascadeCombinedPipeline")
def cascade(cls):
    from diffusers.models import StableCascadeUNet
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
    prior = StableCascadeUNet(
        conditioning_dim=16, block_out_channels=(8, 8), num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), clip_image_in_channels=16, switch_level=(False,),
        clip_text_in_channels=16, clip_text_pooled_in_channels=16, in_channels=4, out_channels=4, dropout=(0., 0.),
        block_types_per_layer=[["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"]] * 2,
        down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(1, 1), patch_size=1)
    decoder = StableCascadeUNet(
        in_channels=4, out_channels=4, conditioning_dim=16, block_out_channels=(8, 16), num_attention_heads=(-1, 2),
        down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1), block_types_per_layer=[
            ["SDCascadeResBlock", "SDCascadeTimestepBlock"],
            ["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"]],
        clip_text_pooled_in_channels=16, effnet_in_channels=4, dropout=(0., 0.), patch_size=2)
    encoder = clip(t.CLIPTextModelWithProjection)
    return cls(tokenizer=tokenizer(), text_encoder=encoder, decoder=decoder,
               scheduler=d.DDPMWuerstchenScheduler(),
               vqgan=PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=8, embed_dim=16),
               prior_prior=prior, prior_text_encoder=encoder, prior_tokenizer=tokenizer(),
               prior_scheduler=d.DDPMWuerstchenScheduler())


@builds("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline")
def pixart(cls):
    transformer = d.PixArtTransformer2DModel(
        sample_size=32, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=16,
        in_channels=4, cross_attention_dim=16, out_channels=8, use_additional_conditions=False)
    return cls(tokenizer=tokenizer(512), text_encoder=t5(), vae=vae(), transformer=transformer, scheduler=ddim())


@builds("SanaPipeline", "SanaPAGPipeline")
def sana(cls):
    transformer = d.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=16,
        sample_size=32)
    blocks = ("ResBlock", "EfficientViTBlock")
    autoencoder = d.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        downsample_block_type="conv", upsample_block_type="interpolate", scaling_factor=.4)
    return cls(tokenizer=words(4096), text_encoder=gemma(t.Gemma2Model), vae=autoencoder, transformer=transformer,
               scheduler=flow(shift=3.))


@builds("AuraFlowPipeline")
def auraflow(cls):
    transformer = d.AuraFlowTransformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=16, out_channels=4,
        pos_embed_max_size=256)
    return cls(tokenizer=tokenizer(512), text_encoder=t5(t.UMT5EncoderModel), vae=vae(), transformer=transformer,
               scheduler=flow())


def flux_parts(embeds):
    transformer = d.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8], guidance_embeds=embeds)
    return {"scheduler": flow(), "vae": flow_vae(1), "text_encoder": clip(), "tokenizer": tokenizer(),
            "text_encoder_2": t5(), "tokenizer_2": tokenizer(512), "transformer": transformer}


@builds("FluxPipeline", "FluxKontextPipeline")
def flux(cls, embeds=True):
    return cls(**flux_parts(embeds))


@builds("Flux2KleinPipeline")
def flux_2_klein(cls, distilled=False):
    transformer = d.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False)
    return cls(scheduler=flow(), vae=flux_2_vae(), text_encoder=qwen3(t.Qwen3ForCausalLM, 28),
               tokenizer=tokenizer(512, False), transformer=transformer, is_distilled=distilled)


def flux_2_vae():
    return d.AutoencoderKLFlux2(
        sample_size=32, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4, norm_num_groups=4,
        use_quant_conv=False, use_post_quant_conv=False)


@builds("Flux2Pipeline")
def flux_2(cls):
    transformer = d.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, axes_dims_rope=[4, 4, 4, 4])
    config = t.Mistral3Config(
        text_config=text(model_type="mistral", num_hidden_layers=31, num_key_value_heads=2, sliding_window=None,
                         head_dim=8),
        vision_config={"model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "intermediate_size": 16, "image_size": 32, "patch_size": 16}, image_token_index=5)
    processor = t.PixtralProcessor(
        image_processor=t.PixtralImageProcessor(), tokenizer=tokenizer(512, False), patch_size=16,
        chat_template=CHAT, image_token="<|image_pad|>", image_break_token="<|vision_start|>",
        image_end_token="<|vision_end|>")
    return cls(scheduler=flow(), vae=flux_2_vae(), text_encoder=t.Mistral3ForConditionalGeneration(config),
               tokenizer=processor, transformer=transformer)


@builds("ChromaPipeline")
def chroma(cls):
    transformer = d.ChromaTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=[4, 4, 8], approximator_hidden_dim=32, approximator_layers=1,
        approximator_num_channels=16)
    return cls(scheduler=flow(), vae=flow_vae(1), text_encoder=t5(), tokenizer=tokenizer(512), transformer=transformer)


@builds("OvisImagePipeline")
def ovis(cls):
    transformer = d.OvisImageTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 8))
    return cls(scheduler=flow(), vae=flow_vae(1), text_encoder=qwen3(), tokenizer=tokenizer(2048, False),
               transformer=transformer)


@builds("LuminaPipeline")
def lumina(cls):
    transformer = d.LuminaNextDiT2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=16, num_layers=2, num_attention_heads=1,
        num_kv_heads=1, multiple_of=16, norm_eps=1e-5, qk_norm=True, cross_attention_dim=16)
    with torch.no_grad():
        transformer.pad_token.zero_()
    return cls(transformer=transformer, scheduler=flow(), vae=vae(levels=4), text_encoder=gemma(t.GemmaModel),
               tokenizer=tokenizer(512))


@builds("Lumina2Pipeline")
def lumina_2(cls):
    transformer = d.Lumina2Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=16, num_layers=1, num_attention_heads=1,
        num_refiner_layers=1, num_kv_heads=1, multiple_of=16, axes_dim_rope=[8, 4, 4], cap_feat_dim=16)
    return cls(transformer=transformer, scheduler=flow(), vae=flow_vae(levels=4), text_encoder=gemma(t.Gemma2Model),
               tokenizer=tokenizer(512))


@builds("CogView3PlusPipeline")
def cogview_3(cls):
    transformer = d.CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, out_channels=4,
        text_embed_dim=16, time_embed_dim=8, condition_dim=2, pos_embed_max_size=8, sample_size=8)
    return cls(tokenizer=tokenizer(512), text_encoder=t5(), vae=vae(), transformer=transformer,
               scheduler=d.CogVideoXDDIMScheduler())


@builds("CogView4Pipeline")
def cogview_4(cls):
    transformer = d.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2, out_channels=4,
        text_embed_dim=16, time_embed_dim=8, condition_dim=4, sample_size=8)
    encoder = t.GlmModel(t.GlmConfig(**text(num_key_value_heads=2, head_dim=8)))
    scheduler = flow(base_shift=.25, max_shift=.75, use_dynamic_shifting=True, time_shift_type="linear")
    return cls(tokenizer=tokenizer(1024), text_encoder=encoder, vae=vae(), transformer=transformer,
               scheduler=scheduler)


@builds("QwenImagePipeline")
def qwen_image(cls):
    transformer = d.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4))
    config = t.Qwen2_5_VLConfig(
        text_config=text(num_key_value_heads=2, rope_parameters={
            "mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6}),
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
        image_token_id=5, video_token_id=8, vision_start_token_id=6, vision_end_token_id=7)
    return cls(scheduler=flow(), vae=qwen_vae(), text_encoder=t.Qwen2_5_VLForConditionalGeneration(config),
               tokenizer=tokenizer(2048, False), transformer=transformer)


@builds("QwenImage21Pipeline")
def qwen_image_2_1(cls):
    transformer = d.QwenImage21Transformer2DModel(
        patch_size=1, in_channels=8, out_channels=8, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        context_in_dim=16, mlp_ratio=2, axes_dims_rope=(4, 6, 6))
    autoencoder = d.AutoencoderKLQwenImage21(
        base_dim=4, decoder_base_dim=4, z_dim=8, dim_mult=[1, 1, 1, 1, 1], num_res_blocks=1, attn_scales=[],
        temperal_downsample=[False, True, True, True], latents_mean=[0.] * 8, latents_std=[1.] * 8)
    return cls(scheduler=flow(), vae=autoencoder, text_encoder=qwen3_vl(t.Qwen3VLForConditionalGeneration),
               processor=qwen3_processor(), transformer=transformer)


@builds("NucleusMoEImagePipeline")
def nucleus(cls):
    transformer = d.NucleusMoEImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4), moe_enabled=False, capacity_factors=[8., 8.])
    return cls(transformer=transformer, scheduler=flow(), vae=qwen_vae(), processor=qwen3_processor(),
               text_encoder=qwen3_vl(t.Qwen3VLForConditionalGeneration, 8))


@builds("Krea2Pipeline")
def krea_2(cls):
    transformer = d.Krea2Transformer2DModel(
        in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=16, timestep_embed_dim=8, text_hidden_dim=16, num_text_layers=3, text_num_attention_heads=2,
        text_num_key_value_heads=1, text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2), rope_theta=1000.)
    return cls(scheduler=flow(use_dynamic_shifting=True), vae=qwen_vae(), text_encoder=qwen3_vl(),
               tokenizer=tokenizer(2048, False), transformer=transformer, text_encoder_select_layers=(0, 1, 2))


def z_image_parts(**changes):
    transformer = d.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[1024, 64, 64], **changes)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if name.endswith("pad_token"):
                parameter.fill_(1)  # not initialised by the class
    return {"scheduler": flow(), "vae": flow_vae(levels=2), "text_encoder": qwen3(),
            "tokenizer": tokenizer(2048, False), "transformer": transformer}


@builds("ZImagePipeline")
def z_image(cls):
    return cls(**z_image_parts())


@builds("ZImageOmniPipeline")
def z_image_omni(cls):
    vision = t.Siglip2VisionModel(t.Siglip2VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_patches=16,
        patch_size=16))
    return cls(**z_image_parts(siglip_feat_dim=16), siglip=vision, siglip_processor=t.Siglip2ImageProcessor())


@builds("PRXPipeline")
def prx(cls):
    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaConfig, T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder
    transformer = d.PRXTransformer2DModel(patch_size=1, in_channels=4, context_in_dim=16, hidden_size=8, mlp_ratio=2.,
                                          num_heads=2, depth=1, axes_dim=[2, 2])
    options = text(
        num_hidden_layers=1, num_key_value_heads=1, head_dim=8, layer_types=["full_attention"], rms_norm_eps=1e-6,
        attention_bias=False, attention_dropout=0., dropout_rate=0., hidden_activation="gelu_pytorch_tanh",
        max_position_embeddings=256, query_pre_attn_scalar=8, attn_logit_softcapping=50., final_logit_softcapping=30.,
        sliding_window=256, is_decoder=False, use_cache=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    config = T5GemmaConfig(encoder=T5GemmaModuleConfig(**options), is_encoder_decoder=False, **options)
    return cls(transformer=transformer, scheduler=flow(), text_encoder=T5GemmaEncoder(config),
               tokenizer=tokenizer(256), vae=flow_vae(), default_sample_size=32)


@builds("Ideogram4Pipeline")
def ideogram(cls):
    def transformer():
        return d.Ideogram4Transformer2DModel(
            in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, intermediate_size=32,
            adaln_dim=16, llm_features_dim=2 * 16, mrope_section=(4, 2, 2))
    return cls(scheduler=flow(), vae=flux_2_vae(), text_encoder=qwen3_vl(), tokenizer=tokenizer(2048, False),
               transformer=transformer(), unconditional_transformer=transformer())


@builds("GlmImagePipeline")
def glm_image(cls):
    marks = {"image_token": "<|image_pad|>", "grid_bos_token": "<|vision_start|>", "grid_eos_token": "<|vision_end|>"}
    fast = t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(2048, False)._tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>",
        model_max_length=2048, extra_special_tokens=marks)
    processor = t.GlmImageProcessor(t.GlmImageImageProcessor(), fast, chat_template=CHAT)
    config = t.GlmImageConfig(
        text_config=text(num_hidden_layers=1, num_key_value_heads=2, max_position_embeddings=2048, vision_vocab_size=32,
                         rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1],
                                          "partial_rotary_factor": 1.}),
        vision_config={"depth": 1, "hidden_size": 16, "num_heads": 2, "image_size": 32, "patch_size": 8,
                       "intermediate_size": 16},
        vq_config={"embed_dim": 16, "num_embeddings": 32, "latent_channels": 16},
        image_token_id=5, image_start_token_id=2, image_end_token_id=1)
    model = t.GlmImageForConditionalGeneration(config)
    model.generation_config.eos_token_id = None  # it ends when all tokens of the image are there
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)
        model.lm_head.weight.mul_(300)  # or its samples follow the seed alone
    transformer = d.GlmImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        text_embed_dim=16, time_embed_dim=8, condition_dim=4, prior_vq_quantizer_codebook_size=32)
    return cls(tokenizer=tokenizer(512), processor=processor, text_encoder=t5(), vision_language_encoder=model,
               vae=vae(levels=4, latents_mean=[0.] * 4, latents_std=[1.] * 4), transformer=transformer,
               scheduler=flow())


# arguments of a call beside those of all; sizes where the default is that of the released weights
CHANGES = {name: {"height": size, "width": size} for size, names in {
    16: "Flux FluxKontext Chroma OvisImage CogView3Plus CogView4 PixArtAlpha PixArtSigma PixArtSigmaPAG",
    32: "HunyuanDiT HunyuanDiTPAG KandinskyCombined KandinskyV22Combined Sana SanaPAG AuraFlow Flux2Klein Flux2 Lumina "
        "Lumina2 QwenImage QwenImage21 NucleusMoEImage Krea2 ZImage ZImageOmni PRX Ideogram4 GlmImage",
    64: "Kandinsky3",
    128: "WuerstchenCombined StableCascadeCombined",
}.items() for name in (f"{short}Pipeline" for short in names.split())}
CHANGES["FluxKontextPipeline"]["max_area"] = 16 * 16
CHANGES["Ideogram4Pipeline"] |= {"guidance_scale": 4., "guidance_schedule": None}


def shrink(patch):
    "Sizes and layers that stand in the modules of pipelines, and not in their parts."
    pipelines = "diffusers.pipelines."
    for module in ("pixart_alpha.pipeline_pixart_alpha", "pixart_alpha.pipeline_pixart_sigma", "sana.pipeline_sana",
                   "pag.pipeline_pag_sana", "pag.pipeline_pag_pixart_sigma"):
        for name in ("ASPECT_RATIO_256_BIN", "ASPECT_RATIO_1024_BIN"):
            size = 32. if "sana" in module else 16.
            patch.setattr(f"{pipelines}{module}.{name}", {"1.0": [size, size]}, raising=False)
    patch.setattr(f"{pipelines}prx.pipeline_prx.ASPECT_RATIO_BINS", {32: {"1.0": [32, 32]}})
    for module in ("hunyuandit.pipeline_hunyuandit", "pag.pipeline_pag_hunyuandit"):
        patch.setattr(f"{pipelines}{module}.SUPPORTED_SHAPE", [(32, 32)])
    patch.setattr(f"{pipelines}ideogram4.pipeline_ideogram4.QWEN3_VL_ACTIVATION_LAYERS", (0, 1))


def build(name, **changes):
    "A pipeline with random weights, the same ones each time."
    torch.manual_seed(0)
    pipe = BUILDERS[name](getattr(d, name), **changes)
    for key, part in pipe.components.items():
        if not isinstance(part, torch.nn.Module): continue
        part.eval()
        for parameter in part.parameters():
            if parameter.ndim < 2: continue
            with torch.no_grad():  # or too little of the prompt reaches the image for a test to see
                if not parameter.any():
                    parameter.normal_(std=.2)
                elif "transformer" in key:
                    parameter.mul_(3)
    return pipe
