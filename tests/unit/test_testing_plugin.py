"""The fixtures for pytest, as in a test run of somebody else."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"
SUITE = """
    import asyncio

    from holdfast import Flow
    from holdfast.testing import TestEngine, TestHandle, VirtualClock

    flow = Flow("nap").then(str).delay("nap", "30d")

    def test_an_engine_on_a_clock(holdfast_engine, holdfast_clock):
        begun = holdfast_clock.now()

        async def main():
            async with holdfast_engine(workflows=[flow]) as env:
                assert isinstance(env, TestEngine)
                return await env.run(flow, 42)

        assert asyncio.run(main()) == "42"
        assert (holdfast_clock.now() - begun).days == 30

    def test_an_engine_that_goes_on_where_another_one_was(holdfast_engine, tmp_path):
        url = f"sqlite:///{tmp_path / 'runs.db'}"

        async def main():
            async with holdfast_engine(url, workflows=[flow], replace={"str": lambda: "first"}) as env:
                await env.start(flow, 42, id="nap-42")
                await env.advance("10d")
            async with holdfast_engine(url, workflows=[flow]) as env:
                handle = await env.get("nap-42")
                await env.advance("20d")
                return (await handle.status()).output

        assert asyncio.run(main()) == "first"

    def test_a_clock_of_its_own(holdfast_clock):
        assert holdfast_clock.now() == VirtualClock().now()
"""


def test_the_fixtures_are_there_without_being_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    ended = pytester.runpytest_subprocess("-W", "error")
    ended.assert_outcomes(passed=3)


def test_the_page_tells_how(pytester: pytest.Pytester) -> None:
    blocks: list[str] = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    pytester.makepyfile(test_page="\n".join(blocks))
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_the_plugin_is_announced() -> None:
    """Where this fails, the environment is older than `pyproject.toml`: `make test` brings it up to date."""
    (found,) = entry_points(group="pytest11", name="holdfast")
    assert found.value == "_holdfast_pytest"


def test_a_test_run_without_the_fixtures_does_not_load_the_package(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_nothing_of_it_is_there():
            assert "_holdfast_pytest" in sys.modules
            assert not [name for name in sys.modules if name.split(".")[0] in ("holdfast", "msgspec")]
    """)
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_the_plugin_imports_nothing_but_pytest() -> None:
    code = "import _holdfast_pytest, sys; sys.exit('holdfast' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
