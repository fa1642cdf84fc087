"""An app with the agent inside. Argument: the folder that `agent.py` was copied to. Python 3.8 and later.

Each line of its input is a JSON string with Python in it, an expression or statements, which the main thread carries
out; the answer is a line of JSON: [value, ""] or [null, what was raised].
"""

import json
import os
import sys

sys.path.insert(0, sys.argv[1])

import agent

room = {"agent": agent, "os": os, "sys": sys}


def carry_out(text):
    """Its value, or None."""
    try:
        code = compile(text, "told", "eval")
    except SyntaxError:
        exec(text, room)  # noqa: S102
        return None
    return eval(code, room)  # noqa: S307


def answer(line):
    """What happened, in words that JSON has."""
    try:
        return [carry_out(json.loads(line)), ""]
    except Exception as error:  # whatever a test had it do
        return [None, f"{type(error).__name__}: {error}"]


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(line), default=repr) + "\n")
        sys.stdout.flush()
