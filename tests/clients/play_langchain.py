"""langchain-openai's ChatOpenAI with bound tools."""

from __future__ import annotations

import json
from functools import reduce
from operator import add

from case import MAX_REQUESTS, Case
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI


def main() -> None:
    case = Case()
    chat = ChatOpenAI(model=case["model"], base_url=case["url"], api_key=case["key"], max_retries=0)
    bound = chat.bind_tools([{"type": "function", "function": tool} for tool in case["tools"]])
    messages: list[AnyMessage] = [SystemMessage(case["instruction"])]
    answers = []
    for query in case["queries"]:
        messages.append(HumanMessage(query))
        for _ in range(MAX_REQUESTS):
            reply = ask(bound, case, messages)
            messages.append(reply)
            for call in reply.tool_calls:
                result = case.observe(call["name"], json.dumps(call["args"], ensure_ascii=False))
                messages.append(ToolMessage(result, tool_call_id=call["id"]))
            if not reply.tool_calls:
                break
        answers.append(reply.content)
    case.finish(answers)


def ask(bound, case: Case, messages: list[AnyMessage]) -> AIMessage:
    if not case["stream"]:
        return bound.invoke(messages)
    pieces = list(bound.stream(messages))
    case.pieces += len(pieces)
    return reduce(add, pieces)


main()
