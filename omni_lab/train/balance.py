"""What the talker hears of the thinker: words as loud as thoughts.

For every token of the reply the talker is given the *sum* of the token's embedding (which word it is) and the thinker's
last hidden state (what it means and what may follow; report, section 2.3). After training, the rows of an embedding
table with tied weights are small and hidden states behind the last norm are not: in the nano thinker 0.06 against 1.3
(root mean square), and a linear probe of the sum told 65 % of the words. A talker trained on that learns the grammar
and says another noun in a noun's place. But the scale of a decoder with RMSNorm is free: everything written into the
residual stream times s, and the last norm divided by s, give the same logits.
"""

import math

import torch
from torch import Tensor

from ..thinker import Thinker

# What writes into the decoder's residual stream: embeddings, the encoders' last products, each block's two outputs.
ENCODERS = ("visual.merger.mlp.2", "audio_tower.proj")
BLOCKS = ("self_attn.o_proj", "mlp.down_proj")


@torch.no_grad()
def balance(thinker: Thinker) -> float:
    """Scale the residual stream so that embeddings and last hidden states are equally large; returns the factor.

    In place; logits stay as they are (but for rounding), hidden states are divided by the factor, embeddings
    multiplied.
    Tied weights stay tied; an untied head is multiplied by what the hidden states lose. Done twice it does nothing
    more."""
    embeddings, norm = thinker.model.embed_tokens.weight, thinker.model.norm.weight
    # RMSNorm leaves a root mean square of 1, so that its weight's own is the hidden states'. Of the table the
    # lower quartile counts: words that are said often have the shortest rows, tokens never met keep long ones.
    rows = embeddings.float().square().mean(1).sqrt()
    factor = math.sqrt(norm.float().square().mean().sqrt().item() / rows.quantile(0.25).item())
    written = [thinker.get_submodule(name) for name in ENCODERS]
    written += [layer.get_submodule(name) for layer in thinker.model.layers for name in BLOCKS]
    for module in written:
        for parameter in module.parameters():
            parameter.mul_(factor)
    embeddings.mul_(factor)
    norm.div_(factor)
    if thinker.lm_head.weight is not embeddings:
        thinker.lm_head.weight.mul_(factor)
    return factor


def beyond(tokens: Tensor, words: Tensor) -> Tensor:
    """How much louder each token is than these rows of the embedding table are on average, in nats of the root mean
    square: (tokens, hidden_size), (rows, hidden_size) -> (tokens,). Negative where it is quieter.

    A decoder with RMSNorm hears directions, so nothing holds the size of what an encoder gives it. Tokens of pictures
    that learned with it grew to 670 times a word (`benchmarks/loudness.py`): what its blocks write then is lost beside
    them, so that they pass through all layers as they came, and it answers without having looked."""
    loud, usual = (x.float().square().mean(-1).add(1e-12).log() / 2 for x in (tokens, words))
    return loud - usual.mean()
