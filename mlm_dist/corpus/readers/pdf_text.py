"""Writes the text of a PDF file from standard input to standard output; `pdf.PdfReader` runs it as a program.

The exit status is 3 if the file cannot be read, 4 if it is encrypted, 5 if it takes too much memory and 6 if its text
is longer than the first argument, in bytes.
"""

from __future__ import annotations

import sys

MEMORY = 3 << 30  # bytes of address space


def main() -> int:
    """Run the program."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # there is no such limit on this system
    try:
        return write(sys.stdin.buffer.read(), int(sys.argv[1]))
    except MemoryError:
        return 5


def write(data: bytes, max_bytes: int) -> int:
    """Write the text of all pages, with a blank line between two, and return the exit status."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        return 4 if "password" in str(error).lower() or "security" in str(error).lower() else 3
    size = 0
    for i in range(len(document)):
        try:
            page = document[i]
            text = page.get_textpage().get_text_bounded(errors="replace").strip()
        except pypdfium2.PdfiumError:
            continue  # a damaged page
        page.close()
        encoded = text.encode("utf-8", "replace")
        size += len(encoded)
        if size > max_bytes:
            return 6
        if encoded:
            sys.stdout.buffer.write(encoded + b"\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
