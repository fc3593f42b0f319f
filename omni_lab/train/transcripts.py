"""CTC beside the answer's loss: the encoder's own tokens must spell what was said (Graves et al. 2006; joined with an
attention decoder by Watanabe et al. 2017).

Next-token loss alone leaves it to the decoder to find out which stretch of sound belongs to which word, and on little
data it long finds nothing. CTC tells the encoder at once, in order and without an alignment. Notable: the classifier
is the language model's own head behind its own last norm, so that a sound's token comes to lie where the word lies
that is heard in it; nothing is added to the model.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.sample import Sample
from ..encoders.audio import token_count

NOTHING = -100  # fills transcripts up to the longest
LETTERS = "abcdefghijklmnopqrstuvwxyz' "  # of a transcript by letters, as ids 1 to 28; 0 is CTC's blank


def spell(text: str) -> list[int]:
    """A sentence by letters: its letters, apostrophes and single spaces, as ids from 1 on."""
    kept = "".join(c if c in LETTERS else " " for c in text.lower())
    return [LETTERS.index(c) + 1 for c in " ".join(kept.split())]


def words_said(sample: Sample) -> str | None:
    """What an encoder is to spell of a sample's one sound, or None where it is neither speech nor music.

    Music says what its answer says of it: a window of two seconds has the first chord, the period and what stands on
    the third beat. Of two people who take turns each phrase is a sentence, in the order in which they are heard."""
    if sample.task == "who_said_what":
        turns = ("left", "right") if sample.meta["first"] == "left" else ("right", "left")
        return "".join(f" {sample.meta[side]}." for side in turns)  # behind a space, as the reply writes them
    if sample.task in ("asr", "asr_recorded", "music"):
        return sample.answer
    return sample.meta.get({"speech_translation": "english", "spoken_qa": "question"}.get(sample.task, ""))


def join(transcripts: list[list[int]]) -> Tensor:
    """Token ids of each clip's words, none for a clip without: (clips, longest), filled with NOTHING."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in transcripts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NOTHING)


def ctc_loss(thinker: Any, sound: Tensor, frames: Tensor, transcripts: Tensor, blank: int) -> Tensor:
    """Nats a word token that the encoder's tokens need to spell the transcripts: a scalar, 0 where nothing is said.

    sound: (tokens, hidden_size), what the encoder made of all clips, one after another; frames: (clips,) mel frames;
    transcripts: (clips, longest). Clips with fewer sound tokens than words count nothing.
    """
    return spelling_loss(thinker.lm_head(thinker.model.norm(sound)), token_count(frames), transcripts, blank)


def spelling_loss(logits: Tensor, counts: Tensor, targets: Tensor, blank: int) -> Tensor:
    """CTC in nats a symbol: logits (places of all clips, symbols), counts (clips,) places of each, targets
    (clips, longest) filled with NOTHING. A scalar; clips without symbols, or with more than places, count nothing."""
    sizes = (targets != NOTHING).sum(1)
    chosen = ((sizes > 0) & (sizes <= counts)).nonzero()[:, 0].tolist()
    if not chosen:
        return logits.sum() * 0.0
    first, counts = (counts.cumsum(0) - counts)[chosen], counts[chosen]
    # One lookup for all clips: of clips cut out one by one, each would have a gradient as long as all of them.
    places = torch.minimum(torch.arange(int(counts.max()), device=counts.device)[:, None], counts - 1) + first
    spelled = F.embedding(places, logits.float().log_softmax(-1))  # (longest clip, chosen, symbols)
    wanted = targets[chosen].clamp_min(0)
    loss = F.ctc_loss(spelled, wanted, counts, sizes[chosen], blank, "sum", zero_infinity=True)
    return loss / sizes[chosen].sum()
