"""The page of `serve=chat`: choose models and tools, talk, and see each step as it happens."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at import: without it gradio looks for a newer version, too

import gradio as gr
from fastapi import FastAPI
from markupsafe import escape

from fabrictune import protocol
from fabrictune.addresses import is_loopback
from fabrictune.dialogue import Tool
from fabrictune.formats import functions
from fabrictune.serve.chat import cards, demo_tools
from fabrictune.serve.chat.session import Question, Session
from fabrictune.serve.chat.shield import Shield
from fabrictune.serve.chat.streaming import Model, encodable

Models = dict[str, Model]  # by what the page calls them
ListModels = Callable[[], Awaitable[tuple[Models, list[str]]]]  # and sentences on what is missing

USER = "fabrictune"  # who logs in, where a key is asked for
NONE = "none"
CHOSEN = ("get_weather", "order_status", "convert_currency")
LARGEST_FILE = 262_144  # bytes of a file of tools
LANGUAGES = {"as the conversation": None, "English": "en", "Chinese": "zh"}
STYLE = (
    cards.STYLE
    + """
.ft-side { height: calc(100vh - 170px); min-height: 320px; overflow-y: auto; flex-wrap: nowrap;
  border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 10px }
.ft-trouble-banner { border: 1px solid #b91c1c; border-radius: 6px; padding: 8px 12px; white-space: pre-wrap;
  color: var(--body-text-color) }
footer { display: none !important }
"""
)


def application(
    models: Models,
    list_models: ListModels,
    own: Sequence[Tool],
    dialect: protocol.Dialect,
    *,
    host: str,
    key: str | None,
) -> FastAPI:
    """The page as an ASGI application at /. `models` are known at first; `own` are tools without code, from a file.

    With a key one logs in as USER. Raises ValueError if two tools share a name.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Shield, host=host if is_loopback(host) else None)
    Session(dialect).add(own)
    page = _Page(models, list_models, own, dialect)
    with gr.Blocks(title="fabrictune", analytics_enabled=False, fill_width=True) as blocks:
        page.lay_out()
        page.connect(blocks)
    blocks.queue(api_open=False, default_concurrency_limit=None)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        auth=(USER, key) if key else None,
        app_kwargs={"openapi_url": None},
        footer_links=[],
        show_error=False,
        max_file_size=LARGEST_FILE,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=STYLE,
    )
    return app


def read_file(name: str, content: bytes) -> tuple[Tool, ...]:
    """The tools in a JSON file, bare or as {"type": "function", "function": ...}. Raises ValueError naming the file."""
    try:
        value = json.loads(content.decode("utf-8-sig"))
        json.dumps(value, ensure_ascii=False).encode()  # neither a page nor a request can hold half an emoji
        tools = functions.read_tools(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: no JSON file of tools ({error})") from error
    if not tools:
        raise ValueError(
            f"{name}: there is no tool in it but {json.dumps(value)}; give a list of tools, each with name, "
            "description and parameters"
        )
    return tools


class _Page:
    """The components and what they do. `sessions` holds each visitor's conversation, by gradio's name of the visit."""

    def __init__(self, models: Models, list_models: ListModels, own: Sequence[Tool], dialect: protocol.Dialect) -> None:
        self.models, self.list_models = models, list_models
        self.own, self.dialect = own, dialect
        self.sessions: dict[str, Session] = {}

    def lay_out(self) -> None:
        with gr.Sidebar(width=300):
            self.choices = [
                gr.Dropdown(list(self.models), label="Model", elem_id="model-1", interactive=True),
                gr.Dropdown(
                    [NONE, *self.models], value=NONE, label="Second model", elem_id="model-2", interactive=True
                ),
            ]
            self.refresh = gr.Button("Refresh models", size="sm", elem_id="refresh")
            names = [*demo_tools.BY_NAME, *(tool.name for tool in self.own)]
            chosen = [*CHOSEN, *(tool.name for tool in self.own)]
            self.tools = gr.CheckboxGroup(names, value=chosen, label="Tools", elem_id="tools")
            self.upload = gr.UploadButton(
                "Add tools from a JSON file", file_types=[".json"], type="filepath", size="sm", elem_id="upload"
            )
            self.language = gr.Radio(list(LANGUAGES), value=next(iter(LANGUAGES)), label="Demo tools described in")
            self.instruction = gr.Textbox(label="Instruction", placeholder="empty: a helpful assistant", lines=2)
            self.fixed = gr.Textbox(
                label="Result of tools from files", placeholder="empty: you are asked for each", elem_id="fixed"
            )
        self.banner = gr.HTML(elem_id="banner", visible=False)
        with gr.Row(equal_height=False):
            columns = [
                gr.Column(elem_classes="ft-side", elem_id="side-1"),
                gr.Column(elem_classes="ft-side", elem_id="side-2", visible=False),
            ]
            self.views: list[gr.HTML] = []
            for column in columns:
                with column:
                    self.views += [gr.HTML(apply_default_css=False), gr.HTML(apply_default_css=False)]
        self.second = columns[1]
        with gr.Row(visible=False, elem_id="wanted") as self.wanted:
            self.wish = gr.HTML(apply_default_css=False)
            self.result = gr.Textbox(label="Its result", lines=2, scale=3, elem_id="result")
            self.proceed = gr.Button("Continue", variant="primary", scale=1, elem_id="continue")
        with gr.Row(equal_height=True):
            self.question = gr.Textbox(
                show_label=False,
                placeholder="Ask something, in English or Chinese",
                scale=6,
                autofocus=True,
                elem_id="question",
            )
            self.send = gr.Button("Send", variant="primary", scale=1, min_width=80, elem_id="send")
            self.stop = gr.Button("Stop", variant="stop", scale=1, min_width=80, elem_id="stop")
            self.clear = gr.Button("Clear", scale=1, min_width=80, elem_id="clear")

    def connect(self, blocks: gr.Blocks) -> None:
        plain: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        seen = [*self.views, self.wanted, self.wish]
        found = [self.banner, *self.choices]
        blocks.load(self.on_refresh, self.choices, found, **plain)
        blocks.unload(self.on_leave)
        self.refresh.click(self.on_refresh, self.choices, found, **plain)
        self.choices[1].change(self.on_second, self.choices[1], self.second, **plain)
        self.upload.upload(self.on_upload, [self.upload, self.tools], [self.tools, self.banner], **plain)
        asked = [self.question, *self.choices, self.tools, self.language, self.instruction, self.fixed]
        gr.on(
            [self.send.click, self.question.submit],
            self.on_question,
            asked,
            [self.question, self.banner, *seen],
            trigger_mode="multiple",  # "once" loses a click that comes before a stopped turn has been put away
            **plain,
        )
        # The handler of the question, which still runs, draws what comes of these.
        gr.on([self.proceed.click, self.result.submit], self.on_result, self.result, self.result, **plain)
        self.stop.click(self.on_stop, None, seen, **plain)
        self.clear.click(self.on_clear, None, seen, **plain)

    def session(self, request: gr.Request) -> Session:
        visit = str(request.session_hash)
        if visit not in self.sessions:
            self.sessions[visit] = Session(self.dialect)
            self.sessions[visit].add(self.own)
        return self.sessions[visit]

    async def on_refresh(self, first: str | None, second: str) -> list[Any]:
        self.models, troubles = await self.list_models()
        names = list(self.models)
        first = first if first in names else next(iter(names), None)
        return [
            _banner(*troubles),
            gr.update(choices=names, value=first),
            gr.update(choices=[NONE, *names], value=second if second in names else NONE),
        ]

    async def on_second(self, second: str) -> Any:
        return gr.update(visible=second != NONE)

    async def on_upload(self, path: str, chosen: list[str], request: gr.Request) -> list[Any]:
        session = self.session(request)
        file = Path(path)
        try:
            tools = read_file(file.name, file.read_bytes())
            session.add(tools)
        except ValueError as error:
            return [gr.skip(), _banner(str(error))]
        finally:
            file.unlink(missing_ok=True)
        names = [*demo_tools.BY_NAME, *session.own]
        return [gr.update(choices=names, value=[*chosen, *(tool.name for tool in tools)]), _banner()]

    async def on_question(
        self,
        text: str,
        first: str | None,
        second: str,
        tools: list[str],
        language: str,
        instruction: str,
        fixed: str,
        request: gr.Request,
    ) -> AsyncGenerator[list[Any], None]:
        session = self.session(request)
        still: list[Any] = [gr.skip()] * (len(self.views) + 2)
        names = [first, *([second] if second != NONE else [])]
        trouble = self._trouble(session, text, names)
        if trouble:
            yield [gr.skip(), _banner(trouble), *still]
            return
        question = Question(
            encodable(text),
            [name for name in tools if name in session.own or name in demo_tools.BY_NAME],
            encodable(instruction.strip()),
            encodable(fixed),
            LANGUAGES[language],
        )
        opening: list[Any] = ["", _banner()]
        drawn: list[str] | None = None
        async for _ in session.ask(question, [self.models[name] for name in names if name]):
            seen = self.draw(session)
            yield [*opening, *_changed(drawn, seen)]
            opening, drawn = [gr.skip(), gr.skip()], seen

    def _trouble(self, session: Session, text: str, names: Sequence[str | None]) -> str:
        """Why the question cannot be asked, "" if it can."""
        if not text.strip():
            return "Type a question first."
        if session.is_running:
            return "The turn before is still going on: wait, or press Stop."
        if not all(name in self.models for name in names):
            gone = ", ".join(str(name) for name in names if name not in self.models)
            return f"There is no model to ask ({gone}): press Refresh models."
        return ""

    async def on_result(self, result: str, request: gr.Request) -> str:
        self.session(request).give(result)
        return ""

    async def on_stop(self, request: gr.Request) -> list[Any]:
        session = self.session(request)
        session.stop()
        return self.updates(session)

    async def on_clear(self, request: gr.Request) -> list[Any]:
        session = self.session(request)
        session.clear()
        return self.updates(session)

    async def on_leave(self, request: gr.Request) -> None:
        session = self.sessions.pop(str(request.session_hash), None)
        if session is not None:
            session.stop()

    def draw(self, session: Session) -> list[str]:
        """The HTML of each view, then of the call whose result is wanted ("" for none)."""
        views: list[str] = []
        for side in session.sides:
            side.drawn += [cards.render([turn]) for turn in side.past[len(side.drawn) :]]
            views += ["".join(side.drawn), cards.render([side.live] if side.live else [])]
        return [*views, _wish(session)]

    def updates(self, session: Session) -> list[Any]:
        return _changed(None, self.draw(session))


def _changed(before: list[str] | None, now: list[str]) -> list[Any]:
    """Updates of what is not as it was: the views, the row that asks for a result, and its words.

    Where nothing has changed nothing is drawn anew, so that a prompt that was opened stays open.
    """
    *views, wish = [gr.skip() if before and before[at] == text else text for at, text in enumerate(now)]
    row = gr.skip() if before and before[-1] == now[-1] else gr.update(visible=bool(now[-1]))
    return [*views, row, wish]


def _wish(session: Session) -> str:
    if not session.wanted:
        return ""
    first = session.wanted[0]
    arguments = encodable(json.dumps(first.arguments, ensure_ascii=False))
    more = f" ({len(session.wanted) - 1} more waiting)" if len(session.wanted) > 1 else ""
    text = escape(f"{first.model} calls {first.tool} with {arguments}. What is the result?{more}")
    return f'<div class="ft-wish">{text}</div>'


def _banner(*lines: str) -> Any:
    text = escape("\n".join(lines))
    return gr.update(value=f'<div class="ft-trouble-banner" role="alert">{text}</div>', visible=bool(lines))
