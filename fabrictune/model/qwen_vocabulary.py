"""Qwen 1's vocabulary, a file of tiktoken ranks, as a fast tokenizer of transformers that speaks ChatML."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

RANK_FILE = "qwen.tiktoken"
RANKS = 151_643
END, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = (PAD, "<|im_start|>", END, *(f"<|extra_{i}|>" for i in range(205)))
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# A chat without a system message gets the one that Qwen's own `chat` and swift's `qwen` template have by default.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZE = RANKS + len(SPECIAL_TOKENS)


def id_of(token: str) -> int:
    """The id of a special token."""
    return RANKS + SPECIAL_TOKENS.index(token)


def tokenizer(folder: Path, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer of the model published in the folder; `max_length` is how many tokens the model can read.

    Raises ValueError if the rank file is not Qwen 1's, FileNotFoundError if it is not there.
    """
    made = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(_ranks(folder / RANK_FILE)),
        eos_token=END,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def _ranks(file: Path) -> dict[bytes, int]:
    """The rank of each token: its id, and how early tiktoken merges it.

    tiktoken's own reader is not used: it keeps what it has once read from a path in /tmp, whatever lies there later.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there; Qwen 1's tokenizer is made of it")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:  # binascii's is one
            raise ValueError(f"{file}:{number}: not a token and its rank; fetch the file again") from error
    if sorted(ranks.values()) != list(range(RANKS)):
        raise ValueError(f"{file}: not the ranks 0 to {RANKS - 1}, each once, but {len(ranks)}; fetch the file again")
    return ranks


def _tokenizer(ranks: Mapping[bytes, int]) -> Tokenizer:
    """The byte-level BPE with the ids that tiktoken gives any text.

    transformers' TikTokenConverter gives the same ids from every way to split a token, 294,166 merges in 18.7 MB; the
    one way that BPE itself goes is 151,387 merges in 11.5 MB, as in the tokenizers of Qwen's later models.
    """
    letters = bytes_to_unicode()
    words = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [(words[left], words[right]) for left, right in _merges(ranks)]
    tokenizer = Tokenizer(BPE({words[token]: rank for token, rank in ranks.items()}, merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    # Qwen 1 looks for special tokens in the normalised text, where a '>' may have become one letter with what follows.
    tokenizer.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def _merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The two halves of which BPE makes each token of several bytes, in the order of the tokens' ranks."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = zip(parts, parts[1:], strict=False)
            lowest, at = min((ranks.get(left + right, rank), i) for i, (left, right) in enumerate(pairs))
            if lowest >= rank:
                raise ValueError(f"{RANK_FILE}: no tokens of lower rank make up token {rank}; fetch the file again")
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]
