"""Words said wrong on hard sentences: what is counted, what is compared, and that the talker of before is that."""

import torch
from safetensors.torch import save_file

from benchmarks import hard_sentences as benchmark
from omni_lab.data.folders import samples_folder
from omni_lab.evaluate import dpo_change
from omni_lab.omni import OmniModel


def test_words_replaced_left_out_and_put_in_are_counted_for_each_sentence():
    texts = ["the red fox runs", "a bell rang twice", "he saw it"]
    heard = ["the red box runs", "a bell twice", "he saw it it again"]
    assert benchmark.words_wrong(texts, heard) == [1, 1, 2]


def test_a_difference_is_in_pairs():
    """Sentences that are as hard for both say nothing about which is better."""
    first = [0, 3, 9, 1]
    assert benchmark.difference(first, first) == (0, 0.0)
    assert benchmark.difference([each - 1 for each in first], first) == (-4, 0.0)
    more, error = benchmark.difference([1, 3, 9, 1], first)
    assert more == 1 and abs(error - 1.0) < 1e-9  # one in four: 0.5 apart, the square root of 4 times


def test_talkers_are_before_dpo_as_shipped_and_as_training_left_them(tmp_path):
    folder = samples_folder() / "checkpoints" / "nano"
    own = OmniModel.from_pretrained(folder, "cpu", torch.float32).talker.state_dict()
    name = next(iter(dpo_change.read(folder / dpo_change.FILE)))
    save_file({key: (weight + 0.001).contiguous() for key, weight in own.items()}, tmp_path / "other.safetensors")
    found = benchmark.talkers(folder, own, [f"other={tmp_path}/other.safetensors"])
    assert list(found) == ["before", "the checkpoint", "other"]
    assert found["the checkpoint"] is own and not torch.equal(found["before"][name], own[name])
    assert torch.equal(found["other"][name], (own[name] + 0.001).bfloat16().float())
    assert benchmark.lines(3) == benchmark.lines(4)[:3]
