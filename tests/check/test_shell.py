import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.check.shell import arithmetic, read_shell
from specs.errors import SpecError


def test_words_keep_their_lines_and_quotes() -> None:
    commands = read_shell("# top\nexport A=1\nrun --x 'a b' \\\n  --y \"$A/c\" > log 2>&1 &\n", "f.sh")
    assert [command.name for command in commands] == ["export", "run"]
    run = commands[1]
    assert [word.shown for word in run.words] == ["run", "--x", "a b", "--y", "$A/c"]
    assert [word.place.line for word in run.words] == [3, 3, 3, 4, 4]
    assert run.redirects[0][1].shown == "log"
    assert run.end == "&"
    assert run.words[4].expand({"A": "7"}) == "7/c"
    assert run.words[4].expand({}) is None


def test_a_file_descriptor_is_part_of_its_redirection() -> None:
    (first,), (second,) = read_shell("run x 2>&1", ""), read_shell("run x 1>&1", "")
    assert first.shape != second.shape
    assert [word.raw for word in first.words] == ["run", "x"]


def test_a_conditional_echo_gives_its_words_where_it_holds() -> None:
    (command,) = read_shell("run $( (($RANK > 0)) && echo --headless --start $(($RANK * 8)))", "")
    assert command.words[1].fields({"RANK": "0"}) == []
    assert command.words[1].fields({"RANK": "3"}) == ["--headless", "--start", "24"]


def test_a_here_document_knows_its_lines() -> None:
    (command,) = read_shell("cat >x.yaml <<END\na: ${B}\nEND\n", "")
    (here,) = command.here
    assert (here.text, here.first_line, here.expanded) == ("a: ${B}\n", 2, True)


@pytest.mark.parametrize("text", ["echo 'x", 'echo "x', "echo $(ls", "cat <<END", "echo ${X", 'echo "${A:?x\n"${B}"'])
def test_what_does_not_end_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_shell(text, "f.sh")
    assert caught.value.line == 1
    assert caught.value.file == "f.sh"


@given(st.text(alphabet="ab01 '\"\\$(){}`;&|<>#\n=", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        commands = read_shell(text, "f.sh")
    except SpecError:
        return
    for command in commands:
        assert 1 <= (command.place.line or 0) <= text.count("\n") + 1
        for word in command.words:
            word.fields({"a": "1"})


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@given(st.lists(st.text(alphabet="abc01 '\"\\$`(){};&|<>#*?~!\n\t", min_size=0, max_size=12), min_size=1, max_size=5))
def test_quoted_words_read_as_bash_reads_them(words: list[str]) -> None:
    import shlex

    line = " ".join(["printf", *(shlex.quote(word) for word in ["%s\\0", *words])])
    (command,) = read_shell(line, "")
    assert [word.literal for word in command.words[2:]] == words


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("expression", ["1 + 2 * 3", "(1 + 2) * 3", "A * 8 + 1", "7 / 2 - 7 % 2", "-A + 3", "$A * 2"])
def test_arithmetic_is_that_of_bash(expression: str) -> None:
    done = subprocess.run(["bash", "-c", f"A=5; echo $(({expression}))"], capture_output=True, text=True, check=True)
    assert arithmetic(expression, {"A": "5"}) == done.stdout.strip()


@pytest.mark.parametrize("expression", ["A", "1 +", "1 / 0", "2 ** 3", "x = 4", "", "9" * 40 + "1 1"])
def test_arithmetic_that_is_not_known_is_none(expression: str) -> None:
    assert arithmetic(expression, {}) is None
