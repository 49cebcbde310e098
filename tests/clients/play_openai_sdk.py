"""The openai SDK, with the loop that its users write."""

from __future__ import annotations

from typing import Any

from case import MAX_REQUESTS, Case
from openai import OpenAI


def main() -> None:
    case = Case()
    client = OpenAI(base_url=case["url"], api_key=case["key"], max_retries=0)
    messages: list[dict[str, Any]] = [{"role": "system", "content": case["instruction"]}]
    answers = []
    for query in case["queries"]:
        messages.append({"role": "user", "content": query})
        for _ in range(MAX_REQUESTS):
            reply = ask(client, case, messages)
            messages.append(reply)
            for call in reply.get("tool_calls") or []:
                result = case.observe(call["function"]["name"], call["function"]["arguments"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            if not reply.get("tool_calls"):
                break
        answers.append(reply["content"] or "")
    case.finish(answers)


def ask(client: OpenAI, case: Case, messages: list[dict[str, Any]]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": case["model"],
        "messages": messages,
        "tools": [{"type": "function", "function": tool} for tool in case["tools"]],
    }
    if not case["stream"]:
        completion = client.chat.completions.create(**body)
        return completion.choices[0].message.model_dump(exclude_none=True)
    with client.chat.completions.stream(**body) as stream:
        for event in stream:
            case.pieces += event.type == "chunk"
        message = stream.get_final_completion().choices[0].message
    called = [call.model_dump(include={"id", "type", "function"}) for call in message.tool_calls or []]
    for call in called:
        call["function"].pop("parsed_arguments", None)
    return {"role": "assistant", "content": message.content} | ({"tool_calls": called} if called else {})


main()
