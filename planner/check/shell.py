"""Reads the subset of bash that launch scripts use, without running anything.

Words keep what is quoted apart from what bash would expand: parameters (`$NAME`, `${NAME}`, `${NAME:-default}`),
arithmetic (`$((...))`) and command substitution (`$(...)`, never run). Every word and command knows its line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from planner.check.place import Place
from specs.errors import SpecError

MAX_WORDS = 200_000
_OPERATORS = ("<<<", "<<-", ";;", "&&", "||", "<<", ">>", "&>", ">&", "<&", "|", "&", ";", "(", ")", "<", ">")
_NAME = re.compile(r"[A-Za-z_]\w*")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?=)")
_ARITHMETIC = re.compile(r"\d+|[A-Za-z_]\w*|\$\{?|\}|//|[-+*/%()]|\s+")


@dataclass(frozen=True)
class Part:
    """Text, or something that bash expands.

    Args:
        text: the text, the parameter's name, the arithmetic expression or the command.
        kind: `text`, `parameter`, `arithmetic` or `command`.
        default: of a parameter that is not set; None: it has none.
        quoted: whether it stands in quotes.
    """

    text: str
    kind: str = "text"
    default: str | None = None
    quoted: bool = True


@dataclass(frozen=True)
class Word:
    """One word of a command."""

    parts: tuple[Part, ...]
    place: Place
    raw: str

    @property
    def literal(self) -> str | None:
        """The word where nothing in it is expanded."""
        return self.expand({})

    @property
    def shown(self) -> str:
        """The word with what bash expands written as parameters."""
        shapes = {"text": "{}", "parameter": "${}", "arithmetic": "$(({}))", "command": "$({})"}
        return "".join(shapes[part.kind].format(part.text) for part in self.parts)

    @property
    def parameters(self) -> frozenset[str]:
        """Names that its value depends on."""
        names: set[str] = set()
        for part in self.parts:
            if part.kind == "parameter":
                names.add(part.text)
            elif part.kind == "arithmetic":
                names.update(_NAME.findall(part.text))
            elif part.kind == "command":
                names.add("$()")
        return frozenset(names)

    def fields(self, variables: Mapping[str, str]) -> list[str]:
        """The words that bash makes of it, with what is not known left as parameters.

        `$( ((A > B)) && echo words)`, unquoted, gives its words where the comparison holds, and nothing else.
        """
        if len(self.parts) == 1 and self.parts[0].kind == "command" and not self.parts[0].quoted:
            words = _conditional(self.parts[0].text, variables)
            if words is not None:
                return words
        return [self.spoken(variables)]

    def spoken(self, variables: Mapping[str, str]) -> str:
        """The word with the parameters that are known replaced."""
        return "".join(
            Word((part,), self.place, "").expand(variables) or Word((part,), self.place, "").shown
            if part.kind != "text"
            else part.text
            for part in self.parts
        )

    def expand(self, variables: Mapping[str, str]) -> str | None:
        """The word with its parameters replaced, or None where one is not known."""
        text = []
        for part in self.parts:
            value: str | None = part.text
            if part.kind == "parameter":
                value = variables.get(part.text, part.default)
            elif part.kind == "arithmetic":
                value = arithmetic(part.text, variables)
            elif part.kind == "command":
                value = None
            if value is None:
                return None
            text.append(value)
        return "".join(text)


@dataclass(frozen=True)
class Here:
    """A here-document.

    Args:
        text: its lines.
        first_line: where they start.
        expanded: whether bash expands parameters in it.
    """

    text: str
    first_line: int
    expanded: bool


@dataclass(frozen=True)
class Command:
    """A simple command.

    Args:
        words: its words, without assignments and redirections.
        assignments: those before it: name, value.
        redirects: operator and target.
        here: here-documents that it reads.
        place: where it starts.
        end: the operator that ends it: a newline, `;`, `&`, `|`, `&&`, `||` or `)`.
    """

    words: tuple[Word, ...]
    place: Place
    assignments: tuple[tuple[str, Word], ...] = ()
    redirects: tuple[tuple[str, Word], ...] = ()
    here: tuple[Here, ...] = ()
    end: str = "\n"

    @property
    def name(self) -> str | None:
        """The first word."""
        return self.words[0].literal if self.words else None

    @property
    def shape(self) -> tuple[object, ...]:
        """All that bash acts on, to compare commands by."""
        return (
            tuple(word.raw for word in self.words),
            tuple((name, word.raw) for name, word in self.assignments),
            tuple((operator, word.raw) for operator, word in self.redirects),
            self.end,
        )


@lru_cache(maxsize=512)
def read_shell(text: str, file: str, first_line: int = 1) -> tuple[Command, ...]:
    """Commands of a script, in order; control words (`if`, `then`, `do` ...) are commands or stand before them.

    Raises:
        SpecError: a quote, substitution or here-document does not end, or there is too much; with file and line.
    """
    return _Reader(text, file, first_line).commands()


def arithmetic(expression: str, variables: Mapping[str, str]) -> str | None:
    """Value of an arithmetic expansion of whole numbers, or None where it is not known."""
    tokens = []
    at = 0
    while at < len(expression):
        found = _ARITHMETIC.match(expression, at)
        if found is None:
            return None
        at = found.end()
        token = found.group()
        if token.isspace() or token in ("${", "$", "}"):
            continue
        if _NAME.fullmatch(token):
            value = variables.get(token, "")
            if not re.fullmatch(r"-?\d{1,18}", value):
                return None
            token = f"({value})"
            tokens += ["(", value, ")"]
            continue
        tokens.append(token)
    try:
        return str(_Sum(tokens).value())
    except (ValueError, ZeroDivisionError, RecursionError):
        return None


_CONDITIONAL = re.compile(r"\s*\(\(([^<>=]+)([<>]=?|==)([^<>=]+)\)\)\s*&&\s*echo\s+(.*)", re.DOTALL)


def _conditional(command: str, variables: Mapping[str, str]) -> list[str] | None:
    """Words that `((A > B)) && echo words` prints, or None where it is something else or not known."""
    found = _CONDITIONAL.fullmatch(command)
    if found is None:
        return None
    left, right = (arithmetic(side.strip(), variables) for side in (found[1], found[3]))
    if left is None or right is None:
        return None
    a, b = int(left), int(right)
    holds = {">": a > b, "<": a < b, ">=": a >= b, "<=": a <= b, "==": a == b}[found[2]]
    if not holds:
        return []
    printed = read_shell(found[4], "")
    return [text for command_ in printed for word in command_.words for text in word.fields(variables)]


@dataclass
class _Sum:
    """Evaluates sums, products and brackets of whole numbers."""

    tokens: list[str]
    at: int = 0

    def value(self) -> int:
        found = self._sum(0)
        if self.at != len(self.tokens):
            raise ValueError("text after the expression")
        return found

    def _sum(self, depth: int) -> int:
        total = self._product(depth)
        while self._next() in ("+", "-"):
            total += self._product(depth) if self._take() == "+" else -self._product(depth)
        return total

    def _product(self, depth: int) -> int:
        total = self._atom(depth)
        while self._next() in ("*", "/", "%"):
            operator, other = self._take(), self._atom(depth)
            total = total * other if operator == "*" else total // other if operator == "/" else total % other
        return total

    def _atom(self, depth: int) -> int:
        token = self._take()
        if token == "(" and depth < 32:
            value = self._sum(depth + 1)
            if self._take() != ")":
                raise ValueError("bracket")
            return value
        if token == "-":
            return -self._atom(depth + 1)
        return int(token) if len(token) <= 18 else 0

    def _next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self.at += 1
        return token


@dataclass
class _Open:
    """A command that is being read."""

    line: int
    words: list[Word] = field(default_factory=list)
    assignments: list[tuple[str, Word]] = field(default_factory=list)
    redirects: list[tuple[str, Word]] = field(default_factory=list)
    here: list[Here] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.words or self.assignments or self.redirects)


class _Reader:
    """Splits a script into commands, character by character."""

    def __init__(self, text: str, file: str, first_line: int) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self.line = first_line
        self._count = 0
        self._waiting: list[tuple[str, bool, bool]] = []  # here-documents that start after this line

    def commands(self) -> tuple[Command, ...]:
        found: list[Command] = []
        open_ = _Open(self.line)
        redirect = ""

        def close(end: str) -> None:
            nonlocal open_, redirect
            if redirect:  # of a process substitution, whose bracket ends the command here
                open_.redirects.append((redirect, Word((), Place(self.file, self.line), "")))
                redirect = ""
            if open_.empty and found and end != "\n":
                found[-1] = replace(found[-1], end=found[-1].end + end)
            if not open_.empty:
                found.append(
                    Command(
                        tuple(open_.words),
                        Place(self.file, open_.line),
                        tuple(open_.assignments),
                        tuple(open_.redirects),
                        tuple(open_.here),
                        end,
                    )
                )
            open_ = _Open(self.line)

        while self.at < len(self.text):
            character = self.text[self.at]
            if character == "\n":
                self._step()
                open_.here += self._here_documents()
                close("\n")
                open_.line = self.line
            elif character in " \t\r":
                self._step()
            elif self.text.startswith("\\\n", self.at):
                self._step(2)
            elif character == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif (operator := self._operator()) is not None:
                self._step(len(operator))
                if operator[0] in "<>" and self.text[self.at - len(operator) - 1 : self.at - len(operator)] in (
                    "1",
                    "2",
                ):
                    # A digit right before it is the file descriptor that it redirects.
                    operator = self._descriptor(open_) + operator
                if operator.lstrip("12") in ("<", ">", ">>", "<<", "<<-", "<<<", "&>", ">&", "<&"):
                    redirect += operator
                else:
                    close(operator)
            else:
                if open_.empty:
                    open_.line = self.line
                word = self._word()
                self._place(open_, word, redirect)
                redirect = ""
        open_.here += self._here_documents()
        close("\n")
        return tuple(found)

    def _place(self, open_: _Open, word: Word, redirect: str) -> None:
        """Put a word where it belongs in its command."""
        if redirect in ("<<", "<<-"):
            quoted = any(quote in word.raw for quote in "'\"\\")
            self._waiting.append((word.literal or word.raw, redirect == "<<-", not quoted))
        elif redirect:
            open_.redirects.append((redirect, word))
        else:
            assigned = _ASSIGNMENT.match(word.raw) if not open_.words else None
            if assigned:
                open_.assignments.append((assigned[1], _after(word, len(assigned[0]))))
            else:
                open_.words.append(word)

    @staticmethod
    def _descriptor(open_: _Open) -> str:
        """Take back the word before an operator, where it is a file descriptor."""
        if open_.words and open_.words[-1].raw in ("1", "2"):
            return open_.words.pop().raw
        return ""

    def _step(self, count: int = 1) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def _operator(self) -> str | None:
        return next((operator for operator in _OPERATORS if self.text.startswith(operator, self.at)), None)

    def _word(self) -> Word:
        self._count += 1
        if self._count > MAX_WORDS:
            raise self._error(f"has more than {MAX_WORDS:,} words")
        place, start = Place(self.file, self.line), self.at
        parts: list[Part] = []
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in " \t\r\n" or self._operator() is not None:
                break
            if self.text.startswith("\\\n", self.at):
                self._step(2)
            elif character == "\\":
                parts.append(Part(self.text[self.at + 1 : self.at + 2]))
                self._step(2)
            elif character == "'":
                end = self.text.find("'", self.at + 1)
                if end < 0:
                    raise self._error("has a quote ' that does not end")
                parts.append(Part(self.text[self.at + 1 : end]))
                self._step(end + 1 - self.at)
            elif character == '"':
                parts += self._quoted()
            elif character in "$`":
                parts.append(self._expansion(quoted=False))
            else:
                stop = self.at + 1
                while stop < len(self.text) and self.text[stop] not in " \t\r\n\\'\"$`|&;()<>":
                    stop += 1
                parts.append(Part(self.text[self.at : stop], quoted=False))
                self._step(stop - self.at)
        return Word(_joined(parts), place, self.text[start : self.at])

    def _quoted(self) -> list[Part]:
        """Parts of a text in double quotes."""
        first = self.line
        self._step()
        parts: list[Part] = [Part("")]
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == '"':
                self._step()
                return parts
            if character == "\\":
                following = self.text[self.at + 1 : self.at + 2]
                parts.append(Part("" if following == "\n" else following if following in '$`"\\' else f"\\{following}"))
                self._step(2)
            elif character in "$`":
                parts.append(self._expansion(quoted=True))
            else:
                stop = self.at + 1
                while stop < len(self.text) and self.text[stop] not in '"\\$`':
                    stop += 1
                parts.append(Part(self.text[self.at : stop]))
                self._step(stop - self.at)
        raise SpecError('has a quote " that does not end', file=self.file, line=first)

    def _expansion(self, *, quoted: bool) -> Part:
        """What follows a dollar sign or a backquote."""
        text = self.text
        if text[self.at] == "`":
            end = text.find("`", self.at + 1)
            if end < 0:
                raise self._error("has a substitution ` that does not end")
            inner = text[self.at + 1 : end]
            self._step(end + 1 - self.at)
            return Part(inner, "command", quoted=quoted)
        if text.startswith("$((", self.at):
            end = text.find("))", self.at)
            if end < 0:
                raise self._error("has an expression $(( that does not end")
            inner = text[self.at + 3 : end]
            self._step(end + 2 - self.at)
            return Part(inner, "arithmetic", quoted=quoted)
        if text.startswith("$(", self.at):
            return Part(self._bracketed(), "command", quoted=quoted)
        if text.startswith("${", self.at):
            end = text.find("}", self.at)
            if end < 0:
                raise self._error("has a parameter ${ that does not end")
            inner = text[self.at + 2 : end]
            if any(character in inner for character in "\"\n'`"):
                raise self._error("has a parameter ${ that does not end before a quote or the end of its line")
            self._step(end + 1 - self.at)
            name, default = inner, None
            for operator in (":-", ":?", "-", "?", ":="):
                if operator in inner:
                    name, _, value = inner.partition(operator)
                    default = None if "?" in operator else value
                    break
            return Part(name, "parameter", default, quoted)
        found = _NAME.match(text, self.at + 1)
        if found is not None:
            self._step(found.end() - self.at)
            return Part(found.group(), "parameter", quoted=quoted)
        if text[self.at + 1 : self.at + 2] and text[self.at + 1] in "0123456789@*#?$!-":
            name = text[self.at + 1]
            self._step(2)
            return Part(name, "parameter", quoted=quoted)
        self._step()
        return Part("$", quoted=quoted)

    def _bracketed(self) -> str:
        """The command of `$(...)`, brackets and quotes inside it matched."""
        first, start = self.line, self.at + 2
        self._step(2)
        depth = 1
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in "'\"":
                end = self.text.find(character, self.at + 1)
                if end < 0:
                    break
                self._step(end - self.at)
            depth += {"(": 1, ")": -1}.get(character, 0)
            self._step()
            if depth == 0:
                return self.text[start : self.at - 1]
        raise SpecError("has a substitution $( that does not end", file=self.file, line=first)

    def _here_documents(self) -> list[Here]:
        """Read the here-documents that were announced on the line that has just ended."""
        found = []
        for delimiter, tabs, expanded in self._waiting:
            first, lines = self.line, []
            while True:
                if self.at >= len(self.text):
                    raise SpecError(f"has a here-document without its end {delimiter!r}", file=self.file, line=first)
                end = self.text.find("\n", self.at)
                end = len(self.text) if end < 0 else end
                line = self.text[self.at : end]
                self._step(min(end + 1, len(self.text)) - self.at)
                line = line.lstrip("\t") if tabs else line
                if line == delimiter:
                    break
                lines.append(line)
            found.append(Here("\n".join(lines) + "\n", first, expanded))
        self._waiting.clear()
        return found

    def _error(self, message: str) -> SpecError:
        return SpecError(message, file=self.file, line=self.line)


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """Parts with neighbouring texts joined."""
    joined: list[Part] = []
    for part in parts:
        if joined and part.kind == "text" == joined[-1].kind:
            joined[-1] = Part(joined[-1].text + part.text, quoted=joined[-1].quoted or part.quoted)
        else:
            joined.append(part)
    return tuple(joined)


def _after(word: Word, count: int) -> Word:
    """A word without its first characters, which are plain text."""
    first = word.parts[0]
    parts = (Part(first.text[count:], quoted=first.quoted), *word.parts[1:])
    return Word(parts if parts[0].text or len(parts) == 1 else parts[1:], word.place, word.raw[count:])
