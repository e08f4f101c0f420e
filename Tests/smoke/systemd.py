#!/usr/bin/env python3
"""systemd.py BINARY: what the program does with systemd's variables and tells it, with a manager played by this script.

Prints a line for each check, as the shell tests do. The real one is tried by Tests/package/service.sh.
"""

import array
import os
import re
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

binary = os.path.realpath(sys.argv[1])
folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)
failures = 0
children: list[int] = []


def check(name: str, is_so: bool, detail: object = "") -> None:
    global failures
    failures += not is_so
    print(f"{'ok' if is_so else 'not ok'} - {name}")
    if not is_so:
        print(f"# {detail}")


class Manager:
    """A notification socket, and the descriptors that it was given to keep."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.store: list[socket.socket] = []
        self.messages: list[str] = []

    @property
    def stored(self) -> list[tuple[str, socket.socket]]:
        """What the next process gets, with its name."""
        return [("listen", item) for item in self.store]

    def wait(self, text: str, seconds: float = 10) -> str | None:
        """The first message from now on that has this in it; the messages before it are kept in `messages`."""
        end = time.monotonic() + seconds
        self.messages = []
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data, control, _, _ = self.socket.recvmsg(4096, 256)
            except TimeoutError:
                return None
            message = data.decode()
            descriptors = array.array("i")
            for _, _, part in control:
                descriptors.frombytes(part[: len(part) // descriptors.itemsize * descriptors.itemsize])
            if "FDSTOREREMOVE=1" in message:
                for kept in self.store:
                    kept.close()
                self.store = []
            elif "FDSTORE=1" in message:
                self.store += [socket.socket(fileno=descriptor) for descriptor in descriptors]
            self.messages.append(message)
            if text in message:
                return message
        return None


def start(arguments: list[str], variables: dict[str, str], passed: list[tuple[str, socket.socket]] = ()) -> int:
    """Becomes the server in a child, with these descriptors from 3 on."""
    Path("log").write_bytes(b"")
    pid = os.fork()
    if pid:
        children.append(pid)
        return pid
    os.dup2(os.open("log", os.O_WRONLY), 2)
    copies = [os.dup(item.fileno()) for _, item in passed]
    high = [os.dup2(copy, 100 + index) for index, copy in enumerate(copies)]
    for index, descriptor in enumerate(high):
        os.dup2(descriptor, 3 + index)
    os.closerange(3 + len(high), 200)
    if passed:
        os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in passed)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)))
    os.environ.update(variables)
    os.execv(binary, [binary, *arguments])


def end(pid: int, number: int = signal.SIGTERM) -> int:
    os.kill(pid, number)
    children.remove(pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def exit_status(pid: int) -> int:
    children.remove(pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ask(port: int, request: bytes = b"PING\r\n") -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(request)
            return connection.recv(1000).decode().strip()
    except OSError as error:
        return type(error).__name__


def ready_port() -> int:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if found := re.search(r"ready on [^ ,]*:(\d+)", Path("log").read_text()):
            return int(found[1])
        time.sleep(0.02)
    return 0


def main() -> None:
    # Ready, status, signs of life; the sockets are given away to keep.
    manager = Manager(f"{folder.name}/notify")
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "600000"}
    pid = start(["--port", "0", "--unixsocket", "v.sock"], variables)
    message = manager.wait("READY=1")
    port = ready_port()
    check("READY comes when clients can connect", message is not None and ask(port) == "+PONG", message)
    check("READY has a status", message is not None and "\nSTATUS=Serving 0 clients, 0 keys" in message, message)
    kept = sorted(str(item.getsockname()[1]) if isinstance(item.getsockname(), tuple) else item.getsockname() for item in manager.store)
    wanted = {str(port), "v.sock"}
    check("every listening socket is given to keep", set(kept) == wanted, kept)
    names = [text for text in manager.messages if "FDSTORE=1" in text]
    check("under one name", all("FDNAME=listen" in text for text in names) and len(names) == len(kept), names)
    check("the watchdog gets a sign of life", manager.wait("WATCHDOG=1", 2) is not None)
    check("and another one", manager.wait("WATCHDOG=1", 2) is not None)
    ask(port, b"SET key value\r\n")
    check("the status follows", manager.wait("STATUS=Serving 0 clients, 1 key", 11) is not None, manager.messages)
    os.kill(pid, signal.SIGSTOP)
    manager.wait("nothing", 0.3)
    check("a process that hangs gives none", manager.wait("WATCHDOG=1", 1.5) is None)
    os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGHUP)
    message = manager.wait("RELOADING=1")
    check("SIGHUP: reloading, with the time", message is not None and re.search(r"\nMONOTONIC_USEC=\d+", message), message)
    check("SIGHUP: ready again", manager.wait("READY=1") is not None)

    status = end(pid)
    check("SIGTERM: stopping, status 0", manager.wait("STOPPING=1", 1) is not None and status == 0, status)
    check("the unix socket's file stays for the next one", os.path.exists("v.sock"))

    # Restart: who connects meanwhile waits, and is answered by the next process.
    early = socket.create_connection(("127.0.0.1", port), 5)
    early.sendall(b"PING\r\n")
    pid = start(["--port", str(port), "--unixsocket", "v.sock"], variables, manager.stored)
    check("a restart is ready", manager.wait("READY=1") is not None, Path("log").read_text())
    check("and gives nothing new to keep", not any("FDSTORE" in text for text in manager.messages), manager.messages)
    early.settimeout(5)
    check("who connected in between is answered", early.recv(100) == b"+PONG\r\n")
    early.close()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("v.sock")
        connection.sendall(b"PING\r\n")
        check("the unix socket is the same", connection.recv(100) == b"+PONG\r\n")
    end(pid)

    # Another port: the old sockets go.
    pid = start(["--port", "0", "--bind", "127.0.0.1"], variables, manager.stored)
    manager.wait("READY=1")
    other = ready_port()
    check("another port: answers there", other != port and ask(other) == "+PONG", other)
    check("a unix socket that is no longer wanted is removed", not os.path.exists("v.sock"))
    check("the old one is closed", ask(port) == "ConnectionRefusedError", ask(port))
    check("what is kept is the new one alone", [item.getsockname()[1] for item in manager.store] == [other])
    end(pid)

    # As many sockets as before, at another port.
    pid = start(["--port", "0", "--bind", "127.0.0.1"], {"NOTIFY_SOCKET": manager.address}, manager.stored)
    manager.wait("READY=1")
    other = ready_port()
    check("yet another port: it is kept", [item.getsockname()[1] for item in manager.store] == [other])
    end(pid)

    # All addresses instead of one of them, at the same port; and a unix socket whose file was taken away.
    pid = start(["--port", str(other), "--bind", "*", "--unixsocket", "v.sock"], {"NOTIFY_SOCKET": manager.address}, manager.stored)
    check("a wider address at the same port", manager.wait("READY=1") is not None, Path("log").read_text())
    check("answers", ask(other) == "+PONG")
    end(pid)
    os.remove("v.sock")
    pid = start(["--port", str(other), "--unixsocket", "v.sock"], {"NOTIFY_SOCKET": manager.address}, manager.stored)
    check("a narrower one", manager.wait("READY=1") is not None and ask(other) == "+PONG", Path("log").read_text())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("v.sock")
        connection.sendall(b"PING\r\n")
        check("a unix socket whose file was removed is made anew", connection.recv(100) == b"+PONG\r\n")
    end(pid)
    pid = start(["--port", str(other), "--unixsocket", "./v.sock"], {"NOTIFY_SOCKET": manager.address}, manager.stored)
    check("another name of the same unix socket", manager.wait("READY=1") is not None, Path("log").read_text())

    # A manager that does not listen must not hold up the clients.
    for _ in range(40):
        os.kill(pid, signal.SIGHUP)
        time.sleep(0.02)
    check("a manager with a full queue holds nobody up", ask(other) == "+PONG")
    for _ in range(40):
        manager.wait("READY=1", 0.3)
    os.kill(pid, signal.SIGHUP)
    check("and hears later that it is ready", manager.wait("READY=1", 3) is not None)
    end(pid)

    # A socket unit's sockets take the place of the settings; what is no listening socket is ignored.
    unit = socket.create_server(("127.0.0.1", 0))
    pair = socket.socketpair()
    passed = [("valiant.socket", unit), ("odd", pair[0]), *manager.stored]
    pid = start(["--port", "1", "--threads", "2"], {"NOTIFY_SOCKET": manager.address}, passed)
    check("a socket unit: ready", manager.wait("READY=1") is not None, Path("log").read_text())
    check("a socket unit: answers there", ask(unit.getsockname()[1]) == "+PONG")
    check("a socket unit: its socket is not given to keep, and the old ones are let go", manager.store == [], manager.store)
    end(pid)
    pid = start(["--port", "1"], {}, [("", unit)])
    ready_port()
    check("also without a manager to tell", [ask(unit.getsockname()[1]) for _ in range(4)] == ["+PONG"] * 4)
    check("where it ends well", end(pid) == 0)

    # Without a manager, and one whose name is abstract.
    abstract = Manager(f"@valiant-{os.getpid()}")
    pid = start(["--port", "0"], {"NOTIFY_SOCKET": abstract.address})
    check("an abstract notification socket", abstract.wait("READY=1") is not None)
    end(pid)
    pid = start(["--port", "0"], {"NOTIFY_SOCKET": f"{folder.name}/nobody", "WATCHDOG_USEC": "nonsense"})
    check("a manager that is gone does no harm", ask(ready_port()) == "+PONG")
    check("then too it ends well", end(pid) == 0)

    # Folders that systemd made for us.
    os.makedirs("credentials")
    os.makedirs("run")
    Path("credentials/valiant.requirepass").write_text("secret\n")
    variables = {"CREDENTIALS_DIRECTORY": "credentials", "RUNTIME_DIRECTORY": f"{folder.name}/run:/nowhere"}
    pid = start(["--port", "0", "--unixsocket", "relative.sock"], variables)
    port = ready_port()
    check("a credential is the password", ask(port).startswith("-NOAUTH"), ask(port))
    check("without its line end", ask(port, b"AUTH secret\r\n") == "+OK", ask(port, b"AUTH secret\r\n"))
    check("a relative unix socket lies in the runtime directory", os.path.exists("run/relative.sock"))
    end(pid)
    check("its file is removed where nobody keeps it", not os.path.exists("run/relative.sock"))
    pid = start(["--port", "0", "--requirepass", "other"], variables)
    port = ready_port()
    check("a flag wins over the credential", ask(port, b"AUTH other\r\n") == "+OK")
    end(pid)
    os.remove("credentials/valiant.requirepass")
    os.makedirs("credentials/valiant.requirepass")
    status = exit_status(start(["--port", "0"], variables))
    text = Path("log").read_text()
    check("a credential that cannot be read: status 2", status == 2, status)
    check("and it says which", "valiant.requirepass" in text and text.count("\n") == 1, text)


try:
    main()
finally:
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
sys.exit(failures > 0)
