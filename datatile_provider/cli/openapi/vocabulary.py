"""Names and words of several languages: which state of a job a word or a text stands for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from datatile_provider.api.models import ServerConfig
from datatile_provider.api.states import JobState, state_of
from datatile_provider.cli.openapi.names import listed

# English, German, French, Spanish, Russian, Polish, Czech. A word that has two meanings is left out, such as German
# "beendet" (ended) or English "ready".
_PHRASES = {
    JobState.QUEUED: """
        queue, queued, in queue, in the queue, in line, pending, waiting, awaiting, waiting to be processed, accepted,
        submitted, scheduled, enqueued, received, not started, not yet started, to be processed
        wartet, wartend, warteschlange, in warteschlange, in der warteschlange, eingereiht, angenommen, ausstehend,
        geplant, wartet auf verarbeitung, empfangen
        attente, en attente, en file, file d attente, en file d attente, planifie, planifiee, recu
        en cola, cola, pendiente, en espera, esperando, espera, programado, programada, aceptado, recibido
        в очереди, очередь, ожидает, ожидание, ожидает обработки, ожидает выполнения, принят, принято,
        поставлен в очередь
        w kolejce, kolejka, oczekuje, oczekujace, oczekujacy, oczekiwanie, czeka, przyjete, przyjety, zaplanowane
        ve fronte, fronta, ceka, ceka ve fronte, cekajici, prijato, naplanovano
        """,
    JobState.RUNNING: """
        running, processing, in progress, in process, started, executing, importing, ongoing, being processed,
        being imported, is processed, is being processed, is being imported, underway
        lauft, laeuft, laufend, in bearbeitung, wird bearbeitet, wird verarbeitet, in verarbeitung, verarbeitung,
        wird importiert, wird geladen, gestartet, in arbeit, bearbeitung
        en cours, en traitement, traitement, traitement en cours, en cours de traitement, en execution, demarre
        en curso, en proceso, procesando, procesandose, en ejecucion, ejecutando, importando, en progreso
        выполняется, обрабатывается, в обработке, обработка, в работе, в процессе, запущен, запущено, импортируется
        w toku, przetwarzanie, w trakcie, w trakcie przetwarzania, przetwarzane, trwa, importowanie, w realizacji,
        uruchomione
        probiha, zpracovava se, zpracovani, bezi, spusteno, spusten, importuje se
        """,
    JobState.SUCCEEDED: """
        succeeded, success, successful, successfully, completed, complete, finished, done, processed, imported
        fertig, erfolgreich, abgeschlossen, erledigt, importiert, verarbeitet, erfolg
        termine, terminee, reussi, reussie, reussite, succes, acheve, achevee, fini, finie
        completado, completada, terminado, terminada, finalizado, finalizada, exito, exitoso, exitosa, hecho, listo
        завершен, завершено, завершена, выполнен, выполнено, готово, готов, успешно, успех, обработан, обработано
        zakonczone, zakonczono, zakonczony, ukonczone, ukonczono, gotowe, sukces, wykonane, przetworzone
        dokonceno, dokonceny, hotovo, uspech, uspesne, zpracovano, ukonceno
        """,
    JobState.FAILED: """
        failed, failure, fail, error, errors, errored, rejected, invalid, nok, ko, crashed, unsuccessful
        fehlgeschlagen, fehlschlag, fehler, gescheitert, fehlerhaft, abgelehnt, misslungen
        echec, echoue, echouee, erreur, erreurs, en erreur, en echec, rejete, rejetee
        fallido, fallida, fallo, fallado, fracasado, fracaso, rechazado, rechazada, errores
        ошибка, ошибки, ошибкой, сбой, неудача, неудачно, отклонен, отклонено, провал, не выполнено, не выполнен
        blad, bledem, bledy, zakonczone bledem, zakonczone niepowodzeniem, niepowodzenie,
        niepowodzeniem, nieudane, odrzucone
        chyba, chybou, selhalo, selhal, neuspech, neuspesne, zamitnuto, odmitnuto
        """,
    JobState.CANCELLED: """
        cancelled, canceled, aborted, terminated, stopped, revoked, killed
        abgebrochen, storniert, annulliert, gestoppt
        annule, annulee, interrompu, interrompue, arrete, arretee, abandonne
        cancelado, cancelada, anulado, anulada, abortado, detenido
        отменен, отменено, отменена, прерван, прервано, остановлен, остановлено
        anulowane, anulowano, anulowany, przerwane, przerwano, zatrzymane
        zruseno, zrusen, zrusena, preruseno, zastaveno
        """,
}
_NEGATIONS = listed("not no never non without nicht ohne kein keine sans pas sin без не нет bez nie ne")
#: Words after which a text is not only about the state itself: "will fail if …", "until an earlier one is finished".
_UNCERTAIN = set(
    listed(
        """
        may might can could will would should until unless if before after when once partial partially partly or yet
        warnings kann bis wenn nach vor falls oder teilweise noch peut jusqu si avant apres quand partiellement ou puede
        hasta antes despues cuando parcialmente может если до после когда или частично moze jesli przed po gdy lub
        czesciowo pokud nebo castecne
        """
    )
)
_SHORT = 6
_LONG = 14


def tokens(text: str) -> list[str]:
    """Return the words of a name or a text, in lower case and without accents: ``jobId`` is ``job`` and ``id``."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    folded = unicodedata.normalize("NFKD", text.casefold().replace("ł", "l"))
    folded = "".join(c for c in folded if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", folded)


_STATES = {
    tuple(tokens(phrase)): state
    for state, phrases in _PHRASES.items()
    for phrase in re.split(r",|\n", phrases)
    if phrase.strip()
}
_LONGEST = max(map(len, _STATES))
_DEFAULTS = ServerConfig("")


def state_in(text: str) -> tuple[JobState | None, bool]:
    """
    Return the one state that a word or a text is about, and whether it is clear; None if it is about none or several.

    :param text: the word or the text, in one of the known languages.
    """
    words = tokens(text)
    usual = state_of(_DEFAULTS, text)
    if usual is not JobState.UNKNOWN:
        return usual, True
    found = _states(words)
    if set(words) & _UNCERTAIN and tuple(words) not in _STATES:
        return None, False
    if len(found) == 1:
        return found.pop(), len(words) <= _LONG
    final = found - {JobState.QUEUED, JobState.RUNNING}
    if len(words) <= _SHORT and len(found) == 2 and len(final) < 2:
        # "Processing failed" has failed, "waiting for processing" waits; "accepted and done" is neither.
        if not final:
            return JobState.QUEUED, True
        return (final.pop(), True) if JobState.RUNNING in found else (None, False)
    return None, False


def _states(words: list[str]) -> set[JobState]:
    found = set()
    start = 0
    negated = False
    while start < len(words):
        length = next((n for n in range(_LONGEST, 0, -1) if tuple(words[start : start + n]) in _STATES), 0)
        if length and not negated:
            found.add(_STATES[tuple(words[start : start + length])])
        # "without any errors": a negation reaches two words far.
        negated = words[start] in _NEGATIONS or (start > 0 and words[start - 1] in _NEGATIONS and not length)
        start += length or 1
    return found


def has_any(words: Iterable[str], stems: Iterable[str]) -> bool:
    """Return whether one of some words begins with one of some stems."""
    stems = tuple(stems)
    return any(word.startswith(stems) for word in words)
