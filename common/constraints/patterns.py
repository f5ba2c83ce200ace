"""Regular expressions of JSON Schema (ECMA) in the engine's syntax (Rust)."""

import re
from collections.abc import Collection

_SPACE = r"\t\n\x0B\x0C\r \u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000\uFEFF"
_BREAKS = r"\n\r\u2028\u2029"
_LOOK = ("(?=", "(?!", "(?<=", "(?<!")
_IN_CLASS = {"s": _SPACE, "S": f"[^{_SPACE}]", "d": "0-9", "D": "[^0-9]", "w": "0-9A-Za-z_", "W": "[^0-9A-Za-z_]"}
_OUTSIDE = {name: text if text.startswith("[") else f"[{text}]" for name, text in _IN_CLASS.items()}
_REPEATED_GROUP = re.compile(r"\)[*+?{]")


class PatternError(ValueError):
    """What the engine cannot match, and where it stands."""

    def __init__(self, what: str, position: int) -> None:
        super().__init__(f"{what} at position {position}")
        self.what = what
        self.position = position


def refuse_beyond_regular(pattern: str) -> None:
    """Raises PatternError for look-around, back-references and word boundaries."""
    at, is_class = 0, False
    while at < len(pattern):
        if pattern[at] == "\\":
            _refuse_escape(pattern, at, is_class=is_class)
            at += 1
        elif is_class:
            is_class = pattern[at] != "]"
        elif pattern[at] == "[":
            is_class = True
            at += pattern.startswith("^", at + 1)
        elif pattern.startswith(_LOOK, at):
            raise PatternError("look-around", at)
        at += 1


def _refuse_escape(pattern: str, at: int, *, is_class: bool) -> None:
    letter = pattern[at + 1 : at + 2]
    if not letter:
        raise PatternError("a lone backslash", at)
    if is_class:
        return
    if letter in "bB":
        raise PatternError("a word boundary", at)
    if letter in "123456789k":
        raise PatternError("a back-reference", at)


def to_rust(pattern: str) -> str:
    """The same language, in the engine's syntax. Raises PatternError."""
    refuse_beyond_regular(pattern)
    _refuse_inner_anchors(pattern)
    out, at = [], 0
    while at < len(pattern):
        if pattern[at] == "[":
            text, at = _class(pattern, at)
        elif pattern[at] == "\\":
            text, at = _escape(pattern, at, _OUTSIDE)
        elif pattern[at] == ".":
            text, at = f"[^{_BREAKS}]", at + 1
        else:
            text, at = pattern[at], at + 1
        out.append(text)
    return "".join(out)


def _escape(pattern: str, at: int, classes: dict[str, str]) -> tuple[str, int]:
    letter = pattern[at + 1]
    if letter in classes:
        return classes[letter], at + 2
    if letter == "c" and pattern[at + 2 : at + 3].isalpha():
        return f"\\x{ord(pattern[at + 2]) % 32:02X}", at + 3
    if letter == "0":
        return "\\x00", at + 2
    if letter in "/-":
        return letter if letter == "/" else "\\-", at + 2
    if letter == "b":  # only in a class: backspace
        return "\\x08", at + 2
    if not letter.isascii() or (letter.isalpha() and letter not in "nrtfvpPux"):
        raise PatternError(f"\\{letter}", at)
    if letter == "u" and pattern[at + 2 : at + 4].lower() in {"d8", "d9", "da", "db", "dc", "dd", "de", "df"}:
        raise PatternError("half a character", at)
    return pattern[at : at + 2], at + 2


def _class(pattern: str, start: int) -> tuple[str, int]:
    """A bracket expression; brackets and doubled signs within it mean more in Rust than in ECMA."""
    out, at = ["["], start + 1
    if pattern.startswith("^", at):
        out.append("^")
        at += 1
    if pattern.startswith("]", at):
        raise PatternError("an empty class", start)
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "\\":
            text, at = _escape(pattern, at, _IN_CLASS)
        else:
            text, at = (f"\\{pattern[at]}" if pattern[at] in "[&~" else pattern[at]), at + 1
            if text == "-" and pattern.startswith("-", at):
                raise PatternError("--", at)
        out.append(text)
    if at == len(pattern):
        raise PatternError("an open class", start)
    return "".join([*out, "]"]), at + 1


def _refuse_inner_anchors(pattern: str) -> None:
    """Anchors may stand where an alternative begins or ends, on the outside; the engine has no others."""
    marks = _marks(pattern)
    is_repeated = _REPEATED_GROUP.search(pattern)
    for at, (position, sign) in enumerate(marks):
        if sign in "^$" and is_repeated and 0 < at < len(marks) - 1:
            raise PatternError(f"{sign} beside a repeated group", position)
        if sign == "^" and not _all_before(marks, at):
            raise PatternError("^ within", position)
        if sign == "$" and not _all_after(marks, at):
            raise PatternError("$ within", position)


def _marks(pattern: str) -> list[tuple[int, str]]:
    """Anchors, groups and bars; everything else is one x each."""
    marks, at = [], 0
    while at < len(pattern):
        start = at
        if pattern[at] == "\\":
            at += 2
            marks.append((start, "x"))
        elif pattern[at] == "[":
            at = _class(pattern, at)[1]
            marks.append((start, "x"))
        elif pattern[at] == "(":
            at += 1
            if pattern.startswith("?", at):
                end = min((found for sign in ":>)" if (found := pattern.find(sign, at)) >= 0), default=at)
                at = end if pattern[end] == ")" else end + 1
            marks.append((start, "("))
        else:
            at += 1
            marks.append((start, pattern[start] if pattern[start] in "^$|)" else "x"))
    return marks


def _all_before(marks: list[tuple[int, str]], at: int) -> bool:
    """Whether nothing can be matched before this place."""
    depth = 0
    while at > 0:
        at -= 1
        sign = marks[at][1]
        if sign == "|":  # another alternative: go on before its group
            depth = 1
            while at > 0 and depth:
                at -= 1
                depth += {")": 1, "(": -1}.get(marks[at][1], 0)
            if depth:
                return True
        elif sign not in "(^":
            return False
    return True


def _all_after(marks: list[tuple[int, str]], at: int) -> bool:
    """Whether nothing can be matched after this place."""
    while at + 1 < len(marks):
        at += 1
        sign = marks[at][1]
        if sign == "|":
            depth = 1
            while at + 1 < len(marks) and depth:
                at += 1
                depth += {"(": 1, ")": -1}.get(marks[at][1], 0)
            if depth:
                return True
        elif sign not in ")$":
            return False
    return True


def literal(text: str) -> str:
    """A pattern of exactly these characters."""
    return "".join(sign if sign.isalnum() or sign == "_" else f"\\u{{{ord(sign):X}}}" for sign in text)


def none_of(words: Collection[str]) -> str:
    """A pattern of every string that is none of these."""
    return f"^{_other_than(sorted(set(words)), 0)}$"


def _other_than(words: list[str], depth: int) -> str:
    """What may follow the first characters, which all of these share."""
    rest = [word for word in words if len(word) > depth]
    firsts = sorted({word[depth] for word in rest})
    options = [] if len(rest) < len(words) else [""]
    any_sign = r"[\s\S]"
    if not firsts:
        return f"(?:{any_sign}+)" if not options else f"(?:{any_sign}*)"
    other = "".join(literal(first) for first in firsts)
    options.append(f"[^{other}]{any_sign}*")
    options += [literal(one) + _other_than([word for word in rest if word[depth] == one], depth + 1) for one in firsts]
    return f"(?:{'|'.join(options)})"
