"""model.json: what a revision's graph takes and gives, for whoever writes graphs and whoever runs them.

A graph is a function without state. For B sessions of up to Q new rows on top of up to P cached ones a causal language
model (`LanguageModelCard`) takes and gives

    input_ids, position_ids        int64 [B, Q]
    visible                        bool  [B, Q, P + Q]           which cached and new rows each row sees
    wanted                         int64 [W]                     rows b * Q + q whose logits are wanted
    past_key_i, past_value_i       float [B, P, kv_heads, dim]   of each layer i
    -> logits                      float [W, vocab_size]
       new_key_i, new_value_i      float [B, Q, kv_heads, dim]   of the new rows only

A feature head (`FeatureHeadCard`) takes besides, and gives besides, in front of the new keys and values

    hidden                         float [B, Q, width]           of the row before each row, see below
    -> new_hidden                  float [B, Q, width]           of each row

The row of the token at position p is told the target's state at position p - 1 (so both together are all that the
target's next token depends on), and its logits say what comes at p + 1. Where the target's features are known, `hidden`
is `fuse.onnx` of them; in a draft, where they are not, it is the head's own `new_hidden` of the row before.

    features                       float [N, len(feature_layers) * target_hidden_size]
    -> hidden                      float [N, width]

If the vocabulary is cut from the target's (`cut_vocabulary`), id i is the target's token vocabulary.bin[i], and the
input id vocab_size, which has no logit, is every token that is not in it.

A head that `borrows` can be told what such tokens are, by the target's embeddings of them, which are its layer 0.
Where an input id is above vocab_size, its embedding is looked for in `others`; and behind everything else comes what
has to be multiplied by embeddings to have logits of further tokens.

    others                         float [B, Q, width]
    -> normed                      float [W, width]
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from paceline.wire.revision import unusable

VERSION = 2
BORROWING_VERSION = 3  # of heads that borrow: those who know only 2 would give their graphs too little
QUANTIZATIONS = ("none", "int8")
MAX_FEATURE_LAYERS = 8
MAX_ROW_BYTES = 1 << 19  # 512 MiB of cache for a text of 1,024 tokens: more than any model is worth drafting with


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelCard:
    """A causal language model.

    Attributes:
        architecture: what people call it, e.g. transformers' class that it was made from.
        vocab_size: of its logits.
        max_length: positions it may be given.
        num_kv_heads, key_dim, value_dim: of each layer's keys and values.
        quantization: of its weights, one of QUANTIZATIONS.
        cut_vocabulary: its tokens are some of the target's; see above. Else it has a tokenizer of its own.
    """

    KIND: ClassVar[str] = "causal_lm"

    architecture: str
    vocab_size: int
    max_length: int
    num_layers: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    quantization: str
    cut_vocabulary: bool = False

    @property
    def row_bytes(self) -> int:
        """Keys and values of one row, float32."""
        return 4 * self.num_layers * self.num_kv_heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureHeadCard(LanguageModelCard):
    """A head on the target's hidden states. Its vocabulary is always cut from the target's.

    Attributes:
        width: of its hidden state.
        target_hidden_size: of the target.
        feature_layers: of the target, as in Hello; in the order in which they are put side by side.
        window: positions of the text, counted from its end, that it was trained to look at; 0 is all.
        borrows: it takes `others` and gives `normed`; see above. Its width is target_hidden_size.
    """

    KIND: ClassVar[str] = "feature_head"

    cut_vocabulary: bool = True
    width: int
    target_hidden_size: int
    feature_layers: tuple[int, ...]
    window: int = 0
    borrows: bool = False


KINDS: dict[str, type[LanguageModelCard]] = {kind.KIND: kind for kind in (LanguageModelCard, FeatureHeadCard)}

_LATER = {"borrows": False}  # fields that cards didn't have at first, and what they mean by that
_BOUNDS = {
    "vocab_size": 1 << 21,
    "max_length": 1 << 20,
    "num_layers": 256,
    "num_kv_heads": 256,
    "key_dim": 1024,
    "value_dim": 1024,
    "width": 1 << 15,
    "target_hidden_size": 1 << 15,
}
MAX_WINDOW = 1 << 20


def parse_card(content: bytes) -> LanguageModelCard:
    """Raises UNUSABLE_REVISION."""
    try:
        document = {**_LATER, **json.loads(content)}
        version = document["version"]
        if version not in (VERSION, BORROWING_VERSION) or (version == BORROWING_VERSION) != bool(document["borrows"]):
            raise unusable("model.json version", str(version)[:20], f"{VERSION}; make it with this release")
        if document["kind"] not in KINDS:
            raise unusable("model.json kind", repr(document["kind"])[:80], f"one of {', '.join(KINDS)}")
        kind = KINDS[document["kind"]]
        card = kind(**{field.name: _typed(document, field.name, str(field.type)) for field in fields(kind)})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise unusable(
            "model.json", f"no description of a model ({type(error).__name__})", "one; make it again"
        ) from error
    _check(card)
    return card


def _check(card: LanguageModelCard) -> None:
    for name, limit in _BOUNDS.items():
        if not 1 <= getattr(card, name, 1) <= limit:
            raise unusable(name, getattr(card, name), f"from 1 to {limit}")
    if card.row_bytes > MAX_ROW_BYTES:
        raise unusable("model.json", f"of {card.row_bytes} bytes a cached row", f"of at most {MAX_ROW_BYTES}")
    if card.quantization not in QUANTIZATIONS:
        raise unusable("quantization", card.quantization[:80], f"one of {', '.join(QUANTIZATIONS)}")
    if isinstance(card, FeatureHeadCard):
        layers = card.feature_layers
        if not (
            1 <= len(layers) <= MAX_FEATURE_LAYERS and all(0 <= layer <= _BOUNDS["num_layers"] for layer in layers)
        ):
            raise unusable("feature_layers", str(layers)[:80], f"1 to {MAX_FEATURE_LAYERS} layers of a target")
        if not card.cut_vocabulary or not 0 <= card.window <= MAX_WINDOW:
            raise unusable("window or cut_vocabulary", "not that of a feature head", f"0 to {MAX_WINDOW}, and true")
        if card.borrows and card.width != card.target_hidden_size:
            raise unusable("width", card.width, f"the target's {card.target_hidden_size} for a head that borrows")


def _typed(document: dict[str, Any], name: str, kind: str) -> Any:
    value = document[name]
    if kind == "tuple[int, ...]":
        if type(value) is not list or any(type(item) is not int for item in value):
            raise TypeError(name)
        return tuple(value)
    if type(value).__name__ != kind:  # annotations are strings here; and True is no number
        raise TypeError(name)
    return value


def card_json(card: LanguageModelCard) -> bytes:
    """The inverse of `parse_card`."""
    borrows = isinstance(card, FeatureHeadCard) and card.borrows
    document = {"version": BORROWING_VERSION if borrows else VERSION, "kind": card.KIND, **asdict(card)}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
