"""What pandoc cannot read of AsciiDoc without other files and attributes of a site."""

from __future__ import annotations

import re

INCLUDED = "asciidoc includes another file, which is not read"

_PREPROCESSED = re.compile(r"(include|ifdef|ifndef|ifeval|endif)::\S*?\[(.*)\]\s*")
_MEDIA = re.compile(r"(image|video|audio)::(?=\S+\[)")
_ATTRIBUTE = re.compile(r":([\w-]+):\s+((?:https?://|mailto:|link:|xref:)\S+)\s*")
_ADDRESS = re.compile(r"(?<!\\)\{([\w-]+)\}(?=[^\s\[\]]*\[)")
_DELIMITER = re.compile(r"(?:-{4,}|\.{4,}|\+{4,}|/{4,}|`{3}.*)\s*")


def prepared(text: str) -> tuple[str, tuple[str, ...]]:
    """The text without conditions and includes, and notes. Text under a condition is kept.

    Attributes that are addresses are put where they are used, because pandoc takes them for text.
    """
    lines: list[str] = []
    addresses: dict[str, str] = {}
    includes, delimiter = False, ""
    for line in text.split("\n"):
        found = _PREPROCESSED.fullmatch(line)
        if found:
            includes |= found[1] == "include"
            lines.append(found[2] if found[1] in ("ifdef", "ifndef") else "")
            continue
        before = delimiter
        if _DELIMITER.fullmatch(line):
            mark = line.rstrip()
            if not delimiter:
                delimiter = mark[:3] if mark.startswith("```") else mark
            elif delimiter in (mark, mark[:3]):
                delimiter = ""
        if (before or delimiter).startswith("//"):  # pandoc takes a comment of several lines for a paragraph
            lines.append("")
            continue
        if not delimiter:
            if attribute := _ATTRIBUTE.fullmatch(line):
                addresses[attribute[1]] = attribute[2]
            elif addresses and "{" in line:
                lines.append(_ADDRESS.sub(lambda used: addresses.get(used[1], used[0]), line))
                continue
        is_media = not delimiter and _MEDIA.match(line)
        lines.append(_MEDIA.sub(r"\1:", line, count=1) if is_media else line)
    return "\n".join(lines), (INCLUDED,) if includes else ()
