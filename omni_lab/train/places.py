"""Where in its picture a token lies, told to the decoder's lower third: the place beside the answer.

Next-token loss would have the decoder find out from a few answers a picture ("left") that its positions say where a
token lies. Here every token of a picture must say so itself, once a third of the layers have run: how far left rather
than right, how far up rather than down, *in the language model's own words*, through its own last norm and head. What a
question then fetches from a thing it has found, such as the colour behind it, it fetches with the place. Nothing is
added to the model. As transcripts.py does for sounds, and seeing.py for what lies there.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .nano import processor

# The nearer and the farther end, as answers begin and as they go on: down, then across.
ENDS = ((("top", "bottom"), ("above", "below")), (("left", "right"), (" left", " right")))


@lru_cache(maxsize=1)
def words() -> list[list[list[int]]]:
    """The first tokens of ENDS."""
    tokens = processor().tokenizer
    return [[[tokens(word)["input_ids"][0] for word in pair] for pair in axis] for axis in ENDS]


def behind(thinker: Any) -> int:
    """After how many layers of the decoder a token says its place."""
    return max(len(thinker.model.layers) // 3, 1)


def of_grid(grid_thw: Tensor, merge: int = 2) -> Tensor:
    """(n, 3) sizes in patches -> (tokens, 2): how far down and how far right each token's middle lies, 0 to 1."""
    places = []
    for frames, height, width in grid_thw.tolist():
        rows, columns = height // merge, width // merge
        down = ((torch.arange(rows) + 0.5) / rows)[:, None].expand(rows, columns)
        across = ((torch.arange(columns) + 0.5) / columns).expand(rows, columns)
        places.append(torch.stack([down, across], dim=-1).flatten(0, 1).repeat(frames, 1))
    return torch.cat(places)


def place_loss(thinker: Any, states: Tensor, places: Tensor, ends: Tensor) -> Tensor:
    """Nats beyond the least possible to say where a token lies, a scalar.

    states: (tokens, hidden_size) of pictures' tokens `behind` so many layers; places: (tokens, 2) of `of_grid`; ends:
    (2, 2, 2) ids of the words' first tokens, as ENDS. Of two words the second is as likely as it lies far along."""
    logits = thinker.lm_head(thinker.model.norm(states))[:, ends.flatten()].float().unflatten(-1, ends.shape)
    far = logits[..., 1] - logits[..., 0]  # (tokens, 2 axes, 2 pairs of words)
    wanted = places[..., None].to(far).expand_as(far)
    # Written out: on a card autocast refuses binary_cross_entropy, whatever it is given.
    least = -(torch.xlogy(wanted, wanted) + torch.xlogy(1 - wanted, 1 - wanted)).mean()
    return F.binary_cross_entropy_with_logits(far, wanted) - least
