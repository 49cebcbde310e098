"""A few tools to try a model with: they compute, or look up small tables of made-up data; no network, no files.

Each is described in English and Chinese, under the same name. The tables know the places and words of both languages.
"""

from __future__ import annotations

import ast
import datetime
import math
import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fabrictune.dialogue import Json, Tool, json_type

Pair = tuple[str, str]  # English, Chinese
LANGUAGES = ("en", "zh")

EXPRESSION_CHARACTERS = 200
LARGEST = 10**15  # of any number on the way through a calculation
DICE = 100

_NUMBERS = ("integer", "number")
_OPERATORS: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "sqrt": math.sqrt,
    "abs": abs,
    "round": lambda value: round(value),  # to so many digits takes for ever where they are many and negative
    "min": min,
    "max": max,
}

# What a unit measures, and how many of the first unit of its kind it is; a temperature is no multiple of another.
_UNITS: Mapping[str, tuple[str, float]] = {
    "m": ("length", 1),
    "km": ("length", 1000),
    "cm": ("length", 0.01),
    "mile": ("length", 1609.344),
    "foot": ("length", 0.3048),
    "inch": ("length", 0.0254),
    "kg": ("mass", 1),
    "g": ("mass", 0.001),
    "pound": ("mass", 0.45359237),
    "ounce": ("mass", 0.028349523125),
    "liter": ("volume", 1),
    "gallon": ("volume", 3.785411784),
    "celsius": ("temperature", 1),
    "fahrenheit": ("temperature", 1),
}
_EUROS: Mapping[str, float] = {"EUR": 1.0, "USD": 0.9, "GBP": 1.2, "CHF": 1.05, "JPY": 0.006, "CNY": 0.125}

_PLACES: tuple[tuple[Pair, int, Pair], ...] = (
    (("Lisbon", "里斯本"), 22, ("sunshine", "晴")),
    (("Oslo", "奥斯陆"), 4, ("light rain", "小雨")),
    (("Paris", "巴黎"), 15, ("clouds", "多云")),
    (("Tokyo", "东京"), 18, ("clear skies", "晴")),
    (("Cairo", "开罗"), 31, ("sunshine", "晴")),
    (("Beijing", "北京"), 12, ("strong wind", "大风")),
    (("Shanghai", "上海"), 19, ("drizzle", "毛毛雨")),
    (("Hangzhou", "杭州"), 20, ("fog", "雾")),
)
_WEATHER = {name.lower(): (degrees, sky[at]) for names, degrees, sky in _PLACES for at, name in enumerate(names)}
_ORDERS: Mapping[str, tuple[Pair, str]] = {
    "A1001": (("shipped", "已发货"), "2026-12-03"),
    "A1002": (("packed", "已打包"), "2026-12-07"),
    "A1003": (("at customs", "清关中"), "2026-12-15"),
    "A1004": (("delivered", "已签收"), "2026-11-20"),
}


@dataclass(frozen=True)
class DemoTool:
    """`parameters` are JSON schemas whose description is a Pair; all but the `optional` ones are required.

    `run` takes the arguments and a language; it raises ValueError, as its user is told, where it has no result.
    """

    name: str
    description: Pair
    parameters: Mapping[str, Mapping[str, Json]]
    run: Callable[[Mapping[str, Json], str], dict[str, Json]]
    optional: tuple[str, ...] = ()

    def tool(self, language: str) -> Tool:
        """The tool as a model is told of it."""
        side = LANGUAGES.index(language)
        properties = {
            name: {key: value[side] if key == "description" else value for key, value in schema.items()}
            for name, schema in self.parameters.items()
        }
        required = [name for name in self.parameters if name not in self.optional]
        schema = {"type": "object", "properties": properties, "required": required}
        return Tool(self.name, self.description[side], schema)


def run(name: str, arguments: Mapping[str, Json], language: str) -> dict[str, Json]:
    """The result of the tool of that name. Raises ValueError saying what is wrong with the arguments."""
    demo = BY_NAME[name]
    for given, value in arguments.items():
        if given not in demo.parameters:
            raise ValueError(f"param `{given}` is unknown; there are {', '.join(demo.parameters)}")
        _check(given, value, demo.parameters[given])
    for wanted in demo.parameters:
        if wanted not in arguments and wanted not in demo.optional:
            raise ValueError(f"param `{wanted}` is required")
    return demo.run(arguments, language)


def _check(name: str, value: Json, schema: Mapping[str, Json]) -> None:
    kind, wanted = json_type(value), schema["type"]
    if value is None or (kind != wanted and not (wanted == "number" and kind in _NUMBERS)):
        raise ValueError(f"param `{name}` must be of type {wanted}, not {value!r}"[:150])
    if kind in _NUMBERS and not abs(value) <= LARGEST:
        raise ValueError(f"param `{name}` is too large a number")
    if "enum" in schema and value not in schema["enum"]:
        raise ValueError(f"param `{name}` must be one of {', '.join(schema['enum'])}, not {value!r}"[:200])


def calculate(expression: str) -> float:
    """The value of an arithmetic expression; nothing else is computed. Raises ValueError if it is none."""
    if len(expression) > EXPRESSION_CHARACTERS:
        raise ValueError(f"an expression has at most {EXPRESSION_CHARACTERS} characters")
    text = expression.replace("^", "**").replace("×", "*").replace("÷", "/")
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot calculate {expression!r}: {str(error) or type(error).__name__}") from error
    return int(value) if value == int(value) else round(value, 6)


def _value(node: ast.AST) -> float:
    value: Any
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _value(node.operand)
        value = -inner if isinstance(node.op, ast.USub) else inner
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > 64:  # of two bounded numbers only a power takes long
            raise ValueError(f"the exponent {right} is larger than 64")
        value = _OPERATORS[type(node.op)](left, right)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        if node.keywords:
            raise ValueError(f"{node.func.id} takes numbers only")
        value = _FUNCTIONS[node.func.id](*map(_value, node.args))
    else:
        raise ValueError(f"{ast.unparse(node)!r} is no number; there are + - * / // % ** and {', '.join(_FUNCTIONS)}")
    if isinstance(value, complex) or not abs(value) <= LARGEST:
        raise ValueError(f"numbers are real and at most {LARGEST}")
    return float(value) if isinstance(value, float) else int(value)


def convert(value: float, source: str, target: str) -> float:
    """The value in the target unit. Raises ValueError where the two do not measure the same."""
    (kind, size), (other, target_size) = _UNITS[source], _UNITS[target]
    if kind != other:
        raise ValueError(f"{source} measures {kind}, {target} {other}")
    if kind != "temperature" or source == target:
        return round(value * size / target_size, 4)
    return round(value * 9 / 5 + 32 if source == "celsius" else (value - 32) * 5 / 9, 4)


def _weather(arguments: Mapping[str, Json], language: str) -> dict[str, Json]:
    city = arguments["city"]
    if city.strip().lower() not in _WEATHER:
        known = ", ".join(names[LANGUAGES.index(language)] for names, _, _ in _PLACES)
        raise ValueError(f"no weather data for {city[:40]}; there are {known}")
    degrees, sky = _WEATHER[city.strip().lower()]
    in_fahrenheit = arguments.get("unit") == "fahrenheit"
    return {"temperature": round(convert(degrees, "celsius", "fahrenheit")) if in_fahrenheit else degrees, "sky": sky}


def _order(arguments: Mapping[str, Json], language: str) -> dict[str, Json]:
    order = arguments["order"].strip().upper()
    if order not in _ORDERS:
        raise ValueError(f"order {order[:40]} not found; there are {', '.join(_ORDERS)}")
    status, arrives = _ORDERS[order]
    return {"status": status[LANGUAGES.index(language)], "arrives": arrives}


def _currency(arguments: Mapping[str, Json], language: str) -> dict[str, Json]:
    rate = round(_EUROS[arguments["source"]] / _EUROS[arguments["target"]], 4)
    return {"result": round(arguments["amount"] * rate, 2), "rate": rate}


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no date like 2026-05-31") from None


def _days(arguments: Mapping[str, Json], language: str) -> dict[str, Json]:
    return {"days": (_day(arguments["end"]) - _day(arguments["start"])).days}


def _weekday(arguments: Mapping[str, Json], language: str) -> dict[str, Json]:
    number = _day(arguments["date"]).weekday()
    names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    return {"weekday": names[number] if language == "en" else "星期" + "一二三四五六日"[number]}


def _dice(arguments: Mapping[str, Json], language: str) -> dict[str, Json]:
    count, sides = arguments.get("count", 1), arguments.get("sides", 6)
    if not 1 <= count <= DICE or not 2 <= sides <= DICE:
        raise ValueError(f"dice have 2 to {DICE} sides, and 1 to {DICE} of them are rolled")
    generator = random.Random(f"{arguments.get('seed', 0)}/dice")
    rolled = [generator.randint(1, sides) for _ in range(count)]
    return {"rolled": rolled, "sum": sum(rolled)}


def _text(english: str, chinese: str, **more: Json) -> dict[str, Json]:
    return {"type": "string", "description": (english, chinese), **more}


def _whole(english: str, chinese: str) -> dict[str, Json]:
    return {"type": "integer", "description": (english, chinese)}


def _real(english: str, chinese: str) -> dict[str, Json]:
    return {"type": "number", "description": (english, chinese)}


DEMO_TOOLS = (
    DemoTool(
        "get_weather",
        ("Get the current weather conditions of a city", "查询某个城市的实时天气情况"),
        {
            "city": _text("City name", "城市名称"),
            "unit": _text("Temperature unit", "温度单位", enum=["celsius", "fahrenheit"]),
        },
        _weather,
        optional=("unit",),
    ),
    DemoTool(
        "order_status",
        ("Tell where an order is and when it arrives", "查询订单的状态和预计送达日期"),
        {"order": _text("Order number like A1001", "订单号，如A1001")},
        _order,
    ),
    DemoTool(
        "convert_currency",
        ("Convert an amount from one currency to another", "把金额从一种货币换算成另一种"),
        {
            "amount": _real("Amount to convert", "换算金额"),
            "source": _text("Currency to convert from", "原货币", enum=list(_EUROS)),
            "target": _text("Currency to convert to", "目标货币", enum=list(_EUROS)),
        },
        _currency,
    ),
    DemoTool(
        "calculator",
        ("Calculate an arithmetic expression", "计算算术表达式"),
        {"expression": _text("Expression like (3 + 4) * 2.5", "算式，如(3 + 4) * 2.5")},
        lambda arguments, language: {"result": calculate(arguments["expression"])},
    ),
    DemoTool(
        "convert_units",
        ("Convert a length, mass, volume or temperature to another unit", "换算长度、质量、体积或温度的单位"),
        {
            "value": _real("Value to convert", "要换算的数值"),
            "source": _text("Unit to convert from", "原单位", enum=list(_UNITS)),
            "target": _text("Unit to convert to", "目标单位", enum=list(_UNITS)),
        },
        lambda given, language: {"result": convert(given["value"], given["source"], given["target"])},
    ),
    DemoTool(
        "days_between",
        ("Count the days from one date to another", "计算两个日期相差的天数"),
        {
            "start": _text("First date, YYYY-MM-DD", "开始日期，YYYY-MM-DD"),
            "end": _text("Last date, YYYY-MM-DD", "结束日期，YYYY-MM-DD"),
        },
        _days,
    ),
    DemoTool(
        "weekday",
        ("Tell which day of the week a date is", "查询某个日期是星期几"),
        {"date": _text("Date, YYYY-MM-DD", "日期，YYYY-MM-DD")},
        _weekday,
    ),
    DemoTool(
        "roll_dice",
        ("Roll dice; the same seed rolls the same", "掷骰子，种子相同则结果相同"),
        {
            "count": _whole("How many dice", "骰子个数"),
            "sides": _whole("Sides of each", "每个骰子的面数"),
            "seed": _whole("Seed", "随机种子"),
        },
        _dice,
        optional=("count", "sides", "seed"),
    ),
)
BY_NAME = {demo.name: demo for demo in DEMO_TOOLS}
