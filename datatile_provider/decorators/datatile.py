"""``@task.datatile_upload``: a function that returns the path of the file to upload."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from datatile_provider.api import errors
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.first_step import Cleared
from datatile_provider.version_compat import AIRFLOW_VERSION

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskDecorator

_KEY = "dataset"


class DatatileUploadDecoratedOperator(DecoratedOperator, DatatileUploadOperator):
    """
    Uploads the file whose path a function returns.

    The function is called once per attempt. A retry that resumes an earlier attempt's upload does not call it. A
    cleared task calls it, to compare the file with the one that was sent. While the task is deferred, the path is kept
    as the XCom ``dataset``.

    :param python_callable: the function.
    :param op_args: its positional arguments. (templated)
    :param op_kwargs: its keyword arguments. (templated)
    """

    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *DatatileUploadOperator.template_fields)
    custom_operator_name = "@task.datatile_upload"
    overwrite_rtif_after_execution = True
    if AIRFLOW_VERSION == (3, 0):
        # Airflow reads this attribute of every decorated task after the file was sent, and its base class has none.
        xcom_push = None

    def __init__(self, *, python_callable: Callable[..., Any], **kwargs: Any) -> None:
        placeholder = f"(what {getattr(python_callable, '__name__', 'the function')} returns)"
        super().__init__(python_callable=python_callable, dataset=placeholder, **kwargs)

    def find_dataset(self, context: Context, *, to_compare_after: Cleared | None = None) -> bool:
        """Call the function, unless only Airflow retries the task: it may write another file each time."""
        if to_compare_after is Cleared.NO:
            return False
        # This attempt may have called it already, before a deferral.
        if not self._recall(context["ti"]):
            self.dataset = self._call(context)
            context["ti"].xcom_push(key=_KEY, value=self.dataset)
        return True

    def _recall(self, ti: Any) -> bool:
        found = ti.xcom_pull(task_ids=self.task_id, key=_KEY, map_indexes=ti.map_index)
        self.dataset = found or self.dataset
        return bool(found)

    def _call(self, context: Context) -> str:
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        found = self.python_callable(*self.op_args, **kwargs)
        # Checked on the class: on the object it would connect to the store.
        if not isinstance(found, (str, os.PathLike)) and not hasattr(type(found), "fs"):
            raise errors.InvalidInputError(
                f"{self.python_callable.__name__} returned {found!r}",
                hint="It must return the path or URI of the file to upload.",
            )
        return str(found)

    def recall_dataset(self, context: Context) -> None:
        """Set ``dataset`` to the path that the function has returned in this attempt."""
        with contextlib.suppress(Exception):  # any XCom backend's; the file was sent
            self._recall(context["ti"])


def datatile_upload_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """
    Turn a function that returns a path into a task that uploads that file.

    :param python_callable: the function.
    :param kwargs: parameters of :class:`~datatile_provider.operators.datatile.DatatileUploadOperator`, but ``dataset``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=DatatileUploadDecoratedOperator, **kwargs
    )
