"""What a type checker makes of durable functions; mypy reads this file, nothing runs it."""

from datetime import datetime
from typing import assert_type
from uuid import UUID

from holdfast import Context, task, workflow


@task
async def fetch(address: str) -> bytes:
    return address.encode()


@task
def count(page: bytes) -> int:
    return len(page)


@workflow
async def crawl(ctx: Context, address: str) -> int:
    page = await ctx.step(fetch, address)
    assert_type(page, bytes)
    found = await ctx.step(count, page, name="length", retries=2)
    assert_type(found, int)
    assert_type(await ctx.step(lambda: "x"), str)
    assert_type(await ctx.wait_signal("approval", type=bool), bool)
    assert_type(await ctx.race(ctx.step(count, page), ctx.step(count, b"")), int)
    assert_type(ctx.now(), datetime)
    assert_type(ctx.random(), float)
    assert_type(ctx.uuid(), UUID)
    return found


@workflow("named", timeout="3d")
async def named(ctx: Context) -> None:
    await crawl(ctx, "a part of this one")


async def called(ctx: Context) -> None:
    assert_type(await crawl(ctx, "x"), int)
    await crawl(ctx, 1)  # type: ignore[arg-type]
    await named(ctx, "x")  # type: ignore[call-arg]
