"""Write Python's help topics as two texts, one to pre-train on and one to fine-tune on: `python halves.py <directory>`.

Both end with a line of every character of the whole text, so that they share one vocabulary.
"""

from __future__ import annotations

import sys
from pathlib import Path
from pydoc_data.topics import topics


def main(directory: Path) -> None:
    """Write first.txt and second.txt."""
    names = sorted(topics)
    alphabet = "".join(sorted(set("".join(topics.values()))))
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in (("first", names[: len(names) // 2]), ("second", names[len(names) // 2 :])):
        text = "".join(topics[topic] for topic in part)
        (directory / f"{name}.txt").write_text(f"{text}\n{alphabet}\n", encoding="utf-8")
        print(f"{directory / name}.txt: {len(text):,} characters, {len(part)} topics")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
