"""Draw the head of a report and its first images, as a browser shows them.

    python evaluate.py checkpoint=RUN report.write=true
    python benchmarks/report_image.py RUN/eval/val-best/report.html --out report.png

It needs a Chromium (apt install chromium), which shows the file without a window.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import PIL.Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from chromium import PROGRAM, Page

WIDTH, HEIGHT = 1100, 880  # of the window in pixels
GAP = 12
# The head of the page with the class table, then the cards of the images.
PARTS = ("body", "#images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="report.html that evaluate.py wrote")
    parser.add_argument("--out", type=Path, default=Path("report.png"))
    args = parser.parse_args()
    if not args.report.is_file():
        sys.exit(f"error: {args.report}: no such file; evaluate.py report.write=true writes one")
    if PROGRAM is None:
        sys.exit("error: there is no chromium here: apt install chromium")
    with tempfile.TemporaryDirectory() as folder:
        home, shot = Path(folder, "home"), Path(folder, "shot.png")
        with Page(args.report, home, width=WIDTH, height=HEIGHT) as page:
            page.run("document.querySelector('.about').remove()")  # folders of this machine
            parts = []
            for selector in PARTS:
                page.run(f"document.querySelector({selector!r}).scrollIntoView()")
                page.screenshot(shot, whole=False)
                with PIL.Image.open(shot) as image:
                    parts.append(image.convert("RGB"))
    drawn = PIL.Image.new("RGB", (len(parts) * (WIDTH + GAP) - GAP, HEIGHT), (120, 120, 120))
    for number, part in enumerate(parts):
        drawn.paste(part, (number * (WIDTH + GAP), 0))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # With 256 colours, chosen by the pixels they stand for, the file has a third of the size.
    drawn.quantize(256, kmeans=4).save(args.out, optimize=True)
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
