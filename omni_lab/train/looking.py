"""Where the decoder must look, told to one head a group of keys in the layer behind the one that says places.

Next-token loss rewards an answer, not the way to it. What a token of a picture or a sound says is there (naming.py,
transcripts.py), and where it lies (places.py); what is learned slowly, from answers alone, is to go and fetch it. Here
attention is told where: from a thing's name to the tokens that name it, from a word written down to the sound of the
next one, from a letter to the place of the next. Attention that is taught its places is older than answers that teach
it (Mi et al. 2016 for translation, Qiao et al. 2018 for questions on pictures); the places cost nothing here, since
the encoders' own tokens tell them, aligned by CTC for sounds. Nothing is added to the model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoders.audio import token_count
from ..layers import apply_rotary
from . import naming, transcripts
from .nano import processor
from .packing import IGNORED, Encoded

NEIGHBOURS = 1  # tokens of sound on either side of where CTC has a word: what was heard of it lies there too
Look = tuple[int, int, Tensor]  # row, place that looks, (length,) bool of the places to look at


def layer(thinker: Any) -> Any:
    """The layer of the decoder whose attention is told: the first that finds places said."""
    layers = thinker.model.layers
    return layers[min(len(layers) // 3, len(layers) - 1)]


def watch(kept: list[tuple[Tensor, Tensor]]) -> Callable[..., None]:
    """A forward hook for a layer's attention that keeps (queries, keys), each (batch, groups, length, head_dim).

    Of each group of heads that share keys the first head is kept."""

    def hook(attention: Any, args: tuple[Any, ...], _: Tensor) -> None:
        x, rotary = args[:2]
        shape = (*x.shape[:2], -1, attention.head_dim)
        query, key, _ = (made.view(shape).transpose(1, 2) for made in attention.products(x))
        query = query[:, :: query.shape[1] // key.shape[1]]
        kept.append((apply_rotary(query, *rotary), apply_rotary(key, *rotary)))

    return hook


def looking_loss(query: Tensor, key: Tensor, segments: Tensor, looks: Sequence[Look]) -> Tensor:
    """Nats by which the heads miss the places they are to look at, a mean over looks and heads; scalar.

    query, key: (batch, groups, length, head_dim); segments: (batch, length). A look is right whichever of its places
    has the weight; what stands later or in another segment is not seen, as in the model itself."""
    if not looks:
        return (query[:, :, :1] * key[:, :, :1]).sum() * 0.0
    missed = []
    for row in sorted({row for row, _, _ in looks}):
        places = torch.tensor([place for r, place, _ in looks if r == row], device=query.device)
        wanted = torch.stack([where for r, _, where in looks if r == row])  # (looks, length)
        seen = segments[row, places, None] == segments[row]
        seen &= torch.arange(wanted.shape[1], device=query.device) <= places[:, None]
        scores = (query[row][:, places].float() @ key[row].float().mT) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(~seen, -torch.inf)  # (groups, looks, length)
        found = scores.masked_fill(~wanted, -torch.inf).logsumexp(-1)
        missed.append((scores.logsumexp(-1) - found).flatten())
    return torch.cat(missed).mean()


def wanted(
    thinker: Any, given: Mapping[str, Tensor], letters: Tensor, seen: Sequence[tuple[int, Tensor]],
    heard: Sequence[Tensor], said: Tensor | None,
) -> list[Look]:  # fmt: skip
    """All looks of a batch: at things, at letters (`gather`) and, where words were `said`, at sounds.

    given: the thinker's arguments; seen: (placeholder, (tokens, hidden_size)) of pictures and films; heard: of sounds
    the (tokens, hidden_size) alone; said: of `transcripts.join`."""
    ids, segments, length = given["input_ids"], given["segment_ids"], given["input_ids"].shape[1]
    looks = at_things(thinker, ids, segments, seen)
    looks += [(row, place, torch.arange(length, device=ids.device) == at) for row, place, at in letters.tolist()]
    if said is not None:
        with torch.no_grad():
            spelled = thinker.lm_head(thinker.model.norm(heard[0]))
        frames, blank = given["feature_attention_mask"].sum(1), processor().tokenizer.pad_token_id or 0
        placeholder = thinker.config.audio_token_index
        looks += at_sounds(ids, given["labels"], segments, placeholder, spelled, frames, said, blank)
    return looks


def at_things(thinker: Any, ids: Tensor, segments: Tensor, media: Sequence[tuple[int, Tensor]]) -> list[Look]:
    """From each name of a thing to the tokens before it in its segment whose encoder says that name.

    ids, segments: (batch, length); media: (placeholder token, (tokens, hidden_size)) of pictures and films."""
    concepts = torch.tensor(naming.concept_ids(), device=ids.device)
    said = torch.full_like(ids, -1)  # the name that stands in each place of a picture
    for placeholder, tokens in media:
        with torch.no_grad():
            logits = naming.words_of(thinker, tokens)
        best = logits[:, concepts].max(-1)
        there = best.values > logits[:, naming.empty_id()]
        said[ids == placeholder] = torch.where(there, concepts[best.indices], -1)
    looks = []
    for row, place in torch.isin(ids, concepts).nonzero().tolist():
        where = (said[row] == ids[row, place]) & (segments[row] == segments[row, place])
        where[place:] = False
        if where.any():
            looks.append((row, place, where))
    return looks


def at_sounds(
    ids: Tensor, labels: Tensor, segments: Tensor, placeholder: int,
    spelled: Tensor, frames: Tensor, said: Tensor, blank: int,
) -> list[Look]:  # fmt: skip
    """From each place whose next token is a word of what was said to the sound of that word, where a reply holds all
    that was said.

    ids, labels, segments: (batch, length); spelled: (tokens, vocabulary), what the clips' tokens say, as logits;
    frames: (clips,) mel frames; said: (clips, longest) of `transcripts.join`; blank: CTC's."""
    where, looks, begin = (ids == placeholder).nonzero(), [], 0
    for count, words in zip(token_count(frames).tolist(), said.tolist(), strict=True):
        tokens, logits = where[begin : begin + count], spelled[begin : begin + count]
        begin += count
        words = [word for word in words if word != transcripts.NOTHING]
        row = int(tokens[0, 0])
        told = labels[row].masked_fill(segments[row] != segments[row, tokens[0, 1]], IGNORED)
        first = found(told.tolist(), words)
        heard = aligned(logits, words, blank) if first is not None else None
        if first is None or heard is None:
            continue
        for i in range(len(words)):
            near = torch.zeros(count, dtype=torch.bool)
            for at in [at for at, word in enumerate(heard) if word == i]:
                near[max(at - NEIGHBOURS, 0) : at + NEIGHBOURS + 1] = True
            place = torch.zeros_like(ids[row], dtype=torch.bool)
            place[tokens[near.to(tokens.device), 1]] = True
            looks.append((row, first + i - 1, place))
    return looks


def aligned(logits: Tensor, words: Sequence[int], blank: int) -> list[int] | None:
    """Which of `words` each of a clip's tokens says on CTC's likeliest path, -1 for none; None where they do not fit.

    logits: (tokens, vocabulary)."""
    from torchaudio.functional import forced_align

    if len(words) + sum(a == b for a, b in zip(words, words[1:], strict=False)) > len(logits):
        return None
    chances = logits.detach().float().log_softmax(-1).cpu()
    path, _ = forced_align(chances[None], torch.tensor([words], dtype=torch.int32), blank=blank)
    heard, word, before = [], -1, blank
    for token in path[0].tolist():
        word += token not in (blank, before)
        heard.append(-1 if token == blank else word)
        before = token
    return heard


def found(row: Sequence[int], words: Sequence[int]) -> int | None:
    """Where `words` begin in `row`, all of them in order; None if nowhere, or if there are less than two.

    The first may differ: behind a space it is another token."""
    rest = list(words[1:])
    places = range(1, len(row) - len(rest)) if rest else ()
    return next((i for i in places if row[i] != IGNORED and list(row[i + 1 : i + 1 + len(rest)]) == rest), None)


def spelled(encoded: Encoded, answer: str, glyphs: Sequence[Any] = (), page: tuple[int, int] | None = None) -> Encoded:
    """The same conversation with its last answer in single letters, each a token: the same text, not the same tokens.

    A word that is read has letters in a picture and no grammar behind it; in pieces such as "che" and "st" it would
    have to be known before it could be written. glyphs, page: the letters' middles and the size of the last picture,
    in pixels; "looks" then says where each letter is seen: (letters, 2) of places that look and are looked at."""
    letters = [processor().tokenizer(letter)["input_ids"][0] for letter in answer]
    labelled = encoded["labels"][0] != IGNORED
    end = int(labelled.nonzero()[-1])  # the place of <|im_end|>
    start = end - len(processor().tokenizer(answer)["input_ids"])
    encoded = dict(encoded)
    for name, new in (("input_ids", letters), ("labels", letters), ("attention_mask", [1] * len(letters))):
        row = encoded[name]
        encoded[name] = torch.cat([row[:, :start], row.new_tensor([new]), row[:, end:]], dim=1)
    if page is not None and len(glyphs) == len(letters):
        across, down = (side // naming.SIDE for side in page)
        picture = processor().tokenizer.convert_tokens_to_ids("<|IMAGE|>")
        tokens = (encoded["input_ids"][0] == picture).nonzero()[-across * down :, 0]
        seen = [int(y // naming.SIDE) * across + int(x // naming.SIDE) for _, x, y in glyphs]
        encoded["looks"] = torch.tensor([(start - 1 + i, int(tokens[at])) for i, at in enumerate(seen)])
    return encoded


def gather(filled: Sequence[Sequence[Encoded]]) -> Tensor:
    """The "looks" of samples packed in rows: (looks, 3) of row, place that looks, place that is looked at."""
    looks = [torch.zeros(0, 3, dtype=torch.long)]
    for row, samples in enumerate(filled):
        start = 0
        for sample in samples:
            if "looks" in sample:
                looks.append(F.pad(sample["looks"] + start, (1, 0), value=row))
            start += sample["input_ids"].shape[1]
    return torch.cat(looks)
