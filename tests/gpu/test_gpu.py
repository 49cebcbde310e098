"""What only a GPU can show; run with `pytest -m gpu` on a machine that has one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_run

from fabrictune.model import models
from fabrictune.model.encoding import Encoded
from fabrictune.train import accelerators, attention, loss, packing

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
ROOT = Path(__file__).resolve().parent.parent.parent


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(package not in accelerators.machine().packages, reason=f"needs {package}")


def sequence(*parts: tuple[int, int]) -> Encoded:
    """Random tokens, one part a (seed, length), with a loss on the last part."""
    ids = np.concatenate([np.random.default_rng(seed).integers(3, 250, length) for seed, length in parts])
    weights = np.zeros(len(ids), np.float32)
    weights[-parts[-1][1] :] = 1 + np.arange(parts[-1][1]) % 2
    return Encoded(ids.astype(np.int64), weights)


TREE = [sequence((0, 300), (seed, 50 * seed)) for seed in (1, 2, 3)] + [sequence((4, 90), (5, 7))]
FLAT = [sequence((seed, 40 * seed), (10 + seed, 9)) for seed in (1, 2, 3)]


def adapted(folder: Path, dtype: str, kind: str) -> torch.nn.Module:
    """The tiny model with an adapter whose halves are both random, so that all of its gradients count."""
    model = models.attach(models.load(folder, dtype, kind), rank=4, alpha=8, dropout=0.0, seed=1).cuda()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).cuda() * 0.1
    return model


def loss_and_gradients(model: torch.nn.Module, rows: list[packing.Row]) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    total = sum(loss.of_row(model, row).total for row in rows) / sum(float(row.weights.sum()) for row in rows)
    total.backward()
    return total.item(), torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("kind", [attention.NAME, "flex_attention", "sdpa"])
def test_loss_and_gradients_of_a_tree_equal_those_of_separate_sequences(tiny_model, kind: str) -> None:
    packed = loss_and_gradients(adapted(tiny_model, "float32", kind), [packing.pack(TREE)])
    separate = loss_and_gradients(adapted(tiny_model, "float32", "sdpa"), [packing.pack([one]) for one in TREE])
    assert packed[0] == pytest.approx(separate[0], rel=1e-5)
    torch.testing.assert_close(packed[1], separate[1], rtol=1e-3, atol=1e-5)


def test_flex_attention_stays_compiled_over_rows_of_all_lengths_in_training_and_evaluation(tiny_model) -> None:
    torch._dynamo.reset()
    model = adapted(tiny_model, "bfloat16", "flex_attention")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for length in (700, 1024, 40, 1, 129, 333, 2000, 128):
            row = packing.pack([sequence((length, length), (1, 3))])
            model.train()
            loss.of_row(model, row).total.backward()
            model.eval()
            with torch.no_grad():
                loss.of_row(model, row)


@needs("flash-attn")
def test_flash_attention_over_a_flat_row_gives_the_loss_of_separate_sequences(tiny_model) -> None:
    flash = loss_and_gradients(adapted(tiny_model, "bfloat16", "flash_attention_2"), [packing.pack(FLAT)])
    separate = loss_and_gradients(adapted(tiny_model, "bfloat16", "sdpa"), [packing.pack([one]) for one in FLAT])
    assert flash[0] == pytest.approx(separate[0], rel=1e-2)
    assert torch.nn.functional.cosine_similarity(flash[1], separate[1], dim=0) > 0.99


def test_steps_in_bfloat16_with_fused_adamw_lower_the_loss(tiny_model) -> None:
    model, row = adapted(tiny_model, "bfloat16", "flex_attention"), packing.pack(TREE)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.03, fused=True)
    losses = []
    for _ in range(60):
        losses.append(loss_and_gradients(model, [row])[0])
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2, losses  # on a CPU it falls by 0.37


# A process each: Liger's kernels replace transformers' classes for the whole process.
LIGER = """
import json, sys
from pathlib import Path
import torch
from test_gpu import TREE, loss_and_gradients
from fabrictune.model import models
from fabrictune.train import packing
base = models.load(Path(sys.argv[1]), "float32", "flex_attention", liger=sys.argv[2] == "on").cuda()
model = models.attach(base, rank=4, alpha=8, dropout=0.0, seed=1)
total, gradients = loss_and_gradients(model, [packing.pack(TREE)])
print(json.dumps([total, gradients.norm().item(), base.model.norm.forward.__module__]))
"""


@needs("liger-kernel")
def test_ligers_kernels_give_the_same_loss_and_gradients(tiny_model) -> None:
    found = {}
    for switch in ("off", "on"):
        words = [sys.executable, "-c", LIGER, str(tiny_model), switch]
        paths = ":".join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "gpu")))
        done = subprocess.run(["env", f"PYTHONPATH={paths}", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found[switch] = json.loads(done.stdout.splitlines()[-1])
    assert found["on"][:2] == pytest.approx(found["off"][:2], rel=1e-4)
    assert "liger" in found["on"][2] and "liger" not in found["off"][2]


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> list[str]:
    """The overrides of a run on the tiny model whose data is converted."""
    overrides = tiny_run(tmp_path_factory.mktemp("gpu"))
    done = subprocess.run([sys.executable, "convert.py", *overrides], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return overrides


def trained(overrides: list[str], **environment: str) -> Path:
    """The train folder of a run with these overrides, done now."""
    words = [sys.executable, "train.py", *overrides, "overwrite=true"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = next(word.partition("=")[2] for word in overrides if word.startswith("outputs="))
    return Path(outputs) / "tiny" / "main" / "train"


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param([], id="defaults"),
        pytest.param(["launcher=torchrun", "launcher.gpus=1"], id="torchrun"),
        pytest.param(["train.packing=flat"], id="flat"),
        pytest.param(["train.gradient_checkpointing=true"], id="checkpointing"),
        pytest.param(["train.liger=true"], id="liger", marks=needs("liger-kernel")),
        pytest.param(["train.quantization=nf4", "train.optimizer=adamw_8bit"], id="nf4", marks=needs("bitsandbytes")),
    ],
)
def test_train_py_trains_on_one_gpu(converted, switches: list[str]) -> None:
    assert (trained([*converted, *switches]) / "best" / "adapter_model.safetensors").exists()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs several CUDA devices")
def test_a_single_process_trains_on_one_of_several_gpus_as_on_the_only_one(converted) -> None:
    losses = []
    for visible in ({}, {"CUDA_VISIBLE_DEVICES": "0"}):
        folder = trained([*converted, "launcher=single"], **visible)
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        losses.append([line["eval_loss"] for line in lines if "eval_loss" in line])
    assert losses[0] and losses[0] == pytest.approx(losses[1], rel=1e-4)
