"""The sampler ends a thought when its budget is spent, and only then."""

from dataclasses import replace

import pytest
import torch

from omni_lab.config import preset
from omni_lab.data.folders import samples_folder
from omni_lab.evaluate import thinking
from omni_lab.omni import OmniModel
from omni_lab.processing.processor import OmniProcessor


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    torch.set_num_threads(1)
    model = OmniModel(replace(preset("nano"), enable_audio_output=False, speech_tokenizer_config=None)).eval()
    model.processor = OmniProcessor.from_pretrained(samples_folder() / "checkpoints" / "nano")
    return model


def tag(model, text):
    return model.processor.tokenizer.convert_tokens_to_ids(text)


def test_only_rows_over_budget_are_forced():
    logits = torch.randn(3, 7)
    out = thinking.end_thought(logits, torch.tensor([-1, 3, 4]), 4, end_id=5)
    assert torch.equal(out[:2], logits[:2]) and out[2].argmax() == 5 and out[2].isinf().sum() == 6


@pytest.mark.parametrize("budget", [0, 3])
def test_a_thought_without_end_is_ended(model, budget, monkeypatch):
    (question,) = thinking.sums(1)
    calls = []

    def begins_to_think(logits, spent, budget, end_id):
        calls.append(int(spent))
        if len(calls) == 1:
            forced = torch.zeros_like(logits)
            forced[:, tag(model, thinking.BEGIN)] = 1
            return forced
        return ended(logits, spent, budget, end_id)

    ended = thinking.end_thought
    monkeypatch.setattr(thinking, "end_thought", begins_to_think)
    text, thought = thinking.reply(model, question, budget, longest=6)
    inside = text.split(thinking.BEGIN, 1)[1].split(thinking.END, 1)[0]
    assert thought == budget and thinking.END in text and bool(inside) == bool(budget)
    assert calls[: budget + 2] == [-1, *range(budget + 1)]


def test_the_curve_asks_the_same_questions_at_every_budget(model):
    points = thinking.curve(model, (0, 2), items=2)
    assert [p["budget"] for p in points] == [0, 2] and all(0 <= p["accuracy"] <= 1 for p in points)
    questions = thinking.sums(2)
    assert questions[0].messages == thinking.sums(1)[0].messages
    assert all(q.answer.startswith(thinking.BEGIN) for q in questions)
    a_sum = questions[0].answer.split(thinking.END)[0].split("= ")[-1].rstrip(".")
    assert thinking.final_answer(questions[0].answer) == a_sum
