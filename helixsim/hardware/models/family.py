"""A family of models: how the layers of a ``model_type`` are made from its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from helixsim.hardware.models.config import Config
from helixsim.hardware.models.parts import Feed, FormatOf, Layers, Mixer, Part, layers_of

ENDS = ("hidden_size", "vocab_size", "max_position_embeddings")
"""Keys that every model needs."""

_MOST_LAYERS = 10_000
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")


@dataclass(frozen=True, slots=True)
class Family:
    """How the layers of a ``model_type`` are made.

    Parameters
    ----------
    attend, feed
        Make the attention and the feed-forward part of a layer.
    needs
        Keys without which the model is not understood, beside those of its ends.
    defaults
        Values of keys that are absent.
    is_tied
        Whether embedding and output head are one matrix where ``tie_word_embeddings`` is absent.
    notes
        What is approximated.
    count
        Returns the number of layers; None: ``num_hidden_layers``.
    """

    attend: Callable[[Config, Part], Mixer]
    feed: Callable[[Config, Part], Feed]
    needs: tuple[str, ...] = ("intermediate_size",)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_tied: bool = False
    notes: tuple[str, ...] = ()
    count: Callable[[Config], int] | None = None

    def require(self, config: Config, model_type: str) -> None:
        """Require the keys of this family, all that are missing at once."""
        sizes = _SIZES if self.count is None else _SIZES[1:]
        config.require((*sizes, *self.needs, *ENDS[1:]), f"a {model_type} model")

    def layers(self, config: Config, format_of: FormatOf) -> Layers:
        """Return the layers of a model."""
        count = self.count(config) if self.count else config.whole("num_hidden_layers")
        if count > _MOST_LAYERS:
            raise config.fault(("num_hidden_layers",), f"expected at most {_MOST_LAYERS} layers, got {count}")
        hidden = config.whole("hidden_size")
        parts = [Part(index, hidden, format_of) for index in range(count)]
        return layers_of([(self.attend(config, part), self.feed(config, part)) for part in parts])
