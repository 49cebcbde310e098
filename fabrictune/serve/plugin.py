"""vLLM's tool parsers "agentfabric" and "agentfabric_v072": `tools=` answered in AgentFabric's format.

vLLM loads this file by its path, with fabrictune installed or on PYTHONPATH:

    --enable-auto-tool-choice --tool-parser-plugin /path/to/fabrictune/serve/plugin.py --tool-call-parser agentfabric
    --chat-template FILE                (template.chat_template, for the same dialect)
    --tool-strict-level parameter       (serve.strict: tool_choice "auto" is constrained, too)

tool_choice "required" and a named tool are always constrained, by grammars.structural_tag, because the request asks for
a call; so is "auto" where a tool says `strict` or parallel_tool_calls is false. Constrained arguments are valid under
the tool's schema, as far as grammars.py can hold it. A request without tools passes untouched. With tool_choice "none"
the model sees the tools all the same, as it does in training, and its reply ends where it begins a call, so that
nothing but text comes back.

Both names stand for one parser (tool_calls says why one is enough); a server names the dialect of its chat template.

Written against vLLM 0.32: a parser whose `engine_based_streaming` is true is told of the end of a stream, by
`finish_streaming`, which is when the text that was held back has to come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tokenizers import TokenizerLike
from vllm.tool_parsers.abstract_tool_parser import Tool, ToolParser, ToolParserManager
from vllm.tool_parsers.structural_tag_registry import register_vllm_structural_tag
from vllm.tool_parsers.tool_strict_level import ToolStrictLevel
from xgrammar import StructuralTag
from xgrammar.openai_tool_call_schema import BuiltinToolParam, FunctionToolParam

from fabrictune import protocol
from fabrictune.serve import grammars, tool_calls

Request = ChatCompletionRequest | ResponsesRequest

_REPEATED, _SINGLE = "agentfabric", "agentfabric_single"  # tags: calls may follow one another, or there is one at most


class AgentFabricToolParser(ToolParser):
    supports_required_and_named = False  # they come in the model's own format
    structural_tag_model = _REPEATED
    engine_based_streaming = True

    def __init__(self, tokenizer: TokenizerLike, tools: list[Tool] | None = None) -> None:
        super().__init__(tokenizer, tools)
        self._reader = tool_calls.Reader()
        self._called = 0

    def adjust_request(self, request: Request) -> Request:
        """The request with the stop string that AgentFabric's client sends itself; with one before any call, for none.

        A stop string is no part of the reply.
        """
        request = super().adjust_request(request)
        if request.tools:
            words = [protocol.OBSERVATION] if _is_read(request) else [protocol.ACTION, protocol.OBSERVATION]
            given = [request.stop] if isinstance(request.stop, str) else list(request.stop or [])
            request.stop = given + [word for word in words if word not in given]
        return request

    def get_structural_tag(
        self, request: Request, *, reasoning: bool = False, strict_level: ToolStrictLevel = ToolStrictLevel.AUTO
    ) -> StructuralTag | None:
        # vLLM limits calls to one inside the lists of a tag; here what follows the first call is no such list.
        self.structural_tag_model = _SINGLE if request.parallel_tool_calls is False else _REPEATED
        tag: StructuralTag | None = super().get_structural_tag(request, reasoning=reasoning, strict_level=strict_level)
        return tag

    def extract_tool_calls(self, model_output: str, request: Request) -> ExtractedToolCallInformation:
        if not _is_read(request):
            return ExtractedToolCallInformation(tools_called=False, tool_calls=[], content=model_output)
        told = tool_calls.read(model_output)
        calls = [
            ToolCall(type="function", function=FunctionCall(name=call.name, arguments=call.arguments))
            for call in told.calls
        ]
        return ExtractedToolCallInformation(tools_called=bool(calls), tool_calls=calls, content=told.content or None)

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: Request,
    ) -> DeltaMessage | None:
        if not _is_read(request):
            return DeltaMessage(content=delta_text) if delta_text else None
        return self._message(self._reader.feed(delta_text))

    def finish_streaming(self) -> DeltaMessage | None:
        """What the end of the stream lets out: text that might have become a call."""
        return self._message(self._reader.finish())

    def _message(self, told: tool_calls.Told) -> DeltaMessage | None:
        if told == tool_calls.Told():
            return None
        deltas = []
        for call in told.calls:
            function = DeltaFunctionCall(name=call.name, arguments=call.arguments)
            deltas.append(DeltaToolCall(index=self._called, id=make_tool_call_id(), type="function", function=function))
            self._called += 1
        return DeltaMessage(content=told.content or None, tool_calls=deltas)


for _name in protocol.DIALECTS:
    ToolParserManager.register_module(_name, module=AgentFabricToolParser)


def _is_read(request: Request) -> bool:
    return bool(request.tools) and request.tool_choice != "none"


def _tag(
    tools: list[FunctionToolParam],
    builtin_tools: list[BuiltinToolParam],
    tool_choice: str,
    reasoning: bool,
    token_suffix: str = "",
    *,
    may_repeat: bool,
) -> StructuralTag:
    offered = [(tool.function.name, tool.function.parameters) for tool in tools]
    may_repeat = may_repeat and tool_choice != "forced"
    return grammars.structural_tag(offered, must_call=tool_choice != "auto", may_repeat=may_repeat)


register_vllm_structural_tag(_REPEATED)(partial(_tag, may_repeat=True))
register_vllm_structural_tag(_SINGLE)(partial(_tag, may_repeat=False))
