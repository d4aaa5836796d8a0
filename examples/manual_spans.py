"""Code that no framework reports: a request in six stages, told with `span` and `observe`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator

from aiobs_core import Kind, Operation, Outcome, Usage, flush, get_recorder, observe, span, using_attributes

RULES = {"return": "30 days from delivery"}


@observe(kind="guardrail", stage="pre_process")
def check(question: str) -> str:
    time.sleep(0.01)
    return question.strip().lower()


@observe(kind="retriever", stage="external_api")
async def find_rules(question: str) -> list[str]:
    await asyncio.sleep(0.05)
    return [rule for word, rule in RULES.items() if word in question]


@observe(kind="tool")  # its stage follows from its kind: external_api
async def days_since_delivery(order: str) -> int:
    await asyncio.sleep(0.08)
    return len(order) * 2


async def generate(prompt: str) -> AsyncIterator[str]:
    """Call a model by hand: what was asked, each chunk, what came back."""
    recorder, key = get_recorder(), object()
    recorder.start(key, Operation(kind=Kind.MODEL, name="chat", provider="by_hand", model="rules-1"))
    words = f"You have {prompt}.".split(" ")
    for word in words:
        await asyncio.sleep(0.02)
        recorder.chunk(key)
        yield word
    usage = Usage(input_tokens=len(prompt) // 4, output_tokens=len(words))
    recorder.end(key, Outcome(usage=usage, finish_reasons=("stop",)))


@observe(kind="evaluator", stage="post_process")
def is_grounded(answer: str, rules: list[str]) -> bool:
    return any(rule in answer for rule in rules)


@observe(kind="tool", stage="response_send")  # a generator: from its first item to its last
def send(answer: str) -> Iterator[str]:
    for word in answer.split(" "):
        time.sleep(0.005)
        yield word


async def serve(question: str) -> str:
    with span("serve a question", kind="workflow", stage="prompt_receive") as request:
        checked = check(question)
        rules, days = await asyncio.gather(find_rules(checked), days_since_delivery("A-1042"))
        request.set_attribute("shop.days_since_delivery", days)
        answer = " ".join([word async for word in generate(rules[0])])
        request.set_attribute("shop.is_grounded", is_grounded(answer, rules))
        return " ".join(send(answer))


if __name__ == "__main__":
    os.environ.setdefault("AIOBS_CONSOLE", "tree")
    with using_attributes(request_id="r-17", session_id="s-4", tags=["beta"], prompt_name="returns"):
        print(asyncio.run(serve(" How long can I RETURN my headphones? ")))
    flush()
