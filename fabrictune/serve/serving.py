"""serve.py: hands the process over to vLLM's server with the merged model, or with a base and its adapters."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from fabrictune import addresses, protocol, record
from fabrictune.config import Config, command
from fabrictune.log import logger
from fabrictune.serve import model_config, react_requests, servable, server, template
from fabrictune.train import nodes

BASE = "base"  # serve.model= of this run's base, and what it is called
GUARD = "fabrictune.serve.guard.Guard"
BOUNDED = "fabrictune.serve.raw_requests.Bounded"
RETOLD = "fabrictune.serve.react_requests.Retold"


def serve(config: Config) -> NoReturn:
    """Replaces this process with vLLM. Raises OSError, RuntimeError or ValueError if that cannot work."""
    server.require_vllm()
    settings = config.serve
    key = addresses.key_for(settings.host, settings.api_key_env)
    addresses.check_port(settings.host, settings.port)
    names = served_names(config)
    _check_gpus(settings.tensor_parallel_size)
    model = _model_folder(config)
    servable.check_code(model, settings.trust_remote_code)
    if settings.max_length is not None:
        servable.check_length(model, settings.max_length)
    wanted = server.Settings(
        max_length=settings.max_length,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        memory_gib=settings.cpu_memory_gib,
        adapters={name: Path(folder).expanduser() for name, folder in settings.adapters.items()},
        dtype=settings.dtype.value,
        gpus=settings.tensor_parallel_size,
        gpu_share=settings.gpu_memory_utilization,
        trust_remote_code=settings.trust_remote_code,
        tools=_tools(config, servable.chat_template(model)),
        middleware=_middleware(config, key),
        generation_config=_reply_ends(config, model) if settings.adapters else None,
    )
    words = server.command(model, names[0], settings.host, settings.port, wanted)
    print(
        f"vLLM serves {model} as {_listed(names)}. It is up when it says 'Application startup complete', after about a "
        f"minute; then test it with:\n\n{curl(config, key is not None)}\n\nor talk to it, in a second terminal:\n\n"
        f"{page_command(config, key is not None)}\n"
    )
    sys.stdout.flush()
    sys.stderr.flush()
    # The key in the environment, where only this user sees it; `ps` shows a command line to everyone.
    known = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
    known |= {"VLLM_API_KEY": key} if key else {}
    os.execve(words[0], words, server.environment(wanted, known | {react_requests.DIALECT: format_of(config)}))


def _middleware(config: Config, key: str | None) -> list[str]:
    """What stands before vLLM, the outermost last. Raises ValueError for what the model's format does not know."""
    settings, format = config.serve, format_of(config)
    if settings.react and format not in protocol.DIALECTS:
        raise ValueError(
            f"serve.react=true asks the model in AgentFabric's format, but data.format={format} is for other trainers"
        )
    wanted = {BOUNDED: settings.strict, RETOLD: settings.react, GUARD: key is not None}
    return [name for name, is_wanted in wanted.items() if is_wanted]


def served_names(config: Config) -> list[str]:
    """The model's name, then its adapters'. Raises ValueError if two have the same.

    A model is called as its run; beside a base out of which a run made adapters, that would be the adapter's name.
    """
    settings = config.serve
    own = BASE if _is_base(config) else config.name
    names = [settings.model_name or own, *settings.adapters]
    if len(set(names)) < len(names):
        raise ValueError(f"serve.adapters has '{names[0]}', which the model is called already; give serve.model_name=")
    for name in filter(model_config.is_failing_name, names):
        logger.warning(
            "AgentFabric 0.7.2 takes '%s' for a model of another kind and fails; give serve.model_name= another name, "
            "as %s",
            name,
            f"my-{name}",
        )
    return names


def curl(config: Config, with_key: bool = False) -> str:
    """The command that tests the chat route, of an adapter if there is one; the key stays in its variable."""
    settings = config.serve
    body = {
        "model": next(iter(settings.adapters), served_names(config)[0]),
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": 32,
    }
    words = ["curl", shlex.quote(f"{addresses.url(settings.host, settings.port)}/chat/completions")]
    words += [f'-H "Authorization: Bearer ${settings.api_key_env}"'] if with_key else []
    return " ".join([*words, "-H 'Content-Type: application/json'", "-d", shlex.quote(json.dumps(body))])


def page_command(config: Config, with_key: bool = False) -> str:
    """The command that opens a page to talk to what is served here."""
    settings = config.serve
    words = ["serve=chat", f"serve.upstream={addresses.url(settings.host, settings.port)}"]
    words += [f"serve.upstream_key_env={settings.api_key_env}"] if with_key else []
    return f"{plain_command(config)} {shlex.join(words)}"


def plain_command(config: Config) -> str:
    """The command that serves this run's model, without what was typed of the section `serve`."""
    return command("serve.py", config, without="serve")


def _listed(names: list[str]) -> str:
    first, *adapters = [f"'{name}'" for name in names]
    return f"{first}, with the adapters {', '.join(adapters)}" if adapters else first


def _is_base(config: Config) -> bool:
    """Whether it is this run's base that is served."""
    settings = config.serve
    return settings.model == BASE or bool(settings.adapters and not settings.model)


def _model_folder(config: Config) -> Path:
    """The folder to serve: the one given, this run's base, alone or for adapters, or what merge.py made of this run."""
    settings = config.serve
    if _is_base(config):
        from fabrictune.model import models  # it imports torch, which a merged model does not need

        folder, setting = models.local_folder(**config.model.plain()), f"model.id={config.model.id}"
    elif settings.model:
        folder, setting = Path(settings.model).expanduser(), f"serve.model={settings.model}"
    else:
        folder = _merged(config)
        setting = str(folder)
    servable.require_safetensors(folder, setting)
    return folder


def _reply_ends(config: Config, base: Path) -> Path:
    """The folder with a generation_config.json of every id that ends a reply.

    The base's own may lack the one that its adapters have learned to end with: the chat template's.
    """
    from fabrictune.model import models  # as above

    folder = config.run_folder / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    models.save_generation(folder, models.load_tokenizer(base), base)
    return folder


def _merged(config: Config) -> Path:
    """What merge.py wrote. Raises FileNotFoundError naming the ways out if it has not finished."""
    folder, best = config.run_folder / "merge", config.run_folder / "train" / "best"
    if record.is_finished(folder):
        return folder / "model"
    ways = command("merge.py", config) + (" resume=true" if (folder / "run.json").exists() else "")
    if (best / "adapter_config.json").exists():
        ways += f"\nor serve the adapter on its base: {command('serve.py', config)} +serve.adapters.tuned={best}"
    raise FileNotFoundError(f"{folder} holds no merged model; {record.other_runs(folder)}make it with: {ways}")


def _check_gpus(wanted: int) -> None:
    """Raises ValueError if the model is to be shared by more GPUs than there are."""
    if server.on_cpu():
        if wanted > 1:
            raise ValueError(f"serve.tensor_parallel_size={wanted} needs GPUs, and this vLLM is the CPU build; give 1")
    elif wanted > (found := nodes.visible_gpus()):
        raise ValueError(f"serve.tensor_parallel_size={wanted}, but {found} GPUs can be seen (CUDA_VISIBLE_DEVICES)")


def _tools(config: Config, own: str) -> server.Tools | None:
    """How `tools=` is answered in the format that the model was trained on, None where it is not.

    Writes the chat template that does it into the run's folder.
    """
    settings, format = config.serve, format_of(config)
    dialect = protocol.DIALECTS.get(format)
    if dialect is None or not settings.tools:
        reason = "serve.tools=false" if dialect else f"data.format={format} is for other trainers"
        if settings.strict:
            raise ValueError(f"serve.strict=true bounds the calls of requests with tools=, but {reason}")
        logger.info("requests with tools= are left to the model's own chat template: %s", reason)
        return None
    file = config.run_folder / "serve" / "chat_template.jinja"
    file.parent.mkdir(parents=True, exist_ok=True)
    with record.replacing(file) as written:
        written.write(template.chat_template(own, dialect))
    return server.Tools(file, Path(__file__).with_name("plugin.py"), dialect.name, settings.strict)


def format_of(config: Config) -> str:
    """The data.format of the model: what this run's data was converted to, for another folder what is given."""
    is_other = config.serve.model and config.serve.model != BASE
    if is_other or not record.is_finished(config.convert_folder):
        return config.data.format.value
    format: str = record.settings_of(config.convert_folder)["format"]
    return format
