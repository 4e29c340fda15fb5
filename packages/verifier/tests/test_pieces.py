"""Every token has the bytes it stands for, in all families of tokenizers."""

from __future__ import annotations

from tiny_models import make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from paceline.verifier.model.tokenizer import TargetTokenizer

TEXT = 'Füchse 🦊 <b>&amp;</b>\n\tsay "hi"'


def test_the_pieces_of_a_text_make_its_bytes_and_special_tokens_give_their_names():
    tokenizer = TargetTokenizer(make_tokenizer())
    ids = tokenizer.tokenize(TEXT)
    assert b"".join(map(tokenizer.piece, ids)) == TEXT.encode()
    assert any(len(tokenizer.piece(token)) == 1 and tokenizer.piece(token)[0] >= 0x80 for token in ids)
    assert tokenizer.piece(make_tokenizer().eos_token_id) == b"<|eos|>"
    assert tokenizer.piece(len(make_tokenizer()) + 5) == b""
    assert tokenizer.pieces is tokenizer.pieces


def test_with_marks_for_spaces_and_bytes_by_their_numbers():
    words = {"<unk>": 0, "<s>": 1, "▁to": 2, "▁be": 3, "<0xC3>": 4, "<0xBC>": 5, "▁": 6}
    core = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.add_special_tokens(["<s>"])
    tokenizer = TargetTokenizer(PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>"))
    assert tokenizer.pieces == (b"<unk>", b"<s>", b" to", b" be", b"\xc3", b"\xbc", b" ")


def test_tokens_without_bytes_of_their_own_give_their_text():
    words = {"[UNK]": 0, "play": 1, "##ing": 2}
    core = Tokenizer(models.WordPiece(vocab=words, unk_token="[UNK]"))
    tokenizer = TargetTokenizer(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]"))
    assert tokenizer.pieces == (b"[UNK]", b"play", b"##ing")
