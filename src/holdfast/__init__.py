"""Holdfast: durable workflows in a Python program.

Every completed step is recorded before the next one starts, so a run survives crashes, deploys and waiting.
"""

from holdfast import errors
from holdfast.definition.flow import Flow
from holdfast.definition.function import Function, workflow
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge, Join, Pause, Sleep, Step, WaitSignal
from holdfast.definition.task import Task, task
from holdfast.definition.workflow import Completion, FollowUp, Workflow
from holdfast.engine import AsyncEngine, AsyncHandle, arun
from holdfast.errors import WorkflowError
from holdfast.runtime.context import TaskContext, get_task_context
from holdfast.runtime.durable import Context
from holdfast.runtime.explain import Explanation
from holdfast.runtime.views import JournalEntry, RunStatus, RunSummary
from holdfast.sync import Engine, Handle, run

__all__ = [
    "AsyncEngine",
    "AsyncHandle",
    "Completion",
    "Context",
    "Edge",
    "Engine",
    "Explanation",
    "Flow",
    "FollowUp",
    "Function",
    "Handle",
    "Join",
    "JournalEntry",
    "Pause",
    "Retry",
    "RunStatus",
    "RunSummary",
    "Sleep",
    "Step",
    "Task",
    "TaskContext",
    "WaitSignal",
    "Workflow",
    "WorkflowError",
    "arun",
    "errors",
    "get_task_context",
    "run",
    "task",
    "workflow",
]
