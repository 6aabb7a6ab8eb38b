from __future__ import annotations

import pytest

from jupyter_tfserve.kernel.arguments import UsageError, parse, split, whole_number


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  digits   model ", ["digits", "model"]),
        ("digits x[:3, 0] --label a", ["digits", "x[:3, 0]", "--label", "a"]),
        ("d 'a b' \"c ' d\"", ["d", "'a b'", '"c \' d"']),
        ("d {'k': [1, 2]} '''x y'''", ["d", "{'k': [1, 2]}", "'''x y'''"]),
        (r"d 'it\'s so'", ["d", r"'it\'s so'"]),
        ("d ' ) ' f( 1 )", ["d", "' ) '", "f( 1 )"]),
    ],
)
def test_words_end_at_blanks_outside_of_quotes_and_brackets(text: str, words: list[str]) -> None:
    assert split(text) == words


@pytest.mark.parametrize("text", ["d f(1", "d 'x", 'd """x"'])
def test_what_is_left_open_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="missing at the end"):
        split(text)


def test_short_form_is_register() -> None:
    line = parse("digits nets[0].model --label a --label=b --example np.zeros((1, 64)) + 1 --version 3")
    assert line.verb == "register"
    assert line.words == ("digits", "nets[0].model")
    assert line.options == {"--label": ("a", "b"), "--example": ("np.zeros((1, 64)) + 1",), "--version": ("3",)}
    assert line.last("--version") == "3"
    assert line.last("--keep") is None


def test_a_verb_needs_the_long_form_to_be_a_name() -> None:
    assert parse("status model").verb == "status"
    line = parse("register status model")
    assert (line.verb, line.words) == ("register", ("status", "model"))


def test_expressions_keep_their_blanks_and_operators() -> None:
    assert parse("predict d x + 1 - -2 --version 2").rest(1) == "x + 1 - -2"


def test_only_takes_several_values() -> None:
    assert parse("versions d --only 3 4").options == {"--only": ("3", "4")}


def test_a_mode_of_batching_may_stand_behind_the_options() -> None:
    for text in ("batching d off --threads 2", "batching d --threads 2 off"):
        line = parse(text)
        assert (line.words, line.options) == (("d", "off"), {"--threads": ("2",)})
    assert parse("batching d --allowed-sizes 2, 4 on").options == {"--allowed-sizes": ("2, 4",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("statsu", "Did you mean `%tfserve status`"),
        ("versions d --lates 2", "Did you mean --latest"),
        ("logs --lines", "needs a value"),
        ("stop it", "'it' is too much"),
        ("batching d --threads 2 on off", "'off' is too much"),
        ("batching d --threads", "needs a value"),
        ("versions d --all x", "stands behind the options"),
    ],
)
def test_slips_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_numbers(text: str) -> None:
    assert whole_number("12", "--version", 1) == 12
    assert whole_number(None, "--version") is None
    with pytest.raises(UsageError, match="--version takes a whole number"):
        whole_number(text, "--version", 1)
