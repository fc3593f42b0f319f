"""The reference's codec modules (transformers, the installed version) with the weights and configurations of ours."""

from dataclasses import asdict

import torch
from torch import nn
from transformers.models.qwen2_5_omni import configuration_qwen2_5_omni as configurations
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as models

from omni_lab.config import BigVGANConfig, DiTConfig, Token2WavConfig

SMALL_ECAPA = dict(enc_dim=12, enc_channels=(16, 16, 16, 32), enc_kernel_sizes=(5, 3, 3, 1), enc_dilations=(1, 2, 3, 1))
SMALL_ECAPA |= dict(enc_attention_channels=6, enc_se_channels=5, enc_emb_dim=7)

DIT_CONFIGS = {
    "nano's proportions": DiTConfig(
        hidden_size=64, num_hidden_layers=5, num_attention_heads=4, head_dim=16, emb_dim=24, num_embeds=33,
        look_ahead_layers=(2,), look_backward_layers=(0, 4), **SMALL_ECAPA,
    ),
    "odd sizes, a layer that looks both ways": DiTConfig(
        hidden_size=33, num_hidden_layers=4, num_attention_heads=3, head_dim=14, emb_dim=5, num_embeds=50,
        block_size=7, mel_dim=20, ff_mult=3, look_ahead_layers=(1, 2), look_backward_layers=(0, 1, 3), rope_theta=500.0,
        **SMALL_ECAPA,
    ),
    "one head, no neighbours, three frames a code": DiTConfig(
        hidden_size=20, num_hidden_layers=2, num_attention_heads=1, head_dim=10, emb_dim=9, num_embeds=12, repeats=3,
        block_size=6, mel_dim=11, look_ahead_layers=(), look_backward_layers=(), enc_res2net_scale=4,
        enc_channels=(16, 16, 16, 16, 48), enc_kernel_sizes=(3, 5, 3, 7, 1), enc_dilations=(2, 1, 3, 1, 1), enc_dim=12,
        enc_attention_channels=6, enc_se_channels=5, enc_emb_dim=7,
    ),
}  # fmt: skip

BIGVGAN_CONFIGS = {
    "the release's rates": BigVGANConfig(upsample_initial_channel=64),
    "other rates and kernels": BigVGANConfig(
        mel_dim=13, upsample_initial_channel=24, resblock_kernel_sizes=(5, 3),
        resblock_dilation_sizes=((1, 2, 4), (2, 3, 1)), upsample_rates=(4, 3), upsample_kernel_sizes=(8, 5),
    ),
    "one stage, a kernel that adds a sample": BigVGANConfig(
        mel_dim=7, upsample_initial_channel=10, resblock_kernel_sizes=(7,), resblock_dilation_sizes=((3, 1, 2),),
        upsample_rates=(3,), upsample_kernel_sizes=(8,),
    ),
}  # fmt: skip


def plain(config: object) -> dict:
    """A configuration as the reference's keyword arguments: lists for tuples, its spelling of the rotary base."""
    raw = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    if "rope_theta" in raw:
        raw["rope_parameters"] = {"rope_theta": raw.pop("rope_theta"), "rope_type": "default"}
    return raw


def randomise(module: nn.Module, seed: int = 0, spread: float = 0.15) -> None:
    """Weights large enough for every path to matter, biases and scales included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))


def reference_dit(config: DiTConfig) -> nn.Module:
    made = configurations.Qwen2_5OmniDiTConfig(**plain(config))
    return models.Qwen2_5OmniToken2WavDiTModel._from_config(made, attn_implementation="sdpa").eval()


def reference_bigvgan(config: BigVGANConfig) -> nn.Module:
    return models.Qwen2_5OmniToken2WavBigVGANModel._from_config(
        configurations.Qwen2_5OmniBigVGANConfig(**plain(config))
    ).eval()


def reference_token2wav(config: Token2WavConfig) -> nn.Module:
    made = configurations.Qwen2_5OmniToken2WavConfig(
        dit_config=plain(config.dit_config), bigvgan_config=plain(config.bigvgan_config)
    )
    return models.Qwen2_5OmniToken2WavModel._from_config(made, attn_implementation="sdpa").eval()


def pair(ours: nn.Module, reference: nn.Module, seed: int = 0, spread: float = 0.15) -> None:
    """Give both the same random weights; every name must be known to both."""
    randomise(reference, seed, spread)
    ours.load_state_dict(reference.state_dict(), strict=True)
    ours.eval()
