"""Where the decoder must look, told to one head a group of keys in the layer behind the one that says places.

Next-token loss rewards an answer, not the way to it. What a token of a picture or a sound says is there (naming.py,
transcripts.py), and where it lies (places.py); what is learned slowly, from answers alone, is to go and fetch it. Here
attention is told where: from a thing's name to the tokens that name it, from a word written down to the sound of the
next one, from a letter to the place of the next. Attention that is taught its places is older than answers that teach
it (Mi et al. 2016 for translation, Qiao et al. 2018 for questions on pictures); the places cost nothing here, since
the encoders' own tokens tell them, aligned by CTC for sounds. Nothing is added to the model.
What is looked for is known from the text alone, and found out where batches are made (`gather`). Where that is, only
the model's tokens say: this is found for all looks at once, since a GPU would answer single questions slowly.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.words import NUMBERS
from ..encoders.audio import token_count
from ..layers import rotary_tables
from . import naming, transcripts
from .nano import processor
from .packing import IGNORED, Encoded, joined_row

NUMERALS = (" ", ",", *"0123456789")  # what may stand behind a name and tells of the same thing: "dog 2,7"
LONGEST = 3  # such tokens behind a name
NEIGHBOURS = 1  # tokens of sound on either side of where CTC has a word: what was heard of it lies there too
MOST = 9  # things that are counted
# Rows (looks,), places that look (looks,), and bool of the places that are to be looked at (looks, length).
Looks = tuple[Tensor, Tensor, Tensor]


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


def looking_loss(query: Tensor, key: Tensor, segments: Tensor, looks: Looks) -> Tensor:
    """Nats by which the heads miss the places they are to look at, a mean over looks and heads; scalar.

    query, key: (batch, heads, length, head_dim); segments: (batch, length). A look is right whichever of its places
    has the weight; what stands later or in another segment is not seen, as in the model itself."""
    if not len(looks[0]):
        return (query[..., :1, :] * key[..., :1, :]).sum() * 0.0
    chances, wanted = attended(query, key, segments, looks)
    return -chances.masked_fill(~wanted, -torch.inf).logsumexp(-1).mean()


def counting_loss(query: Tensor, key: Tensor, segments: Tensor, looks: Looks) -> Tensor:
    """Nats by which the heads divide their weight otherwise than evenly among the places of a look, a mean; scalar.

    Arguments as `looking_loss`. One of the places is the segment's first, which stands for nothing: of n things the
    share n / (n + 1) is left for what is counted, and that share tells n."""
    if not len(looks[0]):
        return (query[..., :1, :] * key[..., :1, :]).sum() * 0.0
    chances, wanted = attended(query, key, segments, looks)
    count = wanted.sum(-1)
    return (-chances.masked_fill(~wanted, 0.0).sum(-1) / count - count.log()).mean()


def attended(query: Tensor, key: Tensor, segments: Tensor, looks: Looks) -> tuple[Tensor, Tensor]:
    """The logarithm of what each look gives to each place, (looks, heads, length), and (looks, 1, length) bool of where
    it should go. Arguments as `looking_loss`; at least one look."""
    rows, places, wanted = looks
    counts = torch.bincount(rows, minlength=len(query))
    order = rows.argsort()
    slots = torch.empty_like(rows)  # a number of its own for each look of a row
    slots[order] = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows[order]]
    asking = query.new_zeros(*query.shape[:2], int(counts.max()), query.shape[-1])
    asking[rows, :, slots] = query[rows, :, places]
    scores = (asking.float() @ key.float().mT)[rows, :, slots] * query.shape[-1] ** -0.5
    seen = seen_from(segments, rows, places)
    return scores.masked_fill(~seen[:, None], -torch.inf).log_softmax(-1), (wanted & seen)[:, None]


def seen_from(segments: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """What each of these places sees, its segment up to itself: (batch, length), (n,), (n,) -> (n, length) bool."""
    own = segments[rows] == segments[rows, places][:, None]
    return own & (torch.arange(segments.shape[1], device=segments.device) <= places[:, None])


def loss(
    thinker: Any, looking: tuple[Tensor, Tensor], given: Mapping[str, Tensor], asked: Mapping[str, Tensor],
    seen: Sequence[tuple[int, Tensor]], heard: Sequence[Tensor], said: Tensor | None,
) -> Tensor:  # fmt: skip
    """What all looks of a batch miss, in nats; scalar. The first head of each group looks, the second counts.

    looking: of `sought`; given: the thinker's arguments; asked: of `gather`; seen: (placeholder, (tokens,
    hidden_size)) of pictures and films; heard: of sounds (tokens, hidden_size) alone; said: of `transcripts.join`."""
    segments = given["segment_ids"]
    names, ones = names_at(thinker, given["input_ids"], seen)
    looks = [at_letters(asked["letters"], segments.shape[1]), at_things(asked["things"], segments, names)]
    if said is not None and len(asked["words"]):
        with torch.no_grad():
            sound = heard[0][asked["sounds"][:, 1]]
            spelled = thinker.lm_head(thinker.model.norm(sound)).float().log_softmax(-1)
        blank = processor().tokenizer.pad_token_id or 0
        looks.append(at_sounds(asked["words"], asked["sounds"], said, spelled, blank, segments.shape[1]))
    query, key = looking
    rows, places, wanted = (torch.cat(parts) for parts in zip(*looks, strict=True))
    looked = looking_loss(query[:, :, 0], key[:, :, 0], segments, (rows, places, wanted))
    if query.shape[2] == 1:
        return looked
    counts = at_each(asked["counted"], segments, names, ones)
    return looked + counting_loss(query[:, :, 1], key[:, :, 0], segments, counts)


@torch.no_grad()
def names_at(thinker: Any, ids: Tensor, media: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Which thing's name each place of a picture says, -1 for none, and how much it says "one": (batch, length) each.

    media: (placeholder token, (tokens, hidden_size)) of pictures and films."""
    words = (*naming.concept_ids(), naming.empty_id(), naming.first_id(" one"))
    asked = torch.tensor(words, device=ids.device)
    names, ones = torch.full_like(ids, -1), torch.full(ids.shape, -torch.inf, device=ids.device)
    for placeholder, tokens in media:
        logits = naming.words_of(thinker, tokens, asked).float()
        best = logits[:, :-2].max(-1)
        said = torch.where(best.values > logits[:, -2], asked[best.indices], -1)
        names = names.masked_scatter(ids == placeholder, said)
        ones = ones.masked_scatter(ids == placeholder, logits[:, -1])
    return names, ones


def at_letters(letters: Tensor, length: int) -> Looks:
    """From each letter to the place of the next. letters: of `gather`."""
    rows, places, at = letters.unbind(1)
    return rows, places, torch.arange(length, device=at.device) == at[:, None]


def at_things(things: Tensor, segments: Tensor, names: Tensor) -> Looks:
    """From each place that is to look for a thing to the tokens before it in its segment that say its name.

    things: of `gather`; segments: (batch, length); names: of `names_at`, -1 at all that looks."""
    rows, places, name = things.unbind(1)
    wanted = (names[rows] == name[:, None]) & seen_from(segments, rows, places)
    there = wanted.any(1)
    return rows[there], places[there], wanted[there]


def at_each(counted: Tensor, segments: Tensor, names: Tensor, ones: Tensor) -> Looks:
    """From each name of a thing with a number behind it ("dog three") to the middle of each of so many such things,
    and to the first place of the segment; none where fewer tokens say the name.

    counted: of `gather`; segments: (batch, length); names, ones: of `names_at`."""
    rows, places, name, count, first = counted.unbind(1)
    said = (names[rows] == name[:, None]) & seen_from(segments, rows, places)
    middles = ones[rows].masked_fill(~said, -torch.inf).topk(min(MOST, said.shape[1])).indices
    chosen = torch.arange(middles.shape[1], device=said.device) < count[:, None]
    wanted = torch.zeros_like(said).scatter(1, middles, chosen).scatter(1, first[:, None], True)
    enough = said.sum(1) >= count
    return rows[enough], places[enough], wanted[enough]


def at_sounds(words: Tensor, sounds: Tensor, said: Tensor, spelled: Tensor, blank: int, length: int) -> Looks:
    """From each place whose next token is a word of what was said to the sound of that word.

    words, sounds: of `gather`; said: (clips, longest) of `transcripts.join`; spelled: (len(sounds), vocabulary), what
    those tokens say, as logarithms; blank: CTC's."""
    # Clips are aligned one by one, on the CPU; of the vocabulary they need their own words alone.
    symbols = F.pad(said.clamp_min(0), (1, 0), value=blank)[sounds[:, 0]]
    own, said = spelled.gather(1, symbols).cpu(), said.cpu()
    on_cpu, sounds = words.cpu(), sounds.cpu()
    wanted = torch.zeros(len(words), length, dtype=torch.bool)
    for clip in on_cpu[:, 2].unique().tolist():
        tokens, looks = sounds[:, 0] == clip, (on_cpu[:, 2] == clip).nonzero()
        told = [word for word in said[clip].tolist() if word != transcripts.NOTHING]
        heard = aligned(own[tokens], [1 + told.index(word) for word in told], 0)
        if heard is not None:
            says = (torch.tensor(heard) == on_cpu[looks[:, 0], 3:]).float()  # (looks, tokens)
            wanted[looks, sounds[tokens, 2]] = F.max_pool1d(says, 2 * NEIGHBOURS + 1, 1, NEIGHBOURS) > 0
    wanted = wanted.to(words.device)
    fits = wanted.any(1)
    return words[fits, 0], words[fits, 1], wanted[fits]


def aligned(logits: Tensor, words: Sequence[int], blank: int) -> list[int] | None:
    """Which of `words` each of a clip's tokens says on CTC's likeliest path, -1 for none; None where they do not fit.

    logits: (tokens, vocabulary), or their logarithms of chances."""
    from torchaudio.functional import forced_align

    if len(words) + sum(a == b for a, b in zip(words, words[1:], strict=False)) > len(logits):
        return None
    path, _ = forced_align(logits[None], torch.tensor([words], dtype=torch.int32), blank=blank)
    heard, word, before = [], -1, blank
    for token in path[0].tolist():
        word += token not in (blank, before)
        heard.append(-1 if token == blank else word)
        before = token
    return heard


def gather(filled: Sequence[Sequence[Encoded]]) -> dict[str, Tensor]:
    """What of samples packed in rows is to look, and for what, each a row of numbers:

    letters: row, place that looks, place that is looked at (a sample's "looks");
    things: row, place that looks, token of the name that it looks for;
    counted: row, place that looks, token of the name, how many, the segment's first place;
    words: row, place that looks, clip, number of the word in its transcript;
    sounds: clip, token of the encoder, place: of the clips in which words are looked for."""
    size = max((sum(sample["input_ids"].shape[1] for sample in row) for row in filled), default=0)
    joined = {"input_ids": -1, "labels": IGNORED}
    ids, labels = (
        torch.cat([joined_row([sample[name] for sample in row], size, value, name) for row in filled])
        for name, value in joined.items()
    )
    firsts, letters = torch.zeros_like(ids), [torch.zeros(0, 3, dtype=torch.long)]
    for row, samples in enumerate(filled):
        start = 0
        for sample in samples:
            firsts[row, start:] = start
            if "looks" in sample:
                letters.append(F.pad(sample["looks"] + start, (1, 0), value=row))
            start += sample["input_ids"].shape[1]
    clips = [sample for row in filled for sample in row if "feature_attention_mask" in sample]
    frames = [int(mask.sum()) for sample in clips for mask in sample["feature_attention_mask"]]
    said = [told for sample in clips for told in sample["transcripts"]]
    words, sounds = words_asked(ids, labels, firsts, frames, said)
    asked = {"letters": torch.cat(letters), "things": things_asked(ids, labels), "counted": counted(ids, firsts)}
    return asked | {"words": words, "sounds": sounds}


def things_asked(ids: Tensor, labels: Tensor) -> Tensor:
    """Each name of a thing, each numeral behind it, and each place whose next token is to be one, with that name: rows
    of `gather`. ids, labels: (batch, length)."""
    concepts = torch.tensor(naming.concept_ids())
    numerals = torch.tensor([naming.first_id(sign) for sign in NUMERALS])
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    named = torch.where(torch.isin(ids, concepts), ids, torch.where(torch.isin(following, concepts), following, -1))
    told = named.where(torch.isin(ids, concepts), -1)
    for _ in range(LONGEST):
        told = torch.where((told < 0) & torch.isin(ids, numerals), F.pad(told[:, :-1], (1, 0), value=-1), told)
    named = torch.where(named < 0, told, named)
    return torch.cat([(named >= 0).nonzero(), named[named >= 0][:, None]], 1)


def counted(ids: Tensor, firsts: Tensor) -> Tensor:
    """Each name of a thing with a number behind it: rows of `gather`. ids, firsts: (batch, length)."""
    numbers = {naming.first_id(f" {word}"): count for count, word in enumerate(NUMBERS[: MOST + 1]) if count}
    names, following = ids[:, :-1], ids[:, 1:]
    there = torch.isin(names, torch.tensor(naming.concept_ids())) & torch.isin(following, torch.tensor([*numbers]))
    counts = torch.tensor([numbers[number] for number in following[there].tolist()], dtype=torch.long)
    return torch.cat([there.nonzero(), torch.stack([names[there], counts, firsts[:, :-1][there]], 1)], 1)


def words_asked(
    ids: Tensor, labels: Tensor, firsts: Tensor, frames: Sequence[int], said: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Words of what was said where a reply holds the sentence that they stand in, and the sounds of such clips: rows of
    `gather`.

    ids, labels, firsts: (batch, length); frames: of mel, of each clip; said: the clips' transcripts."""
    placeholder = processor().tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    where, begin = (ids == placeholder).nonzero(), 0
    words, sounds = [torch.zeros(0, 4, dtype=torch.long)], [torch.zeros(0, 3, dtype=torch.long)]
    for clip, (count, told) in enumerate(zip(token_count(torch.tensor(frames)).tolist(), said, strict=True)):
        (row, first), places = where[begin].tolist(), where[begin : begin + count, 1]
        reply = labels[row].masked_fill(firsts[row] != firsts[row, first], IGNORED)
        reply[: int(places[-1]) + 1] = IGNORED  # an earlier turn may have said the same, before this was heard
        held = [(at, start, size) for start, size in sentences(told)
                if (at := found(reply.tolist(), told[start : start + size])) is not None]  # fmt: skip
        words += [torch.tensor([(row, at - 1 + i, clip, start + i) for i in range(size)]) for at, start, size in held]
        if held:
            tokens = torch.arange(begin, begin + count)
            sounds.append(torch.stack([torch.full_like(tokens, clip), tokens, places], 1))
        begin += count
    return torch.cat(words), torch.cat(sounds)


def sentences(words: Sequence[int]) -> list[tuple[int, int]]:
    """(where it starts, its tokens) of each sentence of a transcript: a reply may hold them in another order."""
    stop = naming.first_id(".")
    starts = [0, *(i + 1 for i, word in enumerate(words[:-1]) if word == stop)]
    return [(start, end - start) for start, end in zip(starts, [*starts[1:], len(words)], strict=True)]


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
    letters = [naming.first_id(letter) for letter in answer]
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
