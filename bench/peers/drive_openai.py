"""The `openai` package used as in its README: one `AsyncOpenAI`, `gather`, a semaphore per call.

It sends nothing but its requests. Its own retries are on, as by default. No resume.
"""

from __future__ import annotations

import asyncio

import measure
from openai import AsyncOpenAI
from workload import MODEL, STAGES, Row, due, messages, new_row, put


async def main(job: measure.Job) -> None:
    """Make all dialogues, and write the figures."""
    client = AsyncOpenAI(base_url=job.url, api_key="none", timeout=600)
    places = asyncio.Semaphore(job.open)

    async def dialogue(index: int) -> Row:
        row = new_row(index)
        for stage in STAGES:
            if not due(stage, row):
                continue
            async with places:
                reply = await client.chat.completions.create(
                    model=MODEL,
                    messages=messages(stage, row),
                    max_tokens=stage.max_tokens,
                    temperature=stage.temperature,
                )
            row = put(stage, row, reply.choices[0].message.content or "")
        return row

    clock = measure.Clock()
    rows = await asyncio.gather(*(dialogue(index) for index in range(job.n)))
    clock.stop(job, "openai", rows)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(measure.job()))
