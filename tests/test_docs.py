"""The pages of docs/ do what they say: their blocks run, in order, each page in an empty directory of its own.

A block marked `console` runs its lines that begin with "$ " (a line "> " continues the one before) in a shell; what
else stands in it is output, for the reader. Blocks marked `python` of a page share their names. Other blocks are shown
and not run.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "README.md"})  # the list of the others
SLOW = set(
    "classify continue evaluate formats guide models optimisers pictures report search seq2seq subwords tools".split()
)
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text):
    """(language, line number of its first line, contents) of each block that is run."""
    for match in BLOCK.finditer(text):
        yield match[1], text.count("\n", 0, match.start(2)) + 1, match[2]


def commands(block):
    """The commands of a console block, without prompts."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif line.startswith("> ") and found:
            found[-1] += "\n" + line[2:]
    return found


def run_page(path, folder):
    """Run a page in a folder, which is the current directory; AssertionError naming the line that failed."""
    programs = folder.parent / "bin"
    programs.mkdir()
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    beside = Path(sys.executable).parent  # torchrun, in an environment that need not be activated
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"], str(beside)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    names = {"__name__": "__main__"}
    ran = 0
    for language, line, block in blocks(path.read_text(encoding="utf-8")):
        ran += 1
        if language == "python":
            code = compile("\n" * (line - 1) + block, str(path), "exec")
            exec(code, names)
            continue
        for command in commands(block):
            done = subprocess.run(
                command, shell=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            assert done.returncode == 0, f"{path.name}, block at line {line}: $ {command}\n{done.stdout}"
    return ran


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in PAGES]
)
def test_page(page, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert run_page(page, folder) > 0


def test_links_lead_somewhere_and_every_page_is_listed():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
    listed = set(re.findall(r"\(([a-z0-9]+\.md)\)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    assert listed == {page.name for page in PAGES}


def test_pages_that_do_not_do_what_they_say(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    page = tmp_path / "page.md"
    console = "```console\n$ cat > x <<E\n> one\n> E\n$ echo two >> x\nshown\n```\n"
    page.write_text(f"text\n{console}\n```python\nx = open('x').read()\n```\n")
    assert run_page(page, folder) == 2
    assert (folder / "x").read_text() == "one\ntwo\n"
    (tmp_path / "bin" / "python").unlink(), (tmp_path / "bin").rmdir()
    page.write_text("```console\n$ python -c 'import w2v_ext'\n$ false\n```\n")
    with pytest.raises(AssertionError, match=r"page.md, block at line 2: \$ false"):
        run_page(page, folder)
    (tmp_path / "bin" / "python").unlink(), (tmp_path / "bin").rmdir()
    page.write_text("text\n```python\nx = 1\nassert x == 2\n```\n```text\n$ false\n```\n")
    with pytest.raises(AssertionError) as failed:
        run_page(page, folder)
    assert failed.traceback[-1].lineno == 3  # counted from 0: the page's own line 4
