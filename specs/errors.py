"""The one error that bad input ends in."""


class SpecError(ValueError):
    """Bad input: says where (file, line, field), what is wrong and what is accepted.

    Args:
        message: what is wrong and what is accepted, in one sentence.
        field: dotted path of the field, for example `services[0].slo.ttft_ms`.
        file: the file it came from, or None for input that came from no file.
        line: 1-based line in that file, or None where it is unknown.
        parts: every error of a text that has several, in its order; this one then speaks of the first.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        file: str | None = None,
        line: int | None = None,
        parts: "tuple[SpecError, ...]" = (),
    ) -> None:
        self.message = message
        self.field = field
        self.file = file
        self.line = line
        self.parts = parts
        where = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (where, field, message) if part))
