"""Where attention is told to look: right places for things, letters and sounds, a right value, and the recipe."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from omni_lab.data import world
from omni_lab.thinker import Thinker
from omni_lab.train import looking, naming, packing, transcripts
from omni_lab.train.nano import processor
from omni_lab.train.optimise import recompute_in_backward
from omni_lab.train.recipes import find


def mask(length, *places):
    """(length,) bool, True at `places`."""
    return torch.isin(torch.arange(length), torch.tensor(places))


def attending(scores):
    """Queries and keys of one head whose scores are `scores`, (length, length)."""
    size = len(scores)
    return scores[None, None] * size**0.5, torch.eye(size)[None, None]


def look(row, place, length, *places):
    """One look, from `place` of `row` at `places`."""
    return torch.tensor([row]), torch.tensor([place]), mask(length, *places)[None]


def pairs(looks):
    """(row, place that looks, places looked at) of each look."""
    return [(int(r), int(p), w.nonzero()[:, 0].tolist()) for r, p, w in zip(*looks, strict=True)]


def packed(length, *samples):
    """Samples in one row with the thinker's arguments and what is asked of them."""
    filled = [list(samples)]
    return looking.gather(filled), packing.pack(filled, length, 0)


def of_ids(ids, labels=None, **more):
    """A sample of these tokens, none of which is an answer's unless `labels` say so."""
    ids = torch.tensor([ids])
    labels = torch.full_like(ids, packing.IGNORED) if labels is None else torch.tensor([labels])
    return {"input_ids": ids, "labels": labels, "position_ids": torch.zeros(3, *ids.shape, dtype=torch.long)} | more


def heard(batch, asked, spelled):
    """Looks of words at sounds, where the encoder's tokens say `spelled`, (tokens, vocabulary); 0 is CTC's blank."""
    told, length = spelled.log_softmax(-1)[asked["sounds"][:, 1]], batch["input_ids"].shape[1]
    return looking.at_sounds(asked["words"], asked["sounds"], batch["said"], told, 0, length)


def test_nothing_is_lost_where_the_weight_lies_on_any_of_the_places():
    scores = torch.zeros(4, 4)
    scores[3, 1] = 30.0
    segments = torch.ones(1, 4, dtype=torch.long)
    query, key = attending(scores)
    assert looking.looking_loss(query, key, segments, look(0, 3, 4, 1)).item() == pytest.approx(0, abs=1e-5)
    assert looking.looking_loss(query, key, segments, look(0, 3, 4, 0, 1)).item() == pytest.approx(0, abs=1e-5)
    assert looking.looking_loss(query, key, segments, look(0, 3, 4, 0, 2)).item() > 25


def test_what_stands_later_or_in_another_segment_takes_no_weight():
    query, key = attending(torch.zeros(5, 5))
    segments = torch.tensor([[1, 2, 2, 2, 2]])
    loss = looking.looking_loss(query, key, segments, look(0, 3, 5, 1))
    assert loss.item() == pytest.approx(math.log(3))  # of places 1 to 3, not of 0 and 4


def test_without_a_look_the_loss_is_nought_and_has_a_gradient():
    query, key = torch.ones(1, 1, 2, 4, requires_grad=True), torch.ones(1, 1, 2, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    loss = looking.looking_loss(query, key, torch.ones(1, 2), (none, none, torch.zeros(0, 2, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0 and query.grad is not None and key.grad is not None


def test_sounds_are_aligned_in_order_and_repeated_words_apart():
    logits = torch.zeros(7, 5)
    for place, token in enumerate((0, 3, 3, 0, 3, 0, 2)):
        logits[place, token] = 9.0
    assert looking.aligned(logits, [3, 3, 2], 0) == [-1, 0, 0, -1, 1, -1, 2]
    assert looking.aligned(logits[:3], [3, 3, 2], 0) is None  # four places are needed


def test_words_are_found_whatever_the_first_is_and_only_where_they_are_told():
    ignored = packing.IGNORED
    assert looking.found([ignored, 7, 5, 6, 9], [4, 5, 6]) == 1
    assert looking.found([ignored, ignored, 5, 6, 9], [4, 5, 6]) is None
    assert looking.found([ignored, 4, 5], [4, 5, 6]) is None
    assert looking.found([ignored, 4], [4]) is None


def spoken(before, tokens, after, words):
    """A sample in which a clip of so many tokens says `words`, none of them names; `after` it all is to be said."""
    sound = processor().tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    ids = [*before, *[sound] * tokens, *after]
    labels = [*before, *[packing.IGNORED] * (tokens + 1), *after[1:]]
    mask = torch.ones(1, 4 * tokens - 1, dtype=torch.long)  # frames of mel
    return of_ids(ids, labels, feature_attention_mask=mask, input_features=torch.zeros(1, 1, 9), transcripts=[words])


def test_a_word_looks_at_its_sound_through_the_word_before():
    asked, batch = packed(11, spoken([1], 6, [8, 11, 12, 2], [11, 12]))
    batch["said"] = transcripts.join([[11, 12]])
    spelled = torch.zeros(6, 20)
    for place, token in enumerate((11, 0, 0, 0, 0, 12)):
        spelled[place, token] = 9.0
    assert pairs(heard(batch, asked, spelled)) == [(0, 7, [1, 2]), (0, 8, [5, 6])]


def test_a_word_said_twice_looks_at_its_own_sound():
    asked, batch = packed(14, spoken([1], 8, [8, 11, 12, 11, 2], [11, 12, 11]))
    batch["said"] = transcripts.join([[11, 12, 11]])
    spelled = torch.zeros(8, 20)
    for place, token in enumerate((11, 0, 0, 12, 0, 0, 0, 11)):
        spelled[place, token] = 9.0
    assert pairs(heard(batch, asked, spelled)) == [(0, 9, [1, 2]), (0, 10, [3, 4, 5]), (0, 11, [7, 8])]


def test_words_look_nowhere_if_their_sound_is_too_short_for_them():
    asked, batch = packed(8, spoken([1], 2, [8, 11, 12, 13, 2], [11, 12, 13]))
    batch["said"] = transcripts.join([[11, 12, 13]])
    assert len(asked["words"]) == 3 and not pairs(heard(batch, asked, torch.zeros(2, 20)))


def test_what_an_earlier_turn_answered_looks_at_no_sound_that_comes_later():
    asked, batch = packed(12, spoken([8, 11, 12], 6, [8, 11, 12], [11, 12]))
    batch["said"] = transcripts.join([[11, 12]])
    spelled = torch.zeros(6, 20)
    spelled[0, 11] = spelled[5, 12] = 9.0
    assert [place for _, place, _ in pairs(heard(batch, asked, spelled))] == [9, 10], "behind the sound, not before it"


def test_a_word_looks_at_no_sound_of_another_sample():
    apart = [spoken([1], 6, [8, 2], [11, 12]), of_ids([8, 11, 12], [packing.IGNORED, 11, 12])]
    asked, _ = packed(11, *apart)
    assert not len(asked["words"]) and not len(asked["sounds"])
    asked, _ = packed(19, apart[0], spoken([1], 6, [8, 15, 16], [15, 16]))
    assert asked["words"].tolist() == [[0, 16, 1, 0], [0, 17, 1, 1]]
    assert asked["sounds"].tolist() == [[1, 6 + i, 10 + i] for i in range(6)]


def test_sentences_told_in_another_order_than_heard_look_at_their_own_sound():
    recipe = recipe_of("who_said_what")
    placeholder = recipe.config.thinker_config.audio_token_index
    for index in range(20):
        sample = world.sample("who_said_what", "train", 1, index)
        encoded = recipe.encode(sample)
        asked, batch = packed(encoded["input_ids"].shape[1], encoded)
        ids, words = batch["input_ids"], encoded["transcripts"]
        batch["said"] = transcripts.join(words)
        spelled = torch.zeros(int((ids == placeholder).sum()), 10_000)
        spaced = torch.linspace(2, len(spelled) - 3, len(words[0])).long()  # each word at a place of its own
        spelled[:, 0] = 5.0  # between them nothing
        spelled[spaced, torch.tensor(words[0])] = 9.0
        looks = pairs(heard(batch, asked, spelled))
        assert len(looks) == len(words[0]), sample.answer
        sounds = (ids[0] == placeholder).nonzero()[:, 0].tolist()
        for _, place, where in looks:
            told = spelled[[sounds.index(at) for at in where]]
            assert told[:, 1:].sum(0).argmax() + 1 == ids[0, place + 1]


def test_a_name_looks_at_the_tokens_that_say_it_and_so_does_what_is_about_to_name_it():
    recipe = recipe_of("picture_qa")
    model, batch = Thinker(recipe.config.thinker_config), recipe.batch(0)
    ids, labels, segments = batch["input_ids"], batch["labels"], batch["segment_ids"]
    placeholder = recipe.config.thinker_config.image_token_index
    some = naming.concept_ids()[:3]
    saying = [some[i % 3] for i in range(int((ids == placeholder).sum()))]
    names, _ = looking.names_at(model, ids, [(placeholder, model.model.embed_tokens.weight.detach()[saying])])
    assert names[ids == placeholder].tolist() == saying and (names[ids != placeholder] == -1).all()
    looks = looking.at_things(batch["looks"]["things"], segments, names)
    asked = set()
    for row, place in (ids >= 0).nonzero().tolist():
        after = int(labels[row, place + 1]) if place + 1 < ids.shape[1] else -1
        name = int(ids[row, place]) if int(ids[row, place]) in naming.concept_ids() else after
        if name in some:
            asked.add((row, place))
            where = next(where for r, p, where in zip(*looks, strict=True) if (r, p) == (row, place))
            assert where.any() and (names[row][where] == name).all()
            assert (segments[row][where] == segments[row, place]).all() and int(where.nonzero().max()) < place
    assert {(row, place) for row, place, _ in pairs(looks)} == asked


def test_numerals_behind_a_name_look_where_the_name_looks():
    name = naming.concept_ids()[0]
    told = [processor().tokenizer(sign)["input_ids"][0] for sign in (" ", "2", ",", "7", ",")]
    ids = torch.tensor([[9, 9, 9, 5, name, *told, 5]])
    names = torch.tensor([[-1, name, name] + [-1] * 8])
    asked = looking.things_asked(ids, torch.full_like(ids, packing.IGNORED))
    looks = looking.at_things(asked, torch.ones_like(ids), names)
    assert pairs(looks) == [(0, i, [1, 2]) for i in (4, 5, 6, 7)]


def test_what_is_counted_is_looked_at_once_each_and_in_its_own_sample():
    name, two = naming.concept_ids()[0], processor().tokenizer(" two")["input_ids"][0]
    asked, batch = packed(13, of_ids([7, 9, 9, 9]), of_ids([7, 9, 9, 9, 9, name, two, name, 5]))
    counted, segments = asked["counted"], batch["segment_ids"]
    names = torch.tensor([[-1, name, name, -1, -1, name, name, -1, name] + [-1] * 4])
    ones = torch.tensor([[0, 9.0, 9, 0, 0, 3, 1, 9, 2] + [0] * 4])
    assert pairs(looking.at_each(counted, segments, names, ones)) == [(0, 9, [4, 5, 8])]
    fewer = names.masked_fill(mask(13, 5, 6), -1)
    assert not pairs(looking.at_each(counted, segments, fewer, ones)), "one is not two"


def test_weight_is_divided_evenly_among_what_is_counted_and_nothing():
    segments, three = torch.ones(1, 4, dtype=torch.long), look(0, 3, 4, 0, 1, 2)
    even, uneven = torch.zeros(4, 4), torch.zeros(4, 4)
    even[3, 3], uneven[3, 3], uneven[3, 1] = -40.0, -40.0, 2.0
    assert looking.counting_loss(*attending(even), segments, three).item() == pytest.approx(0, abs=1e-5)
    assert looking.counting_loss(*attending(uneven), segments, three).item() > 0.3
    assert looking.counting_loss(*attending(torch.zeros(4, 4)), segments, three).item() == pytest.approx(
        math.log(4) - math.log(3)
    )


@pytest.mark.parametrize("index", range(8))
def test_a_letter_is_looked_at_where_it_stands(index):
    recipe = recipe_of("ocr")
    sample = world.sample("ocr", "train", 3, index)
    encoded = recipe.encode(sample)
    looks = encoded["looks"]
    ids, picture = encoded["input_ids"][0], recipe.config.thinker_config.image_token_index
    assert (ids[looks[:, 1]] == picture).all()
    letters = processor().tokenizer.batch_decode(ids[looks[:, 0] + 1][:, None])
    assert "".join(letters) == sample.answer
    page = next(part["image"] for part in sample.messages[-1]["content"] if part["type"] == "image")
    labels = naming.read_at(sample.meta["glyphs"], page.size)["letters"]
    first = int((ids == picture).nonzero()[0])
    for letter, place in zip(sample.answer, looks[:, 1].tolist(), strict=True):
        assert naming.SIGNS.index(letter) + 1 in labels[place - first].tolist()


def test_looks_move_with_their_sample():
    sample, other = of_ids([0] * 6, looks=torch.tensor([[4, 1], [5, 2]])), of_ids([0] * 3)
    assert looking.gather([[other], [other, sample]])["letters"].tolist() == [[1, 7, 4], [1, 8, 5]]
    assert not len(looking.gather([[], [other]])["letters"])


def everything():
    """Two rows with looks of all kinds, a thinker of random numbers, and what its encoders and its layer say."""
    drawn = torch.Generator().manual_seed(7)
    tokenizer, (dog, cat, bird, *_) = processor().tokenizer, naming.concept_ids()
    picture = tokenizer.convert_tokens_to_ids("<|IMAGE|>")
    two, comma, seven = (naming.first_id(text) for text in (" two", ",", "7"))
    told = [naming.first_id(f" {word}") for word in ("and", "the", "is")]
    answer = [5, dog, two, 5, cat, comma, seven, 5, bird]
    things = of_ids([3, *[picture] * 12, 4, *answer], [packing.IGNORED] * 14 + answer)
    page = of_ids([3, *[picture] * 4, 4, 6, 7, 8], looks=torch.tensor([[5, 2], [6, 4]]))
    filled = [[things, spoken([3], 7, [4, *told, 2], told)], [page, things]]
    asked, batch = looking.gather(filled), packing.pack(filled, 40, 0)
    table = torch.randn(len(tokenizer), 16, generator=drawn)
    model = SimpleNamespace(embed_tokens=SimpleNamespace(weight=table), norm=lambda tokens: tokens)
    thinker = SimpleNamespace(model=model, lm_head=lambda tokens: tokens @ table.T, config=SimpleNamespace())
    ids, one = batch["input_ids"], naming.first_id(" one")
    says = torch.tensor([dog, dog, cat, one, 9, dog, cat, cat, dog, 9, 9, dog, *[dog, cat, 9, 9], *[cat, dog, dog] * 4])
    seen = table[says] + 0.3 * table[one] + 0.4 * torch.randn(len(says), 16, generator=drawn)
    sound = table[[told[0], 0, told[1], told[1], 0, told[2], 0]] + torch.randn(7, 16, generator=drawn)
    query = torch.randn(2, 2, 2, ids.shape[1], 8, generator=drawn).requires_grad_()
    key = torch.randn(2, 2, 1, ids.shape[1], 8, generator=drawn).requires_grad_()
    said = transcripts.join([told])
    return thinker, (query, key), batch, asked, [(picture, seen)], [sound], said


def test_all_looks_together_miss_what_they_missed_one_by_one():
    thinker, (query, key), batch, asked, *said = everything()
    assert all(len(rows) for rows in asked.values()), "looks of every kind"
    loss = looking.loss(thinker, (query, key), batch, asked, *said)
    loss.backward()
    # What the same example gave when each look was asked for by itself.
    assert loss.item() == pytest.approx(3.8665028, rel=1e-5)
    assert [query.grad.norm().item(), key.grad.norm().item()] == pytest.approx([0.3365443, 0.2696767], rel=1e-4)


def recipe_of(task, **changes):
    """`thinker_2` at smoke scale on one task."""
    made = find("thinker_2")
    settings = replace(made.scales["smoke"], naming=0.0, emphasis=f"{task}:1000", **changes)
    return made(settings, seed=4)


def test_the_loss_moves_the_first_head_of_each_group_of_the_layer_that_is_told():
    recipe = recipe_of("ocr", looking=1.0, loudness=0.0, places=0.0, ctc=0.0)
    model, batch = Thinker(recipe.config.thinker_config).train(), recipe.batch(0)
    kept = {name: value for name, value in batch.items() if name not in ("samples", "skipped", "weight")}
    loss, parts = recipe.loss(model, kept, "main")
    assert loss.item() == pytest.approx((parts["answers"] + parts["looking"]).item(), rel=1e-5)
    parts["looking"].backward()
    attention = model.model.layers[looking.place(model)].self_attn
    moved = attention.q_proj.weight.grad.unflatten(0, (-1, attention.head_dim)).abs().sum((1, 2)) > 0
    assert moved.tolist() == [True, False, True, False]
    above = model.model.layers[len(model.model.layers) - 1].mlp.up_proj.weight
    assert above.grad is None or not above.grad.any()


def test_a_step_on_where_to_look_makes_it_look_there():
    recipe = recipe_of("ocr", looking=1.0, loudness=0.0, places=0.0, ctc=0.0)
    model, batch = Thinker(recipe.config.thinker_config).train(), recipe.batch(1)
    kept = {name: value for name, value in batch.items() if name not in ("samples", "skipped", "weight")}
    rates = torch.optim.AdamW(model.model.parameters(), 1e-3)
    missed = []
    for _ in range(8):
        looked = recipe.loss(model, kept, "main")[1]["looking"]
        rates.zero_grad()
        looked.backward()
        rates.step()
        missed.append(looked.item())
    assert missed[-1] < 0.7 * missed[0]


@pytest.mark.parametrize("how", ["compiled", "recomputed"])
def test_a_compiled_and_a_recomputed_decoder_are_told_the_same(how):
    recipe = recipe_of("ocr", looking=1.0, places=0.5, early=0.2, ctc=0.0)
    torch.manual_seed(0)
    model, batch = Thinker(recipe.config.thinker_config).train(), recipe.batch(0)
    kept = {name: value for name, value in batch.items() if name not in ("samples", "skipped", "weight")}
    expected, parts = recipe.loss(model, kept, "main")
    assert {"looking", "places", "early"} <= set(parts)
    expected.backward()
    steps = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    if how == "compiled":
        model.model.compile(backend="eager")
    else:
        for block in recipe.blocks(model):
            recompute_in_backward(block)
    loss, _ = recipe.loss(model, kept, "main")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, steps[name], rtol=1e-4, atol=1e-6)
