"""Renders chat templates, in a process of its own that may take only so much memory, time and room for its text.

A chat template is a program from whoever made the model. transformers renders it in jinja2's sandbox, which keeps it
from attributes and files but neither from looping for days nor from asking for a terabyte in one expression. Nothing
inside a process stops that safely: so this script runs beside, and dies where it goes too far.

It is run by its path, without the package: it needs no torch, and starts in half a second. Each line of its input asks
in JSON, each line of its output answers.
"""

import json
import resource
import signal
import sys
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template


def answer(request: dict[str, Any], characters: int) -> dict[str, str]:
    """What the template writes, as `text`, or why it writes nothing, as `error`."""
    try:
        rendered: Any = render_jinja_template(
            conversations=[request["messages"]],
            chat_template=request["template"],
            add_generation_prompt=request["add_generation_prompt"],
            continue_final_message=request["continue_final_message"],
            **request["names"],
        )
        text = str(rendered[0][0])
    except MemoryError:
        return {"error": "it needs more memory than a chat template may take"}
    except Exception as error:  # noqa: BLE001 (whatever a stranger's program raises is its answer)
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    if len(text) > characters:
        return {"error": f"it writes {len(text):,} characters, and more than {characters:,} are not read"}
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"error": "it writes half of a surrogate pair, which is no text"}
    return {"text": text}


def main(seconds: float, memory: int, characters: int) -> None:
    """Answers until the input ends. The kernel ends the process where one request takes it longer than `seconds`."""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (ValueError, OSError):
        # macOS refuses this limit; the time limit holds there all the same.
        sys.stderr.write("the memory of chat templates is not limited on this system\n")
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # Ctrl-C is for the one who asks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answered = json.dumps(answer(json.loads(line), characters)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(answered + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
