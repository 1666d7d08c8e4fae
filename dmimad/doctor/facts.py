"""What `dmimad doctor` found out about a host, before anybody judges it: pure records.

Source: none; each record says what it was read from.  None stands for "could not be looked at"; why is in
the record's `trouble`.  Nothing in here reads anything.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from dmimad.config import Caution
from dmimad.core.device import Dialect

_DENIED = frozenset({errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something could not be looked at: `code` is an errno, 0 if the operating system gave none."""

    what: str
    where: str
    code: int = 0
    remedy: str = ""

    @property
    def denied(self) -> bool:
        """Whether more rights would have helped."""
        return self.code in _DENIED


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """The running kernel: ``uname``, ``/proc/cmdline``, its build configuration, ``security/ima/policy``.

    Attributes:
        version: major and minor of `release`; None if it does not begin with numbers.
        options: ``CONFIG_IMA…`` lines of the build configuration that are set, with their values.
        options_file: where they were read; empty if there is no readable configuration.
        options_looked: where one was looked for.
        policy: the rules of the IMA policy in force, one text each.
        device_mapper: device-mapper is in the running kernel, built in or loaded (``/proc/devices``).
    """

    release: str
    version: tuple[int, int] | None
    command_line: str | None
    options: tuple[tuple[str, str], ...]
    options_file: str
    options_looked: tuple[str, ...]
    policy: tuple[str, ...] | None
    policy_trouble: Trouble | None
    device_mapper: bool | None

    def option(self, name: str) -> str:
        """A build option's value, "n" if it is not set; "" if the configuration is not known."""
        return dict(self.options).get(name, "n" if self.options_file else "")


@dataclass(frozen=True, slots=True)
class ListEvidence:
    """What the records of a list say about the kernel that wrote them: the last one, if there are several.

    Attributes:
        from_boot: the list begins with the boot's first record: nothing was trimmed.
        critical_data: IMA measured its ``kernel_version``, and so critical data from the first moment on.
        dialect: the one records are read in; `proven` if one of them settles it; None without a dm record.
        dm_version: as the last dm record gives it; empty if none does.
        repeated: dm records that are in the list already, which a deduplicating kernel drops.
        overflows: tables whose last target was neither measured nor hashed.
        findings: code and count of findings of severity warning or above, but for those overflows.
        names, uuids: those of all mapped devices that were ever measured.
    """

    form: str
    bank: str
    records: int
    violations: int
    boots: int
    from_boot: bool
    critical_data: bool
    dm_records: int
    dialect: Dialect | None
    proven: bool
    dm_version: str
    repeated: int
    overflows: int
    findings: tuple[tuple[str, int], ...]
    names: frozenset[bytes]
    uuids: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ListFacts:
    """The measurement list: the kernel's own, or a file it is mirrored to.

    Attributes:
        kernel: the kernel serves it; False for a mirrored file.
        securityfs_mounted, ima: is anything in securityfs, and is the ``integrity/ima`` directory there.
        mode: permission bits of the list's file; None if there is none.
        whole: it was read to its end within the time there is.
        broken: why it could not be read on as a list, empty if it could.
    """

    path: str
    kernel: bool
    securityfs_mounted: bool
    ima: bool
    mode: int | None
    trouble: Trouble | None = None
    evidence: ListEvidence | None = None
    whole: bool = False
    broken: str = ""


@dataclass(frozen=True, slots=True)
class BankFacts:
    """One PCR bank: what the TPM has in PCR 10 and what the list leads to (None: not computable)."""

    bank: str
    actual: bytes
    replayed: bytes | None
    agrees: bool


@dataclass(frozen=True, slots=True)
class TpmFacts:
    """PCR 10 of the TPM, compared with the list.

    `unused`: it is all zeros though the list is not empty, so that IMA has never extended it.
    """

    enabled: bool
    trouble: Trouble | None = None
    present: bool = False
    banks: tuple[BankFacts, ...] = ()
    compared_at: int = 0
    unused: bool = False


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """What the second witness saw: `devices` with a live table, and the names of those no record knows."""

    enabled: bool
    trouble: Trouble | None = None
    dm_version: str = ""
    devices: int | None = None
    unmeasured: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """The daemon that holds the state directory's lock.

    Attributes:
        running: None if that cannot be told.
        holds_list: it has the list open; None if its descriptors could not be looked at.
    """

    running: bool | None
    pid: int | None = None
    holds_list: bool | None = None


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """One attempt to connect to the MQTT broker: `trouble` is why it failed."""

    enabled: bool
    where: str
    protocol: int
    tls: bool
    loopback: bool
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """What the daemon serves over HTTP, metrics or the status page.

    Attributes:
        where: address and port.
        how: whether with TLS, and for whom.
        free: nothing listens there; None: any port will do.
        cautions: what works, and should not stay so.
        trouble: why the daemon could not serve there.
    """

    enabled: bool
    where: str
    how: str = ""
    free: bool | None = None
    cautions: tuple[Caution, ...] = ()
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """The state database, read without changing anything: `trouble` if it cannot be used."""

    path: str
    exists: bool
    owner: int | None = None
    trouble: Trouble | None = None
    pending: int = 0
    dead: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StateFacts:
    """The state directory, or where it would be made.

    Attributes:
        exists: whether it is there; if not, the other attributes are those of its parent directory.
        parent: whether its parent directory is there.
        writable: for whoever asks; None if that says nothing, because the daemon runs as somebody else.
    """

    directory: str
    exists: bool
    is_directory: bool
    parent: bool
    owner: int | None = None
    mode: int | None = None
    writable: bool | None = None
    read_only: bool = False
    free_bytes: int | None = None
    free_inodes: int | None = None
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class BaselineFacts:
    """The baseline directory: how many entries it has, or why it is refused."""

    directory: str
    exists: bool
    mode: int | None = None
    entries: int | None = None
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class SettingsFacts:
    """The settings in force, which are usable or nothing would be checked.

    `exposed`: files with secrets that everybody on the host can read; `writable`: the settings file, if
    everybody can write it.
    """

    file: str
    host_id: str
    exists: bool
    exposed: tuple[str, ...] = ()
    writable: bool = False
    hold_open: bool = True
    trim_expected: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a host, at about one instant."""

    root: bool
    unix_time: float
    dmimad_version: str
    python_version: str
    settings: SettingsFacts
    kernel: KernelFacts
    list: ListFacts
    tpm: TpmFacts
    live: LiveFacts
    daemon: DaemonFacts
    broker: BrokerFacts
    metrics: EndpointFacts
    page: EndpointFacts
    state: StateFacts
    database: DatabaseFacts
    baseline: BaselineFacts
