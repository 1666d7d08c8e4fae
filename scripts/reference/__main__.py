"""Write the pages and pictures that are made from the code: `make reference`."""

from __future__ import annotations

import sys

from scripts.reference import PROJECT, made

if __name__ == "__main__":
    for path, text in made().items():
        place = PROJECT / path
        if not place.exists() or place.read_text("utf-8") != text:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, "utf-8")
            sys.stdout.write(f"{path}\n")
