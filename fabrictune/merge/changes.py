"""What a LoRA adapter makes of a model's tensors: which of them change, and the numbers that come out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from fabrictune.merge import shards
from fabrictune.merge.adapters import CONFIG, DTYPES, Adapter
from fabrictune.merge.shards import Edit, Tensor

PREFIX = "base_model.model."  # of every name in an adapter: peft's model around the causal language model
# The parts of a layer's adapter, as peft names them.
PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)"
)
HEAD, EMBEDDINGS = "lm_head.weight", (".embed_tokens.weight", ".wte.weight")


@dataclass
class Change:
    """What becomes of a tensor W: `saved` takes its place, then scaling * B @ A is added, transposed if `turned`.

    With a `magnitude` m (DoRA) each row w of the sum becomes m w / |w|; to a bias scaling * B is added. All but
    `scaling` are names in the adapter.
    """

    saved: str | None = None
    a: str | None = None
    b: str | None = None
    magnitude: str | None = None
    scaling: float = 1.0
    turned: bool = False


def plan(adapter: Adapter, base: Path, tensors: Mapping[str, Tensor], tied: bool) -> dict[str, Change]:
    """What becomes of which of the base's tensors, by the name that the base has for it.

    `tensors` are those in the folder `base`; `tied` says that the head is the embedding, with a tensor of its own or
    without. Raises ValueError naming the first tensor of the adapter that does not fit, with both shapes, or that is
    not finite.
    """
    misfit = f"the adapter {adapter.path} does not fit the base {base}"
    changes: dict[str, Change] = {}
    found: dict[str, Tensor] = {}
    for name, shape in adapter.shapes.items():
        target, role = _place(name)
        known = _known(target, tensors, tied)
        if known is None:
            raise ValueError(f"{misfit}: {name} {shape} is for {target}, which the base does not have")
        if getattr(changes.setdefault(target, Change()), role):
            raise ValueError(f"{misfit}: it has {name} twice, under another name")
        setattr(changes[target], role, name)
        found[target] = known
    for target, change in changes.items():
        _complete(change, target, found[target], adapter, misfit)
    _require_all(adapter, changes, tensors, misfit)
    _require_finite(adapter)
    if tied:
        _join_tied(changes, adapter, base, tensors)
    return {found[target].name: change for target, change in changes.items()}


def edit(change: Change, tensor: Tensor, adapter: Adapter) -> Edit:
    """Changes rows of the tensor: computed in float32 and rounded once, to the tensor's dtype.

    It raises ValueError if a number is too large for that.
    """
    dtype = DTYPES[tensor.dtype]
    left, right = _factors(change, adapter)
    magnitude = adapter.whole(change.magnitude).flatten() if change.magnitude else None

    def apply(content: memoryview, start: int) -> None:
        stop = start + len(content) // tensor.row
        weight = torch.frombuffer(content, dtype=dtype).view(stop - start, -1)
        total = adapter.rows(change.saved, start, stop).view(stop - start, -1) if change.saved else weight.float()
        if left is not None:
            product = left[start:stop] @ right if right is not None else left[start:stop].clone()
            total = product.mul_(change.scaling).add_(total)
        if magnitude is not None:
            total = (magnitude[start:stop] / torch.linalg.norm(total, dim=1)).view(-1, 1) * total
        weight.copy_(total)
        if dtype == torch.float16 and not weight.isfinite().all():  # which ends at 65,504
            raise ValueError(
                f"{tensor.file}: merged, {tensor.name} has numbers too large for float16; convert the base to bfloat16 "
                "first"
            )

    return apply


def _factors(change: Change, adapter: Adapter) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The matrices whose product is added, before it is scaled; of a bias' there is only the first, a column."""
    if change.b is None:
        return None, None
    b = adapter.whole(change.b)
    if change.a is None:
        return b.view(-1, 1), None
    a = adapter.whole(change.a)
    return (a.T.contiguous(), b.T.contiguous()) if change.turned else (b, a)


def _place(name: str) -> tuple[str, str]:
    """The model's parameter that a tensor of an adapter changes, and which part of a Change it is."""
    plain = name.removeprefix(PREFIX)
    if not (part := PART.fullmatch(plain)):
        return plain.replace(".base_layer.", "."), "saved"
    role = {"lora_A": "a", "lora_embedding_A": "a", "lora_magnitude_vector": "magnitude"}
    module, kind = part["module"], part["part"].partition(".")[0]
    return f"{module}.{'bias' if part['part'].endswith('bias') else 'weight'}", role.get(kind, "b")


def _known(target: str, tensors: Mapping[str, Tensor], tied: bool) -> Tensor | None:
    """The base's tensor for a parameter of its model.

    A checkpoint of a model's body alone has no first part in its names, which transformers puts there as it loads it.
    The head of tied embeddings is the embedding.
    """
    known = tensors.get(target) or tensors.get(target.partition(".")[2])
    if known or not (tied and target == HEAD):
        return known
    return next((tensor for name, tensor in tensors.items() if _is_embedding(name)), None)


def _is_embedding(name: str) -> bool:
    return f".{name}".endswith(EMBEDDINGS)


def _complete(change: Change, target: str, tensor: Tensor, adapter: Adapter, misfit: str) -> None:
    """Finds the change's scaling and which way it lies. Raises ValueError if its parts do not fit the tensor."""
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{misfit}: the base's {tensor.name} is {tensor.dtype}, which is not {', '.join(DTYPES)}")
    is_bias = target.endswith(".bias")
    if not is_bias and (bool(change.a) != bool(change.b) or (change.magnitude and not change.b)):
        raise ValueError(f"{misfit}: of {_names(change)[0][1]} the other matrix is missing")
    shapes = {role: adapter.shapes[name] for role, name in _names(change)}
    rank = shapes["a"][0] if change.a else None
    ways = [_shapes(tensor.shape, rank, turned) for turned in (False, True)]
    fits = [all(way.get(role) == shape for role, shape in shapes.items()) for way in ways]
    if not any(fits):
        odd = next(name for role, name in _names(change) if shapes[role] != ways[0].get(role))
        raise ValueError(f"{misfit}: {odd} is {adapter.shapes[odd]}, the base's {tensor.name} {tensor.shape}")
    if change.a:
        is_embedding = change.a.endswith("lora_embedding_A")
        change.turned = is_embedding or (adapter.config.fan_in_fan_out if all(fits) else fits[1])
    if change.magnitude and change.turned:
        raise ValueError(f"{misfit}: {change.magnitude} is of no linear layer; use_dora can be merged for those alone")
    if change.b:
        change.scaling = _scaling(target.rpartition(".")[0], rank, adapter, misfit)


def _shapes(whole: tuple[int, ...], rank: int | None, turned: bool) -> dict[str, tuple[int, ...]]:
    """The shapes of a change's parts on a tensor of the shape `whole`."""
    if rank is None:  # a bias, or a tensor that is replaced
        return {"b": whole, "saved": whole}
    if len(whole) != 2:
        return {}
    rows, columns = whole
    into, out = (rows, columns) if turned else (columns, rows)
    return {"a": (rank, into), "b": (out, rank), "magnitude": (out,), "saved": whole}


def _names(change: Change) -> list[tuple[str, str]]:
    found = {"a": change.a, "b": change.b, "magnitude": change.magnitude, "saved": change.saved}
    return [(role, name) for role, name in found.items() if name]


def _scaling(module: str, rank: int | None, adapter: Adapter, misfit: str) -> float:
    """What the module's product is multiplied by; the patterns are matched by peft itself."""
    config = adapter.config
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    wanted = ranks.get(get_pattern_key(list(ranks), module), config.r)
    alpha = alphas.get(get_pattern_key(list(alphas), module), config.lora_alpha)
    if rank not in (None, wanted):
        raise ValueError(f"{misfit}: its matrices for {module} have rank {rank}, its {CONFIG} says {wanted}")
    return float(alpha / math.sqrt(wanted) if config.use_rslora else alpha / wanted)


def _require_all(adapter: Adapter, changes: Mapping[str, Change], tensors: Mapping[str, Tensor], misfit: str) -> None:
    """Raises ValueError naming a layer of the base that the adapter's settings name and that its tensors pass over."""
    if adapter.config.target_modules is None:
        return
    done = {_known(target, tensors, tied=False) for target, change in changes.items() if change.b or change.saved}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        is_layer = kind == "weight" and len(tensor.shape) == 2
        if is_layer and tensor not in done and check_target_module_exists(adapter.config, module):
            raise ValueError(f"{misfit}: it has no matrices for {module}, which its target_modules name")


def _require_finite(adapter: Adapter) -> None:
    for name in adapter.shapes:
        if not all(block.isfinite().all() for block in _blocks(name, adapter)):
            raise ValueError(
                f"the adapter {adapter.path} is broken: {name} has NaN or infinite numbers; take an earlier "
                "checkpoint, or train anew with a lower train.learning_rate"
            )


def _blocks(name: str, adapter: Adapter) -> Iterator[torch.Tensor]:
    """An adapter's tensor a few rows at a time."""
    count, *rest = adapter.shapes[name]
    step = max(1, shards.PIECE // max(1, 4 * math.prod(rest)))
    return (adapter.rows(name, start, min(count, start + step)) for start in range(0, count, step))


def _join_tied(changes: dict[str, Change], adapter: Adapter, base: Path, tensors: Mapping[str, Tensor]) -> None:
    """Takes the head's change away where it is the embedding's, which is the same tensor.

    Raises ValueError if the two part: the merged model would need a tensor that the base does not have.
    """
    embedding = next((target for target in changes if _is_embedding(target)), None)
    if HEAD not in changes and embedding is None:
        return
    if HEAD not in changes or embedding is None or not _is_same(changes[HEAD], changes[embedding], adapter):
        alone = HEAD if embedding is None else embedding
        raise ValueError(
            f"the adapter {adapter.path} changes {alone} by itself, but in the base {base} the head and the embedding "
            f"are one tensor (tie_word_embeddings), and merged they could not stay so: train with peft's "
            f"ensure_weight_tying=True, leave both out, or untie the base first"
        )
    if HEAD not in tensors:
        del changes[HEAD]


def _is_same(head: Change, embedding: Change, adapter: Adapter) -> bool:
    """Whether both changes come to the same tensor: the embedding's matrices are the head's, turned."""
    if (bool(head.saved), bool(head.a), head.scaling) != (bool(embedding.saved), bool(embedding.a), embedding.scaling):
        return False
    if head.saved and embedding.saved:
        pairs = zip(_blocks(head.saved, adapter), _blocks(embedding.saved, adapter), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            return False
    if not (head.a and head.b and embedding.a and embedding.b):
        return True
    factors = [(head.a, embedding.b), (head.b, embedding.a)]
    return all(torch.equal(adapter.whole(one), adapter.whole(other).T) for one, other in factors)
