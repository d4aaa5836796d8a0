"""Two LlamaIndex agents that hand over to each other: who was asked, who answered, and what it took, in one trace."""

from __future__ import annotations

import asyncio
import os

from llama_index.core import Settings
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.callbacks import CallbackManager
from scripted_llm import ScriptedLLM, call

from aiobs_core import flush, using_attributes
from aiobs_llama_index import AiObsCallbackHandler

QUESTION = "The headphones of my order A-1042 crackle. Can I give them back, and what would I get?"


async def look_up_order(order_id: str) -> str:
    """What was ordered, for how much, and how many days ago it was delivered."""
    await asyncio.sleep(0.09)  # about what a database takes
    return f"{order_id}: headphones, 179.00 EUR, delivered 12 days ago"


def quote_refund(price_eur: float, days_since_delivery: int) -> str:
    """The amount that a customer gets back for an item."""
    return f"{price_eur:.2f} EUR" if days_since_delivery <= 30 else "0.00 EUR, but the repair is free"


def front_desk_and_cashier() -> AgentWorkflow:
    llm = ScriptedLLM(  # any LlamaIndex model that calls functions; the script is that of both agents
        script=[
            call("look_up_order", order_id="A-1042"),
            call("handoff", to_agent="cashier", reason="It is about money."),
            call("quote_refund", price_eur=179.0, days_since_delivery=12),
            call("handoff", to_agent="front_desk", reason="The refund is 179.00 EUR."),
            "Yes: you have 30 days to return them, and you get the full 179.00 EUR back.",
        ]
    )
    front_desk = FunctionAgent(
        name="front_desk",
        description="Talks with customers and knows their orders.",
        tools=[look_up_order],
        llm=llm,
        can_handoff_to=["cashier"],
    )
    cashier = FunctionAgent(
        name="cashier",
        description="Says how much money goes back.",
        tools=[quote_refund],
        llm=llm,
        can_handoff_to=["front_desk"],
    )
    return AgentWorkflow(agents=[front_desk, cashier], root_agent="front_desk")


async def main() -> None:
    with using_attributes(session_id="customer-7"):
        print(await front_desk_and_cashier().run(QUESTION))


if __name__ == "__main__":
    os.environ.setdefault("AIOBS_CONSOLE", "tree")
    Settings.callback_manager = CallbackManager([AiObsCallbackHandler()])
    asyncio.run(main())
    flush()
