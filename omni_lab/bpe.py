"""Byte-level BPE for captions: trained on them with `tokenizers`, so any language and any symbol has ids.

Ids: 0 pads, 1 starts a text, the last one ends it (CLIP finds the end of a text by that id).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from .errors import CheckpointError, InputError

PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from `captions` until there are `vocab_size` ids (or fewer, where the captions run out of pairs)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=[PAD, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes: nothing is ever unknown
        show_progress=False,
    )
    tokenizer.train_from_iterator((caption.lower() for caption in captions), trainer)
    tokenizer.add_special_tokens([END])  # added last, so its id is the highest
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """A saved tokenizer. Raises CheckpointError for a file that is none."""
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} is no tokenizer ({str(error).splitlines()[0]})") from error


def tokenize(tokenizer: Tokenizer, captions: Sequence[str], context_length: int) -> Tensor:
    """Lower-cased captions -> ids (captions, longest), int64: start, text, end, padding.

    A caption of more than `context_length` ids is cut and keeps its end. Raises InputError when there is no caption.
    """
    if not captions:
        raise InputError("there is no caption to tokenize")
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    rows = [[start, *e.ids[: context_length - 2], end] for e in tokenizer.encode_batch([c.lower() for c in captions])]
    longest = max(map(len, rows))
    return torch.tensor([row + [tokenizer.token_to_id(PAD)] * (longest - len(row)) for row in rows])
