"""What the field's harness asks of a model, answered as by hand."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from omni_lab.config import preset
from omni_lab.data.folders import samples_folder
from omni_lab.errors import OmniLabError
from omni_lab.evaluate import asking, harness
from omni_lab.omni import OmniModel
from omni_lab.processing.processor import OmniProcessor


@pytest.fixture(scope="module")
def scores():
    torch.manual_seed(5)
    torch.set_num_threads(1)
    model = OmniModel(replace(preset("nano"), enable_audio_output=False, speech_tokenizer_config=None)).eval()
    model.processor = OmniProcessor.from_pretrained(samples_folder() / "checkpoints" / "nano")
    return harness.TextScores(model)


def ask(*pairs):
    return [SimpleNamespace(args=pair) for pair in pairs]


def by_hand(scores, ids, start):
    with torch.no_grad():
        nats = scores.model.thinker(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(nats[i - 1, ids[i]]) for i in range(start, len(ids)))


def test_likelihoods_are_sums_over_the_continuation(scores):
    context, continuation = "The dog", " says woof."
    whole = scores.encode(context + continuation)
    start = len(scores.encode(context))
    found, spaced, empty = scores.loglikelihood(
        ask((context, continuation), (context + " ", continuation[1:]), ("", continuation))
    )
    assert found[0] == pytest.approx(by_hand(scores, whole, start), rel=1e-4) and found[1] is False
    assert spaced[0] == pytest.approx(found[0], rel=1e-5)
    expected = by_hand(scores, [scores.begin, *scores.encode(continuation)], 1)
    assert empty[0] == pytest.approx(expected, rel=1e-4)
    assert scores.loglikelihood_rolling(ask((continuation,)))[0] == pytest.approx(expected, rel=1e-4)


def test_the_most_likely_continuation_is_called_greedy(scores):
    ids = scores.encode("The dog")
    with torch.no_grad():
        first = int(scores.model.thinker(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    assert scores.score([*ids, first], len(ids))[1] is True
    assert scores.score([*ids, first ^ 1], len(ids))[1] is False


def test_generation_ends_at_the_first_stop_string(scores):
    (whole,) = scores.generate_until(ask(("The dog", {"until": [], "max_gen_toks": 8})))
    assert whole
    middle = whole[len(whole) // 2]
    (cut,) = scores.generate_until(ask(("The dog", {"until": [middle, "never there"], "max_gen_toks": 8})))
    assert cut == whole[: whole.find(middle)]
    chat = scores.apply_chat_template([{"role": "user", "content": "hello"}])
    assert chat.endswith("<|im_start|>assistant\n") and "hello" in chat
    begun = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "The best answer is"}]
    assert scores.apply_chat_template(begun, add_generation_prompt=False).endswith("assistant\nThe best answer is")


def test_without_a_limit_of_the_task_s_own_the_harness_s_is_taken(scores, monkeypatch):
    asked = []
    monkeypatch.setattr(
        scores.model.thinker, "generate", lambda longest, **_: asked.append(longest) or torch.tensor([[1]])
    )
    for made in (scores, harness.TextScores(scores.model, "5")):
        made.generate_until(ask(("The dog", {})))
    assert asked == [256, 5]


def test_a_reply_in_a_batch_is_the_reply_alone(scores, monkeypatch):
    """A row that has ended waits for the longer ones, and nothing of the waiting is in its text."""
    model, samples = scores.model, asking.items("text_qa", 3, 0)
    ids = [scores.encode(reply) for reply in asking.ask(model, samples, longest=6)]
    monkeypatch.setattr(model, "stop_ids", lambda: [ids[0][2]])
    together = asking.ask(model, samples, longest=6)
    assert together == [asking.ask(model, [sample], longest=6)[0] for sample in samples]
    assert asking.before_stop(torch.tensor([5, 6, 7, 0, 0]), [9, 7]).tolist() == [5, 6]


def test_without_the_harness_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(OmniLabError, match=r"pip install 'omni-lab\[bench\]'"):
        harness.harness_class()
    with pytest.raises(SystemExit, match="the harness is not installed"):
        harness.main()
