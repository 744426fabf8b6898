"""Make the pictures of the tutorial from a real run: terminals as SVG, and the report as PNG with headless Chromium.

    python docs/make_pictures.py                                     # the quickstart, which takes some minutes
    python docs/make_pictures.py --optim.duration "1 epoch"          # flags of mlm-dist train

It writes docs/images/terminal_plan.svg, terminal_train.svg and report.png. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from rich.console import Console
from rich.text import Text

from mlm_dist.commands.env import without_home

IMAGES = Path(__file__).resolve().parent / "images"
COLUMNS, LINES = 100, 45
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_CONTROL = re.compile(r"\x1b\[(\?25[lh]|\d*[AK])|[\r\n]")


def main() -> None:
    """Run plan and train in a terminal of their own, and write the pictures."""
    flags = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for job in ("plan", "train"):
            written = in_terminal(["mlm-dist", job, *flags], Path(folder))
            lines = screen(without_places(written, Path(folder)))
            shown = lines if len(lines) <= LINES else [*lines[: LINES // 2], "…", *lines[-LINES // 2 :]]
            picture(f"mlm-dist {job}", shown, IMAGES / f"terminal_{job}.svg")
        (page,) = Path(folder).glob("runs/*/report.html")
        page.write_text(without_places(page.read_text("utf-8"), Path(folder)), "utf-8")
        photograph(page, IMAGES / "report.png")


def without_places(text: str, folder: Path) -> str:
    """A text without the folder of the run, and with ~ for the home of the user."""
    for place in {str(folder), str(folder.resolve())}:
        text = text.replace(f"{place}/", "")
    return without_home(text)


def in_terminal(command: list[str], folder: Path) -> str:
    """All that a program writes to a terminal.

    Raises:
        SystemExit: The program failed.
    """
    main, terminal = pty.openpty()
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "PATH": path}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=terminal, stderr=terminal, stdin=terminal)
    os.close(terminal)
    written = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # Linux: the program has closed the terminal
            break
        if not part:
            break
        written += part
    os.close(main)
    text = written.decode("utf-8", "replace")
    if process.wait():
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}:\n{text}")
    return text


def screen(written: str) -> list[str]:
    """The lines that remain on a terminal: progress bars are drawn over themselves."""
    lines, at, position = [""], 0, 0
    for control in _CONTROL.finditer(written):
        lines[at] += written[position : control.start()]
        position = control.end()
        match control[0]:
            case "\n":
                at += 1
                if at == len(lines):
                    lines.append("")
            case "\r":
                if not written.startswith("\n", position):
                    lines[at] = ""
            case up if up.endswith("A"):
                at = max(0, at - int(up[2:-1] or 1))
            case erase if erase.endswith("K"):
                lines[at] = ""
    lines[at] += written[position:]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def picture(title: str, lines: list[str], path: Path) -> None:
    """Write lines of a terminal as an SVG that names no font of another host."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {title}", style="bold"))
        for line in lines:
            console.print(Text.from_ansi(line))
        svg = console.export_svg(title="")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    path.write_text(svg, "utf-8")


def photograph(page: Path, path: Path) -> None:
    """Write the top of a page as a PNG.

    Raises:
        SystemExit: There is no Chromium.
    """
    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if program is None:
        raise SystemExit(f"report.png needs one of {', '.join(CHROMIUM)}")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,1400"]
    subprocess.run([program, *flags, f"--screenshot={path}", page.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
