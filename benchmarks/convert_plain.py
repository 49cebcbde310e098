"""The conversion script of the tutorial, retold: the peer that benchmarks/convert.py times.

One process, every record in memory, regular expressions over the system turn; users and assistants stay as they are.
The tutorial's own script stops at the first tool that its expressions do not match, this one leaves such a tool out.
That is all the mending: of a tool's parameters only the first is kept, of ten and more tools nine, and so on.

    python benchmarks/convert_plain.py IN.jsonl OUT.jsonl
"""

import json
import re
import sys

LISTED = re.compile(r"\n\d\.(.*?\})\]", re.DOTALL)
NAME = re.compile(r"\s*(.*?):")
DISPLAY = re.compile(r"(\S+)\sAPI")
PURPOSE = re.compile(r"useful for\?\s(.*?)\.")
PARAMETERS = re.compile(r"Parameters: \[(\{.*\})", re.DOTALL)
PARAMETER = re.compile(r'"name": "(.*?)".*?"description": "(.*?)".*?"required": "(.*)"')

SYSTEM = (
    "\n# 工具\n\n## 你拥有如下工具：\n\n{tools}"
    "## 当你需要调用工具时，请在你的回复中穿插如下的工具调用命令，可以根据需求调用零次或多次：\n\n"
    "工具调用\nAction: 工具的名称，必须是{names}之一\nAction Input: 工具的输入\n"
    "Observation: <result>工具返回的结果</result>\n"
    "Answer: 根据Observation总结本次工具调用返回的结果，如果结果中出现url，请使用如下格式展示出来：![图片](url)\n\n\n"
    "# 指令\n\n你扮演AI-Agent，\n你具有下列具体功能：\n下面你将开始扮演\n\n"
    "请注意：你具有图像和视频的展示能力，也具有运行代码的能力，不要在回复中说你做不到。\n"
)


def rewrite(system: str) -> str:
    """AgentFabric's system turn with the tools that the expressions find in an ms_agent one."""
    names, lines = [], []
    for listed in LISTED.findall(system):
        name, display, purpose = (pattern.search(listed) for pattern in (NAME, DISPLAY, PURPOSE))
        if not (name and display and purpose):
            continue
        properties, required = [], []
        for parameters in PARAMETERS.findall(listed):
            if parameter := PARAMETER.search(parameters):
                properties.append(f'"{parameter[1]}": {{"type": "string", "description": "{parameter[2]}"}}')
                if parameter[3].strip().lower() == "true":
                    required.append(parameter[1])
        schema = f'{{"type": "object", "properties": {{{"".join(properties)}}}, "required": {json.dumps(required)}}}'
        names.append(name[1])
        lines.append(
            f"{name[1]}: {display[1]} API。{purpose[1]}输入参数: {schema} Format the arguments as a JSON object.\n\n"
        )
    return SYSTEM.format(tools="".join(lines), names=json.dumps(names))


def main(source: str, target: str) -> None:
    records = []
    with open(source, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            record["conversations"][0]["value"] = rewrite(record["conversations"][0]["value"])
            records.append(record)
    with open(target, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
