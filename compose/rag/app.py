"""The demo's RAG with the agent in it; `prepare` is what a service of your own adds to itself.

It leaks by 10 MiB a second (`--growth`), answers on port 8000, and cleans up when it is asked by the agent's socket, by
`POST /cleanup`, or by SIGUSR1 (standard) and SIGUSR2 (aggressive).
"""

import sys

from sidecar import agent
from sidecar.demo import rag
from sidecar.demo.assistant import Assistant


def prepare(assistant: Assistant) -> None:
    """Tell the agent what may be given up, and start it."""
    answers, conversations = assistant.cache, assistant.conversations
    agent.register_cache("answers", trim=answers.evict, clear=lambda: answers.evict(1.0),
                         entries=lambda: len(answers), size_bytes=lambda: answers.bytes)

    @agent.on_cleanup(level="light")
    def forget(level: str) -> None:
        drop = {"light": conversations.forget_older_half, "standard": conversations.keep_last_turns}
        drop.get(level, conversations.clear)()

    agent.start()


if __name__ == "__main__":
    sys.exit(rag.main(prepare=prepare))
