"""A graph that pauses for a person: two traces of one conversation, the second linked to the first."""

from __future__ import annotations

import os
import time
from typing import TypedDict

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.types import Command, interrupt
from scripted_model import ChatScripted

from aiobs_core import flush
from aiobs_langchain import AiObsCallbackHandler

model = ChatScripted(
    script=[AIMessage("The order is 12 days old, so all of it: 179.00 EUR.")],
    streaming=True,
    first_chunk_s=0.1,
)


class State(TypedDict, total=False):
    request: str
    proposal: str
    result: str


def propose(state: State) -> State:
    return {"proposal": model.invoke(f"How much do we pay back? {state['request']}").text}


def approve(state: State) -> State:
    verdict = interrupt(state["proposal"])  # the graph ends here, and comes back here with the answer
    return {"result": "paid back" if verdict == "yes" else "refused"}


refund_desk = (
    StateGraph(State)
    .add_sequence([propose, approve])
    .set_entry_point("propose")
    .compile(name="refund_desk", checkpointer=InMemorySaver())
)


def main() -> None:
    config: RunnableConfig = {
        "callbacks": [AiObsCallbackHandler()],
        "configurable": {"thread_id": "order-A-1042"},
    }
    paused = refund_desk.invoke({"request": "Order A-1042 crackles."}, config=config)
    flush()  # only to print the first tree before the question
    print(f"Clerk, do you approve? {paused['__interrupt__'][0].value}")
    time.sleep(0.5)  # hours, in life: a resumed run may be another process's
    print("Clerk: yes")
    resumed = refund_desk.invoke(Command(resume="yes"), config=config)
    flush()
    print(f"Customer, your money is {resumed['result']}.")


if __name__ == "__main__":
    os.environ.setdefault("AIOBS_CONSOLE", "tree")
    main()
