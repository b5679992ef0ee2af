"""The fields of the connection form. Airflow 3.2 and later read them without importing the hook."""

from __future__ import annotations

import json
from typing import Any

from pydantic.fields import FieldInfo

from datatile_provider.api.options import Options

# The form has a text field for any other type.
_KINDS: dict[Any, str] = {float: "number", int: "integer", int | None: "integer", bool: "boolean"}


def _field(name: str, option: FieldInfo) -> dict[str, Any]:
    empty = " Empty: {}.".format(json.dumps(option.default).strip('"')) if option.default else ""
    return {
        "label": option.title or name.replace("_", " ").capitalize(),
        "schema": {"type": [_KINDS.get(option.annotation, "string"), "null"]},
        "description": f"{option.description}{empty}".replace("`", ""),
    }


#: The options of the connection's extra, as the provider info's ``conn-fields``.
OPTIONS = {name: _field(name, option) for name, option in Options.model_fields.items()}
#: The other fields, as the provider info's ``ui-field-behaviour``.
BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["login", "extra"],
    "relabeling": {"host": "Server", "schema": "Protocol", "password": "API token"},
    "placeholders": {
        "host": "datatile.example.com",
        "schema": "https if empty",
        # Airflow 3.3.2 tests a saved connection with 0 for an empty port, and rejects that as another destination.
        "port": "443 if empty; Airflow 3.3's Test button needs it filled in",
        "password": "From your DATATILE Profile page; a new token invalidates the old one",
    },
}


def widgets() -> dict[str, Any]:
    """Return the options as the widgets of Airflow before 3.2."""
    from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
    from wtforms import BooleanField, IntegerField, StringField
    from wtforms.validators import Optional

    def widget(label: str, schema: dict[str, Any], description: str) -> Any:
        kind = schema["type"][0]
        if kind == "boolean":
            return BooleanField(label, description=description)
        # Airflow accepts no class for other numbers: they are parsed from text.
        made = IntegerField if kind == "integer" else StringField
        return made(label, [Optional()], description=description, widget=BS3TextFieldWidget())

    return {name: widget(**option) for name, option in OPTIONS.items()}


def behaviour() -> dict[str, Any]:
    """Return the other fields, for Airflow before 3.2."""
    from datatile_provider.version_compat import AIRFLOW_2

    # The script of Airflow 2's form breaks at a click on "Test" when it has no editor for the extra.
    hidden = ["login"] if AIRFLOW_2 else BEHAVIOUR["hidden-fields"]
    return {"hidden_fields": hidden, "relabeling": BEHAVIOUR["relabeling"], "placeholders": BEHAVIOUR["placeholders"]}
