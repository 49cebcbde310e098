"""Times merge.py's merge beside peft's and a plain copy of the files, on a random model of 7B shape.

    python benchmarks/merge.py                                    28 layers, 15 GB in bfloat16
    python benchmarks/merge.py --layers 4 --only ours copy        a smaller one, without peft

docs/benchmarks.md says what each side does and how it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.measure import MIB, Used, say
from fabrictune.record import ROOT

# Qwen2.5-7B's shape.
SHAPE = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
SHARD = 5 * 10**9  # bytes of a file at most, as such a model is published
COLUMNS = ("side", "runs", "seconds, median", "least", "processor seconds", "peak MiB", "GB/s", "÷ copy", "peak ÷ peft")

OURS = """
import sys
from pathlib import Path
from fabrictune import log
from fabrictune.merge import merging
log.set_up()
base, adapter, target = map(Path, sys.argv[1:])
prepared = merging.prepare(base, adapter)
with merging.aside(target) as folder:
    merging.write(prepared, folder)
"""
PEFT = """
import os, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, target = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(target, max_shard_size="5GB")
AutoTokenizer.from_pretrained(base).save_pretrained(target)
os.sync()
"""
COPY = """
import os, shutil, sys
base, _, target = sys.argv[1:]
shutil.copytree(base, target)
os.sync()
"""
SIDES = {"ours": ("ours", OURS), "peft": ("peft, merge_and_unload", PEFT), "copy": ("plain copy", COPY)}


def write_base(folder: Path, layers: int, seed: int) -> int:
    """Writes a random model of so many layers in files of at most SHARD bytes; returns its weights' bytes."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder.mkdir()
    config = Qwen2Config(**SHAPE, num_hidden_layers=layers, architectures=["Qwen2ForCausalLM"])
    config.save_pretrained(folder)
    write_tokenizer(folder)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Qwen2ForCausalLM(config).state_dict().items()}
    drawn = torch.empty(1 << 24, dtype=torch.bfloat16).uniform_(
        -0.03, 0.03, generator=torch.Generator().manual_seed(seed)
    )  # over and over: to draw all of 15 GB takes minutes
    groups: list[list[str]] = [[]]
    held = 0
    for name, shape in shapes.items():
        if held + 2 * shape.numel() > SHARD and groups[-1]:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += 2 * shape.numel()
    placed = {}
    for number, names in enumerate(groups, start=1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        placed |= dict.fromkeys(names, file)
        tensors = {name: torch.empty(shapes[name], dtype=torch.bfloat16) for name in names}
        for tensor in tensors.values():
            for part in tensor.view(-1).split(len(drawn)):
                part.copy_(drawn[: len(part)])
        save_file(tensors, folder / file, {"format": "pt"})
        del tensors
    size = sum(2 * shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": size}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return size


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of a few bytes with a chat template: the sides copy it, and nobody uses it here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(vocab={"<|im_end|>": 0, "a": 1}, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] + '<|im_end|>' }}{% endfor %}"
    tokenizer.save_pretrained(folder)


def write_adapter(base: Path, folder: Path, rank: int, seed: int) -> None:
    """Writes a random adapter on every linear layer but the head, as training leaves it: float32, both matrices."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    from fabrictune.merge import shards

    generator = torch.Generator().manual_seed(seed)
    folder.mkdir()
    tensors = {}
    for name, tensor in shards.weights(base).items():
        if name.endswith("proj.weight"):
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            out, into = tensor.shape
            tensors[f"{layer}.lora_A.weight"] = torch.randn(rank, into, generator=generator) * 0.02
            tensors[f"{layer}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    targets = sorted({name.split(".")[-3] for name in tensors})
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    settings.save_pretrained(folder)


def run(side: str, base: Path, adapter: Path, folder: Path) -> Used:
    """One side in a process of its own, with the base not in memory yet; what it wrote is kept in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    for file in base.iterdir():
        forget(file)
    words = [sys.executable, "-c", SIDES[side][1], str(base), str(adapter), str(folder)]
    return measure.timed(words, folder.with_name(f"{side}.log"), {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})


def forget(file: Path) -> None:
    """Has the kernel drop what it keeps of the file in memory."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def differing(one: Path, other: Path) -> tuple[int, int]:
    """How many numbers of two models differ, and of how many."""
    from safetensors import safe_open

    from fabrictune.merge import shards

    found, total = 0, 0
    with ExitStack() as stack:
        opened = {
            (folder, file): stack.enter_context(safe_open(file, "pt"))
            for folder in (one, other)
            for file in shards.files(folder)
        }
        known = [shards.weights(folder) for folder in (one, other)]
        if known[0].keys() != known[1].keys():
            raise RuntimeError("the sides wrote other tensors")
        for name in known[0]:
            left, right = (
                opened[folder, own[name].file].get_tensor(name) for folder, own in zip((one, other), known, strict=True)
            )
            found += int((left != right).sum())
            total += left.numel()
    return found, total


def lines(runs: dict[str, list[Used]], size: int) -> Iterator[tuple[str, ...]]:
    """The table's lines; ratios are to the plain copy's median and to peft's peak, where they were run."""
    median = {side: statistics.median(used.seconds for used in own) for side, own in runs.items()}
    peak = {side: max(used.memory for used in own) for side, own in runs.items()}
    for side, own in runs.items():
        yield (
            SIDES[side][0],
            str(len(own)),
            f"{median[side]:.1f}",
            f"{min(used.seconds for used in own):.1f}",
            f"{statistics.median(used.cpu_seconds for used in own):.1f}",
            f"{peak[side] / MIB:,.0f}",
            f"{size / 1e9 / median[side]:.2f}",
            f"{median[side] / median['copy']:.2f}" if "copy" in median else "",
            f"{peak[side] / peak['peft']:.3f}" if "peft" in peak else "",
        )


def fitting_layers(wanted: int, scratch: Path, folders: int) -> int:
    """As many layers of those wanted as the disk takes so many folders of, with a tenth to spare."""
    hidden, wide, kept = SHAPE["hidden_size"], SHAPE["intermediate_size"], 512
    layer = 2 * hidden * (2 * hidden + 2 * kept + 3 * wide)
    ends = 4 * SHAPE["vocab_size"] * hidden
    room = shutil.disk_usage(scratch).free * 0.9 / folders
    most = int((room - ends) // layer)
    if most < 1:
        raise RuntimeError(f"{scratch} has no room for {folders} models of one layer; give --scratch=FOLDER")
    if most < wanted:
        say(f"the disk of {scratch} has room for {most} layers, not {wanted}: the model is smaller")
    return min(most, wanted)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--layers", type=int, default=28, help="of the model (28: 15 GB)")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), help="sides to run")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="keep ours and peft's models, and count what differs")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = _options(words)
    measure.warn_of_load()
    machine = measure.machine()
    with tempfile.TemporaryDirectory(prefix="fabrictune-merge-", dir=options.scratch) as made:
        scratch = Path(made)
        kept = {side: scratch / (side if options.compare and side != "copy" else "out") for side in options.only}
        layers = fitting_layers(options.layers, scratch, 1 + len(set(kept.values())))
        base, adapter = scratch / "base", scratch / "adapter"
        say(f"writing a model of {layers} layers")
        size = write_base(base, layers, options.seed)
        write_adapter(base, adapter, options.rank, options.seed)
        runs: dict[str, list[Used]] = {side: [] for side in options.only}
        for number in range(options.repeats):
            for side in options.only:
                used = run(side, base, adapter, kept[side])
                runs[side].append(used)
                say(
                    f"{SIDES[side][0]}, run {number + 1} of {options.repeats}: {used.seconds:.1f} s "
                    f"({used.cpu_seconds:.1f} s of processors), {used.memory / MIB:,.0f} MiB"
                )
        count = len(list(base.glob("*.safetensors")))
        about = f"{layers} layers, {size / 1e9:.1f} GB in {count} files, rank {options.rank}."
        parts = [f"{machine} {about}", measure.table(COLUMNS, lines(runs, size))]
        if options.compare and {"ours", "peft"} <= runs.keys():
            other, total = differing(kept["ours"], kept["peft"])
            parts.append(f"Of {total:,} numbers {other:,} differ between ours and peft's.")
    measure.report("benchmarks/merge.py", sys.argv[1:] if words is None else words, parts, options.markdown)


if __name__ == "__main__":
    main()
