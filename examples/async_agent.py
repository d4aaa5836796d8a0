"""Three questions at once on one event loop, each its own trace, and a fourth that the caller gives up on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from scripted_model import ChatScripted, call

from aiobs_core import flush, using_attributes
from aiobs_langchain import LangChainInstrumentor

STOCK = {"headphones": 12, "speakers": 0, "cables": 140}


@tool
async def count_stock(item: str) -> int:
    """How many pieces of an item are in the warehouse."""
    await asyncio.sleep(0.02 if item in STOCK else 60)  # an unknown item has everyone searching
    return STOCK[item]


def ask_for_stock(messages: Sequence[BaseMessage]) -> AIMessage:
    return AIMessage("", tool_calls=[call("count_stock", item=_item(messages[-1].text))])


def say_how_many(messages: Sequence[BaseMessage]) -> AIMessage:
    question = next(message.text for message in reversed(messages) if isinstance(message, HumanMessage))
    return AIMessage(f"{question} {messages[-1].text}")


agent = create_agent(
    ChatScripted(script=[ask_for_stock, say_how_many], streaming=True, first_chunk_s=0.06),
    [count_stock],
    name="warehouse_clerk",
)


async def answer(question: str) -> str:
    with using_attributes(request_id=_item(question)):  # holds in this task only
        result = await agent.ainvoke({"messages": [HumanMessage(question)]})
    return str(result["messages"][-1].text)


async def main() -> None:
    for said in await asyncio.gather(*(answer(f"How many {item}?") for item in STOCK)):
        print(said)
    try:
        await asyncio.wait_for(answer("How many turntables?"), timeout=0.3)
    except asyncio.TimeoutError:
        print("How many turntables? The caller waited for 0.3 s: cancelled, which is not an error.")


def _item(question: str) -> str:
    return question.strip("?").rsplit(maxsplit=1)[-1]


if __name__ == "__main__":
    os.environ.setdefault("AIOBS_CONSOLE", "tree")
    # The whole process in one line. On Python 3.10 LangChain loses `callbacks` on their way into async nodes.
    LangChainInstrumentor().instrument()
    asyncio.run(main())
    flush()
