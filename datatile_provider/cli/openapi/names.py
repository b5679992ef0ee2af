"""The words by which fields and operations are recognised, in the languages of :mod:`.vocabulary`."""

from __future__ import annotations


def listed(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.split())


#: Beginnings of words for a job.
JOBS = listed(
    """
    job task auftrag auftraeg vorgang vorgaeng aufgabe tache travail travaux tarea trabajo zadani uloh ukol
    задач задан
    """
)
#: Beginnings of words for what a job does, or where it waits.
WORK = listed(
    """
    process import ticket queue operation proceso procesu traitement verarbeitung execution run batch upload status
    state progress ingest load обработ очеред импорт
    """
)
#: Words for an id.
IDS = listed(
    """
    id ids number no nr num nummer kennung numero key uuid guid ticket ref reference identifier hash handle cislo numer
    номер
    """
)
#: Words in the name of a field that is no id.
NOT_IDS = listed(
    """
    url uri href link name status state type at date time created count position message total size rows file filename
    eta seconds progress percent code self success ok error version action description title
    """
)
#: Beginnings of words for what is no job, and has an id too.
OTHERS = listed(
    """
    folder database db project user owner account tenant file dataset request correlation trace parent target
    destination row client ordner datenbank dossier base carpeta папк баз survey
    """
)
#: Names of a field that holds a status.
STATUS_NAMES = set(listed("status state phase stage zustand stand etat statut estado stan stav статус состояние"))
