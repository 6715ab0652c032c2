"""Download a public data set and unpack it into VOC layout.

python -m segkit.tools.download dataset=voc2012 out=PATH [mirror=URL] [key=value ...]
"""

import sys
from dataclasses import dataclass

from segkit.cli.arguments import run_tool
from segkit.commands import argument, command
from segkit.config.schema import REQUIRED, option
from segkit.console import say
from segkit.data.classes import read_lines, write_lines
from segkit.errors import DataError
from segkit.files import user_path
from segkit.tools.datasets import PUBLIC, check_disk_space, room_needed
from segkit.tools.fetch import fetch


@dataclass
class Request:
    """The keys of ``download``."""

    dataset: str = option(REQUIRED, "which one", choices=tuple(PUBLIC))
    out: str = option(REQUIRED, "folder for the data", path=True)
    archives: str | None = option(None, "folder for the archives; null: archives in out", path=True)
    mirror: str | None = option(None, "URL of a folder that has the same archives")
    force: bool = option(False, "unpack over what is there")
    dry_run: bool = option(False, "only say what would be done")


def download(request: Request) -> None:
    """Stopped anywhere, the same command goes on where it was."""
    data, out = PUBLIC[request.dataset], user_path(request.out)
    folder = user_path(request.archives) if request.archives else out / "archives"
    if (out / "labels.txt").exists() and not request.force:
        raise DataError(
            f"{out}: holds a data set already. Add force=true to unpack over it, or give out= "
            "another folder"
        )
    if (out / "labels.txt").exists() and read_lines(out / "labels.txt") != list(data.classes):
        raise DataError(
            f"{out}: holds a data set with other classes (labels.txt), whose files would stay "
            f"beside those of {request.dataset}. Give out= another folder"
        )
    paths = [folder / archive.name for archive in data.archives]
    urls = [
        f"{request.mirror.rstrip('/')}/{archive.name}" if request.mirror else archive.url
        for archive in data.archives
    ]
    say(f"{request.dataset}: {data.terms}")
    for archive, path, url in zip(data.archives, paths, urls, strict=True):
        checked = (
            f"MD5 {archive.md5}" if archive.md5 else "no check sum is known: masks are checked"
        )
        state = "is there" if path.exists() else f"from {url}"
        say(f"  {path} (about {archive.gigabytes} GB) {state}; {checked}")
    if request.dry_run:
        say(f"dry run: would unpack to {out}")
        return
    if not all(path.exists() for path in paths):
        check_disk_space(out, room_needed(data))
    for archive, path, url in zip(data.archives, paths, urls, strict=True):
        fetch(url, path, archive.md5)
    out.mkdir(parents=True, exist_ok=True)
    data.unpack(paths, out)
    data.check(out)
    write_lines(out / "labels.txt", data.classes)  # last: with it the data set counts as complete
    lists = ", ".join(f"{count} in {split}" for split, count in data.images.items())
    say(f"unpacked to {out}: {lists}. {folder} is not needed any more")
    say(f"next: {command('check')} {argument('data.root', out)}")


if __name__ == "__main__":
    sys.exit(run_tool(Request, download, sys.argv[1:], str(__doc__)))
