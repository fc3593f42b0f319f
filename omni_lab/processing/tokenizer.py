"""The nano tokenizer (byte-level BPE in the form of Qwen2's) and the processor files of the nano checkpoint."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import checkpoints
from ..config import NANO_FIRST_SPECIAL, NANO_SPECIAL_TOKENS
from ..errors import DataError
from .chat import CHAT_TEMPLATE
from .image import CLIP_MEAN, CLIP_STD
from .thoughts import BEGIN, END

# What the reference's processor looks up by name; the rest of NANO_SPECIAL_TOKENS are plain additions.
NAMED_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
SHOWN = ("user", BEGIN, END)  # what decoding keeps: a word, and the tags by which a thought is told from its answer
PIXELS = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
NANO_PICTURE = {"shortest_edge": 56 * 56, "longest_edge": 448 * 448}  # pixels: 4 to 256 tokens
NANO_FRAME = {"shortest_edge": 56 * 56, "longest_edge": 224 * 224}  # pixels of a video's frame


def train_bpe(texts: Iterable[str], vocab_size: int) -> tuple[dict[str, int], list[Any]]:
    """Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) with the Qwen2 pre-tokenizer.

    texts: the corpus; vocab_size: 256 bytes and the merges. Returns the vocabulary and the merges, in order.
    Raises DataError when the corpus has too few different words for so many merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    backend = Qwen2Tokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator((without_special_words(text) for text in texts), trainer)
    model = json.loads(learner.to_str())["model"]
    if len(model["vocab"]) != vocab_size:
        raise DataError(f"the corpus gives {len(model['vocab'])} tokens, {vocab_size} are needed: add text")
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def without_special_words(text: str) -> str:
    """`text` without words that are special tokens ("user"): merged too, they would have two ids."""
    for word in NANO_SPECIAL_TOKENS:
        text = text.replace(word, " ")
    return text


def nano_tokenizer(texts: Iterable[str]) -> Any:
    """A Qwen2Tokenizer trained on `texts`, with NANO_SPECIAL_TOKENS at their ids and the chat template."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    vocab, merges = train_bpe(texts, NANO_FIRST_SPECIAL)
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)  # which adds <|endoftext|>, the first of ours, by itself
    for token in NANO_SPECIAL_TOKENS:
        # "user" is a word, so it counts only when it stands alone
        hidden, word = token not in SHOWN, token == "user"
        tokenizer.add_tokens([AddedToken(token, special=hidden, single_word=word, normalized=False)])
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", CHAT_TEMPLATE
    return tokenizer


def write_processor(folder: str | Path, texts: Iterable[str]) -> Any:
    """Train the nano tokenizer and write it and the processor files to `folder`, for both libraries.

    Returns the tokenizer. Raises DataError when the corpus is too small."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = nano_tokenizer(texts)
    backend = tokenizer.backend_tokenizer
    with checkpoints.replacing(folder / "tokenizer.json") as temporary:
        backend.save(str(temporary), pretty=False)
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = {
        str(NANO_FIRST_SPECIAL + i): {"content": token, **special, "special": token not in SHOWN,
                                      "single_word": token == "user"}
        for i, token in enumerate(NANO_SPECIAL_TOKENS)
    }  # fmt: skip
    checkpoints.write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "added_tokens_decoder": added,
            "extra_special_tokens": NAMED_TOKENS,
            **NAMED_TOKENS,
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "bos_token": None,
            "add_prefix_space": False,
            "model_max_length": 8192,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    checkpoints.write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    checkpoints.write_json(folder / "preprocessor_config.json", preprocessor_settings())
    # The reference's video processor takes its sizes from the call or its class, never from a file: this key is ours.
    checkpoints.write_json(
        folder / "processor_config.json",
        {"processor_class": "Qwen2_5OmniProcessor", "videos_kwargs": {**PIXELS, "size": NANO_FRAME}},
    )
    return tokenizer


def preprocessor_settings() -> dict[str, Any]:
    """The content of the nano `preprocessor_config.json`: pictures and sound in one, as the released ones have it."""
    return {
        **PIXELS,
        "size": NANO_PICTURE,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5OmniProcessor",
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 128,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 300,
        "n_samples": 4800000,
        "nb_max_frames": 30000,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": True,
        "dither": 0.0,
    }
