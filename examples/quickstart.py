"""A support agent with tools and a retriever, observed with one line: `"callbacks": [AiObsCallbackHandler()]`.

make demo                                                              offline, on a scripted model
make demo ARGS='--model openai:gpt-5-mini'                             any chat model LangChain knows
make demo ARGS='--model qwen3 --base-url http://localhost:8080/v1'     any OpenAI-compatible server
make demo ARGS=--local                                                 a real small model, on this CPU
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from handbook import HandbookRetriever
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import create_retriever_tool, tool
from scripted_model import ChatScripted, call

from aiobs_core import Settings, flush
from aiobs_langchain import AiObsCallbackHandler

QUESTION = "The headphones of my order A-1042 crackle. Can I give them back, and what would I get?"
ORDERS = {"A-1042": {"item": "headphones", "price_eur": 179.0, "days_since_delivery": 12}}
SCRIPT = [
    AIMessage(
        "Let me see the order and our rules.",
        tool_calls=[
            call("look_up_order", order_id="A-1042"),
            call("search_handbook", query="return, refund"),
        ],
    ),
    AIMessage("", tool_calls=[call("quote_refund", price_eur=179.0, days_since_delivery=12)]),
    AIMessage(
        "Yes: your headphones came 12 days ago, and you have 30 days to return them. "
        "You get the full 179.00 EUR back, on the card you paid with, within five working days."
    ),
]


@tool
def look_up_order(order_id: str) -> dict[str, object] | str:
    """What was ordered, for how much, and how many days ago it was delivered."""
    time.sleep(0.09)  # about what a database takes
    return ORDERS.get(order_id, "There is no such order.")


@tool
def quote_refund(price_eur: float, days_since_delivery: int) -> str:
    """The amount that a customer gets back for an item."""
    return f"{price_eur:.2f} EUR" if days_since_delivery <= 30 else "0.00 EUR, but the repair is free"


def answer(question: str, model: BaseChatModel) -> str:
    rules = create_retriever_tool(HandbookRetriever(), "search_handbook", "Search the shop's handbook.")
    agent = create_agent(
        model,
        [look_up_order, quote_refund, rules],
        name="shop_assistant",
        system_prompt="You help the customers of a shop for headphones. Look things up; never guess.",
    )
    result = agent.invoke(
        {"messages": [HumanMessage(question)]}, config={"callbacks": [AiObsCallbackHandler()]}
    )
    return str(result["messages"][-1].text)


def chosen_model(name: str | None, base_url: str | None) -> BaseChatModel:
    if name is None:
        return ChatScripted(script=SCRIPT, streaming=True)
    if base_url is None:
        return init_chat_model(name, streaming=True)
    return init_chat_model(
        name.removeprefix("openai:"),
        model_provider="openai",
        base_url=base_url,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),  # most servers of one's own want none
        streaming=True,
        stream_usage=True,  # without it LangChain asks no server but OpenAI's for token counts
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a support agent, and see what it does.")
    parser.add_argument("--model", help="such as openai:gpt-5-mini; default: a script, offline")
    parser.add_argument("--base-url", metavar="URL", help="OpenAI-compatible server that has --model")
    parser.add_argument("--local", action="store_true", help="a real model of 270M parameters, on this CPU")
    options = parser.parse_args()
    if options.base_url and not options.model:
        parser.error("--base-url needs --model: the name of a model that the server has")
    # By itself aiobs prints one line, and the tree only of slow or failed runs.
    os.environ.setdefault("AIOBS_CONSOLE", "tree")
    try:
        if options.local:
            from local_model import answer_locally

            print(answer_locally("When do I get my money back?"))
        else:
            print(answer(QUESTION, chosen_model(options.model, options.base_url)))
    except Exception as error:
        if options.model is None:
            raise
        sys.exit(f"{options.model} did not answer. {type(error).__name__}: {error}")
    is_delivered = flush()
    settings = Settings.load()
    if settings.otlp_endpoint:
        print(f"{'Sent' if is_delivered else 'Could not be sent'} to {settings.otlp_endpoint}")
    elif settings.store != "off":
        beside_python = os.path.relpath(Path(sys.executable).with_name("aiobs"))
        aiobs = "aiobs" if shutil.which("aiobs") else beside_python
        print(f"Look again:  {aiobs} runs  ·  {aiobs} show last")


if __name__ == "__main__":
    main()
