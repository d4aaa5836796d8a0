"""The shop's front: FastAPI around a LangGraph agent, which asks the stock over gRPC and sends a letter by the queue."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TypedDict

sys.path.insert(0, str(Path(__file__).parents[1]))  # the models that play a script

import queues
import stock
import uvicorn
from fastapi import FastAPI
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import StateGraph
from pydantic import BaseModel
from scripted_model import ChatScripted

from aiobs_asgi import AiObsMiddleware
from aiobs_grpc import GrpcInstrumentor
from aiobs_langchain import AiObsCallbackHandler


class State(TypedDict, total=False):
    question: str
    answer: str


class Question(BaseModel):
    question: str


@tool
def look_into_stock(article: str) -> int:
    """How many pieces of an article there are."""
    return stock.pieces_of(os.environ["SHOP_STOCK"], article)


@tool
def send_letter(question: str) -> str:
    """Have the details written to the customer, later."""
    queues.send(os.environ["SHOP_QUEUE"], {"question": question})
    return "on its way"


def answer(state: State, config: RunnableConfig) -> State:
    model = ChatScripted(script=[AIMessage("There are some. The details come by letter.")], streaming=True)
    pieces = look_into_stock.invoke({"article": "headphones"}, config)
    send_letter.invoke({"question": state["question"]}, config)
    return {"answer": model.invoke(f"{state['question']} There are {pieces}.", config).text}


GrpcInstrumentor().instrument()
graph = StateGraph(State).add_node("answer", answer).set_entry_point("answer").compile(name="shop")
app = FastAPI()
app.add_middleware(
    AiObsMiddleware,
    exclude=["/healthz"],
    user=lambda asked: asked.header("x-user"),
    session=lambda asked: asked.cookie("session"),
)


@app.get("/healthz")
def healthz() -> dict[str, bool]:
    return {"ok": True}


@app.post("/ask")
async def ask(question: Question) -> dict[str, str]:
    found = await graph.ainvoke(
        {"question": question.question}, config={"callbacks": [AiObsCallbackHandler()]}
    )
    return {"answer": found["answer"]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
