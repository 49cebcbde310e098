"""What synthetic users and agents say whatever the tool: personas, courtesies, small talk, refusals, bad news."""

from __future__ import annotations

from fabrictune.sources.synthetic_spec import Pair

BOTS: Pair = (
    "Skylark\nMilo\nNova\nPip\nAtlas\nJuno\nBeacon\nFinch\nOtto\nIris\nMarlow\nZuri",
    "小云\n米洛\n小诺\n豆豆\n阿特\n小朱\n灯塔\n小雀\n阿土\n小虹\n阿洛\n小紫",
)
PERSONAS: Pair = (
    """You are {role}.
    You are {role} who {duty}.
    You are {bot}, {role}.
    You are {bot}, {role} who {duty}. Keep your answers short.
    Act as {role}. Use the tools when they help.
    You are {role} who {duty}. Be polite and precise.
    Your name is {bot}. You are {role} who {duty}.
    As {role}, you answer in one or two sentences.
    You are {role}. Never invent facts: ask the tools.
    You work as {role}. If something fails, say so honestly.
    {bot} is {role} who {duty}. You are {bot}.
    Please play {role} who {duty}.""",
    """你是{role}。
    你是一名{role}，{duty}。
    你是{bot}，一名{role}。
    你是{bot}，一名{role}，{duty}。回答要简短。
    请扮演{role}，需要时使用工具。
    你是一名{role}，{duty}。请礼貌、准确。
    你的名字叫{bot}，是一名{role}，{duty}。
    作为{role}，请用一两句话回答。
    你是{role}。不要编造，要查工具。
    你的工作是{role}。出错时请如实说明。
    {bot}是一名{role}，{duty}。你就是{bot}。
    请你担任{role}，{duty}。""",
)
OPENINGS: Pair = (
    "Hi!\nHello!\nHey there.\nGood morning.\nGood evening.\nSorry to bother you.\nQuick one:\nMe again.",
    "你好！\n您好！\n早上好。\n晚上好。\n打扰一下，\n麻烦了，\n在吗？\n我又来了。\n问个事，",
)
CLOSINGS: Pair = (
    "Thanks!\nThank you.\nThanks a lot in advance.\nCheers.\nI'm in a hurry.\nThat would help me a lot.",
    "谢谢！\n多谢。\n先谢过了。\n辛苦了。\n我有点急。\n帮大忙了。",
)
AS_BEFORE: Pair = (
    "Everything else as before.\nThe rest stays the same.",
    "其他不变。\n其余和刚才一样。",
)
LEAD_INS: Pair = (
    "Let me check that for you.\nOne moment, please.\nI will look that up.\nSure, I am on it.",
    "我来帮您查一下。\n请稍等。\n好的，马上处理。\n我先看一下。",
)
NEXT_LEAD_INS: Pair = (
    "Found it, now the next step.\nWith that I can go on.\nNow the rest.",
    "找到了，接着下一步。\n有了这个就可以继续了。\n现在处理剩下的。",
)
GREETINGS: Pair = (
    """Hi, I'm {name}.
    Hello, my name is {name}.
    Good morning, {name} here.
    Hey, nice to meet you! I'm {name}.
    Hello! {name} speaking. Are you there?
    Hi there, this is {name}, I'm new here.""",
    """你好，我是{name}。
    您好，我叫{name}。
    早上好，我是{name}。
    嗨，很高兴认识你！我是{name}。
    你好，{name}在此，你在吗？
    你好呀，我是{name}，第一次用。""",
)
GREETING_ANSWERS: Pair = (
    """Hello {name}! I can {can}. What do you need?
    Nice to meet you, {name}! I can {can}.
    Hi {name}, how can I help? For example, I can {can}.""",
    """您好，{name}！我可以{can}，需要什么？
    很高兴认识您，{name}！我能{can}。
    {name}您好，有什么可以帮您？比如{can}。""",
)
THANKS: Pair = (
    """Thanks!
    Thank you, that's all.
    Great, thank you so much.
    Perfect, that was quick!
    Ok, thanks for now.
    Wonderful, you saved my day.
    Alright, bye!""",
    """谢谢！
    谢谢，就这些。
    太好了，非常感谢。
    完美，真快！
    好的，先这样，谢谢。
    太棒了，帮了大忙。
    行，再见！""",
)
THANKS_ANSWERS: Pair = (
    "You're welcome!\nGlad I could help.\nAny time. Have a nice day!\nMy pleasure, see you soon.",
    "不客气！\n很高兴能帮到您。\n随时为您效劳，祝您愉快！\n乐意效劳，再见。",
)
ABILITY_QUESTIONS: Pair = (
    """What can you do?
    How can you help me?
    What are you good for?
    Which tasks can I give you?
    Tell me what you can do.
    I'm new to this. What do you offer?
    Who are you and what do you do?
    What kind of things may I ask you?
    Are you a robot? What is your job?
    Could you explain what you are able to do?""",
    """你能做什么？
    你能怎么帮我？
    你有什么用？
    我可以让你做哪些事？
    说说你会什么。
    我第一次用，你提供什么服务？
    你是谁，做什么的？
    我可以问你哪方面的问题？
    你是机器人吗？你的工作是什么？
    能介绍一下你的功能吗？""",
)
ABILITY_ANSWERS: Pair = (
    """I can {can}.
    Gladly! I can {can}.
    I am here to help: I can {can}.
    At your service. I can {can}.""",
    """我可以{can}。
    很乐意介绍，我能{can}。
    我可以帮您{can}。
    为您服务，我能{can}。""",
)
DECLINES: Pair = (
    """Sorry, I have no tool to {missing}. I can {can}.
    I'm afraid I can't {missing} here, but I can {can}.
    That is beyond my tools: I can't {missing}. What I can do: {can}.
    I can't help with that, since I have no way to {missing}. I can {can}, though.""",
    """抱歉，我没有工具可以{missing}。我可以{can}。
    很遗憾，我在这里无法{missing}，但我能{can}。
    这超出了我的能力，我不能{missing}。我能做的是{can}。
    这个我帮不上忙，我没办法{missing}，不过可以{can}。""",
)
OUTAGES: Pair = (
    "request timed out\nservice unavailable\npermission denied\ntoo many requests, try later\ninternal server error",
    "请求超时\n服务不可用\n没有权限\n请求过多，请稍后再试\n服务器内部错误",
)
ERRORS: Pair = (
    "Error: {reason}\nerror - {reason}\nFailed: {reason}",
    "错误：{reason}\nError: {reason}\n失败：{reason}",
)
BAD_NEWS: Pair = (
    """Sorry, that did not work: {reason}.
    Unfortunately I got an error: {reason}.
    I could not do that. The tool says: {reason}.
    That failed, I'm afraid ({reason}). Would you like to try something else?
    I'm sorry, the request failed with this message: {reason}.""",
    """抱歉，没有成功：{reason}。
    很遗憾，出错了：{reason}。
    我没能完成，系统提示：{reason}。
    操作失败（{reason}）。要不要换个方式试试？
    对不起，请求失败，原因是：{reason}。""",
)
