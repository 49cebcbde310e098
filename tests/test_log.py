import pytest

from fabrictune import log


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("data.x=3: no"), "error: data.x=3: no"),
        (FileNotFoundError("a.jsonl: no such file"), "error: a.jsonl: no such file"),
        (ModuleNotFoundError("No module named 'peft'", name="peft"), "(peft); run `make install`"),
    ],
)
def test_what_a_user_can_cause_ends_in_one_sentence_and_code_1(error, said, capsys, monkeypatch) -> None:
    monkeypatch.delenv("FABRICTUNE_TRACE", raising=False)
    with pytest.raises(SystemExit) as end, log.errors_in_one_sentence():
        raise error
    assert end.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said in line


def test_ctrl_c_ends_in_one_word_and_code_130(capsys, monkeypatch) -> None:
    monkeypatch.delenv("FABRICTUNE_TRACE", raising=False)
    with pytest.raises(SystemExit) as end, log.errors_in_one_sentence():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


def test_what_only_we_can_cause_keeps_its_traceback() -> None:
    with pytest.raises(AssertionError), log.errors_in_one_sentence():
        raise AssertionError("ours")


def test_only_the_first_of_several_ranks_shows_a_bar(capsys, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert list(log.progress([1, 2], "work")) == [1, 2]
    assert capsys.readouterr().err == ""
