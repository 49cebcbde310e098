"""Every config file composes and fits the types; whatever does not fit is answered with its key, at once."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from fabrictune.config import (
    GENERATED,
    Config,
    Dtype,
    Format,
    Language,
    LauncherKind,
    Long,
    Lora,
    LossWeights,
    ModelSource,
    Quantization,
    Schedule,
    Shapes,
    Source,
    require_known_keys,
    typed,
)

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))
# Whose points are lists of values; test_sweeps.py runs the other ones.
SWEEPS = sorted(path for path in (ROOT / "conf" / "sweep").glob("*.yaml") if path.stem != "lr_search")


def composed(*overrides: str) -> Config:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", list(overrides)))


def refusal(*overrides: str) -> str:
    with pytest.raises(SystemExit) as ended:
        composed(*overrides)
    return str(ended.value)


def heavy_imports(importtime: str) -> list[str]:
    """The heavy ones among the modules that `python -X importtime` lists."""
    return re.findall(r"\| +((?:torch|transformers|peft|vllm)(?:\.\S+)?)$", importtime, re.MULTILINE)


def test_the_default_is_the_embedded_model_on_generated_dialogues() -> None:
    config = composed()
    assert config.model.source is ModelSource.package
    assert config.data.format is Format.agentfabric
    assert list(config.data.mix) == ["synthetic"]
    assert config.launcher.kind is LauncherKind.single
    assert not config.overwrite and not config.resume


def test_overlays_are_found_to_be_tested() -> None:
    assert "demo" in [path.stem for path in EXPERIMENTS]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_overlay_fits_and_carries_its_files_name(path: Path) -> None:
    assert composed(f"+experiment={path.stem}").name == path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_overlay_is_short_and_global(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# @package _global_")
    assert len(lines) < 20


@pytest.mark.parametrize(
    "choice",
    [
        f"{path.parent.relative_to(ROOT / 'conf').as_posix()}={path.stem}"
        for path in sorted((ROOT / "conf").rglob("*.yaml"))
        if path.parent.name not in ("conf", "experiment", "sweep", "cluster")
    ],
)
def test_every_choice_of_every_group_fits(choice: str) -> None:
    given = {
        "model=folder": ["model.id=/some/folder"],
        "model=hub": ["model.id=some/model"],
        "data/mix=files": ["data.mix.file.path=some.jsonl"],
        "data/mix=modelscope": ["data.mix.hub.modelscope=some/data"],
        "data/mix=huggingface": ["data.mix.hub.huggingface=some/data"],
    }
    assert isinstance(composed(choice, *given.get(choice, [])), Config)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_names_its_points_and_each_of_them_fits(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# @package _global_") and len(lines) < 20
    swept = OmegaConf.load(path).hydra.sweeper.params
    points = [f"{key}={value}" for key, values in swept.items() for value in values.split(",")]
    base = ["data/mix=mix2"] if path.stem == "mix" else []  # which needs general chat
    variants = {composed(*base, f"+sweep={path.stem}", point).variant for point in points}
    assert len(variants) == len(points) > 1


@pytest.mark.parametrize("measure", ["eval_call_exact", "eval_not_stopped", "eval_wrong_args/agent", "eval_loss"])
def test_the_best_checkpoint_may_be_chosen_by_any_measure(measure: str) -> None:
    assert composed(f"train.best_by={measure}").train.best_by == measure


def test_other_models_are_named_beside_the_runs_own() -> None:
    config = composed(
        "+eval.endpoints.teacher={url: https://api.example/v1, model_name: large, api_key_env: TEACHER_KEY}",
        "eval.models=[base,tuned,teacher]",
    )
    assert config.eval.endpoints["teacher"].api_key_env == "TEACHER_KEY"


def test_a_users_own_file_is_named_on_the_command_line() -> None:
    config = composed("data/mix=files", "data.mix.file.path=mine.jsonl", "data.mix.file.source=ms_agent", "name=mine")
    assert list(config.data.mix) == ["file"]
    assert config.data.mix["file"].path == "mine.jsonl"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("lora.rnak", "lora.rank"),
        ("modle", "model"),
        ("+eval.endpoints.a.ulr", "eval.endpoints.a.url"),
        ("++train.loss_weights.tols", "train.loss_weights.tool"),
        ("data.mix.synthetic.cuont", "data.mix.synthetic.count"),
        ("lora.speed", None),
    ],
)
def test_a_key_that_does_not_exist_is_answered_with_the_nearest_one(
    key: str, near: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    way_out = f"did you mean {near}?" if near else "see the keys with --cfg job"
    words = f"config: there is no key {key.lstrip('+')}; {way_out}"
    assert refusal(f"++{key.lstrip('+')}=8") == words, "which Hydra lets pass"
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", f"{key}=8,9"])
    with pytest.raises(SystemExit, match=f"^{re.escape(words)}$"):
        require_known_keys()


@pytest.mark.parametrize(
    "word",
    [
        "model.id=a/b",
        "data/mix=files",
        "sweep=lr",
        "+experiment=demo",
        "+cluster=slurm",
        "lora@other=x",
        "~lora.rank",
        "+data.mix.my-own.source=openai",
        "+eval.endpoints.a={url: x}",
        "+model.architecture.layers=3",
        "+data.mix.me.names.zh=x",
        "lora.targets.0=q_proj",
        "name.first=x",
        "hydra.sweeper.n_trials=3",
        "hydra/launcher=joblib",
        "--config-dir=here",
        "--cfg",
    ],
)
def test_what_is_or_may_be_a_key_is_left_to_hydra(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", word])
    require_known_keys()


def test_a_group_of_a_users_own_folder_is_left_to_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", "mine", "+team=a"])
    require_known_keys()


@pytest.mark.parametrize("overlay", ["experiment", "sweep", "cluster"])
def test_a_mistyped_overlay_is_answered_with_the_one_meant(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", f"+{overlay[:-2]}{overlay[-1]}=x"])
    with pytest.raises(SystemExit, match=rf"did you mean \+{overlay}\?$"):
        require_known_keys()


@pytest.mark.parametrize("script", ["convert.py", "train.py", "merge.py", "evaluate.py", "serve.py"])
def test_a_script_asks_for_known_keys_before_hydra_does(script: str) -> None:
    start = (ROOT / script).read_text(encoding="utf-8").partition("__main__")[2]
    assert re.search(r"require_known_keys\(\)\n    main\(\)", start)


@pytest.mark.parametrize(
    "key", ["eval.models", "compare", "data.heldout_families", "lora.targets", "data.mix.synthetic.languages"]
)
def test_a_word_where_a_list_is_wanted_is_answered_with_how_to_write_a_list(key: str) -> None:
    assert refusal(f"{key}=base") == f"config: {key} is a list; write it as '{key}=[A,B]', with one or more in it"


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("lora.rank", ["lora.rank=eight"]),
        ("lora.rank", ["lora.rank=0"]),
        ("train.epochs", ["train.epochs=[1]"]),
        ("train.gradient_checkpointing", ["train.gradient_checkpointing=perhaps"]),
        ("model.dtype", ["model.dtype=float17"]),
        ("data.format", ["data.format=agentfabrik"]),
        ("data.mix.synthetic.source", ["data.mix.synthetic.source=ms_agnet"]),
        ("model.id", ["model=hub"]),
        ("data.mix.file.path", ["data/mix=files"]),
        ("data.mix.file.path", ["data/mix=files", "data.mix.file.path=null"]),
        ("data.mix.file.count", ["data/mix=files", "data.mix.file.path=mine.jsonl", "data.mix.file.count=0"]),
        ("data.mix.file.count", ["data/mix=files", "data.mix.file.path=mine.jsonl", "data.mix.file.count=-1"]),
        ("data.mix.synthetic.count", ["data.mix.synthetic.count=null"]),
        ("data.mix.synthetic.count", ["data.mix.synthetic.count=-3"]),
        ("data.heldout_max", ["data.heldout_max=-1"]),
        ("serve.port", ["serve.port=0"]),
        ("serve.port", ["serve.port=65536"]),
        ("data.test_ratio", ["data.test_ratio=2"]),
        ("data.test_ratio", ["data.test_ratio=-0.1"]),
        ("name", ["name=a/b"]),
        ("variant", ["variant=.."]),
        ("train.batch_size", ["train.batch_size=0"]),
        ("train.epochs", ["train.epochs=0"]),
        ("train.warmup_ratio", ["train.warmup_ratio=1"]),
        ("train.attention", ["train.attention=flash"]),
        ("train.max_steps", ["train.max_steps=0"]),
        ("train.eval_dialogues", ["train.eval_dialogues=0"]),
        ("train.lr_scheduler", ["train.lr_scheduler=polynomial"]),
        ("lora.dropout", ["lora.dropout=1"]),
        ("lora.dropout", ["lora.dropout=-0.1"]),
        ("overwrite", ["overwrite=true", "resume=true"]),
        ("train.best_by", ["train.best_by=loss"]),
        ("train.best_by", ["train.best_by=eval_call_exact", "eval.every=2"]),
        ("eval.every", ["eval.every=-1"]),
        ("eval.sample", ["eval.sample=0"]),
        ("eval.sample_tokens", ["eval.sample_tokens=0"]),
        ("eval.retries", ["eval.retries=-1"]),
        ("eval.timeout", ["eval.timeout=0"]),
        ("eval.dialogues", ["eval.dialogues=0"]),
        ("eval.models", ["eval.models=[]"]),
        ("eval.categories", ["eval=bfcl", "eval.categories=[]"]),
        ("eval.endpoints.endpoint", ["+eval.endpoints.endpoint={url: http://x/v1}"]),
        ("eval.suite", ["eval.suite=toolbnech"]),
        ("eval.endpoints.teacher", ["+eval.endpoints.teacher={model_name: m}"]),
        ("eval.endpoints.teacher", ["+eval.endpoints.teacher={url: http://x/v1, folder: y}"]),
        ("eval.endpoints.tuned", ["+eval.endpoints.tuned={folder: y}"]),
        ("eval.endpoints.teacher.urll", ["+eval.endpoints.teacher={urll: http://x/v1}"]),
        ("compare", ["compare=[demo/main]"]),
        ("data.general_test", ["data.general_test=-1"]),
        ("launcher.gpus", ["launcher.gpus=2"]),
        ("launcher.gpus", ["launcher=torchrun", "launcher.gpus=0"]),
        ("launcher.offload", ["launcher=torchrun", "+launcher.offload=optimizer"]),
        ("launcher.hostfile", ["+launcher.hostfile=hosts"]),
        ("launcher.zero", ["launcher=deepspeed", "launcher.zero=4"]),
        ("eval.models", ["eval.models=[base,best]"]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_key_in_one_line(key: str, overrides: list[str]) -> None:
    text = refusal(*overrides)
    assert re.search(rf"(?<![\w.]){re.escape(key)}(?!\w)", text)
    assert text.startswith("config: ") and "\n" not in text


A_FILE = ("data/mix=files", "data.mix.file.path=a.jsonl")
ME = "source: self_cognition, count: 3"


@pytest.mark.parametrize(
    ("said", "overrides"),
    [
        ("train.loss_weights.tool is -1.0, but must be at least 0", ["train.loss_weights.tool=-1"]),
        ("train.loss_weights.answer is nan, but must be above 0", ["train.loss_weights.answer=nan"]),
        (
            "train.loss_weights.arguments is inf, but must be at least 0 and finite",
            ["train.loss_weights.arguments=inf"],
        ),
        ("data.shapes.chat is -0.5, but must be at least 0", ["data.shapes.chat=-0.5", "data.shapes.raw=1"]),
        ("data.shapes gives every shape the weight 0", ["data.shapes={chat: 0, raw: 0}"]),
        ("data.other_break is 1.5, but must be between 0 and 1", ["data.other_break=1.5"]),
        ("data.other_break is nan, but must be between 0 and 1", ["data.other_break=nan"]),
        ("data.test_ratio is 1.0, but must be at least 0 and below 1", ["data.test_ratio=1"]),
        ("data.heldout_max is -1, but must be at least 0", ["data.heldout_max=-1"]),
        ("data.max_length is 0, but must be at least 1", ["data.max_length=0"]),
        ("data.long is drop, which needs data.count_tokens=true", ["data.long=drop", "data.count_tokens=false"]),
        ("data.long is drop, but rows of data.format=openai", ["data.long=drop", "data.format=openai"]),
        ("data.processes is 0, but must be at least 1", ["data.processes=0"]),
        ("data.mix is empty; choose data/mix=", ["~data.mix.synthetic"]),
        ("data.mix..hidden: its name cannot name a file", ["+data.mix={.hidden: {source: synthetic, count: 1}}"]),
        ("data.mix.synthetic.path is given, but synthetic rows are", ["+data.mix.synthetic.path=a.jsonl"]),
        ("data.mix.synthetic.huggingface is given, but", ["+data.mix.synthetic.huggingface=a/b"]),
        ("data.mix.synthetic.count is empty; say how many", ["data.mix.synthetic.count=null"]),
        ("data.mix.synthetic.languages is ['fr']; choose from zh, en", ["data.mix.synthetic.languages=[fr]"]),
        ("data.mix.synthetic.languages is []; choose from zh, en", ["data.mix.synthetic.languages=[]"]),
        ("data.mix.file gives no place to read from; give one of data.mix", [*A_FILE[:1], "data.mix.file.path=null"]),
        ("data.mix.file gives path and modelscope to read from", [*A_FILE, "+data.mix.file.modelscope=a/b"]),
        ("data.mix.me.names and .authors must name the model", [f"+data.mix.me={{{ME}, names: {{en: Weaver}}}}"]),
        ("data.mix.me.names and .authors must name the model", [f"+data.mix.me={{{ME}, authors: {{en: Me}}}}"]),
        ("data.mix.file.count is 0, but must be at least 1", [*A_FILE, "data.mix.file.count=0"]),
        ("data.mix.a.ratio is -1, but must be at least 0", ["+data.mix.a={source: alpaca, path: a.json, ratio: -1}"]),
        ("data.mix.a.ratio is nan, but must be at least 0", ["+data.mix.a={source: alpaca, path: a.json, ratio: nan}"]),
        ("data.mix.a.ratio is inf, but must be at least 0", ["+data.mix.a={source: alpaca, path: a.json, ratio: inf}"]),
        ("data.mix.a gives count and ratio", ["+data.mix.a={source: alpaca, path: a.json, ratio: 1, count: 2}"]),
        (
            "data.mix.file.ratio is of the rows of the sources that are tested on, and",
            [*A_FILE, "+data.mix.file.ratio=2"],
        ),
        (
            "data.mix.file.ratio is of the rows of the sources that are tested on, but none is",
            [*A_FILE, "data.mix.file.source=alpaca", "+data.mix.file.ratio=2"],
        ),
        (
            "data.mix.file.role is train_and_test, but ms_bench is general chat",
            [*A_FILE, "data.mix.file.source=ms_bench", "+data.mix.file.role=train_and_test"],
        ),
    ],
)
def test_what_cannot_be_meant_in_the_data_section_is_refused_by_key_and_reason(said: str, overrides: list[str]) -> None:
    text = refusal(*overrides)
    assert said in text
    assert text.startswith("config: ") and "\n" not in text


@pytest.mark.parametrize(
    ("said", "overrides"),
    [
        (
            "serve.upstream is given, but says nothing to serve=model; choose serve=capture or chat or register",
            ["serve.upstream=http://x/v1"],
        ),
        ("serve.redact is given, but says nothing to serve=model; choose serve=capture", ["serve.redact=true"]),
        ("serve.tools_file is given, but says nothing to serve=model; choose serve=chat", ["serve.tools_file=x.json"]),
        ("serve.endpoints is given, but", ["+serve.endpoints.teacher.url=http://x/v1"]),
        ("serve.agentfabric is given, but", ["serve.agentfabric=../modelscope-agent"]),
        ("serve.upstream_key_env is given, but", ["serve=register", "serve.upstream_key_env=KEY"]),
        (
            "serve.strict is given, but says nothing to serve=chat; choose serve=model or register",
            ["serve=chat", "serve.strict=true"],
        ),
        ("serve.adapters is given, but", ["serve=chat", "+serve.adapters.tuned=x"]),
        ("serve.model is given, but says nothing to serve=capture", ["serve=capture", "serve.model=x"]),
    ],
)
def test_a_setting_of_another_kind_of_serve_is_refused_with_the_kinds_it_is_of(said: str, overrides: list[str]) -> None:
    assert said in refusal(*overrides)


def test_a_model_is_registered_with_the_words_it_is_served_with() -> None:
    words = ["serve.model=base", "+serve.adapters.tuned=x", "serve.strict=true", "serve.port=8123"]
    assert composed(*words).serve.strict and composed("serve=register", *words).serve.strict


def test_a_source_whose_name_cannot_be_a_folders_is_refused() -> None:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        config = compose("config")
    OmegaConf.set_struct(config, False)
    config.data.mix["a/b"] = {"source": "synthetic", "count": 1}
    with pytest.raises(SystemExit, match=r"^config: data\.mix\.a/b: its name cannot name a file$"):
        typed(config)


def test_general_chat_is_trained_on_alone_and_as_plain_chat() -> None:
    overrides = [f"+data.mix.{source.value}.source={source.value}" for source in Source if source not in GENERATED]
    overrides += [f"+data.mix.{source.value}.path=a.jsonl" for source in Source if source not in GENERATED]
    mix = composed(*overrides, f"+data.mix.self_cognition={{{ME}, names: {{en: A}}, authors: {{en: B}}}}").data.mix
    assert {name for name, entry in mix.items() if not entry.is_tested} == {
        *("ms_bench", "alpaca", "messages", "self_cognition")
    }
    assert all(entry.is_plain is not entry.is_tested for entry in mix.values())
    assert not composed(*A_FILE, "+data.mix.file.role=train").data.mix["file"].is_tested


@pytest.mark.parametrize(("ratio", "mix"), [(None, "mix0"), (1, "mix1"), (2, "mix2"), (4, "mix4")])
def test_the_mixes_of_the_sweep_hold_the_tutorials_sources_and_differ_in_the_ratio(ratio: int | None, mix: str) -> None:
    held = composed(f"data/mix={mix}").data.mix
    general = held.pop("general", None)
    assert held == composed("data/mix=mix0").data.mix
    assert [entry.dataset for entry in held.values()] == [
        ("modelscope", "iic/ms_agent"),
        ("modelscope", "AI-ModelScope/ms_agent_for_agentfabric"),
        None,
    ]
    assert held["self_cognition"].count == 3000
    assert (general and general.ratio) == ratio
    assert general is None or general.dataset == ("modelscope", "iic/ms_bench")


def test_the_tutorials_overlay_takes_its_mix_and_tests_on_one_in_a_hundred() -> None:
    data = composed("+experiment=qwen7b_mix2").data
    assert data.mix == composed("data/mix=mix2").data.mix
    assert data.test_ratio == 0.01


@pytest.mark.parametrize("name", ["qwen7b_mix2", "qwen25_7b_mix2", "qwen3_8b_mix2"])
def test_the_tutorials_overlays_hold_its_numbers(name: str) -> None:
    config = composed(f"+experiment={name}")
    assert config.lora == Lora(rank=8, alpha=32, dropout=0.05, targets=["all-linear"])
    numbers = {
        "epochs": 2,
        "max_steps": -1,
        "batch_size": 64,
        "learning_rate": 5e-5,
        "lr_scheduler": Schedule.linear,
        "weight_decay": 0.01,
        "max_grad_norm": 0.5,
        "warmup_ratio": 0.03,
        "row_tokens": 4096,
        "gradient_checkpointing": True,
        "quantization": Quantization.none,
        "eval_steps": 100,
        "logging_steps": 10,
        "loss_weights": LossWeights(tool=1, arguments=1, answer=1),
    }
    assert {key: getattr(config.train, key) for key in numbers} == numbers
    assert (config.model.dtype, config.seed) == (Dtype.bfloat16, 42)
    assert (config.launcher.kind, config.launcher.gpus) == (LauncherKind.deepspeed, 8)
    assert (config.data.max_length, config.data.test_ratio, config.data.mix["general"].ratio) == (2048, 0.01, 2)
    myself = config.data.mix["self_cognition"]
    assert (myself.count, myself.names["zh"], myself.authors["zh"]) == (3000, "卡卡罗特", "陶白白")


def test_the_data_section_has_these_defaults() -> None:
    data = composed().data
    assert (data.language, data.long, data.count_tokens) == (Language.auto, Long.keep, True)
    assert (data.shapes, data.other_break) == (Shapes(1, 0), 0.25)
    assert data.processes is None


def test_all_values_that_do_not_fit_are_named_together() -> None:
    text = refusal("lora.rank=0", "serve.port=0", "name=a/b")
    assert all(key in text for key in ("lora.rank", "serve.port", "name"))


def test_a_value_that_must_be_given_is_named_with_how_to_give_it() -> None:
    assert refusal("model=folder") == "config: no value for model.id; give it on the command line as model.id=..."


def test_a_dry_run_is_train_py_s_alone() -> None:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        asked = compose("config", ["dry_run=true"])
    assert typed(asked).dry_run
    with pytest.raises(SystemExit, match="dry_run is true, but only train.py has a dry run"):
        typed(asked, has_dry_run=False)


@pytest.mark.parametrize("script", ["convert.py", "merge.py", "evaluate.py", "serve.py"])
def test_a_script_without_a_dry_run_says_so_before_it_does_anything(tmp_path: Path, script: str) -> None:
    command = [sys.executable, script, "dry_run=true", f"outputs={tmp_path}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and not list(tmp_path.iterdir())
    assert ended.stderr.splitlines() == [
        "config: dry_run is true, but only train.py has a dry run; leave dry_run=true out"
    ]


@pytest.mark.parametrize("name", ["hermes", "Hermes", "xlam"])
def test_a_format_that_another_source_reads_is_answered_with_that_source(name: str) -> None:
    text = refusal("data/mix=files", "data.mix.file.path=x", f"data.mix.file.source={name}")
    assert name in text and text.endswith(f"source=openai reads {name.lower()} as well")
    assert refusal("data/mix=files", "data.mix.file.path=x", "data.mix.file.source=x").endswith("with --cfg job")


def test_importing_the_config_imports_nothing_heavy() -> None:
    code = "import sys, fabrictune.config; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("typo", ["lora.rnak=8", "+lora.rnak=8"])
def test_a_script_answers_a_typo_before_it_imports_anything_heavy(typo: str) -> None:
    start = time.monotonic()
    command = [sys.executable, "-X", "importtime", "train.py", typo]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    print(f"train.py {typo}: {seconds:.1f} s")
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
    assert "rnak" in "\n".join(said)
    assert "fabrictune.config" in ended.stderr  # the listing is there
    assert heavy_imports(ended.stderr) == []
    assert seconds < 5
