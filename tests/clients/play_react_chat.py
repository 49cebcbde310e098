"""qwen-agent's ReActChat, which streams always."""

from __future__ import annotations

from typing import Any

from case import Case
from qwen_agent.agents import ReActChat
from qwen_agent.tools.base import BaseTool


def main() -> None:
    case = Case()
    agent = ReActChat(
        function_list=[make_tool(case, spec) for spec in case["tools"]],
        llm={"model": case["model"], "model_server": case["url"], "api_key": case["key"], "model_type": "oai"},
        system_message=case["instruction"],
    )
    messages: list[dict[str, str]] = []
    answers = []
    for query in case["queries"]:
        messages.append({"role": "user", "content": query})
        shown = ""
        for said in agent.run(messages=messages):
            case.pieces += 1
            shown = said[-1]["content"]
        messages.append({"role": "assistant", "content": shown})
        answers.append(shown.rpartition("Final Answer:")[2])
    case.finish(answers)


def make_tool(case: Case, spec: dict[str, Any]) -> BaseTool:
    class Recorded(BaseTool):
        name = spec["name"]
        description = spec["description"]
        parameters = spec["parameters"]

        def call(self, params: str, **kwargs: Any) -> str:
            return case.observe(self.name, params)

    return Recorded()


main()
