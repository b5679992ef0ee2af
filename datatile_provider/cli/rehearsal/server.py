"""The server of a rehearsal: each request to it is written down, and what its responses show is used at once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from datatile_provider.api import errors
from datatile_provider.api.client import DatatileClient
from datatile_provider.api.models import Action, Job, Upload
from datatile_provider.api.multipart import MultipartBody
from datatile_provider.api.responses import Response
from datatile_provider.api.settings import Settings
from datatile_provider.cli.rehearsal import learning
from datatile_provider.cli.rehearsal.exchange import Exchange, Reading, Record, Step, described, reading
from datatile_provider.cli.rehearsal.survey import dataset, survey

#: The id of a job, and the beginning of a database's hash, that no server has.
NOWHERE = "rehearsal-nowhere"


class _Recorder(DatatileClient):
    """A client that keeps the raw response to its last request."""

    response: Response | None = None
    whole_body_sent: bool = False

    def _ask(self, method: str, url: str, body: MultipartBody | None = None, **limits: Any) -> Response:
        try:
            self.response = super()._ask(method, url, body, **limits)
            return self.response
        finally:
            self.whole_body_sent = body is None or body.complete


class RecordedServer:
    """
    Sends requests, and writes each down in :attr:`record`.

    :param connect: returns the connection's settings with further options.
    :param configured: the options of the connection that say how the server speaks.
    :param folder: the hash of the folder to create a database in.
    :param callback_url: the URL for a callback, or ``""``.
    :param say: shows a line to a person.
    """

    def __init__(
        self,
        connect: Callable[[Mapping[str, Any]], Settings],
        configured: Mapping[str, Any],
        folder: str,
        callback_url: str,
        say: Callable[[str], None],
    ) -> None:
        self._connect, self._callback_url, self._say = connect, callback_url, say
        self.settings = connect({})
        self.record = Record(self.settings.server, configured, folder, f"rehearsal-{secrets.token_hex(4)}.sav")

    def upload(
        self, step: Step, action: Action, target: str, content: bytes | None = None, settings: Settings | None = None
    ) -> Reading:
        file = dataset(self.record.name, survey() if content is None else content)
        upload = Upload(action, target, file.name, file.size)
        callback = self._callback_url if step is Step.CALLBACK else None
        parts = (*((self.settings.server.callback_field,) if callback else ()), "dataset")
        exchange = Exchange(step, "POST", self.settings.server.upload_url(action, target), parts, upload)
        return self._exchange(exchange, settings, lambda client: client.upload(upload, file, callback))

    def poll(self, step: Step, job_id: str, settings: Settings | None = None) -> Reading:
        url = (settings or self.settings).server.job_url(job_id)
        return self._exchange(
            Exchange(step, "GET", url, job_id=job_id), settings, lambda client: client.get_job(job_id)
        )

    def _exchange(
        self, exchange: Exchange, settings: Settings | None, send: Callable[[DatatileClient], Job]
    ) -> Reading:
        client = _Recorder(settings or self.settings)
        error = None
        try:
            send(client)
        except errors.DatatileError as e:
            error = e
        finally:
            # Also when a signal interrupts the request: the server may have the upload.
            made = replace(exchange, response=client.response, error=error, whole_body_sent=client.whole_body_sent)
            self.record.exchanges.append(made)
        found = reading((settings or self.settings).server, made)
        if exchange.upload:
            self._say(f"{exchange.step.value}: {described(found, upload=True)}")
        return found

    def use(self, options: Mapping[str, Any]) -> None:
        if not options:
            return
        learned = {**self.record.learned, **options}
        try:
            settings = self._connect(learned)
        except errors.InvalidInputError:
            return
        self.record.learned, self.settings, self.record.server = learned, settings, settings.server
        for name, value in options.items():
            self._say(f"learned: {learning.as_json({name: value})}")

    def find_job(self, exchange: Exchange) -> str:
        """Return the job's id from a response that names it in an unusual field: the one that can be polled."""
        candidates = learning.id_candidates(self.settings.server, exchange)
        paths = dict.fromkeys(
            path for _, job_id in candidates for path in learning.job_paths(self.settings.server, exchange, job_id)
        )
        for path in ("", *paths):
            known = [(field, job_id) for field, job_id in candidates if self._is_job_at(path, job_id)]
            if len({job_id for _, job_id in known}) == 1:
                self.use({"job_id_field": known[0][0], **({"job_path": path} if path else {})})
                return known[0][1]
        return ""

    def find_path(self, job_id: str) -> bool:
        """Find the address of a job that is not at ``job_path``, and use it."""
        upload = next((e for e in reversed(self.record.exchanges) if e.upload), None)
        for path in learning.job_paths(self.settings.server, upload, job_id):
            if self._is_job_at(path, job_id):
                self.use({"job_path": path})
                return True
        return False

    def _is_job_at(self, path: str, job_id: str) -> bool:
        """Return whether the server knows a job at a path, and no job with a made-up id."""
        learned = {**self.record.learned, **({"job_path": path} if path else {})}
        try:
            settings = self._connect(learned)
        except errors.InvalidInputError:
            return False
        self.poll(Step.FIND, job_id, settings)
        if not learning.is_about(self.record.exchanges[-1], job_id):
            return False
        self.poll(Step.FIND, NOWHERE, settings)
        return not self.record.exchanges[-1].succeeded
