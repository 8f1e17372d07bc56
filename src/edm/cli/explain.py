"""``edm explain``: what would become of an answer about a name, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edm.cli.arguments import Arguments, Option, Spec
from edm.cli.printing import complain, say
from edm.config import Config, load
from edm.errors import ConfigError
from edm.files.visible import visible_json

TIMEOUT = 60.0
"""Seconds for the daemon's answer: it answers one question at a time."""

SPEC = Spec(
    positional="NAME",
    options=(
        Option("type", "The question's type: a name, or TYPE and a number.", default="A"),
        Option("client", "Address of the client that asks. Without it, no client is ignored."),
        Option("live", "Ask the running daemon, and nobody else.", kind="bool", default=False),
        Option("offline", "Decide by the files, also if a daemon runs.", kind="bool", default=False),
        Option("json", "Print the result as JSON.", kind="bool", default=False),
    ),
    about="Tell what would become of an answer about NAME: ignored by which prefix or entry, well known by which "
    "entry, seen before or not, and what its row would look like. A made-up answer goes through the stages of the "
    "pipeline. If a daemon runs with the data directory, the state that it is in decides; if not, the files of the "
    "configuration and the seen names on disk do. Nothing is stored or logged.",
)


def run(args: Arguments) -> int:
    """Explain the name; return 0."""
    options = args.options
    if options["live"] and options["offline"]:
        raise ConfigError("give either --live or --offline")
    config = load(args.config_file, args.flags, os.environ, purpose="minimise")
    # Imported only here: it brings the kernels' compiler with it.
    from edm.observe.control import NoControlError, ask
    from edm.trial.question import Question

    texts = [args.positional[0], str(options["type"]), str(options["client"] or "")]
    question = Question.parse(*texts)
    found: Mapping[str, Any] | None = None
    if not options["offline"]:
        try:
            request = {"ask": "explain", **dict(zip(("name", "type", "client"), texts, strict=True))}
            found = {"decided_by": "daemon", **ask(Path(config.data_dir), request, TIMEOUT)}
        except NoControlError as error:
            if options["live"]:
                raise
            note = str(error)
    if found is None:
        found = {"decided_by": "files", **_offline(config, question)}
    if options["json"]:
        print(visible_json(json.dumps(found, indent=2)))
        return 0
    _print(found)
    if found["decided_by"] == "files" and not options["offline"]:
        complain(args.program, f"decided by the files: {note}")
    return 0


def _offline(config: Config, question: Any) -> dict[str, Any]:
    from edm.rotation.interval import Interval
    from edm.snapshot import Snapshot
    from edm.snapshot.parts import load_parts, open_well_known
    from edm.stages.domains import DomainTable
    from edm.stages.new_qname.seen.reading import SavedNames
    from edm.stages.new_qname.seen.store import FOLDER_NAME
    from edm.trial.explain import explain

    parts = load_parts(config)
    snapshot = Snapshot(
        generation=0,
        config=config,
        pseudonyms=parts.pseudonyms,
        clients=parts.clients,
        ignored_names=parts.ignored_names,
        well_known=DomainTable.build(open_well_known(config)),
        interval=Interval.begin(1, 0, 1, 1),
        sessions=not config.disable_session_files,
        events=not config.disable_mqtt,
    )
    return explain(question, snapshot, SavedNames(Path(config.data_dir) / FOLDER_NAME), config)


def _print(found: Mapping[str, Any]) -> None:
    from edm.trial.telling import tell_explanation

    say(*tell_explanation(found))
    if found["decided_by"] == "daemon":
        say(f"Decided by the running daemon, process {found['pid']}, in state {found['generation']}.")
        if found["well_known_waits"]:
            say("It has loaded another list of well-known domains, which is used from the next rotation on.")
    else:
        say("Decided by the files of the configuration, and the seen names on disk.")
