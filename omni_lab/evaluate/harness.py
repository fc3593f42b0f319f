"""Our model in the field's own harness: `lm-eval`, which then knows it by the name omni_lab.

    python -m omni_lab.evaluate.harness run --model omni_lab --model_args checkpoint=runs/nano --tasks arc_easy

is the harness's own command line. The harness asks three things: how likely a continuation is, how likely a whole text
is, and what follows a prompt. `TextScores` answers them and needs no harness, so that it can be tested without;
`harness_class` makes it one of the harness's own models. `python -m benchmarks.lm_eval_harness` shows that what the
harness counts is what `omni-lab eval` counts. An exported checkpoint can also be served by another engine and asked
through the harness's `local-chat-completions`.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OmniLabError

LONGEST = 256  # tokens of a generation where the task sets no limit, as the harness's own models take


class TextScores:
    """Log-likelihoods and generations of an OmniModel's thinker, in the form in which the harness asks for them.

    Every request has `args`: (context, continuation), (text,) or (context, settings).
    """

    def __init__(self, model: Any, max_gen_toks: int = LONGEST) -> None:
        """max_gen_toks: tokens of a generation where the task sets no limit."""
        self.model, self.longest = model, int(max_gen_toks)
        self.tokenizer = model.processor.tokenizer
        self.begin = self.tokenizer.convert_tokens_to_ids("<|endoftext|>")

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps its cache of prompts under."""
        return str(self.tokenizer.name_or_path)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """ChatML of a conversation in text; without a generation prompt its last message is to be gone on with."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without a beginning or an end."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Of each (context, continuation): the continuation's log-probability in nats, and whether it is greedy.

        An empty context is the token that ends a text. Both are encoded together, as the harness does, so that a word
        is not cut where they meet; spaces at the context's end belong to the word that follows.
        """
        answers = []
        for context, continuation in (request.args for request in requests):
            bare = context.rstrip()
            before = self.encode(bare)
            whole = self.encode(context + continuation)
            if not before:
                before, whole = [self.begin], [self.begin, *whole]
            answers.append(self.score(whole, min(len(before), len(whole) - 1)))
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Log-probability of each whole text, in nats."""
        return [self.score([self.begin, *self.encode(request.args[0])], 1)[0] for request in requests]

    @torch.inference_mode()
    def score(self, ids: list[int], start: int) -> tuple[float, bool]:
        """Log-probability of ids[start:] behind ids[:start], and whether each is the most likely."""
        row = torch.tensor([ids], device=self.model.device)
        logits: Tensor = self.model.thinker(input_ids=row, logits_to_keep=len(ids) - start + 1).logits[0, :-1].float()
        wanted = row[0, start:]
        nats = -F.cross_entropy(logits, wanted, reduction="sum")
        return float(nats), bool((logits.argmax(-1) == wanted).all())

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Greedy text behind each context, up to the first of its `until` strings."""
        replies = []
        for context, settings in (request.args for request in requests):
            until = settings.get("until") or []
            until = [until] if isinstance(until, str) else until
            ids = torch.tensor([self.encode(context)], device=self.model.device)
            new = self.model.thinker.generate(
                int(settings.get("max_gen_toks", self.longest)), stop_token_ids=self.model.stop_ids(), input_ids=ids
            )
            text = self.tokenizer.decode(new[0], skip_special_tokens=True)
            replies.append(text[: min([text.find(stop) for stop in until if stop in text], default=len(text))])
        return replies


@functools.cache
def harness_class() -> Any:
    """`TextScores` as a model class of `lm-eval`, registered there as "omni_lab".

    Raises OmniLabError when the harness is not installed.
    """
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        raise OmniLabError(f"the harness is not installed: `pip install 'omni-lab[bench]'` ({error})") from error
    from ..omni import OmniModel

    @register_model("omni_lab")
    class Harnessed(TextScores, LM):
        """Made from the harness's model arguments: `checkpoint` is a folder or hub id."""

        def __init__(
            self, checkpoint: str, device: str | None = None, max_gen_toks: int = LONGEST, **_: Any
        ) -> None:  # _: batch sizes
            LM.__init__(self)
            TextScores.__init__(self, OmniModel.from_pretrained(checkpoint, device=device), max_gen_toks)

    return Harnessed


def main() -> None:
    """The harness's command line, with our model among its own."""
    try:
        harness_class()
    except OmniLabError as error:
        sys.exit(str(error))
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
