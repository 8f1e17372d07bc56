"""All findings of ``edm doctor`` by their codes. A code never changes its meaning and is never used again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from edm.observe.status.findings import SEVERITIES, Severity


class Entry(NamedTuple):
    """A kind of finding: its severity, a short text, and what to do."""

    severity: Severity
    title: str
    advice: str


CATALOGUE: dict[str, Entry] = {
    "EDM001": Entry(
        "error",
        "the configuration is not valid",
        "Correct the named key; `edm check-config` shows all keys and where each value comes from.",
    ),
    "EDM002": Entry(
        "error",
        "a file, folder or address that a start needs cannot be used",
        "Correct the path or its owner and mode, for the user that runs EDM.",
    ),
    "EDM003": Entry(
        "error", "a setting can never work", "Correct it: the daemon starts with it, and the part then fails."
    ),
    "EDM004": Entry("warning", "a setting is not as safe as it could be", "See what the line says."),
    "EDM010": Entry(
        "error",
        "the user of a DNS server cannot write to the socket",
        "Set `input-unix-mode` to 0660 and `input-unix-owner` to `:GROUP`, with a group that the DNS server's user is "
        "in, and let that group enter the folder. On Debian and Ubuntu, AppArmor may also need a line "
        "(docs/operations.md).",
    ),
    "EDM011": Entry(
        "info",
        "kernels are not compiled for this machine yet",
        "The first start takes half a minute longer. `edm run` compiles them before it says ready.",
    ),
    "EDM012": Entry(
        "warning",
        "the limit of open files is too low for input-max-connections",
        "Raise the hard limit (`LimitNOFILE=` of the service) or lower `input-max-connections`.",
    ),
    "EDM013": Entry(
        "warning",
        "little memory is available",
        "EDM needs some 300 MiB, and more with many seen names; docs/performance.md has the numbers.",
    ),
    "EDM014": Entry(
        "warning",
        "the clock is not synchronised",
        "Run a time service (chrony, systemd-timesyncd). Core refuses uploads of a clock that is seconds ahead.",
    ),
    "EDM015": Entry(
        "error",
        "the disk of data-dir is nearly full",
        "Make room: EDM removes session files below disk-min-free-bytes.",
    ),
    "EDM020": Entry(
        "error",
        "no TLS connection to the MQTT broker",
        "See the reason: name, network, the broker's certificate (`mqtt-ca-file`), or ours.",
    ),
    "EDM021": Entry(
        "error",
        "no TLS connection to the receiver of histograms",
        "See the reason: name, network, the receiver's certificate (`http-ca-file`), or ours.",
    ),
    "EDM022": Entry(
        "warning",
        "a client certificate expires soon",
        "Renew it; a running daemon takes it up by itself.",
    ),
    "EDM023": Entry("error", "a client certificate has expired", "Renew it: Core refuses it."),
    "EDM024": Entry(
        "warning",
        "a connection to Core is not encrypted",
        "Use `mqtts://` and `https://`: names and counts can be read and changed on their way.",
    ),
    "EDM030": Entry(
        "warning",
        "no running daemon answers",
        "Start it, or name its address with `--address`. What needs a running daemon was not looked at.",
    ),
    "EDM031": Entry("error", "the running daemon says that something is wrong", "See what the line says."),
    "EDM032": Entry(
        "warning", "the running daemon says that something is worth a look", "See what the line says."
    ),
    "EDM033": Entry(
        "warning",
        "the running daemon is of another version than this command",
        "Restart it, so that it runs the version that is installed.",
    ),
    "EDM040": Entry(
        "warning",
        "no DNS server sends anything",
        "Check the server's dnstap settings; docs/operations.md has them for each server.",
    ),
    "EDM041": Entry(
        "error",
        "only queries come, no answers",
        "Let the server log client responses, too: EDM makes its data from answers.",
    ),
    "EDM042": Entry(
        "warning",
        "no answer matches the list of well-known domains",
        "Is it the right list? `edm dawg search` looks names up in it.",
    ),
    "EDM043": Entry(
        "warning",
        "the same answers come as two message types",
        "They count twice. Let the server log one kind only, or set `input-message-types`.",
    ),
    "EDM044": Entry(
        "warning",
        "many frames cannot be used",
        "See the fates on the status page: is it dnstap, and are its messages whole?",
    ),
}


@dataclass(frozen=True)
class Found:
    """A finding: a code of the catalogue, and the details in ``text``, which must be escaped when it is printed."""

    code: str
    text: str

    @property
    def entry(self) -> Entry:
        """The catalogue's entry of the code."""
        return CATALOGUE[self.code]

    @property
    def rank(self) -> tuple[int, str]:
        """Sort key: worst first, then by code."""
        return SEVERITIES.index(self.entry.severity), self.code


def render() -> str:
    """Return the table in docs/doctor.md."""
    rows = ["| code | severity | what is found | what to do |", "|---|---|---|---|"]
    rows += [f"| `{code}` | {e.severity} | {e.title} | {e.advice} |" for code, e in CATALOGUE.items()]
    return "\n".join(rows) + "\n"


__all__ = ["CATALOGUE", "Entry", "Found", "render"]
