"""Where the decoder must look, told to one head a group of keys in the layer behind the one that says places.

Next-token loss rewards an answer, not the way to it. What a token of a picture or a sound says is there (naming.py,
transcripts.py), and where it lies (places.py); what is learned slowly, from answers alone, is to go and fetch it. Here
attention is told where: from a thing's name to the tokens that name it, from a word written down to the sound of the
next one, from a letter to the place of the next. Attention that is taught its places is older than answers that teach
it (Mi et al. 2016 for translation, Qiao et al. 2018 for questions on pictures); the places cost nothing here, since
the encoders' own tokens tell them, aligned by CTC for sounds. Nothing is added to the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.words import NUMBERS
from ..encoders.audio import token_count
from ..layers import rotary_tables
from . import naming, transcripts
from .nano import processor
from .packing import IGNORED, Encoded

NUMERALS = (" ", ",", *"0123456789")  # what may stand behind a name and tells of the same thing: "dog 2,7"
LONGEST = 3  # such tokens behind a name
NEIGHBOURS = 1  # tokens of sound on either side of where CTC has a word: what was heard of it lies there too
Look = tuple[int, int, Tensor]  # row, place that looks, (length,) bool of the places to look at


def place(thinker: Any) -> int:
    """Which layer's attention is told: the first that finds places said."""
    return min(len(thinker.model.layers) // 3, len(thinker.model.layers) - 1)


def sought(thinker: Any, states: Sequence[Tensor], position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Queries (batch, groups, heads of a group, length, head_dim) and keys (batch, groups, 1, length, head_dim) of that
    layer.

    states: the inputs of the layers, (batch, length, dim) each; position_ids: (3, batch, length). Computed anew, not
    watched by a hook, which a compiled decoder does not call and a recomputed one calls too often."""
    config, at = thinker.model.config, place(thinker)
    tables = (config.head_dim, config.rope_theta, config.mrope_section, states[at].dtype)
    query, key = thinker.model.layers[at].queries_and_keys(states[at], rotary_tables(position_ids, *tables))
    return query.unflatten(1, (key.shape[1], -1)), key[:, :, None]


def looking_loss(query: Tensor, key: Tensor, segments: Tensor, looks: Sequence[Look]) -> Tensor:
    """Nats by which the heads miss the places they are to look at, a mean over looks and heads; scalar.

    query, key: (batch, heads, length, head_dim); segments: (batch, length). A look is right whichever of its places
    has the weight; what stands later or in another segment is not seen, as in the model itself."""
    missed = [
        -chances.masked_fill(~wanted, -torch.inf).logsumexp(-1).flatten()
        for chances, wanted in attended(query, key, segments, looks)
    ]
    return torch.cat(missed).mean() if missed else (query[..., :1, :] * key[..., :1, :]).sum() * 0.0


def counting_loss(query: Tensor, key: Tensor, segments: Tensor, looks: Sequence[Look]) -> Tensor:
    """Nats by which the heads divide their weight otherwise than evenly among the places of a look, a mean; scalar.

    Arguments as `looking_loss`. One of the places is the segment's first, which stands for nothing: of n things the
    share n / (n + 1) is left for what is counted, and that share tells n."""
    missed = []
    for chances, wanted in attended(query, key, segments, looks):
        count = wanted.sum(-1)
        missed.append((-chances.masked_fill(~wanted, 0.0).sum(-1) / count - count.log()).flatten())
    return torch.cat(missed).mean() if missed else (query[..., :1, :] * key[..., :1, :]).sum() * 0.0


def attended(query: Tensor, key: Tensor, segments: Tensor, looks: Sequence[Look]) -> Iterator[tuple[Tensor, Tensor]]:
    """Row by row, the logarithm of what each look gives to each place, (heads, looks, length), and (looks, length)
    bool of where it should go. Arguments as `looking_loss`."""
    for row in sorted({row for row, _, _ in looks}):
        places = torch.tensor([place for r, place, _ in looks if r == row], device=query.device)
        wanted = torch.stack([where for r, _, where in looks if r == row]).to(query.device)
        seen = segments[row, places, None] == segments[row]
        seen &= torch.arange(wanted.shape[1], device=query.device) <= places[:, None]
        scores = (query[row][:, places].float() @ key[row].float().mT) * query.shape[-1] ** -0.5
        yield scores.masked_fill(~seen, -torch.inf).log_softmax(-1), wanted & seen


def loss(
    thinker: Any, looking: tuple[Tensor, Tensor], given: Mapping[str, Tensor], letters: Tensor,
    seen: Sequence[tuple[int, Tensor]], heard: Sequence[Tensor], said: Tensor | None,
) -> Tensor:  # fmt: skip
    """What all looks of a batch miss, in nats; scalar. The first head of each group looks, the second counts.

    looking: of `sought`; given: the thinker's arguments; letters: of `gather`; seen: (placeholder, (tokens,
    hidden_size)) of pictures and films; heard: of sounds (tokens, hidden_size) alone; said: of `transcripts.join`."""
    # Where to look is found out token by token, which a GPU would answer one question at a time.
    ids, labels, segments = (given[name].cpu() for name in ("input_ids", "labels", "segment_ids"))
    names, ones = names_at(thinker, ids, seen)
    looks = at_things(ids, labels, segments, names)
    looks += [(row, place, torch.arange(ids.shape[1]) == at) for row, place, at in letters.tolist()]
    if said is not None:
        with torch.no_grad():
            spelled = thinker.lm_head(thinker.model.norm(heard[0])).float().cpu()
        frames, blank = given["feature_attention_mask"].sum(1), processor().tokenizer.pad_token_id or 0
        placeholder = thinker.config.audio_token_index
        looks += at_sounds(ids, labels, segments, placeholder, spelled, frames, said, blank)
    query, key = looking
    looked = looking_loss(query[:, :, 0], key[:, :, 0], given["segment_ids"], looks)
    if query.shape[2] == 1:
        return looked
    counts = at_each(ids, segments, names, ones)
    return looked + counting_loss(query[:, :, 1], key[:, :, 0], given["segment_ids"], counts)


@torch.no_grad()
def names_at(thinker: Any, ids: Tensor, media: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Which thing's name each place of a picture says, -1 for none, and how much it says "one": (batch, length) each.

    media: (placeholder token, (tokens, hidden_size)) of pictures and films."""
    concepts = torch.tensor(naming.concept_ids())
    names, ones = torch.full_like(ids, -1), torch.full(ids.shape, -torch.inf)
    for placeholder, tokens in media:
        logits = naming.words_of(thinker, tokens).float().cpu()
        best = logits[:, concepts].max(-1)
        there = best.values > logits[:, naming.empty_id()]
        names[ids == placeholder] = torch.where(there, concepts[best.indices], -1)
        ones[ids == placeholder] = logits[:, processor().tokenizer(" one")["input_ids"][0]]
    return names, ones


def at_things(ids: Tensor, labels: Tensor, segments: Tensor, names: Tensor) -> list[Look]:
    """From each name of a thing, from numerals behind it and from each place whose next token is to be one, to the
    tokens before it in its segment that say that name.

    ids, labels, segments: (batch, length); names: of `names_at`."""
    concepts = torch.tensor(naming.concept_ids())
    numerals = torch.tensor([processor().tokenizer(sign)["input_ids"][0] for sign in NUMERALS])
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    named = torch.where(torch.isin(ids, concepts), ids, torch.where(torch.isin(following, concepts), following, -1))
    told = named.where(torch.isin(ids, concepts), -1)
    for _ in range(LONGEST):
        told = torch.where((told < 0) & torch.isin(ids, numerals), F.pad(told[:, :-1], (1, 0), value=-1), told)
    named = torch.where(named < 0, told, named)
    looks = []
    for row, place in (named >= 0).nonzero().tolist():
        where = (names[row] == named[row, place]) & (segments[row] == segments[row, place])
        where[place:] = False
        if where.any():
            looks.append((row, place, where))
    return looks


def at_each(ids: Tensor, segments: Tensor, names: Tensor, ones: Tensor) -> list[Look]:
    """From each name of a thing with a number behind it ("dog three") to the middle of each of so many such things,
    and to the first place of the segment; none where fewer tokens say the name.

    ids, segments: (batch, length); names, ones: of `names_at`."""
    numbers = {processor().tokenizer(f" {word}")["input_ids"][0]: n for n, word in enumerate(NUMBERS[:10]) if n}
    looks = []
    for row, place in torch.isin(ids[:, 1:], torch.tensor(list(numbers))).nonzero().tolist():
        there = (names[row] == ids[row, place]) & (segments[row] == segments[row, place])
        there[place:] = False
        count = numbers[int(ids[row, place + 1])]
        if int(there.sum()) >= count:
            middles = ones[row].masked_fill(~there, -torch.inf).topk(count).indices
            where = torch.zeros_like(there)
            where[middles] = True
            where[int((segments[row] == segments[row, place]).nonzero()[0])] = True
            looks.append((row, place, where))
    return looks


def at_sounds(
    ids: Tensor, labels: Tensor, segments: Tensor, placeholder: int,
    spelled: Tensor, frames: Tensor, said: Tensor, blank: int,
) -> list[Look]:  # fmt: skip
    """From each place whose next token is a word of what was said to the sound of that word, where a reply holds the
    sentence that it stands in.

    ids, labels, segments: (batch, length); spelled: (tokens, vocabulary), what the clips' tokens say, as logits;
    frames: (clips,) mel frames; said: (clips, longest) of `transcripts.join`; blank: CTC's."""
    where, looks, begin = (ids == placeholder).nonzero(), [], 0
    for count, words in zip(token_count(frames).tolist(), said.tolist(), strict=True):
        tokens, logits = where[begin : begin + count], spelled[begin : begin + count]
        begin += count
        words = [word for word in words if word != transcripts.NOTHING]
        row = int(tokens[0, 0])
        told = labels[row].masked_fill(segments[row] != segments[row, tokens[0, 1]], IGNORED)
        told[: int(tokens[-1, 1]) + 1] = IGNORED  # an earlier turn may have said the same, before this was heard
        firsts = [(first, start, size) for start, size in sentences(words)
                  if (first := found(told.tolist(), words[start : start + size])) is not None]  # fmt: skip
        heard = aligned(logits, words, blank) if firsts else None
        if heard is None:
            continue
        for first, start, size in firsts:
            for i in range(size):
                near = torch.zeros(count, dtype=torch.bool)
                for at in [at for at, word in enumerate(heard) if word == start + i]:
                    near[max(at - NEIGHBOURS, 0) : at + NEIGHBOURS + 1] = True
                place = torch.zeros_like(ids[row], dtype=torch.bool)
                place[tokens[near, 1]] = True
                looks.append((row, first + i - 1, place))
    return looks


def sentences(words: Sequence[int]) -> list[tuple[int, int]]:
    """(where it starts, its tokens) of each sentence of a transcript: a reply may hold them in another order."""
    stop = processor().tokenizer(".")["input_ids"][0]
    starts = [0, *(i + 1 for i, word in enumerate(words[:-1]) if word == stop)]
    return [(start, end - start) for start, end in zip(starts, [*starts[1:], len(words)], strict=True)]


def aligned(logits: Tensor, words: Sequence[int], blank: int) -> list[int] | None:
    """Which of `words` each of a clip's tokens says on CTC's likeliest path, -1 for none; None where they do not fit.

    logits: (tokens, vocabulary)."""
    from torchaudio.functional import forced_align

    if len(words) + sum(a == b for a, b in zip(words, words[1:], strict=False)) > len(logits):
        return None
    path, _ = forced_align(logits.log_softmax(-1)[None], torch.tensor([words], dtype=torch.int32), blank=blank)
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
