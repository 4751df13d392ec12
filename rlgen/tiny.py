import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from rlgen import scenes
from rlgen.scenes import DENSITIES, DOMAINS, MODIFIERS, NOUNS, SCENES, TIMES, VERBS, WEATHERS, read_prompt, render_array


def sample_prompt(
    rng: np.random.Generator,
) -> str:
    "A prompt of the drawn world as the models are trained on them: mostly scenes, often something optional."
    pick = lambda words: words[rng.integers(len(words))]
    if rng.random() < .2:
        first, second, third = (pick(NOUNS) for _ in range(3))
        content = f"a {pick(DOMAINS)} of a {first}, {second}, and {third}"
    else:
        density, people, verb = pick(DENSITIES), "people", ""
        if density != "no":
            if rng.random() < .12: people = f"{pick(scenes.AGES)} {pick(scenes.TONES)} {pick(scenes.GENDERS)}"
            if rng.random() < .22: verb = f" {pick(VERBS)}"
        weather = f"{pick(WEATHERS)} " if rng.random() < .18 else ""
        hour = f" at {pick(TIMES)}" if rng.random() < .18 else ""
        content = f"a photo of {pick(('one', 'many'))} {pick(NOUNS)} and {density} {people}{verb} in {weather}{pick(SCENES)}{hour}"
    n = 0 if rng.random() > .28 else int(rng.choice((1, 1, 1, 2, 3)))
    return ", ".join([content, *rng.permutation(MODIFIERS)[:n].tolist()])


TRAIN_SEED = 1_000_000  # pictures for training are drawn with seeds from here on; all below are unseen

class Drawn(torch.utils.data.Dataset):
    "Endless drawn pictures, made when they are asked for: item i is (prompt, uint8 [3, 64, 64])."
    def __init__(self, seed=0): self.seed = seed
    def __len__(self): return 2 ** 40
    def __getitem__(self, i):
        prompt = sample_prompt(np.random.default_rng([self.seed, i]))
        return prompt, torch.from_numpy(render_array(prompt, TRAIN_SEED + i)).permute(2, 0, 1)

def batches(
    size: int,         # pictures in a batch
    steps: int,        # number of batches in all
    start: int = 0,    # first step: a resumed run sees the pictures that it would have seen
    seed: int = 0,
    workers: int = 0,  # processes that draw; 0 draws here
    rank: int = 0, world: int = 1,  # this process takes the rank-th of `world` equal parts of each batch
):                     # yields (step, prompts, uint8 [size / world, 3, 64, 64])
    "Batches of drawn pictures; step s always holds the same ones."
    part = size // world
    places = (range(s * size + rank * part, s * size + (rank + 1) * part) for s in range(start, steps))
    loader = torch.utils.data.DataLoader(Drawn(seed), batch_sampler=places, num_workers=workers)
    for step, (prompts, pictures) in enumerate(loader, start): yield step, list(prompts), pictures


def device(): return torch.device("cuda" if torch.cuda.is_available() else "cpu")

def unit(
    pictures: torch.Tensor,  # uint8 [B, 3, H, W]
) -> torch.Tensor:           # float32 [B, 3, H, W], -1 to 1, channels last
    "Pictures as the autoencoder wants them."
    return (pictures.to(device()).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

def autocast(): return torch.autocast(device().type, torch.bfloat16)


class Trainer:
    "AdamW with warm-up, a flat part and a cosine, a moving average of the weights, and checkpoints that resume."
    def __init__(self,
        folder,                     # where checkpoints and the log go
        modules: dict,              # name -> nn.Module, what is trained
        steps: int, lr: float,
        warmup: int = 100, flat: float = .3,  # steps of warm-up; share of the steps before the cosine begins
        decay: float = 0.,          # weight decay
        average: float = 0.,        # decay of the moving average of the weights, 0 for none
        save_every: float = 120.,   # seconds between checkpoints
        seed: int = 0,
    ):
        self.folder, self.modules, self.steps, self.save_every, self.seed = Path(folder), nn.ModuleDict(modules).to(device()), steps, save_every, seed
        self.folder.mkdir(parents=True, exist_ok=True)
        self.parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr, betas=(.9, .99), weight_decay=decay, foreach=True)
        def factor(step):
            if step < warmup: return (step + 1) / warmup
            done = max(0., (step / steps - flat) / (1 - flat))
            return .01 + .99 * .5 * (1 + np.cos(np.pi * min(done, 1.)))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.average, self.averaged = average, [p.detach().clone() for p in self.parameters] if average else None
        self.step, self.path = 0, self.folder / "checkpoint.safetensors"
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.world > 1 and not torch.distributed.is_initialized(): torch.distributed.init_process_group()
        if self.path.exists(): self.load()

    def tensors(self):
        named = {f"model.{k}": v for k, v in self.modules.state_dict().items()}
        for i, p in enumerate(self.parameters):
            if self.average: named[f"average.{i}"] = self.averaged[i]
            for k, v in self.optimizer.state.get(p, {}).items(): named[f"adam.{i}.{k}"] = v
        return named

    def save(self):
        from safetensors.torch import save_file
        temporary = self.path.with_suffix(".part")
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in self.tensors().items()}, temporary, metadata={"step": str(self.step)})
        os.replace(temporary, self.path)

    def load(self):
        from safetensors import safe_open
        with safe_open(self.path, "pt", device=str(device())) as file:
            self.step = int(file.metadata()["step"])
            named = {k: file.get_tensor(k) for k in file.keys()}
        self.modules.load_state_dict({k[6:]: v for k, v in named.items() if k.startswith("model.")})
        for i, p in enumerate(self.parameters):
            if self.average: self.averaged[i].copy_(named[f"average.{i}"])
            state = {k.split(".")[2]: v for k, v in named.items() if k.startswith(f"adam.{i}.")}
            if state: self.optimizer.state[p] = state | {"step": state["step"].cpu()}
        for _ in range(self.step): self.schedule.last_epoch += 1
        for group, base, f in zip(self.optimizer.param_groups, self.schedule.base_lrs, self.schedule.lr_lambdas): group["lr"] = base * f(self.step)

    def share_gradients(self):
        "Average the gradients over all processes: two of one thread each train faster than one of two threads."
        if self.world == 1: return
        flat = torch.cat([p.grad.flatten() for p in self.parameters])
        torch.distributed.all_reduce(flat)
        for p, g in zip(self.parameters, flat.div_(self.world).split([p.numel() for p in self.parameters])): p.grad.copy_(g.view_as(p))

    def run(self,
        loss_at,          # function (step, prompts, pictures) -> loss, or dict of losses whose first is minimised
        size: int,        # pictures a step
        workers: int = 0,
        until: int = None,  # stop after this many steps in all, checkpoint written
        clip: float = 1.,   # largest gradient norm
    ):
        "Train to the end, or to `until`; can be killed and called again."
        until = min(until or self.steps, self.steps)
        bar, saved, log = tqdm(total=until, initial=self.step, desc=self.folder.name, mininterval=5, disable=self.rank > 0), time.monotonic(), open(self.folder / "log.jsonl", "a")
        for step, prompts, pictures in batches(size, until, self.step, self.seed, workers, self.rank, self.world):
            torch.manual_seed((self.seed * 1_000_003 + step) * self.world + self.rank)
            loss = loss_at(step, prompts, pictures)
            terms = loss if isinstance(loss, dict) else {"loss": loss}
            next(iter(terms.values())).backward()
            self.share_gradients()
            nn.utils.clip_grad_norm_(self.parameters, clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            if self.average: torch._foreach_lerp_(self.averaged, [p.detach() for p in self.parameters], 1 - min(self.average, (1 + step) / (10 + step)))
            self.step = step + 1
            bar.update()
            if step % 50 == 0 and self.rank == 0:
                values = {k: round(float(v.detach()), 5) for k, v in terms.items()}
                bar.set_postfix(values)
                log.write(json.dumps({"step": step, **values}) + "\n")
                log.flush()
            if self.rank == 0 and time.monotonic() - saved > self.save_every:
                self.save()
                saved = time.monotonic()
        if self.rank == 0: self.save()
        bar.close()

    def use_average(self):
        "Put the moving average into the modules."
        if self.average: torch._foreach_copy_([p.data for p in self.parameters], self.averaged)
        return self.modules


def new_vae(channels=(16, 32, 64)):
    "An AutoencoderKL from 64 x 64 x 3 to 16 x 16 x 4."
    from diffusers import AutoencoderKL
    return AutoencoderKL(in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=channels, layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=64, mid_block_add_attention=False, scaling_factor=1.)

def _edges(x): return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]

def train_vae(folder, steps=2600, size=32, lr=2.5e-3, workers=0, until=None, compile=True, encoder=None):
    """Train the autoencoder: absolute error, half as much on differences of neighbours, a little KL divergence.
    With `encoder`, a trained autoencoder, its encoder stays as it is and the decoder alone goes on learning."""
    torch.manual_seed(0)
    vae = (encoder or new_vae()).to(device()).to(memory_format=torch.channels_last).requires_grad_(True)
    if encoder: vae.encoder.requires_grad_(False), vae.quant_conv.requires_grad_(False)
    trainer = Trainer(folder, {"vae": vae}, steps, lr, flat=.1, seed=10 if encoder else 0)
    def parts(x, noise):
        with autocast():
            with torch.set_grad_enabled(encoder is None): mean, logvar = vae.quant_conv(vae.encoder(x)).float().chunk(2, 1)
            logvar = logvar.clamp(-20, 10)
            out = vae.decoder(vae.post_quant_conv(mean + noise * (.5 * logvar).exp())).float()
        kl = .5 * (mean ** 2 + logvar.exp() - 1 - logvar).mean()
        edges = sum((a - b).abs().mean() for a, b in zip(_edges(out), _edges(x)))
        return (out - x).abs().mean() + .5 * edges + 2e-4 * kl, kl, ((out - x) ** 2).mean()
    step_fn = torch.compile(parts) if compile else parts
    def loss_at(step, prompts, pictures):
        x = unit(pictures)
        loss, kl, mse = step_fn(x, torch.randn(len(x), 4, 16, 16, device=x.device))
        return {"loss": loss, "kl": kl, "psnr": 10 * torch.log10(4 / mse.detach())}
    trainer.run(loss_at, size, workers, until)
    return vae


CONTEXT = 32  # longest prompt in tokens, start and end included

def new_tokenizer():
    "A CLIPTokenizer whose byte-pair merges make every word of the drawn world one token; any other text falls to bytes."
    from tokenizers import trainers
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer
    words = " ".join(["a photo of one many no and people in at painting , -", *NOUNS, *VERBS, *SCENES, *WEATHERS, *TIMES, *DOMAINS, *MODIFIERS, *scenes.AGES, *scenes.TONES, *scenes.GENDERS])
    alphabet = sorted(ByteLevel.alphabet())
    symbols = alphabet + [c + "</w>" for c in alphabet]
    special = ["<|startoftext|>", "<|endoftext|>"]  # last, so that the end has the highest id: both CLIP poolings then agree
    backend = CLIPTokenizer(vocab={s: i for i, s in enumerate(symbols + special)}, merges=[]).backend_tokenizer
    backend.train_from_iterator([words] * 3, trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False))
    merges = [tuple(m) for m in json.loads(backend.to_str())["model"]["merges"]]
    vocab = list(dict.fromkeys(symbols + [a + b for a, b in merges])) + special
    return CLIPTokenizer(vocab={s: i for i, s in enumerate(vocab)}, merges=merges, model_max_length=CONTEXT)

def token_ids(tokenizer, prompts):
    "Token ids [B, CONTEXT] on the training device."
    return torch.tensor(tokenizer(prompts, padding="max_length", max_length=CONTEXT, truncation=True)["input_ids"], device=device())


FACTS = {"Frequency": ("one", "many"), "Noun": NOUNS, "Density": DENSITIES, "Scene": SCENES, "Weather": WEATHERS, "Time": TIMES,
         "Verb": VERBS, "Age": scenes.AGES, "Tone": scenes.TONES, "H": scenes.GENDERS, "Domain": DOMAINS, "First": NOUNS, "Second": NOUNS, "Third": NOUNS}
UNSEEN = {"Age", "Tone", "H"}  # a full prompt that leaves these out says nothing about them

def facts(
    prompt: str,
) -> np.ndarray:  # int64 [len(FACTS) + 12]
    "What a full prompt says: 0 nothing, 1 none, 2 + i the label i."
    labels = read_prompt(prompt)
    row = [2 + words.index(labels[axis]) if axis in labels else 0 if axis in UNSEEN else 1 for axis, words in FACTS.items()]
    return np.array(row + [2 if m in labels["modifiers"] else 1 for m in MODIFIERS])

def fragment(prompt, rng):
    "A piece of a prompt and what it says."
    said, row, labels = facts(prompt), np.zeros(len(FACTS) + len(MODIFIERS), np.int64), read_prompt(prompt)
    get = labels.get
    if "Domain" in labels:
        choices = [(f"a {get('Domain')}", ("Domain",)), (f"a {get('Domain')} of a {get('First')}", ("Domain", "First")), (f"a {get('First')}, {get('Second')}, and {get('Third')}", ("First", "Second", "Third"))]
    else:
        people = f"{get('Density')} people"
        choices = [(f"{get('Frequency')} {get('Noun')}", ("Frequency", "Noun")), (f"a photo of {get('Noun')}", ("Noun",)), (f"a photo of {get('Frequency')} {get('Noun')}", ("Frequency", "Noun")),
                   (people, ("Density",)), (f"in {get('Scene')}", ("Scene",)), (f"{people} in {get('Scene')}", ("Density", "Scene")), (f"{get('Frequency')} {get('Noun')} in {get('Scene')}", ("Frequency", "Noun", "Scene"))]
        if "Verb" in labels: choices += [(f"{people} {get('Verb')}", ("Density", "Verb")), (get("Verb"), ("Verb",))]
        if "Age" in labels: choices += [(f"{get('Age')} {get('Tone')} {get('H')}", ("Age", "Tone", "H"))]
        if "Weather" in labels: choices += [(f"in {get('Weather')} {get('Scene')}", ("Weather", "Scene")), (get("Weather"), ("Weather",))]
        if "Time" in labels: choices += [(f"in {get('Scene')} at {get('Time')}", ("Scene", "Time")), (f"at {get('Time')}", ("Time",))]
    text, axes = choices[rng.integers(len(choices))]
    named = [list(FACTS).index(axis) for axis in axes]
    if labels["modifiers"] and rng.random() < .3:
        text, named = labels["modifiers"][0], [len(FACTS) + MODIFIERS.index(labels["modifiers"][0])]
    row[named] = said[named]
    return text, row

def true_of(
    captions: torch.Tensor,  # int [B, F], what captions say
    pictures: torch.Tensor,  # int [B, F], what the pictures' full prompts say
) -> torch.Tensor:           # bool [B pictures, B captions]
    "Which caption is true of which picture: it is wherever it says something, the picture says the same."
    said = captions[None]
    return ((said == 0) | (said == pictures[:, None])).all(-1)

def clip_loss(images, texts, scale, true):
    "Contrastive loss with all true pairs as positives; images, texts [B, D] normalised, true bool [B, B]."
    logits, target = scale * images @ texts.T, true.float()
    rows = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(target / target.sum(0, keepdim=True).clamp(min=1) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


def through(vae, x):
    "Pictures as the autoencoder gives them back, float [B, 3, 64, 64] in -1 to 1."
    return vae.decode(vae.encode(x).latent_dist.sample()).sample.float().clamp(-1, 1)

def clip_config(tokenizer):
    "The open_clip config of the tiny model."
    end = tokenizer.eos_token_id
    return {"model_cfg": {"embed_dim": 128, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "head_width": 64},
                "text_cfg": {"context_length": CONTEXT, "vocab_size": len(tokenizer), "width": 128, "heads": 4, "layers": 2, "pool_type": "eos", "eos_id": end, "pad_id": end, "hf_tokenizer_name": "local"}},
            "preprocess_cfg": {"size": [64, 64], "mode": "RGB", "mean": [.5, .5, .5], "std": [.5, .5, .5], "interpolation": "bicubic", "resize_mode": "squash", "fill_color": 0}}

def roughen(x):
    "What training pictures go through, so that perception does not hang on exact colours and edges: x [B, 3, H, W] in -1 to 1."
    b, new = len(x), lambda *shape: torch.rand(*shape, device=x.device)
    x = x * (.8 + .4 * new(b, 1, 1, 1)) + .3 * (new(b, 3, 1, 1) - .5)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, new(b, 1, 1, 1) * (new(b, 1, 1, 1) < .5))
    return (x + torch.randn_like(x) * .12 * new(b, 1, 1, 1)).clamp(-1, 1)

def train_clip(folder, steps=1300, size=256, lr=2e-3, workers=0, until=None, vae=None):
    "Train the open_clip model on drawn pictures, half of them through the autoencoder where one is given."
    from open_clip.model import CLIP
    torch.manual_seed(1)
    tokenizer = new_tokenizer()
    model = CLIP(**clip_config(tokenizer)["model_cfg"]).to(device()).to(memory_format=torch.channels_last)
    trainer = Trainer(folder, {"clip": model}, steps, lr, flat=.2, decay=.05, seed=1)
    def loss_at(step, prompts, pictures):
        rng = np.random.default_rng([1, step])
        texts, said = map(list, zip(*((p, facts(p)) if rng.random() < .5 else fragment(p, rng) for p in prompts)))
        x = unit(pictures)
        if vae is not None and step >= steps // 2:
            with torch.no_grad(), autocast(): x[: size // 4] = through(vae, x[: size // 4])
        with autocast(): images, words = model.encode_image(roughen(x), normalize=True), model.encode_text(token_ids(tokenizer, texts), normalize=True)
        true = true_of(torch.tensor(np.array(said)), torch.tensor(np.array([facts(p) for p in prompts]))).to(x.device)
        model.logit_scale.data.clamp_(max=np.log(100))
        return clip_loss(images.float(), words.float(), model.logit_scale.exp(), true)
    trainer.run(loss_at, size, workers, until)
    return model, tokenizer


def new_gpt2(tokenizer):
    "A GPT-2 of two layers, 128 wide, over the same words."
    from transformers import GPT2Config, GPT2LMHeadModel
    end = tokenizer.eos_token_id
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=128, n_layer=2, n_head=4, bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end,
        resid_pdrop=0., embd_pdrop=0., attn_pdrop=0.))

def train_gpt2(folder, steps=1500, size=128, lr=2e-3, until=None):
    "Train the language model on prompts; pictures are not drawn."
    torch.manual_seed(2)
    tokenizer = new_tokenizer()
    model = new_gpt2(tokenizer).to(device())
    trainer = Trainer(folder, {"gpt2": model}, steps, lr, seed=2, decay=.01)
    def loss_at(step, prompts, pictures):
        rng = np.random.default_rng([2, step])
        ids = token_ids(tokenizer, [sample_prompt(rng) for _ in range(size)])
        inside = (ids == tokenizer.eos_token_id).cumsum(1) <= 1  # up to and with the first end
        return model(ids, labels=ids.masked_fill(~inside, -100)).loss
    trainer.run(loss_at, 1, until=until)
    return model, tokenizer


@torch.no_grad()
def whiten(vae, pictures=2048, size=64):
    "Scale the latents to mean 0 and deviation 1 per channel, folded into the convolutions around them: no `scaling_factor` is needed."
    latents = torch.cat([vae.encode(unit(x)).latent_dist.mean for _, _, x in batches(size, pictures // size, seed=9)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, back = vae.quant_conv, vae.post_quant_conv
    back.bias += (back.weight[..., 0, 0] @ mean)
    back.weight *= deviation[None, :, None, None]
    into.weight[:4] /= deviation[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) / deviation
    into.bias[4:] -= 2 * deviation.log()
    return vae

def new_text_encoder(tokenizer):
    "A CLIPTextModel of two layers, 128 wide."
    from transformers import CLIPTextConfig, CLIPTextModel
    end = tokenizer.eos_token_id
    return CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=CONTEXT,
        projection_dim=128, bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end))

def new_unet():
    "A UNet2DConditionModel on 16 x 16 x 4 latents."
    from diffusers import UNet2DConditionModel
    return UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, block_out_channels=(48, 96, 144), layers_per_block=1, norm_num_groups=16, cross_attention_dim=128,
        attention_head_dim=(2, 3, 4), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))

def new_scheduler(steps=20):
    "DPM-Solver++ multistep with Stable Diffusion's noise, predicting v."
    from diffusers import DPMSolverMultistepScheduler
    return DPMSolverMultistepScheduler(beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear", prediction_type="v_prediction", algorithm_type="dpmsolver++", solver_order=2)

def train_unet(folder, vae, steps=9000, size=64, lr=1e-3, workers=0, until=None, compile=True, drop=.1):
    "Train the denoiser and its text encoder together: mean squared error of v (Salimans and Ho 2022), prompts dropped for guidance."
    from diffusers.models.attention_processor import AttnProcessor
    torch.manual_seed(3)
    tokenizer = new_tokenizer()
    unet, text = new_unet().to(memory_format=torch.channels_last), new_text_encoder(tokenizer)
    unet.set_attn_processor(AttnProcessor())  # the fused one's backward is slow in bf16 on the CPU
    trainer = Trainer(folder, {"unet": unet, "text": text}, steps, lr, warmup=300, average=.999, seed=3)
    alphas = new_scheduler().alphas_cumprod.to(device())
    def error(latents, noise, ids, t):
        a, b = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
        with autocast(): out = unet(a * latents + b * noise, t, text(ids).last_hidden_state).sample
        return ((out.float() - (a * noise - b * latents)) ** 2).mean()
    step_fn, encode = (torch.compile(error), torch.compile(vae.encode)) if compile else (error, vae.encode)
    def loss_at(step, prompts, pictures):
        rng, n = np.random.default_rng([3, step, trainer.rank]), len(prompts)
        ids = token_ids(tokenizer, ["" if rng.random() < drop else p for p in prompts])
        with torch.no_grad(), autocast(): latents = encode(unit(pictures)).latent_dist.sample().float()
        t = ((torch.randperm(n) + torch.rand(n)) * (1000 / n)).long().to(device())  # one from each n-th of the noise levels
        return step_fn(latents, torch.randn_like(latents), ids, t)
    trainer.run(loss_at, size, workers, until)
    return trainer.use_average(), tokenizer

def save_pipeline(folder, vae, unet, text, tokenizer):
    "Write a `StableDiffusionPipeline` folder: safetensors in half precision, no safety checker."
    from diffusers import StableDiffusionPipeline
    from diffusers.models.attention_processor import AttnProcessor2_0
    unet.set_attn_processor(AttnProcessor2_0())
    pipe = StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=new_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.to("cpu", torch.float16).save_pretrained(folder, safe_serialization=True)
    config = Path(folder) / "text_encoder" / "config.json"  # or transformers would load it in half and diffusers the rest in full precision
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")


class Judge(nn.Module):
    "A small convolutional classifier of everything that a full prompt says: one head for each axis and each modifier."
    def __init__(self, grey: bool):  # grey: sees luminance alone, so a blob of the right colour does not pass
        super().__init__()
        self.grey = grey
        def block(i, o): return nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        self.body = nn.Sequential(block(1 if grey else 3, 20), block(20, 40), block(40, 80), block(80, 112), nn.Flatten(), nn.Dropout(.2), nn.Linear(112 * 16, 96), nn.ReLU())
        self.sizes = [2 + len(words) for words in FACTS.values()] + [3] * len(MODIFIERS)  # as `facts` counts: nothing, none, labels
        self.head = nn.Linear(96, sum(self.sizes))

    def forward(self, x):  # float [B, 3, 64, 64] in -1 to 1 -> list of logits [B, labels]
        if self.grey: x = (x * x.new_tensor((.299, .587, .114)).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return self.head(self.body(x)).split(self.sizes, 1)

    @torch.no_grad()
    def read(self, pictures, size=256) -> np.ndarray:
        "What it sees, in the numbers of `facts`, int64 [B, F]; pictures uint8 [B, 3, 64, 64]."
        self.eval()
        return torch.cat([torch.stack([logits.argmax(1) for logits in self(unit(x))], 1) for x in pictures.split(size)]).cpu().numpy()

def train_judges(folder, vae, steps=1500, size=128, lr=2e-3, workers=0, until=None):
    "Train both judges side by side on the same pictures, a quarter of them through the autoencoder."
    torch.manual_seed(4)
    judges = {name: Judge(grey=name == "grey").to(device()).to(memory_format=torch.channels_last) for name in ("colour", "grey")}
    trainer = Trainer(folder, judges, steps, lr, flat=.1, decay=.02, seed=4)
    def loss_at(step, prompts, pictures):
        said, x = torch.tensor(np.array([facts(p) for p in prompts])).to(device()), unit(pictures)
        with torch.no_grad(), autocast(): x[: size // 4] = through(vae, x[: size // 4])
        x = (x + torch.randn_like(x) * .1 * torch.rand(len(x), 1, 1, 1, device=x.device)).clamp(-1, 1)
        with autocast(): heads = {name: judge.train()(x) for name, judge in judges.items()}
        losses = {name: sum(F.cross_entropy(logits.float(), said[:, i]) for i, logits in enumerate(h)) for name, h in heads.items()}
        return {"loss": sum(losses.values()), **losses}
    trainer.run(loss_at, size, workers, until)
    return {name: judge.eval() for name, judge in judges.items()}


def half(model):
    "The tensors of a model in half precision, ready for safetensors."
    return {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in model.state_dict().items()}

def save_clip(folder, model, tokenizer):
    "Write an open_clip folder that `local-dir:` loads."
    from safetensors.torch import save_file
    Path(folder).mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (Path(folder) / "open_clip_config.json").write_text(json.dumps(clip_config(tokenizer), indent=1) + "\n")
    save_file(half(model), Path(folder) / "open_clip_model.safetensors", metadata={"format": "pt"})

def save_gpt2(folder, model, tokenizer):
    "Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load."
    model.half().cpu().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)

def save_judges(folder, judges):
    "Write both judges into one file."
    from safetensors.torch import save_file
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file({f"{name}.{k}": v for name, judge in judges.items() for k, v in half(judge).items()}, Path(folder) / "judges.safetensors", metadata={"format": "pt"})

def load_judges(folder):
    "The judges of a folder: name -> `Judge`."
    from safetensors.torch import load_file
    tensors = load_file(Path(folder) / "judges.safetensors")
    judges = {name: Judge(grey=name == "grey") for name in ("colour", "grey")}
    for name, judge in judges.items(): judge.load_state_dict({k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".")})
    return {name: judge.to(device()).eval() for name, judge in judges.items()}


BASE = ("Frequency", "Noun", "Density", "Scene")

def optional_prompts(
    n: int = 40,     # pictures for each label
    seed: int = 77,
) -> list:           # (axis, label, prompt)
    "Prompts that name one optional label each."
    rng, found = np.random.default_rng(seed), []
    pick = lambda words: words[rng.integers(len(words))]
    def scene(people=None, verb="", weather="", hour=""): return f"a photo of {pick(('one', 'many'))} {pick(NOUNS)} and {people or pick(DENSITIES)} people{verb} in {weather}{pick(SCENES)}{hour}"
    for _ in range(n):
        found += [("Weather", w, scene(weather=w + " ")) for w in WEATHERS] + [("Time", t, scene(hour=f" at {t}")) for t in TIMES]
        found += [("Verb", v, scene(pick(("one", "many")), f" {v}")) for v in VERBS]
        found += [("Domain", d, f"a {d} of a {pick(NOUNS)}, {pick(NOUNS)}, and {pick(NOUNS)}") for d in DOMAINS]
        found += [(m, m, f"{scene()}, {m}") for m in MODIFIERS]
    return found

def right(
    pictures,        # PIL pictures
    prompts,         # what they should show
    judges: dict,    # name -> Judge
) -> dict:           # judge -> bool [B, F], the facts in the order of FACTS and MODIFIERS
    "Which facts each judge finds right."
    truth = np.array([facts(p) for p in prompts])
    x = torch.from_numpy(np.array([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    return {name: judge.read(x) == truth for name, judge in judges.items()}

def report(
    gen,           # function (prompts, seeds) -> PIL pictures
    judges: dict,
    optional: int = 40,  # pictures for each optional label, 0 for none
) -> dict:         # numbers between 0 and 1
    "How often generated pictures show what their prompts say."
    from rlgen.grammar import Grammar
    grammar = Grammar.scenes()
    prompts = [grammar.decode(e) for e in grammar]
    columns = [list(FACTS).index(axis) for axis in BASE]
    nouns, out = np.array([read_prompt(p)["Noun"] for p in prompts]), {}
    for name, ok in right(gen(prompts, list(range(len(prompts)))), prompts, judges).items():
        ok = ok[:, columns]
        out[name] = {**{axis: ok[:, i].mean() for i, axis in enumerate(BASE)}, "all four": ok.all(1).mean(), "worst noun": min(ok[nouns == noun, 1].mean() for noun in NOUNS),
                     "nouns": {noun: ok[nouns == noun, 1].mean() for noun in NOUNS}}
    if optional:
        axes, labels, prompts = zip(*optional_prompts(optional))
        places = np.array([list(FACTS).index(a) if a in FACTS else len(FACTS) + MODIFIERS.index(a) for a in axes])
        for name, ok in right(gen(list(prompts), list(range(10_000, 10_000 + len(prompts)))), prompts, judges).items():
            hit, kinds = ok[np.arange(len(ok)), places], np.array([a if a in FACTS else "modifiers" for a in axes])
            out[name]["optional"] = {f"{a}: {label}": hit[(np.array(axes) == a) & (np.array(labels) == label)].mean() for a, label in dict.fromkeys(zip(axes, labels))}
            out[name]["classes of domains"] = ok[kinds == "Domain"][:, [list(FACTS).index(a) for a in ("First", "Second", "Third")]].mean(0).tolist()
    return json.loads(json.dumps(out, default=lambda v: round(float(v), 4)))
