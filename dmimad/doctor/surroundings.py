"""What the daemon needs around it: its files, the baseline, the broker.

Source: the settings; SQLite's "Write-Ahead Logging" and URI parameters (``immutable``, ``readonly_shm``).

Nothing is written: the database is read as it lies there, or, while a daemon uses it, as one more reader;
the broker is asked for a connection under a client id of its own and without a last will, so that neither
a running daemon's connection nor its retained status is touched.  Whether the broker would let the daemon
publish is not tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import sqlite3
import stat
from functools import partial
from pathlib import Path
from urllib.parse import quote

import aiomqtt

from dmimad.adapters.mqtt import link as mqtt
from dmimad.adapters.store import DATABASE_NAME, SCHEMA_VERSION
from dmimad.baselines import Baselines, trusted_keys
from dmimad.core.errors import AdapterError, BaselineError
from dmimad.core.transport import uses_tls
from dmimad.doctor.bounded import bounded
from dmimad.doctor.facts import (
    BaselineFacts,
    BrokerFacts,
    DatabaseFacts,
    SettingsFacts,
    StateFacts,
    Trouble,
)
from dmimad.doctor.host import errno_behind, trouble_of, trouble_told
from dmimad.settings import MqttSettings, Settings

# -- files ---------------------------------------------------------------------------------


def look_at_settings(settings: Settings, file: Path) -> SettingsFacts:
    """The settings file, and the secrets that it names."""
    secrets = (settings.mqtt.password_file, settings.mqtt.tls_key_file, settings.alerts.signing_key_file)
    mode = _mode(file)
    return SettingsFacts(
        file=str(file),
        host_id=settings.host.id,
        exists=mode is not None,
        exposed=tuple(path for path in secrets if path and (_mode(Path(path)) or 0) & 0o006),
        writable=bool((mode or 0) & 0o002),
        hold_open=settings.source.hold_open,
        trim_expected=settings.source.trim_expected,
    )


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def look_at_state(directory: Path, user: int) -> StateFacts:
    """The state directory as the user with this id finds it; where there is none, its parent."""
    place, exists = directory, True
    try:
        try:
            status = directory.stat()
        except FileNotFoundError:
            place, exists = directory.parent, False
            try:
                status = place.stat()
            except FileNotFoundError:
                return StateFacts(str(directory), exists=False, is_directory=False, parent=False)
        space = os.statvfs(place)
    except OSError as error:
        where = trouble_of(error, place)
        return StateFacts(str(directory), exists=False, is_directory=False, parent=True, trouble=where)
    # What another than root or the owner may do says nothing about the daemon.
    telling = user in (0, status.st_uid)
    return StateFacts(
        directory=str(directory),
        exists=exists,
        is_directory=stat.S_ISDIR(status.st_mode),
        parent=True,
        owner=status.st_uid,
        mode=stat.S_IMODE(status.st_mode),
        writable=os.access(place, os.W_OK | os.X_OK) if telling else None,
        read_only=bool(space.f_flag & os.ST_RDONLY),
        free_bytes=space.f_bavail * space.f_frsize,
        free_inodes=space.f_favail if space.f_files else None,  # btrfs counts none
    )


def look_at_baseline(settings: Settings) -> BaselineFacts:
    """The baseline, as a daemon would read it that has accepted none yet."""
    directory = Path(settings.baseline.directory)
    mode = _mode(directory)
    facts = partial(BaselineFacts, str(directory), mode is not None, mode)
    try:
        keys = trusted_keys(settings)
        return facts(entries=len(Baselines((), keys).read(directory).entries))
    except BaselineError as error:
        return facts(trouble=Trouble(str(error), str(directory), errno_behind(error)))
    except AdapterError as error:
        return facts(trouble=trouble_told(error))


# -- the database --------------------------------------------------------------------------


def look_at_database(directory: Path, *, in_use: bool) -> DatabaseFacts:
    """The state database; `in_use`: a daemon may be writing to it."""
    path = directory / DATABASE_NAME
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return DatabaseFacts(str(path), exists=False)
    except OSError as error:
        return DatabaseFacts(str(path), exists=True, trouble=trouble_of(error, path))
    facts = partial(DatabaseFacts, str(path), True, status.st_uid, size_bytes=status.st_size)
    if not stat.S_ISREG(status.st_mode):
        return facts(trouble=Trouble("not a regular file", str(path)))
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        return facts(trouble=trouble_of(error, path))
    trouble, pending, dead = _examine_database(path, in_use)
    return facts(trouble=trouble, pending=pending, dead=dead)


def _examine_database(path: Path, in_use: bool) -> tuple[Trouble | None, int, int]:
    # Immutable: no locks, no log beside it; what a crash left in that is the daemon's to recover.
    shared = in_use and path.with_name(f"{path.name}-shm").exists()
    options = "mode=ro&readonly_shm=1" if shared else "mode=ro&immutable=1"
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?{options}", uri=True, timeout=1.0)
        ) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0 and not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                return None, 0, 0  # nothing was ever committed
            if version > SCHEMA_VERSION:
                remedy = "install that version again, or move the file away"
                return Trouble("written by a newer version of dmimad", str(path), 0, remedy), 0, 0
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok" or version != SCHEMA_VERSION:
                return Trouble(f"damaged: {verdict}"[:200], str(path)), 0, 0
            pending, dead = (
                int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
                for table in ("outbox", "dead_letter")
            )
            return None, pending, dead
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return Trouble(f"cannot be read as a database: {error}"[:200], str(path)), 0, 0


# -- the broker ----------------------------------------------------------------------------


def look_at_broker(settings: MqttSettings, seconds: float) -> BrokerFacts:
    """Connect and say goodbye."""
    trouble = None
    if settings.enabled:
        try:
            # Apart from the rest: the name service may take longer than anybody waits.
            resolve = partial(socket.getaddrinfo, settings.host, settings.port, type=socket.SOCK_STREAM)
            bounded(seconds, resolve)
            trouble = bounded(seconds + 2, lambda: asyncio.run(_try_broker(settings, seconds)))
        except OSError as error:  # TimeoutError is one
            problem = mqtt.explain(error, f"{settings.host}:{settings.port}")
            trouble = Trouble(problem.text, "", error.errno or 0, problem.remedy)
    return BrokerFacts(
        enabled=settings.enabled,
        where=f"{settings.host}:{settings.port}",
        protocol=settings.protocol,
        tls=uses_tls(settings),
        loopback=_is_loopback(settings.host),
        trouble=trouble,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _try_broker(settings: MqttSettings, seconds: float) -> Trouble | None:
    where = f"{settings.host}:{settings.port}"
    link = None
    try:
        found = mqtt.credentials(settings)
        link = mqtt.Link(
            lambda: None,
            hostname=settings.host,
            port=settings.port,
            # Another id than the daemon's, whose connection the broker would end.
            identifier=f"dmimad-doctor-{os.getpid()}",
            protocol=aiomqtt.ProtocolVersion.V5 if settings.protocol == 5 else aiomqtt.ProtocolVersion.V311,
            username=settings.username or None,
            password=found.password,
            tls_context=found.tls,
            timeout=seconds,
            logger=logging.Logger("mqtt", level=logging.CRITICAL + 1),
            **({"clean_start": True} if settings.protocol == 5 else {"clean_session": True}),
        )
        async with asyncio.timeout(seconds):
            await link.__aenter__()
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            await link.__aexit__(None, None, None)
    except (aiomqtt.MqttError, AdapterError, OSError) as error:
        if link is not None:
            await link.abort()
        problem = mqtt.explain(error, where)
        code = errno_behind(error) if isinstance(error, AdapterError) else 0
        return Trouble(problem.text, "", code, problem.remedy)
    return None
