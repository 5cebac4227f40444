"""What all decoder families share: the fields of their configs, under Llama's names."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .fields import Fields
from .rope import MAX_POSITIONS, RopeSpec, read_rope
from .spec import HF_MODULES, Attention, FeedForward, Layer, ModelSpec, Names, Norm

__all__ = [
    "alternating", "change_attention", "modules", "read_activation", "read_decoder", "read_kinds", "scale_residuals",
]  # fmt: skip

# Bounds far above any real model, low enough that no product of two of them overflows an int64.
MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM, MAX_WIDTH, MAX_VOCAB = 4096, 1024, 1024, 1 << 20, 1 << 24

# The names that configs have for activations -> ours (`kernels/ops.py`).
ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh", "relu": "relu",
    "relu2": "relu2", "quick_gelu": "quick_gelu",
}  # fmt: skip

FULL, SLIDING = "full_attention", "sliding_attention"
Options = Mapping[str, Any]
Windows = Callable[[Fields, int], tuple[int | None, ...]]


def read_decoder(
    fields: Fields,
    family: str,
    *,
    norm: Norm | None = None,
    eps: str = "rms_norm_eps",
    activation: str = "silu",
    rope: Options | None = None,
    windows: Windows | None = None,
    attention: Options | None = None,
    feed_forward: Options | None = None,
    ffn: int | None = None,
    tied: bool = False,
    **model: Any,
) -> ModelSpec:
    """The spec of a decoder with Llama's field names.

    norm: its kind; `eps` names the field with its epsilon.  activation, ffn (0: as in the config), tied: the family's
    defaults.  rope: options of `read_ropes`; None for no rotary positions.  windows: reads the window of each layer
    (default: none).  attention, feed_forward: options of `Attention` and `FeedForward`, alike in all layers.  model:
    those of `ModelSpec`.  Raises ConfigError or UnsupportedModelError.
    """
    fields.refuse_quantized()
    hidden = fields.integer("hidden_size", 1, MAX_WIDTH)
    layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    kv_heads = fields.integer("num_key_value_heads", 1, MAX_HEADS, default=heads)
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"a divisor of num_attention_heads, {heads}")
    head_dim = _head_dim(fields, hidden, heads, rotary=rope is not None)
    context = fields.integer("max_position_embeddings", 1, MAX_POSITIONS)
    far, near = None, None
    if rope is not None:
        far, near, context = read_ropes(fields, head_dim, context, **rope)
    seen = windows(fields, layers) if windows else (None,) * layers
    mixer = Attention(heads, kv_heads, head_dim, **(attention or {}))
    width = fields.integer("intermediate_size", 1, MAX_WIDTH, default=ffn)
    following = FeedForward(width, read_activation(fields, activation), **(feed_forward or {}))
    low = fields.number(eps, low=1e-30, high=1.0, default=(norm or Norm()).eps)
    return ModelSpec(
        family=family,
        vocab=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden=hidden,
        layers=tuple(Layer(replace(mixer, window=w, rope=near if w else far), following) for w in seen),
        context=context,
        norm=replace(norm or Norm(), eps=low),
        tied=fields.flag("tie_word_embeddings", default=tied),
        **model,
    )


def read_ropes(
    fields: Fields, head_dim: int, context: int, *, paired: bool = False, everywhere: bool = True,
    local: Options | None = None, **options: Any,
) -> tuple[RopeSpec | None, RopeSpec, int]:  # fmt: skip
    """The rotary positions of layers without a window and of those with one, and the context they are good for.

    paired: as of `RopeSpec`.  everywhere: layers without a window have some.  local: options of `read_rope` for layers
    with a window, which `rope_scaling` does not stretch; `base`: the field with their base.  options: of `read_rope`.
    """
    far, context = read_rope(fields, head_dim, context, **options)
    near = far
    if local is not None:
        rest = {name: value for name, value in local.items() if name != "base"}
        own = fields.renamed(rope_theta=local["base"]) if "base" in local else fields
        near, _ = read_rope(own.without("rope_scaling"), head_dim, context, **rest)
    far, near = (replace(rope, paired=paired) for rope in (far, near))
    return far if everywhere else None, near, context


def read_activation(fields: Fields, default: str, name: str = "hidden_act") -> str:
    """The activation that a config names, as the program calls it."""
    found = fields.text(name, default=default)
    if found not in ACTIVATIONS:
        raise fields.unsupported(name, ", ".join(ACTIVATIONS))
    return ACTIVATIONS[found]


def read_kinds(fields: Fields, layers: int, every: int) -> list[str]:
    """Each layer's type: `layer_types`, or else every so-and-so-many-th is full attention, and the others sliding."""
    if not fields.has("layer_types"):
        return [SLIDING if every and (i + 1) % every else FULL for i in range(layers)]
    kinds = fields.texts("layer_types", layers)
    if not set(kinds) <= {FULL, SLIDING}:
        raise fields.unsupported("layer_types", f"{FULL}, {SLIDING}")
    return kinds


def windows_of(fields: Fields, kinds: list[str], default: int | None = None) -> tuple[int | None, ...]:
    """The window of each layer: `sliding_window` on those of sliding attention."""
    if SLIDING not in kinds:
        return (None,) * len(kinds)
    window = fields.integer("sliding_window", 1, MAX_POSITIONS, default=default)
    return tuple(window if kind == SLIDING else None for kind in kinds)


def alternating(every: int, field: str | None = None) -> Windows:
    """Windows as `layer_types` says, or else on all layers but every n-th: n is `every`, or what `field` says."""

    def windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
        step = fields.integer(field, 1, MAX_LAYERS, default=every) if field else every
        return windows_of(fields, read_kinds(fields, layers, step), 4096)

    return windows


def change_attention(spec: ModelSpec, change: Callable[[int, Attention], Attention]) -> ModelSpec:
    """The spec with the attention of each layer changed."""
    layers = [
        replace(layer, mixer=change(i, layer.mixer)) if isinstance(layer.mixer, Attention) else layer
        for i, layer in enumerate(spec.layers)
    ]
    return replace(spec, layers=tuple(layers))


def scale_residuals(spec: ModelSpec, scale: float) -> ModelSpec:
    """The spec of a model that adds `scale` times what a mixer or a feed-forward says.

    All activations x are kept as x / scale: norms do not notice but for their epsilon, so nothing is to be computed.
    """
    norm = replace(spec.norm, eps=spec.norm.eps / scale**2)
    return replace(spec, norm=norm, embed_scale=spec.embed_scale / scale, residual_scale=scale)


def modules(prefix: str = "model.layers.{layer}.", **names: str) -> Names:
    """Names with a family's own modules; those of a layer (all but embed, embed_norm, final_norm, head and positions)
    follow the prefix."""
    outer = {"embed", "embed_norm", "final_norm", "head", "positions", "project_in", "project_out"}
    own = {part: name if part in outer else prefix + name for part, name in names.items()}
    return Names({**HF_MODULES, **own})


def _head_dim(fields: Fields, hidden: int, heads: int, rotary: bool) -> int:
    """The head size; hidden/heads when the config does not say. Even, where rotary embeddings turn pairs."""
    even = 2 if rotary else 1
    if fields.has("head_dim"):
        head_dim = fields.integer("head_dim", even, MAX_HEAD_DIM)
        if head_dim % even:
            raise fields.error("head_dim", "an even number")
        return head_dim
    if hidden % heads or (hidden // heads) % even or hidden // heads > MAX_HEAD_DIM:
        kind = "an even multiple" if rotary else "a multiple"
        raise fields.error(
            "hidden_size", f"{kind} of num_attention_heads, {heads}, and at most {MAX_HEAD_DIM} times it"
        )
    return hidden // heads
