"""Thinking budget: how right are answers when a model may think for so many tokens, and no more, before it answers?

The nano world's sums of three numbers are taught with their steps between <think> tags (data/texts.py). Here the
sampler ends the thought when its budget is spent, and the model must answer from what it has.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import decoding
from ..data import world
from ..data.sample import Sample
from ..errors import InputError
from ..processing.thoughts import BEGIN, END
from .asking import placed
from .metrics import same_answer


def end_thought(logits: Tensor, spent: Tensor, budget: int, end_id: int) -> Tensor:
    """Rows that have thought for `budget` tokens or more may only end the thought.

    logits: (batch, vocab); spent: (batch,) tokens since the thought began, -1 in rows that are not thinking.
    """
    only_end = torch.full_like(logits, -math.inf)
    only_end[:, end_id] = 0.0
    return torch.where((spent >= budget)[:, None], only_end, logits)


@torch.inference_mode()
def reply(model: Any, sample: Sample, budget: int, longest: int = 64) -> tuple[str, int]:
    """Greedy reply to one sample, thoughts and tags included, and the tokens that were thought.

    The thought may hold `budget` tokens between its tags, the whole reply `longest` beside them.
    """
    begin, end = (model.processor.tokenizer.convert_tokens_to_ids(tag) for tag in (BEGIN, END))
    thinker = model.thinker
    start = thinker.prefill(**placed(model.processor(messages=[sample.messages]), thinker.lm_head.weight))
    step = decoding.stepper(thinker.model, thinker.lm_head, start.cache)
    logits, stops = start.logits[:, -1], set(model.stop_ids())
    ids: list[int] = []
    spent = torch.full((1,), -1, device=logits.device)
    thought = 0
    while len(ids) < longest + thought:
        token = int(end_thought(logits, spent, budget, end).argmax())
        if token in stops:
            break
        ids.append(token)
        if token == end:
            spent.fill_(-1)
        elif token == begin:
            spent.fill_(thought)  # a second thought has what the first has left
        elif int(spent) >= 0:
            spent += 1
            thought += 1
        logits = step.logits(step(thinker.model.embed_tokens(torch.tensor([token], device=logits.device))))
    return model.processor.tokenizer.decode(ids), thought


def sums(count: int, seed: int = 0) -> list[Sample]:
    """The first `count` held-out questions that ask to think first."""
    found: list[Sample] = []
    for index in range(100 * count):
        sample = world.sample("text_chat", "test", seed, index)
        if sample.meta.get("kind") == "reasoning":
            found.append(sample)
        if len(found) == count:
            return found
    raise InputError(f"only {len(found)} of {count} sums among the held-out dialogues")


def final_answer(text: str) -> str:
    """What stands behind the thought."""
    return text.rpartition(END)[2].strip()


def curve(model: Any, budgets: Sequence[int], items: int = 100, seed: int = 0) -> list[dict[str, float]]:
    """For each budget: {"budget", "accuracy", "thought": mean tokens that were thought}, on the same questions."""
    questions, points = sums(items, seed), []
    for budget in budgets:
        replies = [reply(model, question, budget) for question in questions]
        right = [
            same_answer(final_answer(q.answer), final_answer(text))
            for q, (text, _) in zip(questions, replies, strict=True)
        ]
        thought = sum(tokens for _, tokens in replies) / items
        points.append({"budget": budget, "accuracy": sum(right) / items, "thought": thought})
    return points
