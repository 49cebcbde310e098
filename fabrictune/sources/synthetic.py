"""Dialogues made from a catalogue: agents with a persona and a few tools, and the users who talk to them.

An agent is an instruction and one to four tools, some of its own family and some distractors. The names of tools and
parameters change from agent to agent, so that a model has to read the tool list. To add a tool, append a `Skill` to a
family in one of the catalogue modules beside this one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as counting
from itertools import islice

from fabrictune.dialogue import Call, Dialogue, Json, Step, Tool, Turn
from fabrictune.sources import (
    synthetic_leisure,
    synthetic_office,
    synthetic_talk,
    synthetic_trade,
    synthetic_travel,
)
from fabrictune.sources.synthetic_spec import (
    LANGUAGES,
    Chain,
    Draw,
    Family,
    Pair,
    Param,
    Skill,
    Values,
    in_language,
    wordings,
)

_CATALOGUE: dict[str, Family] = {
    family.name: family
    for module in (synthetic_travel, synthetic_office, synthetic_trade, synthetic_leisure)
    for family in module.FAMILIES
}
FAMILIES: tuple[str, ...] = tuple(_CATALOGUE)

# Of an agent's tools, those under other names than usual: enough that a name has to be read from the list, and few
# enough that a small model can also learn a tool by what it is called, as it would on one platform.
_RENAMED_SHARE = 0.25
_HELD_OUT_SHARE = 1 / 6
_OPTIONAL_SHARE = 0.35
_NUMBER_WORDS: Pair = ("two\nthree\nfour\nfive\nsix\nseven\neight\nnine", "两\n三\n四\n五\n六\n七\n八\n九")


@dataclass(frozen=True)
class _Offer:
    """A skill under the names one agent gives it; `names` maps canonical parameter names to those of `tool`."""

    skill: Skill
    tool: Tool
    names: dict[str, str]

    def call(self, arguments: Values) -> Call:
        return Call(self.tool.name, {self.names[name]: value for name, value in arguments.items()})


@dataclass(frozen=True)
class _Agent:
    """`own` are the offers of the agent's family; `strange` the skills that other agents may have and it has not."""

    language: str
    family: Family
    instruction: str
    offers: tuple[_Offer, ...]
    own: tuple[_Offer, ...]
    strange: tuple[Skill, ...]

    @property
    def chains(self) -> list[tuple[Chain, _Offer, _Offer]]:
        offers = {offer.skill.name: offer for offer in self.own}
        return [
            (chain, offers[chain.first], offers[chain.second])
            for chain in self.family.chains
            if chain.first in offers and chain.second in offers
        ]


@dataclass(frozen=True)
class _Topic:
    """What the previous turn was about, so that a follow-up can change one argument of it."""

    offer: _Offer
    arguments: Values
    said: dict[str, str]


def tools(language: str) -> dict[str, tuple[Tool, ...]]:
    """The tools of every family under their canonical names, described in "en" or "zh"."""
    _check([language], LANGUAGES, "language")
    return {
        name: tuple(_offer(skill, language, rng=None).tool for skill in family.skills)
        for name, family in _CATALOGUE.items()
    }


def generate(
    seed: int,
    count: int,
    languages: Sequence[str] = ("en",),
    families: Sequence[str] = FAMILIES,
    heldout: Collection[str] = (),
    dialogues_per_agent: int = 8,
) -> Iterator[Dialogue]:
    """`count` dialogues, `dialogues_per_agent` in a row with the same instruction and tools.

    A shorter run is a prefix of any longer one. Agents are about `families`. One agent in 6 is about a held-out family;
    the others never see a tool of one, nor are they asked for it.
    Raises ValueError for an unknown name, or when there is nothing to draw from.
    """
    for names, choices, what in (
        (languages, LANGUAGES, "language"),
        (families, FAMILIES, "family"),
        (heldout, FAMILIES, "held-out family"),
    ):
        _check(names, choices, what)
    if not languages or not families:
        raise ValueError(f"languages {list(languages)} and families {list(families)} must each name at least one")
    if dialogues_per_agent < 1:
        raise ValueError(f"dialogues_per_agent is {dialogues_per_agent}, but must be at least 1")
    return islice(_dialogues(seed, languages, families, heldout, dialogues_per_agent), count)


def _check(names: Collection[str], choices: Sequence[str], what: str) -> None:
    unknown = [name for name in names if name not in choices]
    if unknown:
        raise ValueError(f"unknown {what} {unknown}; choose from {list(choices)}")


def _dialogues(
    seed: int, languages: Sequence[str], families: Sequence[str], heldout: Collection[str], per_agent: int
) -> Iterator[Dialogue]:
    """Endlessly; each agent has a generator of its own, so no dialogue depends on how many are asked for."""
    for index in counting():
        rng = random.Random(f"{seed}/synthetic/{index}")
        draw = Draw(rng, rng.choice(languages))
        agent = _draw_agent(draw, families, heldout)
        for k in range(index * per_agent, (index + 1) * per_agent):
            yield Dialogue(
                id=f"synthetic-{agent.language}-{k:06d}",
                tools=tuple(offer.tool for offer in agent.offers),
                turns=_draw_turns(draw, agent),
                instruction=agent.instruction,
                family=agent.family.name,
            )


# Agents


def _draw_agent(draw: Draw, families: Sequence[str], heldout: Collection[str]) -> _Agent:
    rng = draw.rng
    hidden = [name for name in families if name in heldout]
    seen = [name for name in families if name not in heldout]
    is_hidden = bool(hidden) and (not seen or rng.random() < _HELD_OUT_SHARE)
    family = _CATALOGUE[rng.choice(hidden if is_hidden else seen)]
    others = [
        skill
        for other in _CATALOGUE.values()
        if other is not family and (is_hidden or other.name not in heldout)
        for skill in other.skills
    ]
    size = rng.choices((1, 2, 3, 4), (1, 4, 4, 2))[0]
    own = _draw_own(rng, family, size)
    distractors = rng.sample(others, size - len(own))
    offers = [_offer(skill, draw.language, rng) for skill in (*own, *distractors)]
    own_offers = tuple(offers[: len(own)])
    rng.shuffle(offers)
    offered = {offer.skill.name for offer in offers}
    return _Agent(
        draw.language,
        family,
        _draw_persona(draw, family),
        tuple(offers),
        own_offers,
        tuple(skill for skill in (*family.skills * 4, *others) if skill.name not in offered),
    )


def _draw_own(rng: random.Random, family: Family, size: int) -> list[Skill]:
    """The agent's tools of its own family: often two that work in a chain, else one or two at random."""
    if size >= 2 and rng.random() < 0.6:
        chain = rng.choice(family.chains)
        return [family.skill(chain.first), family.skill(chain.second)]
    return rng.sample(family.skills, min(size, rng.choice((1, 2))))


def _draw_persona(draw: Draw, family: Family) -> str:
    template = _pick(draw, synthetic_talk.PERSONAS)
    return template.format(
        role=_pick(draw, family.roles), duty=_pick(draw, family.duties), bot=_pick(draw, synthetic_talk.BOTS)
    )


def _offer(skill: Skill, language: str, rng: random.Random | None) -> _Offer:
    """The skill as a tool, under names that `rng` picks, or under its canonical ones without."""

    def name_of(names: str) -> str:
        return rng.choice(names.split()) if rng else names.split()[0]

    if rng and rng.random() >= _RENAMED_SHARE:
        rng = None
    names = {param.name: name_of(param.names) for param in skill.params}
    schema = {
        "type": "object",
        "properties": {names[param.name]: _property(param, language) for param in skill.params},
        "required": [names[param.name] for param in skill.params if param.when is None],
    }
    return _Offer(skill, Tool(name_of(skill.names), in_language(skill.text, language), schema), names)


def _property(param: Param, language: str) -> dict[str, Json]:
    """The parameter as a JSON schema."""
    schema: dict[str, Json] = {"type": param.kind, "description": in_language(param.text, language)}
    if param.choices:
        schema["enum"] = [english for english, _ in param.choices]
    if param.kind == "array":
        schema["items"] = {"type": param.items}
    if param.inner:
        schema["properties"] = {part.name: _property(part, language) for part in param.inner}
    return schema


# Turns


def _draw_turns(draw: Draw, agent: _Agent) -> tuple[Turn, ...]:
    """One to three turns; a later one often follows up on the call of the one before."""
    turns: list[Turn] = []
    topic: _Topic | None = None
    for place in range(draw.rng.choices((1, 2, 3), (65, 25, 10))[0]):
        if topic and topic.offer.skill.vary and draw.rng.random() < 0.5:
            turn, topic = _follow_up(draw, topic)
        else:
            turn, topic = _new_turn(draw, agent, is_first=place == 0)
        turns.append(turn)
    return tuple(turns)


def _new_turn(draw: Draw, agent: _Agent, is_first: bool) -> tuple[Turn, _Topic | None]:
    # Nobody asks twice in a row for what takes no argument, such as the song that is playing.
    offers = [offer for offer in agent.own if is_first or offer.skill.params]
    chains = agent.chains
    weights = (62 if offers else 0, 9 if offers else 0, 13, 32 if chains else 0)
    kind = draw.rng.choices(("call", "failure", "chat", "chain"), weights)[0]
    if kind == "chat":
        return _chat_turn(draw, agent, is_first), None
    if kind == "chain":
        return _chain_turn(draw, *draw.rng.choice(chains), is_first=is_first), None
    offer = draw.rng.choice(offers)
    arguments = _draw_arguments(draw, offer.skill.params)
    said = _say_all(draw, offer.skill.params, arguments)
    query = _query(draw, _fill(draw, offer.skill.ask, said), [offer.skill], said, is_first)
    return _call_turn(draw, offer, arguments, said, query, is_failing=kind == "failure"), _Topic(offer, arguments, said)


def _follow_up(draw: Draw, topic: _Topic) -> tuple[Turn, _Topic]:
    """The call of the topic again with one argument changed, and the topic that this makes."""
    skill = topic.offer.skill
    assert skill.vary is not None
    name, texts = skill.vary
    param = next(param for param in skill.params if param.name == name)
    value = param.draw(draw)
    while value in topic.arguments.values():
        value = param.draw(draw)
    arguments = {**topic.arguments, name: value}
    said = {**topic.said, **_say_all(draw, [param], arguments)}
    wishes = (
        [_pick(draw, synthetic_talk.AS_BEFORE)] if any(p.when and p.name in arguments for p in skill.params) else []
    )
    query = _sentences([_fill(draw, texts, said), *wishes], draw.language)
    turn = _call_turn(draw, topic.offer, arguments, said, query, is_failing=draw.rng.random() < 0.08)
    return turn, _Topic(topic.offer, arguments, said)


def _call_turn(
    draw: Draw, offer: _Offer, arguments: Values, said: dict[str, str], query: str, is_failing: bool
) -> Turn:
    if is_failing:
        step, answer = _failed_step(draw, offer, arguments, said)
        return Turn(query, (step,), answer)
    step, facts = _step(draw, offer, arguments, said, synthetic_talk.LEAD_INS)
    return Turn(query, (step,), _fill(draw, offer.skill.answer, {**said, **_tell(facts)}))


def _chain_turn(draw: Draw, chain: Chain, first: _Offer, second: _Offer, is_first: bool) -> Turn:
    """Two calls, the second with a fact the first found; once in a while the first fails and the turn ends there."""
    found = _draw_arguments(draw, first.skill.params)
    taken = [param for param in second.skill.params if param.name != chain.target]
    rest = {**_draw_arguments(draw, taken, found), **{p.name: found[p.name] for p in taken if p.name in found}}
    first_said = _say_all(draw, first.skill.params, found)
    rest_said = {**_say_all(draw, taken, rest), **first_said}
    query = _query(draw, _fill(draw, chain.ask, rest_said), [first.skill, second.skill], rest_said, is_first)
    if draw.rng.random() < 0.08:
        step, answer = _failed_step(draw, first, found, first_said)
        return Turn(query, (step,), answer)
    one, facts = _step(draw, first, found, first_said, synthetic_talk.LEAD_INS)
    values = {**rest, chain.target: facts[chain.fact]}
    arguments = {param.name: values[param.name] for param in second.skill.params if param.name in values}
    said = {**rest_said, chain.target: str(facts[chain.fact])}
    two, more = _step(draw, second, arguments, said, synthetic_talk.NEXT_LEAD_INS)
    return Turn(query, (one, two), _fill(draw, second.skill.answer, {**said, **_tell(more)}))


def _chat_turn(draw: Draw, agent: _Agent, is_first: bool) -> Turn:
    """A turn without a tool: a greeting or thanks, a question about abilities, or a wish no tool can fulfil."""
    kind = draw.rng.choices(("courtesy", "ability", "decline"), (3, 3, 6))[0]
    if kind == "decline":
        return _decline_turn(draw, agent, is_first)
    if kind == "ability":
        query = _dress(draw, _pick(draw, synthetic_talk.ABILITY_QUESTIONS), is_first)
        return Turn(query, (), _fill(draw, synthetic_talk.ABILITY_ANSWERS, {"can": _abilities(draw, agent.offers)}))
    if not is_first:
        return Turn(_pick(draw, synthetic_talk.THANKS), (), _pick(draw, synthetic_talk.THANKS_ANSWERS))
    slots = {"name": draw.person(), "can": _abilities(draw, agent.own)}
    return Turn(_fill(draw, synthetic_talk.GREETINGS, slots), (), _fill(draw, synthetic_talk.GREETING_ANSWERS, slots))


def _decline_turn(draw: Draw, agent: _Agent, is_first: bool) -> Turn:
    """A request for a tool the agent has not, in good part from its own family."""
    skill = draw.rng.choice(agent.strange)
    said = _say_all(draw, skill.params, _draw_arguments(draw, skill.params))
    query = _query(draw, _fill(draw, skill.ask, said), [skill], said, is_first)
    slots = {"missing": in_language(skill.can, draw.language), "can": _abilities(draw, agent.own)}
    return Turn(query, (), _fill(draw, synthetic_talk.DECLINES, slots))


# Steps


def _step(draw: Draw, offer: _Offer, arguments: Values, said: dict[str, str], lead_ins: Pair) -> tuple[Step, Values]:
    """A call that works, and the facts it found."""
    facts = offer.skill.facts(draw, arguments)
    return Step(offer.call(arguments), _observation(draw, offer.skill, facts, said), _thought(draw, lead_ins)), facts


def _observation(draw: Draw, skill: Skill, facts: Values, said: dict[str, str]) -> str:
    if skill.observe and (skill.is_text_only or draw.rng.random() < 0.5):
        return _fill(draw, skill.observe, {**said, **_tell(facts)})
    shapes: list[Values] = [facts, facts, {"status": "ok", **facts}, {"result": facts}]
    return json.dumps(draw.rng.choice(shapes), ensure_ascii=False)


def _failed_step(draw: Draw, offer: _Offer, arguments: Values, said: dict[str, str]) -> tuple[Step, str]:
    """A call that fails, and the honest answer to the user."""
    if draw.rng.random() < 0.75:
        reason = in_language(offer.skill.fail, draw.language).format(**said)
    else:
        reason = _pick(draw, synthetic_talk.OUTAGES)
    if draw.rng.random() < 0.5:
        observation = json.dumps({"error": reason}, ensure_ascii=False)
    else:
        observation = _fill(draw, synthetic_talk.ERRORS, {"reason": reason})
    thought = _thought(draw, synthetic_talk.LEAD_INS)
    return Step(offer.call(arguments), observation, thought), _fill(draw, synthetic_talk.BAD_NEWS, {"reason": reason})


def _thought(draw: Draw, lead_ins: Pair) -> str:
    return _pick(draw, lead_ins) if draw.rng.random() < 0.1 else ""


# Values and words


def _draw_arguments(draw: Draw, params: Sequence[Param], taken: Values | None = None) -> Values:
    """A value for every required and some optional parameters; no two strings are equal, nor equal to one `taken`."""
    arguments: Values = {}
    for param in params:
        if param.when is None or draw.rng.random() < _OPTIONAL_SHARE:
            value = param.draw(draw)
            while isinstance(value, str) and value in (*arguments.values(), *(taken or {}).values()):
                value = param.draw(draw)
            arguments[param.name] = value
    return arguments


def _say_all(draw: Draw, params: Sequence[Param], arguments: Values) -> dict[str, str]:
    """The slots for the arguments: how a user says each, with {name_part} for the parts of an object."""
    said: dict[str, str] = {}
    for param in params:
        if param.name in arguments:
            value = arguments[param.name]
            if param.kind == "object":
                said.update({f"{param.name}_{key}": str(part) for key, part in value.items()})
            else:
                said[param.name] = _say(draw, param, value)
    return said


def _say(draw: Draw, param: Param, value: Json) -> str:
    if param.choices:
        return next(in_language(pair, draw.language) for pair in param.choices if pair[0] == value)
    if isinstance(value, list):
        return _join(value, draw.language)
    if param.kind == "integer" and 2 <= value <= 9 and draw.rng.random() < 0.3:
        return wordings(_NUMBER_WORDS, draw.language)[int(value) - 2]
    return str(value)


def _tell(facts: Values) -> dict[str, str]:
    return {name: str(value) for name, value in facts.items()}


def _join(items: Sequence[str], language: str) -> str:
    """ "A", "A and B", "A, B and C"; in Chinese "A、B和C"."""
    comma, last = (", ", " and ") if language == "en" else ("、", "和")
    return comma.join(items[:-1]) + last + items[-1] if len(items) > 1 else items[0]


def _abilities(draw: Draw, offers: Sequence[_Offer]) -> str:
    return _join([in_language(offer.skill.can, draw.language) for offer in offers], draw.language)


def _pick(draw: Draw, texts: Pair) -> str:
    return draw.rng.choice(wordings(texts, draw.language))


def _fill(draw: Draw, texts: Pair, slots: dict[str, str]) -> str:
    return _pick(draw, texts).format(**slots)


def _query(draw: Draw, core: str, skills: Sequence[Skill], said: dict[str, str], is_first: bool) -> str:
    """The core request, a sentence for every optional argument given, and courtesies around it."""
    wishes = [
        _pick(draw, param.when).format(**said)
        for skill in skills
        for param in skill.params
        if param.when is not None and param.name in said
    ]
    return _dress(draw, _sentences([core, *wishes], draw.language), is_first)


def _dress(draw: Draw, text: str, is_first: bool) -> str:
    """The text with an opening (first turn only) and a closing now and then."""
    opening = [_pick(draw, synthetic_talk.OPENINGS)] if is_first and draw.rng.random() < 0.3 else []
    closing = [_pick(draw, synthetic_talk.CLOSINGS)] if draw.rng.random() < 0.2 else []
    return _sentences([*opening, text, *closing], draw.language)


def _sentences(parts: Sequence[str], language: str) -> str:
    """The parts one after the other, each but the last closed with a full stop if it has no ending of its own."""
    space, stop = (" ", ".") if language == "en" else ("", "。")
    closed = [part if part[-1] in ".?!:。？！：，" else part + stop for part in parts[:-1]]
    return space.join([*closed, parts[-1]])
