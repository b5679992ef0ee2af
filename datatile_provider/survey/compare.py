"""
What changed between the earlier waves and this one: pure functions.

Names are compared without regard to case, as DATATILE does (documented). Labels are compared without regard to spaces
and Unicode form, because programs change both when they export.
"""

from __future__ import annotations

import collections
import statistics
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace

from datatile_provider.survey.findings import Finding
from datatile_provider.survey.model import Code, Survey, Variable, fold, shown, shown_codes


def compare(wave: Survey, references: Sequence[Survey], row_ratio: float) -> Iterator[Finding]:
    """
    Yield what changed.

    :param wave: this wave.
    :param references: the earlier waves, the latest last. What the latest does not have may be new in it, or dropped
        before, so only what it has can be gone.
    :param row_ratio: how many times more or fewer interviews than the earlier waves are too many.
    """
    if not references:
        return
    known, latest = _merged(references), references[-1].by_name
    now = wave.by_name
    gone = [v for name, v in latest.items() if name not in now]
    undescribed = {fold(name) for reference in references for name in reference.undescribed}
    new = [v for name, v in now.items() if name not in known.keys() | undescribed]
    labelled = wave.labelled and all(reference.labelled for reference in references)
    renamed = list(_renamed(gone, new))
    for before, after in renamed:
        yield Finding("renamed-variable", after.name, before.name, after.name)
    befores, afters = {before.name for before, _ in renamed}, {after.name for _, after in renamed}
    yield from (Finding("variable-gone", v.name, before=_described(v)) for v in gone if v.name not in befores)
    yield from (Finding("new-variable", v.name, after=_described(v)) for v in new if v.name not in afters)
    for name, after in now.items():
        if name in known:
            yield from _variable(known[name], after, latest.get(name), labelled=labelled)
    yield from _rows(wave, references, row_ratio)


def not_loaded(file: Survey, database: Survey) -> Iterator[Finding]:
    """
    Yield the variables and codes of a loaded file that the database does not have.

    :param database: what its codebook says. Of a variable without codes there, none is compared.
    """
    known = database.by_name
    undescribed = set(map(fold, database.undescribed))
    for name, variable in file.by_name.items():
        if name not in known:
            if name not in undescribed:
                yield Finding("variable-not-loaded", variable.name, after=_described(variable))
            continue
        there = known[name].labels
        for code in sorted((variable.labels.keys() - there.keys()) if there else (), key=_order):
            yield Finding("code-not-loaded", variable.name, after=_shown(variable, [code]), codes=(code,))


def _merged(references: Sequence[Survey]) -> dict[str, Variable]:
    """Return each variable as the latest wave has it, with the codes of the earlier ones."""
    merged: dict[str, Variable] = {}
    for reference in references:
        for name, variable in reference.by_name.items():
            earlier = merged.get(name, variable)
            missing = earlier.missing if variable.missing is None else variable.missing
            kind = earlier.kind if variable.kind == "unknown" else variable.kind
            labels = {**earlier.labels, **variable.labels}
            merged[name] = replace(variable, kind=kind, labels=labels, missing=missing)
    return merged


def normal(label: str) -> str:
    """Return a label as it is compared."""
    return " ".join(unicodedata.normalize("NFKC", label).split())


def _described(variable: Variable) -> str:
    return variable.label or shown_codes(variable.labels.items()) or variable.kind


def _renamed(gone: Sequence[Variable], new: Sequence[Variable]) -> Iterator[tuple[Variable, Variable]]:
    """Yield the pairs of a gone and a new variable with the same label or codes, if no other variable has them."""
    paired: set[str] = set()
    for signature in (_label, _labels, _values):
        before, after = _unique(gone, signature), _unique(new, signature)
        for key in before.keys() & after.keys():
            old, now = before[key], after[key]
            # Questions of a battery share their codes, so two labels decide.
            decided = signature is not _label and bool(old.label and now.label)
            if not decided and old.name not in paired and now.name not in paired:
                paired |= {old.name, now.name}
                yield old, now


def _unique(variables: Sequence[Variable], signature: Callable[[Variable], Hashable]) -> dict[Hashable, Variable]:
    """Return the variables whose signature no other has."""
    counts = collections.Counter(map(signature, variables))
    return {key: variable for variable in variables if (key := signature(variable)) and counts[key] == 1}


def _label(variable: Variable) -> Hashable:
    return variable.label and (normal(variable.label), variable.kind)


def _labels(variable: Variable) -> Hashable:
    return len(variable.labels) > 1 and frozenset(_normal(variable.labels).items())


def _values(variable: Variable) -> Hashable:
    return len(variable.values) > 1 and variable.values


def _normal(labels: Mapping[Code, str]) -> dict[Code, str]:
    return {code: normal(label) for code, label in labels.items()}


def _variable(before: Variable, after: Variable, latest: Variable | None, *, labelled: bool) -> Iterator[Finding]:
    if "unknown" in (before.kind, after.kind):
        # Without values, neither the type nor a code can be compared.
        return
    known = before.missing is not None
    was, now = (_type(variable, labelled=labelled, missing=known) for variable in (before, after))
    if was != now:
        # Its codes have changed too, for the same reason.
        yield Finding("type-changed", after.name, was, now)
        return
    if not labelled:
        return
    if before.label and normal(before.label) != normal(after.label):
        yield Finding("label-changed", after.name, before.label, after.label or "(none)")
    if before.missing is not None and set(before.missing) != set(after.missing or ()):
        yield Finding("missing-codes-changed", after.name, _missing(before), _missing(after))
    yield from _codes(before, after, latest)


def _type(variable: Variable, *, labelled: bool, missing: bool) -> str:
    if labelled and (variable.is_categorical if missing else variable.labels):
        return "labelled text" if variable.kind == "text" else "categories"
    return variable.kind


def _missing(variable: Variable) -> str:
    texts = (shown(low) if low == high else f"{shown(low)} to {shown(high)}" for low, high in variable.missing or ())
    return ", ".join(texts) or "(none)"


def _codes(before: Variable, after: Variable, latest: Variable | None) -> Iterator[Finding]:
    old, new = _normal(before.labels), _normal(after.labels)
    moved = {code for pair in _moved(old, new).values() for code in pair}
    if moved:
        codes = tuple(sorted(moved, key=_order))
        yield Finding("scale-reversed", after.name, _shown(before, codes), _shown(after, codes), codes)
    for code in sorted((old.keys() | new.keys()) - moved, key=_order):
        was, now = _shown(before, [code]), _shown(after, [code])
        if code not in old:
            yield Finding("new-code", after.name, "", now, (code,))
        elif code in new:
            if old[code] != new[code]:
                yield Finding("other-label", after.name, was, now, (code,))
        elif latest is not None and code in latest.labels:
            yield Finding("code-gone", after.name, was, "", (code,))


def _shown(variable: Variable, codes: Sequence[Code]) -> str:
    return shown_codes((code, variable.labels[code]) for code in codes if code in variable.labels)


def _order(code: Code) -> tuple[bool, Code]:
    return isinstance(code, str), code


def _moved(old: Mapping[Code, str], new: Mapping[Code, str]) -> dict[str, tuple[Code, Code]]:
    """Return the labels whose code is another one, with both codes. A label of several codes has no code of its own."""
    codes = []
    for labels in (old, new):
        counts = collections.Counter(labels.values())
        codes.append({label: code for code, label in labels.items() if label and counts[label] == 1})
    return {label: (code, codes[1][label]) for label, code in codes[0].items() if codes[1].get(label, code) != code}


def _rows(wave: Survey, references: Sequence[Survey], ratio: float) -> Iterator[Finding]:
    earlier = [reference.rows for reference in references if reference.rows]
    if not earlier or not wave.rows:
        return
    usual = statistics.median(earlier)
    if not usual / ratio <= wave.rows <= usual * ratio:
        yield Finding("row-count", before=f"{usual:,.0f} interviews", after=f"{wave.rows:,} interviews")
