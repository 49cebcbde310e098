"""One conversion from end to end: nothing is lost, a bad row is kept with its reason, and a finished run stays."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from fabrictune import conversion
from fabrictune.config import Config, typed
from fabrictune.formats import ms_agent
from fabrictune.sources import synthetic

ROOT = Path(__file__).resolve().parent.parent
GOOD = [ms_agent.render(one) for one in synthetic.generate(1, 30, heldout=["hotels"], dialogues_per_agent=3)]
HOTELS = sum(record["family"] == "hotels" for record in GOOD)

LISTED = "Answer the following questions as best you can. You have access to the following APIs:\n"
LAMP = f"{LISTED}1. lamp: Switches a lamp. Parameters: []\n\nUse the following format:\n"


def bad(system: str = LAMP, arguments: str = "{}", observation: str = "on", name: str = "lamp", **rest) -> bytes:
    trace = f"Action: {name}\nAction Input: {arguments}\nObservation: {observation}\nFinal Answer: Done."
    values = [("system", system), ("user", "Light!"), ("assistant", trace)]
    conversations = [{"from": role, "value": value} for role, value in values]
    return json.dumps({"id": "bad", "conversations": conversations} | rest).encode()


DEEP = "[" * 3000 + "]" * 3000
BAD = [
    (b"{no JSON", "no JSON: "),
    (b"[1, 2]", "no JSON object but list"),
    (DEEP.encode(), "no JSON: "),
    (b'{"id": "bad", "text": "Hi"}', "'conversations' is NoneType"),
    (bad(system=f"{LISTED}nothing to see"), "the tool list cannot be read: 'nothing to see'"),
    (bad(name="radio"), "call to 'radio', which is not among the tools offered: ['lamp']"),
    (bad(name="radio", id="\ud800"), "call to 'radio', which is not among the tools offered"),
    (bad(observation="\ud800"), "text that is no valid Unicode"),
    (bad(observation="x" * 3000 + "\ud800"), "text that is no valid Unicode"),
    (bad(family="\ud800"), "text that is no valid Unicode"),
    (bad(arguments=r"{'room': '\ud800'}"), "text that is no valid Unicode"),
    (bad(observation="BYTES").replace(b"BYTES", b"\xff\xfe"), "text that is no valid Unicode"),
    (bad().replace(b"{", b"\xff{", 1), "no JSON: "),
    (bad(arguments=f'{{"room": {DEEP}}}'), "values nested too deeply"),
    (bad(arguments=f'{{"room": {"[" * 700}{"]" * 700}}}'), "values nested too deeply"),
    (bad(system=LAMP.replace("[]", DEEP)), "values nested too deeply"),
    (bad(arguments="{[]: 1}"), "neither JSON nor a Python literal"),
    (bad(instruction=["Be kind."]), "'instruction' is list, not text"),
    (bad(system=LAMP.replace("[]", '{"type": "object", "properties": {}, "required": null}')), "'required' is no list"),
]


def configured(folder: Path, *overrides: str) -> Config:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", ["name=mine", f"outputs={folder / 'outputs'}", *overrides]))


def of_file(folder: Path, lines: list[bytes], *overrides: str) -> Config:
    path = folder / "mine.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return configured(folder, "data/mix=files", f"data.mix.file.path={path}", *overrides)


def good_lines() -> list[bytes]:
    return [json.dumps(record, ensure_ascii=False).encode() for record in GOOD]


def mixed_lines() -> list[bytes]:
    """The good rows with a bad one after each of the first, then a blank line, then the rest."""
    good, lines = good_lines(), []
    for place, line in enumerate(good):
        lines += [line, *(row for row, _ in BAD[place : place + 1])]
    return [*lines[:7], b"", *lines[7:]]


def written(folder: Path) -> Path:
    return folder / "outputs" / "mine" / "main" / "convert"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def made(folder: Path) -> dict[str, bytes]:
    """The files that depend on data and settings alone."""
    return {name: data for name, data in contents(written(folder)).items() if name != "run.json"}


def test_bad_rows_are_kept_with_line_and_reason_and_the_good_ones_convert(tmp_path: Path) -> None:
    lines = mixed_lines()
    conversion.convert(of_file(tmp_path, lines, "data.test_ratio=0.2"))
    out = written(tmp_path)
    rejects = rows(out / "rejects.jsonl")
    assert len(rejects) == len(BAD)
    for reject, (row, reason) in zip(rejects, BAD, strict=True):
        assert lines[reject["line"] - 1] == row == reject["row"].encode("utf-8", "surrogateescape")
        assert reason in reject["reason"]
        assert (reject["source"], reject["file"]) == ("file", str(tmp_path / "mine.jsonl"))
    stats = json.loads((out / "stats.json").read_text(encoding="utf-8"))
    assert stats["train"]["dialogues"] + stats["test"]["dialogues"] == len(GOOD)
    assert stats["rejected"] == sum(stats["rejected_by_reason"].values()) == len(BAD)
    for part in ("train", "test"):
        exchanges = rows(out / f"{part}.jsonl")
        assert stats[part] == {"dialogues": len({row["dialogue"] for row in exchanges}), "exchanges": len(exchanges)}
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["finished"] and run["results"]["rejected"] == len(BAD)


def test_a_row_is_one_exchange_with_these_keys(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines(), "data.test_ratio=0.2"))
    out = written(tmp_path)
    exchanges = rows(out / "train.jsonl") + rows(out / "test.jsonl")
    for row in exchanges:
        assert list(row) == ["dialogue", "turn", "step", "source", "messages", "reply"]
        assert [message["role"] for message in row["messages"]] == [
            "system",
            *["user", "assistant"] * row["turn"],
            "user",
        ]
        assert all(list(message) == ["role", "content"] for message in row["messages"])
        assert row["reply"] and all(list(span) == ["text", "weight"] for span in row["reply"])
        assert row["source"] == "file"
    calls = sum(m["value"].count("Action Input:") for record in GOOD for m in record["conversations"][1:])
    turns = sum(len(record["conversations"]) // 2 for record in GOOD)
    assert len(exchanges) == calls + turns
    assert {row["dialogue"] for row in exchanges} == {f"file/{record['id']}" for record in GOOD}


def test_train_and_test_share_no_dialogue_and_test_dialogues_are_those_of_the_test_rows(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines(), "data.test_ratio=0.2"))
    out = written(tmp_path)
    train, test = ({row["dialogue"] for row in rows(out / f"{part}.jsonl")} for part in ("train", "test"))
    assert (len(train), len(test)) == (24, 6)
    assert not train & test
    assert {row["dialogue"]["id"] for row in rows(out / "test_dialogues.jsonl")} == test


def test_held_out_families_are_only_tested_on_and_flagged_as_unseen(tmp_path: Path) -> None:
    assert 0 < HOTELS < 15
    conversion.convert(of_file(tmp_path, good_lines(), "data.heldout_families=[hotels]", "data.test_ratio=0.25"))
    out = written(tmp_path)
    tested = rows(out / "test_dialogues.jsonl")
    unseen = {row["dialogue"]["id"] for row in tested if row["dialogue"]["family"] == "hotels"}
    assert len(unseen) == HOTELS
    assert not unseen & {row["dialogue"] for row in rows(out / "train.jsonl")}
    assert {row["seen"] for row in tested if row["dialogue"]["id"] in unseen} == {False}
    assert True in {row["seen"] for row in tested}
    stats = json.loads((out / "stats.json").read_text(encoding="utf-8"))
    assert stats["test_unseen"] == sum(not row["seen"] for row in tested)
    assert stats["test_seen"] == sum(row["seen"] for row in tested)


def test_a_bound_on_held_out_dialogues_counts_those_not_used(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines(), "data.heldout_families=[hotels]", "data.heldout_max=1"))
    families = Counter(row["dialogue"]["family"] for row in rows(written(tmp_path) / "test_dialogues.jsonl"))
    assert families["hotels"] == 1
    stats = json.loads((written(tmp_path) / "stats.json").read_text(encoding="utf-8"))
    assert stats["heldout_not_used"] == HOTELS - 1


@pytest.mark.parametrize("mix", ["file", "synthetic"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(tmp_path: Path, mix: str) -> None:
    def convert(name: str, seed: int) -> dict[str, bytes]:
        overrides = (f"seed={seed}", "data.test_ratio=0.2")
        (tmp_path / name).mkdir()
        if mix == "file":
            lines = tmp_path / "mine.jsonl"
            lines.write_bytes(b"\n".join(mixed_lines()) + b"\n")
            overrides += ("data/mix=files", f"data.mix.file.path={lines}")
        else:
            overrides += ("data.mix.synthetic.count=30", "data.mix.synthetic.languages=[en,zh]")
        conversion.convert(configured(tmp_path / name, *overrides))
        return made(tmp_path / name)

    first, again, other = convert("first", 1), convert("again", 1), convert("other", 2)
    assert set(first) == {"train.jsonl", "test.jsonl", "test_dialogues.jsonl", "rejects.jsonl", "stats.json"}
    assert first == again
    assert first["test.jsonl"] != other["test.jsonl"]


def test_a_count_takes_that_many_dialogues(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines(), "data.mix.file.count=12", "data.test_ratio=0.25"))
    stats = json.loads((written(tmp_path) / "stats.json").read_text(encoding="utf-8"))
    assert (stats["train"]["dialogues"], stats["test"]["dialogues"]) == (9, 3)


def test_rows_of_the_same_id_stay_dialogues_of_their_own(tmp_path: Path) -> None:
    lines = [json.dumps(record | {"id": "same"}).encode() for record in GOOD[:4]]
    lines += [json.dumps({"conversations": record["conversations"]}).encode() for record in GOOD[4:8]]
    conversion.convert(of_file(tmp_path, lines))
    out = written(tmp_path)
    assert len({row["dialogue"] for row in rows(out / "train.jsonl") + rows(out / "test.jsonl")}) == 8


def test_a_finished_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    config = of_file(tmp_path, good_lines())
    conversion.convert(config)
    before = contents(written(tmp_path))
    with pytest.raises(FileExistsError, match="holds a finished run; choose another variant=.* overwrite=true"):
        conversion.convert(config)
    config.resume = True
    conversion.convert(config)
    config.seed = 7
    with pytest.raises(ValueError, match="with other settings .*seed: 42 -> 7"):
        conversion.convert(config)
    assert contents(written(tmp_path)) == before


def test_another_content_of_the_same_file_is_another_setting(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, good_lines()))
    with pytest.raises(ValueError, match="with other settings .*mix.file.sha256"):
        conversion.convert(of_file(tmp_path, good_lines()[1:], "resume=true"))


def test_overwriting_replaces_a_finished_folder(tmp_path: Path) -> None:
    conversion.convert(of_file(tmp_path, mixed_lines()))
    conversion.convert(of_file(tmp_path, good_lines()[:5], "overwrite=true"))
    stats = json.loads((written(tmp_path) / "stats.json").read_text(encoding="utf-8"))
    assert stats["rejected"] == 0
    assert stats["train"]["dialogues"] + stats["test"]["dialogues"] == 5


def test_a_missing_file_is_named_and_blocks_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "mine.jsonl"
    config = configured(tmp_path, "data/mix=files", f"data.mix.file.path={missing}")
    with pytest.raises(FileNotFoundError, match="mine.jsonl: no such file"):
        conversion.convert(config)
    missing.write_bytes(b"\n".join(good_lines()))
    conversion.convert(config)
    assert (written(tmp_path) / "train.jsonl").exists()


def test_a_file_of_which_nothing_can_be_read_says_why_and_keeps_its_rows(tmp_path: Path) -> None:
    lines = [b"[1]", b"{no JSON", b"[2]", b"[3]", b"{}"]
    with pytest.raises(ValueError) as error:
        conversion.convert(of_file(tmp_path, lines))
    for words in ("data.mix.file", "mine.jsonl", "ms_agent", "3 times", "no JSON object but list", "rejects.jsonl"):
        assert words in str(error.value)
    assert [reject["row"].encode() for reject in rows(written(tmp_path) / "rejects.jsonl")] == lines
    conversion.convert(of_file(tmp_path, good_lines()))
    assert rows(written(tmp_path) / "rejects.jsonl") == []


def test_a_killed_run_starts_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = of_file(tmp_path, good_lines())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_statistics", killed)
        with pytest.raises(KeyboardInterrupt):
            conversion.convert(config)
    assert json.loads((written(tmp_path) / "run.json").read_text(encoding="utf-8"))["finished"] is None
    (written(tmp_path) / "leftover.jsonl").write_text("half", encoding="utf-8")
    conversion.convert(config)
    assert json.loads((written(tmp_path) / "run.json").read_text(encoding="utf-8"))["finished"]
    assert not (written(tmp_path) / "leftover.jsonl").exists()


def test_rejects_of_one_kind_count_together_whatever_they_name(tmp_path: Path) -> None:
    lines = [*good_lines(), *(bad(name=f"radio {number}", id=f"row {number}") for number in range(3))]
    conversion.convert(of_file(tmp_path, lines))
    reasons = json.loads((written(tmp_path) / "stats.json").read_text())["rejected_by_reason"]
    assert list(reasons.values()) == [3]


def test_data_of_held_out_families_alone_is_refused(tmp_path: Path) -> None:
    families = sorted({record["family"] for record in GOOD})
    with pytest.raises(ValueError, match="no dialogue is left to train on.*heldout_families"):
        conversion.convert(of_file(tmp_path, good_lines(), f"data.heldout_families={families}".replace("'", "")))


def test_a_byte_order_mark_costs_no_row(tmp_path: Path) -> None:
    lines = good_lines()
    conversion.convert(of_file(tmp_path, [b"\xef\xbb\xbf" + lines[0], *lines[1:]]))
    assert (written(tmp_path) / "rejects.jsonl").read_text() == ""


def test_weights_of_names_arguments_and_answers_stand_in_the_rows(tmp_path: Path) -> None:
    weights = "data.weights={tool: 3, arguments: 2, answer: 0.5}"
    conversion.convert(of_file(tmp_path, good_lines(), weights))
    found = set()
    for row in rows(written(tmp_path) / "train.jsonl"):
        texts = {span["text"] for span in row["reply"]}
        found |= {("call" if "Observation:" in texts else "answer", span["weight"]) for span in row["reply"]}
    assert found == {("call", 1.0), ("call", 2.0), ("call", 3.0), ("answer", 0.5)}
