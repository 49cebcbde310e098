"""ModelScope-Agent's RolePlay, which AgentFabric runs."""

from __future__ import annotations

from typing import Any

from case import Case
from modelscope_agent.agents import RolePlay
from modelscope_agent.tools.base import BaseTool, register_tool


def main() -> None:
    case = Case()
    for spec in case["tools"]:
        register(case, spec)
    agent = RolePlay(
        function_list=[spec["name"] for spec in case["tools"]],
        llm={
            "model": case["model"],
            "model_server": "openai",
            "api_base": case["url"],
            "api_key": case["key"],
            "is_chat": True,
            "is_function_call": False,
            "support_stream": case["stream"],
        },
        instruction=case["instruction"],
    )
    history: list[dict[str, str]] = []
    answers = []
    for query in case["queries"]:
        pieces = list(agent.run(query, history=list(history)))
        case.pieces += len(pieces)
        shown = "".join(pieces)
        history += [{"role": "user", "content": query}, {"role": "assistant", "content": shown}]
        answers.append(shown.rpartition("\nAnswer:")[2])
    case.finish(answers)


def register(case: Case, spec: dict[str, Any]) -> None:
    """A tool in the client's own terms: one entry a parameter instead of a schema."""
    required = spec["parameters"]["required"]
    listed = [
        {"name": name, "required": name in required, **schema}
        for name, schema in spec["parameters"]["properties"].items()
    ]

    class Recorded(BaseTool):
        name = spec["name"]
        description = spec["description"]
        parameters = listed

        def call(self, params: str, **kwargs: Any) -> str:
            return case.observe(self.name, params)

    register_tool(spec["name"])(Recorded)


main()
