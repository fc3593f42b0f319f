"""Where attention is told to look: right places for things, letters and sounds, a right value, and the recipe."""

import math
from dataclasses import replace

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


def test_nothing_is_lost_where_the_weight_lies_on_any_of_the_places():
    scores = torch.zeros(4, 4)
    scores[3, 1] = 30.0
    segments = torch.ones(1, 4, dtype=torch.long)
    query, key = attending(scores)
    assert looking.looking_loss(query, key, segments, [(0, 3, mask(4, 1))]).item() == pytest.approx(0, abs=1e-5)
    assert looking.looking_loss(query, key, segments, [(0, 3, mask(4, 0, 1))]).item() == pytest.approx(0, abs=1e-5)
    assert looking.looking_loss(query, key, segments, [(0, 3, mask(4, 0, 2))]).item() > 25


def test_what_stands_later_or_in_another_segment_takes_no_weight():
    query, key = attending(torch.zeros(5, 5))
    segments = torch.tensor([[1, 2, 2, 2, 2]])
    loss = looking.looking_loss(query, key, segments, [(0, 3, mask(5, 1))])
    assert loss.item() == pytest.approx(math.log(3))  # of places 1 to 3, not of 0 and 4


def test_without_a_look_the_loss_is_nought_and_has_a_gradient():
    query, key = torch.ones(1, 1, 2, 4, requires_grad=True), torch.ones(1, 1, 2, 4, requires_grad=True)
    loss = looking.looking_loss(query, key, torch.ones(1, 2), [])
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


def test_a_word_looks_at_its_sound_through_the_word_before():
    placeholder, blank = 99, 0
    ids = torch.tensor([[1, 99, 99, 99, 99, 99, 99, 8, 11, 12, 2]])
    labels = torch.tensor([[-100] * 8 + [11, 12, 2]])
    spelled = torch.zeros(6, 20)
    for place, token in enumerate((11, 0, 0, 0, 0, 12)):
        spelled[place, token] = 9.0
    frames = torch.tensor([23])  # of mel, six tokens
    said = transcripts.join([[11, 12]])
    looks = looking.at_sounds(ids, labels, torch.ones_like(ids), placeholder, spelled, frames, said, blank)
    assert [(row, place, where.nonzero()[:, 0].tolist()) for row, place, where in looks] == [
        (0, 7, [1, 2]),
        (0, 8, [5, 6]),
    ]


def test_what_an_earlier_turn_answered_looks_at_no_sound_that_comes_later():
    placeholder, blank = 99, 0
    ids = torch.tensor([[8, 11, 12, 99, 99, 99, 99, 99, 99, 8, 11, 12]])
    labels = ids.masked_fill(~torch.isin(ids, torch.tensor([11, 12])), -100)
    spelled = torch.zeros(6, 20)
    spelled[0, 11] = spelled[5, 12] = 9.0
    frames, said = torch.tensor([23]), transcripts.join([[11, 12]])
    looks = looking.at_sounds(ids, labels, torch.ones_like(ids), placeholder, spelled, frames, said, blank)
    assert [place for _, place, _ in looks] == [9, 10], "behind the sound, not before it"


def test_sentences_told_in_another_order_than_heard_look_at_their_own_sound():
    recipe = recipe_of("who_said_what")
    placeholder = recipe.config.thinker_config.audio_token_index
    for index in range(20):
        sample = world.sample("who_said_what", "train", 1, index)
        encoded = recipe.encode(sample)
        batch = packing.pack([[encoded]], encoded["input_ids"].shape[1], 0)
        ids, labels, segments = (batch[name] for name in ("input_ids", "labels", "segment_ids"))
        words, frames = encoded["transcripts"], encoded["feature_attention_mask"].sum(1)
        spelled = torch.zeros(int((ids == placeholder).sum()), 10_000)
        spaced = torch.linspace(2, len(spelled) - 3, len(words[0])).long()  # each word at a place of its own
        spelled[:, 0] = 5.0  # between them nothing
        spelled[spaced, torch.tensor(words[0])] = 9.0
        looks = looking.at_sounds(ids, labels, segments, placeholder, spelled, frames, transcripts.join(words), 0)
        assert len(looks) == len(words[0]), sample.answer
        sounds = (ids[0] == placeholder).nonzero()[:, 0].tolist()
        for _, place, where in looks:
            heard = spelled[[sounds.index(at) for at in where.nonzero()[:, 0].tolist()]]
            assert heard[:, 1:].sum(0).argmax() + 1 == ids[0, place + 1]


def test_a_name_looks_at_the_tokens_that_say_it_and_so_does_what_is_about_to_name_it():
    recipe = recipe_of("picture_qa")
    model, batch = Thinker(recipe.config.thinker_config), recipe.batch(0)
    ids, labels, segments = batch["input_ids"], batch["labels"], batch["segment_ids"]
    placeholder = recipe.config.thinker_config.image_token_index
    some = naming.concept_ids()[:3]
    saying = [some[i % 3] for i in range(int((ids == placeholder).sum()))]
    names, _ = looking.names_at(model, ids, [(placeholder, model.model.embed_tokens.weight.detach()[saying])])
    assert names[ids == placeholder].tolist() == saying and (names[ids != placeholder] == -1).all()
    looks = looking.at_things(ids, labels, segments, names)
    asked = set()
    for row, place in (ids >= 0).nonzero().tolist():
        after = int(labels[row, place + 1]) if place + 1 < ids.shape[1] else -1
        name = int(ids[row, place]) if int(ids[row, place]) in naming.concept_ids() else after
        if name in some:
            asked.add((row, place))
            where = next(where for r, p, where in looks if (r, p) == (row, place))
            assert where.any() and (names[row][where] == name).all()
            assert (segments[row][where] == segments[row, place]).all() and int(where.nonzero().max()) < place
    assert {(row, place) for row, place, _ in looks} == asked


def test_numerals_behind_a_name_look_where_the_name_looks():
    name = naming.concept_ids()[0]
    told = [processor().tokenizer(sign)["input_ids"][0] for sign in (" ", "2", ",", "7", ",")]
    ids = torch.tensor([[9, 9, 9, 5, name, *told, 5]])
    names = torch.tensor([[-1, name, name] + [-1] * 8])
    looks = looking.at_things(ids, torch.full_like(ids, packing.IGNORED), torch.ones_like(ids), names)
    assert [(place, where.nonzero()[:, 0].tolist()) for _, place, where in looks] == [(i, [1, 2]) for i in (4, 5, 6, 7)]


def test_what_is_counted_is_looked_at_once_each_and_in_its_own_sample():
    name, two = naming.concept_ids()[0], processor().tokenizer(" two")["input_ids"][0]
    ids = torch.tensor([[7, 9, 9, 9, 7, 9, 9, 9, 9, name, two, name, 5]])
    segments = torch.tensor([[1] * 4 + [2] * 9])
    names = torch.tensor([[-1, name, name, -1, -1, name, name, -1, name] + [-1] * 4])
    ones = torch.tensor([[0, 9.0, 9, 0, 0, 3, 1, 9, 2] + [0] * 4])
    looks = looking.at_each(ids, segments, names, ones)
    assert [(row, place, where.nonzero()[:, 0].tolist()) for row, place, where in looks] == [(0, 9, [4, 5, 8])]
    assert not looking.at_each(ids, segments, names.masked_fill(mask(13, 5, 6), -1), ones)  # one is not two


def test_weight_is_divided_evenly_among_what_is_counted_and_nothing():
    segments, look = torch.ones(1, 4, dtype=torch.long), [(0, 3, mask(4, 0, 1, 2))]
    even, uneven = torch.zeros(4, 4), torch.zeros(4, 4)
    even[3, 3], uneven[3, 3], uneven[3, 1] = -40.0, -40.0, 2.0
    assert looking.counting_loss(*attending(even), segments, look).item() == pytest.approx(0, abs=1e-5)
    assert looking.counting_loss(*attending(uneven), segments, look).item() > 0.3
    assert looking.counting_loss(*attending(torch.zeros(4, 4)), segments, look).item() == pytest.approx(
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
    sample = {"input_ids": torch.zeros(1, 6), "looks": torch.tensor([[4, 1], [5, 2]])}
    other = {"input_ids": torch.zeros(1, 3)}
    assert looking.gather([[other], [other, sample]]).tolist() == [[1, 7, 4], [1, 8, 5]]


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
