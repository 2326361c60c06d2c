"""Does the chat page really answer? Ends with 0 only if it does: `make run` asks this at its end.

.venv/bin/python scripts/smoke.py http://127.0.0.1:5000/
"""

from __future__ import annotations

import re
import sys
import time
from urllib.error import HTTPError
from urllib.request import urlopen

WAIT_SECONDS, ASK_SECONDS, PAUSE_SECONDS = 15.0, 5.0, 0.2


def ask(url: str) -> tuple[str, str]:
    """The host that answered, or why that was no chat page."""
    try:
        with urlopen(url, timeout=ASK_SECONDS) as answer:
            page = answer.read().decode(errors="replace")
    except HTTPError as error:
        return "", f"status {error.code}"
    except OSError as error:
        return "", str(error)
    host = re.search(r"Answered by <code>([^<]+)</code>", page)
    return (host[1], "") if host else ("", "something else than dockchat answers there")


def main(url: str) -> int:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        host, problem = ask(url)
        if host:
            print(f"smoke: {url} answers (container {host})")
            return 0
        if time.monotonic() > deadline:
            print(f"smoke: {url} does not show dockchat: {problem}\nhelp: miniorch ps dockchat", file=sys.stderr)
            return 1
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
